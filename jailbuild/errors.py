"""The one error that a user sees."""

from __future__ import annotations

from collections.abc import Sequence


class JailError(Exception):
    """What could not be done and why, in words for the person who asked.

    Each cause reads "cannot X: why" and is shown on a line of its own; `hint` is what to do about it, where there is
    something.
    """

    def __init__(self, cause: str | Sequence[str], hint: str = "") -> None:
        self.causes = (cause,) if isinstance(cause, str) else tuple(cause)
        self.hint = hint
        super().__init__("; ".join(self.causes))


class OtherSourceError(JailError):
    """A box was made from another source root than the host's own, and the user named none."""

    def __init__(self, cause: str, hint: str, source: str | None) -> None:
        super().__init__(cause, hint)
        self.source = source  # the path that the record has


class SourceChangedError(JailError):
    """A source is not what it was when it was looked at, or does not hold still: it may when it is looked at anew."""


class UnsettledError(SourceChangedError):
    """What failed while a package manager was at work in the source root, whose doing it may be."""


def reason(error: OSError) -> str:
    """Return what the system said, without number and path: "Permission denied"."""
    return error.strerror or type(error).__name__
