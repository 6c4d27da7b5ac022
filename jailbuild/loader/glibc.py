"""What glibc's loader would load for a program, in its order, without running anything.

The rules are those of elf/dl-load.c (_dl_map_object), elf/dl-deps.c (_dl_map_object_deps) and elf/rtld.c; the names
here follow theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from jailbuild.elf import records
from jailbuild.elf.reader import Elf
from jailbuild.elf.records import DT_NEEDED, ET_EXEC
from jailbuild.loader import machines, paths
from jailbuild.loader.builtin import BuiltIn
from jailbuild.loader.files import File, Files
from jailbuild.loader.resolution import (
    NOTHING,
    Askers,
    BadVersion,
    Edge,
    FatalError,
    Library,
    Missing,
    Opening,
    Resolution,
    TooMuchError,
    unreadable,
)
from jailbuild.loader.search import PLAIN, Found, Scope, Search
from jailbuild.loader.versions import Provider, Providers, bad_versions

if TYPE_CHECKING:
    from jailbuild.loader.opening import Unopened

_HOW = {records.DT_FILTER: "filter", records.DT_AUXILIARY: "auxiliary"}


class Glibc:
    """glibc's loader of one root under one LD_LIBRARY_PATH and one LD_PRELOAD, and what it remembers."""

    def __init__(
        self, files: Files, library_path: str, preloads: tuple[str, ...], opening: Opening = NOTHING
    ) -> None:
        """Take what counts for each program; `opening` says what is followed of what they open while they run."""
        self.files = files
        self.library_path = library_path
        self.preloads = preloads
        self.opening = opening
        self._searches: dict[tuple[str, machines.Kind, tuple[str, ...]], Search] = {}
        self._lists: dict[tuple[str, str, paths.Tokens | None], tuple[str, ...]] = {}
        self.needed = Askers()

    def load(self, interpreter: BuiltIn, path: str, file: File) -> tuple[Resolution, Providers]:
        """Return what the loader `interpreter` loads for the program in `file`, and who of it has which versions."""
        try:
            walk = _Walk(self, interpreter, path, file)
            walk.search.begin(path)
            return walk.run(), walk.providers(walk.main)
        except paths.TooLongError as error:
            return Resolution(file.elf.interpreter, error=unreadable(path, str(error)), built_in=interpreter), {}

    def directories(self, text: str, separators: str, tokens: paths.Tokens | None) -> tuple[str, ...]:
        """Return the directories of a list; `tokens` may be None where the text has no "$"."""
        key = text, separators, tokens
        known = self._lists.get(key)
        if known is None:
            known = self._lists[key] = paths.directories(text, separators, tokens or paths.Tokens(None, None, None))
        return known

    def search(self, interpreter: BuiltIn, library_path: tuple[str, ...]) -> Search:
        """Return the search that one loader makes under one LD_LIBRARY_PATH, with what it remembers."""
        key = (interpreter.name, interpreter.kind, library_path)
        search = self._searches.get(key)
        if search is None:
            search = self._searches[key] = Search(self.files, interpreter, library_path)
        return search


def _each_once(libraries: list[Library]) -> list[Library]:
    """Return the libraries with those that were loaded twice only where they were loaded last, asked for by all."""
    found: dict[str, Library] = {}
    for library in libraries:
        before = found.pop(library.path, None)
        requests = [*before.requests, *library.requests] if before is not None else library.requests
        found[library.path] = library
        library.requests = list(dict.fromkeys(requests))
    return list(found.values())


class _Object:
    """A link map."""

    __slots__ = ("below", "done", "elf", "library", "listed", "path", "scope")

    def __init__(self, walk: _Walk, path: str, elf: Elf, above: Scope, library: Library | None) -> None:
        self.path = path
        self.elf = elf
        self.library = library  # None for the program itself
        self.listed = False  # whether it has its place in the breadth-first list
        self.done = False  # whether its own needs were seen to
        self.below: Scope = above  # of the plain objects that it loads
        self.scope: Scope = above
        if elf.rpath is None and elf.runpath is None and not elf.nodeflib:
            return
        if own := walk.directories(elf.rpath, self):
            self.below = Scope((own, *above.rpaths), (), False)
        runpath = walk.directories(elf.runpath, self)
        self.scope = Scope(() if elf.runpath is not None else self.below.rpaths, runpath, elf.nodeflib)


