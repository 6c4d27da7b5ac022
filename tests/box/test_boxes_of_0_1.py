"""Boxes that version 0.1 made: every command reads their manifests, of schema 1, and the next change upgrades them."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import needs
from tests.box import tiny
from tests.box.boxes_of_0_1 import ADDITIONS, ARCHIVE, PLACE
from tests.box.running import (
    NOBODY,
    Done,
    become_nobody,
    complaint,
    dump,
    entries,
    forked,
    import_all,
    manifest,
    objects,
    open_to_all,
)
from tests.unit.test_schemas import hold

Record = dict[str, Any]

RECORD = ".jailbuild/manifest.jsonl"
TYPED = ("recipe", "user", "locale", "package")  # requests that entries name with their type
LINES = {"/etc/passwd", "/etc/group"}
# Boxes, and who uses them: whether it is uid 65534. Root may use what is another's, and nobody may use what is root's.
USES = {"root's": ("root", False), "a user's": ("user", True), "a user's, by root": ("user", False)}


class Old(NamedTuple):
    """A box that version 0.1 made, in a directory of its own, and whether uid 65534 uses it."""

    box: Path
    unpacked: Path
    nobody: bool

    @property
    def sysroot(self) -> Path:
        """The source root that it was made from, which stands elsewhere now."""
        return self.unpacked / "root"

    def __call__(
        self, command: str, *words: str | Path, status: int = 0, named: bool = True, synced: bool = False
    ) -> Done:
        """Run a command, which must end with `status`."""
        if command == "enter" and self.nobody and not needs.has_user_namespaces():
            pytest.skip("user namespaces are not to be had here")
        place = {"add": ("--into", self.box), "remove": ("--from", self.box)}.get(command, (self.box,))
        changing = ("--no-sync",) if command in ("add", "remove", "update") and not synced else ()
        root = ("--sysroot", self.sysroot) if command in ("add", "update") and named else ()
        if command in ("enter", "why"):
            arguments = (*place, *words)
        else:
            arguments = (*words, *place)
        done = forked(command, *changing, *root, *arguments, prepare=become_nobody if self.nobody else lambda: None)
        assert status == done.returncode, done
        return done

    def raw(self) -> list[Record]:
        """Return the lines of the manifest as it stands."""
        return [json.loads(line) for line in (self.box / RECORD).read_bytes().splitlines()]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the archive holds; not to be changed."""
    for name in ("CHOWN", "MKNOD", "SETUID"):  # boxes of two owners, with device nodes
        if not needs.has_capability(name):
            pytest.skip(f"CAP_{name} is not to be had here")
    import_all()
    place = tmp_path_factory.mktemp("old")
    subprocess.run(["tar", "-xpf", ARCHIVE, "--numeric-owner"], cwd=place, check=True)  # tarfile sets no times of links
    open_to_all(place)
    return place


def use(unpacked: Path, place: Path, box: str, nobody: bool) -> Old:
    """Return a copy of a box; it is its owner's, and so is the directory that it stands in."""
    open_to_all(place)
    mine = place / "boxes"
    mine.mkdir()
    tiny.clone(unpacked / "boxes" / box, mine / box)
    if box.startswith("user"):
        os.chown(mine, NOBODY, NOBODY)
    return Old(mine / box, unpacked, nobody)


@pytest.fixture(params=USES)
def old(request: pytest.FixtureRequest, unpacked: Path, tmp_path: Path) -> Old:
    """Each of the two boxes, and root with the user's."""
    return use(unpacked, tmp_path, *USES[request.param])


@pytest.fixture
def roots(unpacked: Path, tmp_path: Path) -> Old:
    """Root's box."""
    return use(unpacked, tmp_path, "root", False)


# what a manifest means


def _bytes(record: Record, key: str) -> bytes | None:
    if f"{key}_b64" in record:
        return base64.b64decode(record[f"{key}_b64"])
    return None if record[key] is None else record[key].encode()


