"""Everything that is in a root, each path once and each file opened once, without following a link out of it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping
from typing import NamedTuple

from jailbuild.box.layout import DIRECTORY
from jailbuild.box.manifest import Entry
from jailbuild.check.digests import Digests
from jailbuild.check.findings import Finding
from jailbuild.closure.secrets import HEAD, secret
from jailbuild.elf.reader import MAGIC, read_elf
from jailbuild.errors import reason
from jailbuild.loader.files import File
from jailbuild.root import Root, open_beneath

_MOUNTED = frozenset({"dev", "proc", "run", "sys"})  # at the top: another file system there is not the root's own
_MAX_DEPTH = 2000  # directories
_AT_ONCE = 15  # components of a path, each of up to 255 bytes; a call takes 4095 of them
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_CAPABILITY = "security.capability"


class Seen(NamedTuple):
    """What is at a path."""

    mode: int  # of stat(2), type included
    uid: int
    gid: int
    size: int
    identity: tuple[int, int]  # device and inode
    names: int  # hard links
    device: int = 0  # numbers of a device node
    target: str | None = None  # of a link
    capable: bool = False  # it has file capabilities
    secret: str | None = None


class Tree(NamedTuple):
    """What a root holds. Paths are canonical."""

    seen: dict[str, Seen]  # all but the root itself, jailbuild's record and what is mounted over /proc and the like
    elves: dict[str, File]  # the files that begin as ELF files do
    scripts: set[str]  # likewise with "#!"
    unopened: set[str]  # directories that were not looked into
    unreadable: list[Finding]

    @property
    def links(self) -> dict[str, str]:
        """The texts of the symbolic links."""
        return {path: seen.target for path, seen in self.seen.items() if seen.target is not None}

    @property
    def places(self) -> dict[str, str | bool]:
        """What a root wants to know: a link's text, or whether it is a directory."""
        return {
            path: stat.S_ISDIR(seen.mode) if seen.target is None else seen.target for path, seen in self.seen.items()
        }

    @property
    def files(self) -> int:
        """How many regular files there are."""
        return sum(stat.S_ISREG(seen.mode) for seen in self.seen.values())

    def is_hidden(self, path: str) -> bool:
        """Say whether a path lies in what was not looked into."""
        while self.unopened and path:
            path = path.rpartition("/")[0]
            if path in self.unopened:
                return True
        return False


def read_tree(root: Root, listed: Mapping[str, Entry], digests: Digests, tick: Callable[[], None]) -> Tree:
    """Look at everything below a root. Files that may be as they are `listed` are given to `digests`.

    `tick` is called after each directory.
    """
    walk = _Walk(root, listed, digests)
    try:
        while walk.todo:
            walk.look_into(walk.todo.pop())
            tick()
    finally:
        walk.close()
    return walk.tree


