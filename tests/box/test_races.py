"""Somebody inside is at work too: whatever stands in a box, or changes under our hands, nothing outside is touched."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jailbuild import syscalls
from jailbuild.box import apply
from jailbuild.box.records import read_manifest
from tests.box import tiny
from tests.box.running import Answer, dump, everything, here

SECRET = b"nobody in the box may read this"

PLACES = [
    "lib",
    "lib64",
    "usr",
    "usr/lib",
    "usr/bin",
    "usr/bin/bash",
    "usr/bin/ls",
    f"{tiny.LIBRARIES}/libtinfo.so.6.4",
    "etc",
    "etc/alternatives",
    "tmp",
    ".jailbuild",
    ".jailbuild/manifest.jsonl",
    ".jailbuild/lock",
    ".jailbuild/journal",
    ".jailbuild/staging",
]
FILES = ["usr/bin/bash", f"{tiny.LIBRARIES}/libtinfo.so.6.4", ".jailbuild/manifest.jsonl", ".jailbuild/lock"]
KINDS = [
    "absolute",
    "relative",
    "dangling",
    "looping",
    "dotted",
    "FIFO",
    "socket",
    "device",
    "directory",
    "hard link",
    "hard link to the same",
]


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


def _plant(path: Path, place: str, kind: str, outside: Path) -> None:
    """Put something else at a path than what jailbuild expects at `place` of a box."""
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
        path.symlink_to(
            {
                "absolute": str(outside / place),
                "relative": os.path.relpath(outside / place, path.parent),
                "dangling": str(outside / "nowhere"),
                "looping": path.name,
                "dotted": f"./..//{'../' * 40}usr/../{str(outside)[1:]}/./{place}/../{Path(place).name}",
            }[kind]
        )


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
        (
            "update",
            box,
            "--sysroot",
            newer,
            "--no-sync",
            "--replace",
            "/usr/bin/bash",
            "--replace",
            f"/{tiny.LIBRARIES}/libtinfo.so.6.4",
        ),
    ]


def _is_answer(answer: Answer) -> bool:
    """Say whether a command answered as it should: done, or in a few lines for the person."""
    return answer.status in (0, 1, 3) and all(cause.startswith("cannot ") for cause in answer.errors)


@pytest.mark.parametrize(
    ("place", "kind"),
    [(place, kind) for place in PLACES for kind in KINDS if kind != "hard link to the same" or place in FILES],
)
def test_whatever_stands_in_a_box_nothing_outside_is_touched(
    made: Path, newer: Path, plain: Path, outside: Path, tmp_path: Path, place: str, kind: str
) -> None:
    """Every command ends at once, in words; nothing outside changes, nothing from outside comes in."""
    before = everything(outside)
    box = tiny.clone(plain, tmp_path / "box")
    _plant(box / place, place, kind, outside)
    within = everything(box)
    inside = dump(box, contents=True, record=True)
    for reading in (("check", box), ("list", box), ("why", box, "/usr/bin/bash")):
        answer = here(*reading)
        assert _is_answer(answer), answer
    if place not in (".jailbuild/journal", ".jailbuild/staging"):  # these a check may find, and clean up after
        assert inside == dump(box, contents=True, record=True)
        within = everything(box)
    refused = False
    for arguments in _writing(box, made, newer):
        if "--replace" in arguments and not refused:
            continue  # it was done without
        answer = here(*arguments)
        assert _is_answer(answer), (arguments, answer)
        refused = answer.status != 0
        assert before == everything(outside), arguments
        assert _has_secret(box, outside) == [], arguments
        if within != everything(box):
            shutil.rmtree(box)
            tiny.clone(plain, box)
            _plant(box / place, place, kind, outside)
            within = everything(box)


# Lets two names of a directory change places until it is killed. Says so once it is at it.
_SWAPPING = """
import ctypes, os, signal, sys
swaps = 0
def end(*_):
    print(swaps, flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, end)
libc = ctypes.CDLL(None, use_errno=True)
one, other = map(os.fsencode, sys.argv[1:])
print("at it", flush=True)
while True:
    swaps += libc.renameat2(-100, one, -100, other, 2) == 0
