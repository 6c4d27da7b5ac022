"""What a resolution says: plain data."""

from __future__ import annotations

from typing import NamedTuple

from jailbuild.loader.builtin import BuiltIn
from jailbuild.loader.files import File


class Edge(NamedTuple):
    """Who asked for an object, and in which way: "needed", "preload", "filter", "auxiliary", "audit"."""

    by: str
    how: str


class Library:
    """An object that would be loaded."""

    __slots__ = ("file", "found_by", "name", "path", "requests")

    def __init__(self, name: str, path: str, found_by: str, file: File, request: Edge) -> None:
        self.name = name  # as it was first asked for
        self.path = path  # as the loader would open it
        self.found_by = found_by
        self.file = file
        self.requests = [request]

    def asked_by(self, requests: list[Edge]) -> Library:
        """Return the same object, asked for by others."""
        library = Library(self.name, self.path, self.found_by, self.file, requests[0])
        library.requests = requests
        return library


class Missing(NamedTuple):
    """A search that failed: for what, where in order, for whom; and the files that were passed over, with why."""

    name: str
    searched: tuple[str, ...]
    requests: list[Edge]
    passed_over: tuple[str, ...]


class Refusal(NamedTuple):
    """What kernel or loader would refuse a program for: a code of `check`, the file it is about, one line of text."""

    code: str
    subject: str
    text: str


class Resolution(NamedTuple):
    """What a program loads."""

    interpreter: str | None
    libraries: tuple[Library, ...] = ()
    missing: tuple[Missing, ...] = ()
    error: Refusal | None = None
    built_in: BuiltIn | None = None  # of the loader that decided; None where none was asked
    like: Alike | None = None  # what says the same of another program


class Alike(NamedTuple):
    """A resolution that is also good for other programs, which ask for the same: each instead of `asker`."""

    asker: Edge
    resolution: Resolution

    def for_another(self, path: str) -> Resolution:
        """Return what is loaded for the program at `path`."""
        old, new = self.asker, Edge(path, self.asker.how)
        libraries = []
        for library in self.resolution.libraries:
            if old in library.requests:
                library = library.asked_by([new if edge is old else edge for edge in library.requests])
            libraries.append(library)
        missing = self.resolution.missing and tuple(
            [one._replace(requests=[new if edge is old else edge for edge in one.requests])
             for one in self.resolution.missing]
        )
        _, _, _, error, built_in, _ = self.resolution
        return Resolution(self.resolution.interpreter, tuple(libraries), missing, error, built_in, self)


def unreadable(path: str, why: str) -> Refusal:
    """Return the refusal of a file that cannot be used for what it says, or does not say."""
    return Refusal("unreadable", path, f"{path}: {why}")


class FatalError(Exception):
    """The loader would give up over a file, with a reason."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.refusal = unreadable(path, why)
