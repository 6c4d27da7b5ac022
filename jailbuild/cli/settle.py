"""What every command that reads does first with a box: what a killed writer has left in it is seen to, or said."""

from __future__ import annotations

from jailbuild.box.layout import JOURNAL, may_be_unfinished
from jailbuild.cli import say
from jailbuild.errors import JailError
from jailbuild.root import Root


def settle(box: str) -> None:
    """Finish or clean up what a killed writer of our own has left in a box, and say so; of another user's say so alone.

    Nothing while a living writer is at it.
    """
    if not may_be_unfinished(box):
        return
    from jailbuild.box.apply import recover  # only who needs it: it writes
    from jailbuild.box.leftover import others_leftover, recover_command

    try:
        left = others_leftover(Root(box))
        if left is not None:
            end = "finishes it" if left.what == JOURNAL else "takes it back"
            say(f"warning: {left.words(box)}: {recover_command(box)} {end}")
            return
        for line in recover(box, None):
            say(f"note: {line}")
    except JailError as error:
        for cause in error.causes:
            say(f"warning: a change of {box} was cut short, and is not finished: {cause}")
