"""How large a manifest may be: what is larger is neither written nor parsed, and what is written can be read."""

from __future__ import annotations

import io
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from jailbuild.box import deciding, records
from jailbuild.box.manifest import Entry, Label, Manifest, Reason, RecordedRequest
from jailbuild.box.records import OTHERS, OWN, Bounds, TooLargeError, bounds_for, encode, parse_manifest
from tests.box import tiny
from tests.box.running import (
    NOBODY,
    add,
    become_nobody,
    complaint,
    entries,
    forked,
    import_all,
    open_to_all,
    settled,
)

STRANGER = 12345
MANIFEST = ".jailbuild/manifest.jsonl"
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a box to somebody else")


def listing(count: int, *, shared: bool = True) -> Manifest:
    """Return a manifest with as many entries."""
    found = {}
    for number in range(count):
        path = f"/d/{number:09}"
        reason = Reason("/d", "tree", ("/d",)) if shared else Reason(f"/e/{number}", "needed", ("/d",))
        found[path] = Entry(
            path,
            "file",
            0o644,
            size=1,
            mtime_ns=10**18,
            sha256=f"{number:064x}",
            source=path,
            package="pack",
            wanted_by=("/d",),
            reasons=(reason,),
        )
    return Manifest(Label("tiny", "1", "x86_64"), {"/d": RecordedRequest("/d", "/d", type="directory")}, found, (), "/")


def as_schema_1(manifest: Manifest) -> bytes:
    """Return a manifest as version 0.1 wrote it."""
    lines = [{"kind": "header", "schema": 1, "root": manifest.label._asdict()}]
    lines += [
        {key: value for key, value in asked.as_json().items() if key != "docs"} for asked in manifest.requests.values()
    ]
    for entry in manifest.entries.values():
        edges = [{"by": why.by or None, "as": why.how} for why in entry.reasons]
        lines.append(entry.as_json() | {"edges": edges})
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def test_the_bounds_are_those_of_the_design() -> None:
    """One's own and root's, and another's: bytes, entries."""
    assert OWN[:2] == (256 << 20, 1_000_000)
    assert OTHERS[:2] == (32 << 20, 100_000)


@pytest.mark.parametrize(
    ("me", "owner", "bounds"),
    [(0, 0, OWN), (0, NOBODY, OTHERS), (NOBODY, NOBODY, OWN), (NOBODY, 0, OWN), (NOBODY, STRANGER, OTHERS)],
)
def test_whose_a_manifest_is_decides(monkeypatch: pytest.MonkeyPatch, me: int, owner: int, bounds: Bounds) -> None:
    """Root's is believed by everybody; another's by nobody, not by root either."""
    monkeypatch.setattr(os, "geteuid", lambda: me)
    assert bounds_for(owner) is bounds


def test_a_manifest_is_read_up_to_its_bounds() -> None:
    """One byte, one entry, one byte of a line more is too large."""
    manifest = listing(20)
    data = b"".join(encode(manifest))
    longest = max(map(len, data.splitlines(keepends=True)))
    exactly = Bounds(len(data), 20, longest)
    assert parse_manifest(data, exactly) == manifest
    for less in (
        exactly._replace(size=len(data) - 1),
        exactly._replace(entries=19),
        exactly._replace(line=longest - 1),
    ):
        with pytest.raises(TooLargeError):
            parse_manifest(data, less)


def test_no_more_is_read_than_the_bounds_say() -> None:
    """Also of what grows while it is read: counted in bytes."""

    class Endless(io.BytesIO):
        given = 0

        def readline(self, size: int | None = -1, /) -> bytes:
            assert size is not None
            assert size >= 0
            line = b'{"kind": "header", "schema": 2, "root": {}}\n' if not self.given else b" " * size
            self.given += len(line)
            return line

    endless = Endless()
    with pytest.raises(ValueError, match="line 2"):
        records.decode(endless, Bounds(1 << 20, 100, 4096))
    assert endless.given < 5000


SMALL = Bounds(3000, 12, 2000)


def smaller(own: Bounds, others: Bounds = OTHERS, then: Callable[[], None] = lambda: None) -> Callable[[], None]:
    """Return what makes bounds smaller in a child."""

    def prepare() -> None:
        vars(records).update(OWN=own, OTHERS=others)
        vars(deciding).update(OWN=own)
        then()

    return prepare


def _box(place: Path, owner: int, manifest: Manifest) -> Path:
    """Make a box that is somebody's, and that others may look at."""
    box = place / "box"
    record = box / ".jailbuild"
    record.mkdir(parents=True)
    (box / MANIFEST).write_bytes(b"".join(encode(manifest)))
    open_to_all(record)
    (box / MANIFEST).chmod(0o644)
    for path in (box, record, box / MANIFEST):
        os.chown(path, owner, owner)
    return box


@only_root
@pytest.mark.parametrize("command", ["list", "why", "check", "add", "update", "remove"])
@pytest.mark.parametrize("user", [0, NOBODY])
def test_another_owners_manifest_has_smaller_bounds(made: Path, tmp_path: Path, user: int, command: str) -> None:
    """As root and as somebody else: refused in one line that says whose it is, and one's own of that size is read."""
    import_all()
    open_to_all(made)
    then = become_nobody if user else lambda: None
    words = {
        "why": ("/d/000000001",),
        "add": ("bash", "--sysroot", made, "--rebase", "--no-sync"),
        "update": ("--sysroot", made, "--dry-run"),
        "remove": ("/d", "--dry-run"),
    }.get(command, ())
    for at, others in enumerate((SMALL._replace(size=10**6), SMALL._replace(entries=10**6), Bounds(10**6, 10**6, 50))):
        box = _box(tmp_path / str(at), STRANGER, listing(50))
        place = ("--into", box) if command == "add" else ("--from", box) if command == "remove" else (box,)
        done = forked(command, *place, *words, prepare=smaller(OWN, others, then))
        said = complaint(done)
        assert f"cannot read the manifest of {box}: " in said
        assert f"it belongs to uid {STRANGER}" in done.stderr
    for owner in {0, user}:
        mine = _box(tmp_path / f"of {owner}", owner, listing(50))
        assert forked("list", mine, prepare=smaller(OWN, SMALL, then)).returncode == 0


