"""The reader of ELF files: held against plain pyelftools on real files, against the loader on forged ones, and against
time and memory on damaged ones.

More than the usual number of damaged files: JAILBUILD_MUTATIONS=100000 pytest tests/unit/test_elf_reader.py
"""

from __future__ import annotations

import errno
import os
import random
import re
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from elftools.elf.dynamic import DynamicSection, DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.enums import ENUM_E_MACHINE, ENUM_E_TYPE
from elftools.elf.segments import InterpSegment
from elftools.elf.structs import ELFStructs
from hypothesis import example, given
from hypothesis import strategies as st

from jailbuild.elf import layouts
from jailbuild.elf.reader import Elf, read_elf

DIRECTORIES = ("/usr/bin", "/usr/sbin", "/usr/lib/x86_64-linux-gnu")
LOADER = "/lib64/ld-linux-x86-64.so.2"
MUTATIONS = int(os.environ.get("JAILBUILD_MUTATIONS", "3000"))
MEGABYTE = 1 << 20

HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
SEGMENT = struct.Struct("<IIQQQQQQ")
SECTION = struct.Struct("<IIQQQQIIQQ")
DYNAMIC = struct.Struct("<qQ")
PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_NOTE = 1, 2, 3, 4
SHT_DYNAMIC = 6


def read(data: bytes) -> Elf:
    opened = os.memfd_create("elf")
    try:
        os.write(opened, data)
        return read_elf(opened)
    finally:
        os.close(opened)


def read_path(path: str | Path) -> Elf:
    opened = os.open(path, os.O_RDONLY)
    try:
        return read_elf(opened)
    finally:
        os.close(opened)


# every ELF file of the machine, as plain pyelftools reads it


