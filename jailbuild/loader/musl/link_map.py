"""What musl's loader would load for one program, in its order, without running anything.

The rules are those of ldso/dynlink.c (load_library, path_open, fixup_rpath, load_preload, load_deps, dlopen). It goes
on after what it cannot load, to say all that is wrong before it gives up; so do we.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from jailbuild.elf import layouts
from jailbuild.elf.layouts import DT_NEEDED, ET_EXEC
from jailbuild.loader.budget import Budget
from jailbuild.loader.files import File
from jailbuild.loader.glibc.search import Found
from jailbuild.loader.model import (
    Edge,
    FatalError,
    Library,
    Missing,
    Refusal,
    Resolution,
    TooMuchError,
    Unopened,
)
from jailbuild.loader.musl.config import PASSED_OVER, MuslConfig, split

if TYPE_CHECKING:
    from jailbuild.loader.musl.linker import Musl

_ITSELF = frozenset({"c", "pthread", "rt", "m", "dl", "util", "xnet"})  # behind "lib" and before a dot
_ORIGIN = re.compile(r"\$(?:ORIGIN|\{ORIGIN\})")
_LONGEST_NAME = 255  # bytes, NAME_MAX
_LONGEST_PATH = 511  # bytes: what is found by a search fits into a buffer of twice NAME_MAX and two
_MOST_TEXT = 1 << 20  # bytes
_AGAIN = 16  # directories that are known not to be there count as a step


class Dso:
    """A dso."""

    __slots__ = ("above", "directories", "elf", "file", "found_by", "library", "number", "path", "shortname")

    def __init__(self, path: str, file: File, above: Dso | None, library: Library | None, number: int) -> None:
        self.path = path
        self.file = file
        self.elf = file.elf
        self.above = above  # who asked for it first
        self.library = library  # None for the program itself
        self.number = number  # its place in the chain
        self.shortname: str | None = None
        self.found_by = "rpath" if file.elf.runpath is None else "runpath"
        self.directories: tuple[str, ...] | None = None  # None: not known yet


class MuslLinkMapLoader(Budget):
    """The loading of one program."""

    def __init__(self, loader: Musl, interpreter: MuslConfig, path: str, file: File) -> None:
        super().__init__()
        self.begin(path)
        self.loader = loader
        self.files = loader.files
        self.interpreter = interpreter
        self.main = Dso(path, file, None, None, 0)
        self.needed = Edge(path, "needed")
        self.itself: Library | None = None  # the loader, once it was asked for
        self.chain: list[Library] = []
        self.queue: list[Dso] = [self.main]  # of the chain, those that need something
        self.done = 0  # of these, whose needs were seen to
        self.running = False  # once the program runs, what cannot be loaded is no end of it
        self.by_name: dict[str, Dso] = {}
        self.by_identity: dict[tuple[int, int], Dso] = {}
        self.missing: dict[tuple[str, tuple[str, ...]], Missing] = {}
        self.error: Refusal | None = None

    def run(self) -> Resolution:
        """Return what is loaded."""
        unopened: tuple[Unopened, ...] = ()
        try:
            self._preload()
            self._load_all()
            if self.error is None and self.loader.opening.level != "none":
                self.running = True
                unopened = self._open_all()
        except TooMuchError as error:
            self.error = error.refusal
        return Resolution(
            self.main.file.elf.interpreter,
            tuple(self.chain),
            tuple(self.missing.values()),
            self.error,
            self.interpreter,
            self.needed,
            (),
            unopened,
        )

    def _open_all(self) -> tuple[Unopened, ...]:
        if not any(object.elf.dlopens for object in self.queue):
            return ()
        from jailbuild.loader.dlopen import open_all  # seldom needed

        return open_all(self, self.loader.opening.level)

    def known(self, name: str) -> Dso | None:
        """Return what is loaded already by a name."""
        return self.by_name.get(name)

    def open(self, name: str, owner: Dso, request: Edge) -> None:
        """Load what `owner` opens by a name, with all that it needs; what is missing is noted (FatalError).

        Whoever calls dlopen, it is looked for as if the program itself needed it: an owner's own search path is of no
        account, but for what it opens in turn needs (dlopen: load_library(file, head)).
        """
        self.spend(1 + len(self.chain) // 16)
        self._load(name, self.main, request)
        self._load_all()

    def saved(self) -> Callable[[], None]:
        """Return what brings back the state of now."""
        itself, chain, queue, done = self.itself, list(self.chain), list(self.queue), self.done
        by_name, by_identity = dict(self.by_name), dict(self.by_identity)
        shortnames = [(object, object.shortname) for object in queue]
        asked = [one.requests for one in chain] + [one.requests for one in self.missing.values()]
        requests = [(now, list(now)) for now in asked]
        missing = dict(self.missing)

        def restore() -> None:
            self.itself, self.chain, self.queue, self.done = itself, chain, queue, done
            self.by_name, self.by_identity, self.missing = by_name, by_identity, missing
            for object, shortname in shortnames:
                object.shortname = shortname
            for now, then in requests:
                now[:] = then

        return restore

    def _preload(self) -> None:
        """Load what LD_PRELOAD names, as if nobody asked for it; what cannot be loaded is passed over in silence."""
        request = Edge(self.main.path, "preload")
        for name in self.loader.preloads:
            try:
                self._load(name, None, request)
            except TooMuchError:
                raise
            except FatalError as fatal:
                self._note_missing(Missing(name, (str(fatal),), [request], ()))

    def _load_all(self) -> None:
        while self.done < len(self.queue):
            self.done += 1
            self._load_needs(self.queue[self.done - 1])

    def _load_needs(self, owner: Dso) -> None:
        request = self.needed if owner is self.main else self.loader.needed[owner.path]
        for tag, name in owner.file.elf.wants:
            if tag == DT_NEEDED:
                try:
                    self._load(name, owner, request)
                except TooMuchError:
                    raise
                except FatalError as fatal:
                    if self.running:
                        raise
                    self.error = self.error or fatal.refusal

    def _load(self, name: str, owner: Dso | None, request: Edge) -> None:
        """Load what `name` is for `owner`, if it is not there yet (FatalError for a file that cannot be loaded)."""
        self.spend_text(name)
        if not name:
            raise FatalError(request.by, "it needs a library without a name")
        if self._is_itself(name):
            self._load_itself(name, request)
            return
        if "/" in name:
            file = self.files.get(name)
            found = None if isinstance(file, int) else Found(name, "path", file)
        else:
            known = self.by_name.get(name)
            if known is not None:
                self._ask(known.library, request)
                return
            found = self._search(name, owner)
        if found is None:
            self._note_missing(self._report(name, owner, request))
            return
        identity = found.file.device, found.file.inode
        known = self.by_identity.get(identity)
        if known is not None:
            if known.shortname is None and found.found_by != "path":
                self._name(known)
            self._ask(known.library, request)
            return
        self._refuse_wrong(found)
        if self.loader.is_libc(found.path, found.file):
            self._load_itself("libc.so", request)
            return
        library = Library(name, found.path, found.found_by, found.file, request)
        loaded = Dso(found.path, found.file, owner, library, len(self.queue))
        self.chain.append(library)
        self.queue.append(loaded)
        self.by_identity[identity] = loaded
        if found.found_by != "path":
            self._name(loaded)

    def _is_itself(self, name: str) -> bool:
        if name.startswith("lib"):
            first, dot, _ = name[3:].partition(".")
            if dot and first in _ITSELF:
                return True
        return name == self.interpreter.name

    def _load_itself(self, name: str, request: Edge) -> None:
        if self.itself is not None:
            self._ask(self.itself, request)
        elif self.interpreter.file is not None:
            self.itself = Library(name, self.interpreter.name, "interpreter", self.interpreter.file, request)
            self.chain.append(self.itself)

    def _ask(self, known: Library | None, request: Edge) -> None:
        assert known is not None
        if request.how != "dlopen" or request not in known.requests:
            known.requests.append(request)

    def _name(self, object: Dso) -> None:
        """Let an object be known by its base name, unless one before it in the chain is."""
        name = object.shortname = object.path.rpartition("/")[2]
        known = self.by_name.get(name)
        if known is None or object.number < known.number:
            self.by_name[name] = object

    def _search(self, name: str, owner: Dso | None) -> Found | None:
        if len(os.fsencode(name)) > _LONGEST_NAME:
            return None
        found = self._in_list(name, self.loader.library_path, "ld_library_path")
        above = owner
        while found is None and above is not None:
            self.spend(1)
            found = self._in_list(name, self._directories(above), above.found_by)
            above = above.above
        return found or self._in_list(name, self.interpreter.directories, "default")

    def _in_list(self, name: str, directories: tuple[str, ...], found_by: str) -> Found | None:
        self.spend(1 + len(directories) // (_AGAIN if self.loader.knows(directories) else 1))
        there = self.loader.there(directories)
        self.spend(len(there))
        for directory in there:
            path = f"{directory}/{name}"
            if len(path) * 4 > _LONGEST_PATH and len(os.fsencode(path)) > _LONGEST_PATH:
                continue
            file = self.files.get(path)
            if not isinstance(file, int):
                return Found(path, found_by, file)
            if file not in PASSED_OVER:  # this ends the whole search
                raise FatalError(path, os.strerror(file))
        return None

    def _directories(self, object: Dso) -> tuple[str, ...]:
        """Return an object's own directories: of DT_RUNPATH or else DT_RPATH."""
        if object.directories is None:
            elf = object.file.elf
            text = elf.rpath if elf.runpath is None else elf.runpath
            object.directories = split(self._expanded(text, object)) if text else ()
        return object.directories

    def _expanded(self, text: str, object: Dso) -> str:
        """Return a list with $ORIGIN replaced; "", no list at all, if there is any other "$" in it."""
        if "$" not in text:
            return text
        tokens = len(_ORIGIN.findall(text))
        if tokens != text.count("$"):
            return ""
        path = object.path
        if object is self.main and object.file.elf.interpreter is not None:  # what /proc/self/exe says
            path = self.files.root.walk(self.files.absolute(path)).real
            if len(os.fsencode(path)) > _LONGEST_PATH:
                return ""
        origin = path.rpartition("/")[0] if "/" in path else "."
        if len(text) + tokens * len(origin) > _MOST_TEXT:
            raise FatalError(object.path, f"its strings would have more than {_MOST_TEXT} bytes with $ORIGIN replaced")
        return _ORIGIN.sub(lambda _: origin, text)

    def _refuse_wrong(self, found: Found) -> None:
        """Raise FatalError for a file that cannot be mapped as a library.

        musl looks at less, and maps a library of another machine: it fails then when it relocates it.
        """
        elf = found.file.elf
        if elf.bits <= 0:
            raise FatalError(found.path, elf.ident_error)
        if elf.kind != self.interpreter.kind:
            raise FatalError(found.path, f"it is for {layouts.machine_name(elf.machine)} ({elf.bits}-bit)")
        if elf.load_error:
            raise FatalError(found.path, elf.load_error)
        if not elf.dynamic:
            raise FatalError(found.path, "object file has no dynamic section")
        if elf.type == ET_EXEC:  # they are linked for one place in memory, all of them; one alone can be a library
            other = next((one.path for one in self.queue if one.file.elf.type == ET_EXEC), None)
            if other is not None:
                raise FatalError(found.path, f"it is an executable, and its place is taken by {other}")

    def _note_missing(self, missing: Missing) -> None:
        known = self.missing.setdefault((missing.name, missing.searched), missing)
        if known is not missing:
            known.requests.extend(missing.requests)

    def _report(self, name: str, owner: Dso | None, request: Edge) -> Missing:
        if "/" in name:
            return Missing(name, (f"path {name}",), [request], ())
        lines = [f"ld_library_path {directory}" for directory in self.loader.library_path]
        while owner is not None:
            lines += [f"{owner.found_by} {directory}" for directory in self._directories(owner)]
            owner = owner.above
        lines += [f"default {directory}" for directory in self.interpreter.directories]
        searched = tuple(dict.fromkeys(lines))
        self.spend_text(*searched)
        return Missing(name, searched, [request], ())
