"""The first two processes of a box: PID 1, which sets it up and reaps, and PID 2, which becomes the command.

As PID 1 the command would be immune to signals without a handler, its own SIGKILL too (pid_namespaces(7)), and would
have to reap what others leave. So it is PID 2, and the leader of a process group that has its parent in the same
session: Ctrl-Z stops it, as it would not stop the leader of a session (POSIX, orphaned process groups).
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import select
import signal
import struct
import termios
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from jailbuild import syscalls
from jailbuild.enter.capabilities import NUMBERS
from jailbuild.enter.command import Command
from jailbuild.enter.mounts import Operation, SetupContext
from jailbuild.enter.rights import MagicLink, drop_capabilities, set_nondumpable, wipe_argv
from jailbuild.enter.spawn import EXEC, HOST_PROGRAM, exec_command
from jailbuild.enter.terminal import Wiring, apply_termios

_SET_PDEATHSIG = 1  # prctl(2)
_LOOPBACK = b"lo"
_UP = 1  # IFF_UP
MESSAGE = struct.Struct("BB")  # launcher to PID 1: a signal, and whether a terminal sent it


class Session(NamedTuple):
    """The caller's session, its terminal and its keys stay outside."""

    def __str__(self) -> str:
        return "session: a new one, with a new keyring"

    def do(self, place: SetupContext) -> None:
        # Without setsid /dev/tty is the caller's terminal, whatever descriptors are closed.
        os.setsid()
        try:
            syscalls.new_session_keyring()
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM):  # no keys, or a filter that the box is under too
                raise


class Hostname(NamedTuple):
    """The name that the box calls itself."""

    name: str

    def __str__(self) -> str:
        return f"host name: {self.name}"

    def do(self, place: SetupContext) -> None:
        syscalls.sethostname(os.fsencode(self.name))


class Loopback(NamedTuple):
    """A private network's own loopback, which is down when the network is made."""

    def __str__(self) -> str:
        return "network: none but a loopback of its own"

    def do(self, place: SetupContext) -> None:
        link = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        request = struct.pack("16sH14x", _LOOPBACK, _UP)
        fcntl.ioctl(link.fileno(), 0x8914, request)  # SIOCSIFFLAGS
        link.close()


class Terminal(NamedTuple):
    """A terminal of the box's own devpts: of the host's it would be no terminal to ttyname(3) inside."""

    wiring: Wiring
    uid: int
    console: bool

    def __str__(self) -> str:
        return f"{self.wiring}{', and on /dev/console' if self.console else ''}"

    def do(self, place: SetupContext) -> None:
        flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
        master = os.open("ptmx", flags, dir_fd=place.pts)
        syscalls.unlock_terminal(master)
        place.slave = os.open("0", flags, dir_fd=place.pts)  # the first of its instance
        apply_termios(place.slave, self.wiring)
        os.fchown(place.slave, self.uid, -1)
        if self.console:
            os.close(os.open("console", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=place.dev))
            mount = syscalls.open_tree(place.pts, "0")
            target = os.open("console", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.dev)
            syscalls.move_mount(mount, target)
            os.close(mount)
            os.close(target)
        fcntl.ioctl(place.slave, termios.TIOCSCTTY, 0)
        _send(place.channel, b"t", master)
        os.close(master)
        os.close(place.pts)
        place.pts = -1


class Standard(NamedTuple):
    """Descriptors 0 to 2 as the wiring has them, and none beside them that was not asked for."""

    wiring: Wiring
    passed: tuple[int, ...]
    closed: tuple[int, ...]  # of 0 to 2: closed by the caller, and held open since so that nothing else got the number

    def __str__(self) -> str:
        more = f", {', '.join(map(str, self.passed))}" if self.passed else ""
        return f"descriptors: 0, 1, 2{more}; all others closed"

    def do(self, place: SetupContext) -> None:
        os.setpgid(0, 0)
        if place.slave >= 0:
            if not self.wiring.asleep:
                os.tcsetpgrp(place.slave, os.getpid())  # SIGTTOU is blocked yet
            for number in sorted(self.wiring.pty):
                os.dup2(place.slave, number)
        for number, end in place.pipes.items():
            os.dup2(end, number)
        # Closed, not only marked for execve: what follows goes by paths of the box (CVE-2024-21626).
        close_all_but({0, 1, 2, place.report, place.user, *self.passed})
        for number in self.passed:
            os.set_inheritable(number, True)
        for number in self.closed:
            os.close(number)


class Signals(NamedTuple):
    """No signal blocked, and each with its default or ignored, as the caller has it and Python has not."""

    reset: tuple[int, ...]

    def __str__(self) -> str:
        return "signals: as the caller has them"

    def do(self, place: SetupContext) -> None:
        for number in self.reset:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())


class Plan(NamedTuple):
    """What the two processes do; all of it made before the first of them is."""

    first: tuple[Operation, ...]
    second: tuple[Operation, ...]
    command: Command
    passed: tuple[int, ...]  # descriptors of the caller's that the command gets
    arguments: tuple[int, int]  # where in memory this program's own are
    instead: Callable[[], NoReturn] | None = None  # of executing the command: what the second process goes on with

    def at(self, number: int) -> str:
        """Return the text of an operation by its number."""
        return str((*self.first, *self.second)[number])


