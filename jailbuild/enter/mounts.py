"""What is mounted for a box, and how it becomes /: operations that say what they do, and do it.

They are plain values made from the options; `do` runs in the box's first process, in a mount namespace of its own.
A mount target is a directory of the box that somebody hostile may have made a link of while we work. So each is opened
confined to the box, and mounted onto by its descriptor, never by its path (CVE-2019-16884, CVE-2021-30465, and their
kin). New mounts come from the file-descriptor calls of Linux 5.2: they get their flags before anybody can see them,
where mount(2) needs a second call to make a bind mount read-only.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple, Protocol

from jailbuild import syscalls
from jailbuild.root import upwards
from jailbuild.syscalls import MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY

_HERE = -100  # AT_FDCWD
_PATH = os.O_PATH | os.O_CLOEXEC
_DIRECTORY = _PATH | os.O_DIRECTORY

# What the kernel tells of itself, of its memory and of other people's keys and timers, to whoever is uid 0.
MASKED = (
    "acpi",
    "asound",
    "bootconfig",
    "config.gz",
    "interrupts",
    "kallsyms",
    "kcore",
    "key-users",
    "keys",
    "kmsg",
    "kpagecgroup",
    "kpagecount",
    "kpageflags",
    "latency_stats",
    "pagetypeinfo",
    "sched_debug",
    "scsi",
    "slabinfo",
    "timer_list",
    "timer_stats",
    "vmallocinfo",
    "vmcore",
)


class SetupContext:
    """Where the operations work: descriptors that one leaves for the next."""

    def __init__(self) -> None:
        self.root = -1  # the host's /, as we see it
        self.tree = -1  # the box, as a mount of ours
        self.proc = -1
        self.dev = -1
        self.pts = -1
        self.slave = -1  # the box's end of its terminal
        self.user = -1  # a user namespace for the command
        self.emulation = -1  # its binfmt_misc, which is there as long as this is open
        self.channel = -1  # to the launcher
        self.report = -1  # where a failure is told
        self.pipes: dict[int, int] = {}  # the box's ends, by the number that they get

    def target(self, path: str, flags: int = _PATH) -> int:
        """Open a mount target as the box sees it: no link leads out, and no /proc/N/root or /proc/N/fd is followed."""
        return syscalls.openat2(self.tree, path, flags, syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS)

    def make(self, within: str, path: str, is_directory: bool) -> None:
        """Make a mount target below `within`, an empty directory that we have mounted."""
        directory = self.target(within, _DIRECTORY)
        *parents, name = path[len(within) :].strip("/").split("/")
        for one in [*parents, name] if is_directory else parents:
            try:
                os.mkdir(one, 0o755, dir_fd=directory)
            except FileExistsError:
                pass
            below = os.open(one, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            os.close(directory)
            directory = below
        if not is_directory:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=directory))
        os.close(directory)

    def attach(self, mount: int, path: str, flags: int = _PATH) -> None:
        """Mount onto a path of the box."""
        target = self.target(path, flags)
        syscalls.move_mount(mount, target)
        os.close(target)


class Operation(Protocol):
    """One step of the set-up: str() says what it does, `do` does it (OSError)."""

    def do(self, place: SetupContext) -> None:
        """Take the step."""


class Private(NamedTuple):
    """No mount of ours is seen outside, and none of theirs comes in while we work."""

    def __str__(self) -> str:
        return "mounts: private to this namespace"

    def do(self, place: SetupContext) -> None:
        # A new mount namespace still shares what was shared: without this each mount below would appear on the host.
        syscalls.set_mount(_HERE, "/", private=True, recursive=True)


class Box(NamedTuple):
    """The box as a mount of its own, and the only thing that will be left of the host."""

    path: str
    device: int
    inode: int
    read_only: bool
    recursive: bool

    def __str__(self) -> str:
        flags = "nosuid,nodev,ro" if self.read_only else "nosuid,nodev"
        return f"box: {'rbind' if self.recursive else 'bind'} {self.path} ({flags})"

    def do(self, place: SetupContext) -> None:
        # Opened anew: a descriptor from before belongs to the mounts of the other namespace, which this one may not
        # bind (EINVAL). By its path it may be another directory by now, which is nobody's wish.
        opened = os.open(self.path, _DIRECTORY)
        status = os.fstat(opened)
        if (status.st_dev, status.st_ino) != (self.device, self.inode):
            raise OSError(errno.ESTALE, "it is another directory than a moment ago", self.path)
        # Root's box comes without what is mounted below it: a sysfs or a /dev that somebody left there would be a way
        # to the host. In a user namespace the kernel insists on those mounts (they might hide something), and they
        # give the caller nothing that is not the caller's.
        place.tree = syscalls.open_tree(opened, "", self.recursive)
        flags = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | (MOUNT_ATTR_RDONLY if self.read_only else 0)
        syscalls.set_mount(place.tree, "", flags, private=True, recursive=self.recursive)
        place.root = os.open("/", _DIRECTORY)
        syscalls.move_mount(place.tree, opened)
        os.close(opened)


class Proc(NamedTuple):
    """A fresh /proc, which knows the processes of the box's namespace alone."""

    def __str__(self) -> str:
        return "/proc: fresh (nosuid,nodev,noexec)"

    def do(self, place: SetupContext) -> None:
        place.proc = syscalls.new_mount("proc", {}, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)
        place.attach(place.proc, "/proc", _DIRECTORY)


