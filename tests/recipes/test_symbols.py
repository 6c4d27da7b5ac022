"""What a program imports itself, against nm(1), and on files that lie."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jailbuild.elf.dynsym import imported_symbols
from tests.box import tiny

BASH = Path("/usr/bin/bash").read_bytes()


def imported(path: str | Path) -> frozenset[str]:
    opened = os.open(path, os.O_RDONLY)
    try:
        return imported_symbols(opened)
    finally:
        os.close(opened)


def told_by_nm(path: str | Path) -> set[str]:
    done = subprocess.run(["nm", "-D", "-u", path], capture_output=True, text=True, check=True)
    return {line.split()[-1].partition("@")[0] for line in done.stdout.splitlines()}


@pytest.mark.parametrize(
    "path", ["/usr/bin/bash", "/usr/bin/ls", "/usr/bin/perl", "/usr/bin/openssl", "/lib/x86_64-linux-gnu/libc.so.6"]
)
def test_real_files_import_what_nm_says(path: str) -> None:
    assert imported(path) == told_by_nm(path) != set()


@pytest.mark.parametrize("style", ["gnu", "sysv", "both"])
def test_every_kind_of_hash_table_is_read(tmp_path: Path, style: str) -> None:
    library = tiny.library(tmp_path / "libone.so", value=1)
    program = tiny.program(tmp_path / "program", library, flags=(f"-Wl,--hash-style={style}",))
    assert imported(program) == told_by_nm(program) == {"one"}


def test_what_has_no_dynamic_symbols_imports_nothing(tmp_path: Path) -> None:
    assert imported(tiny.program(tmp_path / "static", flags=("-static", "-no-pie"))) == frozenset()
    (tmp_path / "text").write_text("no program")
    assert imported(tmp_path / "text") == frozenset()


@given(
    st.lists(st.tuples(st.integers(0, 12_000), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6),
    st.integers(0, len(BASH)),
)
def test_no_bytes_make_it_raise(changes: list[tuple[int, bytes]], length: int) -> None:
    data = bytearray(BASH)
    for place, some in changes:
        data[place : place + len(some)] = some
    with tempfile.TemporaryFile() as file:
        file.write(data[:length] if length % 3 == 0 else data)
        file.flush()
        assert isinstance(imported_symbols(file.fileno()), frozenset)
