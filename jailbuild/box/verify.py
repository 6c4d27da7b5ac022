"""The proof before the deed: in the box as it would be, each program must load the very files it loads at home."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from jailbuild.box.draft import named_in
from jailbuild.box.plan import Plan
from jailbuild.closure.explain import Problem, problems
from jailbuild.closure.gather import Closure
from jailbuild.closure.programs import Program, Programs
from jailbuild.elf.priorities import DEFAULT
from jailbuild.errors import JailError, reason
from jailbuild.loader.files import Files
from jailbuild.loader.model import Library, opening_in_boxes
from jailbuild.loader.resolver import Loader
from jailbuild.root import Overlay, Root

_BLOCK = 1 << 20


def verify_plan(plan: Plan, closure: Closure, box: Root | None, *, anew: bool = False) -> None:
    """Resolve the requests in the planned box (JailError where that gives another answer than the source root).

    Those that the box has already must load what they load now; if all are planned `anew`, they must still start.
    """
    planned = _planned(plan, closure, box)
    files = closure.files.sharing(planned)
    programs = _ByDlopen(files, closure.search_path)
    failures = []
    excluded, kept = plan.draft.excluded, plan.draft.own & plan.draft.carried
    for path, program in closure.programs.items():
        if any(_leads_to(closure.files, file, kept) for file in program.files if kept):
            continue  # the user has put something in the place of what it takes
        if kept and named_in(closure.root, path) not in plan.draft.entries:
            continue  # only the source root's own file there would have led to it
        try:
            found = programs.resolve(path, closure.dlopen.get(path, DEFAULT))
        except OSError as error:
            failures.append(f"cannot add {path}: it could not be opened in the box: {reason(error)}")
            continue
        failures += [
            f"cannot add {path}: in the box, {problem.text}"
            for problem in problems(found)
            if not _is_excluded(problem, program, closure, excluded)
        ]
        failures += [
            f"cannot add {path}: in the box it would load {theirs}, and outside it loads {ours}"
            for ours, theirs in _differences(program, closure.files, found, files)
            if not _leads_to(closure.files, ours, excluded)
        ]
    if box is not None and plan.before is not None and plan.changes:
        failures += _disturbed(plan, closure, box, programs, anew)
    if failures:
        raise JailError(failures, "what is in the box already gets in the way: build a box of its own")


def _is_excluded(problem: Problem, program: Program, closure: Closure, excluded: frozenset[str]) -> bool:
    """Say whether a program misses something, or loads another library, only because that is excluded."""
    if not excluded:
        return False
    paths = [library.path for library in program.libraries if library.name == problem.subject] or [problem.subject]
    return any(_leads_to(closure.files, path, excluded) for path in paths)


def _leads_to(files: Files, path: str, places: frozenset[str]) -> bool:
    if not places:
        return False
    try:
        walk = files.root.walk(files.absolute(path))
    except OSError:
        return False
    return walk.real in places or any(link in places for link, _ in walk.links)


class _ByDlopen:
    """The programs of one root, each with as many of the libraries that it opens at run time as it is to have."""

    def __init__(self, files: Files, search_path: str) -> None:
        self.files = files
        self.search_path = search_path
        self._programs: dict[str, Programs] = {}

    def resolve(self, path: str, dlopen: str) -> Program:
        """Resolve the program at `path` (OSError)."""
        if dlopen not in self._programs:
            loader = Loader(self.files, opening=opening_in_boxes(dlopen))
            self._programs[dlopen] = Programs(self.files, loader, self.search_path)
        return self._programs[dlopen].resolve(path)


def _disturbed(plan: Plan, closure: Closure, box: Root, after: _ByDlopen, anew: bool) -> Iterator[str]:
    """Yield what programs that are in the box already would load otherwise after the plan."""
    files = closure.files.sharing(box)
    before = _ByDlopen(files, closure.search_path)
    assert plan.before is not None
    for name, asked in plan.before.requests.items():
        if asked.path in closure.programs or name not in plan.draft.requests or asked.type != "program":
            continue
        try:
            now, then = (programs.resolve(asked.path, asked.dlopen) for programs in (before, after))
        except OSError:  # it is not there any more: check says so
            continue
        if anew:
            known = problems(now)
            for problem in problems(then):
                if problem not in known:
                    yield f"cannot update: {name}, which stays as it is: {problem.text}"
            continue
        for ours, theirs in _differences(now, before.files, then, after.files):
            yield f"cannot add: {name}, which is in the box, would load {theirs} then, and loads {ours} now"


def _differences(program: Program, ours: Files, found: Program, theirs: Files) -> list[tuple[str, str]]:
    there = {library.name: library for library in found.libraries}
    return [
        (library.path, there[library.name].path)
        for library in program.libraries
        if library.name in there and not _is_same(library, ours, there[library.name], theirs)
    ]


def _is_same(one: Library, ours: Files, other: Library, theirs: Files) -> bool:
    """Say whether two roots give the same library: by where it stands, else by its bytes."""
    if one.file.elf != other.file.elf:
        return False
    try:
        if ours.root.walk(ours.absolute(one.path)).real == theirs.root.walk(theirs.absolute(other.path)).real:
            return True
        with (
            open(ours.root.open(ours.absolute(one.path)), "rb") as left,
            open(theirs.root.open(theirs.absolute(other.path)), "rb") as right,
        ):
            while block := left.read(_BLOCK):
                if block != right.read(_BLOCK):
                    return False
            return not right.read(1)
    except OSError:  # it is not there any more: whoever copies it says so
        return True


def _planned(plan: Plan, closure: Closure, box: Root | None) -> Root:
    """Return the box as it would be after the plan, but for the user's own changes: those are not for us to judge."""
    files: dict[str, Callable[[], int]] = {}
    links: dict[str, str] = {}
    directories = []
    gone = []
    for action in plan.actions:
        entry = action.entry
        if action.kind == "conflict" or (action.kind == "keep" and not action.why):
            continue
        if action.kind == "remove":
            gone.append(entry.path)
        elif entry.type == "link":
            links[entry.path] = entry.target or ""
        elif entry.type == "directory":
            directories.append(entry.path)
        elif entry.type == "device":  # nothing is loaded from it
            continue
        elif entry.path in plan.draft.made:
            files[entry.path] = _made(plan.draft.made[entry.path])
        else:
            files[entry.path] = _copied(closure.root, entry.path)
    return Overlay(box, files, links, tuple(directories), frozenset(gone))


def _copied(root: Root, path: str) -> Callable[[], int]:
    return lambda: root.open(path)


def _made(data: bytes) -> Callable[[], int]:
    def opener() -> int:
        opened = os.memfd_create("made", os.MFD_CLOEXEC)
        os.write(opened, data)
        os.lseek(opened, 0, os.SEEK_SET)
        return opened

    return opener
