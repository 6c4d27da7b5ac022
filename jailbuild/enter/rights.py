"""What a command in the box may do: identity, capabilities, limits, filters, as operations of its own process.

Their order is in isolated.py; each needs what those after it take away.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
from typing import NamedTuple

from jailbuild import syscalls
from jailbuild.enter import seccomp
from jailbuild.enter.capabilities import NAMES
from jailbuild.enter.mounts import SetupContext
from jailbuild.enter.settings import Limit, is_above

# prctl(2)
_SET_DUMPABLE, _SET_KEEPCAPS, _CAPBSET_DROP, _SET_NO_NEW_PRIVS, _CAP_AMBIENT = 4, 8, 24, 38, 47
_AMBIENT_RAISE, _AMBIENT_CLEAR_ALL = 2, 4

_SHOWN = 16  # of many groups, in words
_DEEPEST_SCRIPT = 5  # interpreters of interpreters, fs/exec.c
_LONGEST_LINE = 256  # bytes of a #! line, linux/binfmts.h


def set_nondumpable() -> None:
    """Let nobody attach to this process, or look at its memory, environment and descriptors in /proc.

    What runs in the box comes into the same namespace (CVE-2016-9962), and this process still is a program of the host
    (CVE-2019-5736).
    """
    syscalls.prctl(_SET_DUMPABLE, 0)


def own_arguments() -> tuple[int, int]:
    """Return where the memory of this program's arguments begins and ends, (0, 0) where that is not known: proc(5)."""
    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return int(fields[45]), int(fields[46])
    except (OSError, IndexError):
        return 0, 0


def wipe_argv(arguments: tuple[int, int]) -> None:
    """Overwrite this program's arguments: everybody may read /proc/1/cmdline, which names paths of the host."""
    ctypes.memset(arguments[0], 0, arguments[1] - arguments[0])


def drop_capabilities(kept: int) -> None:
    """Give up all capabilities but `kept`, and the means to get them back."""
    syscalls.prctl(_SET_NO_NEW_PRIVS, 1)
    syscalls.set_capabilities(syscalls.capabilities() & kept, 0)


class Limits(NamedTuple):
    """Resource limits, first part: hard ones are raised while that may be allowed."""

    limits: tuple[Limit, ...]

    def __str__(self) -> str:
        return f"limits: {', '.join(map(str, self.limits))}"

    def do(self, place: SetupContext) -> None:
        for limit in self.limits:
            soft, hard = resource.getrlimit(limit.number)
            if is_above(limit.hard, hard):
                _set_limit(limit, soft, limit.hard)


class LimitsInForce(NamedTuple):
    """Resource limits, second part: with few descriptors or little memory nothing else could be done."""

    limits: tuple[Limit, ...]

    def __str__(self) -> str:
        return f"limits in force: {', '.join(limit.name for limit in self.limits)}"

    def do(self, place: SetupContext) -> None:
        for limit in self.limits:
            _set_limit(limit, limit.soft, limit.hard)


def _set_limit(limit: Limit, soft: int, hard: int) -> None:
    try:
        resource.setrlimit(limit.number, (soft, hard))
    except (ValueError, OSError) as error:  # Python's ValueError is the system's EPERM or EINVAL
        number = error.errno if isinstance(error, OSError) else errno.EPERM
        raise OSError(number or errno.EINVAL, os.strerror(number or errno.EINVAL), limit.name) from None


class Umask(NamedTuple):
    """Files are made as most hosts make them, whatever the caller's umask."""

    def __str__(self) -> str:
        return "umask: 022"

    def do(self, place: SetupContext) -> None:
        os.umask(0o022)


class OwnProgramsOnly(NamedTuple):
    """The command is a program of the box, not this one.

    Until execve this process is the host's Python, and /proc/self/exe leads to it past every mount: a command that is
    a link there, or a script with "#!/proc/self/exe", would run the host's file with the box's libraries, which could
    then write to it (CVE-2019-5736). Here such a command is found and named; `Landlock` holds whatever changes later.
    """

    files: tuple[bytes, ...]
    directory: str

    def __str__(self) -> str:
        return "command: no link to /proc/self/exe"

    def do(self, place: SetupContext) -> None:
        for file in self.files:
            _refuse_ourselves(os.path.join(os.fsencode(self.directory), file), _DEEPEST_SCRIPT)


