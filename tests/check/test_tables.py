"""check: of passwd, group and shadow, merged line by line, our lines are held to the manifest, and no more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.box import tiny
from tests.box.running import add, put, run
from tests.check.asking import findings

ALICE = "alice:x:1000:1000::/home/alice:/bin/sh\n"


@pytest.fixture
def people(root: Path) -> Path:
    """A root with users."""
    (root / "etc/passwd").write_text(
        "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/var/www:/bin/false\nmail:x:8:8::/var/mail:/bin/false\n"
    )
    (root / "etc/group").write_text("root:x:0:\nweb:x:33:mail\nmail:x:8:web\n")
    tiny.backdate(root)
    return root


@pytest.fixture
def box(people: Path, tmp_path: Path) -> Path:
    """A box that has one of them."""
    put(tmp_path / "mine", "ls", root=people)
    add(tmp_path / "mine", "--user", "web", sysroot=people)
    return tmp_path / "mine"


def _told(box: Path, *options: str | Path) -> list[tuple[str, str, str]]:
    return [(one["code"], one["path"], one["message"]) for one in findings(run("check", box, "--json", *options))]


@pytest.mark.parametrize(
    ("table", "write"),
    [
        ("passwd", lambda text: text + ALICE),
        ("passwd", lambda text: ALICE + text),
        ("passwd", lambda text: f"# mine\n\n{text}no line"),
        ("passwd", lambda text: "".join(reversed(text.splitlines(keepends=True)))),
        ("group", lambda text: f"{text}alice:x:1000:\n"),
        ("group", lambda text: text.replace("web:x:33:\n", "web:x:33:alice\n")),
    ],
)
def test_lines_of_the_users_beside_ours_are_no_finding(box: Path, people: Path, table: str, write: object) -> None:
    """Nor are members that the user added to a group; a source root that is the same makes nothing stale."""
    assert callable(write)
    file = box / "etc" / table
    file.write_text(write(file.read_text()))
    assert _told(box) == []
    assert _told(box, "--stale", "--sysroot", people) == []


@pytest.mark.parametrize(
    ("table", "old", "new", "said"),
    [
        ("passwd", "web:x:33:33", "web:x:0:0", "the line of web was changed"),
        ("passwd", "web:x:33:33", "wob:x:33:33", "the line of web is gone"),
        ("passwd", "root:", "root:x:0:0::/:/bin/sh\nroot:", "the line of root was changed"),  # the first one counts
        ("group", "web:x:33:", "web:x:34:", "the line of web was changed"),
        ("group", "web:x:33:\n", "", "the line of web is gone"),
    ],
)
def test_a_line_of_ours_that_is_not_as_it_was_is_named(box: Path, table: str, old: str, new: str, said: str) -> None:
    """The hint loses nothing: it shows the line as it was, or is the command that puts it in again."""
    file = box / "etc" / table
    before = file.read_text()
    assert old in before
    file.write_text(ALICE * (table == "passwd") + before.replace(old, new, 1))
    (one,) = findings(run("check", box, "--json"))
    assert (one["code"], one["path"]) == ("changed-file", f"/etc/{table}")
    assert f"/etc/{table}: {said}" == one["message"]
    if "changed" in said:
        assert any(one["hint"] == f"put it back as it was: {line}" for line in before.splitlines())
    else:
        assert one["hint"].startswith("jailbuild add ")


def test_what_the_hint_says_puts_a_line_back_and_keeps_the_users(box: Path, people: Path) -> None:
    file = box / "etc/passwd"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([ALICE, *(line for line in lines if not line.startswith("web:"))]))
    (one,) = findings(run("check", box, "--json"))
    *_, verb, option, name, into, place = one["hint"].split()
    assert (verb, option, name, into, place) == ("add", "--user", "web", "--into", str(box))
    add(box, option, name, sysroot=people)
    assert sorted([ALICE, *lines]) == sorted(file.read_text().splitlines(keepends=True))
    assert _told(box) == []


def test_a_line_that_the_user_had_before_is_theirs(people: Path, tmp_path: Path) -> None:
    """It was kept when we would have put in another of its name."""
    box = tmp_path / "kept"
    put(box, "ls", root=people)
    add(box, "--with", "users", sysroot=people)
    (box / "etc/passwd").write_text((box / "etc/passwd").read_text() + "web:x:5:5::/:/bin/sh\n")
    add(box, "--user", "web", sysroot=people)
    assert "web:x:5:5" in (box / "etc/passwd").read_text()
    assert _told(box) == []
    (box / "etc/passwd").write_text((box / "etc/passwd").read_text().replace("web:x:5:5", "web:x:6:6"))
    assert _told(box) == []


def test_mode_and_owner_of_a_table_are_compared_still(box: Path) -> None:
    (box / "etc/passwd").write_text((box / "etc/passwd").read_text() + ALICE)
    (box / "etc/passwd").chmod(0o600)
    assert [code for code, _, _ in _told(box)] == ["wrong-mode"]


def test_a_table_that_is_something_else_now_is_reported(box: Path) -> None:
    """Through a link nothing is read: it may lead to a file of the host's."""
    (box / "etc/passwd").rename(box / "etc/there")
    (box / "etc/passwd").symlink_to("there")
    assert ("changed-file", "/etc/passwd", "/etc/passwd is a link now, and was a file") in _told(box)


def test_a_table_that_is_too_large_is_not_read(box: Path) -> None:
    with (box / "etc/passwd").open("ab") as file:
        file.truncate(1 << 30)
    assert [code for code, _, _ in _told(box)] == ["unreadable"]


def test_a_manifest_that_says_nothing_of_lines_goes_by_the_whole_file(box: Path) -> None:
    """As one of version 0.1, whose entries have no lines."""
    record = box / ".jailbuild/manifest.jsonl"
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    for line in lines:
        line.pop("lines", None)
    record.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (box / "etc/passwd").write_text((box / "etc/passwd").read_text() + ALICE)
    assert [(code, path) for code, path, _ in _told(box)] == [("changed-file", "/etc/passwd")]
