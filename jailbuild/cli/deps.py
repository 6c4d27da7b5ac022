"""jailbuild deps PROGRAM…: the dependency tree without a box."""

from __future__ import annotations

import os

import click

from jailbuild.cli import Command, complain, say, write
from jailbuild.cli.options import as_json, dlopen, option, programs, resolving
from jailbuild.closure.commands import find_program, path_note, source_root
from jailbuild.closure.programs import Program, Programs
from jailbuild.elf.priorities import DEFAULT
from jailbuild.errors import JailError, reason
from jailbuild.loader.arch import ALL_LEVELS, BASE, levels_up_to
from jailbuild.loader.files import Files
from jailbuild.loader.model import Opening, Unopened
from jailbuild.loader.resolver import Loader
from jailbuild.report import jsonlines
from jailbuild.root import Root

_AT_ONCE = 32  # programs that are written together


@click.command(cls=Command)
@programs(required=True)
@resolving
@option("--preload", metavar="LIST", default="", help="Libraries to load first, as LD_PRELOAD would.")
@dlopen
@option(
    "--cpu",
    metavar="LEVEL",
    type=click.Choice([BASE, *ALL_LEVELS]),
    help="The processor whose glibc-hwcaps count: this machine's by default; base for none.",
)
@as_json
@option("--paths", "as_paths", is_flag=True, help="Print the paths of all files, one a line, each once.")
@option("--dot", "as_dot", is_flag=True, help="Print a graph for Graphviz.")
@option("--mermaid", "as_mermaid", is_flag=True, help="Print a Mermaid flow chart.")
@option("-v", "--verbose", is_flag=True, help="Show libc and its family too.")
def command(
    programs: tuple[str, ...],
    library_path: str,
    search_path: str,
    sysroot: str | None,
    preload: str,
    level: str | None,
    cpu: str | None,
    as_json: bool,
    as_paths: bool,
    as_dot: bool,
    as_mermaid: bool,
    verbose: bool,
) -> int:
    """Show what PROGRAM... (names, paths, also of libraries) need, and how the loader finds it.

    Nothing is run: the files are read. Exit status 1 if anything is missing. A library that is opened at run time
    (as "dlopen") is missing only if it is required; of others a note says so.
    """
    forms = {"--json": as_json, "--paths": as_paths, "--dot": as_dot, "--mermaid": as_mermaid}
    chosen = [name for name, wanted in forms.items() if wanted]
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(chosen)} exclude each other")
    form = chosen[0] if chosen else None
    root = Root(sysroot or "/")
    status = 0
    requests = []
    for word in programs:
        try:
            request = find_program(root, word, search_path)
            requests.append(request)
            if "/" not in word and (note := path_note(root, request)):
                say(f"note: {note}")
        except JailError as error:
            complain([cause.replace("cannot find", "cannot resolve", 1) for cause in error.causes], error.hint)
            status = 1
    source = source_root(root, tuple(requests))
    files = Files(source, _here() if root.is_host else "/")
    names = tuple(name for name in preload.replace(":", " ").split(" ") if name)
    loader = Loader(files, library_path, names, levels_up_to(cpu), opening=Opening(level or DEFAULT))
    resolver = Programs(files, loader, search_path)
    from jailbuild.report.tree import tree

    found: list[Program] = []
    unopened: list[Unopened] = []
    lines = jsonlines.Programs()
    ready: list[str] = []
    for request in requests:
        try:
            program = resolver.resolve(request.path)
        except OSError as error:
            write("".join(ready))
            ready.clear()
            complain([f"cannot resolve {request.name}: {request.source or request.path}: {reason(error)}"])
            status = 1
            continue
        if form == "--json":
            ready.append(lines.line(program))
        elif form is None:
            ready.append(tree(program, verbose=verbose))
        else:
            found.append(program)
        for part in program.parts:
            unopened += part.resolution.unopened
        if program.error is not None or program.missing:
            status = 1
        if len(ready) >= _AT_ONCE:
            write("".join(ready))
            ready.clear()
    write("".join(ready))
    if form not in (None, "--json"):
        write(_drawn(found, form))
    if unopened:
        from jailbuild.closure.explain import unopened_text  # seldom needed

        for text in dict.fromkeys(map(unopened_text, unopened)):
            say(f"note: {text}")
    return status


def _here() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return "/"


def _paths(found: list[Program]) -> str:
    return "".join(f"{path}\n" for path in dict.fromkeys(path for program in found for path in program.files))


def _drawn(found: list[Program], form: str | None) -> str:
    if form == "--paths":
        return _paths(found)
    from jailbuild.report.graph import dot, mermaid

    return dot(found) if form == "--dot" else mermaid(found)
