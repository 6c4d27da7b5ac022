"""Looking for one name on disk, step by step as the loader does (elf/dl-load.c: _dl_map_object, open_path)."""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from jailbuild.elf import layouts
from jailbuild.elf.reader import UNKNOWN_ENCODING, WRONG_VERSION, Elf
from jailbuild.loader import arch
from jailbuild.loader.budget import Budget
from jailbuild.loader.files import File, Files
from jailbuild.loader.glibc.config import LdsoConfig
from jailbuild.loader.model import Edge, FatalError, Missing, TooMuchError


class Scope(NamedTuple):
    """All that an object's own searches depend on, besides the name."""

    rpaths: tuple[tuple[str, ...], ...]  # its own and its ancestors'; () where DT_RUNPATH forbids them
    runpath: tuple[str, ...]
    nodeflib: bool


class Found(NamedTuple):
    """Where a search ended well."""

    path: str
    found_by: str
    file: File


Outcome = Found | FatalError | None
PLAIN = Scope((), (), False)  # of an object that neither has search paths of its own nor inherits any


class Search(Budget):
    """Looking for a name on disk, as one loader does. The same name in the same scope is searched once."""

    def __init__(self, files: Files, interpreter: LdsoConfig, library_path: tuple[str, ...]) -> None:
        super().__init__()
        self.files = files
        self.interpreter = interpreter
        self.library_path = library_path
        self.abi = arch.abi(interpreter.kind, interpreter.file.elf.flags if interpreter.file else 0)
        self.plain: dict[str, Outcome] = {}  # what was found, or not, by name in the scope PLAIN
        self._outcomes: dict[Scope, dict[str, Outcome]] = {PLAIN: self.plain}
        self._top: bool | None = None  # whether "/" is a directory, as the loader has it; None: it does not know yet
        self._met_top = False  # whether it was looked into
        self._by_top: list[tuple[dict[str, Outcome], str]] = []  # outcomes that hang on that, and so on the program
        self._there: dict[tuple[str, ...], list[tuple[str, tuple[str, ...]]]] = {}
        self._searched: dict[Scope, tuple[str, ...]] = {}
        self._passed_over: dict[str, dict[str, str]] = {}  # by base name: candidates, with what machine they are for

    def begin(self, program: str) -> None:
        """Look for what a program loads, counting its steps, from now on."""
        super().begin(program)
        self._top, self._met_top = None, False
        for outcomes, name in self._by_top:
            outcomes.pop(name, None)
        self._by_top.clear()

    def find(self, name: str, scope: Scope) -> Outcome:
        """Return what the search for `name` (tokens expanded) gives an object of this scope (TooMuchError)."""
        if scope is not PLAIN:
            self.spend(sum([len(directories) for directories in scope.rpaths]) + len(scope.runpath))
        outcomes = self.plain if scope is PLAIN else self._outcomes.setdefault(scope, {})
        if name in outcomes:
            return outcomes[name]
        try:
            outcome: Outcome = self._by_path(name) if "/" in name else self._by_name(name, scope)
        except TooMuchError:
            raise
        except FatalError as error:
            outcome = error
        outcomes[name] = outcome
        if self._met_top:
            self._by_top.append((outcomes, name))
        return outcome

    def _by_path(self, name: str) -> Found | None:
        file = self._open(name)
        return None if isinstance(file, int) else Found(name, "path", file)

    def _by_name(self, name: str, scope: Scope) -> Found | None:
        for found_by, directories in self._lists(scope):
            if found_by == "cache":
                found = self._in_cache(name, scope)
            else:
                found = self._in_list(name, directories, found_by)
            if found is not None:
                return found
        return None

    def _lists(self, scope: Scope) -> list[tuple[str, tuple[str, ...]]]:
        """Return the steps of a search in order: how a library is found there, and the directories."""
        steps = [("rpath", directories) for directories in scope.rpaths]
        steps.append(("ld_library_path", self.library_path))
        steps.append(("runpath", scope.runpath))
        if self.interpreter.cache is not None:
            steps.append(("cache", ()))
        if not scope.nodeflib:
            steps.append(("default", self.interpreter.directories))
        return steps

    def _in_list(self, name: str, directories: tuple[str, ...], found_by: str) -> Found | None:
        for directory, subdirectories in self._there.get(directories) or self._look(directories):
            self.spend(len(subdirectories))
            file: File | int = errno.ENOENT
            for below in subdirectories:
                path = directory + below + name
                file = self._open(path) if below or directory != "/" else self._in_top(name, file)
                if not isinstance(file, int):
                    return Found(path, found_by, file)
            # Something is there and readable in principle, but broken: the loader leaves this list, not the search.
            if file not in (errno.ENOENT, errno.EACCES):
                return None
        return None

    def _in_top(self, name: str, before: File | int) -> File | int:
        """Return the file in "/". Where the first one is not there the loader cuts the name of the directory to
        nothing, finds that nothing is no directory, and never tries "/" again.
        """
        self._met_top = True
        if self._top is False:
            return before
        file = self._open("/" + name)
        if self._top is None:
            self._top = not isinstance(file, int)
        return file if self._top else errno.ENOENT

    def _look(self, directories: tuple[str, ...]) -> list[tuple[str, tuple[str, ...]]]:
        """Return those directories of a list that are there, each with what is tried below it, "" being the last.

        As the loader does, which remembers where nothing is, and takes a relative directory to be there.
        """
        self.spend(len(directories))
        there = []
        for directory in directories:
            if not directory.startswith("/"):
                there.append((directory, (*self.interpreter.subdirectories, "")))
            elif self.files.is_directory(directory):
                tops = {name.partition("/")[0] for name in self.interpreter.subdirectories}
                tops = {top for top in tops if self.files.is_directory(directory + top)}
                below = [
                    name
                    for name in self.interpreter.subdirectories
                    if name.partition("/")[0] in tops and self.files.is_directory(directory + name)
                ]
                there.append((directory, (*below, "")))
        self._there[directories] = there
        return there

    def _in_cache(self, name: str, scope: Scope) -> Found | None:
        cache = self.interpreter.cache
        assert cache is not None
        flags = arch.machine(self.interpreter.kind).cache_flags
        path = cache.find(name, flags, self.interpreter.levels, self.interpreter.hwcaps)
        if path is None:
            return None
        if scope.nodeflib and path.startswith(self.interpreter.directories):
            return None
        file = self._open(path)
        return None if isinstance(file, int) else Found(path, "cache", file)

    def _open(self, path: str) -> File | int:
        """Return the file at `path` if the loader would take it, else an errno (open_verify)."""
        file = self.files.get(path)
        if isinstance(file, int):
            return file
        bits, little, machine = self.interpreter.kind
        elf = file.elf
        if elf.as_library is not None:
            elf = elf.as_library
            file = file._replace(elf=elf)
        if (
            elf.kind == self.interpreter.kind
            and not elf.ident_error
            and not elf.load_error
            and self.abi == arch.abi(elf.kind, elf.flags)
        ):
            return file
        if not elf.bits:
            raise FatalError(path, elf.ident_error)
        if elf.bits == bits:
            read = elf.machine if elf.little == little else (elf.machine & 255) << 8 | elf.machine >> 8  # as the loader
            strange = elf.little != little or elf.ident_error not in ("", WRONG_VERSION)
            if strange and read != machine and self.interpreter.lenient:
                return self._pass_over(path, elf)
            if elf.little != little or elf.ident_error == UNKNOWN_ENCODING:
                raise FatalError(path, f"ELF file data encoding not {'little' if little else 'big'}-endian")
            if elf.ident_error:
                raise FatalError(path, elf.ident_error)
            if elf.machine == machine and elf.load_error:
                raise FatalError(path, elf.load_error)
        return self._pass_over(path, elf)

    def _pass_over(self, path: str, elf: Elf) -> int:
        others = self._passed_over.setdefault(os.path.basename(path), {})
        others[path] = f"{path} is for {layouts.machine_name(elf.machine)} ({elf.bits}-bit)"
        return errno.ENOENT

    def missing(self, name: str, scope: Scope, request: Edge) -> Missing:
        """Return the report of a search that failed (TooMuchError)."""
        over = self._passed_over.get(os.path.basename(name), {})
        if "/" in name:
            self.spend_text(name, name)
            return Missing(name, (f"path {name}",), [request], (over[name],) if name in over else ())
        searched = self._searched.get(scope)
        if searched is None:
            lines: list[str] = []
            for found_by, directories in self._lists(scope):
                if found_by == "cache":
                    lines.append("cache")
                lines += [
                    f"{found_by} {directory.rstrip('/') or '/'}" if directory else f"{found_by} ."
                    for directory in directories
                ]
            searched = self._searched[scope] = tuple(dict.fromkeys(lines))
        self.spend_text(*searched, *over.values())
        return Missing(name, searched, [request], tuple(over.values()))
