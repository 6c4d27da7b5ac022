"""Where a box keeps its record: names below the box."""

from __future__ import annotations

import os

DIRECTORY = ".jailbuild"
NAME = "manifest.jsonl"
JOURNAL = "journal"  # the manifest to come, from the commit until all of it is in place
STAGING = "staging"  # new files until they are in place
LOCK = "lock"  # a file that flock(2) is held on, and that says by whom


def may_be_unfinished(box: str) -> bool:
    """Say whether something of a change is to be seen in a box, at a glance: a writer is at it, or was killed."""
    record = os.path.join(box, DIRECTORY)
    return any(os.path.lexists(os.path.join(record, name)) for name in (JOURNAL, STAGING))
