"""An add that cannot be done: said in one line, nothing half-done, nothing of the user's touched."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import needs
from tests.box import tiny
from tests.box.running import (
    add,
    complaint,
    dump,
    entries,
    inside,
    listed_inside,
    objects,
    open_to_all,
    put,
    run,
    state,
)


@pytest.fixture(params=["no box", "a directory", "a box"])
def target(request: pytest.FixtureRequest, made: Path, box: Path) -> Path:
    """What is at the place of the box before the add that fails."""
    if request.param == "a directory":
        (box / "etc").mkdir(parents=True)
        (box / "etc/mine").write_text("mine")
    if request.param == "a box":
        put(box, "bash", root=made)
    return box


def _seen(box: Path) -> dict[str, str] | None:
    return state(box) if box.exists() else None


def _no_library(sysroot: Path) -> None:
    (sysroot / tiny.LIBRARIES / "libpcre.so.8.1").unlink()


def _no_loader(sysroot: Path) -> None:
    (sysroot / tiny.LIBRARIES / "ld-linux-x86-64.so.2").unlink()


def _no_elf(sysroot: Path) -> None:
    (sysroot / tiny.LIBRARIES / "libselinux.so.1").write_text("/* GNU ld script */\n")


@pytest.mark.parametrize(
    ("change", "words", "said"),
    [
        (None, ("lss",), "cannot add lss: no such program"),
        (None, ("/usr/bin",), "cannot add /usr/bin: it is a directory"),
        (None, ("/etc/os-release",), "neither an ELF file nor a script"),
        (None, ("/usr/bin/absent",), "cannot add /usr/bin/absent: "),
        (None, ("",), "cannot "),
        (_no_library, ("ls",), "needs libpcre.so.8, which is in none of: "),
        (_no_loader, ("ls",), "/lib64/ld-linux-x86-64.so.2"),
        (_no_elf, ("ls",), "libselinux.so.1"),
    ],
    ids=["unknown", "a directory", "a text", "absent", "empty", "no library", "no loader", "not ELF"],
)
def test_what_cannot_be_added_is_said_and_nothing_is_written(
    sysroot: Path, target: Path, change: Callable[[Path], None] | None, words: tuple[str, ...], said: str
) -> None:
    """One line and a hint; no box that was not there, and one that was is the same to the byte and the second."""
    if change is not None:
        change(sysroot)
    before = _seen(target)
    done = add(target, *words, "--adopt", sysroot=sysroot, status=1)
    assert said in complaint(done)
    assert before == _seen(target)


def test_all_that_is_missing_is_listed(sysroot: Path, box: Path) -> None:
    """Each library with where it was searched, each program; the programs that would work are not added alone."""
    _no_library(sysroot)
    (sysroot / tiny.LIBRARIES / "libtinfo.so.6").unlink()
    done = add(box, "fixed", "ls", "editor", "lss", sysroot=sysroot, status=1)
    assert "Traceback" not in done.stderr
    assert not box.exists()
    done = add(box, "fixed", "ls", "editor", sysroot=sysroot, status=1)
    assert not box.exists()
    lines = [line for line in done.stderr.splitlines() if not line.startswith("hint: ")]
    assert [
        (program, library)
        for line in lines
        for program in ("ls", "editor")
        if f"cannot add {program}: " in line
        for library in ("libtinfo.so.6", "libpcre.so.8")
        if f"needs {library}, which is in none of: " in line
    ] == [("ls", "libpcre.so.8"), ("editor", "libtinfo.so.6"), ("editor", "libpcre.so.8")]
    assert all("/lib/x86_64-linux-gnu" in line for line in lines)


def test_an_unknown_name_has_near_matches(made: Path, box: Path) -> None:
    """And the exit status is 1."""
    assert "bash" in add(box, "bsah", sysroot=made, status=1).stderr


@pytest.mark.parametrize("what", ["a file", "a dangling link", "no parent", "below a file", "a looping link"])
def test_where_there_cannot_be_a_box_is_said(made: Path, tmp_path: Path, box: Path, what: str) -> None:
    """One line, and what is there stays."""
    name = box
    if what == "a file":
        box.write_text("mine")
    elif what == "a dangling link":
        box.symlink_to(tmp_path / "nowhere")
    elif what == "a looping link":
        box.symlink_to("box")
    elif what == "no parent":
        name = box / "below"
    else:
        box.write_text("mine")
        name = box / "below"
    complaint(add(name, "bash", sysroot=made, status=1))
    assert (what == "no parent") == (not os.path.lexists(box))
    assert not (tmp_path / "nowhere").exists()


def test_usage_errors_have_their_own_status(made: Path, tmp_path: Path) -> None:
    """2: no program, no box, an unknown option."""
    for arguments in (["--into", tmp_path / "box"], ["bash"], ["bash", "--into", tmp_path / "box", "--nonsense"]):
        assert run("add", *arguments, "--sysroot", made).returncode == 2


CONFLICTS: dict[str, Callable[[Path], object]] = {
    "another file": lambda box: (box / "usr/bin/ls").write_text("mine"),
    "a directory for a file": lambda box: (box / "usr/bin/ls").mkdir(),
    "a link for a file": lambda box: (box / "usr/bin/ls").symlink_to("bash"),
    "a FIFO for a file": lambda box: os.mkfifo(box / "usr/bin/ls"),
    "a file for a directory": lambda box: (box / "proc").write_text("mine"),
    "a link for a directory": lambda box: (box / "tmp").symlink_to("etc"),
    "another link": lambda box: (box / "bin").symlink_to("usr/sbin"),
    "a directory for a link": lambda box: (box / "lib64").mkdir(),
    "another mode": lambda box: tiny.script(box / "usr/bin/ls", "").chmod(0o600),
}


@pytest.mark.parametrize(
    ("what", "options"),
    [*((what, ()) for what in CONFLICTS), ("another file", ("--dry-run",)), ("another file", ("--as-shell",))],
)
def test_what_differs_is_a_conflict(made: Path, box: Path, what: str, options: tuple[str, ...]) -> None:
    """It is the user's: nothing is written, the path is named, and --json marks it."""
    (box / "usr/bin").mkdir(parents=True)
    if what == "another mode":
        shutil.copy(made / "usr/bin/ls", box / "usr/bin/ls")
        (box / "usr/bin/ls").chmod(0o600)
    else:
        CONFLICTS[what](box)
    before = state(box)
    path = next(path for path in ("/usr/bin/ls", "/proc", "/tmp", "/bin", "/lib64") if os.path.lexists(f"{box}{path}"))
    done = add(box, "ls", "--adopt", *options, sysroot=made, status=1)
    assert f" {path}: " in complaint(done)
    assert done.stdout == "" or "--dry-run" in options  # the plan, conflicts and all
    assert before == state(box)
    lines = objects(add(box, "ls", "--adopt", "--json", *options, sysroot=made, status=1))
    assert [path] == [line["path"] for line in lines if line["kind"] == "conflict"]
    assert before == state(box)


