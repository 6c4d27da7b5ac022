"""The lines of a manifest of schema 2: nothing in them is believed before it was looked at."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from jailbuild.box.layout import DIRECTORY
from jailbuild.box.manifest import (
    FLAGS,
    REQUESTS,
    TYPES,
    Entry,
    Label,
    Manifest,
    Reason,
    RecordedRequest,
    line_from_json,
)
from jailbuild.box.ownership import rule
from jailbuild.closure.commands import NAMED, RULES
from jailbuild.elf.priorities import DEFAULT, LEVELS
from jailbuild.errors import JailError
from jailbuild.names import from_json, spelled
from jailbuild.packages.info import PackageInfo

_MAX_DEPTH = 100  # of an image's configuration: what can be read can be written
_ODD = frozenset(("", ".", ".."))  # no components of a canonical path
_WHAT = TypeVar("_WHAT")
Why = tuple[tuple[str, ...], tuple[Reason, ...]]  # who wants an entry, and its edges


class ManifestParser:
    """The lines of schema 2, taken one after the other."""

    def __init__(self, header: dict[str, Any]) -> None:
        root = get_value(header, "root", dict)
        self.label = Label(*(_optional(root, key, str) for key in Label._fields))
        self.requests: dict[str, RecordedRequest] = {}
        self.names: dict[str, str] = {}  # of the requests, by how entries write them
        self.packages: list[PackageInfo] = []
        self.whys: dict[int, Why] = {}
        self.entries: dict[str, Entry] = {}
        self.source: str | None = ""
        self.built: str | None = None
        self.image: Mapping[str, Any] | None = None
        self._take_header(header)

    def _take_header(self, header: dict[str, Any]) -> None:
        if "source" in header:
            self.source = from_json(header, "source")
            if self.source is not None and not self.source.startswith("/"):
                raise ValueError("source is no absolute path")
        self.built = _optional(header, "built", str)
        self.image = _optional(header, "image", dict)
        _refuse_odd(self.image)

    def take(self, record: dict[str, Any]) -> None:
        """Take one line (ValueError)."""
        kind = record.get("kind")
        if kind == "entry":
            entry = self._entry(record)
            self.entries[entry.path] = entry
        elif kind == "request":
            self._take_request(record)
        elif kind == "package":
            self.packages.append(_package(record))
        elif kind == "why":
            self.whys[_number(record, "id")] = self._why(record)
        else:
            raise ValueError("its kind is unknown")

    def finished(self) -> Manifest:
        """Return the whole."""
        return Manifest(
            self.label,
            self.requests,
            self.entries,
            tuple(sorted(set(self.packages), key=str)),
            self.source,
            self.built,
            self.image,
        )

    def _take_request(self, record: dict[str, Any]) -> None:
        asked = read_request(record)
        self.requests[asked.name] = asked
        self.names[spelled(asked.name)] = asked.name

    def _why(self, record: dict[str, Any]) -> Why:
        wanted_by = self._who(record, "wanted_by")
        return wanted_by, tuple(self._reason(edge, wanted_by) for edge in get_value(record, "edges", list))

    def _why_of(self, record: dict[str, Any]) -> Why:
        if "why" not in record:
            return self._why(record)
        known = self.whys.get(_number(record, "why"))
        if known is None:
            raise ValueError("its why is of no line before")
        return known

    def _who(self, record: dict[str, Any], key: str) -> tuple[str, ...]:
        return tuple(self.names.get(name, name) for name in _all(record, key, _name))

    def _source(self, record: dict[str, Any], path: str) -> str | None:
        return from_json(record, "source") if "source" in record else path

    def _entry(self, record: dict[str, Any]) -> Entry:
        path = _path(record, "path")
        if path == f"/{DIRECTORY}" or path.startswith(f"/{DIRECTORY}/"):
            raise ValueError("an entry inside the record itself")
        kind = record.get("type")
        if kind not in TYPES:
            raise ValueError("an entry of unknown type")
        mode = _optional(record, "mode", str)
        digest = _optional(record, "sha256", str)
        target = from_json(record, "target")
        if (kind == "link") != bool(target) or (kind == "file") != (digest is not None):
            raise ValueError(f"{path} lacks what its type needs")
        if digest is not None and (len(digest) != 64 or set(digest) - set("0123456789abcdef")):
            raise ValueError(f"{path} has no sha256")
        device = _optional(record, "device", list)
        wanted_by, reasons = self._why_of(record)
        package = _optional(record, "package", str)
        return Entry(
            path,
            sys.intern(kind),
            None if mode is None else _octal(mode),
            _number(record, "uid") if "uid" in record else 0,
            _number(record, "gid") if "gid" in record else 0,
            _optional(record, "size", int),
            _optional(record, "mtime_ns", int),
            digest,
            target,
            None if record.get("hardlink") is None else _path(record, "hardlink"),
            None if device is None else _device(device),
            self._source(record, path),
            None if package is None else sys.intern(package),
            wanted_by,
            reasons,
            _all(record, "lines", line_from_json) if "lines" in record else (),
        )

    def _reason(self, value: Any, wanted_by: tuple[str, ...]) -> Reason:
        if not isinstance(value, dict):
            raise ValueError("an edge that is no object")
        if value.get("for") is not None:
            wanted_by = self._who(value, "for")
        return Reason(
            from_json(value, "by") or "",
            get_value(value, "kind", str),
            wanted_by,
            _optional(value, "recipe", str) or "",
            _all(value, "through", _name) if "through" in value else (),
            _optional(value, "cause", str) or "",
            _all(value, "names", _name) if "names" in value else (),
        )


def read_request(record: dict[str, Any]) -> RecordedRequest:
    kind = get_value(record, "type", str)
    if kind not in REQUESTS:
        raise ValueError("a request of unknown type")
    name = from_json(record, "name")
    if not name:
        raise ValueError("a request without a name")
    bare = get_value(record, "bare", bool)
    dlopen = DEFAULT if record.get("dlopen") is None else get_value(record, "dlopen", str)
    if dlopen not in LEVELS:
        raise ValueError(f"dlopen is none of {', '.join(LEVELS)}")
    if kind in RULES:
        try:
            return rule(kind, name)
        except JailError as error:
            raise ValueError(error.causes[0]) from None
    name = f"{kind}:{name}" if kind in NAMED else name
    if kind in NAMED and kind != "package":
        path = ""
    elif kind == "directory" and record.get("path") == "/":
        path = "/"
    else:
        path = _path(record, "path")
    mode = _optional(record, "mode", str)
    return RecordedRequest(
        name,
        path,
        from_json(record, "source") if path else None,
        bare,
        kind,
        _all(record, "without", _name) if path and record.get("without") is not None else (),
        dlopen,
        frozenset(flag for flag in FLAGS if record.get(flag) is not None and get_value(record, flag, bool)),
        None if mode is None else _octal(mode),
        _optional(record, "owner", str),
    )


def _refuse_odd(value: Any, depth: int = 0) -> None:
    """Raise ValueError for JSON that could not be written again: nested too deeply, no number, no UTF-8."""
    if depth > _MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    if isinstance(value, str):
        value.encode("utf-8")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number that is none")
    for one in [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ():
        _refuse_odd(one, depth + 1)


def _package(record: dict[str, Any]) -> PackageInfo:
    return PackageInfo(
        get_value(record, "name", str), *(_optional(record, key, str) for key in PackageInfo._fields[1:])
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
    value.encode("utf-8")  # halves of characters are a ValueError
    return value


def _all(record: Mapping[str, Any], key: str, read: Callable[[Any], _WHAT]) -> tuple[_WHAT, ...]:
    values: Iterable[Any] = get_value(record, key, list)
    return tuple(read(value) for value in values)


def get_value(record: Mapping[str, Any], key: str, kind: type[_WHAT]) -> _WHAT:
    value = record.get(key)
    if type(value) is not kind:
        raise ValueError(f"{key} is not what it should be")
    if isinstance(value, str):
        value.encode("utf-8")  # likewise
    return value


def _optional(record: Mapping[str, Any], key: str, kind: type[_WHAT]) -> _WHAT | None:
    return None if record.get(key) is None else get_value(record, key, kind)


def _number(record: Mapping[str, Any], key: str) -> int:
    number = get_value(record, key, int)
    if not 0 <= number < 1 << 32:
        raise ValueError(f"{key} is out of range")
    return number


def _path(record: Mapping[str, Any], key: str) -> str:
    path = from_json(record, key)
    if not path or not path.startswith("/") or not _ODD.isdisjoint(path[1:].split("/")):
        raise ValueError(f"{key} is not a canonical path")
    return path
