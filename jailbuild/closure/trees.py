"""What `--file SRC[:DST]` and `--dir SRC[:DST]` put into a box: every name below SRC, looked at and never followed."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from jailbuild.closure.places import Place, laid_place, merged_place, own_place, split, why_not
from jailbuild.elf.reader import MAGIC
from jailbuild.errors import JailError, SourceChangedError, reason
from jailbuild.names import quoted
from jailbuild.packages.leftovers import is_proper
from jailbuild.root import Overlay, Root, open_beneath, upwards

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST = 400_000  # items, for which a manifest has some 200 MB
_LONGEST = 4095  # bytes of a path, PATH_MAX
_FEW = 10  # lines of one kind
_SPECIAL = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFBLK: "a device", stat.S_IFCHR: "a device"}
_KERNELS = frozenset(
    (
        "binfmt_misc",
        "bpf",
        "cgroup",
        "cgroup2",
        "configfs",
        "debugfs",
        "devpts",
        "efivarfs",
        "fusectl",
        "mqueue",
        "proc",
        "pstore",
        "rpc_pipefs",
        "securityfs",
        "selinuxfs",
        "sysfs",
        "tracefs",
    )
)

Identity = tuple[int, int]  # st_dev, st_ino


class Item(NamedTuple):
    """One name to be put into a box."""

    source: str  # where it is on the host
    path: str  # where it is to stand in the source root, canonical
    type: str  # "file", "link" or "directory"
    status: os.stat_result  # of itself: links not followed
    target: str | None = None  # of a link
    program: str | None = None  # of a file that is "elf" or "script"; whether it may be executed, its status says


class Rules(NamedTuple):
    """What of a directory is not to go into a box."""

    left_out: frozenset[Identity] = frozenset()  # directories: the box
    allowed: Collection[str] = ()  # paths of files, or of directories with files, that may be secrets
    exclude: tuple[str, ...] = ()  # patterns: of paths below the directory, without a "/" of names
    is_lenient: bool = False  # what cannot be read is left out with a note

    def is_allowed(self, *paths: str) -> bool:
        """Say whether one of the paths may be a secret's."""
        return any(above in self.allowed for path in paths for above in upwards(path))

    def excludes(self, below: str, name: str) -> bool:
        """Say whether a path below the directory, with this last name, is not wanted."""
        return any(fnmatchcase(below if "/" in one else name, one) for one in self.exclude)


class Tree(NamedTuple):
    """What one `--file` or `--dir` puts into a box."""

    path: str  # where it stands in the source root, canonical
    source: str | None  # the host's path of what is laid over; None for what the source root has itself
    items: tuple[Item, ...]  # by path, each once; the links on the way to `path` too, its parents not
    notes: tuple[str, ...]  # what is left out
    named: str = ""  # the path that was asked for, which may lead to `path` by links
    led: Mapping[str, str] | None = None  # of a package, by path: the link that leads to what is not the package's own

    @property
    def families(self) -> tuple[tuple[str, ...], ...]:
        """The paths of items that are one file, each family with two paths or more."""
        found: dict[Identity, list[str]] = {}
        for item in self.items:
            if item.type == "file" and item.status.st_nlink > 1:
                found.setdefault(identity(item.status), []).append(item.path)
        return tuple(tuple(paths) for paths in found.values() if len(paths) > 1)


NO_RULES = Rules()


def identity(status: os.stat_result) -> Identity:
    """Return what tells a file or directory from all others."""
    return status.st_dev, status.st_ino


