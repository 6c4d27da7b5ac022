"""Whose is a path: what was asked for by path goes before all else, what the user changed by hand stays."""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

import pytest

from tests.box import tiny
from tests.box.running import Done, complaint, dump, entries, forked, manifest, objects

RECIPES = {
    "tool.toml": """title = "A tool"
[when]
program = ["tool"]
[bring]
files = ["/etc/tool/tool.conf", "/etc/tool/current"]
[[bring.directory]]
path = "/var/lib/tool"
mode = "0700"
[[bring.made]]
path = "/etc/tool/made.conf"
content = "made"
""",
}


@pytest.fixture
def root(sysroot: Path) -> Path:
    """A root with a program that a recipe knows: it brings a file, a link with what it leads to, a directory."""
    tiny.program(sysroot / "usr/bin/tool", sysroot / tiny.LIBRARIES / "libtinfo.so.6.4")
    (sysroot / "etc/tool").mkdir()
    (sysroot / "etc/tool/tool.conf").write_text("packaged")
    (sysroot / "etc/tool/v1.conf").write_text("v1")
    (sysroot / "etc/tool/current").symlink_to("v1.conf")
    (sysroot / "var/lib/tool").mkdir(parents=True)
    tiny.backdate(sysroot)
    return sysroot


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    """A directory with the recipe."""
    place = tmp_path / "recipes"
    place.mkdir()
    for name, text in RECIPES.items():
        (place / name).write_text(text)
    return place


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A file and a directory of the user's."""
    (tmp_path / "my.conf").write_text("mine")
    (tmp_path / "tree/below").mkdir(parents=True)
    (tmp_path / "tree/below/data").write_text("data")
    (tmp_path / "tree/link").symlink_to("below")
    (tmp_path / "tree").chmod(0o750)
    return tmp_path


class _Box:
    """A box, and the commands that change it."""

    def __init__(self, place: Path, root: Path, recipes: Path) -> None:
        self.place = place
        self.options = ("--sysroot", root, "--recipes", recipes)

    def add(self, *words: str | Path, status: int = 0) -> Done:
        return self._held(forked("add", *words, "--into", self.place, *self.options, "--no-sync"), status)

    def update(self, *words: str | Path, status: int = 0) -> Done:
        return self._held(forked("update", self.place, *words, *self.options, "--no-sync"), status)

    def remove(self, *words: str | Path, status: int = 0) -> Done:
        return self._held(forked("remove", *words, "--from", self.place, "--no-sync"), status)

    def _held(self, done: Done, status: int) -> Done:
        assert status == done.returncode, done
        return done

    def __truediv__(self, path: str) -> Path:
        return self.place / path


@pytest.fixture
def box(tmp_path: Path, root: Path, recipes: Path) -> _Box:
    """Where a box may be made."""
    return _Box(tmp_path / "box", root, recipes)


def _asked(box: _Box) -> list[str]:
    return [f"{line['type']} {line['name']}" for line in manifest(box.place) if line["kind"] == "request"]


# by request: in every order of commands


WHAT = {
    "a file": (("--file", "{mine}/my.conf:/etc/tool/tool.conf"), "etc/tool/tool.conf"),
    "a file for a link": (("--file", "{mine}/my.conf:/etc/tool/current"), "etc/tool/current"),
    "a file for a made one": (("--file", "{mine}/my.conf:/etc/tool/made.conf"), "etc/tool/made.conf"),
    "a program": (("{mine}/prog:/etc/tool/tool.conf",), "etc/tool/tool.conf"),
    "a directory": (("--dir", "{mine}/tree:/var/lib/tool/own"), "var/lib/tool/own"),
    "a directory for one that a recipe makes": (("--dir", "{mine}/tree:/opt/tool"), "opt/tool"),
}
ORDERS = {
    "at once": (("tool", "own"),),
    "the program first": (("tool",), ("own",)),
    "the program last": (("own",), ("tool",)),
    "an update after": (("tool", "own"), ()),
    "an update between": (("own",), (), ("tool",), ()),
}


