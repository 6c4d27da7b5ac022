"""Why a path is in a box: the chains of edges that lead to it from the requests, read from the manifest."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from jailbuild.box.manifest import PARENT, Manifest, Reason, children, edges_of

_Steps = dict[str, tuple[str | None, Reason]]  # by path: the path before, and the step to this one
Chain = tuple[Reason, ...]  # steps: a path, and how the one before leads to it; the first has the requests too


def chains(manifest: Manifest, path: str) -> Iterator[Chain]:
    """Yield, for each edge that leads to `path`, the shortest chain of each request through it.

    All chains would be more than anybody can read: a C library is needed by every other library.
    """
    entry = manifest.entries[path]
    ways = _Ways(manifest, frozenset(entry.wanted_by))
    seen: set[Chain] = set()  # requests may share their chains
    held = children(manifest.entries).get(path, [])
    for reason in edges_of(manifest.entries, entry, held):
        seen.clear()
        if not reason.by:
            yield (reason._replace(by=path),)
            continue
        for name in reason.wanted_by:
            way = ways.from_request(name, reason.by)
            if way and way not in seen and all(step.by != path for step in way):
                seen.add(way)
                yield (*way, reason._replace(by=path, wanted_by=()))


def words_of(step: Reason) -> str:
    """Return how the step before leads to a step, in words.

    "needed", "recipe git > users: program git; users root", "user backup; groups backup tape", "locale C.UTF-8".
    """
    words = f"{step.how} {' > '.join((*step.through, step.recipe))}" if step.recipe else step.how
    if step.cause:
        words += f": {step.cause}"
    if step.how == "user":
        words += "".join(f" {name.partition(':')[2]}" for name in step.wanted_by)
    if not step.names:
        return words
    if step.how in ("locale", "terminfo"):
        return f"{words} {' '.join(step.names)}"
    table = "groups" if step.by.endswith("/group") else "users"
    return f"{words}; {table} {' '.join(step.names)}"


class _Ways:
    """The shortest chains of some requests, found when they are asked for."""

    def __init__(self, manifest: Manifest, names: frozenset[str]) -> None:
        self.found: dict[str, _Steps] = {}
        self.first: dict[str, list[Reason]] = {name: [] for name in names}  # the steps of requests themselves
        self.below: dict[str, dict[str, list[Reason]]] = {name: {} for name in names}  # the others, by where from
        for path, entry in manifest.entries.items():
            wanted_by = names.intersection(entry.wanted_by)
            directory = path.rpartition("/")[0]
            for name in wanted_by if directory else ():
                self.below[name].setdefault(path, []).append(Reason(directory, PARENT))
            for reason in entry.reasons if wanted_by else ():
                step = reason._replace(by=path, wanted_by=())
                for name in wanted_by.intersection(reason.wanted_by):
                    if reason.by:
                        self.below[name].setdefault(reason.by, []).append(step)
                    else:
                        self.first[name].append(step._replace(wanted_by=(name,)))

    def from_request(self, name: str, path: str) -> Chain:
        """Return the shortest chain from one request to a path; () if there is none."""
        if name not in self.found:
            self.found[name] = _shortest(self.first.get(name, []), self.below.get(name, {}))
        steps = self.found[name]
        chain = []
        above: str | None = path
        while above is not None and above in steps:
            above, step = steps[above]
            chain.append(step)
        return tuple(reversed(chain))


def _shortest(first: list[Reason], below: dict[str, list[Reason]]) -> _Steps:
    """Return the last step of the shortest chain from one request to every path that it wants.

    Not the chains: a manifest that somebody wrote may have one so long that all of them fill any memory.
    """
    todo: deque[tuple[str | None, Reason]] = deque((None, step) for step in first)  # where from, and the step
    found: _Steps = {}
    while todo:
        above, step = todo.popleft()
        if step.by not in found:
            found[step.by] = above, step
            todo.extend((step.by, further) for further in below.get(step.by, ()) if further.by not in found)
    return found
