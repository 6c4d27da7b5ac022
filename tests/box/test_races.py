"""Somebody inside is at work too: whatever stands in a box, or changes under our hands, nothing outside is touched."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.box import tiny
from tests.box.running import PATIENCE, Answer, everything, here

SECRET = b"nobody in the box may read this"

PLACES = [
    "lib", "lib64", "usr", "usr/lib", "usr/bin", "usr/bin/bash", "usr/bin/ls", f"{tiny.LIBRARIES}/libtinfo.so.6.4",
    "etc", "etc/alternatives", "tmp", ".jailbuild", ".jailbuild/manifest.jsonl", ".jailbuild/lock",
    ".jailbuild/journal", ".jailbuild/staging",
]
KINDS = ["absolute", "relative", "dangling", "looping", "dotted", "FIFO", "socket", "device", "directory", "hard link",
         "hard link to the same"]


@pytest.fixture(scope="module")
def newer(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small root after an upgrade: another library behind its link, another program, one more."""
    root = tiny.clone(made, tmp_path_factory.mktemp("newer") / "root")
    libraries = root / tiny.LIBRARIES
    (libraries / "libtinfo.so.6.4").unlink()
    (libraries / "libtinfo.so.6").unlink()
    tinfo = tiny.library(libraries / "libtinfo.so.6.5", soname="libtinfo.so.6", value=7)
    (libraries / "libtinfo.so.6").symlink_to(tinfo.name)
    tiny.program(root / "usr/bin/bash", tinfo, libraries / "libselinux.so.1")
    return root


@pytest.fixture(scope="module")
def plain(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A box that holds bash and an editor; to be copied."""
    box = tmp_path_factory.mktemp("plain") / "box"
    here("add", "bash", "editor", "--into", box, "--sysroot", made, "--no-sync")
    return box


@pytest.fixture(scope="module")
def outside(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of the host's that looks like the box, and has a secret."""
    tree = tiny.clone(plain, tmp_path_factory.mktemp("outside") / "tree")
    (tree / "usr/bin/ls").write_bytes(SECRET)
    for name in ("lock", "journal", "secret"):
        (tree / ".jailbuild" / name).write_bytes(SECRET)
    (tree / ".jailbuild/staging").mkdir()
    (tree / ".jailbuild/staging/manifest.next").write_bytes(SECRET)
    return tree


def _clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)


def _plant(box: Path, place: str, kind: str, outside: Path) -> None:
    """Put something else where jailbuild expects its own."""
    path = box / place
    _clear(path)
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(path.parent):
            made.bind(path.name)
    elif kind == "device":
        os.mknod(path, 0o644 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero: it never ends
    elif kind == "directory":
        (path / "mine").mkdir(parents=True)
    elif kind == "hard link":
        path.hardlink_to(outside / ".jailbuild/secret")
    elif kind == "hard link to the same":
        other = (outside / place).resolve()
        path.hardlink_to(other if other.is_file() else outside / "usr/bin/bash")
    else:
        path.symlink_to({
            "absolute": str(outside / place), "relative": os.path.relpath(outside / place, path.parent),
            "dangling": str(outside / "nowhere"), "looping": path.name,
            "dotted": f"./..//{'../' * 40}usr/../{str(outside)[1:]}/./{place}/../{Path(place).name}",
        }[kind])


def _has_secret(box: Path, outside: Path) -> list[str]:
    """Return the files of a box that have got the secret, other than hard links to it."""
    theirs = {(status := path.lstat()).st_ino for path in outside.rglob("*")}
    found = []
    for path in box.rglob("*"):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_ino not in theirs and SECRET in path.read_bytes():
            found.append(str(path))
    return found


def _writing(box: Path, made: Path, newer: Path) -> list[tuple[str | Path, ...]]:
    return [
        ("add", "ls", "--into", box, "--sysroot", made, "--no-sync"),
        ("add", "ls", "--into", box, "--sysroot", made, "--no-sync", "--replace", "/usr/bin/ls"),
        ("remove", "bash", "--from", box, "--no-sync"),
        ("update", box, "--sysroot", newer, "--no-sync"),
        ("update", box, "--sysroot", newer, "--no-sync", "--replace", "/usr/bin/bash",
         "--replace", f"/{tiny.LIBRARIES}/libtinfo.so.6.4"),
    ]


def _is_answer(answer: Answer) -> bool:
    """Say whether a command answered as it should: done, or in a few lines for the person."""
    return answer.status in (0, 1, 3) and all(cause.startswith("cannot ") for cause in answer.errors)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_whatever_stands_in_a_box_nothing_outside_is_touched(
    made: Path, newer: Path, plain: Path, outside: Path, tmp_path: Path, place: str, kind: str
) -> None:
    """Every command ends at once, in words; nothing outside changes, nothing from outside comes in."""
    before = everything(outside)
    box = tiny.clone(plain, tmp_path / "box")
    _plant(box, place, kind, outside)
    within = everything(box)
    for arguments in (("check", box), ("list", box), ("why", box, "/usr/bin/bash")):
        answer = here(*arguments)
        assert _is_answer(answer), answer
    assert within == everything(box)
    for arguments in _writing(box, made, newer):
        answer = here(*arguments)
        assert _is_answer(answer), (arguments, answer)
        assert before == everything(outside), arguments
        assert [] == _has_secret(box, outside), arguments
        if within != everything(box):
            shutil.rmtree(box)
            tiny.clone(plain, box)
            _plant(box, place, kind, outside)
            within = everything(box)