@pytest.mark.parametrize("what", WHAT)
def test_what_was_asked_for_by_path_goes_before_in_every_order(
    box: _Box, root: Path, recipes: Path, mine: Path, what: str
) -> None:
    """And the box is the same, record and all, whatever the order."""
    more = '[[bring.directory]]\npath = "/opt/tool"\nmode = "0711"\n'
    (recipes / "tool.toml").write_text(RECIPES["tool.toml"] + more)
    tiny.script(mine / "prog", "#!/bin/sh")
    words = tuple(word.format(mine=mine) for word in WHAT[what][0])
    seen = set()
    for number, order in enumerate(ORDERS.values()):
        one = _Box(box.place.with_name(f"box{number}"), root, recipes)
        for step in order:
            parts = {"tool": ("tool",), "own": words}
            if step:
                one.add(*itertools.chain.from_iterable(parts[part] for part in step))
            else:
                one.update()
        target = one / WHAT[what][1]
        if target.is_dir():
            assert (target / "below/data").read_text() == "data"
            assert os.readlink(target / "link") == "below"
            assert target.stat().st_mode & 0o777 == 0o750
        else:
            assert target.read_bytes() == (mine / ("prog" if what == "a program" else "my.conf")).read_bytes()
            assert not target.is_symlink()
        assert (one / "usr/bin/tool").exists()
        seen.add((one / ".jailbuild/manifest.jsonl").read_bytes())
    assert len(seen) == 1


def test_a_dry_run_says_what_goes_before(box: _Box, mine: Path) -> None:
    box.add("--file", f"{mine}/my.conf:/etc/tool/tool.conf")
    words = box.add("tool", "--dry-run")
    assert "note: /etc/tool/tool.conf: asked for by path, which goes before" in words.stderr
    box.add("tool")
    done = box.update("--dry-run", "-v")
    assert "keep     /etc/tool/tool.conf\n" in done.stdout
    assert "/etc/tool/tool.conf was put in by path, and stays as it is" in done.stderr


def test_what_stays_when_one_of_two_requests_goes(box: _Box, mine: Path) -> None:
    """The user's file stays without the program; without the request the next update takes the packaged one."""
    box.add("tool", "--file", f"{mine}/my.conf:/etc/tool/tool.conf")
    box.remove("tool")
    assert (box / "etc/tool/tool.conf").read_text() == "mine"
    assert not (box / "etc/tool/v1.conf").exists()
    box.add("tool")
    assert (box / "etc/tool/tool.conf").read_text() == "mine"
    box.remove("/etc/tool/tool.conf")
    assert (box / "etc/tool/tool.conf").read_text() == "mine"  # the host is not read
    box.update()
    assert (box / "etc/tool/tool.conf").read_text() == "packaged"


def test_a_source_that_is_named_again_counts(box: _Box, mine: Path) -> None:
    (mine / "other.conf").write_text("other")
    box.add("tool", "--file", f"{mine}/my.conf:/etc/tool/tool.conf")
    box.update("--file", f"{mine}/other.conf:/etc/tool/tool.conf")
    assert (box / "etc/tool/tool.conf").read_text() == "other"
    box.add("--file", f"{mine}/my.conf:/etc/tool/tool.conf")
    assert (box / "etc/tool/tool.conf").read_text() == "mine"
    assert _asked(box) == ["file /etc/tool/tool.conf", "program tool"]


@pytest.mark.parametrize("first", ["tool", "own"])
def test_what_is_below_a_file_or_link_of_the_users_does_not_come(box: _Box, root: Path, mine: Path, first: str) -> None:
    """A recipe's file in a directory where the user has a link: the link stays, and nothing is written through it."""
    (mine / "other").mkdir()
    (mine / "conf").mkdir()
    (mine / "conf/tool").symlink_to("elsewhere")
    (root / "etc/elsewhere").mkdir()
    own = ("--dir", f"{mine}/conf:/etc")
    if first == "own":
        (root / "etc/tool").rename(root / "etc/away")
        box.add(*own)
        (root / "etc/away").rename(root / "etc/tool")
        box.add("tool")
        assert os.readlink(box / "etc/tool") == "elsewhere"
        assert not [path for path in entries(box.place) if path.startswith("/etc/tool/")]
        box.update()
    else:
        box.add("tool")
        done = box.add(*own, status=1)
        assert "/etc/tool" in complaint(done) if len(done.stderr.splitlines()) <= 2 else True
        assert (box / "etc/tool/tool.conf").read_text() == "packaged"
        return
    assert os.readlink(box / "etc/tool") == "elsewhere"
    assert (box / "usr/bin/tool").exists()


