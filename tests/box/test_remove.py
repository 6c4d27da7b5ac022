"""remove: what was asked for goes, with all that only it needed, and nothing else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.box import tiny
from tests.box.running import complaint, dump, forked, inside, manifest, objects, put, settled, state

LIB = f"/{tiny.LIBRARIES}"


def _remove(box: Path, *words: str | Path, status: int = 0) -> str:
    """Remove, which must end with `status`, and return what was said."""
    done = forked("remove", *words, "--from", box)
    assert status == done.returncode, done
    return complaint(done) if status else done.stderr


def _requests(box: Path) -> list[str]:
    """Return the names of what was asked of a box."""
    return [line["name"] for line in manifest(box) if line["kind"] == "request"]


def _rich(root: Path) -> Path:
    """Make a root where requests share what they can: a family, scripts, a cache, variants, other names of /usr."""
    tiny.program(root / "usr/bin/git")
    for name in ("git-log", "git-show"):
        os.link(root / "usr/bin/git", root / "usr/bin" / name)
    for number, name in enumerate(("one", "two")):
        library = tiny.library(root / f"opt/{name}/lib{name}.so.1", value=20 + number)
        tiny.program(root / f"usr/bin/{name}", library)
    tiny.program(root / "usr/bin/both", root / "opt/one/libone.so.1", root / "opt/two/libtwo.so.1")
    tiny.script(root / "usr/bin/tool", "#!/usr/bin/env ls")
    tiny.script(root / "usr/bin/sheet", "#!/bin/sh -e")
    level = root / tiny.LIBRARIES / "glibc-hwcaps/x86-64-v2"
    tiny.library(level / "libselinux.so.1", root / tiny.LIBRARIES / "libpcre.so.8.1", value=1)
    tiny.backdate(root)
    tiny.cache(root, "/opt/one", "/opt/two")
    return root


@pytest.fixture(scope="module")
def rich(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root of many kinds of programs; not to be changed."""
    return _rich(tiny.clone(made, tmp_path_factory.mktemp("rich") / "root"))


PAIRS = [
    (("bash",), ("ls",)),
    (("ls",), ("bash",)),
    (("bash",), ("editor",)),
    (("editor",), ("bash", "ls")),
    (("one",), ("two",)),
    (("two",), ("one",)),
    (("one",), ("both",)),
    (("both",), ("one",)),
    (("ls",), ("one", "two")),
    (("git",), ("git-log", "git-show")),
    (("git-show",), ("git",)),
    (("git-log", "git-show"), ("git",)),
    (("tool",), ("ls",)),
    (("ls",), ("tool",)),
    (("sheet",), ("bash",)),
    (("bash",), ("sheet",)),
    (("fixed",), ("ls",)),
    (("ls",), ("fixed", "moving")),
    (("/bin/ls",), ("ls",)),
    (("ls",), ("/bin/ls",)),
]


@pytest.mark.parametrize(("stay", "go"), PAIRS)
def test_what_stays_is_what_a_fresh_add_makes(
    rich: Path, memory: Path, stay: tuple[str, ...], go: tuple[str, ...]
) -> None:
    """Byte for byte, links, modes and manifest: whether they came together or one after the other."""
    put(memory / "fresh", *stay, root=rich)
    put(memory / "together", *stay, *go, root=rich)
    put(memory / "after", *stay, root=rich)
    put(memory / "after", *go, root=rich)
    put(memory / "before", *go, root=rich)
    put(memory / "before", *stay, root=rich)
    for name in ("together", "after", "before"):
        _remove(memory / name, *go)
        assert settled(memory / "fresh") == settled(memory / name), name
    assert forked("check", memory / "after", "--strict").returncode == 0


def test_one_after_the_other_until_nothing_is_left(rich: Path, box: Path) -> None:
    """An empty box remains, its directories gone; and it can be filled again."""
    names = ["bash", "both", "git", "git-log", "ls", "one", "tool"]
    put(box, *names, root=rich)
    for name in names:
        _remove(box, name)
        assert forked("check", box).returncode == 0
    assert dump(box) == {}
    put(box, "bash", root=rich)
    put(box.with_name("fresh"), "bash", root=rich)
    assert settled(box.with_name("fresh")) == settled(box)


def test_the_source_root_is_not_looked_at(sysroot: Path, box: Path) -> None:
    """The manifest says all: it works when the host is another, or gone."""
    put(box, "bash", "ls", root=sysroot)
    put(box.with_name("fresh"), "bash", root=sysroot)
    shutil.rmtree(sysroot)
    _remove(box, "ls")
    assert settled(box.with_name("fresh")) == settled(box)


