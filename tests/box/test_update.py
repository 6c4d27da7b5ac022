"""update: the box as the source root is now; the user's files as the user has them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from jailbuild import syscalls
from jailbuild.box import record
from jailbuild.box.stage import staged_name
from tests.box import tiny
from tests.box.running import (
    Done,
    complaint,
    dump,
    entries,
    forked,
    inside,
    objects,
    put,
    settled,
    state,
)

LIB = f"/{tiny.LIBRARIES}"
ALL = bool(os.environ.get("JAILBUILD_ALL"))  # everything in /usr/bin, not a sample


def _update(*words: str | Path, root: Path, status: int = 0) -> Done:
    """Update, which must end with `status`."""
    done = forked("update", *words, "--sysroot", root)
    assert status == done.returncode, done
    return done


def _append(path: Path, data: bytes = b"upgraded") -> None:
    with path.open("ab") as file:
        file.write(data)


def _bump(root: Path, value: int = 9) -> None:
    """A new version of libpcre: another file, and the link moved to it."""
    libraries = root / tiny.LIBRARIES
    for old in libraries.glob("libpcre.so.8.*"):
        old.unlink()
    tiny.library(libraries / f"libpcre.so.8.{value}", soname="libpcre.so.8", value=value)
    (libraries / "libpcre.so.8").unlink()
    (libraries / "libpcre.so.8").symlink_to(f"libpcre.so.8.{value}")


def _glibc(root: Path) -> None:
    """A new C library and loader, of one release."""
    for name in ("ld-linux-x86-64.so.2", "libc.so.6"):
        _append(root / tiny.LIBRARIES / name)


def _move(root: Path) -> None:
    """Put a program into another directory of the search path."""
    (root / "usr/local/bin").mkdir(parents=True)
    (root / "usr/bin/ls").rename(root / "usr/local/bin/ls")


def _relink(root: Path) -> None:
    """Choose another alternative."""
    (root / "etc/alternatives/editor").unlink()
    (root / "etc/alternatives/editor").symlink_to("/usr/bin/bash")


def _modes(root: Path) -> None:
    (root / "usr/bin/ls").chmod(0o700)
    (root / "etc/alternatives").chmod(0o711)


def _times(root: Path) -> None:
    for name in ("usr/bin/ls", "etc/alternatives/editor"):
        os.utime(root / name, (5, 5), follow_symlinks=False)


def _join(root: Path) -> None:
    """Make two files of the same bytes one."""
    (root / "usr/bin/env").unlink()
    os.link(root / "usr/bin/bash", root / "usr/bin/env")


def _part(root: Path) -> None:
    _join(root)
    shutil.copy2(root / "usr/bin/bash", root / "usr/bin/copy")
    (root / "usr/bin/copy").rename(root / "usr/bin/env")


def _file_for_link(root: Path) -> None:
    (root / "usr/bin/sh").unlink()
    shutil.copy(root / "usr/bin/moving", root / "usr/bin/sh")


def _link_for_file(root: Path) -> None:
    (root / "usr/bin/ls").rename(root / "usr/bin/ls.real")
    (root / "usr/bin/ls").symlink_to("ls.real")


def _much(root: Path) -> None:
    for change in (_bump, _glibc, _relink, _move):
        change(root)


CHANGES: dict[str, Callable[[Path], None]] = {
    "nothing": lambda root: None,
    "a library": _bump,
    "a library's bytes": lambda root: _append(root / tiny.LIBRARIES / "libtinfo.so.6.4"),
    "the C library": _glibc,
    "another place": _move,
    "another alternative": _relink,
    "modes": _modes,
    "times": _times,
    "one file for two": _join,
    "a file for a link": _file_for_link,
    "a link for a file": _link_for_file,
    "much": _much,
}
NAMES = ("bash", "editor", "env", "ls", "sh", "work")

_WORK = """
#include <stdio.h>
#include <string.h>
const char *work(void);
int main(void) { puts(work()); return strlen(work()) == 5 ? 0 : 1; }
"""


def _hosted(source: str, target: Path, *flags: str | Path) -> Path:
    """Compile C with the machine's own C library."""
    subprocess.run(["gcc", "-o", target, "-x", "c", "-", "-x", "none", *flags], input=source, text=True, check=True)
    return target