LINK, REAL = "/etc/os-release", "/usr/lib/os-release"  # the link was asked for, by which schema 1 did not call it


def _new_name(name: str) -> str:
    return LINK if name == REAL else name.removesuffix("/docs") if name.startswith("package:") else name


def _edge_of_1(edge: Record, wanted_by: list[str]) -> tuple[object, ...]:
    """Return what an edge of schema 1 says, by a reading of its prose."""
    names = frozenset(map(_new_name, edge.get("for", wanted_by)))
    if edge["as"] == "path" and edge["by"] == REAL and names == {LINK}:
        return None, "file", "", [], "", [], names
    told = re.fullmatch(r"(recipe|user|locale) ([^:;]*)(?:: ([^;]*))?(?:; (?:users|groups) (.*))?", edge["as"])
    if told is None and edge["as"] == "file" and names == {LINK}:
        return LINK.encode(), "target", "", [], "", [], names
    if told is None:
        return _bytes(edge, "by"), edge["as"], "", [], "", [], names
    kind, first, cause, table = told.groups()
    whom = table.split(" ") if table else [] if kind == "recipe" else [first]
    *through, recipe = first.split(" > ") if kind == "recipe" else [""]
    return _bytes(edge, "by"), kind, recipe, through, cause or "", whom, names


def _edge_of_2(edge: Record, wanted_by: list[str]) -> tuple[object, ...]:
    return (
        _bytes(edge, "by"),
        edge["kind"],
        edge["recipe"] or "",
        edge.get("through", []),
        edge.get("cause", ""),
        edge["names"],
        frozenset(edge.get("for", wanted_by)),
    )


def meaning(lines: list[Record]) -> tuple[Record, dict[bytes, Record]]:
    """Return the requests and the entries of a manifest of schema 1, or of the lines that `list` prints, alike."""
    is_1 = lines[0]["schema"] == 1
    requests: Record = {}
    found: dict[bytes, Record] = {}
    for line in lines[1:]:
        if line["kind"] == "request":
            name = os.fsdecode(_bytes(line, "name") or b"")
            name = f"{line['type']}:{name}" if line["type"] in TYPED else name
            said = {key: value for key, value in line.items() if key != "docs"}
            flags = {"docs"} if line.get("docs") else set()
            if is_1 and name == REAL:
                name = said["name"] = said["path"] = LINK
            if is_1 and line["type"] == "package" and name.endswith("/docs"):
                name, flags = _new_name(name), {"docs"}
                said["name"] = said["name"].removesuffix("/docs")
            requests[name] = said | {"flags": flags | requests.get(name, {}).get("flags", set())}
        elif line["kind"] == "entry":
            path = _bytes(line, "path")
            assert path is not None
            said = {key: value for key, value in line.items() if key not in ("edges", "wanted_by", "lines")}
            edge_of = _edge_of_1 if is_1 else _edge_of_2
            found[path] = said | {
                "wanted_by": frozenset(map(_new_name, line["wanted_by"])),
                "edges": sorted((edge_of(edge, line["wanted_by"]) for edge in line["edges"]), key=repr),
            }
    return requests, found


def assert_upgraded(old: Old, source: Path) -> None:
    """Hold that the manifest is of schema 2 now, and names its source root."""
    header = old.raw()[0]
    assert (header["schema"], header["source"]) == (2, str(source))


# reading


def test_list_prints_schema_2_and_knows_no_source_root(old: Old) -> None:
    """Everything that the manifest of schema 1 says, and nothing that it does not say."""
    lines = hold("list", old("list", "--json").stdout)
    assert lines[0] == {
        "kind": "header",
        "schema": 2,
        "root": {"id": "old", "version_id": "1", "machine": "x86_64"},
        "built": None,
        "image": None,
    }
    assert meaning(old.raw()) == meaning(lines)
    assert [line["name"] for line in lines if line.get("docs")] == ["pack"]
    assert not [line for line in lines if "lines" in line or line["kind"] == "package"]
    said = old("list").stdout
    assert "made from old 1 x86_64\n" in said
    assert all(f" {os.fsdecode(path)}" in said for path in meaning(lines)[1] if path.isascii())


