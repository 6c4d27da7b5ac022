"""From a draft to a plan: what would change in a box, decided path by path. Nothing here writes."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Collection, Mapping
from typing import NamedTuple

from jailbuild.box import tables
from jailbuild.box.confined_fs import can_make_devices, device_of, digest_in, kind_of, lstat_in, names_in, read_link_in
from jailbuild.box.draft import CACHE, Draft
from jailbuild.box.layout import DIRECTORY
from jailbuild.box.manifest import Entry, Manifest
from jailbuild.box.ownership import Unmanaged
from jailbuild.box.plan import PRIVILEGES, UNMANAGED, Action, Plan, Source
from jailbuild.box.records import OWN
from jailbuild.closure.trees import identity
from jailbuild.errors import JailError, reason
from jailbuild.root import Root

_FEW = 5  # paths in a note


def make_plan(
    draft: Draft,
    source: Source | None,
    before: Manifest | None,
    box: Root | None,
    *,
    replace: Collection[str] = (),
    spare: bool = False,
) -> Plan:
    """Hold a draft against the box as it is (None if there is none yet) and return what would be done.

    `source` is where files come from, if any do. What `replace` names is given up where it is in the way. `spare`
    takes set-id modes as they are now; else one that differs from the listed one is a conflict. JailError where source
    or box cannot be read.
    """
    if len(draft.entries) > OWN.entries:
        raise JailError(f"cannot write the box: it would have more than {OWN.entries} entries", "make several of it")
    merged = _merged(draft, before, box, replace)
    draft = merged.draft
    for path in draft.entries:
        above = draft.entries.get(path.rpartition("/")[0])
        if above is not None and above.type != "directory":
            raise JailError(f"cannot write {path}: {above.path} would be a {above.type}", "name another place for it")
    if box is None:
        return Plan(draft, tuple(Action("add", entry) for entry in draft.entries.values()), before, _preferred(draft))
    deciding = _Deciding(merged, source, before, box, frozenset(replace), spare)
    actions = [deciding.decide(entry) for entry in draft.entries.values()]
    if before is not None:
        actions = deciding.renewed(actions)
        actions += deciding.removals(before)
        actions.sort(key=lambda action: action.entry.path)
    is_refused = any(action.kind == "conflict" for action in actions)  # then nothing comes, and nothing stays for it
    notes = () if is_refused else (*_preferred(draft), *deciding.notes)
    if deciding.made:
        draft = draft._replace(made={**draft.made, **deciding.made})
    return Plan(draft, tuple(actions), before, notes, identity(os.fstat(box.descriptor)))


def _preferred(draft: Draft) -> tuple[str, ...]:
    """Return a note for the paths that the user named where something else would have come."""
    paths = draft.preferred
    if not paths:
        return ()
    more = f" and {len(paths) - _FEW} more" if len(paths) > _FEW else ""
    return (f"{', '.join(paths[:_FEW])}{more}: asked for by path, which goes before what else would come there",)


class _Merged(NamedTuple):
    """A draft with the files that are merged by lines, and whose lines the user changed that would have to change."""

    draft: Draft
    conflicts: Mapping[str, tuple[str, ...]]  # by path


def _merged(draft: Draft, before: Manifest | None, box: Root | None, replace: Collection[str]) -> _Merged:
    entries, made, conflicts = dict(draft.entries), dict(draft.made), {}
    listed = before.entries if before is not None else {}
    for path, lines in draft.tables.items():
        there = tables.read_table(box, path) if path in listed else None  # else it is the user's own
        if there is not None and (path in replace or tables.is_copy(listed[path], there)):
            there = None  # nothing in it is the user's by hand
        result = tables.merge(path, tables.our_lines(listed, path, there), lines, there)
        made[path] = result.data
        entries[path] = entries[path]._replace(size=len(result.data), lines=result.lines)
        conflicts[path] = result.conflicts
    return _Merged(draft._replace(entries=entries, made=made), conflicts)


class _Deciding:
    def __init__(
        self,
        merged: _Merged,
        source: Source | None,
        before: Manifest | None,
        box: Root,
        replace: frozenset[str],
        spare: bool,
    ) -> None:
        self.draft = draft = merged.draft
        self.merged = merged
        self.unmanaged = Unmanaged(box, draft.requests.values())
        self.source = source
        self.listed = before.entries if before is not None else {}
        self.box = box
        self.replace = replace
        self.others_spared = spare
        self.notes: list[str] = []
        self.made: dict[str, bytes] = {}  # of files that nobody wants: the user's lines
        # who made the record could set owners, or could not: then they are merely intended
        self.owned = before is not None and lstat_in(box, f"/{DIRECTORY}").st_uid == 0

    def decide(self, entry: Entry) -> Action:
        """Return what is to happen to an entry that the box is to have."""
        listed = self.listed.get(entry.path)
        if entry.path in self.unmanaged:
            return self._unmanaged(entry, listed)
        if entry.path in self.draft.carried:
            return Action("keep", entry)
        try:
            status = lstat_in(self.box, entry.path)
        except FileNotFoundError:
            if self.source is None and listed is not None:  # a removal puts nothing back
                return Action("keep", listed._replace(wanted_by=entry.wanted_by, reasons=entry.reasons), "is gone")
            if entry.type == "device" and listed == entry and not (self.owned and can_make_devices()):
                return Action("keep", entry)  # it is merely intended
            return Action("add", entry)
        except OSError as error:
            return self._unseen(entry, listed, error)
        found = kind_of(status.st_mode)
        if found != entry.type:
            return self._other_type(entry, listed, found, status)
        if entry.type == "directory":
            return self._directory(entry, listed, status)
        if entry.type == "link":
            return self._link(entry, listed)
        if entry.type == "device":
            return self._device(entry, listed, status)
        return self._file(entry, listed, status)

    def _unmanaged(self, entry: Entry, listed: Entry | None) -> Action:
        """Put what is the user's for good if it is absent and was never put, and leave it then."""
        if listed is not None:
            if entry.path in self.draft.own and entry.path not in self.draft.carried:
                self.notes.append(f"{entry.path} is unmanaged, and stays as it is")
            return Action("keep", listed._replace(wanted_by=entry.wanted_by, reasons=entry.reasons), UNMANAGED)
        try:
            lstat_in(self.box, entry.path)
        except FileNotFoundError:
            return Action("add", entry)
        except OSError:
            pass
        return Action("keep", entry, UNMANAGED)

    def _unseen(self, entry: Entry, listed: Entry | None, error: OSError) -> Action:
        if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
            if self._is_wanted_as_listed(entry, listed):  # what is said of the directory above says it
                return Action("keep", entry, "a directory above it was changed in the box")
            return Action("conflict", entry, "has something in its way: a parent is no directory in the box")
        return Action("conflict", entry, f"cannot be looked at in the box: {reason(error)}")

    def _refused(self, entry: Entry, why: str) -> Action:
        if entry.path in self.replace:
            return Action("replace", entry, given=True)
        return Action("conflict", entry, why)

    def _other_type(self, entry: Entry, listed: Entry | None, found: str, status: os.stat_result) -> Action:
        if self._is_wanted_as_listed(entry, listed) and entry.path not in self.replace:
            return self._spared(entry, f"it is a {found}")
        why = f"is a {found} in the box, and would have to be a {entry.type}"
        if "directory" in (found, entry.type):
            return Action("conflict", entry, f"{why} (--replace gives up no directory)")
        if listed is not None and self._is_as_listed(listed, status):
            return Action("replace", entry)
        return self._refused(entry, why)

    def _link(self, entry: Entry, listed: Entry | None) -> Action:
        there = read_link_in(self.box, entry.path)
        if there == entry.target:
            same = listed is None or (listed.mtime_ns, listed.uid, listed.gid) == (entry.mtime_ns, entry.uid, entry.gid)
            return Action("keep" if same else "replace", entry)
        if listed is not None and there == listed.target:
            return Action("replace", entry)
        if listed is not None and entry.target == listed.target and entry.path not in self.replace:
            return self._spared(entry, f"leads to {there}")
        return self._refused(entry, f"leads to {there} in the box, and would have to lead to {entry.target}")

    def _directory(self, entry: Entry, listed: Entry | None, status: os.stat_result) -> Action:
        wanted = entry.mode, entry.uid, entry.gid
        if listed is None or wanted == (listed.mode, listed.uid, listed.gid):
            return Action("keep", entry)
        if (what := self._change_of_rights(listed, status)) and entry.path not in self.replace:
            return self._spared(entry, f"other {what}")
        return Action("replace", entry)

    def _is_wanted_as_listed(self, entry: Entry, listed: Entry | None) -> bool:
        """Say whether an entry would make the very thing that is listed: then what the user changed may stay."""
        if listed is None or (entry.type, entry.target, entry.device) != (listed.type, listed.target, listed.device):
            return False
        if entry.type != "file":
            return True
        return _attributes(entry)[:3] == _attributes(listed)[:3] and self._wanted(entry) == listed.sha256

    def _device(self, entry: Entry, listed: Entry | None, status: os.stat_result) -> Action:
        there = device_of(status)
        if there == entry.device:
            same = listed is None or (listed.mode, listed.uid, listed.gid) == (entry.mode, entry.uid, entry.gid)
            return Action("keep" if same else "replace", entry)
        if listed is not None and there == listed.device:
            return Action("replace", entry)
        return self._refused(entry, "is another device in the box")

    def _spared(self, entry: Entry, what: str) -> Action:
        self.notes.append(f"{entry.path} was changed in the box ({what}), and stays as it is")
        return Action("keep", entry, f"was changed in the box ({what})")

    def _file(self, entry: Entry, listed: Entry | None, status: os.stat_result) -> Action:
        if entry.path in self.draft.tables and listed is not None:
            return self._table(entry, listed, status)
        # of another size, it is neither; and somebody inside may have made it larger than anybody can read
        is_candidate = status.st_size in (entry.size, None if listed is None else listed.size)
        there = self._digest(entry.path) if is_candidate else ""
        wanted = self._wanted(entry)
        if listed is None:
            if (
                there != wanted
                and entry.path in self.draft.made
                and entry.path not in self.replace
                and (entry.path != CACHE)
            ):
                self.notes.append(f"{entry.path} is yours in the box, and stays as it is")
                return Action("keep", entry, "is the user's own")
            if there != wanted:
                return self._refused(entry, "is another file in the box")
            mode = stat.S_IMODE(status.st_mode)
            if mode & 0o777 != (entry.mode or 0) & 0o777:
                return self._refused(entry, f"has mode {mode:04o} in the box, and would have {entry.mode:04o}")
            return Action("keep", entry)
        if (
            listed.mode is not None
            and entry.mode is not None
            and ((listed.mode ^ entry.mode) & PRIVILEGES and not self.others_spared)
        ):
            return self._refused(entry, f"was put there with mode {listed.mode:04o}, and would have {entry.mode:04o}")
        changed = self._change(listed, status, there)
        if changed and entry.path in self.replace:
            return Action("replace", entry, given=True)
        same = (
            _attributes(entry)[:3] == _attributes(listed)[:3]
            if entry.path in self.draft.made
            else _attributes(entry) == _attributes(listed)
        )
        if changed and same and wanted == listed.sha256:
            return self._spared(entry, f"other {changed}")
        if there == wanted and same and changed in ("", "mode", "owner"):
            return self._spared(entry, f"other {changed}") if changed else Action("keep", entry)
        if not changed:
            return Action("replace", entry)
        return self._refused(entry, "was changed in the box since")

    def _table(self, entry: Entry, listed: Entry, status: os.stat_result) -> Action:
        """Decide on a file that is merged by lines: what the user changed in it, its mode too, is in the new one."""
        path = entry.path
        if status.st_size > tables.LARGEST:
            return self._refused(entry, f"has more than {tables.LARGEST >> 20} MiB in the box")
        there, wanted = self._digest(path), self._wanted(entry)
        if stat.S_IMODE(status.st_mode) != listed.mode:
            entry = entry._replace(mode=stat.S_IMODE(status.st_mode) & ~PRIVILEGES)
        if (changed := self.merged.conflicts.get(path)) and path not in self.replace:
            return Action("conflict", entry, f"has a line that was changed in the box since: {', '.join(changed)}")
        if there == wanted:
            return Action("keep", entry, "" if listed.sha256 == wanted else "has lines of the user's")
        return Action("replace", entry, given=there != listed.sha256)

    def _without_lines(self, listed: Entry, status: os.stat_result) -> Action | None:
        """Return what leaves the user's lines in a file that nobody wants any more; None where there are none."""
        path = listed.path
        there = tables.read_table(self.box, path) if path in tables.PATHS else None
        if there is None or listed.source is not None or path in self.replace:
            return None
        ours = tables.our_lines(self.listed, path, there)
        if not tables.has_others(path, ours, there):
            return None
        data = tables.merge(path, ours, (), there).data
        mode = stat.S_IMODE(status.st_mode) & ~PRIVILEGES
        entry = listed._replace(mode=mode, size=len(data), wanted_by=(), reasons=(), lines=())
        self.made[path] = data
        digest = hashlib.sha256(there).hexdigest()
        if data == there:
            return Action("keep", entry)
        return Action("replace", entry, given=digest != listed.sha256)

    def _wanted(self, entry: Entry) -> str:
        if entry.path in self.draft.made:
            return hashlib.sha256(self.draft.made[entry.path]).hexdigest()
        assert self.source is not None
        return self.source.digest(entry.path)

    def _digest(self, path: str) -> str:
        return digest_in(self.box, path)

    def _change(self, listed: Entry, status: os.stat_result, digest: str) -> str:
        """Return what the user changed about a file since it was put in; "" for nothing."""
        if digest != listed.sha256:
            return "bytes"
        return self._change_of_rights(listed, status)

    def _change_of_rights(self, listed: Entry, status: os.stat_result) -> str:
        if stat.S_IMODE(status.st_mode) != listed.mode:
            return "mode"
        if self.owned and (status.st_uid, status.st_gid) != (listed.uid, listed.gid):
            return "owner"
        return ""

    def _is_as_listed(self, listed: Entry, status: os.stat_result) -> bool:
        """Say whether what is in the box is still what was put there."""
        if kind_of(status.st_mode) != listed.type:
            return False
        if listed.type == "link":
            return read_link_in(self.box, listed.path) == listed.target
        if listed.type == "device":
            return device_of(status) == listed.device
        if listed.type == "file":
            return status.st_size == listed.size and not self._change(listed, status, self._digest(listed.path))
        return True

    def renewed(self, actions: list[Action]) -> list[Action]:
        """Return the actions with those files replaced that are one with others now where the record says otherwise.

        A family of hard links may have changed in the source while no byte of it did.
        """
        kept = [
            action.entry
            for action in actions
            if action.kind == "keep"
            and not action.why
            and action.entry.type == "file"
            and action.entry.path not in self.draft.carried
            and action.entry.path in self.listed
        ]
        if all(entry.hardlink == self.listed[entry.path].hardlink for entry in kept):
            return actions
        inodes: dict[str, tuple[int, int]] = {}  # by family
        families: dict[tuple[int, int], str] = {}
        wrong = set()
        for entry in kept:
            status = lstat_in(self.box, entry.path)
            family, inode = entry.hardlink or entry.path, (status.st_dev, status.st_ino)
            if inodes.setdefault(family, inode) != inode or families.setdefault(inode, family) != family:
                wrong.add(entry.path)
        return [action._replace(kind="replace") if action.entry.path in wrong else action for action in actions]

    def removals(self, before: Manifest) -> list[Action]:
        """Return what is to happen to what is listed and no longer wanted, deepest first decided."""
        actions = []
        going: set[str] = set()
        for path in sorted(before.entries.keys() - self.draft.entries.keys(), reverse=True):
            listed = before.entries[path]
            if path in self.unmanaged:
                actions.append(Action("keep", listed, "is unmanaged, and is no longer listed", released=True))
                continue
            try:
                status = lstat_in(self.box, path)
                if listed.type == "directory":
                    if stat.S_ISDIR(status.st_mode) and all(
                        f"{path}/{name}" in going for name in names_in(self.box, path)
                    ):
                        going.add(path)
                        actions.append(Action("remove", listed))
                    continue  # what is the user's keeps its directory
                if (action := self._without_lines(listed, status)) is not None:
                    self.notes.append(f"{path} has lines of yours, and stays")
                    actions.append(action)
                elif self._is_as_listed(listed, status):
                    going.add(path)
                    actions.append(Action("remove", listed))
                elif path in self.replace and not stat.S_ISDIR(status.st_mode):
                    going.add(path)
                    actions.append(Action("remove", listed, given=True))
                elif path in self.draft.excluded:
                    self.notes.append(f"{path} was changed in the box: it is yours, and stays as it is")
                    actions.append(Action("keep", listed, "was changed in the box", released=True))
                else:
                    actions.append(Action("conflict", listed, "was changed in the box since, and would be removed"))
            except FileNotFoundError:
                going.add(path)
            except OSError as error:
                if error.errno not in (errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
                    actions.append(Action("conflict", listed, f"cannot be looked at in the box: {reason(error)}"))
        return actions


def _attributes(entry: Entry) -> tuple[int | None, int, int, int | None]:
    return entry.mode, entry.uid, entry.gid, entry.mtime_ns
