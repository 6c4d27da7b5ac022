"""What glibc's loader of one machine has built in, and what is taken for granted where its bytes do not tell."""

from __future__ import annotations

import os
from typing import NamedTuple

from jailbuild.loader import arch
from jailbuild.loader.files import File, Files
from jailbuild.loader.glibc.ld_cache import Cache
from jailbuild.loader.probe import LdsoProperties

_HWCAPS_SINCE = (2, 33)


class LdsoConfig(NamedTuple):
    """What one binary of glibc's loader has built in."""

    kind: arch.ElfTarget
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
    files: Files, path: str, kind: arch.ElfTarget, file: File | None, levels: tuple[str, ...] | None
) -> LdsoConfig:
    """Read what the loader binary at `path` has built in; what it does not tell, or if there is none, is upstream's.

    `levels` are the glibc-hwcaps of the processor, None for this machine's own.
    """
    machine = arch.machine(kind)
    facts = LdsoProperties() if file is None else files.facts(path, file)
    version = facts.version or (2, 36)
    directories = facts.directories or tuple(directory + "/" for directory in machine.directories)
    usable: tuple[str, ...] = ()
    if version >= _HWCAPS_SINCE:
        wanted = arch.cpu_levels(machine.levels) if levels is None else levels
        usable = tuple(level for level in machine.levels if level in wanted)
    subdirectories = [f"glibc-hwcaps/{level}/" for level in usable]
    subdirectories += [f"{name}/" for name in arch.legacy_subdirectories(kind, version, usable)]
    return LdsoConfig(
        kind,
        path,
        file.elf.soname or "" if file else os.path.basename(path),
        file,
        version,
        directories,
        facts.lib or directories[0].strip("/"),
        arch.platform(kind, version, usable),
        tuple(subdirectories),
        usable,
        facts.lenient,
        arch.legacy_hwcaps(kind, version),
        files.cache(facts.cache),
    )
