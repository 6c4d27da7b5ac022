"""From requests to the closure: every file they need, and the edges that say why."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from jailbuild.closure.commands import STANDARD_PATH, Request, canonical_place
from jailbuild.closure.explain import problems
from jailbuild.closure.programs import Part, Program, Programs
from jailbuild.closure.trees import Item, Tree
from jailbuild.errors import JailError, reason
from jailbuild.loader import machines
from jailbuild.loader.cache import CacheEntry
from jailbuild.loader.files import Files
from jailbuild.loader.glibc import Loader
from jailbuild.loader.resolution import Edge
from jailbuild.root import Root

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

    edges: dict[Edge, set[str]]

    @property
    def wanted_by(self) -> set[str]:
        """All requests that want it."""
        return set().union(*self.edges.values())


class Held(NamedTuple):
    """One name of the data that was asked for: who brings it, for which requests."""

    item: Item
    edges: dict[Edge, set[str]]


class Closure(NamedTuple):
    """Everything that requests need in their source root."""

    root: Root
    files: Files
    search_path: str
    requests: tuple[Request, ...]
    programs: dict[str, Program]  # what was asked for, by path
    nodes: dict[str, Node]
    cached: dict[CacheEntry, set[str]]  # what an ld.so.cache has to say, and the requests that want it
    notes: tuple[str, ...]
    data: dict[str, Held]  # by canonical path
    sources: dict[str, str]  # of what comes from elsewhere on the host, by canonical path

    def source_of(self, path: str) -> str:
        """Return where the file at a canonical path of the closure comes from: the host's path for SRC:DEST."""
        return self.sources.get(path, path)


class Options(NamedTuple):
    """How programs are found and resolved."""

    search_path: str = STANDARD_PATH
    library_path: str = ""


def gather(
    root: Root, requests: tuple[Request, ...], options: Options, trees: Mapping[str, Tree] | None = None
) -> Closure:
    """Resolve the requests in `root` (see commands.source_root); `trees` has the data of those that are no programs.

    Raises JailError, a line for each cause, when a request cannot be started with what the root has. What is wrong
    with a program in a directory of data is a note: it may be there for other reasons than to be started.
    """
    gathering = _Gathering(root, options)
    failures = []
    for request in requests:
        if request.type == "program":
            failures += gathering.add(request)
        else:
            failures += gathering.add_tree(request, (trees or {})[request.name])
    if failures:
        raise JailError(failures, gathering.hint)
    sources = {canonical_place(root, one.path): one.source for one in requests
               if one.source is not None and one.type == "program"}
    for tree in (trees or {}).values():
        if tree.source is not None:
            sources.update((item.path, item.source) for item in tree.items)
    return Closure(
        root, gathering.files, options.search_path, requests, gathering.asked, gathering.nodes, gathering.cached,
        tuple(gathering.notes), gathering.data, sources,
    )


