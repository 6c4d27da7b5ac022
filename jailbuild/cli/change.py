"""What `add`, `remove` and `update` have in common: a plan is made, shown and carried out, or made again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from click import UNPROCESSED

from jailbuild.box.apply import Writing, apply_plan, recover
from jailbuild.box.copy import SourceChangedError
from jailbuild.box.plan import Plan
from jailbuild.box.record import BoxChangedError, refuse_others
from jailbuild.cli import say, write
from jailbuild.cli.options import as_json, option
from jailbuild.cli.progress import progress
from jailbuild.names import shown, to_json
from jailbuild.report import jsonlines
from jailbuild.root import Root

_FEW = 8  # names in a summary
_ATTEMPTS = 10  # at a box that others write to at the same time
_Command = TypeVar("_Command", bound=Callable[..., Any])


class Manner(NamedTuple):
    """How a change is to be made and told."""

    no_sync: bool
    no_wait: bool
    dry_run: bool
    as_json: bool
    quiet: bool
    verbose: bool


def manner(command: _Command) -> _Command:
    """Take the options of Manner, and --replace."""
    for decorate in (
        option("-v", "--verbose", is_flag=True, help="Name every path."),
        option("-q", "--quiet", is_flag=True, help="Say nothing where nothing is wrong."),
        as_json,
        option("--dry-run", is_flag=True, help="Print what would be done, write nothing."),
        option("--no-wait", is_flag=True, help="Do not wait for somebody else who is writing to the box."),
        option("--no-sync", is_flag=True, help="Do not wait for the disk: for boxes that are thrown away."),
        option("--replace", metavar="PATH", multiple=True, type=UNPROCESSED,
                     help="A path in the box that is yours and may go."),
    ):
        command = decorate(command)
    return command


def settle(box: str, how: Manner) -> None:
    """Finish or clean up what a killed writer has left in a box, and say so; JailError if it is another user's.

    A dry run leaves it; a plan beside half of another user's change, which may yet be finished, would be wrong.
    """
    if how.dry_run:
        refuse_others(box)
        return
    for line in recover(box, None if how.no_wait else say):
        say(f"note: {line}")


def carry_out(
    box: str, how: Manner, make: Callable[[], tuple[Plan, Root | None, tuple[str, ...]]], *,
    keep_privileges: bool = False, all_of_it: bool = True, where: str = "", box_in_json: bool = False,
) -> tuple[Plan, bool]:
    """Make a plan, show it and carry it out; return it, and whether all is as planned.

    `make` returns the plan, where its files come from, and notes. It is called again if box or source changed since.
    What stays as it is is shown to persons only if `all_of_it`, or if they want to see more. `where` goes before each
    path that is shown, `box_in_json` puts the box into each object, for commands that take several.
    """
    reports: list[str] = []
    for attempt in range(_ATTEMPTS):
        settle(box, how)
        plan, source, notes = make()
        if how.dry_run or plan.conflicts:
            break
        try:
            with progress("writing", how.quiet) as tell:
                writing = Writing(
                    keep_privileges=keep_privileges, sync=not how.no_sync, wait=None if how.no_wait else say,
                    progress=_counting(plan, tell),
                )
                reports = apply_plan(plan, box, source, writing)
            break
        except (BoxChangedError, SourceChangedError):
            if attempt == _ATTEMPTS - 1:
                raise
    say_notes(notes, how.quiet)
    show(plan, how, all_of_it=all_of_it, where=where, box=box if box_in_json else None)
    plan.refuse_conflicts()
    for report in reports:
        say(f"warning: {report}")
    return plan, not reports


def say_notes(notes: tuple[str, ...], quiet: bool) -> None:
    """Say what the user should know, each once; who wants no notes gets the warnings all the same."""
    for note in dict.fromkeys(notes):
        if note.startswith("warning: "):
            say(note)
        elif not quiet:
            say(f"note: {note}")


def _counting(plan: Plan, tell: Callable[[int, int], None] | None) -> Callable[[int], None]:
    """Return what is told each time how many bytes were copied, and tells how many of how many were."""
    if tell is None:
        return lambda _: None
    total = sum(action.entry.size or 0 for action in plan.changes if action.kind != "remove")
    done = 0

    def count(some: int) -> None:
        nonlocal done
        done += some
        tell(done, total)

    return count


def show(plan: Plan, how: Manner, *, all_of_it: bool = True, where: str = "", box: str | None = None) -> None:
    """Print a plan, where that was asked for; of one that is `all_of_it` or verbose also what stays as it is."""
    if how.as_json:
        of_box = {} if box is None else to_json("box", box)
        write("".join(jsonlines.line({**line, **of_box}) for line in plan.lines()))
    elif how.dry_run or how.verbose:
        shown_actions = [action for action in plan.actions if action.kind != "keep" or all_of_it or how.verbose]
        write("".join(f"{action.kind:8} {shown(where + action.entry.path)}\n" for action in shown_actions))


def few(names: Sequence[str], between: str = ", ") -> str:
    """Return some names for a summary."""
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return f"{between.join(names[:_FEW])}{more}"


def counted(plan: Plan, kind: str) -> str:
    """Return in words how much a plan adds, replaces or removes; "" for nothing."""
    entries = [action.entry for action in plan.actions if action.kind == kind]
    parts = []
    for type, plural in (("file", "files"), ("link", "links"), ("directory", "directories"),
                         ("device", "devices")):
        some = [entry for entry in entries if entry.type == type]
        if some:
            size = sum(entry.size or 0 for entry in some if entry.hardlink in (None, entry.path))
            much = f" ({size / 1e6:.1f} MB)" if type == "file" else ""
            parts.append(f"{len(some)} {type if len(some) == 1 else plural}{much}")
    return ", ".join(parts)


def summary(plan: Plan) -> str:
    """Return in words what was done."""
    return _in_words(plan, {"add": "wrote", "replace": "replaced", "remove": "removed"}) or "nothing to do"


def forecast(plan: Plan) -> str:
    """Return in words what would be done."""
    return _in_words(plan, {"add": "would write", "replace": "would replace", "remove": "would remove"})


def _in_words(plan: Plan, verbs: Mapping[str, str]) -> str:
    return "; ".join(f"{verb} {what}" for kind, verb in verbs.items() if (what := counted(plan, kind)))
