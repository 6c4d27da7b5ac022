"""check while somebody changes the box, after somebody was killed, and by a manifest that is kept elsewhere."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jailbuild.check import run as rules
from jailbuild.check.findings import Ignored
from jailbuild.check.manifest_state import read_trusted
from jailbuild.check.run import CheckOptions, check_root
from jailbuild.root import Root
from tests.box import tiny
from tests.box.running import open_to_all, run, state
from tests.check.asking import codes, findings

JOURNAL = "/.jailbuild/journal"


@contextmanager
def locked(box: Path) -> Iterator[None]:
    """Hold the lock of a box as a writer does."""
    opened = os.open(box / ".jailbuild/lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(opened)


def test_a_change_that_was_interrupted_is_an_error_with_the_command_that_finishes_it(box: Path) -> None:
    """The journal is there and nobody holds the lock; nothing is waited for."""
    shutil.copy(box / ".jailbuild/manifest.jsonl", box / ".jailbuild/journal")
    before = state(box)
    (found,) = check_root(Root(str(box)), str(box)).findings
    assert (found.code, found.path) == ("unfinished-change", JOURNAL)
    assert "interrupted" in found.message
    assert found.hint == f"finish it: jailbuild add bash --into {box}"
    assert before == state(box)
    done = run("check", box, "--json")  # who may write finishes it, as every command does
    assert "finished a change that was cut short" in done.stderr
    assert findings(done) == []
    assert not os.path.lexists(f"{box}{JOURNAL}")


def test_files_that_a_killed_writer_left_are_a_warning(box: Path) -> None:
    """Staging without a journal: the change never came about. While somebody holds the lock it is his."""
    (box / ".jailbuild/staging").mkdir()
    (box / ".jailbuild/staging/1").write_text("half")
    (found,) = check_root(Root(str(box)), str(box)).findings
    assert (found.code, found.path) == ("leftover-staging", "/.jailbuild/staging")
    with locked(box):
        assert check_root(Root(str(box)), str(box)).findings == ()
        assert codes(box) == set()
    assert "cleaned up" in run("check", box).stderr
    assert sorted(os.listdir(box / ".jailbuild")) == ["lock", "manifest.jsonl"]


def test_a_writer_before_his_commit_is_not_waited_for(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The box is as it was."""

    def sleep(_seconds: float) -> None:
        raise AssertionError("waiting for a writer")

    monkeypatch.setattr(time, "sleep", sleep)
    (box / ".jailbuild/staging").mkdir()
    with locked(box):
        assert check_root(Root(str(box)), "box").findings == ()


def test_a_change_that_goes_on_is_said(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at again a few times; then the report says that it may be half of it."""
    monkeypatch.setattr(rules, "_PAUSES", (0.0, 0.01, 0.02))
    shutil.copy(box / ".jailbuild/manifest.jsonl", box / ".jailbuild/journal")
    with locked(box):
        found = check_root(Root(str(box)), "box").findings
    assert [(one.code, one.path) for one in found] == [("unfinished-change", JOURNAL)]
    assert "is being changed" in found[0].message


def test_a_change_that_ends_meanwhile_leaves_no_trace_in_the_report(box: Path) -> None:
    """A writer who finishes while check waits: the box is then looked at as it should be."""
    library = box / tiny.LIBRARIES / "libtinfo.so.6.4"
    aside = library.rename(box.parent / "aside")
    record = box / ".jailbuild"
    shutil.copy(record / "manifest.jsonl", record / "journal")

    def finish() -> None:
        aside.rename(library)
        (record / "journal").rename(record / "manifest.jsonl")
        lock.__exit__(None, None, None)

    lock = locked(box)
    lock.__enter__()
    timer = threading.Timer(0.15, finish)
    timer.start()
    try:
        assert check_root(Root(str(box)), "box").findings == ()
    finally:
        timer.join()


def test_a_change_in_the_middle_of_a_look_makes_it_look_again(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was seen before it and after it does not belong together."""
    looks = []
    look = rules._look

    def disturbed(*arguments: object) -> object:
        looks.append(arguments)
        found = look(*arguments)  # type: ignore[arg-type]
        if len(looks) == 1:
            (box / "usr/new").touch()
            shutil.copy(box / ".jailbuild/manifest.jsonl", box / ".jailbuild/other")
            (box / ".jailbuild/other").rename(box / ".jailbuild/manifest.jsonl")
        return found

    monkeypatch.setattr(rules, "_look", disturbed)
    found = check_root(Root(str(box)), "box").findings
    assert len(looks) == 2
    assert [(one.code, one.path) for one in found] == [("unlisted-file", "/usr/new")]


_WRITER = """
import os, sys
box, record = sys.argv[1], sys.argv[1] + "/.jailbuild"
import fcntl
lock = os.open(record + "/lock", os.O_RDWR | os.O_CREAT, 0o600)
old = open(record + "/manifest.jsonl", "rb").read()
path = box + "/usr/bin/ls"
program = open(path, "rb").read()
print("ready", flush=True)
while True:
    fcntl.flock(lock, fcntl.LOCK_EX)
    open(record + "/manifest.next", "wb").write(old)
    os.rename(record + "/manifest.next", record + "/journal")
    os.rename(path, box + "/../aside")
    os.rename(box + "/../aside", path)
    os.rename(record + "/journal", record + "/manifest.jsonl")
    fcntl.flock(lock, fcntl.LOCK_UN)
    if not sys.stdin.read(1):
        break
"""


def test_a_look_never_mixes_two_states_of_a_box_that_is_written_all_the_time(box: Path) -> None:
    """Either nothing is found, or the change is named."""
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, box], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdin is not None and writer.stdout is not None
        try:
            assert writer.stdout.readline() == b"ready\n"
            for _ in range(40):
                writer.stdin.write(b"." * 3)
                writer.stdin.flush()
                found = {one.code for one in check_root(Root(str(box)), "box").findings}
                assert not found or "unfinished-change" in found
        finally:
            writer.stdin.close()
            writer.wait()


