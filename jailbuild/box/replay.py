"""After the commit: what was staged goes to its place, by renames alone, as often as need be until all is there.

The one who committed runs this, and after a kill whoever comes next: it goes by the journal, the manifest before it
and what is found, so that doing it again does nothing. Each path changes in one step. Nothing of the user's goes: what
turns out to be his, because he was faster, is kept beside the new as NAME.jailbuild-saved.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator, Mapping

from jailbuild import syscalls
from jailbuild.box.confined_fs import fingerprint, identity, open_parent
from jailbuild.box.faults import step
from jailbuild.box.leftover import names_now
from jailbuild.box.manifest import Entry, Manifest
from jailbuild.box.record import Record
from jailbuild.box.stage import RENEWED, finish_directory, given_up, limit_directory, staged_name
from jailbuild.errors import reason

_SAVED = "jailbuild-saved"
_ASIDE = ".before"  # in the staging: the second name of what is about to be replaced
_TRIES = 20  # at a place whose parents somebody keeps swapping

# Loader and libc are one release or nothing works between: file names of glibc before and since 2.34.
_PAIR = re.compile(r"/(?:ld-linux[^/]*\.so|ld64\.so|ld-2|ld\.so|libc\.so|libc-2)[^/]*$")
# edges that say where an entry stands, not what it needs
_PLACES = frozenset({"parent", "path", "alias", "mount-point"})

# what no waiting and no free space mends: it is reported, and the rest is finished
_WRONG_PLACE = (errno.ELOOP, errno.ENOTDIR, errno.ENOENT, errno.EEXIST, errno.EXDEV, errno.ENAMETOOLONG, errno.EINVAL)


class Replay:
    """The bringing of a box from the manifest `before` to the one in its journal.

    `fresh` says that the staging was filled a moment ago, by this process: it need not be read again. A journal that
    is not believed may be another user's: of the owners that it names none is set, of the modes of directories those
    that its owner could set, without set-ID bits. (Files were given theirs by whoever staged them.)
    """

    def __init__(
        self, record: Record, before: Manifest | None, after: Manifest, *, fresh: bool, is_believed: bool
    ) -> None:
        self.record = record
        self.box = record.box
        self.before: Mapping[str, Entry] = before.entries if before is not None else {}
        self.after = after
        self.fresh = fresh
        self.is_believed = is_believed
        self.made: set[str] = set()  # directories
        self.given, self.staying = given_up(record)
        self.staged = set(names_now(record.staging))
        self.reports: list[str] = []

    def run(self) -> list[str]:
        """Put everything in its place; return a line for each path that is not as planned.

        OSError where a place cannot be written for now: the journal stays, and the next one goes on.
        """
        for entry in self._in_order():
            self._persist(entry)
            step("place")
        for path in sorted(self.before.keys() - self.after.entries.keys() - self.staying, reverse=True):
            self._remove(self.before[path])
            step("remove")
        for entry in sorted(self._changed("directory"), key=lambda entry: entry.path, reverse=True):
            self._finish_directory(entry)
        return self.reports

    def _changed(self, *types: str) -> Iterator[Entry]:
        """Yield the entries that are new or other than before, and those that are staged for another reason."""
        for path, entry in self.after.entries.items():
            if entry.type in types and (
                _facts(entry) != _facts(self.before.get(path)) or staged_name(path) in self.staged
            ):
                yield entry

    def _in_order(self) -> list[Entry]:
        """Return the entries to be placed: new before replaced, what is needed before what needs it."""
        changed = list(self._changed("file", "link", "device"))
        depth = _depths(changed)

        def rank(entry: Entry) -> tuple[int, int, str]:
            if entry.path not in self.before:
                return int(entry.type == "link"), depth[entry.path], entry.path
            return 2 if _PAIR.search(entry.path) else 3, depth[entry.path], entry.path

        for entry in self._changed("directory"):
            self._make_directory(entry)
        return sorted(changed, key=rank)

    def _make_directory(self, entry: Entry) -> None:
        """Make a directory that was there at the commit again, if somebody removed it."""
        try:
            with open_parent(self.box, entry.path) as (parent, name):
                os.mkdir(name, 0o700, dir_fd=parent)
            self.made.add(entry.path)
        except OSError:  # it is there; or what is in it will say what is wrong
            pass

    def _finish_directory(self, entry: Entry) -> None:
        try:
            if self.is_believed:
                finish_directory(self.box, entry)
                return
            uid = os.geteuid() if entry.path in self.made else os.fstat(self.record.journal).st_uid
            if not limit_directory(self.box, entry, uid):
                self.reports.append(
                    f"{entry.path} was not given mode {entry.mode or 0:04o}: another user may have asked for that"
                )
        except OSError as error:
            self.reports.append(f"{entry.path} could not be given its mode: {reason(error)}")

    def _persist(self, entry: Entry) -> None:
        for attempt in range(_TRIES):
            try:
                self._place(entry)
                return
            except OSError as error:
                if error.errno not in _WRONG_PLACE:
                    raise
                if attempt == _TRIES - 1:
                    self.reports.append(f"{entry.path} could not be written: {reason(error)}")

    def _place(self, entry: Entry) -> None:
        name_staged = staged_name(entry.path)
        staging = self.record.staging
        aside = name_staged + _ASIDE
        if name_staged not in self.staged and aside in self.staged:  # cut short in the last step of an exchange
            os.rename(aside, name_staged, src_dir_fd=staging, dst_dir_fd=staging)
            self.staged.add(name_staged)
        if name_staged not in self.staged:
            if not self.fresh and entry.type != "device":  # which without root is only intended
                self._look_again(entry)
            return
        with open_parent(self.box, entry.path) as (parent, name):
            if not self.fresh:
                if self._is_new(entry, parent, name):
                    self._dispose(entry.path, name_staged, entry)
                    return
                if not self._is_new(entry, staging, name_staged):  # came out of a place that was changed again since
                    self._dispose(entry.path, name_staged, entry)
                    self.reports.append(f"{entry.path} is not what was to be written")
                    return
            try:
                _rename_new(staging, name_staged, parent, name)
                self.staged.discard(name_staged)
                return
            except FileExistsError:
                pass
            _exchange(staging, name_staged, parent, name)
        step("exchange")
        self._dispose(entry.path, name_staged, entry)

    def _dispose(self, path: str, name_staged: str, entry: Entry | None) -> None:
        """Remove what came out of a place, or if it is the user's save it beside what is there now."""
        staging = self.record.staging
        ours = [one for one in (self.before.get(path), entry) if one is not None]
        there = fingerprint(staging, name_staged, {one.size for one in ours})
        if there is not None:
            if there in map(_fingerprint, ours) or identity(staging, name_staged) == self.given.get(path):
                os.unlink(name_staged, dir_fd=staging)
            else:
                self._save(path, name_staged)
        self.staged.discard(name_staged)

    def _save(self, path: str, name_staged: str) -> None:
        """Keep what is the user's beside its place, or where that is gone at the top of the box."""
        try:
            with open_parent(self.box, path) as (parent, name):
                saved = path.rpartition("/")[0] + "/" + self._save_in(parent, name, name_staged)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            saved = "/" + self._save_in(self.box.descriptor, path.rpartition("/")[2], name_staged)
        self.reports.append(f"{path} was changed while it was written: what was there is kept as {saved}")

    def _save_in(self, parent: int, name: str, name_staged: str) -> str:
        number = 0
        while True:
            saved = f"{name}.{_SAVED}" + (f".{number}" if number else "")
            try:
                _rename_new(self.record.staging, name_staged, parent, saved)
                return saved
            except FileExistsError:
                number += 1

    def _look_again(self, entry: Entry) -> None:
        """Report what was put in its place before, and is not there any more."""
        try:
            with open_parent(self.box, entry.path) as (parent, name):
                if fingerprint(parent, name) == _fingerprint(entry):
                    return
        except OSError:
            pass
        self.reports.append(f"{entry.path} is not what was to be written")

    def _remove(self, entry: Entry) -> None:
        name_staged = staged_name(entry.path)
        try:
            with open_parent(self.box, entry.path) as (parent, name):
                if entry.type == "directory":
                    os.rmdir(name, dir_fd=parent)
                    return
                if name_staged not in self.staged:
                    _rename_new(parent, name, self.record.staging, name_staged)
                    step("taken")
                staging = self.record.staging
                there = fingerprint(staging, name_staged, {entry.size})
                if there == _fingerprint(entry) or identity(staging, name_staged) == self.given.get(entry.path):
                    os.unlink(name_staged, dir_fd=self.record.staging)
                    return
                try:
                    _rename_new(self.record.staging, name_staged, parent, name)
                    self.reports.append(f"{entry.path} was changed while it was removed: it stays")
                except FileExistsError:
                    self._save(entry.path, name_staged)
        except OSError as error:
            # gone already, or a directory with something of the user's in it
            if error.errno not in (
                errno.ENOENT,
                errno.ENOTEMPTY,
                errno.EEXIST,
                errno.ENOTDIR,
                errno.ELOOP,
                errno.EXDEV,
                errno.EBUSY,
            ):
                raise
            if name_staged in self.staged:  # taken before, and its directory went away since
                self._dispose(entry.path, name_staged, entry)

    def _is_new(self, entry: Entry, directory: int, name: str) -> bool:
        """Say whether what is under a name is what was staged: that very file where it may look like what it replaces.

        Not by modes, owners and times: not every file system keeps what it was given.
        """
        second = staged_name(entry.path) + RENEWED
        if second not in self.staged:
            return fingerprint(directory, name) == _fingerprint(entry)
        try:
            there = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(os.stat(second, dir_fd=self.record.staging, follow_symlinks=False), there)