class ProcReadOnly(NamedTuple):
    """What is in /proc beside processes cannot be written.

    These files are the host's, and uid 0 needs no capability for most of them: a core_pattern of one's own, or a
    usermode helper, is a program run by the host's root. Those that only can be read are among them: uid 0 owns them
    too, and the kernel keeps a mode that they are given for every /proc that is ever mounted.
    """

    def __str__(self) -> str:
        return "/proc: read-only but for the processes' own directories (sys, sysrq-trigger, irq, bus, fs, …)"

    def do(self, place: SetupContext) -> None:
        listing = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place.proc)
        for name in os.listdir(listing):
            if name.isdecimal() or name in MASKED:
                continue
            mode = os.stat(name, dir_fd=listing, follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
                _cover(place.proc, name, syscalls.open_tree(place.proc, name), MOUNT_ATTR_RDONLY)
        os.close(listing)


class ProcMasked(NamedTuple):
    """The files of /proc that tell too much are empty."""

    def __str__(self) -> str:
        return f"/proc: empty {', '.join(MASKED)}"

    def do(self, place: SetupContext) -> None:
        for name in MASKED:
            try:
                mode = os.stat(name, dir_fd=place.proc, follow_symlinks=False).st_mode
            except FileNotFoundError:  # kernels differ
                continue
            cover = _empty_directory("0555") if stat.S_ISDIR(mode) else syscalls.open_tree(_HERE, "/dev/null")
            _cover(place.proc, name, cover, MOUNT_ATTR_RDONLY)


def _cover(directory: int, name: str, mount: int, attributes: int) -> None:
    """Mount over a name in a directory that nobody but us can change."""
    syscalls.set_mount(mount, "", attributes | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, private=True)
    target = os.open(name, _PATH | os.O_NOFOLLOW, dir_fd=directory)
    syscalls.move_mount(mount, target)
    os.close(target)
    os.close(mount)


def _empty_directory(mode: str) -> int:
    flags = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
    return syscalls.new_mount("tmpfs", {"mode": mode, "size": "4k"}, flags)


class Covered(NamedTuple):
    """Jailbuild's own record is not for those inside."""

    path: str

    def __str__(self) -> str:
        return f"{self.path}: an empty directory over it"

    def do(self, place: SetupContext) -> None:
        cover = _empty_directory("0555")
        place.attach(cover, self.path, _DIRECTORY)
        os.close(cover)


class Guarded(NamedTuple):
    """Files of the box that cannot be changed from inside, nor removed or replaced."""

    paths: tuple[str, ...]

    def __str__(self) -> str:
        return f"set-id files: read-only {', '.join(self.paths)}"

    def do(self, place: SetupContext) -> None:
        for path in self.paths:
            target = place.target(path, _PATH | os.O_NOFOLLOW)
            if stat.S_ISREG(os.fstat(target).st_mode):
                mount = syscalls.open_tree(target, "")
                syscalls.set_mount(mount, "", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, private=True)
                syscalls.move_mount(mount, target)
                os.close(mount)
            os.close(target)


class Bind(NamedTuple):
    """A file or directory of the host, with all that is mounted below it, at a path of the box."""

    source: str
    target: str
    read_only: bool
    within: str | None = None  # the target of a Tmpfs, where a place for it is to be made

    def __str__(self) -> str:
        return f"{self.target}: rbind {self.source} (nosuid,nodev{',ro' if self.read_only else ''})"

    def do(self, place: SetupContext) -> None:
        try:
            mount = syscalls.open_tree(_HERE, self.source, recursive=True)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.source) from None
        flags = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | (MOUNT_ATTR_RDONLY if self.read_only else 0)
        syscalls.set_mount(mount, "", flags, private=True, recursive=True)
        if self.within is not None:
            place.make(self.within, self.target, stat.S_ISDIR(os.fstat(mount).st_mode))
        place.attach(mount, self.target)
        os.close(mount)