class _Walk:
    def __init__(self, root: Root, listed: Mapping[str, Entry], digests: Digests) -> None:
        self.root = root
        self.listed = listed
        self.digests = digests
        self.device = os.fstat(root.descriptor).st_dev
        self.tree = Tree({}, {}, set(), set(), [])
        self.known: dict[tuple[int, int], File] = {}
        self.todo = [""]
        self.above = [("", root.descriptor)]  # directories that deeper ones are opened from, each below the one before

    def look_into(self, directory: str) -> None:
        """Look at each name in a directory; its directories are put on the list."""
        if directory.count("/") > _MAX_DEPTH:
            self.tree.unopened.add(directory)
            self._unreadable(directory, f"it is deeper than {_MAX_DEPTH} directories")
            return
        try:
            opened = self._open(directory)
        except OSError as error:
            self._unopened(directory, error)
            return
        try:
            with os.scandir(opened) as names:
                for entry in names:
                    if directory or entry.name != DIRECTORY:
                        self._look_at(f"{directory}/{entry.name}", entry, opened)
        except OSError as error:
            self._unopened(directory, error)
        finally:
            os.close(opened)

    def _open(self, directory: str) -> int:
        """Open a directory, however long its path is: from one above it that is kept open if need be."""
        parts = directory.split("/")[1:]
        whole = (len(parts) - 1) // _AT_ONCE * _AT_ONCE if parts else 0
        while not directory.startswith(f"{self.above[-1][0]}/") and len(self.above) > 1:
            os.close(self.above.pop()[1])
        for first in range(self.above[-1][0].count("/"), whole, _AT_ONCE):
            path, opened = self.above[-1]
            below = "/".join(parts[first : first + _AT_ONCE])
            self.above.append((f"{path}/{below}", open_beneath(opened, below, _DIRECTORY)))
        path, opened = self.above[-1]
        return open_beneath(opened, directory[len(path) + 1 :] or ".", _DIRECTORY)

    def close(self) -> None:
        """Keep no directory open."""
        while len(self.above) > 1:
            os.close(self.above.pop()[1])

    def _look_at(self, path: str, entry: os.DirEntry[str], directory: int) -> None:
        try:
            if entry.is_file(follow_symlinks=False):
                self._look_at_file(path, entry, directory)
                return
            seen = _seen(entry.stat(follow_symlinks=False))
            if stat.S_ISLNK(seen.mode):
                seen = seen._replace(target=os.readlink(entry.name, dir_fd=directory))
        except FileNotFoundError:
            return  # it went away meanwhile
        except OSError as error:
            self._unreadable(path, reason(error))
            return
        self.tree.seen[path] = seen
        if stat.S_ISDIR(seen.mode):
            if path[1:] in _MOUNTED and seen.identity[0] != self.device:
                self.tree.unopened.add(path)
            else:
                self.todo.append(path)

    def _look_at_file(self, path: str, entry: os.DirEntry[str], directory: int) -> None:
        try:
            opened = os.open(entry.name, _READ, dir_fd=directory)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):  # a link or a socket by now
                return
            self.tree.seen[path] = _seen(entry.stat(follow_symlinks=False))._replace(secret=secret(path))
            raise
        wanted = False
        try:
            seen = _seen(os.fstat(opened))
            if stat.S_ISREG(seen.mode):
                wanted = self._read(path, opened, seen)
        finally:
            if not wanted:
                os.close(opened)
        if wanted:
            self.digests.add(seen.identity, opened, seen.size)

    def _read(self, path: str, opened: int, seen: Seen) -> bool:
        """Take from an open file what its beginning tells, and say whether its digest is wanted too."""
        self.tree.seen[path] = seen
        head = os.pread(opened, HEAD, 0)
        if head.startswith(MAGIC):
            what = secret(path)
            known = self.known.get(seen.identity)
            if known is None:
                known = self.known[seen.identity] = File(*seen.identity, read_elf(opened))
            self.tree.elves[path] = known
        else:
            what = secret(path, head)
            if head.startswith(b"#!"):
                self.tree.scripts.add(path)
        capable = _is_capable(opened)
        if what or capable:
            self.tree.seen[path] = seen._replace(secret=what, capable=capable)
        entry = self.listed.get(path)
        return (
            entry is not None
            and entry.type == "file"
            and entry.size == seen.size
            and seen.identity not in self.digests.asked
        )

    def _unopened(self, directory: str, error: OSError) -> None:
        if error.errno != errno.ENOENT:
            self.tree.unopened.add(directory)
            self._unreadable(directory, reason(error))

    def _unreadable(self, path: str, why: str) -> None:
        path = path or "/"
        self.tree.unreadable.append(Finding("unreadable", path, f"{path} cannot be read: {why}", path))


def _seen(status: os.stat_result) -> Seen:
    return Seen(
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_size,
        (status.st_dev, status.st_ino),
        status.st_nlink,
        status.st_rdev,
    )


def _is_capable(opened: int) -> bool:
    try:
        return _CAPABILITY in os.listxattr(opened)
    except OSError:  # a file system without attributes
        return False
