"""Our answer for a world of musl's, and how it differs from its loader's."""

from __future__ import annotations

import os
from collections import Counter

from jailbuild.loader.model import Resolution
from tests.worlds import musl_oracle
from tests.worlds.compare import resolve
from tests.worlds.musl_oracle import Answer
from tests.worlds.world import Workshop, World


def differences(ours: Resolution, theirs: Answer) -> list[str]:
    """Return in words where the answers differ: the kind of difference, a colon, what is what."""
    if theirs.error is not None:
        return [] if ours.error is not None else [f"error: ours none, the kernel's {theirs.error!r}"]
    found = []
    mine = [library.path for library in ours.libraries if theirs.started or library.found_by != "interpreter"]
    if mine != list(theirs.libraries):
        kind = "order" if sorted(mine) == sorted(theirs.libraries) else "libraries"
        found.append(f"{kind}:\n  ours   {'  '.join(mine)}\n  loader {'  '.join(theirs.libraries)}")
    names = [(library.name, library.path) for library in ours.libraries if library.found_by != "interpreter"]
    if not found and names != list(theirs.names):
        found.append(f"names:\n  ours   {names}\n  loader {list(theirs.names)}")
    absent = Counter((one.name, edge.by) for one in ours.missing for edge in one.requests if edge.how != "preload")
    said = Counter((name, by) for name, by, _ in theirs.failed)
    if absent - said:
        found.append(f"missing: ours {sorted((absent - said).elements())} more, the loader's {theirs.failed}")
    fatal = []
    for name, by, words in theirs.failed:
        if absent[name, by]:
            absent[name, by] -= 1
        else:
            fatal.append((name, by, words))
    if bool(fatal) != (ours.error is not None):
        found.append(f"error: ours {ours.error and ours.error.text!r}, the loader's {fatal}")
    elif ours.error is not None:
        name, by, _ = fatal[0]
        if os.path.basename(name or by) != os.path.basename(ours.error.subject):
            found.append(f"subject: ours {ours.error.text!r}, the loader's {fatal[0]}")
    return found


def judge(workshop: Workshop, world: World) -> tuple[list[str], Answer]:
    """Build a world, ask both, and return the differences; a crash of the loader is none."""
    with workshop.built(world) as directory:
        theirs = musl_oracle.ask(world, directory)
        if theirs.crashed:
            return [], theirs
        try:
            ours = resolve(world, directory)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a difference
            return [f"exception: {type(error).__name__}: {error}"], theirs
        return differences(ours, theirs), theirs
