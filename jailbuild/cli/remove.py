"""jailbuild remove PROGRAM… --from BOX."""

from __future__ import annotations

import click

from jailbuild.box.plan import Plan
from jailbuild.box.remove import plan_removal
from jailbuild.cli import BEHIND, FAILED, Command, say
from jailbuild.cli.box import manifest_of
from jailbuild.cli.change import WriteOptions, carry_out, few, manner, summary
from jailbuild.cli.options import option
from jailbuild.names import command_line, operand
from jailbuild.root import Root


@click.command(cls=Command)
@click.argument("programs", metavar="PROGRAM...", nargs=-1, required=True, type=click.UNPROCESSED)
@option("--from", "box", metavar="BOX", required=True, type=click.Path(readable=False), help="The box.")
@manner
def command(programs: tuple[str, ...], box: str, replace: tuple[str, ...], **how: bool) -> int:
    """Take PROGRAM... out of BOX, and what only they needed.

    A program is named as it was added: its name, its path in the box, or SRC:DEST; so are files and directories.
    A package is package:NAME, or NAME where nothing else is called so.
    """
    manner = WriteOptions(**how)

    def make() -> tuple[Plan, None, tuple[str, ...]]:
        manifest = manifest_of(box, "write")
        plan = plan_removal(Root(box), box, manifest, programs, replace)
        lifted = [
            one.what
            for name, one in manifest.requests.items()
            if one.type == "exclude" and name not in plan.draft.requests
        ]
        again = command_line("jailbuild", "update", operand(box))
        notes = [f"what {pattern} kept out comes with the next {again}" for pattern in lifted]
        return plan, None, (*plan.notes, *notes)

    carried = carry_out(box, manner, make, what=f"remove {few(programs)}", all_of_it=False)
    if carried is None:
        return BEHIND
    plan, is_done = carried
    if not (manner.dry_run or manner.quiet or manner.as_json):
        say(f"{box}: {few(programs)}: {summary(plan)}")
    return 0 if is_done else FAILED
