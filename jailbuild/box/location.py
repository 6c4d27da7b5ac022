"""Which directory may become a box: one that is empty, absent or a box, and none of the running system's own.

Directories are compared by device and inode, so a link, a bind mount or /proc/self/root hides none of them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from jailbuild.box.confined_fs import names_in
from jailbuild.box.leftover import is_record
from jailbuild.errors import JailError, reason
from jailbuild.names import quoted
from jailbuild.root import Root

_BELOW = "name a directory below it"
_ELSEWHERE = "name a directory elsewhere"

# file-hierarchy(7), hier(7). In the first, directories are anybody's to make.
_SHARED = (
    "/",
    "/home",
    "/media",
    "/mnt",
    "/opt",
    "/root",
    "/run",
    "/srv",
    "/tmp",
    "/usr/local",
    "/var",
    "/var/cache",
    "/var/lib",
    "/var/local",
    "/var/opt",
    "/var/spool",
    "/var/tmp",
)
_OWN = (
    "/bin",
    "/boot",
    "/dev",
    "/efi",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/proc",
    "/run/lock",
    "/run/user",
    "/sbin",
    "/sys",
    "/usr",
    "/usr/bin",
    "/usr/games",
    "/usr/include",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/libx32",
    "/usr/local/bin",
    "/usr/local/etc",
    "/usr/local/games",
    "/usr/local/include",
    "/usr/local/lib",
    "/usr/local/sbin",
    "/usr/local/share",
    "/usr/local/src",
    "/usr/sbin",
    "/usr/share",
    "/usr/src",
    "/var/backups",
    "/var/crash",
    "/var/log",
    "/var/mail",
)
_KERNELS = ("/dev", "/proc", "/sys")  # nothing below them is on a disk
_PACKAGED = ("/bin", "/boot", "/etc", "/lib", "/lib64", "/sbin", "/usr")  # what is below them is the system's too
_LOCAL = "/usr/local"  # but for this
_MADE_WITH_FILE_SYSTEM = frozenset({"lost+found"})  # mke2fs(8)


def open_box(box: str, source: Root, *, adopt: bool = False) -> Root | None:
    """Return the directory of a box, None if there is nothing yet (JailError if there cannot be a box).

    A directory that holds something else is one only to `adopt`.
    """
    if not os.path.lexists(box):
        parent, name = _split(box)
        if not os.path.isdir(parent):
            parent = os.path.abspath(parent)
            raise JailError(f"cannot make a box at {box}: there is no directory {parent}", f"mkdir -p {quoted(parent)}")
        _refuse_own_to_be(box, parent, name)
        return None
    try:
        os.stat(box)
    except OSError as error:
        why = "it is a link that leads nowhere" if error.errno == errno.ENOENT else reason(error)
        raise JailError(f"cannot make a box at {box}: {why}", "name a directory") from None
    if not os.path.isdir(box):
        raise JailError(f"cannot make a box at {box}: it is no directory", "name a directory")
    there = Root(box)
    refuse_own(there, box)
    if os.path.samestat(os.fstat(there.descriptor), os.fstat(source.descriptor)):
        raise JailError(f"cannot make a box at {box}: it is the source root itself", "name another directory")
    try:
        holds = set(names_in(there, ".")) - _MADE_WITH_FILE_SYSTEM
    except OSError as error:
        raise JailError(f"cannot make a box at {box}: {reason(error)}") from None
    if holds and not is_record(there):
        if _tree(there.descriptor, _PACKAGED):
            raise _refusal(box, "", _ELSEWHERE)
        if not adopt:
            raise JailError(
                f"cannot make a box at {box}: it is not empty and no box",
                "name an empty directory, or --adopt to leave what is there as it is",
            )
    return there


def refuse_own(there: Root, box: str) -> None:
    """Raise JailError if a directory is the running system's own, or lies in /dev, /proc or /sys.

    `box` is what the user calls it.
    """
    status = os.fstat(there.descriptor)
    for path in (*_SHARED, *_OWN):
        if _is(status, path):
            raise _refusal(box, path, _BELOW if path in _SHARED else _ELSEWHERE)
    home = _home()
    if home and _is(status, home):
        raise JailError(f"cannot make a box at {box}: it is your home directory", _BELOW)
    within = _tree(there.descriptor, _KERNELS)
    if within:
        raise _in_kernels(box, within)


def _refuse_own_to_be(box: str, parent: str, name: str) -> None:
    """Raise JailError if a directory that is made would be the running system's own."""
    try:
        opened = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise JailError(f"cannot make a box at {box}: {reason(error)}") from None
    try:
        within = _tree(opened, _KERNELS)
        if within:
            raise _in_kernels(box, within)
        status = os.fstat(opened)
        for path in (*_SHARED, *_OWN):
            above, own = _split(path)
            if own and name == own and _is(status, above):
                raise _refusal(box, path, _ELSEWHERE)
    finally:
        os.close(opened)


def _split(path: str) -> tuple[str, str]:
    """Return the directory that a path is in and its name there, as mkdir(2) takes it."""
    parent, name = os.path.split(path.rstrip("/"))
    return parent or ".", name


def _refusal(box: str, path: str, hint: str) -> JailError:
    known = f" {path}" if path and box not in (*_SHARED, *_OWN) else ""
    return JailError(f"cannot make a box at {box}: it is the running system's own{known}", hint)


def _in_kernels(box: str, within: str) -> JailError:
    return JailError(f"cannot make a box at {box}: it is in the running system's own {within}", _ELSEWHERE)


def _is(status: os.stat_result, path: str) -> bool:
    try:
        return os.path.samestat(status, os.stat(path))
    except OSError:
        return False


def _home() -> str:
    """Return the caller's home directory as passwd has it; "" for none."""
    import pwd  # may ask the network

    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return ""


def _tree(directory: int, trees: tuple[str, ...]) -> str:
    """Return which of the `trees` a directory is in; "" for none."""
    for status in _upwards(directory):
        if _is(status, _LOCAL):
            return ""
        for path in trees:
            if _is(status, path):
                return path
    return ""


def _upwards(directory: int) -> Iterator[os.stat_result]:
    """Yield a directory and those above it, as far as they can be searched."""
    here = os.dup(directory)
    try:
        while True:
            status = os.fstat(here)
            yield status
            above = os.open("..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = above
            if os.path.samestat(status, os.fstat(here)):
                return
    except PermissionError:
        return
    finally:
        os.close(here)
