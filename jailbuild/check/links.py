"""Every symbolic link must lead to something in the root."""

from __future__ import annotations

import errno
import posixpath
from collections.abc import Iterator

from jailbuild.box.manifest import Manifest
from jailbuild.box.ownership import Unmanaged
from jailbuild.check.findings import Finding, readd_command
from jailbuild.check.tree import Tree
from jailbuild.root import Root

# What a link may lead to without its being there: what appears when the root runs, and the documentation that
# minimal images leave out while their links to it stay.
_ABSENT_BY_DESIGN = (
    "/dev/",
    "/proc/",
    "/run/",
    "/sys/",
    "/tmp/",
    "/var/run/",
    "/usr/share/doc/",
    "/usr/share/man/",
    "/usr/share/info/",
)


def link_findings(root: Root, tree: Tree, manifest: Manifest | None, box: str) -> Iterator[Finding]:
    """Yield the links that lead to nothing, but for those that are the user's for good."""
    unmanaged = Unmanaged(root, manifest.requests.values() if manifest is not None else ())
    for path, target in sorted(tree.links.items()):
        if path in unmanaged:
            continue
        listed = manifest.entries.get(path) if manifest is not None else None
        try:
            root.walk(path)
        except OSError as error:
            if error.errno == errno.EACCES:  # nobody knows
                continue
            if listed is None and _leads(path, target).startswith(_ABSENT_BY_DESIGN):
                continue
            wanted_by = listed.wanted_by if listed is not None else ()
            what = "goes round in a circle" if error.errno == errno.ELOOP else f"leads to {target}, which is not there"
            yield Finding(
                "dangling-link",
                path,
                f"{path} {what}",
                target,
                requested_by=wanted_by,
                hint=readd_command(manifest, wanted_by, box) if manifest is not None else None,
            )


def _leads(path: str, target: str) -> str:
    """Return where a link leads by its text alone."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
