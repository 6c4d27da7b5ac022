"""From requests to the closure: every file they need, and the edges that say why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from jailbuild.closure.commands import UNPLACED, Request, canonical_place
from jailbuild.closure.edges import AnyEdge
from jailbuild.closure.gathering import NO_KNOWLEDGE, ClosureState, Held, HeldMade, Knowledge, Node, Options
from jailbuild.closure.lists import Listed
from jailbuild.closure.programs import Program
from jailbuild.closure.trees import Tree
from jailbuild.errors import JailError
from jailbuild.loader.files import Files
from jailbuild.loader.glibc.ld_cache import CacheEntry
from jailbuild.root import Root


class Closure(NamedTuple):
    """Everything that requests need in their source root."""

    root: Root
    files: Files
    search_path: str
    requests: tuple[Request, ...]
    programs: dict[str, Program]  # what was asked for, by path
    nodes: dict[str, Node]
    cached: dict[CacheEntry, set[str]]  # what an ld.so.cache has to say, and the requests that want it
    listed: dict[Listed, set[str]]  # what musl's list of directories has to say besides, likewise
    notes: tuple[str, ...]
    data: dict[str, Held]  # by canonical path
    sources: dict[str, str]  # of what comes from elsewhere on the host, by canonical path
    made: Mapping[str, HeldMade] = {}  # by canonical path
    inert: frozenset[str] = frozenset()  # scripts that go in without execute permission, by canonical path
    laid: Mapping[str, Mapping[AnyEdge, set[str]]] = {}  # who else wants what the user named, by canonical path
    dlopen: Mapping[str, str] = {}  # of the programs, by path: which libraries came that they open (LEVELS)

    def source_of(self, path: str) -> str:
        """Return where the file at a canonical path of the closure comes from: the host's path for SRC:DEST."""
        return self.sources.get(path, path)


def gather(
    root: Root,
    requests: tuple[Request, ...],
    options: Options,
    trees: Mapping[str, Tree] | None = None,
    knowledge: Knowledge = NO_KNOWLEDGE,
) -> Closure:
    """Resolve the requests in `root` (see commands.source_root); `trees` has the data of those that are no programs.

    Raises JailError, a line for each cause, when a request cannot be started with what the root has. What is wrong
    with a program in a directory of data is a note: it may be there for other reasons than to be started.
    """
    gathering = ClosureState(root, options)
    gathering.apart = knowledge.apart
    failures = []
    for request in requests:
        if request.type == "program":
            failures += gathering.add(request)
        elif request.type not in UNPLACED:
            failures += gathering.add_tree(request, (trees or {})[request.name], knowledge.rules)
    if failures:
        raise JailError(failures, gathering.hint)
    made: dict[str, HeldMade] = {}
    if knowledge.catalog is not None and (knowledge.without or any(request.type in UNPLACED for request in requests)):
        from jailbuild.closure.knowing import RecipeApplier  # not for --bare

        made = RecipeApplier(gathering, knowledge.catalog, knowledge, options.search_path).apply(requests)
    sources = {
        canonical_place(root, one.path): one.source
        for one in requests
        if one.source is not None and one.type == "program"
    }
    for tree in (trees or {}).values():
        if tree.source is not None:
            sources.update((item.path, item.source) for item in tree.items)
    return Closure(
        root,
        gathering.files,
        options.search_path,
        requests,
        gathering.asked,
        gathering.nodes,
        gathering.cached,
        gathering.listed,
        tuple(gathering.notes),
        gathering.data,
        sources,
        made,
        frozenset(gathering.inert),
        gathering.laid,
        gathering.dlopen,
    )
