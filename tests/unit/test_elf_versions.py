"""Symbol versions as files say them: held against plain pyelftools on real files, and against damage.

More than the usual number of damaged files: JAILBUILD_MUTATIONS=100000 pytest tests/unit/test_elf_versions.py
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerDefSection, GNUVerNeedSection
from hypothesis import example, given
from hypothesis import strategies as st

from jailbuild.elf import symver as tables
from jailbuild.elf.layouts import records
from jailbuild.elf.reader import Elf, read_elf
from jailbuild.elf.relocs import read_linkage
from jailbuild.elf.segments import DamagedError
from jailbuild.elf.symver import BeyondError, Need, VersionError, defined, elf_hash, needed, usual, version

DIRECTORIES = ("/usr/bin", "/usr/sbin", "/usr/lib/x86_64-linux-gnu")
MUTATIONS = int(os.environ.get("JAILBUILD_MUTATIONS", "1500"))
KINDS = [(bits, little) for bits in (32, 64) for little in (True, False)]
WEAK = 2


def read(data: bytes) -> Elf:
    opened = os.memfd_create("elf")
    try:
        os.write(opened, data)
        return read_elf(opened)
    finally:
        os.close(opened)


def _files() -> Iterator[str]:
    seen = set()
    for directory in DIRECTORIES:
        for name in sorted(os.listdir(directory)):
            path = f"{directory}/{name}"
            if os.path.isfile(path) and (identity := os.stat(path).st_ino) not in seen:
                seen.add(identity)
                with open(path, "rb") as file:
                    if file.read(4) == b"\x7fELF":
                        yield path


def _by_pyelftools(path: str) -> tuple[list[tuple[str, list[str]]], set[str] | None]:
    needs: list[tuple[str, list[str]]] = []
    has: set[str] | None = None
    with open(path, "rb") as file:
        for section in ELFFile(file).iter_sections():
            if isinstance(section, GNUVerNeedSection):
                needs = [
                    (str(need.name), [one.name for one in some if not one.entry.vna_flags & WEAK])
                    for need, some in section.iter_versions()
                ]
            elif isinstance(section, GNUVerDefSection):
                has = {next(iter(names)).name for _, names in section.iter_versions()}
    return needs, has


def test_versions_are_those_that_pyelftools_reads() -> None:
    """Of every third ELF file of the usual directories: what is asked of whom, in the file's order, and what it has."""
    different = {}
    some = asking = 0
    for number, path in enumerate(_files()):
        if number % 3:
            continue
        opened = os.open(path, os.O_RDONLY)
        try:
            elf = read_elf(opened)
        finally:
            os.close(opened)
        try:
            needs, has = _by_pyelftools(path)
        except ELFError:
            continue
        some += 1
        asking += bool(needs)
        ours = [(need.file, list(need.versions)) for need in elf.versions.needs]
        if elf.load_error == "" and (ours, elf.versions.defined) != (needs, has):
            different[path] = (ours, needs)
    assert different == {}
    assert some > 100
    assert asking > 100


Groups = list[tuple[str, list[tuple[str, bool]]]]


def forged(groups: Groups, bits: int, little: bool) -> tuple[bytes, bytes]:
    """Return string table and DT_VERNEED, written byte by byte as elf(5) has them."""
    order = "<" if little else ">"
    strings = bytearray(b"\0")

    def place(text: str) -> int:
        strings.extend(text.encode() + b"\0")
        return len(strings) - len(text.encode()) - 1

    table = b""
    for number, (file, some) in enumerate(groups):
        following = 16 * (1 + len(some)) if number + 1 < len(groups) else 0
        table += struct.pack(f"{order}HHIII", 1, len(some), place(file), 16, following)
        for position, (name, weak) in enumerate(some):
            further = 16 if position + 1 < len(some) else 0
            table += struct.pack(f"{order}IHHII", elf_hash(name), WEAK if weak else 0, 2, place(name), further)
    return bytes(strings), table


_NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=1, max_size=12)
_GROUPS = st.lists(
    st.tuples(_NAMES, st.lists(st.tuples(_NAMES, st.booleans()), min_size=1, max_size=6)), min_size=1, max_size=4
)


