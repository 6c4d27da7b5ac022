"""The record of what was asked of a box and what was put into it: JSON Lines at /.jailbuild/manifest.jsonl.

A header, the requests, an entry for each path, sorted; no clock, so that the same requests on the same source root
give the same bytes. Somebody inside the box may have written it: nothing in it is believed before it was looked at.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from jailbuild.box.layout import DIRECTORY, NAME
from jailbuild.closure.commands import NAMED, UNPLACED
from jailbuild.elf.priorities import DEFAULT, LEVELS
from jailbuild.errors import JailError, reason
from jailbuild.names import from_json, to_json
from jailbuild.root import Root, open_beneath

SCHEMA = 1

_MAX_MANIFEST = 256 << 20  # bytes; 100 000 entries have some 50 MB
_TYPES = ("file", "link", "directory", "device")
_ASKED = ("program", "file", "directory", *NAMED)
_ODD = frozenset(("", ".", ".."))  # no components of a canonical path
_WHAT = TypeVar("_WHAT")


class Label(NamedTuple):
    """What tells one source root from another; a part that is not known is None."""

    id: str | None  # os-release(5) ID
    version_id: str | None
    machine: str | None  # as uname(2) has it

    def __str__(self) -> str:
        return " ".join(part or "?" for part in self)


class Asked(NamedTuple):
    """One request, as it is remembered."""

    name: str
    path: str  # "" for a recipe, a user or a locale; of a package where its files are listed
    source: str | None = None  # of SRC:DEST
    bare: bool = False
    type: str = "program"  # or "file", "directory", "recipe", "user", "locale", "package"
    without: tuple[str, ...] = ()  # recipes that are not to apply by themselves
    dlopen: str = DEFAULT  # of LEVELS: which libraries come that its programs open while they run

    @property
    def what(self) -> str:
        """The name as the user gave it: of a recipe, a user, a locale or a package without the type before it."""
        return self.name.partition(":")[2] if self.type in NAMED else self.name

    @property
    def by_name(self) -> bool:
        """Whether it can be found again without believing more of a manifest than a name."""
        return self.type in NAMED or (self.type == "program" and self.source is None and "/" not in self.name)


class Reason(NamedTuple):
    """Why an entry is there: the entry that leads to it ("" for the request itself), how, and for which requests.

    In JSON the last stands only where it is not all that want the entry.
    """

    by: str
    how: str
    wanted_by: tuple[str, ...] = ()


class Entry(NamedTuple):
    """One path of a box. What does not apply to its type is None."""

    path: str  # canonical
    type: str  # "file", "link", "directory" or "device"
    mode: int | None = None  # permission bits; None for a link
    uid: int = 0  # the intended owner
    gid: int = 0
    size: int | None = None  # bytes
    mtime_ns: int | None = None  # of the source
    sha256: str | None = None
    target: str | None = None  # of a link
    hardlink: str | None = None  # the first path of the family, for files that are one file
    device: tuple[str, int, int] | None = None  # "c" or "b", major, minor
    source: str | None = None  # where it was copied from, in the source root; None for what we made
    package: str | None = None
    wanted_by: tuple[str, ...] = ()  # names of requests
    reasons: tuple[Reason, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the entry as its line in the manifest."""
        return {
            "kind": "entry",
            **to_json("path", self.path),
            "type": self.type,
            "mode": None if self.mode is None else f"{self.mode:04o}",
            "uid": self.uid,
            "gid": self.gid,
            "size": self.size,
            "mtime_ns": self.mtime_ns,
            "sha256": self.sha256,
            **to_json("target", self.target),
            **to_json("hardlink", self.hardlink),
            "device": None if self.device is None else list(self.device),
            **to_json("source", self.source),
            "package": self.package,
            "wanted_by": [_spelled(name) for name in self.wanted_by],
            "edges": [self._edge(reason) for reason in self.reasons],
        }

    def _edge(self, reason: Reason) -> dict[str, Any]:
        edge: dict[str, Any] = {**to_json("by", reason.by or None), "as": reason.how}
        if reason.wanted_by != self.wanted_by:
            edge["for"] = [_spelled(name) for name in reason.wanted_by]
        return edge