def elf_files() -> Iterator[str]:
    seen = set()
    for directory in DIRECTORIES:
        for above, _, names in os.walk(directory):
            for name in names:
                path = f"{above}/{name}"
                status = os.stat(path) if os.path.exists(path) else None
                if status is None or not os.path.isfile(path) or (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
                with open(path, "rb") as file:
                    if file.read(4) == b"\x7fELF":
                        yield path


class Said(NamedTuple):
    """What both readers say of a file."""

    bits: int
    little: bool
    machine: int
    type: int
    interpreter: str | None
    dynamic: bool
    needed: tuple[str, ...]
    soname: str | None
    rpath: str | None
    runpath: str | None
    flags_1: tuple[bool, bool]


def by_pyelftools(path: str) -> Said:
    with open(path, "rb") as file:
        elf = ELFFile(file)
        interpreter = None
        table: DynamicSegment | DynamicSection | None = None
        for segment in elf.iter_segments():
            if isinstance(segment, InterpSegment):
                interpreter = segment.get_interp_name()
            elif isinstance(segment, DynamicSegment):
                table = segment
        tags: dict[str, list[Any]] = {}
        for tag in table.iter_tags() if table is not None else ():
            tags.setdefault(str(tag.entry.d_tag), []).append(tag)

        def text(tag: str, attribute: str) -> str | None:
            return str(getattr(tags[tag][-1], attribute)) if tag in tags else None

        runpath = text("DT_RUNPATH", "runpath")
        flags = tags["DT_FLAGS_1"][-1].entry.d_val if "DT_FLAGS_1" in tags else 0
        kind, machine = elf.header["e_type"], elf.header["e_machine"]
        return Said(
            elf.elfclass,
            elf.little_endian,
            ENUM_E_MACHINE[machine] if isinstance(machine, str) else machine,
            ENUM_E_TYPE[kind] if isinstance(kind, str) else kind,
            interpreter,
            table is not None,
            tuple(tag.needed for tag in tags.get("DT_NEEDED", ())),
            text("DT_SONAME", "soname"),
            None if runpath is not None else text("DT_RPATH", "rpath"),
            runpath,
            (bool(flags & 0x800), bool(flags & 0x08000000)),
        )


def by_us(path: str) -> Said:
    elf = read_path(path)
    return Said(
        elf.bits,
        elf.little,
        elf.machine,
        elf.type,
        elf.interpreter,
        elf.dynamic,
        tuple(name for tag, name in elf.wants if tag == layouts.DT_NEEDED),
        elf.soname,
        elf.rpath,
        elf.runpath,
        (elf.nodeflib, elf.pie),
    )


def test_every_elf_file_of_the_machine_reads_as_with_plain_pyelftools() -> None:
    """An object file (ET_REL) is refused; nothing else on a machine in order is."""
    count = 0
    differences = {}
    for path in elf_files():
        elf = read_path(path)
        if elf.type not in (layouts.ET_EXEC, layouts.ET_DYN):
            assert elf.load_error == "only ET_DYN and ET_EXEC can be loaded", path
            continue
        assert (elf.ident_error, elf.load_error, elf.exec_error) == ("", "", ""), path
        count += 1
        theirs, ours = by_pyelftools(path), by_us(path)
        if theirs != ours:
            differences[path] = (theirs, ours)
    assert differences == {}
    assert count > 500


@pytest.mark.parametrize("little", [True, False], ids=["little", "big"])
@pytest.mark.parametrize("bits", [32, 64])
def test_the_flat_records_are_those_of_pyelftools(bits: int, little: bool) -> None:
    """Unpacking with one `struct` gives, field by field, what pyelftools' own parser gives."""
    generator = random.Random(bits + little)
    layout = layouts.records(bits, little)
    structs = ELFStructs(little_endian=little, elfclass=bits)
    structs.create_basic_structs()
    structs.create_advanced_structs()
    for flat, fields, theirs in (
        (layout.header, layouts.HEADER, structs.Elf_Ehdr),
        (layout.segment, layouts.SEGMENT, structs.Elf_Phdr),
        (layout.dynamic, layouts.DYNAMIC, structs.Elf_Dyn),
    ):
        assert flat.size == theirs.sizeof()
        data = generator.randbytes(flat.size)
        if "e_type" in fields:
            data = b"\x7fELF\1\1\1".ljust(16, b"\0") + data[16:]
        parsed = theirs.parse(data)
        compared = 0
        for name, value in zip(fields, flat.unpack(data), strict=True):
            if isinstance(parsed[name], int):  # enumerations have names
                assert parsed[name] == value, name
                compared += 1
        assert compared


# forged files: what the loader reads is what counts


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that needs liba.so and libb.so, by RUNPATH, and ends at once with status 7."""
    directory = tmp_path_factory.mktemp("made")
    (directory / "lib.c").write_text("int x;\n")
    (directory / "prog.c").write_text(
        'void _start(void) { __asm__ volatile("syscall" : : "a"(60), "D"(7)); for (;;) ; }\n'
    )
    for name in ("liba.so", "libb.so"):
        gcc(directory, "-shared", "-o", name, "lib.c", f"-Wl,-soname,{name}")
    gcc(directory, "-o", "prog", "prog.c", "-Wl,--no-as-needed", "-L.", "-la", "-lb", f"-Wl,-rpath,{directory}")
    return directory


def gcc(directory: Path, *arguments: str) -> None:
    # one writable segment for all: the dynamic section may be anywhere in the file
    subprocess.run(
        ["gcc", "-nostdlib", "-fPIC", "-O1", *arguments, "-Wl,--enable-new-dtags"], cwd=directory, check=True
    )


class Image:
    """The bytes of an ELF file, to be changed in place."""

    def __init__(self, path: Path) -> None:
        self.data = bytearray(path.read_bytes())

    def header(self) -> list[Any]:
        return list(HEADER.unpack_from(self.data))

    def set_header(self, index: int, value: int) -> None:
        fields = self.header()
        fields[index] = value
        HEADER.pack_into(self.data, 0, *fields)

    def segments(self) -> list[tuple[int, list[int]]]:
        fields = self.header()
        return [
            (place, list(SEGMENT.unpack_from(self.data, place)))
            for place in range(fields[5], fields[5] + fields[10] * SEGMENT.size, SEGMENT.size)
        ]

    def segment(self, kind: int) -> tuple[int, list[int]]:
        return next((place, fields) for place, fields in self.segments() if fields[0] == kind)

    def set_segment(self, place: int, **changes: int) -> None:
        names = ("type", "flags", "offset", "vaddr", "paddr", "filesz", "memsz", "align")
        fields = list(SEGMENT.unpack_from(self.data, place))
        for name, value in changes.items():
            fields[names.index(name)] = value
        SEGMENT.pack_into(self.data, place, *fields)

    def sections(self) -> list[tuple[int, list[int]]]:
        fields = self.header()
        return [
            (place, list(SECTION.unpack_from(self.data, place)))
            for place in range(fields[6], fields[6] + fields[12] * SECTION.size, SECTION.size)
        ]

    def dynamic(self) -> list[tuple[int, int, int]]:
        """Return the dynamic entries: place in the file, tag, value."""
        _, fields = self.segment(PT_DYNAMIC)
        return [
            (place, *DYNAMIC.unpack_from(self.data, place))
            for place in range(fields[2], fields[2] + fields[5], DYNAMIC.size)
        ]

    def append(self, data: bytes) -> int:
        """Put bytes at the end of the file and return where they are."""
        self.data += bytes(-len(self.data) % 16)
        self.data += data
        return len(self.data) - len(data)

    def write(self, path: Path) -> Path:
        path.write_bytes(self.data)
        path.chmod(0o755)
        return path


def needed(elf: Elf) -> list[str]:
    return [name for tag, name in elf.wants if tag == layouts.DT_NEEDED]


def loaded(program: Path) -> list[str]:
    """Return the names that the machine's own loader asks for, in its order."""
    done = subprocess.run(
        [str(program)], env={"LD_TRACE_LOADED_OBJECTS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [match[1] for match in re.finditer(r"^\t(\S+) => ", done.stdout, re.MULTILINE)]


def status(program: Path) -> int:
    """Start it and return its exit status, or the errno of exec, negative."""
    try:
        return subprocess.run([str(program)], check=False).returncode
    except OSError as error:
        return -(error.errno or 0)


def test_an_honest_file_names_what_the_loader_loads(made: Path) -> None:
    elf = read_path(made / "prog")
    assert needed(elf) == ["liba.so", "libb.so"] == loaded(made / "prog")
    assert (elf.interpreter, elf.runpath, elf.rpath, elf.soname) == (LOADER, str(made), None, None)
    assert elf.is_program
    assert status(made / "prog") == 7
    library = read_path(made / "liba.so")
    assert (library.soname, library.interpreter, library.is_program) == ("liba.so", None, False)


def forge_strings(image: Image) -> None:
    """Let the section that the dynamic section links to hold other names than DT_STRTAB."""
    for _, fields in image.sections():
        if fields[1] == SHT_DYNAMIC:
            strings_at, strings = image.sections()[fields[6]]
            text = bytes(image.data[strings[4] : strings[4] + strings[5]]).replace(b"liba.so", b"libz.so")
            strings[4] = image.append(text)
            SECTION.pack_into(image.data, strings_at, *strings)
            return


def forge_dynamic_section(image: Image) -> None:
    """Let the section headers show a dynamic section of nothing but DT_NULL."""
    for place, fields in image.sections():
        if fields[1] == SHT_DYNAMIC:
            fields[4] = image.append(bytes(fields[5]))
            SECTION.pack_into(image.data, place, *fields)


def drop_sections(image: Image) -> None:
    for index in (6, 12, 13):  # e_shoff, e_shnum, e_shstrndx
        image.set_header(index, 0)


def wreck_sections(image: Image) -> None:
    image.set_header(6, (1 << 64) - 1)
    image.set_header(11, 3)
    image.set_header(12, 65535)


def lie_about_offset(image: Image) -> None:
    """Let PT_DYNAMIC's p_offset show another table than its p_vaddr."""
    entries = image.dynamic()
    other = image.append(b"".join(DYNAMIC.pack(tag, value) for _, tag, value in entries if tag != layouts.DT_NEEDED))
    place, _ = image.segment(PT_DYNAMIC)
    image.set_segment(place, offset=other)


def send_offset_away(image: Image) -> None:
    place, _ = image.segment(PT_DYNAMIC)
    image.set_segment(place, offset=(1 << 63) + 5)


@pytest.mark.parametrize(
    "forge",
    [forge_strings, forge_dynamic_section, drop_sections, wreck_sections, lie_about_offset, send_offset_away],
    ids=lambda forge: forge.__name__,
)
def test_forged_headers_do_not_hide_what_the_loader_loads(
    forge: Callable[[Image], None], made: Path, tmp_path: Path
) -> None:
    image = Image(made / "prog")
    forge(image)
    forged = image.write(tmp_path / "forged")
    assert loaded(forged) == ["liba.so", "libb.so"] == needed(read_path(forged))
    assert status(forged) == 7


def test_the_forgeries_do_deceive_a_reader_of_sections(made: Path, tmp_path: Path) -> None:
    """Otherwise the test above would show nothing."""
    for forge in (forge_strings, lie_about_offset):
        image = Image(made / "prog")
        forge(image)
        assert by_pyelftools(str(image.write(tmp_path / "forged"))).needed != ("liba.so", "libb.so")
    image = Image(made / "prog")
    forge_dynamic_section(image)
    with image.write(tmp_path / "forged").open("rb") as file:
        sections = [one for one in ELFFile(file).iter_sections() if isinstance(one, DynamicSection)]
        assert [[str(tag.entry.d_tag) for tag in one.iter_tags()] for one in sections] == [["DT_NULL"]]


def test_of_two_string_tables_the_last_counts_as_for_the_loader(made: Path, tmp_path: Path) -> None:
    image = Image(made / "prog")
    entries = image.dynamic()
    spare = [place for place, tag, _ in entries if tag == layouts.DT_NULL]
    assert len(spare) > 1, "the linker leaves room for more entries"
    offset = next(value for _, tag, value in entries if tag == layouts.DT_NEEDED)
    strings = next(value for _, tag, value in entries if tag == layouts.DT_STRTAB)
    DYNAMIC.pack_into(image.data, spare[0], layouts.DT_STRTAB, strings + 3)  # "liba.so" becomes "a.so"
    forged = image.write(tmp_path / "forged")
    assert offset
    assert needed(read_path(forged)) == ["a.so", "b.so"] == loaded(forged)


@pytest.mark.parametrize(("swapped", "starts"), [(False, True), (True, False)])
def test_the_first_of_two_interpreters_counts_as_for_the_kernel(
    swapped: bool, starts: bool, made: Path, tmp_path: Path
) -> None:
    image = Image(made / "prog")
    absent = b"/nowhere/ld.so\0"
    at = image.append(absent)
    first, fields = image.segment(PT_INTERP)
    second, _ = next(item for item in image.segments() if item[1][0] not in (PT_LOAD, PT_DYNAMIC, PT_INTERP, 6))
    image.set_segment(second, type=PT_INTERP, offset=at, filesz=len(absent), memsz=len(absent))
    if swapped:
        image.set_segment(second, offset=fields[2], filesz=fields[5], vaddr=fields[3])
        image.set_segment(first, offset=at, filesz=len(absent))
    forged = image.write(tmp_path / "forged")
    assert read_path(forged).interpreter == (LOADER if starts else "/nowhere/ld.so")
    assert status(forged) == (7 if starts else -errno.ENOENT)


@pytest.mark.parametrize(
    ("name", "starts"),
    [
        (LOADER.encode() + b"\0", True),
        (LOADER.encode() + b"\0junk\0", True),
        (b"/" * (4096 - len(LOADER)) + LOADER[1:].encode() + b"\0", True),
        (b"/" * (4097 - len(LOADER)) + LOADER[1:].encode() + b"\0", False),
        (LOADER.encode(), False),
        (b"\0", False),
        (b"", False),
    ],
    ids=["honest", "junk behind its end", "4096 bytes", "4097 bytes", "no end", "1 byte", "empty"],
)
def test_an_interpreter_s_name_is_taken_where_the_kernel_takes_it(
    name: bytes, starts: bool, made: Path, tmp_path: Path
) -> None:
    image = Image(made / "prog")
    place, _ = image.segment(PT_INTERP)
    image.set_segment(place, offset=image.append(name + b"more"), filesz=len(name), memsz=len(name))
    forged = image.write(tmp_path / "forged")
    started = status(forged)
    elf = read_path(forged)
    if starts:
        # too many slashes for PATH_MAX are the kernel's business when it opens it
        assert started in (7, -errno.ENAMETOOLONG)
        assert elf.interpreter == os.fsdecode(name.partition(b"\0")[0])
        assert elf.exec_error == ""
    else:
        assert started == -errno.ENOEXEC
        assert elf.exec_error


@pytest.mark.parametrize(("index", "value"), [(9, 57), (10, 1200)], ids=["e_phentsize", "e_phnum"])
def test_what_the_kernel_refuses_in_a_header_is_damage(index: int, value: int, made: Path, tmp_path: Path) -> None:
    image = Image(made / "prog")
    image.set_header(index, value)
    forged = image.write(tmp_path / "forged")
    assert status(forged) == -errno.ENOEXEC
    assert read_path(forged).load_error


# any bytes


def is_answer(elf: Elf) -> bool:
    strings = [elf.ident_error, elf.load_error, elf.exec_error, elf.interpreter, elf.soname, elf.rpath, elf.runpath]
    return (
        all(text is None or isinstance(text, str) for text in [*strings, *(name for _, name in elf.wants)])
        and "\n" not in elf.ident_error + elf.load_error + elf.exec_error
    )


@given(st.binary(max_size=400))
def test_any_bytes_give_an_answer(data: bytes) -> None:
    assert is_answer(read(data))


numbers = st.one_of(
    st.integers(0, 300),
    st.sampled_from([0x1000, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1, (1 << 64) - 0x1000]),
    st.integers(0, (1 << 64) - 1),
)


# file header and program header, by class
PLAUSIBLE = {1: ("16sHHIIIIIHHHHHH", "IIIIIIII"), 2: ("16sHHIQQQIHHHHHH", "IIQQQQQQ")}


@st.composite
def plausible(draw: st.DrawFn) -> bytes:
    """Bytes that begin as an ELF file does, so that the reading goes on."""
    bits, order = draw(st.sampled_from([(1, 1), (1, 2), (2, 1), (2, 2)]))
    ident = b"\x7fELF" + bytes([bits, order, 1]) + bytes(9)
    layout = layouts.records(32 * bits, order == 1)
    sign = "<>"[order - 1]
    header, segment = PLAUSIBLE[bits]
    limit = (1 << 32 * bits) - 1
    count = draw(st.integers(0, 5))
    data = struct.pack(
        sign + header,
        ident,
        draw(st.sampled_from([2, 3])),
        62,
        1,
        0,
        layout.header.size,
        0,
        0,
        layout.header.size,
        layout.segment.size,
        count,
        0,
        0,
        0,
    )
    kinds = st.sampled_from([PT_LOAD, PT_DYNAMIC, PT_INTERP])
    for _ in range(count):
        data += struct.pack(
            sign + segment,
            draw(kinds),
            *(draw(numbers) & 0xFFFFFFFF if code == "I" else draw(numbers) for code in segment[1:]),
        )
    tags = st.sampled_from([0, 1, 5, 10, 14, 15, 29, 0x6FFFFFFB])
    for _ in range(draw(st.integers(0, 6))):
        data += layout.dynamic.pack(draw(tags), draw(numbers) & limit)
    return data + draw(st.binary(max_size=100))


@given(plausible())
@example(b"\x7fELF\2\1\1" + bytes(57))
def test_any_plausible_bytes_give_an_answer(data: bytes) -> None:
    assert is_answer(read(data))


class Damage:
    """Real files, damaged: one byte or more flipped, the end cut off, pieces moved, fields set to hard numbers."""

    HARD = (0, 1, 0x7F, 0xFF, 0xFFFF, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 63) - 1, (1 << 64) - 1, (1 << 64) - 16)

    def __init__(self, seed: int) -> None:
        self.generator = random.Random(seed)
        small = sorted(path for path in elf_files() if os.stat(path).st_size < 40_000)
        self.files = [Path(path).read_bytes() for path in self.generator.sample(small, 40)]

    def spots(self, data: bytearray) -> range:
        """Return where to damage: mostly what the reader looks at."""
        where = self.generator.random()
        if where < 0.3 and len(data) > 64:
            return range(64)
        if where < 0.6 and len(data) > 800:
            return range(64, 800)
        at = bytes(data).find(DYNAMIC.pack(layouts.DT_NEEDED, 1)[:8])
        if where < 0.9 and at >= 0:
            return range(at, min(at + 512, len(data)))
        return range(len(data))

    def one(self) -> bytes:
        generator = self.generator
        data = bytearray(generator.choice(self.files))
        for _ in range(generator.choice((1, 1, 2, 3, 8, 40))):
            if not data:
                break
            spots = self.spots(data)
            place = generator.choice(spots) if spots else 0
            kind = generator.randrange(5)
            if kind == 0:
                data[place] ^= 1 << generator.randrange(8)
            elif kind == 1:
                data[place] = generator.randrange(256)
            elif kind == 2:
                place -= place % 8
                data[place : place + 8] = generator.choice(self.HARD).to_bytes(8, "little")
            elif kind == 3 and generator.random() < 0.3:
                del data[place:]
            else:
                other = generator.choice(self.files)
                start = generator.randrange(len(other))
                data[place : place + 64] = other[start : start + generator.choice((8, 16, 64, 700))]
        return bytes(data)


def test_thousands_of_damaged_files_give_an_answer_within_a_second(tmp_path: Path) -> None:
    seed = 20 if os.environ.get("CI") else random.randrange(1 << 32)
    load_error = Damage(seed)
    slowest = 0.0
    unharmed = 0
    for number in range(MUTATIONS):
        data = load_error.one()
        start = time.perf_counter()
        try:
            elf = read(data)
        except OSError:
            continue
        except Exception as error:
            kept = tmp_path / "damaged"
            kept.write_bytes(data)
            raise AssertionError(f"seed {seed}, file {number}, kept as {kept}: {error!r}") from error
        slowest = max(slowest, time.perf_counter() - start)
        assert is_answer(elf), (seed, number)
        unharmed += not (elf.ident_error or elf.load_error or elf.exec_error)
    assert slowest < 1
    assert MUTATIONS / 20 < unharmed < MUTATIONS  # damage that always shows, or never, would prove little


# what is large


def large(tmp_path: Path, made: Path, size: int, forge: Callable[[Image, int, int], bytes]) -> Path:
    """Return a program with a segment of `size` bytes at its end, which begin as `forge` says; sparse.

    `forge` is given the address and the place in the file where the segment begins.
    """
    image = Image(made / "prog")
    image.append(bytes(-len(image.data) % 4096))
    at, address = len(image.data), 0x10000000
    place, _ = next(item for item in image.segments() if item[1][0] not in (PT_LOAD, PT_DYNAMIC, PT_INTERP, 6))
    image.set_segment(
        place, type=PT_LOAD, flags=6, offset=at, vaddr=address, paddr=address, filesz=size, memsz=size, align=4096
    )
    image.data += forge(image, address, at)
    path = image.write(tmp_path / "large")
    os.truncate(path, at + size)
    return path


def point_at(image: Image, tag: int, value: int) -> None:
    for place, known, _ in image.dynamic():
        if known == tag:
            DYNAMIC.pack_into(image.data, place, tag, value)
            return


def string_without_end(image: Image, address: int, _: int) -> bytes:
    strings = next(value for _, tag, value in image.dynamic() if tag == layouts.DT_STRTAB)
    point_at(image, layouts.DT_NEEDED, address + 32 - strings)
    return b""


def table_of_zero_tags(image: Image, address: int, _: int) -> bytes:
    place, _fields = image.segment(PT_DYNAMIC)
    image.set_segment(place, vaddr=address, filesz=64 * MEGABYTE, memsz=64 * MEGABYTE)
    return DYNAMIC.pack(layouts.DT_FLAGS_1, 0)


@pytest.mark.parametrize("fill", [b"\0", b"A"], ids=["sparse", "full"])
@pytest.mark.parametrize("forge", [string_without_end, table_of_zero_tags], ids=["string", "dynamic table"])
def test_64_megabytes_are_neither_read_nor_waited_for(
    forge: Callable[[Image, int, int], bytes], fill: bytes, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = large(tmp_path, made, 64 * MEGABYTE, forge)
    if fill != b"\0":
        with path.open("r+b") as file:
            file.seek(-(64 * MEGABYTE) + 16, os.SEEK_END)
            for _ in range(64):
                file.write(fill * MEGABYTE)
            file.truncate(path.stat().st_size - 16)
    volume = count_reads(monkeypatch)
    start = time.perf_counter()
    elf = read_path(path)
    assert time.perf_counter() - start < 1
    assert is_answer(elf)
    assert sum(volume) < 64 * MEGABYTE
    if fill == b"A":
        assert elf.load_error


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the size of each os.pread from now on."""
    volume: list[int] = []
    real = os.pread

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        data = real(descriptor, size, offset)
        volume.append(len(data))
        return data

    monkeypatch.setattr(os, "pread", pread)
    return volume


@pytest.mark.parametrize("tag", [layouts.DT_NEEDED, layouts.DT_SONAME])
def test_a_long_table_of_long_strings_is_bounded(
    tag: int, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 1 MB table of entries, each with a string of its own that has no end within 64 MB."""

    def forge(image: Image, address: int, _: int) -> bytes:
        place, _fields = image.segment(PT_DYNAMIC)
        image.set_segment(place, vaddr=address, filesz=MEGABYTE, memsz=MEGABYTE)
        table = DYNAMIC.pack(layouts.DT_STRTAB, address)
        table += b"".join(DYNAMIC.pack(tag, MEGABYTE + 900 * number) for number in range(60_000))
        return table + DYNAMIC.pack(0, 0)

    path = large(tmp_path, made, 64 * MEGABYTE, forge)
    with path.open("r+b") as file:
        file.seek(-63 * MEGABYTE, os.SEEK_END)
        for _ in range(63):
            file.write(b"A" * MEGABYTE)
    volume = count_reads(monkeypatch)
    start = time.perf_counter()
    elf = read_path(path)
    assert time.perf_counter() - start < 1
    assert is_answer(elf)
    assert sum(volume) < 256 * MEGABYTE


@pytest.mark.parametrize("length", [200, 1000, 20_000])
def test_many_names_within_one_another_stay_within_bounds(
    length: int, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of 60 000 entries is a suffix of the one before it: the strings together would have gigabytes."""

    def forge(image: Image, address: int, _: int) -> bytes:
        place, _fields = image.segment(PT_DYNAMIC)
        image.set_segment(place, vaddr=address, filesz=MEGABYTE, memsz=MEGABYTE)
        table = DYNAMIC.pack(layouts.DT_STRTAB, address + MEGABYTE)
        step = 1_000_000 // 60_000
        table += b"".join(DYNAMIC.pack(layouts.DT_NEEDED, step * number) for number in range(60_000))
        return (table + DYNAMIC.pack(0, 0)).ljust(MEGABYTE, b"\0") + (b"A" * length + b"\0") * (1_100_000 // length)

    path = large(tmp_path, made, 3 * MEGABYTE, forge)
    volume = count_reads(monkeypatch)
    start = time.perf_counter()
    elf = read_path(path)
    assert time.perf_counter() - start < 1
    assert is_answer(elf)
    assert sum(volume) < 256 * MEGABYTE


def test_the_whole_command_stays_within_256_mb_and_a_second(made: Path, tmp_path: Path) -> None:
    """`deps` of files made to be expensive, its address space and its time limited by the kernel."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (256 * MEGABYTE,) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (1, 1))

    paths = []
    for number, forge in enumerate((string_without_end, table_of_zero_tags)):
        (tmp_path / str(number)).mkdir()
        paths.append(large(tmp_path / str(number), made, 64 * MEGABYTE, forge))
    done = subprocess.run(
        [sys.executable, "-m", "jailbuild", "deps", *paths],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )
    assert done.returncode in (0, 1)
    assert "Traceback" not in done.stderr
    assert "MemoryError" not in done.stderr


@pytest.mark.parametrize("offset", [(1 << 63) - 0x1000, 1 << 63, (1 << 64) - 0x1000, 1 << 62])
@pytest.mark.parametrize("tag", [layouts.DT_STRTAB, None], ids=["strings", "dynamic table"])
def test_what_lies_beyond_every_file_is_damage(tag: int | None, offset: int, made: Path, tmp_path: Path) -> None:
    image = Image(made / "prog")
    place, _ = next(item for item in image.segments() if item[1][0] not in (PT_LOAD, PT_DYNAMIC, PT_INTERP, 6))
    image.set_segment(place, type=PT_LOAD, offset=offset, vaddr=0x10000000, filesz=1 << 20, memsz=1 << 20, align=4096)
    if tag is None:
        image.set_segment(image.segment(PT_DYNAMIC)[0], vaddr=0x10000000 + 0x800)
    else:
        point_at(image, tag, 0x10000000 + 0x800)
    assert read_path(image.write(tmp_path / "forged")).load_error


@pytest.mark.parametrize("size", [0, 1, 3, 4, 15, 16, 63])
def test_a_file_shorter_than_a_header_is_too_short(size: int, made: Path) -> None:
    assert read((made / "prog").read_bytes()[:size]) == Elf(ident_error="file too short")


def test_a_file_that_cannot_be_read_is_an_os_error(made: Path) -> None:
    opened = os.open(made / "prog", os.O_PATH)
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            read_elf(opened)
    finally:
        os.close(opened)


@pytest.mark.parametrize("offset", [(1 << 62) - 1, 1 << 62, (1 << 63) - 4096, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
@pytest.mark.parametrize("kind", [PT_LOAD, PT_INTERP])
def test_no_place_in_a_file_is_too_far(kind: int, offset: int, made: Path) -> None:
    """Where pread(2) itself refuses the offset the file is damaged, as any file that ends too early."""
    image = Image(made / "prog")
    for place, fields in image.segments():
        if fields[0] == kind:
            image.set_segment(place, offset=offset)
    elf = read(bytes(image.data))
    assert elf.load_error if kind == PT_LOAD else elf.exec_error


@pytest.mark.parametrize("place", [4, 5, 6, 7, 8, 15])
@pytest.mark.parametrize("value", [0, 1, 2, 9])
def test_a_program_is_read_as_the_kernel_starts_it(place: int, value: int, made: Path, tmp_path: Path) -> None:
    """Class and byte order in its first bytes are nothing to the kernel, and all to the loader."""
    image = Image(made / "prog")
    before = read(bytes(image.data))
    image.data[place] = value
    forged = tmp_path / "prog"
    forged.write_bytes(image.data)
    forged.chmod(0o755)
    assert subprocess.run([forged], check=False).returncode == 7
    elf = read_path(forged)
    assert elf._replace(ident_error="", as_library=None) == before
    as_library = elf.as_library or elf
    started = subprocess.run([LOADER, forged], capture_output=True, text=True, check=False)
    assert (started.returncode == 7) == (as_library.kind == before.kind and not as_library.ident_error)


def test_a_32_bit_program_is_one_whatever_its_class(tmp_path: Path) -> None:
    """The kernel goes by e_machine; where it cannot start any, what we read is what it would."""
    code = b"\xb8\x01\0\0\0\xbb\x07\0\0\0\xcd\x80"  # exit(7) of i386
    base = 0x08048000
    header = struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, base + 84, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    segment = struct.pack("<IIIIIIII", 1, 0, base, base, 84 + len(code), 84 + len(code), 5, 4096)
    ends = set()
    for of_class in (0, 1, 2):
        path = tmp_path / str(of_class)
        path.write_bytes(b"\x7fELF" + bytes([of_class, 1, 1]) + bytes(9) + header + segment + code)
        path.chmod(0o755)
        elf = read_path(path)
        assert (elf.kind, elf.load_error, elf.is_program) == ((32, True, 3), "", True)
        try:
            ends.add(subprocess.run([path], check=False).returncode)
        except OSError as error:
            ends.add(-(error.errno or 0))
    assert ends in ({7}, {-errno.ENOEXEC})
