"""The libraries that audit a program, as its DT_AUDIT and DT_DEPAUDIT ask for (elf/rtld.c: load_audit_modules)."""

from __future__ import annotations

from jailbuild.loader.glibc.link_map import LinkMapLoader
from jailbuild.loader.glibc.search import Found, Scope
from jailbuild.loader.model import Edge, FatalError, Library, Missing, TooMuchError


def audited(walk: LinkMapLoader, libraries: list[Library]) -> list[Library]:
    """Return the auditing libraries of a program with what they need, each set in a namespace of its own.

    The loader itself asks for them: DF_1_NODEFLIB of the program does not count, and its DT_RUNPATH, from glibc
    2.35 on, as if it were a DT_RPATH. What is missing is noted (TooMuchError).
    """
    main = walk.main
    scope = main.below
    runpath = walk.directories(main.elf.runpath, main)
    if runpath and walk.interpreter.version >= (2, 35):
        scope = Scope((runpath,), (), False)
    found = {library.path: library for library in libraries}
    request = Edge(main.path, "audit")
    for text in main.elf.audit:
        name = walk.expand(text, main)
        if name is None:
            walk.note_missing(Missing(text, ("empty dynamic string token substitution",), [request], ()))
            continue
        outcome = walk.search.find(name, scope)
        if outcome is None:
            walk.note_missing(walk.search.missing(name, scope, request))
        elif isinstance(outcome, FatalError):  # "cannot be loaded as audit interface; ignored"
            walk.note_missing(Missing(name, (str(outcome),), [request], ()))
        else:
            _load(walk, name, outcome, request, scope, found)
    return list(found.values())[len(libraries) :]


def _load(
    walk: LinkMapLoader, name: str, auditor: Found, request: Edge, scope: Scope, found: dict[str, Library]
) -> None:
    own = LinkMapLoader(walk.loader, walk.interpreter, auditor.path, auditor.file, walk.search, scope)
    own.place(own.main)
    try:
        own.load_all()
    except TooMuchError:
        raise
    except FatalError as fatal:
        walk.note_missing(Missing(name, (str(fatal),), [request], ()))
    library = Library(name, auditor.path, auditor.found_by, auditor.file, request)
    for one in (library, *[object.library for object in (*own.hidden, *own.objects) if object.library]):
        known = found.setdefault(one.path, one)
        if known is not one:
            known.requests += [edge for edge in one.requests if edge not in known.requests]
    for missing in own.missing.values():
        walk.note_missing(missing)