def test_two_requests_for_one_path_are_refused_in_any_order(box: _Box, mine: Path) -> None:
    """As in one command; from one file they agree."""
    file = ("--file", f"{mine}/my.conf:/srv/below/data")
    tree = ("--dir", f"{mine}/tree:/srv")
    assert "comes there too" in complaint(box.add(*file, *tree, status=1))
    box.add(*file)
    assert "comes there too" in complaint(box.add(*tree, status=1))
    assert (box / "srv/below/data").read_text() == "mine"
    box.remove("/srv/below/data")
    box.add(*tree)
    assert "comes there too" in complaint(box.add(*file, status=1))
    assert (box / "srv/below/data").read_text() == "data"
    box.add("--file", f"{mine}/tree/below/data:/srv/below/data")
    assert _asked(box) == ["directory /srv", "file /srv/below/data"]


def test_what_stands_in_a_programs_own_place_is_that_program(box: _Box, root: Path, mine: Path) -> None:
    """It stays as it is with what it needs; an update finds nothing to do."""
    tiny.program(mine / "prog", root / tiny.LIBRARIES / "libpcre.so.8.1")
    box.add("tool", f"{mine}/prog:/usr/bin/tool")
    before = dump(box.place, contents=True)
    assert "is up to date" in box.update("--dry-run").stderr
    box.update()
    assert dump(box.place, contents=True) == before
    box.add("tool")
    box.update()
    assert (box / "usr/bin/tool").read_bytes() == (mine / "prog").read_bytes()
    assert dump(box.place, contents=True) == before


@pytest.mark.parametrize("text", ["#!/usr/bin/moving\n", "no program\n"])
@pytest.mark.parametrize("path", ["/usr/bin/sh", "/usr/bin/tool", f"/{tiny.LIBRARIES}/libtinfo.so.6.4"])
def test_a_box_with_the_users_file_for_a_needed_one_can_be_updated(
    box: _Box, root: Path, mine: Path, path: str, text: str
) -> None:
    """In the place of a program, its interpreter or its library; the source root's own brings nothing more."""
    tiny.script(root / "usr/bin/script", "#!/usr/bin/sh")
    (mine / "prog").write_text(text)
    box.add("ls", "--file", f"{mine}/prog:{path}")
    box.add("script", "tool")
    before = dump(box.place, contents=True)
    assert "is up to date" in box.update("--dry-run").stderr
    box.update()
    assert dump(box.place, contents=True) == before
    assert (box.place / path[1:]).read_text() == text


def test_a_passwd_of_the_users_is_not_whom_the_source_root_knows(box: _Box, people: Path, mine: Path) -> None:
    (mine / "passwd").write_text(ALICE)
    done = box.add("tool", "--user", "mail", "--file", f"{mine}/passwd:/etc/passwd")
    assert "/etc/passwd: asked for by path" in done.stderr
    assert "finds no user" not in done.stderr
    assert (box / "etc/passwd").read_text() == ALICE
    box.update()
    assert (box / "etc/passwd").read_text() == ALICE


def test_what_others_want_of_a_request_that_goes_is_told(box: _Box, mine: Path) -> None:
    box.add("tool", "--file", f"{mine}/my.conf:/etc/tool/tool.conf")
    note = "/etc/tool/tool.conf: no longer yours by request, and others want it: the next jailbuild update takes"
    assert note in box.remove("/etc/tool/tool.conf", "--dry-run").stderr
    assert note in box.remove("/etc/tool/tool.conf").stderr


def test_what_the_user_names_is_no_change_of_the_source_root(box: _Box, root: Path, mine: Path) -> None:
    box.add("tool")
    assert "the source root has changed" not in box.add("--file", f"{mine}/my.conf:/etc/tool/tool.conf").stderr
    with (root / tiny.LIBRARIES / "libtinfo.so.6.4").open("ab") as library:
        library.write(b"upgraded")
    assert "the source root has changed" in box.add("bash").stderr


@pytest.mark.parametrize("unmanaged", ["/etc/tool/tool.conf", "/etc/tool"])
def test_what_is_unmanaged_and_then_asked_for_is_left(box: _Box, mine: Path, unmanaged: str) -> None:
    box.add("tool", "--unmanaged", unmanaged)
    done = box.add("--file", f"{mine}/my.conf:/etc/tool/tool.conf")
    assert "/etc/tool/tool.conf is unmanaged, and stays as it is" in done.stderr
    assert (box / "etc/tool/tool.conf").read_text() == "packaged"
    box.update()


