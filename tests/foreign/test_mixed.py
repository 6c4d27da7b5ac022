"""One tree with programs of four kinds, no manifest, and each held to the rules of its own loader alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.box.running import objects, run
from tests.box.test_musl import LIBC as MUSL_LIBC
from tests.box.test_musl import LOADER as MUSL
from tests.box.test_musl import library, program
from tests.check.asking import findings
from tests.enter.entering import copy_in
from tests.foreign.roots import MACHINES
from tests.foreign.test_resolving import emulator, in_root

Making = Callable[[str], Path]

pytestmark = [
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="not an x86-64 machine"),
    pytest.mark.skipif(not shutil.which("musl-gcc"), reason="musl-gcc is not installed (Debian: musl-tools)"),
]

LOADERS = {  # of the programs
    "/usr/bin/ls": "/lib64/ld-linux-x86-64.so.2",
    "/usr/bin/bash-i386": "/lib/ld-linux.so.2",
    "/usr/bin/bash-arm64": "/lib/ld-linux-aarch64.so.1",
    "/usr/bin/tool": MUSL,
}


@pytest.fixture(scope="module")
def made(root_of: Making, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree, which is not to be changed."""
    base = tmp_path_factory.mktemp("mixed")
    tree = base / "tree"
    tree.mkdir()
    for name in ("i386", "arm64"):
        done = run("add", "bash", "--sysroot", root_of(name), "--into", base / name)
        assert done.returncode == 0, done.stderr
        subprocess.run(["cp", "-a", f"{base / name}/.", tree], check=True)
        shutil.rmtree(tree / ".jailbuild")
        (tree / "usr/bin/bash").rename(tree / f"usr/bin/bash-{name}")
    copy_in(tree, "ls", "env")
    for libc in tree.rglob("libc.so.6"):  # Debian's can be started, and would be programs as well
        libc.chmod(0o644)
    shutil.copy(MUSL_LIBC, tree / MUSL[1:])
    deep = library(tree / "usr/local/lib/libdeep.so", value=4)
    program(tree / "usr/bin/tool", library(tree / "usr/lib/libtool.so", deep))
    return tree


@pytest.fixture
def tree(made: Path, tmp_path: Path) -> Path:
    """A copy of the tree, to be changed."""
    subprocess.run(["cp", "-a", made, tmp_path / "tree"], check=True)
    return tmp_path / "tree"


def found(tree: Path, path: str) -> dict[str, str]:
    """Return the libraries of a program, without its loader: names and paths."""
    [told] = objects(run("deps", path, "--sysroot", tree, "--json"))
    assert told["missing"] == []
    return {one["name"]: one["path"] for one in told["libraries"] if one["found_by"] != "interpreter"}


def listed(tree: Path, path: str) -> dict[str, str]:
    """Return what the program's own loader says, in a chroot or run by an emulator."""
    loader = LOADERS[path]
    asked: list[str | Path] = ["/usr/sbin/chroot", tree, loader, "--list", path]
    if "aarch64" in loader:
        asked = [emulator(MACHINES["arm64"]), "-L", tree, in_root(tree, loader), "--list", in_root(tree, path)]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, env={})
    assert done.returncode == 0, done.stderr
    return {
        name: to.removeprefix(str(tree))
        for name, to in re.findall(r"^\t(\S+) => (\S+) \(0x", done.stdout, re.M)
        if to != loader and "/" not in name
    }


def told(tree: Path, *options: str) -> set[tuple[str, str, str]]:
    """Return code, path and subject of each error and warning."""
    return {
        (one["code"], one["path"], one["subject"])
        for one in findings(run("check", tree, "--json", *options))
        if one["severity"] != "note"
    }


@pytest.mark.parametrize("path", LOADERS)
def test_each_program_is_resolved_as_its_own_loader_says(made: Path, path: str) -> None:
    ours = found(made, path)
    assert ours == listed(made, path)
    assert ours


def test_a_mixed_tree_is_whole_and_no_machine_is_wrong_in_it(made: Path) -> None:
    """Every symbol is found as well, by each one's own rules."""
    assert told(made, "--symbols") == set()
    summary = objects(run("check", made, "--json"))[-1]
    assert summary["programs"] == len(LOADERS) + 1  # and env


def test_each_file_taken_away_is_missed_by_its_own_machines_programs(tree: Path) -> None:
    """By all of them and by no other, though the others have libraries of the same names."""
    libraries = {path: found(tree, path) for path in (*LOADERS, "/usr/bin/env")}
    loaders = {**LOADERS, "/usr/bin/env": LOADERS["/usr/bin/ls"]}
    files = {file for some in libraries.values() for file in some.values()}
    assert len(files) > 8
    for file in sorted(files):
        place = in_root(tree, file)
        away = place.rename(tree.parent / "away")
        expected = {
            ("missing-library", path, name)
            for path, some in libraries.items()
            for name, where in some.items()
            if where == file
        }
        assert {one for one in told(tree) if one[0] != "dangling-link"} == expected, file
        away.rename(place)
    for loader in sorted(set(loaders.values())):
        place = in_root(tree, loader)
        away = place.rename(tree.parent / "away")
        missing = told(tree)
        assert {(code, path) for code, path, _ in missing if code == "missing-interpreter"} == {
            ("missing-interpreter", path) for path, own in loaders.items() if own == loader
        }
        assert {code for code, _, _ in missing} <= {"missing-interpreter", "dangling-link"}
        away.rename(place)
    assert told(tree) == set()


def test_another_machines_library_in_the_right_place_is_no_library(tree: Path) -> None:
    """The loader passes over it and misses its own; the machine is called wrong of no program for that."""
    libraries = {path: found(tree, path)["libc.so.6"] for path in LOADERS if path != "/usr/bin/tool"}
    i386, arm64 = libraries["/usr/bin/bash-i386"], libraries["/usr/bin/bash-arm64"]
    shutil.copy(in_root(tree, arm64), in_root(tree, i386))
    assert told(tree) == {("missing-library", "/usr/bin/bash-i386", "libc.so.6")}
    [missing] = objects(run("deps", "/usr/bin/bash-i386", "--sysroot", tree, "--json"))[0]["missing"]
    assert missing["name"] == "libc.so.6"


def test_a_loader_of_another_machine_is_the_wrong_machine(tree: Path) -> None:
    """For the programs that name it, and them alone."""
    shutil.copy(in_root(tree, LOADERS["/usr/bin/ls"]), in_root(tree, "/lib/ld-linux.so.2"))
    wrong = told(tree)
    assert wrong == {("wrong-machine", "/usr/bin/bash-i386", "/lib/ld-linux.so.2")}
    done = subprocess.run(["/usr/sbin/chroot", tree, "/usr/bin/bash-i386", "-c", ":"], capture_output=True)
    assert done.returncode != 0


def test_a_box_says_which_machine_it_is_for(made: Path, tmp_path: Path) -> None:
    """What has come into a box of x86-64 from elsewhere is for the wrong machine, but not what its kernel runs too."""
    box = tmp_path / "box"
    assert run("add", "ls", "--sysroot", made, "--into", box).returncode == 0
    subprocess.run(["cp", "-a", "-n", f"{made}/usr", f"{made}/lib", f"{made}/lib64", box], check=True)
    assert {one for one in told(box) if one[0] == "wrong-machine"} == {
        ("wrong-machine", "/usr/bin/bash-arm64", "aarch64")
    }
