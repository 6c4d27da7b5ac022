"""What may be a PROGRAM: names, paths, libraries, scripts, SRC:DEST; and what each brings."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from jailbuild.check.run import check_root
from jailbuild.root import Root
from tests.box import tiny
from tests.box.running import add, complaint, dump, entries, inside, listed_inside, manifest, objects, put, run

LIB = f"/{tiny.LIBRARIES}"
CACHE = "/etc/ld.so.cache"


def _names(box: Path) -> set[str]:
    """Return the regular files of a box, by path."""
    return {path for path, what in dump(box).items() if what.startswith("file")}


def _asked(box: Path) -> list[tuple[str, str]]:
    return [(line["name"], line["path"]) for line in manifest(box) if line["kind"] == "request"]


@pytest.mark.parametrize("word", ["ls", "/usr/bin/ls", "//usr//bin/ls", "/usr/bin/../bin/./ls", "./usr/bin/ls"])
def test_a_path_that_the_search_would_find_counts_as_the_name(made: Path, box: Path, word: str) -> None:
    """The manifests are the same; a relative path counts from the caller's directory."""
    add(box, word, sysroot=made, cwd=made)
    assert _asked(box) == [("ls", "/usr/bin/ls")]


def test_another_path_to_it_is_a_request_of_its_own(made: Path, box: Path) -> None:
    """/bin/ls is not where the search ends; the link on the way is in the box, and both start."""
    add(box, "/bin/ls", "ls", sysroot=made)
    assert _asked(box) == [("/bin/ls", "/bin/ls"), ("ls", "/usr/bin/ls")]
    assert inside(box, "/bin/ls").returncode == 9


def test_names_are_searched_in_the_order_of_the_standard_path(sysroot: Path, box: Path) -> None:
    """/usr/local/bin comes before /usr/bin."""
    tiny.program(sysroot / "usr/local/bin/ls")
    add(box, "ls", sysroot=sysroot)
    assert _asked(box) == [("ls", "/usr/local/bin/ls")]
    assert "/usr/bin/ls" not in dump(box)


def test_another_search_path_is_taken(sysroot: Path, box: Path) -> None:
    """--path: for names, and for what env looks up."""
    tiny.program(sysroot / "opt/bin/ls")
    tiny.script(sysroot / "opt/bin/tool", "#!/usr/bin/env ls")
    add(box, "tool", "--path", "/nowhere:/opt/bin", sysroot=sysroot)
    assert _asked(box) == [("tool", "/opt/bin/tool")]
    assert {"/opt/bin/ls", "/opt/bin/tool", "/usr/bin/env"} <= _names(box)


def test_static_programs_bring_nothing_else(made: Path, box: Path) -> None:
    """Neither a fixed nor a position-independent one has a loader."""
    add(box, "fixed", "moving", sysroot=made)
    assert {"/usr/bin/fixed", "/usr/bin/moving"} == _names(box)
    assert [inside(box, f"/usr/bin/{name}").returncode for name in ("fixed", "moving")] == [0, 0]


def test_a_library_may_be_asked_for(sysroot: Path, box: Path) -> None:
    """By its path, executable or not: with what it needs, for programs that dlopen it."""
    (sysroot / tiny.LIBRARIES / "libselinux.so.1").chmod(0o644)
    add(box, f"{LIB}/libselinux.so.1", sysroot=sysroot)
    assert {f"{LIB}/libselinux.so.1", f"{LIB}/libpcre.so.8.1"} <= _names(box)
    assert f"{LIB}/libpcre.so.8" in dump(box)


