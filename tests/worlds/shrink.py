"""Making a world smaller while it still does what it did."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.worlds.world import Copied, Data, Elf, Link, Node, World


def shrink(world: World, fails: Callable[[World], bool], most: int = 2000) -> World:
    """Return the smallest world found that still `fails`, after at most so many trials."""
    trials = 0
    while True:
        for smaller in _smaller(world):
            trials += 1
            if trials > most:
                return world
            if fails(smaller):
                world = smaller
                break
        else:
            return world


def _smaller(world: World) -> Iterator[World]:
    """Go through the worlds that are one step smaller, the largest steps first."""
    size = len(world.nodes) // 2
    while size >= 1:
        for start in range(0, len(world.nodes), size):
            yield world._replace(nodes=world.nodes[:start] + world.nodes[start + size :])
        size //= 2
    if world.plain_user:
        yield world._replace(plain_user=False)
    if world.conf is not None:
        yield world._replace(conf=None)
        for index in range(len(world.conf)):
            yield world._replace(conf=world.conf[:index] + world.conf[index + 1 :])
    for index in range(len(world.preload)):
        yield world._replace(preload=world.preload[:index] + world.preload[index + 1 :])
    if world.library_path:
        yield world._replace(library_path="")
        for shorter in _lists(world.library_path):
            yield world._replace(library_path=shorter)
    for index, node in enumerate(world.nodes):
        for simpler in _simpler(node):
            yield world._replace(nodes=(*world.nodes[:index], simpler, *world.nodes[index + 1 :]))


def _lists(text: str) -> Iterator[str]:
    for separator in ":;":
        parts = text.split(separator)
        if len(parts) > 1:
            for index in range(len(parts)):
                yield separator.join(parts[:index] + parts[index + 1 :])


def _simpler(node: Node) -> Iterator[Node]:
    if node.mode is not None:
        yield node._replace(mode=None)
    if node.when:
        yield node._replace(when="")
    thing = node.thing
    if isinstance(thing, Elf):
        for index, (tag, value) in enumerate(thing.tags):
            yield node._replace(thing=thing._replace(tags=thing.tags[:index] + thing.tags[index + 1 :]))
            if tag in ("RPATH", "RUNPATH"):
                for shorter in _lists(str(value)):
                    tags = (*thing.tags[:index], (tag, shorter), *thing.tags[index + 1 :])
                    yield node._replace(thing=thing._replace(tags=tags))
        if thing.flaw:
            yield node._replace(thing=thing._replace(flaw=""))
        if thing.exec:
            yield node._replace(thing=thing._replace(exec=False))
    elif isinstance(thing, Data) and node.path.startswith("/etc/"):
        lines = thing.content.split(b"\n")
        for index in range(len(lines)):
            yield node._replace(thing=Data(b"\n".join(lines[:index] + lines[index + 1 :])))
    elif not isinstance(thing, Copied | Link):
        yield node._replace(thing=Elf())
