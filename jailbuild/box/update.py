"""What `update` does: the requests of a manifest resolved again in the source root as it is now.

A manifest may have been written by somebody inside the box. So only names are taken from it, of programs, recipes,
users, locales and packages, and looked up where the caller says; what was put in by path stays as it is unless the
caller names it again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from jailbuild.box.manifest import Manifest, RecordedRequest
from jailbuild.box.ownership import own_paths, standing_in
from jailbuild.box.source_id import label_of, refuse_other_root, refuse_unnamed_source
from jailbuild.box.target import Change, PlanOptions, ResolveSet, Target, plan_change
from jailbuild.closure import locales
from jailbuild.closure.accounts import read_accounts
from jailbuild.closure.commands import RULES, UNPLACED, Request, canonical_place, find_program, unplaced
from jailbuild.closure.symlinks import real_path
from jailbuild.closure.trees import Rules, Tree, identity, read_directory, read_file
from jailbuild.errors import JailError
from jailbuild.names import command_line, operand, quoted
from jailbuild.root import Root


class Found(NamedTuple):
    """The requests of a manifest that can be resolved again, those that stay as they are, and why."""

    wanted: ResolveSet
    carried: frozenset[str]
    vanished: tuple[str, ...]  # names of programs and packages that the source root no longer has
    notes: tuple[str, ...]


def find_again(root: Root, before: Manifest, given: ResolveSet, choices: PlanOptions) -> Found:
    """Find the requests of a manifest in a source root; those `given` are what the caller named himself."""
    requests = {request.name: request for request in given.requests}
    asked = dict(given.asked)
    carried: set[str] = set()
    vanished: list[str] = []
    notes: list[str] = []
    trees = dict(given.trees)
    kept = [name for name, known in before.requests.items() if known.is_own and name not in requests]
    own = standing_in(root, before.entries, own_paths(before, kept))
    for name, known in before.requests.items():
        if known.type in RULES:
            asked.setdefault(name, known)
            continue
        if name not in requests and known.type in UNPLACED:
            if _is_known(root, known, choices):
                requests[name] = unplaced(known.type, known.what)
            else:
                notes.append(f"there is no {known.type} {known.what} any more: what it brought stays as it is")
        elif name not in requests and known.by_name:
            try:
                if known.type == "package":
                    from jailbuild.closure.packages import find_package  # only who asks for one

                    requests[name], trees[name] = find_package(root, known.word, Rules(allowed=choices.allowed))
                else:
                    request = choices.find(root, name)
                    if own and not own.isdisjoint((canonical_place(root, request.path), real_path(root, request.path))):
                        notes.append(f"{name} is what was put in by path at {request.path}, and stays as it is")
                    else:
                        requests[name] = request
            except JailError:
                vanished.append(name)
                notes.append(f"{name} is no longer in the source root, and stays as it is")
        elif name not in requests:
            # the source that a manifest names is not put into the user's mouth
            word = quoted(known.path) if known.source is None else f"SRC:{quoted(known.path)}"
            option = "--dir" if known.type == "directory" else "--file"
            notes.append(f"{name} was put in by path, and stays as it is ({option} {word} brings it up to date)")
        if name in requests:
            request = requests[name]
            without = _still_known(known, choices)
            asked.setdefault(name, known._replace(path=request.path, source=request.source, without=without))
        else:
            carried.add(name)
    return Found(ResolveSet(tuple(requests.values()), asked, trees), frozenset(carried), tuple(vanished), tuple(notes))


def _is_known(root: Root, known: RecordedRequest, choices: PlanOptions) -> bool:
    if known.type == "recipe":
        return choices.catalog is not None and known.what in choices.catalog.names
    if known.type == "user":
        return known.what in root.once(read_accounts).users
    return locales.is_there(root, known.what)


def _still_known(known: RecordedRequest, choices: PlanOptions) -> tuple[str, ...]:
    """Return the recipes that are not to apply: one that there is none of does not."""
    return tuple(name for name in known.without if choices.catalog is None or name in choices.catalog.names)


def plan_update(
    root: Root,
    box: str,
    there: Root,
    before: Manifest,
    files: tuple[str, ...],
    directories: tuple[str, ...],
    choices: PlanOptions,
    *,
    more: Iterable[Request] = (),
    rules: Iterable[RecordedRequest] = (),
    without: tuple[str, ...] = (),
    rebase: bool,
    dlopen: str | None = None,
    is_named: bool = True,
) -> tuple[Change, Found]:
    """Plan to bring a box up to the source root as it is now (JailError; nothing is written).

    `files` and `directories` name what was put in by path again, as SRC:DEST or PATH. `more` are recipes, users and
    locales that the box is to have too, and `rules` what never comes or is the user's; the recipes named in `without`
    are not to apply any more. `dlopen` is one of LEVELS, for all that is resolved again; None leaves it as it was.
    Unless the user named the source root, a box from another is refused.
    """
    if not is_named:
        refuse_unnamed_source(before, box, "update")
    label = label_of(root)
    if not rebase:
        refuse_other_root(before, label, box, "update")
    given = _named_again(root, box, there, before, files, directories, Rules(allowed=choices.allowed))
    given = given._replace(
        requests=(*given.requests, *more),
        asked={
            **given.asked,
            **{one.name: RecordedRequest(one.name, "", None, False, one.type) for one in more},
            **{one.name: one for one in rules},
        },
    )
    found = find_again(root, before, given, choices)
    if without:
        found = _left_out(found, without)
    if dlopen is not None:
        asked = {
            name: one if one.type in RULES else one._replace(dlopen=dlopen) for name, one in found.wanted.asked.items()
        }
        found = found._replace(wanted=found.wanted._replace(asked=asked))
    target = Target(box, there, before, label, root.path)
    return plan_change(root, target, found.wanted, found.carried, choices, spare=True), found


def _left_out(found: Found, without: tuple[str, ...]) -> Found:
    """Return what is to be resolved, with recipes that are not to apply."""
    going = {f"recipe:{name}" for name in without}
    asked = {}
    for name, one in found.wanted.asked.items():
        if one.type not in (*UNPLACED, *RULES):
            one = one._replace(without=tuple(sorted({*one.without, *without})))
        if name not in going:
            asked[name] = one
    requests = tuple(request for request in found.wanted.requests if request.name not in going)
    return found._replace(wanted=found.wanted._replace(requests=requests, asked=asked), carried=found.carried - going)


def _named_again(
    root: Root,
    box: str,
    there: Root,
    before: Manifest,
    files: tuple[str, ...],
    directories: tuple[str, ...],
    rules: Rules,
) -> ResolveSet:
    """Return the requests that the caller names again; what the box has as a program is one again."""
    own = frozenset({identity(os.fstat(there.descriptor))})
    requests: dict[str, Request] = {}
    trees: dict[str, Tree] = {}
    for word in files:
        as_program = _as_program(root, before, word)
        if as_program is not None:
            requests[as_program.name] = as_program
            continue
        tree = read_file(root, word, own, rules)
        name = tree.named
        trees[name] = tree
        requests[name] = Request(name, tree.named, tree.source, "file")
    for word in directories:
        tree = read_directory(root, word, own, rules)
        name = tree.named
        trees[name] = tree
        requests[name] = Request(name, tree.named, tree.source, "directory")
    for name, request in requests.items():
        known = before.requests.get(name)
        if known is None or known.type != request.type:
            raise JailError(
                f"cannot update {name}: it was never added to {box}", command_line("jailbuild", "list", operand(box))
            )
    asked = {name: before.requests[name]._replace(path=one.path, source=one.source) for name, one in requests.items()}
    return ResolveSet(tuple(requests.values()), asked, trees)


def _as_program(root: Root, before: Manifest, word: str) -> Request | None:
    try:
        request = find_program(root, word)
    except JailError:
        return None
    known = before.requests.get(request.name)
    return request if known is not None and known.type == "program" else None