# requests are known by the path that was asked for


def test_two_requests_that_lead_to_one_file_are_two(box: _Box, root: Path) -> None:
    (root / "usr/lib/os-release").write_bytes((root / "etc/os-release").read_bytes())
    (root / "etc/os-release").unlink()
    (root / "etc/os-release").symlink_to("../usr/lib/os-release")
    box.add("--file", "/usr/lib/os-release")
    box.add("--file", "/etc/os-release")
    assert os.readlink(box / "etc/os-release") == "../usr/lib/os-release"
    assert _asked(box) == ["file /etc/os-release", "file /usr/lib/os-release"]
    box.remove("/usr/lib/os-release")
    assert (box / "etc/os-release").read_text().startswith("ID=tiny")
    box.add("--file", "/usr/lib/os-release")
    assert _asked(box) == ["file /etc/os-release", "file /usr/lib/os-release"]
    box.remove("/etc/os-release")
    assert not (box / "etc/os-release").is_symlink()
    assert (box / "usr/lib/os-release").read_text().startswith("ID=tiny")
    box.remove("/usr/lib/os-release")
    assert not (box / "usr/lib/os-release").exists()


def test_directories_and_destinations_too_are_known_by_what_was_asked_for(box: _Box, root: Path, mine: Path) -> None:
    (root / "opt/real").mkdir(parents=True)
    (root / "opt/real/file").write_text("x")
    (root / "opt/link").symlink_to("real")
    box.add("--dir", "/opt/link", "--file", f"{mine}/my.conf:/lib/my.conf", "--dir", "/opt/real")
    assert _asked(box) == ["file /lib/my.conf", "directory /opt/link", "directory /opt/real"]
    assert (box / "usr/lib/my.conf").read_text() == "mine"
    box.remove("/opt/real")
    assert os.readlink(box / "opt/link") == "real"
    assert (box / "opt/real/file").read_text() == "x"
    chain = objects(forked("why", box.place, "/opt/real/file", "--json"))[0]["steps"]
    assert [step["path"] for step in chain] == ["/opt/link", "/opt/real", "/opt/real/file"]


# by hand: a conflict only where the plan wants other bytes than before


def _change(path: Path, how: str) -> None:
    if how == "other bytes":
        path.write_text("by hand")
    elif how == "a mode":
        path.chmod(0o600)
    else:
        path.unlink()
        path.mkdir() if how == "a directory" else path.symlink_to("elsewhere")


@pytest.mark.parametrize("change", ["other bytes", "a mode", "a link", "a directory"])
@pytest.mark.parametrize("command", ["add", "add more", "update", "update --with"])
def test_what_was_changed_by_hand_stays_where_the_source_did_not(box: _Box, change: str, command: str) -> None:
    box.add("tool")
    path = box / "etc/tool/tool.conf"
    _change(path, change)
    before = dump(box.place, contents=True)
    if command.startswith("add"):
        done = box.add("ls" if command == "add more" else "tool")
    else:
        done = box.update(*(("--with", "tool") if "--with" in command else ()))
    after = dump(box.place, contents=True)
    assert {name: what for name, what in after.items() if name.startswith("/etc/")} == {
        name: what for name, what in before.items() if name.startswith("/etc/")
    }
    assert "note: /etc/tool/tool.conf was changed in the box" in done.stderr or command == "add more"


@pytest.mark.parametrize("command", ["add", "update"])
def test_what_was_changed_by_hand_is_a_conflict_where_the_source_changed_too(
    box: _Box, root: Path, command: str
) -> None:
    box.add("tool")
    (box / "etc/tool/tool.conf").write_text("by hand")
    (root / "etc/tool/tool.conf").write_text("packaged anew")
    done = box.add("tool", status=1) if command == "add" else box.update(status=1)
    assert "/etc/tool/tool.conf: it was changed in the box since" in done.stderr
    assert (box / "etc/tool/tool.conf").read_text() == "by hand"


