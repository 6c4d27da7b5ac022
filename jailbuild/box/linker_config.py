"""musl's list of directories (/etc/ld-musl-ARCH.path) as a box has it where its source root's own does not do."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable

from jailbuild.box.manifest import Entry, Manifest
from jailbuild.loader.musl.config import DIRECTORIES, added, write_list
from jailbuild.root import Root

_MAX_LIST = 1 << 20  # bytes
LISTED = "listed"  # how a library asks for the list that leads to it


def is_list(path: str) -> bool:
    """Say whether a path is that of such a list."""
    directory, name = os.path.split(path)
    return directory.endswith("/etc") and name.startswith("ld-musl-") and name.endswith(".path")


def is_made(entry: Entry) -> bool:
    """Say whether an entry is a list that we made."""
    return entry.source is None and entry.type == "file" and is_list(entry.path)


def made_list(root: Root, path: str, directories: Iterable[str], carried: bytes | None) -> bytes:
    """Return the text of the list at `path`: more directories, and what was `carried` over, before the root's own.

    They stand in the order of their names: the same, whoever asked first.
    """
    before = added(carried)[0] if carried is not None else ()
    try:
        own = root.read(path, _MAX_LIST)
    except OSError as error:  # as the loader does: it takes its own directories only where there is no list
        own = "".join(f"{one}\n" for one in DIRECTORIES).encode() if error.errno == errno.ENOENT else b""
    return write_list(sorted({*before, *directories}), own)


def entry_of(path: str, data: bytes) -> Entry:
    """Return the entry of a made list."""
    return Entry(path, "file", 0o644, 0, 0, len(data), 0)


def kept(before: Manifest, entry: Entry, box: Root) -> bytes | None:
    """Return the box's list with only the directories that lead to `entry`; None if it is not as we made it."""
    try:
        data = box.read(entry.path, _MAX_LIST)
    except OSError:
        return None
    if hashlib.sha256(data).hexdigest() != before.entries[entry.path].sha256:
        return None
    directories, own = added(data)
    still = {os.path.dirname(reason.by) for reason in entry.reasons if reason.how == LISTED}
    left = [directory for directory in directories if _real(box, directory) in still]
    return write_list(left, own) if left else own


def _real(box: Root, directory: str) -> str | None:
    try:
        return box.walk(directory).real
    except OSError:
        return None
