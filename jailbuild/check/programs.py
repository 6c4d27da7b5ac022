"""Every program of a root must find in it all that it needs to start."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator

from jailbuild.box.manifest import Manifest
from jailbuild.box.ownership import Exclusions
from jailbuild.check.findings import Finding, readd_command
from jailbuild.check.tree import Tree
from jailbuild.closure.commands import canonical_place
from jailbuild.closure.explain import Problem, add_command, missing_text, problems, unopened_text
from jailbuild.closure.path_glob import path_regex
from jailbuild.closure.programs import Program, Programs
from jailbuild.elf.layouts import ET_DYN, ET_EXEC
from jailbuild.elf.priorities import DEFAULT, LEVELS
from jailbuild.errors import JailError, reason
from jailbuild.loader import arch
from jailbuild.loader.files import File, Files
from jailbuild.loader.glibc.config import LdsoConfig
from jailbuild.loader.model import Opening, opening_in_boxes
from jailbuild.loader.resolver import Loader
from jailbuild.names import command_line
from jailbuild.root import Root, upwards

# what else a kernel runs beside its own machine's programs
_ALSO_RUNS = {"x86_64": {"i686"}, "aarch64": {"armv7l"}}


def _is_broken(file: File) -> bool:
    """Say whether an executable ELF file is damaged; relocatable objects are merely no programs."""
    return bool(file.elf.load_error) and file.elf.type in (ET_EXEC, ET_DYN)


def _canonical(root: Root, path: str) -> str:
    try:
        return canonical_place(root, path)
    except JailError:  # something else is in the way
        return path


def _fits(pattern: str, name: str) -> bool:
    try:
        return re.fullmatch(path_regex(pattern), name) is not None
    except ValueError:  # it is a part of another
        return False


_WHOSE = "the box's"
_LIBC = "libc.so.6"
_MENDED_BY_ADD = ("missing-library", "missing-version", "missing-interpreter", "missing-script-interpreter")


def dlopen_of(manifest: Manifest | None, path: str) -> str:
    """Return which of the libraries that programs open there must be for the program at `path` (one of LEVELS)."""
    entry = manifest.entries.get(path) if manifest is not None else None
    if manifest is None or entry is None:
        return DEFAULT
    requests = [manifest.requests.get(name) for name in entry.wanted_by]
    return max([one.dlopen for one in requests if one is not None], key=LEVELS.index, default=DEFAULT)


class ProgramRules:
    """Holds programs and libraries to the rules. `box` is how the user calls the root.

    `dlopen` says which libraries are held to them too that programs open while they run (LEVELS); None for as many as
    each program was put in with.
    """

    def __init__(
        self,
        root: Root,
        tree: Tree,
        manifest: Manifest | None,
        box: str,
        progress: Callable[[int, int], object] | None = None,
        only: tuple[str, ...] = (),
        dlopen: str | None = None,
    ) -> None:
        """Take the programs of the tree; those at the paths `only`, whatever they are, where there are any."""
        self.tree = tree
        self.only = only
        self.manifest = manifest
        self.box = box
        self.progress = progress
        self.files = Files(root)
        self.files.learn(tree.elves)
        self.dlopen = dlopen
        self._programs: dict[str, Programs] = {}
        self._pairs: set[tuple[str, str]] = set()  # of a loader and a libc, that were looked at
        self.count = 0
        self.resolved: list[Program] = []

    def findings(self) -> Iterator[Finding]:
        """Yield what is wrong with the programs; `count` is then how many there are."""
        reached: set[tuple[int, int]] = set()
        found: list[str] = []
        candidates = self.only or sorted(self.tree.elves.keys() | self.tree.scripts)
        for number, path in enumerate(candidates):
            if self.progress is not None:
                self.progress(number, len(candidates))
            if not self.only and (not self.tree.seen[path].mode & 0o111 or not self._is_program(path)):
                continue
            try:
                program = self._programs_for(path).resolve(path)
            except OSError as error:
                yield Finding(
                    "unreadable",
                    path,
                    f"{path} cannot be read: {reason(error)}",
                    path,
                    requested_by=self._requested_by(path),
                )
                continue
            found.append(path)
            self.resolved.append(program)
            reached.update(self._identities(program))
            yield from self._of_program(program)
            yield from self._mixed(program)
            yield from self._unopened(program)
        if self.only:
            self.count = len(found)
            return
        self.count = sum(self._identity(path) not in reached or path in self.tree.scripts for path in found)
        if not found:
            yield Finding("no-program", "/", f"there is no program in {self.box}", hint=add_command(["bash"], self.box))
        yield from self._unreached(reached, set(found))

    def _programs_for(self, path: str) -> Programs:
        """Return the programs with as many of the libraries that they open as the one at `path` is to have."""
        dlopen = self._dlopen_of(path)
        programs = self._programs.get(dlopen)
        if programs is None:
            loader = Loader(self.files, opening=opening_in_boxes(dlopen))
            programs = self._programs[dlopen] = Programs(self.files, loader)
        return programs

    def _dlopen_of(self, path: str) -> str:
        return self.dlopen or dlopen_of(self.manifest, path)

    def _unopened(self, program: Program) -> Iterator[Finding]:
        for one in program.unopened:
            try:
                path = self.files.root.walk(self.files.absolute(one.by)).real
            except OSError:
                path = one.by
            yield Finding(
                "missing-optional-library",
                path,
                unopened_text(one),
                one.missing.name,
                one.missing.searched,
                self._requested_by(path),
            )

    def _is_program(self, path: str) -> bool:
        if path in self.tree.scripts:
            return True
        file = self.files.get(path)
        return isinstance(file, int) or file.elf.is_program or bool(file.elf.ident_error or _is_broken(file))

    def _identity(self, path: str) -> tuple[int, int] | None:
        file = self.files.get(path)
        return None if isinstance(file, int) else (file.device, file.inode)

    def _identities(self, program: Program) -> Iterator[tuple[int, int]]:
        for library in program.libraries:
            yield library.file.device, library.file.inode
        for part in program.parts:
            interpreter = self.files.get(part.resolution.interpreter) if part.resolution.interpreter else 0
            if isinstance(interpreter, File):
                yield interpreter.device, interpreter.inode

    def _requested_by(self, path: str) -> tuple[str, ...]:
        entry = self.manifest.entries.get(path) if self.manifest is not None else None
        return entry.wanted_by if entry is not None else ()

    def _of_program(self, program: Program) -> Iterator[Finding]:
        path = program.path
        requested_by = self._requested_by(path)
        for problem in problems(program, _WHOSE):
            yield Finding(
                problem.code,
                path,
                problem.text,
                problem.subject,
                problem.searched,
                requested_by,
                self._hint(problem, path, requested_by),
            )
        for part in program.parts:
            for bad in part.resolution.versions:
                if not bad.is_fatal:
                    yield Finding(
                        bad.code,
                        path,
                        bad.text(path, _WHOSE),
                        bad.file,
                        requested_by=requested_by,
                        hint=readd_command(self.manifest, requested_by, self.box) if self.manifest else None,
                    )
        file = self.files.get(path)
        if program.type == "elf" and isinstance(file, File) and self.manifest is not None and not program.error:
            ours, theirs = self.manifest.label.machine, arch.machine(file.elf.kind).name
            if ours is not None and theirs != ours and theirs not in _ALSO_RUNS.get(ours, ()):
                yield Finding(
                    "wrong-machine",
                    path,
                    f"{path} is for {theirs}, the box for {ours}",
                    theirs,
                    requested_by=requested_by,
                )

    def _mixed(self, program: Program) -> Iterator[Finding]:
        """Yield each libc.so.6 that is of another release than its loader, once: their private interfaces differ."""
        for part in program.parts:
            loader = part.resolution.built_in
            if not isinstance(loader, LdsoConfig) or loader.file is None:
                continue
            for library in part.resolution.started:
                if library.name != _LIBC or (loader.name, library.path) in self._pairs:
                    continue
                self._pairs.add((loader.name, library.path))
                ours = self.files.facts(loader.name, loader.file).version
                theirs = self.files.facts(library.path, library.file).version
                if ours is None or theirs is None or ours == theirs:
                    continue
                path = self.files.root.walk(self.files.absolute(library.path)).real
                yield Finding(
                    "mixed-glibc",
                    path,
                    f"{library.path} is of glibc {theirs[0]}.{theirs[1]}, and {loader.name}, "
                    f"the loader of {part.path}, of {ours[0]}.{ours[1]}",
                    loader.name,
                    requested_by=self._requested_by(path),
                )

    def _hint(self, problem: Problem, path: str, requested_by: tuple[str, ...]) -> str | None:
        """Return the command that mends a problem, where there is one to be known."""
        if (
            self.manifest is not None
            and problem.code in _MENDED_BY_ADD
            and (patterns := self._kept_out_by(problem, self.manifest))
        ):
            rules = [f"exclude:{pattern}" for pattern in patterns]
            return command_line("jailbuild", "remove", *rules, "--from", self.box)
        if self.manifest is not None and requested_by:
            return readd_command(self.manifest, requested_by, self.box)
        if self.files.root.is_host or problem.code not in _MENDED_BY_ADD:
            return None
        script = problem.code == "missing-script-interpreter" and not problem.subject.endswith("\r")
        return add_command([problem.subject if script else path], self.box)

    def _kept_out_by(self, problem: Problem, manifest: Manifest) -> list[str]:
        """Return the patterns that may keep out what a problem misses: by where it would be looked for, or by its name.

        Where the source root has it is not known.
        """
        root = self.files.root
        exclusions = Exclusions(root, manifest.requests.values())
        if not exclusions or problem.code == "missing-version":
            return []
        name = os.path.basename(problem.subject)
        places = [line[line.rfind(" /") + 1 :] for line in problem.searched]
        paths = [problem.subject] if "/" in problem.subject else [f"{place}/{name}" for place in places]
        with_above = {path for one in paths if one.startswith("/") for path in upwards(_canonical(root, one))}
        found = set(exclusions.of(with_above - {"/"}).values())
        for asked in manifest.requests.values():
            last = asked.what.rpartition("/")[2]
            if asked.type == "exclude" and last.strip("*?") and (last.startswith(name) or _fits(last, name)):
                found.add(asked.what)
        return sorted(found)

    def _unreached(self, reached: set[tuple[int, int]], programs: set[str]) -> Iterator[Finding]:
        loader = Loader(self.files, opening=Opening(self.dlopen or DEFAULT))
        for path in sorted(self.tree.elves.keys() - programs):
            file = self.files.get(path)
            if isinstance(file, int) or not file.elf.dynamic or file.elf.is_program:
                continue
            if (file.device, file.inode) in reached:
                continue
            reached.add((file.device, file.inode))
            resolution = loader.resolve(path)
            for missing in resolution.missing:
                yield Finding(
                    "unreached-library",
                    path,
                    f"no program loads {path}; alone, {missing_text(path, missing)}",
                    missing.name,
                    missing.searched,
                    self._requested_by(path),
                )
            for bad in resolution.versions:
                if bad.is_fatal:
                    yield Finding(
                        "unreached-library",
                        path,
                        f"no program loads {path}; alone, {bad.text(path, _WHOSE)}",
                        bad.refusal(path).subject,
                        requested_by=self._requested_by(path),
                    )
