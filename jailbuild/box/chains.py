"""Why a path is in a box: the chains of edges that lead to it from the requests, read from the manifest."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from jailbuild.box.manifest import Manifest, Reason

Chain = tuple[Reason, ...]  # each step: a path, and how the one before leads to it; the first is the request's


def chains(manifest: Manifest, path: str) -> Iterator[Chain]:
    """Yield, for each edge that leads to `path`, the shortest chain of each request through it.

    All chains would be more than anybody can read: a C library is needed by every other library.
    """
    entry = manifest.entries[path]
    ways = _Ways(manifest)
    for reason in entry.reasons:
        if not reason.by:
            yield (Reason(path, reason.how),)
            continue
        for name in reason.wanted_by:
            way = ways.from_request(name).get(reason.by)
            if way is not None and all(step.by != path for step in way):
                yield (*way, Reason(path, reason.how))


class _Ways:
    """The shortest chains of each request, found when they are asked for."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.found: dict[str, dict[str, Chain]] = {}

    def from_request(self, name: str) -> dict[str, Chain]:
        """Return the shortest chain from one request to every path that it wants."""
        if name not in self.found:
            self.found[name] = _shortest(self.manifest, name)
        return self.found[name]


def _shortest(manifest: Manifest, name: str) -> dict[str, Chain]:
    """Return the shortest chain from one request to every path that it wants."""
    below: dict[str, list[Reason]] = {}
    start: deque[tuple[str, Chain]] = deque()
    for path, entry in manifest.entries.items():
        if name not in entry.wanted_by:
            continue
        for reason in entry.reasons:
            if name not in reason.wanted_by:
                continue
            if not reason.by:
                start.append((path, (Reason(path, reason.how),)))
            else:
                below.setdefault(reason.by, []).append(Reason(path, reason.how))
    found: dict[str, Chain] = {}
    while start:
        path, chain = start.popleft()
        if path in found:
            continue
        found[path] = chain
        start.extend((step.by, (*chain, step)) for step in below.get(path, ()) if step.by not in found)
    return found
