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
import math
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from jailbuild.box.layout import DIRECTORY, NAME
from jailbuild.box.manifest import (
    FLAGS,
    PARENT,
    REQUESTS,
    SCHEMA,
    TYPES,
    Asked,
    Entry,
    Label,
    Manifest,
    Reason,
    line_from_json,
    line_to_json,
)
from jailbuild.box.ownership import rule
from jailbuild.closure.commands import DOCS, NAMED, RULES
from jailbuild.elf.priorities import DEFAULT, LEVELS
from jailbuild.errors import JailError, reason
from jailbuild.names import from_json, spelled, to_json
from jailbuild.packages.info import PackageInfo
from jailbuild.root import Root, open_beneath

_ODD = frozenset(("", ".", ".."))  # no components of a canonical path
_WHAT = TypeVar("_WHAT")
_Why = tuple[tuple[str, ...], tuple[Reason, ...]]  # who wants an entry, and its edges


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
_MAX_DEPTH = 100  # of an image's configuration: what can be read can be written


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
    seen: set[_Why] = set()
    numbers: dict[_Why, int] = {}  # of what more than one entry has
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
    parser: _Parser | None = None
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


def _parser_of(header: dict[str, Any]) -> _Parser:
    schema = header.get("schema")
    if header.get("kind") != "header" or type(schema) is not int or not 1 <= schema <= SCHEMA:
        raise ValueError(f"it does not begin with a header of schema 1 to {SCHEMA}")
    return _Parser(header) if schema == SCHEMA else _Parser1(header)


class _Parser:
    """The lines of schema 2, taken one after the other."""

    def __init__(self, header: dict[str, Any]) -> None:
        root = _get(header, "root", dict)
        self.label = Label(*(_optional(root, key, str) for key in Label._fields))
        self.requests: dict[str, Asked] = {}
        self.names: dict[str, str] = {}  # of the requests, by how entries write them
        self.packages: list[PackageInfo] = []
        self.whys: dict[int, _Why] = {}
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
        return Manifest(self.label, self.requests, self.entries, tuple(sorted(set(self.packages), key=str)),
                        self.source, self.built, self.image)

    def _take_request(self, record: dict[str, Any]) -> None:
        asked = _asked(record)
        self.requests[asked.name] = asked
        self.names[spelled(asked.name)] = asked.name

    def _why(self, record: dict[str, Any]) -> _Why:
        wanted_by = self._who(record, "wanted_by")
        return wanted_by, tuple(self._reason(edge, wanted_by) for edge in _get(record, "edges", list))

    def _why_of(self, record: dict[str, Any]) -> _Why:
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
            _get(value, "kind", str),
            wanted_by,
            _optional(value, "recipe", str) or "",
            _all(value, "through", _name) if "through" in value else (),
            _optional(value, "cause", str) or "",
            _all(value, "names", _name) if "names" in value else (),
        )


