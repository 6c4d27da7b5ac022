"""Our answer for a world, and how it differs from the loader's."""

from __future__ import annotations

import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jailbuild.loader import paths
from jailbuild.loader.files import Files
from jailbuild.loader.glibc.config import LdsoConfig
from jailbuild.loader.model import Library, Resolution
from jailbuild.loader.resolver import Loader
from jailbuild.root import Root
from tests.worlds import oracle
from tests.worlds.oracle import Answer
from tests.worlds.world import Elf, Workshop, World

_NOBODY = 65534
VDSO = "linux-vdso.so.1"


@contextmanager
def _as(plain_user: bool) -> Iterator[None]:
    """Be a user for whom permissions count."""
    if not plain_user:
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(_NOBODY)
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def resolve(world: World, directory: Path) -> Resolution:
    """Return what we say."""
    root = Root(str(directory))
    with _as(world.plain_user):
        return Loader(Files(root), library_path=world.library_path, preload=world.preload).resolve(world.program)


def differences(world: World, ours: Resolution, theirs: Answer) -> list[str]:
    """Return in words where the answers differ: the kind of difference, a colon, what is what."""
    if (ours.error is None) != (theirs.error is None):
        said = ours.error.text if ours.error else None
        return [f"error: ours {said!r}, the loader's {theirs.error!r}"]
    if ours.error is not None and theirs.error is not None:
        return _errors(ours.error.subject, ours.error.text, theirs.error)
    found = []
    steps = dict(theirs.found_by)
    filtees = _filtees(world, ours)
    before = [library for library in filtees if library.path not in {path for _, path in theirs.libraries}]
    for library in before:
        if library.found_by not in ("path", "interpreter") and library.path not in steps:
            found.append(f"filtees: ours {library.path}, which the loader did not look at")
    mine = tuple((library.name, library.path) for library in ours.libraries if library not in before)
    if not theirs.listed:
        mine = ()
    if VDSO in str(world):  # whose place in the link map confuses that of the loader, in the list alone
        loader = ours.interpreter
        theirs = theirs._replace(libraries=tuple(pair for pair in theirs.libraries if pair[1] != loader))
        mine = tuple(pair for pair in mine if pair[1] != loader)
    if [path for _, path in mine] != [path for _, path in theirs.libraries]:
        kind = "order" if sorted(mine) == sorted(theirs.libraries) else "libraries"
        found.append(f"{kind}:\n  ours   {_list(mine)}\n  loader {_list(theirs.libraries)}")
    elif any(our != their for our, their in zip(mine, theirs.libraries, strict=True) if our[1] != ours.interpreter):
        found.append(f"names:\n  ours   {_list(mine)}\n  loader {_list(theirs.libraries)}")
    absent = Counter(one.name for one in ours.missing for request in one.requests if request.how != "preload")
    more = Counter(theirs.missing) - absent
    # a trace lists an absent DT_AUXILIARY too
    auxiliary = {os.path.basename(name) for name in _auxiliary(world)}
    owners = {world.program, *(library.path for library in filtees)}
    unlisted = Counter(
        one.name for one in ours.missing for edge in one.requests if edge.how == "filter" and edge.by in owners
    )
    if theirs.listed and (
        absent - Counter(theirs.missing) - unlisted or any(os.path.basename(name) not in auxiliary for name in more)
    ):
        found.append(f"missing: ours {sorted(absent.elements())}, the loader's {sorted(theirs.missing)}")
    ignored = [one.name for one in ours.missing for request in one.requests if request.how == "preload"]
    if sorted(ignored) != sorted(theirs.ignored):
        found.append(f"ignored preloads: ours {ignored}, the loader's {list(theirs.ignored)}")
    for library in ours.libraries:
        step = steps.get(library.path)
        if library.found_by in ("path", "interpreter") or step is None or library in filtees:
            continue
        if step != library.found_by and not _shared(world, ours, library.path):
            found.append(f"found by: {library.path} ours {library.found_by}, the loader's {step}")
    return found


def _filtees(world: World, ours: Resolution) -> list[Library]:
    """Return the filtees of the program, and theirs: the loader loads them, and lists none of them for that."""
    owners = {world.program}
    found: list[Library] = []
    for library in (*reversed(ours.libraries), *ours.libraries):  # a filtee mostly comes before its filter
        by = {edge.by for edge in library.requests if edge.how in ("filter", "auxiliary")}
        if by & owners and library not in found:
            owners.add(library.path)
            found.append(library)
    return found


def _errors(subject: str, text: str, said: str) -> list[str]:
    if said.startswith("exec: "):
        return []
    name, _, why = said.partition(": ")
    if os.path.basename(name) != os.path.basename(subject):
        return [f"subject: ours {text!r}, the loader's {said!r}"]
    why = re.sub("Error ([0-9]+)", lambda number: os.strerror(int(number[1])), why)  # ld.so has no words for it
    same = why in text or (why == "cannot read file data" and "the file is too short" in text)
    return [] if same else [f"words: ours {text!r}, the loader's {said!r}"]


def _list(pairs: tuple[tuple[str, str], ...]) -> str:
    return "  ".join(f"{name}={path}" for name, path in pairs) or "nothing"


def _auxiliary(world: World) -> list[str]:
    elves = [node.thing for node in world.nodes if isinstance(node.thing, Elf)]
    names = [str(value) for elf in elves for tag, value in elf.tags if tag == "AUXILIARY"]
    tokens = paths.Tokens("/x", "lib/x86_64-linux-gnu", "x86_64")
    return [paths.expand(name, tokens) or name for name in names]


def _shared(world: World, ours: Resolution, path: str) -> bool:
    """Say whether a directory stands in lists of several kinds: the loader keeps the kind that it met first."""
    built_in = ours.built_in
    if not isinstance(built_in, LdsoConfig):
        return True
    kinds: dict[str, set[str]] = {"default": set(built_in.directories)}
    for node in world.nodes:
        tokens = paths.Tokens(posixpath.dirname(node.path), built_in.lib, built_in.platform)  # one is the program
        kinds.setdefault("llp", set()).update(paths.directories(world.library_path, ":;", tokens))
        if isinstance(node.thing, Elf):
            for base in {posixpath.dirname(node.path), *(posixpath.dirname(one.path) for one in ours.libraries)}:
                tokens = paths.Tokens(base, built_in.lib, built_in.platform)
                for tag, value in node.thing.tags:
                    if tag in ("RPATH", "RUNPATH"):
                        kinds.setdefault(tag, set()).update(paths.directories(str(value), ":", tokens))
    holding = [
        kind
        for kind, listed in kinds.items()
        if any(
            path.startswith(directory) and path.removeprefix(directory).count("/") in range(6) for directory in listed
        )
    ]
    return len(holding) > 1


def judge(workshop: Workshop, world: World) -> tuple[list[str], Answer]:
    """Build a world, ask both, and return the differences; a crash of the loader is none."""
    with workshop.built(world) as directory:
        theirs = oracle.ask(world, directory)
        if theirs.crashed:
            return [], theirs
        try:
            ours = resolve(world, directory)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a difference
            return [f"exception: {type(error).__name__}: {error}"], theirs
        return differences(world, ours, theirs), theirs
