"""The record of a box, /.jailbuild, in the hands of the one writer that has its lock.

What is in it: `manifest.jsonl`; `lock`, a file that flock(2) is held on and that says by whom; and while work is under
way `staging/`, where new files are made and replaced ones go, and `journal`, the manifest to come. Both belong to who
makes the change (st_uid), so that whoever comes after a kill knows whose change it was.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import sys
from collections.abc import Callable

from jailbuild.box.faults import step
from jailbuild.box.layout import DIRECTORY, JOURNAL, LOCK, NAME, STAGING
from jailbuild.box.leftover import names_now
from jailbuild.box.manifest import Manifest
from jailbuild.box.records import TooLargeError, bounds_for, decode, encode
from jailbuild.errors import JailError, reason
from jailbuild.root import Root, open_beneath

NEXT = "manifest.next"  # in the staging: the manifest to come before the commit

_MAX_WORDS = 200  # characters of who has the lock


class BusyError(JailError):
    """Somebody else is writing to the box."""


class BoxChangedError(JailError):
    """Another writer was faster: the plan no longer fits the box."""


class Record:
    """The record, open and locked until `close`. Its `directory` and its `staging` are descriptors."""

    def __init__(self, box: Root, name: str, directory: int, lock: int, made_box: bool) -> None:
        self.box = box
        self.name = name  # as the user calls the box
        self.directory = directory
        self.lock = lock
        self.made_box = made_box  # whether the box was no directory before this change
        self.staging = -1
        self.journal = -1  # the manifest to come, before the commit too

    def open_journal(self) -> bool:
        """Open the journal that a killed writer left; say whether there is one.

        JailError if it cannot be read, or is not a file of its own: somebody else has put it there.
        """
        try:
            self.journal = open_beneath(self.directory, JOURNAL, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except FileNotFoundError:
            return False
        except OSError as error:
            why = reason(error)
        else:
            status = os.fstat(self.journal)
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
                return True
            why = "it has other names" if stat.S_ISREG(status.st_mode) else "it is no regular file"
        raise JailError(f"cannot read the journal of {self.name}: {why}", "somebody put something else there")

    def is_own(self) -> bool:
        """Say whether what is open of journal and staging belongs to this process's user."""
        return {os.fstat(opened).st_uid for opened in (self.journal, self.staging) if opened >= 0} == {os.geteuid()}

    def open_staging(self) -> None:
        """Open the staging, made if need be."""
        self.staging = _own_directory(self.directory, STAGING)
        step("staging")

    def clear_staging(self) -> None:
        """Remove the staging with all that is in it."""
        if self.staging < 0:
            try:
                self.staging = open_beneath(self.directory, STAGING, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                return
        for name in names_now(self.staging):
            _remove(name, self.staging)
            step("clear")
        os.rmdir(STAGING, dir_fd=self.directory)
        os.close(self.staging)
        self.staging = -1

    def write_next(self, manifest: Manifest) -> None:
        """Write the manifest to come into the staging."""
        bounds = bounds_for(os.fstat(self.directory).st_uid)
        size = 0
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self.journal = os.open(NEXT, flags, 0o600, dir_fd=self.staging)
        with os.fdopen(self.journal, "w+b", closefd=False) as file:
            for line in encode(manifest):
                size += len(line)
                if size > bounds.size:
                    raise JailError(
                        f"cannot write {self.name}: its manifest would have more than {bounds.size >> 20} "
                        "MiB, and nobody could read it again",
                        "make several boxes of it",
                    )
                file.write(line)
            file.seek(0)
            try:
                decode(file, bounds)
            except TooLargeError as error:
                raise JailError(
                    f"cannot write {self.name}: its manifest could not be read again: {error}",
                    "make several boxes of it",
                ) from None
            except ValueError as error:
                raise JailError(f"cannot write the manifest of {self.name}: {error}", "name another place") from None

    def commit(self) -> None:
        """Make the manifest to come the journal: from now on the change will be finished."""
        os.rename(NEXT, JOURNAL, src_dir_fd=self.staging, dst_dir_fd=self.directory)

    def finish(self) -> None:
        """Make the journal the manifest, which is the record's owner's to read whoever writes."""
        owner, journal = os.fstat(self.directory), os.fstat(self.journal)
        if os.geteuid() == 0 and journal.st_uid != owner.st_uid and 0 in (journal.st_uid, owner.st_uid):
            os.fchown(self.journal, owner.st_uid, owner.st_gid)  # not by name: it may lead to another file by now
            step("given")
        os.rename(JOURNAL, NAME, src_dir_fd=self.directory, dst_dir_fd=self.directory)

    def remove(self) -> None:
        """Remove a record that holds nothing, and the directory of the box if that was made for it and is empty.

        Before the lock is let go, so that who waits for it looks again.
        """
        if set(names_now(self.directory)) - {LOCK}:
            return
        os.unlink(LOCK, dir_fd=self.directory)
        step("unlocked")
        os.rmdir(DIRECTORY, dir_fd=self.box.descriptor)
        step("unrecorded")
        if self.made_box:
            with contextlib.suppress(OSError):  # somebody else has begun to use it
                os.rmdir(self.name)

    def close(self) -> None:
        """Let go of the lock."""
        for opened in (self.staging, self.journal):
            if opened >= 0:
                os.close(opened)
        self.staging = self.journal = -1
        try:
            if os.fstat(self.lock).st_nlink == 1:
                os.ftruncate(self.lock, 0)
        except OSError:
            pass
        os.close(self.lock)
        os.close(self.directory)


def open_record(box: Root, name: str, wait: Callable[[str], None] | None, made_box: bool = False) -> Record:
    """Lock the record of a box, made if need be, and return it.

    Who else is writing is waited for: `wait` is told once, in words, for whom; BusyError if it is None. JailError
    where /.jailbuild is not what we make, OSError where it cannot be written. `made_box` says that the box was no
    directory before; it is written down for who has to clean up.
    """
    told = False
    while True:
        try:
            directory = _own_directory(box.descriptor, DIRECTORY)
        except FileNotFoundError:
            raise BoxChangedError(f"cannot write {name}: somebody removed it meanwhile", "try again") from None
        step("record")
        lock = -1
        try:
            try:
                lock = _open_lock(directory)
            except FileNotFoundError:  # its writer has taken the whole record back
                os.close(directory)
                continue
            step("lock")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                whom = _holder(lock)
                if wait is None:
                    raise BusyError(f"cannot write {name}: {whom} is writing to it", "try again later") from None
                if not told:
                    wait(f"{name}: waiting for {whom}, which is writing to it")
                    told = True
                fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_in_place(box, lock):
                made_box = made_box or _words(lock).get("made_box") is True
                _sign(lock, made_box)
                return Record(box, name, directory, lock, made_box)
        except BaseException:
            if lock >= 0:
                os.close(lock)
            else:
                with contextlib.suppress(OSError):  # it is not empty
                    os.rmdir(DIRECTORY, dir_fd=box.descriptor)
            os.close(directory)
            raise
        os.close(lock)
        os.close(directory)


def _own_directory(parent: int, name: str) -> int:
    """Return a descriptor of a directory of our own, made if need be (JailError if something else is there)."""
    while True:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
        try:
            return open_beneath(parent, name, os.O_RDONLY | os.O_DIRECTORY, one_mount=True)
        except FileNotFoundError:  # its writer has taken it back
            continue
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.EXDEV):
                raise
            why = reason(error)
        raise JailError(
            f"cannot write the box: /{DIRECTORY} in it is not what jailbuild makes ({why})",
            "somebody has put something else there: build a new box",
        )


