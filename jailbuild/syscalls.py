"""Linux calls that Python 3.11 lacks: one thin function each, OSError on failure."""

from __future__ import annotations

import ctypes
import errno
import os

_OPENAT2 = 437  # the same on every architecture but alpha (unistd.h)

# openat2(2), how.resolve
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08

_AT_EMPTY_PATH = 0x1000
_AT_SYMLINK_NOFOLLOW = 0x100
_IMMUTABLE, _APPEND_ONLY = 0x10, 0x20  # statx(2), stx_attributes
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _fail(path: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)


def current_processor() -> int:
    """Return the number of the processor that the calling thread runs on: sched_getcpu(3)."""
    number: int = _libc.sched_getcpu()
    if number < 0:
        raise _fail("")
    return number


def openat2(directory: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """Open `path` below the descriptor `directory` and return a new descriptor with O_CLOEXEC.

    openat2(2), Linux 5.6. OSError: ENOSYS where kernel or sandbox lack it, EXDEV or ELOOP where `resolve` forbids
    the way; EAGAIN, a rename that raced with a `..`, is tried again.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    for _ in range(100):
        opened: int = _libc.syscall(
            ctypes.c_long(_OPENAT2), ctypes.c_int(directory), os.fsencode(path),
            ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if opened >= 0:
            return opened
        if ctypes.get_errno() not in (errno.EAGAIN, errno.EINTR):
            break
    raise _fail(path)


def rename_new(old_directory: int, old: str, new_directory: int, new: str) -> None:
    """Rename, but never over something that is there: renameat2(2) with RENAME_NOREPLACE.

    OSError: EEXIST; EINVAL or ENOSYS where the file system or the kernel cannot promise it.
    """
    _renameat2(old_directory, old, new_directory, new, _RENAME_NOREPLACE)


def exchange(one_directory: int, one: str, other_directory: int, other: str) -> None:
    """Let two names change places in one step: renameat2(2) with RENAME_EXCHANGE. OSError as for rename_new."""
    _renameat2(one_directory, one, other_directory, other, _RENAME_EXCHANGE)


def _renameat2(old_directory: int, old: str, new_directory: int, new: str, flags: int) -> None:
    try:
        renameat2 = _libc.renameat2
    except AttributeError:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), new) from None
    if renameat2(old_directory, os.fsencode(old), new_directory, os.fsencode(new), flags) < 0:
        raise _fail(new)


def is_fixed(directory: int, name: str) -> bool:
    """Say whether a file may be neither removed nor replaced by anybody, as chattr(1) +i and +a make it: statx(2).

    False where the file system or the C library does not tell. OSError if there is no such file.
    """
    try:
        statx = _libc.statx
    except AttributeError:
        return False
    told = (ctypes.c_uint64 * 32)()  # struct statx; the second word are the attributes
    if statx(directory, os.fsencode(name), _AT_SYMLINK_NOFOLLOW, 0, told) < 0:
        raise _fail(name)
    return bool(told[1] & (_IMMUTABLE | _APPEND_ONLY))


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def chown_open(descriptor: int, uid: int, gid: int) -> None:
    """Give what an O_PATH descriptor stands for, a link also, an owner: fchownat(2) with AT_EMPTY_PATH."""
    if _libc.fchownat(descriptor, b"", ctypes.c_uint(uid), ctypes.c_uint(gid), _AT_EMPTY_PATH) < 0:
        raise _fail("")


def utime_open(descriptor: int, time_ns: int) -> None:
    """Give what an O_PATH descriptor stands for, a link also, its times: utimensat(2) with AT_EMPTY_PATH.

    OSError: EINVAL before Linux 5.8.
    """
    time = _Timespec(*divmod(time_ns, 1_000_000_000))
    times = (_Timespec * 2)(time, time)
    if _libc.utimensat(descriptor, b"", times, _AT_EMPTY_PATH) < 0:
        raise _fail("")


def syncfs(descriptor: int) -> None:
    """Write out the file system that a descriptor is on: syncfs(2)."""
    if _libc.syncfs(descriptor) < 0:
        raise _fail("")
