"""The set-id files that jailbuild has put into a box (--keep-privileges): they are not to be changed from inside.

Who writes to a set-id file takes its bits away, unless he has CAP_FSETID, which the box has not: file_remove_privs(),
fs/inode.c. But who writes by a shared mapping, mmap(2), does not. The file with another content would be a program of
root's for any user of the host who can reach the box.
"""

from __future__ import annotations

import os
import re
import stat

from jailbuild.box.layout import DIRECTORY, NAME
from jailbuild.root import Root

_MOST = 1 << 28  # bytes of a manifest, as box/manifest.py reads it
_SET_ID = stat.S_ISUID | stat.S_ISGID
# As the manifest's lines have it. They are not parsed: nearly no box has one, and each is entered often.
_FILE = re.compile(rb'"type": "file", "mode": "[2-7]')
_PATH = re.compile(rb'\{"kind": "entry", "path": ("(?:[^"\\]|\\.)*"), (?:"path_b64": "([^"]*)", )?"type": "file"')


def privileged_files(root: Root) -> tuple[str, ...]:
    """Return the paths of the set-id files that the box's manifest lists, and that are set-id yet."""
    try:
        manifest = root.read(f"/{DIRECTORY}/{NAME}", _MOST)
    except OSError:  # none, or not for us to read
        return ()
    found = []
    for match in _FILE.finditer(manifest):
        line = _PATH.match(manifest, manifest.rfind(b"\n", 0, match.start()) + 1)
        path = _path(line[1], line[2]) if line else None
        if path is not None and _is_privileged(root, path):
            found.append(path)
    return tuple(found)


def _path(text: bytes, coded: bytes | None) -> str | None:
    """Return a path of a manifest's line; None if it is none. What reads it is imported for who has such a line."""
    import base64
    import json

    try:
        path = os.fsdecode(base64.b64decode(coded)) if coded else json.loads(text)
        return path if os.fsencode(path).startswith(b"/") and "\0" not in path else None
    except ValueError:
        return None


def _is_privileged(root: Root, path: str) -> bool:
    try:
        mode = root.lstat(path).st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) and bool(mode & _SET_ID)
