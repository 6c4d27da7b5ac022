"""The paths of a root that a pattern fits. Only reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import partial

from jailbuild.closure.symlinks import real_path
from jailbuild.errors import JailError
from jailbuild.packages.leftovers import is_proper
from jailbuild.root import Root

_MOST = 100_000  # names that one pattern may fit
_DEEPEST = 40  # directories that "**" goes into


def expand(root: Root, pattern: str) -> list[str]:
    """Return the paths of a root that a pattern fits, sorted: parts as fnmatch(3) with leading dots, "**" any depth.

    Links on the way are followed, but not by "**". Leftovers of package managers fit no pattern.
    """
    found = [""]
    for part in pattern[1:].split("/"):
        if part == "**":
            found = [below for path in found for below in _deep(root, path)]
        elif any(character in part for character in "*?["):
            fits = partial(_fits, part)
            found = [f"{path}/{name}" for path in found for name in _names(root, path, fits)]
        else:
            found = [f"{path}/{part}" for path in found]
        if len(found) > _MOST:
            raise JailError(f"cannot bring {pattern}: more than {_MOST} names fit", "name less")
    return sorted(path for path in found if real_path(root, path) is not None)


def _fits(part: str, name: str) -> bool:
    return fnmatchcase(name, part) and (name[0] != "." or part[0] == ".") and is_proper(name)


def _names(root: Root, path: str, fits: Callable[[str], bool]) -> list[str]:
    try:
        return root.listdir(path or "/", fits)
    except OSError:
        return []


def _deep(root: Root, path: str, depth: int = 0) -> Iterator[str]:
    yield path
    for name in _names(root, path, is_proper) if depth < _DEEPEST else ():
        below = f"{path}/{name}"
        try:
            if root.is_directory(below) and not root.walk(below).links:
                yield from _deep(root, below, depth + 1)
        except OSError:
            continue