def _refuse_ourselves(file: bytes, deepest: int) -> None:
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
    try:
        opened = syscalls.openat2(-100, os.fsdecode(file), flags, syscalls.RESOLVE_NO_MAGICLINKS)
    except OSError as error:
        if error.errno == errno.ELOOP and os.path.exists(file):  # no mere circle of links
            raise MagicLink(errno.ELOOP, os.strerror(errno.ELOOP), os.fsdecode(file)) from None
        return  # execve will say it better
    try:
        first = os.read(opened, _LONGEST_LINE)
    except OSError:  # a directory
        return
    finally:
        os.close(opened)
    line = first.partition(b"\n")[0]
    if line.startswith(b"#!") and deepest and (words := line[2:].split()):
        _refuse_ourselves(words[0].partition(b"\0")[0], deepest - 1)


class MagicLink(OSError):
    """The command is no program of the box."""


class Landlock(NamedTuple):
    """What is executed lies below the box's /: not the host's Python by /proc/self/exe, in no race either.

    Of all rights only that to execute is ruled. Linux 5.19; an older kernel has `OwnProgramsOnly` alone.
    """

    def __str__(self) -> str:
        return "landlock: execute files below / alone"

    def do(self, place: SetupContext) -> None:
        syscalls.landlock_execute_below("/")


class Bounding(NamedTuple):
    """No program gets a capability that is not among these, by whatever bits its file has."""

    kept: int

    def __str__(self) -> str:
        return f"capability bounding set: {_named(self.kept)}"

    def do(self, place: SetupContext) -> None:
        for number in range(64):
            if not self.kept >> number & 1:
                try:
                    syscalls.prctl(_CAPBSET_DROP, number)
                except OSError as error:
                    if error.errno == errno.EINVAL:  # beyond the last that this kernel has
                        return
                    raise


class Identity(NamedTuple):
    """Group ids before the user id: afterwards it may not change them."""

    uid: int
    gid: int
    groups: tuple[int, ...] | None  # None: the caller's, which a user namespace without ranges cannot change
    keeps_capabilities: bool

    def __str__(self) -> str:
        groups = ""
        if self.groups is not None:
            more = f",… ({len(self.groups)})" if len(self.groups) > _SHOWN else ""
            groups = f" groups {','.join(map(str, self.groups[:_SHOWN])) or 'none'}{more}"
        return f"identity: uid {self.uid} gid {self.gid}{groups}"

    def do(self, place: SetupContext) -> None:
        if self.groups is not None:
            os.setgroups(self.groups)
        os.setresgid(self.gid, self.gid, self.gid)
        if self.keeps_capabilities:
            syscalls.prctl(_SET_KEEPCAPS, 1)
        os.setresuid(self.uid, self.uid, self.uid)
        set_nondumpable()  # a change of ids sets what fs.suid_dumpable says, and that may be 1


class Capabilities(NamedTuple):
    """What it keeps itself; inheritable and ambient sets only where a user other than root is to have something.

    An inheritable set that is full for no reason hands capabilities to files that ask for them (CVE-2022-24769).
    """

    permitted: int
    ambient: int

    def __str__(self) -> str:
        ambient = f", ambient {_named(self.ambient)}" if self.ambient else ""
        return f"capabilities: {_named(self.permitted)}{ambient}"

    def do(self, place: SetupContext) -> None:
        syscalls.prctl(_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)
        syscalls.set_capabilities(syscalls.capabilities() & self.permitted, self.ambient)
        for number in range(64):
            if self.ambient >> number & 1:
                syscalls.prctl(_CAP_AMBIENT, _AMBIENT_RAISE, number)


class NoNewPrivileges(NamedTuple):
    """No execve gives more than there is: no set-id bit, no file capability."""

    def __str__(self) -> str:
        return "no_new_privs"

    def do(self, place: SetupContext) -> None:
        syscalls.prctl(_SET_NO_NEW_PRIVS, 1)


class Directory(NamedTuple):
    """The working directory: as the user, who may not enter all that root may."""

    path: str

    def __str__(self) -> str:
        return f"directory: {self.path}"

    def do(self, place: SetupContext) -> None:
        os.chdir(self.path)
        # CVE-2024-21626: a working directory like /proc/self/fd/7 may be the host's. All descriptors but 0 to 2 and
        # those that were asked for are closed by now, and none of these is a directory.
        if not os.getcwd().startswith("/"):  # getcwd(2): "(unreachable)"
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), self.path)


class Filter(NamedTuple):
    """The last step: the filter refuses calls that the others need."""

    program: bytes

    def __str__(self) -> str:
        return f"seccomp: the default filter, {len(self.program) // 8} instructions"

    def do(self, place: SetupContext) -> None:
        seccomp.install(self.program)


def _named(capabilities: int) -> str:
    return ", ".join(name for number, name in enumerate(NAMES) if capabilities >> number & 1) or "none"