def test_the_users_files_stay_with_their_directories(made: Path, box: Path) -> None:
    """Also in directories that we made, and what was there before us."""
    (box / "etc").mkdir(parents=True)
    put(box, "bash", "editor", root=made, adopt=True)
    mine = {"etc/alternatives/mine": "1", "usr/bin/mine": "2", "root/.profile": "3"}
    for name, text in mine.items():
        (box / name).parent.mkdir(exist_ok=True)
        (box / name).write_text(text)
    (box / "etc/alternatives/link").symlink_to("/nowhere")
    os.mkfifo(box / "usr/lib/fifo")
    _remove(box, "editor", "bash")
    assert mine == {name: (box / name).read_text() for name in mine}
    left = dump(box)
    assert {"/etc", "/etc/alternatives", "/etc/alternatives/link", "/usr/lib/fifo"} <= left.keys()
    assert "/etc/alternatives/editor" not in left
    assert LIB not in left


@pytest.mark.parametrize("word", ["ls", "/usr/bin/ls", "usr/bin/ls", "/usr//bin/./ls"])
def test_a_program_is_named_as_it_was_added_or_by_its_path(made: Path, box: Path, word: str) -> None:
    """Its path in the box, not on the host."""
    put(box, "bash", "ls", root=made)
    _remove(box, word)
    assert not (box / "usr/bin/ls").exists()
    assert inside(box, "/usr/bin/bash").returncode == 6


@pytest.mark.parametrize("is_whole", [True, False])
def test_what_was_put_in_by_path_is_named_as_such(made: Path, box: Path, is_whole: bool) -> None:
    """SRC:DEST as given, or DEST."""
    word = f"{made}/usr/bin/fixed:/opt/odd"
    put(box, "bash", word, root=made)
    put(box.with_name("fresh"), "bash", root=made)
    _remove(box, word if is_whole else "/opt/odd")
    assert settled(box.with_name("fresh")) == settled(box)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--file", "hosts:/etc/"), "hosts:/etc/"),
        (("--file", "hosts:/etc/"), "hosts:/etc/hosts"),
        (("--file", "hosts:/etc/hosts"), "./hosts://etc/./hosts"),
        (("./../here/odd:/usr/local/bin/",), "./../here/odd:/usr/local/bin/"),
        (("./../here/odd:/usr/local/bin/",), "odd:/usr/local/bin//odd"),
        (("--file", "link:/srv/"), "link:/srv/"),
        (("--dir", "tree:/srv/x/"), "tree:/srv/x/"),
        (("--dir", "tree/:/srv/x"), "./tree/:/srv/x/"),
        (("--exclude", "/etc/"), "exclude:/etc/"),
        (("--exclude", "//etc//pass*d"), "exclude://etc//pass*d"),
        (("--unmanaged", "/etc/"), "unmanaged:/etc/"),
        (("--unmanaged", "/etc/passwd"), "unmanaged:/etc/passwd/"),
    ],
)
def test_what_was_added_is_removed_by_the_same_word(
    made: Path, box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], word: str
) -> None:
    """And by others that mean the same."""
    here = tmp_path / "here"
    (here / "tree").mkdir(parents=True)
    for name in ("hosts", "tree/file"):
        (here / name).write_text(name)
    (here / "link").symlink_to("hosts")
    shutil.copy(made / "usr/bin/fixed", here / "odd")
    monkeypatch.chdir(here)
    for place in (box, box.with_name("fresh")):
        put(place, "bash", root=made)
    done = forked("add", *options, "--into", box, "--sysroot", made)
    assert done.returncode == 0, done
    assert settled(box.with_name("fresh")) != settled(box)
    _remove(box, word)
    assert _requests(box.with_name("fresh")) == _requests(box) == ["bash"]
    assert dump(box.with_name("fresh")) == dump(box)


@pytest.mark.parametrize(
    ("directory", "added", "word"),
    [
        ("etc", ("--file", "os-release"), "os-release"),
        ("etc", ("--file", "../etc/os-release"), "./os-release"),
        ("usr/bin", ("./ls",), "./ls"),
        ("usr/lib", ("../bin/ls",), "../bin/ls"),
        ("", ("--dir", "etc/alternatives"), "etc/alternatives"),
    ],
)
def test_a_path_that_begins_where_the_caller_is_is_one_of_the_source_root(
    made: Path, box: Path, monkeypatch: pytest.MonkeyPatch, directory: str, added: tuple[str, ...], word: str
) -> None:
    monkeypatch.chdir(made / directory)
    put(box, "bash", root=made)
    done = forked("add", *added, "--into", box, "--sysroot", made)
    assert done.returncode == 0, done
    _remove(box, word)
    assert _requests(box) == ["bash"]


