"""A directory seen as "/": every look-up stays inside it, as for a process that was chrooted there.

Paths are str as os.fsdecode gives them (any bytes survive), absolute, and seen from inside the root. A path is
*canonical* when none of its components is a symbolic link, "." or "..".
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from jailbuild.errors import JailError, reason

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC  # a FIFO or a terminal must not hold us up
_MAX_LINKS = 40  # path_resolution(7)
_ABSENT = (errno.ENOENT, errno.ENOTDIR)

_Answer = TypeVar("_Answer")


class PathLookup(NamedTuple):
    """Where a path leads, and the links on the way, in the order they were met; all by canonical paths."""

    real: str
    links: tuple[tuple[str, str], ...]  # each link and its text


Mark = tuple[int, ...]  # what tells a file from the one that was there before, by stat(2)


def mark_of(status: os.stat_result) -> Mark:
    """Return what changes when a file is replaced or written to; of what is no regular file only its type."""
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        return (kind,)
    return kind, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)


def upwards(path: str) -> Iterator[str]:
    """Yield an absolute path and every directory above it, "/" last."""
    while path.strip("/"):
        yield path
        path = path.rpartition("/")[0]
    yield "/"


def open_beneath(directory: int, path: str, flags: int, mode: int = 0, *, one_mount: bool = False) -> int:
    """Open the relative `path` below `directory`, through real directories only (OSError ELOOP at a link).

    The last component is not followed either; with O_PATH | O_NOFOLLOW a link itself can be had. With `one_mount`
    not into what is mounted below (OSError EXDEV; before Linux 5.6 only if it is another file system).
    """
    from jailbuild import syscalls  # ctypes: not for look-ups on the host

    try:
        return syscalls.openat2(
            directory,
            path,
            flags,
            syscalls.RESOLVE_BENEATH
            | syscalls.RESOLVE_NO_SYMLINKS
            | syscalls.RESOLVE_NO_MAGICLINKS
            | (syscalls.RESOLVE_NO_XDEV if one_mount else 0),
            mode,
        )
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):  # EPERM: sandboxes that do not know the call
            raise
    *parents, name = [part for part in path.split("/") if part not in ("", ".")] or ["."]
    if ".." in parents or name == "..":
        raise _error(errno.EXDEV, path)
    here = os.dup(directory)
    try:
        for parent in parents:
            below = os.open(parent, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = below
            if one_mount and os.fstat(here).st_dev != os.fstat(directory).st_dev:
                raise _error(errno.EXDEV, path)
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=here)
    finally:
        os.close(here)


class Root:
    """A directory seen as "/".

    What was seen once is remembered: a Root serves one command. A tree that changes meanwhile, or is changed on
    purpose, gives an OSError or the older answer, never a path outside; `changed` says so.
    """

    def __init__(self, path: str) -> None:
        """Take the directory `path` of the host (JailError if there is none; a link to one is followed)."""
        try:
            self.descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise JailError(f"cannot open {path}: {reason(error)}", "name a directory that holds a root") from None
        self.path = os.path.realpath(path)
        self.is_host = os.path.samestat(os.fstat(self.descriptor), os.stat("/"))
        self._seen: dict[str, str | bool] = {}
        self._walks: dict[str, PathLookup] = {}
        self._marks: dict[str, Mark] = {}
        self._absent: set[str] = set()
        self._lists: dict[tuple[str, Callable[[str], bool]], int] = {}
        self._answers: dict[Callable[[Any], object], object] = {}

    def __del__(self) -> None:
        descriptor = getattr(self, "descriptor", -1)
        if descriptor >= 0:
            os.close(descriptor)

    def learn(self, seen: Mapping[str, str | bool]) -> None:
        """Take what was seen of the root already: a link's text, or whether it is a directory, by canonical path."""
        self._seen.update(seen)

    def saw(self, path: str, status: os.stat_result) -> None:
        """Take what stat(2) said of what was opened or looked at, for `changed`."""
        self._marks[path] = mark_of(status)

    def saw_names(self, canonical: str, fits: Callable[[str], bool], names: Sequence[str]) -> None:
        """Take the names that a directory has, sorted, of those that `fits` accepts, for `changed`."""
        self._lists[canonical, fits] = hash(tuple(names))

    def changed(self) -> str | None:
        """Return a path that is no longer as it was seen, or has come since it was looked for; None if there is none.

        What is laid over is not looked at.
        """
        for path, seen in self._seen.items():
            try:
                if self._look_on_disk(path) != seen:
                    return path
            except OSError:
                return path
        for path, mark in self._marks.items():
            try:
                if mark_of(self._stat(path)) != mark:
                    return path
            except OSError:
                return path
        for path in tuple(self._absent):
            try:
                self._stat(path)
            except OSError:
                continue
            return path
        listed: dict[str, list[str]] = {}
        for (path, fits), names in self._lists.items():
            try:
                if path not in listed:
                    listed[path] = self._names(path)
            except OSError:
                return path
            if hash(tuple(filter(fits, listed[path]))) != names:
                return path
        return None

    def once(self, ask: Callable[[Root], _Answer]) -> _Answer:
        """Return what `ask` says of the root; a function is called once, as often as its answer is wanted."""
        if ask not in self._answers:
            self._answers[ask] = ask(self)
        answer: Any = self._answers[ask]
        return answer  # type: ignore[no-any-return]

    @property
    def lowest(self) -> Root:
        """The root itself, below all that is laid over it."""
        return self

    def host_path(self, path: str) -> str:
        """Return a canonical path as the host names it."""
        return path if self.path == "/" else self.path + path

    def walk(self, path: str) -> PathLookup:
        """Follow `path` as the kernel would after a chroot (OSError: ENOENT, ENOTDIR, ELOOP, EACCES)."""
        walk = self._walks.get(path)
        if walk is None:
            walk = self._walks[path] = self._walk(path)
        return walk

    def through(self, path: str) -> tuple[str, ...]:
        """Return each directory on the way of `path`, also those that a ".." left again; without the root (OSError)."""
        through: list[str] = []
        self._follow(path, "", path.split("/"), through)
        return tuple(dict.fromkeys(through))

    def _walk(self, path: str) -> PathLookup:
        # What was seen has a canonical path: below such a directory only the rest is new, however deep it is.
        above = path.rpartition("/")[0]
        while above and self._seen.get(above) is not True:
            above = above.rpartition("/")[0]
        return self._follow(path, above, path[len(above) :].split("/"), [])

    def _follow(self, path: str, real: str, names: list[str], through: list[str]) -> PathLookup:
        """Follow `names` from the canonical directory `real` on; what is passed is added to `through`."""
        links: list[tuple[str, str]] = []
        todo = names[::-1]
        while todo:
            name = todo.pop()
            if name in ("", ".", ".."):
                if real and self._look(real) is not True:
                    raise _error(errno.ENOTDIR, path)
                if name == ".." and real:
                    through.append(real)
                    real = real.rpartition("/")[0]
                continue
            here = f"{real}/{name}"
            seen = self._look(here)
            if isinstance(seen, bool):
                if real:
                    through.append(real)
                real = here
                continue
            links.append((here, seen))
            if real:
                through.append(real)
            if len(links) > _MAX_LINKS:
                raise _error(errno.ELOOP, path)
            if seen.startswith("/"):
                real = ""
            todo.extend(seen.split("/")[::-1])
        return PathLookup(real or "/", tuple(links))

    def _look(self, here: str) -> str | bool:
        """Return the text of the link at `here` (its parent is canonical), else whether it is a directory."""
        seen = self._seen.get(here)
        if seen is None:
            try:
                seen = self._seen[here] = self._look_on_disk(here)
            except OSError as error:
                self._missed(here, error)
                raise
        return seen

    def _missed(self, path: str, error: OSError) -> None:
        if error.errno in _ABSENT:
            self._absent.add(path)

    def _look_on_disk(self, here: str) -> str | bool:
        if self.is_host:
            mode = os.lstat(here).st_mode
            return os.readlink(here) if stat.S_ISLNK(mode) else stat.S_ISDIR(mode)
        found = self._beneath(here, os.O_PATH | os.O_NOFOLLOW)
        try:
            mode = os.fstat(found).st_mode
            return os.readlink("", dir_fd=found) if stat.S_ISLNK(mode) else stat.S_ISDIR(mode)
        finally:
            os.close(found)

    def _beneath(self, canonical: str, flags: int) -> int:
        return open_beneath(self.descriptor, canonical.lstrip("/") or ".", flags)

    def open(self, path: str) -> int:
        """Open the file at `path` for reading and return a descriptor; links are followed inside the root."""
        if not self.is_host:
            return self._beneath(self.walk(path).real, _READ)
        try:
            return os.open(path, _READ)
        except OSError as error:
            self._missed(path, error)
            raise

    def open_directory(self, canonical: str) -> int:
        """Return a descriptor of a directory, as the disk has it, for names below; no link is followed."""
        return self._beneath(canonical, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def is_laid(self, canonical: str) -> bool:
        """Say whether something is laid over the path: see Overlay."""
        return False

    def stat(self, path: str) -> os.stat_result:
        """Return what stat(2) says of `path`, links followed inside the root."""
        try:
            status = self._stat(path)
        except OSError as error:
            self._missed(path, error)
            raise
        self.saw(path, status)
        return status

    def _stat(self, path: str) -> os.stat_result:
        return os.stat(path) if self.is_host else self.lstat(self.walk(path).real)

    def lstat(self, canonical: str) -> os.stat_result:
        """Return what lstat(2) says of a path whose parent is canonical."""
        try:
            if self.is_host:
                return os.lstat(canonical)
            found = self._beneath(canonical, os.O_PATH | os.O_NOFOLLOW)
        except OSError as error:
            self._missed(canonical, error)
            raise
        try:
            return os.fstat(found)
        finally:
            os.close(found)

    def listdir(self, path: str, fits: Callable[[str], bool] | None = None) -> list[str]:
        """Return the names in the directory `path`, sorted; those that `fits` accepts, and `changed` tells of these."""
        try:
            names = self._names(path)
        except OSError as error:
            self._missed(path, error)
            raise
        if fits is not None:
            names = list(filter(fits, names))
            self.saw_names(path, fits, names)
        return names

    def _names(self, path: str) -> list[str]:
        if self.is_host:
            return sorted(os.listdir(path))
        found = self._beneath(self.walk(path).real, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return sorted(os.listdir(found))
        finally:
            os.close(found)

    def is_directory(self, path: str) -> bool:
        """Say whether `path` leads to a directory."""
        try:
            real = self.walk(path).real
            return real == "/" or self._look(real) is True
        except OSError:
            return False

    def read(self, path: str, most: int, *, volatile: bool = False) -> bytes:
        """Return the bytes of the regular file at `path` (OSError; EFBIG beyond `most` bytes, EINVAL if special).

        Of what is `volatile`, and written to all the time, `changed` does not tell.
        """
        opened = self.open(path)
        try:
            status = os.fstat(opened)
            if not volatile:
                self.saw(path, status)
            if not stat.S_ISREG(status.st_mode):
                raise _error(errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL, path)
            parts = []
            size = 0
            while block := os.read(opened, 1 << 20):
                parts.append(block)
                size += len(block)
                if size > most:
                    raise _error(errno.EFBIG, path)
            return b"".join(parts)
        finally:
            os.close(opened)


class Overlay(Root):
    """A root with more files in it than its directory has: what a plan would write, or a file named SRC:DEST.

    `files` maps canonical paths to what opens them, `links` canonical paths to link texts; the directories above
    them are there too, and so are `directories`. What is laid over hides what the directory has, and what is `gone`
    is not there.
    """

    def __init__(
        self,
        base: Root | None,
        files: Mapping[str, Callable[[], int]],
        links: Mapping[str, str] | None = None,
        directories: tuple[str, ...] = (),
        gone: frozenset[str] = frozenset(),
        statuses: Mapping[str, os.stat_result] | None = None,
    ) -> None:
        """Lay files, links and directories over `base`, or over nothing; `statuses` is what lstat says of them."""
        self.descriptor = -1
        self.path = base.path if base is not None else "/"
        self.is_host = False
        self.base = base
        self.files = dict(files)
        self.gone = gone
        self.statuses = dict(statuses or {})
        self._walks = {}
        self._absent = set()
        self._answers = {}
        self._seen = dict.fromkeys(self.files, False)
        self._seen.update(links or {})
        self._seen.update(dict.fromkeys(directories, True))
        for path in list(self._seen):
            while (path := path.rpartition("/")[0]) and path not in self._seen:  # which has what is above it too
                self._seen[path] = True

    @property
    def lowest(self) -> Root:
        """The root below all that is laid over it; an Overlay itself where it lies over nothing."""
        return self if self.base is None else self.base.lowest

    def _look_on_disk(self, here: str) -> str | bool:
        if self.base is None or here in self.gone:
            raise _error(errno.ENOENT, here)
        return self.base._look(here)  # which may have something laid over it too

    def _beneath(self, canonical: str, flags: int) -> int:
        opener = self.files.get(canonical)
        if opener is not None:
            return opener()
        if self.base is None or canonical in self.gone:
            raise _error(errno.ENOENT, canonical)
        return self.base._beneath(canonical, flags)

    def saw(self, path: str, status: os.stat_result) -> None:
        """Take what stat(2) said, for `changed`, unless it is of what is laid over."""
        if self.base is not None and (real := self.walk(path).real) not in self.files and real not in self.statuses:
            self.base.saw(real, status)

    def saw_names(self, canonical: str, fits: Callable[[str], bool], names: Sequence[str]) -> None:
        """Take the names that a directory of the root below has, for `changed`: none are laid into it."""
        if self.base is not None:
            self.base.saw_names(self.walk(canonical).real, fits, names)

    def changed(self) -> str | None:
        """Return a path of the root below that is no longer as it was seen; None if there is none."""
        return None if self.base is None else self.base.changed()

    def is_laid(self, canonical: str) -> bool:
        """Say whether something is laid over the path, or was further below."""
        return canonical in self.files or (self.base is not None and self.base.is_laid(canonical))

    def lstat(self, canonical: str) -> os.stat_result:
        """Return what lstat(2) says of a path whose parent is canonical."""
        status = self.statuses.get(canonical)
        if status is not None:
            return status
        if canonical in self.files or canonical in self.gone or self.base is None:
            return super().lstat(canonical)
        return self.base.lstat(canonical)