def _open_lock(directory: int) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        lock = os.open(LOCK, flags, 0o600, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise _no_lock(reason(error)) from None
        raise
    status = os.fstat(lock)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:  # we write into it: it must be nobody else's file
        os.close(lock)
        raise _no_lock("it has other names" if stat.S_ISREG(status.st_mode) else "it is no regular file")
    return lock


def _no_lock(why: str) -> JailError:
    return JailError(
        f"cannot write the box: /{DIRECTORY}/{LOCK} in it is not what jailbuild makes ({why})",
        "somebody has put something else there: build a new box",
    )


def _is_in_place(box: Root, lock: int) -> bool:
    """Say whether the file that was locked is still the box's: who held it may have taken the record back."""
    try:
        there = os.stat(f"{DIRECTORY}/{LOCK}", dir_fd=box.descriptor, follow_symlinks=False)
    except OSError:
        return False
    return os.path.samestat(there, os.fstat(lock))


def _sign(lock: int, made_box: bool) -> None:
    """Say in the lock who has it."""
    words = {"pid": os.getpid(), "command": " ".join(["jailbuild", *sys.argv[1:]])[:_MAX_WORDS], "made_box": made_box}
    try:
        if os.fstat(lock).st_nlink != 1:
            return
        os.ftruncate(lock, 0)
        os.pwrite(lock, json.dumps(words).encode("ascii"), 0)
    except OSError:  # a full disk: who waits is told less
        pass


def _holder(lock: int) -> str:
    """Return in words who has the lock, as far as it says: it may be anybody's file."""
    words = _words(lock)
    try:
        return f"process {int(str(words['pid']))} ({str(words['command'])[:_MAX_WORDS]})"
    except (ValueError, TypeError, KeyError, OverflowError):
        return "another process"


def _words(lock: int) -> dict[str, object]:
    """Return what a lock says; nothing if it is not what `_sign` writes."""
    try:
        words = json.loads(os.pread(lock, 6 * _MAX_WORDS + 200, 0))
    except (OSError, ValueError, RecursionError):
        return {}
    return words if isinstance(words, dict) else {}


def _remove(name: str, directory: int) -> None:
    """Remove a leftover of the staging, whatever it is."""
    try:
        os.unlink(name, dir_fd=directory)
    except IsADirectoryError:
        import shutil

        shutil.rmtree(name, dir_fd=directory)
