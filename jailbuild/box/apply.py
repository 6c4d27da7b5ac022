"""Doing what a plan says: the only writer of boxes.

Every name is used below a descriptor of its parent directory, and every parent is opened through real directories of
the box, so no link in a box leads a write out of it. New things never take the place of something that is there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
from collections.abc import Iterator

from jailbuild import syscalls
from jailbuild.box.copy import copy_file, finish
from jailbuild.box.manifest import DIRECTORY, NAME, Entry, Manifest, read_manifest
from jailbuild.box.plan import Action, Plan, manifest_after
from jailbuild.errors import JailError, reason
from jailbuild.root import Root, open_beneath

_STAGING = "staging"
_NEXT = "manifest.next"
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ORDER = {"directory": 0, "file": 1, "link": 3}


class BoxChangedError(JailError):
    """Another writer was faster: the plan no longer fits the box."""


def make_box_directory(box: str) -> bool:
    """Make the directory of a box if there is none, and say whether it was made (JailError if it cannot be)."""
    try:
        os.mkdir(box, 0o755)
    except FileExistsError:
        if not os.path.isdir(box):
            raise JailError(f"cannot make a box at {box}: it is no directory", "name another place") from None
        if os.path.samefile(box, "/"):
            raise JailError("cannot make a box of /: it is the host's own root", "name a directory") from None
        return False
    except OSError as error:
        hint = "make its parent directory first" if error.errno == errno.ENOENT else ""
        raise JailError(f"cannot make a box at {box}: {reason(error)}", hint) from None
    os.chmod(box, 0o755)  # whatever the umask: daemons that drop their privileges must be able to enter
    return True


def apply_plan(plan: Plan, box: str, source: Root, keep_privileges: bool, sync: bool) -> None:
    """Make the box what the plan says, the manifest last. On failure all that was written is taken back.

    Raises JailError where the box cannot be written or the source cannot be read, BoxChangedError if somebody else
    wrote to the box since the plan was made. Waits while somebody else is writing.
    """
    if plan.before is not None and not plan.changes and manifest_after(plan, {}) == plan.before:
        return
    with _stoppable():
        _apply(plan, box, source, keep_privileges, sync)


def _apply(plan: Plan, box: str, source: Root, keep_privileges: bool, sync: bool) -> None:
    made = make_box_directory(box)
    try:
        writer = _Writer(Root(box), box, source, plan, keep_privileges)
        try:
            writer.run(sync)
        except BaseException:
            writer.undo()
            raise
        writer.close()
    except BaseException as error:
        if made:
            with contextlib.suppress(OSError):  # somebody else has begun to use it
                os.rmdir(box)
        if isinstance(error, OSError):
            raise JailError(f"cannot write {error.filename or box}: {reason(error)}") from None
        raise


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Make the signals that end a program an exception, once: what takes things back is not to be stopped too."""

    def stop(number: int, _frame: object) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in _STOPPING}
    for number, handler in before.items():
        if handler not in (signal.SIG_IGN, None):
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: it is not Python's
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)


