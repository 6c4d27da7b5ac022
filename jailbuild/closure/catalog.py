"""The recipes that there are, found by name.

Those of the package stand in jailbuild/recipes, others in /etc/jailbuild/recipes and where the user says; a later
directory's recipe replaces one of the same name.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property

from jailbuild.closure.commands import Request, find_program, is_executable_file
from jailbuild.closure.globbing import expand
from jailbuild.closure.recipe import Recipe, When, quick_when, read_recipe, unusable
from jailbuild.errors import JailError, reason
from jailbuild.root import Root

OWN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "recipes")
SYSTEM = "/etc/jailbuild/recipes"

_LARGEST = 1 << 20  # bytes of a recipe


class RecipeCatalog:
    """The recipes that there are. A file is read in full when its recipe is wanted."""

    def __init__(self, directories: tuple[str, ...] = ()) -> None:
        """Take the recipes of the package, of /etc/jailbuild/recipes and of `directories`; nothing is read yet."""
        self.directories = directories
        self._texts: dict[str, tuple[str, str]] | None = None  # by name: file and text
        self._read: dict[str, Recipe] = {}
        self._whens: dict[str, When] | None = None

    def _all(self) -> dict[str, tuple[str, str]]:
        if self._texts is None:
            found = _texts_in(OWN)
            for directory in (SYSTEM, *self.directories):
                if directory in self.directories or os.path.isdir(directory):
                    found.update(_texts_in(directory))
            self._texts = dict(sorted(found.items()))
        return self._texts

    @property
    def names(self) -> Collection[str]:
        """The names of all recipes, sorted."""
        return self._all().keys()

    def get(self, name: str) -> Recipe:
        """Return the recipe of that name (JailError if there is none, or if its file is wrong)."""
        recipe = self._read.get(name)
        if recipe is None:
            if name not in self._all():
                import difflib  # only needed to word an error

                near = difflib.get_close_matches(name, self.names, 3)
                raise JailError(
                    f"cannot find the recipe {name}: there is none of that name"
                    + (f"; near: {', '.join(near)}" if near else ""),
                    "jailbuild recipes lists them",
                )
            recipe = self._read[name] = read_recipe(*self._all()[name])
        return recipe

    def places(self, command: str) -> Iterator[str]:
        """Yield where a command may stand that no search path has: paths and patterns."""
        for name in self._own_finders:
            if command in self._all()[name][1]:
                yield from self.get(name).find.get(command, ())
        yield from self._found_by_users.get(command, ())

    @cached_property
    def _own_finders(self) -> list[str]:
        """The recipes of the package that may say where a command stands."""
        return [name for name, (file, text) in self._all().items() if "find" in text and _is_own(file)]

    @cached_property
    def _found_by_users(self) -> dict[str, list[str]]:
        """What users' own recipes say of where a command stands: they may be many."""
        found: dict[str, list[str]] = {}
        for name, (file, text) in self._all().items():
            if "find" in text and not _is_own(file):
                for command, places in self.get(name).find.items():
                    found.setdefault(command, []).extend(places)
        return found

    def whens(self) -> Mapping[str, When]:
        """Return when each recipe applies, by name; users' own files are read in full, so that a mistake is met."""
        if self._whens is None:
            self._whens = {}
            for name, (file, text) in self._all().items():
                quick = quick_when(text) if _is_own(file) else None
                self._whens[name] = self.get(name).when if quick is None else quick
        return self._whens


def _is_own(file: str) -> bool:
    """Say whether a recipe's file is the package's."""
    return os.path.dirname(file) == OWN


def _texts_in(directory: str) -> dict[str, tuple[str, str]]:
    found = {}
    try:
        for file in sorted(os.listdir(directory)):
            path = os.path.join(directory, file)
            if file.endswith(".toml") and not file.startswith("."):
                with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:
                    if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                        raise JailError(
                            f"cannot read recipes in {path}: it is no regular file",
                            "--recipes names a directory of TOML files",
                        )
                    data = opened.read(_LARGEST + 1)
                if len(data) > _LARGEST:
                    raise unusable(path, 1, f"it has more than {_LARGEST} bytes")
                try:
                    found[file.removesuffix(".toml")] = path, data.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise unusable(path, data.count(b"\n", 0, error.start) + 1, "it is not UTF-8") from None
    except OSError as error:
        raise JailError(
            f"cannot read recipes in {error.filename or directory}: {reason(error)}",
            "--recipes names a directory of TOML files",
        ) from None
    return found


def elsewhere(root: Root, command: str, catalog: RecipeCatalog) -> str | None:
    """Return where recipes say that a command stands which no search path has: of versions the highest."""
    found = [
        path for pattern in catalog.places(command) for path in expand(root, pattern) if is_executable_file(root, path)
    ]
    return max(found, key=_version, default=None)


def _version(path: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path)]


def find_named(root: Root, word: str, search_path: str, catalog: RecipeCatalog) -> Request:
    """Find what the user means by `word` as find_program does, and where recipes say that such a command stands."""
    try:
        return find_program(root, word, search_path)
    except JailError:
        if not word or "/" in word:
            raise
        path = elsewhere(root, word, catalog)
        if path is None:
            raise
        return Request(word, path)
