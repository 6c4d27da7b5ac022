"""`check` on any root, made by jailbuild or not, and narrowed to some programs of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.box.running import add, objects, run


def findings(root: Path, *options: str, status: int = 0) -> list[tuple[str, str]]:
    """Return codes and paths of what check has to say of a root."""
    done = run("check", root, "--json", *options)
    assert done.returncode == status, done.stdout + done.stderr
    return [(one["code"], one["path"]) for one in objects(done) if one["kind"] == "finding"]


def summary(root: Path, *options: str) -> dict[str, Any]:
    return objects(run("check", root, "--json", *options))[-1]


def compiled(path: Path, *options: str) -> None:
    """Make a program that says yes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = "int main(void) { return 0; }"
    subprocess.run(["gcc", "-x", "c", "-", "-o", path, *options], input=source.encode(), check=True)


def test_a_tree_with_one_static_program_has_nothing_to_say(tmp_path: Path) -> None:
    """An image FROM scratch."""
    root = tmp_path / "root"
    compiled(root / "app", "-static")
    assert findings(root, "--strict") == []
    assert summary(root)["programs"] == 1


def test_a_busybox_tree_is_one_program_with_many_names(tmp_path: Path) -> None:
    """Hard links and links alike; a script's interpreter is one of its names."""
    root = tmp_path / "root"
    compiled(root / "bin/busybox", "-static")
    os.link(root / "bin/busybox", root / "bin/ls")
    (root / "bin/sh").symlink_to("busybox")
    (root / "sbin").mkdir()
    (root / "sbin/init").symlink_to("../bin/busybox")
    (root / "start").write_text("#!/bin/sh -e\n")
    (root / "start").chmod(0o755)
    assert findings(root, "--strict") == []
    (root / "bin/sh").unlink()
    assert findings(root, status=3) == [("missing-script-interpreter", "/start")]


@pytest.fixture
def box(tmp_path: Path) -> Path:
    add(tmp_path / "box", "--bare", "bash", "ls")
    return tmp_path / "box"


def test_a_check_of_one_program_is_about_that_and_what_it_loads(box: Path) -> None:
    """Its libraries, the links on their way, its digests; whatever else is wrong with the box."""
    (box / "usr/lib/x86_64-linux-gnu/libtinfo.so.6").unlink()
    (box / "usr/bin/other").write_text("#!/nowhere\n")
    (box / "usr/bin/other").chmod(0o755)
    assert findings(box, "--program", "ls", "--ignore", "no-user-database") == []
    (box / "bin").symlink_to("usr/bin")
    for word in ("bash", "/usr/bin/bash", "/bin/bash"):
        assert ("missing-library", "/usr/bin/bash") in findings(box, "--program", word, status=3)
    assert findings(box, "--program", "/usr/bin/other", status=3) == [
        ("missing-script-interpreter", "/usr/bin/other"),
        ("unlisted-file", "/usr/bin/other"),
    ]
    assert (summary(box, "--program", "ls")["programs"], summary(box)["programs"]) == (1, 3)


def test_a_changed_library_is_found_for_each_program_that_loads_it(box: Path) -> None:
    for library in ("libselinux.so.1", "libtinfo.so.6"):
        real = (box / "usr/lib/x86_64-linux-gnu" / library).resolve()
        data = bytearray(real.read_bytes())
        data[-1] ^= 1
        real.write_bytes(data)
    for program, library in (("ls", "libselinux"), ("bash", "libtinfo")):
        told = findings(box, "--program", program, status=3)
        assert [library in path for code, path in told if code == "changed-file"] == [True]


def test_a_library_named_as_a_program_is_held_to_what_it_needs(box: Path) -> None:
    (box / "opt").mkdir()
    shutil.copy("/usr/lib/x86_64-linux-gnu/libc.so.6", box / "opt/libc.so.6")
    assert findings(box, "--program", "/opt/libc.so.6") == [("unlisted-file", "/opt/libc.so.6")]


@pytest.mark.parametrize("word", ["nope", "/usr/bin/nope", "/etc/../..//nope", ""])
def test_a_program_that_is_not_there_is_one_line(box: Path, word: str) -> None:
    done = run("check", box, "--program", word)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("jailbuild: cannot ")
    assert "Traceback" not in done.stderr


def test_a_relative_path_is_told_how_to_be_named(box: Path) -> None:
    """It is the caller's directory that it goes by: what would be asked for by add is of no use to check."""
    done = run("check", box, "--program", "usr/bin/ls")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[1:] == [
        "hint: name a program by its name, or by its path inside the root, which begins with /"
    ]


def test_several_programs_may_be_named(box: Path) -> None:
    assert summary(box, "--program", "ls", "--program", "/usr/bin/bash", "--program", "ls")["programs"] == 2


def test_the_worst_is_told_first_also_where_there_is_little_to_tell(tmp_path: Path) -> None:
    """Errors, warnings, notes, whatever the paths are; each severity by path. JSON goes by path alone."""
    root = tmp_path / "root"
    compiled(root / "app", "-static")
    (root / "app").chmod(0o4755)
    for name in ("bad", "z"):
        (root / name).write_text("#!/nowhere\n")
        (root / name).chmod(0o755)
    (root / "etc").mkdir()
    (root / "etc/shadow").write_text("root:$y$j9T$abc:1::::::\n")
    for options in ((), ("-v",)):
        done = run("check", root, "--ignore", "reachable-from-host", *options)
        told = [line.split(": ")[:2] for line in done.stdout.splitlines()[:-1] if not line.startswith("  ")]
        assert [(severity, words.split()[0]) for severity, words in told] == [
            ("error", "/bad"),
            ("error", "/z"),
            ("warning", "/etc/shadow"),
            ("note", "/app"),
        ]
    assert [path for _, path in findings(root, "--ignore", "reachable-from-host", status=3)] == [
        "/app",
        "/bad",
        "/etc/shadow",
        "/z",
    ]
