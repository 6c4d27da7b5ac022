"""A manifest as it stands on disk, JSON Lines at /.jailbuild/manifest.jsonl: written and read line by line.

Schema 2 stores once what repeats: edges with who wants them are lines of kind "why" that entries name by number, edges
from what a directory holds are left out, and so is what has its usual value. Schema 1 is read, and never written.

Somebody inside the box may have written it: it is refused by size before it is parsed, and nothing in it is believed
before it was looked at.
"""

from __future__ import annotations

import errno
import io
import json
import os
import stat
from collections.abc import Iterator
from typing import Any, NamedTuple

from jailbuild.box.layout import DIRECTORY, NAME
from jailbuild.box.manifest import SCHEMA, Entry, Manifest, Reason, line_to_json
from jailbuild.box.parsing import ManifestParser, Why
from jailbuild.errors import JailError, reason
from jailbuild.names import spelled, to_json
from jailbuild.root import Root, open_beneath


class Bounds(NamedTuple):
    """How large a manifest may be."""

    size: int  # bytes
    entries: int
    line: int  # bytes


OWN = Bounds(256 << 20, 1_000_000, 256 << 20)  # one's own, or root's
OTHERS = Bounds(32 << 20, 100_000, 4 << 20)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_JSON = json.JSONDecoder(parse_constant=_refuse_constant)  # NaN equals nothing, not even itself


def bounds_for(owner: int) -> Bounds:
    """Return how large the record of a box may be that belongs to a uid."""
    return OWN if owner in (0, os.geteuid()) else OTHERS


class TooLargeError(ValueError):
    """A manifest beyond its bounds."""


def encode(manifest: Manifest) -> Iterator[bytes]:
    """Yield the lines of a manifest, each with its newline."""
    yield _line(manifest.header())
    for _, asked in sorted(manifest.requests.items()):
        yield _line(asked.as_json())
    for package in manifest.packages:
        yield _line({"kind": "package", **package._asdict()})
    seen: set[Why] = set()
    numbers: dict[Why, int] = {}  # of what more than one entry has
    ordered = sorted(manifest.entries.items())
    for _, entry in ordered:
        why = entry.wanted_by, entry.reasons
        if why in seen:
            numbers.setdefault(why, len(numbers))
        else:
            seen.add(why)
    for (wanted_by, reasons), number in numbers.items():
        yield _line({"kind": "why", "id": number, **_why(wanted_by, reasons)})
    for _, entry in ordered:
        yield _line(_stored(entry, numbers.get((entry.wanted_by, entry.reasons))))


def _line(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8")


def _why(wanted_by: tuple[str, ...], reasons: tuple[Reason, ...]) -> dict[str, Any]:
    return {
        "wanted_by": [spelled(name) for name in wanted_by],
        "edges": [
            {key: value for key, value in reason.as_json(wanted_by).items() if value or key == "for"}
            for reason in reasons
        ],
    }


def _stored(entry: Entry, number: int | None) -> dict[str, Any]:
    """Return an entry's line: its path, its type and its mode first, which enter/privileged.py looks for."""
    found: dict[str, Any] = {"kind": "entry", **to_json("path", entry.path), "type": entry.type}
    if entry.mode is not None:
        found["mode"] = f"{entry.mode:04o}"
    found.update((key, value) for key in ("uid", "gid") if (value := getattr(entry, key)))
    found.update((key, value) for key in ("size", "mtime_ns", "sha256") if (value := getattr(entry, key)) is not None)
    for key, name in (("target", entry.target), ("hardlink", entry.hardlink)):
        if name is not None:
            found.update(to_json(key, name))
    if entry.device is not None:
        found["device"] = list(entry.device)
    if entry.source != entry.path:
        found.update(to_json("source", entry.source))
    if entry.package is not None:
        found["package"] = entry.package
    if entry.lines:
        found["lines"] = [line_to_json(line) for line in entry.lines]
    found.update(_why(entry.wanted_by, entry.reasons) if number is None else {"why": number})
    return found


def read_manifest(root: Root, box: str, name: str = NAME) -> Manifest | None:
    """Return the manifest of a box; None if it has none. JailError if it cannot be read or believed.

    `name` is JOURNAL, or another path below the record, for a manifest to come.
    """
    try:
        opened = open_beneath(root.descriptor, f"{DIRECTORY}/{name}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        hint = "its record is for its owner" if error.errno == errno.EACCES else "somebody put something else there"
        raise JailError(f"cannot read the manifest of {box}: {reason(error)}", hint) from None
    try:
        return read_open_manifest(opened, box)
    finally:
        os.close(opened)


def read_open_manifest(opened: int, box: str) -> Manifest:
    """Return the manifest in an open file, which stays open (JailError if it cannot be read or believed)."""
    status = os.fstat(opened)
    bounds = bounds_for(status.st_uid)
    if not stat.S_ISREG(status.st_mode):
        why = "it is no regular file"
        raise JailError(f"cannot read the manifest of {box}: {why}", "somebody put something else there")
    with os.fdopen(opened, "rb", closefd=False) as file:
        try:
            if status.st_size > bounds.size:
                raise TooLargeError(f"it has more than {bounds.size >> 20} MiB")
            return decode(file, bounds)
        except TooLargeError as error:
            hint = f"it belongs to uid {status.st_uid}, who may read a larger one" if bounds is OTHERS else ""
            raise JailError(f"cannot read the manifest of {box}: {error}", hint) from None
        except ValueError as error:
            hint = "it was damaged or written by somebody else: keep the box apart and build a new one"
            raise JailError(f"cannot believe the manifest of {box}: {error}", hint) from None


def parse_manifest(data: bytes, bounds: Bounds = OWN) -> Manifest:
    """Return what the bytes of a manifest say; ValueError, with the line, for anything that does not fit."""
    return decode(io.BytesIO(data), bounds)


def decode(file: io.BufferedIOBase, bounds: Bounds) -> Manifest:
    """Return what a manifest says that is read from an open file (ValueError; TooLargeError beyond the bounds)."""
    first = file.readline(bounds.line + 1)
    if not first:
        raise ValueError("it is empty")
    parser: ManifestParser | None = None
    number, size = 1, 0
    line = first
    while line:
        size += len(line)
        if size > bounds.size or len(line) > bounds.line:
            most = bounds.size if size > bounds.size else bounds.line
            raise TooLargeError(f"line {number}: there are more than {most >> 20} MiB")
        try:
            record = _JSON.decode(line.decode("utf-8"))
            if not isinstance(record, dict):
                raise ValueError("it is no object")
            if parser is None:
                parser = _parser_of(record)
            else:
                parser.take(record)
        except (ValueError, RecursionError) as error:
            why = "it is no JSON" if isinstance(error, (json.JSONDecodeError, UnicodeError)) else str(error)
            raise ValueError(f"line {number}: {why[:200]}") from None
        if len(parser.entries) > bounds.entries:
            raise TooLargeError(f"it has more than {bounds.entries} entries")
        line = file.readline(bounds.line + 1)
        number += 1
    assert parser is not None
    return parser.finished()


def _parser_of(header: dict[str, Any]) -> ManifestParser:
    schema = header.get("schema")
    if header.get("kind") != "header" or type(schema) is not int or not 1 <= schema <= SCHEMA:
        raise ValueError(f"it does not begin with a header of schema 1 to {SCHEMA}")
    if schema == SCHEMA:
        return ManifestParser(header)
    from jailbuild.box.schema_1 import Schema1Parser  # boxes of 0.1 become few

    return Schema1Parser(header)
