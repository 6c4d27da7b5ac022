"""What is known of an installed package."""

from __future__ import annotations

from typing import NamedTuple


class PackageInfo(NamedTuple):
    """A package of a source root that something in a box is from; what is not known is None."""

    name: str
    version: str | None
    architecture: str | None
    source: str | None  # the source package's name
