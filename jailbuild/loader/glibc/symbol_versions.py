"""Whether what is loaded has the versions that are asked of it: what ld.so looks at before a program starts.

Rules: glibc elf/dl-version.c (_dl_check_map_versions, match_symbol). Each loaded object is held to its DT_VERNEED: the
file named there is the loaded object of that name. One that has no versions at all is complained of, and taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from jailbuild.elf.symver import RELR, Versions
from jailbuild.loader.model import BadVersion

if TYPE_CHECKING:
    from jailbuild.loader.glibc.link_map import LinkMap, LinkMapLoader

_MARKED_SINCE = (2, 36)  # glibc that knows DT_RELR, and asks for its mark
_NUMBERED = re.compile(r"(.*?)([0-9]+(?:\.[0-9]+)*)", re.DOTALL)


class Provider(NamedTuple):
    """An object that others ask for versions."""

    path: str
    versions: Versions


Providers = dict[str, Provider | None]  # by the names that an object asks for; None for what is missing


def are_met(versions: Versions, providers: Mapping[str, Provider | None]) -> bool:
    """Say whether there is nothing to be said of the versions that an object asks for."""
    for file, asked in versions.needs:
        provider = providers.get(file)
        if provider is None or (defined := provider.versions.defined) is None or not defined.issuperset(asked):
            return False
    return not versions.load_error and not versions.unmarked


def bad_versions(
    path: str,
    versions: Versions,
    providers: Mapping[str, Provider | None],
    glibc: tuple[int, int],
) -> Iterator[BadVersion]:
    """Yield what the loader of a `glibc` says of the versions that the object at `path` asks for.

    `providers`: the loaded objects by the names asked for; None for a library that is missing, of which enough is said.
    """
    if versions.load_error:
        yield BadVersion("unreadable", path, "", "", versions.load_error)
        return
    for need in versions.needs:
        if need.file not in providers:  # "Inconsistency detected by ld.so: … Assertion `needed != NULL' failed!"
            if need.versions:
                yield BadVersion("missing-version", path, need.versions[0], need.file, "is not loaded by that name")
            continue
        provider = providers[need.file]
        if provider is None:
            continue
        defined = provider.versions.defined
        if defined is not None:
            if not defined.issuperset(need.versions):
                for version in need.versions:
                    if version not in defined:
                        yield BadVersion("missing-version", path, _named(version), need.file, has(version, defined))
        elif provider.versions.load_error:
            yield BadVersion("unreadable", provider.path, "", "", provider.versions.load_error)
        elif need.versions:
            yield BadVersion("no-version-information", path, need.versions[0], need.file, "has no versions")
    if versions.unmarked and glibc >= _MARKED_SINCE:
        yield BadVersion("unreadable", path, "", "", f"DT_RELR without {RELR} dependency")


def all_bad_versions(walk: LinkMapLoader) -> Iterator[BadVersion]:
    """Yield what the loader says of the versions of all that it has loaded (_dl_check_all_versions)."""
    names = walk.names
    for object in (walk.main, *walk.objects):  # not what stands before the program in the list
        versions = object.elf.versions
        for file, asked in versions.needs:
            known = names.get(file)
            if known is None or known.library is None or known.library.name != file:
                break
            defined = known.elf.versions.defined
            if defined is None or not defined.issuperset(asked):
                break
        else:
            if not versions.load_error and not versions.unmarked:
                continue
        yield from bad_versions(object.path, versions, providers(walk, object), walk.interpreter.version)


def providers(walk: LinkMapLoader, object: LinkMap) -> Providers:
    """Return the files that an object names in DT_VERNEED and wants by name: as loaded, None where missing."""
    found: Providers = {}
    for _, name in object.elf.wants:
        if known := walk.names.get(name):
            found[name] = Provider(known.path, known.elf.versions)
    for need in object.elf.versions.needs:
        if need.file not in found:
            if known := _called(walk, need.file):
                found[need.file] = Provider(known.path, known.elf.versions)
            elif any(missing.name == need.file for missing in walk.missing.values()):
                found[need.file] = None
    return found


def _called(walk: LinkMapLoader, name: str) -> LinkMap | None:
    """Return the loaded object of a name, if it was asked for by that, or that is its path (_dl_name_match_p).

    A SONAME alone is no such name; but for the loader's.
    """
    found = walk.names.get(name)
    if found is None or found.path == name or found.library is None or found.library.found_by == "interpreter":
        return found
    if found.library.name == name or name in walk.loader.preloads:
        return found
    asked = any(name == walk.expand(text, one) for one in walk.queue for _, text in one.elf.wants)
    return found if asked else None


def _named(version: str) -> str:
    return version.partition("\0")[0]


def has(version: str, defined: frozenset[str]) -> str:
    """Return in words what a file has instead of a version: of those with the same beginning the highest."""
    name, _, odd = version.partition("\0")
    wanted = _NUMBERED.fullmatch(name)
    if odd:
        return f"has none whose hash is {odd}"
    highest: tuple[tuple[int, ...], str] | None = None
    family = wanted[1] if wanted else name.rpartition("_")[0] + "_"
    for one in defined:
        parts = _NUMBERED.fullmatch(one)
        if parts is not None and parts[1] == family:
            number = tuple(map(int, parts[2].split(".")))
            highest = max(highest or (number, parts[2]), (number, parts[2]))
    if highest is None:
        return "has no such version"
    number, text = highest
    shown = text if family.endswith("_") else family + text
    if wanted is not None and number > tuple(map(int, wanted[2].split("."))):
        return f"has up to {shown}, and not that"
    return f"has up to {shown}"
