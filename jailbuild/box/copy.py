"""Files copied: bytes hashed on the way, holes kept as holes, mode, owner, times and attributes set.

The digest is taken of the very bytes that were written (or, of a clone, of the clone), never of a second reading: what
the manifest says of a file is true of the box, whatever became of the source.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import NamedTuple

from jailbuild.box.manifest import Entry
from jailbuild.errors import JailError, SourceChangedError, reason

_BLOCK = 256 << 10  # bytes: what was read is still in the processor's cache when it is hashed and written
_ZEROS = bytes(_BLOCK)
_ATTEMPTS = 4
_TICK = 20_000_000  # ns; where the times of files go in steps (everywhere before Linux 6.13), of 10 ms at most
_GLANCE = 0.1  # seconds from one report of progress to the next
_FICLONE = 0x40049409  # ioctl_ficlone(2)
_CAPABILITY = "security.capability"

# Where an attribute cannot be set, or not so large: cp -a passes over it too. ENODATA: taken away since it was listed.
_UNSUPPORTED = (errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.E2BIG, errno.ENOSPC, errno.ERANGE, errno.ENODATA)

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE)  # of a source that was there when it was planned

Step = Callable[[int], None]  # told how many bytes were done since the last call; 0 for what is read once more


class Job(NamedTuple):
    """A file to be written: what it is to be, where its bytes come from, and what opens both."""

    entry: Entry
    source: Callable[[], int] | bytes  # opens it for reading, not blocking at a FIFO; or the bytes themselves
    target: Callable[[], int]  # makes and opens it for reading and writing, empty


def _untold(_count: int) -> None:
    """Nobody asked how far it is."""


def copy_file(source: int, target: int, entry: Entry, keep_privileges: bool, step: Step = _untold) -> str:
    """Copy an open file into an open empty one and return the sha256 of its bytes, in hex.

    `target` is open for reading and writing (without reading nothing is cloned). SourceChangedError when the source
    is not what `entry` says or keeps changing; JailError when it cannot be read or is no regular file, OSError when
    the target cannot be written. A change that only touches the inode (chmod, another link) is no change.
    """
    digest = _copy_bytes(source, target, entry, step)
    _copy_attributes(source, target)
    finish(target, entry)
    if keep_privileges:
        _copy_capability(source, target, entry)
    return digest


def write_file(data: bytes, target: int, entry: Entry) -> str:
    """Write bytes of our own into an open empty file and return their sha256, in hex (OSError)."""
    _write(target, memoryview(data), 0)
    finish(target, entry)
    return hashlib.sha256(data).hexdigest()


def finish(target: int, entry: Entry) -> None:
    """Give a written file its owner, mode and times; the owner only where this process may."""
    if os.geteuid() == 0:
        os.fchown(target, entry.uid, entry.gid)
    os.fchmod(target, entry.mode or 0)  # after the owner: chown takes set-id bits away
    if entry.mtime_ns is not None:
        os.utime(target, ns=(entry.mtime_ns, entry.mtime_ns))


def _unread(entry: Entry, error: OSError) -> JailError:
    cause = f"cannot read {entry.source or entry.path}: {reason(error)}"
    return SourceChangedError(cause, "try again") if error.errno in _GONE else JailError(cause)


def _copy_bytes(source: int, target: int, entry: Entry, told: Step) -> str:
    name = entry.source or entry.path

    def told_again(_count: int) -> None:
        told(0)

    step = told
    for attempt in range(_ATTEMPTS):
        before = _look(source, entry)
        if not stat.S_ISREG(before.st_mode):
            raise SourceChangedError(f"cannot copy {name}: it is not a regular file", "try again")
        if entry.source is not None and entry.sha256 is None and _differs(entry, before):
            why = "it changed while it was copied" if attempt else "it changed since the plan was made"
            raise SourceChangedError(f"cannot copy {name}: {why}", "try again")
        if attempt:
            os.ftruncate(target, 0)
            step = told_again
        began = time.time_ns()
        if _clone(source, target):
            # What the file system cloned is the source at one instant: its own digest counts.
            if _is_same(before, _look(source, entry)) and os.fstat(target).st_size == before.st_size:
                digest = _transfer(target, None, before.st_size, entry, step)
                if digest is not None:
                    return _as_listed(digest, entry)
            continue
        digest = _transfer(source, target, before.st_size, entry, step)
        if digest is None:
            after = _look(source, entry)
            if _is_same(before, after) and _read(source, memoryview(bytearray(1)), after.st_size, entry):
                raise JailError(
                    f"cannot copy {name}: it holds more than its size says", "the kernel makes it: copy it to a file"
                )
        elif _held_still(source, before, began, digest, entry, told_again):
            return _as_listed(digest, entry)
    raise SourceChangedError(f"cannot copy {name}: it changed while it was copied", "try again")


def _look(source: int, entry: Entry) -> os.stat_result:
    try:
        return os.fstat(source)
    except OSError as error:  # ESTALE, where a server lost it
        raise _unread(entry, error) from None


def _differs(entry: Entry, status: os.stat_result) -> bool:
    return entry.size not in (None, status.st_size) or entry.mtime_ns not in (None, status.st_mtime_ns)


def _is_same(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)


def _as_listed(digest: str, entry: Entry) -> str:
    if entry.sha256 not in (None, digest):
        raise SourceChangedError(
            f"cannot copy {entry.source or entry.path}: it is no longer what the manifest lists", "try again"
        )
    return digest


def _held_still(source: int, before: os.stat_result, began: int, digest: str, entry: Entry, step: Step) -> bool:
    """Say whether a source was the same all the while it was read.

    Size and mtime tell; where they may lie it is read again. A new ctime alone is a chmod or a link, or a write whose
    mtime was set back. An mtime of just before may be that of a later write in the same tick. (Writes by a mapping that
    was dirty before show in no time; the box has what was read.)
    """
    after = _look(source, entry)
    if not _is_same(before, after):
        return False
    is_fresh = entry.source is not None and 0 <= began - before.st_mtime_ns < _TICK
    if before.st_ctime_ns == after.st_ctime_ns and not is_fresh:
        return True
    if is_fresh:
        time.sleep(_TICK / 1e9)
    again = _transfer(source, None, before.st_size, entry, step)
    return again == digest and _is_same(before, _look(source, entry))


def _clone(source: int, target: int) -> bool:
    if fcntl.fcntl(target, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDWR:
        return False  # it could not be hashed afterwards
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:  # another file system, or one that cannot
        return False
    return True


def _transfer(source: int, target: int | None, size: int, entry: Entry, step: Step) -> str | None:
    """Hash `size` bytes, write those that are not holes to `target`; None if the file is not of that size."""
    digest = hashlib.sha256()
    block = memoryview(bytearray(min(size, _BLOCK) or 1))
    place = written = 0
    while place < size:
        start, end = _data_after(source, place, size)
        _hash_zeros(digest, start - place, step)
        place = start
        while place < end:
            count = _read(source, block[: end - place], place, entry)
            if not count:
                return None
            digest.update(block[:count])
            if target is not None:
                _write(target, block[:count], place)
            place += count
            written = place
            step(count)
    if _read(source, block[:1], size, entry):
        return None
    if target is not None and written < size:
        os.ftruncate(target, size)  # it ends with a hole
    return digest.hexdigest()


def _read(source: int, block: memoryview, place: int, entry: Entry) -> int:
    try:
        return os.preadv(source, [block], place)
    except OSError as error:
        raise _unread(entry, error) from None


def _data_after(source: int, place: int, size: int) -> tuple[int, int]:
    """Return where data begins at or after `place`, and where it ends: lseek(2), SEEK_DATA and SEEK_HOLE."""
    try:
        start = os.lseek(source, place, os.SEEK_DATA)
        return min(start, size), min(os.lseek(source, start, os.SEEK_HOLE), size)
    except OSError as error:
        if error.errno == errno.ENXIO:  # nothing but a hole
            return size, size
        return place, size


def _hash_zeros(digest: hashlib._Hash, count: int, step: Step) -> None:
    """Hash a hole, at some 2 GB/s: sha256 has no shorter way through zeros."""
    while count > 0:
        some = min(count, _BLOCK)
        digest.update(_ZEROS if some == _BLOCK else _ZEROS[:some])
        count -= some
        step(some)


def _write(target: int, view: memoryview, place: int) -> None:
    while view:
        count = os.pwrite(target, view, place)
        view = view[count:]
        place += count


def _copy_attributes(source: int, target: int) -> None:
    """Set the attributes that users gave a file, where the file system has such.

    No others: security.selinux and the like are given by the policy of the place where a file stands, trusted.* is
    the host's own book-keeping (overlayfs), and an access list names users of the host that the box does not know.
    """
    try:
        names = os.listxattr(source)
    except OSError:
        return
    for name in names:
        if name.startswith("user."):
            try:
                os.setxattr(target, name, os.getxattr(source, name))
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise


def _copy_capability(source: int, target: int, entry: Entry) -> None:
    """Set the file capabilities of the source; after the owner, since chown takes them away."""
    try:
        value = os.getxattr(source, _CAPABILITY)
    except OSError:
        return
    try:
        os.setxattr(target, _CAPABILITY, value)
    except OSError as error:  # asked for: not to be lost in silence
        raise JailError(
            f"cannot give {entry.path} its file capabilities: {reason(error)}", "leave out --keep-privileges"
        ) from None


class _StoppedError(BaseException):
    """A worker is to leave its file as it is."""


def copy_all(
    jobs: Iterable[Job], workers: int, keep_privileges: bool, progress: Step | None = None
) -> Generator[tuple[Job, str], None, None]:
    """Do the jobs, `workers` at a time, and yield each with its sha256, in their order.

    At the first failure, an interrupt, or when the caller stops iterating, all stop within a block, and no thread is
    left when this generator ends; the files that were begun are the caller's to remove. Errors are those of
    copy_file, and JailError where a source cannot be opened; of several the first by the order of jobs. `jobs` is
    iterated by the workers, one at a time. `progress` is called by the caller's own thread with bytes done since.
    """
    pool = _Pool(iter(jobs), keep_privileges, workers)
    try:
        pool.start()
        for number in range(1 << 62):
            result = pool.wait_for(number, progress)
            if result is None:
                return
            yield result
    finally:
        pool.stop()


class _Pool:
    def __init__(self, jobs: Iterator[Job], keep_privileges: bool, workers: int) -> None:
        self.jobs = jobs
        self.keep_privileges = keep_privileges
        self.begun = 0  # jobs
        self.is_last = False
        self.is_stopped = False
        self.news = threading.Condition()  # guards all that is here
        self.done: dict[int, tuple[Job, str]] = {}
        self.failed: dict[int, BaseException] = {}
        self.counts = [0] * workers  # bytes, each by its own worker
        self.told = 0
        self.threads = [threading.Thread(target=self._work, args=(worker,), daemon=True) for worker in range(workers)]

    def start(self) -> None:
        # A signal for the process goes to any thread that takes it, and then interrupts not the one that waits; and
        # where the caller blocks signals to clean up, they must not come in by a worker.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            for thread in self.threads:
                thread.start()
        except RuntimeError:  # a limit of processes
            if self.threads[0].ident is None:
                raise JailError("cannot copy files: no thread can be started", "see ulimit -u") from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def stop(self) -> None:
        """End all workers, and wait for them."""
        self.is_stopped = True  # first of all, and without waiting for the lock
        for thread in self.threads:
            if thread.ident is not None:
                thread.join()

    def wait_for(self, number: int, progress: Step | None) -> tuple[Job, str] | None:
        """Return the result of a job, None if there are not so many; raise what failed, whichever job it was."""
        while True:
            with self.news:
                if self.failed:
                    raise self.failed[min(self.failed)]
                result = self.done.pop(number, None)
                is_over = self.is_last and number >= self.begun
                if result is None and not is_over:
                    self.news.wait(_GLANCE if progress is not None else None)
            if progress is not None and sum(self.counts) > self.told:
                count = sum(self.counts) - self.told
                self.told += count
                progress(count)
            if result is not None or is_over:
                return result

    def _work(self, worker: int) -> None:
        def step(count: int) -> None:
            if self.is_stopped or self.failed:
                raise _StoppedError
            self.counts[worker] += count

        number = 0
        try:
            while True:
                with self.news:
                    number = self.begun
                    if self.is_stopped or self.failed or self.is_last:
                        return
                    job = next(self.jobs, None)
                    if job is None:
                        self.is_last = True
                        self.news.notify_all()
                        return
                    self.begun += 1
                digest = do_job(job, self.keep_privileges, step)
                with self.news:
                    self.done[number] = job, digest
                    self.news.notify_all()
        except _StoppedError:
            return
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
            with self.news:
                self.failed[number] = error
                self.news.notify_all()


def do_job(job: Job, keep_privileges: bool, step: Step) -> str:
    """Do one job and return the sha256 of what was written. Errors are those of copy_all."""
    if isinstance(job.source, bytes):
        target = job.target()
        try:
            return write_file(job.source, target, job.entry)
        finally:
            os.close(target)
    try:
        source = job.source()
    except OSError as error:
        raise _unread(job.entry, error) from None
    try:
        target = job.target()
        try:
            return copy_file(source, target, job.entry, keep_privileges, step)
        finally:
            os.close(target)
    finally:
        os.close(source)
