"""Doing what a plan says, all or nothing: stage, commit, replay. The only writer of boxes.

Every name is used below a descriptor of its parent directory, and every parent is opened through real directories of
the box, so no link in a box leads a write out of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Iterator

from jailbuild import syscalls
from jailbuild.box.faults import step
from jailbuild.box.layout import JOURNAL, LOCK
from jailbuild.box.leftover import (
    Leftover,
    find_leftover,
    is_blank,
    is_unfinished,
    leftover_in,
    recover_command,
    refuse_others,
)
from jailbuild.box.location import refuse_own
from jailbuild.box.manifest import Manifest
from jailbuild.box.plan import Plan
from jailbuild.box.record import NEXT, BoxChangedError, BusyError, Record, open_record
from jailbuild.box.records import read_manifest, read_open_manifest
from jailbuild.box.replay import Replay
from jailbuild.box.stage import Staging, remove_directories
from jailbuild.closure.trees import identity
from jailbuild.errors import JailError, reason
from jailbuild.root import Root, open_beneath

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Writing:
    """How to write: whether to wait for other writers and whom to tell, whether to wait for the disk."""

    def __init__(
        self,
        *,
        keep_privileges: bool = False,
        sync: bool = True,
        wait: Callable[[str], None] | None = None,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.keep_privileges = keep_privileges
        self.sync = sync
        self.wait = wait
        self.progress = progress


def make_box_directory(box: str) -> bool:
    """Make the directory of a box if there is none, and say whether it was made (JailError if it cannot be)."""
    try:
        os.mkdir(box, 0o755)
    except FileExistsError:
        if not os.path.isdir(box):
            raise JailError(f"cannot make a box at {box}: it is no directory", "name another place") from None
        return False
    except OSError as error:
        hint = "make its parent directory first" if error.errno == errno.ENOENT else ""
        raise JailError(f"cannot make a box at {box}: {reason(error)}", hint) from None
    os.chmod(box, 0o755)  # whatever the umask: daemons that drop their privileges must be able to enter
    return True


def apply_plan(plan: Plan, box: str, source: Root | None, writing: Writing) -> list[str]:
    """Make the box what the plan says; return a line for each path that is not as planned, which are the user's doing.

    Raises JailError where the box cannot be written or the source cannot be read, and then the box is as it was;
    BusyError, BoxChangedError if somebody else is writing to it, or was since the plan was made.
    """
    if plan.is_done:
        return []
    with _stoppable() as signals:
        signals.hold()
        made = make_box_directory(box)
        root = None
        try:
            step("box")
            signals.release()
            with _as_one_line(box):
                root = _open_planned(plan, box, made)
                return _apply(plan, root, box, source, writing, signals, made)
        except BaseException:
            signals.hold()
            with contextlib.suppress(OSError, JailError):
                if root is not None and is_blank(root):
                    _settle(root, box, None, signals)
            if made:
                with contextlib.suppress(OSError):  # somebody else has begun to use it
                    os.rmdir(box)
            raise


def _open_planned(plan: Plan, box: str, made: bool) -> Root:
    """Open the directory that a plan is for (BoxChangedError if a link on the way leads to another one by now)."""
    root = Root(box)
    refuse_own(root, box)
    if not made and plan.place != identity(os.fstat(root.descriptor)):
        raise BoxChangedError(f"cannot write {box}: it is another directory than a moment ago", "try again")
    return root


def _apply(
    plan: Plan, root: Root, box: str, source: Root | None, writing: Writing, signals: _Signals, made: bool
) -> list[str]:
    record = open_record(root, box, writing.wait, made)
    try:
        if is_unfinished(root) or read_manifest(root, box) != plan.before:
            raise BoxChangedError(f"cannot write {box}: somebody else changed it meanwhile", "try again")
        step("locked")
        staging = Staging(plan, record, source, writing.keep_privileges, writing.progress)
        try:
            after = staging.run()
            if writing.sync:
                syscalls.syncfs(record.directory)
            staging.make_directories()
            signals.hold()  # from here on it is quicker to end than to take back
            record.commit()
        except BaseException:
            signals.hold()
            staging.take_back()
            raise
        step("commit")
        return _replay(record, plan.before, after, writing.sync, fresh=True, is_believed=True)
    finally:
        record.close()


def _replay(
    record: Record, before: Manifest | None, after: Manifest, sync: bool, *, fresh: bool, is_believed: bool
) -> list[str]:
    """Finish what was committed.

    The journal must be on disk before a path changes, and every path before the journal becomes the manifest.
    """
    try:
        if sync:
            os.fsync(record.directory)
        reports = Replay(record, before, after, fresh=fresh, is_believed=is_believed).run()
        if sync:
            syscalls.syncfs(record.directory)
        record.finish()
        step("finished")
        record.clear_staging()
        step("cleared")
        if sync:
            os.fsync(record.directory)
    except OSError as error:
        raise JailError(
            f"cannot finish writing {record.name}: {error.filename or 'the disk'}: {reason(error)}",
            "mend that: the next command on the box goes on from there",
        ) from None
    return reports


def recover(box: str, wait: Callable[[str], None] | None) -> list[str]:
    """Finish or take back what a writer of our own that was killed has left in a box; return what was done, in lines.

    Nothing is done to a box that is in order, or that a living writer is at, if `wait` is None; else that one is
    waited for. JailError where another user's change was cut short, where the journal cannot be believed, or where
    the box cannot be written.
    """
    if not os.path.isdir(box):
        return []
    root = Root(box)
    if not is_unfinished(root) and not is_blank(root):
        return []
    refuse_others(box)
    with _stoppable() as signals, _as_one_line(box):
        try:
            return _settle(root, box, wait, signals)
        except BusyError:
            return []


def recover_anyones(box: str, wait: Callable[[str], None] | None) -> list[str]:
    """Do as `recover`, whoever was killed; BusyError if a living writer is at it and `wait` is None.

    What another user's journal says of owners and modes is that user's word: see Replay.
    """
    root = Root(box)
    try:
        left = find_leftover(root)
    except OSError as error:
        raise JailError(f"cannot recover {box}: its record: {reason(error)}", "its owner may, and root") from None
    if left is None:
        return []
    if os.geteuid() not in (0, left.uid):
        raise JailError(
            f"cannot recover {box}: {left.words(box)}, and only uid {left.uid} or root can finish it",
            f"sudo {recover_command(box)}",
        )
    with _stoppable() as signals, _as_one_line(box):
        return _settle(root, box, wait, signals, anyones=True)


def _settle(
    root: Root, box: str, wait: Callable[[str], None] | None, signals: _Signals, *, anyones: bool = False
) -> list[str]:
    try:
        record = open_record(root, box, wait)
    except BoxChangedError:
        return []
    signals.hold()
    try:
        left = leftover_in(record.directory)
        if left is None or (left.what == LOCK and not (left.is_own or anyones)):  # whoever was at it has ended
            return []
        if not (left.is_own or anyones):
            raise left.refusal(box)
        return _recover(record, root, box, left)
    finally:
        record.close()


def _recover(record: Record, root: Root, box: str, left: Leftover) -> list[str]:
    change = "a change" if left.uid == os.geteuid() else f"a change by uid {left.uid}"
    cleaned = [f"{box}: cleaned up after {change} that was cut short"]
    if left.what == LOCK:  # a writer was killed before it had begun, or somebody took the manifest away
        record.remove()
        return [f"{box}: removed its record, which held nothing"]
    before = read_manifest(root, box)
    if left.what == JOURNAL and not record.open_journal():  # somebody has taken it away
        return []
    record.open_staging()
    if left.is_own and not record.is_own():  # somebody has put something else there meanwhile
        raise left.refusal(box)
    if left.what == JOURNAL:
        after = read_open_manifest(record.journal, box)
        reports = _replay(record, before, after, True, fresh=False, is_believed=left.is_safe)
        return [f"{box}: finished {change} that was cut short", *reports]
    following = _read_next(record, box)
    if following is not None:
        step("undo")
        listed = before.entries if before is not None else {}
        remove_directories(
            root,
            [path for path, entry in following.entries.items() if entry.type == "directory" and path not in listed],
        )
    record.clear_staging()
    if before is None:
        record.remove()
    return cleaned


def _read_next(record: Record, box: str) -> Manifest | None:
    """Return the manifest to come in the staging; None if it was cut short: no directory was made yet."""
    try:
        opened = open_beneath(record.staging, NEXT, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None
    try:
        return read_open_manifest(opened, box)
    except JailError:
        return None
    finally:
        os.close(opened)


@contextlib.contextmanager
def _as_one_line(box: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        inside = f" ({error.filename})" if isinstance(error.filename, str) and error.filename not in ("", box) else ""
        raise JailError(f"cannot write {box}{inside}: {reason(error)}") from None


class _Signals:
    """The signals that end a program: held up, or let through."""

    def __init__(self) -> None:
        self.before = signal.pthread_sigmask(signal.SIG_BLOCK, ())

    def hold(self) -> None:
        """Hold them up until `release`, or the end."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)

    def release(self) -> None:
        """Let through what was let through before."""
        signal.pthread_sigmask(signal.SIG_SETMASK, self.before)


@contextlib.contextmanager
def _stoppable() -> Iterator[_Signals]:
    """Make the signals that end a program an exception, once: what takes things back is not to be stopped too."""
    signals = _Signals()

    def stop(number: int, _frame: object) -> None:
        signals.hold()
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in _STOPPING}
    for number, handler in before.items():
        if handler not in (signal.SIG_IGN, None):
            signal.signal(number, stop)
    try:
        yield signals
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: it is not Python's
                signal.signal(number, handler)
        signals.release()
