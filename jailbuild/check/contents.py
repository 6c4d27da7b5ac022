"""A box must hold what its manifest lists, unchanged."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from jailbuild.box.draft import MOUNT_POINTS
from jailbuild.box.look import digest, kind_of, lstat_in, read_link_in
from jailbuild.box.manifest import DIRECTORY, Entry, Manifest
from jailbuild.check.findings import Finding, mend
from jailbuild.check.tree import Tree
from jailbuild.errors import reason
from jailbuild.root import Root, open_beneath


def content_findings(root: Root, tree: Tree, manifest: Manifest, box: str) -> Iterator[Finding]:
    """Yield what is gone, what was changed, and what is there without being listed."""
    # who made the record could set owners, or could not: then they are merely intended
    owned = lstat_in(root, f"/{DIRECTORY}").st_uid == 0
    for path, entry in sorted(manifest.entries.items()):
        hint = mend(manifest, entry.wanted_by, box)
        try:
            difference = _difference(root, entry, owned)
        except FileNotFoundError:
            yield Finding("missing-file", path, f"{path} is gone", path, requested_by=entry.wanted_by, hint=hint)
            continue
        except OSError as error:
            yield Finding("unreadable", path, f"{path} cannot be read: {reason(error)}", path,
                          requested_by=entry.wanted_by)
            continue
        if difference:
            yield Finding("changed-file", path, f"{path} {difference}", path, requested_by=entry.wanted_by,
                          hint=f"remove it and put it in again: {hint}" if hint else None)
    for path in sorted({*tree.files, *tree.links, *tree.others} - set(manifest.entries)):
        if not any(path.startswith(f"{point}/") for point in MOUNT_POINTS):
            yield Finding("unlisted-file", path, f"{path} is not jailbuild's", path)


def _difference(root: Root, entry: Entry, owned: bool) -> str:
    """Return how what is at an entry's path differs from it; "" if it does not. OSError if it cannot be told."""
    status = lstat_in(root, entry.path)
    kind = kind_of(status.st_mode)
    if kind != entry.type:
        return f"is a {kind} now, and was a {entry.type}"
    if entry.path in MOUNT_POINTS and status.st_dev != os.fstat(root.descriptor).st_dev:
        return ""  # what is mounted there is not the box's own
    if owned and (status.st_uid, status.st_gid) != (entry.uid, entry.gid):
        return f"belongs to {status.st_uid}:{status.st_gid} now, and belonged to {entry.uid}:{entry.gid}"
    mode = stat.S_IMODE(status.st_mode)
    if entry.mode is not None and mode != entry.mode:
        return f"has mode {mode:04o} now, and had {entry.mode:04o}"
    if entry.type == "link":
        target = read_link_in(root, entry.path)
        return "" if target == entry.target else f"leads to {target} now, and led to {entry.target}"
    if entry.type != "file":
        return ""
    if status.st_size != entry.size:
        return f"has {status.st_size} bytes now, and had {entry.size}"
    opened = open_beneath(root.descriptor, entry.path.lstrip("/"), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if digest(opened) != entry.sha256:
            return "has other bytes than it had"
    finally:
        os.close(opened)
    return ""