class _Gathering:
    def __init__(self, root: Root, options: Options) -> None:
        self.root = root
        self.options = options
        self.files = Files(root)
        self.programs = self._programs(None)
        self.by_level: dict[tuple[str, ...], list[Programs]] = {}  # as older processors of a machine would resolve
        self.asked: dict[str, Program] = {}
        self.nodes: dict[str, Node] = {}
        self.cached: dict[CacheEntry, set[str]] = {}
        self.notes: list[str] = []
        self.data: dict[str, Held] = {}
        self.hint = ""  # for what failed last
        self._notice_preload()

    def _programs(self, levels: tuple[str, ...] | None) -> Programs:
        loader = Loader(self.files, self.options.library_path, (), levels, preload_file=False)
        return Programs(self.files, loader, self.options.search_path)

    def _notice_preload(self) -> None:
        names = self.programs.loader.preload_names()
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
            program = self.programs.resolve(path)
        except OSError as error:
            self.hint = "a program is a name, a path, or SRC:DEST"
            return [f"cannot add {request.name}: {request.source or path}: {reason(error)}"]
        found = problems(program)
        if found:
            self.hint = _HINTS.get(found[0].code, "")
            return [f"cannot add {request.name}: {problem.text}" for problem in found]
        if not status.st_mode & 0o111 and not _is_library(program):
            self.hint = f"chmod +x {path}"
            return [f"cannot add {request.name}: {path} is not executable"]
        self.asked[path] = program
        self._node(path, None, request.name)
        self._include(request.name, program)
        for programs in self._levels(program):
            self._include(request.name, programs.resolve(path))
        return []

    def add_tree(self, request: Request, tree: Tree) -> list[str]:
        """Add data, with what the programs and libraries in it need; return what keeps a file from starting."""
        top = Edge("", request.type)
        for item in tree.items:
            is_below = item.path.startswith(f"{tree.path.rstrip('/')}/")
            edge = top if item.path == tree.path else Edge(tree.path, "tree" if is_below else "path")
            self.data.setdefault(item.path, Held(item, {})).edges.setdefault(edge, set()).add(request.name)
        self.notes += tree.notes
        failures: list[str] = []
        wrong: list[str] = []
        for item in tree.items:
            is_executable = bool(item.status.st_mode & 0o111)
            if item.program is None or (item.program == "script" and not is_executable):
                continue
            found = self._add_data_program(request.name, item)
            if request.type == "file" and is_executable:
                self.hint = "leave out its execute permission if it is only data" if found else self.hint
                failures += [f"cannot add {request.name}: {text}" for text in found]
            else:
                wrong += found
        self.notes += wrong if len(wrong) <= _FEW else [*wrong[:_FEW], f"and {len(wrong) - _FEW} more of that kind"]
        return failures

    def _add_data_program(self, name: str, item: Item) -> list[str]:
        try:
            program = self.programs.resolve(item.path)
        except OSError as error:
            return [f"{item.path}: {reason(error)}"]
        if program.error is None:
            self._include(name, program)
            for programs in self._levels(program):
                self._include(name, programs.resolve(item.path))
        found = [problem.text for problem in problems(program)]
        if not found:
            self.asked[item.path] = program
        return found

    def _node(self, path: str, edge: Edge | None, wanted_by: str) -> None:
        node = self.nodes.setdefault(path, Node({}))
        node.edges.setdefault(edge or Edge("", "program"), set()).add(wanted_by)

    def _include(self, name: str, program: Program) -> None:
        by = program.path
        for interpreter in program.interpreters:
            self._node(interpreter.path, Edge(by, "interpreter"), name)
            by = interpreter.path
        for part in program.parts:
            built_in = part.resolution.built_in
            if built_in is not None and built_in.file is not None:  # of a library too: nothing loads it otherwise
                self._node(built_in.name, Edge(part.path, "interpreter"), name)
            for library in part.resolution.libraries:
                for edge in library.requests:
                    self._node(library.path, edge, name)
            for entry in _cache_entries(part):
                self.cached.setdefault(entry, set()).add(name)

    def _levels(self, program: Program) -> Iterator[Programs]:
        """Yield how processors of other glibc-hwcaps levels resolve, if that may differ for this program."""
        for part in program.parts:
            built_in = part.resolution.built_in
            if built_in is None or not machines.machine(built_in.kind).levels:
                continue
            if any(self._has_levels(library.path, library.name, part) for library in part.resolution.libraries):
                levels = machines.machine(built_in.kind).levels
                if levels not in self.by_level:
                    self.by_level[levels] = [self._programs(levels[start:]) for start in range(len(levels) + 1)]
                yield from self.by_level[levels]
                return

    def _has_levels(self, path: str, name: str, part: Part) -> bool:
        if _HWCAPS.search(path) or self.files.is_directory(os.path.dirname(path) + "/glibc-hwcaps"):
            return True
        built_in = part.resolution.built_in
        if built_in is None or built_in.cache is None:
            return False
        return len(built_in.cache.variants(name, machines.machine(built_in.kind).cache_flags)) > 1


def _is_library(program: Program) -> bool:
    return program.type == "elf" and (program.interpreter is None or bool(program.parts[0].soname))


def _cache_entries(part: Part) -> Iterator[CacheEntry]:
    """Yield what the box's ld.so.cache must say: what neither RPATH, RUNPATH nor a default directory leads to."""
    built_in = part.resolution.built_in
    if built_in is None:
        return
    flag = machines.machine(built_in.kind).cache_flag
    for library in part.resolution.libraries:
        if library.found_by not in ("cache", "ld_library_path"):
            continue
        level = _HWCAPS.search(library.path)
        directory = library.path[: level.start() + 1] if level else os.path.dirname(library.path) + "/"
        if directory not in built_in.directories:
            path = library.path if library.path.startswith("/") else f"/{library.path}"
            yield CacheEntry(library.name, os.path.normpath(path), flag, level[1] if level else None)