def test_a_directory_whose_mode_was_changed_keeps_it(box: _Box, root: Path) -> None:
    box.add("tool")
    (box / "etc/tool").chmod(0o700)
    (root / "etc/tool").chmod(0o711)
    done = box.update()
    assert "/etc/tool was changed in the box (other mode), and stays as it is" in done.stderr
    assert (box / "etc/tool").stat().st_mode & 0o777 == 0o700


# passwd and group, line by line

ALICE = "alice:x:1000:1000::/home/alice:/bin/sh\n"


@pytest.fixture
def people(root: Path, recipes: Path) -> Path:
    """A root with users, and a recipe that wants one of them; `ls` wants none."""
    (root / "etc/passwd").write_text(
        "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/var/www:/bin/false\nmail:x:8:8::/var/mail:/bin/false\n"
    )
    (root / "etc/group").write_text("root:x:0:\nweb:x:33:mail\nmail:x:8:web\n")
    (recipes / "tool.toml").write_text('title = "A tool"\n[when]\nprogram = ["tool"]\n[bring]\nusers = ["web"]\n')
    tiny.backdate(root)
    return root


def _names(path: Path) -> list[str]:
    return [line.partition(":")[0] for line in path.read_text().splitlines()]


def test_a_line_of_the_users_stays_while_ours_come_and_go(box: _Box, people: Path) -> None:
    box.add("ls", "--with", "users")
    passwd = box / "etc/passwd"
    assert _names(passwd) == ["root", "nobody"]
    passwd.write_text(f"# mine\n{passwd.read_text()}{ALICE}")
    assert "nothing to do" in box.add("ls").stderr
    box.add("tool")
    assert _names(passwd) == ["# mine", "root", "nobody", "alice", "web"]
    box.add("--user", "mail")
    assert _names(passwd) == ["# mine", "root", "nobody", "alice", "web", "mail"]
    assert "web:x:33:mail\n" in (box / "etc/group").read_text()
    assert ALICE in passwd.read_text()
    box.remove("tool")
    assert _names(passwd) == ["# mine", "root", "nobody", "alice", "mail"]
    assert forked("check", box.place, "--json").returncode in (0, 3)
    done = box.remove("ls", "recipe:users", "user:mail")
    assert "/etc/passwd has lines of yours, and stays" in done.stderr
    assert _names(passwd) == ["# mine", "alice"]
    assert entries(box.place)["/etc/passwd"]["wanted_by"] == []
    assert not (box / "etc/group").exists()
    assert forked("check", box.place, "--json").returncode == 0
    box.add("tool")
    assert _names(passwd) == ["# mine", "alice", "web"]


def test_a_line_of_ours_that_the_user_changed_stays_unless_it_must_change(box: _Box, people: Path) -> None:
    box.add("tool")
    passwd = box / "etc/passwd"
    passwd.write_text(passwd.read_text().replace("/bin/false", "/bin/sh"))
    box.add("--user", "mail")
    assert "web:x:33:33::/var/www:/bin/sh\n" in passwd.read_text()
    assert "mail" in _names(passwd)
    (people / "etc/passwd").write_text((people / "etc/passwd").read_text().replace("/var/www", "/srv/www"))
    done = box.update(status=1)
    assert "/etc/passwd: it has a line that was changed in the box since: web" in done.stderr
    box.update("--replace", "/etc/passwd")
    assert "web:x:33:33::/srv/www" in passwd.read_text() or "/var/www:/bin/sh" in passwd.read_text()


def test_members_that_the_user_added_to_a_group_stay(box: _Box, people: Path) -> None:
    box.add("tool")
    group = box / "etc/group"
    assert "web:x:33:\n" in group.read_text()
    group.write_text(group.read_text().replace("web:x:33:\n", "web:x:33:alice\n"))
    box.add("--user", "mail")
    assert "web:x:33:alice,mail\n" in group.read_text()
    box.remove("user:mail")
    assert "web:x:33:alice\n" in group.read_text()


def test_a_passwd_that_was_never_ours_is_let_be(box: _Box, people: Path) -> None:
    box.add("ls")
    (box / "etc").mkdir()
    (box / "etc/passwd").write_text(ALICE)
    done = box.add("tool")
    assert "/etc/passwd is yours in the box, and stays as it is" in done.stderr
    assert (box / "etc/passwd").read_text() == ALICE