SCRIPTS: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "an interpreter": (("#!/bin/bash",), {"/usr/bin/bash"}),
    "an argument": (("#!/bin/bash -e -u",), {"/usr/bin/bash"}),
    "blanks": (("#! \t/bin/bash   ",), {"/usr/bin/bash"}),
    "env": (("#!/usr/bin/env bash",), {"/usr/bin/env", "/usr/bin/bash"}),
    "env -S": (("#!/usr/bin/env -S bash -e -u",), {"/usr/bin/env", "/usr/bin/bash"}),
    "env -S with a variable": (("#!/usr/bin/env -S A=1 bash",), {"/usr/bin/env", "/usr/bin/bash"}),
    "a script": (("#!/opt/inner",), {"/opt/inner", "/usr/bin/env", "/usr/bin/ls", f"{LIB}/libselinux.so.1"}),
    "a link": (("#!/bin/sh",), {"/usr/bin/bash"}),
    "a static one": (("#!/usr/bin/fixed",), {"/usr/bin/fixed"}),
}


@pytest.mark.parametrize("what", SCRIPTS)
def test_a_script_brings_its_interpreters(sysroot: Path, box: Path, what: str) -> None:
    """The one the kernel starts, what that looks up if it is env, and so on, each with its libraries."""
    lines, expected = SCRIPTS[what]
    tiny.script(sysroot / "usr/bin/tool", *lines)
    tiny.script(sysroot / "opt/inner", "#!/usr/bin/env ls")
    add(box, "tool", sysroot=sysroot)
    assert {"/usr/bin/tool", *expected} <= _names(box)
    assert check_root(Root(str(box)), "box").findings == ()
    if "env" not in what and what != "a script":
        status = 0 if what == "a static one" else 6
        assert status == inside(box, "/usr/bin/tool").returncode


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("#!/bin/absent", "/bin/absent"),
        ("#!/bin/bash\r", "carriage return"),
        ("#!/usr/bin/env absent", "absent"),
        ("#!/usr/bin/env bash -e", "bash -e"),
        ("#!", "interpreter"),
        ("#!/usr/bin/tool", "interpreter"),
        ("#!" + "/" * 300 + "bin/bash", "256"),
    ],
    ids=["absent", "carriage return", "env absent", "env without -S", "empty", "itself", "too long"],
)
def test_a_script_that_cannot_start_is_not_added(sysroot: Path, box: Path, line: str, said: str) -> None:
    """One line says why."""
    tiny.script(sysroot / "usr/bin/tool", line)
    assert said in complaint(add(box, "tool", sysroot=sysroot, status=1))
    assert not box.exists()


def test_a_script_that_is_not_executable_is_not_added(sysroot: Path, box: Path) -> None:
    """The kernel would not start it."""
    tiny.script(sysroot / "usr/bin/tool", "#!/bin/bash", mode=0o644)
    complaint(add(box, "tool", sysroot=sysroot, status=1))
    complaint(add(box, "/usr/bin/tool", sysroot=sysroot, status=1))


def test_a_file_from_anywhere_stands_where_it_is_put(sysroot: Path, box: Path, tmp_path: Path) -> None:
    """SRC:DEST is resolved as if it stood at DEST, $ORIGIN included: the library comes from beside DEST."""
    near = tiny.library(sysroot / "opt/tool/lib/libnear.so", value=4)
    tiny.library(tmp_path / "built/lib/libnear.so", value=99)
    source = tiny.program(tmp_path / "built/bin/tool", near, flags=("-Wl,-rpath,$ORIGIN/../lib",))
    os.utime(source, (7, 7))
    add(box, f"{source}:/opt/tool/bin/tool", sysroot=sysroot)
    assert _asked(box) == [("/opt/tool/bin/tool", "/opt/tool/bin/tool")]
    assert {"/opt/tool/bin/tool", "/opt/tool/lib/libnear.so"} <= _names(box)
    assert source.read_bytes() == (box / "opt/tool/bin/tool").read_bytes()
    assert (box / "opt/tool/bin/tool").stat().st_mtime == 7
    assert str(source) == entries(box)["/opt/tool/bin/tool"]["source"]
    (box / "proc").rmdir()
    add(box, f"{source}:/opt/tool/bin/tool", sysroot=sysroot)
    assert run("check", box).returncode == 0


