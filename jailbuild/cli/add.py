"""jailbuild add PROGRAM… --into BOX."""

from __future__ import annotations

import os

import click

from jailbuild.box.add import AddSpec, plan_addition
from jailbuild.box.ownership import rules
from jailbuild.box.plan import Plan
from jailbuild.box.target import Change, PlanOptions
from jailbuild.cli import BEHIND, FAILED, Command, say, write
from jailbuild.cli.change import WriteOptions, carry_out, few, is_whole, manner, say_notes, show, summary, until_at_rest
from jailbuild.cli.options import absolute, dlopen, knowing, naming_source, option, programs, resolving
from jailbuild.closure.commands import DOCS, NAMED
from jailbuild.closure.gathering import Options
from jailbuild.packages.activity import watched
from jailbuild.root import Root


@click.command(cls=Command)
@programs(required=False)
@option(
    "--into", "box", metavar="BOX", required=True, type=click.Path(readable=False), help="The box; made if need be."
)
@option(
    "--file",
    "files",
    metavar="SRC[:DST]",
    multiple=True,
    type=click.UNPROCESSED,
    help="A file of data; what is a program or script is resolved as at its place.",
)
@option(
    "--dir",
    "directories",
    metavar="SRC[:DST]",
    multiple=True,
    type=click.UNPROCESSED,
    help="A directory of data, likewise.",
)
@option(
    "--package",
    "packages",
    metavar="NAME",
    multiple=True,
    type=click.UNPROCESSED,
    help="The files of an installed package, without documentation and translations.",
)
@option("--docs", is_flag=True, help="Of packages, manuals, documentation, completions and translations too.")
@resolving
@knowing
@dlopen
@option("--bare", is_flag=True, help="Programs, libraries and the links on their way: no recipes, no names beside.")
@option("--keep-privileges", is_flag=True, help="Keep setuid and setgid bits and file capabilities.")
@option("--rebase", is_flag=True, help="Accept a different source root than the box was made from.")
@option("--adopt", is_flag=True, help="Take a directory that holds something else: what is in it stays as it is.")
@option("--as-shell", is_flag=True, help="Print it as a shell script, write nothing.")
@manner
def command(
    programs: tuple[str, ...],
    box: str,
    files: tuple[str, ...],
    directories: tuple[str, ...],
    packages: tuple[str, ...],
    docs: bool,
    library_path: str,
    search_path: str,
    sysroot: str | None,
    recipes: tuple[str, ...],
    without: tuple[str, ...],
    users: tuple[str, ...],
    locales: tuple[str, ...],
    excludes: tuple[str, ...],
    unmanaged: tuple[str, ...],
    shelves: tuple[str, ...],
    allowed: tuple[str, ...],
    level: str | None,
    bare: bool,
    keep_privileges: bool,
    rebase: bool,
    adopt: bool,
    as_shell: bool,
    replace: tuple[str, ...],
    **how: bool,
) -> int:
    """Put PROGRAM... and every file they need into BOX.

    A program is a name, looked up in the standard PATH, a path, or SRC:DEST: a file from anywhere, put at DEST.

    Data: SRC is a path of the source root and stands there; with DST it is a path of the host, put at DST.
    """
    if docs and not packages:
        raise click.UsageError("--docs is about packages: name one with --package.")
    packages = tuple(name + DOCS * docs for name in packages)
    words = AddSpec(programs, files, directories, recipes, users, locales, packages, excludes, unmanaged)
    if not any(words):
        raise click.UsageError("Missing argument 'PROGRAM...': name a program, --file, --dir, --package or --with.")
    catalog = None
    if not bare or recipes or users or locales or os.path.lexists(box):  # else nothing of it is needed
        from jailbuild.closure.catalog import RecipeCatalog

        catalog = RecipeCatalog(shelves)
    choices = PlanOptions(Options(search_path, library_path), keep_privileges, replace, catalog, absolute(allowed))
    manner = WriteOptions(**how)
    change: Change | None = None

    def make() -> tuple[Plan, Root, tuple[str, ...]]:
        nonlocal change
        with naming_source(), watched(Root(sysroot or "/")) as root:
            change = plan_addition(
                root,
                words,
                box,
                choices,
                bare=bare,
                without=without,
                rebase=rebase,
                dlopen=level,
                is_named=sysroot is not None,
                adopt=adopt,
            )
        return change.plan, change.source, change.notes

    what = f"add {few([name for some in words for name in some])}"
    if as_shell:
        if not is_whole(box):
            return BEHIND
        plan, _, notes = until_at_rest(what, sysroot, make)
        _print_shell(plan, notes, change, box, manner, keep_privileges)
        return 0
    carried = carry_out(box, manner, make, what=what, sysroot=sysroot, keep_privileges=keep_privileges)
    if carried is None:
        return BEHIND
    plan, is_done = carried
    if change is not None and not (manner.dry_run or manner.quiet or manner.as_json):
        names = [
            request.name.replace(":", " ", 1) if request.type in NAMED else request.name
            for request in change.closure.requests
            if request.name in plan.draft.requests
        ]
        names += [one.name.replace(":", " ", 1) for one in rules(excludes, unmanaged)]
        say(f"{box}: {few(names)}: {summary(plan)}")
    return 0 if is_done else FAILED


def _print_shell(
    plan: Plan, notes: tuple[str, ...], change: Change | None, box: str, how: WriteOptions, keep_privileges: bool
) -> None:
    assert change is not None
    say_notes(notes, how.quiet)
    if how.as_json and plan.conflicts:
        show(plan, how)
    plan.refuse_conflicts()
    if keep_privileges:
        say("note: a script of cp keeps set-id bits and no file capabilities: setcap(8) sets those")
    from jailbuild.report import shell

    write(shell.script(plan.actions, plan.draft.made, box, change.host_path))
