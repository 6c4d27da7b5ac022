"""What `add` does, from words to a plan."""

from __future__ import annotations

import errno
import os

from jailbuild.box.label import label_of, refuse_other_root
from jailbuild.box.manifest import Asked, read_manifest
from jailbuild.box.target import Change, Choices, Target, plan_change
from jailbuild.box.update import find_again
from jailbuild.closure.commands import NOT_FILES, Request, by_name, find_program, path_note, source_root
from jailbuild.closure.gather import Options, gather
from jailbuild.errors import JailError, reason
from jailbuild.root import Root


def plan_addition(
    root: Root, words: tuple[str, ...], box: str, choices: Choices, *, bare: bool = False, rebase: bool = False
) -> Change:
    """Plan to put the programs that `words` name into the directory `box` (JailError; nothing is written).

    Where the source root has changed since the box was made, all its requests are planned anew.
    """
    requests = _find_all(root, words, choices.options)
    notes = [note for request in requests if request.name in words and (note := path_note(root, request))]
    there = _open_box(box)
    if there is not None and os.path.samestat(os.fstat(there.descriptor), os.fstat(root.descriptor)):
        raise JailError(f"cannot make a box at {box}: it is the source root itself", "name another directory")
    before = read_manifest(there, box) if there is not None else None
    label = label_of(root)
    asked = {}
    if before is not None and not rebase:
        refuse_other_root(before, label, box, "add to")
    for request in requests:
        known = before.requests.get(request.name) if before is not None else None
        if known is not None:
            _refuse_other_source(request, known)
        asked[request.name] = Asked(request.name, request.path, request.source, bare and (known is None or known.bare))
    target = Target(box, there, before, label)
    change = None
    if before is None or before.label == label:
        others = target.names() - asked.keys()
        change = plan_change(root, target, asked, requests, others, choices, others_decide=True)
    if change is None:
        assert before is not None
        found = find_again(root, before, {request.name: request for request in requests}, choices.options.search_path)
        anew = (*requests, *(request for request in found.requests if request.name not in asked))
        change = plan_change(root, target, {**found.asked, **asked}, anew, found.carried, choices, spare=True)
        assert change is not None
        notes += [f"the source root has changed since {box} was made: all its requests are planned anew", *found.notes]
    return change._replace(closure=change.closure._replace(notes=(*notes, *change.closure.notes)))


def _find_all(root: Root, words: tuple[str, ...], options: Options) -> tuple[Request, ...]:
    """Find what the words mean (JailError: all that is wrong with any of them)."""
    requests: dict[str, Request] = {}
    failures: list[str] = []
    hint = ""
    for word in words:
        try:
            request = by_name(root, find_program(root, word, options.search_path), options.search_path)
            if request.path.startswith(NOT_FILES):
                raise JailError(f"cannot add {word}: what is in {request.path[:5]} is the kernel's, and no file")
            known = requests.setdefault(request.name, request)
            if known != request:
                failures.append(f"cannot add {word}: {request.name} is asked for twice, from different files")
        except JailError as error:
            failures += [cause.replace("cannot find", "cannot add", 1) for cause in error.causes]
            hint = hint or error.hint
    if failures:
        found = tuple(requests.values())
        try:
            gather(source_root(root, found), found, options)
        except JailError as error:
            failures += error.causes
        raise JailError(failures, hint)
    return tuple(requests.values())


def _refuse_other_source(request: Request, known: Asked) -> None:
    if (known.path, known.source) != (request.path, request.source):
        raise JailError(
            f"cannot add {request.name}: the box has it from {known.source or known.path}, "
            f"and now it would come from {request.source or request.path}",
            "build a new box",
        )


def _open_box(box: str) -> Root | None:
    """Return the directory of a box, None if there is nothing yet (JailError if there cannot be a box)."""
    if not os.path.lexists(box):
        parent = os.path.dirname(os.path.abspath(box))
        if not os.path.isdir(parent):
            raise JailError(f"cannot make a box at {box}: there is no directory {parent}", f"mkdir -p {parent}")
        return None
    try:
        os.stat(box)
    except OSError as error:
        why = "it is a link that leads nowhere" if error.errno == errno.ENOENT else reason(error)
        raise JailError(f"cannot make a box at {box}: {why}", "name a directory") from None
    if not os.path.isdir(box):
        raise JailError(f"cannot make a box at {box}: it is no directory", "name a directory")
    there = Root(box)
    if there.is_host:
        raise JailError(f"cannot make a box at {box}: it is the host's own root", "name a directory below it")
    return there
