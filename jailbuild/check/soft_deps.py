"""What programs of a root miss without saying so, told once for each thing, with the command that mends it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from jailbuild.box.confined_fs import can_make_devices
from jailbuild.box.manifest import Manifest
from jailbuild.check.findings import Finding
from jailbuild.closure.programs import Program
from jailbuild.closure.soft_deps import DLOPEN, Want, absent, asked_and_absent, imports, reason_for
from jailbuild.loader.files import File, Files
from jailbuild.names import command_line, operand
from jailbuild.root import Root

_FEW = 3  # names of programs


def silent_findings(
    root: Root, programs: Iterable[Program], files: Files, manifest: Manifest | None, box: str
) -> Iterator[Finding]:
    """Yield what the programs miss: of a box those that were asked for, of another root the first that misses it."""
    asked = list(programs)
    covered: Collection[str] = ()
    if manifest is not None:
        covered = _covered(manifest)
        own = {one.path for one in manifest.requests.values() if one.type == "program"}
        asked = [program for program in asked if program.path in own]
    wants = [want for want in absent(root) if not _is_intended(manifest, want)]
    told: dict[str, list[tuple[str, str]]] = {}  # by code: programs, and why
    for program in asked if wants or manifest is not None else ():
        left = [want for want in wants if manifest is not None or want.code not in told]
        if not left and manifest is None:
            break
        symbols = imports(root, program)
        for want in left:
            if (why := reason_for(root, program, want, symbols)) is not None:
                told.setdefault(want.code, []).append((program.path, why))
        if (
            manifest is not None
            and (found := sorted(DLOPEN & symbols))
            and not (_tells(files, program) or program.path in covered)
        ):
            yield Finding(
                "uncovered-dlopen",
                program.path,
                f"{program.path} imports {found[0]}, and no recipe knows what it opens",
                found[0],
                requested_by=_requested_by(manifest, program.path),
                hint=command_line("jailbuild", "enter", "--env", "LD_DEBUG=files", operand(box), program.path),
            )
    for want in wants:
        if some := told.get(want.code):
            path, why = some[0]
            others = "".join(f", {one}" for one, _ in some[1:_FEW])
            more = f" and {len(some) - _FEW} more" if len(some) > _FEW else ""
            yield Finding(
                want.code,
                path,
                f"{path} {why}{f'; so do others ({others[2:]}{more})' if others else ''}: {want.what}",
                want.places[0],
                want.places,
                _requested_by(manifest, path) if manifest is not None else (),
                _adding(box, "--with", want.recipe),
            )
    for program in asked:
        if _uses_origin(files, program):
            yield Finding(
                "origin-needs-proc",
                program.path,
                f"{program.path} finds libraries by $ORIGIN, and without /proc the loader does not know where that is",
                "$ORIGIN",
                requested_by=_requested_by(manifest, program.path) if manifest is not None else (),
                hint=command_line("jailbuild", "enter", operand(box), program.path),
            )
    for one in asked_and_absent(root):
        option = ("--with", "zones") if one.code == "absent-zone" else ("--locale", one.name)
        kind = one.code.removeprefix("absent-")
        yield Finding(
            one.code,
            one.path,
            f"{one.path} asks for the {kind} {one.name}, which is not there",
            one.name,
            hint=_adding(box, *option),
        )


def _is_intended(manifest: Manifest | None, want: Want) -> bool:
    """Say whether an absent device will be there: whoever uses a root that is no box gives it its /dev.

    In a box where the caller can make none it is recorded, and there is nothing to mend.
    """
    if manifest is None:
        return want.code == "no-dev-null"
    if can_make_devices():
        return False
    return any(manifest.entries[place].type == "device" for place in want.places if place in manifest.entries)


def _adding(box: str, *words: str) -> str:
    return command_line("jailbuild", "add", *words, "--into", box)


def _requested_by(manifest: Manifest, path: str) -> tuple[str, ...]:
    entry = manifest.entries.get(path)
    return entry.wanted_by if entry is not None else ()


def _covered(manifest: Manifest) -> frozenset[str]:
    """Return the paths of programs that a recipe is for, and of those for which nobody who asked wanted one."""
    wanted = {one.path for one in manifest.requests.values() if not one.bare}
    bare = {one.path for one in manifest.requests.values()} - wanted
    told = {
        step.by
        for entry in manifest.entries.values()
        for step in entry.reasons
        if step.recipe and step.cause.startswith("program ")
    }
    return frozenset(bare | told)


def _tells(files: Files, program: Program) -> bool:
    """Say whether a program's own notes tell what it opens."""
    file = files.get(program.path)
    return isinstance(file, File) and bool(file.elf.dlopens)


def _uses_origin(files: Files, program: Program) -> bool:
    file = files.get(program.path) if program.type == "elf" else 0
    if not isinstance(file, File):
        return False
    return any("ORIGIN" in text for text in (file.elf.rpath or "", file.elf.runpath or ""))
