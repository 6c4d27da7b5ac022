"""A box somebody else has written in: no look and no write leaves it, nothing blocks, one line says what is wrong."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jailbuild.box.add import AddSpec, plan_addition
from jailbuild.box.stage import staged_name
from jailbuild.box.target import PlanOptions
from jailbuild.check.run import check_root
from jailbuild.errors import JailError
from jailbuild.root import Root
from tests import needs
from tests.box import tiny
from tests.box.running import Answer, add, complaint, dump, entries, here, put, run, state

PLACES = [
    "usr",
    "usr/bin",
    "lib",
    "lib64",
    "etc",
    "etc/ld.so.cache",
    "etc/os-release",
    "tmp",
    "dev",
    "usr/bin/far",
    f"{tiny.LIBRARIES}/libtinfo.so.6.4",
    "opt/far/libfar.so",
    ".jailbuild",
    ".jailbuild/manifest.jsonl",
    ".jailbuild/staging",
    ".jailbuild/staging/1",
    ".jailbuild/lock",
    ".jailbuild/manifest.next",
    ".jailbuild/journal",
]


@pytest.fixture(scope="module")
def far(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small root with a program whose library is outside the default directories: its box gets a cache."""
    root = tiny.clone(made, tmp_path_factory.mktemp("far") / "root")
    tiny.program(
        root / "usr/bin/far", tiny.library(root / "opt/far/libfar.so", value=3), root / tiny.LIBRARIES / "libtinfo.so.6"
    )
    tiny.cache(root, "/opt/far")
    return root


@pytest.fixture(scope="module")
def outside(far: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of the host's that looks like what the box should have, manifest and all; nobody may change it."""
    root = tiny.clone(far, tmp_path_factory.mktemp("outside") / "root")
    put(root, "bash", root=far, adopt=True)
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
        "absolute": str(outside / place),
        "relative": os.path.relpath(outside / place, link.parent),
        "dangling": str(outside / "nowhere"),
        "looping": link.name,
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
    assert "/usr/bin/far" in complaint(add(box, "far", "--adopt", sysroot=far, status=1))


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
    assert "it is the running system's own" in complaint(done)
    assert not os.path.lexists("/.jailbuild")


@pytest.fixture
def bound(tmp_path: Path) -> Iterator[Path]:
    """The host's root under another name: a bind mount."""
    needs.may_mount()
    place = tmp_path / "bound"
    place.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(b"/", os.fsencode(place), None, 0x1000, None) == 0
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
    "kind": "request",
    "type": "program",
    "name": "bash",
    "path": "/usr/bin/bash",
    "source": None,
    "bare": False,
}
ENTRY: dict[str, Any] = {
    "kind": "entry",
    "path": "/usr/bin/bash",
    "type": "file",
    "mode": "0755",
    "uid": 0,
    "gid": 0,
    "size": 5,
    "mtime_ns": 0,
    "sha256": "0" * 64,
    "target": None,
    "hardlink": None,
    "device": None,
    "source": "/usr/bin/bash",
    "package": None,
    "wanted_by": ["bash"],
    "edges": [{"by": None, "kind": "program"}],
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
        HEADER, REQUEST, ENTRY | {"type": "link", "sha256": None, "size": None, "mode": None, "target": "\ud800"}
    ),
    "a name that is half a character": _lines(HEADER, REQUEST | {"name": "\ud800"}, ENTRY | {"wanted_by": ["\ud800"]}),
    "an edge that is half a character": _lines(
        HEADER | {"schema": 2}, REQUEST, ENTRY | {"edges": [{"by": "/\udbff", "kind": "\udbff"}]}
    ),
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
    "edges that go round": ENTRY | {"edges": [{"by": "/usr/bin/bash", "kind": "path"}]},
    "an edge from nowhere": ENTRY | {"edges": [{"by": "/absent", "kind": "needed"}]},
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
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(
        [
            "/usr/bin/bash",
            "/..",
            "/usr",
            "/.jailbuild/x",
            "\ud800",
            "/\udcff",
            "file",
            "link",
            "0755",
            "bash",
            "needed",
            10**40,
            "0" * 64,
            0,
            "entry",
            "header",
            "request",
            "//",
            "/a/../b",
            "\0",
        ]
    ),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below, max_size=3),
    max_leaves=5,
)
_EDGES = {"edges": [{"by": None, "as": "program", "kind": "program"}]}  # of either schema
_PLAIN = {"sha256": None, "size": None}
_BASES = (
    HEADER,
    REQUEST,
    ENTRY | _EDGES,
    ENTRY | _EDGES | _PLAIN | {"type": "link", "mode": None, "target": "x", "path": "/bin"},
    ENTRY | _EDGES | _PLAIN | {"type": "directory", "path": "/usr"},
)
_BASES_OF_2 = (
    *_BASES,
    REQUEST | {"type": "exclude", "name": "/usr/**/*.so.6*"},
    REQUEST | {"type": "unmanaged", "name": "/usr/lib"},
    REQUEST | {"type": "text", "name": "/etc/motd", "path": "/etc/motd", "mode": "0600", "owner": "root:root"},
    REQUEST | {"type": "package", "name": "bash", "docs": True, "depends": True},
    REQUEST | {"type": "user", "name": "nobody"},
    {"kind": "package", "name": "bash", "version": "1", "architecture": None, "source": "bash"},
    {"kind": "why", "id": 0, "wanted_by": ["bash"], "edges": [{"kind": "tree", "by": "/usr", "for": ["bash"]}]},
    ENTRY | {"why": 0},
    ENTRY | _PLAIN | {"why": 0, "type": "device", "device": ["c", 1, 3], "path": "/dev/null"},
    ENTRY | _EDGES | {"path": "/etc/passwd", "source": None, "lines": ["root:x:0:0::/:", {"line_b64": "YTo="}]},
    ENTRY | _EDGES | {"path": "/etc/group", "source": None, "lines": ["root:x:0:nobody"]},
    ENTRY | {"path": "/etc/passwd", "source": None, "edges": [{"kind": "user", "names": ["nobody"], "by": None}]},
)