class _Parser1(_Parser):
    """The lines of schema 1: edges are prose, a package's name says whether its documentation came."""

    def _take_header(self, header: dict[str, Any]) -> None:
        self.shared: dict[_Why, _Why] = {}  # it has neither the source root's path nor anything else

    def take(self, record: dict[str, Any]) -> None:
        """Take one line (ValueError)."""
        if record.get("kind") not in ("request", "entry"):
            raise ValueError("its kind is unknown")
        super().take(record)

    def finished(self) -> Manifest:
        """Return the whole, requests by the path that was asked for: schema 1 knew those by where its links lead."""
        renamed: dict[str, str] = {}
        for path, entry in self.entries.items():
            real = os.path.normpath(os.path.join(os.path.dirname(path), entry.target)) if entry.target else ""
            for why in entry.reasons if real else ():
                if why.how == "path" and why.by == real:
                    renamed.update((name, path) for name in why.wanted_by if self._is_own(name, real))
        if renamed:
            self._rename(renamed)
        return super().finished()

    def _is_own(self, name: str, path: str) -> bool:
        one = self.requests.get(name)
        return one is not None and one.type in ("file", "directory") and one.source is None and one.name == path

    def _rename(self, renamed: Mapping[str, str]) -> None:
        def called(names: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(sorted(renamed.get(name, name) for name in names))

        requests = {}
        for one in self.requests.values():
            name = renamed.get(one.name)
            one = one if name is None else one._replace(name=name, path=name)
            requests[one.name] = one
        self.requests = requests
        for path, entry in self.entries.items():
            reasons = set()
            for why in entry.reasons:
                for name in why.wanted_by:
                    link = renamed.get(name)
                    if link is None:
                        reasons.add(why._replace(wanted_by=(name,)))
                    elif path == link and why.how == "path" and why.by == name:
                        reasons.add(Reason("", self.requests[link].type, (link,)))
                    elif path == name and not why.by:
                        reasons.add(Reason(link, "target", (link,)))
                    else:
                        reasons.add(why._replace(wanted_by=(link,)))
            whole: dict[Reason, list[str]] = {}
            for why in sorted(reasons):
                whole.setdefault(why._replace(wanted_by=()), []).extend(why.wanted_by)
            self.entries[path] = entry._replace(
                wanted_by=called(entry.wanted_by),
                reasons=tuple(sorted(why._replace(wanted_by=tuple(sorted(names))) for why, names in whole.items())),
            )

    def _take_request(self, record: dict[str, Any]) -> None:
        before = _asked(record)
        asked = before
        if before.type == "package" and before.what.endswith(DOCS):
            name = before.name.removesuffix(DOCS)
            asked = before._replace(name=name, flags=frozenset(("docs",)))
        known = self.requests.get(asked.name)
        if known is not None:  # the package alone, and with its documentation: one request that brings as much as both
            asked = asked._replace(
                bare=known.bare and asked.bare, without=tuple(sorted({*known.without} & {*asked.without})),
                dlopen=max(known.dlopen, asked.dlopen, key=LEVELS.index), flags=known.flags | asked.flags,
            )
        self.requests[asked.name] = asked
        self.names[spelled(before.name)] = asked.name

    def _who(self, record: dict[str, Any], key: str) -> tuple[str, ...]:
        return tuple(sorted({*super()._who(record, key)}))

    def _source(self, record: dict[str, Any], path: str) -> str | None:
        source = from_json(record, "source")
        return path if source == path else source

    def _why(self, record: dict[str, Any]) -> _Why:
        wanted_by = self._who(record, "wanted_by")
        found = {self._reason(edge, wanted_by) for edge in _get(record, "edges", list)}
        why = wanted_by, tuple(sorted(reason for reason in found if reason.how != PARENT))
        return self.shared.setdefault(why, why)

    def _reason(self, value: Any, wanted_by: tuple[str, ...]) -> Reason:
        if not isinstance(value, dict):
            raise ValueError("an edge that is no object")
        if value.get("for") is not None:
            wanted_by = self._who(value, "for")
        return _from_prose(from_json(value, "by") or "", _get(value, "as", str), wanted_by)


def _from_prose(by: str, how: str, wanted_by: tuple[str, ...]) -> Reason:
    """Return an edge of schema 1: "recipe OUTER > NAME: CAUSE; users NAME…", "user NAME; users …", "locale NAME"."""
    words, _, table = how.partition("; ")
    kind, _, rest = words.partition(" ")
    if kind not in ("recipe", "user", "locale") or not rest:
        return Reason(by, how, wanted_by)
    names = tuple(table.split(" ")[1:])
    if kind != "recipe":
        return Reason(by, kind, wanted_by, names=names or (rest,))
    chain, _, cause = rest.partition(": ")
    *through, recipe = chain.split(" > ")
    return Reason(by, kind, wanted_by, recipe, tuple(through), cause, names)


def _asked(record: dict[str, Any]) -> Asked:
    kind = _get(record, "type", str)
    if kind not in REQUESTS:
        raise ValueError("a request of unknown type")
    name = from_json(record, "name")
    if not name:
        raise ValueError("a request without a name")
    bare = _get(record, "bare", bool)
    dlopen = DEFAULT if record.get("dlopen") is None else _get(record, "dlopen", str)
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
    return Asked(
        name,
        path,
        from_json(record, "source") if path else None,
        bare,
        kind,
        _all(record, "without", _name) if path and record.get("without") is not None else (),
        dlopen,
        frozenset(flag for flag in FLAGS if record.get(flag) is not None and _get(record, flag, bool)),
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
    return PackageInfo(_get(record, "name", str),
                       *(_optional(record, key, str) for key in PackageInfo._fields[1:]))


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
    values: Iterable[Any] = _get(record, key, list)
    return tuple(read(value) for value in values)


def _get(record: Mapping[str, Any], key: str, kind: type[_WHAT]) -> _WHAT:
    value = record.get(key)
    if type(value) is not kind:
        raise ValueError(f"{key} is not what it should be")
    if isinstance(value, str):
        value.encode("utf-8")  # likewise
    return value


def _optional(record: Mapping[str, Any], key: str, kind: type[_WHAT]) -> _WHAT | None:
    return None if record.get(key) is None else _get(record, key, kind)


def _number(record: Mapping[str, Any], key: str) -> int:
    number = _get(record, key, int)
    if not 0 <= number < 1 << 32:
        raise ValueError(f"{key} is out of range")
    return number


def _path(record: Mapping[str, Any], key: str) -> str:
    path = from_json(record, key)
    if not path or not path.startswith("/") or not _ODD.isdisjoint(path[1:].split("/")):
        raise ValueError(f"{key} is not a canonical path")
    return path
