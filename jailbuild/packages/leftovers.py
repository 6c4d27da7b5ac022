"""The names that package managers give to what they have not put in place yet, or have put aside.

dpkg: lib/dpkg/dpkg.h, dpkg-maintscript-helper(1). ucf(1). rpm: lib/fsm.c, whose files are NAME;TID, in hex, until they
get their names. apk: src/fs_fsys.c. pacman(8), whose saved files may have a number.
"""

from __future__ import annotations

import re

_ENDS = (
    ".dpkg-new",
    ".dpkg-tmp",
    ".dpkg-old",
    ".dpkg-dist",
    ".dpkg-bak",
    ".dpkg-backup",
    ".dpkg-remove",
    ".dpkg-staging-dir",
    ".ucf-new",
    ".ucf-old",
    ".ucf-dist",
    ".rpmnew",
    ".rpmsave",
    ".rpmorig",
    ".apk-new",
    ".pacnew",
    ".pacsave",
    ".pacorig",
)
_MARKS = (";", ".apk.", ".pacsave.")  # one of them is in each of the following
_OTHERS = r".+;[0-9a-f]{8}|\.apk\.[0-9a-f]{16,}|.+\.pacsave\.[0-9]+"


def is_proper(name: str) -> bool:
    """Say whether a file's name, without directories, is none of these."""
    if name.endswith(_ENDS):
        return False
    return not any(mark in name for mark in _MARKS) or re.fullmatch(_OTHERS, name, re.DOTALL) is None
