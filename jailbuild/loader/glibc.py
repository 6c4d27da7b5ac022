"""glibc's loader of one root, and what it remembers from one program to the next.

What it does for one program stands in glibc_walk.py.
"""

from __future__ import annotations

from jailbuild.loader import machines, paths
from jailbuild.loader.builtin import BuiltIn
from jailbuild.loader.files import File, Files
from jailbuild.loader.glibc_walk import Walk
from jailbuild.loader.resolution import NOTHING, Askers, Opening, Resolution, unreadable
from jailbuild.loader.search import Search
from jailbuild.loader.versions import Providers, providers


class Glibc:
    """glibc's loader of one root under one LD_LIBRARY_PATH and one LD_PRELOAD, and what it remembers."""

    def __init__(
        self, files: Files, library_path: str, preloads: tuple[str, ...], opening: Opening = NOTHING
    ) -> None:
        """Take what counts for each program; `opening` says what is followed of what they open while they run."""
        self.files = files
        self.library_path = library_path
        self.preloads = preloads
        self.opening = opening
        self._searches: dict[tuple[str, machines.Kind, tuple[str, ...]], Search] = {}
        self._lists: dict[tuple[str, str, paths.Tokens | None], tuple[str, ...]] = {}
        self.needed = Askers()

    def load(self, interpreter: BuiltIn, path: str, file: File) -> tuple[Resolution, Providers]:
        """Return what the loader `interpreter` loads for the program in `file`, and who of it has which versions."""
        try:
            walk = Walk(self, interpreter, path, file)
            walk.search.begin(path)
            return walk.run(), providers(walk, walk.main)
        except paths.TooLongError as error:
            return Resolution(file.elf.interpreter, error=unreadable(path, str(error)), built_in=interpreter), {}

    def directories(self, text: str, separators: str, tokens: paths.Tokens | None) -> tuple[str, ...]:
        """Return the directories of a list; `tokens` may be None where the text has no "$"."""
        key = text, separators, tokens
        known = self._lists.get(key)
        if known is None:
            known = self._lists[key] = paths.directories(text, separators, tokens or paths.Tokens(None, None, None))
        return known

    def search(self, interpreter: BuiltIn, library_path: tuple[str, ...]) -> Search:
        """Return the search that one loader makes under one LD_LIBRARY_PATH, with what it remembers."""
        key = (interpreter.name, interpreter.kind, library_path)
        search = self._searches.get(key)
        if search is None:
            search = self._searches[key] = Search(self.files, interpreter, library_path)
        return search
