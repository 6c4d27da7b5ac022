"""What a loader binary has built in: read from its bytes, never by running it."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from jailbuild.loader import machines
from jailbuild.loader.cache import Cache
from jailbuild.loader.files import File, Files

_HWCAPS_SINCE = (2, 33)
_MAX_LOADER = 8 << 20  # bytes; ld.so has some 200 kB
_MOST_CANDIDATES = 4096  # places that may be what is looked for; ld.so has some ten
_MOST_DIRECTORIES = 64
_LONGEST = 4096  # bytes of a directory's name

_VERSION = re.compile(rb"(\d{1,3})\.(\d{1,3})")
_LIB = re.compile(rb"\0(lib(?:64|32|x32)?(?:/[\w.-]+)*)\0")
_LENIENT = tuple(f"({name} {what}".encode() for name in ("Debian", "Ubuntu") for what in ("GLIBC", "EGLIBC"))
_CODE = re.compile(rb"[^ -~]+")
_SLASH = ord("/")


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


class Facts(NamedTuple):
    """What the bytes of a loader tell; None, or nothing, where they do not."""

    version: tuple[int, int] | None = None
    directories: tuple[str, ...] = ()  # as in BuiltIn
    lib: str | None = None
    cache: str = "/etc/ld.so.cache"
    lenient: bool = False


def read_built_in(
    files: Files, path: str, kind: machines.Kind, file: File | None, levels: tuple[str, ...] | None
) -> BuiltIn:
    """Read what the loader binary at `path` has built in; what it does not tell, or if there is none, is upstream's.

    `levels` are the glibc-hwcaps of the processor, None for this machine's own.
    """
    machine = machines.machine(kind)
    facts = Facts() if file is None else _facts(files, path, file)
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


def _facts(files: Files, path: str, file: File) -> Facts:
    identity = file.device, file.inode
    known = files.loaders.get(identity)
    if known is None:
        try:
            known = _read_facts(files.root.read(files.absolute(path), _MAX_LOADER))
        except OSError:
            known = Facts()
        files.loaders[identity] = known
    return known


def _read_facts(data: bytes) -> Facts:
    """Read the bytes of a loader. Its strings are looked for by what they begin or end with, not by an expression:
    that takes a tenth of the time.
    """
    version = None
    at = data.find(b"release version ")
    if at >= 0 and (match := _VERSION.match(data, at + 16)):
        version = (int(match[1]), int(match[2]))
    facts = Facts(version, _directories(data), _lib(data), lenient=any(mark in data for mark in _LENIENT))
    end = data.find(b"/ld.so.cache\0")
    cache = data[data.rfind(b"\0", 0, max(end, 0)) + 1 : end + 12]
    return facts._replace(cache=os.fsdecode(cache)) if end >= 0 and cache.startswith(b"/") else facts


def _directories(data: bytes) -> tuple[str, ...]:
    """Return the first run of strings that are all directories of libraries, with a slash at both ends."""
    at = -1
    for _ in range(_MOST_CANDIDATES):
        if (at := data.find(b"/\0/", at + 1)) < 0:
            break
        place = _start(data, at)
        found = []
        while (end := data.find(b"\0", place)) > place + 1 and data[place] == data[end - 1] == _SLASH:
            found.append(os.fsdecode(data[place:end]))
            at, place = end - 1, end + 1
            if len(found) > _MOST_DIRECTORIES:
                return ()
        if len(found) > 1 and all("lib" in name and name.isprintable() and " " not in name for name in found):
            return tuple(found)
    return ()


def _start(data: bytes, end: int) -> int:
    """Return where the string that ends before `end` starts: on ARM its first has code before it, and no NUL."""
    start = data.rfind(b"\0", max(end - _LONGEST, 0), end) + 1 or max(end - _LONGEST, 0)
    code = max(_CODE.finditer(data, start, end), key=re.Match.end, default=None)
    return start if code is None else code.end()


def _lib(data: bytes) -> str | None:
    at = -1
    for _ in range(_MOST_CANDIDATES):
        if (at := data.find(b"\0lib", at + 1)) < 0:
            break
        if match := _LIB.match(data, at):
            return os.fsdecode(match[1])
    return None
