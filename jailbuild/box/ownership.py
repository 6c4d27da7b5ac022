"""Whose is a path of a box: ours, the user's by request, or the user's by hand. Nothing here writes.

What the user named by path (`--file`, `--dir`, SRC:DEST) goes before what recipes, packages and closures bring. What an
`exclude` fits never comes. What is `unmanaged` is the user's for good.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from jailbuild.box.confined_fs import kind_of
from jailbuild.box.manifest import Entry, Manifest, Reason, RecordedRequest
from jailbuild.closure.commands import OPTIONS, RULES, canonical_place
from jailbuild.closure.path_glob import path_regex
from jailbuild.errors import JailError
from jailbuild.names import quoted
from jailbuild.root import Root

if TYPE_CHECKING:
    from jailbuild.closure.gather import Closure

_NAMED = frozenset(("program", "file", "directory", "text"))  # edges from a request to what the user named
_OWN = frozenset(("file", "directory", "text", "tree"))


def own_items(closure: Closure) -> set[str]:
    """Return the paths of a closure that the user named: files, and directories with what is in them."""
    trees = {request.name for request in closure.requests if request.type in ("file", "directory")}
    found = set(closure.sources)
    tops = {path for path, held in closure.data.items() for edge in held.edges if not edge.by and edge.how in _OWN}
    for path, held in closure.data.items():
        for edge, names in held.edges.items():
            if path in tops or (
                not trees.isdisjoint(names) and (edge.how == "tree" or (edge.how == "target" and edge.by in tops))
            ):
                found.add(path)
    return found


def own_paths(before: Manifest, names: Collection[str]) -> frozenset[str]:
    """Return the paths of a box that the user named by the requests `names`, by the edges of its manifest."""
    own = {name for name in names if name in before.requests and before.requests[name].is_own}
    if not own:
        return frozenset()
    tops: dict[str, set[str]] = {}  # paths that were named, or that a link which was named leads to, by request
    for path, entry in before.entries.items():
        for why in entry.reasons:
            if not why.by and why.how in _NAMED:
                for name in own.intersection(why.wanted_by):
                    tops.setdefault(name, set()).add(path)
    for path, entry in before.entries.items():
        for why in entry.reasons:
            if why.how == "target":
                for name in own.intersection(why.wanted_by):
                    if before.requests[name].type == "directory" and why.by in tops.get(name, ()):
                        tops[name].add(path)
    found = set().union(*tops.values())
    for path, entry in before.entries.items():
        if any(
            why.how == "tree" and any(why.by in tops.get(name, ()) for name in own.intersection(why.wanted_by))
            for why in entry.reasons
        ):
            found.add(path)
    return frozenset(found)


def standing_in(root: Root, entries: Mapping[str, Entry], own: Iterable[str]) -> frozenset[str]:
    """Return which files and links of the user's `own` are another thing than the source root has in their place."""
    found = set()
    for path in own:
        entry = entries[path]
        if entry.type == "directory":
            continue
        if entry.source != path:
            found.add(path)
            continue
        try:
            status = root.lstat(path)
        except OSError:
            found.add(path)
            continue
        size = status.st_size if entry.type == "file" else entry.size
        if (kind_of(status.st_mode), size, status.st_mtime_ns) != (entry.type, entry.size, entry.mtime_ns):
            found.add(path)
    return frozenset(found)


