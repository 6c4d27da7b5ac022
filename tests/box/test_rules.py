"""--exclude and --unmanaged: what never comes, and what is the user's for good."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.box import tiny
from tests.box.running import Done, complaint, dump, entries, forked, manifest, objects

RECIPE = """title = "A tool"
[when]
program = ["tool"]
[bring]
files = ["/etc/tool.conf", "/etc/current"]
[[bring.tree]]
path = "/usr/share/tool"
"""


@pytest.fixture
def root(sysroot: Path) -> Path:
    """A root with a program that a recipe knows."""
    tiny.program(sysroot / "usr/bin/tool", sysroot / tiny.LIBRARIES / "libtinfo.so.6.4")
    for path in ("etc/tool.conf", "etc/v1", "usr/share/tool/a.pyc", "usr/share/tool/b/c.pyc", "usr/share/tool/b/d.py"):
        (sysroot / path).parent.mkdir(parents=True, exist_ok=True)
        (sysroot / path).write_text(path)
    (sysroot / "etc/current").symlink_to("v1")
    tiny.backdate(sysroot)
    return sysroot


@pytest.fixture
def options(root: Path, tmp_path: Path) -> tuple[str | Path, ...]:
    """The options that name the root and its recipe."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/tool.toml").write_text(RECIPE)
    return ("--sysroot", root, "--recipes", tmp_path / "recipes", "--no-sync")


def _add(box: Path, *words: str | Path, status: int = 0) -> Done:
    done = forked("add", *words, "--into", box)
    assert status == done.returncode, done
    return done


def _update(box: Path, *words: str | Path, status: int = 0) -> Done:
    done = forked("update", box, *words)
    assert status == done.returncode, done
    return done


def _remove(box: Path, *words: str) -> Done:
    done = forked("remove", *words, "--from", box, "--no-sync")
    assert not done.returncode, done
    return done


def _requests(box: Path) -> list[str]:
    return [f"{line['type']} {line['name']}" for line in manifest(box) if line["kind"] == "request"]


# exclude


@pytest.mark.parametrize(
    ("pattern", "gone"),
    [
        ("/etc/tool.conf", {"/etc/tool.conf"}),
        ("/usr/share/tool/*.pyc", {"/usr/share/tool/a.pyc"}),
        ("/usr/share/**.pyc", {"/usr/share/tool/a.pyc", "/usr/share/tool/b/c.pyc"}),
        ("/**/*.pyc", {"/usr/share/tool/a.pyc", "/usr/share/tool/b/c.pyc"}),
        ("/usr/share/tool/b", {"/usr/share/tool/b", "/usr/share/tool/b/c.pyc", "/usr/share/tool/b/d.py"}),
        (
            "/usr/s*/tool",
            {
                "/usr/share",
                "/usr/share/tool",
                "/usr/share/tool/a.pyc",
                "/usr/share/tool/b",
                "/usr/share/tool/b/c.pyc",
                "/usr/share/tool/b/d.py",
            },
        ),
        ("/etc/current", {"/etc/current", "/etc/v1"}),  # nothing else leads to v1
        ("/etc/v1", {"/etc/current", "/etc/v1"}),  # and this link would lead nowhere
        ("/nothing/fits", set()),
    ],
)
def test_what_is_excluded_never_comes_and_nothing_that_only_it_leads_to(
    box: Path, options: tuple[str | Path, ...], tmp_path: Path, pattern: str, gone: set[str]
) -> None:
    _add(tmp_path / "whole", "tool", *options)
    _add(box, "tool", "--exclude", pattern, *options)
    assert dump(tmp_path / "whole").keys() - dump(box).keys() == gone
    assert not gone & entries(box).keys()
    assert _requests(box) == [f"exclude {pattern}", "program tool"]
    before = dump(box, contents=True, record=True)
    _update(box, *options)
    _add(box, "ls", *options)
    _remove(box, "ls")
    assert dump(box, contents=True, record=True).keys() == before.keys()


def test_an_exclude_takes_out_what_is_in_the_box_and_is_taken_back(box: Path, options: tuple[str | Path, ...]) -> None:
    _add(box, "tool", *options)
    whole = dump(box, contents=True)
    _add(box, "--exclude", "/etc/tool.conf", *options)
    assert "/etc/tool.conf" not in dump(box)
    assert "/etc/tool.conf kept out comes with the next" in _remove(box, "exclude:/etc/tool.conf").stderr
    assert "/etc/tool.conf" not in dump(box)  # the host is not read
    _update(box, *options)
    assert dump(box, contents=True) == whole


