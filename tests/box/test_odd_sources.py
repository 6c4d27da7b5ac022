"""Odd names, sources that change under our hands, odd places for a box: done right, or refused in one line."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jailbuild.box import stage
from jailbuild.root import Root
from tests import needs
from tests.box import tiny
from tests.box.running import (
    NOBODY,
    Answer,
    add,
    complaint,
    dump,
    entries,
    everything,
    here,
    inside,
    manifest,
    run,
)

_BIND, _REMOUNT, _READ_ONLY, _DETACH = 0x1000, 0x20, 0x1, 2

Mount = Callable[..., None]


@pytest.fixture
def mount() -> Iterator[Mount]:
    """Mounts that go when the test ends."""
    needs.may_mount()
    libc = ctypes.CDLL(None, use_errno=True)
    places: list[Path] = []

    def mounted(source: Path | str, place: Path, kind: str = "", flags: int = 0) -> None:
        assert libc.mount(os.fsencode(source), os.fsencode(place), kind.encode(), flags, None) == 0
        places.append(place)

    yield mounted
    for place in reversed(places):
        libc.umount2(os.fsencode(place), _DETACH)


def _done(*arguments: str | Path) -> Answer:
    """Call jailbuild, which must do what it is asked."""
    answer = here(*arguments)
    assert (answer.status, answer.errors) == (0, ()), answer
    return answer


def _refused(*arguments: str | Path) -> str:
    """Call jailbuild, which must refuse in one line; return that."""
    answer = here(*arguments)
    assert answer.status == 1, answer
    said = [
        *answer.errors,
        *(line.removeprefix("jailbuild: ") for line in answer.words.splitlines() if line.startswith("jailbuild: ")),
    ]
    assert len(said) == 1, answer
    assert said[0].startswith("cannot "), answer
    return said[0]


ODD = [
    "a\nb",
    "a b",
    'it\'s "x"',
    "\udcff\udcfe",
    "-rf",
    "--json",
    "a:b",
    "x;touch PWNED",
    "$(touch PWNED)",
    "é",
    "back\\slash",
    "\x1b[2J",
    "*",
    "a\rb",
    "\u202e",
    "x" * 255,
]


@pytest.mark.parametrize("name", ODD)
def test_a_program_of_any_name_goes_in_and_out_again(
    sysroot: Path, box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """By its name and by its path; the box runs it, and keeps nothing of it; no shell has a part in it."""
    monkeypatch.chdir(tmp_path)
    tiny.program(sysroot / "usr/bin" / "odd", sysroot / tiny.LIBRARIES / "libtinfo.so.6")
    (sysroot / "usr/bin/odd").rename(sysroot / "usr/bin" / name)
    options = ("--sysroot", sysroot, "--no-sync")
    _done("add", "bash", "--into", box, *options)
    before = dump(box, contents=True, record=True)
    words = [name, f"/usr/bin/{name}", f"{sysroot}/usr/bin/{name}:/opt/{name}"]
    for word in words[:2] if ":" in name else words:  # the last colon is the one that counts
        answer = _done("add", "--into", box, *options, "--", word)
        assert "\x1b" not in answer.words
        assert answer.words.count("\n") == 1
        place = f"/opt/{name}" if ":/opt/" in word else f"/usr/bin/{name}"
        assert inside(box, place).returncode == 6
        for reading in (("check", box), ("list", box), ("why", box, "--", place)):
            assert "\x1b" not in _done(*reading).out
        _done("update", box, *options)
        _done("remove", "--from", box, "--no-sync", "--", word)
        assert before == dump(box, contents=True, record=True)
    assert sorted(os.listdir(tmp_path)) == ["box", "sysroot"]


@pytest.mark.parametrize("name", ODD)
def test_a_directory_and_a_link_of_any_name_too(sysroot: Path, box: Path, name: str) -> None:
    """As parents and as what a program is found by."""
    tiny.program(sysroot / "opt" / name[:200] / "real", sysroot / tiny.LIBRARIES / "libtinfo.so.6")
    (sysroot / "usr/bin" / name).symlink_to(f"/opt/{name[:200]}/real")
    options = ("--sysroot", sysroot, "--no-sync")
    _done("add", "--into", box, *options, "--", name)
    assert inside(box, f"/usr/bin/{name}").returncode == 6
    _done("check", box)
    _done("update", box, *options)
    _done("remove", "--from", box, "--no-sync", "--", name)
    assert dump(box) == {}


CHANGES = ["grows", "shrinks", "vanishes", "another file", "a FIFO", "a directory", "a link out", "other bytes"]


@pytest.mark.parametrize("when", ["before", "within"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_source_that_changes_under_our_hands_is_refused_or_right(
    sysroot: Path, box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, when: str
) -> None:
    """Between the plan and the copy, or in the middle of it: what is in the box is what its manifest says."""
    path = sysroot / "usr/bin/bash"
    secret = tmp_path / "secret"
    secret.write_bytes(b"nobody in the box may read this")

    def alter() -> None:
        if change == "grows":
            with path.open("ab") as file:
                file.write(b"more")
        elif change == "shrinks":
            os.truncate(path, 100)
        elif change == "other bytes":
            with path.open("r+b") as file:
                file.seek(200)
                file.write(b"other bytes")
        else:
            path.unlink()
            if change == "another file":
                shutil.copy(sysroot / "usr/bin/ls", path)
            elif change == "a FIFO":
                os.mkfifo(path)
            elif change == "a directory":
                path.mkdir()
            elif change == "a link out":
                path.symlink_to(secret)

    inode = path.stat().st_ino
    run_staging, opening = stage.Staging.run, Root.open
    to_come = True

    def late(staging: stage.Staging) -> Any:
        nonlocal to_come
        if when == "within":
            monkeypatch.setattr(Root, "open", changing)
        elif to_come:
            to_come = False
            alter()
        return run_staging(staging)

    def changing(root: Root, name: str) -> int:
        nonlocal to_come
        opened = opening(root, name)
        if to_come and os.fstat(opened).st_ino == inode:
            to_come = False
            alter()
        return opened

    monkeypatch.setattr(stage.Staging, "run", late)
    answer = here("add", "bash", "--into", box, "--sysroot", sysroot, "--no-sync")
    monkeypatch.undo()
    assert answer.status in (0, 1)
    if answer.errors:
        assert len(answer.errors) == 1
        assert not box.exists()
    else:
        assert here("check", box).out.count("error:") == 0, here("check", box).out
    assert not (box / "usr/bin/bash").exists() or secret.read_bytes() != (box / "usr/bin/bash").read_bytes()


def test_sources_on_other_file_systems_go_in(sysroot: Path, box: Path, tmp_path: Path, mount: Mount) -> None:
    """A part of the source root, and a file from anywhere."""
    (tmp_path / "other").mkdir()
    mount("none", tmp_path / "other", "tmpfs")
    (sysroot / "opt").mkdir()
    mount("none", sysroot / "opt", "tmpfs")
    tiny.program(sysroot / "opt/here", sysroot / tiny.LIBRARIES / "libtinfo.so.6")
    tiny.script(tmp_path / "other/script", "#!/usr/bin/bash")
    _done("add", "/opt/here", f"{tmp_path}/other/script:/usr/bin/script", "--into", box, "--sysroot", sysroot)
    assert [inside(box, path).returncode for path in ("/opt/here", "/usr/bin/script")] == [6, 6]
    _done("check", box)
    _done("update", box, "--sysroot", sysroot, "--no-sync")


@pytest.mark.parametrize("left", ["in order", "a journal", "a staging"])
def test_a_box_that_cannot_be_written_is_one_line_and_can_be_read(
    made: Path, box: Path, mount: Mount, left: str
) -> None:
    """A read-only mount, whatever a writer that was killed has left in it."""
    _done("add", "bash", "--into", box, "--sysroot", made, "--no-sync")
    record = box / ".jailbuild"
    if left == "a journal":
        shutil.copy(record / "manifest.jsonl", record / "journal")
    if left == "a staging":
        (record / "staging").mkdir()
    mount(box, box, flags=_BIND)
    mount(box, box, flags=_BIND | _REMOUNT | _READ_ONLY)
    before = everything(box)
    for arguments in (("add", "ls", "--into", box, "--sysroot", made), ("remove", "bash", "--from", box)):
        assert "ead-only" in _refused(*arguments, "--no-sync")
    for reading in (("list", box), ("why", box, "/usr/bin/bash")):
        _done(*reading)
    assert here("check", box).status in ((0,) if left == "in order" else (0, 3))  # it may tell of what was left
    forecast = here("update", "--dry-run", box, "--sysroot", made)
    assert forecast.status == (3 if left == "a journal" else 0), forecast  # nothing can be told of half a change
    assert before == everything(box)


@pytest.mark.parametrize("spelling", ["link", "link/", "box/", ".//box", "other/../box", "link/.", "ABSOLUTE//box//"])
def test_however_a_box_is_spelled_it_is_the_same_box(
    made: Path, box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    """A link to it, a relative path, slashes too many."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("box")
    (tmp_path / "other").mkdir()
    spelling = spelling.replace("ABSOLUTE", str(tmp_path))
    options = ("--sysroot", made, "--no-sync")
    if "link" in spelling:
        box.mkdir()
    _done("add", "bash", "--into", spelling, *options)
    _done("add", "ls", "--into", spelling, *options)
    _done("check", spelling)
    _done("update", spelling, *options)
    _done("remove", "bash", "ls", "--from", spelling, "--no-sync")
    assert dump(box) == {}
    assert sorted(os.listdir(tmp_path)) == ["box", "link", "other"]


