"""Opening the box that a command was given."""

from __future__ import annotations

import os

from jailbuild.box.manifest import DIRECTORY, JOURNAL, STAGING, Manifest, read_manifest
from jailbuild.cli import say
from jailbuild.errors import JailError
from jailbuild.root import Root


def settle(box: str) -> None:
    """Finish or clean up what a killed writer has left in a box, and say so; nothing while a living one is at it."""
    record = os.path.join(box, DIRECTORY)
    if not any(os.path.lexists(os.path.join(record, name)) for name in (JOURNAL, STAGING)):
        return
    from jailbuild.box.apply import recover  # only who needs it: it writes

    try:
        for line in recover(box, None):
            say(f"note: {line}")
    except JailError as error:
        for cause in error.causes:
            say(f"warning: a change of {box} was cut short, and is not finished: {cause}")


def manifest_of(box: str, verb: str) -> Manifest:
    """Return the manifest of a box (JailError "cannot VERB …" if it is no box)."""
    settle(box)
    try:
        root = Root(box)
    except JailError as error:
        raise JailError([cause.replace("cannot open", f"cannot {verb}", 1) for cause in error.causes]) from None
    manifest = read_manifest(root, box)
    if manifest is None:
        raise JailError(f"cannot {verb} {box}: it has no manifest", "jailbuild add makes boxes; check takes any root")
    return manifest