def test_what_the_user_deleted_can_stay_deleted(box: Path, options: tuple[str | Path, ...]) -> None:
    _add(box, "tool", *options)
    (box / "etc/tool.conf").unlink()
    _add(box, "--exclude", "/etc/tool.conf", *options)
    _update(box, *options)
    assert not (box / "etc/tool.conf").exists()
    assert forked("check", box).returncode == 0


def test_what_the_user_changed_stays_when_it_is_excluded(box: Path, options: tuple[str | Path, ...]) -> None:
    _add(box, "tool", *options)
    (box / "etc/tool.conf").write_text("mine")
    done = _update(box, "--exclude", "/etc/tool.conf", *options)
    assert "/etc/tool.conf was changed in the box: it is yours, and stays as it is" in done.stderr
    assert (box / "etc/tool.conf").read_text() == "mine"
    assert "/etc/tool.conf" not in entries(box)
    _update(box, *options)
    assert (box / "etc/tool.conf").read_text() == "mine"


def test_an_excluded_library_leaves_its_program_with_missing_library(
    box: Path, options: tuple[str | Path, ...]
) -> None:
    """By the name that the user sees, through the links of a merged /usr."""
    _add(box, "tool", "bash", "--exclude", "/lib/x86_64-linux-gnu/libtinfo.so.6*", *options)
    found = [one for one in objects(forked("check", box, "--json")) if one.get("severity") == "error"]
    assert {(one["code"], one["path"], one["subject"]) for one in found} == {
        ("missing-library", f"/usr/bin/{name}", "libtinfo.so.6") for name in ("tool", "bash")
    }
    _update(box, *options)
    assert not list((box / tiny.LIBRARIES).glob("libtinfo*"))


@pytest.mark.parametrize(
    "words",
    [
        ("--file", "{mine}:/etc/motd", "--exclude", "/etc/mo*"),
        ("{mine}:/opt/prog", "--exclude", "/opt/prog"),
        ("--dir", "{tree}:/opt/tree", "--exclude", "/opt/**"),
        ("bash", "--exclude", "/usr/bin/bash"),
        ("editor", "--exclude", "/usr/bin/vim.basic"),  # what its links lead to
        ("--exclude", "/usr/bin/tool"),  # which the box has
    ],
)
def test_what_is_asked_for_and_excluded_is_an_error_that_names_both(
    box: Path, options: tuple[str | Path, ...], tmp_path: Path, words: tuple[str, ...]
) -> None:
    tiny.script(tmp_path / "mine", "#!/usr/bin/sh")
    (tmp_path / "tree").mkdir()
    _add(box, "tool", *options)
    before = dump(box, contents=True, record=True)
    given = [word.format(mine=tmp_path / "mine", tree=tmp_path / "tree") for word in words]
    done = _add(box, *given, *options, status=1)
    assert words[-1] in complaint(done)
    assert "never comes" in done.stderr
    assert dump(box, contents=True, record=True) == before


def test_below_a_directory_that_was_asked_for_exclude_wins(
    box: Path, options: tuple[str | Path, ...], tmp_path: Path
) -> None:
    (tmp_path / "tree").mkdir()
    for name in ("a", "b.bak"):
        (tmp_path / "tree" / name).write_text(name)
    for words in (("--dir", f"{tmp_path}/tree:/opt/tree", "--exclude", "/opt/**.bak"), ("ls",)):
        _add(box, *words, *options)
        assert [path for path in dump(box) if path.startswith("/opt/tree/")] == ["/opt/tree/a"]


@pytest.mark.parametrize(
    ("option", "word", "why"),
    [
        ("--exclude", "etc/x", "does not begin with /"),
        ("--exclude", "", "does not begin with /"),
        ("--exclude", "/", "no place in a box"),
        ("--exclude", "/a/../b", "no place in a box"),
        ("--exclude", "/.jailbuild/**", "the box's own record"),
        ("--exclude", "/[z-a]", "no set of characters"),
        ("--unmanaged", "x", "does not begin with /"),
        ("--unmanaged", "/.jailbuild", "the box's own record"),
    ],
)
def test_a_rule_that_is_none_is_one_line(
    box: Path, options: tuple[str | Path, ...], option: str, word: str, why: str
) -> None:
    assert why in complaint(_add(box, "ls", option, word, *options, status=1))
    assert not box.exists()


# unmanaged


