"""dlopen notes: which libraries a file says that it opens while it runs.

UAPI.12, "dlopen() Metadata for ELF Files": notes of the owner FDO and one type, each a JSON array of objects. They are
found by that type in the PT_NOTE segments, whatever the sections are called. What does not fit is passed over: a note
is a hint, and no reason to refuse a file.
"""

from __future__ import annotations

import os
from struct import Struct
from typing import Any, NamedTuple

from jailbuild.elf.layouts import PT_NOTE, note_records
from jailbuild.elf.priorities import DEFAULT, MARKS, PRIORITIES

_MOST_BYTES = 1 << 20  # of all note segments of a file; the largest that was seen has 3 KiB
_LARGEST = 1 << 16  # bytes of one note
_MOST = 256  # libraries of a file; systemd's has 20
_MOST_NAMES = 16  # for one of them
_LONGEST = 4095  # bytes of a name
_BEYOND = 1 << 62

Segments = list[tuple[int, int]]  # offset and size in the file


class Dlopen(NamedTuple):
    """A library that is opened at run time."""

    sonames: tuple[str, ...]  # the first of them that is there
    priority: str = DEFAULT  # one of PRIORITIES
    feature: str | None = None
    description: str | None = None


def read_dlopens(descriptor: int, head: bytes, far: Segments, bits: int, little: bool) -> tuple[Dlopen, ...]:
    """Return what the notes of an open file say (OSError if it cannot be read).

    `head` is its beginning, as much as was read already, and `far` are the note segments that do not lie in it: most
    files have none, and nothing that looks like such a note in their head.
    """
    mark = MARKS[little]
    if mark not in head:
        left = _MOST_BYTES
        for offset, size in far:
            if offset < _BEYOND and left > 0:
                data = os.pread(descriptor, min(size, left), offset)
                left -= len(data)
                if mark in data:
                    break
        else:
            return ()
    return _read(descriptor, head, bits, little)


def _read(descriptor: int, head: bytes, bits: int, little: bool) -> tuple[Dlopen, ...]:
    """Read all notes, now that there may be one: by the program headers again, for the alignments."""
    header, segment, record = note_records(bits, little)
    place, count = header.unpack_from(head)
    each = segment.size
    table = os.pread(descriptor, count * each, place)
    found: dict[Dlopen, None] = {}
    left = _MOST_BYTES
    for kind, offset, size, alignment in segment.iter_unpack(table[: len(table) // each * each]):
        if kind == PT_NOTE and offset < _BEYOND and left > 0:
            data = os.pread(descriptor, min(size, left), offset)
            left -= len(data)
            # old linkers put notes of both alignments into one segment, and say the larger
            for step in (8, 4) if alignment == 8 else (4,):
                notes = _notes(data, record, step, MARKS[little])
                if notes:
                    found.update(dict.fromkeys(one for note in notes for one in _dlopens(note)))
                    break
    return tuple(found)[:_MOST]


def _notes(data: bytes, record: Struct, alignment: int, mark: bytes) -> list[bytes]:
    """Return the texts of the dlopen notes in a segment."""
    found = []
    place = 0
    while place + record.size <= len(data):
        name_size, size = record.unpack_from(data, place)
        name = place + record.size
        start = _up(name + name_size, alignment)
        if start + size > len(data):
            break
        if name_size == 4 and data[name - 4 : name + 4] == mark and size <= _LARGEST:
            found.append(data[start : start + size])
        place = _up(start + size, alignment)
    return found


def _up(place: int, alignment: int) -> int:
    return (place + alignment - 1) // alignment * alignment


def _dlopens(text: bytes) -> list[Dlopen]:
    """Return what the text of a note says; nothing for what is no JSON array."""
    import json  # few files have any

    try:
        said = json.loads(text.partition(b"\0")[0].decode("utf-8"))
    except (ValueError, RecursionError):
        return []
    found = []
    for one in said if isinstance(said, list) else ():
        if isinstance(one, dict) and (sonames := _names(one.get("soname"))):
            priority = one.get("priority")
            found.append(
                Dlopen(
                    sonames,
                    priority if priority in PRIORITIES else DEFAULT,
                    _text(one.get("feature")),
                    _text(one.get("description")),
                )
            )
    return found[:_MOST]


def _names(value: Any) -> tuple[str, ...]:
    names = value if isinstance(value, list) else ()
    return tuple([name for name in names if _is_name(name)][:_MOST_NAMES])


def _is_name(name: Any) -> bool:
    """Say whether something is a name that dlopen(3) could be given; the specification forbids control characters."""
    if not isinstance(name, str) or not name or min(name) < " ":
        return False
    try:
        return len(name.encode("utf-8")) <= _LONGEST
    except UnicodeEncodeError:  # halves of characters
        return False


def _text(value: Any) -> str | None:
    return value[:_LONGEST].encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else None
