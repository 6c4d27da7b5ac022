"""What a program opens while it runs: the libraries of dlopen notes, and the one that glibc opens by itself.

Each is looked for as the dlopen(3) of the program's own C library would, called by the object whose note it is; which
way that goes, that library's walk knows. What it needs comes with it, and what its own notes say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import Generic, Protocol, TypeVar

from jailbuild.elf.dlopen_notes import Dlopen
from jailbuild.elf.priorities import LEVELS
from jailbuild.elf.reader import Elf
from jailbuild.loader.model import Edge, FatalError, Library, Missing, TooMuchError, Unopened

_REQUIRED = LEVELS.index("required")


class Loaded(Protocol):
    """A loaded object, whose notes count."""

    @property
    def path(self) -> str: ...
    @property
    def elf(self) -> Elf: ...
    @property
    def library(self) -> Library | None:
        """None for the program itself."""


T = TypeVar("T", bound=Loaded)


class LoadedProgram(Protocol[T]):
    """What has loaded a program, and can load more."""

    missing: dict[tuple[str, tuple[str, ...]], Missing]  # by name and where it was searched

    @property
    def queue(self) -> Sequence[T]:
        """All that is loaded, in load order."""

    def known(self, name: str) -> T | None:
        """Return what is loaded already by a name."""

    def open(self, name: str, owner: T, request: Edge) -> None:
        """Load what `owner` opens by a name, with all that it needs; what is missing is noted (FatalError)."""

    def saved(self) -> Callable[[], None]:
        """Return what brings back the state of now: dlopen(3) takes back what it cannot load whole."""


def open_all(
    walk: LoadedProgram[T], level: str, opens_itself: Callable[[], tuple[T, Dlopen] | None] = lambda: None
) -> tuple[Unopened, ...]:
    """Let a walk that has loaded all else load what is opened; return what is not there and can be done without.

    `level`: of LEVELS, up to which notes are followed. `opens_itself` tells what the C library opens without a note of
    anybody's, if it would and has not yet.
    What is required and not there is noted with what is missing (TooMuchError).
    """
    return _Opening(walk, level, opens_itself).run()


class _Opening(Generic[T]):
    def __init__(self, walk: LoadedProgram[T], level: str, opens_itself: Callable[[], tuple[T, Dlopen] | None]) -> None:
        self.walk = walk
        self.opens_itself = opens_itself
        self.limit = LEVELS.index(level)
        # An object counts as the weakest note on the way to it: what a suggested library requires, it alone requires.
        self.ranks: dict[T, int] = {}
        self.todo: list[tuple[int, int, T, Dlopen]] = []  # a heap: the strongest first, then in load order
        self.count = 0
        self.unopened: list[Unopened] = []

    def run(self) -> tuple[Unopened, ...]:
        self._take(_REQUIRED)
        self._open_noted()
        own = self.opens_itself()
        if own is not None:
            libc, note = own
            rank = LEVELS.index(note.priority)
            self._open(libc, note, rank)
            self._take(rank)
            self._open_noted()
        return tuple(self.unopened)

    def _open_noted(self) -> None:
        while self.todo:
            rank, _, owner, note = heappop(self.todo)
            self._open(owner, note, rank)
            self._take(rank)

    def _take(self, rank: int) -> None:
        """Take the notes of the objects that are new."""
        if len(self.ranks) == len(self.walk.queue):
            return
        for object in self.walk.queue:
            if object not in self.ranks:
                self.ranks[object] = rank
                for note in object.elf.dlopens:
                    own = LEVELS.index(note.priority)
                    if own <= self.limit:
                        self.count += 1
                        heappush(self.todo, (max(rank, own), self.count, object, note))

    def _open(self, owner: T, note: Dlopen, rank: int) -> None:
        """Load the first alternative that is there with all that it needs."""
        walk = self.walk
        edge = Edge(owner.path, "dlopen")
        reasons: list[Missing] = []
        there = None
        for name in note.sonames:
            known = walk.known(name)
            if known is not None:
                if known.library is not None and edge not in known.library.requests:
                    known.library.requests.append(edge)
                return
            restore = walk.saved()
            missing = self._load(name, owner, edge)
            if not missing:
                return
            if there is None and all(edge not in one.requests for one in missing):
                there = name  # and something that it needs is not
                reasons = missing
            restore()
            reasons = reasons or missing
        if rank > _REQUIRED:
            self.unopened.append(Unopened(owner.path, note, reasons[0]))
        elif there is not None:
            self._load(there, owner, edge)
        else:
            missing_one = reasons[0]._replace(alternatives=note.sonames[1:])
            known_one = walk.missing.setdefault((missing_one.name, missing_one.searched), missing_one)
            if known_one is not missing_one:
                known_one.requests.append(edge)

    def _load(self, name: str, owner: T, edge: Edge) -> list[Missing]:
        """Load a library with what it needs; return what of that is missing, as it was asked for now."""
        walk = self.walk
        before = {key: len(one.requests) for key, one in walk.missing.items()}
        try:
            walk.open(name, owner, edge)
        except TooMuchError:
            raise
        except FatalError as fatal:
            return [Missing(name, (str(fatal),), [edge], ())]
        new = [one._replace(requests=one.requests[before.get(key, 0) :]) for key, one in walk.missing.items()]
        return [one for one in new if one.requests]
