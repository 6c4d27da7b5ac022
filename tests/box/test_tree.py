"""What add writes: the tree, modes and times, one file where there was one, holes where there were holes."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

import pytest

from tests.box import tiny
from tests.box.running import add, dump, entries, inside, listed_inside, manifest, objects, run, state

LIB = "/usr/lib/x86_64-linux-gnu"

BASE = {  # what every box of the small root has
    "/bin": "link -> usr/bin",
    "/dev": "directory 0755",
    "/lib": "link -> usr/lib",
    "/lib64": "link -> usr/lib64",
    "/proc": "directory 0755",
    "/run": "directory 0755",
    "/sys": "directory 0755",
    "/tmp": "directory 1777",
    "/usr": "directory 0755",
    "/usr/bin": "directory 0755",
    "/usr/lib": "directory 0755",
    LIB: "directory 0755",
    f"{LIB}/ld-linux-x86-64.so.2": "file 0755",
    "/usr/lib64": "directory 0755",
    "/usr/lib64/ld-linux-x86-64.so.2": "link -> /lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
}
TINFO = {f"{LIB}/libtinfo.so.6": "link -> libtinfo.so.6.4", f"{LIB}/libtinfo.so.6.4": "file 0755"}
SELINUX = {
    f"{LIB}/libpcre.so.8": "link -> libpcre.so.8.1",
    f"{LIB}/libpcre.so.8.1": "file 0755",
    f"{LIB}/libselinux.so.1": "file 0755",
}
EDITOR = {
    "/etc": "directory 0755",
    "/etc/alternatives": "directory 0755",
    "/etc/alternatives/editor": "link -> /usr/bin/vim.basic",
    "/usr/bin/editor": "link -> /etc/alternatives/editor",
    "/usr/bin/vim.basic": "file 0755",
}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (("bash",), BASE | TINFO | {"/usr/bin/bash": "file 0755"}),
        (
            ("bash", "ls"),
            BASE | TINFO | SELINUX | {"/usr/bin/bash": "file 0755", "/usr/bin/ls": "file 0755"},
        ),
        (("editor",), BASE | TINFO | SELINUX | EDITOR),
        (("sh",), BASE | TINFO | {"/usr/bin/bash": "file 0755", "/usr/bin/sh": "link -> bash"}),
    ],
    ids=["a program", "two", "through the alternatives", "by a link"],
)
def test_the_box_holds_the_programs_their_libraries_and_every_link_on_the_way(
    made: Path, box: Path, asked: tuple[str, ...], expected: dict[str, str]
) -> None:
    """DESIGN, "What is written": nothing more, nothing less."""
    add(box, *asked, sysroot=made)
    assert dict(sorted(expected.items())) == dump(box)


def test_what_was_put_in_runs_there(made: Path, box: Path) -> None:
    """In a real chroot, each program gets the libraries that it was linked with."""
    add(box, "bash", "ls", "editor", "fixed", "moving", sysroot=made)
    statuses = [inside(box, f"/bin/{name}").returncode for name in ("bash", "ls", "editor", "fixed", "moving")]
    assert statuses == [6, 9, 15, 0, 0]
    assert {
        "libselinux.so.1": f"/lib/{Path(LIB).name}/libselinux.so.1",
        "libpcre.so.8": f"/lib/{Path(LIB).name}/libpcre.so.8",
    } == listed_inside(box, "/usr/bin/ls")


def test_the_record_is_for_root_alone(made: Path, box: Path) -> None:
    """/.jailbuild has mode 0700 and holds the manifest; no staging stays behind."""
    add(box, "bash", sysroot=made)
    assert stat.S_IMODE((box / ".jailbuild").stat().st_mode) == 0o700
    assert {"manifest.jsonl"} <= set(os.listdir(box / ".jailbuild")) <= {"manifest.jsonl", "lock"}


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_the_umask_of_the_caller_does_not_matter(made: Path, box: Path, mask: int) -> None:
    """Modes are those of the source; the box itself can be entered by daemons that drop their privileges."""
    before = os.umask(mask)
    try:
        add(box, "bash", sysroot=made)
    finally:
        os.umask(before)
    assert stat.S_IMODE(box.stat().st_mode) == 0o755
    assert dict(sorted((BASE | TINFO | {"/usr/bin/bash": "file 0755"}).items())) == dump(box)


def test_modes_owners_and_times_are_kept(sysroot: Path, box: Path) -> None:
    """Of files to the nanosecond, of links too; of directories the mode and owner."""
    (sysroot / "usr/bin").chmod(0o751)
    os.chown(sysroot / "usr/bin", 12, 34)
    os.chown(sysroot / "usr/bin/bash", 1234, 4321)
    (sysroot / "usr/bin/bash").chmod(0o4710)
    os.utime(sysroot / "usr/bin/bash", ns=(1, 1_234_567_890_123_456_789))
    add(box, "bash", sysroot=sysroot)
    status = (box / "usr/bin/bash").stat()
    assert (status.st_uid, status.st_gid, status.st_mtime_ns) == (1234, 4321, 1_234_567_890_123_456_789)
    assert stat.S_IMODE(status.st_mode) == 0o710
    above = (box / "usr/bin").stat()
    assert (above.st_uid, above.st_gid, stat.S_IMODE(above.st_mode)) == (12, 34, 0o751)
    for path in ("lib", f"{tiny.LIBRARIES}/libtinfo.so.6", f"{tiny.LIBRARIES}/libtinfo.so.6.4"):
        assert (box / path).lstat().st_mtime == tiny.TIME, path


CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)  # cap_net_raw, effective


@pytest.mark.parametrize(
    ("options", "mode", "kept"),
    [((), 0o755, None), (("--keep-privileges",), 0o6755, CAPABILITY)],
    ids=["dropped", "kept where asked for"],
)
def test_privileges_are_dropped_unless_asked_for(
    sysroot: Path, box: Path, options: tuple[str, ...], mode: int, kept: bytes | None
) -> None:
    """Setuid, setgid and file capabilities."""
    os.chmod(sysroot / "usr/bin/bash", 0o6755)
    os.setxattr(sysroot / "usr/bin/ls", "security.capability", CAPABILITY)
    add(box, "bash", "ls", *options, sysroot=sysroot)
    assert mode == stat.S_IMODE((box / "usr/bin/bash").stat().st_mode)
    assert f"{mode:04o}" == entries(box)["/usr/bin/bash"]["mode"]
    found = box / "usr/bin/ls"
    assert kept == (os.getxattr(found, "security.capability") if "security.capability" in os.listxattr(found) else None)
    assert run("check", box).returncode == 0


def _family(sysroot: Path) -> None:
    for name in ("perl", "perl5.36.0", "another"):
        os.link(sysroot / "usr/bin/bash", sysroot / "usr/bin" / name)


@pytest.mark.parametrize(
    "adds",
    [[("perl", "perl5.36.0")], [("perl",), ("perl5.36.0",)], [("perl5.36.0",), ("perl",)]],
    ids=["in one add", "in two", "the other way round"],
)
def test_hard_links_stay_one_file(sysroot: Path, box: Path, adds: list[tuple[str, ...]]) -> None:
    """Also across adds: the second name is linked to the first, and both are listed as a family."""
    _family(sysroot)
    for asked in adds:
        add(box, "--bare", *asked, sysroot=sysroot)
    assert (box / "usr/bin/perl").samefile(box / "usr/bin/perl5.36.0")
    assert (box / "usr/bin/perl").stat().st_nlink == 2
    assert [entries(box)[f"/usr/bin/{name}"]["hardlink"] for name in ("perl", "perl5.36.0")] == ["/usr/bin/perl"] * 2
    assert inside(box, "/usr/bin/perl5.36.0").returncode == 6


def test_a_box_is_never_linked_to_its_source(sysroot: Path, box: Path) -> None:
    """A chmod inside must not change the host's file (FIELD.md, 5)."""
    add(box, "bash", "ls", sysroot=sysroot)
    for path, what in dump(box).items():
        if what.startswith("file"):
            assert not os.path.samefile(f"{box}{path}", f"{sysroot}{path}"), path
            assert os.stat(f"{box}{path}").st_nlink == 1, path


