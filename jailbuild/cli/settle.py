"""What every command does first with a box: what a killed writer has left in it is finished or cleaned up."""

from __future__ import annotations

import os

from jailbuild.box.layout import DIRECTORY, may_be_unfinished
from jailbuild.cli import say
from jailbuild.errors import JailError


def settle(box: str) -> None:
    """Finish or clean up what a killed writer has left in a box, and say so; nothing while a living one is at it.

    Root does so only in boxes of root's: the owners and modes in a journal are its owner's word.
    """
    if not may_be_unfinished(box):
        return
    try:
        owner = os.lstat(os.path.join(box, DIRECTORY)).st_uid
    except OSError:
        return
    if owner != os.geteuid():
        say(f"warning: a change of {box} was cut short; uid {owner}, whose box it is, can finish it")
        return
    from jailbuild.box.apply import recover  # only who needs it: it writes

    try:
        for line in recover(box, None):
            say(f"note: {line}")
    except JailError as error:
        for cause in error.causes:
            say(f"warning: a change of {box} was cut short, and is not finished: {cause}")
