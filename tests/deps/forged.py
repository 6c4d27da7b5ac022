"""ELF files written byte by byte: with what no linker would write, and thousands of them in a second."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

LOADER = "/lib64/ld-linux-x86-64.so.2"
NEEDED, SONAME, RPATH, RUNPATH, AUDIT, FILTER = 1, 14, 15, 29, 0x6FFFFEFC, 0x7FFFFFFF
_STRTAB, _SYMTAB, _STRSZ, _SYMENT = 5, 6, 10, 11
_LOAD, _DYNAMIC, _INTERP, _GNU_STACK = 1, 2, 3, 0x6474E551


def forge(path: Path, entries: Sequence[tuple[int, str]], interpreter: str | None = LOADER) -> Path:
    """Write an x86-64 program, or without an interpreter a library, whose dynamic section has these strings."""
    strings = bytearray(b"\0")
    table = []
    for tag, text in entries:
        table.append((tag, len(strings)))
        strings += text.encode() + b"\0"
    name = b"" if interpreter is None else interpreter.encode() + b"\0"
    count = 3 if interpreter is None else 4
    name_at = 64 + 56 * count
    table_at = -(-(name_at + len(name)) // 16) * 16
    strings_at = table_at + 16 * (len(table) + 5)
    table += [(_STRTAB, strings_at), (_STRSZ, len(strings)), (_SYMTAB, strings_at), (_SYMENT, 24), (0, 0)]

    def segment(kind: int, at: int, size: int) -> bytes:
        return struct.pack("<IIQQQQQQ", kind, 7, at, at, at, size, size, 4096)

    data = b"\x7fELF\2\1\1" + bytes(9)
    data += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, table_at, 64, 0, 0, 64, 56, count, 0, 0, 0)
    data += segment(_INTERP, name_at, len(name)) if name else b""
    data += segment(_LOAD, 0, strings_at + len(strings)) + segment(_DYNAMIC, table_at, 16 * len(table))
    data += struct.pack("<IIQQQQQQ", _GNU_STACK, 6, 0, 0, 0, 0, 0, 16) + name
    data = data.ljust(table_at, b"\0") + b"".join(struct.pack("<qQ", *entry) for entry in table)
    path.write_bytes(data + strings)
    path.chmod(0o755)
    return path
