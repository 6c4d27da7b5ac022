"""Opening the box that a command was given."""

from __future__ import annotations

from jailbuild.box.manifest import Manifest
from jailbuild.box.records import read_manifest
from jailbuild.errors import JailError
from jailbuild.root import Root


def manifest_of(box: str, verb: str) -> Manifest:
    """Return the manifest of a box (JailError "cannot VERB …" if it is no box)."""
    try:
        root = Root(box)
    except JailError as error:
        raise JailError([cause.replace("cannot open", f"cannot {verb}", 1) for cause in error.causes]) from None
    manifest = read_manifest(root, box)
    if manifest is None:
        raise JailError(f"cannot {verb} {box}: it has no manifest", "jailbuild add makes boxes; check takes any root")
    return manifest
