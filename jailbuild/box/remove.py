"""What `remove` does: from a manifest and names to a plan, without a look at the source root."""

from __future__ import annotations

import os
from functools import cached_property

from jailbuild.box.deciding import make_plan
from jailbuild.box.draft import named_in
from jailbuild.box.manifest import Manifest
from jailbuild.box.ownership import own_paths, rule
from jailbuild.box.plan import Plan
from jailbuild.box.retain import retain
from jailbuild.closure.commands import DOCS, NAMED, RULES
from jailbuild.errors import JailError
from jailbuild.names import command_line, operand
from jailbuild.root import Root

_FEW = 5  # paths in a note


def plan_removal(root: Root, box: str, before: Manifest, words: tuple[str, ...], replace: tuple[str, ...]) -> Plan:
    """Plan to take the requests that `words` name out of a box, with what only they wanted (JailError)."""
    names = set()
    failures = []
    hint = command_line("jailbuild", "list", operand(box))
    requests = _Requests(root, before)
    for word in words:
        found = requests.meant(word)
        if not found:
            import difflib  # only to word an error

            near = difflib.get_close_matches(word, sorted(before.requests), 3)
            failures.append(
                f"cannot remove {word}: it was never added to {box}" + (f"; near: {', '.join(near)}" if near else "")
            )
        else:
            names.update(found)
    if failures:
        raise JailError(failures, hint)
    draft = retain(before, before.requests.keys() - names, before.label, root)
    plan = make_plan(draft, None, before, root, replace=replace)
    left = sorted(
        path
        for path in own_paths(before, names) - draft.own
        if path in draft.entries and draft.entries[path].type != "directory"
    )
    if not left:
        return plan
    more = f" and {len(left) - _FEW} more" if len(left) > _FEW else ""
    note = (
        f"{', '.join(left[:_FEW])}{more}: no longer yours by request, and others want it: the next jailbuild "
        "update takes the source root's"
    )
    return plan._replace(notes=(*plan.notes, note))


class _Requests:
    """The requests of a box, by all that a word may call them; where several are called alike, the first."""

    def __init__(self, root: Root, before: Manifest) -> None:
        self.root = root
        self.before = before
        self.by_what: dict[str, list[str]] = {}
        self.by_path: dict[str, str] = {}
        self.by_source: dict[tuple[str, str], str] = {}
        for name, asked in before.requests.items():
            if asked.type in RULES:
                continue
            if asked.type in NAMED:
                self.by_what.setdefault(asked.what, []).append(name)
            self.by_path.setdefault(asked.path, name)
            if asked.source is not None:
                self.by_path.setdefault(f"{asked.source}:{asked.path}", name)
                self.by_source.setdefault((asked.source, asked.path), name)

    @cached_property
    def by_place(self) -> dict[str, str]:
        """The requests by their entries in the box."""
        return {
            _place(self.root, asked.path): name
            for name, asked in reversed([*self.before.requests.items()])
            if asked.path
        }

    def meant(self, word: str) -> list[str]:
        """Return the requests that a word names: by its name, its path in the box, or as SRC:DEST.

        A recipe, a user, a locale or a package is named so where nothing else is, or with its type: "recipe:zones"; a
        rule always with its type: "exclude:/etc/inputrc".
        """
        for one in (word, word.removesuffix(DOCS)):
            if one in self.before.requests:
                return [one]
            if found := self.by_what.get(one):
                return found
        if (name := _rule_name(word)) in self.before.requests:
            return [name]
        path = "/" + "/".join(part for part in word.split("/") if part not in ("", "."))
        found_name = self.by_path.get(path) or self.by_path.get(word)
        if found_name is None and word.startswith("/"):
            found_name = self.by_place.get(_place(self.root, path))
        found_name = found_name or self._laid(word) or self.by_path.get(self._from_here(word))
        return [] if found_name is None else [found_name]

    def _laid(self, word: str) -> str | None:
        """Return the request that was added as SRC:DST: a file whose DST ends with "/" keeps its name there."""
        source, _, destination = word.rpartition(":")
        if not source or not destination.startswith("/"):
            return None
        real = os.path.realpath(source)
        names = ["", os.path.basename(source)] if destination.endswith("/") else [""]
        for name in names:
            path = os.path.normpath("/" + (destination + name).lstrip("/"))
            found = self.by_source.get((real, path)) or self.by_source.get((real, _place(self.root, path)))
            if found is not None:
                return found
        return None

    def _from_here(self, word: str) -> str:
        """Return a path that begins where the caller is as one of the source root; "" where that cannot be known."""
        directory, name = os.path.split(word)
        try:
            path = os.path.join(os.path.realpath(directory or "."), name)
        except OSError:
            return ""
        above = (self.before.source or "/").rstrip("/")
        return path.removeprefix(above) if path.startswith(f"{above}/") else ""


def _rule_name(word: str) -> str:
    """Return the name of the request for a rule that is named with its type; "" for anything else."""
    type, _, what = word.partition(":")
    try:
        return rule(type, what).name if type in RULES else ""
    except JailError:
        return ""


def _place(root: Root, path: str) -> str:
    """Return the entry that a path of the box means, through its links; itself where it leads nowhere."""
    try:
        return named_in(root, path)
    except OSError:
        return path