def test_a_file_from_anywhere_may_be_a_library_that_another_program_loads(
    sysroot: Path, box: Path, tmp_path: Path
) -> None:
    """Both asked for together: the program gets the file at DEST."""
    source = tiny.library(tmp_path / "libnew.so.1", value=11)
    tiny.program(sysroot / "usr/bin/user", source)
    add(box, "user", f"{source}:{LIB}/", sysroot=sysroot)
    assert inside(box, "/usr/bin/user").returncode == 11
    add(box, "user", sysroot=sysroot, status=1)


@pytest.mark.parametrize("place", ["/usr/bin/tool", "/bin/tool", "/new/place/tool", "//usr//bin//tool"])
def test_the_place_of_a_file_from_anywhere_is_the_source_roots(
    made: Path, box: Path, tmp_path: Path, place: str
) -> None:
    """Links on the way there are links in the box; directories that the source root lacks are made."""
    tiny.script(tmp_path / "tool", "#!/bin/bash")
    add(box, f"{tmp_path}/tool:{place}", sysroot=made)
    assert inside(box, place).returncode == 6
    assert dump(box)["/bin"] == "link -> usr/bin"
    before = dump(box, times=True)
    add(box, f"{tmp_path}/tool:{place}", sysroot=made)
    assert before == dump(box, times=True)


def test_a_name_with_a_colon_is_a_name_where_there_is_such_a_file(sysroot: Path, box: Path) -> None:
    """SRC:DEST only where no file has that whole name."""
    shutil.copy(sysroot / "usr/bin/bash", tiny.script(sysroot / "opt/a:/opt/b"))
    add(box, "/opt/a:/opt/b", sysroot=sysroot)
    assert "/opt/a:/opt/b" in _names(box)


@pytest.mark.parametrize("place", ["/../tool", "/.jailbuild/tool", "/usr/bin/bash/tool"])
def test_a_place_that_cannot_be_is_refused(made: Path, box: Path, tmp_path: Path, place: str) -> None:
    """Outside, in the record, below a file."""
    tiny.script(tmp_path / "tool", "#!/bin/bash")
    complaint(add(box, f"{tmp_path}/tool:{place}", sysroot=made, status=1))
    assert not box.exists()


def test_hard_links_among_files_from_anywhere_do_not_depend_on_the_order(made: Path, box: Path, tmp_path: Path) -> None:
    """One add and two give the same manifest."""
    tiny.script(tmp_path / "one", "#!/bin/bash")
    os.link(tmp_path / "one", tmp_path / "two")
    words = [f"{tmp_path}/{name}:/usr/bin/{name}" for name in ("one", "two")]
    add(tmp_path / "once", *words, sysroot=made)
    for word in words:
        add(box, word, sysroot=made)
    assert manifest(tmp_path / "once") == manifest(box)


@pytest.fixture
def far(sysroot: Path) -> Path:
    """The small root with a program whose library is in /opt/far."""
    tiny.program(
        sysroot / "usr/bin/far",
        tiny.library(sysroot / "opt/far/libfar.so.3", value=3),
        sysroot / tiny.LIBRARIES / "libtinfo.so.6",
    )
    return sysroot


def _cached(box: Path) -> list[str]:
    """Return what the real ldconfig(8) reads in a box's cache."""
    done = subprocess.run(["ldconfig", "-p", "-C", box / "etc/ld.so.cache"], capture_output=True, text=True, check=True)
    return [line.strip() for line in done.stdout.splitlines() if " => " in line]


@pytest.mark.parametrize("how", ["cache", "--library-path"])
def test_a_box_gets_a_cache_where_it_needs_one(far: Path, box: Path, how: str) -> None:
    """For libraries outside the default directories, and for those alone; ldconfig reads it, the loader believes it."""
    if how == "cache":
        tiny.cache(far, "/opt/far")
        add(box, "far", sysroot=far)
    else:
        complaint(add(box, "far", sysroot=far, status=1))
        add(box, "far", "--library-path", "/opt/far", sysroot=far)
    assert _cached(box) == ["libfar.so.3 (libc6,x86-64) => /opt/far/libfar.so.3"]
    assert dump(box)[CACHE] == "file 0644"
    entry = entries(box)[CACHE]
    assert (entry["source"], entry["wanted_by"]) == (None, ["far"])
    assert inside(box, "/usr/bin/far").returncode == 9
    assert listed_inside(box, "/usr/bin/far") == {
        "libfar.so.3": "/opt/far/libfar.so.3",
        "libtinfo.so.6": "/lib/x86_64-linux-gnu/libtinfo.so.6",
    }
    assert run("check", box, "--strict").returncode == 0


