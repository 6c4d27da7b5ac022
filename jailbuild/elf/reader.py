"""One ELF file, read as kernel and loader read it: program headers and addresses, never section headers.

Rules: elf(5); glibc elf/dl-load.c (open_verify, _dl_map_object_from_fd) and elf/get-dynamic-info.h; Linux
fs/binfmt_elf.c. Section headers can say anything, and a file without them still runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from jailbuild.elf.layouts import (
    DT_AUDIT,
    DT_AUXILIARY,
    DT_DEPAUDIT,
    DT_FILTER,
    DT_FLAGS_1,
    DT_NEEDED,
    DT_RELR,
    DT_RPATH,
    DT_RUNPATH,
    DT_SONAME,
    DT_STRTAB,
    DT_VERDEF,
    DT_VERNEED,
    ET_DYN,
    ET_EXEC,
    PT_DYNAMIC,
    PT_INTERP,
    PT_LOAD,
    PT_NOTE,
    Records,
    records,
)
from jailbuild.elf.priorities import MARKS
from jailbuild.elf.segments import BEHIND, BEYOND, DamagedError, Loads, Strings, dynamic_entries, place_of
from jailbuild.elf.symver import (
    NO_VERSIONS,
    RELR,
    BeyondError,
    Need,
    VersionError,
    Versions,
    defined,
    needed,
    usual,
    version,
)

if TYPE_CHECKING:
    from jailbuild.elf.dlopen_notes import Dlopen

MAGIC = b"\x7fELF"
UNKNOWN_ENCODING = "ELF file data encoding is unknown"
WRONG_VERSION = "ELF file version does not match current one"

_SHORTEST = 64  # bytes; no ELF file of either class that can be loaded is shorter
_HEAD = 2048  # file header, program headers and PT_INTERP of nearly every file
_MAX_HEADERS = 1 << 16  # bytes; the kernel refuses more
_MAX_INTERPRETER = 4096  # bytes, PATH_MAX; likewise
_MAX_WANTS = 4096  # DT_NEEDED and the like; the most that was seen is some 200
_MAX_VERSIONS = 1 << 20

_WANTED = (DT_NEEDED, DT_FILTER, DT_AUXILIARY)
_STRINGS = (DT_SONAME, DT_RPATH, DT_RUNPATH, DT_AUDIT, DT_DEPAUDIT)

# Where the kernel goes by e_machine alone (elf_check_arch), the class that it then takes for granted, little-endian
_STARTED_AS = {3: 32, 40: 32, 62: 64, 183: 64}  # i386, ARM, x86-64, AArch64

_DF_1_NODEFLIB = 0x800
_DF_1_PIE = 0x08000000


class Elf(NamedTuple):
    """What the loader takes from a file. Strings are decoded with os.fsdecode.

    A file that cannot be used still gives one: `bits` is 0 when it is no ELF file at all, `ident_error` says what the
    loader finds wrong before it looks at the machine (open_verify), `load_error` what is wrong after that. The kernel
    does not ask what `ident_error` asks. Where it would even start a file of another class or byte order than the first
    bytes have, this is what it starts, and `as_library` what the loader finds.
    """

    bits: int = 0  # 32 or 64; -1 for a class that there is none of
    little: bool = True
    machine: int = 0
    flags: int = 0
    type: int = 0
    ident_error: str = ""
    load_error: str = ""
    exec_error: str = ""  # what the kernel refuses a program for, and a loader does not mind in a library
    interpreter: str | None = None
    dynamic: bool = False
    soname: str | None = None
    wants: tuple[tuple[int, str], ...] = ()  # (DT_NEEDED, DT_FILTER or DT_AUXILIARY, name) in the file's order
    rpath: str | None = None  # None also where DT_RUNPATH makes the loader drop it
    runpath: str | None = None
    audit: tuple[str, ...] = ()  # DT_AUDIT and DT_DEPAUDIT, split
    nodeflib: bool = False
    pie: bool = False
    dlopens: tuple[Dlopen, ...] = ()  # what its notes say that it opens while it runs
    versions: Versions = NO_VERSIONS
    as_library: Elf | None = None

    @property
    def is_program(self) -> bool:
        """Whether the kernel is meant to start it: PT_INTERP, ET_EXEC or static-pie."""
        return self.interpreter is not None or self.type == ET_EXEC or self.pie

    @property
    def kind(self) -> tuple[int, bool, int]:
        """Class, byte order and machine: what must be equal for files to be loaded together."""
        return self.bits, self.little, self.machine


def read_elf(descriptor: int) -> Elf:
    """Read an open regular file (OSError if it cannot be read). No bytes make this raise anything else."""
    head = os.pread(descriptor, _HEAD, 0)
    if len(head) < _SHORTEST:
        return Elf(ident_error="file too short")
    if head[:4] != MAGIC:
        return Elf(ident_error="invalid ELF header")
    bits, little, ident_error = _ident(head[4:16])
    elf = _read(descriptor, head, bits, little, ident_error) if bits > 0 else Elf(bits, ident_error=ident_error)
    usual = _STARTED_AS.get(head[18] | head[19] << 8)
    if usual is not None and not (usual == bits and little):
        started = _read(descriptor, head, usual, True, ident_error)
        if not started.load_error:
            return started._replace(as_library=elf)
    return elf


def _read(descriptor: int, head: bytes, bits: int, little: bool, ident_error: str) -> Elf:
    """Read the file as one of a class and byte order."""
    layout = records(bits, little)
    kind, machine, version, place, flags, size, count = layout.header.unpack_from(head)
    if not ident_error and version != 1:
        ident_error = WRONG_VERSION
    said = (bits, little, machine, flags, kind, ident_error)
    interpreter: str | None = None
    exec_error = ""
    try:
        if kind != ET_DYN and kind != ET_EXEC:
            raise DamagedError("only ET_DYN and ET_EXEC can be loaded")
        segment = layout.segment
        if size != segment.size:
            raise DamagedError("ELF file's phentsize not the expected size")
        size *= count
        if size > _MAX_HEADERS:
            raise DamagedError("too many program headers")
        table = (
            head[place : place + size]
            if place + size <= len(head)
            else _bytes(descriptor, place, size, "program headers")
        )
        loads: Loads = []
        far_notes: list[tuple[int, int]] = []  # those that do not lie in `head`
        dynamic: tuple[int, int] | None = None
        for segment_type, offset, address, in_file, in_memory in segment.iter_unpack(table):
            if segment_type == PT_LOAD:
                loads.append((address, address + in_file, address + in_memory, offset))
            elif segment_type == PT_DYNAMIC:
                if in_file:
                    dynamic = address, in_file  # the last one counts
            elif segment_type == PT_INTERP and interpreter is None:  # the first one
                try:
                    interpreter = _interpreter(descriptor, head, offset, in_file)
                except DamagedError as error:
                    interpreter, exec_error = "", str(error)
            elif segment_type == PT_NOTE and offset + in_file > len(head):
                far_notes.append((offset, in_file))
        if not loads:
            interpreter, exec_error = None, ""
            raise DamagedError("object file has no loadable segments")
        if dynamic is None:
            return Elf(*said, "", exec_error, interpreter)
        soname, wants, rpath, runpath, audit, flags_1, versions = _dynamic(descriptor, loads, layout, *dynamic)
        return Elf(
            *said,
            "",
            exec_error,
            interpreter,
            True,
            soname,
            wants,
            rpath if runpath is None else None,
            runpath,
            audit,
            bool(flags_1 & _DF_1_NODEFLIB),
            bool(flags_1 & _DF_1_PIE),
            _dlopens(descriptor, head, far_notes, bits, little) if far_notes or MARKS[little] in head else (),
            versions,
        )
    except DamagedError as error:
        return Elf(*said, str(error), exec_error, interpreter)


def _dlopens(
    descriptor: int, head: bytes, far_notes: list[tuple[int, int]], bits: int, little: bool
) -> tuple[Dlopen, ...]:
    from jailbuild.elf.dlopen_notes import read_dlopens  # few files have any

    return read_dlopens(descriptor, head, far_notes, bits, little)


@cache
def _ident(ident: bytes) -> tuple[int, bool, str]:
    """Return class, byte order, and what open_verify refuses whatever the machine: from e_ident after the magic."""
    bits = {1: 32, 2: 64}.get(ident[0], -1)
    return bits, ident[1] != 2, f"ELF class {ident[0]}" if bits < 0 else _refusal(ident)


def _refusal(ident: bytes) -> str:
    _, encoding, version, system, abi_version, *padding = ident
    if encoding not in (1, 2):
        return UNKNOWN_ENCODING
    if version != 1:
        return "ELF file version ident does not match current one"
    if system not in (0, 3):  # System V, GNU
        return "ELF file OS ABI invalid"
    if abi_version != 0 and (system == 0 or abi_version > 3):  # libc-abis: UNIQUE, IFUNC, ABSOLUTE
        return "ELF file ABI version invalid"
    return "nonzero padding in e_ident" if any(padding) else ""


def _bytes(descriptor: int, offset: int, size: int, what: str) -> bytes:
    data = os.pread(descriptor, size, offset) if offset < BEYOND else b""
    if len(data) < size:
        raise DamagedError(f"the file is too short for its {what}")
    return data


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")  # os.fsdecode, whose checks take longer


def _interpreter(descriptor: int, head: bytes, offset: int, size: int) -> str:
    if not 2 <= size <= _MAX_INTERPRETER:
        raise DamagedError(f"the interpreter's name has {size} bytes")
    name = head[offset : offset + size]
    if offset + size > len(head):
        name = _bytes(descriptor, offset, size, "interpreter's name")
    if name[-1]:
        raise DamagedError("the interpreter's name has no end")
    return _text(name.partition(b"\0")[0])


Dynamic = tuple[str | None, tuple[tuple[int, str], ...], str | None, str | None, tuple[str, ...], int, Versions]


def _dynamic(descriptor: int, loads: Loads, layout: Records, address: int, usual: int) -> Dynamic:
    """Return what the dynamic section says: SONAME, what it asks for, RPATH, RUNPATH, audit, flags, versions."""
    tags, values = dynamic_entries(descriptor, loads, layout.dynamic, address, usual)
    last = dict(zip(tags, values, strict=True))
    names: list[tuple[int, int]] = []
    if DT_FILTER in last or DT_AUXILIARY in last:
        names = [entry for entry in zip(tags, values, strict=True) if entry[0] in _WANTED]
    elif DT_NEEDED in last:
        place = -1
        for _ in range(tags.count(DT_NEEDED)):
            place = tags.index(DT_NEEDED, place + 1)
            names.append((DT_NEEDED, values[place]))
    if len(names) > _MAX_WANTS:
        raise DamagedError(f"it needs more than {_MAX_WANTS} libraries")
    offsets = [value for _, value in names]
    offsets += [last[tag] for tag in _STRINGS if tag in last]
    if not offsets and DT_VERDEF not in last and DT_VERNEED not in last:
        return None, (), None, None, (), last.get(DT_FLAGS_1, 0), NO_VERSIONS
    if DT_STRTAB not in last:
        if not offsets:  # then the loader does not look at versions either
            return None, (), None, None, (), last.get(DT_FLAGS_1, 0), NO_VERSIONS
        raise DamagedError("the dynamic section has no string table")
    strings = Strings(descriptor, loads, last[DT_STRTAB])
    text = strings.read(offsets, last.get(DT_VERNEED, 0))
    wants = tuple([(tag, text[value]) for tag, value in names])
    soname = text[last[DT_SONAME]] if DT_SONAME in last else None
    rpath = text[last[DT_RPATH]] if DT_RPATH in last else None
    runpath = text[last[DT_RUNPATH]] if DT_RUNPATH in last else None
    audit: tuple[str, ...] = ()
    if DT_AUDIT in last or DT_DEPAUDIT in last:
        lists = [text[last[tag]] for tag in (DT_AUDIT, DT_DEPAUDIT) if tag in last]
        audit = tuple(name for one in lists for name in one.split(":") if name)
    versions = NO_VERSIONS
    if DT_VERDEF in last or DT_VERNEED in last:
        try:
            versions = _versions(strings, layout, last.get(DT_VERNEED), last.get(DT_VERDEF))
        except (DamagedError, VersionError) as error:
            versions = Versions(load_error=str(error))
        if DT_RELR in last and DT_VERNEED in last and not _is_marked(versions):
            versions = versions._replace(unmarked=any(name.startswith("libc.so.") for _, name in wants))
    return soname, wants, rpath, runpath, audit, last.get(DT_FLAGS_1, 0), versions


def _is_marked(versions: Versions) -> bool:
    return any(RELR in need.versions for need in versions.needs)


def _versions(strings: Strings, layout: Records, needs_at: int | None, defined_at: int | None) -> Versions:
    """Return the versions of a file by the addresses of its tables (DamagedError, VersionError)."""
    needs: tuple[Need, ...] = ()
    if needs_at is not None:
        place = place_of(strings.loads, needs_at)[0]
        if not strings.first and place >= strings.place:
            needs = usual(layout).read(strings.near, place - strings.place, strings.known) or ()
        if not needs:
            needs = _needs(strings, layout, needs_at)
    if defined_at is None:
        return Versions(needs)
    has = _table_of(strings, defined_at, defined, layout)
    text = strings.read([name for _, name in has])
    return Versions(needs, frozenset([version(text[name], digest) for digest, name in has]))


def _needs(strings: Strings, layout: Records, address: int) -> tuple[Need, ...]:
    found = []
    groups = _table_of(strings, address, needed, layout)
    strings.read([name for _, _, names in groups for name in names])
    text = strings.read([file for file, _, _ in groups])
    learn = usual(layout).learn
    for file, hashes, names in groups:
        versions = [learn(text[name], digest) for name, digest in zip(names, hashes, strict=True)]
        found.append(Need(text[file], tuple(versions)))
    return tuple(found)


_Raw = TypeVar("_Raw")


def _table_of(strings: Strings, address: int, parse: Callable[[bytes, int, Records], _Raw], layout: Records) -> _Raw:
    """Return the records of a table of versions: from what was read already if it is whole there."""
    place, mapped = place_of(strings.loads, address)
    at = place - strings.place
    if at >= 0:
        try:
            return parse(strings.near, at, layout)
        except BeyondError:
            pass
    for size in (BEHIND, _MAX_VERSIONS):
        data = os.pread(strings.descriptor, min(size, mapped), place) if place < BEYOND else b""
        try:
            return parse(data, 0, layout)
        except BeyondError:
            pass
    raise DamagedError("a table of versions has no end")
