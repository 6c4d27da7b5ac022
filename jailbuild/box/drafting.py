"""From a closure to the entries that a box would have. Nothing here writes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from jailbuild.box import linker_config, tables
from jailbuild.box.draft import CACHE, MOUNT_POINTS, Draft, cache_entry, named_in
from jailbuild.box.layout import DIRECTORY
from jailbuild.box.manifest import Entry, Label, Reason, RecordedRequest
from jailbuild.box.ownership import Exclusions, own_items, reachable, standing_in, yielding
from jailbuild.closure.commands import canonical_place
from jailbuild.closure.edges import AnyEdge
from jailbuild.closure.gather import Closure
from jailbuild.closure.symlinks import real_path
from jailbuild.closure.trees import Item
from jailbuild.errors import JailError, reason
from jailbuild.loader.glibc.ld_cache import CacheEntry, read_cache, write_cache
from jailbuild.packages.dpkg import Dpkg
from jailbuild.packages.info import PackageInfo

if TYPE_CHECKING:
    from jailbuild.closure.evaluate import Made

# Where a merged /usr has links at the top (file-hierarchy(7)): a box that has the directory gets the other name too,
# so that /bin/sh and library paths written into programs keep working.
_ALIASES = ("/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin")
_PRIVILEGES = stat.S_ISUID | stat.S_ISGID
_CAPABILITY = "security.capability"


def draft(
    closure: Closure,
    label: Label,
    source: str | None,
    asked: Mapping[str, RecordedRequest],
    carried: Draft,
    keep_privileges: bool,
) -> Draft:
    """Return what a box would be that has the closure's requests, `asked`, beside those that are carried over.

    JailError where what the user named by path is excluded.
    """
    drafting = _Drafting(closure, keep_privileges, carried)
    for path, node in closure.nodes.items():
        drafting.add_file(path, node.edges)
    for path, held in closure.data.items():
        drafting.add_data(path, held.item, held.edges)
    drafting.add_laid()
    made = dict(carried.made)
    for path, brought in closure.made.items():
        content = drafting.add_made(path, brought.made, brought.edges, carried)
        if content is not None:
            made[path] = content
    if closure.cached:
        made[CACHE] = drafting.add_cache(closure.cached, made.get(CACHE))
    made.update(drafting.add_lists(made))
    drafting.add_mount_points()
    drafting.add_aliases({name for name, request in asked.items() if not request.bare})
    drafting.leave_kept()
    drafting.add_carried(carried)
    drafting.prefer_own()
    requests = {**carried.requests, **asked}
    drafting.exclude(Exclusions(closure.root, requests.values()))
    drafting.add_parents()
    drafting.join_hard_links()
    drafting.name_packages()
    entries = drafting.finished()
    made = {
        path: data
        for path, data in made.items()
        if path in entries and entries[path].source is None and path not in drafting.carried
    }
    merged = {
        path: lines for path, lines in drafting.tables.items() if path in entries and path not in drafting.carried
    }
    return Draft(
        label,
        requests,
        entries,
        made,
        frozenset(drafting.carried),
        drafting.notes,
        source,
        merged,
        {**carried.packages, **drafting.packages},
        frozenset(drafting.own | drafting.kept_own),
        frozenset(drafting.excluded),
        tuple(sorted(drafting.preferred)),
    )


class _Drafting:
    def __init__(self, closure: Closure, keep_privileges: bool, carried: Draft) -> None:
        self.root = closure.root
        self.closure = closure
        self.dropped = 0 if keep_privileges else _PRIVILEGES
        self.entries: dict[str, Entry] = {}
        self.wanted: dict[str, set[str]] = {}
        self.reasons: dict[str, dict[Reason, set[str]]] = {}  # the keys without who wants it
        self.notes: dict[str, str] = {}
        self.carried: set[str] = set()
        self.identities: dict[tuple[int, int], list[str]] = {}
        self.tables: dict[str, tuple[str, ...]] = dict(carried.tables)
        self.packages: dict[str, PackageInfo] = {}
        self.before = carried.entries
        self.own = own_items(closure)
        self.kept_own = carried.own - self.own  # of requests that are carried over
        self._refuse_two(carried)
        self.is_left = False  # whether edges were left out
        self.replaced: dict[str, Entry] = {}  # what would have come where the user named something
        self.preferred: set[str] = set()
        self.excluded: set[str] = set()

    def _want(self, path: str, wanted_by: Iterable[str], by: str, how: str) -> None:
        self._want_for(path, wanted_by, Reason(by, how))

    def _want_by(self, path: str, wanted_by: Iterable[str], by: str, edge: AnyEdge) -> None:
        self._want_for(path, wanted_by, Reason(by, *edge[1:2], (), *edge[2:]))

    def _want_for(self, path: str, wanted_by: Iterable[str], why: Reason) -> None:
        self.wanted.setdefault(path, set()).update(wanted_by)
        self.reasons.setdefault(path, {}).setdefault(why, set()).update(wanted_by)

    def _refuse_two(self, carried: Draft) -> None:
        """Refuse a file that the user named where they named another before, by another request (JailError)."""
        causes = []
        for path in sorted(carried.own & self.own):
            held, entry = self.closure.data.get(path), carried.entries[path]
            kind = held.item.type if held is not None else "file"
            source = self.closure.source_of(path)
            if kind == entry.type == "directory" or (kind, source) == (entry.type, entry.source):
                continue
            if kind == entry.type == "link" and held is not None and held.item.target == entry.target:
                continue
            names = ", ".join(entry.wanted_by[:1])
            causes.append(f"cannot put {source} at {path}: {entry.source or 'another'} comes there too, for {names}")
        if causes:
            raise JailError(causes, "make a box for each, or take one back with jailbuild remove")

    def _drop(self, path: str) -> None:
        del self.entries[path]
        self.wanted.pop(path, None)
        self.reasons.pop(path, None)
        self.carried.discard(path)

    def _named(self, path: str) -> str:
        return named_in(self.root, path)

    def add_file(self, path: str, edges: Mapping[AnyEdge, set[str]]) -> None:
        """Add the file at `path`, with every link and directory on the way."""
        absolute = path if path.startswith("/") else f"/{path}"
        walk = self.root.walk(absolute)
        named = self._named(path)
        for edge, names in edges.items():
            self._want_by(named, names, self._named(edge.by) if edge.by else "", edge)
        wanted_by = set().union(*edges.values())
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
        for directory in self.root.through(absolute):
            self._want(directory, wanted_by, named, "path")

    def add_data(self, path: str, item: Item, edges: Mapping[AnyEdge, set[str]]) -> None:
        """Add one name of the data that was asked for, as it is."""
        if path not in self.entries:
            if item.type == "link":
                self.entries[path] = self._link(path, item.target or "")
            else:
                entry = self._file(path) if item.type == "file" else self._directory(path)
                if path in self.closure.inert and entry.mode is not None:
                    entry = entry._replace(mode=entry.mode & ~0o111)
                self.entries[path] = entry
        for edge, names in edges.items():
            self._want_by(path, names, edge.by, edge)

    def add_laid(self) -> None:
        """Add the edges from recipes to what the user named."""
        for path, edges in self.closure.laid.items():
            for edge, names in edges.items() if path in self.entries else ():
                self._want_by(path, names, edge.by, edge)

    def _link(self, path: str, target: str) -> Entry:
        status = self.root.lstat(path)
        return Entry(
            path, "link", None, status.st_uid, status.st_gid, None, status.st_mtime_ns, target=target, source=path
        )

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
            self.notes[path] = f"{path} goes in without {what} (--keep-privileges keeps them)"
        return Entry(
            path,
            "file",
            mode,
            status.st_uid,
            status.st_gid,
            status.st_size,
            status.st_mtime_ns,
            source=self.closure.source_of(path),
        )

    def add_made(self, path: str, made: Made, edges: Mapping[AnyEdge, set[str]], carried: Draft) -> bytes | None:
        """Add something that is made, unless it is asked for by path; return the bytes of what is a file."""
        content = made.content
        old = carried.entries.get(path)
        if path in self.entries:
            if path in self.own:
                if made.type != "directory":
                    self.replaced[path] = Entry(path, made.type)
            elif made.type == "directory" == self.entries[path].type:
                self.entries[path] = Entry(path, "directory", made.mode, made.uid, made.gid)
            content = None
        elif old is not None and old.source is not None and made.type != "directory":
            self.entries[path] = old
            self.carried.add(path)
            content = None
        else:
            lines = tables.lines_of(path, made)
            if lines:
                self.tables[path] = tables.joined(path, carried.tables.get(path, ()), lines)
                content = b""  # merged with what the box has when that is looked at
            size, time = (None, None) if content is None else (len(content), 0)
            self.entries[path] = Entry(
                path, made.type, made.mode, made.uid, made.gid, size, time, target=made.target, device=made.device
            )
        for edge, names in edges.items():
            self._want_by(path, names, edge.by, edge)
        return content

    def add_cache(self, cached: Mapping[CacheEntry, set[str]], carried: bytes | None) -> bytes:
        """Add the box's own ld.so.cache and return its bytes (JailError when one name would lead to two files).

        `carried` is what it says for the requests that are carried over.
        """
        before = read_cache(carried).entries if carried is not None else ()
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
        data = write_cache([*before, *cached], little_endian=self._is_little(cached.keys(), carried))
        self.entries[CACHE] = cache_entry(data)
        return data

    def add_lists(self, carried: Mapping[str, bytes]) -> dict[str, bytes]:
        """Add musl's lists of directories that the source root's own do not do for; return their bytes by path.

        `carried` has those of the requests that are carried over, among others.
        """
        directories: dict[str, set[str]] = {
            path: set() for path in carried if linker_config.is_list(path) and path in self.entries
        }
        for one, wanted_by in self.closure.listed.items():
            path = canonical_place(self.root, one.path_file) or one.path_file
            directories.setdefault(path, set()).add(one.directory)
            self._want(path, wanted_by, self._named(one.library), linker_config.LISTED)
        made = {}
        for path, some in directories.items():
            made[path] = linker_config.made_list(self.root, path, some, carried.get(path))
            self.entries[path] = linker_config.entry_of(path, made[path])
        return made

    def _is_little(self, cached: Collection[CacheEntry], carried: bytes | None) -> bool:
        """Say in which byte order the cache is written: that of the machine whose loader will read it (JailError)."""
        paths = {entry.path for entry in cached}
        parts = [part for program in self.closure.programs.values() for part in program.parts]
        orders = {
            part.resolution.built_in.kind[1]
            for part in parts
            if part.resolution.built_in is not None
            and any(os.path.normpath(os.path.join("/", library.path)) in paths for library in part.resolution.libraries)
        }
        if carried is not None and (before := read_cache(carried).entries):
            orders.add(write_cache(before) == carried)
        if len(orders) > 1:
            raise JailError(
                f"cannot add: {CACHE} would have to be both little-endian and big-endian, for programs of two machines",
                "make a box for each",
            )
        return orders != {False}

    def add_mount_points(self) -> None:
        """Add the directories that entering mounts over, and /tmp."""
        names = [request.name for request in self.closure.requests]
        if not names:
            return
        for path, mode in MOUNT_POINTS.items():
            self.entries.setdefault(path, Entry(path, "directory", mode))
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
        """Add the directories above all entries, and those that are only walked through; who wants them is told."""
        by_depth: dict[int, dict[str, None]] = {}
        for path in self.wanted:
            by_depth.setdefault(path.count("/"), {})[path] = None
        for depth in range(max(by_depth, default=0), 0, -1):  # deepest first: each hands up all that it was handed
            for path in by_depth.get(depth, ()):
                if path not in self.entries:
                    self.entries[path] = self._directory(path)
                if parent := path.rpartition("/")[0]:
                    self.wanted.setdefault(parent, set()).update(self.wanted[path])
                    by_depth.setdefault(depth - 1, {})[parent] = None

    def _directory(self, path: str) -> Entry:
        try:
            status = self.root.lstat(path)
        except OSError:  # above a DEST that the source root does not have, or above what we make
            return Entry(path, "directory", 0o755)
        mode = stat.S_IMODE(status.st_mode) & ~self.dropped
        return Entry(path, "directory", mode, status.st_uid, status.st_gid, source=path)

    def leave_kept(self) -> None:
        """Leave out what the source root's own file needs where the user has put something in its place before."""
        kept = standing_in(self.root, self.before, self.kept_own)
        leading: dict[str, bool] = {}  # of each path that leads to something: whether it is one of these, by links too
        for path, edges in self.reasons.items() if kept else ():
            for why in edges:
                if why.by not in leading:
                    leading[why.by] = why.by in kept or (real_path(self.root, why.by) in kept if why.by else False)
            left = {
                why: names
                for why, names in edges.items()
                if not leading[why.by] or (why.by not in kept and (path in kept or why.how in ("target", "path")))
            }
            if len(left) < len(edges):
                self.reasons[path] = left
                self.is_left = True

    def add_carried(self, carried: Draft) -> None:
        """Add the entries of the requests that are carried over.

        What the source root gives goes before, but for what the user named by path.
        """
        for path, entry in carried.entries.items():
            is_own = path in self.kept_own
            drawn = self.entries.get(path)
            if (
                path not in self.own
                and drawn is not None
                and drawn.type == entry.type == "directory"
                and drawn.source is not None
                and (entry.source is None and any(why.recipe for why in entry.reasons))
            ):
                self.entries[path] = entry  # as a recipe makes it: that goes before what is copied
                self.carried.add(path)
            if is_own and path in self.entries and _facts(self.entries[path]) != _facts(entry):
                self.replaced[path] = self.entries[path]
            if path not in self.entries or is_own:
                self.entries[path] = entry
                if path in carried.carried:
                    self.carried.add(path)
            self.wanted.setdefault(path, set()).update(entry.wanted_by)
            for why in entry.reasons:
                self._want_for(path, why.wanted_by, why._replace(wanted_by=()))

    def prefer_own(self) -> None:
        """Drop what cannot stand beside what the user named: what is below a file or link of theirs, or in the way.

        And what a link of the source root leads to in whose place they have something else.
        """
        blocked, wrong = yielding(self.entries, self.own | self.kept_own)
        for path in wrong:
            self.entries[path] = Entry(path, "directory", 0o755)
            self.carried.discard(path)
        links = {path for path, entry in self.replaced.items() if entry.type == "link"}
        self.preferred = {*self.replaced, *blocked.values(), *(self.closure.laid.keys() & self.entries.keys())}
        if blocked or links or self.is_left:
            self._cut(blocked, lambda why: why.by in links and why.how == "target")

    def exclude(self, exclusions: Exclusions) -> None:
        """Leave out what never comes, and what only that leads to (JailError: the user named it)."""
        gone = exclusions.of(self.entries) if exclusions else {}
        if not gone:
            return
        exclusions.refuse_named(self.reasons, gone)
        waiting = list(gone)
        while waiting:  # a link to it would lead nowhere
            for why in self.reasons.get(waiting.pop(), ()):
                link = self.entries.get(why.by)
                if why.how == "target" and link is not None and link.type == "link" and why.by not in gone:
                    gone[why.by] = ""
                    waiting.append(why.by)
        self.excluded.update(gone)
        self._cut(gone)

    def _cut(self, paths: Iterable[str], is_cut: Callable[[Reason], bool] = lambda _: False) -> None:
        """Drop paths, edges, and what no request leads to any more."""
        gone = set(paths)
        for path in gone:
            self._drop(path)
        for path, edges in self.reasons.items():
            self.reasons[path] = {why: names for why, names in edges.items() if not is_cut(why)}
        kept = reachable(self.entries, self.reasons, gone)
        for path in self.entries.keys() - kept:
            self._drop(path)
            gone.add(path)
        for path in kept:
            self.reasons[path] = {why: names for why, names in self.reasons.get(path, {}).items() if why.by not in gone}
            self.wanted[path] = set().union(*self.reasons[path].values())

    def join_hard_links(self) -> None:
        """Note which files are one file where they come from, those that are carried over included."""
        for path in sorted(self.carried - self.kept_own):
            entry = self.entries[path]
            if entry.type != "file" or entry.source != path:  # a source elsewhere, that a manifest names, is let be
                continue
            try:
                status = self.root.lstat(path)
            except OSError:
                continue
            if status.st_nlink > 1 and (status.st_dev, status.st_ino) in self.identities:
                self.entries[path] = self._file(path)  # as the source has it, whatever the manifest says
                self.carried.discard(path)
        for identical in self.identities.values():
            paths = [path for path in identical if path in self.entries and path not in self.carried]
            families: dict[tuple[str, ...], list[str]] = {}
            for path in paths:
                # from elsewhere it is one with what the same request brought, or it would depend on the order of adds
                is_ours = self.entries[path].source == path
                families.setdefault(() if is_ours else tuple(sorted(self.wanted[path])), []).append(path)
            for family in families.values():
                first = min(family)
                for path in family if len(family) > 1 else ():
                    self.entries[path] = self.entries[path]._replace(hardlink=first)

    def name_packages(self) -> None:
        """Note which packages the files and links are from that the source root has itself."""
        copied = {
            path: entry.target
            for path, entry in self.entries.items()
            if entry.type in ("file", "link")
            and entry.source == path
            and path not in self.carried
            and path not in self.closure.sources
        }
        database = Dpkg(self.root)
        owners = database.owners(copied)
        for path, package in owners.items():
            self.entries[path] = self.entries[path]._replace(package=package)
        self.packages = database.describe({word for words in owners.values() for word in words.split(", ")})

    def finished(self) -> dict[str, Entry]:
        """Return the entries, each with who wants it and why."""
        found = {}
        names: dict[frozenset[str], tuple[str, ...]] = {}  # one tuple for all who say the same

        def ordered(some: set[str]) -> tuple[str, ...]:
            key = frozenset(some)
            if key not in names:
                names[key] = tuple(sorted(key))
            return names[key]

        for path in sorted(self.entries):
            reasons = sorted(why._replace(wanted_by=ordered(some)) for why, some in self.reasons.get(path, {}).items())
            found[path] = self.entries[path]._replace(
                wanted_by=ordered(self.wanted[path]), reasons=tuple(reasons), lines=self.tables.get(path, ())
            )
        return found


def _facts(entry: Entry) -> tuple[object, ...]:
    return entry.type, entry.mode, entry.uid, entry.gid, entry.size, entry.mtime_ns, entry.target
