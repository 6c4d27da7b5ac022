"""What a file offers to others by name, and what its relocations want of them.

Only symbols that a relocation refers to are ever looked up: an undefined one beside them is of no account (glibc
elf/do-rel.h; elf/dl-lookup.c, check_match, for what counts as a definition).
"""

from __future__ import annotations

from itertools import chain
from struct import Struct
from struct import error as StructError
from typing import NamedTuple

from jailbuild.elf.dynsym import SymbolTable
from jailbuild.elf.layouts import (
    DT_BIND_NOW,
    DT_FLAGS,
    DT_FLAGS_1,
    DT_GNU_HASH,
    DT_HASH,
    DT_JMPREL,
    DT_PLTREL,
    DT_PLTRELSZ,
    DT_REL,
    DT_RELA,
    DT_RELACOUNT,
    DT_RELASZ,
    DT_RELCOUNT,
    DT_RELSZ,
    DT_STRSZ,
    DT_STRTAB,
    DT_SYMBOLIC,
    DT_SYMTAB,
    DT_VERDEF,
    DT_VERNEED,
    DT_VERSYM,
    link_records,
)
from jailbuild.elf.segments import DamagedError, place_of
from jailbuild.elf.symver import version

_MAX_RELOCATIONS = 64 << 20  # bytes
_MAX_SYMBOLS = 1 << 20
_MAX_TEXT = 64 << 20  # bytes of names, in the file and as they are read: they may overlap
_MAX_NAME = 1 << 16  # bytes
_MAX_VERSIONS = 1 << 14
_MAX_TABLE = 1 << 20  # bytes of versions

_UNDEFINED, _ABSOLUTE = 0, 0xFFF1  # SHN_UNDEF, SHN_ABS
_LOCAL, _WEAK = 0, 2  # STB_LOCAL, STB_WEAK
_OFFERED = (1, _WEAK, 10)  # STB_GLOBAL, STB_WEAK, STB_GNU_UNIQUE
_DEFINITIONS = (0, 1, 2, 5, 6, 10)  # STT_NOTYPE, OBJECT, FUNC, COMMON, TLS, GNU_IFUNC
_TLS = 6
_INTERNAL, _HIDDEN = 1, 2  # STV_INTERNAL, STV_HIDDEN
_DF_SYMBOLIC, _DF_BIND_NOW, _DF_1_NOW = 2, 8, 1
_VER_FLG_BASE = 1

# e_machine: relocations of a procedure linkage table, and those that copy an object into the program (elf.h)
_JUMP_SLOT = {3: 7, 62: 7, 183: 1026, 40: 22, 21: 21, 20: 21, 22: 11, 243: 5, 258: 5}
_COPY = {3: 5, 62: 5, 183: 1024, 40: 20, 21: 19, 20: 19, 22: 9, 243: 4, 258: 4}


class Reference(NamedTuple):
    """A symbol that is looked up when the file is relocated."""

    name: str
    version: str | None  # as in elf/versions.py
    file: str | None  # that is to have the version
    hides: bool  # an unversioned definition is not good enough
    weak: bool  # nobody minds if it is nowhere
    lazy: bool  # looked up when the function is called
    plt: bool  # of a procedure linkage table: an undefined symbol with an address is no definition for it
    copy: bool  # the program's own is not looked at


class Definition(NamedTuple):
    """A symbol that a file offers."""

    version: str | None
    number: int  # of its version
    hidden: bool  # not the default version
    stub: bool  # undefined, with the address of a stub


class Linkage(NamedTuple):
    """What a file offers and wants. `versioned`: it knows versions at all, its own or those of others."""

    references: tuple[Reference, ...]
    definitions: dict[str, tuple[Definition, ...]]
    symbolic: bool = False  # it looks into itself first
    versioned: bool = False
    hashed: bool = False  # it can be asked for symbols


NO_LINKAGE = Linkage((), {})


def read_linkage(descriptor: int) -> Linkage:
    """Read an open ELF file (OSError; DamagedError where its tables cannot be)."""
    return Reader(descriptor).read()


