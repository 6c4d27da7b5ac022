"""What is recorded of a box: what was asked of it, and what was put into it, and why. How it is stored: records.py.

A header, the requests, the packages, an entry for each path, sorted; no clock, so that the same requests on the same
source root give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jailbuild.closure.commands import DOCS, NAMED
from jailbuild.elf.priorities import DEFAULT
from jailbuild.names import spelled, text_from_json, to_json
from jailbuild.packages.info import PackageInfo

SCHEMA = 2
TYPES = ("file", "link", "directory", "device")  # of entries
REQUESTS = ("program", "file", "directory", "text", *NAMED)  # types of requests
PARENT = "parent"  # the kind of edge from what a directory holds to the directory
FLAGS = ("docs", "depends", "recommends", "state")  # of a request for a package


class Label(NamedTuple):
    """What tells one source root from another; a part that is not known is None."""

    id: str | None  # os-release(5) ID
    version_id: str | None
    machine: str | None  # as uname(2) has it

    def __str__(self) -> str:
        return " ".join(part or "?" for part in self)


class RecordedRequest(NamedTuple):
    """One request, as it is remembered: known by the path or the name that was asked for."""

    name: str
    path: str  # "" for what has no place in the source root; of a package where its files are listed
    source: str | None = None  # of SRC:DEST
    bare: bool = False
    type: str = "program"  # of REQUESTS
    without: tuple[str, ...] = ()  # recipes that are not to apply by themselves
    dlopen: str = DEFAULT  # of LEVELS: which libraries come that its programs open while they run
    flags: frozenset[str] = frozenset()  # of FLAGS, for a package
    mode: int | None = None  # permission bits that a file is to have, whatever its source has
    owner: str | None = None  # likewise USER:GROUP

    @property
    def what(self) -> str:
        """The name as the user gave it: of a recipe, a user, a locale or a package without the type before it."""
        return self.name.partition(":")[2] if self.type in NAMED else self.name

    @property
    def word(self) -> str:
        """What `add` would be told: a package's name with DOCS at its end where documentation was asked for."""
        return self.what + DOCS * ("docs" in self.flags)

    @property
    def by_name(self) -> bool:
        """Whether it can be found again without believing more of a manifest than a name."""
        return self.type in NAMED or (self.type == "program" and self.source is None and "/" not in self.name)

    @property
    def is_own(self) -> bool:
        """Whether the user named a path for it: what is there is theirs, and goes before what anything else brings."""
        return self.type in ("file", "directory", "text") or (self.type == "program" and self.source is not None)

    def as_json(self) -> dict[str, Any]:
        """Return the line of the manifest."""
        return {
            "kind": "request",
            "type": self.type,
            **to_json("name", self.what),
            **to_json("path", self.path or None),
            **to_json("source", self.source),
            "bare": self.bare,
            **({"without": list(self.without)} if self.without else {}),
            **({"dlopen": self.dlopen} if self.dlopen != DEFAULT else {}),
            **{flag: True for flag in FLAGS if flag in self.flags},
            **({"mode": f"{self.mode:04o}"} if self.mode is not None else {}),
            **({"owner": self.owner} if self.owner is not None else {}),
        }


class Reason(NamedTuple):
    """Why an entry is there: the entry that leads to it ("" for the request itself), how, and for which requests.

    What a directory holds leads to it too; those edges are derived (`Manifest.edges_of`), and stand nowhere else.
    """

    by: str
    how: str
    wanted_by: tuple[str, ...] = ()
    recipe: str = ""  # that brings it, where `how` is "recipe"
    through: tuple[str, ...] = ()  # the recipes that bring that one, the outermost first
    cause: str = ""  # why the outermost applies: "program git", "imports getpwuid", a SONAME
    names: tuple[str, ...] = ()  # of users, groups or locales

    def as_json(self, wanted_by: tuple[str, ...]) -> dict[str, Any]:
        """Return the edge of an entry that is `wanted_by` these; for whom it holds only where not for all of them."""
        return {
            "kind": self.how,
            **to_json("by", self.by or None),
            "recipe": self.recipe or None,
            "names": [*self.names],
            **({"through": [*self.through]} if self.through else {}),
            **({"cause": self.cause} if self.cause else {}),
            **({"for": [spelled(name) for name in self.wanted_by]} if self.wanted_by != wanted_by else {}),
        }


class Entry(NamedTuple):
    """One path of a box. What does not apply to its type is None."""

    path: str  # canonical
    type: str  # of TYPES
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
    lines: tuple[str, ...] = ()  # ours, of a file that is merged by lines: passwd, group, shadow

    def as_json(self, edges: tuple[Reason, ...] | None = None) -> dict[str, Any]:
        """Return the entry as `list` and a printed plan have it; `edges` are all reasons, those derived included."""
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
            "wanted_by": [spelled(name) for name in self.wanted_by],
            "edges": [reason.as_json(self.wanted_by) for reason in (self.reasons if edges is None else edges)],
            **({"lines": [line_to_json(line) for line in self.lines]} if self.lines else {}),
        }


class Manifest(NamedTuple):
    """What a box is: the root it came from, what was asked, what is in it."""

    label: Label
    requests: Mapping[str, RecordedRequest]  # by name
    entries: Mapping[str, Entry]  # by path
    packages: tuple[PackageInfo, ...] = ()  # sorted
    source: str | None = ""  # the source root's path on the host; None for an image, "" where it is not known
    built: str | None = None  # the digest of a box that was built from a jail.toml
    image: Mapping[str, Any] | None = None  # the configuration of an image that was imported

    def header(self) -> dict[str, Any]:
        """Return the first line."""
        return {
            "kind": "header",
            "schema": SCHEMA,
            "root": self.label._asdict(),
            **({} if self.source == "" else to_json("source", self.source)),
            "built": self.built,
            "image": self.image,
        }

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield the lines of the manifest as `list` prints them, in full."""
        yield self.header()
        yield from (asked.as_json() for _, asked in sorted(self.requests.items()))
        yield from ({"kind": "package", **package._asdict()} for package in self.packages)
        below = children(self.entries)
        for path, entry in sorted(self.entries.items()):
            yield entry.as_json(edges_of(self.entries, entry, below.get(path, ())))


def line_to_json(line: str) -> str | dict[str, Any]:
    """Return a line of a table as JSON has it: text, or where it is not UTF-8 an object with its bytes."""
    return line if line.isascii() or len(written := to_json("line", line)) == 1 else written


def line_from_json(value: Any) -> str:
    """Return the line that line_to_json wrote (ValueError if it is none)."""
    line = text_from_json(value if isinstance(value, dict) else {"line": value}, "line")
    if line is None or "\n" in line or ":" not in line:
        raise ValueError("a line of a table that is none")
    return line


def children(entries: Mapping[str, Entry]) -> dict[str, list[str]]:
    """Return the paths that each directory of a box holds itself, by its path."""
    found: dict[str, list[str]] = {}
    for path in entries:
        above = path.rpartition("/")[0]
        if above:
            found.setdefault(above, []).append(path)
    return found


def edges_of(entries: Mapping[str, Entry], entry: Entry, held: tuple[str, ...] | list[str]) -> tuple[Reason, ...]:
    """Return all edges to an entry, sorted: those of its own, and those from what it holds."""
    derived = [Reason(path, PARENT, entries[path].wanted_by) for path in held]
    return tuple(sorted([*entry.reasons, *derived])) if derived else entry.reasons
