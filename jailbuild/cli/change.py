"""What `add`, `remove` and `update` have in common: a plan is made, shown and carried out, or made again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from click import UNPROCESSED

from jailbuild.box.apply import Writing, apply_plan, recover
from jailbuild.box.layout import JOURNAL
from jailbuild.box.leftover import own_leftover, refuse_others
from jailbuild.box.plan import Plan
from jailbuild.box.record import BoxChangedError
from jailbuild.cli import say, write
from jailbuild.cli.options import as_json, option
from jailbuild.cli.progress import progress
from jailbuild.errors import JailError, SourceChangedError, UnsettledError
from jailbuild.names import shown, to_json
from jailbuild.packages.activity import worker, written
from jailbuild.report import jsonlines
from jailbuild.root import Root

_FEW = 8  # names in a summary
# seconds between attempts at a source root that changes, some 5 in all; as often at a box that others write to
_PAUSES = tuple(0.01 * 2**number for number in range(9))
_Command = TypeVar("_Command", bound=Callable[..., Any])
_Result = TypeVar("_Result")


class WriteOptions(NamedTuple):
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
        option(
            "--replace",
            metavar="PATH",
            multiple=True,
            type=UNPROCESSED,
            help="Overwrite or delete this locally modified path.",
        ),
    ):
        command = decorate(command)
    return command


def settle(box: str, how: WriteOptions) -> bool:
    """Finish or clean up what a killed writer has left in a box, and say so; JailError if it is another user's.

    A dry run leaves it. False where it can make no plan, which is said.
    """
    if how.dry_run:
        return is_whole(box)
    for line in recover(box, None if how.no_wait else say):
        say(f"note: {line}")
    return True


def is_whole(box: str) -> bool:
    """Say whether a plan can be made that nothing is written for: beside half of a change it would be wrong.

    What is left of one's own change is named; JailError if it is another user's.
    """
    refuse_others(box)
    left = own_leftover(Root(box)) if os.path.isdir(box) else None
    if left is None:
        return True
    end = "finishes it" if left.what == JOURNAL else "cleans up after it"
    say(f"note: a change of {box} was cut short: the next command {end}")
    return left.what != JOURNAL


def until_at_rest(what: str, sysroot: str | None, work: Callable[[], _Result]) -> _Result:
    """Return what `work` gives; where box or source root change under it, it is done anew, a bounded number of times.

    JailError where the source root does not come to rest: cannot do `what`, with who is at work there. What fails all
    the time while nothing is written there is told as it is: a package manager may wait for an answer.
    """
    who = before = None
    is_moving = False
    for pause in (*_PAUSES, None):
        try:
            return work()
        except BoxChangedError:
            if pause is None:
                raise
        except SourceChangedError as error:
            root = Root(sysroot or "/")
            who = worker(root) or who
            now = written(root)
            before = before or now
            is_moving = is_moving or not isinstance(error, UnsettledError) or now != before
            if pause is None:
                raise _unsettled(what, error, f"{who or ''}", is_moving) from None
            time.sleep(pause)
    raise AssertionError("unreachable")


def _unsettled(what: str, error: SourceChangedError, who: str, is_moving: bool) -> JailError:
    if not is_moving:
        return JailError(error.causes, f"{who or 'a package manager'} is at work in the source root: try again later")
    if who:
        return JailError(
            f"cannot {what}: the source root keeps changing: {who} is at work there", "try again when it has ended"
        )
    _, _, last = error.causes[0].removeprefix("cannot ").partition(" ")  # which path, and why
    return JailError(f"cannot {what}: the source root keeps changing: {last}", "try again when it is at rest")


def carry_out(
    box: str,
    how: WriteOptions,
    make: Callable[[], tuple[Plan, Root | None, tuple[str, ...]]],
    *,
    what: str,
    sysroot: str | None = None,
    keep_privileges: bool = False,
    all_of_it: bool = True,
    where: str = "",
    box_in_json: bool = False,
) -> tuple[Plan, bool] | None:
    """Make a plan, show it and carry it out; return it, and whether all is as planned; None where `settle` says False.

    `make` returns the plan, where its files come from, and notes. It is called again if box or source changed since;
    `what` is to be done from which source root, errors say in words.
    What stays as it is is shown to persons only if `all_of_it`, or if they want to see more. `where` goes before each
    path that is shown, `box_in_json` puts the box into each object, for commands that take several.
    """

    def attempt() -> tuple[Plan, tuple[str, ...], list[str]] | None:
        if not settle(box, how):
            return None
        plan, source, notes = make()
        if how.dry_run or plan.conflicts:
            return plan, notes, []
        with progress("writing", how.quiet) as tell:
            writing = Writing(
                keep_privileges=keep_privileges,
                sync=not how.no_sync,
                wait=None if how.no_wait else say,
                progress=_counting(plan, tell),
            )
            try:
                return plan, notes, apply_plan(plan, box, source, writing)
            except (BoxChangedError, SourceChangedError):
                raise
            except JailError as error:
                if source is not None and source.changed() is not None:
                    raise SourceChangedError(error.causes, error.hint) from error
                raise

    done = until_at_rest(what, sysroot, attempt)
    if done is None:
        return None
    plan, notes, reports = done
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


def show(plan: Plan, how: WriteOptions, *, all_of_it: bool = True, where: str = "", box: str | None = None) -> None:
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
    for type, plural in (("file", "files"), ("link", "links"), ("directory", "directories"), ("device", "devices")):
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
