"""All that glibc's loader does for one program: what it loads, what it says of versions, who audits, what is opened."""

from __future__ import annotations

from functools import partial

from jailbuild.loader import paths
from jailbuild.loader.files import File
from jailbuild.loader.glibc.config import LdsoConfig
from jailbuild.loader.glibc.link_map import LinkMapLoader
from jailbuild.loader.glibc.linker import Glibc
from jailbuild.loader.glibc.symbol_versions import Providers, all_bad_versions, providers
from jailbuild.loader.model import BadVersion, FatalError, Library, Resolution, Unopened, unreadable


def load(loader: Glibc, interpreter: LdsoConfig, path: str, file: File) -> tuple[Resolution, Providers]:
    """Return what the loader `interpreter` loads for the program in `file`, and who of it has which versions."""
    try:
        walk = LinkMapLoader(loader, interpreter, path, file)
        walk.search.begin(path)
        return _run(walk), providers(walk, walk.main)
    except paths.TooLongError as error:
        return Resolution(file.elf.interpreter, error=unreadable(path, str(error)), built_in=interpreter), {}


def _run(walk: LinkMapLoader) -> Resolution:
    error = None
    unopened: tuple[Unopened, ...] = ()
    versions: tuple[BadVersion, ...] = ()
    walk.place(walk.main)
    try:
        walk.preload()
        walk.load_all()
        versions = tuple(all_bad_versions(walk))  # what is opened later is held to its own when it is opened
        if walk.loader.opening.level != "none":
            unopened = _opened(walk)
    except FatalError as fatal:
        error = fatal.refusal
    libraries = [object.library for object in (*walk.hidden, *walk.objects) if object.library is not None]
    if walk.hidden:
        libraries = _each_once(libraries)
    if error is None and walk.main.elf.audit:
        from jailbuild.loader.glibc.audit import audited  # seldom needed

        try:
            libraries += audited(walk, libraries)
        except FatalError as fatal:
            error = fatal.refusal
    return Resolution(
        walk.main.elf.interpreter,
        tuple(libraries),
        tuple(walk.missing.values()),
        error,
        walk.interpreter,
        walk.needed,
        versions if error is None else (),
        unopened,
    )


def _opened(walk: LinkMapLoader) -> tuple[Unopened, ...]:
    """Let the walk load what is opened while the program runs; return what is not there and can be done without."""
    opening = walk.loader.opening
    if not opening.unwinding and not any(object.elf.dlopens for object in walk.queue):
        return ()
    from jailbuild.loader.dlopen import open_all  # seldom needed

    if not opening.unwinding:
        return open_all(walk, opening.level)
    from jailbuild.loader.glibc.libgcc import libc_that_unwinds  # only for boxes

    return open_all(walk, opening.level, partial(libc_that_unwinds, walk))


def _each_once(libraries: list[Library]) -> list[Library]:
    """Return the libraries with those that were loaded twice only where they were loaded last, asked for by all."""
    found: dict[str, Library] = {}
    for library in libraries:
        before = found.pop(library.path, None)
        requests = [*before.requests, *library.requests] if before is not None else library.requests
        found[library.path] = library
        library.requests = list(dict.fromkeys(requests))
    return list(found.values())