def test_a_box_inside_the_source_tree_does_not_bring_itself(sysroot: Path) -> None:
    """Neither its files nor its record."""
    box = sysroot / "box"
    options = ("--sysroot", sysroot, "--no-sync")
    _done("add", "bash", "--into", box, *options)
    before = dump(box, contents=True, record=True)
    _done("add", "bash", "--into", box, *options)
    _done("update", box, *options)
    assert before == dump(box, contents=True, record=True)
    _done("add", "/box/usr/bin/bash", "--into", box, *options)  # as a program of the source root it is one like others
    assert dump(box)["/box/usr/bin/bash"] == "file 0755"
    _done("check", box)
    _done("remove", "/box/usr/bin/bash", "--from", box, "--no-sync")
    assert before == dump(box, contents=True, record=True)


def test_a_source_inside_the_box_is_a_source(made: Path, box: Path) -> None:
    """A file of the box's own, and a whole root in it."""
    _done("add", "bash", "--into", box, "--sysroot", made, "--no-sync")
    tiny.script(box / "home/tool", "#!/usr/bin/bash")
    _done("add", f"{box}/home/tool:/usr/bin/tool", "--into", box, "--sysroot", made, "--no-sync")
    assert inside(box, "/usr/bin/tool").returncode == 6
    tiny.clone(made, box / "root")
    _done("add", "ls", "--into", box, "--sysroot", box / "root", "--no-sync")
    assert inside(box, "/usr/bin/ls").returncode == 9
    _done("remove", "ls", "bash", "/usr/bin/tool", "--from", box, "--no-sync")
    assert (box / "home/tool").exists()
    assert not (box / "usr").exists()


