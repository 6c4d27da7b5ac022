"""A box must hold what its manifest lists, unchanged."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from jailbuild.box import tables
from jailbuild.box.confined_fs import can_make_devices, kind_of
from jailbuild.box.draft import MOUNT_POINTS
from jailbuild.box.manifest import Entry, Manifest
from jailbuild.box.ownership import Unmanaged
from jailbuild.check.digests import Digests
from jailbuild.check.findings import Finding, command_on, readd_command
from jailbuild.check.tree import Seen, Tree
from jailbuild.names import shortened
from jailbuild.root import Root

_BENEATH = tuple(f"{point}/" for point in MOUNT_POINTS)


def content_findings(
    root: Root, tree: Tree, digests: Digests, manifest: Manifest, box: str, *, owned: bool, device: int
) -> Iterator[Finding]:
    """Yield what is gone, what was changed, and what is there without being listed, but for what is unmanaged.

    `owned` says whether who made the box could set owners and make devices: else they are merely intended, as devices
    are where the caller could make none. What is on another `device` than the box, at a mount point, is not its own.
    """
    unmanaged = Unmanaged(root, manifest.requests.values())
    for path, entry in sorted(manifest.entries.items()):
        if path in unmanaged:
            continue
        seen = tree.seen.get(path)
        if seen is not None:
            if path not in MOUNT_POINTS or seen.identity[0] == device:
                if entry.lines and stat.S_ISREG(seen.mode):
                    yield from _line_findings(root, tree, entry, manifest, box)
                yield from _differences(entry, seen, digests, manifest, box, owned)
        elif not tree.is_hidden(path) and (entry.type != "device" or (owned and can_make_devices())):
            yield Finding(
                "missing-file",
                path,
                f"{path} is gone",
                path,
                requested_by=entry.wanted_by,
                hint=readd_command(manifest, entry.wanted_by, box),
            )
    for path in sorted(tree.seen.keys() - manifest.entries.keys()):
        if not stat.S_ISDIR(tree.seen[path].mode) and not is_beneath_mount_point(path) and path not in unmanaged:
            yield Finding("unlisted-file", path, f"{path} is not jailbuild's", path)


def is_beneath_mount_point(path: str) -> bool:
    """Say whether a path lies where a root is written to while it is used: /tmp, /run and the like."""
    return path.startswith(_BENEATH)


def _line_findings(root: Root, tree: Tree, entry: Entry, manifest: Manifest, box: str) -> Iterator[Finding]:
    """Yield the lines of ours that are gone or changed in a file that is merged by lines; all others are the user's."""
    path = entry.path
    table = tables.read_table(root, path)
    if table is None and all(one.path != path for one in tree.unreadable):
        yield Finding("unreadable", path, f"{path} is no table of users or groups: it is too large", path)
    for line, is_there in () if table is None else tables.missing_lines(path, entry.lines, table):
        name = line.partition(":")[0]
        what = "was changed" if is_there else "is gone"
        hint = (
            f"put it back as it was: {shortened(line)}" if is_there else readd_command(manifest, entry.wanted_by, box)
        )
        yield Finding(
            "changed-file", path, f"{path}: the line of {name} {what}", name, requested_by=entry.wanted_by, hint=hint
        )


def _differences(
    entry: Entry, seen: Seen, digests: Digests, manifest: Manifest, box: str, owned: bool
) -> Iterator[Finding]:
    """Yield how what is at an entry's path differs from it."""
    path = entry.path

    def finding(code: str, message: str, hint: str | None) -> Finding:
        return Finding(code, path, f"{path} {message}", path, requested_by=entry.wanted_by, hint=hint)

    changed = _change(entry, seen, digests)
    if isinstance(changed, int):
        yield finding("unreadable", f"cannot be read: {os.strerror(changed)}", None)
    elif changed:
        again = readd_command(manifest, entry.wanted_by, box)
        yield finding("changed-file", changed, f"remove it and put it in again: {again}" if again else None)
    if kind_of(seen.mode) != entry.type:
        return
    if owned and (seen.uid, seen.gid) != (entry.uid, entry.gid):
        yield finding(
            "wrong-owner",
            f"belongs to {seen.uid}:{seen.gid} now, and belonged to {entry.uid}:{entry.gid}",
            command_on(path, box, "chown", "-h", f"{entry.uid}:{entry.gid}"),
        )
    mode = stat.S_IMODE(seen.mode)
    if entry.mode is not None and mode != entry.mode:
        yield finding(
            "wrong-mode",
            f"has mode {mode:04o} now, and had {entry.mode:04o}",
            command_on(path, box, "chmod", f"{entry.mode:04o}"),
        )


def _change(entry: Entry, seen: Seen, digests: Digests) -> str | int:
    """Return in what something has become another than its entry says, "" if it has not; errno if it is not known.

    Of a file that is merged by lines, its type alone.
    """
    kind = kind_of(seen.mode)
    if kind != entry.type:
        return f"is a {kind} now, and was a {entry.type}"
    if kind == "link":
        return "" if seen.target == entry.target else f"leads to {seen.target} now, and led to {entry.target}"
    if kind == "device" and entry.device is not None:
        now = ("c" if stat.S_ISCHR(seen.mode) else "b", os.major(seen.device), os.minor(seen.device))
        return "" if now == entry.device else f"is device {_numbers(now)} now, and was {_numbers(entry.device)}"
    if kind != "file" or entry.lines:
        return ""
    if seen.size != entry.size:
        return f"has {seen.size} bytes now, and had {entry.size}"
    digest = digests.found.get(seen.identity, "")  # what could not be opened is reported already
    if isinstance(digest, int):
        return digest
    return "" if digest in ("", entry.sha256) else "has other bytes than it had"


def _numbers(device: tuple[str, int, int]) -> str:
    return f"{device[0]} {device[1]}:{device[2]}"
