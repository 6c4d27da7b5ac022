"""One file copied: bytes hashed on the way, holes kept as holes, mode, owner and times set."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os

from jailbuild.box.manifest import Entry
from jailbuild.errors import JailError

_BLOCK = 1 << 20
_FICLONE = 0x40049409  # ioctl_ficlonerange(2)
_CAPABILITY = "security.capability"


def copy_file(source: int, target: int, entry: Entry, keep_privileges: bool) -> str:
    """Copy an open file into an open empty one and return the sha256 of its bytes, in hex.

    OSError where either cannot be read or written; JailError when the source changes meanwhile.
    """
    before = os.fstat(source)
    cloned = _clone(source, target)
    digest = _copy_bytes(source, None if cloned else target, before.st_size)
    after = os.fstat(source)
    if any(getattr(before, field) != getattr(after, field) for field in ("st_size", "st_mtime_ns", "st_ctime_ns")):
        raise JailError(f"cannot copy {entry.path}: it changed while it was copied", "try again")
    os.ftruncate(target, before.st_size)
    finish(target, entry)
    if keep_privileges:
        _copy_capability(source, target)
    return digest


def finish(target: int, entry: Entry) -> None:
    """Give a written file its owner, mode and times; the owner only where this process may."""
    if os.geteuid() == 0:
        os.fchown(target, entry.uid, entry.gid)
    os.fchmod(target, entry.mode or 0)  # after the owner: chown takes set-id bits away
    if entry.mtime_ns is not None:
        os.utime(target, ns=(entry.mtime_ns, entry.mtime_ns))


def _clone(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:  # another file system, or one that cannot
        return False
    return True


def _copy_bytes(source: int, target: int | None, size: int) -> str:
    """Hash all bytes, and write those that are not holes to `target` unless it has them."""
    digest = hashlib.sha256()
    place = 0
    while place < size:
        start, end = _data_after(source, place, size)
        _hash_zeros(digest, start - place)
        if target is not None:
            os.lseek(target, start, os.SEEK_SET)
        os.lseek(source, start, os.SEEK_SET)
        place = start
        while place < end:
            block = os.read(source, min(_BLOCK, end - place))
            if not block:
                return digest.hexdigest()  # it became shorter, which the caller sees
            digest.update(block)
            if target is not None:
                _write(target, block)
            place += len(block)
    return digest.hexdigest()


def _data_after(source: int, place: int, size: int) -> tuple[int, int]:
    """Return where data begins at or after `place`, and where it ends: lseek(2), SEEK_DATA and SEEK_HOLE."""
    try:
        start = os.lseek(source, place, os.SEEK_DATA)
        return min(start, size), min(os.lseek(source, start, os.SEEK_HOLE), size)
    except OSError as error:
        if error.errno == errno.ENXIO:  # nothing but a hole
            return size, size
        return place, size


def _hash_zeros(digest: hashlib._Hash, count: int) -> None:
    zeros = bytes(min(count, _BLOCK))
    while count > 0:
        digest.update(zeros[:count])
        count -= len(zeros)


def _write(target: int, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(target, view) :]


def _copy_capability(source: int, target: int) -> None:
    try:
        value = os.getxattr(source, _CAPABILITY)
    except OSError:
        return
    os.setxattr(target, _CAPABILITY, value)
