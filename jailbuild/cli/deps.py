"""jailbuild deps PROGRAM…: the dependency tree without a box."""

from __future__ import annotations

import os

import click

from jailbuild.cli import complain
from jailbuild.cli.options import as_json, programs, resolving, write
from jailbuild.closure.commands import find_program, source_root
from jailbuild.closure.programs import Programs
from jailbuild.errors import JailError, reason
from jailbuild.loader.files import Files
from jailbuild.loader.glibc import Loader
from jailbuild.report import jsonlines
from jailbuild.report.tree import tree
from jailbuild.root import Root


@click.command()
@programs
@resolving
@as_json
def command(programs: tuple[str, ...], library_path: str, search_path: str, sysroot: str, as_json: bool) -> int:
    """Show what PROGRAM... (names, paths, also of libraries) need, and how the loader finds it.

    Nothing is run: the files are read. Exit status 1 if anything is missing.
    """
    root = Root(sysroot)
    status = 0
    requests = []
    for word in programs:
        try:
            requests.append(find_program(root, word, search_path))
        except JailError as error:
            complain([cause.replace("cannot find", "cannot resolve", 1) for cause in error.causes], error.hint)
            status = 1
    source = source_root(root, tuple(requests))
    files = Files(source, os.getcwd() if root.is_host else "/")
    resolver = Programs(files, Loader(files, library_path), search_path)
    for request in requests:
        try:
            program = resolver.resolve(request.path)
        except OSError as error:
            complain([f"cannot resolve {request.name}: {request.source or request.path}: {reason(error)}"])
            status = 1
            continue
        write(jsonlines.line(jsonlines.program(program)) if as_json else tree(program))
        if program.error is not None or program.missing:
            status = 1
    return status
