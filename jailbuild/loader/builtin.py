"""What a loader binary has built in: read from its bytes, never by running it."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from jailbuild.loader import machines
from jailbuild.loader.cache import Cache
from jailbuild.loader.files import File, Files

_HWCAPS_SINCE = (2, 33)
_MAX_LOADER = 64 << 20  # bytes; ld.so has some 200 kB


class BuiltIn(NamedTuple):
    """What one loader binary has built in."""

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
    data = b""
    if file is not None:
        try:
            data = files.root.read(files.absolute(path), _MAX_LOADER)
        except OSError:
            pass
    version = (2, 36)
    if match := re.search(rb"release version (\d{1,3})\.(\d{1,3})", data):
        version = (int(match[1]), int(match[2]))
    directories = tuple(directory + "/" for directory in machine.directories)
    for match in re.finditer(rb"\0(/[\x21-\x7e]*/\0(?:/[\x21-\x7e]*/\0)+)", data):
        listed = os.fsdecode(match[1]).rstrip("\0").split("\0")
        if all("lib" in directory for directory in listed):
            directories = tuple(listed)
            break
    cache = "/etc/ld.so.cache"
    if match := re.search(rb"\0(/[\x21-\x7e]*/ld\.so\.cache)\0", data):
        cache = os.fsdecode(match[1])
    lib = directories[0].strip("/")
    if match := re.search(rb"\0(lib(?:64|32|x32)?(?:/[\w.-]+)*)\0", data):
        lib = os.fsdecode(match[1])
    usable: tuple[str, ...] = ()
    if version >= _HWCAPS_SINCE:
        wanted = machines.cpu_levels(machine.levels) if levels is None else levels
        usable = tuple(level for level in machine.levels if level in wanted)
    subdirectories = [f"glibc-hwcaps/{level}/" for level in usable]
    subdirectories += [f"{name}/" for name in machines.legacy_subdirectories(kind, version)]
    return BuiltIn(
        kind, path, file.elf.soname or "" if file else os.path.basename(path), file, version, directories, lib,
        machines.platform(kind, version), tuple(subdirectories), usable,
        re.search(rb"\((?:Debian|Ubuntu) E?GLIBC", data) is not None, machines.legacy_hwcaps(kind, version),
        files.cache(cache),
    )
