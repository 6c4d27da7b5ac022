"""The library that glibc opens by itself: libgcc_s, for threads that end early and for backtraces."""

from __future__ import annotations

import os

from jailbuild.elf.dlopen_notes import Dlopen
from jailbuild.loader.files import File, Files
from jailbuild.loader.glibc.link_map import LinkMap, LinkMapLoader
from jailbuild.loader.model import UNWINDER

# glibc opens it when one of these is first called, and ends the whole program where it is not there (pthread_exit and
# pthread_cancel: nptl; sysdeps/generic/unwind-resume.c, misc/unwind-link.c; backtrace: debug/backtrace.c)
_UNWINDING = ("pthread_cancel", "pthread_exit", "thrd_exit", "backtrace")
_NOTE = Dlopen((UNWINDER,), feature="unwinding", description="threads that end early, and backtraces")
_LIBC = "libc.so.6"


def unwinds(files: Files, path: str, file: File) -> bool:
    """Say whether a file calls for what glibc opens libgcc_s for."""
    identity = file.device, file.inode
    known = files.unwinding.get(identity)
    if known is None:
        known = files.unwinding[identity] = _imports(files, path)
    return known


def _imports(files: Files, path: str) -> bool:
    try:
        opened = files.root.open(files.absolute(path))
    except OSError:
        return False
    from jailbuild.elf.dynsym import imports_any  # only for boxes

    try:
        return imports_any(opened, _UNWINDING)
    except OSError:
        return False
    finally:
        os.close(opened)


def libc_that_unwinds(walk: LinkMapLoader) -> tuple[LinkMap, Dlopen] | None:
    """Return glibc's libc, and what it opens, if anything loaded calls for that, and it is not there yet."""
    libc = walk.names.get(_LIBC)
    if libc is None or libc.library is None or UNWINDER in walk.names:
        return None
    for object in walk.queue:
        if object is libc or object.path == walk.interpreter.name:
            continue  # they have what others call for
        if unwinds(walk.loader.files, object.path, walk.file if object.library is None else object.library.file):
            return libc, _NOTE
    return None
