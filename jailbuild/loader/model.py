"""What a resolution says: plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from jailbuild.loader.files import File
from jailbuild.loader.glibc.config import LdsoConfig
from jailbuild.loader.musl.config import MuslConfig

if TYPE_CHECKING:
    from jailbuild.elf.dlopen_notes import Dlopen


class Opening(NamedTuple):
    """What is followed beside what the loader itself loads: what programs open while they run."""

    level: str = "none"  # of elf.priorities.LEVELS: dlopen notes of this priority, and of those before it
    unwinding: bool = False  # whether glibc's own libgcc_s is followed too


NOTHING = Opening()
UNWINDER = "libgcc_s.so.1"


def opening_in_boxes(level: str) -> Opening:
    """Return what is followed for a box, which must have all that its programs open."""
    return Opening(level, level != "none")


class Edge(NamedTuple):
    """Who asked for an object, and in which way: "needed", "preload", "filter", "auxiliary", "audit", "dlopen"."""

    by: str
    how: str


class Requesters(dict[str, Edge]):
    """The edge of what a library needs, by the library's path: one object for all who load it."""

    def __missing__(self, path: str) -> Edge:
        edge = self[path] = Edge(path, "needed")
        return edge


class Library:
    """An object that would be loaded."""

    __slots__ = ("file", "found_by", "name", "path", "requests")

    def __init__(self, name: str, path: str, found_by: str, file: File, request: Edge) -> None:
        self.name = name  # as it was first asked for
        self.path = path  # as the loader would open it
        self.found_by = found_by
        self.file = file
        self.requests = [request]

    def needed_by(self, requests: list[Edge]) -> Library:
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
    alternatives: tuple[str, ...] = ()  # any of which would have done: of a dlopen note


class Refusal(NamedTuple):
    """What kernel or loader would refuse a program for: a code of `check`, the file it is about, one line of text."""

    code: str
    subject: str
    text: str


class BadVersion(NamedTuple):
    """What the loader says of symbol versions that one loaded object asks of another: a code of `check`, and of what.

    The codes: "missing-version", "unreadable" for tables that it gives up over, "no-version-information" where it only
    complains.
    """

    code: str
    by: str  # the object that asks
    version: str
    file: str  # the name that the other is asked for by
    what: str  # what the other has instead; of an unreadable object what is wrong

    @property
    def is_fatal(self) -> bool:
        """Whether the program does not start."""
        return self.code != "no-version-information"

    def text(self, path: str, whose: str = "its") -> str:
        """Return one line for a program at `path`; `whose` the other file is."""
        who = path if path == self.by else f"{path} (through {self.by})"
        if self.code == "unreadable":
            return f"{self.by}: {self.what}" if path == self.by else f"{path}: {self.by}: {self.what}"
        return f"{who} needs {self.version}, {whose} {self.file} {self.what}"

    def refusal(self, path: str) -> Refusal:
        """Return what the loader would say of a program at `path`."""
        return Refusal(self.code, self.by if self.code == "unreadable" else self.version, self.text(path))


class Unopened(NamedTuple):
    """A library that would be opened, is not there, or not with all that it needs, and can be done without."""

    by: str
    note: Dlopen
    missing: Missing


class Resolution:
    """What a program loads."""

    __slots__ = (
        "_libraries",
        "_missing",
        "built_in",
        "interpreter",
        "like",
        "refusal",
        "requester",
        "unopened",
        "versions",
    )

    def __init__(
        self,
        interpreter: str | None,
        libraries: tuple[Library, ...] = (),
        missing: tuple[Missing, ...] = (),
        error: Refusal | None = None,
        built_in: LdsoConfig | MuslConfig | None = None,
        requester: Edge | None = None,
        versions: tuple[BadVersion, ...] = (),
        unopened: tuple[Unopened, ...] = (),
    ) -> None:
        self.interpreter = interpreter
        self.refusal = error  # for anything but versions
        self.versions = versions
        self.unopened = unopened
        self.built_in = built_in  # of the loader that decided; None where none was asked
        self.requester = requester  # in the edges of what the program itself needs: this very object
        self.like: Resolution | None = None  # where another program loads the same, and only the asker is another
        self._libraries: tuple[Library, ...] | None = libraries
        self._missing: tuple[Missing, ...] | None = missing

    def for_another(self, path: str, versions: tuple[BadVersion, ...]) -> Resolution:
        """Return what the program at `path` loads, which asks for the same, but for `versions` of its own."""
        if self.versions and self.requester is not None:
            versions += tuple(one for one in self.versions if one.by != self.requester.by)
        other = Resolution(self.interpreter, (), (), self.refusal, self.built_in, Edge(path, "needed"), versions)
        other.unopened = self.unopened  # by libraries: what opens something itself is resolved by itself
        other.like = self
        other._libraries = other._missing = None  # made when they are wanted
        return other

    @property
    def error(self) -> Refusal | None:
        """What kernel or loader would refuse the program for, the first that they would meet."""
        if self.refusal is not None or not self.versions:
            return self.refusal
        assert self.requester is not None
        return next((one.refusal(self.requester.by) for one in self.versions if one.is_fatal), None)

    @property
    def libraries(self) -> tuple[Library, ...]:
        """What is loaded, in the loader's order."""
        if self._libraries is None:
            assert self.like is not None
            self._libraries = tuple(
                [
                    library.needed_by(self._asked(library.requests))
                    if self.like.requester in library.requests
                    else library
                    for library in self.like.libraries
                ]
            )
        return self._libraries

    @property
    def started(self) -> list[Library]:
        """What is loaded into the program itself before it runs: nothing that audits it, or that it opens later."""
        apart: set[str] = set()
        found = []
        for library in self.libraries:
            if all(edge.how in ("audit", "dlopen") or edge.by in apart for edge in library.requests):
                apart.add(library.path)
            else:
                found.append(library)
        return found

    @property
    def missing(self) -> tuple[Missing, ...]:
        """The searches that failed."""
        if self._missing is None:
            assert self.like is not None
            self._missing = tuple([one._replace(requests=self._asked(one.requests)) for one in self.like.missing])
        return self._missing

    def _asked(self, edges: list[Edge]) -> list[Edge]:
        assert self.like is not None
        assert self.requester is not None
        return [self.requester if edge is self.like.requester else edge for edge in edges]


def unreadable(path: str, why: str) -> Refusal:
    """Return the refusal of a file that cannot be used for what it says, or does not say."""
    return Refusal("unreadable", path, f"{path}: {why}")


class FatalError(Exception):
    """The loader would give up over a file, with a reason."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.refusal = unreadable(path, why)


class TooMuchError(FatalError):
    """A program asks for more than anybody would wait for."""