def test_a_file_that_the_user_changed_is_theirs(made: Path, box: Path) -> None:
    """Also when jailbuild had put it there: never overwritten, and in nobody's way."""
    add(box, "bash", sysroot=made)
    (box / "usr/bin/bash").write_text("mine")
    before = dump(box, contents=True)
    assert "/usr/bin/bash was changed in the box" in add(box, "bash", sysroot=made).stderr
    assert before == dump(box, contents=True)


def test_a_file_that_went_away_is_put_back(made: Path, box: Path) -> None:
    """Adding again makes the box whole."""
    add(box, "bash", "ls", sysroot=made)
    whole = dump(box, contents=True)
    (box / tiny.LIBRARIES / "libtinfo.so.6.4").unlink()
    (box / "bin").unlink()
    add(box, "bash", sysroot=made)
    assert whole == dump(box, contents=True)
    assert run("check", box).returncode == 0


@pytest.mark.parametrize("what", ["a library's bytes", "a library's version", "an alternative"])
def test_a_box_is_never_made_from_two_states_of_a_root(sysroot: Path, box: Path, tmp_path: Path, what: str) -> None:
    """One truth: an add after the root has changed plans all requests anew, and says so if others are touched."""
    add(box, "editor", sysroot=sysroot)
    libraries = sysroot / tiny.LIBRARIES
    if what == "a library's bytes":
        with (libraries / "libpcre.so.8.1").open("ab") as file:
            file.write(b"upgraded")
    elif what == "a library's version":
        (libraries / "libpcre.so.8.1").rename(libraries / "libpcre.so.8.2")
        (libraries / "libpcre.so.8").unlink()
        (libraries / "libpcre.so.8").symlink_to("libpcre.so.8.2")
    else:
        (sysroot / "etc/alternatives/editor").unlink()
        (sysroot / "etc/alternatives/editor").symlink_to("/usr/bin/ls")
    done = add(box, "ls", sysroot=sysroot)
    assert ("all its requests are planned anew" in done.stderr) == (what != "an alternative")
    add(box, "editor", sysroot=sysroot)
    add(tmp_path / "fresh", "editor", "ls", sysroot=sysroot)
    assert dump(tmp_path / "fresh", contents=True, record=True) == dump(box, contents=True, record=True)


