"""What musl's list of directories must say in a box, so that what LD_LIBRARY_PATH led to is found without it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from jailbuild.closure.programs import Part
from jailbuild.loader.musl.config import MuslConfig


class Listed(NamedTuple):
    """A directory that a loader's list must have, and the library in it that this is for."""

    path_file: str
    directory: str
    library: str


def listed(part: Part) -> Iterator[Listed]:
    """Yield what the list of a part's loader must have before what it has in the source root."""
    built_in = part.resolution.built_in
    if not isinstance(built_in, MuslConfig):
        return
    usual = {_normal(directory) for directory in built_in.directories}
    for library in part.resolution.libraries:
        directory = _normal(os.path.dirname(library.path))
        if library.found_by == "ld_library_path" and directory not in usual:
            yield Listed(built_in.path_file, directory, library.path)


def _normal(directory: str) -> str:
    """Return a directory of a list from the root on; ".." stays, which may come behind a link."""
    parts = [part for part in directory.split("/") if part not in ("", ".")]
    return "/" + "/".join(parts)
