"""check: each rule broken on purpose, in a box and in a root without a manifest."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jailbuild.check.findings import CODES
from jailbuild.check.run import check_root
from jailbuild.root import Root
from tests import needs
from tests.box import tiny
from tests.box.running import add, objects, open_to_all, put, run, state
from tests.check.asking import SEVERITIES, codes, findings

LIB = f"/{tiny.LIBRARIES}"


def test_a_whole_box_is_good(box: Path) -> None:
    """Exit status 0, not a single finding, and nothing is written."""
    before = state(box)
    assert findings(run("check", box, "--json")) == []
    done = run("check", box, "--strict")
    assert (done.returncode, done.stderr) == (0, "")
    assert before == state(box)
    *_, summary = objects(run("check", box, "--json"))
    assert (summary["programs"], summary["files"]) == (2, 6)


def test_a_whole_root_is_good(root: Path) -> None:
    """Without a manifest, the same rules."""
    before = state(root)
    assert set() == codes(root)
    assert before == state(root)


@pytest.mark.parametrize("what", ["absent", "a file", "no believable manifest"])
def test_what_cannot_be_checked_is_said(tmp_path: Path, box: Path, what: str) -> None:
    """Exit status 1, one line."""
    place = tmp_path / "place"
    if what == "a file":
        place.write_text("")
    elif what == "no believable manifest":
        place = box
        (box / ".jailbuild/manifest.jsonl").write_text("nonsense\n")
    done = run("check", place, "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("jailbuild: cannot ")
    assert len(done.stderr.splitlines()) <= 2


def test_a_missing_library_is_named_with_who_needs_it_and_where_it_was_searched(box: Path) -> None:
    """The finding names program and library; the hint mends it when the requests are known."""
    (box / tiny.LIBRARIES / "libpcre.so.8").unlink()
    found = findings(run("check", box, "--json"))
    finding = next(one for one in found if one["code"] == "missing-library")
    assert (finding["path"], finding["subject"], finding["requested_by"]) == ("/usr/bin/ls", "libpcre.so.8", ["ls"])
    directories = ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib", "/usr/lib")
    assert finding["searched"] == [f"default {directory}" for directory in directories]
    assert all(word in finding["message"] for word in ("/usr/bin/ls", "libpcre.so.8", "/lib/x86_64-linux-gnu"))
    assert f"jailbuild add ls --into {box}" == finding["hint"]
    assert {("missing-library", "/usr/bin/ls"), ("missing-file", f"{LIB}/libpcre.so.8")} == codes(box)
    done = run("check", box)
    assert done.returncode == 3
    for line in ("[missing-library]", f"hint: jailbuild add ls --into {box}"):
        assert line in done.stdout


def test_the_hint_mends_the_box(box: Path, made: Path) -> None:
    """What check says to do does it."""
    (box / tiny.LIBRARIES / "libpcre.so.8.1").unlink()
    assert codes(box)
    add(box, "ls", sysroot=made)
    assert set() == codes(box)


def _no_machine(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(18)
        file.write(b"\xb7\0")


def _cut(path: Path, size: int) -> None:
    os.truncate(path, size)


def _other_byte(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    os.utime(path, (tiny.TIME, tiny.TIME))


def _half_a_script(root: Path) -> None:
    shutil.copy(root / "usr/bin/bash", root / "usr/bin/env")
    tiny.script(root / "usr/bin/tool", "#!/usr/bin/env absent")


def _lonely_library(root: Path) -> None:
    none = tiny.library(root / "opt/libnone.so.1")
    tiny.library(root / "opt/libalone.so.1", none)
    none.unlink()


def _instead(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


BREAKS: dict[str, tuple[Callable[[Path], object], set[tuple[str, str]]]] = {
    "a library has gone": (
        lambda root: (root / tiny.LIBRARIES / "libselinux.so.1").unlink(),
        {("missing-library", "/usr/bin/ls")},
    ),
    "a library's file has gone": (
        lambda root: (root / tiny.LIBRARIES / "libtinfo.so.6.4").unlink(),
        {("missing-library", "/usr/bin/bash"), ("dangling-link", f"{LIB}/libtinfo.so.6")},
    ),
    "the loader's link has gone": (
        lambda root: (root / "usr/lib64/ld-linux-x86-64.so.2").unlink(),
        {("missing-interpreter", "/usr/bin/bash"), ("missing-interpreter", "/usr/bin/ls")},
    ),
    "a script's interpreter is not there": (
        lambda root: tiny.script(root / "usr/bin/tool", "#!/usr/bin/perl"),
        {("missing-script-interpreter", "/usr/bin/tool")},
    ),
    "what a script looks up is not there": (_half_a_script, {("missing-script-interpreter", "/usr/bin/tool")}),
    "a program is for another machine": (
        lambda root: _no_machine(Path(shutil.copy(root / "usr/bin/ls", root / "usr/bin/strange"))),
        {("wrong-machine", "/usr/bin/strange")},
    ),
    "a link dangles": (
        lambda root: (root / "usr/bin/link").symlink_to("/absent"),
        {("dangling-link", "/usr/bin/link")},
    ),
    "a link goes round": (
        lambda root: (root / "usr/bin/link").symlink_to("link"),
        {("dangling-link", "/usr/bin/link")},
    ),
    "a link leads to what is outside alone": (
        lambda root: (root / "usr/bin/link").symlink_to(os.path.realpath(sys.executable)),
        {("dangling-link", "/usr/bin/link")},
    ),
    "a program is cut in its segments": (
        lambda root: _cut(Path(shutil.copy(root / "usr/bin/ls", root / "usr/bin/cut")), 100),
        {("unreadable", "/usr/bin/cut")},
    ),
    "a program is cut behind them": (
        lambda root: _cut(Path(shutil.copy(root / "usr/bin/ls", root / "usr/bin/cut")), 1500),
        {("unreadable", "/usr/bin/cut")},
    ),
    "a library that nobody loads misses something": (_lonely_library, {("unreached-library", "/opt/libalone.so.1")}),
}
LISTED = {  # what the manifest adds to that
    "a library has gone": {("missing-file", f"{LIB}/libselinux.so.1")},
    "a library's file has gone": {("missing-file", f"{LIB}/libtinfo.so.6.4")},
    "the loader's link has gone": {("missing-file", "/usr/lib64/ld-linux-x86-64.so.2")},
}


@pytest.mark.parametrize("what", BREAKS)
def test_what_is_broken_in_a_box_is_found(box: Path, what: str) -> None:
    """And nothing else; what was put in beside is a note."""
    change, expected = BREAKS[what]
    change(box)
    found = codes(box)
    notes = {one for one in found if one[0] in ("unlisted-file", "unreached-library")}
    assert expected | LISTED.get(what, set()) == found - (notes - expected)
    assert any(code == "unlisted-file" for code, _ in notes) == (what not in LISTED)


@pytest.mark.parametrize("what", BREAKS)
def test_what_is_broken_in_any_root_is_found(whole: Path, tmp_path: Path, what: str) -> None:
    """A root without a manifest is held to the same rules: nothing is unlisted there, nothing was asked for."""
    root = tiny.clone(whole, tmp_path / "root")
    shutil.rmtree(root / ".jailbuild")
    change, expected = BREAKS[what]
    change(root)
    before = state(root)
    found = findings(run("check", root, "--json"))
    assert expected == {
        (one["code"], one["path"])
        for one in found
        if (one["code"], one["path"]) in expected or one["code"] != "unreached-library"
    }
    assert all(one["requested_by"] == [] for one in found)
    assert before == state(root)


CHANGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a byte": (
        lambda box: _other_byte(box / tiny.LIBRARIES / "libtinfo.so.6.4"),
        "changed-file",
        f"{LIB}/libtinfo.so.6.4",
    ),
    "a longer file": (lambda box: os.truncate(box / "usr/bin/bash", 1 << 20), "changed-file", "/usr/bin/bash"),
    "a mode": (lambda box: (box / "usr/bin/bash").chmod(0o4755), "wrong-mode", "/usr/bin/bash"),
    "the mode of /tmp": (lambda box: (box / "tmp").chmod(0o755), "wrong-mode", "/tmp"),
    "a link": (lambda box: _instead(box / "bin", lambda path: path.symlink_to("/usr/bin")), "changed-file", "/bin"),
    "a directory for a link": (lambda box: _instead(box / "lib", Path.mkdir), "changed-file", "/lib"),
    "a FIFO for a file": (lambda box: _instead(box / "usr/bin/ls", os.mkfifo), "changed-file", "/usr/bin/ls"),
    "a mount point": (lambda box: (box / "proc").rmdir(), "missing-file", "/proc"),
    "a program": (lambda box: (box / "usr/bin/ls").unlink(), "missing-file", "/usr/bin/ls"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_is_not_as_it_was_put_there_is_found(box: Path, what: str) -> None:
    """Bytes, whole digests and not a sample; modes, links, types."""
    change, code, path = CHANGES[what]
    change(box)
    found = findings(run("check", box, "--json"))
    assert (code, path) in {(one["code"], one["path"]) for one in found}
    assert all(one["requested_by"] for one in found if one["path"] == path)


def test_a_root_without_a_program_is_a_warning(tmp_path: Path) -> None:
    """Exit status 0; with --strict 3."""
    (tmp_path / "root/etc").mkdir(parents=True)
    assert {("no-program", "/")} == codes(tmp_path / "root")
    assert run("check", tmp_path / "root", "--strict").returncode == 3
    done = run("check", tmp_path / "root")
    assert done.returncode == 0
    assert "[no-program]" in done.stdout


def test_notes_do_not_make_a_box_bad(box: Path) -> None:
    """Not even with --strict; -q leaves them out."""
    (box / "etc").mkdir()
    (box / "etc/mine").write_text("mine")
    assert {("unlisted-file", "/etc/mine")} == codes(box)
    assert run("check", box, "--strict").returncode == 0
    done = run("check", box, "-q")
    assert (done.returncode, done.stdout) == (0, "")


def test_what_a_program_leaves_in_its_temporary_directory_is_not_a_note(box: Path) -> None:
    """/tmp and the mount points are there to be written to."""
    (box / "tmp/file").write_text("")
    (box / "run/pid").write_text("")
    assert set() == codes(box)


def test_what_somebody_may_not_read_is_found(box: Path, tmp_path: Path) -> None:
    """A user who checks a box sees what could not be looked at; the rest is checked."""
    open_to_all(tmp_path)
    shutil.rmtree(box / ".jailbuild")
    (box / "usr/bin/ls").chmod(0o711)
    (box / "opt").mkdir(mode=0o700)
    found = findings(run("check", box, "--json", nobody=True))
    assert {("unreadable", "/usr/bin/ls"), ("unreadable", "/opt")} == {(one["code"], one["path"]) for one in found}


def test_findings_come_by_path(box: Path) -> None:
    """One order, whatever the order of the rules."""
    for name in ("libselinux.so.1", "libtinfo.so.6"):
        (box / tiny.LIBRARIES / name).unlink()
    paths = [one["path"] for one in findings(run("check", box, "--json"))]
    assert sorted(paths) == paths
    assert len(paths) >= 4


@needs.namespaces
@pytest.mark.parametrize("point", ["dev", "proc", "sys", "run"])
def test_what_is_mounted_in_the_root_is_not_looked_into(box: Path, point: str) -> None:
    """/proc of a root in use is the kernel's, not the root's."""
    libc = ctypes.CDLL(None, use_errno=True)
    place = box / point
    assert libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, b"size=1m") == 0
    try:
        tiny.script(place / "broken", "#!/absent")
        (place / "dangling").symlink_to("absent")
        assert set() == codes(box)
    finally:
        libc.umount2(os.fsencode(place), 2)


def test_nothing_outside_is_taken_for_the_roots(box: Path, tmp_path: Path) -> None:
    """A link that leads out of the root leads to the same path inside it."""
    shutil.copytree(box / tiny.LIBRARIES, tmp_path / "outside")
    shutil.rmtree(box / tiny.LIBRARIES)
    (box / tiny.LIBRARIES).symlink_to(tmp_path / "outside")
    assert {("missing-interpreter", "/usr/bin/bash"), ("missing-interpreter", "/usr/bin/ls")} <= codes(box)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    box = tmp_path_factory.mktemp("real") / "box"
    put(box, "bash", "ls", "git")
    return box


def test_each_library_that_is_taken_away_is_missed(real: Path) -> None:
    """In a box of bash, ls and git: the box's finding names it, with and without the manifest."""
    libraries = sorted({path.name for path in real.glob("usr/lib*/**/*.so*")})
    assert len(libraries) > 8
    record = real / ".jailbuild"
    for path in sorted(real.glob("usr/lib*/**/*.so*")):
        aside = path.rename(real.parent / "aside")
        try:
            found = check_root(Root(str(real)), "box")
            assert not found.is_good(False), path
            inner = str(path).removeprefix(str(real))
            assert "missing-file" in {one.code for one in found.findings if one.path == inner}
            record.rename(real.parent / "record")
            bare = check_root(Root(str(real)), "box")
            (real.parent / "record").rename(record)
            opened = path.name == "libgcc_s.so.1"  # by git's threads: nothing NEEDs it
            missed = {"missing-optional-library"} if opened else {"missing-library", "missing-interpreter"}
            assert missed & {one.code for one in bare.findings}, path
        finally:
            aside.rename(path)
    assert [one for one in check_root(Root(str(real)), "box").findings if one.severity != "note"] == []