class Tmpfs(NamedTuple):
    """An empty directory in memory over one of the box, with its mode and owner."""

    target: str
    size: str | None  # as tmpfs(5) takes it
    within: str | None = None  # as Bind.within

    def __str__(self) -> str:
        return f"{self.target}: tmpfs (nosuid,nodev{f',size={self.size}' if self.size else ''})"

    def do(self, place: SetupContext) -> None:
        if self.within is not None:
            place.make(self.within, self.target, True)
        target = place.target(self.target, _DIRECTORY)
        status = os.fstat(target)
        options: dict[str, str | None] = {"mode": f"{stat.S_IMODE(status.st_mode):o}"}
        if self.size:
            options["size"] = self.size
        mount = syscalls.new_mount("tmpfs", options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)
        try:
            os.chown(".", status.st_uid, status.st_gid, dir_fd=mount)
        except OSError as error:
            if error.errno != errno.EINVAL:  # an owner whom this user namespace does not know
                raise
        syscalls.move_mount(mount, target)
        os.close(target)
        os.close(mount)


def in_order(binds: tuple[Bind, ...], tmpfs: tuple[Tmpfs, ...]) -> list[Bind | Tmpfs]:
    """Return what is to be mounted, what lies in another after it.

    What lies in an empty directory of ours gets its place made there: nothing of it is the box's.
    """
    every: list[Bind | Tmpfs] = [*binds, *tmpfs]
    found: list[Bind | Tmpfs] = []
    by_target: dict[str, Bind | Tmpfs] = {}
    for one in sorted(every, key=lambda one: one.target.count("/")):
        around = next((by_target[above] for above in upwards(one.target) if above in by_target), None)
        by_target[one.target] = one
        found.append(one._replace(within=around.target) if isinstance(around, Tmpfs) else one)
    return found


class Pivot(NamedTuple):
    """The box is /, and the host's tree is gone."""

    def __str__(self) -> str:
        return "root: pivot_root to the box, detach the host's, chroot"

    def do(self, place: SetupContext) -> None:
        # chroot(2) alone leaves the host's mounts in the namespace, a way back for whoever may chroot again, or holds
        # a descriptor, or enters its own mount namespace. After pivot_root and the detaching there is no host to go to.
        # With "." twice the old root comes to lie upon the new one, and umount2 takes the upper: no directory of the
        # box has to serve as a place for it (pivot_root(2)).
        # Joined anew, the mount namespace gives us its own root: where jailbuild itself runs in a chroot, that would
        # be taken away alone, and all that is around it would stay.
        syscalls.rejoin_namespace(syscalls.CLONE_NEWNS)
        os.fchdir(place.tree)
        try:
            syscalls.pivot_root(".", ".")
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            # Joining goes up to what is mounted on the root: the box, where the box is / itself.
            os.fchdir(place.root)
            os.chroot(".")
            os.fchdir(place.tree)
            syscalls.pivot_root(".", ".")
        syscalls.detach(".")
        os.chroot(".")
        os.chdir("/")
        # ".." crosses onto what lies upon the root: if that is not the box itself, something of the host is left.
        if not os.path.samestat(os.stat("/.."), os.fstat(place.tree)):
            raise OSError(errno.EBUSY, "something is mounted over / of the host", "/")
        for descriptor in (place.root, place.tree, place.proc, place.dev, place.pts):  # CVE-2024-21626
            if descriptor >= 0:
                os.close(descriptor)
