"""jailbuild update BOX…."""

from __future__ import annotations

from typing import NamedTuple

import click

from jailbuild.box.plan import Plan
from jailbuild.box.target import Choices
from jailbuild.box.update import plan_update
from jailbuild.cli import BEHIND, FAILED, Command, complain, say, write
from jailbuild.cli.box import manifest_of
from jailbuild.cli.change import Manner, carry_out, manner, summary
from jailbuild.cli.options import absolute, dlopen, knowing, option, resolving
from jailbuild.closure.commands import UNPLACED, Request, unplaced
from jailbuild.closure.gathering import Options
from jailbuild.closure.shelf import Shelf
from jailbuild.errors import JailError, UnsettledError
from jailbuild.names import shown
from jailbuild.packages.activity import watched, worker
from jailbuild.root import Root


class More(NamedTuple):
    """What boxes are to have beside what they have, and what is to be otherwise."""

    requests: tuple[Request, ...]
    without: tuple[str, ...]  # recipes that are not to apply
    dlopen: str | None  # None: as it was


@click.command(cls=Command)
@click.argument("boxes", metavar="BOX...", nargs=-1, required=True, type=click.Path(readable=False))
@option("--file", "files", metavar="SRC[:DST]", multiple=True, type=click.UNPROCESSED,
              help="Where a file that was put in by path comes from: nothing in a box is believed about that.")
@option("--dir", "directories", metavar="SRC[:DST]", multiple=True, type=click.UNPROCESSED,
              help="Likewise a directory.")
@resolving
@knowing
@dlopen
@option("--keep-privileges", is_flag=True, help="Keep setuid and setgid bits and file capabilities.")
@option("--rebase", is_flag=True, help="Go over to another source root than the box was made from.")
@manner
def command(
    boxes: tuple[str, ...], files: tuple[str, ...], directories: tuple[str, ...],
    library_path: str, search_path: str, sysroot: str, recipes: tuple[str, ...], without: tuple[str, ...],
    users: tuple[str, ...], locales: tuple[str, ...], shelves: tuple[str, ...], allowed: tuple[str, ...],
    level: str | None, keep_privileges: bool, rebase: bool, replace: tuple[str, ...], **how: bool,
) -> int:
    """Bring each BOX up to the source root as it is now.

    With --dry-run the exit status is 3 where a box is behind.
    """
    shelf = Shelf(shelves)
    for name in (*recipes, *without):
        shelf.get(name)
    choices = Choices(Options(search_path, library_path), keep_privileges, replace, shelf, absolute(allowed))
    words = zip(UNPLACED, (recipes, users, locales), strict=True)
    more = More(tuple(unplaced(type, name) for type, some in words for name in some), without, level)
    manner = Manner(**how)
    worst = 0
    for box in boxes:
        try:
            where = f"{box}:" if len(boxes) > 1 else ""
            status = _update(box, where, files, directories, sysroot, choices, more, manner, rebase)
        except JailError as error:
            complain([_naming(cause, box) for cause in error.causes], error.hint)
            status = FAILED
        if status == FAILED or (status == BEHIND and not worst):
            worst = status
    return worst


def _naming(cause: str, box: str) -> str:
    """Return what could not be done with the box in it: there may be several."""
    return cause if box in cause else f"cannot update {box}: {cause}"


def _update(
    box: str, where: str, files: tuple[str, ...], directories: tuple[str, ...], sysroot: str, choices: Choices,
    more: More, how: Manner, rebase: bool,
) -> int:
    def make() -> tuple[Plan, Root, tuple[str, ...]]:
        manifest = manifest_of(box, "update")
        with watched(Root(sysroot)) as root:
            change, found = plan_update(root, box, Root(box), manifest, files, directories, choices,
                                        more=more.requests, without=more.without, rebase=rebase, dlopen=more.dlopen)
            if found.vanished and worker(root) is not None:  # it may be about to put them back
                gone = ", ".join(found.vanished)
                raise UnsettledError(f"cannot update {box}: the source root has no {gone} at the moment")
        return change.plan, change.source, (*found.notes, *change.notes)

    plan, is_done = carry_out(
        box, how, make, what=f"update {box}", sysroot=sysroot, keep_privileges=choices.keep_privileges,
        all_of_it=False, where=where, box_in_json=True,
    )
    if not (how.dry_run or how.quiet or how.as_json):
        if not how.verbose:
            write("".join(f"{action.kind:8} {shown(where + action.entry.path)}\n" for action in plan.changes))
        say(f"{box}: {summary(plan)}")
    if how.dry_run:
        return 0 if plan.is_done else BEHIND
    return 0 if is_done else FAILED