@pytest.mark.parametrize("kind", ["bind", "tmpfs"])
def test_what_is_mounted_in_a_box_is_not_the_boxs(
    made: Path, box: Path, tmp_path: Path, mount: Mount, kind: str
) -> None:
    """Nothing on it is written or removed, whatever the manifest says, and what is there before stays as it was."""
    _done("add", "bash", "ls", "--into", box, "--sysroot", made, "--no-sync")
    theirs = tiny.clone(box / "usr/bin", tmp_path / "theirs")
    if kind == "bind":
        mount(theirs, box / "usr/bin", flags=_BIND)
    else:
        mount("none", box / "usr/bin", "tmpfs")
        subprocess.run(["cp", "-a", f"{theirs}/.", box / "usr/bin"], check=True)
    before = dump(box, contents=True, record=True)
    for arguments in (
        ("remove", "bash", "--from", box),
        ("remove", "bash", "ls", "--from", box),
        ("add", "editor", "--into", box, "--sysroot", made),
    ):
        assert "mount" in _refused(*arguments, "--no-sync")
        assert before == dump(box, contents=True, record=True)


def test_mount_points_with_something_mounted_stay(made: Path, box: Path, mount: Mount) -> None:
    """/proc and the like are used while the box is changed around them."""
    _done("add", "bash", "--into", box, "--sysroot", made, "--no-sync")
    mount("none", box / "tmp", "tmpfs")
    mount("none", box / "proc", "proc")
    (box / "tmp/mine").write_text("mine")
    _done("add", "ls", "--into", box, "--sysroot", made, "--no-sync")
    _done("check", box)
    _done("update", box, "--sysroot", made, "--no-sync")
    answer = here("remove", "bash", "ls", "--from", box, "--no-sync")
    assert answer.status == 0, answer
    assert (box / "tmp/mine").read_text() == "mine"
    assert sorted(os.listdir(box)) == [".jailbuild", "proc", "tmp"]


