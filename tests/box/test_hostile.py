"""A box somebody else has written in: no look and no write leaves it, nothing blocks, one line says what is wrong."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jailbuild.box.add import Words, plan_addition
from jailbuild.box.target import Choices
from jailbuild.check.run import check_root
from jailbuild.errors import JailError
from jailbuild.root import Root
from tests.box import tiny
from tests.box.running import add, complaint, dump, put, run, state

PLACES = [
    "usr", "usr/bin", "lib", "lib64", "etc", "etc/ld.so.cache", "etc/os-release", "tmp", "dev", "usr/bin/far",
    f"{tiny.LIBRARIES}/libtinfo.so.6.4", "opt/far/libfar.so", ".jailbuild", ".jailbuild/manifest.jsonl",
    ".jailbuild/staging", ".jailbuild/staging/1", ".jailbuild/lock", ".jailbuild/manifest.next", ".jailbuild/journal",
]


@pytest.fixture(scope="module")
def far(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small root with a program whose library is outside the default directories: its box gets a cache."""
    root = tiny.clone(made, tmp_path_factory.mktemp("far") / "root")
    tiny.program(root / "usr/bin/far", tiny.library(root / "opt/far/libfar.so", value=3),
                 root / tiny.LIBRARIES / "libtinfo.so.6")
    tiny.cache(root, "/opt/far")
    return root