def test_why_finds_the_chains_of_every_path(old: Old) -> None:
    """Each ends there, and begins with what was asked for."""
    paths = [os.fsdecode(path) for path in meaning(old.raw())[1]]
    for path in [path for path in paths if path.startswith(("/etc", "/opt", "/srv", "/dev/n", "/usr/share"))]:
        for chain in hold("why", old("why", path, "--json").stdout):
            last = chain["steps"][-1]
            assert _bytes(last, "path") == os.fsencode(path)
            assert chain["steps"][0]["as"].split(" ")[0] in (
                "program",
                "file",
                "directory",
                "package",
                "recipe",
                "user",
                "locale",
                "mount-point",
            )
    assert "recipe users > nsswitch" in old("why", "/etc/nsswitch.conf").stdout
    assert "recipe terminfo: program clear" in old("why", "/usr/share/terminfo/d/dumb").stdout


def test_check_finds_what_0_1_found(old: Old) -> None:
    """Its own word on the same box is in the archive."""
    said = [json.loads(line) for line in (old.unpacked / f"{old.box.name}.check").read_text().splitlines()]
    known = {(one["code"], one["path"]) for one in said if one["kind"] == "finding"}
    for options in ((), ("--manifest", old.box.parent / "copy.jsonl")):
        shutil.copy(old.box / RECORD, old.box.parent / "copy.jsonl")
        (old.box.parent / "copy.jsonl").chmod(0o644)
        found = objects(old("check", "--json", *options))
        assert {(one["code"], one["path"]) for one in found if one["kind"] == "finding"} == known
        assert found[-1]["errors"] == 0


def test_check_against_a_copy_sees_what_was_changed(roots: Old) -> None:
    copy = shutil.copy(roots.box / RECORD, roots.box.parent / "copy.jsonl")
    (roots.box / "etc/pack.conf").write_text("another\n")
    found = objects(roots("check", "--json", "--manifest", copy, status=3))
    assert [one["path"] for one in found if one.get("severity") == "error"] == ["/etc/pack.conf"]


def test_its_programs_start(old: Old) -> None:
    """Enter looks at the manifest too."""
    assert old("enter", "/usr/bin/true").returncode == 0


def test_check_tells_what_an_update_would_change(old: Old) -> None:
    """Its source root is named, and has another time for one file."""
    root = old.box.parent.parent / "root"
    tiny.clone(old.sysroot, root)
    same = objects(old("check", "--json", "--stale", "--sysroot", root))
    assert not [one for one in same if one.get("code") == "stale"]
    (root / "etc/pack.conf").write_text("newer\n")
    found = objects(old("check", "--json", "--stale", "--sysroot", root, status=3))
    assert "/etc/pack.conf" in [one["path"] for one in found if one["kind"] == "finding"]


# changing


CHANGES = {
    "add what is there": ("add", "true"),
    "add a recipe that is there": ("add", "--with", "users"),
    "update": ("update",),
    "rebase": ("update", "--rebase"),
}


def test_a_box_that_is_current_is_called_so(old: Old) -> None:
    """A dry run, which leaves the manifest as it is: the schema alone is nothing to do."""
    before = (old.box / RECORD).read_bytes()
    assert f"{old.box}: is up to date" in old("update", "--dry-run").stderr
    assert before == (old.box / RECORD).read_bytes()