def test_a_passwd_by_request_is_not_merged(box: _Box, people: Path, mine: Path) -> None:
    (mine / "passwd").write_text(ALICE)
    box.add("--file", f"{mine}/passwd:/etc/passwd")
    box.add("tool")
    box.update()
    assert (box / "etc/passwd").read_text() == ALICE


def test_a_passwd_that_was_asked_for_goes_with_its_request(box: _Box, people: Path, mine: Path) -> None:
    """Its lines were by request, never by hand."""
    (mine / "passwd").write_text(ALICE)
    box.add("tool", "--file", f"{mine}/passwd:/etc/passwd")
    box.remove("/etc/passwd")
    box.update()
    assert _names(box / "etc/passwd") == ["web"]


def test_a_passwd_is_given_up_or_too_large_to_merge(box: _Box, people: Path) -> None:
    box.add("ls", "--with", "users")
    passwd = box / "etc/passwd"
    with passwd.open("a") as file:
        file.write("x:x:1:1::/:/x\n" * 1_300_000)
    size = passwd.stat().st_size
    assert "has more than 16 MiB in the box" in box.add("tool", status=1).stderr
    assert passwd.stat().st_size == size
    box.add("tool", "--replace", "/etc/passwd")
    assert _names(passwd) == ["root", "web", "nobody"]


def test_a_removal_puts_nothing_back(box: _Box, people: Path) -> None:
    box.add("tool", "ls")
    shutil.rmtree(box / "etc")
    box.remove("tool")
    assert not (box / "etc").exists()
    box.update()


# two that bring one path: the same in every order, and an update has nothing to do


PAIRS = {
    "a package and a file of the user's": (("--package", "pack"), ("--file", "{mine}/my.conf:/usr/bin/packed")),
    "a package and a file of the source root's": (("--package", "pack"), ("--file", "/etc/pack.conf")),
    "a recipe's tree and a directory": (("tool",), ("--dir", "{mine}/tree:/usr/share/tool")),
    "a recipe's link and a file where it leads": (("tool",), ("--file", "{mine}/my.conf:/etc/tool/v1.conf")),
    "a recipe's directory and a package's": (("tool",), ("--package", "pack")),
    "a program and what its link leads to": (("sh",), ("--file", "{mine}/prog:/usr/bin/bash")),
    "a program and its library": (("tool",), ("--file", "/lib/x86_64-linux-gnu/libtinfo.so.6")),
    "a program and itself": (("tool",), ("--file", "/usr/bin/tool")),
}


@pytest.mark.parametrize("what", PAIRS)
def test_an_update_after_two_that_bring_one_path_has_nothing_to_do(
    box: _Box, root: Path, recipes: Path, mine: Path, what: str
) -> None:
    tiny.program(mine / "prog", root / tiny.LIBRARIES / "libpcre.so.8.1")
    tiny.program(root / "usr/bin/packed", root / tiny.LIBRARIES / "libpcre.so.8.1")
    for path in ("etc/pack.conf", "usr/share/tool/a", "usr/share/tool/below/data"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)
    info = root / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    (info / "pack.list").write_text("/usr/bin/packed\n/etc/pack.conf\n/var/lib/tool\n")
    (info.parent / "status").write_text("Package: pack\nStatus: install ok installed\nVersion: 1\n")
    text = RECIPES["tool.toml"] + '[[bring.tree]]\npath = "/usr/share/tool"\n'
    (recipes / "tool.toml").write_text(text)
    tiny.backdate(root)
    first, second = (tuple(word.format(mine=mine) for word in words) for words in PAIRS[what])
    trees = []
    for number, steps in enumerate(((first + second,), (first, second), (second, first))):
        one = _Box(box.place.with_name(f"box{number}"), root, recipes)
        for step in steps:
            one.add(*step)
        before = dump(one.place, contents=True)
        done = one.update("--dry-run")
        assert "is up to date" in done.stderr, (steps, done.stdout)
        one.update()
        assert dump(one.place, contents=True) == before
        if first[0] != "sh":  # what a program's own place has is resolved where its source is named
            trees.append(before)
        one.remove(second[1].rpartition(":")[2] if second[0] != "--package" else "pack")
        one.update()
        fresh = _Box(box.place.with_name(f"fresh{number}"), root, recipes)
        fresh.add(*first)
        assert dump(one.place, contents=True) == dump(fresh.place, contents=True)
    assert all(tree == trees[0] for tree in trees)