def be_first(plan: Plan, place: SetupContext) -> NoReturn:
    """Be PID 1: set up, start the command, reap until it ends, and end with its status.

    Failures go to the report: the number of the operation, the errno, and the path that it is about.
    """
    doing = [0]
    second = 0
    try:
        # In this order: a launcher that dies after the prctl takes us along, and of one that had died before there is
        # no answer.
        syscalls.prctl(_SET_PDEATHSIG, signal.SIGKILL)
        syscalls.close_range(3, on_exec=True)
        close_all_but({0, 1, 2, place.channel, place.report, *plan.passed, *place.pipes.values()})
        if not os.read(place.channel, 1):  # also waits for the ids of a user namespace to be mapped
            os._exit(125)
        set_nondumpable()
        os.umask(0o022)
        _perform(plan.first, place, doing)
        wipe_argv(plan.arguments)
        second = os.fork()
        if second == 0:
            _be_second(plan, place, doing)
    except OSError as error:
        _fail(place.report, doing[0], error)
    finally:
        if not second:  # what Python refuses by itself the system would call so
            _fail(place.report, doing[0], OSError(errno.EINVAL, ""))
    try:
        close_all_but({place.channel, place.slave, place.emulation})  # both last while somebody has them open
        os.closerange(0, 3)
        # What signals the command needs no more than this. Changed rights clear the death signal.
        drop_capabilities(1 << NUMBERS["KILL"])
        set_nondumpable()
        syscalls.prctl(_SET_PDEATHSIG, signal.SIGKILL)
        _reap(second, place)
    finally:
        os._exit(125)  # and with PID 1 the kernel ends all that is left


def _perform(operations: tuple[Operation, ...], place: SetupContext, doing: list[int]) -> None:
    for operation in operations:
        operation.do(place)
        doing[0] += 1


def _be_second(plan: Plan, place: SetupContext, doing: list[int]) -> NoReturn:
    try:
        _send(place.channel, b"c")  # from whose credentials the launcher knows our number outside
        _perform(plan.second, place, doing)
        doing[0] = EXEC
        if plan.instead is not None:
            os.close(place.report)  # as at an execve: the set-up is done
            plan.instead()
        exec_command(plan.command)
    except MagicLink as error:
        _fail(place.report, HOST_PROGRAM, error)
    except OSError as error:
        _fail(place.report, doing[0], error)
    finally:
        _fail(place.report, doing[0], OSError(errno.EINVAL, ""))


def _fail(report: int, doing: int, error: OSError) -> NoReturn:
    try:
        path = error.filename if isinstance(error.filename, str | bytes) else b""
        os.write(report, b"%d %d " % (doing, error.errno or errno.EINVAL) + os.fsencode(path))
    finally:
        os._exit(125)


def _reap(second: int, place: SetupContext) -> NoReturn:
    """Wait for the command and whatever is left to PID 1; pass on what the launcher says; tell it of a stop."""
    channel = place.channel
    children = syscalls.signalfd({signal.SIGCHLD})
    poll = select.poll()
    poll.register(children, select.POLLIN)
    poll.register(channel, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if channel in ready:
            message = os.read(channel, MESSAGE.size)
            if len(message) < MESSAGE.size:  # the launcher is gone
                os._exit(125)
            _signal(second, place.slave, *MESSAGE.unpack(message))
        if children in ready:
            try:
                os.read(children, 4096)
            except BlockingIOError:
                pass
            _wait(second, place)


def _signal(second: int, terminal: int, number: int, from_terminal: bool) -> None:
    """Send a signal to the command; what a terminal sends, to all that is in the foreground."""
    try:
        if from_terminal and terminal >= 0 and number != signal.SIGCONT:
            os.killpg(second if _is_asleep(terminal) else os.tcgetpgrp(terminal), number)
        elif from_terminal:
            os.killpg(second, number)
        else:
            os.kill(second, number)
    except OSError:  # it is gone, or has made itself somebody whom nobody here may signal
        pass


def _is_asleep(terminal: int) -> bool:
    """Say whether nobody has asked for keys yet: the terminal's foreground is still our own."""
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:  # it has hung up
        return False


def _wait(second: int, place: SetupContext) -> None:
    while True:
        ended, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
        if not ended:
            return
        if ended == second and os.WIFSTOPPED(status):
            number = os.WSTOPSIG(status)
            if number in (signal.SIGTTIN, signal.SIGTTOU) and place.slave >= 0 and _is_asleep(place.slave):
                os.tcsetpgrp(place.slave, second)
                _send(place.channel, b"k")  # the launcher lets it go on
            else:
                _send(place.channel, b"s%c" % number)
        elif ended == second:
            os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))


def close_all_but(kept: set[int]) -> None:
    """Close every descriptor that is not kept, and whose number is not 0 to 2."""
    first = 3
    for number in sorted(one for one in kept if one > 2):
        syscalls.close_range(first, number - 1)
        first = number + 1
    syscalls.close_range(first)


def _send(channel: int, message: bytes, descriptor: int | None = None) -> None:
    link = _socket.socket(fileno=channel)
    try:
        if descriptor is None:
            link.send(message)
        else:
            rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", descriptor))
            link.sendmsg([message], [rights])
    finally:
        link.detach()
