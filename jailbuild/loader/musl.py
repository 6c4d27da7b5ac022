"""What musl's loader would load for a program, in its order, without running anything.

The rules are those of ldso/dynlink.c (load_library, path_open, fixup_rpath, load_preload, load_deps). It goes on after
what it cannot load, to say all that is wrong before it gives up; so do we.
"""

from __future__ import annotations

import errno
import os
import re

from jailbuild.elf import records
from jailbuild.elf.defined import defines
from jailbuild.elf.records import DT_NEEDED, ET_EXEC
from jailbuild.loader.budget import Budget
from jailbuild.loader.files import File, Files
from jailbuild.loader.musl_builtin import MuslBuiltIn, split
from jailbuild.loader.resolution import (
    Askers,
    Edge,
    FatalError,
    Library,
    Missing,
    Refusal,
    Resolution,
    TooMuchError,
)
from jailbuild.loader.search import Found

_ITSELF = frozenset({"c", "pthread", "rt", "m", "dl", "util", "xnet"})  # behind "lib" and before a dot
_LIBC = ("__libc_start_main", "stdin")  # what defines both is a libc, which must not come in twice
_ORIGIN = re.compile(r"\$(?:ORIGIN|\{ORIGIN\})")
_SPACE = re.compile("[ \t\n\v\f\r:]+")  # isspace(3), and the colon
_PASSED_OVER = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ENAMETOOLONG)
_LONGEST_NAME = 255  # bytes, NAME_MAX
_LONGEST_PATH = 511  # bytes: what is found by a search fits into a buffer of twice NAME_MAX and two
_MOST_TEXT = 1 << 20  # bytes
_AGAIN = 16  # directories that are known not to be there count as a step


class Musl:
    """musl's loader of one root under one LD_LIBRARY_PATH and one LD_PRELOAD, and what it remembers."""

    def __init__(self, files: Files, library_path: str, preloads: tuple[str, ...]) -> None:
        self.files = files
        self.library_path = split(library_path)
        self.preloads = tuple([name for text in preloads for name in _SPACE.split(text) if name])
        self.needed = Askers()
        self._libcs: dict[tuple[int, int], bool] = {}
        self._there: dict[tuple[str, ...], tuple[str, ...]] = {}

    def load(self, interpreter: MuslBuiltIn, path: str, file: File) -> Resolution:
        """Return what the loader `interpreter` loads for the program in `file`."""
        return _Walk(self, interpreter, path, file).run()

    def knows(self, directories: tuple[str, ...]) -> bool:
        """Say whether `there` has looked at a list before."""
        return directories in self._there

    def there(self, directories: tuple[str, ...]) -> tuple[str, ...]:
        """Return those of a list in which something may be: in the others every look-up would be passed over."""
        known = self._there.get(directories)
        if known is None:
            known = self._there[directories] = tuple([one for one in directories if self._is_there(one)])
        return known

    def _is_there(self, directory: str) -> bool:
        try:
            self.files.root.walk(self.files.absolute(directory))
        except OSError as error:
            return error.errno not in _PASSED_OVER
        except ValueError:  # a NUL in the name
            return False
        return True

    def is_libc(self, path: str, file: File) -> bool:
        """Say whether a file is a libc, glibc's or musl's, whatever it is called."""
        identity = file.device, file.inode
        known = self._libcs.get(identity)
        if known is None:
            known = False
            try:
                opened = self.files.root.open(self.files.absolute(path))
                try:
                    known = defines(opened, file.elf, _LIBC)
                finally:
                    os.close(opened)
            except OSError:
                pass
            self._libcs[identity] = known
        return known


class _Object:
    """A dso."""

    __slots__ = ("above", "directories", "file", "found_by", "library", "number", "path", "shortname")

    def __init__(self, path: str, file: File, above: _Object | None, library: Library | None, number: int) -> None:
        self.path = path
        self.file = file
        self.above = above  # who asked for it first
        self.library = library  # None for the program itself
        self.number = number  # its place in the chain
        self.shortname: str | None = None
        self.found_by = "rpath" if file.elf.runpath is None else "runpath"
        self.directories: tuple[str, ...] | None = None  # None: not known yet


