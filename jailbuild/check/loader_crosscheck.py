"""The box's own loader as a second opinion: it is asked for each program, isolated, and must say what we say (--run).

`LOADER --list PROGRAM` is what glibc and musl have in common: it lists and never runs the program. glibc's stops at the
first library that is missing, and goes on over missing versions (elf/rtld.c).
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from jailbuild.box.manifest import Manifest
from jailbuild.check.findings import Finding
from jailbuild.closure.programs import Part, Program
from jailbuild.enter.probe import ProbeRequest, ProbeResult, ask
from jailbuild.loader.files import File, Files
from jailbuild.root import Root

_LISTED = re.compile(r"\t(.+) => (.+) \(0x[0-9a-f]+\)")
_ALONE = re.compile(r"\t(.+) \(0x[0-9a-f]+\)")  # the loader, the kernel's own, or a name with a slash
_VERSION = re.compile(r".*: version `(.*)' not found \(required by .*\)")
_UNFOUND = re.compile(r"Error relocating (/.*): (.*): symbol not found\Z")  # musl's, which binds all at the start
_STATIC = "\tstatically linked"
_CANNOT = (errno.ENOEXEC, errno.ELIBBAD)  # execve(2): a program for another machine, and nobody runs it here
_DENIED = os.strerror(errno.EACCES)
_LONG = 200  # characters of what a loader said

Asking = Callable[[Root, str, list[ProbeRequest]], list[ProbeResult | None]]


class Said(NamedTuple):
    """What a loader says that a program would load."""

    libraries: tuple[tuple[str, str], ...]  # name and path, in its order, without itself and the kernel's own
    versions: frozenset[str]  # that are missing
    failure: str  # why it gave up; "" if it did not


def loader_findings(
    root: Root, programs: Iterable[Program], files: Files, manifest: Manifest | None, box: str, asking: Asking = ask
) -> Iterator[Finding]:
    """Yield where the loader of a root says something else than we (JailError if it cannot be asked at all)."""
    parts = _to_be_asked(root, programs, files)
    questions = [
        ProbeRequest(part.resolution.interpreter, (part.resolution.interpreter, "--list", real))
        for real, part in parts.items()
        if part.resolution.interpreter is not None
    ]
    if not questions:
        return
    for (real, part), answer in zip(parts.items(), asking(root, box, questions), strict=True):
        path = part.path
        entry = manifest.entries.get(real) if manifest is not None else None
        wanted_by = entry.wanted_by if entry is not None else ()
        interpreter = part.resolution.interpreter
        if answer is not None and answer.errno in _CANNOT:
            yield Finding(
                "loader-not-asked",
                path,
                f"{interpreter}, the loader of {path}, is for a machine that this one does not run",
                interpreter,
                requested_by=wanted_by,
            )
            continue
        if answer is not None and part.resolution.error is None and _DENIED in read_list(answer, "").failure:
            yield Finding(
                "loader-not-asked",
                path,
                f"{interpreter}, the loader of {path}, is asked without any capability, and may not read it",
                interpreter,
                requested_by=wanted_by,
            )
            continue
        unfound = _UNFOUND.match(read_list(answer, "").failure) if answer is not None else None
        if unfound and part.resolution.refusal is None and not part.resolution.missing:  # symbols are for --symbols
            yield Finding(
                "undefined-symbol",
                unfound[1],
                f"{unfound[1]} wants the symbol {unfound[2]}, which the loader of {path} does not find",
                unfound[2],
                requested_by=wanted_by,
            )
            continue
        difference = _difference(part, answer)
        if difference:
            yield Finding("loader-disagrees", path, f"{path}: {difference}", interpreter, requested_by=wanted_by)


def _to_be_asked(root: Root, programs: Iterable[Program], files: Files) -> dict[str, Part]:
    """Return what has a loader that is there, by its real path: with that the loader knows $ORIGIN as a start would."""
    found: dict[str, Part] = {}
    for program in programs:
        for part in program.parts:
            interpreter = part.resolution.interpreter
            if part.resolution.built_in is None or interpreter is None or not isinstance(files.get(interpreter), File):
                continue
            found.setdefault(root.walk(files.absolute(part.path)).real, part)
    return dict(sorted(found.items()))


def _difference(part: Part, answer: ProbeResult | None) -> str:
    """Return in words what a loader says otherwise than we; "" where both say the same."""
    if answer is None:
        return "ld.so not queried: an earlier probe timed out, or ended them all"
    if answer.errno:
        return f"its loader could not be started: {os.strerror(answer.errno)}"
    if answer.status is None:
        return "its loader went on for too long, or said too much"
    interpreter = part.resolution.interpreter or ""
    said = read_list(answer, interpreter)
    resolution = part.resolution
    started = {part.path, *[one.path for one in resolution.started]}
    missing = [
        one.name
        for one in resolution.missing  # not what is missed by something that is opened later
        if any(edge.how not in ("preload", "audit", "dlopen") and edge.by in started for edge in one.requests)
    ]
    if said.failure:
        if resolution.refusal is not None or any(name in said.failure for name in missing):
            return ""
        return f"its loader says {said.failure!r}, and this check that nothing is wrong"
    if resolution.refusal is not None:
        return f"its loader loads it, and this check says: {resolution.refusal.text}"
    if missing:
        return f"its loader finds {missing[0]}, which this check does not"
    versions = {one.version.partition("\0")[0] for one in resolution.versions if one.code == "missing-version"}
    if versions != said.versions:
        odd = sorted(versions ^ said.versions)[0]
        misses, other = ("its loader", "this check") if odd in said.versions else ("this check", "its loader")
        return f"{misses} misses the version {odd}, and {other} does not"
    ours = [(one.name, one.path) for one in resolution.started if one.found_by != "interpreter"]
    for mine, theirs in zip(ours, said.libraries, strict=False):
        if mine != theirs:
            return f"its loader loads {theirs[0]} from {theirs[1]}, where this check has {mine[0]} from {mine[1]}"
    if len(ours) != len(said.libraries):
        more, who = (ours, "this check") if len(ours) > len(said.libraries) else (said.libraries, "its loader")
        return f"{more[min(len(ours), len(said.libraries))][0]} is loaded by {who} alone"
    return ""


def read_list(answer: ProbeResult, interpreter: str) -> Said:
    """Read what `LOADER --list` printed; `interpreter` is the loader."""
    libraries = []
    versions = set()
    failure = ""
    for line in answer.text.splitlines():
        if match := _LISTED.fullmatch(line):
            if match[2] != interpreter and match[1] != interpreter:
                libraries.append((match[1], match[2]))
        elif match := _ALONE.fullmatch(line):
            if match[1] != interpreter and match[1].startswith("/"):
                libraries.append((match[1], match[1]))
        elif match := _VERSION.fullmatch(line):
            versions.add(match[1])
        elif line and line != _STATIC:
            failure = failure or line
    if answer.status == 0:
        failure = ""  # words of warning
    elif not failure:
        failure = f"nothing, and ends with {answer.status}"
    return Said(tuple(libraries), frozenset(versions), failure[:_LONG])