@given(_GROUPS, st.sampled_from(KINDS))
def test_what_is_written_is_read_in_both_classes_and_byte_orders(groups: Groups, kind: tuple[int, bool]) -> None:
    """Both ways, the usual and the other, give the same, weak ones left out."""
    strings, table = forged(groups, *kind)
    layout = records(*kind)

    def text(at: int) -> str:
        return strings[at : strings.index(b"\0", at)].decode()

    raw = needed(table, 0, layout)
    slow = tuple(
        Need(text(file), tuple(version(text(name), digest) for digest, name in zip(hashes, names, strict=True)))
        for file, hashes, names in raw
    )
    assert slow == tuple(Need(file, tuple(name for name, weak in some if not weak)) for file, some in groups)
    reader = tables.Usual(layout)
    known = {at: text(at) for at, _, _ in raw}
    weak = any(weak for _, some in groups for _, weak in some)
    for _ in range(2):  # the second time each version is known
        assert reader.read(strings + table, len(strings), known) == (None if weak else slow)


def test_a_known_hash_with_another_name_is_looked_at_again() -> None:
    """What was learned of one file is not believed of the next."""
    strings, table = forged([("libc.so.6", [("GLIBC_2.4", False)])], 64, True)
    reader = tables.Usual(records(64, True))
    known = {strings.index(b"libc"): "libc.so.6"}
    assert reader.read(strings + table, len(strings), known) == (Need("libc.so.6", ("GLIBC_2.4",)),)
    other = strings.replace(b"GLIBC_2.4", b"GLIBC_2.5")
    assert reader.read(other + table, len(other), known) is None


@example(b"", (64, True), 1 << 63)
@given(st.binary(max_size=200), st.sampled_from(KINDS), st.integers(0, 210))
def test_no_bytes_of_a_table_raise_anything_else(data: bytes, kind: tuple[int, bool], at: int) -> None:
    """A table ends, runs off its bytes, or is one that the loader gives up over."""
    for parse in (needed, defined):
        try:
            parse(data, at, records(*kind))
        except (BeyondError, VersionError):
            pass
    usual(records(*kind)).read(data, at, {})


@pytest.mark.parametrize("step", [1, 16])
def test_a_table_that_leads_on_and_on_is_given_up(step: int) -> None:
    """Records by the million, or that overlap."""
    layout = records(64, True)
    record = struct.pack("<HHIII", 1, 1, 0, 0, step)
    with pytest.raises((VersionError, BeyondError)):
        needed(record * (1 << 20), 0, layout)
    with pytest.raises((VersionError, BeyondError)):
        defined(struct.pack("<HHHHIII", 1, 0, 1, 1, 5, 0, 20) * (1 << 20), 0, layout)


def test_the_hash_is_that_of_the_gabi() -> None:
    """Values that are known from elsewhere."""
    assert (elf_hash("GLIBC_2.2.5"), elf_hash("GLIBC_ABI_DT_RELR"), elf_hash("")) == (0x09691A75, 0xFD0E42, 0)


@pytest.mark.parametrize("path", ["/usr/bin/bash", "/lib/x86_64-linux-gnu/libc.so.6"])
def test_damaged_files_say_something_or_are_damaged(path: str, tmp_path: Path) -> None:
    """Bytes of versions, symbols and relocations are changed at random: no other exception, and an end."""
    data = bytearray(Path(path).read_bytes())
    places = _table_places(path)
    chosen = random.Random(path)
    for _ in range(MUTATIONS // 30):
        damaged = bytearray(data)
        for _ in range(30):
            first, size = chosen.choice(places)
            damaged[first + chosen.randrange(size)] = chosen.choice((0, 1, 0x7F, 0xFF, chosen.randrange(256)))
        elf = read(bytes(damaged))
        assert isinstance(elf.versions.load_error, str)
        opened = os.memfd_create("elf")
        try:
            os.write(opened, damaged)
            read_linkage(opened)
        except DamagedError:
            pass
        finally:
            os.close(opened)


def _table_places(path: str) -> list[tuple[int, int]]:
    wanted = (".gnu.version", ".gnu.version_r", ".gnu.version_d", ".dynamic", ".dynsym", ".rela.plt", ".gnu.hash")
    with open(path, "rb") as file:
        return [
            (section["sh_offset"], section["sh_size"])
            for section in ELFFile(file).iter_sections()
            if section.name in wanted and section["sh_size"]
        ]
