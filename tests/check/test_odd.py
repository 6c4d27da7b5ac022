"""check on roots that somebody filled to hold it up, and what it tells a person about very many findings."""

from __future__ import annotations

import fcntl
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from jailbuild.check import tree as looking
from jailbuild.check.digests import Digests
from jailbuild.check.findings import Finding, Report
from jailbuild.check.run import check_root
from jailbuild.report.findings import text
from jailbuild.root import Root
from tests.box import tiny
from tests.box.running import PATIENCE, put, run
from tests.check.asking import codes

LS = "/usr/bin/ls"


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.unlink()
    os.mknod(path, 0o020600, os.makedev(5, 2))  # whoever opens ptmx gets a terminal


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


@pytest.mark.parametrize("instead", [_fifo, _device, _loop])
@pytest.mark.parametrize("listed", [True, False], ids=["box", "root"])
def test_what_is_no_file_holds_nothing_up(box: Path, instead: Callable[[Path], None], listed: bool) -> None:
    """A FIFO that nobody writes to, a device, a link to itself, where a program was."""
    if not listed:
        shutil.rmtree(box / ".jailbuild")
    instead(box / "usr/bin/ls")
    assert (("changed-file", LS) in codes(box)) == listed


def test_names_of_any_bytes_are_told_and_seen(box: Path) -> None:
    """Newlines, escapes, bytes that are no UTF-8: in JSON with their bytes, for a person on one line."""
    for name in (b"new\nline", b"\x1b[2J", b"\xff\xfe", b"quote'\"$(x)", b"-rf", b" "):
        with open(os.fsencode(box) + b"/usr/" + name, "w"):
            pass
    assert len(codes(box)) == 6
    done = run("check", box, "-v")
    assert done.returncode == 0
    assert len([line for line in done.stdout.splitlines() if line.startswith("note: ")]) == 6
    assert done.stdout.replace("\n", "").isprintable()