class _Walk:
    """The loading of one program."""

    def __init__(
        self, loader: Glibc, interpreter: BuiltIn, path: str, file: File, search: Search | None = None,
        above: Scope = PLAIN,
    ) -> None:
        """Take the file to begin with; one that audits a program goes on with its search, in a scope `above`."""
        self.loader = loader
        self.interpreter = interpreter
        self.file = file
        self.main = _Object(self, path, file.elf, above, None)
        self.needed = Edge(path, "needed")
        self.search = search or loader.search(interpreter, self.directories(loader.library_path, self.main, ":;"))
        self.names: dict[str, _Object] = {}
        self.identities: dict[tuple[int, int], _Object] = {}
        self.objects: list[_Object] = []  # link map order, without the program
        self.hidden: list[_Object] = []  # before the program in it
        self.queue: list[_Object] = []  # breadth-first
        self.missing: dict[tuple[str, tuple[str, ...]], Missing] = {}
        self.names[""] = self.main
        if file.elf.soname is not None:
            self.names[file.elf.soname] = self.main
        self.names.setdefault(machines.machine(interpreter.kind).vdso, self.main)  # the kernel's own; never listed
        if interpreter.file is not None:
            self._place_interpreter(interpreter.file)

    def _place_interpreter(self, file: File) -> None:
        name = self.interpreter.name
        library = Library(self.interpreter.soname or name, name, "interpreter", file, Edge("", ""))
        library.requests.clear()
        loader = _Object(self, name, file.elf, self.main.below, library)
        self.names.setdefault(name, loader)
        if self.interpreter.soname:
            self.names.setdefault(self.interpreter.soname, loader)

    def tokens(self, object: _Object) -> paths.Tokens:
        """Return what tokens stand for in an object's strings."""
        absolute = self.loader.files.absolute(object.path)
        if object.library is None and object.elf.interpreter is not None:  # the kernel tells a program's real path
            absolute = self.loader.files.root.walk(absolute).real
        # not os.path.dirname, which drops more slashes than one
        return paths.Tokens(absolute.rpartition("/")[0] or "/", self.interpreter.lib, self.interpreter.platform)

    def directories(self, text: str | None, object: _Object, separators: str = ":") -> tuple[str, ...]:
        """Return the directories of a list that an object gives, or is given."""
        return self.loader.directories(text, separators, self.tokens(object) if "$" in text else None) if text else ()

    def expand(self, text: str, object: _Object) -> str | None:
        """Return one of an object's strings with the tokens replaced; None if one has no value."""
        if "$" not in text:
            return text
        expanded = paths.expand(text, self.tokens(object))
        self.search.spend_text(expanded or "")
        return expanded

    def run(self) -> Resolution:
        """Return what is loaded."""
        error = None
        unopened: tuple[Unopened, ...] = ()
        versions: tuple[BadVersion, ...] = ()
        self._list(self.main)
        try:
            self._preload()
            self._load_all()
            versions = tuple(self._bad_versions())  # what is opened later is held to its own when it is opened
            if self.loader.opening.level != "none":
                unopened = self._open_all()
        except FatalError as fatal:
            error = fatal.refusal
        libraries = [object.library for object in (*self.hidden, *self.objects) if object.library is not None]
        if self.hidden:
            libraries = _each_once(libraries)
        if error is None and self.main.elf.audit:
            try:
                libraries += self._audit(libraries)
            except FatalError as fatal:
                error = fatal.refusal
        missing = tuple(self.missing.values())
        return Resolution(self.main.elf.interpreter, tuple(libraries), missing, error, self.interpreter, self.needed,
                          versions if error is None else (), unopened)

    def _open_all(self) -> tuple[Unopened, ...]:
        for object in self.queue:
            if object.elf.dlopens or self.loader.opening.unwinding:
                from jailbuild.loader.opening import open_all  # seldom needed

                return open_all(self, self.loader.opening)
        return ()

    def open(self, name: str, owner: _Object, request: Edge) -> None:
        """Load what `owner` opens by a name, with all that it needs; what is missing is noted (FatalError)."""
        self.search.spend(1 + len(self.queue) // 16)
        found = self._map(name, owner, request)
        if found is not None and not found.listed:
            self._list(found)
        self._load_all()

    def _bad_versions(self) -> Iterator[BadVersion]:
        """Yield what the loader says of versions (_dl_check_all_versions)."""
        names = self.names
        for object in (self.main, *self.objects):  # not what stands before the program in the list
            versions = object.elf.versions
            for file, asked in versions.needs:
                known = names.get(file)
                if known is None or known.library is None or known.library.name != file:
                    break
                defined = known.elf.versions.defined
                if defined is None or not defined.issuperset(asked):
                    break
            else:
                if not versions.damage and not versions.unmarked:
                    continue
            yield from bad_versions(object.path, versions, self.providers(object), self.interpreter.version)

    def providers(self, object: _Object) -> Providers:
        """Return the files that an object names in DT_VERNEED and wants by name: as loaded, None where missing."""
        found: Providers = {}
        for _, name in object.elf.wants:
            if known := self.names.get(name):
                found[name] = Provider(known.path, known.elf.versions)
        for need in object.elf.versions.needs:
            if need.file not in found:
                if known := self._called(need.file):
                    found[need.file] = Provider(known.path, known.elf.versions)
                elif any(missing.name == need.file for missing in self.missing.values()):
                    found[need.file] = None
        return found

    def _called(self, name: str) -> _Object | None:
        """Return the loaded object of a name, if it was asked for by that, or that is its path (_dl_name_match_p).

        A SONAME alone is no such name; but for the loader's.
        """
        found = self.names.get(name)
        if found is None or found.path == name or found.library is None or found.library.found_by == "interpreter":
            return found
        if found.library.name == name or name in self.loader.preloads:
            return found
        asked = any(name == self.expand(text, one) for one in self.queue for _, text in one.elf.wants)
        return found if asked else None

    def _preload(self) -> None:
        request = Edge(self.main.path, "preload")
        for name in self.loader.preloads:
            try:
                known = len(self.objects)
                self.search.spend(1)
                found = self._map(name, self.main, request)
            except TooMuchError:
                raise
            except FatalError as fatal:  # "cannot be preloaded: ignored"
                self._note_missing(Missing(name, (str(fatal),), [request], ()))
                continue
            if found is not None and len(self.objects) > known:  # an object that was there already is no preload
                self._list(found)

    def _list(self, object: _Object) -> None:
        object.listed = True
        self.queue.append(object)

    def _load_all(self) -> None:
        """Go through the list breadth first; a filtee comes before its filter (_dl_map_object_deps)."""
        queue = self.queue
        place = 0
        while place < len(queue):
            owner = queue[place]
            if owner.done:
                place += 1
                continue
            owner.done = True
            self.search.spend(len(owner.elf.wants))
            needed = self.needed if owner is self.main else self.loader.needed[owner.path]
            for tag, text in owner.elf.wants:
                name = self.expand(text, owner) if "$" in text else text
                if tag == DT_NEEDED and name in self.names:
                    known = self.names[name]
                    if known.listed:
                        if known.library is not None:
                            known.library.requests.append(needed)
                        continue
                if name is None:  # a token has no value: the loader passes over all but the optional, of all things
                    if tag == records.DT_AUXILIARY:
                        raise FatalError(text, "empty dynamic string token substitution")
                    continue
                if tag == DT_NEEDED:
                    found = self._map(name, owner, needed)
                    if found is not None and not found.listed:
                        found.listed = True
                        queue.append(found)
                    continue
                try:
                    found = self._map(name, owner, Edge(owner.path, _HOW[tag]))
                except FatalError as fatal:
                    if tag == records.DT_FILTER or isinstance(fatal, TooMuchError):
                        raise
                    continue
                if found is not None:
                    self._place_before(found, owner)

    def _place_before(self, filtee: _Object, owner: _Object) -> None:
        self.search.spend(len(self.queue) // 64)
        place = self.queue.index(owner)
        if filtee.listed:
            if filtee not in self.queue[place + 1 :]:
                return
            self.queue.remove(filtee)
        filtee.listed = True
        self.queue.insert(place, filtee)
        if filtee not in self.objects:  # the program, or the loader that nobody asked for
            return
        self.objects.remove(filtee)
        if owner in self.objects:
            self.objects.insert(self.objects.index(owner), filtee)
        else:
            self.hidden.insert(self.hidden.index(owner) if owner in self.hidden else len(self.hidden), filtee)
            self._forget(filtee)

    def _forget(self, hidden: _Object) -> None:
        """Take an object out of what is known. The list of loaded objects begins with the program: what stands before
        it, a filtee of its own or of such a filtee, is never met again, and is loaded once more for the next who asks.
        """
        self.search.spend(len(self.names))
        self.names = {name: object for name, object in self.names.items() if object is not hidden}
        self.identities = {identity: object for identity, object in self.identities.items() if object is not hidden}
        for object in self.objects:
            self._name(object)

    def _map(self, name: str, owner: _Object, request: Edge) -> _Object | None:
        """Return the object that `name` is for `owner`, loaded now if it was not; None if there is none."""
        known = self.names.get(name)
        if known is None:
            path = self.expand(name, owner) if "/" in name else name  # a second time, if it was needed
            outcome = self.search.plain.get(path) if path is not None and owner.scope is PLAIN else None
            if outcome is None and path is not None:
                outcome = self.search.find(path, owner.scope)
            if isinstance(outcome, FatalError):
                raise outcome
            if outcome is None:
                if request.how != "auxiliary":
                    self._note_missing(self.search.missing(name, owner.scope, request))
                return None
            identity = (outcome.file.device, outcome.file.inode)
            known = self.identities.get(identity)
            if known is None:
                return self._load(name, outcome, owner, request)
            self.names.setdefault(name, known)
        library = known.library
        if library is not None:
            if not library.requests:  # the loader, asked for by name for the first time
                if request.how == "preload":  # which does not list it
                    return known
                self.objects.append(known)
            library.requests.append(request)
        return known

    def _load(self, name: str, found: Found, owner: _Object, request: Edge) -> _Object:
        elf = found.file.elf
        if elf.pie:
            raise FatalError(found.path, "cannot dynamically load position-independent executable")
        if elf.type == ET_EXEC:
            raise FatalError(found.path, "cannot dynamically load executable")
        if not elf.dynamic:
            raise FatalError(found.path, "object file has no dynamic section")
        library = Library(name, found.path, found.found_by, found.file, request)
        loaded = _Object(self, found.path, elf, owner.below, library)
        self.objects.append(loaded)
        self.identities[found.file.device, found.file.inode] = loaded
        self._name(loaded)
        return loaded

    def _name(self, object: _Object) -> None:
        """Remember an object by its own names, where no other has them."""
        assert object.library is not None
        for known_as in (object.library.name, object.path, object.elf.soname):
            if known_as is not None:
                self.names.setdefault(known_as, object)

    def _note_missing(self, missing: Missing) -> None:
        known = self.missing.setdefault((missing.name, missing.searched), missing)
        if known is not missing:
            known.requests.extend(missing.requests)

    def _audit(self, libraries: list[Library]) -> list[Library]:
        """Return the auditing libraries of the program with what they need, each set in a namespace of its own.

        The loader itself asks for them: DF_1_NODEFLIB of the program does not count, and its DT_RUNPATH, from glibc
        2.35 on, as if it were a DT_RPATH.
        """
        scope = self.main.below
        runpath = self.directories(self.main.elf.runpath, self.main)
        if runpath and self.interpreter.version >= (2, 35):
            scope = Scope((runpath,), (), False)
        found = {library.path: library for library in libraries}
        request = Edge(self.main.path, "audit")
        for text in self.main.elf.audit:
            name = self.expand(text, self.main)
            if name is None:
                self._note_missing(Missing(text, ("empty dynamic string token substitution",), [request], ()))
                continue
            outcome = self.search.find(name, scope)
            if outcome is None:
                self._note_missing(self.search.missing(name, scope, request))
            elif isinstance(outcome, FatalError):  # "cannot be loaded as audit interface; ignored"
                self._note_missing(Missing(name, (str(outcome),), [request], ()))
            else:
                self._load_auditor(name, outcome, request, scope, found)
        return list(found.values())[len(libraries) :]

    def _load_auditor(
        self, name: str, auditor: Found, request: Edge, scope: Scope, found: dict[str, Library]
    ) -> None:
        walk = _Walk(self.loader, self.interpreter, auditor.path, auditor.file, self.search, scope)
        walk._list(walk.main)
        try:
            walk._load_all()
        except TooMuchError:
            raise
        except FatalError as fatal:
            self._note_missing(Missing(name, (str(fatal),), [request], ()))
        library = Library(name, auditor.path, auditor.found_by, auditor.file, request)
        for one in (library, *[object.library for object in (*walk.hidden, *walk.objects) if object.library]):
            known = found.setdefault(one.path, one)
            if known is not one:
                known.requests += [edge for edge in one.requests if edge not in known.requests]
        for missing in walk.missing.values():
            self._note_missing(missing)