def _facts(entry: Entry | None) -> tuple[object, ...] | None:
    """Return what an entry says of the thing itself, not of why it is there."""
    if entry is None:
        return None
    return (
        entry.type,
        entry.mode,
        entry.uid,
        entry.gid,
        entry.size,
        entry.mtime_ns,
        entry.sha256,
        entry.target,
        entry.device,
    )


def _fingerprint(entry: Entry | None) -> str | None:
    if entry is None:
        return None
    return {"file": f"file {entry.sha256}", "link": f"link {entry.target}"}.get(entry.type, entry.type)


def _depths(entries: Iterable[Entry]) -> dict[str, int]:
    """Return a number for each path that is greater than those of all it needs; in a circle any."""
    needs: dict[str, list[str]] = {entry.path: [] for entry in entries}
    for entry in entries:
        for why in entry.reasons:
            if why.how not in _PLACES and why.by in needs:
                needs[why.by].append(entry.path)
    depth: dict[str, int] = {}
    for start in sorted(needs):
        stack = [(start, iter(sorted(needs[start])))]
        entered = {start}
        while stack:
            path, below = stack[-1]
            for other in below:
                if other not in depth and other not in entered:
                    entered.add(other)
                    stack.append((other, iter(sorted(needs[other]))))
                    break
            else:
                depth.setdefault(path, len(depth))
                stack.pop()
    return depth


def _rename_new(old_directory: int, old: str, new_directory: int, new: str) -> None:
    """Rename, never over something that is there (FileExistsError)."""
    try:
        syscalls.rename_new(old_directory, old, new_directory, new)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
        try:
            os.stat(new, dir_fd=new_directory, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(old, new, src_dir_fd=old_directory, dst_dir_fd=new_directory)
        else:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new) from None


def _exchange(staging: int, staged: str, parent: int, name: str) -> None:
    """Let a staged file and what is in its place change places; where the file system cannot, in two steps."""
    try:
        syscalls.exchange(staging, staged, parent, name)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
        # what was there keeps a second name, so that it can be looked at once the place is taken
        aside = staged + _ASIDE
        try:
            os.link(name, aside, src_dir_fd=parent, dst_dir_fd=staging, follow_symlinks=False)
        except FileExistsError:
            os.unlink(aside, dir_fd=staging)
            os.link(name, aside, src_dir_fd=parent, dst_dir_fd=staging, follow_symlinks=False)
        step("aside")
        os.rename(staged, name, src_dir_fd=staging, dst_dir_fd=parent)
        step("over")
        os.rename(aside, staged, src_dir_fd=staging, dst_dir_fd=staging)
