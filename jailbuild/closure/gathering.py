"""The closure as it grows: one request after the other, with what each needs. What recipes know is knowing.py's."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from jailbuild.closure.commands import STANDARD_PATH, Request, canonical_place
from jailbuild.closure.edges import AnyEdge
from jailbuild.closure.explain import Problem, problems, unopened_text
from jailbuild.closure.lists import Listed, listed
from jailbuild.closure.programs import Part, Program, Programs
from jailbuild.closure.trees import NO_RULES, Item, Rules, Tree
from jailbuild.elf.priorities import DEFAULT, LEVELS
from jailbuild.errors import reason
from jailbuild.loader import arch
from jailbuild.loader.files import Files
from jailbuild.loader.glibc.config import LdsoConfig
from jailbuild.loader.glibc.ld_cache import CacheEntry
from jailbuild.loader.model import Edge, opening_in_boxes
from jailbuild.loader.musl.config import MuslConfig
from jailbuild.loader.resolver import Loader
from jailbuild.names import command_line, operand
from jailbuild.root import Root

if TYPE_CHECKING:
    from jailbuild.closure.catalog import RecipeCatalog
    from jailbuild.closure.evaluate import Made
    from jailbuild.closure.symlinks import Part as Led

_HINTS = {
    "missing-library": "install what is missing, or name its directory with --library-path",
    "missing-interpreter": "install the C library that it was built for",
    "missing-script-interpreter": "install the interpreter, or name where it is with --path",
    "wrong-machine": "name the root that it belongs to with --sysroot",
    "unreadable": "a program is an ELF file, or a script that begins with #! and an interpreter",
}
_HWCAPS = re.compile(r"/glibc-hwcaps/([^/]+)/[^/]*$")


_FEW = 10  # notes of one kind


class Node(NamedTuple):
    """One file of a closure, by the path it is opened by: who asks for it and how, for which requests."""

    edges: dict[AnyEdge, set[str]]

    @property
    def wanted_by(self) -> set[str]:
        """All requests that want it."""
        return set().union(*self.edges.values())


class Held(NamedTuple):
    """One name of the data that was asked for: who brings it, for which requests."""

    item: Item
    edges: dict[AnyEdge, set[str]]


class HeldMade(NamedTuple):
    """Something that is made: who brings it, for which requests."""

    made: Made
    edges: dict[AnyEdge, set[str]]


class Options(NamedTuple):
    """How programs are found and resolved."""

    search_path: str = STANDARD_PATH
    library_path: str = ""
    dlopen: Mapping[str, str] = {}  # by name of a request: which libraries come that are opened at run time (LEVELS)


class Knowledge(NamedTuple):
    """Which recipes may apply, and to which requests: those that `without` names, but for the recipes it has there."""

    catalog: RecipeCatalog | None = None
    without: Mapping[str, frozenset[str]] = {}  # by name of a request
    rules: Rules = NO_RULES
    apart: frozenset[str] = frozenset()  # canonical paths where the box has something else: the user's by request


NO_KNOWLEDGE = Knowledge()


class PendingTriggers:
    """What a request has met that recipes may be for, each name once; `new` is what no recipe was looked for yet."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, str]] = set()
        self.new: list[tuple[str, str, str]] = []  # "program", "file" or "soname"; its name; the path it is known by

    def note(self, kind: str, name: str, path: str) -> None:
        """Take a program by its path, a file that is one, or a library's name."""
        if (kind, name) not in self.seen:
            self.seen.add((kind, name))
            self.new.append((kind, name, path))


