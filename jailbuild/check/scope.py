"""A check that is narrowed to some programs (`check --program`): which they are, and what of a root is theirs."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from jailbuild.box.draft import CACHE
from jailbuild.box.manifest import Manifest
from jailbuild.check.findings import Finding
from jailbuild.check.programs import dlopen_of
from jailbuild.closure.commands import find_program
from jailbuild.closure.programs import Program, Programs
from jailbuild.errors import JailError
from jailbuild.loader.files import Files
from jailbuild.loader.model import opening_in_boxes
from jailbuild.loader.musl.config import MuslConfig
from jailbuild.loader.resolver import Loader
from jailbuild.root import Root

# What is said of a box as a whole.
_OF_ALL = frozenset(("manifest-differs", "unfinished-change", "unread-manifest", "sshd-refuses", "leftover-staging"))


def find_programs(root: Root, words: Iterable[str]) -> tuple[str, ...]:
    """Return the paths of the programs that the user names, as `add` would find them in the root (JailError)."""
    found: dict[str, None] = {}
    failures: list[str] = []
    hint = ""
    for word in words:
        try:
            request = find_program(root, word)
            if request.source is not None:
                raise JailError(f"cannot find {word}: it is looked for inside {root.path} alone")
            root.stat(request.path)
            found[request.path] = None
        except OSError:
            failures.append(f"cannot check {word}: there is no such file in {root.path}")
        except JailError as error:
            failures += [cause.replace("cannot find", "cannot check", 1) for cause in error.causes]
            hint = "name a program by its name, or by its path inside the root, which begins with /"
    if failures:
        raise JailError(failures, hint)
    return tuple(found)


def places_of(
    root: Root,
    paths: Collection[str],
    manifest: Manifest | None = None,
    dlopen: str | None = None,
) -> frozenset[str]:
    """Return the entries of a root that programs are made of: their files, the links on the way, the loaders' lists.

    What they open while they run is theirs as far as `dlopen` says, None for as much as they were put in with.
    """
    files = Files(root)
    found = {CACHE, *paths}
    for path in paths:
        try:
            real = root.walk(path).real
            opening = opening_in_boxes(dlopen or dlopen_of(manifest, real))
            program = Programs(files, Loader(files, opening=opening)).resolve(path)
        except OSError:  # the check itself will say so
            continue
        found |= _entries(root, program)
    return frozenset(found)


def _entries(root: Root, program: Program) -> set[str]:
    found: set[str] = set()
    lists = [
        part.resolution.built_in.path_file for part in program.parts if isinstance(part.resolution.built_in, MuslConfig)
    ]
    for path in (*program.files, *(part.path for part in program.parts), *lists):
        parent, _, name = path.rpartition("/")
        try:
            found.add(f"{root.walk(parent or '/').real.rstrip('/')}/{name}")
            walk = root.walk(path)
        except OSError:
            continue
        found.update(link for link, _ in walk.links)
        found.add(walk.real)
    return found


def is_of(finding: Finding, places: frozenset[str]) -> bool:
    """Say whether a finding is about one of the places, or about the box as a whole."""
    return finding.code in _OF_ALL or finding.path in places
