"""Which symbols a shared object defines, as a loader looks them up: through its hash tables.

Rules: elf(5); the GNU hash table as binutils writes it; musl ldso/dynlink.c (gnu_lookup, sysv_lookup).
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

from jailbuild.elf.dynsym import SymbolTable
from jailbuild.elf.layouts import DT_GNU_HASH, DT_HASH, DT_STRTAB, DT_SYMTAB
from jailbuild.elf.reader import Elf
from jailbuild.elf.segments import DamagedError

_MOST_STEPS = 4096  # in a chain of the table; a real one has a few


def defines(descriptor: int, elf: Elf, names: tuple[str, ...]) -> bool:
    """Say whether the open file, read as `elf`, defines all of these symbols (OSError if it cannot be read).

    A file or tables that are damaged define nothing.
    """
    if elf.bits <= 0 or elf.load_error:
        return False
    try:
        table = SymbolTable(descriptor)
        return all(_has(table, name.encode()) for name in names)
    except DamagedError:
        return False


def _has(table: SymbolTable, name: bytes) -> bool:
    values = table.values
    if DT_SYMTAB not in values or DT_STRTAB not in values:
        return False
    if DT_GNU_HASH in values:
        candidates = _gnu(table, values[DT_GNU_HASH], name)
    elif DT_HASH in values:
        candidates = _sysv(table, values[DT_HASH], name)
    else:
        return False
    return any(_is(table, index, name) for index in candidates)


def _is(table: SymbolTable, index: int, name: bytes) -> bool:
    order = "<" if table.little else ">"
    record = Struct(f"{order}I2xH" if table.bits == 64 else f"{order}I10xH")  # st_name, st_shndx
    size = 24 if table.bits == 64 else 16
    at, section = record.unpack(table.at(table.values[DT_SYMTAB] + index * size, record.size))
    if not section:
        return False
    try:
        return table.at(table.values[DT_STRTAB] + at, len(name) + 1) == name + b"\0"
    except DamagedError:  # a shorter name at the end of the strings
        return False


def _gnu(table: SymbolTable, start: int, name: bytes) -> Iterator[int]:
    """Yield the indices of the symbols with the hash of `name`."""
    buckets, first, bloom, _ = table.words(start, 4)
    if not buckets:
        return
    wanted = 5381
    for byte in name:
        wanted = (wanted * 33 + byte) & 0xFFFFFFFF
    start += 16 + bloom * (table.bits // 8)
    (index,) = table.words(start + 4 * (wanted % buckets), 1)
    if index < first:
        return
    for _ in range(_MOST_STEPS):
        (found,) = table.words(start + 4 * (buckets + index - first), 1)
        if found | 1 == wanted | 1:
            yield index
        if found & 1:
            return
        index += 1


def _sysv(table: SymbolTable, start: int, name: bytes) -> Iterator[int]:
    """Yield the indices of the symbols that share a chain with `name`."""
    buckets, _ = table.words(start, 2)
    if not buckets:
        return
    wanted = 0
    for byte in name:
        wanted = (wanted << 4) + byte
        wanted = (wanted ^ (wanted >> 24 & 0xF0)) & 0x0FFFFFFF
    (index,) = table.words(start + 8 + 4 * (wanted % buckets), 1)
    for _ in range(_MOST_STEPS):
        if not index:
            return
        yield index
        (index,) = table.words(start + 8 + 4 * (buckets + index), 1)
