"""glibc's /etc/ld.so.cache, read as ld.so reads it and written as ldconfig writes it.

Rules: sysdeps/generic/dl-cache.h (the layout), elf/dl-cache.c (the look-up), elf/cache.c (the order). The "new"
format is written; read are that, that behind the older ld.so-1.7.0 table, and the older table alone, in either byte
order. Names and paths are str as os.fsdecode gives them.

ld.so finds a name by bisection with a comparison of its own, in which a run of digits is a 32-bit number: to it
libx.so.08 and libx.so.8 are one name. So the file must be sorted by just that comparison, and "the same name" is
what it calls equal.
"""

from __future__ import annotations

import os
import re
import struct
import sys
from collections.abc import Iterable
from functools import cached_property, cmp_to_key
from typing import NamedTuple

_MAGIC = b"glibc-ld.so.cache1.1"
_HEADER = "20sIIB3xI12x"  # magic, entries, bytes of strings, byte order, place of the extensions
_ENTRY = "iIIIQ"  # flags, name, path, oldest kernel (not looked at since 2.37), hwcap
_OLD_MAGIC = b"ld.so-1.7.0"
_OLD_HEADER = "11sxI"  # magic, entries
_OLD_ENTRY = "iII"  # flags, name, path
_EXTENSION_MAGIC = -358342284 & 0xFFFFFFFF
_GENERATOR, _LEVELS = 0, 1  # tags of the extensions
_BYTE_ORDER = {"<": 2, ">": 3}

_BY_LEVEL = 1 << 62  # hwcap: the low 32 bits are an index into the levels
_ISA_BITS = 0x3FF << 32  # beside it: what ldconfig read from the file's own x86 ISA note

_MOST_BYTES = 8 << 20  # some 80 000 libraries
_MOST_EXTENSIONS = 1024  # and levels; glibc knows two of the one, and a dozen of the other
_MOST_TEXT = 16 << 20  # a string may be the tail of another, so damage could make megabytes of each entry

# Of the machines whose C has an unsigned char: s390x, ppc64, arm (two), aarch64, riscv64 (two). ld.so compares chars.
_UNSIGNED_CHAR = {0x400, 0x500, 0x900, 0xB00, 0xA00, 0xF00, 0x1000}

_DECODE = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()  # os.fsdecode, whose checks cost as much again
_NUMBERS = 1 << 40
_PIECES = re.compile(rb"[0-9]+|[^0-9]")
# A whole number that other digits may equal. A digit stands first because the engine then skips from one to the next.
_ODD_NUMBER = re.compile(r"[0-9](?<![0-9][0-9])(?:(?<=0)[0-9]+|[0-9]{9,})")


class CacheError(ValueError):
    """These bytes are no cache, or these entries make none; the message is one line."""


class CacheEntry(NamedTuple):
    """One library that the cache knows."""

    name: str  # what is looked up: mostly the SONAME
    path: str
    flags: int  # kind of library and machine: 0x303 for x86-64
    hwcaps: str | None = None  # the glibc-hwcaps level ("x86-64-v3"), "" for one without a name, None for no level
    hwcap_mask: int = 0  # with a level the ISA bits (32 to 41) that were noted; without, the mask of glibc before 2.37


class Cache:
    """The entries of a cache, in the order of the file."""

    def __init__(self, entries: Iterable[CacheEntry]) -> None:
        self.entries = tuple(entries)
        self._found: dict[tuple[str, frozenset[int], tuple[str, ...], int], str | None] = {}

    @cached_property
    def _groups(self) -> dict[str, list[CacheEntry]]:
        """The entries under the one spelling that stands for each name."""
        groups: dict[str, list[CacheEntry]] = {}
        names = _usual("\0".join([entry.name for entry in self.entries])).split("\0")  # in one go: four times faster
        for name, entry in zip(names, self.entries, strict=False):
            groups.setdefault(name, []).append(entry)
        return groups

    def find(self, name: str, flags: frozenset[int], levels: tuple[str, ...], hwcaps: int = 0) -> str | None:
        """Return the path that ld.so takes for `name`, None if it takes none (search_cache in elf/dl-cache.c).

        `flags` are those it accepts, `levels` the glibc-hwcaps levels it searches, best first. The best level wins,
        and before a plain entry; the first in the file where several are as good. Entries whose old hwcap mask has
        more than the bits of `hwcaps` are passed over; from glibc 2.37 on that is none. A level's ISA bits are taken
        to be right: the level says as much.
        """
        key = name, flags, levels, hwcaps
        if key not in self._found:
            self._found[key] = self._find(*key)
        return self._found[key]

    def _find(self, name: str, flags: frozenset[int], levels: tuple[str, ...], hwcaps: int) -> str | None:
        best: str | None = None
        rank = len(levels)
        for entry in self._groups.get(_usual(name), ()):
            if entry.flags not in flags:
                continue
            if entry.hwcaps is None:
                if best is not None:
                    break  # ld.so expects the levels first, and looks no further
                if not entry.hwcap_mask & ~hwcaps:
                    return entry.path
            elif entry.hwcaps in levels[:rank]:
                best = entry.path
                rank = levels.index(entry.hwcaps)
        return best

    def variants(self, name: str, flags: frozenset[int]) -> tuple[str, ...]:
        """Return every path that is there for `name` with one of `flags`, whatever processor it asks for."""
        return tuple(dict.fromkeys(entry.path for entry in self._groups.get(_usual(name), ()) if entry.flags in flags))