def test_sparse_files_stay_sparse(sysroot: Path, box: Path) -> None:
    """A hole of 64 MB takes no space in the box, and the bytes are the same."""
    program = sysroot / "usr/bin/bash"
    size = program.stat().st_size
    with program.open("r+b") as file:
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(b"in the middle")
    add(box, "bash", sysroot=sysroot)
    status = (box / "usr/bin/bash").stat()
    assert status.st_size == 64 << 20
    assert status.st_blocks * 512 < 1 << 20
    with (box / "usr/bin/bash").open("rb") as ours, program.open("rb") as theirs:
        assert theirs.read(size) == ours.read(size)
        assert [os.pread(file.fileno(), 13, 32 << 20) for file in (ours, theirs)] == [b"in the middle"] * 2
    assert inside(box, "/usr/bin/bash").returncode == 6
    assert run("check", box).returncode == 0


def test_an_empty_hole_at_the_end_is_kept(sysroot: Path, box: Path) -> None:
    """The size is the source's, also when nothing but a hole follows."""
    with (sysroot / "usr/bin/bash").open("r+b") as file:
        file.truncate((1 << 20) + 17)
    add(box, "bash", sysroot=sysroot)
    assert (1 << 20) + 17 == (box / "usr/bin/bash").stat().st_size == entries(box)["/usr/bin/bash"]["size"]


def test_adding_again_changes_nothing(made: Path, box: Path) -> None:
    """Not a byte, not a time, not in the record either."""
    add(box, "bash", "editor", sysroot=made)
    before = state(box)
    add(box, "bash", "editor", sysroot=made)
    add(box, "editor", sysroot=made)
    assert before == state(box)