class Manifest(NamedTuple):
    """What a box is: the root it came from, what was asked, what is in it."""

    label: Label
    requests: Mapping[str, Asked]  # by name
    entries: Mapping[str, Entry]  # by path

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines of the manifest."""
        header = {"kind": "header", "schema": SCHEMA, "root": self.label._asdict()}
        requests = [
            {
                "kind": "request",
                "type": asked.type,
                **to_json("name", asked.what),
                **to_json("path", asked.path or None),
                **to_json("source", asked.source),
                "bare": asked.bare,
                **({"without": list(asked.without)} if asked.without else {}),
                **({"dlopen": asked.dlopen} if asked.dlopen != DEFAULT else {}),
            }
            for _, asked in sorted(self.requests.items())
        ]
        return [header, *requests, *(entry.as_json() for _, entry in sorted(self.entries.items()))]

    def to_bytes(self) -> bytes:
        """Return the manifest as it stands on disk."""
        return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in self.lines()).encode("utf-8")


def _spelled(name: str) -> str:
    """Return a request's name as entries write it: text, also where the name is not UTF-8, and no two alike."""
    spelled = to_json("name", name)
    coded = spelled.get("name_b64")
    return str(spelled["name"]) if coded is None else f"{spelled['name']} (base64 {coded})"


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
    status = os.fstat(opened)
    if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_MANIFEST:
        os.close(opened)
        why = "it is no regular file of a sensible size"
        raise JailError(f"cannot read the manifest of {box}: {why}", "somebody put something else there")
    with os.fdopen(opened, "rb") as file:
        data = file.read(_MAX_MANIFEST)
    try:
        return parse_manifest(data)
    except ValueError as error:
        hint = "it was damaged or written by somebody else: keep the box apart and build a new one"
        raise JailError(f"cannot believe the manifest of {box}: {error}", hint) from None