def yielding(entries: Mapping[str, Entry], own: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """Return what cannot stand beside the paths that are the user's `own`.

    Paths below a file or link of theirs, each with that; and paths that must be directories: something of theirs is
    below.
    """
    above: set[str] = set()
    for path in own:
        while (path := path.rpartition("/")[0]) and path not in above:
            above.add(path)
    blocked: dict[str, str] = {}
    wrong = []
    for path in sorted(entries) if own else ():  # what is above a path comes before it
        parent = path.rpartition("/")[0]
        if path in own:
            continue
        if parent in blocked:
            blocked[path] = blocked[parent]
        elif parent in own and parent in entries and entries[parent].type != "directory":
            blocked[path] = parent
        elif path in above and entries[path].type != "directory":
            wrong.append(path)
    return blocked, wrong


def reachable(entries: Mapping[str, Entry], reasons: Mapping[str, Iterable[Reason]], gone: Collection[str]) -> set[str]:
    """Return the entries that some request leads to by edges, when the paths that are `gone` lead nowhere."""
    following: dict[str, list[str]] = {}
    todo: list[str] = []
    for path, edges in reasons.items():
        for why in edges:
            if why.by in entries or why.by in gone:
                following.setdefault(why.by, []).append(path)
            else:
                todo.append(path)
    kept: set[str] = set()
    while todo:
        path = todo.pop()
        if path not in kept and path in entries:
            kept.add(path)
            todo += following.get(path, ())
            todo.append(path.rpartition("/")[0])
    return kept


class Exclusions:
    """The patterns of what never comes, as the requests of a box have them."""

    def __init__(self, root: Root, requests: Iterable[RecordedRequest]) -> None:
        """Take the patterns of the requests; names of directories in them lead where the links of `root` lead."""
        self._patterns = {
            one.what: re.compile(f"(?:{path_regex(one.what)}|{path_regex(_canonical(root, one.what))})")
            for one in requests
            if one.type == "exclude"
        }

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def of(self, paths: Iterable[str]) -> dict[str, str]:
        """Return which of the paths never come, each with its pattern: those that fit, and what is below."""
        found: dict[str, str] = {}
        for path in sorted(paths):
            above = found.get(path.rpartition("/")[0])
            if above is not None:
                found[path] = above
                continue
            for pattern, compiled in self._patterns.items():
                if compiled.fullmatch(path):
                    found[path] = pattern
                    break
        return found

    @staticmethod
    def refuse_named(reasons: Mapping[str, Iterable[Reason]], gone: Mapping[str, str]) -> None:
        """Raise JailError where what never comes is what the user named."""
        leading: dict[str, list[str]] = {}  # a program is what its links lead to
        named: set[str] = set()
        todo = []
        for path, edges in reasons.items():
            for why in edges:
                if why.how == "target":
                    leading.setdefault(why.by, []).append(path)
                elif not why.by and why.how in _NAMED:
                    todo.append(path)
        while todo:
            path = todo.pop()
            if path not in named:
                named.add(path)
                todo += leading.get(path, ())
        causes = [
            f"cannot add {path}: it is asked for, and --exclude {quoted(gone[path])} says that it never comes"
            for path in sorted(named & gone.keys())
        ]
        if causes:
            raise JailError(
                causes,
                "leave out one of both; jailbuild remove takes back what the box has: "
                f"{quoted(f'exclude:{gone[min(gone)]}')}",
            )


class Unmanaged:
    """The paths that are the user's for good, with all that is below them."""

    def __init__(self, box: Root | None, requests: Iterable[RecordedRequest]) -> None:
        """Take the paths of the requests; they lead where the directories of the box lead."""
        self._paths = set()
        for one in requests:
            if one.type == "unmanaged":
                self._paths.add(one.what)
                if box is not None:
                    try:
                        self._paths.add(canonical_place(box, one.what))
                    except JailError:  # what is in the way is the user's too
                        continue

    def __contains__(self, path: str) -> bool:
        if not self._paths:
            return False
        while path and path not in self._paths:
            path = path.rpartition("/")[0]
        return bool(path)


def rules(excludes: Iterable[str], unmanaged: Iterable[str]) -> list[RecordedRequest]:
    """Return the requests for patterns of what never comes and for paths that are the user's (JailError)."""
    return [rule(type, word) for type, words in zip(RULES, (excludes, unmanaged), strict=True) for word in words]


def rule(type: str, word: str) -> RecordedRequest:
    """Return the request for a rule: an "exclude" with its pattern, an "unmanaged" path (JailError)."""
    if not word.startswith("/") or "\0" in word:
        deep = f"/{word}" if word.startswith("**/") else f"/**/{word}"
        hint = f"{OPTIONS[type]} {quoted(deep)}" if type == "exclude" and word else "name a path of the box"
        raise JailError(f"cannot take {OPTIONS[type]} {quoted(word)}: it does not begin with /", hint)
    parts = [part for part in word.split("/") if part not in ("", ".")]
    if ".." in parts or not parts:
        raise JailError(f"cannot take {OPTIONS[type]} {quoted(word)}: that is no place in a box")
    if parts[0] == ".jailbuild":
        raise JailError(f"cannot take {OPTIONS[type]} {quoted(word)}: that is for the box's own record")
    word = "/" + "/".join(parts)
    if type == "exclude":
        try:
            path_regex(word)
        except ValueError as error:
            raise JailError(f"cannot take --exclude {quoted(word)}: {error}") from None
    return RecordedRequest(f"{type}:{word}", "", None, False, type)


def _canonical(root: Root, pattern: str) -> str:
    """Return a pattern with the directories that it names in full where the links of a root lead."""
    parts = pattern.split("/")
    count = next((at for at, part in enumerate(parts) if any(one in part for one in "*?[")), len(parts) - 1)
    try:
        place = canonical_place(root, "/".join([*parts[:count], "x"])).removesuffix("/x")
    except JailError:
        return pattern
    return "/".join([place, *parts[count:]])