@pytest.mark.parametrize("release", ['ID=tiny\nVERSION_ID="2"\n', "ID=other\nVERSION_ID=1\n", "", None])
def test_a_root_with_another_label_is_refused(sysroot: Path, box: Path, release: str | None) -> None:
    """ID and VERSION_ID of os-release; absent parts are null."""
    add(box, "bash", sysroot=sysroot)
    if release is None:
        (sysroot / "etc/os-release").unlink()
    else:
        (sysroot / "etc/os-release").write_text(release)
    before = state(box)
    complaint(add(box, "ls", sysroot=sysroot, status=1))
    assert before == state(box)


def test_null_equals_null(sysroot: Path, box: Path) -> None:
    """A root without os-release can be added from twice."""
    (sysroot / "etc/os-release").unlink()
    add(box, "bash", sysroot=sysroot)
    add(box, "ls", sysroot=sysroot)
    assert inside(box, "/usr/bin/ls").returncode == 9


def test_the_same_name_from_another_place_is_refused(sysroot: Path, box: Path) -> None:
    """`bash` is the file that the box has; a new one in /usr/local/bin is not put beside it in silence."""
    add(box, "bash", sysroot=sysroot)
    tiny.program(sysroot / "usr/local/bin/bash")
    before = state(box)
    complaint(add(box, "bash", sysroot=sysroot, status=1))
    assert before == state(box)


def test_an_unreadable_source_leaves_no_box(sysroot: Path, tmp_path: Path) -> None:
    """Somebody who may run a program and not read it gets one line."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    open_to_all(tmp_path)
    (sysroot / tiny.LIBRARIES / "libpcre.so.8.1").chmod(0o700)
    complaint(add(shared / "box", "ls", sysroot=sysroot, status=1, nobody=True))
    assert os.listdir(shared) == []
    (sysroot / "usr/bin/ls").chmod(0o711)
    assert "Permission denied" in complaint(add(shared / "box", "ls", sysroot=sysroot, status=1, nobody=True))
    assert os.listdir(shared) == []


def test_a_box_works_without_root(made: Path, tmp_path: Path) -> None:
    """Owners are recorded as intended; the bytes, modes and links are the same."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    open_to_all(made, tmp_path)
    add(shared / "box", "bash", "ls", sysroot=made, nobody=True)
    add(tmp_path / "roots", "bash", "ls", sysroot=made)
    assert dump(tmp_path / "roots", contents=True) == dump(shared / "box", contents=True)
    assert entries(tmp_path / "roots") == entries(shared / "box")
    assert (shared / "box/usr/bin/bash").stat().st_uid == 65534
    assert run("check", shared / "box", nobody=True).returncode == 0


