"""A plan as the POSIX shell script that somebody would have written by hand."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence

from jailbuild.box.plan import Action

_SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ./:_-+=@,")


def script(actions: Sequence[Action], made: Mapping[str, bytes], box: str, source_of: Callable[[str], str]) -> str:
    """Return the mkdir, cp, ln, chmod and printf commands that do what a plan would, without a manifest.

    `source_of` gives the host's path of what is copied to a path of the box. Names keep their bytes
    (surrogateescape).
    """
    changes = [action for action in actions if action.kind in ("add", "replace")]
    lines = [
        "#!/bin/sh",
        "# Makes the box by hand: the directories, then the files, then the links.",
        "set -eu",
        "umask 022",
        f"box={_word(box)}",
        "",
        'mkdir -p "$box"',
    ]
    lines += [_directory(action) for action in changes if action.entry.type == "directory"]
    lines.append("")
    for action in changes:
        if action.entry.type == "file":
            lines += _file(action, made, source_of)
    lines += [
        f"ln -s {_operand(action.entry.target or '')} {_in_box(action.entry.path)}"
        for action in changes
        if action.entry.type == "link"
    ]
    lines += [_device(action) for action in changes if action.entry.type == "device"]
    return "\n".join(lines) + "\n"


def _word(path: str) -> str:
    """Return a path as one word of the shell; what begins with "-" is no option."""
    return shlex.quote(f"./{path}" if path.startswith("-") else path)


def _operand(text: str) -> str:
    """Return text as the first operand of a command, to the letter."""
    return f"-- {shlex.quote(text)}" if text.startswith("-") else shlex.quote(text)


def _in_box(path: str) -> str:
    return f'"$box"{shlex.quote(path)}'


def _directory(action: Action) -> str:
    where = _in_box(action.entry.path)
    mode = action.entry.mode or 0
    made = f"mkdir -p {where}" if mode == 0o755 else f"mkdir -p {where} && chmod {mode:04o} {where}"
    return f"{made}{_owned(action)}" if action.entry.source is None else made


def _owned(action: Action) -> str:
    """Return the command that gives what is made an owner other than root."""
    entry = action.entry
    return f" && chown {entry.uid}:{entry.gid} {_in_box(entry.path)}" if entry.uid or entry.gid else ""


def _device(action: Action) -> str:
    kind, major, minor = action.entry.device or ("c", 0, 0)
    where = _in_box(action.entry.path)
    return f"mknod -m {action.entry.mode or 0:04o} {where} {kind} {major} {minor}{_owned(action)}"


def _file(action: Action, made: Mapping[str, bytes], source_of: Callable[[str], str]) -> list[str]:
    entry = action.entry
    where = _in_box(entry.path)
    if entry.path in made:
        return [
            f"printf {shlex.quote(_octal(made[entry.path]))} > {where}",
            f"chmod {entry.mode or 0:04o} {where}{_owned(action)}",
        ]
    if entry.hardlink is not None and entry.hardlink != entry.path:
        return [f"ln {_in_box(entry.hardlink)} {where}"]
    source = source_of(entry.path)
    copied = [f"cp -p {_word(source)} {where}"]
    if entry.mode is not None and _mode_of(source) != entry.mode:
        copied.append(f"chmod {entry.mode:04o} {where}")
    return copied


def _mode_of(source: str) -> int | None:
    try:
        return os.stat(source).st_mode & 0o7777
    except OSError:
        return None


def _octal(data: bytes) -> str:
    return "".join(chr(byte) if byte in _SAFE else f"\\{byte:03o}" for byte in data)
