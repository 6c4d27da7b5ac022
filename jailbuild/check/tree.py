"""Everything that is in a root, each path once, without following a link out of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from jailbuild.box.manifest import DIRECTORY
from jailbuild.check.findings import Finding
from jailbuild.elf.reader import MAGIC
from jailbuild.errors import reason
from jailbuild.root import Root

_MOUNTED = frozenset({"dev", "proc", "run", "sys"})  # at the top: another file system there is not the root's own
_MAX_DEPTH = 200  # directories; os.fwalk goes down by recursion and keeps each one open


class Tree(NamedTuple):
    """What a root holds. Paths are canonical."""

    files: dict[str, int]  # regular files, with their modes
    links: dict[str, str]  # with their texts
    others: tuple[str, ...]  # devices, sockets, FIFOs
    elves: frozenset[str]  # those of the files that begin as ELF files do
    scripts: frozenset[str]  # likewise with "#!"
    unreadable: tuple[Finding, ...]


def read_tree(root: Root) -> Tree:
    """Look at everything below a root but jailbuild's own record and what is mounted over /proc and the like."""
    files: dict[str, int] = {}
    links: dict[str, str] = {}
    others: list[str] = []
    elves: set[str] = set()
    scripts: set[str] = set()
    failed: list[Finding] = []

    def unreadable(error: OSError, path: str) -> None:
        failed.append(Finding("unreadable", path, f"{path} cannot be read: {reason(error)}", path))

    device = os.fstat(root.descriptor).st_dev
    for directory, names, leaves, opened in _walk(".", root.descriptor, ".", unreadable):
        if directory.count("/") >= _MAX_DEPTH:
            path = _path(directory, "")
            failed.append(Finding("unreadable", path, f"{path} is deeper than {_MAX_DEPTH} directories", path))
            names[:] = []
        if directory == ".":
            names[:] = [name for name in names if name != DIRECTORY and not _is_mounted(name, opened, device)]
        names.sort()
        for name in [*leaves, *names]:
            path = _path(directory, name)
            try:
                status = os.stat(name, dir_fd=opened, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    continue
                if stat.S_ISLNK(status.st_mode):
                    links[path] = os.readlink(name, dir_fd=opened)
                elif stat.S_ISREG(status.st_mode):
                    files[path] = status.st_mode
                    head = _head(name, opened)
                    if head == MAGIC:
                        elves.add(path)
                    elif head.startswith(b"#!"):
                        scripts.add(path)
                else:
                    others.append(path)
            except OSError as error:
                unreadable(error, path)
    return Tree(files, links, tuple(others), frozenset(elves), frozenset(scripts), tuple(failed))


def _walk(
    directory: str, above: int, name: str, unreadable: Callable[[OSError, str], None]
) -> Iterator[tuple[str, list[str], list[str], int]]:
    """Yield as os.fwalk does, which would wait at a FIFO that has taken the place of a directory."""
    names: list[str] = []
    leaves: list[str] = []
    try:
        opened = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    except OSError as error:
        unreadable(error, _path(directory, ""))
        return
    try:
        with os.scandir(opened) as found:
            for one in found:
                (names if one.is_dir(follow_symlinks=False) else leaves).append(one.name)
        yield directory, names, leaves, opened
        for below in names:
            yield from _walk(f"{directory}/{below}", opened, below, unreadable)
    except OSError as error:
        unreadable(error, _path(directory, ""))
    finally:
        os.close(opened)


def _path(directory: str, name: str) -> str:
    return f"/{directory}/{name}".replace("/./", "/", 1).rstrip("/") or "/"


def _is_mounted(name: str, opened: int, device: int) -> bool:
    return name in _MOUNTED and os.stat(name, dir_fd=opened, follow_symlinks=False).st_dev != device


def _head(name: str, directory: int) -> bytes:
    opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.pread(opened, len(MAGIC), 0)
    finally:
        os.close(opened)
