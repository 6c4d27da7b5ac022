"""musl's loader of one root, and what it remembers from one program to the next.

What it does for one program stands in link_map.py.
"""

from __future__ import annotations

import os
import re

from jailbuild.elf.defined import defines
from jailbuild.loader.files import File, Files
from jailbuild.loader.model import NOTHING, Opening, Requesters
from jailbuild.loader.musl.config import PASSED_OVER, split

_LIBC = ("__libc_start_main", "stdin")  # what defines both is a libc, which must not come in twice
_SPACE = re.compile("[ \t\n\v\f\r:]+")  # isspace(3), and the colon


class Musl:
    """musl's loader of one root under one LD_LIBRARY_PATH and one LD_PRELOAD, and what it remembers."""

    def __init__(self, files: Files, library_path: str, preloads: tuple[str, ...], opening: Opening = NOTHING) -> None:
        """Take what counts for each program; `opening` says what is followed of what they open while they run."""
        self.files = files
        self.library_path = split(library_path)
        self.preloads = tuple([name for text in preloads for name in _SPACE.split(text) if name])
        self.opening = opening
        self.needed = Requesters()
        self._libcs: dict[tuple[int, int], bool] = {}
        self._there: dict[tuple[str, ...], tuple[str, ...]] = {}

    def knows(self, directories: tuple[str, ...]) -> bool:
        """Say whether `there` has looked at a list before."""
        return directories in self._there

    def there(self, directories: tuple[str, ...]) -> tuple[str, ...]:
        """Return those of a list in which something may be: in the others every look-up would be passed over."""
        known = self._there.get(directories)
        if known is None:
            known = self._there[directories] = tuple([one for one in directories if self._is_there(one)])
        return known

    def _is_there(self, directory: str) -> bool:
        try:
            self.files.root.walk(self.files.absolute(directory))
        except OSError as error:
            return error.errno not in PASSED_OVER
        except ValueError:  # a NUL in the name
            return False
        return True

    def is_libc(self, path: str, file: File) -> bool:
        """Say whether a file is a libc, glibc's or musl's, whatever it is called."""
        identity = file.device, file.inode
        known = self._libcs.get(identity)
        if known is None:
            known = False
            try:
                opened = self.files.root.open(self.files.absolute(path))
                try:
                    known = defines(opened, file.elf, _LIBC)
                finally:
                    os.close(opened)
            except OSError:
                pass
            self._libcs[identity] = known
        return known