def test_every_single_flipped_byte_is_seen(real: Path) -> None:
    """FIELD.md, 3: wherever in libc the byte is."""
    path = real / tiny.LIBRARIES / "libc.so.6"
    size = path.stat().st_size
    for place in (0x1000, size // 3, size // 2, size - 1):
        with path.open("r+b") as file:
            old = os.pread(file.fileno(), 1, place)
            os.pwrite(file.fileno(), bytes([old[0] ^ 0x80]), place)
            found = check_root(Root(str(real)), "box").findings
            os.pwrite(file.fileno(), old, place)
        assert [("changed-file", f"{LIB}/libc.so.6")] == [
            (one.code, one.path) for one in found if one.severity != "note"
        ]


def test_the_readme_lists_every_code_with_severity_and_meaning() -> None:
    """The one table, in its order."""
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    rows = [line for line in readme.partition("### What `check` can say")[2].splitlines() if line.startswith("| `")]
    expected = [f"| `{code}` | {what.severity} | {what.meaning} |" for code, what in CODES.items()]
    assert rows[: len(expected)] == expected
    assert all(what.hint for what in CODES.values())


def test_every_code_is_known_to_the_tests() -> None:
    """A code without a severity that the tests expect is one that nobody has thought about."""
    assert {code: what.severity for code, what in CODES.items()} == {
        code: severity for severity, some in SEVERITIES.items() for code in some
    }
