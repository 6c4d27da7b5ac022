"""The files of one root as the loader meets them: each opened and read once, however many programs need it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from typing import NamedTuple

from jailbuild.elf.reader import Elf, read_elf
from jailbuild.loader.glibc.ld_cache import Cache, CacheError, read_cache
from jailbuild.loader.probe import LdsoProperties, read_facts
from jailbuild.root import Root

_MAX_CACHE = 8 << 20  # bytes
_MAX_LOADER = 8 << 20  # bytes; ld.so has some 200 kB


class File(NamedTuple):
    """A file that could be opened: its identity, and what it says."""

    device: int
    inode: int
    elf: Elf


class Files:
    """Files by path, for one root. `directory` is the current one, which relative paths start from."""

    def __init__(self, root: Root, directory: str = "/") -> None:
        self.root = root
        self.directory = directory.rstrip("/") + "/"
        self._facts: dict[tuple[int, int], LdsoProperties] = {}
        self.unwinding: dict[tuple[int, int], bool] = {}  # who calls for libgcc_s, by identity
        self._known: dict[tuple[int, int], File] = {}
        self._by_path: dict[str, File | int] = {}
        self._learned: Mapping[str, File] = {}
        self._caches: dict[str, Cache | None] = {}

    def sharing(self, root: Root) -> Files:
        """Return the files of another root, with what is known of the same files kept."""
        files = Files(root)
        files._known, files._facts, files.unwinding = self._known, self._facts, self.unwinding
        return files

    def learn(self, files: Mapping[str, File]) -> None:
        """Take files that were read already, by canonical path; they are not opened again by any of their paths."""
        self._learned = files
        self._by_path.update(files)
        self._known.update({(file.device, file.inode): file for file in files.values()})

    def absolute(self, path: str) -> str:
        """Return `path` from the root on."""
        return path if path.startswith("/") else self.directory + path

    def get(self, path: str) -> File | int:
        """Return the file at `path`, or the errno of the failure to open it."""
        file = self._by_path.get(path)
        if file is None:
            file = self._by_path[path] = self._open(self.absolute(path))
        return file

    def _open(self, path: str) -> File | int:
        try:
            known = self._learned.get(self.root.walk(path).real) if self._learned else None
            if known is not None:
                return known
            opened = self.root.open(path)
        except OSError as error:
            return error.errno or errno.EIO
        except ValueError:  # a NUL in the name: no such file can be
            return errno.ENOENT
        try:
            status = os.fstat(opened)
            self.root.saw(path, status)
            device, inode = identity = status.st_dev, status.st_ino
            file = self._known.get(identity)
            if file is None:
                file = self._known[identity] = File(device, inode, self._read(opened, status.st_mode))
            return file
        except OSError as error:
            return error.errno or errno.EIO
        finally:
            os.close(opened)

    @staticmethod
    def _read(opened: int, mode: int) -> Elf:
        if stat.S_ISDIR(mode):
            return Elf(ident_error="cannot read file data: Is a directory")
        if not stat.S_ISREG(mode):
            return Elf(ident_error="not a regular file")
        return read_elf(opened)

    def cache(self, path: str) -> Cache | None:
        """Return the ld.so.cache at `path`; None if there is none to be read, as the loader takes it."""
        if path not in self._caches:
            self._caches[path] = None
            try:
                self._caches[path] = read_cache(self.root.read(path, _MAX_CACHE))
            except (OSError, CacheError):
                pass
        return self._caches[path]

    def facts(self, path: str, loader: File) -> LdsoProperties:
        """Return what the bytes of a loader tell, which is at `path`; nothing where they cannot be read."""
        identity = loader.device, loader.inode
        known = self._facts.get(identity)
        if known is None:
            try:
                known = read_facts(self.root.read(self.absolute(path), _MAX_LOADER))
            except OSError:
                known = LdsoProperties()
            self._facts[identity] = known
        return known

    def is_directory(self, path: str) -> bool:
        """Say whether a directory is at `path` (a search list's element)."""
        return self.root.is_directory(self.absolute(path))