def test_a_copy_of_the_manifest_is_believed_instead_of_the_boxs_own(box: Path, tmp_path: Path) -> None:
    """Somebody inside changed a program and wrote its new digest into the record."""
    copy = tmp_path / "copy"
    shutil.copy(box / ".jailbuild/manifest.jsonl", copy)
    assert codes(box, "--manifest", copy) == set()
    record = box / ".jailbuild/manifest.jsonl"
    lines = record.read_text().splitlines(keepends=True)
    record.write_text("".join(line for line in lines if '"path": "/usr/bin/ls", "type"' not in line))
    (box / "usr/bin/ls").chmod(0o700)
    assert codes(box) == {("unlisted-file", "/usr/bin/ls")}
    assert codes(box, "--manifest", copy) == {
        ("manifest-differs", "/.jailbuild/manifest.jsonl"),
        ("wrong-mode", "/usr/bin/ls"),
    }
    record.write_text("nonsense")
    assert ("manifest-differs", "/.jailbuild/manifest.jsonl") in codes(box, "--manifest", copy)
    shutil.rmtree(box / ".jailbuild")
    assert ("manifest-differs", "/.jailbuild/manifest.jsonl") in codes(box, "--manifest", copy)


@pytest.mark.parametrize("what", ["absent", "a directory", "a FIFO", "nonsense"])
def test_a_copy_that_is_none_is_one_line(box: Path, tmp_path: Path, what: str) -> None:
    """Exit status 1."""
    copy = tmp_path / "copy"
    if what == "a directory":
        copy.mkdir()
    elif what == "a FIFO":
        os.mkfifo(copy)
    elif what == "nonsense":
        copy.write_text("nonsense\n")
    done = run("check", box, "--manifest", copy)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("jailbuild: cannot ")
    assert len(done.stderr.splitlines()) == 2


def test_who_may_not_read_the_manifest_is_told_that_nothing_was_compared(box: Path, tmp_path: Path) -> None:
    """Root's box, looked at by somebody else: the rules for any root hold, and with a copy all of them."""
    open_to_all(tmp_path)
    where = ("unread-manifest", "/.jailbuild/manifest.jsonl")
    copy = tmp_path / "copy"
    shutil.copy(box / ".jailbuild/manifest.jsonl", copy)
    copy.chmod(0o644)
    (box / "usr/bin/ls").chmod(0o755)
    assert codes(box, nobody=True) == {where}
    assert codes(box, "--manifest", copy, nobody=True) == {where}
    (box / "usr/mine").touch()
    assert codes(box, nobody=True) == {where}
    assert codes(box, "--manifest", copy, nobody=True) == {where, ("unlisted-file", "/usr/mine")}
    (box / tiny.LIBRARIES / "libpcre.so.8").unlink()
    assert ("missing-library", "/usr/bin/ls") in codes(box, nobody=True)


def test_what_is_ignored_is_not_counted(box: Path) -> None:
    """By code, and by code and path; the exit status goes by the rest."""
    (box / "usr/bin/ls").chmod(0o700)
    (box / "usr/bin/bash").chmod(0o700)
    (box / "usr/mine").touch()
    everything = {("wrong-mode", "/usr/bin/ls"), ("wrong-mode", "/usr/bin/bash"), ("unlisted-file", "/usr/mine")}
    assert codes(box) == everything
    assert codes(box, "--ignore", "wrong-mode") == {("unlisted-file", "/usr/mine")}
    assert codes(box, "--ignore", "wrong-mode:/usr/bin/l*") == everything - {("wrong-mode", "/usr/bin/ls")}
    assert codes(box, "--ignore", "wrong-mode:*/ls", "--ignore", "unlisted-file:/usr/min?") == {
        ("wrong-mode", "/usr/bin/bash")
    }
    assert codes(box, "--ignore", "secret-file") == everything
    assert codes(box, "--ignore", "wrong-mode:/opt/*") == everything
    assert run("check", box, "--ignore", "wrong-mode", "--ignore", "unlisted-file").stdout.endswith(
        "0 errors, 0 warnings, 0 notes\n"
    )


@pytest.mark.parametrize("word", ["nothing-like-this", "wrong-mode:", ":/usr", "", "Wrong-Mode"])
def test_a_code_that_there_is_none_of_is_wrong_usage(box: Path, word: str) -> None:
    """Exit status 2, and the codes are named."""
    done = run("check", box, "--ignore", word)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--ignore" in done.stderr


def test_wishes_hold_for_every_look(box: Path, tmp_path: Path) -> None:
    """What was asked for is asked for again when the box is looked at again."""
    shutil.copy(box / ".jailbuild/manifest.jsonl", tmp_path / "copy")
    (box / "usr/mine").touch()
    wishes = CheckOptions(read_trusted(str(tmp_path / "copy")), (), (Ignored("unlisted-file"),))
    assert check_root(Root(str(box)), "box", wishes).findings == ()
