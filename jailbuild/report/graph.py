"""Dependencies as a graph: DOT for Graphviz, and Mermaid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from jailbuild.closure.programs import Program
from jailbuild.names import shown


def dot(programs: Iterable[Program]) -> str:
    """Return one DOT graph of all programs; what is missing is dashed."""
    lines = ["digraph dependencies {", "  rankdir=LR;", "  node [shape=box];"]
    for by, to, how, is_missing in _edges(programs):
        if is_missing:
            lines.append(f"  {_quoted(to)} [style=dashed];")
        label = "" if how == "needed" else f" [label={_quoted(how)}]"
        lines.append(f"  {_quoted(by)} -> {_quoted(to)}{label};")
    return "\n".join([*dict.fromkeys(lines), "}"]) + "\n"


def mermaid(programs: Iterable[Program]) -> str:
    """Return one Mermaid flow chart of all programs; what is missing is dashed."""
    numbers: dict[str, str] = {}
    lines = ["flowchart LR"]

    def node(name: str) -> str:
        if name not in numbers:
            numbers[name] = f"n{len(numbers)}"
            text = shown(name).replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
            lines.append(f'  {numbers[name]}["{text}"]')
        return numbers[name]

    for by, to, how, is_missing in _edges(programs):
        arrow = "-.->" if is_missing else "-->"
        label = "" if how == "needed" else f"|{how}|"
        lines.append(f"  {node(by)} {arrow}{label} {node(to)}")
    return "\n".join(dict.fromkeys(lines)) + "\n"


def _quoted(name: str) -> str:
    text = shown(name).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _edges(programs: Iterable[Program]) -> Iterator[tuple[str, str, str, bool]]:
    """Yield who asks, for what, how, and whether it is missing."""
    for program in programs:
        by = program.path
        for interpreter in program.interpreters:
            yield by, interpreter.path, "interpreter", False
            by = interpreter.path
        for part in program.parts:
            if part.resolution.interpreter is not None:
                yield part.path, part.resolution.interpreter, "interpreter", False
            for library in part.resolution.libraries:
                for edge in library.requests:
                    yield edge.by, library.path, edge.how, False
            for missing in part.resolution.missing:
                for edge in missing.requests:
                    yield edge.by, missing.name, edge.how, True
