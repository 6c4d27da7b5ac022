"""The dependency tree of a program, for a person."""

from __future__ import annotations

import re
from collections.abc import Iterator

from jailbuild.closure.programs import Program
from jailbuild.loader.model import Library, Missing
from jailbuild.names import shown

# what every program of glibc loads, and nobody asks about
_FAMILY = re.compile(r"(?:ld-linux.*|ld64|lib(?:c|m|dl|pthread|rt|util|resolv|nsl|anl|mvec))\.so\.\d+")

_DEEPEST = 60  # levels; what is below stands in a tree of its own


def tree(program: Program, *, verbose: bool = False) -> str:
    """Return the tree: each library below the first that asked for it, with how it was found.

    A library that several ask for is drawn out once; the others say "above". One that is missing has the numbered
    list of where it was searched. libc and its family are one line at the end, unless `verbose`.
    """
    return "\n".join(shown(line) for line in _Tree(program, verbose).lines()) + "\n"


class _Tree:
    def __init__(self, program: Program, verbose: bool) -> None:
        self.program = program
        self.folded: list[Library] = []
        self.drawn: set[str] = set()
        self.later: list[str] = []  # what was too deep to be drawn out where it was met
        self.children: dict[str, list[tuple[str, Library | Missing]]] = {}
        askers = {edge.by for missing in program.missing for edge in missing.requests}
        for library in program.libraries:
            if not verbose and _FAMILY.fullmatch(library.name) and library.path not in askers:
                self.folded.append(library)
                continue
            for edge in library.requests:
                self.children.setdefault(edge.by, []).append((edge.how, library))
        for missing in program.missing:
            for edge in missing.requests:
                self.children.setdefault(edge.by, []).append((edge.how, missing))

    def lines(self) -> Iterator[str]:
        """Yield the lines."""
        program = self.program
        yield program.path + self._note(program)
        for interpreter in program.interpreters:
            argument = "" if interpreter.argument is None else f" {interpreter.argument}"
            yield f"#! {interpreter.path}{argument}"
        for part in program.parts:
            if part.path != program.path and self.children.get(part.path):
                yield part.path
            yield from self._below(part.path, "", 1)
            for path in self.later:  # which grows meanwhile
                yield path
                yield from self._below(path, "", 1)
            self.later.clear()
        if self.folded:
            yield f"and {', '.join(library.name for library in self.folded)} (-v shows where)"
        if program.error is not None:
            yield f"error: {program.error.text}"

    @staticmethod
    def _note(program: Program) -> str:
        if program.interpreter is not None:
            return f"  [loader {program.interpreter}]"
        if program.type == "elf" and not program.libraries and not program.missing and program.error is None:
            return "  [static]" if program.is_static else "  [needs nothing]"
        return ""

    def _below(self, path: str, indent: str, depth: int) -> Iterator[str]:
        children = self.children.get(path, [])
        for place, (how, child) in enumerate(children):
            last = place == len(children) - 1
            branch, below = ("└── ", "    ") if last else ("├── ", "│   ")
            by = "" if how == "needed" else f"{how} "
            if isinstance(child, Missing):
                yield f"{indent}{branch}{by}{child.name}: not found, searched in"
                for number, where in enumerate(child.searched, 1):
                    yield f"{indent}{below}  {number}. {where}"
                for file in child.passed_over:
                    yield f"{indent}{below}  {file}"
                continue
            if child.path in self.drawn:
                yield f"{indent}{branch}{by}{child.name} (above)"
                continue
            self.drawn.add(child.path)
            yield f"{indent}{branch}{by}{child.name} => {child.path} [{child.found_by}]"
            if depth < _DEEPEST:
                yield from self._below(child.path, indent + below, depth + 1)
            elif self.children.get(child.path):
                self.later.append(child.path)