@pytest.mark.parametrize("how", CHANGES)
def test_the_next_change_upgrades_and_loses_nothing(old: Old, how: str) -> None:
    """Requests, entries, who wants them and why are the same, and so is all that is in the box."""
    before, there = meaning(old.raw()), dump(old.box, contents=True, times=True)
    command, *words = CHANGES[how]
    old(command, *words)
    assert_upgraded(old, old.sysroot)
    assert before == meaning(manifest(old.box))
    assert there == dump(old.box, contents=True, times=True)
    assert objects(old("check", "--json"))[-1]["errors"] == 0
    written = (old.box / RECORD).read_bytes()
    old(command, *words)  # nothing is left to do
    assert written == (old.box / RECORD).read_bytes()
    assert f"{old.box}: is up to date" in old("update", "--dry-run").stderr


def test_an_update_leads_to_what_a_new_box_would_have(roots: Old, tmp_path: Path) -> None:
    """The oracle is the same requests, made with this version; but for the place that a link was asked for by."""
    roots("update")
    fresh = Old(tmp_path / "fresh", roots.unpacked, False)
    for words in ADDITIONS:
        fresh("add", *(word.replace(f"{PLACE}/own", f"{roots.unpacked}/own") for word in words))
    ours, others = (
        {
            path: {key: value for key, value in entry.items() if not key.startswith("source")}
            for path, entry in meaning(manifest(one.box))[1].items()
            if not path.endswith(b"/os-release")
        }
        for one in (roots, fresh)
    )
    both = frozenset(("/etc/os-release", "/usr/lib/os-release"))
    for found in (ours, others):
        for entry in found.values():
            entry["wanted_by"] -= both
            entry["edges"] = sorted(([*edge[:6], sorted(edge[6] - both)] for edge in entry["edges"]), key=repr)
    assert others == ours
    assert [line for line in manifest(roots.box) if line["kind"] == "package"] == [
        {"kind": "package", "name": "pack", "version": "1.2", "architecture": "amd64", "source": "pack"}
    ]
    lines = {path: entry["lines"] for path, entry in entries(roots.box).items() if "lines" in entry}
    assert lines.keys() == LINES
    assert lines == {path: (roots.box / path[1:]).read_text().splitlines() for path in LINES}


def test_something_else_is_added(old: Old) -> None:
    before = meaning(old.raw())[0].keys()
    old("add", "last", "--package", "pack", "--user", "other")
    assert_upgraded(old, old.sysroot)
    assert (old.box / "usr/bin/last").exists()
    assert {"last", "user:other"} == meaning(manifest(old.box))[0].keys() - before
    assert meaning(manifest(old.box))[0]["package:pack"]["flags"] == {"docs"}
    assert "other:x:71:71::/:/bin/false\n" in (old.box / "etc/passwd").read_text()
    assert objects(old("check", "--json"))[-1]["errors"] == 0


@pytest.mark.parametrize("word", ["pack", "package:pack", "package:pack/docs"])
def test_a_package_with_its_documentation_goes_as_one(old: Old, word: str) -> None:
    """Neither its program nor its manual stays."""
    old("remove", word)
    header = old.raw()[0]
    assert header["schema"] == 2
    assert "source" not in header  # nobody has named it
    assert not (old.box / "usr/bin/pack").exists()
    assert not (old.box / "usr/share/doc").exists()
    assert not [name for name in meaning(manifest(old.box))[0] if "pack" in name]
    assert objects(old("check", "--json"))[-1]["errors"] == 0


def test_request_by_request_all_of_it_goes(old: Old) -> None:
    """By the names that `list` prints, each by itself; what is wanted by others stays until they go."""
    names = sorted(meaning(old.raw())[0])
    for name in names:
        old("remove", name)
        assert name not in meaning(manifest(old.box))[0]
    assert entries(old.box) == {}
    assert dump(old.box) == {}