class _Walk(Budget):
    """The loading of one program."""

    def __init__(self, loader: Musl, interpreter: MuslBuiltIn, path: str, file: File) -> None:
        super().__init__()
        self.begin(path)
        self.loader = loader
        self.files = loader.files
        self.interpreter = interpreter
        self.main = _Object(path, file, None, None, 0)
        self.needed = Edge(path, "needed")
        self.itself: Library | None = None  # the loader, once it was asked for
        self.chain: list[Library] = []
        self.objects: list[_Object] = [self.main]  # of the chain, those that need something
        self.by_name: dict[str, _Object] = {}
        self.by_identity: dict[tuple[int, int], _Object] = {}
        self.missing: dict[tuple[str, tuple[str, ...]], Missing] = {}
        self.error: Refusal | None = None

    def run(self) -> Resolution:
        """Return what is loaded."""
        try:
            self._preload()
            for owner in self.objects:  # which grows
                self._load_needs(owner)
        except TooMuchError as error:
            self.error = error.refusal
        return Resolution(
            self.main.file.elf.interpreter, tuple(self.chain), tuple(self.missing.values()), self.error,
            self.interpreter, self.needed,
        )

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

    def _load_needs(self, owner: _Object) -> None:
        request = self.needed if owner is self.main else self.loader.needed[owner.path]
        for tag, name in owner.file.elf.wants:
            if tag == DT_NEEDED:
                try:
                    self._load(name, owner, request)
                except TooMuchError:
                    raise
                except FatalError as fatal:
                    self.error = self.error or fatal.refusal

    def _load(self, name: str, owner: _Object | None, request: Edge) -> None:
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
                self._ask(known, request)
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
            self._ask(known, request)
            return
        self._refuse_wrong(found)
        if self.loader.is_libc(found.path, found.file):
            self._load_itself("libc.so", request)
            return
        library = Library(name, found.path, found.found_by, found.file, request)
        loaded = _Object(found.path, found.file, owner, library, len(self.objects))
        self.chain.append(library)
        self.objects.append(loaded)
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
            self.itself.requests.append(request)
        elif self.interpreter.file is not None:
            self.itself = Library(name, self.interpreter.name, "interpreter", self.interpreter.file, request)
            self.chain.append(self.itself)

    def _ask(self, known: _Object, request: Edge) -> None:
        assert known.library is not None
        known.library.requests.append(request)

    def _name(self, object: _Object) -> None:
        """Let an object be known by its base name, unless one before it in the chain is."""
        name = object.shortname = object.path.rpartition("/")[2]
        known = self.by_name.get(name)
        if known is None or object.number < known.number:
            self.by_name[name] = object

    def _search(self, name: str, owner: _Object | None) -> Found | None:
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
            if file not in _PASSED_OVER:  # this ends the whole search
                raise FatalError(path, os.strerror(file))
        return None

    def _directories(self, object: _Object) -> tuple[str, ...]:
        """Return an object's own directories: of DT_RUNPATH or else DT_RPATH."""
        if object.directories is None:
            elf = object.file.elf
            text = elf.rpath if elf.runpath is None else elf.runpath
            object.directories = split(self._expanded(text, object)) if text else ()
        return object.directories

    def _expanded(self, text: str, object: _Object) -> str:
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
            raise FatalError(found.path, elf.refused)
        if elf.kind != self.interpreter.kind:
            raise FatalError(found.path, f"it is for {records.machine_name(elf.machine)} ({elf.bits}-bit)")
        if elf.damage:
            raise FatalError(found.path, elf.damage)
        if not elf.dynamic:
            raise FatalError(found.path, "object file has no dynamic section")
        if elf.type == ET_EXEC:  # they are linked for one place in memory, all of them; one alone can be a library
            other = next((one.path for one in self.objects if one.file.elf.type == ET_EXEC), None)
            if other is not None:
                raise FatalError(found.path, f"it is an executable, and its place is taken by {other}")

    def _note_missing(self, missing: Missing) -> None:
        known = self.missing.setdefault((missing.name, missing.searched), missing)
        if known is not missing:
            known.requests.extend(missing.requests)

    def _report(self, name: str, owner: _Object | None, request: Edge) -> Missing:
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
