"""Every symbol that a program and its libraries want must be found, as `ldd -r` or musl's loader says (--symbols)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

from jailbuild.box.manifest import Manifest
from jailbuild.check.findings import Finding, readd_command
from jailbuild.closure.programs import Program
from jailbuild.elf.musl_relocs import read_musl_linkage
from jailbuild.elf.relocs import Linkage, read_linkage
from jailbuild.loader.files import Files
from jailbuild.loader.musl.config import MuslConfig
from jailbuild.loader.symbols import Symbols, Unfound
from jailbuild.root import Root

_FEW = 3  # names of programs


def symbol_findings(
    root: Root, programs: Iterable[Program], files: Files, manifest: Manifest | None, box: str
) -> Iterator[Finding]:
    """Yield what is not found: of a library once, with the programs for which it is not.

    Of what is missing anyhow, a library or a version, no more is said than that.
    """

    def reading(read: Callable[[int], Linkage]) -> Symbols:
        def read_path(path: str) -> Linkage:
            opened = root.open(path)
            try:
                return read(opened)
            finally:
                os.close(opened)

        return Symbols(files, read_path)

    glibc, musl = reading(read_linkage), reading(read_musl_linkage)
    found: dict[Unfound, list[str]] = {}
    seen = set()
    for program in programs:
        for part in program.parts:
            resolution = part.resolution
            if part.path in seen or resolution.missing or resolution.error is not None:
                continue
            seen.add(part.path)
            symbols = musl if isinstance(resolution.built_in, MuslConfig) else glibc
            for unfound in symbols.unfound(part.path, resolution):
                found.setdefault(unfound, []).append(part.path)
    for unfound, some in found.items():
        reference = unfound.reference
        wanted_by: tuple[str, ...] = ()
        if manifest is not None:
            real = root.walk(unfound.by).real
            entry = manifest.entries.get(real)
            wanted_by = entry.wanted_by if entry is not None else ()
        why = f" {unfound.why}" if unfound.why else ""
        yield Finding(
            "undefined-function" if reference.lazy else "undefined-symbol",
            unfound.by,
            f"{unfound.by} wants the symbol {reference.name}{why}{_for(unfound.by, some)}",
            reference.name,
            requested_by=wanted_by,
            hint=readd_command(manifest, wanted_by, box) if manifest is not None else None,
        )


def _for(path: str, programs: list[str]) -> str:
    """Return in words for which programs an object of theirs does not find something."""
    if programs == [path]:
        return ", which nothing that it loads has"
    more = f" and {len(programs) - _FEW} more" if len(programs) > _FEW else ""
    return f", which nothing has that {', '.join(programs[:_FEW])}{more} {'load' if programs[1:] else 'loads'}"
