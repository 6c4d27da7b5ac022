"""What a distribution's own files say that they open is read, brought and found: systemd's, from Debian 13 on."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import NoteSegment

from jailbuild.elf.reader import read_elf
from tests.noted import TYPE
from tests.programs.boxes import JAILBUILD, ROOT, fill, need, said

MARK = b"FDO\0"


def files_with_notes() -> Iterator[Path]:
    for pattern in ("bin/*", "sbin/*", "lib/systemd/*", "lib/*-linux-gnu/*.so*", "lib/*-linux-gnu/systemd/*"):
        for path in sorted(Path(ROOT, "usr").glob(pattern)):
            if not path.is_symlink() and path.is_file():
                with path.open("rb") as file:
                    if file.read(4) == b"\x7fELF" and TYPE.to_bytes(4, "little") + MARK in file.read():
                        yield path


def by_pyelftools(path: Path) -> list[dict[str, Any]]:
    """Return the entries of all dlopen notes of a file."""
    with path.open("rb") as file:
        segments: list[Any] = [one for one in ELFFile(file).iter_segments() if isinstance(one, NoteSegment)]
        notes = [
            note for one in segments for note in one.iter_notes() if (note["n_type"], note["n_name"]) == (TYPE, "FDO")
        ]
        return [entry for note in notes for entry in json.loads(note["n_descdata"].rstrip(b"\0"))]


def by_us(path: Path) -> list[dict[str, Any]]:
    opened = os.open(path, os.O_RDONLY)
    try:
        return [
            {
                "soname": list(one.sonames),
                "priority": one.priority,
                "feature": one.feature,
                "description": one.description,
            }
            for one in read_elf(opened).dlopens
        ]
    finally:
        os.close(opened)


@pytest.fixture(scope="module")
def noted() -> list[Path]:
    found = list(files_with_notes())
    if not found:
        pytest.skip("no file here has dlopen notes")
    return found


def test_all_files_with_notes_are_read_as_with_plain_pyelftools(noted: list[Path]) -> None:
    for path in noted:
        assert by_us(path) == [{"priority": "recommended"} | entry for entry in by_pyelftools(path)], path
    assert any(path.name.startswith("libsystemd") for path in noted)


@pytest.mark.parametrize("level", ["recommended", "suggested"])
def test_a_box_of_systemctl_has_what_systemds_library_says_it_opens(noted: list[Path], place: Path, level: str) -> None:
    """Each that the root has, as far as was asked for; the loader in the box finds all that each of them needs."""
    need("systemctl")
    wanted = ("required", "recommended", "suggested")[: 2 if level == "recommended" else 3]
    shared = next(path for path in noted if path.name.startswith("libsystemd-shared"))
    libraries = shared.parent.parent
    box = fill(place / "box", "systemctl", "--dlopen", level)
    inside = box / libraries.relative_to(ROOT)
    deps = subprocess.run(
        [*JAILBUILD, "deps", "--json", "--dlopen", level, "--sysroot", ROOT, "systemctl"],
        capture_output=True,
        text=True,
        check=True,
    )
    named = {one["name"] for one in json.loads(deps.stdout)["libraries"]}
    brought = 0
    for entry in by_pyelftools(shared):
        there = [name for name in entry["soname"] if (libraries / name).exists()]
        if entry.get("priority", "recommended") in wanted and there:
            brought += 1
            assert (inside / there[0]).exists(), entry
            assert there[0] in named
            path = f"/{(inside / there[0]).relative_to(box)}"
            listed = said(box, "/lib64/ld-linux-x86-64.so.2", "--list", path)
            assert "not found" not in listed
        elif there and there[0] not in named:
            assert not (inside / there[0]).exists(), entry
    assert brought
    assert "systemd 2" in said(box, "systemctl", "--version")