@st.composite
def _tampered(draw: st.DrawFn) -> bytes:
    schema = draw(st.sampled_from([1, 2]))
    extra = {"source": "/srv", "built": None, "image": {"Cmd": ["x"]}} if schema == 2 else {}
    records = [HEADER | {"schema": schema} | extra] if draw(st.integers(0, 9)) else []
    for _ in range(draw(st.integers(0, 4))):
        record = dict(draw(st.sampled_from(_BASES_OF_2 if schema == 2 else _BASES)))
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
        addition = plan_addition(Root(str(made)), AddSpec(("bash", "ls")), str(opened), PlanOptions())
        addition.plan.refuse_conflicts()
        assert json.dumps([action.as_json() for action in addition.plan.actions])
    except JailError as error:
        assert error.causes
    assert before == dump(opened, contents=True)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, 60), st.sampled_from([*ENTRY, "path_b64"]), _VALUES), max_size=2),
    gone=st.sampled_from(["usr/bin/bash", f"{tiny.LIBRARIES}/libtinfo.so.6", "bin", "tmp"]),
)
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


SECRET = b"nobody in the box may read this"


def _tamper(box: Path, *records: object, drop: str = "\0") -> None:
    """Add lines to the manifest of a box, and take those out that have `drop` in them."""
    path = box / ".jailbuild/manifest.jsonl"
    kept = [line for line in path.read_bytes().splitlines(keepends=True) if drop.encode() not in line]
    path.write_bytes(b"".join(kept) + _lines(*records))


def _write_journal(box: Path, journal: bytes, **staged: bytes) -> None:
    """Leave a box as if a writer had been killed after its commit."""
    (box / ".jailbuild/journal").write_bytes(journal)
    (box / ".jailbuild/staging").mkdir()
    for name, data in staged.items():
        (box / ".jailbuild/staging" / name).write_bytes(data)


def _answers(answer: Answer) -> bool:
    """Say whether a command ended in words, without a control character in them."""
    words = " ".join([answer.out, answer.words]).replace("\n", "")
    return answer.status in (0, 1, 3) and "\x1b" not in words and "\r" not in words


