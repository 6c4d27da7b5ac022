"""What `update` does: the requests of a manifest resolved again in the source root as it is now.

A manifest may have been written by somebody inside the box. So only names of programs are taken from it, and looked up
where the caller says; what was put in by path stays as it is unless the caller names it again.
"""

from __future__ import annotations

import shlex
from typing import NamedTuple

from jailbuild.box.label import label_of, refuse_other_root
from jailbuild.box.manifest import Asked, Manifest
from jailbuild.box.target import Change, Choices, Target, plan_change
from jailbuild.closure.commands import Request, find_program
from jailbuild.errors import JailError
from jailbuild.root import Root


class Found(NamedTuple):
    """The requests of a manifest that can be resolved again, those that stay as they are, and why."""

    requests: tuple[Request, ...]
    asked: dict[str, Asked]
    carried: frozenset[str]
    vanished: tuple[str, ...]  # names of programs that the source root no longer has
    notes: tuple[str, ...]


def find_again(root: Root, before: Manifest, given: dict[str, Request], search_path: str) -> Found:
    """Find the requests of a manifest in a source root; `given` are those that the caller names, by name."""
    requests: list[Request] = []
    asked: dict[str, Asked] = {}
    carried: set[str] = set()
    vanished: list[str] = []
    notes: list[str] = []
    for name, known in before.requests.items():
        request = given.get(name)
        if request is None and known.by_name:
            try:
                request = find_program(root, name, search_path)
            except JailError:
                vanished.append(name)
                notes.append(f"{name} is no longer in the source root, and stays as it is")
        elif request is None:
            # the source that a manifest names is not put into the user's mouth
            word = shlex.quote(known.path) if known.source is None else f"SRC:{shlex.quote(known.path)}"
            notes.append(f"{name} was put in by path, and stays as it is (--file {word} brings it up to date)")
        if request is None:
            carried.add(name)
        else:
            requests.append(request)
            asked[name] = Asked(name, request.path, request.source, known.bare, known.type)
    return Found(tuple(requests), asked, frozenset(carried), tuple(vanished), tuple(notes))


def plan_update(
    root: Root, box: str, there: Root, before: Manifest, words: tuple[str, ...], choices: Choices, *, rebase: bool
) -> tuple[Change, Found]:
    """Plan to bring a box up to the source root as it is now (JailError; nothing is written).

    `words` name what was put in by path again, as SRC:DEST or PATH.
    """
    label = label_of(root)
    if not rebase:
        refuse_other_root(before, label, box, "update")
    given = {}
    for word in words:
        request = find_program(root, word, choices.options.search_path)
        if request.name not in before.requests:
            raise JailError(f"cannot update {request.name}: it was never added to {box}",
                            f"jailbuild add {word} --into {box}")
        given[request.name] = request
    found = find_again(root, before, given, choices.options.search_path)
    target = Target(box, there, before, label)
    change = plan_change(root, target, found.asked, found.requests, found.carried, choices, spare=True)
    assert change is not None
    return change, found
