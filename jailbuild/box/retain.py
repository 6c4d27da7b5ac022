"""What of a box stays as it is while some of its requests are planned anew, or go. Nothing here writes."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from jailbuild.box import linker_config, tables
from jailbuild.box.draft import CACHE, Draft, cache_entry, named_in
from jailbuild.box.manifest import Entry, Label, Manifest
from jailbuild.box.ownership import own_paths
from jailbuild.closure.accounts import PASSWD
from jailbuild.loader.glibc.ld_cache import CacheError, read_cache, write_cache
from jailbuild.packages.info import PackageInfo
from jailbuild.root import Root

_MAX_CACHE = 8 << 20  # bytes


def retain(before: Manifest | None, names: Collection[str], label: Label, box: Root | None) -> Draft:
    """Return what stays of a box when only the requests `names` do, from its manifest alone."""
    if before is None or box is None:
        return Draft(label, {}, {}, {})
    stay = set(names)
    entries = {}
    families: dict[str, list[str]] = {}
    for path, entry in before.entries.items():
        wanted_by = tuple(name for name in entry.wanted_by if name in stay)
        if not wanted_by:
            continue
        reasons = tuple(
            reason._replace(wanted_by=tuple(name for name in reason.wanted_by if name in stay))
            for reason in entry.reasons
            if not stay.isdisjoint(reason.wanted_by)
        )
        entries[path] = entry._replace(wanted_by=wanted_by, reasons=reasons)
        if entry.hardlink is not None:
            families.setdefault(entry.hardlink, []).append(path)
    for paths in families.values():
        first = min(paths) if len(paths) > 1 else None
        for path in paths:
            entries[path] = entries[path]._replace(hardlink=first)
    made = {}
    if CACHE in entries and entries[CACHE].source is None and (data := _cache_kept(before, entries[CACHE], box)):
        made[CACHE] = data
        old = entries[CACHE]
        entries[CACHE] = cache_entry(data)._replace(wanted_by=old.wanted_by, reasons=old.reasons)
    kept = {}
    for path in tables.PATHS & entries.keys():
        if entries[path].source is None and not _is_text(before, entries[path]):
            ours = tables.our_lines(before.entries, path, tables.read_table(box, path))
            kept[path] = tables.kept_lines(path, ours, entries[path], entries.get(PASSWD))
            made[path] = b""  # merged with what the box has when that is looked at
            entries[path] = entries[path]._replace(size=0, sha256=None)
    for path, old in entries.items():
        if linker_config.is_made(old) and (data := linker_config.kept(before, old, box)) is not None:
            made[path] = data
            entries[path] = linker_config.entry_of(path, data)._replace(wanted_by=old.wanted_by, reasons=old.reasons)
    requests = {name: asked for name, asked in before.requests.items() if name in stay}
    return Draft(
        label,
        requests,
        entries,
        made,
        frozenset(entries.keys() - made.keys()),
        source=before.source,
        tables=kept,
        packages=named_packages(before),
        own=own_paths(before, stay),
    )


def named_packages(manifest: Manifest) -> dict[str, PackageInfo]:
    """Return the packages of a manifest by how its entries name them: alone, or with the architecture."""
    found = {}
    for one in manifest.packages:
        found[one.name] = one
        found[f"{one.name}:{one.architecture}"] = one
    return found


def _is_text(before: Manifest, entry: Entry) -> bool:
    """Say whether a file that is made is what the user gave for it."""
    asked = [before.requests.get(name) for name in entry.wanted_by]
    return any(one is not None and one.type == "text" and one.path == entry.path for one in asked)


def _cache_kept(before: Manifest, entry: Entry, box: Root) -> bytes | None:
    """Return the box's ld.so.cache with only the libraries that lead to `entry`; None if it is not as we made it."""
    try:
        data = box.read(CACHE, _MAX_CACHE)
        known = read_cache(data).entries
    except (OSError, CacheError):
        return None
    if hashlib.sha256(data).hexdigest() != before.entries[CACHE].sha256:
        return None
    still = {reason.by for reason in entry.reasons}
    kept = [one for one in known if _place_in(box, one.path) in still]
    try:
        return write_cache(kept, little_endian=write_cache(known) == data)
    except CacheError:
        return None


def _place_in(box: Root, path: str) -> str | None:
    """Return the entry that a path of a box names; None if its directory is gone."""
    try:
        return named_in(box, path)
    except OSError:
        return None
