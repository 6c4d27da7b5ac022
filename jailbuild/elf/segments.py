"""What lies at an address of an ELF file as kernel and loader map it: bytes, the dynamic section, strings.

Rules: elf(5); glibc elf/dl-load.c (_dl_map_segments). All that is read is bounded, and pread(2) does it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from struct import Struct

from jailbuild.elf.layouts import DT_NULL

_MAX_DYNAMIC = 1 << 20  # bytes; the largest real table seen is a few KiB
_MAX_STRING = 1 << 20  # bytes; a list of directories may be longer than PATH_MAX
_MAX_STRINGS = 4 << 20  # bytes, of all strings of a file: they may overlap, and so be longer than the file
_TABLE_STEP = 1 << 16
_STRING_STEP = 256
_NEAR = 1 << 15  # bytes; strings that are less apart are read in one go
BEYOND = 1 << 62  # where no file has an offset; nearer to 1 << 63 pread(2) gives EINVAL
_PAGE = 4096
BEHIND = 1 << 10  # bytes behind the strings that are read with them, for a table of versions; few are longer


class DamagedError(Exception):
    """The bytes of a file contradict themselves, or each other."""


Loads = list[tuple[int, int, int, int]]  # of PT_LOAD: address, end of file bytes, end of memory, offset


def place_of(loads: Loads, address: int) -> tuple[int, int]:
    """Return the file offset of an address, and how many bytes of the file are mapped from there on.

    Segments are mapped by whole pages, later ones over earlier ones; what memory holds beyond the file's part
    of a segment is zero.
    """
    for start, file_end, memory_end, offset in reversed(loads):
        if start - start % _PAGE <= address < file_end:
            place = offset + address - start
            if place < 0:
                break
            return place, file_end - address
        if file_end <= address < memory_end:
            return 0, 0
    raise DamagedError(f"no segment holds address {address:#x}")


def dynamic_entries(
    descriptor: int, loads: Loads, record: Struct, address: int, usual: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return tags and values of the dynamic entries before DT_NULL.

    The loader goes on to DT_NULL, whatever size the program header tells, and reads zeros where memory is beyond the
    file's part of a segment. `usual`, that size, is how much is read at first.
    """
    place, mapped = place_of(loads, address)
    data = b""
    tags: tuple[int, ...] = ()
    values: tuple[int, ...] = ()
    step = min(usual, _TABLE_STEP)
    while len(data) < mapped:
        if len(data) >= _MAX_DYNAMIC:
            raise DamagedError("the dynamic section has no end")
        if place >= BEYOND:
            raise DamagedError("the file is too short for its dynamic section")
        wanted = min(step, mapped - len(data))
        more = os.pread(descriptor, wanted, place + len(data))
        data += more
        entries = _table(record, len(data) // record.size).unpack_from(data)
        tags, values = entries[::2], entries[1::2]
        if DT_NULL in tags:
            end = tags.index(DT_NULL)
            return tags[:end], values[:end]
        if len(more) < wanted:
            raise DamagedError("the file is too short for its dynamic section")
        step = len(data)
    return tags, values


@lru_cache(64)
def _table(record: Struct, count: int) -> Struct:
    return Struct(record.format[0] + record.format[1:] * count)


class Strings:
    """The string table at an address; what is wanted together is read together."""

    __slots__ = ("descriptor", "first", "known", "left", "loads", "near", "place", "table")

    def __init__(self, descriptor: int, loads: Loads, table: int) -> None:
        self.descriptor = descriptor
        self.loads = loads
        self.table = table
        self.near = b""
        self.place = 0  # in the file, of what is near
        self.first = 0  # its offset in the table
        self.known: dict[int, str] = {}
        self.left = _MAX_STRINGS

    def read(self, offsets: Sequence[int], table: int = 0) -> dict[int, str]:
        """Return the string at each offset, and some others; and have near what is at an address, `table`."""
        known = self.known
        wanted = [offset for offset in offsets if offset not in known]
        if not wanted:
            return known
        first, last = min(wanted), max(wanted)
        if not self.first <= first <= last < self.first + len(self.near):
            self.read_near(first, last, table)
        near, first = self.near, self.first
        for offset in wanted:
            end = near.find(b"\0", offset - first) if offset >= first else -1
            data = near[offset - first : end] if end >= 0 else _string(self.descriptor, self.loads, self.table + offset)
            known[offset] = data.decode("utf-8", "surrogateescape")
            self.left -= len(data)
            if self.left < 0:
                raise DamagedError(f"its strings have more than {_MAX_STRINGS} bytes")
        return known

    def read_near(self, first: int, last: int, table: int = 0) -> None:
        """Have near what lies between two offsets, if that is not much; and what is at an address, `table`."""
        behind = max(last + _STRING_STEP, table - self.table + BEHIND if table else 0)
        if behind < _NEAR:  # most have so few strings that all of them are near
            first = 0
        elif last - first < _NEAR:
            behind = last + _STRING_STEP
        else:
            return
        place, mapped = place_of(self.loads, self.table + first)
        if place < BEYOND:
            self.near = os.pread(self.descriptor, min(behind - first, mapped), place)
            self.place, self.first = place, first


def _string(descriptor: int, loads: Loads, address: int) -> bytes:
    place, mapped = place_of(loads, address)
    if place >= BEYOND:
        raise DamagedError("a string lies beyond the file")
    step = _STRING_STEP
    while True:
        data = os.pread(descriptor, min(step, mapped), place)
        end = data.find(b"\0")
        if end >= 0:
            return data[:end]
        if len(data) < step:
            raise DamagedError("a string has no end")
        if step >= _MAX_STRING:
            raise DamagedError(f"a string has more than {_MAX_STRING} bytes")
        step *= 16
