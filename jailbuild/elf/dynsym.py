"""Which symbols a program leaves to its libraries: the undefined ones of its dynamic symbol table.

Found as the loader finds them, by program headers and addresses: DT_SYMTAB, and DT_HASH or DT_GNU_HASH for how many
there are, or where the next table begins (elf(5); glibc elf/dl-lookup.c). Section headers are not asked.
"""

from __future__ import annotations

import os
from struct import Struct
from typing import TYPE_CHECKING

from jailbuild.elf.layouts import (
    DT_GNU_HASH,
    DT_HASH,
    DT_STRSZ,
    DT_STRTAB,
    DT_SYMTAB,
    DT_TABLES,
    PT_DYNAMIC,
    PT_LOAD,
    records,
    symbol_record,
)
from jailbuild.elf.reader import MAGIC
from jailbuild.elf.segments import DamagedError, Loads, dynamic_entries, place_of

if TYPE_CHECKING:
    from jailbuild.root import Root

_MAX_HEADERS = 1 << 16  # bytes
_MAX_SYMBOLS = 1 << 20
_MAX_TEXT = 64 << 20  # bytes of names
_MAX_BUCKETS = 1 << 20
_CHAIN_STEP = 256  # words
_UNDEFINED = 0  # SHN_UNDEF
_CLASSES = {1: 32, 2: 64}


def imported_symbols(descriptor: int) -> frozenset[str]:
    """Return the names of what an open ELF file wants from others (OSError if it cannot be read).

    Nothing for a file that is static, or damaged where its symbols are.
    """
    try:
        return SymbolTable(descriptor).undefined()
    except DamagedError:
        return frozenset()


def symbols_of(root: Root, path: str) -> frozenset[str]:
    """Return what the file at a path of a root imports itself; nothing if it is no ELF file or cannot be read."""
    try:
        opened = root.open(path)
    except OSError:
        return frozenset()
    try:
        return imported_symbols(opened)
    except OSError:
        return frozenset()
    finally:
        os.close(opened)


def imports_any(descriptor: int, names: tuple[str, ...]) -> bool:
    """Say whether an open ELF file wants one of these symbols from others (OSError if it cannot be read).

    Most files have none of the names in their text at all, and the rest is not read.
    """
    try:
        symbols = SymbolTable(descriptor)
        return symbols.mentions(names) and not symbols.undefined().isdisjoint(names)
    except DamagedError:
        return False


class SymbolTable:
    """The dynamic symbols of an open ELF file (DamagedError, OSError)."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        head = os.pread(descriptor, 64, 0)
        if len(head) < 64 or head[:4] != MAGIC or head[4] not in _CLASSES or head[5] not in (1, 2):
            raise DamagedError("no ELF file")
        self.bits, self.little = _CLASSES[head[4]], head[5] == 1
        self.tags: tuple[int, ...] = ()
        layout = records(self.bits, self.little)
        _, self.machine, _, place, _, size, count = layout.header.unpack_from(head)
        if size != layout.segment.size or size * count > _MAX_HEADERS:
            raise DamagedError("other program headers than there can be")
        self.loads: Loads = []
        dynamic: tuple[int, int] | None = None
        for kind, offset, address, in_file, in_memory in layout.segment.iter_unpack(self._read(place, size * count)):
            if kind == PT_LOAD:
                self.loads.append((address, address + in_file, address + in_memory, offset))
            elif kind == PT_DYNAMIC and in_file:
                dynamic = address, in_file
        self.values: dict[int, int] = {}
        if dynamic is not None:
            tags, values = dynamic_entries(descriptor, self.loads, layout.dynamic, *dynamic)
            self.values = dict(zip(tags, values, strict=True))

    def _read(self, offset: int, size: int) -> bytes:
        data = os.pread(self.descriptor, size, offset) if offset < 1 << 63 else b""
        if len(data) < size:
            raise DamagedError("the file is too short")
        return data

    def at(self, address: int, size: int) -> bytes:
        """Return bytes by their address in memory."""
        place, mapped = place_of(self.loads, address)
        if mapped < size:
            raise DamagedError("a table is longer than its segment")
        return self._read(place, size)

    def words(self, address: int, count: int) -> tuple[int, ...]:
        """Return words by their address."""
        return Struct(f"{'<' if self.little else '>'}{count}I").unpack(self.at(address, 4 * count))

    def mentions(self, names: tuple[str, ...]) -> bool:
        """Say whether one of these names, or one that ends as it does, is among the strings."""
        size = self.values.get(DT_STRSZ, 0)
        if DT_STRTAB not in self.values or size > _MAX_TEXT:
            return False
        text = self.at(self.values[DT_STRTAB], size)
        return any(name.encode() + b"\0" in text for name in names)

    def undefined(self) -> frozenset[str]:
        """Return the names of the undefined symbols."""
        if DT_SYMTAB not in self.values or DT_STRTAB not in self.values:
            return frozenset()
        count = self.count()
        size = self.values.get(DT_STRSZ, 0)
        if count > _MAX_SYMBOLS or size > _MAX_TEXT:
            raise DamagedError("more symbols than there can be")
        record = symbol_record(self.bits, self.little)
        table = self.at(self.values[DT_SYMTAB], count * record.size)
        text = self.at(self.values[DT_STRTAB], size)
        names = set()
        for place, section in record.iter_unpack(table):
            if section == _UNDEFINED and 0 < place < size:
                names.add(text[place : text.find(b"\0", place)].decode("utf-8", "surrogateescape"))
        return frozenset(names)

    def _up_to_next_table(self) -> int:
        """Return how many symbols have a place before whatever table comes next in memory."""
        start = self.values[DT_SYMTAB]
        after = [self.values[tag] for tag in DT_TABLES if self.values.get(tag, 0) > start]
        return (min(after) - start) // symbol_record(self.bits, self.little).size if after else 0

    def count(self) -> int:
        """Return how many symbols there are: nothing but the hash tables says so."""
        if DT_HASH in self.values:
            return self.words(self.values[DT_HASH], 2)[1]
        if DT_GNU_HASH not in self.values:
            return 0
        address = self.values[DT_GNU_HASH]
        buckets, first, blooms, _ = self.words(address, 4)
        if buckets > _MAX_BUCKETS or blooms > _MAX_BUCKETS or first > _MAX_SYMBOLS:
            raise DamagedError("a hash table larger than it can be")
        address += 16 + blooms * self.bits // 8
        last = max(self.words(address, buckets), default=0)
        if last < first:
            return max(first, self._up_to_next_table())  # none of its own: the hash table then says nothing
        address += 4 * buckets
        while last < _MAX_SYMBOLS:  # the last chain ends with a hash whose lowest bit is set
            start = address + 4 * (last - first)
            step = min(_CHAIN_STEP, place_of(self.loads, start)[1] // 4)
            if not step:
                break
            for number, word in enumerate(self.words(start, step)):
                if word & 1:
                    return last + number + 1
            last += step
        raise DamagedError("a chain of a hash table has no end")