@pytest.fixture(scope="module")
def outside(far: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of the host's that looks like what the box should have, manifest and all; nobody may change it."""
    root = tiny.clone(far, tmp_path_factory.mktemp("outside") / "root")
    put(root, "bash", root=far)
    return root


@pytest.fixture(scope="module")
def plain(far: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A box that holds bash; to be copied."""
    box = tmp_path_factory.mktemp("plain") / "box"
    put(box, "bash", root=far)
    return box


def _clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)


@pytest.mark.parametrize("how", ["absolute", "relative", "dangling", "looping"])
@pytest.mark.parametrize("place", PLACES)
def test_no_link_in_a_box_leads_a_write_out_of_it(
    far: Path, plain: Path, outside: Path, tmp_path: Path, place: str, how: str
) -> None:
    """What the link leads to is neither written nor taken for a part of the box; refused with one line, or unharmed."""
    box = tiny.clone(plain, tmp_path / "box")
    link = box / place
    _clear(link)
    target = {
        "absolute": str(outside / place), "relative": os.path.relpath(outside / place, link.parent),
        "dangling": str(outside / "nowhere"), "looping": link.name,
    }[how]
    link.symlink_to(target)
    before = state(outside)
    within = dump(box, contents=True, record=True)
    if how == "absolute":  # a process of its own: what a user sees
        done = run("add", "far", "--into", box, "--sysroot", far, "--no-sync")
        refused = bool(done.returncode)
        if refused:
            complaint(done)
    else:
        refused = False
        try:
            put(box, "far", root=far)
        except JailError as error:
            refused = True
            assert len(error.causes) == 1, error.causes
    assert before == state(outside)
    if refused and not place.startswith(".jailbuild/staging/"):
        assert within == dump(box, contents=True, record=True)
    if place in (".jailbuild", ".jailbuild/manifest.jsonl"):
        assert refused  # not somebody else's manifest
        for arguments in (("check", box), ("list", box), ("why", box, "/usr/bin/bash")):
            complaint(run(*arguments))
    else:
        check_root(Root(str(box)), "box")
    assert before == state(outside)


def test_a_secret_outside_is_not_taken_for_the_boxs(far: Path, tmp_path: Path, box: Path) -> None:
    """A path in the box that leads out to the identical file is a conflict: it is no file of the box."""
    (box / "usr/bin").mkdir(parents=True)
    (box / "usr/bin/far").symlink_to(far / "usr/bin/far")
    assert "/usr/bin/far" in complaint(add(box, "far", sysroot=far, status=1))


@pytest.mark.parametrize("place", [*PLACES, "usr/lib", "usr/lib64/ld-linux-x86-64.so.2", "etc/passwd", "anywhere"])
def test_a_FIFO_in_the_way_holds_nothing_up(far: Path, plain: Path, tmp_path: Path, place: str) -> None:
    """Nobody writes into it: whoever opened it for reading would wait for ever."""
    box = tiny.clone(plain, tmp_path / "box")
    _clear(box / place)
    os.mkfifo(box / place)
    for word in ("bash", "far"):
        try:
            put(box, word, root=far)
        except JailError as error:
            assert len(error.causes) == 1, error.causes
    try:
        check_root(Root(str(box)), "box")
    except JailError as error:
        assert len(error.causes) == 1, error.causes
    assert (box / place).is_fifo() or place == ".jailbuild/staging/1"


def test_a_FIFO_in_the_source_holds_nothing_up(sysroot: Path, box: Path) -> None:
    """Neither as a program nor as a library, a cache or os-release."""
    os.mkfifo(sysroot / "usr/bin/pipe", 0o755)
    (sysroot / "etc/os-release").unlink()
    os.mkfifo(sysroot / "etc/os-release")
    os.mkfifo(sysroot / "etc/ld.so.cache")
    os.mkfifo(sysroot / "etc/ld.so.preload")
    complaint(add(box, "/usr/bin/pipe", sysroot=sysroot, status=1))
    add(box, "bash", sysroot=sysroot)
    os.unlink(sysroot / tiny.LIBRARIES / "libpcre.so.8.1")
    os.mkfifo(sysroot / tiny.LIBRARIES / "libpcre.so.8.1")
    complaint(add(box, "ls", sysroot=sysroot, status=1))


SPELLINGS = ["/", "//", "/.", "/..", "/usr/..", "/proc/self/root", "a link", "a link/", "up"]


@pytest.mark.parametrize(
    ("spelling", "options"),
    [*((spelling, ()) for spelling in SPELLINGS), ("/", ("--dry-run",)), ("/", ("--as-shell",))],
)
def test_the_hosts_root_is_no_box(made: Path, tmp_path: Path, spelling: str, options: tuple[str, ...]) -> None:
    """However it is spelled."""
    if spelling.startswith("a link"):
        (tmp_path / "link").symlink_to("/")
        spelling = spelling.replace("a link", str(tmp_path / "link"))
    elif spelling == "up":
        spelling = os.path.relpath("/", tmp_path)
    done = run("add", "bash", "--into", spelling, "--sysroot", made, *options, cwd=tmp_path)
    assert "root" in complaint(done)
    assert not os.path.lexists("/.jailbuild")


@pytest.fixture
def bound(tmp_path: Path) -> Iterator[Path]:
    """The host's root under another name: a bind mount."""
    place = tmp_path / "bound"
    place.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"/", os.fsencode(place), None, 0x1000, None):
        pytest.skip("a bind mount takes CAP_SYS_ADMIN")
    yield place
    libc.umount2(os.fsencode(place), 2)


def test_the_hosts_root_mounted_elsewhere_is_no_box(made: Path, bound: Path) -> None:
    """It is the same directory."""
    complaint(run("add", "bash", "--into", bound, "--sysroot", made))
    assert not os.path.lexists("/.jailbuild")


@pytest.mark.parametrize("depth", [300, 3000])
def test_a_deep_tree_is_no_traceback(made: Path, box: Path, depth: int) -> None:
    """Somebody inside may make a path longer than any call takes."""
    add(box, "bash", sysroot=made)
    name = "d" * 20
    here = os.open(box, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.symlink("nowhere", "link", dir_fd=here)
    os.close(here)
    try:
        for arguments in (("check", box), ("add", "ls", "--into", box, "--sysroot", made, "--no-sync")):
            done = run(*arguments)
            assert "Traceback" not in done.stderr
            assert (3 if arguments[0] == "check" else 0) == done.returncode, done.stderr
    finally:
        _remove_deep(box, name)


def _remove_deep(box: Path, name: str) -> None:
    """Take a chain of directories away from its top, each moved up before it goes."""
    while (box / name).exists():
        (box / name).rename(box / "top")
        if (box / "top" / name).exists():
            (box / "top" / name).rename(box / name)
        (box / "top/link").unlink() if os.path.lexists(box / "top/link") else None
        (box / "top").rmdir()


HEADER: dict[str, Any] = {"kind": "header", "schema": 1, "root": {"id": "tiny", "version_id": "1", "machine": "x86_64"}}
REQUEST: dict[str, Any] = {
    "kind": "request", "type": "program", "name": "bash", "path": "/usr/bin/bash", "source": None, "bare": False,
}
ENTRY: dict[str, Any] = {
    "kind": "entry", "path": "/usr/bin/bash", "type": "file", "mode": "0755", "uid": 0, "gid": 0, "size": 5,
    "mtime_ns": 0, "sha256": "0" * 64, "target": None, "hardlink": None, "device": None, "source": "/usr/bin/bash",
    "package": None, "wanted_by": ["bash"], "edges": [{"by": None, "as": "program"}],
}


def _lines(*records: object) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


BROKEN = {
    "empty": b"",
    "no JSON": b"\x7fELF\0\0\n",
    "not UTF-8": b"\xff\xfe\n",
    "no object": b"[]\n",
    "no header": _lines(ENTRY),
    "two headers": _lines(HEADER, HEADER),
    "another schema": _lines(HEADER | {"schema": 99}),
    "a label of numbers": _lines(HEADER | {"root": {"id": 1, "version_id": [], "machine": {}}}),
    "deep nesting": b"[" * 200_000 + b"\n",
    "deep nesting in an entry": _lines(HEADER) + b'{"kind": "entry", "path": ' + b"[" * 100_000 + b"\n",
    "a huge number": _lines(HEADER) + b'{"kind": "entry", "size": ' + b"9" * 10_000 + b"}\n",
    "a path with ..": _lines(HEADER, REQUEST, ENTRY | {"path": "/usr/../../etc/passwd"}),
    "a relative path": _lines(HEADER, REQUEST, ENTRY | {"path": "etc/passwd"}),
    "the root itself": _lines(HEADER, REQUEST, ENTRY | {"path": "/"}),
    "a path in the record": _lines(HEADER, REQUEST, ENTRY | {"path": "/.jailbuild/manifest.jsonl"}),
    "a path with NUL": _lines(HEADER, REQUEST, ENTRY | {"path": "/a\0b"}),
    "a path that is half a character": _lines(HEADER, REQUEST, ENTRY | {"path": "/\ud800"}),
    "a target that is half a character": _lines(
        HEADER, REQUEST, ENTRY | {"type": "link", "sha256": None, "size": None, "mode": None, "target": "\ud800"}),
    "a name that is half a character": _lines(HEADER, REQUEST | {"name": "\ud800"}, ENTRY | {"wanted_by": ["\ud800"]}),
    "an edge that is half a character": _lines(HEADER, REQUEST, ENTRY | {"edges": [{"by": "/\udbff", "as": "\udbff"}]}),
    "a label that is half a character": _lines(HEADER | {"root": {"id": "\ud800"}}, REQUEST),
    "a request's path with ..": _lines(HEADER, REQUEST | {"path": "/../x"}),
    "a request without a name": _lines(HEADER, REQUEST | {"name": ""}),
    "an unknown type": _lines(HEADER, REQUEST, ENTRY | {"type": "socket"}),
    "an unknown kind": _lines(HEADER, {"kind": "curse"}),
    "a mode beyond": _lines(HEADER, REQUEST, ENTRY | {"mode": "100755"}),
    "no digest": _lines(HEADER, REQUEST, ENTRY | {"sha256": None}),
    "a short digest": _lines(HEADER, REQUEST, ENTRY | {"sha256": "00"}),
    "an owner beyond": _lines(HEADER, REQUEST, ENTRY | {"uid": 1 << 40}),
    "a negative owner": _lines(HEADER, REQUEST, ENTRY | {"gid": -1}),
    "bad base64": _lines(HEADER, REQUEST, ENTRY | {"path_b64": "!!"}),
    "base64 of ..": _lines(HEADER, REQUEST, ENTRY | {"path_b64": "Ly4uL2V0Yw=="}),
    "edges of text": _lines(HEADER, REQUEST, ENTRY | {"edges": "none"}),
    "a cut line": _lines(HEADER, REQUEST, ENTRY)[:-40],
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_manifest_that_does_not_fit_is_one_line(made: Path, box: Path, what: str) -> None:
    """Whoever reads it says so and does nothing."""
    (box / ".jailbuild").mkdir(parents=True)
    (box / ".jailbuild/manifest.jsonl").write_bytes(BROKEN[what])
    before = dump(box, contents=True, record=True)
    if what.startswith(("no ", "deep", "a huge", "a path")):  # some of them in a process of their own
        said = complaint(run("list", box, "--json"))
        assert "manifest" in said
        assert len(said) < 1000
    for read in (lambda: check_root(Root(str(box)), "box"), lambda: put(box, "bash", root=made)):
        with pytest.raises(JailError, match="manifest"):
            read()
        assert before == dump(box, contents=True, record=True)


STRANGE = {
    "an enormous file": ENTRY | {"size": 10**30, "mtime_ns": 10**30},
    "a file of negative size": ENTRY | {"size": -1, "mtime_ns": -(10**30)},
    "an unlikely mode": ENTRY | {"mode": "7777"},
    "a name of 5000 bytes": ENTRY | {"path": "/" + "x" * 5000},
    "a path of 500 directories": ENTRY | {"path": "/directory" * 500},
    "a link of 5000 bytes": ENTRY | {"type": "link", "sha256": None, "target": "x" * 5000},
    "edges that go round": ENTRY | {"edges": [{"by": "/usr/bin/bash", "as": "path"}]},
    "an edge from nowhere": ENTRY | {"edges": [{"by": "/absent", "as": "needed"}]},
    "a device": ENTRY | {"type": "device", "sha256": None, "device": ["c", 10**20, 10**20]},
    "an escape sequence": ENTRY | {"path": "/\x1b[2J", "wanted_by": ["\x1b]0;x\x07"]},
    "nobody": ENTRY | {"wanted_by": ["nobody at all"], "edges": []},
    "a family elsewhere": ENTRY | {"hardlink": "/absent"},
    "a source elsewhere": ENTRY | {"source": "/etc/shadow"},
}


@pytest.mark.parametrize("what", STRANGE)
def test_a_manifest_of_strange_values_does_no_harm(made: Path, box: Path, what: str) -> None:
    """Each command answers, with a status of its own and no traceback, and prints no control characters."""
    put(box, "bash", root=made)
    lines = (box / ".jailbuild/manifest.jsonl").read_bytes().splitlines(keepends=True)
    lines = [line for line in lines if b'"path": "/usr/bin/bash", "type": "file"' not in line]
    (box / ".jailbuild/manifest.jsonl").write_bytes(b"".join(lines) + _lines(STRANGE[what]))
    path = str(STRANGE[what]["path"])
    report = check_root(Root(str(box)), "box")
    assert json.dumps([finding.as_json() for finding in report.findings])
    for arguments in (("list", box), ("why", box, path)):
        done = run(*arguments)
        assert "Traceback" not in done.stderr
        assert done.returncode in (0, 1), done.stderr
        assert "\x1b" not in done.stdout + done.stderr
    try:
        put(box, "ls", root=made)
    except JailError as error:
        assert error.causes


def test_a_tampered_mode_gives_nobody_privileges(sysroot: Path, box: Path) -> None:
    """The manifest may say 4755 of a hard link that has gone: what is written again has no set-id bit."""
    os.link(sysroot / "usr/bin/bash", sysroot / "usr/bin/another")
    add(box, "another", sysroot=sysroot)
    path = box / ".jailbuild/manifest.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line.get("path") == "/usr/bin/another":
            line.update({"mode": "4755", "mtime_ns": 10**30, "uid": 77} if line["kind"] == "entry" else {})
    path.write_bytes(_lines(*lines))
    (box / "usr/bin/another").unlink()
    done = run("add", "bash", "--into", box, "--sysroot", sysroot, "--no-sync")
    assert "Traceback" not in done.stderr
    if done.returncode:
        complaint(done)
    for name in ("another", "bash"):
        if (box / "usr/bin" / name).exists():
            assert (box / "usr/bin" / name).stat().st_mode & 0o7777 == 0o755


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["/usr/bin/bash", "/..", "/usr", "/.jailbuild/x", "\ud800", "/\udcff", "file", "link", "0755",
                       "bash", "needed", 10**40, "0" * 64, "entry", "header", "request", "//", "/a/../b", "\0"]),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below, max_size=3),
    max_leaves=5,
)
_BASES = (
    HEADER, REQUEST, ENTRY,
    ENTRY | {"type": "link", "sha256": None, "mode": None, "size": None, "target": "x", "path": "/bin"},
    ENTRY | {"type": "directory", "sha256": None, "size": None, "path": "/usr"},
)