def test_adding_more_leaves_alone_what_is_there(made: Path, box: Path) -> None:
    """The second add brings what is new; what both need is theirs together."""
    add(box, "bash", sysroot=made)
    before = dump(box, contents=True)
    inodes = {path: os.lstat(f"{box}{path}").st_ino for path in before}
    add(box, "editor", sysroot=made)
    after = dump(box, contents=True)
    assert before == {path: after[path] for path in before}
    assert inodes == {path: os.lstat(f"{box}{path}").st_ino for path in before}
    assert entries(box)[f"{LIB}/libtinfo.so.6.4"]["wanted_by"] == ["bash", "editor"]
    assert inside(box, "/usr/bin/editor").returncode == 15


@pytest.mark.parametrize(
    "adds",
    [
        [("editor",), ("ls",), ("perl",), ("sh",), ("perl5.36.0",), ("far",)],
        [("far",), ("perl5.36.0", "sh"), ("perl",), ("ls", "editor")],
        [("perl", "far"), ("editor", "ls", "sh", "perl5.36.0")],
    ],
    ids=["one by one", "backwards", "in two"],
)
def test_the_order_of_adds_does_not_matter(
    sysroot: Path, box: Path, tmp_path: Path, adds: list[tuple[str, ...]]
) -> None:
    """A box is a function of its requests and one source root: manifest and tree are the same bytes."""
    _family(sysroot)
    tiny.program(sysroot / "usr/bin/far", tiny.library(sysroot / "opt/far/libfar.so", value=3))
    tiny.cache(sysroot, "/opt/far")
    once = tmp_path / "once"
    add(once, "bash", "editor", "ls", "perl", "sh", "perl5.36.0", "far", sysroot=sysroot)
    add(box, "bash", sysroot=sysroot)
    for asked in adds:
        add(box, *asked, sysroot=sysroot)
    assert manifest(once) == manifest(box)
    assert (once / ".jailbuild/manifest.jsonl").read_bytes() == (box / ".jailbuild/manifest.jsonl").read_bytes()
    assert dump(once, contents=True) == dump(box, contents=True)


def test_two_boxes_of_the_same_requests_have_the_same_manifest(made: Path, tmp_path: Path) -> None:
    """It carries no clock and no name of the box; the order of the words does not matter."""
    add(tmp_path / "one", "bash", "ls", sysroot=made)
    add(tmp_path / "two", "ls", "bash", sysroot=made)
    assert manifest(tmp_path / "one") == manifest(tmp_path / "two")


@pytest.mark.parametrize("there", [False, True], ids=["no box yet", "a box"])
def test_a_dry_run_writes_nothing_and_prints_the_very_plan(made: Path, box: Path, there: bool) -> None:
    """--dry-run --json prints what --json prints when it is done for real."""
    if there:
        add(box, "bash", sysroot=made)
    before = state(box) if there else None
    dry = add(box, "bash", "ls", "--dry-run", "--json", sysroot=made)
    text = add(box, "bash", "ls", "--dry-run", sysroot=made)
    assert before == (state(box) if there else None)
    assert there == box.exists()
    real = add(box, "bash", "ls", "--json", sysroot=made)
    assert dry.stdout == real.stdout
    plan = objects(real)
    assert [line["path"] for line in plan] == sorted(dump(box))
    assert text.stdout.split() == [word for line in plan for word in (line["kind"], line["path"])]
    assert {line["kind"] for line in plan} == ({"add", "keep"} if there else {"add"})


def test_what_is_there_and_identical_satisfies_and_stays_unlisted(made: Path, box: Path) -> None:
    """It is the user's: it is neither listed nor touched, and the box works."""
    (box / "usr/bin").mkdir(parents=True)
    (box / "etc").mkdir()
    (box / "etc/mine").write_text("mine")
    tiny.clone(made / "usr/bin/bash", box / "usr/bin/bash")
    (box / "bin").symlink_to("usr/bin")
    os.utime(box / "usr/bin/bash", (5, 5))
    theirs = [box / path for path in ("usr/bin/bash", "bin", "etc/mine")]
    before = [(path.lstat().st_ino, path.lstat().st_ctime_ns) for path in theirs]
    add(box, "bash", "--adopt", sysroot=made)
    assert before == [(path.lstat().st_ino, path.lstat().st_ctime_ns) for path in theirs]
    listed = entries(box)
    assert {"/usr/bin/bash", "/bin", "/usr", "/usr/bin", "/etc"}.isdisjoint(listed)
    assert f"{LIB}/libtinfo.so.6" in listed
    assert inside(box, "/bin/bash").returncode == 6


@pytest.mark.parametrize("how", ["slash", "dot", "link", "relative"])
def test_a_box_may_be_named_in_other_ways(made: Path, tmp_path: Path, how: str) -> None:
    """A link to a directory is followed once; a relative name counts from the caller's directory."""
    box = tmp_path / "box"
    if how == "link":
        box.mkdir()
        (tmp_path / "name").symlink_to("box")
    name = {"slash": f"{box}/", "dot": f"{tmp_path}/./box", "link": str(tmp_path / "name"), "relative": "box"}[how]
    done = run("add", "bash", "--into", name, "--sysroot", made, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert inside(box, "/usr/bin/bash").returncode == 6