def test_another_word_removes_nothing(made: Path, box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither another source for the same place, nor a rule of the other type."""
    monkeypatch.chdir(tmp_path)
    for name in ("hosts", "others"):
        (tmp_path / name).write_text(name)
    put(box, "bash", root=made)
    done = forked("add", "--file", "hosts:/etc/", "--exclude", "/etc/x", "--into", box, "--sysroot", made)
    assert done.returncode == 0, done
    for word in (
        "others:/etc/hosts",
        "others:/etc/",
        "hosts:/",
        "hosts:etc/",
        "unmanaged:/etc/x",
        "exclude:/etc/../x",
        "exclude:",
        "hosts",
    ):
        assert "was never added" in _remove(box, word, status=1), word


@pytest.mark.parametrize(
    "words",
    [
        ("nothing",),
        ("bsh",),
        ("ls", "nothing"),
        ("/usr/bin",),
        ("",),
        ("/",),
        ("/usr/lib/ls",),
        ("libtinfo.so.6",),
        ("\udcff",),
        ("sh",),
    ],
)
def test_what_was_never_added_cannot_be_removed(made: Path, box: Path, words: tuple[str, ...]) -> None:
    """Everything stays, the other names too; what is near is told."""
    put(box, "bash", "ls", root=made)
    before = state(box)
    said = _remove(box, *words, status=1)
    assert "was never added" in said
    assert ("near: bash" in said) == (words in (("bsh",), ("sh",)))
    assert {**before, "/.jailbuild/lock": ""} == {**state(box), "/.jailbuild/lock": ""}


@pytest.mark.parametrize("what", ["bytes", "mode", "owner", "a link", "another link", "a directory", "a FIFO"])
def test_what_the_user_changed_is_a_conflict(made: Path, box: Path, what: str) -> None:
    """Everything stays as it was, the path is named, and --json marks it; --replace lets it go."""
    put(box, "bash", "editor", root=made)
    put(box.with_name("fresh"), "bash", root=made)
    path = "/usr/bin/editor" if what == "another link" else "/usr/bin/vim.basic"
    file = Path(f"{box}{path}")
    if what == "bytes":
        file.write_text("mine")
    elif what == "mode":
        file.chmod(0o700)
    elif what == "owner":
        os.chown(file, 1, 1)
    else:
        file.unlink()
        if what == "a directory":
            file.mkdir()
        elif what == "a FIFO":
            os.mkfifo(file)
        else:
            file.symlink_to("bash")
    before = state(box)
    assert f" {path}: " in _remove(box, "editor", status=1)
    lines = objects(forked("remove", "editor", "--from", box, "--json"))
    assert [path] == [line["path"] for line in lines if line["kind"] == "conflict"]
    assert before == state(box)
    _remove(box, "editor", "--replace", path, status=1 if what == "a directory" else 0)
    if what == "a directory":
        assert before == state(box)
    else:
        assert settled(box.with_name("fresh")) == settled(box)


def test_what_the_user_took_away_is_no_conflict(made: Path, box: Path) -> None:
    """It is gone already."""
    put(box, "bash", "editor", root=made)
    put(box.with_name("fresh"), "bash", root=made)
    (box / "usr/bin/vim.basic").unlink()
    shutil.rmtree(box / "etc")
    _remove(box, "editor")
    assert settled(box.with_name("fresh")) == settled(box)


def test_a_dry_run_says_what_would_go(made: Path, box: Path) -> None:
    """The very plan, as lines or as JSON; nothing is written."""
    put(box, "bash", "editor", root=made)
    before = state(box)
    plan = objects(forked("remove", "editor", "--from", box, "--dry-run", "--json"))
    assert before == state(box)
    there = dump(box).keys()
    _remove(box, "editor")
    assert there - dump(box).keys() == {line["path"] for line in plan if line["kind"] == "remove"}
    assert dump(box).keys() == {line["path"] for line in plan if line["kind"] == "keep"}


@pytest.mark.parametrize("what", ["nothing", "a directory", "a file", "a box"])
def test_where_there_is_no_box_or_nothing_to_do(made: Path, box: Path, what: str) -> None:
    """One line; nothing is made."""
    if what == "a directory":
        box.mkdir()
    elif what == "a file":
        box.write_text("")
    elif what == "a box":
        put(box, "bash", root=made)
    before = os.listdir(box) if box.is_dir() else None
    _remove(box, "ls", status=1)
    assert before == (os.listdir(box) if box.is_dir() else None)
