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
    ways = _Ways(manifest)
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
    """Return how the step before leads to a step, in words: "needed", "recipe git > users: program git"."""
    words = f"{step.how} {' > '.join((*step.through, step.recipe))}" if step.recipe else step.how
    if step.cause:
        words += f": {step.cause}"
    if not step.names:
        return words
    table = "groups" if step.by.endswith("/group") else "users"
    return f"{words} {' '.join(step.names)}" if step.how == "locale" else f"{words}; {table} {' '.join(step.names)}"


class _Ways:
    """The shortest chains of each request, found when they are asked for."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.found: dict[str, _Steps] = {}

    def from_request(self, name: str, path: str) -> Chain:
        """Return the shortest chain from one request to a path; () if there is none."""
        if name not in self.found:
            self.found[name] = _shortest(self.manifest, name)
        steps = self.found[name]
        chain = []
        above: str | None = path
        while above is not None and above in steps:
            above, step = steps[above]
            chain.append(step)
        return tuple(reversed(chain))


def _shortest(manifest: Manifest, name: str) -> _Steps:
    """Return the last step of the shortest chain from one request to every path that it wants.

    Not the chains: a manifest that somebody wrote may have one so long that all of them fill any memory.
    """
    below: dict[str, list[Reason]] = {}
    todo: deque[tuple[str | None, Reason]] = deque()  # where from, and the step
    for path, entry in manifest.entries.items():
        if name not in entry.wanted_by:
            continue
        if directory := path.rpartition("/")[0]:
            below.setdefault(path, []).append(Reason(directory, PARENT))
        for reason in entry.reasons:
            if name not in reason.wanted_by:
                continue
            if not reason.by:
                todo.append((None, reason._replace(by=path, wanted_by=(name,))))
            else:
                below.setdefault(reason.by, []).append(reason._replace(by=path, wanted_by=()))
    found: _Steps = {}
    while todo:
        above, step = todo.popleft()
        if step.by not in found:
            found[step.by] = above, step
            todo.extend((step.by, further) for further in below.get(step.by, ()) if further.by not in found)
    return found
