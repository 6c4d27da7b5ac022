"""What a file offers and wants as musl has it, which knows no versions.

Rules: ldso/dynlink.c (do_relocs, find_sym2, get_lfs64). Each relocation with a symbol that is not local is looked up by
name alone, also what the file has itself; and everything before the program starts.
"""

from __future__ import annotations

import os

from jailbuild.elf.relocs import Definition, Linkage, Reader, Reference

_UNDEFINED = 0  # SHN_UNDEF
_LOCAL, _WEAK = 0, 2  # STB_LOCAL, STB_WEAK
_OFFERED = (1, _WEAK, 10)  # STB_GLOBAL, STB_WEAK, STB_GNU_UNIQUE
_DEFINITIONS = (0, 1, 2, 5, 6)  # STT_NOTYPE, OBJECT, FUNC, COMMON, TLS; no STT_GNU_IFUNC
_TLS = 6
_NOT_DEFAULT = 0x8000  # in a symbol's version number

# From 1.2.4 on the libc has no symbols like open64 any more, but a list of the names that stand for one without the 64.
_LIST_BEGINS, _LIST_ENDS = b"aio_cancel\0", b"__xstat\0\0"
_OF_THE_LIBC = ("__libc_start_main", "dlopen")
_MAX_LIBC = 64 << 20  # bytes

_DEFINITION, _STUB = (Definition(None, 0, False, False),), (Definition(None, 0, False, True),)


def read_musl_linkage(descriptor: int) -> Linkage:
    """Read an open ELF file (OSError; DamagedError where its tables cannot be)."""
    linkage = _MuslReader(descriptor).read()._replace(symbolic=False, versioned=False)
    if all(name in linkage.definitions for name in _OF_THE_LIBC):
        size = min(os.fstat(descriptor).st_size, _MAX_LIBC)
        for name, meant in remapped(os.pread(descriptor, size, 0)).items():
            if meant in linkage.definitions:
                linkage.definitions.setdefault(name, _DEFINITION)
    return linkage


def remapped(libc: bytes) -> dict[str, str]:
    """Return the names that the bytes of a libc take for others; none of one before 1.2.4."""
    end = libc.find(_LIST_ENDS)
    start = libc.rfind(_LIST_BEGINS, 0, end) if end >= 0 else -1
    if start < 0:
        return {}
    names = (libc[start:end] + _LIST_ENDS).rstrip(b"\0").decode("ascii", "replace").split("\0")
    return {f"{name}64": name for name in names} | {"readdir64_r": "readdir_r"}


class _MuslReader(Reader):
    def references(
        self,
        infos: set[tuple[int, bool]],
        shift: int,
        symbols: list[tuple[int, ...]],
        marks: tuple[int, ...] | None,
    ) -> tuple[Reference, ...]:
        low = (1 << shift) - 1
        found = set()
        for info, _ in infos:
            index, kind = info >> shift, info & low
            name, bind, _, section, _ = symbols[index]
            if bind >> 4 == _LOCAL or not kind:
                continue
            weak = bind >> 4 == _WEAK and section == _UNDEFINED
            found.add(
                Reference(self.name(name), None, None, False, weak, False, kind == self.jump_slot, kind == self.copy)
            )
        return tuple(sorted(found))

    def definitions(
        self, symbols: list[tuple[int, ...]], marks: tuple[int, ...] | None
    ) -> dict[str, tuple[Definition, ...]]:
        found: dict[str, tuple[Definition, ...]] = {}
        met: set[str] = set()
        for index in range(self.first_hashed(), len(symbols)):
            name, info, _, section, value = symbols[index]
            if marks is not None and marks[index] & _NOT_DEFAULT:
                continue
            text = self.name(name)
            if text in met:  # of each name the first alone is looked at
                continue
            met.add(text)
            kind = info & 15
            if info >> 4 not in _OFFERED or kind not in _DEFINITIONS:
                continue
            if kind == _TLS:
                if section != _UNDEFINED:
                    found[text] = _DEFINITION
            elif value:
                found[text] = _DEFINITION if section != _UNDEFINED else _STUB
        return found
