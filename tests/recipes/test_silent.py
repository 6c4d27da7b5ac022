"""What programs miss in silence is told by `check`, with a hint that is a command and mends it."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from jailbuild.closure.soft_deps import asked_and_absent, has_zone
from jailbuild.elf.dynsym import imported_symbols
from jailbuild.root import Root
from tests import needs
from tests.box import tiny
from tests.box.running import add, objects, run

SILENT = {
    "no-user-database",
    "no-tls-roots",
    "no-gconv",
    "no-dev-null",
    "origin-needs-proc",
    "uncovered-dlopen",
    "absent-zone",
    "absent-locale",
}


def silent(box: Path) -> dict[str, dict[str, Any]]:
    """Return what is missed in silence, by code."""
    found = objects(run("check", "--json", box))
    return {one["code"]: one for one in found if one.get("code") in SILENT}


@pytest.mark.parametrize(
    ("program", "code", "why"),
    [
        ("ls", "no-user-database", "imports getpwuid"),
        ("openssl", "no-tls-roots", "loads libssl.so.3"),
        ("iconv", "no-gconv", "imports iconv_open"),
        ("bash", "no-dev-null", "names /dev/null"),
    ],
)
def test_what_is_missed_is_told_and_the_hint_mends_it(tmp_path: Path, program: str, code: str, why: str) -> None:
    box = tmp_path / "box"
    add(box, "--bare", program)
    finding = silent(box)[code]
    assert finding["severity"] == "note"
    assert finding["path"] == f"/usr/bin/{program}"
    assert finding["requested_by"] == [program]
    assert why.rpartition("p")[0] in finding["message"]
    command = shlex.split(finding["hint"])
    assert command[0] == "jailbuild"
    assert run(*command[1:], "--no-sync").returncode == 0
    assert code not in silent(box)


def test_a_zone_and_a_locale_that_files_ask_for_in_vain_are_told(tmp_path: Path) -> None:
    box = tmp_path / "box"
    add(box, "--bare", "date")
    (box / "etc/default").mkdir(parents=True)
    (box / "etc/timezone").write_text("Europe/Paris\n")
    (box / "etc/default/locale").write_text('LANG="C.UTF-8"\n')
    found = silent(box)
    assert (found["absent-zone"]["path"], found["absent-zone"]["subject"]) == ("/etc/timezone", "Europe/Paris")
    assert found["absent-locale"]["subject"] == "C.UTF-8"
    os.unlink(box / "etc/timezone")
    for code in ("absent-zone", "absent-locale"):
        assert run(*shlex.split(found[code]["hint"])[1:], "--no-sync").returncode == 0
    (box / "etc/timezone").unlink()
    (box / "etc/timezone").write_text("Europe/Paris\n")
    assert not {"absent-zone", "absent-locale"} & {*silent(box)}


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        ("UTC", True),
        ("GMT", True),
        ("CET-1CEST", True),
        ("<+03>-3", True),
        ("Europe/Paris", False),
        ("Nowhere", False),
        (":Europe/Paris", False),
        ("", True),
    ],
)
def test_a_zone_is_known_by_its_file_or_its_rules(tmp_path: Path, zone: str, expected: bool) -> None:
    assert has_zone(Root(str(tmp_path)), zone) is expected


def test_nothing_is_asked_for_by_files_that_are_not_there(tmp_path: Path) -> None:
    assert [*asked_and_absent(Root(str(tmp_path)))] == []


def test_origin_of_a_program_is_told_to_need_proc(tmp_path: Path) -> None:
    root = tmp_path / "root"
    tiny.build(root)
    library = tiny.library(root / "opt/app/lib/libown.so", value=5)
    tiny.program(root / "opt/app/run", library, flags=("-Wl,-rpath,$ORIGIN/lib",))
    add(tmp_path / "box", "/opt/app/run", sysroot=root)
    assert silent(tmp_path / "box")["origin-needs-proc"]["path"] == "/opt/app/run"
    add(tmp_path / "other", "bash", sysroot=root)
    assert silent(tmp_path / "other") == {}


def test_dlopen_is_told_of_a_program_that_no_recipe_is_for(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    program = "/usr/bin/perl"
    assert "dlopen" in imported(program)
    (mine / "perl.toml").write_text('title = "none"\n')
    add(tmp_path / "box", "perl", "--recipes", mine)
    assert silent(tmp_path / "box")["uncovered-dlopen"]["path"] == program
    (mine / "perl.toml").write_text(
        'title = "mine"\n[when]\nprogram = ["perl"]\n[[bring.made]]\npath = "/etc/p"\ncontent = ""\n'
    )
    add(tmp_path / "two", "perl", "--recipes", mine)
    assert "uncovered-dlopen" not in silent(tmp_path / "two")
    add(tmp_path / "three", "--bare", "perl")
    assert "uncovered-dlopen" not in silent(tmp_path / "three")


def test_a_root_without_a_manifest_is_told_of_its_first_program(tmp_path: Path) -> None:
    box = tmp_path / "box"
    add(box, "--bare", "ls", "cat", "id")
    for name in os.listdir(box / ".jailbuild"):
        (box / ".jailbuild" / name).unlink()
    (box / ".jailbuild").rmdir()
    assert silent(box)["no-user-database"]["path"] == "/usr/bin/id"


@needs.namespaces
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it enters boxes")
def test_an_enter_that_failed_tells_what_may_have_been_missed_and_one_that_went_well_does_not(tmp_path: Path) -> None:
    box = tmp_path / "box"
    add(box, "--bare", "whoami", "true", "bash")
    done = run("enter", box, "whoami")
    assert done.returncode == 1
    assert "note: whoami imports getpwuid, and there is no /etc/passwd\n" in done.stderr
    assert f"hint: jailbuild add --with users --into {box}\n" in done.stderr
    assert run("enter", box, "true").stderr == ""
    zone = run("enter", "--env", "TZ=Europe/Paris", box, "bash", "-c", "exit 3")
    assert zone.returncode == 3
    assert f"note: TZ asks for Europe/Paris, which is not there\nhint: jailbuild add --with zones --into {box}\n" in (
        zone.stderr
    )
    assert "/dev/null" not in zone.stderr
    assert run("enter", "--plain", box, "bash", "-c", "exit 3").stderr == ""  # whose status it is, nobody knows
    add(box, "--bare", "git")
    assert "git names /dev/null" in run("enter", "--plain", box, "git", "status").stderr
    add(box, "--with", "users")
    assert run("enter", box, "bash", "-c", "exit 3").stderr == ""


def imported(path: str) -> frozenset[str]:
    """Return what an ELF file imports."""
    opened = os.open(path, os.O_RDONLY)
    try:
        return imported_symbols(opened)
    finally:
        os.close(opened)
