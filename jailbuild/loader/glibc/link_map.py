"""What glibc's loader would load for one program, in its order, without running anything.

The rules are those of elf/dl-load.c (_dl_map_object), elf/dl-deps.c (_dl_map_object_deps) and elf/rtld.c; the names
here follow theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from jailbuild.elf import layouts
from jailbuild.elf.layouts import DT_NEEDED, ET_EXEC
from jailbuild.elf.reader import Elf
from jailbuild.loader import arch, paths
from jailbuild.loader.files import File
from jailbuild.loader.glibc.config import LdsoConfig
from jailbuild.loader.glibc.search import PLAIN, Found, Scope, Search
from jailbuild.loader.model import (
    Edge,
    FatalError,
    Library,
    Missing,
    TooMuchError,
)

if TYPE_CHECKING:
    from jailbuild.loader.glibc.linker import Glibc

_HOW = {layouts.DT_FILTER: "filter", layouts.DT_AUXILIARY: "auxiliary"}


class LinkMap:
    """A link map."""

    __slots__ = ("below", "done", "elf", "library", "listed", "path", "scope")

    def __init__(self, walk: LinkMapLoader, path: str, elf: Elf, above: Scope, library: Library | None) -> None:
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


class LinkMapLoader:
    """The loading of one program."""

    def __init__(
        self,
        loader: Glibc,
        interpreter: LdsoConfig,
        path: str,
        file: File,
        search: Search | None = None,
        above: Scope = PLAIN,
    ) -> None:
        """Take the file to begin with; one that audits a program goes on with its search, in a scope `above`."""
        self.loader = loader
        self.interpreter = interpreter
        self.file = file
        self.main = LinkMap(self, path, file.elf, above, None)
        self.needed = Edge(path, "needed")
        self.search = search or loader.search(interpreter, self.directories(loader.library_path, self.main, ":;"))
        self.names: dict[str, LinkMap] = {}
        self.identities: dict[tuple[int, int], LinkMap] = {}
        self.objects: list[LinkMap] = []  # link map order, without the program
        self.hidden: list[LinkMap] = []  # before the program in it
        self.queue: list[LinkMap] = []  # breadth-first
        self.missing: dict[tuple[str, tuple[str, ...]], Missing] = {}
        self.names[""] = self.main
        if file.elf.soname is not None:
            self.names[file.elf.soname] = self.main
        self.names.setdefault(arch.machine(interpreter.kind).vdso, self.main)  # the kernel's own; never listed
        if interpreter.file is not None:
            self._place_interpreter(interpreter.file)

    def _place_interpreter(self, file: File) -> None:
        name = self.interpreter.name
        library = Library(self.interpreter.soname or name, name, "interpreter", file, Edge("", ""))
        library.requests.clear()
        loader = LinkMap(self, name, file.elf, self.main.below, library)
        self.names.setdefault(name, loader)
        if self.interpreter.soname:
            self.names.setdefault(self.interpreter.soname, loader)

    def tokens(self, object: LinkMap) -> paths.Tokens:
        """Return what tokens stand for in an object's strings."""
        absolute = self.loader.files.absolute(object.path)
        if object.library is None and object.elf.interpreter is not None:  # the kernel tells a program's real path
            absolute = self.loader.files.root.walk(absolute).real
        # not os.path.dirname, which drops more slashes than one
        return paths.Tokens(absolute.rpartition("/")[0] or "/", self.interpreter.lib, self.interpreter.platform)

    def directories(self, text: str | None, object: LinkMap, separators: str = ":") -> tuple[str, ...]:
        """Return the directories of a list that an object gives, or is given."""
        return self.loader.directories(text, separators, self.tokens(object) if "$" in text else None) if text else ()

    def expand(self, text: str, object: LinkMap) -> str | None:
        """Return one of an object's strings with the tokens replaced; None if one has no value."""
        if "$" not in text:
            return text
        expanded = paths.expand(text, self.tokens(object))
        self.search.spend_text(expanded or "")
        return expanded

    def known(self, name: str) -> LinkMap | None:
        """Return what is loaded already by a name."""
        known = self.names.get(name)
        return known if known is not None and known.listed else None

    def open(self, name: str, owner: LinkMap, request: Edge) -> None:
        """Load what `owner` opens by a name, with all that it needs; what is missing is noted (FatalError)."""
        self.search.spend(1 + len(self.queue) // 16)
        found = self._map(name, owner, request)
        if found is not None and not found.listed:
            self.place(found)
        self.load_all()

    def saved(self) -> Callable[[], None]:
        """Return what brings back the state of now."""
        names, identities = dict(self.names), dict(self.identities)
        objects, hidden, queue = list(self.objects), list(self.hidden), list(self.queue)
        noted = {key: (one, list(one.requests)) for key, one in self.missing.items()}
        flags = [(object, object.listed, object.done) for object in dict.fromkeys(names.values())]
        requests = [
            (object.library.requests, list(object.library.requests))
            for object, _, _ in flags
            if object.library is not None
        ]

        def restore() -> None:
            self.names, self.identities = names, identities
            self.objects, self.hidden, self.queue = objects, hidden, queue
            self.missing = {key: one for key, (one, _) in noted.items()}
            for one, asked in noted.values():
                one.requests[:] = asked
            for object, listed, done in flags:
                object.listed, object.done = listed, done
            for now, then in requests:
                now[:] = then

        return restore

    def preload(self) -> None:
        request = Edge(self.main.path, "preload")
        for name in self.loader.preloads:
            try:
                known = len(self.objects)
                self.search.spend(1)
                found = self._map(name, self.main, request)
            except TooMuchError:
                raise
            except FatalError as fatal:  # "cannot be preloaded: ignored"
                self.note_missing(Missing(name, (str(fatal),), [request], ()))
                continue
            if found is not None and len(self.objects) > known:  # an object that was there already is no preload
                self.place(found)

    def place(self, object: LinkMap) -> None:
        """Give an object its place in the breadth-first list."""
        object.listed = True
        self.queue.append(object)

    def load_all(self) -> None:
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
                    if tag == layouts.DT_AUXILIARY:
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
                    if tag == layouts.DT_FILTER or isinstance(fatal, TooMuchError):
                        raise
                    continue
                if found is not None:
                    self._place_before(found, owner)

    def _place_before(self, filtee: LinkMap, owner: LinkMap) -> None:
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

    def _forget(self, hidden: LinkMap) -> None:
        """Take an object out of what is known. The list of loaded objects begins with the program: what stands before
        it, a filtee of its own or of such a filtee, is never met again, and is loaded once more for the next who asks.
        """
        self.search.spend(len(self.names))
        self.names = {name: object for name, object in self.names.items() if object is not hidden}
        self.identities = {identity: object for identity, object in self.identities.items() if object is not hidden}
        for object in self.objects:
            self._name(object)

    def _map(self, name: str, owner: LinkMap, request: Edge) -> LinkMap | None:
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
                    self.note_missing(self.search.missing(name, owner.scope, request))
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

    def _load(self, name: str, found: Found, owner: LinkMap, request: Edge) -> LinkMap:
        elf = found.file.elf
        if elf.pie:
            raise FatalError(found.path, "cannot dynamically load position-independent executable")
        if elf.type == ET_EXEC:
            raise FatalError(found.path, "cannot dynamically load executable")
        if not elf.dynamic:
            raise FatalError(found.path, "object file has no dynamic section")
        library = Library(name, found.path, found.found_by, found.file, request)
        loaded = LinkMap(self, found.path, elf, owner.below, library)
        self.objects.append(loaded)
        self.identities[found.file.device, found.file.inode] = loaded
        self._name(loaded)
        return loaded

    def _name(self, object: LinkMap) -> None:
        """Remember an object by its own names, where no other has them."""
        assert object.library is not None
        for known_as in (object.library.name, object.path, object.elf.soname):
            if known_as is not None:
                self.names.setdefault(known_as, object)

    def note_missing(self, missing: Missing) -> None:
        """Remember a search that failed, or one more who asked for the same."""
        known = self.missing.setdefault((missing.name, missing.searched), missing)
        if known is not missing:
            known.requests.extend(missing.requests)