def test_what_is_unmanaged_is_put_when_absent_and_then_left(
    box: Path, options: tuple[str | Path, ...], root: Path
) -> None:
    _add(box, "tool", "--unmanaged", "/etc/tool.conf", *options)
    assert (box / "etc/tool.conf").read_text() == "etc/tool.conf"
    (box / "etc/tool.conf").write_text("mine")
    (root / "etc/tool.conf").write_text("packaged anew")
    _update(box, *options)
    _add(box, "tool", *options)
    assert (box / "etc/tool.conf").read_text() == "mine"
    assert forked("check", box).returncode == 0
    assert "tool.conf" not in forked("check", box, "--stale", *options[:4]).stdout
    (box / "etc/tool.conf").unlink()
    _update(box, *options)
    assert not (box / "etc/tool.conf").exists()  # it was put once
    assert forked("check", box).returncode == 0
    (box / "etc/tool.conf").mkdir()
    _update(box, *options)
    (box / "etc/tool.conf").rmdir()
    (box / "etc/tool.conf").write_text("mine again")
    _remove(box, "tool")
    assert (box / "etc/tool.conf").read_text() == "mine again"
    assert "/etc/tool.conf" not in entries(box)


def test_what_is_there_is_left_from_the_first(box: Path, options: tuple[str | Path, ...]) -> None:
    _add(box, "ls", *options)
    (box / "etc").mkdir(exist_ok=True)
    (box / "etc/tool.conf").write_text("mine")
    _add(box, "tool", "--unmanaged", "/etc/tool.conf", *options)
    assert (box / "etc/tool.conf").read_text() == "mine"
    assert "unlisted-file" not in forked("check", box).stdout


@pytest.mark.parametrize("how", ["--file", "--dir"])
def test_what_is_asked_for_by_path_and_unmanaged_is_put_once(
    box: Path, options: tuple[str | Path, ...], tmp_path: Path, how: str
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("first")
    word = f"{tmp_path}/data/file:/srv/data/file" if how == "--file" else f"{tmp_path}/data:/srv/data"
    for _ in range(2):
        _add(box, how, word, "--unmanaged", "/srv/data", *options)
        assert (box / "srv/data/file").read_text() == "first"
        (tmp_path / "data/file").write_text("second")


def test_a_directory_that_is_unmanaged_is_its_whole_subtree(
    box: Path, options: tuple[str | Path, ...], root: Path
) -> None:
    _add(box, "tool", "--unmanaged", "/usr/share/tool", *options)
    (box / "usr/share/tool/b/d.py").write_text("mine")
    (box / "usr/share/tool/new").write_text("mine")
    (box / "usr/share/tool/a.pyc").unlink()
    (root / "usr/share/tool/b/d.py").write_text("packaged anew")
    _update(box, *options)
    assert (box / "usr/share/tool/b/d.py").read_text() == "mine"
    assert not (box / "usr/share/tool/a.pyc").exists()
    found = [one for one in objects(forked("check", box, "--json")) if "/usr/share/tool" in str(one.get("path"))]
    assert found == []
    _remove(box, "tool")
    assert (box / "usr/share/tool/new").read_text() == (box / "usr/share/tool/b/d.py").read_text() == "mine"


def test_links_that_are_the_users_may_lead_nowhere(box: Path, options: tuple[str | Path, ...]) -> None:
    """One that was put there before it became theirs, and stays, and one of their own; no other."""
    _add(box, "ls", "tool", "--unmanaged", "/etc/current", "--unmanaged", "/srv", *options)
    (box / "srv").mkdir()
    (box / "srv/own").symlink_to("/nowhere")
    _remove(box, "tool")
    assert (box / "etc/current").is_symlink() and not (box / "etc/v1").exists()
    (box / "elsewhere").symlink_to("/nowhere")
    found = [one for one in objects(forked("check", box, "--json")) if one["kind"] == "finding"]
    assert [(one["code"], one["path"]) for one in found if one["severity"] == "error"] == [
        ("dangling-link", "/elsewhere")
    ]


def test_unmanaged_is_taken_back(box: Path, options: tuple[str | Path, ...]) -> None:
    """Then the file is compared again, and what the user changed is theirs by hand."""
    _add(box, "tool", "--unmanaged", "/etc/tool.conf", *options)
    (box / "etc/tool.conf").write_text("mine")
    _remove(box, "unmanaged:/etc/tool.conf")
    assert _requests(box) == ["program tool"]
    assert (box / "etc/tool.conf").read_text() == "mine"
    assert "changed-file" in forked("check", box).stdout


@pytest.mark.parametrize("died", [*range(1, 60, 3)])
def test_what_is_let_go_of_survives_a_kill_at_any_step(box: Path, options: tuple[str | Path, ...], died: int) -> None:
    """What is no longer listed and stays in the box is never removed, by whoever finishes the change."""
    _add(box, "tool", "bash", "--unmanaged", "/etc/tool.conf", *options)
    (box / "usr/share/tool/b/d.py").write_text("mine")
    forked("remove", "tool", "--from", box, "--no-sync", "--replace", "/usr/share/tool/b/d.py", die_at=died)
    forked("list", box)
    assert (box / "etc/tool.conf").read_text() == "etc/tool.conf"
