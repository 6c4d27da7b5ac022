"""What glibc's loader of one machine has built in, and what is taken for granted where its bytes do not tell."""

from __future__ import annotations

import os
from typing import NamedTuple

from jailbuild.loader import machines
from jailbuild.loader.cache import Cache
from jailbuild.loader.facts import Facts
from jailbuild.loader.files import File, Files

_HWCAPS_SINCE = (2, 33)


class BuiltIn(NamedTuple):
    """What one binary of glibc's loader has built in."""

    kind: machines.Kind
    name: str  # PT_INTERP's string
    soname: str
    file: File | None
    version: tuple[int, int]
    directories: tuple[str, ...]  # with a slash at the end
    lib: str  # what $LIB stands for
    platform: str | None  # what $PLATFORM stands for
    subdirectories: tuple[str, ...]  # tried below each directory, best first, each with a slash at the end
    levels: tuple[str, ...]
    lenient: bool  # Debian's: passes over a file of another machine whatever else its first bytes say
    hwcaps: int  # the bits that an entry of the cache may ask for beside a level
    cache: Cache | None


def read_built_in(
    files: Files, path: str, kind: machines.Kind, file: File | None, levels: tuple[str, ...] | None
) -> BuiltIn:
    """Read what the loader binary at `path` has built in; what it does not tell, or if there is none, is upstream's.

    `levels` are the glibc-hwcaps of the processor, None for this machine's own.
    """
    machine = machines.machine(kind)
    facts = Facts() if file is None else files.facts(path, file)
    version = facts.version or (2, 36)
    directories = facts.directories or tuple(directory + "/" for directory in machine.directories)
    usable: tuple[str, ...] = ()
    if version >= _HWCAPS_SINCE:
        wanted = machines.cpu_levels(machine.levels) if levels is None else levels
        usable = tuple(level for level in machine.levels if level in wanted)
    subdirectories = [f"glibc-hwcaps/{level}/" for level in usable]
    subdirectories += [f"{name}/" for name in machines.legacy_subdirectories(kind, version, usable)]
    return BuiltIn(
        kind, path, file.elf.soname or "" if file else os.path.basename(path), file, version, directories,
        facts.lib or directories[0].strip("/"), machines.platform(kind, version, usable), tuple(subdirectories),
        usable, facts.lenient, machines.legacy_hwcaps(kind, version), files.cache(facts.cache),
    )
