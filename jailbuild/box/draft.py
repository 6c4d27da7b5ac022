"""What a box would be, before a byte is copied. drafting.py makes it from a closure, carry.py from a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from jailbuild.box.manifest import Entry, Label, RecordedRequest
from jailbuild.packages.info import PackageInfo
from jailbuild.root import Root

MOUNT_POINTS = {"/dev": 0o755, "/proc": 0o755, "/run": 0o755, "/sys": 0o755, "/tmp": 0o1777}
CACHE = "/etc/ld.so.cache"


class Draft(NamedTuple):
    """What a box would be: all its requests, and its entries by path, before a byte was copied.

    Entries come from the source root or are made, and their files have no sha256 yet; or they are carried over from
    the box's manifest as they are, and their files are in the box.
    """

    label: Label
    requests: Mapping[str, RecordedRequest]
    entries: Mapping[str, Entry]
    made: Mapping[str, bytes]  # contents of the files that are not copied
    carried: frozenset[str] = frozenset()  # paths
    notes: Mapping[str, str] = {}  # what the user should know when a path is written
    source: str | None = ""  # as a manifest has it
    tables: Mapping[str, tuple[str, ...]] = {}  # our lines of the files that are merged by lines, by path
    packages: Mapping[str, PackageInfo] = {}  # by how entries name them
    own: frozenset[str] = frozenset()  # paths that the user named, with what is below: they go before all else
    excluded: frozenset[str] = frozenset()  # paths that would have come
    preferred: tuple[str, ...] = ()  # paths of `own` where something else would have come


def cache_entry(data: bytes) -> Entry:
    """Return the entry of a made ld.so.cache."""
    return Entry(CACHE, "file", 0o644, 0, 0, len(data), 0)


def named_in(root: Root, path: str) -> str:
    """Return the entry that a path names: its last component below its canonical parent (OSError)."""
    parent, _, name = (path if path.startswith("/") else f"/{path}").rpartition("/")
    return f"{root.walk(parent or '/').real.rstrip('/')}/{name}"
