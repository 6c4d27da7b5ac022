"""What `remove` does: from a manifest and names to a plan, without a look at the source root."""

from __future__ import annotations

import os

from jailbuild.box.carry import carry
from jailbuild.box.draft import named_in
from jailbuild.box.manifest import Manifest
from jailbuild.box.plan import Plan, make_plan
from jailbuild.closure.commands import DOCS, NAMED, RULES
from jailbuild.errors import JailError
from jailbuild.root import Root


def plan_removal(root: Root, box: str, before: Manifest, words: tuple[str, ...], replace: tuple[str, ...]) -> Plan:
    """Plan to take the requests that `words` name out of a box, with what only they wanted (JailError)."""
    names = set()
    failures = []
    hint = f"jailbuild list {box}"
    for word in words:
        found = _meant(root, before, word)
        if not found:
            import difflib  # only to word an error

            near = difflib.get_close_matches(word, sorted(before.requests), 3)
            failures.append(f"cannot remove {word}: it was never added to {box}"
                            + (f"; near: {', '.join(near)}" if near else ""))
        else:
            names.update(found)
    if failures:
        raise JailError(failures, hint)
    draft = carry(before, before.requests.keys() - names, before.label, root)
    return make_plan(draft, None, before, root, replace=replace)


def _meant(root: Root, before: Manifest, word: str) -> list[str]:
    """Return the requests that a word names: by its name, its path in the box, or as SRC:DEST.

    A recipe, a user, a locale or a package is named so where nothing else is, or with its type: "recipe:zones"; a rule
    always with its type: "exclude:/etc/inputrc".
    """
    if word in before.requests:
        return [word]
    word = word.removesuffix(DOCS) if word.startswith("package:") else word
    if found := [name for name, asked in before.requests.items()
                 if word == name or (asked.type in NAMED and asked.type not in RULES and asked.what == word)]:
        return found
    path = "/" + "/".join(part for part in word.split("/") if part not in ("", "."))
    for name, asked in before.requests.items():
        if path == asked.path or (asked.source is not None and word == f"{asked.source}:{asked.path}"):
            return [name]
    for name, asked in before.requests.items():
        if word.startswith("/") and _place(root, path) == _place(root, asked.path):
            return [name]
    source, _, destination = word.rpartition(":")
    for name, asked in before.requests.items():
        if source and asked.source == os.path.realpath(source) and destination == asked.path:
            return [name]
    return []


def _place(root: Root, path: str) -> str:
    """Return the entry that a path of the box means, through its links; itself where it leads nowhere."""
    try:
        return named_in(root, path)
    except OSError:
        return path
