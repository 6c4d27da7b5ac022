"""What a program opens while it runs: the libraries of dlopen notes, and the one that glibc opens by itself.

Each is searched for as dlopen(3) would, called by the object whose note it is: what is loaded already first, then with
that object's RPATH or RUNPATH. What it needs comes with it, and what its own notes say.
"""

from __future__ import annotations

import os
from heapq import heappop, heappush
from typing import TYPE_CHECKING, NamedTuple

from jailbuild.elf.notes import Dlopen
from jailbuild.elf.priorities import LEVELS
from jailbuild.loader.files import File, Files
from jailbuild.loader.resolution import UNWINDER, Edge, FatalError, Missing, Opening, TooMuchError

if TYPE_CHECKING:
    from jailbuild.loader.glibc import _Object as Object
    from jailbuild.loader.glibc import _Walk as Walk

_REQUIRED = LEVELS.index("required")
# glibc opens it when one of these is first called, and ends the whole program where it is not there (pthread_exit and
# pthread_cancel: nptl; sysdeps/generic/unwind-resume.c, misc/unwind-link.c; backtrace: debug/backtrace.c)
_UNWINDER = Dlopen((UNWINDER,), feature="unwinding", description="threads that end early, and backtraces")
_UNWINDING = ("pthread_cancel", "pthread_exit", "thrd_exit", "backtrace")
_LIBC = "libc.so.6"


class Unopened(NamedTuple):
    """A library that would be opened, is not there, or not with all that it needs, and can be done without."""

    by: str
    note: Dlopen
    missing: Missing


def unwinds(files: Files, path: str, file: File) -> bool:
    """Say whether a file calls for what glibc opens libgcc_s for."""
    identity = file.device, file.inode
    known = files.unwinding.get(identity)
    if known is None:
        known = files.unwinding[identity] = _imports(files, path)
    return known


def _imports(files: Files, path: str) -> bool:
    try:
        opened = files.root.open(files.absolute(path))
    except OSError:
        return False
    from jailbuild.elf.symbols import imports_any  # only for boxes

    try:
        return imports_any(opened, _UNWINDING)
    except OSError:
        return False
    finally:
        os.close(opened)


def open_all(walk: Walk, opening: Opening) -> tuple[Unopened, ...]:
    """Let a walk that has loaded all else load what is opened; return what is not there and can be done without.

    What is required and not there is noted with what is missing (TooMuchError).
    """
    return _Opening(walk, opening).run()


class _Opening:
    def __init__(self, walk: Walk, opening: Opening) -> None:
        self.walk = walk
        self.opening = opening
        self.limit = LEVELS.index(opening.level)
        # An object counts as the weakest note on the way to it: what a suggested library requires, it alone requires.
        self.ranks: dict[Object, int] = {}
        self.todo: list[tuple[int, int, Object, Dlopen]] = []  # a heap: the strongest first, then in load order
        self.count = 0
        self.unopened: list[Unopened] = []

    def run(self) -> tuple[Unopened, ...]:
        self._take(_REQUIRED)
        while True:
            while self.todo:
                rank, _, owner, note = heappop(self.todo)
                self._open(owner, note, rank)
                self._take(rank)
            libc = self._libc_that_unwinds() if self.opening.unwinding else None
            if libc is None:
                return tuple(self.unopened)
            self._open(libc, _UNWINDER, LEVELS.index(_UNWINDER.priority))
            self.opening = self.opening._replace(unwinding=False)
            self._take(LEVELS.index(_UNWINDER.priority))

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

    def _libc_that_unwinds(self) -> Object | None:
        """Return glibc's libc if anything loaded calls for what it opens libgcc_s for, and that is not there yet."""
        libc = self.walk.names.get(_LIBC)
        if libc is None or libc.library is None or UNWINDER in self.walk.names:
            return None
        files = self.walk.loader.files
        for object in self.ranks:
            file = self.walk.file if object.library is None else object.library.file
            if unwinds(files, object.path, file):
                return libc
        return None

    def _open(self, owner: Object, note: Dlopen, rank: int) -> None:
        """Load the first alternative that is there with all that it needs."""
        walk = self.walk
        edge = Edge(owner.path, "dlopen")
        reasons: list[Missing] = []
        there = None
        for name in note.sonames:
            known = walk.names.get(name)
            if known is not None and known.listed:
                if known.library is not None and edge not in known.library.requests:
                    known.library.requests.append(edge)
                return
            before = _Saved(walk)
            missing = self._load(name, owner, edge)
            if not missing:
                return
            if there is None and all(edge not in one.requests for one in missing):
                there = name  # and something that it needs is not
                reasons = missing
            before.restore()
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

    def _load(self, name: str, owner: Object, edge: Edge) -> list[Missing]:
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


class _Saved:
    """What a walk has loaded: dlopen(3) takes back what it has loaded of a library that cannot be loaded whole."""

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self.names = dict(walk.names)
        self.identities = dict(walk.identities)
        self.objects = list(walk.objects)
        self.hidden = list(walk.hidden)
        self.queue = list(walk.queue)
        self.missing = {key: (one, list(one.requests)) for key, one in walk.missing.items()}
        self.flags = [(object, object.listed, object.done) for object in dict.fromkeys(self.names.values())]
        self.requests = [(object.library.requests, list(object.library.requests)) for object, _, _ in self.flags
                         if object.library is not None]

    def restore(self) -> None:
        walk = self.walk
        walk.names, walk.identities = self.names, self.identities
        walk.objects, walk.hidden, walk.queue = self.objects, self.hidden, self.queue
        walk.missing = {key: one for key, (one, _) in self.missing.items()}
        for one, requests in self.missing.values():
            one.requests[:] = requests
        for object, listed, done in self.flags:
            object.listed, object.done = listed, done
        for now, then in self.requests:
            now[:] = then