class ClosureState:
    """The closure as it grows."""

    def __init__(self, root: Root, options: Options) -> None:
        self.root = root
        self.options = options
        self.files = Files(root)
        self.by_dlopen: dict[str, Programs] = {}
        # likewise, as older processors of a machine would resolve
        self.by_level: dict[tuple[str, tuple[str, ...]], list[Programs]] = {}
        self.dlopen: dict[str, str] = {}
        self.asked: dict[str, Program] = {}
        self.nodes: dict[str, Node] = {}
        self.cached: dict[CacheEntry, set[str]] = {}
        self.listed: dict[Listed, set[str]] = {}
        self.notes: list[str] = []
        self.data: dict[str, Held] = {}
        self.apart: frozenset[str] = frozenset()  # paths of files that come to nobody, and need nothing
        self.laid: dict[str, dict[AnyEdge, set[str]]] = {}  # what recipes want of what the user named
        self.met: dict[str, PendingTriggers] = {}
        self.inert: set[str] = set()
        self.hint = ""  # for what failed last
        self._notice_preload()

    def _programs(self, dlopen: str, levels: tuple[str, ...] | None = None) -> Programs:
        loader = Loader(self.files, self.options.library_path, (), levels, False, opening_in_boxes(dlopen))
        return Programs(self.files, loader, self.options.search_path)

    def _programs_for(self, name: str) -> Programs:
        """Return the programs as a request wants them resolved."""
        dlopen = self.options.dlopen.get(name, DEFAULT)
        if dlopen not in self.by_dlopen:
            self.by_dlopen[dlopen] = self._programs(dlopen)
        return self.by_dlopen[dlopen]

    def _notice_preload(self) -> None:
        names = self._programs(DEFAULT).loader.preload_names()
        if names:
            self.notes.append(f"/etc/ld.so.preload ({', '.join(names)}) stays outside")

    def add(self, request: Request) -> list[str]:
        """Add what one request needs; return what keeps it from starting, in words."""
        path = request.path
        try:
            status = self.root.stat(path)
            if stat.S_ISDIR(status.st_mode):
                self.hint = "name the programs in it"
                return [f"cannot add {request.name}: it is a directory"]
            if not stat.S_ISREG(status.st_mode):
                return [f"cannot add {request.name}: it is not a regular file"]
            program = self._programs_for(request.name).resolve(path)
        except OSError as error:
            self.hint = "a program is a name, a path, or SRC:DEST"
            return [f"cannot add {request.name}: {request.source or path}: {reason(error)}"]
        found = problems(program)
        if found:
            self.hint = _HINTS.get(found[0].code, "")
            return [f"cannot add {request.name}: {problem.text}" for problem in found]
        if not status.st_mode & 0o111 and not _is_library(program):
            file = request.source or self.root.host_path(self.root.walk(path).real)
            self.hint = command_line("chmod", "+x", operand(file))
            return [f"cannot add {request.name}: {path} is not executable"]
        self._add_program(path, program, Edge("", "program"), request.name)
        return []

    def _add_program(self, path: str, program: Program, edge: AnyEdge, name: str) -> None:
        self._ask(path, program, name)
        self._node(path, edge, name)
        self.meet(name).note("program", path, path)
        self._include(name, program)
        for programs in self._levels(name, program):
            self._include(name, programs.resolve(path))

    def _ask(self, path: str, program: Program, name: str) -> None:
        """Note a program that must start in the box; of what requests say of its libraries, the farthest counts."""
        self.asked[path] = program
        self.dlopen[path] = max(
            self.dlopen.get(path, LEVELS[0]), self.options.dlopen.get(name, DEFAULT), key=LEVELS.index
        )
        self.notes += [unopened_text(one) for one in program.unopened]

    def bring_program(self, path: str, edge: AnyEdge, name: str) -> None:
        """Add a program that a recipe brings for a request: what is wrong with it is a warning."""
        try:
            program = self._programs_for(name).resolve(path)
        except OSError as error:
            self.notes.append(f"warning: {path} is left out: {reason(error)}")
            return
        found = problems(program)
        self.notes += [f"warning: {problem.text}" for problem in found]
        if program.error is None:
            self._add_program(path, program, edge, name)
        if found:
            self.asked.pop(path, None)  # it need not start in the box either

    def bring_script(self, path: str, text: bytes, name: str) -> None:
        """Add what runs a script that a recipe makes for a request: what is wrong with it is a warning."""
        program = self._programs_for(name).resolve_script(path, text)
        self.notes += [f"warning: {problem.text}" for problem in problems(program)]
        if program.error is None:
            self._include(name, program)

    def bring_tree(self, tree: Tree, named: str, top: AnyEdge, name: str) -> None:
        """Add what a recipe brings for a request, which is `named` by the tree's path or by a link to it; likewise.

        A library that misses what is in the tree itself finds it in the program that loads both (a JDK's, which need
        libjvm.so), a script for an interpreter that the root has not (python's cgi.py) is brought to be read, and what
        may not be executed need not be loadable (gcc's crtbegin.o).
        """
        self._hold(tree, named, top, name)
        names = {item.path.rpartition("/")[2] for item in tree.items}
        wrong: list[str] = []
        for item in tree.items:
            if item.program is None or (item.program == "script" and not item.status.st_mode & 0o111):
                continue
            if item.path in self.apart:
                continue
            found = self._add_data_program(name, item, "file")
            if any(problem.code == "missing-script-interpreter" for problem in found) and item.path != tree.path:
                self._make_inert(item.path, found[0])
                continue
            wrong += [
                one.text
                for one in found
                if (one.subject not in names if one.code == "missing-library" else item.status.st_mode & 0o111)
            ]
        self.notes += [f"warning: {text}" for text in _first(wrong)]

    def want_laid(self, path: str, edge: AnyEdge, name: str) -> None:
        """Note that a recipe wants what the user named for a canonical path."""
        self.laid.setdefault(path, {}).setdefault(edge, set()).add(name)

    def _make_inert(self, path: str, problem: Problem) -> None:
        """Have a script go in to be read: what it would be run by is not in the source root either."""
        self.inert.add(path)
        self.notes.append(f"{problem.text}: it goes in without execute permission")

    def meet(self, name: str) -> PendingTriggers:
        """Return what a request has met."""
        return self.met.setdefault(name, PendingTriggers())

    def add_tree(self, request: Request, tree: Tree, rules: Rules) -> list[str]:
        """Add data, with what the programs and libraries in it need; return what keeps a file from starting.

        What links in a directory lead to comes too.
        """
        self.notes += tree.notes
        led: list[Led] = []
        if request.type == "directory" and any(item.type == "link" for item in tree.items):
            from jailbuild.closure.symlinks import external_targets  # only for who has links

            tree, led, notes = external_targets(self.root, tree, rules)
            self.notes += notes
        top = canonical_place(self.root, tree.named) if tree.named else tree.path
        self._hold(tree, top, Edge("", request.type), request.name)
        for part in led:
            self.bring_tree(part.tree, part.named, Edge(part.by, "target"), request.name)
        return self._add_programs_of(request, tree)

    def _hold(self, tree: Tree, named: str, top: AnyEdge, name: str) -> None:
        for item in tree.items:
            if item.path == named or tree.led is not None:
                link = tree.led.get(item.path) if tree.led is not None else None
                edge = top if link is None else Edge(link, "target")
            elif item.path == tree.path:
                edge = Edge(named, "target")
            else:
                is_below = item.path.startswith(f"{tree.path.rstrip('/')}/")
                edge = Edge(tree.path, "tree") if is_below else Edge(named, "path")
            self.data.setdefault(item.path, Held(item, {})).edges.setdefault(edge, set()).add(name)

    def _add_programs_of(self, request: Request, tree: Tree) -> list[str]:
        failures: list[str] = []
        wrong: list[str] = []
        for item in tree.items:
            is_executable = bool(item.status.st_mode & 0o111)
            if item.program is None or (item.program == "script" and not is_executable) or item.path in self.apart:
                continue
            kind = "program" if request.type == "package" and self._is_command(item.path) else "file"
            problems_found = self._add_data_program(request.name, item, kind)
            found = [problem.text for problem in problems_found]
            if request.type == "package" and any(one.code == "missing-script-interpreter" for one in problems_found):
                self._make_inert(item.path, problems_found[0])
                continue
            if request.type == "file" and is_executable:
                self.hint = "leave out its execute permission if it is only data" if found else self.hint
                failures += [f"cannot add {request.name}: {text}" for text in found]
            else:
                wrong += found
        self.notes += _first(wrong)
        return failures

    def _is_command(self, path: str) -> bool:
        """Say whether a command's name would find the canonical path."""
        above = os.path.dirname(path)
        return any(canonical_place(self.root, one) == above for one in self.options.search_path.split(":") if one)

    def _add_data_program(self, name: str, item: Item, kind: str) -> list[Problem]:
        """Add what a program or library among the data needs, known to recipes as a "program" or a "file"."""
        try:
            program = self._programs_for(name).resolve(item.path)
        except OSError as error:
            return [Problem("unreadable", item.path, f"{item.path}: {reason(error)}")]
        if program.error is None:
            self.meet(name).note(kind, item.path, item.path)
            self._include(name, program)
            for programs in self._levels(name, program):
                self._include(name, programs.resolve(item.path))
        found = problems(program)
        if not found:
            self._ask(item.path, program, name)
        return found

    def _node(self, path: str, edge: AnyEdge, wanted_by: str) -> None:
        self.nodes.setdefault(path, Node({})).edges.setdefault(edge, set()).add(wanted_by)

    def _include(self, name: str, program: Program) -> None:
        by = program.path
        met = self.meet(name)
        for interpreter in program.interpreters:
            self._node(interpreter.path, Edge(by, "interpreter"), name)
            met.note("program", interpreter.path, interpreter.path)
            by = interpreter.path
        for part in program.parts:
            built_in = part.resolution.built_in
            if built_in is not None and built_in.file is not None:  # of a library too: nothing loads it otherwise
                self._node(built_in.name, Edge(part.path, "interpreter"), name)
            if isinstance(built_in, MuslConfig) and built_in.has_path_file:
                self._node(built_in.path_file, Edge(built_in.name, "path-file"), name)
            for library in part.resolution.libraries:
                met.note("soname", library.name, library.path)
                for edge in library.requests:
                    self._node(library.path, edge, name)
            for entry in _cache_entries(part):
                self.cached.setdefault(entry, set()).add(name)
            for one in listed(part):
                self.listed.setdefault(one, set()).add(name)

    def _levels(self, name: str, program: Program) -> Iterator[Programs]:
        """Yield how processors of other glibc-hwcaps levels resolve, if that may differ for this program."""
        for part in program.parts:
            built_in = part.resolution.built_in
            if not isinstance(built_in, LdsoConfig) or not arch.machine(built_in.kind).levels:
                continue
            if any(self._has_levels(library.path, library.name, part) for library in part.resolution.libraries):
                key = self.options.dlopen.get(name, DEFAULT), arch.machine(built_in.kind).levels
                if key not in self.by_level:
                    dlopen, levels = key
                    self.by_level[key] = [self._programs(dlopen, levels[at:]) for at in range(len(levels) + 1)]
                yield from self.by_level[key]
                return

    def _has_levels(self, path: str, name: str, part: Part) -> bool:
        if _HWCAPS.search(path) or self.files.is_directory(os.path.dirname(path) + "/glibc-hwcaps"):
            return True
        built_in = part.resolution.built_in
        if not isinstance(built_in, LdsoConfig) or built_in.cache is None:
            return False
        return len(built_in.cache.variants(name, arch.machine(built_in.kind).cache_flags)) > 1


def _first(lines: list[str]) -> list[str]:
    return lines if len(lines) <= _FEW else [*lines[:_FEW], f"and {len(lines) - _FEW} more of that kind"]


def _is_library(program: Program) -> bool:
    return program.type == "elf" and (program.interpreter is None or bool(program.parts[0].soname))


def _cache_entries(part: Part) -> Iterator[CacheEntry]:
    """Yield what the box's ld.so.cache must say: what neither RPATH, RUNPATH nor a default directory leads to."""
    built_in = part.resolution.built_in
    if not isinstance(built_in, LdsoConfig):
        return
    flag = arch.machine(built_in.kind).cache_flag
    for library in part.resolution.libraries:
        if library.found_by not in ("cache", "ld_library_path"):
            continue
        level = _HWCAPS.search(library.path)
        directory = library.path[: level.start() + 1] if level else os.path.dirname(library.path) + "/"
        if directory not in built_in.directories:
            path = library.path if library.path.startswith("/") else f"/{library.path}"
            yield CacheEntry(library.name, os.path.normpath(path), flag, level[1] if level else None)