@st.composite
def _tampered(draw: st.DrawFn) -> bytes:
    records = [dict(HEADER)] if draw(st.integers(0, 9)) else []
    for _ in range(draw(st.integers(0, 4))):
        record = dict(draw(st.sampled_from(_BASES)))
        for _ in range(draw(st.integers(0, 2))):
            key = draw(st.sampled_from([*record, "path_b64", "target_b64", "name_b64", "source_b64"]))
            if draw(st.booleans()):
                record[key] = draw(_VALUES)
            else:
                record.pop(key, None)
        records.append(record)
    data = _lines(*records)
    if draw(st.integers(0, 3)) == 0 and data:
        place = draw(st.integers(0, len(data)))
        data = data[:place] + draw(st.binary(max_size=4)) + data[place + draw(st.integers(0, 4)) :]
    return data


@pytest.fixture(scope="module")
def opened(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    box = tmp_path_factory.mktemp("tampered") / "box"
    add(box, "bash", sysroot=made)
    return box


@settings(max_examples=250, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(data=_tampered())
def test_whatever_the_manifest_says_the_answer_is_in_words(made: Path, opened: Path, data: bytes) -> None:
    """Check and add return, or raise the one error that a user sees."""
    path = opened / ".jailbuild/manifest.jsonl"
    path.write_bytes(data)
    before = dump(opened, contents=True)
    try:
        report = check_root(Root(str(opened)), "box")
        assert json.dumps([finding.as_json() for finding in report.findings])
    except JailError as error:
        assert error.causes
    try:
        addition = plan_addition(Root(str(made)), Words(("bash", "ls")), str(opened), Choices())
        addition.plan.refuse_conflicts()
        assert json.dumps([action.as_json() for action in addition.plan.actions])
    except JailError as error:
        assert error.causes
    assert before == dump(opened, contents=True)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 60), st.sampled_from([*ENTRY, "path_b64"]), _VALUES), max_size=2),
       gone=st.sampled_from(["usr/bin/bash", f"{tiny.LIBRARIES}/libtinfo.so.6", "bin", "tmp"]))
def test_writing_by_a_tampered_manifest_stays_in_words_and_in_the_box(
    made: Path, tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, str, object]], gone: str
) -> None:
    """One line, or done; what is outside is the same."""
    place = tmp_path_factory.mktemp("written")
    box = place / "box"
    put(box, "bash", root=made)
    path = box / ".jailbuild/manifest.jsonl"
    lines: list[dict[str, Any]] = [json.loads(line) for line in path.read_bytes().splitlines()]
    for number, key, value in changes:
        lines[number % len(lines)][key] = value
    path.write_bytes(_lines(*lines))
    if (box / gone).is_dir() and not (box / gone).is_symlink():
        (box / gone).rmdir()
    else:
        (box / gone).unlink()
    try:
        put(box, "bash", "ls", root=made)
    except JailError as error:
        assert error.causes
    assert os.listdir(place) == ["box"]
    for what in dump(box).values():
        assert what.startswith(("link", "directory 0755", "directory 1777", "file 0755")), what
    shutil.rmtree(place)
