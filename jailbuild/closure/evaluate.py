"""What a recipe brings from one root: its patterns looked up there, its trees read, its files made. Only reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from jailbuild.closure.accounts import Accounts
from jailbuild.closure.catalog import RecipeCatalog, elsewhere
from jailbuild.closure.commands import canonical_place, find_command, is_executable_file
from jailbuild.closure.globbing import expand
from jailbuild.closure.recipe import EACH_PREFIX, PREFIXES, Bring, BroughtFile, Recipe
from jailbuild.closure.secrets import HEAD, secret
from jailbuild.closure.symlinks import Part, SymlinkFollower, real_path
from jailbuild.closure.trees import Rules
from jailbuild.errors import JailError
from jailbuild.names import quoted
from jailbuild.root import Root

_MAX_RESOLV = 1 << 16  # bytes
_RESOLVERS = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")


class Made(NamedTuple):
    """Something that no file of the source root is copied for."""

    type: str  # "file", "directory", "device" or "link"
    mode: int | None = None
    uid: int = 0
    gid: int = 0
    content: bytes | None = None
    device: tuple[str, int, int] | None = None
    target: str | None = None
    table: tuple[str, ...] = ()  # the lines that the box's passwd or group file is to have


class Contribution(NamedTuple):
    """What a recipe brings from a root."""

    programs: tuple[str, ...]
    parts: tuple[Part, ...]
    made: tuple[tuple[str, Made], ...]  # by canonical path
    missing: tuple[str, ...]  # what it looked for, and is not there
    optional: tuple[str, ...]  # likewise, and need not be
    notes: tuple[str, ...]
    named: frozenset[str] = frozenset()  # files that are named in full, by no pattern; canonical
    laid: tuple[tuple[str, str], ...] = ()  # what it would bring where the user named something; the link to it, or ""

    def is_nothing(self, bring: Bring) -> bool:
        """Whether the recipe has something to bring, and the root nothing of it."""
        return not (self.programs or self.parts or self.made or bring.recipes or bring.users) and bring != Bring()


def evaluate(
    root: Root,
    recipe: Recipe,
    accounts: Accounts,
    search_path: str,
    rules: Rules,
    catalog: RecipeCatalog,
    prefixes: tuple[str, ...] = (),
) -> Contribution:
    """Look up in `root` what a recipe brings; what cannot be read there is left out with a note.

    `prefixes` are those of the program that it is brought for, the real one last.
    """
    return _Evaluation(root, recipe, accounts, search_path, rules, catalog, prefixes).brought()


def has_prefix(recipe: Recipe) -> bool:
    """Say whether what a recipe brings depends on where the program stands."""
    bring = recipe.bring
    paths = (*bring.files, *bring.files_if_there, *(tree.path for tree in bring.tree))
    return any(path.startswith(PREFIXES) for path in paths)


def prefixes_of(root: Root, path: str) -> tuple[str, ...]:
    """Return the directories above the bin or sbin of a program, on its way through links, the real one last."""
    walk = root.walk(path)
    found: dict[str, None] = {}
    for one in (path, *(link for link, _ in walk.links), walk.real):
        directory = one.rpartition("/")[0]
        if directory.endswith(("/bin", "/sbin")) and (above := directory.rpartition("/")[0]):
            found.pop(above, None)
            found[above] = None
    return tuple(found)


class _Evaluation:
    def __init__(
        self,
        root: Root,
        recipe: Recipe,
        accounts: Accounts,
        search_path: str,
        rules: Rules,
        catalog: RecipeCatalog,
        prefixes: tuple[str, ...],
    ) -> None:
        self.root = root
        self.recipe = recipe
        self.accounts = accounts
        self.search_path = search_path
        self.catalog = catalog
        self.prefixes = prefixes
        self.following = SymlinkFollower(root, rules)
        self.named: set[str] = set()
        self.missing: list[str] = []
        self.optional: list[str] = []
        self.notes = self.following.notes

    def brought(self) -> Contribution:
        bring = self.recipe.bring
        programs = [*self._programs(bring.programs, False), *self._programs(bring.programs_if_there, True)]
        for tree in bring.tree:
            paths = self._expand(tree.path)
            if not paths:
                (self.optional if tree.if_there else self.missing).extend(self._places(tree.path))
            for path in paths:
                self.following.read(path, exclude=tree.exclude)
        for patterns, if_there in ((bring.files, False), (bring.files_if_there, True)):
            for pattern in patterns:
                paths = self._expand(pattern)
                if not paths:
                    (self.optional if if_there else self.missing).extend(self._places(pattern))
                for path in paths:
                    self.following.read(path)
                    if not any(character in pattern for character in "*?["):
                        self.named.add(canonical_place(self.root, path))
        parts = tuple(self.following.whole())
        return Contribution(
            tuple(dict.fromkeys(programs)),
            parts,
            tuple(self._made()),
            tuple(self.missing),
            tuple(self.optional),
            tuple(self.notes),
            frozenset(self.named),
            tuple(dict.fromkeys(self.following.laid)),
        )

    def _programs(self, words: tuple[str, ...], if_there: bool) -> Iterator[str]:
        for word in words:
            if word.startswith("/"):
                found = [path for path in expand(self.root, word) if is_executable_file(self.root, path)]
            else:
                path = find_command(self.root, word, self.search_path) or elsewhere(self.root, word, self.catalog)
                found = [] if path is None else [path]
            if not found:
                (self.optional if if_there else self.missing).append(word)
            yield from found

    def _expand(self, pattern: str) -> list[str]:
        """Return the paths that a pattern fits, at each prefix of the program if it begins with that."""
        try:
            places = [place for place in self._places(pattern) if place.startswith("/")]
            return [path for place in places for path in expand(self.root, place)]
        except JailError as error:
            raise JailError([f"{self.recipe.file}: {cause}" for cause in error.causes], error.hint) from None

    def _places(self, pattern: str) -> list[str]:
        """Return a pattern as it is at each prefix of the program; as it is written where there is none."""
        if not pattern.startswith(PREFIXES):
            return [pattern]
        prefixes = self.prefixes if pattern.startswith(EACH_PREFIX) else self.prefixes[-1:]
        return [prefix + pattern[pattern.index("/") :] for prefix in prefixes] or [pattern]

    def _made(self) -> Iterator[tuple[str, Made]]:
        bring = self.recipe.bring
        for directory in bring.directory:
            uid, gid = self._owner(directory.owner, directory.path)
            place = real_path(self.root, directory.path) or canonical_place(self.root, directory.path)
            yield place, Made("directory", directory.mode, uid, gid)
        for device in bring.device:
            yield (
                canonical_place(self.root, device.path),
                Made("device", device.mode, device=(device.type, device.major, device.minor)),
            )
        for link in bring.link:
            yield canonical_place(self.root, link.path), Made("link", target=link.target)
        for made in bring.made:
            if made.unless is not None and real_path(self.root, made.unless) is not None:
                continue
            content = self._content(made)
            place = canonical_place(self.root, made.path)
            if content is None:
                continue
            if (what := secret(place, content[:HEAD])) and not self.following.rules.is_allowed(place):
                allowing = f"--allow-secrets {quoted(place)}"
                self.notes.append(f"warning: {place} is left out: it is a secret: {what} ({allowing})")
            else:
                uid, gid = self._owner(made.owner, made.path)
                yield place, Made("file", made.mode, uid, gid, content)

    def _content(self, made: BroughtFile) -> bytes | None:
        if made.content is not None:
            return made.content.removeprefix("\n").encode()
        found = resolv_conf(self.root)
        servers = _servers(found or b"")
        if not servers:
            self.notes.append(
                "no /etc/resolv.conf is made: the source root names no server that knows hosts"
                if found is None
                else f"{made.path} names no server that knows hosts"
            )
        elif all(map(_is_own, servers)):
            self.notes.append(
                f"{made.path} names {', '.join(servers)} alone: the host's own, which is not reached "
                "with a network of the box's own (enter --net none)"
            )
        return found

    def _owner(self, owner: str, path: str) -> tuple[int, int]:
        found = self.accounts.id_of(owner)
        if found is None:
            self.notes.append(f"warning: {path} will be root's: the source root has no {owner}")
            return 0, 0
        return found


def resolv_conf(root: Root) -> bytes | None:
    """Return a resolv.conf that works inside: one whose servers are not only the host's own, if there is one.

    The stub of systemd-resolved listens on the host's loopback; where that answers, another file has the servers.
    """
    first = None
    for path in _RESOLVERS:
        try:
            data = root.read(path, _MAX_RESOLV)
        except OSError:
            continue
        if not all(map(_is_own, _servers(data))):
            return data
        first = first or data
    return first


def _servers(data: bytes) -> list[str]:
    """Return whom a resolv.conf(5) says to ask."""
    return [
        words[1]
        for line in data.decode("utf-8", "replace").splitlines()
        if len(words := line.split()) > 1 and words[0] == "nameserver"
    ]


def _is_own(server: str) -> bool:
    return server.startswith("127.") or server == "::1"