def test_a_place_where_one_may_not_write_is_said(made: Path, tmp_path: Path) -> None:
    """A box of root's is not writable for others: one line, nothing changed."""
    open_to_all(made, tmp_path)
    (tmp_path / "box").mkdir()
    complaint(add(tmp_path / "box", "bash", sysroot=made, status=1, nobody=True))
    complaint(add(tmp_path / "other", "bash", sysroot=made, status=1, nobody=True))
    assert os.listdir(tmp_path / "box") == []
    assert not (tmp_path / "other").exists()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount a tmpfs with these options."""
    needs.may_mount()
    place = tmp_path / "small"
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(options: str) -> Path:
        place.mkdir()
        assert libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, options.encode()) == 0
        return place

    yield mount
    if os.path.ismount(place):
        libc.umount2(os.fsencode(place), 2)  # MNT_DETACH


@pytest.mark.parametrize("there", ["no box", "a directory", "a box"])
@pytest.mark.parametrize("kilobytes", [4, 260])
def test_a_full_disk_leaves_everything_as_it_was(
    sysroot: Path, small: Callable[[str], Path], there: str, kilobytes: int
) -> None:
    """Wherever the space ends, in a directory, a file or the manifest: one line, and what was there is the same."""
    for name in ("bash", "ls", "vim.basic"):
        with (sysroot / "usr/bin" / name).open("ab") as file:
            file.write(b"x" * 50_000)
    box = small("size=1m") / "box"
    if there != "no box":
        box.mkdir()
    if there == "a box":
        put(box, "bash", root=sysroot)
    free = os.statvfs(box.parent).f_bfree * os.statvfs(box.parent).f_bsize
    (box.parent / "filler").write_bytes(bytes(max(0, free - kilobytes * 1024)))
    before = dump(box, contents=True, record=True) if there != "no box" else None
    done = add(box, "ls", "editor", sysroot=sysroot, status=0 if there == "a box" and kilobytes >= 200 else 1)
    if done.returncode == 0:
        assert inside(box, "/usr/bin/editor").returncode == 15
        return
    assert "No space left on device" in complaint(done)
    assert before == (dump(box, contents=True, record=True) if box.exists() else None)
    (box.parent / "filler").unlink()
    add(box, "ls", "editor", sysroot=sysroot)
    assert inside(box, "/usr/bin/editor").returncode == 15


@pytest.mark.parametrize("there", ["no box", "a directory", "a box"])
@pytest.mark.parametrize("inodes", [1, 2, 9])
def test_a_disk_without_inodes_leaves_everything_as_it_was(
    made: Path, small: Callable[[str], Path], there: str, inodes: int
) -> None:
    """The directory of the record itself may be what does not fit any more."""
    box = small("size=4m,nr_inodes=200") / "box"
    if there != "no box":
        box.mkdir()
    if there == "a box":
        put(box, "bash", root=made)
    for number in range(os.statvfs(box.parent).f_ffree - inodes):
        (box.parent / f"filler{number}").touch()
    assert inodes == os.statvfs(box.parent).f_ffree
    before = dump(box, contents=True, record=True) if there != "no box" else None
    done = add(box, "editor", sysroot=made, status=1)
    assert "No space left on device" in complaint(done)
    assert before == (dump(box, contents=True, record=True) if box.exists() else None)


def test_an_add_does_not_change_what_another_request_loads(sysroot: Path, box: Path, tmp_path: Path) -> None:
    """A library of the same name, brought from elsewhere, must not take the place of an earlier request's: refused,
    or without effect on it.
    """
    other = tiny.library(tmp_path / "libselinux.so.1", value=50)
    shutil.copy(other, tiny.script(sysroot / "opt/other/libselinux.so.1"))
    tiny.program(sysroot / "usr/bin/second", sysroot / "opt/other/libselinux.so.1")
    add(box, "ls", sysroot=sysroot)
    before, loaded = state(box), listed_inside(box, "/usr/bin/ls")
    assert inside(box, "/usr/bin/ls").returncode == 9
    done = run("add", "second", "--into", box, "--sysroot", sysroot, "--library-path", "/opt/other")
    assert loaded == listed_inside(box, "/usr/bin/ls")
    assert inside(box, "/usr/bin/ls").returncode == 9
    if done.returncode:
        complaint(done)
        assert before == state(box)


def test_an_interrupted_add_leaves_no_box(made: Path, sysroot: Path, box: Path) -> None:
    """Ctrl-C while it copies: exit status 130, and nothing stays."""
    import signal
    import sys
    import time

    with (sysroot / "usr/bin/bash").open("ab") as file:
        for _ in range(200):
            file.write(os.urandom(1 << 20))
    add(box, "ls", sysroot=made)
    before = state(box)
    process = subprocess.Popen(
        [sys.executable, "-m", "jailbuild", "add", "bash", "--into", box, "--sysroot", sysroot, "--no-sync"],
        stderr=subprocess.PIPE,
        text=True,
    )
    staging = box / ".jailbuild/staging"
    for _ in range(2000):
        try:
            if staging.exists() and any(path.stat().st_size > 1 << 20 for path in staging.iterdir()):
                break
        except OSError:
            pass
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=60)
    assert process.returncode == 130, words
    assert "Traceback" not in words
    assert {path: what.partition(" @")[0] for path, what in before.items()} == {
        path: what.partition(" @")[0] for path, what in state(box).items()
    }
