"""Damaged files and lists under musl's rules: an answer, no exception, and no more steps than the budget has."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import hypothesis.strategies as some
import pytest
from hypothesis import given

from jailbuild.elf.defined import defines
from jailbuild.elf.reader import read_elf
from jailbuild.loader.files import Files
from jailbuild.loader.model import Resolution
from jailbuild.loader.resolver import Loader
from jailbuild.root import Root
from tests.worlds.world import Elf

LOADER = "/lib/ld-musl-x86_64.so.1"
LIBC = ("__libc_start_main", "stdin")
_SPOILED = some.lists(some.tuples(some.integers(0, 800), some.integers(0, 255)), max_size=12)


def _spoil(image: bytes, changes: list[tuple[int, int]]) -> bytes:
    spoiled = bytearray(image)
    for place, value in changes:
        spoiled[place % len(spoiled)] = value
    return bytes(spoiled)


def _put(root: Path, path: str, content: bytes) -> None:
    place = root / path.lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)


def _resolve(files: dict[str, bytes], library_path: str = "", preload: tuple[str, ...] = ()) -> Resolution:
    """Resolve /bin/prog in a root of these files, and a loader that is musl's by what it has in it."""
    with tempfile.TemporaryDirectory() as made:
        _put(Path(made), LOADER, Elf().image() + b"\0/etc/ld-musl-x86_64.path\0")
        for path, content in files.items():
            _put(Path(made), path, content)
        return Loader(Files(Root(made)), library_path, preload).resolve("/bin/prog")


def _program(*tags: tuple[str, str | int]) -> bytes:
    return Elf(tags, LOADER).image()


_PROGRAM = _program(("NEEDED", "liba.so"), ("NEEDED", "/lib/libb.so"), ("RPATH", "$ORIGIN:/opt"))
_LIBRARY = Elf((("NEEDED", "libb.so"), ("RUNPATH", "${ORIGIN}/x"))).image()


@given(_SPOILED, _SPOILED, some.binary(max_size=40), some.text(max_size=20))
def test_spoiled_files_get_an_answer(
    program: list[tuple[int, int]], library: list[tuple[int, int]], listed: bytes, library_path: str
) -> None:
    """A resolution, whatever the bytes of the program, its library, and the list of directories."""
    found = _resolve(
        {
            "/bin/prog": _spoil(_PROGRAM, program),
            "/lib/liba.so": _spoil(_LIBRARY, library),
            "/etc/ld-musl-x86_64.path": b"/lib:" + listed,
        },
        library_path.replace("\0", "").encode("utf-8", "ignore").decode(),
    )
    assert isinstance(found, Resolution)


@given(some.lists(some.tuples(some.integers(0, 1 << 30), some.integers(0, 255)), max_size=30))
def test_spoiled_tables_of_symbols_get_an_answer(changes: list[tuple[int, int]]) -> None:
    """Yes or no: of a real library, its first pages spoiled, where headers and hash tables are."""
    with open(os.path.realpath(f"/proc/{os.getpid()}/exe"), "rb") as file:
        image = file.read(1 << 16)
    with tempfile.TemporaryFile() as file:
        file.write(_spoil(image, changes))
        file.flush()
        assert defines(file.fileno(), read_elf(file.fileno()), LIBC) in (True, False)


def test_a_file_without_a_dynamic_section_defines_nothing() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(Elf(dynamic=False).image())
        file.flush()
        assert not defines(file.fileno(), read_elf(file.fileno()), LIBC)


def _many(count: int) -> list[tuple[str, str | int]]:
    return [("NEEDED", f"libnone{number}.so") for number in range(count)]


@pytest.mark.parametrize(
    ("tags", "files"),
    [
        ([*_many(4000), ("RPATH", ":".join(f"/n/{number}" for number in range(1000)))], {}),
        (_many(2000), {"/etc/ld-musl-x86_64.path": b"/n\n" * 100_000}),
        ([*_many(3), ("RPATH", "$ORIGIN:" * 100_000)], {}),
        ([("NEEDED", "lib" + "x" * 60_000 + ".so")] * 4000, {}),
    ],
    ids=["directories", "a long list", "$ORIGIN", "names"],
)
def test_what_would_take_too_long_is_refused(tags: list[tuple[str, str | int]], files: dict[str, bytes]) -> None:
    """In one line; what was found until then is kept."""
    found = _resolve({"/bin/prog": _program(*tags), **files})
    assert found.error is not None
    assert "steps" in found.error.text or "bytes" in found.error.text


def test_libraries_that_ask_for_each_other_without_end_are_bounded() -> None:
    """A thousand libraries, each with a list of its own, and a name that nobody has."""
    files = {
        f"/lib/lib{number}.so": Elf(
            (
                ("NEEDED", f"lib{number + 1}.so"),
                ("NEEDED", "libnone.so"),
                ("RPATH", f"/n/{number}"),
            )
        ).image()
        for number in range(1000)
    }
    found = _resolve({"/bin/prog": _program(("NEEDED", "lib0.so")), **files})
    assert found.error is not None
    assert len(found.libraries) < 1000