class _Writer:
    def __init__(self, box: Root, name: str, source: Root, plan: Plan, keep_privileges: bool) -> None:
        self.box = box
        self.name = name  # as the user calls the box
        self.source = source
        self.plan = plan
        self.keep_privileges = keep_privileges
        self.created: list[Entry] = []
        self.replaced: list[tuple[str, str]] = []  # name in the staging of what was there, path in the box
        self.parent: tuple[str, int] | None = None  # the directory last written to
        self.digests: dict[str, str] = {}
        self.staged = 0
        self.record_is_new = False
        self.record = self._own_directory(box.descriptor, DIRECTORY)
        self.staging = -1
        try:
            fcntl.flock(self.record, fcntl.LOCK_EX)  # who came first may take his time
            if not self._is_in_place() or read_manifest(box, box.path) != plan.before:
                raise BoxChangedError(f"cannot write {box.path}: somebody else changed it meanwhile", "try again")
            self.staging = self._own_directory(self.record, _STAGING)
            self._clear_staging()  # of one who was killed
        except BaseException:
            self.undo()
            raise

    def _is_in_place(self) -> bool:
        """Say whether the record that was locked is still the box's: who held it may have taken the box back."""
        try:
            there = os.stat(f"{self.name}/{DIRECTORY}", follow_symlinks=False)
        except OSError:
            return False
        return os.path.samestat(there, os.fstat(self.record))

    def _own_directory(self, parent: int, name: str) -> int:
        """Return a descriptor of a directory of our own, made if need be (JailError if something else is there)."""
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
            self.record_is_new |= name == DIRECTORY
        except FileExistsError:
            pass
        try:
            return open_beneath(parent, name, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise JailError(
                f"cannot write the box: /{DIRECTORY} in it is not what jailbuild makes ({reason(error)})",
                "somebody has put something else there: build a new box",
            ) from None

    def run(self, sync: bool) -> None:
        """Do it all; the manifest comes last."""
        for action in sorted(self.plan.changes, key=self._rank):
            try:
                self._do(action)
            except OSError as error:
                raise JailError(f"cannot write {action.entry.path} in the box: {reason(error)}") from None
        for entry in reversed(self.created):
            if entry.type == "directory" and (entry.mode or 0) & 0o700 != 0o700:
                self._finish_directory(entry)
        after = manifest_after(self.plan, self.digests)
        if after != self.plan.before:
            if sync:
                syscalls.syncfs(self.record)
            self._write_manifest(after)
            if sync:
                syscalls.syncfs(self.record)

    @staticmethod
    def _rank(action: Action) -> tuple[bool, int, str]:
        entry = action.entry
        linked = entry.hardlink is not None and entry.hardlink != entry.path
        # what replaces comes last: it alone cannot simply be taken away again
        return action.kind == "replace", _ORDER[entry.type] + linked, entry.path

    def _do(self, action: Action) -> None:
        entry = action.entry
        parent, name = self._parent(entry.path)
        if entry.type == "directory":
            os.mkdir(name, 0o700, dir_fd=parent)
            self.created.append(entry)
            self._finish_directory(entry, 0o700)
        elif entry.type == "link":
            os.symlink(entry.target or "", name, dir_fd=parent)
            self.created.append(entry)
            if os.geteuid() == 0:
                os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
            if entry.mtime_ns is not None:
                os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)
        elif not self._link_to_family(entry, parent, name):
            self._write_file(action, parent, name)

    def _finish_directory(self, entry: Entry, more: int = 0) -> None:
        """Give a directory owner and mode, with `more` bits as long as something is to be put into it."""
        made = open_beneath(self.box.descriptor, entry.path.lstrip("/"), os.O_RDONLY | os.O_DIRECTORY)
        try:
            finish(made, entry._replace(mode=(entry.mode or 0) | more))
        finally:
            os.close(made)

    def _parent(self, path: str) -> tuple[int, str]:
        """Return a descriptor of the directory that holds `path`, good until the next call, and the name in it."""
        parent, _, name = path.rpartition("/")
        if self.parent is None or self.parent[0] != parent:
            self._close_parent()
            opened = open_beneath(self.box.descriptor, parent.lstrip("/") or ".", os.O_PATH | os.O_DIRECTORY)
            self.parent = (parent, opened)
        return self.parent[1], name

    def _close_parent(self) -> None:
        if self.parent is not None:
            os.close(self.parent[1])
            self.parent = None

    def _link_to_family(self, entry: Entry, parent: int, name: str) -> bool:
        """Make a file that is one with another in the box a link to it; False if it is the first of them."""
        for other, digest in self._family(entry):
            above, _, other_name = other.rpartition("/")
            directory = open_beneath(self.box.descriptor, above.lstrip("/") or ".", os.O_PATH | os.O_DIRECTORY)
            try:
                os.link(other_name, name, src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False)
            finally:
                os.close(directory)
            self.created.append(entry)
            self.digests[entry.path] = digest
            return True
        return False

    def _family(self, entry: Entry) -> list[tuple[str, str]]:
        """Return the paths in the box, with digests, that are one file with `entry` and are there already."""
        if entry.hardlink is None:
            return []
        found = []
        for action in self.plan.actions:
            other = action.entry
            if other.hardlink == entry.hardlink and other.path != entry.path:
                listed = self.plan.before.entries.get(other.path) if self.plan.before is not None else None
                digest = self.digests.get(other.path) or (listed.sha256 if listed and action.kind == "keep" else None)
                if digest is not None:
                    found.append((other.path, digest))
        return found

    def _write_file(self, action: Action, parent: int, name: str) -> None:
        entry = action.entry
        self.staged += 1
        staged = str(self.staged)
        target = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self.staging)
        try:
            self.digests[entry.path] = self._fill(entry, target)
        finally:
            os.close(target)
        if action.kind == "replace":
            kept = f"{staged}.before"
            os.link(name, kept, src_dir_fd=parent, dst_dir_fd=self.staging, follow_symlinks=False)
            self.replaced.append((kept, entry.path))
            os.rename(staged, name, src_dir_fd=self.staging, dst_dir_fd=parent)
        else:
            self._move(staged, parent, name)
            self.created.append(entry)

    def _fill(self, entry: Entry, target: int) -> str:
        made = self.plan.draft.made.get(entry.path)
        if made is not None:
            source = os.memfd_create("made", os.MFD_CLOEXEC)
            os.write(source, made)
        else:
            try:
                source = self.source.open(entry.path)
            except OSError as error:
                raise JailError(f"cannot read {self.source.host_path(entry.path)}: {reason(error)}") from None
        try:
            return copy_file(source, target, entry, self.keep_privileges)
        finally:
            os.close(source)

    def _move(self, staged: str, parent: int, name: str) -> None:
        """Move a staged file to its place, never over something that came there meanwhile."""
        try:
            syscalls.rename_new(self.staging, staged, parent, name)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS):
                raise
            os.link(staged, name, src_dir_fd=self.staging, dst_dir_fd=parent, follow_symlinks=False)

    def _write_manifest(self, manifest: Manifest) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(_NEXT, flags, 0o600, dir_fd=self.staging), "wb") as file:
            file.write(manifest.to_bytes())
        os.rename(_NEXT, NAME, src_dir_fd=self.staging, dst_dir_fd=self.record)

    def undo(self) -> None:
        """Take back what was done, as far as it can be."""
        for kept, path in reversed(self.replaced):
            with contextlib.suppress(OSError):
                parent, name = self._parent(path)
                os.rename(kept, name, src_dir_fd=self.staging, dst_dir_fd=parent)
        for entry in reversed(self.created):
            with contextlib.suppress(OSError):
                parent, name = self._parent(entry.path)
                if entry.type == "directory":
                    os.rmdir(name, dir_fd=parent)
                else:
                    os.unlink(name, dir_fd=parent)
        self._leave_staging()
        if self.record_is_new:
            with contextlib.suppress(OSError):  # before the lock is let go: who waits for it looks again
                os.rmdir(DIRECTORY, dir_fd=self.box.descriptor)
        self._close()

    def _clear_staging(self) -> None:
        for name in os.listdir(self.staging):
            os.unlink(name, dir_fd=self.staging)

    def close(self) -> None:
        """Leave no staging behind."""
        self._leave_staging()
        self._close()

    def _leave_staging(self) -> None:
        self._close_parent()
        with contextlib.suppress(OSError):
            if self.staging >= 0:
                self._clear_staging()
            os.rmdir(_STAGING, dir_fd=self.record)

    def _close(self) -> None:
        if self.staging >= 0:
            os.close(self.staging)
        os.close(self.record)
