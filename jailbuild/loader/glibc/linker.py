"""glibc's loader of one root, and what it remembers from one program to the next.

What it loads for one program stands in program.py.
"""

from __future__ import annotations

from jailbuild.loader import arch, paths
from jailbuild.loader.files import Files
from jailbuild.loader.glibc.config import LdsoConfig
from jailbuild.loader.glibc.search import Search
from jailbuild.loader.model import NOTHING, Opening, Requesters


class Glibc:
    """glibc's loader of one root under one LD_LIBRARY_PATH and one LD_PRELOAD, and what it remembers."""

    def __init__(self, files: Files, library_path: str, preloads: tuple[str, ...], opening: Opening = NOTHING) -> None:
        """Take what counts for each program; `opening` says what is followed of what they open while they run."""
        self.files = files
        self.library_path = library_path
        self.preloads = preloads
        self.opening = opening
        self._searches: dict[tuple[str, arch.ElfTarget, tuple[str, ...]], Search] = {}
        self._lists: dict[tuple[str, str, paths.Tokens | None], tuple[str, ...]] = {}
        self.needed = Requesters()

    def directories(self, text: str, separators: str, tokens: paths.Tokens | None) -> tuple[str, ...]:
        """Return the directories of a list; `tokens` may be None where the text has no "$"."""
        key = text, separators, tokens
        known = self._lists.get(key)
        if known is None:
            known = self._lists[key] = paths.directories(text, separators, tokens or paths.Tokens(None, None, None))
        return known

    def search(self, interpreter: LdsoConfig, library_path: tuple[str, ...]) -> Search:
        """Return the search that one loader makes under one LD_LIBRARY_PATH, with what it remembers."""
        key = (interpreter.name, interpreter.kind, library_path)
        search = self._searches.get(key)
        if search is None:
            search = self._searches[key] = Search(self.files, interpreter, library_path)
        return search
