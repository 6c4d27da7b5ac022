"""From a draft to what would change in a box. Nothing here writes."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jailbuild.box.confined_fs import digest_in
from jailbuild.box.draft import Draft
from jailbuild.box.manifest import Entry, Manifest, Reason, children, edges_of
from jailbuild.closure.trees import Identity
from jailbuild.errors import JailError
from jailbuild.packages.info import PackageInfo
from jailbuild.root import Root

PRIVILEGES = stat.S_ISUID | stat.S_ISGID


UNMANAGED = "is unmanaged"  # why an action keeps what is there, whatever the source root has


class Action(NamedTuple):
    """What happens to one path of the box: "add", "replace", "keep", "remove" or "conflict".

    A conflict says why, and so does a keep of what the user changed.
    """

    kind: str
    entry: Entry
    why: str = ""
    given: bool = False  # whether what goes is the user's, who gives it up, or has their lines in what comes
    released: bool = False  # whether it stays in the box, and is the user's from now on

    def as_json(self, edges: tuple[Reason, ...] | None = None) -> dict[str, Any]:
        """Return the line of a printed plan; `edges` are all of the entry's, those derived included."""
        line = self.entry.as_json(edges)
        del line["sha256"]  # known once the bytes were read
        line["kind"] = self.kind
        return {**line, "why": self.why or None}


class Plan(NamedTuple):
    """What would be done to a box, by path."""

    draft: Draft
    actions: tuple[Action, ...]
    before: Manifest | None
    notes: tuple[str, ...] = ()
    place: Identity | None = None  # the directory that was looked at; None if there was none

    @property
    def changes(self) -> list[Action]:
        """The actions that write."""
        return [action for action in self.actions if action.kind in ("add", "replace", "remove")]

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield the lines of the printed plan."""
        entries = {action.entry.path: action.entry for action in self.actions}
        below = children(entries)
        for action in self.actions:
            yield action.as_json(edges_of(entries, action.entry, below.get(action.entry.path, ())))

    @property
    def is_done(self) -> bool:
        """Whether the box and its manifest are already what the plan says."""
        return self.before is not None and not self.changes and manifest_after(self, {}) == self.before

    @property
    def is_current(self) -> bool:
        """Whether the box is what the plan says, whatever schema its manifest has."""
        if self.before is None or self.changes or self.conflicts:
            return False
        after = manifest_after(self, {})
        entries = {
            path: entry._replace(lines=self.before.entries[path].lines) if path in self.before.entries else entry
            for path, entry in after.entries.items()
        }
        return (after.label, after.requests, entries) == (self.before.label, self.before.requests, self.before.entries)

    @property
    def conflicts(self) -> dict[str, str]:
        """The paths where something is in the way, with what."""
        return {action.entry.path: action.why for action in self.actions if action.kind == "conflict"}

    def refuse_conflicts(self) -> None:
        """Raise JailError, a line for each conflict."""
        conflicts = self.conflicts
        found = [
            f"cannot write {path}: it {why}"
            for path, why in conflicts.items()
            if path.rpartition("/")[0] not in conflicts
        ]  # else its parent says it
        if found:
            raise JailError(
                found,
                "nothing was written: move what is yours out of the way, give it up with "
                "--replace PATH, or build a new box",
            )


class Source:
    """The root that a draft was made from, with the digests of its files; each is read once."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self._digests: dict[str, str] = {}

    def digest(self, path: str) -> str:
        """Return the sha256 of the file at a canonical path (JailError if it cannot be read)."""
        found = self._digests.get(path)
        if found is None:
            found = self._digests[path] = digest_in(self.root, path)
        return found

    def differs(self, entry: Entry, listed: Entry, made: Mapping[str, bytes]) -> bool:
        """Say whether an entry of a draft would make another file, link or directory than the one that is listed.

        Privileges do not count: what one request keeps and another drops is no change of the source.
        """
        if entry.path in made:
            return False
        privileges = 0 if entry.mode is None or listed.mode is None else PRIVILEGES
        mine, theirs = (
            (
                one.type,
                one.target,
                None if one.mode is None else one.mode & ~privileges,
                one.uid,
                one.gid,
                one.size,
                one.mtime_ns,
            )
            for one in (entry, listed)
        )
        return mine != theirs or (entry.type == "file" and self.digest(entry.path) != listed.sha256)


def manifest_after(plan: Plan, digests: Mapping[str, str]) -> Manifest:
    """Return the manifest that a plan leads to; `digests` has the sha256 of each file that was written.

    What was there already without being ours stays unlisted.
    """
    listed = plan.before.entries if plan.before is not None else {}
    entries = {}
    for action in plan.actions:
        path = action.entry.path
        before = listed.get(path)
        if action.kind == "remove" or action.released or (action.kind == "keep" and before is None):
            continue
        entry = action.entry
        if entry.type == "file" and path not in plan.draft.carried:
            entry = entry._replace(sha256=digests.get(path) or (before.sha256 if before else None))
        if action.kind == "keep" and before is not None:
            entry = entry._replace(
                mode=before.mode, mtime_ns=before.mtime_ns, uid=before.uid, gid=before.gid, size=before.size
            )
        entries[path] = entry
    draft = plan.draft
    words = {word for entry in entries.values() if entry.package is not None for word in entry.package.split(", ")}
    unknown = {word: PackageInfo(word.partition(":")[0], None, word.partition(":")[2] or None, None) for word in words}
    packages = sorted({draft.packages.get(word, unknown[word]) for word in words}, key=str)
    image = plan.before.image if plan.before is not None else None
    return Manifest(draft.label, draft.requests, entries, tuple(packages), draft.source, None, image)
