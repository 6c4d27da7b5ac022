"""From a closure to the entries that a box would have. Nothing here writes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from jailbuild.box.look import lstat_in
from jailbuild.box.manifest import DIRECTORY, Asked, Entry, Label, Manifest, Reason
from jailbuild.closure.gather import Closure
from jailbuild.errors import JailError, reason
from jailbuild.loader.cache import CacheEntry, CacheError, read_cache, write_cache
from jailbuild.root import Root

MOUNT_POINTS = {"/dev": 0o755, "/proc": 0o755, "/run": 0o755, "/sys": 0o755, "/tmp": 0o1777}
CACHE = "/etc/ld.so.cache"

# Where a merged /usr has links at the top (file-hierarchy(7)): a box that has the directory gets the other name too,
# so that /bin/sh and library paths written into programs keep working.
_ALIASES = ("/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin")
_PRIVILEGES = stat.S_ISUID | stat.S_ISGID
_CAPABILITY = "security.capability"
_MAX_CACHE = 8 << 20


class Draft(NamedTuple):
    """What a closure makes of the source root: entries by path, before a byte was copied."""

    label: Label
    requests: Mapping[str, Asked]
    entries: Mapping[str, Entry]  # without sha256
    made: Mapping[str, bytes]  # contents of the files that are not copied
    notes: tuple[str, ...] = ()


def draft(closure: Closure, label: Label, asked: Mapping[str, Asked], before: Manifest | None, box: Root | None,
          keep_privileges: bool) -> Draft:
    """Return the entries that the closure's requests want, with what the box's own ld.so.cache said before."""
    drafting = _Drafting(closure, keep_privileges)
    for path, node in closure.nodes.items():
        drafting.add_file(path, node.wanted_by, [(edge.by, edge.how) for edge in node.edges])
    made = {}
    if closure.cached:
        made[CACHE] = drafting.add_cache(closure.cached, _cache_before(before, box))
    drafting.add_mount_points()
    drafting.add_aliases({name for name, request in asked.items() if not request.bare})
    drafting.add_parents()
    drafting.join_hard_links(before, box)
    return Draft(label, asked, drafting.finished(), made, tuple(drafting.notes))


class _Drafting:
    def __init__(self, closure: Closure, keep_privileges: bool) -> None:
        self.root = closure.root
        self.closure = closure
        self.dropped = 0 if keep_privileges else _PRIVILEGES
        self.entries: dict[str, Entry] = {}
        self.wanted: dict[str, set[str]] = {}
        self.reasons: dict[str, set[Reason]] = {}
        self.notes: list[str] = []
        self.identities: dict[tuple[int, int], list[str]] = {}

    def _want(self, path: str, wanted_by: Iterable[str], by: str, how: str) -> None:
        self.wanted.setdefault(path, set()).update(wanted_by)
        self.reasons.setdefault(path, set()).add(Reason(by, how))

    def _named(self, path: str) -> str:
        """Return the entry that a path of the closure names: its last component below its canonical parent."""
        absolute = path if path.startswith("/") else f"/{path}"
        parent, _, name = absolute.rpartition("/")
        return f"{self.root.walk(parent or '/').real.rstrip('/')}/{name}"

    def add_file(self, path: str, wanted_by: set[str], edges: list[tuple[str, str]]) -> None:
        """Add the file at `path`, with every link and directory on the way."""
        absolute = path if path.startswith("/") else f"/{path}"
        walk = self.root.walk(absolute)
        named = self._named(path)
        for by, how in edges:
            self._want(named, wanted_by, self._named(by) if by else "", how)
        above = {link for link, _ in self.root.walk(absolute.rpartition("/")[0] or "/").links}
        last = named
        for link, target in walk.links:
            self.entries.setdefault(link, self._link(link, target))
            if link in above:
                self._want(link, wanted_by, named, "path")
            else:
                if link != last:
                    self._want(link, wanted_by, last, "target")
                last = link
        if walk.real != last:
            self._want(walk.real, wanted_by, last, "target")
        if walk.real not in self.entries:
            self.entries[walk.real] = self._file(walk.real)
        for directory in walk.through:
            self._want(directory, wanted_by, named, "path")

    def _link(self, path: str, target: str) -> Entry:
        status = self.root.lstat(path)
        return Entry(path, "link", None, status.st_uid, status.st_gid, None, status.st_mtime_ns, target=target,
                     source=path)

    def _file(self, path: str) -> Entry:
        try:
            opened = self.root.open(path)
        except OSError as error:
            raise JailError(f"cannot add {path}: {reason(error)}") from None
        try:
            status = os.fstat(opened)
            has_capabilities = self.dropped and _CAPABILITY in os.listxattr(opened)
        except OSError as error:
            raise JailError(f"cannot add {path}: {reason(error)}") from None
        finally:
            os.close(opened)
        if not stat.S_ISREG(status.st_mode):
            raise JailError(f"cannot add {path}: it is not a regular file")
        if path == f"/{DIRECTORY}" or path.startswith(f"/{DIRECTORY}/"):
            raise JailError(f"cannot add {path}: /{DIRECTORY} is for the box's own record")
        self.identities.setdefault((status.st_dev, status.st_ino), []).append(path)
        mode = stat.S_IMODE(status.st_mode) & ~self.dropped
        if mode != stat.S_IMODE(status.st_mode) or has_capabilities:
            what = "its capabilities" if has_capabilities else "setuid or setgid"
            self.notes.append(f"{path} goes in without {what} (--keep-privileges keeps them)")
        return Entry(path, "file", mode, status.st_uid, status.st_gid, status.st_size, status.st_mtime_ns,
                     source=self.closure.source_of(path))

    def add_cache(self, cached: Mapping[CacheEntry, set[str]], before: Iterable[CacheEntry]) -> bytes:
        """Add the box's own ld.so.cache and return its bytes (JailError when one name would lead to two files)."""
        paths: dict[tuple[str, int, str | None], str] = {}
        for entry in [*before, *cached]:
            known = paths.setdefault((entry.name, entry.flags, entry.hwcaps), entry.path)
            if known != entry.path:
                raise JailError(
                    f"cannot add: {entry.name} would have to be both {known} and {entry.path} in one box",
                    "make a box for each",
                )
        for entry, wanted_by in cached.items():
            self._want(CACHE, wanted_by, self._named(entry.path), "cached")
        data = write_cache([*before, *cached], little_endian=self._is_little())
        self.entries[CACHE] = Entry(CACHE, "file", 0o644, 0, 0, len(data), 0)
        return data

    def _is_little(self) -> bool:
        kinds = [part.resolution.built_in.kind for program in self.closure.programs.values()
                 for part in program.parts if part.resolution.built_in is not None]
        return kinds[0][1] if kinds else True

    def add_mount_points(self) -> None:
        """Add the directories that entering mounts over, and /tmp."""
        names = [request.name for request in self.closure.requests]
        for path, mode in MOUNT_POINTS.items():
            self.entries[path] = Entry(path, "directory", mode)
            self._want(path, names, "", "mount-point")

    def add_aliases(self, names: set[str]) -> None:
        """Add the links of a merged /usr to directories that the box has, for the requests `names`."""
        self.add_parents()
        for alias in _ALIASES:
            try:
                walk = self.root.walk(alias)
            except OSError:
                continue
            target = self.entries.get(walk.real)
            wanted_by = self.wanted.get(walk.real, set()) & names
            if len(walk.links) == 1 and wanted_by and target is not None and target.type == "directory":
                self.entries.setdefault(alias, self._link(*walk.links[0]))
                self._want(alias, wanted_by, walk.real, "alias")

    def add_parents(self) -> None:
        """Add the directories above all entries, and those that are only walked through."""
        for path in sorted(self.wanted, key=lambda path: -path.count("/")):
            if path not in self.entries:
                self.entries[path] = self._directory(path)
            while parent := path.rpartition("/")[0]:
                if parent not in self.entries:
                    self.entries[parent] = self._directory(parent)
                self._want(parent, self.wanted[path], path, "parent")
                path = parent

    def _directory(self, path: str) -> Entry:
        try:
            status = self.root.lstat(path)
        except OSError:  # above a DEST that the source root does not have, or above what we make
            return Entry(path, "directory", 0o755)
        mode = stat.S_IMODE(status.st_mode) & ~self.dropped
        return Entry(path, "directory", mode, status.st_uid, status.st_gid, source=path)

    def join_hard_links(self, before: Manifest | None, box: Root | None) -> None:
        """Note which files are one file where they come from, those of earlier requests included."""
        for path, entry in (before.entries if before is not None else {}).items():
            if entry.type != "file" or entry.source is None or path in self.entries:
                continue
            is_ours = entry.source == path
            try:
                status = self.root.lstat(path) if is_ours else os.stat(entry.source)
                if status.st_nlink < 2 or (status.st_dev, status.st_ino) not in self.identities:
                    continue
                if not is_ours and box is not None:
                    lstat_in(box, path)  # if it is gone, only who names its source again can bring it back
            except OSError:
                continue
            if is_ours:
                self.entries[path] = self._file(path)  # as the source has it, whatever the manifest says
            else:
                self.entries[path] = entry._replace(mode=(entry.mode or 0) & ~self.dropped)
                self.identities[status.st_dev, status.st_ino].append(path)
            self.wanted[path] = set(entry.wanted_by)
            self.reasons[path] = set(entry.reasons)
        for paths in self.identities.values():
            if len(paths) > 1:
                for path in paths:
                    self.entries[path] = self.entries[path]._replace(hardlink=min(paths))

    def finished(self) -> dict[str, Entry]:
        """Return the entries, each with who wants it and why."""
        return {
            path: self.entries[path]._replace(
                wanted_by=tuple(sorted(self.wanted[path])), reasons=tuple(sorted(self.reasons[path]))
            )
            for path in sorted(self.entries)
        }


def _cache_before(before: Manifest | None, box: Root | None) -> tuple[CacheEntry, ...]:
    """Return what the ld.so.cache that we made for earlier requests says."""
    if before is None or box is None or CACHE not in before.entries:
        return ()
    try:
        return read_cache(box.read(CACHE, _MAX_CACHE)).entries
    except (OSError, CacheError):
        return ()
