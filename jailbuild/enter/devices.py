"""The box's /dev: devices, terminals, and descriptors that are devices."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterable
from typing import NamedTuple

from jailbuild import syscalls
from jailbuild.enter.mounts import SetupContext
from jailbuild.syscalls import MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY

_HERE = -100  # AT_FDCWD
_PATH = os.O_PATH | os.O_CLOEXEC
_DIRECTORY = _PATH | os.O_DIRECTORY

# memory(4) null(4) random(4) tty(4): what nearly every program may ask for, and nothing that reaches a machine's parts
DEVICES = (
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
)
_LINKS = (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"), ("ptmx", "pts/ptmx"))


class Dev(NamedTuple):
    """A /dev of our own. The devices are binds of the host's nodes, which works in a user namespace too."""

    def __str__(self) -> str:
        return f"/dev: tmpfs with {', '.join(name for name, _, _ in DEVICES)}, shm, {', '.join(n for n, _ in _LINKS)}"

    def do(self, place: SetupContext) -> None:
        options: dict[str, str | None] = {"mode": "0755", "size": "1m", "nr_inodes": "4k"}
        place.dev = syscalls.new_mount("tmpfs", options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)
        place.attach(place.dev, "/dev", _DIRECTORY)
        for name, major, minor in DEVICES:
            self._bind(place.dev, name, os.makedev(major, minor))
        os.mkdir("shm", dir_fd=place.dev)
        shm = syscalls.new_mount("tmpfs", {"mode": "1777"}, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)
        _attach_in(place.dev, "shm", shm)
        os.close(shm)
        for name, text in _LINKS:
            os.symlink(text, name, dir_fd=place.dev)

    def _bind(self, dev: int, name: str, number: int) -> None:
        node = _node(name, number)
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=dev))
        _attach_in(dev, name, node)
        os.close(node)


def _node(name: str, number: int) -> int:
    """Return a mount of a device of the host, on which its mode and owner cannot be changed."""
    node = syscalls.open_tree(_HERE, f"/dev/{name}")
    status = os.fstat(node)
    if not stat.S_ISCHR(status.st_mode) or status.st_rdev != number:
        raise OSError(errno.ENODEV, "it is another device on this host, or none", f"/dev/{name}")
    # The node is the host's: read-only keeps a chmod or chown in the box from it, and devices can be written to all
    # the same.
    syscalls.set_mount(node, "", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, private=True)
    return node


class Reopened(NamedTuple):
    """Descriptors that are one of the devices of /dev are opened again by the box's own node.

    By one of the host's root in the box could change the mode and owner of the host's /dev/null.
    """

    descriptors: tuple[tuple[int, int, int], ...]  # number, place in DEVICES, flags of open(2)

    def __str__(self) -> str:
        each = ", ".join(f"{number} {DEVICES[at][0]}" for number, at, _ in self.descriptors)
        return f"descriptors that are devices: opened again by the box's own: {each}"

    def do(self, place: SetupContext) -> None:
        for number, at, flags in self.descriptors:
            name, major, minor = DEVICES[at]
            directory = place.dev
            if directory < 0:  # a box without /dev: our node lies upon the host's, in this mount namespace
                directory = os.open("/dev", _DIRECTORY)
                node = _node(name, os.makedev(major, minor))
                _attach_in(directory, name, node)
                os.close(node)
            opened = os.open(name, flags | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=directory)
            os.dup2(opened, number, inheritable=number < 3)
            os.close(opened)
            if directory != place.dev:
                os.close(directory)


def plan_reopened(numbers: Iterable[int]) -> Reopened:
    """Return which of our open descriptors are a device that every box has; a terminal is another in every session."""
    devices = {os.makedev(major, minor): at for at, (name, major, minor) in enumerate(DEVICES) if name != "tty"}
    found = []
    for number in sorted(numbers):
        status = os.fstat(number)
        if stat.S_ISCHR(status.st_mode) and status.st_rdev in devices:
            flags = fcntl.fcntl(number, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK | os.O_PATH)
            found.append((number, devices[status.st_rdev], flags))
    return Reopened(tuple(found))


def _attach_in(directory: int, name: str, mount: int) -> None:
    target = os.open(name, _PATH | os.O_NOFOLLOW, dir_fd=directory)
    syscalls.move_mount(mount, target)
    os.close(target)


class Pts(NamedTuple):
    """Terminals of the box's own: an instance of devpts that shares none with the host's."""

    gid: int | None  # whose group a terminal gets, for write(1) and its like
    attached: bool  # at /dev/pts; without a /dev it serves for our own terminal alone

    def __str__(self) -> str:
        return f"{'/dev/pts' if self.attached else 'terminals'}: devpts, its own instance"

    def do(self, place: SetupContext) -> None:
        options: dict[str, str | None] = {"newinstance": None, "ptmxmode": "0666", "mode": "0620"}
        if self.gid is not None:
            options["gid"] = str(self.gid)
        place.pts = syscalls.new_mount("devpts", options, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)
        if self.attached:
            os.mkdir("pts", dir_fd=place.dev)
            _attach_in(place.dev, "pts", place.pts)