def test_what_was_put_in_by_path_is_named_again(old: Old) -> None:
    """As SRC:DEST, and as a link of the source root that was known by where it leads."""
    own, odd = old.box.parent / "own", os.fsdecode(b"na\xefve")
    tiny.clone(old.unpacked / "own", own)
    for name in (odd, "tree/below/file"):
        (own / name).write_text("new\n")
    root = old.box.parent.parent / "root"
    tiny.clone(old.sysroot, root)
    (root / "usr/lib/os-release").write_text("ID=old\nVERSION_ID=1\nNAME=Another\n")
    old._replace(unpacked=root.parent)(
        "update",
        "--file",
        f"{own}/{odd}:/etc/{odd}.conf",
        "--file",
        f"{own}/mine:/opt/mine",
        "--file",
        "/etc/os-release",
        "--dir",
        f"{own}/tree:/srv/tree",
        "--dir",
        "/usr/share/data",
    )
    assert (old.box / f"etc/{odd}.conf").read_text() == (old.box / "srv/tree/below/file").read_text() == "new\n"
    assert (old.box / "etc/os-release").read_text().endswith("NAME=Another\n")
    assert_upgraded(old, root)
    requests = meaning(manifest(old.box))[0]
    assert requests["/opt/mine"]["source"] == f"{own}/mine"
    assert len([name for name in requests if name.endswith("os-release")]) == 1


def test_another_source_root_takes_rebase(old: Old) -> None:
    root = old.box.parent.parent / "root"
    tiny.clone(old.sysroot, root)
    (root / "usr/lib/os-release").write_text("ID=other\nVERSION_ID=2\n")
    other = old._replace(unpacked=root.parent)
    before = (old.box / RECORD).read_bytes()
    for words in (("add", "true"), ("update",)):
        assert "it was made from old 1 x86_64, and this root is other 2 x86_64" in complaint(other(*words, status=1))
    assert before == (old.box / RECORD).read_bytes()
    other("update", "--rebase")
    assert_upgraded(old, root)
    assert old.raw()[0]["root"]["id"] == "other"


def test_it_is_never_refused_for_a_source_root_that_it_does_not_know(old: Old) -> None:
    """The host's own, which is not named, is refused for its label alone; once it is known, for its path."""
    for words in (("add", "true"), ("update",)):
        assert "it was made from old 1 x86_64, and this root is " in complaint(old(*words, named=False, status=1))
    old("update")
    for words in (("add", "true"), ("update",)):
        assert f"it was made from {old.sysroot}" in complaint(old(*words, named=False, status=1))


# accounts


MINE = "mine:x:1000:1000:Me:/home/mine:/bin/true\n"


@pytest.mark.parametrize("where", ["first", "last"])
def test_lines_that_the_user_added_before_the_upgrade_stay(old: Old, where: str) -> None:
    """In their place, whatever is added, brought up to date and removed; with no word from a manifest about lines."""
    for name, line in (("passwd", MINE), ("group", "# a comment\nmine:x:1000:svc\n")):
        path = old.box / "etc" / name
        path.write_text(line + path.read_text() if where == "first" else path.read_text() + line)
    group = old.box / "etc/group"
    group.write_text(group.read_text().replace("both:x:72:svc", "both:x:72:svc,mine"))

    def hold_mine(*members: str) -> None:
        passwd, lines = (old.box / "etc/passwd").read_text(), group.read_text().splitlines()
        assert MINE in passwd
        assert lines.index("mine:x:1000:svc") == lines.index("# a comment") + 1
        assert f"both:x:72:{','.join(members)}" in lines
        assert (lines[0] == "# a comment") == passwd.startswith("mine:") == (where == "first")

    old("add", "--user", "other")
    hold_mine("svc", "mine", "other")
    assert "svc:x:70:70:A service:/srv:/bin/false" in (old.box / "etc/passwd").read_text().splitlines()
    old("update")
    hold_mine("svc", "mine", "other")
    old("remove", "user:other")
    hold_mine("svc", "mine")
    old("remove", "user:svc")
    hold_mine("svc", "mine")  # a group that they have changed, and that is theirs from now on
    assert "svc:x:70" not in (old.box / "etc/passwd").read_text() + group.read_text()
    old("remove", "recipe:users")  # which takes ours with it
    assert (old.box / "etc/passwd").read_text() == MINE
    assert sorted(group.read_text().splitlines()) == ["# a comment", "both:x:72:svc,mine", "mine:x:1000:svc"]