@pytest.mark.parametrize("as_journal", [False, True], ids=["manifest", "journal"])
@pytest.mark.parametrize("what", STRANGE)
def test_strange_values_do_no_harm_to_remove_update_and_recovery(
    made: Path, plain: Path, tmp_path: Path, what: str, as_journal: bool
) -> None:
    """Each command answers; what it makes of the box it can undo."""
    box = tiny.clone(plain, tmp_path / "box")
    path = str(STRANGE[what]["path"])
    _tamper(box, STRANGE[what], drop=f'"path": "{path}", "type": ')
    if as_journal:
        journal = (box / ".jailbuild/manifest.jsonl").read_bytes()
        (box / ".jailbuild/manifest.jsonl").write_bytes((plain / ".jailbuild/manifest.jsonl").read_bytes())
        _write_journal(box, journal)
    for arguments in (
        ("update", box, "--sysroot", made, "--no-sync", "--dry-run"),
        ("update", box, "--sysroot", made, "--no-sync"),
        ("remove", "bash", "--from", box, "--no-sync", "--replace", path),
        ("add", "ls", "--into", box, "--no-sync"),
    ):
        answer = here(*arguments)
        assert _answers(answer), answer
    assert os.listdir(tmp_path) == ["box"]


NAMES = {
    "above": "..",
    "here": ".",
    "huge": "x" * 5000,
    "colon": "a:b",
    "option": "--sysroot",
    "newline": "a\nb",
    "escape": "a\x1b[2Jb",
    "glob": "*",
    "space": " ",
    "secret": "shadow",
    "a quarter of a megabyte": "ab" * 150_000,
}


@pytest.mark.parametrize("what", NAMES)
def test_a_request_of_any_name_is_a_name_of_a_program_and_nothing_else(
    made: Path, plain: Path, tmp_path: Path, what: str
) -> None:
    """It is looked up where programs are; not found, it is reported and stays, and can be removed."""
    box = tiny.clone(plain, tmp_path / "box")
    before = dump(box, contents=True)
    _tamper(box, REQUEST | {"name": NAMES[what], "path": "/etc/shadow"})
    answer = here("update", box, "--sysroot", made, "--no-sync")
    assert (answer.status, answer.errors) == (0, ())
    assert _answers(answer)
    assert "no longer" in answer.words
    assert before == dump(box, contents=True)
    assert _answers(here("check", box))
    answer = here("remove", "--from", box, "--no-sync", "--", NAMES[what])
    assert (answer.status, answer.errors) == (0, ())
    assert _answers(answer)


@pytest.mark.parametrize(
    "request_line",
    [
        REQUEST | {"name": "/etc/mine", "path": "/etc/mine", "source": "SOURCE"},
        REQUEST | {"name": "mine", "path": "/etc/mine", "source": "SOURCE"},
        REQUEST | {"name": "SOURCE", "path": "SOURCE"},
        REQUEST | {"name": "mine", "path": "SOURCE", "type": "file"},
        REQUEST | {"name": "mine", "path": "SOURCE", "source": "SOURCE", "type": "directory"},
        REQUEST | {"name": "mine", "path": "SOURCE"},
    ],
)
def test_a_source_that_a_manifest_names_is_not_so_much_as_looked_at(
    sysroot: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_line: dict[str, Any]
) -> None:
    """Neither as the source of a request nor of an entry, nor because it is one file with a program of the host's."""
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    secret.chmod(0o755)
    linked = tmp_path / "linked"
    linked.hardlink_to(sysroot / "usr/bin/ls")
    box = tiny.clone(plain, tmp_path / "box")
    (box / "etc").mkdir()
    (box / "etc/mine").write_bytes(b"theirs")
    entry = ENTRY | {
        "path": "/etc/mine",
        "source": "SOURCE",
        "wanted_by": [request_line["name"]],
        "size": 6,
        "mode": "0644",
        "sha256": hashlib.sha256(b"theirs").hexdigest(),
        "hardlink": "/etc/mine",
    }
    text = json.dumps([request_line, entry])
    seen = []
    for function in ("stat", "lstat", "open", "readlink"):
        real = getattr(os, function)

        def look(path: Any, *arguments: Any, real: Any = real, **options: Any) -> Any:
            seen.append(os.fspath(path) if not isinstance(path, int) else "")
            return real(path, *arguments, **options)

        monkeypatch.setattr(os, function, look)
    for source in (secret, linked):
        _tamper(box, *json.loads(text.replace("SOURCE", str(source))), drop="/etc/mine")
        for arguments in (
            ("update", box, "--sysroot", sysroot, "--no-sync"),
            ("add", "ls", "--into", box, "--sysroot", sysroot, "--no-sync"),
            ("remove", "ls", "--from", box, "--no-sync"),
        ):
            answer = here(*arguments)
            assert _answers(answer), answer
            assert not answer.errors, answer
            if arguments[0] == "add":
                assert (box / "usr/bin/ls").read_bytes() == (sysroot / "usr/bin/ls").read_bytes()
    monkeypatch.undo()
    assert {str(secret), str(linked)}.isdisjoint(seen)
    assert (box / "etc/mine").read_bytes() == b"theirs"
    assert not any(SECRET in path.read_bytes() for path in box.rglob("*") if path.is_file())


