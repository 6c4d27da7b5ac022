"""Files with dlopen notes: made by the assembler, for gcc to build in, or byte by byte."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence

TYPE = 0x407C0C0A
Entry = dict[str, object]


def entry(*sonames: str, priority: str | None = None, feature: str = "f") -> Entry:
    """Return what a note says of one library and its alternatives."""
    said: Entry = {"soname": list(sonames), "feature": feature, "description": "what it is for"}
    return said if priority is None else {**said, "priority": priority}


def assembly(*notes: Sequence[Entry]) -> str:
    """Return C source that puts each list of entries into a note of its own, as systemd's macros do."""
    return "".join(_assembly(json.dumps(note, ensure_ascii=False)) for note in notes)


def _assembly(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    lines = (
        '.pushsection .note.dlopen,"a",%note',
        ".balign 4",
        ".long 2f-1f",
        ".long 4f-3f",
        f".long {TYPE:#x}",
        '1: .asciz "FDO"',
        "2: .balign 4",
        f'3: .asciz "{escaped}"',
        "4: .balign 4",
        ".popsection",
    )
    quoted = "".join('"' + line.replace("\\", "\\\\").replace('"', '\\"') + '\\n"\n' for line in lines)
    return f"__asm__({quoted});\n"


def note(text: bytes, order: str, alignment: int, type: int = TYPE, owner: bytes = b"FDO\0") -> bytes:
    """Return the bytes of one note, padded to the alignment."""
    head = struct.pack(f"{order}III", len(owner), len(text), type) + owner
    return _padded(_padded(head, alignment) + text, alignment)


def _padded(data: bytes, alignment: int) -> bytes:
    return data + bytes(-len(data) % alignment)


def image(bits: int, little: bool, segments: Sequence[tuple[int, bytes]], *, far: int = 0) -> bytes:
    """Return a shared object with nothing but note segments, each of an alignment, `far` bytes from its beginning."""
    order = "<" if little else ">"
    word = "Q" if bits == 64 else "I"
    header = struct.Struct(f"{order}16sHHI{word}{word}{word}IHHHHHH")
    phdr = 56 if bits == 64 else 32
    start = header.size + phdr * (len(segments) + 2)
    dynamic = struct.pack(f"{order}{word}{word}", 0, 0)
    place = start + len(dynamic) + far
    place += -place % 8
    body = bytearray()
    table = [(1, 0, 0, 8), (2, start, len(dynamic), 8)]
    for alignment, data in segments:
        body += bytes(-len(body) % 8)
        table.append((4, place + len(body), len(data), alignment))
        body += data
    whole = place + len(body)
    table[0] = (1, 0, whole, 4096)
    ident = b"\x7fELF" + bytes([2 if bits == 64 else 1, 1 if little else 2, 1]).ljust(12, b"\0")
    machine = {(64, True): 62, (32, True): 3, (64, False): 22, (32, False): 20}[bits, little]
    out = bytearray(header.pack(ident, 3, machine, 1, 0, header.size, 0, 0, header.size, phdr, len(table), 0, 0, 0))
    for kind, offset, size, alignment in table:
        if bits == 64:
            out += struct.pack(f"{order}IIQQQQQQ", kind, 4, offset, offset, offset, size, size, alignment)
        else:
            out += struct.pack(f"{order}IIIIIIII", kind, offset, offset, offset, size, size, 4, alignment)
    out += dynamic
    return bytes(out) + bytes(place - len(out)) + bytes(body)