def read_cache(data: bytes) -> Cache:
    """Read the bytes of a cache (CacheError if they are none, or damaged; no bytes make it raise anything else).

    Damage in the extensions costs the levels their names and no more, as for ld.so. Where the file does not say its
    byte order (ldconfig before 2.33) little-endian is tried, then big-endian: counts and offsets of the other order
    lie far beyond the file.
    """
    if len(data) > _MOST_BYTES:
        raise CacheError(f"the cache has {len(data)} bytes, more than {_MOST_BYTES}")
    problem = None
    for order in _BYTE_ORDER:
        try:
            cache = _read(data, order)
        except CacheError as error:
            problem = problem or error
        else:
            if cache is not None:
                return cache
    raise problem or CacheError("the cache has no known byte order")


def _read(data: bytes, order: str) -> Cache | None:
    """Read a cache in one byte order; None if the file says that it has another."""
    start = 0
    if data.startswith(_OLD_MAGIC):
        ((_, count),) = _table(data, order, _OLD_HEADER, 0, 1)
        table = struct.calcsize(_OLD_HEADER)
        old = _table(data, order, _OLD_ENTRY, table, count)
        end = table + count * struct.calcsize(_OLD_ENTRY)
        start = -(-end // 8) * 8
        if not data.startswith(_MAGIC, start):
            return _cache(data, [(*row, 0, 0) for row in old], end, [])
    elif not data.startswith(_MAGIC):
        raise CacheError("this is no ld.so.cache")
    ((_, count, _, mark, extensions),) = _table(data, order, _HEADER, start, 1)
    if mark and mark & 3 != _BYTE_ORDER[order]:
        return None
    rows = _table(data, order, _ENTRY, start + struct.calcsize(_HEADER), count)
    try:
        levels = _levels(data, order, extensions)
    except CacheError:
        levels = []
    return _cache(data, rows, start, levels)


def _table(data: bytes, order: str, record: str, start: int, count: int) -> list[tuple[int, ...]]:
    form = struct.Struct(order + record)
    end = start + count * form.size
    if end > len(data):
        raise CacheError(f"the cache ends before its {count} records of {form.size} bytes at {start} do")
    return list(form.iter_unpack(data[start:end]))


def _strings(data: bytes, offsets: set[int]) -> dict[int, str]:
    text = {}
    left = _MOST_TEXT
    for offset in offsets:
        end = data.find(b"\0", offset)
        if end < 0:
            raise CacheError(f"the cache has no string at {offset}")
        left -= end - offset
        if left < 0:
            raise CacheError(f"the strings of the cache have more than {_MOST_TEXT} bytes")
        text[offset] = data[offset:end].decode(*_DECODE)
    return text


def _levels(data: bytes, order: str, extensions: int) -> list[str]:
    """Return the names of the levels (cache_extension_load). Here all offsets count from the start of the file."""
    if not extensions:
        return []
    ((magic, count),) = _table(data, order, "II", extensions, 1)
    start = size = 0
    if magic == _EXTENSION_MAGIC and count <= _MOST_EXTENSIONS:
        for tag, _, offset, length in _table(data, order, "IIII", extensions + 8, count):
            if tag == _LEVELS:  # the last one counts
                start, size = offset, length
    if (extensions | start | size) % 4 or size > 4 * _MOST_EXTENSIONS:
        raise CacheError("the levels of the cache are damaged")
    offsets = [offset for (offset,) in _table(data, order, "I", start, size // 4)]
    text = _strings(data, set(offsets))
    return [text[offset] for offset in offsets]


def _cache(data: bytes, rows: list[tuple[int, ...]], base: int, levels: list[str]) -> Cache:
    """Put the rows of an entry table, whose strings count from `base`, into words."""
    text = _strings(data, {base + row[1] for row in rows} | {base + row[2] for row in rows})
    kinds: dict[int, tuple[str | None, int]] = {}
    for hwcap in {row[4] for row in rows}:
        if _is_by_level(hwcap):
            index = hwcap & 0xFFFFFFFF
            kinds[hwcap] = levels[index] if index < len(levels) else "", hwcap & _ISA_BITS
        else:
            kinds[hwcap] = None, hwcap
    return Cache(
        CacheEntry(text[base + name], text[base + path], flags, *kinds[hwcap]) for flags, name, path, _, hwcap in rows
    )


def write_cache(entries: Iterable[CacheEntry], *, little_endian: bool = True) -> bytes:
    """Return a cache of these entries: the same bytes on every host and whatever their order, one for equal ones.

    Of entries that differ in the path alone, or in how the same number is written in the name, ld.so takes the first
    in byte order. CacheError where an entry has no place in a cache, or the whole is too large for `read_cache`.
    """
    order = "<" if little_endian else ">"
    chosen = sorted(set(entries), key=_rank)
    signed = not any(entry.flags & 0xFF00 in _UNSIGNED_CHAR for entry in chosen)
    compared = cmp_to_key(_compare)
    chosen.sort(key=lambda entry: compared(_sequence(os.fsencode(entry.name), signed)), reverse=True)
    levels = sorted({entry.hwcaps for entry in chosen if entry.hwcaps is not None}, key=os.fsencode)
    strings = bytearray()
    places: dict[str, int] = {}
    base = struct.calcsize(_HEADER) + len(chosen) * struct.calcsize(_ENTRY)
    for text in [text for entry in chosen for text in entry[:2]] + levels:
        if text not in places:
            places[text] = base + len(strings)
            strings += os.fsencode(text) + b"\0"
    strings += bytes(-(base + len(strings)) % 4)  # the extensions are aligned

    extensions = base + len(strings)
    table = struct.pack(f"{order}{len(levels)}I", *(places[level] for level in levels))
    contents = {_LEVELS: table, _GENERATOR: b"jailbuild"} if levels else {_GENERATOR: b"jailbuild"}
    after = extensions + 8 + 16 * len(contents)
    directory = struct.pack(order + "II", _EXTENSION_MAGIC, len(contents))
    for tag, content in contents.items():
        directory += struct.pack(order + "IIII", tag, 0, after, len(content))
        after += len(content)
    if after > _MOST_BYTES:
        raise CacheError(f"the cache would have {after} bytes, more than {_MOST_BYTES}")

    header = struct.pack(order + _HEADER, _MAGIC, len(chosen), len(strings), _BYTE_ORDER[order], extensions)
    index = {level: _BY_LEVEL | number for number, level in enumerate(levels)}
    form = struct.Struct(order + _ENTRY)
    rows = [
        form.pack(flags, places[name], places[path], 0, mask if level is None else mask | index[level])
        for name, path, flags, level, mask in chosen
    ]
    return b"".join([header, *rows, strings, directory, *contents.values()])


def _rank(entry: CacheEntry) -> tuple[int, bool, bytes, int, int, bytes, bytes]:
    """Return what sorts the entries of one name as ldconfig does (compare in elf/cache.c); CacheError if it cannot."""
    name, path, flags, level, mask = entry
    fits = mask & ~_ISA_BITS == 0 if level is not None else 0 <= mask < 1 << 64 and not _is_by_level(mask)
    if not fits or not -1 << 31 <= flags < 1 << 31 or "\0" in name + path + (level or ""):
        raise CacheError(f"this has no place in a cache: {entry!r}")
    by_level = level is None, os.fsencode(level or "")
    return -flags, *by_level, -mask.bit_count(), -mask, os.fsencode(name), os.fsencode(path)


def _is_by_level(hwcap: int) -> bool:
    return hwcap >> 32 & ~(_ISA_BITS >> 32) == _BY_LEVEL >> 32


def _number(digits: str | bytes) -> int:
    """Return what an unsigned 32-bit integer holds of a number: an overflow is silent."""
    return int(digits[-32:]) & 0xFFFFFFFF  # 2 ** 32 divides 10 ** 32: no earlier digit matters


def _usual(name: str) -> str:
    """Return the spelling that stands for all those that ld.so holds equal to `name`."""
    return _ODD_NUMBER.sub(lambda digits: str(_number(digits[0])), name)


def _sequence(name: bytes, signed: bool) -> list[int]:
    """Return a name as `_compare` takes it: its bytes as C's char, its numbers from _NUMBERS on, a NUL."""
    sequence = []
    for piece in _PIECES.findall(name):
        if piece.isdigit():
            sequence.append(_NUMBERS + _number(piece))
        else:
            sequence.append(piece[0] - 256 if signed and piece[0] > 127 else piece[0])
    return [*sequence, 0]  # the NUL takes part, and a signed char may be less than it


def _compare(one: list[int], two: list[int]) -> int:
    """Compare names as _dl_cache_libcmp in elf/dl-cache.c does: numbers after all else, by their C difference.

    That overflows: 2147483650 comes after 2147483640, and before 0. Of numbers that lie all around this circle no
    order is right, and ld.so may miss a name.
    """
    for left, right in zip(one, two, strict=False):
        if left != right:
            difference = left - right
            return difference if abs(difference) > 1 << 32 else (difference + (1 << 31)) % (1 << 32) - (1 << 31)
    return 0