def test_an_entry_that_claims_to_be_one_with_a_program_lends_it_no_bytes(sysroot: Path, box: Path) -> None:
    """Programs that are hard links where they come from are linked in the box only if they are the same there."""
    os.link(sysroot / "usr/bin/ls", sysroot / "usr/bin/dir")
    os.link(sysroot / "usr/bin/ls", sysroot / "usr/bin/vdir")
    add(box, "bash", "dir", sysroot=sysroot)
    (box / "usr/bin/evil").write_bytes(b"evil")
    (box / "usr/bin/evil").chmod(0o755)
    evil = ENTRY | {
        "path": "/usr/bin/evil",
        "source": "/usr/bin/evil",
        "size": 4,
        "sha256": hashlib.sha256(b"evil").hexdigest(),
        "hardlink": "/usr/bin/dir",
    }
    lines = [json.loads(line) for line in (box / ".jailbuild/manifest.jsonl").read_bytes().splitlines()]
    for line in lines:
        if line.get("path") == "/usr/bin/dir" and line["kind"] == "entry":
            line["hardlink"] = "/usr/bin/dir"
    (box / ".jailbuild/manifest.jsonl").write_bytes(_lines(*lines, evil))
    (box / "usr/bin/dir").unlink()
    add(box, "vdir", sysroot=sysroot)
    assert (box / "usr/bin/vdir").read_bytes() == (sysroot / "usr/bin/ls").read_bytes()


@pytest.mark.parametrize("what", ["nothing left", "all given up", "links out", "a box of its own", "no manifest"])
def test_a_journal_that_somebody_wrote_harms_the_box_alone(
    made: Path, plain: Path, outside: Path, tmp_path: Path, what: str
) -> None:
    """What it lists is brought about in the box and nowhere else, and the next command goes on from there."""
    before = state(outside)
    box = tiny.clone(plain, tmp_path / "box")
    manifest = (box / ".jailbuild/manifest.jsonl").read_bytes()
    paths = sorted(entries(box))
    if what == "nothing left":
        _write_journal(box, _lines(HEADER))
    elif what == "all given up":
        given = _lines(*({"path": path, "there": "directory"} for path in paths))
        _write_journal(box, _lines(HEADER), **{"given.jsonl": given + b"[" * 100_000})
    elif what == "links out":
        shutil.rmtree(box / "usr")
        (box / "usr").symlink_to(outside / "usr")
        _write_journal(box, _lines(HEADER), **{staged_name(path): b"x" for path in paths})
    elif what == "a box of its own":
        _write_journal(box, manifest, **{staged_name(path): b"x" for path in paths}, other=b"y")
    else:
        (box / ".jailbuild/manifest.jsonl").unlink()
        _write_journal(box, manifest, **{staged_name(path): b"x" for path in paths})
    for arguments in (
        ("check", box),
        ("list", box),
        ("add", "ls", "--into", box, "--sysroot", made, "--no-sync"),
        ("update", box, "--sysroot", made, "--no-sync"),
        ("remove", "bash", "--from", box, "--no-sync"),
    ):
        answer = here(*arguments)
        assert _answers(answer), answer
        assert before == state(outside)
    assert not (box / ".jailbuild/journal").exists()
    assert not (box / ".jailbuild/staging").exists()