def _work(root: Path, version: int) -> None:
    """Bring version 1 or 2 of a real library: its file, and the link moved to it as ldconfig(8) does, at once."""
    libraries = root / tiny.LIBRARIES
    text = f'const char *work(void) {{ return "work{version}"; }}'
    _hosted(text, libraries / f"libwork.so.1.{version}", "-shared", "-fPIC", "-Wl,-soname,libwork.so.1")
    (libraries / "libwork.so.1").unlink(missing_ok=True)
    (libraries / "libwork.so.1").symlink_to(f"libwork.so.1.{version}")
    (libraries / f"libwork.so.1.{3 - version}").unlink(missing_ok=True)


@pytest.fixture(scope="session")
def real(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small root with a C library, and a program and a library that use it; not to be changed."""
    root = tiny.clone(made, tmp_path_factory.mktemp("real") / "root")
    shutil.copy(os.path.realpath("/lib/x86_64-linux-gnu/libc.so.6"), root / tiny.LIBRARIES / "libc.so.6")
    _work(root, 1)
    _hosted(_WORK, root / "usr/bin/work", root / tiny.LIBRARIES / "libwork.so.1")
    tiny.backdate(root)
    return root


@pytest.fixture
def root(real: Path, tmp_path: Path) -> Path:
    """A copy of the root with a C library, the test's own."""
    return tiny.clone(real, tmp_path / "real")


@pytest.mark.parametrize("what", CHANGES)
def test_an_updated_box_is_what_a_fresh_add_makes(root: Path, box: Path, what: str) -> None:
    """Bytes, modes, times, links and manifest; it works, and the dry run told what would change."""
    put(box, *NAMES, root=root)
    CHANGES[what](root)
    put(box.with_name("fresh"), *NAMES, root=root)
    before, there = state(box), dump(box, contents=True)
    told = objects(_update(box, "--dry-run", "--json", root=root, status=0 if what == "nothing" else 3))
    assert before == state(box)
    done = _update(box, root=root)
    assert settled(box.with_name("fresh")) == settled(box)
    now = dump(box, contents=True)
    wrong = {path for path in there.keys() | now.keys() if there.get(path) != now.get(path)}
    changing = {line["path"]: line["kind"] for line in told if line["kind"] not in ("keep", "conflict")}
    assert wrong <= changing.keys()
    assert {f"{kind:8} {path}" for path, kind in changing.items()} == set(done.stdout.splitlines())
    assert {path for path, kind in changing.items() if kind == "add"} == now.keys() - there.keys()
    assert {path for path, kind in changing.items() if kind == "remove"} == there.keys() - now.keys()
    assert forked("check", box, "--strict").returncode == 0
    assert inside(box, "/usr/bin/work").stdout == "work1\n"
    _update(box, "--dry-run", root=root)


def test_the_loader_and_the_c_library_change_back_to_back(root: Path, box: Path) -> None:
    """With nothing between them: a program that starts in between has two releases."""
    put(box, *NAMES, root=root)
    _bump(root)
    _glibc(root)
    (root / "usr/bin/bash").chmod(0o700)
    log = box.with_name("log")

    def watch() -> None:
        exchange = syscalls.exchange

        def noted(staging: int, staged: str, parent: int, name: str) -> None:
            with log.open("a") as file:
                file.write(f"{staged}\n")
            exchange(staging, staged, parent, name)

        syscalls.exchange = noted  # type: ignore[assignment]

    assert forked("update", box, "--sysroot", root, prepare=watch).returncode == 0
    order = log.read_text().splitlines()
    pair = sorted(order.index(staged_name(f"{LIB}/{name}")) for name in ("ld-linux-x86-64.so.2", "libc.so.6"))
    assert pair[1] == pair[0] + 1
    assert len(order) > 3


def test_a_program_runs_while_its_library_is_updated(root: Path, box: Path) -> None:
    """Hundreds of times, without a single failure, with one version or the other."""
    put(box, "work", "bash", root=root)
    seen: list[tuple[int, str]] = []
    ended = threading.Event()

    def run_again_and_again() -> None:
        while not ended.is_set():
            done = inside(box, "/usr/bin/work")
            seen.append((done.returncode, done.stdout + done.stderr))

    thread = threading.Thread(target=run_again_and_again)
    thread.start()
    try:
        for number in range(1000):
            _work(root, 2 - number % 2)
            done = subprocess.run(
                [sys.executable, "-m", "jailbuild", "update", box, "--sysroot", root, "--no-sync"],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done
            if number >= 11 and len(seen) >= 300:
                break
    finally:
        ended.set()
        thread.join()
    assert {(0, "work1\n"), (0, "work2\n")} == set(seen)


def test_the_users_files_stay_in_place(root: Path, box: Path) -> None:
    """Those beside ours, and those of ours that the user changed and the source did not: with a note."""
    put(box, *NAMES, root=root)
    (box / "usr/bin/mine").write_text("mine")
    (box / "usr/bin/ls").write_text("my ls")
    (box / "usr/bin/env").chmod(0o700)
    (box / "usr/bin/sh").unlink()
    (box / "usr/bin/sh").symlink_to("ls")
    _bump(root)
    done = _update(box, root=root)
    assert (box / "usr/bin/mine").read_text() == "mine"
    assert (box / "usr/bin/ls").read_text() == "my ls"
    assert os.readlink(box / "usr/bin/sh") == "ls"
    assert (box / "usr/bin/env").stat().st_mode & 0o777 == 0o700
    notes = [line for line in done.stderr.splitlines() if "stays as it is" in line]
    assert [line.split()[1] for line in notes] == ["/usr/bin/env", "/usr/bin/ls", "/usr/bin/sh"]
    assert (box / f"{LIB[1:]}/libpcre.so.8.9").exists()
    assert {"/usr/bin/env", "/usr/bin/ls"} <= {
        line["path"] for line in objects(forked("check", box, "--json")) if line.get("severity") == "error"
    }


@pytest.mark.parametrize("what", ["bytes", "mode", "another type", "a link"])
def test_what_both_changed_is_a_conflict(root: Path, box: Path, what: str) -> None:
    """Everything stays as it was, until the user gives it up."""
    put(box, *NAMES, root=root)
    path = "/usr/bin/editor" if what == "a link" else "/usr/bin/ls"
    file = Path(f"{box}{path}")
    if what == "bytes":
        file.write_text("mine")
    elif what == "mode":
        file.chmod(0o700)
    else:
        file.unlink()
        file.symlink_to("env")
    _append(root / "usr/bin/ls")
    (root / "usr/bin/editor").unlink()
    (root / "usr/bin/editor").symlink_to("bash")
    _bump(root)
    before = state(box)
    assert f" {path}: " in complaint(_update(box, root=root, status=1))
    lines = objects(_update(box, "--json", root=root, status=1))
    assert [path] == [line["path"] for line in lines if line["kind"] == "conflict"]
    assert before == state(box)
    put(box.with_name("fresh"), *NAMES, root=root)
    _update(box, "--replace", path, root=root)
    assert settled(box.with_name("fresh")) == settled(box)


def test_a_users_file_where_a_new_one_must_go_is_a_conflict(root: Path, box: Path) -> None:
    """It was never ours; the same bytes would do."""
    put(box, *NAMES, root=root)
    _bump(root)
    new = Path(f"{box}{LIB}/libpcre.so.8.9")
    new.write_text("mine")
    before = state(box)
    assert f" {LIB}/{new.name}: " in complaint(_update(box, root=root, status=1))
    assert before == state(box)
    shutil.copy2(root / tiny.LIBRARIES / new.name, new)
    _update(box, root=root)
    assert f"{LIB}/{new.name}" not in entries(box)
    assert inside(box, "/usr/bin/ls").returncode == 10


LATE = {
    "bytes for what is replaced": f"{LIB}/libtinfo.so.6.4",
    "bytes for what is new": f"{LIB}/libpcre.so.8.9",
    "a link for what is replaced": f"{LIB}/libpcre.so.8",
    "a directory for what is new": f"{LIB}/libpcre.so.8.9",
    "bytes for what is removed": f"{LIB}/libpcre.so.8.1",
}


@pytest.mark.parametrize("what", LATE)
@pytest.mark.parametrize("killed", [False, True])
def test_a_users_file_that_comes_late_is_kept(root: Path, box: Path, what: str, killed: bool) -> None:
    """After the plan, before the exchange: it is saved beside, or stays, and that is told with exit status 1."""
    put(box, *NAMES, root=root)
    _bump(root)
    _append(root / tiny.LIBRARIES / "libtinfo.so.6.4")
    place = Path(f"{box}{LATE[what]}")

    def come() -> None:
        place.unlink(missing_ok=True)
        if "directory" in what:
            place.mkdir()
            (place / "mine").write_text("mine")
        elif "link" in what:
            place.symlink_to("mine")
        else:
            place.write_text("mine")

    def come_after_the_commit() -> None:
        commit = record.Record.commit

        def late(self: record.Record) -> None:
            commit(self)
            come()

        record.Record.commit = late  # type: ignore[method-assign]

    if killed:
        assert forked("update", box, "--sysroot", root, die_at="commit:1").returncode < 0
        come()
        done = forked(box, call="recover")
    else:
        done = forked("update", box, "--sysroot", root, prepare=come_after_the_commit)
        assert done.returncode == 1
        assert [line for line in done.stderr.splitlines() if "error" in line.lower()] == []
    assert f"{LATE[what]} was changed while it was" in done.stdout + done.stderr
    if "removed" in what:
        assert place.read_text() == "mine"
        place.unlink()
    else:
        saved = place.with_name(f"{place.name}.jailbuild-saved")
        if "directory" in what:
            assert (saved / "mine").read_text() == "mine"
            shutil.rmtree(saved)
        else:
            assert (os.readlink(saved) if saved.is_symlink() else saved.read_text()) == "mine"
            saved.unlink()
    put(box.with_name("fresh"), *NAMES, root=root)
    assert settled(box.with_name("fresh")) == settled(box)


def test_a_program_that_vanished_is_reported_and_left_alone(root: Path, box: Path) -> None:
    """With what it needs; the others are updated."""
    put(box, "bash", "ls", root=root)
    (root / "usr/bin/ls").unlink()
    _append(root / tiny.LIBRARIES / "libtinfo.so.6.4")
    done = _update(box, root=root)
    assert "ls is no longer in the source root" in done.stderr
    assert inside(box, "/usr/bin/ls").returncode == 9
    assert inside(box, "/usr/bin/bash").returncode == 6
    assert (box / f"{LIB[1:]}/libtinfo.so.6.4").read_bytes().endswith(b"upgraded")
    assert forked("check", box).returncode == 0
    _update(box, "--dry-run", root=root)


def test_what_was_put_in_by_path_stays_until_it_is_named_again(root: Path, box: Path) -> None:
    """Nothing in a box is believed about where its files come from; --file says it."""
    source = root.with_name("tool")
    shutil.copy2(root / "usr/bin/ls", source)
    word = f"{source}:/opt/tool"
    put(box, "bash", word, root=root)
    _append(source)
    _append(root / tiny.LIBRARIES / "libtinfo.so.6.4")
    done = _update(box, root=root)
    assert "--file SRC:/opt/tool" in done.stderr
    assert not (box / "opt/tool").read_bytes().endswith(b"upgraded")
    assert (box / f"{LIB[1:]}/libtinfo.so.6.4").read_bytes().endswith(b"upgraded")
    _update(box, "--file", word, root=root)
    put(box.with_name("fresh"), "bash", word, root=root)
    assert settled(box.with_name("fresh")) == settled(box)
    for never in ("/usr/bin/ls", f"{source}:/opt/other", "nothing"):
        before = state(box)
        complaint(_update(box, "--file", never, root=root, status=1))
        assert {**before, "/.jailbuild/lock": ""} == {**state(box), "/.jailbuild/lock": ""}


@pytest.mark.parametrize("release", ['ID=tiny\nVERSION_ID="2"\n', "ID=other\nVERSION_ID=1\n", ""])
def test_another_root_needs_rebase(root: Path, box: Path, release: str) -> None:
    """A box is never made from two systems in silence."""
    put(box, *NAMES, root=root)
    (root / "etc/os-release").write_text(release)
    _bump(root)
    before = state(box)
    assert "it was made from" in complaint(_update(box, root=root, status=1))
    assert before == state(box)
    _update(box, "--rebase", root=root)
    put(box.with_name("fresh"), *NAMES, root=root)
    assert settled(box.with_name("fresh")) == settled(box)


def test_several_boxes_and_a_broken_one(root: Path, tmp_path: Path) -> None:
    """The others are updated all the same, and the exit status is 1."""
    boxes = [tmp_path / name for name in ("one", "broken", "none", "two")]
    for box in boxes:
        if box.name != "none":
            put(box, "ls", root=root)
    (boxes[1] / ".jailbuild/manifest.jsonl").write_text("{}")
    _bump(root)
    done = _update(*boxes, "--dry-run", root=root, status=1)
    assert len([line for line in done.stderr.splitlines() if line.startswith("jailbuild: cannot ")]) == 2
    done = _update(*boxes, root=root, status=1)
    assert len([line for line in done.stderr.splitlines() if line.startswith("jailbuild: cannot ")]) == 2
    assert [inside(box, "/usr/bin/ls").returncode for box in (boxes[0], boxes[3])] == [10, 10]
    assert not boxes[2].exists()
    _update(boxes[0], boxes[3], root=root)
    _append(root / "usr/bin/ls")
    _update(boxes[0], boxes[3], "--dry-run", root=root, status=3)


@pytest.mark.parametrize("what", ["a directory for a link", "a link for a directory"])
def test_a_directory_that_became_something_else_is_refused(root: Path, box: Path, what: str) -> None:
    """Or the other way round: in one line, nothing changed; a new box is the way."""
    put(box, *NAMES, root=root)
    if what == "a directory for a link":
        (root / "lib64").unlink()
        (root / "usr/lib64").rename(root / "lib64")
        path = "/lib64"
    else:
        (root / "usr/lib/x86_64-linux-gnu").rename(root / "usr/lib/gnu")
        (root / "usr/lib/x86_64-linux-gnu").symlink_to("gnu")
        path = LIB
    before = state(box)
    assert f" {path}: " in complaint(_update(box, root=root, status=1))
    assert before == state(box)


def test_one_file_becomes_two(root: Path, box: Path) -> None:
    """Hard links are as in the source root."""
    _join(root)
    put(box, "bash", "env", root=root)
    assert (box / "usr/bin/env").samefile(box / "usr/bin/bash")
    _part(root)
    _update(box, root=root)
    put(box.with_name("fresh"), "bash", "env", root=root)
    assert settled(box.with_name("fresh")) == settled(box)


# A family of hard links, interpreted programs, alternatives, other names of one program, static and set-id ones.
SAMPLE = (
    "awk",
    "bash",
    "bunzip2",
    "bzcat",
    "bzip2",
    "cat",
    "chmod",
    "cp",
    "dash",
    "date",
    "dpkg",
    "env",
    "find",
    "gawk",
    "git",
    "git-receive-pack",
    "git-shell",
    "git-upload-archive",
    "git-upload-pack",
    "grep",
    "gunzip",
    "gzip",
    "id",
    "ldd",
    "ls",
    "mawk",
    "mount",
    "nawk",
    "openssl",
    "pager",
    "passwd",
    "perl",
    "perlbug",
    "pod2man",
    "prove",
    "python3",
    "sed",
    "sh",
    "sort",
    "su",
    "tar",
    "touch",
    "vi",
    "which",
    "xz",
    "xzcat",
    "zcat",
)


@pytest.mark.parametrize("names", [SAMPLE, *([None] if ALL else [])], ids=["a sample", "all"][: 1 + ALL])
def test_of_everything_in_usr_bin_only_bash_stays(memory: Path, names: tuple[str, ...] | None) -> None:
    """Added, updated, all but bash removed: exactly what a fresh add of bash makes, but for times of directories."""
    box = memory / "box"
    there = sorted(name for name in os.listdir("/usr/bin") if names is None or name in names)
    while True:
        done = forked("add", *(f"/usr/bin/{name}" for name in there), "--into", box, "--no-sync")
        if done.returncode == 0:
            break
        refused = {
            line.split(":")[1].split()[2].rpartition("/")[2]
            for line in done.stderr.splitlines()
            if line.startswith("jailbuild: cannot add")
        }
        assert refused & set(there), done.stderr
        there = [name for name in there if name not in refused]
    assert len(there) >= (900 if names is None else 30)
    assert forked("update", box, "--no-sync").returncode == 0
    put(memory / "fresh", "bash")
    done = forked("list", box, "--json")
    names_there = [line["name"] for line in objects(done) if line["kind"] == "request"]
    assert {"bash"} < set(names_there)
    assert forked("remove", *(name for name in names_there if name != "bash"), "--from", box).returncode == 0
    assert settled(memory / "fresh") == settled(box)