@only_root
def test_200_MB_of_another_owners_are_refused_before_they_are_read(tmp_path: Path) -> None:
    """Root has not the memory to read them, and does not need it; nor for one line that is as long as the file."""
    box = _box(tmp_path, STRANGER, listing(1))

    def little_memory() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + (100 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    os.truncate(box / MANIFEST, 200 << 20)
    done = forked("list", box, prepare=little_memory)
    assert complaint(done) == f"jailbuild: cannot read the manifest of {box}: it has more than 32 MiB"
    head = b'{"kind": "header", "schema": 2, "root": {}}\n'
    (box / MANIFEST).write_bytes(head)
    os.truncate(box / MANIFEST, 32 << 20)  # sparse: zeros, without a newline
    assert "line 2: there are more than 4 MiB" in complaint(forked("list", box, prepare=little_memory))


@pytest.mark.parametrize(
    "bounds", [SMALL._replace(size=10**6), SMALL._replace(entries=10**6), Bounds(10**6, 10**6, 50)]
)
@pytest.mark.parametrize("is_there", [False, True])
def test_nothing_is_written_that_could_not_be_read(sysroot: Path, box: Path, is_there: bool, bounds: Bounds) -> None:
    """Too many entries, too many bytes, too long a line: one line, and all is as it was, or there is no box."""
    for number in range(50):
        (sysroot / f"srv/data/{number}").mkdir(parents=True)
    if is_there:
        add(box, "--file", "/etc/os-release", sysroot=sysroot)
    before = settled(box)
    done = forked(
        "add",
        "--dir",
        "/srv/data",
        "--into",
        box,
        "--sysroot",
        sysroot,
        "--no-sync",
        prepare=smaller(Bounds(max(bounds.size, 2999), bounds.entries, bounds.line)),
    )
    if is_there and bounds.line == 50:  # what is there cannot be read either
        assert "cannot read the manifest" in complaint(done)
    else:
        assert "cannot write " in complaint(done)
        assert "make several" in done.stderr
    assert before == settled(box)
    assert box.exists() == is_there
    add(box, "--dir", "/srv/data", sysroot=sysroot)  # nothing is in the way
    assert "/srv/data/49" in entries(box)


@only_root
def test_who_writes_to_another_owners_box_keeps_to_the_owners_bounds(sysroot: Path, box: Path) -> None:
    """Or root would make one that root itself does not read."""
    add(box, "--file", "/etc/os-release", sysroot=sysroot)
    for path in (box, box / ".jailbuild", box / MANIFEST, box / ".jailbuild/lock"):
        os.chown(path, NOBODY, NOBODY)
    for number in range(50):
        (sysroot / f"srv/data/{number}").mkdir(parents=True)
    before = settled(box)
    done = forked(
        "add",
        "--dir",
        "/srv/data",
        "--into",
        box,
        "--sysroot",
        sysroot,
        "--no-sync",
        prepare=smaller(OWN, Bounds(10**6, 30, 10**6)),
    )
    assert "cannot write " in complaint(done)
    assert before == settled(box)


# size and memory


def test_a_path_is_stored_once(sysroot: Path, box: Path) -> None:
    """A tree of long paths: what repeats of an entry is not there again, so that 46 000 of such are 100 MB."""
    deep = sysroot / "srv/data" / "/".join(["d" * 100] * 15)
    deep.mkdir(parents=True)
    for number in range(200):
        (deep / f"{number:03}").write_text(str(number))
    tiny.backdate(sysroot / "srv")
    add(box, "--dir", "/srv/data", sysroot=sysroot)
    data = (box / MANIFEST).read_bytes()
    found = parse_manifest(data)
    names = sum(len(os.fsencode(path)) for path in found.entries)
    assert names > 200 * 1500
    assert (len(data) - names) / len(found.entries) < 300


@pytest.mark.parametrize("schema", [1, 2])
def test_entries_share_what_repeats(schema: int) -> None:
    """In memory: who wants them, why, the type, the package, and a source that is the path."""
    manifest = listing(100)
    data = as_schema_1(manifest) if schema == 1 else b"".join(encode(manifest))
    found = [*parse_manifest(data).entries.values()]
    assert len(found) == 100
    for field in ("type", "package", "wanted_by", "reasons", "lines"):
        assert len({id(getattr(entry, field)) for entry in found}) == 1, field
    assert all(entry.source is entry.path for entry in found)


def test_edges_that_many_entries_have_are_stored_once() -> None:
    """And those of one alone beside it: a line for each thing."""
    shared, own = (b"".join(encode(listing(1000, shared=shared))) for shared in (True, False))
    assert shared.count(b'"tree"') == 1
    assert shared.count(b"\n") == 1 + 1 + 1 + 1000
    assert own.count(b'"kind": "why"') == 0
    assert len(shared) / 1000 < 250