def test_a_line_of_ours_that_was_changed_before_the_upgrade_stays(old: Old) -> None:
    """Nobody wants another than was put there: nothing is in the way."""
    path = old.box / "etc/passwd"
    path.write_text(path.read_text().replace("A service:/srv:/bin/false", "A service:/srv:/bin/true"))
    for words in (("add", "last"), ("update",), ("add", "--user", "other"), ("remove", "user:other")):
        old(*words)
        assert "svc:x:70:70:A service:/srv:/bin/true\n" in path.read_text()


# changes that were cut short


@pytest.fixture(params=["journal", "user-journal"])
def cut_short(request: pytest.FixtureRequest, unpacked: Path, tmp_path: Path) -> Old:
    """A box with a journal that version 0.1 left, in the hands of its owner."""
    return use(unpacked, tmp_path, request.param, request.param == "user-journal")


@pytest.mark.parametrize("words", [("add", "true"), ("update",), ("remove", "true"), ("enter", "/usr/bin/true")])
def test_a_journal_that_0_1_left_is_finished(cut_short: Old, words: tuple[str, ...]) -> None:
    """By the next command of its owner; what was asked for then is in the box."""
    done = cut_short(*words)
    assert f"note: {cut_short.box}: finished a change that was cut short\n" in done.stderr
    assert {"lock", "manifest.jsonl"} == set(os.listdir(cut_short.box / ".jailbuild"))
    requests, found = meaning(manifest(cut_short.box))
    assert {"last", "user:other", "/usr/bin/mine-too"} <= requests.keys()
    assert {b"/usr/bin/last", b"/usr/bin/mine-too"} <= found.keys()
    assert "other:x:71:71::/:/bin/false\n" in (cut_short.box / "etc/passwd").read_text()
    assert objects(cut_short("check", "--json"))[-1]["errors"] == 0
    cut_short("update")
    assert_upgraded(cut_short, cut_short.sysroot)


def test_what_0_1_left_before_its_commit_is_taken_back(unpacked: Path, tmp_path: Path) -> None:
    old = use(unpacked, tmp_path, "staging", False)
    done = old("add", "true")
    assert f"note: {old.box}: cleaned up after a change that was cut short\n" in done.stderr
    assert {"lock", "manifest.jsonl"} == set(os.listdir(old.box / ".jailbuild"))
    assert not (old.box / "usr/bin/last").exists()
    before = [json.loads(line) for line in (unpacked / "boxes/root" / RECORD).read_bytes().splitlines()]
    assert meaning(before) == meaning(manifest(old.box))


@pytest.mark.parametrize("words", [("add", "true"), ("update",), ("remove", "true")])
def test_a_journal_of_0_1_that_is_anothers_is_finished_by_order_alone(
    unpacked: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Root reads the box as it is; it does not change it before it was told to recover it."""
    old = use(unpacked, tmp_path, "user-journal", False)
    before = (old.box / ".jailbuild/journal").read_bytes()
    assert "update --recover" in old(*words, status=1).stderr
    assert meaning(hold("list", old("list", "--json").stdout)) == meaning(old.raw())
    assert old("enter", "/usr/bin/true").returncode == 0
    assert before == (old.box / ".jailbuild/journal").read_bytes()
    old("update", "--recover", named=False, synced=True)
    assert {"lock", "manifest.jsonl"} == set(os.listdir(old.box / ".jailbuild"))
    assert "last" in meaning(old.raw())[0]
    old(*words)
    assert old.raw()[0]["schema"] == 2
    assert (old.box / RECORD).stat().st_uid == NOBODY
