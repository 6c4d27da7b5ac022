"""Why can this not start? In words, for `enter` and `check` alike."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from jailbuild.closure.commands import find_command
from jailbuild.closure.programs import Program, Programs
from jailbuild.errors import reason
from jailbuild.loader.files import Files
from jailbuild.loader.model import Edge, Missing, Refusal, Unopened
from jailbuild.loader.resolver import Loader
from jailbuild.names import command_line, operand, quoted
from jailbuild.root import Root

_SHELLS = frozenset(("sh", "ash", "bash", "busybox", "dash", "fish", "ksh", "mksh", "rbash", "zsh"))
_OFTEN_FATAL = ("no-user-database", "no-tls-roots", "no-dev-null")  # without the others programs mostly go on


class Problem(NamedTuple):
    """One thing that keeps a program from starting: a code of `check`, what it is about, one line of text."""

    code: str
    subject: str
    text: str
    searched: tuple[str, ...] = ()


def _where(missing: Missing) -> str:
    if not missing.searched:
        return "not found (no directories searched)"
    return f"which is in none of: {', '.join(missing.searched)}"


def missing_text(path: str, missing: Missing) -> str:
    """Return one line for a library that is nowhere: who needs it, and where it was looked for."""
    by = list(dict.fromkeys(request.by for request in missing.requests))
    who = path if path in by else f"{path} (through {by[0]})"
    over = f"; passed over: {'; '.join(missing.passed_over)}" if missing.passed_over else ""
    others = f" (or {' or '.join(missing.alternatives)})" if missing.alternatives else ""
    where = _where(missing)
    return f"{who} needs {missing.name}{others}, {where}{over}"


def unopened_text(unopened: Unopened) -> str:
    """Return one line for a library that would be opened while a program runs, and cannot be."""
    by, note, missing = unopened
    name = " or ".join(note.sonames)
    what = f"{note.priority}, for {note.feature}" if note.feature else note.priority
    needed_by = missing.requests[0]
    if needed_by != Edge(by, "dlopen"):  # it is there
        return f"{by} would open {name} ({what}), but {missing_text(needed_by.by, missing)}"
    return f"{by} would open {name} ({what}), {_where(missing)}"


def problems(program: Program, whose: str = "its") -> list[Problem]:
    """Return what keeps a resolved program from starting, in the order in which it would be met.

    `whose` are the libraries in words.
    """
    found = []
    if program.error is not None and program.error not in _by_versions(program):
        found.append(Problem(program.error.code, program.error.subject, _named(program)))
    for missing in program.missing:
        if all(edge.how == "preload" for edge in missing.requests):  # the loader says so and goes on
            continue
        found.append(Problem("missing-library", missing.name, missing_text(program.path, missing), missing.searched))
    for part in program.parts:
        if part.resolution.refusal is None:
            found += [
                Problem(bad.code, bad.refusal(part.path).subject, bad.text(program.path, whose))
                for bad in part.resolution.versions
                if bad.is_fatal
            ]
    return found


def _by_versions(program: Program) -> list[Refusal]:
    return [
        part.resolution.error
        for part in program.parts
        if part.resolution.error is not None and part.resolution.refusal is None
    ]


def _named(program: Program) -> str:
    assert program.error is not None
    text = program.error.text
    return text if text.startswith(program.path) else f"{program.path}: {text}"


def add_command(names: list[str], box: str) -> str:
    """Return the command that puts programs into a box, ready for a shell."""
    return command_line("jailbuild", "add", *names, "--into", box)


def explain_start(root: Root, command: str, box: str, search_path: str) -> tuple[str, str] | None:
    """Say why `command` (a path in the root, or a name on the search path) cannot start there, and how to mend it.

    Returns one line and the `jailbuild add` for it; None when nothing is missing.
    """
    path = command if "/" in command else find_command(root, command, search_path)
    if path is None:
        why = f"cannot start {command}: there is no such program in {box}"
        return why, add_command([command], box)
    files = Files(root)
    try:
        program = Programs(files, Loader(files), search_path).resolve(path)
    except OSError as error:
        if not os.path.isabs(path):
            return None
        return f"cannot start {command}: {path} in {box}: {reason(error)}", add_command([command], box)
    found = problems(program, "the box's")
    if not found:
        return _origin(root, program, files, command, box)
    wanted = found[0].subject if found[0].code == "missing-script-interpreter" else command
    return f"cannot start {command}: {found[0].text}", add_command([wanted], box)


def explain_failure(
    root: Root, command: str, box: str, search_path: str, asked: dict[str, str], *, has_dev: bool
) -> list[tuple[str, str]]:
    """Say what a command that ended badly may have missed in silence, each with the `jailbuild add` that brings it.

    `asked` is what of the environment the user set; `has_dev` says that it had a /dev/null, or cannot mean that.
    """
    from jailbuild.closure import soft_deps  # only for what went wrong

    path = command if "/" in command else find_command(root, command, search_path)
    files = Files(root)
    found = []
    try:
        program = None if path is None else Programs(files, Loader(files), search_path).resolve(path)
    except OSError:
        program = None
    # the status of a shell is that of what it ran
    if program is not None and program.error is None and os.path.basename(command) not in _SHELLS:
        symbols = soft_deps.imports(root, program)
        for want in soft_deps.absent(root):
            if (
                want.code in _OFTEN_FATAL
                and not (has_dev and want.code == "no-dev-null")
                and (why := soft_deps.reason_for(root, program, want, symbols))
            ):
                found.append((f"{command} {why}, and {want.what}", add_command(["--with", want.recipe], box)))
    for one in soft_deps.environment_absent(root, asked.items()):
        words = ["--with", "zones"] if one.code == "absent-zone" else ["--locale", one.name]
        found.append((f"{one.path} asks for {one.name}, which is not there", add_command(words, box)))
    return found


def _origin(root: Root, program: Program, files: Files, command: str, box: str) -> tuple[str, str] | None:
    """Say that a program's own $ORIGIN cannot be known: the loader asks /proc/self/exe (elf/dl-origin.c)."""
    file = files.get(program.path)
    if isinstance(file, int) or _exists(root, "/proc/self/exe"):
        return None
    if not any("$ORIGIN" in text or "${ORIGIN}" in text for text in (file.elf.rpath or "", file.elf.runpath or "")):
        return None
    why = f"it finds its libraries by $ORIGIN, and there is no /proc in {box} to tell where it is"
    return f"cannot start {command}: {why}", f"mount --bind /proc {quoted(operand(box))}/proc"


def explain_denied(root: Root, path: str) -> str | None:
    """Say why exec(2) answers EACCES for a path of the root; None where nothing is to be seen."""
    try:
        status = root.stat(path)
        where = os.statvfs(root.host_path(root.walk(path).real))
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return "it is a directory" if stat.S_ISDIR(status.st_mode) else "it is not a regular file"
    if not status.st_mode & 0o111:
        return "it has no execute permission"
    return "its file system is mounted noexec" if where.f_flag & os.ST_NOEXEC else None


def _exists(root: Root, path: str) -> bool:
    try:
        root.lstat(path)
    except OSError:
        return False
    return True