@pytest.mark.parametrize("place", ["usr/bin/bash", "usr/bin", "usr/lib", ".", ".jailbuild"])
def test_what_may_not_be_changed_is_found_before_anything_is(sysroot: Path, box: Path, place: str) -> None:
    """A file or directory that is immutable, chattr(1) +i: the box is as it was, and works again without."""
    if not needs.has_immutable_files(sysroot):
        pytest.skip("immutable files are not to be had here")
    words = ("bash", "ls")
    _done("add", *words, "--into", box, "--sysroot", sysroot, "--no-sync")
    subprocess.run(["chattr", "+i", box / place], check=True)
    try:
        tiny.program(sysroot / "usr/bin/bash", sysroot / tiny.LIBRARIES / "libselinux.so.1")
        if place not in ("usr/lib", "."):  # an update has nothing to change in these
            before = dump(box, contents=True, record=True)
            _refused("update", box, "--sysroot", sysroot, "--no-sync")
            assert before == dump(box, contents=True, record=True)
        before = dump(box, contents=True, record=True)
        _refused("remove", *words, "--from", box, "--no-sync")
        assert before == dump(box, contents=True, record=True)
    finally:
        subprocess.run(["chattr", "-i", box / place], check=True)
    _done("update", box, "--sysroot", sysroot, "--no-sync")
    _done("remove", *words, "--from", box, "--no-sync")
    assert dump(box) == {}


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that everybody may write to and reach."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o777)
        yield Path(place)


def test_without_root_everything_but_the_owners_works(made: Path, open_place: Path) -> None:
    """Add, check, update and remove, as nobody."""
    sysroot = tiny.clone(made, open_place / "sysroot")
    box = open_place / "box"
    options = ("--sysroot", sysroot, "--no-sync")
    for arguments in (("add", "bash", "editor", "--into", box, *options), ("check", box), ("update", box, *options)):
        assert run(*arguments, nobody=True).returncode == 0
    assert (box / "usr/bin/bash").stat().st_uid == NOBODY
    tiny.program(sysroot / "usr/bin/bash", sysroot / tiny.LIBRARIES / "libselinux.so.1")
    done = run("update", box, *options, nobody=True)
    assert (done.returncode, inside(box, "bash").returncode) == (0, 9), done.stderr
    assert run("check", box, nobody=True).returncode == 0
    assert run("remove", "bash", "editor", "--from", box, "--no-sync", nobody=True).returncode == 0
    assert dump(box) == {}


