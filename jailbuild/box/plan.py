"""From a draft to what would change in a box. Nothing here writes."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Mapping
from typing import Any, NamedTuple

from jailbuild.box.draft import Draft
from jailbuild.box.look import digest_in, kind_of, lstat_in, read_link_in
from jailbuild.box.manifest import Entry, Manifest
from jailbuild.errors import JailError, reason
from jailbuild.root import Root


class Action(NamedTuple):
    """What happens to one path of the box: "add", "replace", "keep" or "conflict"; a conflict says why."""

    kind: str
    entry: Entry
    why: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the line of a printed plan."""
        line = self.entry.as_json()
        del line["sha256"]  # known once the bytes were read
        line["kind"] = self.kind
        return {**line, "why": self.why or None}


class Plan(NamedTuple):
    """What would be done to a box, by path."""

    draft: Draft
    actions: tuple[Action, ...]
    before: Manifest | None

    @property
    def changes(self) -> list[Action]:
        """The actions that write."""
        return [action for action in self.actions if action.kind in ("add", "replace")]

    @property
    def conflicts(self) -> dict[str, str]:
        """The paths where something is in the way, with what."""
        return {action.entry.path: action.why for action in self.actions if action.kind == "conflict"}

    def refuse_conflicts(self) -> None:
        """Raise JailError, a line for each conflict."""
        conflicts = self.conflicts
        found = [f"cannot write {path}: it {why}" for path, why in conflicts.items()
                 if path.rpartition("/")[0] not in conflicts]  # else its parent says it
        if found:
            raise JailError(found, "nothing was written: move what is yours out of the way, or build a new box")


def make_plan(draft: Draft, root: Root, before: Manifest | None, box: Root | None) -> Plan:
    """Hold a draft against the box as it is (None if there is none yet) and return what would be done.

    `root` is the source root. JailError where it no longer has what the box was made from.
    """
    actions = []
    for path, entry in draft.entries.items():
        listed = before.entries.get(path) if before is not None else None
        if listed is not None and entry.sha256 is None:  # else it is only here for its family, its source is elsewhere
            _refuse_change(entry, listed, draft, root)
        actions.append(_decide(entry, listed, draft, root, box))
    return Plan(draft, tuple(actions), before)


def _refuse_change(entry: Entry, listed: Entry, draft: Draft, root: Root) -> None:
    same = (entry.type, entry.target) == (listed.type, listed.target)
    if same and entry.type == "file" and entry.path not in draft.made:
        same = digest_in(root, entry.path) == listed.sha256
    if not same:
        raise JailError(
            f"cannot add: {entry.path} is no longer what the box was made from",
            "the source root has changed since: build a new box from it as it is now",
        )


def _decide(entry: Entry, listed: Entry | None, draft: Draft, root: Root, box: Root | None) -> Action:
    if box is None:
        return Action("add", entry)
    try:
        status = lstat_in(box, entry.path)
    except FileNotFoundError:
        return Action("add", entry)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
            return Action("conflict", entry, "has something in its way: a parent is no directory in the box")
        return Action("conflict", entry, f"cannot be looked at in the box: {reason(error)}")
    found = kind_of(status.st_mode)
    if found != entry.type:
        return Action("conflict", entry, f"is a {found} in the box, and would have to be a {entry.type}")
    if entry.type == "directory":
        return Action("keep", entry)
    if entry.type == "link":
        there = read_link_in(box, entry.path)
        if there == entry.target:
            return Action("keep", entry)
        return Action("conflict", entry, f"leads to {there} in the box, and would have to lead to {entry.target}")
    return _decide_file(entry, listed, status, draft, root, box)


def _decide_file(
    entry: Entry, listed: Entry | None, status: os.stat_result, draft: Draft, root: Root, box: Root
) -> Action:
    there = digest_in(box, entry.path)
    if entry.path in draft.made:
        wanted = hashlib.sha256(draft.made[entry.path]).hexdigest()
        if there == wanted:
            return Action("keep", entry)
        if listed is not None and there == listed.sha256:
            return Action("replace", entry)
    else:
        wanted = listed.sha256 if listed is not None and listed.sha256 else digest_in(root, entry.path)
    if there != wanted:
        changed = "was changed in the box since" if listed is not None else "is another file in the box"
        return Action("conflict", entry, changed)
    if listed is not None and entry.mode != listed.mode:
        modes = f"with mode {listed.mode or 0:04o}, and would have {entry.mode or 0:04o}"
        return Action("conflict", entry, f"was put there {modes}")
    mode = stat.S_IMODE(status.st_mode)
    if listed is None and mode & 0o777 != (entry.mode or 0) & 0o777:
        return Action("conflict", entry, f"has mode {mode:04o} in the box, and would have {entry.mode:04o}")
    return Action("keep", entry)


def manifest_after(plan: Plan, digests: Mapping[str, str]) -> Manifest:
    """Return the manifest that a plan leads to; `digests` has the sha256 of each file that was written.

    What was there already without being ours stays unlisted.
    """
    before = plan.before
    requests = dict(before.requests) if before is not None else {}
    entries = dict(before.entries) if before is not None else {}
    requests.update(plan.draft.requests)
    for action in plan.actions:
        path = action.entry.path
        listed = entries.get(path)
        if action.kind == "keep" and listed is None:
            continue
        entry = action.entry
        if entry.type == "file":
            entry = entry._replace(sha256=digests.get(path) or (listed.sha256 if listed else None))
        if listed is not None:
            entry = entry._replace(
                wanted_by=tuple(sorted({*listed.wanted_by, *entry.wanted_by})),
                reasons=tuple(sorted({*listed.reasons, *entry.reasons})),
            )
            if action.kind == "keep":
                entry = entry._replace(mode=listed.mode, mtime_ns=listed.mtime_ns, uid=listed.uid, gid=listed.gid)
        entries[path] = entry
    label = before.label if before is not None else plan.draft.label
    return Manifest(label, requests, entries)
