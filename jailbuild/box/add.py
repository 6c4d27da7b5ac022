"""What `add` does, from words to a plan."""

from __future__ import annotations

import os
from typing import NamedTuple

from jailbuild.box.location import open_box
from jailbuild.box.manifest import Manifest, RecordedRequest
from jailbuild.box.ownership import rules
from jailbuild.box.records import read_manifest
from jailbuild.box.source_id import label_of, refuse_other_root, refuse_unnamed_source
from jailbuild.box.target import Change, OthersDecideError, PlanOptions, ResolveSet, Target, plan_change
from jailbuild.box.update import find_again
from jailbuild.closure.commands import (
    DOCS,
    NOT_FILES,
    UNPLACED,
    Request,
    by_name,
    path_note,
    source_root,
    unplaced,
)
from jailbuild.closure.gather import gather
from jailbuild.closure.trees import Rules, Tree, identity, lay_over, read_directory, read_file
from jailbuild.elf.priorities import DEFAULT
from jailbuild.errors import JailError
from jailbuild.root import Root


class AddSpec(NamedTuple):
    """What the user asks for, in his words."""

    programs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    locales: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()  # with /docs at the end of the name, where that is asked for
    excludes: tuple[str, ...] = ()  # patterns of what never comes
    unmanaged: tuple[str, ...] = ()  # paths that are the user's for good


def plan_addition(
    root: Root,
    words: AddSpec,
    box: str,
    choices: PlanOptions,
    *,
    bare: bool = False,
    without: tuple[str, ...] = (),
    rebase: bool = False,
    dlopen: str | None = None,
    is_named: bool = True,
    adopt: bool = False,
) -> Change:
    """Plan to put what `words` name into the directory `box` (JailError; nothing is written).

    No recipe applies by itself to what is `bare`, and those named in `without` do not. `dlopen` is one of LEVELS; None
    leaves it as it was for what is in the box. Unless the user named the source root, a box from another is refused. A
    directory that holds something else becomes a box only to `adopt`.

    Where the source root has changed since the box was made, all its requests are planned anew.
    """
    there = open_box(box, root, adopt=adopt)
    before = read_manifest(there, box) if there is not None else None
    if not is_named:
        refuse_unnamed_source(before, box, "add to")
    wanted = _find_all(root, words, there, choices, before)
    notes = [
        note for request in wanted.requests if request.name in words.programs and (note := path_note(root, request))
    ]
    label = label_of(root)
    asked = {one.name: one for one in rules(words.excludes, words.unmanaged)}
    if before is not None and not rebase:
        refuse_other_root(before, label, box, "add to")
    for request in wanted.requests:
        known = before.requests.get(request.name) if before is not None else None
        if known is not None:
            _refuse_other_source(request, known)
        is_bare = bare and request.type not in UNPLACED and (known is None or known.bare)
        own = () if request.type in UNPLACED else tuple(sorted(set(without)))
        level = dlopen or (known.dlopen if known is not None else DEFAULT)
        one = known if known is not None else RecordedRequest(request.name, request.path)
        flags = one.flags | wanted.flags.get(request.name, frozenset())
        asked[request.name] = one._replace(
            path=request.path,
            source=request.source,
            bare=is_bare,
            type=request.type,
            without=own,
            dlopen=level,
            flags=flags,
        )
    wanted = wanted._replace(asked=asked)
    target = Target(box, there, before, label, root.path)
    change = None
    has_changed = True
    if before is None or before.label == label:
        others = target.names() - asked.keys()
        try:
            change = plan_change(root, target, wanted, others, choices, others_decide=True)
        except OthersDecideError as error:
            has_changed = not error.is_own
    if change is None:
        assert before is not None
        found = find_again(root, before, wanted, choices)
        change = plan_change(root, target, found.wanted, found.carried, choices, spare=True)
        if has_changed:
            notes.append(f"the source root has changed since {box} was made: all its requests are planned anew")
        notes += found.notes
    return change._replace(closure=change.closure._replace(notes=(*notes, *change.closure.notes)))


def _find_all(
    root: Root, words: AddSpec, there: Root | None, choices: PlanOptions, before: Manifest | None
) -> ResolveSet:
    """Find what the words mean (JailError: all that is wrong with any of them)."""
    requests: dict[str, Request] = {}
    trees: dict[str, Tree] = {}
    failures: list[str] = []
    hint = ""
    options, rules = choices.options, Rules(allowed=choices.allowed)
    own = frozenset({identity(os.fstat(there.descriptor))}) if there is not None else frozenset()

    def find(word: str, type: str) -> Request:
        if type == "program":
            request = by_name(root, choices.find(root, word), options.search_path)
            if request.path.startswith(NOT_FILES):
                raise JailError(f"cannot add {word}: what is in {request.path[:5]} is the kernel's, and no file")
            return request
        if type in UNPLACED:
            if type == "recipe" and choices.catalog is not None:
                choices.catalog.get(word)
            return unplaced(type, word)
        if type == "package":
            from jailbuild.closure.packages import find_package  # only who asks for one

            known = before.requests.get(f"package:{word}") if before is not None else None
            request, tree = find_package(root, known.word if known is not None else word, rules)
            trees[request.name] = tree
            if word.endswith(DOCS):
                flags[request.name] = frozenset(("docs",))
            return request
        tree = read_file(root, word, own, rules) if type == "file" else read_directory(root, word, own, rules)
        name = tree.named
        known_tree = trees.setdefault(name, tree)
        if (known_tree.path, known_tree.source) != (tree.path, tree.source):
            raise JailError(f"cannot add {word}: {name} is asked for twice, from different files")
        return Request(name, tree.named, tree.source, type)

    flags: dict[str, frozenset[str]] = {}
    types = ("program", "file", "directory", *UNPLACED, "package")
    for type, some in zip(types, words[: len(types)], strict=True):
        for word in some:
            try:
                request = find(word, type)
                known = requests.setdefault(request.name, request)
                if known != request:
                    failures.append(f"cannot add {word}: {request.name} is asked for twice, from different files")
            except JailError as error:
                failures += [cause.replace("cannot find", "cannot add", 1) for cause in error.causes]
                hint = hint or error.hint
    wanted = ResolveSet(tuple(requests.values()), {}, trees, flags)
    if failures:
        try:
            gather(source_root(lay_over(root, trees.values()), wanted.requests), wanted.requests, options, trees)
        except JailError as error:
            failures += error.causes
        raise JailError(failures, hint)
    return wanted


def _refuse_other_source(request: Request, known: RecordedRequest) -> None:
    if request.type == known.type and (known.is_own or known.type == "package"):  # its source is named again
        return
    if (known.path, known.source, known.type) != (request.path, request.source, request.type):
        raise JailError(
            f"cannot add {request.name}: the box has it as a {known.type} from {known.source or known.path}, "
            f"and now it would be a {request.type} from {request.source or request.path}",
            "take back the other first, with jailbuild remove",
        )