def read_file(root: Root, word: str, left_out: frozenset[Identity] = frozenset(), rules: Rules = NO_RULES) -> Tree:
    """Return the file that `--file` names, for the source root `root`; at DST/ it keeps its name.

    JailError if it is no regular file, cannot be read, is a secret, is inside a directory of `left_out` (the box), or
    cannot stand at DST.
    """
    source, destination = split(root, word)
    place = own_place(root, source) if destination is None else laid_place(root, source, destination, False)
    reading = _Reading(root, place, rules._replace(left_out=left_out), is_named=True)
    above, _, name = place.source.rpartition("/")
    try:
        with _opened(root, place, above or "/", os.path.dirname(place.path)) as directory:
            status = os.stat(name or ".", dir_fd=directory, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                raise JailError(f"cannot add {word}: it is a directory", f"--dir {quoted(word)}")
            if not stat.S_ISREG(status.st_mode):
                raise JailError(f"cannot add {word}: it is not a regular file")
            reading.add_file(directory, name, place.source, place.path)
    except OSError as error:
        raise JailError(f"cannot add {word}: {reason(error)}") from None
    return reading.finished()


def read_directory(root: Root, word: str, left_out: frozenset[Identity] = frozenset(), rules: Rules = NO_RULES) -> Tree:
    """Return the directory that `--dir` names, and all below it, for the source root `root`; it becomes DST.

    A directory that the source root has there too is as that has it, mode and owner included; where that has a link
    (/lib in a merged /usr), it goes where the link leads. FIFOs, sockets, devices, what the kernel makes up (/proc),
    the directories of `left_out` (the box) and secrets are left out with a note; leftovers of package managers without,
    in what the source root has itself. JailError, a line for each name, where something cannot be read; if SRC is no
    directory or inside one of `left_out`, or cannot be DST.
    """
    source, destination = split(root, word)
    place = own_place(root, source) if destination is None else laid_place(root, source, destination, True)
    reading = _Reading(root, place, rules._replace(left_out=left_out))
    try:
        with _opened(root, place, place.source, place.path) as top:
            reading.add_all(top)
    except NotADirectoryError:
        raise JailError(f"cannot add {word}: it is no directory", f"--file {quoted(word)}") from None
    except OSError as error:
        raise JailError(f"cannot add {word}: {reason(error)}") from None
    return reading.finished()


def lay_over(root: Root, trees: Iterable[Tree]) -> Root:
    """Return `root` with the trees at their places: there programs among them are resolved, and read for the box.

    A file that is another one by then is a SourceChangedError when it is opened. JailError, a line for each path, where
    two trees have different files or links for one path.
    """
    laid: dict[str, Item] = {}
    causes = []
    for tree in trees:
        for item in tree.items if tree.source is not None else ():
            known = laid.setdefault(item.path, item)
            if not _is_same(known, item):
                causes.append(f"cannot put {item.source} at {item.path}: {known.source} comes there too")
    if causes:
        raise JailError(_few(causes, "cannot add {} more names"), "make a box for each")
    files: dict[str, Callable[[], int]] = {}
    links: dict[str, str] = {}
    statuses: dict[str, os.stat_result] = {}
    for item in laid.values():
        statuses[item.path] = item.status
        if item.type == "file":
            files[item.path] = opener(item)
        elif item.target is not None:
            links[item.path] = item.target
    if not laid:
        return root
    directories = tuple(path for path in statuses if path not in files and path not in links)
    return Overlay(root, files, links, directories, statuses=statuses)


def _is_same(one: Item, other: Item) -> bool:
    """Say whether two items for one path agree: directories do."""
    if one.type == "file" == other.type:
        return identity(one.status) == identity(other.status)
    return (one.type, one.target) == (other.type, other.target)


def opener(item: Item) -> Callable[[], int]:
    """Return what opens a file of a tree (OSError; SourceChangedError if another file has come to its place)."""

    def opened() -> int:
        found = os.open(item.source, _READ)
        if identity(os.fstat(found)) != identity(item.status):
            os.close(found)
            raise SourceChangedError(f"cannot read {item.source}: another file has come to its place", "try again")
        return found

    return opened


@contextlib.contextmanager
def _opened(root: Root, place: Place, source: str, path: str) -> Iterator[int]:
    """Have a descriptor of a directory: the host's `source`, or `path` inside the root."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    opened = os.open(source, flags) if place.is_laid else root.open_directory(path)
    try:
        yield opened
    finally:
        os.close(opened)


class _Reading:
    def __init__(self, root: Root, place: Place, rules: Rules, *, is_named: bool = False) -> None:
        self.root = root
        self.place = place
        self.rules = rules
        self.is_named = is_named  # a file by itself: what cannot go in is no file of many
        self.left_out = rules.left_out
        self.kernels = root.lowest.once(_kernels)
        self.items: dict[str, Item] = {}
        self.causes: list[str] = []
        self.notes: list[str] = []
        self.hint = ""
        self.refused: set[str] = set()  # where secrets would stand
        self._refuse_inside()
        for link, target in place.links:
            self._add_link(link, target)

    def _refuse_inside(self) -> None:
        above = self.place.source
        while self.left_out:
            try:
                if identity(os.stat(above)) in self.left_out:
                    raise JailError(f"cannot add {self.place.source}: it is in the box itself", "name a file elsewhere")
            except OSError:  # what can be read of it is to be seen
                pass
            if above == "/":
                return
            above = os.path.dirname(above)

    def _add_link(self, path: str, target: str) -> None:
        """Add a link that the source root has on the way."""
        self.items.setdefault(path, Item(self.root.host_path(path), path, "link", self.root.lstat(path), target))

    def add_file(self, directory: int, name: str, source: str, path: str, is_beside: bool = False) -> None:
        """Add a regular file by its name in an open directory, which goes beside what the source root has."""
        from jailbuild.closure.secrets import HEAD, secret  # only for who has data

        try:
            opened = os.open(name, _READ, dir_fd=directory)
            try:
                status = os.fstat(opened)
                head = os.pread(opened, HEAD, 0) if stat.S_ISREG(status.st_mode) else b""
            finally:
                os.close(opened)
        except OSError as error:
            if self.is_named or not isinstance(error, FileNotFoundError):  # gone since the directory was read
                self.causes.append(f"cannot read {source}: {reason(error)}")
            return
        if not stat.S_ISREG(status.st_mode):
            raise SourceChangedError(f"cannot read {source}: it was a file just now", "try again")
        if why := self._unwanted(status):
            self.causes.append(f"cannot add {source}: {why}")
        elif (what := secret(source, head) or secret(path)) and not self.rules.is_allowed(source, path):
            self._refuse_secret(source, path, what)
        elif is_beside and self.root.is_directory(path) and self.root.walk(path).real == path:
            self.causes.append(f"cannot put {source} at {path}: that is a directory")
        else:
            program = "elf" if head.startswith(MAGIC) else "script" if head.startswith(b"#!") else None
            self._add(Item(source, path, "file", status, None, program))

    def _refuse_secret(self, source: str, path: str, what: str) -> None:
        self.refused.add(path)
        if self.is_named and not self.rules.is_lenient:
            self.causes.append(f"cannot add {source}: it is a secret: {what}")
            self.hint = f"--allow-secrets {quoted(path)}, if it is to be in the box all the same"
        else:
            self.notes.append(f"warning: {source} is left out: it is a secret: {what} (--allow-secrets {quoted(path)})")

    def _add(self, item: Item) -> None:
        known = self.items.get(item.path, item)
        if known is item:
            self.items[item.path] = item
        elif (known.type, known.target) != (item.type, item.target) or item.type == "file":
            self.causes.append(f"cannot put {item.source} at {item.path}: {known.source} comes there too")

    def add_all(self, top: int) -> None:
        """Add the open directory `top` and all below it."""
        todo = [("", self.place.path, self.place.is_laid)]
        while todo:
            below, path, is_beside = todo.pop()
            source = f"{self.place.source.rstrip('/')}/{below}" if below else self.place.source
            if below and is_beside:
                merged = self._merged(source, path)
                if merged is None:
                    continue
                path = merged
            is_beside = is_beside and self.root.is_directory(path)
            if below and (why := why_not(path)):
                self.notes.append(f"{source} is left out: {why}")
                continue
            try:
                opened = open_beneath(top, below or ".", os.O_RDONLY | os.O_DIRECTORY)
            except OSError as error:
                self.causes.append(f"cannot read {source}: {reason(error)}")
                continue
            try:
                status = os.fstat(opened)
                if why := self._unwanted(status):
                    if not below:
                        raise JailError(f"cannot add {source}: {why}")
                    self.notes.append(f"{source} is left out: {why}")
                    continue
                if path != "/":
                    self._add(
                        self._merged_item(source, path, status)
                        if is_beside
                        else Item(source, path, "directory", status)
                    )
                for name in self._add_names(opened, below, source, path, is_beside):
                    todo.append((f"{below}/{name}" if below else name, f"{path.rstrip('/')}/{name}", is_beside))
            except OSError as error:
                self.causes.append(f"cannot read {source}: {reason(error)}")
            finally:
                os.close(opened)
            if len(self.items) > _MOST:
                raise JailError(f"cannot add {self.place.source}: there are more than {_MOST} names in it")

    def _merged_item(self, source: str, path: str, status: os.stat_result) -> Item:
        """Return a directory as the source root has it: programs in the box want it too."""
        own = self.root.lstat(path)
        lost, kept = (f"{stat.S_IMODE(one.st_mode):04o} {one.st_uid}:{one.st_gid}" for one in (status, own))
        if lost != kept:
            self.notes.append(f"{path} is {kept}, as in the source root, and not {lost}, as {source}")
        return Item(self.root.host_path(path), path, "directory", own)

    def _merged(self, source: str, path: str) -> str | None:
        """Return where a directory below SRC goes; what links lead there goes in too. None if it cannot."""
        try:
            merged = merged_place(self.root, path)
        except JailError as error:
            self.causes += error.causes
            return None
        if merged is None:
            self.causes.append(f"cannot put {source} at {path}: that is no directory in the source root")
        elif merged != path:
            for link, target in self.root.walk(path).links:
                self._add_link(link, target)
        return merged

    def _unwanted(self, status: os.stat_result) -> str | None:
        if identity(status) in self.left_out:
            return "it is the box itself"
        if status.st_dev in self.kernels:
            return "it is the kernel's"
        return None

    def _add_names(self, directory: int, below: str, source: str, path: str, is_beside: bool) -> Iterator[str]:
        """Add what an open directory has, and yield the names of directories in it."""
        with os.scandir(directory) as names:
            found = sorted(names, key=lambda name: name.name)
        if not self.place.is_laid:
            found = [entry for entry in found if is_proper(entry.name)]
            self.root.saw_names(path, is_proper, [entry.name for entry in found])
        for entry in found:
            if self.rules.exclude and self.rules.excludes(f"{below}/{entry.name}".lstrip("/"), entry.name):
                continue
            here, there = f"{source.rstrip('/')}/{entry.name}", f"{path.rstrip('/')}/{entry.name}"
            if max(len(os.fsencode(here)), len(os.fsencode(there))) > _LONGEST:
                self.causes.append(f"cannot put {here[:80]}… at {there[:80]}…: the path is too long")
                continue
            try:
                status = os.stat(entry.name, dir_fd=directory, follow_symlinks=False)
                kind = stat.S_IFMT(status.st_mode)
                if kind == stat.S_IFDIR:
                    yield entry.name
                elif why := why_not(there) or _SPECIAL.get(kind):
                    self.notes.append(f"{here} is left out: {why if why_not(there) else f'it is {why}'}")
                elif kind == stat.S_IFLNK:
                    target = os.readlink(entry.name, dir_fd=directory)
                    self._add(Item(here, there, "link", status, target))
                    if not self.place.is_laid:
                        self.root.learn({there: target})
                else:
                    self.add_file(directory, entry.name, here, there, is_beside)
            except FileNotFoundError:  # gone since the directory was read
                continue
            except OSError as error:
                self.causes.append(f"cannot read {here}: {reason(error)}")

    def _drop_links_to_secrets(self) -> None:
        """Leave out the links that would lead nowhere, as what they lead to is left out."""
        links: dict[str, list[Item]] = {}  # by where they lead
        for item in self.items.values() if self.refused else ():
            if item.target is not None:
                links.setdefault(self._target(item), []).append(item)
        todo = sorted(self.refused)
        for path in todo:  # which grows meanwhile
            for item in links.pop(path, ()):
                self.refused.add(item.path)
                todo.append(item.path)
                del self.items[item.path]
                self.notes.append(f"{item.source} is left out: it leads to a secret that is")

    def _target(self, link: Item) -> str:
        return os.path.normpath(os.path.join("/", os.path.dirname(link.path), link.target or ""))

    def finished(self) -> Tree:
        """Return what was read (JailError: all that could not be)."""
        self._drop_links_to_secrets()
        if self.causes and self.rules.is_lenient:
            self.notes += [f"warning: {cause}" for cause in self.causes]
        elif self.causes:
            hint = self.hint or "what should not go in is to be moved away first"
            raise JailError(_few(self.causes, "cannot add {} more names"), hint)
        items = tuple(item for _, item in sorted(self.items.items()))
        source = self.place.source if self.place.is_laid else None
        return Tree(self.place.path, source, items, tuple(_few_notes(self.notes)), self.place.named)


def _kernels(_root: Root) -> frozenset[int]:
    """Return the devices of file systems that the kernel makes up, wherever they are mounted: proc(5), mountinfo."""
    found = set()
    with contextlib.suppress(OSError), open("/proc/self/mountinfo", "rb") as lines:
        for line in os.fsdecode(lines.read()).split("\n"):
            mount, _, kind = line.partition(" - ")
            if kind.partition(" ")[0] in _KERNELS:
                major, _, minor = mount.split(" ")[2].partition(":")
                found.add(os.makedev(int(major), int(minor)))
    return frozenset(found)


def _few_notes(notes: list[str]) -> list[str]:
    """Return the warnings, each of which somebody has to know of, and some of the other notes."""
    others: list[str] = []
    warnings: list[str] = []
    for note in notes:
        (warnings if note.startswith("warning: ") else others).append(note)
    return [*warnings, *_few(others, "{} more notes of this kind")]


def _few(lines: list[str], more: str) -> list[str]:
    return lines if len(lines) <= _FEW else [*lines[:_FEW], more.format(len(lines) - _FEW)]
