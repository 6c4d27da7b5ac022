"""Where `--file SRC[:DST]` and `--dir SRC[:DST]` take something from, and where it is to stand.

With DST, SRC is a path of the caller's file system, links on the way followed, and stands at DST in the source root.
Without, it is a path of the source root, named as a program is, and stands where it is.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from jailbuild.closure.commands import canonical_place, exists, inside
from jailbuild.errors import JailError, reason
from jailbuild.names import quoted
from jailbuild.root import Root

_OTHERS = {
    "/.jailbuild": "that is for the box's own record",
    "/dev": "something is mounted there when the box is entered",
    "/proc": "something is mounted there when the box is entered",
    "/sys": "something is mounted there when the box is entered",
}


class Place(NamedTuple):
    """Where something is, and where it goes."""

    named: str  # what was asked for: the path that it is to have in the source root, links in it not followed
    source: str  # on the host, no links in it
    path: str  # canonical
    links: tuple[tuple[str, str], ...]  # of the source root, on the way to `path`
    is_laid: bool


def split(root: Root, word: str) -> tuple[str, str | None]:
    """Return SRC and DST of a word; no DST where a file has that whole name, or where it does not begin with "/"."""
    if not word or "\0" in word:
        raise JailError("cannot add '': a file needs a name")
    source, _, destination = word.rpartition(":")
    if source and destination.startswith("/") and not exists(root, word):
        return source, destination
    return word, None


def why_not(path: str) -> str | None:
    """Return why nothing of the user's may stand at a path, None where it may."""
    for other, why in _OTHERS.items():
        if path == other or path.startswith(f"{other}/"):
            return why
    return None


def _refuse(what: str, *paths: str) -> None:
    for path in paths:
        if why := why_not(path):
            raise JailError(f"{what}: {why}", "name another place, as SRC:DST")


def own_place(root: Root, word: str) -> Place:
    """Return the place of what the source root has itself: where its links lead (JailError)."""
    path = inside(root, word)
    try:
        walk = root.walk(path)
    except OSError as error:
        hint = "what is elsewhere is named SRC:DST, and DST begins with /"
        raise JailError(f"cannot add {word}: {reason(error)}", hint) from None
    _refuse(f"cannot add {word}", path, walk.real)
    return Place(path, root.host_path(walk.real), walk.real, walk.links, False)


def laid_place(root: Root, source: str, destination: str, is_directory: bool) -> Place:
    """Return the place of something of the caller's that is to stand at `destination`, in canonical form (JailError).

    A file takes the place of a link there; a directory goes where a link there leads.
    """
    if ".." in destination.split("/"):
        raise JailError(f"cannot put {source} at {destination}: a destination has no '..'")
    try:
        real = os.path.realpath(source, strict=True)
    except OSError as error:
        raise JailError(f"cannot add {source}: {reason(error)}") from None
    if destination.endswith("/") and not is_directory:
        destination += os.path.basename(source)
    path = os.path.normpath("/" + destination.lstrip("/"))
    _refuse(f"cannot put {source} at {path}", path)
    if not is_directory and (root.is_directory(path) or path in ("/run", "/tmp")):
        raise JailError(f"cannot put {source} at {path}: that is a directory", quoted(f"{source}:{path.rstrip('/')}/"))
    place = merged_place(root, path) if is_directory else canonical_place(root, path)
    if place is None:
        raise JailError(f"cannot put {source} at {path}: that is no directory", "name a place for the directory")
    _refuse(f"cannot put {source} at {path}", place)
    return Place(path, real, place, _links_to(root, path if is_directory else os.path.dirname(path)), True)


def merged_place(root: Root, path: str) -> str | None:
    """Return where a directory stands that is put at `path`, None where something else is."""
    try:
        real = root.walk(path).real
    except FileNotFoundError:
        return canonical_place(root, path)
    except OSError as error:
        raise JailError(f"cannot put a directory at {path}: {reason(error)}") from None
    return real if root.is_directory(real) else None


def _links_to(root: Root, path: str) -> tuple[tuple[str, str], ...]:
    """Return the links of the root on the way to `path`, whose last directories may not be there."""
    while path != "/":
        try:
            return root.walk(path).links
        except OSError:
            path = os.path.dirname(path)
    return ()
