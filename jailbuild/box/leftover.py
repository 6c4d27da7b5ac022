"""What a writer that was killed has left in the record of a box, and whose it is. Nothing here writes."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import NamedTuple

from jailbuild.box.layout import DIRECTORY, JOURNAL, LOCK, NAME, STAGING
from jailbuild.errors import JailError
from jailbuild.names import quoted
from jailbuild.root import Root, open_beneath


class Leftover(NamedTuple):
    """What is in a record while somebody changes the box, and afterwards if that one was killed."""

    what: str  # JOURNAL, STAGING, or LOCK: a record that holds nothing else
    uid: int  # of who made it
    is_own: bool  # it is this process's user's: the next command finishes it or takes it back
    is_safe: bool  # nobody else can have put it there: what it says of owners and modes is believed

    def words(self, box: str) -> str:
        """Say whose change of a box was cut short."""
        return f"a change of {box} by uid {self.uid} was cut short"

    def refusal(self, box: str) -> JailError:
        """Return the error that others get who would write to the box."""
        return JailError(f"cannot write {box}: {self.words(box)}", recover_command(box))


def recover_command(box: str) -> str:
    """Return the command that finishes or takes back whoever's change of a box, ready for a shell."""
    return f"jailbuild update --recover {'-- ' if box.startswith('-') else ''}{quoted(box)}"


def names_now(directory: int) -> list[str]:
    """Return the names in an open directory (OSError).

    It is opened once more: some file systems (btrfs) list what was there when a descriptor was made.
    """
    again = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.listdir(again)
    finally:
        os.close(again)


def find_leftover(box: Root) -> Leftover | None:
    """Return what a writer at work, or one that was killed, has in the record of a box; None if it has nothing.

    OSError if the record is not for us to see.
    """
    try:
        record = open_beneath(box.descriptor, DIRECTORY, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        return leftover_in(record)
    finally:
        os.close(record)


def is_unfinished(box: Root) -> bool:
    """Say whether there is a journal or a staging: of a writer at work, or of one that was killed."""
    return (left := _seen(box)) is not None and left.what != LOCK


def is_blank(box: Root) -> bool:
    """Say whether there is a record of our own that holds nothing: of the first writer at work, or killed before it."""
    return (left := _seen(box)) is not None and left.what == LOCK and left.is_own


def is_record(box: Root) -> bool:
    """Say whether there is a record with a manifest, now or to come, or one that holds nothing yet.

    What is in its place and not ours to see counts too: who wants to use it is told.
    """
    try:
        record = open_beneath(box.descriptor, DIRECTORY, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        names = set(os.listdir(record))
    finally:
        os.close(record)
    return not names - {LOCK} or not {NAME, JOURNAL, STAGING}.isdisjoint(names)


def _seen(box: Root) -> Leftover | None:
    """Return what there is of a leftover in the record of a box; None where that is not ours to see."""
    try:
        return find_leftover(box)
    except OSError:
        return None


def leftover_in(record: int) -> Leftover | None:
    """Return what a writer at work, or one that was killed, has in an open record (OSError): whose it is too.

    One's own is what is all of it one's own, and where no group and nobody else may write. In a directory of another
    user's that one may have moved a file of ours to the journal's name, but no directory to the staging's: rename(2)
    wants to write to a directory that it moves.
    """
    names = names_now(record)
    directory, uid = os.fstat(record), os.geteuid()
    is_closed = not directory.st_mode & 0o022
    is_safe = is_closed and directory.st_uid == uid
    found = [name for name in (JOURNAL, STAGING) if name in names]
    if not found:
        return None if set(names) - {LOCK} else Leftover(LOCK, directory.st_uid, is_safe, is_safe)
    owners = [os.stat(name, dir_fd=record, follow_symlinks=False).st_uid for name in found]
    others = [owner for owner in owners if owner != uid]
    is_own = not others and is_closed and (is_safe or STAGING in found)
    return Leftover(found[0], others[0] if others else uid, is_own, is_own and is_safe)


def others_leftover(box: Root) -> Leftover | None:
    """Return what another user's change that was cut short has left in a box; None while a writer is at work."""
    left = _seen(box)
    if left is None or left.what == LOCK or left.is_own or is_being_written(box):
        return None
    return left


def own_leftover(box: Root) -> Leftover | None:
    """Return what is left of one's own change that was cut short; None while a writer is at work."""
    left = _seen(box)
    return None if left is None or left.what == LOCK or not left.is_own or is_being_written(box) else left


def refuse_others(box: str) -> None:
    """Raise a JailError if another user's change of a box was cut short."""
    if os.path.isdir(box) and (left := others_leftover(Root(box))) is not None:
        raise left.refusal(box)


def is_being_written(box: Root) -> bool:
    """Say whether somebody holds the lock of a box. Where nobody does it is taken for as long as one call lasts."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        lock = open_beneath(box.descriptor, f"{DIRECTORY}/{LOCK}", flags)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno == errno.EWOULDBLOCK
    finally:
        os.close(lock)
    return False
