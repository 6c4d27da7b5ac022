"""A manifest as it is written and read: all comes back, nothing that does not fit gets in, and it is small."""

from __future__ import annotations

import base64
import json
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jailbuild.box.manifest import FLAGS, PARENT, Entry, Label, Manifest, Reason, RecordedRequest
from jailbuild.box.records import Bounds, encode, parse_manifest
from jailbuild.closure.commands import NAMED, RULES
from jailbuild.elf.priorities import LEVELS
from jailbuild.packages.info import PackageInfo
from jailbuild.report import jsonlines
from tests.unit.test_schemas import schema, validator

# what a manifest may say

BYTES = st.binary(min_size=1, max_size=6) | st.sampled_from(
    [b"\xff", b"\xed\xa0\x80", "ï\ufffd\u2028".encode(), b"\\", b'"', b"\n", b"\r", b"\x1b[2J", b" "]
)
NAMES = BYTES.filter(lambda data: b"\0" not in data).map(os.fsdecode)
PARTS = NAMES.filter(lambda name: "/" not in name and name not in (".", "..", ".jailbuild"))
PATHS = st.lists(PARTS, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
WORDS = TEXT.filter(bool)
MODES = st.integers(0, 0o7777)
IDS = st.integers(0, (1 << 32) - 1)
KINDS = schema("list")["$defs"]["edge"]["properties"]["kind"]["enum"]
LINES = st.builds(lambda name, rest: os.fsdecode(name + b":" + rest).replace("\n", ""), BYTES, BYTES)


@st.composite
def _request(draw: st.DrawFn) -> RecordedRequest:
    kind = draw(st.sampled_from(["program", "file", "directory", "text", *NAMED]))
    if kind in RULES:
        return RecordedRequest(f"{kind}:{draw(PATHS)}", "", type=kind)
    name = draw(NAMES)
    if kind in NAMED and kind != "package":
        return RecordedRequest(
            f"{kind}:{name}", "", bare=draw(st.booleans()), type=kind, dlopen=draw(st.sampled_from(LEVELS))
        )
    return RecordedRequest(
        f"{kind}:{name}" if kind in NAMED else name,
        draw(PATHS | st.just("/") if kind == "directory" else PATHS),
        draw(st.none() | NAMES),
        draw(st.booleans()),
        kind,
        draw(st.lists(WORDS, max_size=2).map(tuple)),
        draw(st.sampled_from(LEVELS)),
        draw(st.frozensets(st.sampled_from(FLAGS))) if kind == "package" else frozenset(),
        draw(st.none() | MODES),
        draw(st.none() | WORDS),
    )


@st.composite
def _manifest(draw: st.DrawFn) -> Manifest:
    """Return a manifest such as jailbuild makes, with names that nobody has thought of."""
    requests = {asked.name: asked for asked in draw(st.lists(_request(), max_size=4)) if "\0" not in asked.name}
    names = sorted(requests) or ["absent"]
    wanted = st.lists(st.sampled_from(names), unique=True, max_size=3).map(tuple)
    texts = st.lists(WORDS, max_size=2).map(tuple)
    reason = st.builds(
        Reason,
        st.just("") | PATHS,
        st.sampled_from([kind for kind in KINDS if kind != PARENT]),
        wanted,
        st.just("") | WORDS,
        texts,
        TEXT,
        texts,
    )
    # some are shared
    reasons_of = st.lists(reason, min_size=1, max_size=3).map(tuple)
    whys = draw(st.lists(st.tuples(wanted, reasons_of), min_size=1, max_size=3))
    found = {}
    for path in draw(st.lists(PATHS, max_size=6, unique=True)):
        wanted_by, reasons = draw(st.sampled_from(whys))
        entry = Entry(
            path,
            draw(st.sampled_from(["file", "link", "directory", "device"])),
            None,
            draw(IDS),
            draw(IDS),
            mtime_ns=draw(st.none() | st.integers()),
            source=draw(st.none() | st.just(path) | NAMES),
            package=draw(st.none() | WORDS),
            wanted_by=wanted_by,
            reasons=reasons,
        )
        if entry.type == "link":
            entry = entry._replace(target=draw(NAMES))
        else:
            entry = entry._replace(mode=draw(MODES))
        if entry.type == "file":
            digest = draw(st.binary(min_size=32, max_size=32)).hex()
            entry = entry._replace(
                size=draw(st.integers(0)),
                sha256=digest,
                hardlink=draw(st.none() | PATHS),
                lines=draw(st.just(()) | st.lists(LINES, max_size=2).map(tuple)),
            )
        if entry.type == "device":
            entry = entry._replace(device=(draw(st.sampled_from("cb")), draw(IDS), draw(IDS)))
        found[path] = entry
    packages = draw(
        st.lists(
            st.builds(PackageInfo, WORDS, st.none() | TEXT, st.none() | TEXT, st.none() | TEXT), max_size=3, unique=True
        )
    )
    return Manifest(
        Label(*(draw(st.none() | TEXT) for _ in Label._fields)),
        requests,
        found,
        tuple(sorted(packages, key=str)),
        draw(st.just("") | st.none() | PATHS),
        draw(st.none() | TEXT),
        draw(st.none() | st.dictionaries(TEXT, st.none() | TEXT | st.lists(TEXT, max_size=2), max_size=2)),
    )


@settings(max_examples=150)
@given(_manifest())
def test_what_is_written_is_what_is_read(manifest: Manifest) -> None:
    """And it is written the same again."""
    data = b"".join(encode(manifest))
    again = parse_manifest(data)
    assert again == manifest
    assert data == b"".join(encode(again))


@settings(max_examples=100)
@given(_manifest())
def test_what_list_prints_is_what_its_schema_says(manifest: Manifest) -> None:
    """Whatever the names, in UTF-8, and with every edge: those of directories to what they hold too."""
    lines = [json.loads(jsonlines.line(line).encode("utf-8")) for line in manifest.lines()]
    held = validator("list")
    for line in lines:
        held.validate(line)
    assert len(lines) == 1 + len(manifest.requests) + len(manifest.packages) + len(manifest.entries)
    printed = {_bytes(line, "path"): line for line in lines if line["kind"] == "entry"}
    for path, entry in manifest.entries.items():
        below = {os.fsencode(one) for one in manifest.entries if one.rpartition("/")[0] == path}
        edges = printed[os.fsencode(path)]["edges"]
        assert {_bytes(edge, "by") for edge in edges if edge["kind"] == PARENT} == below
        assert len(edges) == len(below) + len(entry.reasons)


def _bytes(record: dict[str, Any], key: str) -> bytes:
    coded = record.get(f"{key}_b64")
    return base64.b64decode(coded) if coded is not None else str(record[key]).encode()


# what it may not say


SMALL = Bounds(1 << 20, 1000, 1 << 20)


def _read(data: bytes) -> Manifest | None:
    """Read a manifest; None if it is refused, which nothing but ValueError says."""
    try:
        return parse_manifest(data, SMALL)
    except ValueError as error:
        assert len(str(error)) < 300
        return None


@settings(max_examples=100)
@given(
    st.binary(max_size=200),
    st.sampled_from(
        [b"", b'{"kind": "header", "schema": 1, "root": {}}\n', b'{"kind": "header", "schema": 2, "root": {}}\n']
    ),
)
def test_bytes_that_are_no_manifest_are_refused(data: bytes, head: bytes) -> None:
    """In words, each of them."""
    found = _read(head + data)
    if found is not None:
        assert b"".join(encode(found))
        assert [*found.lines()]


HEADER = '{"kind": "header", "schema": 2, "root": {}, "image": {"a": %s}}\n'


@pytest.mark.parametrize(
    "value",
    [
        "NaN",
        "-Infinity",
        "1e999999 ",
        '"\\ud800"',
        '{"\\udc80": 1}',
        *("[" * depth + "]" * depth for depth in (101, 300, *range(900, 1000, 5), 100_000)),
    ],
)
def test_an_image_that_could_not_be_written_again_is_refused(value: str) -> None:
    """What equals nothing, is no UTF-8, or is nested so deeply that only a shallow stack can read or write it."""
    with pytest.raises(ValueError, match="line 1"):
        parse_manifest((HEADER % value).encode())
    assert parse_manifest((HEADER % ("[" * 90 + '"x"' + "]" * 90)).encode()).image


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXT
    | st.sampled_from(
        [
            "/usr",
            "/..",
            "/.jailbuild/x",
            "\ud800",
            "\udcff",
            "file",
            "link",
            "device",
            "0755",
            0,
            1,
            10**40,
            "0" * 64,
            "entry",
            "why",
            "package",
            "exclude",
            "/a/[z-a]",
            "/a\0",
            "",
            "//",
            -1,
            "text",
        ]
    ),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(TEXT, below, max_size=3),
    max_leaves=4,
)


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    """Return a manifest with a few values, keys, lines or bytes that are not what was written; of schema 1 or 2."""
    records = [json.loads(line) for line in encode(draw(_manifest()))]
    keys = sorted({key for record in records for key in record} | {"path_b64", "name_b64", "line_b64", "for", "as"})
    for _ in range(draw(st.integers(0, 3))):
        record = draw(st.sampled_from(records))
        inner = (
            [edge for edge in record.get("edges", ()) if isinstance(edge, dict)]
            if isinstance(record.get("edges"), list)
            else []
        )
        record = draw(st.sampled_from([record, *inner]))
        key = draw(st.sampled_from(keys + sorted(record)))
        if draw(st.booleans()):
            record[key] = draw(VALUES)
        else:
            record.pop(key, None)
    if draw(st.booleans()):
        records[0]["schema"] = draw(st.sampled_from([1, 1, 1, 0, 3, True, 1.0]))
    for _ in range(draw(st.integers(0, 1))):
        records.insert(draw(st.integers(0, len(records))), draw(st.sampled_from(records)))
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    if draw(st.integers(0, 3)) == 0:
        place = draw(st.integers(0, len(data)))
        data = data[:place] + draw(st.binary(max_size=4)) + data[place + draw(st.integers(0, 4)) :]
    return data


@settings(max_examples=300)
@given(_mutated())
def test_a_manifest_that_was_changed_is_refused_or_can_be_written_again(data: bytes) -> None:
    """Nothing else comes of it: what is believed is printed, and written, and read."""
    found = _read(data)
    if found is not None:
        assert [json.dumps(line) for line in found.lines()]
        written = b"".join(encode(found))
        again = parse_manifest(written)
        assert (found.requests, found.entries.keys()) == (again.requests, again.entries.keys())
        assert written == b"".join(encode(again))