def test_a_box_of_roots_is_one_line_to_others(made: Path, open_place: Path) -> None:
    """Its record is not theirs to read, nor the box theirs to write; a source they may not read neither."""
    sysroot = tiny.clone(made, open_place / "sysroot")
    box = open_place / "box"
    _done("add", "bash", "--into", box, "--sysroot", sysroot, "--no-sync")
    before = dump(box, contents=True, record=True)
    for arguments in (
        ("add", "ls", "--into", box, "--sysroot", sysroot),
        ("remove", "bash", "--from", box),
        ("update", box, "--sysroot", sysroot),
        ("list", box),
    ):
        complaint(run(*arguments, nobody=True))
    done = run("check", box, nobody=True)
    assert done.returncode in (0, 1, 3), done
    assert "manifest" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert before == dump(box, contents=True, record=True)
    (sysroot / "usr/bin/ls").chmod(0o711)
    said = complaint(run("add", "ls", "--into", open_place / "mine", "--sysroot", sysroot, nobody=True))
    assert "ls" in said
    assert not (open_place / "mine").exists()


def test_what_is_piped_is_quiet(sysroot: Path, box: Path) -> None:
    """No bar, no cursor moved: a line at the end, and with -q none."""
    tiny.program(sysroot / "usr/bin/large", sysroot / tiny.LIBRARIES / "libtinfo.so.6")
    with (sysroot / "usr/bin/large").open("ab") as file:
        file.write(os.urandom(1 << 25))
    options = ("--sysroot", sysroot, "--no-sync")
    for arguments in (("add", "large", "--into", box, *options), ("remove", "large", "--from", box, "--no-sync")):
        done = run(*arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (0, "", 1)
        assert done.stderr.startswith(f"{box}: large: ")
        assert "\r" not in done.stderr
        assert "\x1b" not in done.stderr
    for quiet in (
        ("add", "large", "--into", box, *options),
        ("update", box, *options),
        ("remove", "large", "--from", box, "--no-sync"),
    ):
        done = run(*quiet, "-q")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_words_of_the_source_root_that_are_not_UTF_8_are_recorded(sysroot: Path, box: Path) -> None:
    """A package's version, a SONAME that a recipe applies for, a user's name: text, and what a later plan has too."""
    odd = os.fsdecode(b"libtinfo.so.\xff")
    library = tiny.library(sysroot / tiny.LIBRARIES / odd, soname=odd)
    tiny.program(sysroot / "usr/bin/odd", library)
    (sysroot / "usr/share/terminfo/d").mkdir(parents=True)
    (sysroot / "usr/share/terminfo/d/dumb").write_text("no terminal\n")
    (sysroot / "var/lib/dpkg/info").mkdir(parents=True)
    (sysroot / "var/lib/dpkg/info/pack.list").write_text("/usr/bin/odd\n")
    (sysroot / "var/lib/dpkg/info" / os.fsdecode(b"p\xff.list")).write_text("/usr/bin/odd\n")
    (sysroot / "var/lib/dpkg/status").write_bytes(
        b"Package: pack\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1\xff\nSource: \xff (2)\n"
    )
    user = os.fsdecode(b"us\xffer")
    (sysroot / "etc/passwd").write_bytes(os.fsencode(f"{user}:x:70:70::/:/bin/sh\n"))
    words = "odd", "--user", user, "--package", "pack"
    add(box, *words, sysroot=sysroot)
    edges = [edge for entry in entries(box).values() for edge in entry["edges"]]
    assert {edge["cause"] for edge in edges if edge["recipe"] == "terminfo"} == {
        "libtinfo.so.\ufffd (base64 bGlidGluZm8uc28u/w==)"
    }
    assert [line for line in manifest(box) if line["kind"] == "package"] == [
        {"kind": "package", "name": "pack", "version": "1\ufffd", "architecture": "amd64", "source": "\ufffd"}
    ]
    assert os.fsencode(user) in (box / "etc/passwd").read_bytes()
    for command in (("add", *words, "--into", box), ("update", "--dry-run", box)):
        done = run(*command, "--sysroot", sysroot)
        assert done.returncode == 0, done.stderr
        assert "nothing to do" in done.stderr or "up to date" in done.stderr
    assert run("remove", f"user:{user}", "--from", box, "--no-sync").returncode == 0
    assert not (box / "etc/passwd").exists()