def parse_manifest(data: bytes) -> Manifest:
    """Return what the bytes of a manifest say; ValueError, with the line, for anything that does not fit."""
    label: Label | None = None
    requests: dict[str, Asked] = {}
    names: dict[str, str] = {}  # of the requests, by how entries write them
    entries: dict[str, Entry] = {}
    for number, line in enumerate(data.splitlines(), 1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("it is no object")
            kind = record.get("kind")
            if number == 1:
                label = _label(record)
            elif kind == "request":
                asked = _asked(record)
                requests[asked.name] = asked
                names[_spelled(asked.name)] = asked.name
            elif kind == "entry":
                entry = _entry(record, names)
                entries[entry.path] = entry
            else:
                raise ValueError("its kind is unknown")
        except (ValueError, RecursionError) as error:
            why = "it is no JSON" if isinstance(error, (json.JSONDecodeError, UnicodeError)) else str(error)
            raise ValueError(f"line {number}: {why[:200]}") from None
    if label is None:
        raise ValueError("it is empty")
    return Manifest(label, requests, entries)


def _label(record: dict[str, Any]) -> Label:
    if record.get("kind") != "header" or record.get("schema") != SCHEMA:
        raise ValueError(f"it does not begin with a header of schema {SCHEMA}")
    root = _get(record, "root", dict)
    return Label(*(_optional(root, key, str) for key in Label._fields))


def _asked(record: dict[str, Any]) -> Asked:
    kind = _get(record, "type", str)
    if kind not in _ASKED:
        raise ValueError("a request of unknown type")
    name = from_json(record, "name")
    if not name:
        raise ValueError("a request without a name")
    bare = _get(record, "bare", bool)
    dlopen = DEFAULT if record.get("dlopen") is None else _get(record, "dlopen", str)
    if dlopen not in LEVELS:
        raise ValueError(f"dlopen is none of {', '.join(LEVELS)}")
    if kind in UNPLACED:
        return Asked(f"{kind}:{name}", "", None, bare, kind, (), dlopen)
    name = f"{kind}:{name}" if kind in NAMED else name
    without = _all(record, "without", _name) if record.get("without") is not None else ()
    path = "/" if kind == "directory" and record.get("path") == "/" else _path(record, "path")
    return Asked(name, path, from_json(record, "source"), bare, kind, without, dlopen)


def _entry(record: dict[str, Any], names: Mapping[str, str]) -> Entry:
    path = _path(record, "path")
    if path == f"/{DIRECTORY}" or path.startswith(f"/{DIRECTORY}/"):
        raise ValueError("an entry inside the record itself")
    kind = record.get("type")
    if kind not in _TYPES:
        raise ValueError("an entry of unknown type")
    mode = _optional(record, "mode", str)
    digest = _optional(record, "sha256", str)
    target = from_json(record, "target")
    if (kind == "link") != bool(target) or (kind == "file") != (digest is not None):
        raise ValueError(f"{path} lacks what its type needs")
    if digest is not None and (len(digest) != 64 or set(digest) - set("0123456789abcdef")):
        raise ValueError(f"{path} has no sha256")
    device = _optional(record, "device", list)
    wanted_by = tuple(names.get(name, name) for name in _all(record, "wanted_by", _name))
    return Entry(
        path,
        kind,
        None if mode is None else _octal(mode),
        _number(record, "uid"),
        _number(record, "gid"),
        _optional(record, "size", int),
        _optional(record, "mtime_ns", int),
        digest,
        target,
        None if record.get("hardlink") is None else _path(record, "hardlink"),
        None if device is None else _device(device),
        from_json(record, "source"),
        _optional(record, "package", str),
        wanted_by,
        tuple(_reason(edge, names, wanted_by) for edge in _get(record, "edges", list)),
    )


def _octal(text: str) -> int:
    mode = int(text, 8)
    if not 0 <= mode <= 0o7777:
        raise ValueError("a mode beyond 7777")
    return mode


def _device(parts: list[Any]) -> tuple[str, int, int]:
    if len(parts) != 3 or parts[0] not in ("c", "b") or not all(type(part) is int and part >= 0 for part in parts[1:]):
        raise ValueError("a device without type and numbers")
    return parts[0], parts[1], parts[2]


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a name that is no text")
    value.encode("utf-8")  # likewise
    return value


def _reason(value: Any, names: Mapping[str, str], wanted_by: tuple[str, ...]) -> Reason:
    if not isinstance(value, dict):
        raise ValueError("an edge that is no object")
    if value.get("for") is not None:
        wanted_by = tuple(names.get(name, name) for name in _all(value, "for", _name))
    return Reason(from_json(value, "by") or "", _get(value, "as", str), wanted_by)


def _all(record: dict[str, Any], key: str, read: Callable[[Any], _WHAT]) -> tuple[_WHAT, ...]:
    values: Iterable[Any] = _get(record, key, list)
    return tuple(read(value) for value in values)


def _get(record: dict[str, Any], key: str, kind: type[_WHAT]) -> _WHAT:
    value = record.get(key)
    if type(value) is not kind:
        raise ValueError(f"{key} is not what it should be")
    if isinstance(value, str):
        value.encode("utf-8")  # halves of characters are a ValueError
    return value


def _optional(record: dict[str, Any], key: str, kind: type[_WHAT]) -> _WHAT | None:
    return None if record.get(key) is None else _get(record, key, kind)


def _number(record: dict[str, Any], key: str) -> int:
    number = _get(record, key, int)
    if not 0 <= number < 1 << 32:
        raise ValueError(f"{key} is out of range")
    return number


def _path(record: dict[str, Any], key: str) -> str:
    path = from_json(record, key)
    if not path or not path.startswith("/") or not _ODD.isdisjoint(path[1:].split("/")):
        raise ValueError(f"{key} is not a canonical path")
    return path