def test_a_thousand_directories_deep_is_looked_at(box: Path) -> None:
    """What lies at the end is found; below what can be opened it is said that nobody looked."""
    here = os.open(box / "usr", os.O_RDONLY)
    for depth in range(looking._MAX_DEPTH + 20):
        if depth in (1000, looking._MAX_DEPTH + 10):
            os.mkfifo("end", dir_fd=here)
        os.mkdir("directory", dir_fd=here)
        below = os.open("directory", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    before = os.listdir("/proc/self/fd")
    try:
        found = [(one.code, one.path.count("/")) for one in check_root(Root(str(box)), "box").findings]
        assert before == os.listdir("/proc/self/fd")
    finally:
        subprocess.run(["rm", "-rf", box / "usr/directory"], check=True)
    assert found == [("unreadable", looking._MAX_DEPTH + 1), ("unlisted-file", 1002)]


def test_files_that_come_and_go_meanwhile_are_no_findings_but_what_they_are(box: Path) -> None:
    """A busy /usr/lib: no traceback, and nothing is called unreadable."""
    stop = threading.Event()
    busy = box / "usr/busy"
    busy.mkdir()

    def stir() -> None:
        while not stop.is_set():
            for number in range(50):
                (busy / f"{number}").write_text("#!/bin/sh\n")
            for number in range(50):
                (busy / f"{number}").unlink()

    stirring = threading.Thread(target=stir)
    stirring.start()
    try:
        for _ in range(15):
            assert {one.code for one in check_root(Root(str(box)), "box").findings} <= {"unlisted-file"}
    finally:
        stop.set()
        stirring.join()


def test_a_file_that_grows_while_it_is_hashed_comes_to_an_end(tmp_path: Path) -> None:
    """Somebody inside appends for ever: what is read is bounded by the size that it had."""
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    with Digests() as digests:
        opened = os.open(path, os.O_RDONLY)
        path.write_bytes(bytes(64 << 20))
        digests.add((1, 1), opened, 1 << 20)
        while digests.step():
            pass
    assert digests.found.keys() == {(1, 1)}
    assert digests.read <= 8 << 20


def test_no_descriptor_is_left_open(box: Path) -> None:
    """After a whole check, and after one that was broken off."""
    before = os.listdir("/proc/self/fd")
    check_root(Root(str(box)), "box")
    assert before == os.listdir("/proc/self/fd")

    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_root(Root(str(box)), "box", progress=stop)
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(PATIENCE)
    assert before == os.listdir("/proc/self/fd")


def test_a_hundred_thousand_files_are_told_in_ten_lines(box: Path) -> None:
    """And JSON has them all."""
    many = box / "usr/many"
    for number in range(100):
        (many / f"{number}").mkdir(parents=True)
        for other in range(1000):  # hard links are made sooner; a file has up to 65000 names (ext4)
            if other:
                os.link(many / f"{number}/0", many / f"{number}/{other}")
            else:
                (many / f"{number}/0").touch()
    report = check_root(Root(str(box)), "box")
    shutil.rmtree(many)
    assert report.count("note") == 100_000
    told = text(report, "box", quiet=False, verbose=False).splitlines()
    assert len(told) <= 10
    assert any("; 99999 more in /usr/many" in line for line in told)


def test_few_findings_are_each_told_with_what_to_do() -> None:
    some = [Finding("missing-file", f"/usr/bin/{name}", f"{name} is gone", hint=f"mend {name}") for name in "abcde"]
    told = text(Report(tuple(some), 1, 1), "box", quiet=False, verbose=False)
    assert (told.count("error: "), told.count("hint: mend "), "-v" in told) == (5, 5, False)


def test_many_findings_are_told_by_what_is_alike() -> None:
    """Errors first; the first of each code, how many more and where; -v tells all."""
    findings = tuple(
        Finding(code, f"/usr/{place}/{number}", f"{place} {number}")
        for code in ("secret-file", "missing-file", "privileged-file")
        for place in ("bin", "lib")
        for number in range(100)
    )
    report = Report(findings, 1, 1)
    told = text(report, "box", quiet=False, verbose=False).splitlines()
    assert [line for line in told if "hint: " not in line] == [
        "error: bin 0; 199 more in /usr/lib, /usr/bin [missing-file]",
        "warning: bin 0; 199 more in /usr/lib, /usr/bin [secret-file]",
        "note: bin 0; 199 more in /usr/lib, /usr/bin [privileged-file]",
        "-v shows each of them, with what to do about it",
        "box: 1 programs, 1 files, 200 errors, 200 warnings, 200 notes",
    ]
    assert text(report, "box", quiet=False, verbose=True).count("[missing-file]") == 200


def test_one_cause_is_one_line() -> None:
    """A library that many programs miss is told once, each other one by itself; the rarest of many are counted."""
    missing = {"libc.so.6": 600, "libx.so.1": 3, **{f"lib{number}.so": 2 for number in range(10)}}
    findings = tuple(
        Finding("missing-library", f"/usr/bin/{name}{number}", f"{name}{number} needs {name}", name)
        for name, count in missing.items()
        for number in range(count)
    )
    told = text(Report(findings, 1, 1), "box", quiet=False, verbose=False).splitlines()
    errors = [line for line in told if line.startswith("error: ")]
    assert errors[:2] == [
        "error: libc.so.60 needs libc.so.6; 599 more in /usr/bin [missing-library]",
        "error: libx.so.10 needs libx.so.1; likewise /usr/bin/libx.so.11, /usr/bin/libx.so.12 [missing-library]",
    ]
    assert (len(errors), errors[-1]) == (4, "error: 18 more, of 9 other causes [missing-library]")


def test_notes_of_a_code_are_one_line_whatever_their_causes() -> None:
    """Libraries that are no program's each miss something else: that is not for a person to read through."""
    findings = tuple(
        Finding("unreached-library", f"/usr/lib/{number}.so", f"{number}.so needs lib{number}", f"lib{number}")
        for number in range(100)
    )
    told = text(Report(findings, 1, 1), "box", quiet=False, verbose=False).splitlines()
    assert told[0] == "note: 0.so needs lib0; 99 more in /usr/lib [unreached-library]"
    assert len(told) == 3


def _on_a_terminal(box: Path, *options: str) -> tuple[bytes, bytes]:
    """Run check with a terminal as stderr, and without a moment's patience; return stdout and what was drawn."""
    code = "import jailbuild.cli.progress as p; p._MOMENT = p._STEP = 0; from jailbuild.cli import main; main()"
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    done = subprocess.run(
        [sys.executable, "-c", code, "check", box, *options],
        stdout=subprocess.PIPE,
        stderr=slave,
        check=True,
        timeout=PATIENCE,
    )
    os.close(slave)
    drawn = b""
    while True:
        try:
            block = os.read(master, 4096)
        except OSError:  # EIO: nobody has it open any more
            break
        drawn += block
    os.close(master)
    return done.stdout, drawn


def test_long_work_shows_how_far_it_is_on_a_terminal(box: Path) -> None:
    """On stderr; nothing with -q, nothing where it is no terminal, and stdout is the same."""
    plain = run("check", box)
    assert plain.stderr == ""
    shown, drawn = _on_a_terminal(box)
    assert shown.decode() == plain.stdout
    assert b"checking" in drawn and b"%" in drawn
    assert drawn.rindex(b"\x1b[?25h") > drawn.rindex(b"\x1b[?25l")  # the cursor can be seen again
    assert _on_a_terminal(box, "-q") == (b"", b"")


def test_a_root_without_a_manifest_shows_how_far_it_is_too(box: Path) -> None:
    """By its programs: nothing is hashed."""
    shutil.rmtree(box / ".jailbuild")
    _, drawn = _on_a_terminal(box)
    assert b"%" in drawn


def test_hashing_on_one_processor_finds_the_same(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no other may be used there are no threads."""
    with (box / tiny.LIBRARIES / "libtinfo.so.6.4").open("r+b") as file:
        file.write(b"\x7fELG")
    both = codes(box)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0})
    threads = threading.active_count()
    found = {(one.code, one.path) for one in check_root(Root(str(box)), "box").findings}
    assert found == both
    assert threads == threading.active_count()


def test_many_names_of_one_file_are_hashed_once(made: Path, tmp_path: Path) -> None:
    """A hard-linked family is one file."""
    root = tiny.clone(made, tmp_path / "source")
    for name in ("again", "more"):
        os.link(root / "usr/bin/bash", root / "usr/bin" / name)
    put(tmp_path / "linked", "bash", "again", "more", root=root)
    assert check_root(Root(str(tmp_path / "linked")), "box").findings == ()
    with (tmp_path / "linked/usr/bin/more").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    changed = {
        one.path for one in check_root(Root(str(tmp_path / "linked")), "box").findings if one.code == "changed-file"
    }
    assert changed == {"/usr/bin/bash", "/usr/bin/again", "/usr/bin/more"}
