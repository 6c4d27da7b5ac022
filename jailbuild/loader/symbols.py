"""Which symbols of what a program loads would not be found, as `ldd -r` finds out.

Rules: glibc elf/dl-lookup.c (do_lookup_x, check_match); musl ldso/dynlink.c (find_sym2), where all that differs is what
the files are read for: no versions, nothing late, nothing of an object's own first. Each reference is looked up in
every loaded object, in their order. Whether one is found seldom depends on the program: what a library finds in the
libraries that it asks for, it finds there for every program that loads them, and that is asked once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from jailbuild.elf.relocs import NO_LINKAGE, Definition, Linkage, Reference
from jailbuild.elf.segments import DamagedError
from jailbuild.loader.files import File, Files
from jailbuild.loader.glibc.config import LdsoConfig
from jailbuild.loader.model import Library, Resolution

_MOVABLE_SINCE = (2, 30)  # glibc that takes a versioned symbol from another file than the one named for it
_MANY = 16  # files with a symbol of one name
_VERSIONED_FROM = 3  # the numbers of versions from here on are no good for who asks for none (check_match)


Identity = tuple[int, int]  # device and inode


class Object(NamedTuple):
    """A loaded object: what it can be called, and what it offers and wants."""

    path: str
    names: frozenset[str]
    identity: Identity
    linkage: Linkage


class Unfound(NamedTuple):
    """A reference that the loader would not find, and why in words behind the symbol."""

    by: str  # the object that wants it
    reference: Reference
    why: str


class _Scope:
    """What a program loads, in the order in which a symbol is looked up."""

    def __init__(self, objects: Sequence[Object], definers: Mapping[str, Sequence[Identity]]) -> None:
        self.objects = objects
        self.definers = definers  # which files have a symbol of a name, loaded or not
        self.identities = frozenset(one.identity for one in objects)
        self.by_name: dict[str, Object] = {}
        self._places: dict[Identity, list[int]] = {}
        self._named: dict[str, list[int]] = {}
        for place, one in enumerate(objects):
            self._places.setdefault(one.identity, []).append(place)
            for name in one.names:
                self.by_name.setdefault(name, one)
                self._named.setdefault(name, []).append(place)

    def asked(self, reference: Reference) -> Sequence[Object]:
        """Return the objects that can have a say: with a symbol of that name, or named for its version.

        All, where so many files have the symbol that one of the first will.
        """
        definers = self.definers.get(reference.name, ())
        if len(definers) > _MANY:
            return self.objects
        places = {place for identity in definers for place in self._places.get(identity, ())}
        if reference.file is not None:
            places.update(self._named.get(reference.file, ()))
        return [self.objects[place] for place in sorted(places)]


class _Memory(NamedTuple):
    """What an object found in others: by what it called them, by identity; and what it has to look up anew."""

    named: tuple[tuple[str, Identity], ...]
    others: frozenset[Identity]
    left: tuple[Reference, ...]


class Symbols:
    """The symbols of the files of one root, as the loader of one C library has them."""

    def __init__(self, files: Files, read: Callable[[str], Linkage]) -> None:
        """`read` gives what the file at a path offers and wants by the rules of that (OSError, DamagedError)."""
        self.files = files
        self._read = read
        self._linkages: dict[Identity, Linkage] = {}
        self._definers: dict[str, list[Identity]] = {}
        self._memories: dict[Identity, list[_Memory]] = {}

    def unfound(self, path: str, resolution: Resolution) -> list[Unfound]:
        """Return what the program at `path` and its libraries want in vain, each once."""
        file = self.files.get(path)
        built_in = resolution.built_in
        if isinstance(file, int) or built_in is None:
            return []
        movable = isinstance(built_in, LdsoConfig) and built_in.version >= _MOVABLE_SINCE
        main = self._object(path, file, frozenset(("",)))
        objects = [main, *[self._object(one.path, one.file, _names(one)) for one in resolution.started]]
        scope = _Scope(objects, self._definers)
        found = []
        for one in objects:
            if one.path in (resolution.interpreter, built_in.name) or one.linkage is NO_LINKAGE:
                continue  # the loader has done it for itself
            for reference in self._left(one, main, scope):
                asked = scope.asked(reference)
                why = _why_not(reference, [one, *asked] if one.linkage.symbolic else asked, main, movable=movable)
                if why is not None:
                    found.append(Unfound(one.path, reference, why))
        return found

    def _object(self, path: str, file: File, names: frozenset[str]) -> Object:
        identity = file.device, file.inode
        linkage = self._linkages.get(identity)
        if linkage is None:
            try:
                linkage = self._read(path)
            except (OSError, DamagedError):  # that is said elsewhere, or the loader would crash
                linkage = NO_LINKAGE
            self._linkages[identity] = linkage
            for name in linkage.definitions:
                self._definers.setdefault(name, []).append(identity)
        return Object(path, names, identity, linkage)

    def _left(self, one: Object, main: Object, scope: _Scope) -> tuple[Reference, ...]:
        """Return what an object wants, without what it surely finds in these objects."""
        memories = self._memories.setdefault(one.identity, [])
        for memory in memories:
            if memory.others <= scope.identities and all(
                name in scope.by_name and scope.by_name[name].identity == identity for name, identity in memory.named
            ):
                return memory.left
        memories.append(_remember(one, main, scope))
        return memories[-1].left


def _names(library: Library) -> frozenset[str]:
    soname = library.file.elf.soname
    return frozenset((library.name, library.path, *([soname] if soname else [])))


def _remember(one: Object, main: Object, scope: _Scope) -> _Memory:
    """Return what an object finds wherever those that have it now are loaded, and what is left to be asked."""
    named: dict[str, Identity] = {}
    others: set[Identity] = set()
    left = []
    for reference in one.linkage.references:
        if reference.file is not None:
            holder = scope.by_name.get(reference.file)
            if holder is not None and holder.linkage.versioned and _offers(holder, reference, main):
                named[reference.file] = holder.identity
                continue
        elif reference.version is None:
            giver = next(
                (other for other in scope.asked(reference) if other is not main and _offers(other, reference, main)),
                None,
            )
            if giver is not None:
                others.add(giver.identity)
                continue
        left.append(reference)
    return _Memory(tuple(named.items()), frozenset(others), tuple(left))


def _offers(holder: Object, reference: Reference, main: Object) -> bool:
    """Say whether an object has what a reference wants."""
    definitions = holder.linkage.definitions.get(reference.name)
    if definitions is None or (reference.copy and holder is main):
        return False
    if reference.plt:
        definitions = tuple(one for one in definitions if not one.stub)
    if reference.version is None:
        return _offers_any(holder, definitions)
    return any(
        one.version == reference.version or (one.version is None and not one.hidden and not reference.hides)
        for one in definitions
    ) or (not holder.linkage.versioned and bool(definitions))


def _offers_any(holder: Object, definitions: Sequence[Definition]) -> bool:
    """Say whether one of the definitions will do where no version is asked for: the oldest, or the only one."""
    if not holder.linkage.versioned:
        return bool(definitions)
    if any(one.number < _VERSIONED_FROM for one in definitions):
        return True
    return sum(not one.hidden for one in definitions) == 1


def _why_not(reference: Reference, objects: Sequence[Object], main: Object, *, movable: bool) -> str | None:
    """Return why a reference is not found; None where it is, or nobody minds.

    `movable`: who is named for a version need not have it.
    """
    for one in objects:
        if not one.linkage.hashed:
            continue
        is_named = reference.file is not None and reference.file in one.names
        if _offers(one, reference, main):
            if is_named and not one.linkage.versioned:
                return f"of version {_shown(reference)}, which {reference.file} has without a version"
            return None
        if is_named and not movable:
            return f"of version {_shown(reference)}, which {reference.file} does not have"
    if reference.weak:
        return None
    return f"of version {_shown(reference)}" if reference.version is not None else ""


def _shown(reference: Reference) -> str:
    return (reference.version or "").partition("\0")[0]
