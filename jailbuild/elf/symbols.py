"""Which symbols a shared object defines, as a loader looks them up: through its hash tables.

Rules: elf(5); the GNU hash table as binutils writes it; musl ldso/dynlink.c (gnu_lookup, sysv_lookup).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from struct import Struct

from jailbuild.elf.reader import DamagedError, Elf, Loads, dynamic_entries, place_of
from jailbuild.elf.records import DT_GNU_HASH, DT_HASH, DT_STRTAB, DT_SYMTAB, PT_DYNAMIC, PT_LOAD, records

_MOST_STEPS = 4096  # in a chain of the table; a real one has a few
_MAX_HEADERS = 1 << 16


def defines(descriptor: int, elf: Elf, names: tuple[str, ...]) -> bool:
    """Say whether the open file, read as `elf`, defines all of these symbols (OSError if it cannot be read).

    A file or tables that are damaged define nothing.
    """
    if elf.bits <= 0 or elf.damage:
        return False
    try:
        table = _Table(descriptor, elf)
        return all(table.has(name.encode()) for name in names)
    except DamagedError:
        return False


class _Table:
    def __init__(self, descriptor: int, elf: Elf) -> None:
        self.descriptor = descriptor
        self.order = "<" if elf.little else ">"
        self.bits = elf.bits
        layout = records(elf.bits, elf.little)
        header = self.at(0, layout.header)
        place, size, count = header[3], header[5], header[6]
        if size != layout.segment.size or size * count > _MAX_HEADERS:
            raise DamagedError("odd program headers")
        self.loads: Loads = []
        address = usual = 0
        for number in range(count):
            kind, offset, start, in_file, in_memory = self.at(place + number * size, layout.segment)
            if kind == PT_LOAD:
                self.loads.append((start, start + in_file, start + in_memory, offset))
            elif kind == PT_DYNAMIC and in_file:
                address, usual = start, in_file
        if not usual:
            raise DamagedError("there is no dynamic section")
        tags, values = dynamic_entries(descriptor, self.loads, layout.dynamic, address, usual)
        self.last = dict(zip(tags, values, strict=True))

    def at(self, place: int, record: Struct) -> tuple[int, ...]:
        """Return the record at a place of the file."""
        data = os.pread(self.descriptor, record.size, place) if place < 1 << 62 else b""
        if len(data) < record.size:
            raise DamagedError("the file is too short")
        return record.unpack(data)

    def numbers(self, address: int, count: int) -> tuple[int, ...]:
        """Return the 32-bit numbers from an address on."""
        place, mapped = place_of(self.loads, address)
        if mapped < 4 * count:
            raise DamagedError("a table goes beyond its segment")
        return self.at(place, Struct(f"{self.order}{count}I"))

    def has(self, name: bytes) -> bool:
        """Say whether a symbol of this name is defined."""
        if DT_SYMTAB not in self.last or DT_STRTAB not in self.last:
            return False
        if DT_GNU_HASH in self.last:
            candidates = self._gnu(self.last[DT_GNU_HASH], name)
        elif DT_HASH in self.last:
            candidates = self._sysv(self.last[DT_HASH], name)
        else:
            return False
        return any(self._is(index, name) for index in candidates)

    def _is(self, index: int, name: bytes) -> bool:
        if self.bits == 64:
            record = Struct(f"{self.order}I2xHQ8x")  # st_name, st_shndx, st_value
        else:
            record = Struct(f"{self.order}I10xH")
        place, _ = place_of(self.loads, self.last[DT_SYMTAB] + index * (24 if self.bits == 64 else 16))
        symbol = self.at(place, record)
        if not symbol[1]:
            return False
        place, _ = place_of(self.loads, self.last[DT_STRTAB] + symbol[0])
        return place < 1 << 62 and os.pread(self.descriptor, len(name) + 1, place) == name + b"\0"

    def _gnu(self, table: int, name: bytes) -> Iterator[int]:
        """Yield the indices of the symbols with the hash of `name`."""
        buckets, first, bloom, _ = self.numbers(table, 4)
        if not buckets:
            return
        wanted = 5381
        for byte in name:
            wanted = (wanted * 33 + byte) & 0xFFFFFFFF
        start = table + 16 + bloom * (self.bits // 8)
        (index,) = self.numbers(start + 4 * (wanted % buckets), 1)
        if index < first:
            return
        for _ in range(_MOST_STEPS):
            (found,) = self.numbers(start + 4 * (buckets + index - first), 1)
            if found | 1 == wanted | 1:
                yield index
            if found & 1:
                return
            index += 1

    def _sysv(self, table: int, name: bytes) -> Iterator[int]:
        """Yield the indices of the symbols that share a chain with `name`."""
        buckets, _ = self.numbers(table, 2)
        if not buckets:
            return
        wanted = 0
        for byte in name:
            wanted = (wanted << 4) + byte
            wanted = (wanted ^ (wanted >> 24 & 0xF0)) & 0x0FFFFFFF
        (index,) = self.numbers(table + 8 + 4 * (wanted % buckets), 1)
        for _ in range(_MOST_STEPS):
            if not index:
                return
            yield index
            (index,) = self.numbers(table + 8 + 4 * (buckets + index), 1)
