"""What of a box stays as it is while some of its requests are planned anew, or go. Nothing here writes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping

from jailbuild.box import lists
from jailbuild.box.draft import CACHE, Draft, cache_entry, named_in
from jailbuild.box.manifest import Entry, Label, Manifest
from jailbuild.closure import accounts
from jailbuild.loader.cache import CacheError, read_cache, write_cache
from jailbuild.root import Root

_MAX_CACHE = 8 << 20  # bytes
_MAX_ACCOUNTS = 16 << 20
_ACCOUNT_FILES = frozenset((accounts.PASSWD, accounts.GROUP))
_LINES = re.compile(r"; (?:users|groups) ([^;]*)$")


def carry(before: Manifest | None, names: Collection[str], label: Label, box: Root | None) -> Draft:
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
            for reason in entry.reasons if not stay.isdisjoint(reason.wanted_by)
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
    for path in _ACCOUNT_FILES & entries.keys():
        if (data := _lines_kept(before, entries, path, box)) is not None:
            made[path] = data
            entries[path] = entries[path]._replace(size=len(data), sha256=None)
    for path, old in entries.items():
        if lists.is_made(old) and (data := lists.kept(before, old, box)) is not None:
            made[path] = data
            entries[path] = lists.entry_of(path, data)._replace(wanted_by=old.wanted_by, reasons=old.reasons)
    requests = {name: asked for name, asked in before.requests.items() if name in stay}
    return Draft(label, requests, entries, made, frozenset(entries.keys() - made.keys()))


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


def _lines_kept(before: Manifest, entries: Mapping[str, Entry], path: str, box: Root) -> bytes | None:
    """Return the box's passwd or group file with the lines that are still wanted; None if it is not as we made it.

    Which they are, the edges say.
    """
    users = _named_lines(entries.get(accounts.PASSWD))
    names = _named_lines(entries[path])
    if entries[path].source is not None or not names:
        return None
    try:
        data = box.read(path, _MAX_ACCOUNTS)
    except OSError:
        return None
    if hashlib.sha256(data).hexdigest() != before.entries[path].sha256:
        return None
    return accounts.to_bytes(accounts.kept(path, accounts.parse_table(data), names, users))


def _named_lines(entry: Entry | None) -> frozenset[str]:
    found = (_LINES.search(reason.how) for reason in (entry.reasons if entry is not None else ()))
    return frozenset(name for match in found if match for name in match[1].split())


def _place_in(box: Root, path: str) -> str | None:
    """Return the entry that a path of a box names; None if its directory is gone."""
    try:
        return named_in(box, path)
    except OSError:
        return None
