"""One ELF file, read as kernel and loader read it: program headers and addresses, never section headers.

Rules: elf(5); glibc elf/dl-load.c (open_verify, _dl_map_object_from_fd) and elf/get-dynamic-info.h; Linux
fs/binfmt_elf.c. Section headers can say anything, and a file without them still runs.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from jailbuild.elf import records

MAGIC = b"\x7fELF"
UNKNOWN_ENCODING = "ELF file data encoding is unknown"
WRONG_VERSION = "ELF file version does not match current one"

_SHORTEST = 64  # bytes; no ELF file of either class that can be loaded is shorter
_HEAD = 2048  # file header, program headers and PT_INTERP of nearly every file
_MAX_HEADERS = 1 << 16  # bytes; the kernel refuses more
_MAX_INTERPRETER = 4096  # bytes, PATH_MAX; likewise
_MAX_DYNAMIC = 1 << 20  # bytes; the largest real table seen is a few KiB
_MAX_STRING = 1 << 20  # bytes; a list of directories may be longer than PATH_MAX
_MAX_STRINGS = 4 << 20  # bytes, of all strings of a file: they may overlap, and so be longer than the file
_MAX_WANTS = 4096  # DT_NEEDED and the like; the most that was seen is some 200
_TABLE_STEP = 1024
_STRING_STEP = 256
_PAGE = 4096

_DF_1_NODEFLIB = 0x800
_DF_1_PIE = 0x08000000


class Elf(NamedTuple):
    """What the loader takes from a file. Strings are decoded with os.fsdecode.

    A file that cannot be used still gives one: `bits` is 0 when it is no ELF file at all, `refused` says what the
    loader finds wrong before it looks at the machine (open_verify), `damage` what is wrong after that.
    """

    bits: int = 0  # 32 or 64; -1 for a class that there is none of
    little: bool = True
    machine: int = 0
    flags: int = 0
    type: int = 0
    refused: str = ""
    damage: str = ""
    unstartable: str = ""  # what the kernel refuses a program for, and a loader does not mind in a library
    interpreter: str | None = None
    dynamic: bool = False
    soname: str | None = None
    wants: tuple[tuple[int, str], ...] = ()  # (DT_NEEDED, DT_FILTER or DT_AUXILIARY, name) in the file's order
    rpath: str | None = None  # None also where DT_RUNPATH makes the loader drop it
    runpath: str | None = None
    audit: tuple[str, ...] = ()  # DT_AUDIT and DT_DEPAUDIT, split
    nodeflib: bool = False
    pie: bool = False

    @property
    def is_program(self) -> bool:
        """Whether the kernel is meant to start it: PT_INTERP, ET_EXEC or static-pie."""
        return self.interpreter is not None or self.type == records.ET_EXEC or self.pie

    @property
    def kind(self) -> tuple[int, bool, int]:
        """Class, byte order and machine: what must be equal for files to be loaded together."""
        return self.bits, self.little, self.machine


class _DamagedError(Exception):
    pass


def read_elf(descriptor: int) -> Elf:
    """Read an open regular file (OSError if it cannot be read). No bytes make this raise anything else."""
    head = os.pread(descriptor, _HEAD, 0)
    if len(head) < _SHORTEST:
        return Elf(refused="file too short")
    if head[:4] != MAGIC:
        return Elf(refused="invalid ELF header")
    bits = {1: 32, 2: 64}.get(head[4], -1)
    if bits < 0:
        return Elf(bits, refused=f"ELF class {head[4]}")
    little = head[5] != 2
    layout = records.RECORDS[bits, little]
    header = dict(zip(layout.header_fields, layout.header.unpack_from(head), strict=True))
    elf = Elf(bits, little, header["e_machine"], header["e_flags"], header["e_type"], _refusal(head, header))
    try:
        return _Reader(descriptor, head, layout, header).read(elf)
    except _DamagedError as error:
        return elf._replace(damage=str(error))


def _refusal(head: bytes, header: dict[str, int]) -> str:
    """Return what open_verify refuses in a header, whatever its machine."""
    if head[5] not in (1, 2):
        return UNKNOWN_ENCODING
    if head[6] != 1:
        return "ELF file version ident does not match current one"
    if head[7] not in (0, 3):  # System V, GNU
        return "ELF file OS ABI invalid"
    if head[8] != 0 and (head[7] == 0 or head[8] > 3):  # libc-abis: UNIQUE, IFUNC, ABSOLUTE
        return "ELF file ABI version invalid"
    if any(head[9:16]):
        return "nonzero padding in e_ident"
    if header["e_version"] != 1:
        return WRONG_VERSION
    return ""


class _Reader:
    """The reading of one file."""

    def __init__(self, descriptor: int, head: bytes, layout: records.Records, header: dict[str, int]) -> None:
        self.descriptor = descriptor
        self.head = head
        self.layout = layout
        self.header = header
        self.loads: list[tuple[int, int, int, int]] = []  # (address, end of file bytes, end of memory, offset)

    def read(self, elf: Elf) -> Elf:
        """Return `elf` with all that the program headers lead to."""
        header = self.header
        if elf.type not in (records.ET_EXEC, records.ET_DYN):
            raise _DamagedError("only ET_DYN and ET_EXEC can be loaded")
        segment = self.layout.segment
        if header["e_phentsize"] != segment.size:
            raise _DamagedError("ELF file's phentsize not the expected size")
        size = header["e_phnum"] * segment.size
        if size > _MAX_HEADERS:
            raise _DamagedError("too many program headers")
        table = self._bytes(header["e_phoff"], size, "program headers")
        fields = self.layout.segment_fields
        kind, offset, address, in_file, in_memory = (
            fields.index(name) for name in ("p_type", "p_offset", "p_vaddr", "p_filesz", "p_memsz")
        )
        interpreter: str | None = None
        unstartable = ""
        dynamic: int | None = None
        for entry in segment.iter_unpack(table):
            if entry[kind] == records.PT_LOAD:
                start = entry[address]
                self.loads.append((start, start + entry[in_file], start + entry[in_memory], entry[offset]))
            elif entry[kind] == records.PT_DYNAMIC:
                if entry[in_file]:
                    dynamic = entry[address]  # the last one counts
            elif entry[kind] == records.PT_INTERP and interpreter is None:  # the first one
                try:
                    interpreter = self._interpreter(entry[offset], entry[in_file])
                except _DamagedError as error:
                    interpreter, unstartable = "", str(error)
        if not self.loads:
            raise _DamagedError("object file has no loadable segments")
        elf = elf._replace(interpreter=interpreter, unstartable=unstartable)
        try:
            return elf if dynamic is None else self._dynamic(elf, dynamic)
        except _DamagedError as error:
            return elf._replace(damage=str(error))

    def _bytes(self, offset: int, size: int, what: str) -> bytes:
        if offset + size <= len(self.head):
            return self.head[offset : offset + size]
        data = os.pread(self.descriptor, size, offset) if offset < 1 << 63 else b""
        if len(data) < size:
            raise _DamagedError(f"the file is too short for its {what}")
        return data

    def _interpreter(self, offset: int, size: int) -> str:
        if not 2 <= size <= _MAX_INTERPRETER:
            raise _DamagedError(f"the interpreter's name has {size} bytes")
        name = self._bytes(offset, size, "interpreter's name")
        if name[-1]:
            raise _DamagedError("the interpreter's name has no end")
        return os.fsdecode(name.partition(b"\0")[0])

    def _place(self, address: int) -> tuple[int, int]:
        """Return the file offset of an address, and how many bytes of the file are mapped from there on.

        Segments are mapped by whole pages, later ones over earlier ones; what memory holds beyond the file's part
        of a segment is zero.
        """
        for start, file_end, memory_end, offset in reversed(self.loads):
            first = start - start % _PAGE
            if first <= address < file_end:
                place = offset + address - start
                if place < 0:
                    break
                return place, file_end - address
            if file_end <= address < memory_end:
                return 0, 0
        raise _DamagedError(f"no segment holds address {address:#x}")

    def _dynamic(self, elf: Elf, address: int) -> Elf:
        names: list[tuple[int, int]] = []
        last: dict[int, int] = {}
        wanted = (records.DT_NEEDED, records.DT_FILTER, records.DT_AUXILIARY)
        for tag, value in self._entries(address):
            if tag in wanted:
                names.append((tag, value))
            else:
                last[tag] = value
        if len(names) > _MAX_WANTS:
            raise _DamagedError(f"it needs more than {_MAX_WANTS} libraries")
        strings = (records.DT_SONAME, records.DT_RPATH, records.DT_RUNPATH, records.DT_AUDIT, records.DT_DEPAUDIT)
        offsets = {value for _, value in names}
        offsets.update(last[tag] for tag in strings if tag in last)
        text: dict[int, str] = {}
        if offsets:
            if records.DT_STRTAB not in last:
                raise _DamagedError("the dynamic section has no string table")
            text = self._strings(last[records.DT_STRTAB], offsets)
        soname, rpath, runpath, audit, depaudit = (text[last[tag]] if tag in last else None for tag in strings)
        flags = last.get(records.DT_FLAGS_1, 0)
        return elf._replace(
            dynamic=True,
            soname=soname,
            wants=tuple((tag, text[value]) for tag, value in names),
            rpath=rpath if runpath is None else None,
            runpath=runpath,
            audit=tuple(name for part in (audit, depaudit) if part for name in part.split(":") if name),
            nodeflib=bool(flags & _DF_1_NODEFLIB),
            pie=bool(flags & _DF_1_PIE),
        )

    def _entries(self, address: int) -> list[tuple[int, int]]:
        """Return the dynamic entries before DT_NULL, which memory beyond the file's part of a segment reads as."""
        place, mapped = self._place(address)
        record = self.layout.dynamic
        entries: list[tuple[int, int]] = []
        step = _TABLE_STEP
        done = 0
        while done < mapped:
            if done >= _MAX_DYNAMIC:
                raise _DamagedError("the dynamic section has no end")
            size = min(step, mapped - done)
            table = self._bytes(place + done, size, "dynamic section")
            for tag, value in record.iter_unpack(table[: size - size % record.size]):
                if tag == records.DT_NULL:
                    return entries
                entries.append((tag, value))
            if size < step:
                break
            done += size
            step *= 2
        return entries

    def _strings(self, table: int, offsets: set[int]) -> dict[int, str]:
        """Return the string at each offset of the string table at an address."""
        first = min(offsets)
        place, mapped = self._place(table + first)
        most = max(offsets) - first
        near = b""
        if most < _HEAD * 16 and place < 1 << 63:
            near = os.pread(self.descriptor, min(most + _STRING_STEP, mapped), place)
        text = {}
        total = 0
        for offset in offsets:
            end = near.find(b"\0", offset - first)
            text[offset] = os.fsdecode(
                near[offset - first : end] if end >= 0 else self._string(table + offset)
            )
            total += len(text[offset])
            if total > _MAX_STRINGS:
                raise _DamagedError(f"its strings have more than {_MAX_STRINGS} bytes")
        return text

    def _string(self, address: int) -> bytes:
        place, mapped = self._place(address)
        if place >= 1 << 63:
            raise _DamagedError("a string lies beyond the file")
        step = _STRING_STEP
        while True:
            data = os.pread(self.descriptor, min(step, mapped), place)
            end = data.find(b"\0")
            if end >= 0:
                return data[:end]
            if len(data) < step:
                raise _DamagedError("a string has no end")
            if step >= _MAX_STRING:
                raise _DamagedError(f"a string has more than {_MAX_STRING} bytes")
            step *= 16
