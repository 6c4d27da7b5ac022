"""jailbuild update BOX…."""

from __future__ import annotations

from typing import NamedTuple

import click

from jailbuild.box.apply import recover_anyones
from jailbuild.box.manifest import RecordedRequest
from jailbuild.box.ownership import rules
from jailbuild.box.plan import Plan
from jailbuild.box.target import PlanOptions
from jailbuild.box.update import plan_update
from jailbuild.cli import BEHIND, FAILED, Command, complain, say, write
from jailbuild.cli.box import manifest_of
from jailbuild.cli.change import WriteOptions, carry_out, few, forecast, manner, summary
from jailbuild.cli.options import absolute, dlopen, knowing, naming_source, option, resolving
from jailbuild.closure.catalog import RecipeCatalog
from jailbuild.closure.commands import UNPLACED, Request, unplaced
from jailbuild.closure.gathering import Options
from jailbuild.errors import JailError, UnsettledError
from jailbuild.names import shown
from jailbuild.packages.activity import watched, worker
from jailbuild.report.packages import package_lines
from jailbuild.root import Root

_RECOVERING = ("boxes", "recover", "no_wait", "quiet")  # the parameters that go with --recover


class UpdateSpec(NamedTuple):
    """What boxes are to have beside what they have, and what is to be otherwise."""

    requests: tuple[Request, ...]
    rules: tuple[RecordedRequest, ...]
    without: tuple[str, ...]  # recipes that are not to apply
    dlopen: str | None  # None: as it was


@click.command(cls=Command)
@click.argument("boxes", metavar="BOX...", nargs=-1, required=True, type=click.Path(readable=False))
@option(
    "--file",
    "files",
    metavar="SRC[:DST]",
    multiple=True,
    type=click.UNPROCESSED,
    help="Where a file that was put in by path comes from: nothing in a box is believed about that.",
)
@option(
    "--dir", "directories", metavar="SRC[:DST]", multiple=True, type=click.UNPROCESSED, help="Likewise a directory."
)
@resolving
@knowing
@dlopen
@option("--keep-privileges", is_flag=True, help="Keep setuid and setgid bits and file capabilities.")
@option("--rebase", is_flag=True, help="Accept a different source root than the box was made from.")
@option("--recover", is_flag=True, help="Only finish or take back a change that was cut short, whoever made it.")
@manner
def command(
    boxes: tuple[str, ...],
    files: tuple[str, ...],
    directories: tuple[str, ...],
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
    keep_privileges: bool,
    rebase: bool,
    recover: bool,
    replace: tuple[str, ...],
    **how: bool,
) -> int:
    """Bring each BOX up to the source root as it is now.

    With --dry-run the exit status is 3 where a box is behind.
    """
    if recover:
        _refuse_more(click.get_current_context())
        return max(_recover(box, WriteOptions(**how)) for box in boxes)
    catalog = RecipeCatalog(shelves)
    for name in (*recipes, *without):
        catalog.get(name)
    choices = PlanOptions(Options(search_path, library_path), keep_privileges, replace, catalog, absolute(allowed))
    words = zip(UNPLACED, (recipes, users, locales), strict=True)
    more = UpdateSpec(
        tuple(unplaced(type, name) for type, some in words for name in some),
        tuple(rules(excludes, unmanaged)),
        without,
        level,
    )
    manner = WriteOptions(**how)
    worst = 0
    for box in boxes:
        try:
            where = f"{box}:" if len(boxes) > 1 else ""
            with naming_source(tuple(other for other in boxes if other != box)):
                status = _update(box, where, files, directories, sysroot, choices, more, manner, rebase)
        except JailError as error:
            complain([_naming(cause, box) for cause in error.causes], error.hint)
            status = FAILED
        if status == FAILED or (status == BEHIND and not worst):
            worst = status
    return worst


def _refuse_more(context: click.Context) -> None:
    """Raise a UsageError for an option that says nothing of a change that was made before."""
    for parameter in context.command.params:
        name = parameter.name or ""
        if name not in _RECOVERING and context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE:
            option = max(parameter.opts, key=len)
            raise click.UsageError(f"--recover takes no {option}: it only ends a change that was begun.")


def _recover(box: str, how: WriteOptions) -> int:
    """Finish or take back what somebody's change that was cut short has left in a box, and say so."""
    try:
        done, *reports = recover_anyones(box, None if how.no_wait else say) or [f"{box}: nothing to recover"]
    except JailError as error:
        complain([cause.replace("cannot open", "cannot recover", 1) for cause in error.causes], error.hint)
        return FAILED
    if not how.quiet:
        say(done)
    for report in reports:
        say(f"warning: {report}")
    return FAILED if reports else 0


def _naming(cause: str, box: str) -> str:
    """Return what could not be done with the box in it: there may be several."""
    return cause if box in cause else f"cannot update {box}: {cause}"


def _update(
    box: str,
    where: str,
    files: tuple[str, ...],
    directories: tuple[str, ...],
    sysroot: str | None,
    choices: PlanOptions,
    more: UpdateSpec,
    how: WriteOptions,
    rebase: bool,
) -> int:
    def make() -> tuple[Plan, Root, tuple[str, ...]]:
        manifest = manifest_of(box, "update")
        with watched(Root(sysroot or "/")) as root:
            change, found = plan_update(
                root,
                box,
                Root(box),
                manifest,
                files,
                directories,
                choices,
                more=more.requests,
                rules=more.rules,
                without=more.without,
                rebase=rebase,
                dlopen=more.dlopen,
                is_named=sysroot is not None,
            )
            if found.vanished and worker(root) is not None:  # it may be about to put them back
                gone = ", ".join(found.vanished)
                raise UnsettledError(f"cannot update {box}: the source root has no {gone} at the moment")
        return change.plan, change.source, (*found.notes, *change.notes)

    carried = carry_out(
        box,
        how,
        make,
        what=f"update {box}",
        sysroot=sysroot,
        keep_privileges=choices.keep_privileges,
        all_of_it=False,
        where=where,
        box_in_json=True,
    )
    if carried is None:
        return BEHIND
    plan, is_done = carried
    if not (how.quiet or how.as_json):
        if not (how.dry_run or how.verbose or where):
            write("".join(f"{action.kind:8} {shown(action.entry.path)}\n" for action in plan.changes))
        _tell(plan, box, how, is_one_of_many=bool(where))
    if how.dry_run:
        return 0 if plan.is_current else BEHIND
    return 0 if is_done else FAILED


def _tell(plan: Plan, box: str, how: WriteOptions, *, is_one_of_many: bool) -> None:
    """Say what became of a box, or would: by package too, in a line where there are several boxes."""
    lines = package_lines(plan)
    if how.dry_run:
        what = "is up to date" if plan.is_current else forecast(plan) or "would record other requests"
    else:
        what = summary(plan)
    if is_one_of_many:
        say(f"{box}: {what}" + (f" ({few(lines, '; ')})" if lines else ""))
        return
    say(f"{box}: {what}")
    for line in lines:
        say(f"  {line}")
