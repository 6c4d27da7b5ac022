"""What the user asked for, found in the source root: names on a search path, paths, and SRC:DEST."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from jailbuild.errors import JailError, reason
from jailbuild.names import quoted
from jailbuild.root import Overlay, Root

STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MOUNTED = ("/dev", "/proc", "/run", "/sys", "/tmp")
NOT_FILES = ("/dev/", "/proc/", "/sys/")  # what is below is the kernel's

UNPLACED = ("recipe", "user", "locale")
RULES = ("exclude", "unmanaged")  # a pattern of paths that never come, a path in the box that is the user's for good
# The types that names of requests begin with: a program may be called as its package is.
NAMED = (*UNPLACED, "package", "terminfo", *RULES)
OPTIONS = {
    "file": "--file",
    "directory": "--dir",
    "recipe": "--with",
    "user": "--user",
    "locale": "--locale",
    "package": "--package",
    "terminfo": "--terminfo",
    "exclude": "--exclude",
    "unmanaged": "--unmanaged",
}  # of `add`, that ask for a request of a type
DOCS = "/docs"  # at the end of a package's name, where documentation is asked for; no package has a "/" in its name


class Request(NamedTuple):
    """What was asked for: a "program", a "file" or "directory" of data, or one of NAMED.

    The names of the latter begin with the type and a colon; all but the package have no path.
    """

    name: str  # what it is called from now on: a command's name, TYPE:NAME, else its path in the box
    path: str  # where it stands in the source root; where the files of a package are listed there
    source: str | None = None  # the host's file that is to stand there, for SRC:DEST
    type: str = "program"

    @property
    def what(self) -> str:
        """The name without the type before it: of a recipe, a user, a locale or a package."""
        return self.name.partition(":")[2] if self.type in NAMED else self.name


def unplaced(type: str, name: str) -> Request:
    """Return the request for what has no place in the source root: a recipe, a user, a locale, a rule."""
    return Request(f"{type}:{name}", "", None, type)


def is_executable_file(root: Root, path: str) -> bool:
    """Say whether `path` leads to a regular file with an execute bit (what execvp(3) would take, for root)."""
    try:
        mode = root.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(mode) and bool(mode & 0o111)


def find_command(root: Root, name: str, search_path: str = STANDARD_PATH) -> str | None:
    """Return the path of the command `name` (without "/"), the first on the search path; None if there is none."""
    for directory in search_path.split(":"):
        path = f"/{directory.strip('/')}/{name}" if directory.strip("/") else f"/{name}"
        if is_executable_file(root, path):
            return path
    return None


def command_names(root: Root, search_path: str = STANDARD_PATH) -> Iterator[str]:
    """Yield the names in the directories of a search path; those that cannot be read are passed over."""
    for directory in search_path.split(":"):
        try:
            yield from root.listdir(directory)
        except OSError:
            continue


def _not_found(root: Root, name: str, search_path: str) -> tuple[str, str]:
    """Return cause and hint for a name that was not found."""
    import difflib  # only needed to word an error

    cause = f"cannot find {name}: no such program in {search_path}"
    if own := callers_command(root, name):
        return cause, f"your own PATH has it: name it as {quoted(own)}"
    if near := difflib.get_close_matches(name, sorted({*command_names(root, search_path)} - {name}), 3):
        cause += f"; near: {', '.join(near)}"
    return cause, "a file elsewhere is named by its path"


def callers_command(root: Root, name: str) -> str | None:
    """Return what the caller's own PATH has for a command, which is not what decides; None for another root."""
    own = ":".join(one for one in os.environ.get("PATH", "").split(":") if one.startswith("/"))
    return find_command(root, name, own) if own and root.is_host and "/" not in name else None


def path_note(root: Root, request: Request) -> str | None:
    """Return a note where the caller's own PATH would find another file for a name than the one that was taken."""
    own = callers_command(root, request.name)
    if own is None or root.walk(own).real == root.walk(request.path).real:
        return None
    return f"{request.name} is {request.path}, from the standard PATH; your own PATH would find {own}"


def find_program(root: Root, word: str, search_path: str = STANDARD_PATH) -> Request:
    """Find what the user means by `word` (JailError if nothing): a name, a path, or SRC:DEST."""
    if "\0" in word or not word:
        raise JailError("cannot find '': a program needs a name")
    if "/" not in word:
        path = find_command(root, word, search_path)
        if path is None:
            raise JailError(*_not_found(root, word, search_path))
        return Request(word, path)
    source, _, destination = word.rpartition(":")
    if source and destination.startswith("/") and not exists(root, word):
        return _laid_over(root, source, destination)
    path = inside(root, word)
    return Request(path, path)


def by_name(root: Root, request: Request, search_path: str = STANDARD_PATH) -> Request:
    """Return a request under the name by which a search would find its path, if it would."""
    name = os.path.basename(request.path)
    if request.source is None and find_command(root, name, search_path) == request.path:
        return request._replace(name=name)
    return request


def exists(root: Root, word: str) -> bool:
    """Say whether there is a file of that whole name, so that a ":" in it parts nothing."""
    try:
        root.stat(inside(root, word))
    except (OSError, JailError):
        return False
    return True


def _laid_over(root: Root, source: str, destination: str) -> Request:
    if destination.endswith("/"):
        destination += os.path.basename(source)
    if ".." in destination.split("/"):
        raise JailError(f"cannot put {source} at {destination}: a destination has no '..'")
    path = os.path.normpath("/" + destination.lstrip("/"))
    if path in _MOUNTED or root.is_directory(path):
        raise JailError(f"cannot put {source} at {destination}: that is a directory", quoted(f"{source}:{path}/"))
    if path.startswith(NOT_FILES):
        raise JailError(f"cannot put {source} at {destination}: something is mounted there when the box is entered")
    return Request(path, path, os.path.realpath(source))


def inside(root: Root, word: str) -> str:
    """Return a path that the user typed as seen from inside the root: one name for a place, as far as text tells."""
    if word.startswith("/"):
        path = word
    else:
        directory = os.getcwd()
        if root.path != "/":
            if directory != root.path and not directory.startswith(root.path + "/"):
                raise JailError(
                    f"cannot find {word}: {directory} is outside {root.path}",
                    "name the file by its path inside the root, or as SRC:DEST",
                )
            directory = directory[len(root.path) :]
        path = f"{directory.rstrip('/')}/{word}"
    if ".." not in path.split("/"):
        return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))
    parent, _, name = path.rpartition("/")
    try:
        return f"{root.walk(parent).real.rstrip('/')}/{name}"
    except OSError as error:
        raise JailError(f"cannot find {word}: {reason(error)}") from None


def source_root(root: Root, requests: tuple[Request, ...]) -> Root:
    """Return the root in which the requests are resolved: files named SRC:DEST stand at DEST in it (JailError)."""
    laid: dict[str, Callable[[], int]] = {}
    for request in requests:
        if request.source is not None and request.type == "program":
            laid[canonical_place(root, request.path)] = _opener(request.source)
    return Overlay(root, laid) if laid else root


def _opener(path: str) -> Callable[[], int]:
    return lambda: os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)


def canonical_place(root: Root, path: str) -> str:
    """Return the place of a path whose last directories may not be there."""
    parent, _, name = path.rpartition("/")
    if not parent:
        return path
    try:
        return f"{root.walk(parent).real.rstrip('/')}/{name}"
    except FileNotFoundError:
        return f"{canonical_place(root, parent)}/{name}"
    except OSError as error:
        raise JailError(f"cannot put a file at {path}: {reason(error)}") from None
