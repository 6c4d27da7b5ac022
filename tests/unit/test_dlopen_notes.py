"""dlopen notes (UAPI.12): read whatever class, byte order, alignment and segment they stand in, and never a reason to
fail.

More than the usual number of damaged files: JAILBUILD_MUTATIONS=100000 pytest tests/unit/test_dlopen_notes.py
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jailbuild.elf.dlopen_notes import Dlopen
from jailbuild.elf.priorities import PRIORITIES
from jailbuild.elf.reader import read_elf
from tests.noted import TYPE, assembly, entry, image, note

MUTATIONS = int(os.environ.get("JAILBUILD_MUTATIONS", "3000"))
FOO = Dlopen(("libfoo.so.1",), "required", "f", "what it is for")

KINDS = st.sampled_from([(64, True), (32, True), (64, False), (32, False)])
NAMES = st.text(st.characters(min_codepoint=33, exclude_categories=["Cs"]), min_size=1, max_size=20)
ENTRIES = st.builds(
    Dlopen,
    st.lists(NAMES, min_size=1, max_size=4).map(tuple),
    st.sampled_from(PRIORITIES),
    st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
    st.none(),
)


def dlopens(data: bytes) -> tuple[Dlopen, ...]:
    opened = os.memfd_create("elf")
    try:
        os.write(opened, data)
        elf = read_elf(opened)
        assert (elf.ident_error, elf.load_error) == ("", "")
        return elf.dlopens
    finally:
        os.close(opened)


def text(*entries: Dlopen) -> bytes:
    said = [{"soname": list(one.sonames), "priority": one.priority, "feature": one.feature} for one in entries]
    return json.dumps(said).encode() + b"\0"


def one(payload: bytes, *, type: int = TYPE, owner: bytes = b"FDO\0") -> tuple[Dlopen, ...]:
    """Return what a single note of x86-64 says."""
    return dlopens(image(64, True, [(4, note(payload, "<", 4, type, owner))]))


@given(
    KINDS,
    st.lists(st.tuples(st.sampled_from([4, 8]), st.lists(st.lists(ENTRIES, max_size=3), max_size=3)), max_size=3),
    st.sampled_from([0, 5000]),
    st.booleans(),
)
def test_notes_are_read_wherever_they_stand(
    kind: tuple[int, bool], segments: list[tuple[int, list[list[Dlopen]]]], far: int, among_others: bool
) -> None:
    """Both classes, both byte orders, both alignments, several notes in a segment, several segments, near and far."""
    bits, little = kind
    order = "<" if little else ">"
    built = []
    for alignment, notes in segments:
        data = note(b"\1\2\3", order, alignment, 3, b"GNU\0") if among_others else b""
        data += b"".join(note(text(*entries), order, alignment) for entries in notes)
        built.append((alignment, data))
    said = [entry for _, notes in segments for entries in notes for entry in entries]
    assert dlopens(image(bits, little, built, far=far)) == tuple(dict.fromkeys(said))


@pytest.mark.parametrize("said", [4, 8], ids=["told-4", "told-8"])
def test_notes_of_the_smaller_alignment_are_found_in_a_segment_of_the_larger(said: int) -> None:
    """Old linkers put all notes into one segment: of 4 they stand as they are, whatever it says."""
    data = note(b"x" * 5, "<", 4, 3, b"GNU\0") + note(text(FOO), "<", 4)
    assert [found.sonames for found in dlopens(image(64, True, [(said, data)]))] == [("libfoo.so.1",)]


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'[{"soname":["a"]}]\0', [("a",)]),
        (b'[{"soname":["a"]}]', [("a",)]),  # no NUL, and nothing behind it
        (b'[{"soname":["a"]}]\0[{"soname":["b"]}]\0', [("a",)]),
        (b'[{"soname":["a","b"]},{"soname":["c"]}]\0\0\0', [("a", "b"), ("c",)]),
        (b'[{"soname":["a"],"priority":"urgent"}]\0', [("a",)]),
        (b'[{"soname":["a"],"priority":["required"],"feature":7,"description":{}}]\0', [("a",)]),
        (b'[{"soname":["a",7,"",null,"b"]}]\0', [("a", "b")]),
        (b'[{"soname":["a\\u0000b","a\\nb","\\ud800","ok"]}]\0', [("ok",)]),
        (b'[7,null,{"soname":[]},{"soname":"a"},{"feature":"x"},{"soname":["b"]}]\0', [("b",)]),
        (b'{"soname":["a"]}\0', []),
        (b'[{"soname":["a"]}\0', []),
        (b"\xff\xfe[]\0", []),
        (b"", []),
        (b"[" * 50000 + b"\0", []),
        (b'[{"soname":["a"],"x":' + b"9" * 5000 + b"}]\0", []),
    ],
)
def test_what_a_note_says_that_does_not_fit_is_passed_over(payload: bytes, expected: list[tuple[str, ...]]) -> None:
    found = one(payload)
    assert [entry.sonames for entry in found] == expected
    assert {entry.priority for entry in found} <= {"recommended"}


def test_other_types_and_owners_are_no_dlopen_notes() -> None:
    assert [found.sonames for found in one(text(FOO))] == [("libfoo.so.1",)]
    assert one(text(FOO), type=0xCAFE1A7E) == ()
    assert one(text(FOO), owner=b"GNU\0") == ()
    assert one(text(FOO), owner=b"FDO\0\0\0\0\0") == ()


def test_a_file_says_no_more_than_anybody_would_read() -> None:
    """Thousands of libraries, of alternatives, of megabytes: some are taken, at once."""
    many = [Dlopen((f"lib{number}.so",)) for number in range(900)]
    assert len(one(text(*many))) == 256
    assert len(one(text(Dlopen(tuple(map(str, range(900))))))[0].sonames) == 16
    huge = b'[{"soname":["a"],"x":"' + b"y" * (1 << 17) + b'"}]\0'
    assert one(huge) == ()
    before = time.process_time()
    filled = [(4, note(text(*many[:300]), "<", 4)) for _ in range(1000)]
    assert len(dlopens(image(64, True, filled))) == 256
    assert time.process_time() - before < 5


def test_the_assemblers_notes_are_read_as_readelf_reads_them(tmp_path: Path) -> None:
    """Built by gcc as libraries are, and read without section headers too."""
    source = assembly([entry("libfoo.so.1", "libfoo.so.0", priority="required")], [entry("libä.so")])
    made = tmp_path / "lib.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-nostdlib", "-x", "c", "-", "-o", made],
        input=source + "int x;\n",
        text=True,
        check=True,
    )
    expected = (
        Dlopen(("libfoo.so.1", "libfoo.so.0"), "required", "f", "what it is for"),
        Dlopen(("libä.so",), "recommended", "f", "what it is for"),
    )
    assert dlopens(made.read_bytes()) == expected
    shown = subprocess.run(
        ["readelf", "--notes", "--wide", made], capture_output=True, text=True, check=False
    ).stdout  # to which the type is unknown
    assert shown.count(f"{TYPE:#010x}") == len(expected)
    data = bytearray(made.read_bytes())
    data[40:48], data[60:64] = bytes(8), bytes(4)  # e_shoff; e_shnum, e_shstrndx
    assert dlopens(bytes(data)) == expected


@pytest.mark.parametrize("more", [0, 1, 8])
def test_a_file_that_ends_with_its_dynamic_section_is_damaged_and_not_waited_for(more: int) -> None:
    """No end of the dynamic section in the file, where the segment goes on: what is read does not become more."""
    data = bytearray(image(64, True, [(4, bytes(128))]))
    start = 64 + 3 * 56
    data[start] = 1  # DT_NULL no more
    opened = os.memfd_create("elf")
    try:
        os.write(opened, data[: start + 16 + more])
        assert read_elf(opened).load_error == "the file is too short for its dynamic section"
    finally:
        os.close(opened)


@given(st.binary(max_size=400), KINDS, st.sampled_from([0, 1, 4, 8, 16]))
@example(note(text(FOO), "<", 4)[:-30], (64, True), 4)
def test_any_bytes_in_a_note_segment_are_read_without_an_error(
    data: bytes, kind: tuple[int, bool], alignment: int
) -> None:
    order = "<" if kind[1] else ">"
    for segment in (data, note(text(FOO), order, 4) + data, data + note(text(FOO), order, 4)):
        dlopens(image(*kind, [(alignment, segment)]))


def test_damaged_files_with_notes_are_read_without_an_error(tmp_path: Path) -> None:
    """Bytes flipped and cut off anywhere in a file that has notes: an answer, and quickly."""
    generator = random.Random(407)
    files = [
        image(
            bits,
            little,
            [
                (4, note(text(FOO, FOO._replace(sonames=("b",))), "<" if little else ">", 4)),
                (8, note(text(FOO), "<" if little else ">", 8)),
            ],
        )
        for bits in (32, 64)
        for little in (True, False)
    ]
    opened = os.open(tmp_path / "damaged", os.O_RDWR | os.O_CREAT)
    slowest = 0.0
    for number in range(MUTATIONS):
        data = bytearray(files[number % len(files)])
        for _ in range(generator.choice((1, 2, 8))):
            data[generator.randrange(len(data))] = generator.choice((0, 1, 4, 8, 127, 255, generator.randrange(256)))
        if generator.random() < 0.2:
            del data[generator.randrange(64, len(data)) :]
        os.ftruncate(opened, 0)
        os.pwrite(opened, data, 0)
        before = time.process_time()
        read_elf(opened)
        slowest = max(slowest, time.process_time() - before)
    os.close(opened)
    assert slowest < 1
