"""What is at a path of a box: seen through real directories only, so that no link in the box leads the look out."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Collection, Iterator

from jailbuild.errors import JailError, reason
from jailbuild.root import Root, open_beneath
from jailbuild.syscalls import capabilities

_BLOCK = 1 << 20
_MKNOD = 1 << 27  # CAP_MKNOD, linux/capability.h
_ALL_IDS = ["0", "0", "4294967295"]


def lstat_in(box: Root, path: str) -> os.stat_result:
    """Return what is at a path of the box, through real directories only."""
    opened = open_beneath(box.descriptor, path.lstrip("/"), os.O_PATH | os.O_NOFOLLOW)
    try:
        return os.fstat(opened)
    finally:
        os.close(opened)


def read_link_in(box: Root, path: str) -> str:
    """Return the text of the link at a path of the box."""
    opened = open_beneath(box.descriptor, path.lstrip("/"), os.O_PATH | os.O_NOFOLLOW)
    try:
        return os.readlink("", dir_fd=opened)
    finally:
        os.close(opened)


def names_in(box: Root, path: str) -> list[str]:
    """Return the names in the directory at a path of the box."""
    opened = open_beneath(box.descriptor, path.lstrip("/"), os.O_RDONLY | os.O_DIRECTORY)
    try:
        return os.listdir(opened)
    finally:
        os.close(opened)


@contextlib.contextmanager
def open_parent(box: Root, path: str) -> Iterator[tuple[int, str]]:
    """Open the directory that holds a path of the box; give its descriptor, and the name in it (OSError).

    EXDEV if it is on something mounted in the box, which is not the box's.
    """
    parent, _, name = path.rpartition("/")
    flags = os.O_RDONLY | os.O_DIRECTORY
    opened = open_beneath(box.descriptor, parent.lstrip("/") or ".", flags, one_mount=True)
    try:
        yield opened, name
    finally:
        os.close(opened)


def fingerprint(directory: int, name: str, sizes: Collection[int | None] | None = None) -> str | None:
    """Return what is under a name, in a way to be compared: "file SHA256", "link TARGET", else its type.

    None if nothing is (OSError if it cannot be read). With `sizes` a file of another size is not read: somebody
    inside may have made it larger than anybody can read.
    """
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    kind = kind_of(status.st_mode)
    if kind == "link":
        return f"link {os.readlink(name, dir_fd=directory)}"
    if kind != "file" or (sizes is not None and status.st_size not in sizes):
        return kind
    opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return f"file {digest(opened)}"
    finally:
        os.close(opened)


def identity(directory: int, name: str) -> str | None:
    """Return what tells the thing under a name from others and from itself when it was changed, unread."""
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    kind = kind_of(status.st_mode)
    return kind if kind == "directory" else f"{kind} {status.st_ino}, {status.st_size} bytes, {status.st_mtime_ns}"


def kind_of(mode: int) -> str:
    """Return the type of an entry for a mode of stat(2)."""
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISLNK(mode):
        return "link"
    if stat.S_ISDIR(mode):
        return "directory"
    return "device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "special file"


def can_make_devices() -> bool:
    """Say whether device nodes are made; where they cannot be, they are recorded as what should be there.

    That takes CAP_MKNOD of the first user namespace (user_namespaces(7)): root in a container may have neither.
    """
    if os.geteuid() != 0 or not capabilities() & _MKNOD:
        return False
    try:
        with open("/proc/self/uid_map", encoding="ascii") as lines:
            return lines.read().split() == _ALL_IDS
    except OSError:
        return True


def device_of(status: os.stat_result) -> tuple[str, int, int]:
    """Return type, major and minor of a device node."""
    return "c" if stat.S_ISCHR(status.st_mode) else "b", os.major(status.st_rdev), os.minor(status.st_rdev)


def digest_in(root: Root, path: str) -> str:
    """Return the sha256 of the file at a path of any root (JailError if it cannot be read)."""
    try:
        opened = root.open(path)
        try:
            return digest(opened)
        finally:
            os.close(opened)
    except OSError as error:
        raise JailError(f"cannot read {root.host_path(path)}: {reason(error)}") from None


def digest(opened: int) -> str:
    """Return the sha256 of an open file's bytes, in hex (OSError; EINVAL if it is no regular file).

    Of a file that somebody keeps writing to, as many bytes as it had at first: the end must come.
    """
    status = os.fstat(opened)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    found = hashlib.sha256()
    left = status.st_size
    while left > 0 and (block := os.read(opened, min(_BLOCK, left))):
        found.update(block)
        left -= len(block)
    return found.hexdigest()