def test_a_box_gets_no_cache_where_it_needs_none(far: Path, box: Path) -> None:
    """The source root's cache names the libraries in the default directories too; the box finds them without."""
    tiny.cache(far, "/opt/far")
    add(box, "editor", sysroot=far)
    assert CACHE not in dump(box)
    tiny.program(far / "usr/bin/own", far / "opt/far/libfar.so.3", flags=("-Wl,-rpath,/opt/far",))
    add(box, "own", sysroot=far)
    assert CACHE not in dump(box)


def test_a_cache_grows_with_the_box(far: Path, box: Path) -> None:
    """The second add replaces the made file; the first program still finds its library."""
    tiny.program(far / "usr/bin/farther", tiny.library(far / "opt/farther/libfarther.so.5", value=5))
    tiny.cache(far, "/opt/far", "/opt/farther")
    add(box, "far", sysroot=far)
    plan = objects(add(box, "farther", "--json", sysroot=far))
    assert {line["path"]: line["kind"] for line in plan}[CACHE] == "replace"
    assert sorted(line.split()[0] for line in _cached(box)) == ["libfar.so.3", "libfarther.so.5"]
    assert [inside(box, f"/usr/bin/{name}").returncode for name in ("far", "farther")] == [9, 5]
    before = dump(box, contents=True, times=True)
    add(box, "far", sysroot=far)
    assert before == dump(box, contents=True, times=True)


def test_a_cache_is_not_lost_by_a_failed_add(far: Path, box: Path) -> None:
    """A conflict found while the cache would be replaced leaves the old one."""
    tiny.program(far / "usr/bin/farther", tiny.library(far / "opt/farther/libfarther.so.5", value=5))
    tiny.cache(far, "/opt/far", "/opt/farther")
    add(box, "far", sysroot=far)
    (box / "opt/farther").write_text("mine")
    before = dump(box, contents=True, times=True)
    complaint(add(box, "farther", sysroot=far, status=1))
    assert before == dump(box, contents=True, times=True)


@pytest.mark.parametrize("far_away", [False, True], ids=["in a default directory", "by the cache"])
def test_every_variant_of_a_library_comes(sysroot: Path, box: Path, far_away: bool) -> None:
    """The base and each glibc-hwcaps level, with what each needs: the box also works on an older processor."""
    directory = sysroot / ("opt/fast" if far_away else tiny.LIBRARIES)
    old = tiny.library(sysroot / tiny.LIBRARIES / "libold.so.1", value=100)
    base = tiny.library(directory / "libfast.so.1", old, value=1)
    new = tiny.library(sysroot / tiny.LIBRARIES / "libnew.so.1", value=20)
    tiny.library(directory / "glibc-hwcaps/x86-64-v2/libfast.so.1", new, value=2)
    tiny.library(directory / "glibc-hwcaps/x86-64-v3/libfast.so.1", value=3)
    tiny.program(sysroot / "usr/bin/fast", base)
    tiny.cache(sysroot, *(["/opt/fast"] if far_away else []))
    add(box, "fast", sysroot=sysroot)
    inner = "/opt/fast" if far_away else LIB
    assert {
        f"{inner}/libfast.so.1",
        f"{inner}/glibc-hwcaps/x86-64-v2/libfast.so.1",
        f"{inner}/glibc-hwcaps/x86-64-v3/libfast.so.1",
        f"{LIB}/libold.so.1",
        f"{LIB}/libnew.so.1",
    } <= _names(box)
    outside = subprocess.run(["/usr/bin/fast"], preexec_fn=_chroot(sysroot), check=False).returncode
    assert outside == inside(box, "/usr/bin/fast").returncode
    assert far_away == (CACHE in dump(box))
    if far_away:
        assert len(_cached(box)) == 3
    assert run("check", box).returncode == 0


