"""--as-shell: the plan as the script somebody would have written by hand. It works, and makes the same tree."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.box import tiny
from tests.box.running import add, dump, inside, put, run, state
from tests.box.test_programs import ODD


def _run_script(text: str, cwd: Path) -> None:
    done = subprocess.run(["sh"], input=os.fsencode(text), cwd=cwd, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b""), text


@pytest.fixture
def rich(sysroot: Path, tmp_path: Path) -> Path:
    """The small root with set-id programs, hard links, a cache, odd modes, variants."""
    tiny.program(sysroot / "usr/bin/far", tiny.library(sysroot / "opt/far/libfar.so", value=3))
    tiny.cache(sysroot, "/opt/far")
    os.link(sysroot / "usr/bin/bash", sysroot / "usr/bin/another")
    (sysroot / "usr/bin/ls").chmod(0o6755)
    (sysroot / "usr/bin/fixed").chmod(0o511)
    (sysroot / "opt").chmod(0o750)
    (sysroot / "opt/far").chmod(0o2711)
    return sysroot


WORDS = ("bash", "another", "ls", "editor", "far", "fixed", "moving", "sh")


@pytest.mark.parametrize("options", [(), ("--keep-privileges",), ("--bare",)], ids=["plain", "privileges", "bare"])
def test_the_script_makes_the_same_tree(rich: Path, box: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    """Modes, links, contents, times of files, hard links: those of the real add, without the record."""
    add(box, *WORDS, *options, sysroot=rich)
    real = box.rename(tmp_path / "real")
    done = add(box, *WORDS, *options, "--as-shell", sysroot=rich)
    assert not box.exists()
    empty = tmp_path / "empty"
    empty.mkdir()
    _run_script(done.stdout, empty)
    assert dump(real, contents=True) == dump(box, contents=True)
    assert not (box / ".jailbuild").exists()
    assert (box / "usr/bin/bash").samefile(box / "usr/bin/another")
    assert (real / "usr/bin/ls").stat().st_mtime_ns == (box / "usr/bin/ls").stat().st_mtime_ns
    assert os.listdir(empty) == []
    assert [inside(box, f"/usr/bin/{name}").returncode for name in ("bash", "ls", "editor", "far")] == [6, 9, 15, 3]
    assert run("check", box).returncode == 0


def test_the_script_adds_to_a_box_that_is_there(rich: Path, box: Path, tmp_path: Path) -> None:
    """It does what is left to do, and nothing is written before it runs."""
    put(box, "bash", root=rich)
    before = state(box)
    done = add(box, *WORDS, "--as-shell", sysroot=rich)
    assert before == state(box)
    _run_script(done.stdout, tmp_path)
    add(tmp_path / "real", *WORDS, sysroot=rich)
    assert dump(tmp_path / "real", contents=True) == dump(box, contents=True)


def test_the_script_is_the_commands_of_the_demo(made: Path, box: Path) -> None:
    """mkdir, cp, ln, chmod and printf, nothing else."""
    done = add(box, "bash", "editor", "--as-shell", sysroot=made)
    lines = [line for line in done.stdout.splitlines() if line and not line.startswith("#")]
    words = {command.split()[0] for line in lines for command in line.split(" && ")}
    assert words <= {"set", "umask", "mkdir", "cp", "ln", "chmod", "printf"} | {
        word for word in words if re.match(r"box=", word)
    }, words


@pytest.mark.parametrize("raw", ODD, ids=ascii)
def test_odd_names_are_words_of_the_shell(sysroot: Path, tmp_path: Path, odd: tuple[Path, Path], raw: bytes) -> None:
    """In paths, link texts, the cache and the name of the box; no name runs a command."""
    name = os.fsdecode(raw)
    program, library = odd
    shutil.copy(library, tiny.script(sysroot / "opt" / name / "libodd.so.1"))
    shutil.copy(program, sysroot / "usr/bin" / name)
    (sysroot / "usr/bin/by-link").symlink_to(name)
    libraries = f"/opt/{name}"
    if ";" in name:  # it parts directories in a library path
        shutil.copy(library, sysroot / tiny.LIBRARIES)
        libraries = "/nowhere"
    words = ("/usr/bin/by-link", "--library-path", libraries, "--sysroot", sysroot)
    put(tmp_path / "real", "/usr/bin/by-link", root=sysroot, library_path=libraries)
    empty = tmp_path / "empty"
    empty.mkdir()
    done = run("add", *words, f"--into={name}", "--as-shell", cwd=empty)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.listdir(empty) == []
    _run_script(done.stdout, empty)
    assert [name] == os.listdir(empty)
    assert dump(tmp_path / "real", contents=True) == dump(empty / name, contents=True)


def test_the_script_works_on_real_programs(tmp_path: Path) -> None:
    """Bash and ls of this machine: the demo, written out."""
    done = add(tmp_path / "box", "bash", "ls", "--as-shell")
    _run_script(done.stdout, tmp_path)
    put(tmp_path / "real", "bash", "ls")
    assert dump(tmp_path / "real", contents=True) == dump(tmp_path / "box", contents=True)
    assert inside(tmp_path / "box", "/bin/bash", "-c", "echo box; exec ls / >/dev/zero").stdout == "box\n"