def test_a_manifest_of_very_many_entries_is_read_in_its_time(made: Path, plain: Path, tmp_path: Path) -> None:
    """A long chain of edges too: nobody keeps every chain to every path."""
    box = tiny.clone(plain, tmp_path / "box")
    paths = [f"/usr/share/{number}" for number in range(20_000)]
    before = "/usr/bin/bash"
    lines = []
    for path in paths:
        lines.append(ENTRY | {"path": path, "edges": [{"by": before, "kind": "needed"}]})
        before = path
    _tamper(box, *lines)
    answer = here("why", box, paths[-1])
    assert (answer.status, answer.out.count(" (")) == (0, 20_001), answer.errors
    for arguments in (("list", box), ("check", box), ("update", box, "--sysroot", made, "--no-sync", "--dry-run")):
        assert _answers(here(*arguments))


@pytest.mark.parametrize("change", ["its bytes", "its time and owner", "an impossible kind", "a library gone"])
def test_a_cache_of_somebody_elses_is_left_alone_or_written_anew(far: Path, tmp_path: Path, change: str) -> None:
    """The box's ld.so.cache is input from a stranger too, whatever digest the manifest has for it."""
    box = tmp_path / "box"
    put(box, "far", "bash", root=far)
    cache = box / "etc/ld.so.cache"
    line = next(line for line in entries(box).values() if line["path"] == "/etc/ld.so.cache")
    if change == "its time and owner":
        line |= {"mtime_ns": 10**30, "uid": 7, "mode": "6777"}
        line["wanted_by"] = ["bash", "far"]
    elif change == "an impossible kind":
        data = bytearray(cache.read_bytes())
        data[48 + 16 : 48 + 24] = b"\xff" * 8  # hwcap of the first entry
        cache.write_bytes(data)
        line |= {"sha256": hashlib.sha256(data).hexdigest(), "wanted_by": ["bash", "far"]}
    elif change == "its bytes":
        cache.write_bytes(b"\0" * 500)
    else:
        shutil.rmtree(box / "opt")
        line["wanted_by"] = ["bash", "far"]
    _tamper(box, line, drop='"path": "/etc/ld.so.cache"')
    for arguments in (
        ("check", box),
        ("add", "ls", "--into", box, "--sysroot", far, "--no-sync"),
        ("remove", "far", "--from", box, "--no-sync"),
        ("update", box, "--sysroot", far, "--no-sync"),
    ):
        answer = here(*arguments)
        assert _answers(answer), answer
        assert not any(cause.startswith("cannot go on") for cause in answer.errors), answer
    if cache.exists():
        assert cache.stat().st_mode & 0o6000 == 0


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    data=_tampered(),
    journal=_tampered(),
    rest=_tampered(),
    how=st.sampled_from(["manifest", "journal", "both", "next"]),
)
def test_whatever_a_record_says_writing_stays_in_words_and_in_the_box(
    made: Path,
    plain: Path,
    tmp_path_factory: pytest.TempPathFactory,
    data: bytes,
    journal: bytes,
    rest: bytes,
    how: str,
) -> None:
    """For remove, update and the recovery, whichever part of the record somebody wrote."""
    place = tmp_path_factory.mktemp("record")
    box = tiny.clone(plain, place / "box")
    if how in ("manifest", "both"):
        (box / ".jailbuild/manifest.jsonl").write_bytes(data)
    if how in ("journal", "both"):
        _write_journal(box, journal, **{"given.jsonl": rest, staged_name("/usr/bin/bash"): rest})
    if how == "next":
        (box / ".jailbuild/staging").mkdir()
        (box / ".jailbuild/staging/manifest.next").write_bytes(journal)
    for arguments in (
        ("remove", "bash", "--from", box, "--no-sync"),
        ("update", box, "--sysroot", made, "--no-sync"),
        ("add", "ls", "--into", box, "--sysroot", made, "--no-sync"),
        ("check", box),
    ):
        answer = here(*arguments)
        assert answer.status in (0, 1, 3), answer
    assert os.listdir(place) == ["box"]
    shutil.rmtree(place)