"""


@contextlib.contextmanager
def _swapping(one: Path, other: Path) -> Iterator[None]:
    """Let two names change places while we work."""
    with subprocess.Popen([sys.executable, "-c", _SWAPPING, one, other], stdout=subprocess.PIPE) as attacker:
        assert attacker.stdout is not None
        assert attacker.stdout.readline() == b"at it\n"
        try:
            yield
        finally:
            attacker.terminate()
        assert int(attacker.stdout.read()) > 0


SWAPPED = [
    *(
        (place, "absolute")
        for place in (
            "usr",
            "usr/bin",
            tiny.LIBRARIES,
            "etc/alternatives",
            "usr/bin/bash",
            ".jailbuild",
            ".jailbuild/staging",
            ".jailbuild/lock",
            ".jailbuild/manifest.jsonl",
        )
    ),
    *((place, "FIFO") for place in ("usr/bin/bash", "usr/bin", ".jailbuild/manifest.jsonl", ".jailbuild/lock")),
    *((place, "device") for place in ("usr/bin/bash", ".jailbuild/manifest.jsonl")),
    *((place, "hard link") for place in ("usr/bin/bash", ".jailbuild/manifest.jsonl", ".jailbuild/lock")),
    ("usr/bin", "directory"),
]


@pytest.mark.parametrize(("place", "kind"), SWAPPED)
def test_what_is_swapped_while_we_work_leads_nothing_out(
    made: Path, newer: Path, plain: Path, outside: Path, tmp_path: Path, place: str, kind: str
) -> None:
    """Something else takes turns with what the box has; every command still answers, at once and in words."""
    before = everything(outside)
    box = tiny.clone(plain, tmp_path / "box")
    twin = box / f"{place}.twin"
    if not (box / place).exists():
        (box / place).mkdir()
    _plant(twin, place, kind, outside)
    commands = [
        *_writing(box, made, newer),
        ("add", "bash", "--into", box, "--sysroot", newer, "--no-sync"),
        ("check", box),
        ("list", box),
    ]
    with _swapping(box / place, twin):
        for arguments in commands * 4:
            answer = here(*arguments)
            assert _is_answer(answer), (arguments, answer)
    assert before == everything(outside)
    assert _has_secret(box, outside) == []


@pytest.mark.parametrize("call", ["symlink", "mkdir"])
def test_what_is_swapped_in_the_staging_is_not_written_through(
    made: Path, tmp_path: Path, box: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Owner, mode and times go to what we made, and not to what has its name the moment after."""
    (victim := tmp_path / "victim").mkdir()
    (victim / "file").write_bytes(SECRET)
    for path in (victim / "file", victim):
        os.chown(path, 7, 7)
        os.utime(path, (5, 5))
    before = everything(victim)
    make = getattr(os, call)

    def swap(*arguments: Any, dir_fd: int | None = None) -> None:
        make(*arguments, dir_fd=dir_fd)
        name = arguments[1 if call == "symlink" else 0]
        if dir_fd is not None and name not in (".jailbuild", "staging"):
            os.rename(name, f"{name}.gone", src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
            if call == "symlink":
                os.link(victim / "file", name, dst_dir_fd=dir_fd)
            else:
                symlink(victim, name, dir_fd=dir_fd)

    symlink = os.symlink
    monkeypatch.setattr(os, call, swap)
    answer = here("add", "bash", "--into", box, "--sysroot", made, "--no-sync")
    monkeypatch.undo()
    assert answer.errors, answer
    assert before == everything(victim)


@pytest.mark.parametrize("when", ["before", "after the commit"])
def test_a_file_larger_than_anybody_can_read_holds_nothing_up(
    newer: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Nobody reads it to its end to see that it is not ours: not in the plan, nor once it took the place of ours."""
    box = tiny.clone(plain, tmp_path / "box")
    place = box / "usr/bin/bash"

    def grow(name: str = "commit") -> None:
        if name == "commit":
            place.unlink()
            place.touch(0o755)
            os.truncate(place, 1 << 43)

    options = ("--sysroot", newer, "--no-sync")
    if when == "before":
        grow()
        for arguments in (
            ("update", box, *options),
            ("add", "bash", "--into", box, *options),
            ("remove", "bash", "--from", box, "--no-sync"),
            ("check", box),
        ):
            assert here(*arguments).status in (1, 3)
        assert here("update", box, *options, "--replace", "/usr/bin/bash").status == 0
    else:
        monkeypatch.setattr(apply, "step", grow)
        answer = here("update", box, *options)
        monkeypatch.undo()
        assert answer.status == 1, answer
        assert "bash.jailbuild-saved" in answer.words
        assert (box / "usr/bin/bash.jailbuild-saved").stat().st_size == 1 << 43
        (box / "usr/bin/bash.jailbuild-saved").unlink()
    assert place.stat().st_size == (newer / "usr/bin/bash").stat().st_size
    assert here("check", box).status == 0


def test_a_lock_that_somebody_has_and_signed_as_he_liked_is_waited_for_in_words(
    made: Path, plain: Path, tmp_path: Path
) -> None:
    """Whatever it says."""
    box = tiny.clone(plain, tmp_path / "box")
    lock = box / ".jailbuild/lock"
    for words in (
        b'{"pid": Infinity, "command": "x"}',
        b'{"pid": 1e999}',
        b'{"pid": NaN, "command": 1}',
        b"[" * 900,
        b'{"pid": 1, "command": "\\u001b[2J\\ud800"}',
        b"\xff" * 2000,
        b"[]",
        b"null",
        b"",
    ):
        lock.write_bytes(words)
        with lock.open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            answer = here("add", "ls", "--into", box, "--sysroot", made, "--no-sync", "--no-wait")
        assert "is writing to it" in answer.errors[0]
        assert lock.read_bytes() == words


def test_a_journal_that_is_taken_away_while_it_is_read_is_no_traceback(
    made: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is gone needs no recovery."""
    box = tiny.clone(plain, tmp_path / "box")
    journal = box / ".jailbuild/journal"
    shutil.copy(box / ".jailbuild/manifest.jsonl", journal)

    def take_away(*arguments: Any) -> Any:
        journal.unlink(missing_ok=True)
        return read_manifest(*arguments)

    monkeypatch.setattr(apply, "read_manifest", take_away)
    assert here("add", "ls", "--into", box, "--sysroot", made, "--no-sync").status == 0
    assert here("check", box).status == 0


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("usr", "absolute"),
        ("usr/bin", "absolute"),
        ("usr/bin/bash", "absolute"),
        ("usr/bin/bash", "hard link"),
        (".jailbuild", "absolute"),
        (".jailbuild/staging", "absolute"),
        ("usr/bin", "FIFO"),
    ],
)
def test_an_older_kernel_or_a_poorer_file_system_is_as_tight(
    made: Path,
    newer: Path,
    plain: Path,
    outside: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    kind: str,
) -> None:
    """Without openat2(2), and without the flags of renameat2(2): at rest, and while it is swapped."""

    def lacks(number: int) -> Callable[..., None]:
        def fail(*_: object, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        return fail

    monkeypatch.setattr(syscalls, "openat2", lacks(errno.ENOSYS))
    for call in ("rename_new", "exchange", "utime_open"):
        monkeypatch.setattr(syscalls, call, lacks(errno.EINVAL))
    before = everything(outside)
    box = tiny.clone(plain, tmp_path / "box")
    for arguments in (*_writing(box, made, newer), ("check", box)):  # all is well without it
        assert here(*arguments).status == 0, arguments
    shutil.rmtree(box)
    tiny.clone(plain, box)
    twin = box / f"{place}.twin"
    if not (box / place).exists():
        (box / place).mkdir()
    _plant(twin, place, kind, outside)
    with _swapping(box / place, twin):
        for arguments in [*_writing(box, made, newer), ("check", box)] * 3:
            answer = here(*arguments)
            assert _is_answer(answer), (arguments, answer)
    assert before == everything(outside)
    assert _has_secret(box, outside) == []
