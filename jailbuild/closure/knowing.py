"""Recipes applied to requests, again and again until nothing new is met.

Each request has its own: what a recipe brings for it goes when it goes. An edge that a recipe makes is a NamedEdge.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Set
from fnmatch import fnmatchcase

from jailbuild.closure import locales
from jailbuild.closure.accounts import GROUP, PASSWD, Accounts, read_accounts
from jailbuild.closure.catalog import RecipeCatalog, elsewhere
from jailbuild.closure.commands import Request, canonical_place, find_command
from jailbuild.closure.edges import AnyEdge, NamedEdge
from jailbuild.closure.evaluate import Contribution, Made, evaluate, has_prefix, prefixes_of
from jailbuild.closure.gathering import ClosureState, HeldMade, Knowledge
from jailbuild.closure.recipe import Recipe, When
from jailbuild.closure.trees import Tree
from jailbuild.elf.dynsym import symbols_of
from jailbuild.errors import JailError
from jailbuild.loader.model import Edge
from jailbuild.names import command_line, quoted, spelled
from jailbuild.root import Root

_FEW = 10  # names of what is absent
_TABLES = (PASSWD, GROUP)  # as Accounts.of returns them


class Matches:
    """Which recipes a program, a file or a library calls for."""

    def __init__(self, whens: Mapping[str, When]) -> None:
        self.count = 0  # of all, which keeps their order
        self.symbols: dict[str, list[tuple[int, str]]] = {}  # the recipes, by symbol
        self.exact: dict[tuple[str, str], list[str]] = {}
        self.patterns: dict[tuple[str, str], list[tuple[int, str, str]]] = {}  # by kind and what they begin with
        for name, when in whens.items():
            for symbol in when.symbol:
                self.count += 1
                self.symbols.setdefault(symbol, []).append((self.count, name))
            for pattern in when.program:
                self._add("path" if "/" in pattern else "program", pattern, name)
            for pattern in when.soname:
                self._add("soname", pattern, name)

    def _add(self, kind: str, pattern: str, name: str) -> None:
        places = [place for place in map(pattern.find, "*?[") if place >= 0]
        if places:
            self.count += 1
            self.patterns.setdefault((kind, pattern[: min(places)]), []).append((self.count, pattern, name))
        else:
            self.exact.setdefault((kind, pattern), []).append(name)

    def of(self, kind: str, text: str) -> Iterator[str]:
        """Yield the recipes with a pattern of a kind ("program", "path", "soname") that fits."""
        yield from self.exact.get((kind, text), ())
        begun = [one for end in range(len(text) + 1) for one in self.patterns.get((kind, text[:end]), ())]
        for _, pattern, name in sorted(begun):
            if fnmatchcase(text, pattern):
                yield name

    def of_symbols(self, imported: Set[str]) -> list[tuple[str, str]]:
        """Return the symbols among those imported that recipes are for, each with a recipe, in the order of these."""
        found = sorted((*one, symbol) for symbol in self.symbols.keys() & imported for one in self.symbols[symbol])
        return [(symbol, name) for _, name, symbol in found]

    def of_program(self, root: Root, path: str, *, by_name: bool = True) -> Iterator[str]:
        """Yield the recipes for the program at a path: by that, by where its links lead, and by those names."""
        try:
            walk = root.walk(path)
        except OSError:
            return
        paths = dict.fromkeys((path, *(link for link, _ in walk.links), walk.real))
        for one in paths:
            yield from self.of("path", one)
        if by_name:
            for name in dict.fromkeys(os.path.basename(one) for one in (path, walk.real)):
                yield from self.of("program", name)


class RecipeApplier:
    """The applying of recipes to a closure that is being gathered."""

    def __init__(self, gathering: ClosureState, catalog: RecipeCatalog, knowledge: Knowledge, search_path: str) -> None:
        self.gathering = gathering
        self.root = gathering.root
        self.catalog = catalog
        self.knowledge = knowledge
        self.search_path = search_path
        self.matches = Matches(self.catalog.whens())
        self.brought: dict[tuple[str, tuple[str, ...]], Contribution] = {}  # by recipe, and by prefixes if they matter
        self.made: dict[str, HeldMade] = {}
        self.users: dict[NamedEdge, tuple[set[str], set[str]]] = {}  # which, and for which requests
        self.own = frozenset(gathering.data)  # what was asked for by path
        self.named: set[str] = set()  # likewise by a recipe
        self.lists = frozenset(canonical_place(self.root, f"{path}{end}") for path in _TABLES for end in ("", "-"))

    @property
    def accounts(self) -> Accounts:
        """The users and groups of the source root."""
        return self.root.lowest.once(read_accounts)  # a passwd of the user's for the box is not whom the root knows

    def apply(self, requests: tuple[Request, ...]) -> dict[str, HeldMade]:
        """Apply recipes to all requests, and return what is made (JailError: a recipe that there is none of)."""
        for unwanted in {name for names in self.knowledge.without.values() for name in names}:
            self.catalog.get(unwanted)
        for request in requests:
            if request.type == "user":
                self._add_user(request)
            elif request.type == "locale":
                self._add_locale(request)
            elif request.type == "recipe":
                self._use(request.name, request.what, NamedEdge("", "recipe", request.what), set(), True)
                self._tell_of_nothing(self.catalog.get(request.what))
            if request.type in ("recipe", "locale") or request.name in self.knowledge.without:
                self._settle(request)
        self._make_accounts()
        self._prefer_made()
        return self.made

    def _settle(self, request: Request) -> None:
        """Apply recipes to a request until nothing new is met."""
        done = set(self.knowledge.without.get(request.name, ()))
        if request.type == "recipe":
            done.add(request.what)
        met = self.gathering.meet(request.name)
        if request.type == "program":
            self._use_by_symbols(request.name, request.path, done)
        elif request.type == "package":
            for kind, _, path in tuple(met.new):
                if kind == "program":
                    self._use_by_symbols(request.name, path, done)
        while met.new:
            new, met.new = met.new, []
            for kind, name, path in new:
                if kind == "soname":
                    for recipe in self.matches.of("soname", name):
                        if recipe not in done:
                            edge = NamedEdge(self._place(path), "recipe", recipe, (), spelled(name))
                            self._use(request.name, recipe, edge, done, False)
                    continue
                for recipe in self.matches.of_program(self.root, path, by_name=kind == "program"):
                    if recipe not in done:
                        what = os.path.basename(path) if kind == "program" else path
                        edge = NamedEdge(self._place(path), "recipe", recipe, (), f"program {spelled(what)}")
                        self._use(request.name, recipe, edge, done, True, path)

    def _use_by_symbols(self, request: str, path: str, done: set[str]) -> None:
        """Apply the recipes for what a requested program imports itself."""
        for symbol, name in self.matches.of_symbols(symbols_of(self.root, path)):
            if name not in done:
                edge = NamedEdge(self._place(path), "recipe", name, (), f"imports {symbol}")
                self._use(request, name, edge, done, False)

    def _place(self, path: str) -> str:
        """Return the entry of the box that a path is."""
        parent, _, name = (path if path.startswith("/") else f"/{path}").rpartition("/")
        return f"{self.root.walk(parent or '/').real.rstrip('/')}/{name}"

    def _use(
        self,
        request: str,
        name: str,
        edge: NamedEdge,
        done: set[str],
        is_told: bool,
        program: str | None = None,
    ) -> None:
        """Bring what a recipe has for a request, and the recipes that it brings; each once.

        `is_told` says that it should be told what it does not find; `program` is the path of the one that it is for.
        """
        if name in done:
            return
        done.add(name)
        recipe = self.catalog.get(name)
        if program is None and has_prefix(recipe):
            program = self._program_of(recipe)
            if program is not None:
                self.gathering.bring_program(program, edge, request)
        brought = self._bring(recipe, is_told, program)
        for path in brought.programs:
            self.gathering.bring_program(path, edge, request)
        for path, link in brought.laid:
            self.gathering.want_laid(path, Edge(link, "target") if link else edge, request)
        self.named |= brought.named
        for part in brought.parts:
            tree = self._without_lists(part.tree)
            self.gathering.bring_tree(tree, part.named, edge if not part.by else Edge(part.by, "target"), request)
        for path, made in brought.made:
            self._hold(path, made, edge, request)
            if made.content is not None and made.content.startswith(b"#!") and made.mode and made.mode & 0o111:
                self.gathering.bring_script(path, made.content, request)
        users = (*recipe.bring.users, *(user for user in recipe.bring.users_if_there if user in self.accounts.users))
        if users:
            self._want_users(users, edge, request, is_told)
        for inner in recipe.bring.recipes:
            self._use(request, inner, edge.inner(inner), done, is_told, program)

    def _without_lists(self, tree: Tree) -> Tree:
        """Return a tree of a recipe without the source root's users and groups: a box has a list of its own."""
        lists = [item.path for item in tree.items if item.path in self.lists]
        if not lists:
            return tree
        self.gathering.notes += [
            f"{path} is left out: who is known in the box is for --user to say "
            f"(--file {quoted(path)} brings it all the same)"
            for path in lists
        ]
        return tree._replace(items=tuple(item for item in tree.items if item.path not in self.lists))

    def _prefer_made(self) -> None:
        """Drop what a pattern or a tree of a recipe brought where a recipe makes a file: a resolv.conf for inside."""
        for path, held in self.made.items():
            if held.made.type == "file" and path not in self.own and path not in self.named:
                self.gathering.data.pop(path, None)

    def _program_of(self, recipe: Recipe) -> str | None:
        """Return where the first program stands that a recipe is for, where nobody named one."""
        for word in recipe.when.program:
            path = find_command(self.root, word, self.search_path) or elsewhere(self.root, word, self.catalog)
            if path is not None:
                return path
        return None

    def _bring(self, recipe: Recipe, is_told: bool, program: str | None) -> Contribution:
        prefixes = prefixes_of(self.root, program) if program is not None and has_prefix(recipe) else ()
        known = self.brought.get((recipe.name, prefixes))
        if known is None:
            known = self.brought[recipe.name, prefixes] = evaluate(
                self.root, recipe, self.accounts, self.search_path, self.knowledge.rules, self.catalog, prefixes
            )
            self.gathering.notes += known.notes
            if is_told and known.missing:
                nothing = "finds nothing" if known.is_nothing(recipe.bring) else "does not find all"
                self._warn_of_absent(recipe, nothing, known.missing)
        return known

    def _tell_of_nothing(self, recipe: Recipe) -> None:
        """Say of a recipe that was asked for by name what it looked for, if it found nothing of that."""
        if not has_prefix(recipe):
            known = self._bring(recipe, False, None)
            if known.optional and not known.missing and known.is_nothing(recipe.bring):
                self._warn_of_absent(recipe, "finds nothing", known.optional)

    def _warn_of_absent(self, recipe: Recipe, what: str, sought: tuple[str, ...]) -> None:
        more = f" and {len(sought) - _FEW} more (jailbuild recipes {recipe.name})" if len(sought) > _FEW else ""
        self.gathering.notes.append(
            f"warning: the recipe {recipe.name} {what}: there is no {', no '.join(sought[:_FEW])}{more}"
        )

    def _hold(self, path: str, made: Made, edge: NamedEdge, request: str) -> None:
        known = self.made.setdefault(path, HeldMade(made, {}))
        if known.made != made:
            self.gathering.notes.append(f"warning: {path} is made by two recipes: {edge.text} is left out")
        else:
            known.edges.setdefault(edge, set()).add(request)

    def _want_users(self, names: tuple[str, ...], edge: NamedEdge, request: str, is_told: bool) -> None:
        absent = [name for name in names if name not in self.accounts.users]
        if absent and is_told:
            self.gathering.notes.append(
                f"warning: {edge._replace(cause='').text} finds no user {', no '.join(absent)} in the source root"
            )
        users, requests = self.users.setdefault(edge, (set(), set()))
        users.update(name for name in names if name in self.accounts.users)
        requests.add(request)

    def _add_user(self, request: Request) -> None:
        if request.what not in self.accounts.users:
            raise JailError(
                f"cannot add the user {request.what}: the source root has none of that name",
                f"{command_line('useradd', request.what)} makes one" if self.root.lowest.is_host else "",
            )
        self._use(request.name, "users", NamedEdge("", "recipe", "users"), set(), True)
        self._want_users((request.what,), NamedEdge("", "user", names=(spelled(request.what),)), request.name, True)

    def _add_locale(self, request: Request) -> None:
        tree = locales.find(self.root, request.what, self.knowledge.rules)
        self.gathering.bring_tree(
            tree, tree.path, NamedEdge("", "locale", names=(spelled(request.what),)), request.name
        )

    def _make_accounts(self) -> None:
        """Make the passwd and group files of all users that are wanted."""
        if not self.users:
            return
        wanted = sorted({name for users, _ in self.users.values() for name in users})
        tables = dict(zip(_TABLES, self.accounts.of(wanted), strict=True))
        groups = self.accounts.groups_by_user()
        for path, table in tables.items():
            place = self._place(path) if self.root.is_directory("/etc") else path
            if place in self.made:
                self.gathering.notes.append(
                    f"warning: what a recipe makes at {place} is left out: who is known in the "
                    "box stands there (--without users, --user)"
                )
            edges: dict[AnyEdge, set[str]] = {}
            for edge, (users, requests) in self.users.items():
                names = sorted(users if path == PASSWD else {group for user in users for group in groups[user]})
                edges.setdefault(edge._replace(names=tuple(map(spelled, names))), set()).update(requests)
            self.made[place] = HeldMade(Made("file", 0o644, table=tuple(table.values())), edges)
