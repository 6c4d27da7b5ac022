"""Package managers at work in a root: by the locks that they hold, and by what they write to their databases.

dpkg locks by fcntl(2), a front end as apt with a lock of its own around that (dpkg's doc/frontend.txt); rpm by
fcntl(2), apk by flock(2).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from jailbuild.errors import JailError, OtherSourceError, SourceChangedError, UnsettledError, reason
from jailbuild.root import Root

_LOCKS = (
    ("dpkg", "/var/lib/dpkg/lock"),  # first: who holds it as well as the front end's is closer to the files
    ("dpkg", "/var/lib/dpkg/lock-frontend"),
    ("rpm", "/var/lib/rpm/.rpm.lock"),
    ("rpm", "/usr/lib/sysimage/rpm/.rpm.lock"),
    ("apk", "/lib/apk/db/lock"),
    ("apk", "/usr/lib/apk/db/lock"),
    ("apk", "/run/apk/db.lock"),
)
_DATABASES = (
    "/var/lib/dpkg",
    "/var/lib/dpkg/info",
    "/var/lib/dpkg/updates",
    "/var/lib/rpm",
    "/usr/lib/sysimage/rpm",
    "/lib/apk/db",
    "/usr/lib/apk/db",
)
_FLOCK = "hhqqi0q"  # struct flock of fcntl(2), with large offsets


class Worker(NamedTuple):
    """Who is at work: the name of the process, else of the package manager; its id, 0 where that cannot be known."""

    name: str
    process: int

    def __str__(self) -> str:
        return f"{self.name} (process {self.process})" if self.process else self.name


def worker(root: Root) -> Worker | None:
    """Return who holds a package manager's lock in a root, None if nobody does."""
    for manager, path in _LOCKS:
        process = _holder(root, path)
        if process is not None:
            return Worker(_command(process) or manager, process)
    return None


def _holder(root: Root, path: str) -> int | None:
    """Return the process that holds a lock on a file, 0 if it is one that cannot be seen from here."""
    try:
        opened = root.open(path)
    except OSError:
        return _listed_holder(root, path)
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, process = struct.unpack(_FLOCK, fcntl.fcntl(opened, fcntl.F_GETLK, asked))
    except OSError:  # a file system without locks
        return None
    finally:
        os.close(opened)
    return _listed_holder(root, path) if kind == fcntl.F_UNLCK else max(process, 0)


def _listed_holder(root: Root, path: str) -> int | None:
    """Return who holds a lock of flock(2), or one that may not be asked for: proc(5), /proc/locks."""
    try:
        status = root.stat(path)
        with open("/proc/locks", "rb") as lines:
            found = [line.split() for line in lines if b"->" not in line]  # those wait for it
    except OSError:
        return None
    device = b"%02x:%02x:%d" % (os.major(status.st_dev), os.minor(status.st_dev), status.st_ino)
    for _, _, _, _, process, file, *_ in found:
        if file == device:
            return max(int(process), 0)
    return None


def _command(process: int) -> str:
    try:
        with open(f"/proc/{process}/comm", "rb") as file:
            return os.fsdecode(file.read()).rstrip("\n") if process else ""
    except OSError:
        return ""


def written(root: Root) -> tuple[int, ...]:
    """Return what changes with each package that is put into a root, or taken out."""
    found = []
    for path in _DATABASES:
        try:
            found.append(root.stat(path).st_mtime_ns)
        except OSError:
            found.append(0)
    return tuple(found)


@contextlib.contextmanager
def watched(root: Root) -> Iterator[Root]:
    """Have a root to plan from, which holds still meanwhile: else SourceChangedError, whether the plan came off or not.

    UnsettledError where it did not, nothing is seen to have changed, and a package manager is at work.
    """
    before = written(root)
    try:
        yield root
    except (SourceChangedError, OtherSourceError):
        raise
    except (JailError, OSError) as error:
        causes, hint = (
            (error.causes, error.hint)
            if isinstance(error, JailError)
            else ((f"cannot read {error.filename or root.path}: {reason(error)}",), "")
        )
        if root.changed() is not None or written(root) != before:
            raise SourceChangedError(causes, hint) from error
        if worker(root) is not None:
            raise UnsettledError(causes, hint) from error
        raise
    path = root.changed()
    if path is not None:
        raise SourceChangedError(f"cannot read {path}: it changed while the plan was made", "try again")