def _chroot(root: Path) -> Callable[[], None]:
    def enter() -> None:
        os.chroot(root)
        os.chdir("/")

    return enter


ODD = [
    b"with space",
    b"new\nline",
    b'quote\'s "double"',
    b"$(touch PWNED)",
    b"x;touch PWNED",
    b"back\\slash",
    b"\xff\xfe",
    b"caf\xc3\xa9",
    b"100%s",
    b"-n",
    b"*?[a]",
    b"\x1b[2J",
    b"~",
]


@pytest.mark.parametrize("raw", ODD, ids=ascii)
def test_odd_names_survive_everything(sysroot: Path, tmp_path: Path, odd: tuple[Path, Path], raw: bytes) -> None:
    """Added, listed, checked, explained; run inside; written by the shell script; added again without a change."""
    name = os.fsdecode(raw)
    program, library = odd
    shutil.copy(library, tiny.script(sysroot / "opt" / name / "libodd.so.1"))
    shutil.copy(program, sysroot / "usr/bin" / name)
    if ";" in name:  # it parts directories in a library path, and not in an RPATH
        tiny.program(sysroot / "usr/bin" / name, library, flags=(f"-Wl,-rpath,/opt/{name}",))
    word = f"/usr/bin/{name}"
    words = (word, "--into", f"./{name}", "--sysroot", sysroot, "--no-sync", "--library-path", f"/opt/{name}")
    box = tmp_path / name
    done = run("add", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stderr
    assert {word, f"/opt/{name}/libodd.so.1"} <= _names(box)
    assert inside(box, word).returncode == 33
    assert check_root(Root(str(box)), "box").findings == ()
    before = dump(box, contents=True, times=True)
    listed = (box / ".jailbuild/manifest.jsonl").read_bytes()
    put(box, word, root=sysroot, library_path=f"/opt/{name}")
    assert listed == (box / ".jailbuild/manifest.jsonl").read_bytes()
    assert before == dump(box, contents=True, times=True)
    listing = objects(run("list", box, "--json"))
    assert manifest(box) == listing
    assert all(("path_b64" in line) == (not _is_utf8(raw)) for line in listing if _is_named(line, name))
    chain = objects(run("why", box, f"/opt/{name}/libodd.so.1", "--json"))
    assert [step["as"] for step in chain[0]["steps"]][:2] == ["program", "needed"]
    if "\x1b" in name:
        assert "\x1b" not in run("list", box).stdout
    assert not list(tmp_path.rglob("PWNED"))


def _is_named(line: dict[str, str], name: str) -> bool:
    """Say whether an entry's path has the odd name."""
    shown = os.fsencode(name).decode("utf-8", "replace")
    return line["kind"] == "entry" and shown in line["path"].split("/")


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def test_names_that_look_alike_are_kept_apart(sysroot: Path, box: Path, tmp_path: Path) -> None:
    """Two names that are not UTF-8 have the same replacement characters, and are two programs; in any order."""
    words = [os.fsdecode(b"/usr/bin/odd\xff"), os.fsdecode(b"/usr/bin/odd\xfe")]
    for word in words:
        tiny.script(Path(f"{sysroot}{word}"), f"#!/bin/bash {len(word)}")
    add(tmp_path / "once", *words, sysroot=sysroot)
    for word in words:
        add(box, word, sysroot=sysroot)
    listed = (box / ".jailbuild/manifest.jsonl").read_bytes()
    assert (tmp_path / "once/.jailbuild/manifest.jsonl").read_bytes() == listed
    add(box, words[0], sysroot=sysroot)
    assert listed == (box / ".jailbuild/manifest.jsonl").read_bytes()
    for word in words:
        assert len(objects(run("why", box, word, "--json"))) == 1