class _Number(NamedTuple):
    version: str
    file: str | None
    hides: bool


class Reader(SymbolTable):
    """The reading of one file, by glibc's rules where it matters whose they are."""

    def read(self) -> Linkage:
        """Return what the file offers and wants (OSError, DamagedError)."""
        values = self.values
        if DT_SYMTAB not in values or DT_STRTAB not in values:
            return NO_LINKAGE
        self.records = link_records(self.bits, self.little)
        size = values.get(DT_STRSZ, 0)
        if size > _MAX_TEXT:
            raise DamagedError("more names than there can be")
        self.text = self.at(values[DT_STRTAB], size)
        self.left = _MAX_TEXT
        self.jump_slot, self.copy = _JUMP_SLOT.get(self.machine), _COPY.get(self.machine)
        infos = self._relocations()
        shift = 32 if self.bits == 64 else 8
        count = max([self.count(), *[(info >> shift) + 1 for info, _ in infos]])
        if count > _MAX_SYMBOLS:
            raise DamagedError("more symbols than there can be")
        record = self.records.symbol
        symbols: list[tuple[int, ...]] = list(record.iter_unpack(self.at(values[DT_SYMTAB], count * record.size)))
        if self.bits == 32:
            symbols = [(name, info, other, section, value) for name, value, info, other, section in symbols]
        self.numbers = self._numbers()
        marks: tuple[int, ...] | None = None
        if DT_VERSYM in values and (DT_VERNEED in values or DT_VERDEF in values):
            marks = Struct(f"{'<' if self.little else '>'}{count}H").unpack(self.at(values[DT_VERSYM], 2 * count))
        flags = values.get(DT_FLAGS, 0)
        return Linkage(
            self.references(infos, shift, symbols, marks),
            self.definitions(symbols, marks),
            DT_SYMBOLIC in values or bool(flags & _DF_SYMBOLIC),
            marks is not None,
            DT_HASH in values or DT_GNU_HASH in values,
        )

    def name(self, offset: int) -> str:
        """Return a string of the string table."""
        end = self.text.find(b"\0", offset, offset + _MAX_NAME)
        if end < 0:
            raise DamagedError("a name has no end")
        self.left -= end - offset
        if self.left < 0:
            raise DamagedError("more names than there can be")
        return self.text[offset:end].decode("utf-8", "surrogateescape")

    def _relocations(self) -> set[tuple[int, bool]]:
        """Return r_info of every relocation with a symbol, each once, and whether it is made when it is used."""
        values = self.values
        now = (
            DT_BIND_NOW in values
            or bool(values.get(DT_FLAGS, 0) & _DF_BIND_NOW)
            or bool(values.get(DT_FLAGS_1, 0) & _DF_1_NOW)
        )
        low = 0xFFFFFFFF if self.bits == 64 else 0xFF
        found: set[tuple[int, bool]] = set()
        first, last = 0, 0
        if DT_JMPREL in values:
            record = self.records.rela if values.get(DT_PLTREL) == DT_RELA else self.records.rel
            first, size = values[DT_JMPREL], values.get(DT_PLTRELSZ, 0)
            last = first + size
            found.update((info, not now) for info in self._infos(record, first, size) if info > low)
        for record, table, length, skipped in (
            (self.records.rela, DT_RELA, DT_RELASZ, DT_RELACOUNT),
            (self.records.rel, DT_REL, DT_RELSZ, DT_RELCOUNT),
        ):
            if table in values:
                start, end = values[table], values[table] + values.get(length, 0)
                if start <= first < end:  # the linker counted those of the linkage table twice
                    end = first if last >= end else end
                start += values.get(skipped, 0) * record.size  # these have no symbol
                if start < end:
                    found.update((info, False) for info in self._infos(record, start, end - start) if info > low)
        return found

    def _infos(self, record: Struct, address: int, size: int) -> set[int]:
        if size > _MAX_RELOCATIONS:
            raise DamagedError("more relocations than there can be")
        data = self.at(address, size - size % record.size)
        return set(chain.from_iterable(record.iter_unpack(data)))

    def _numbers(self) -> dict[int, _Number]:
        """Return the versions by the numbers that symbols have; the base version is none (dl-version.c)."""
        found: dict[int, _Number] = {}
        records = self.records
        left = _MAX_VERSIONS
        try:
            if DT_VERNEED in self.values:
                data = self._table(self.values[DT_VERNEED])
                at = 0
                while True:
                    _, _, file, aux, following = records.verneed.unpack_from(data, at)
                    there = at + aux
                    while True:
                        digest, _, number, name, further = records.vernaux.unpack_from(data, there)
                        known = version(self.name(name), digest)
                        found[number & 0x7FFF] = _Number(known, self.name(file), bool(number & 0x8000))
                        left -= 1
                        if not further or left < 0:
                            break
                        there += further
                    if not following or left < 0:
                        break
                    at += following
            if DT_VERDEF in self.values:
                data = self._table(self.values[DT_VERDEF])
                at = 0
                while True:
                    _, flags, number, digest, aux, following = records.verdef.unpack_from(data, at)
                    if not flags & _VER_FLG_BASE:
                        name = records.verdaux.unpack_from(data, at + aux)[0]
                        found[number & 0x7FFF] = _Number(version(self.name(name), digest), None, False)
                    left -= 1
                    if not following or left < 0:
                        break
                    at += following
        except StructError:
            raise DamagedError("a table of versions has no end") from None
        if left < 0:
            raise DamagedError("more versions than there can be")
        return found

    def _table(self, address: int) -> bytes:
        return self.at(address, min(place_of(self.loads, address)[1], _MAX_TABLE))

    def first_hashed(self) -> int:
        """Return the number of the first symbol that can be looked up."""
        return self.words(self.values[DT_GNU_HASH], 4)[1] if DT_GNU_HASH in self.values else 1

    def references(
        self,
        infos: set[tuple[int, bool]],
        shift: int,
        symbols: list[tuple[int, ...]],
        marks: tuple[int, ...] | None,
    ) -> tuple[Reference, ...]:
        """Return what is looked up for relocations: their r_info, the symbol's number being `shift` bits up."""
        low = (1 << shift) - 1
        found = set()
        for info, lazy in infos:
            index, kind = info >> shift, info & low
            name, bind, other, section, _ = symbols[index]
            if bind >> 4 == _LOCAL or other & 3 in (_INTERNAL, _HIDDEN):
                continue
            if section != _UNDEFINED and kind != self.copy:  # it has it itself
                continue
            asked = self.numbers.get(marks[index] & 0x7FFF) if marks is not None else None
            reference = Reference(
                self.name(name),
                asked.version if asked else None,
                asked.file if asked else None,
                bool(asked and asked.hides),
                bind >> 4 == _WEAK,
                lazy,
                kind == self.jump_slot,
                kind == self.copy,
            )
            found.add(reference)
        return tuple(sorted(found, key=lambda one: (one.name, one.lazy, one.version or "")))

    def definitions(
        self, symbols: list[tuple[int, ...]], marks: tuple[int, ...] | None
    ) -> dict[str, tuple[Definition, ...]]:
        """Return what can be looked up, by name."""
        found: dict[str, tuple[Definition, ...]] = {}
        alike: dict[tuple[int, bool], tuple[Definition]] = {}  # of thousands there are a few
        for index in range(self.first_hashed(), len(symbols)):
            name, info, other, section, value = symbols[index]
            if info >> 4 not in _OFFERED or info & 15 not in _DEFINITIONS or other & 3 in (_INTERNAL, _HIDDEN):
                continue
            if section == _UNDEFINED:
                if not value or info & 15 == _TLS:
                    continue
            elif not value and section != _ABSOLUTE and info & 15 != _TLS:
                continue
            mark = marks[index] if marks is not None else 0
            one = alike.get((mark, not section))
            if one is None:
                number = self.numbers.get(mark & 0x7FFF)
                one = alike[mark, not section] = (
                    Definition(number.version if number else None, mark & 0x7FFF, bool(mark & 0x8000), not section),
                )
            text = self.name(name)
            found[text] = found[text] + one if text in found else one
        return found
