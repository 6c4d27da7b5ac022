"""32-bit programs beside 64-bit ones: i386 on x86-64, which the kernel runs without an emulator."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.box.running import objects, run
from tests.check.asking import findings
from tests.enter.entering import copy_in

Making = Callable[[str], Path]

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="not an x86-64 machine")


@pytest.fixture
def mixed(box_of: Making, tmp_path: Path) -> Path:
    """A root of x86-64 with bash and git of i386."""
    root = tmp_path / "mixed"
    subprocess.run(["cp", "-a", box_of("i386"), root], check=True)
    shutil.rmtree(root / ".jailbuild")
    copy_in(root, "ls", "env")  # env tells the root for one of x86-64
    return root


def listed(root: Path, program: str) -> dict[str, str]:
    """Return what the loader itself, in a chroot, says of a 32-bit program: names and paths."""
    done = subprocess.run(["chroot", root, "/lib/ld-linux.so.2", "--list", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {
        name: path
        for name, path in re.findall(r"^\t(\S+) => (\S+) \(0x", done.stdout, re.MULTILINE)
        if not name.startswith("/")
    }


def found(root: Path, program: str) -> dict[str, str]:
    [told] = objects(run("deps", program, "--sysroot", root, "--json"))
    return {one["name"]: one["path"] for one in told["libraries"] if one["found_by"] != "interpreter"}


def test_both_kinds_of_programs_are_resolved_put_in_checked_and_run(mixed: Path, tmp_path: Path) -> None:
    """One box has both, each with its own loader and C library, and both run in it."""
    box = tmp_path / "box"
    for program in ("/usr/bin/bash", "/usr/bin/git"):
        assert found(mixed, program) == listed(mixed, program)
    assert run("add", "bash", "ls", "--sysroot", mixed, "--into", box).returncode == 0
    found_wrong = findings(run("check", box, "--json", "--strict"), strict=True)
    assert [one for one in found_wrong if one["severity"] != "note"] == []
    for options in ((), ("--plain",)):
        done = run("enter", *options, box, "bash", "-c", "echo $MACHTYPE; ls -d /usr")
        assert (done.returncode, done.stdout) == (0, "i686-pc-linux-gnu\n/usr\n"), done.stderr


def test_a_library_of_the_other_class_is_passed_over(mixed: Path) -> None:
    """Where a 32-bit program would meet a 64-bit library first, it goes on; with none of its own that is missing."""
    [told] = objects(run("deps", "ls", "--sysroot", mixed, "--json"))
    [other] = [one["path"] for one in told["libraries"] if one["name"] == "libc.so.6"]
    first = mixed / "usr/lib/i386-linux-gnu/sse2"  # searched before the directory itself by glibc to 2.36
    first.mkdir()
    shutil.copy(mixed / other.lstrip("/"), first / "libtinfo.so.6")
    assert found(mixed, "/usr/bin/bash") == listed(mixed, "/usr/bin/bash")
    [tinfo] = (mixed / "usr/lib/i386-linux-gnu").glob("libtinfo.so.6.*")
    tinfo.unlink()
    missing = {
        (one["path"], one["subject"])
        for one in findings(run("check", mixed, "--json"))
        if one["code"] == "missing-library"
    }
    assert missing == {("/usr/bin/bash", "libtinfo.so.6")}


@pytest.mark.parametrize("below", ["sse2", "i686", "i686/sse2", "tls", "tls/i686/sse2", "i586", "avx512_1"])
def test_directories_of_old_processors_are_searched_as_the_loader_does(mixed: Path, below: str) -> None:
    """What glibc to 2.36 looks for below each directory on i386, and what a later one does not."""
    libraries = mixed / "usr/lib/i386-linux-gnu"
    (libraries / below).mkdir(parents=True)
    shutil.copy(libraries / "libtinfo.so.6", libraries / below / "libtinfo.so.6")
    assert found(mixed, "/usr/bin/bash") == listed(mixed, "/usr/bin/bash")
