"""The #! line, as the kernel reads it, and what env makes of its argument.

Sources: Linux fs/binfmt_script.c, execve(2), env(1).
"""

from __future__ import annotations

import re
import shlex
from typing import NamedTuple

LINE = 256  # bytes; BINPRM_BUF_SIZE


class Interpreter(NamedTuple):
    """What a #! line names: the interpreter, and the one argument that it is given."""

    path: str
    argument: str | None


class Lookup(NamedTuple):
    """What env looks for, and on which PATH if the line sets one."""

    name: str
    search_path: str | None


def read_line(head: bytes) -> Interpreter | str | None:
    """Read the first LINE bytes of a file: None if it is no script, a str that says why the kernel refuses it."""
    if not head.startswith(b"#!"):
        return None
    head = head[:LINE]
    line, newline, _ = head.partition(b"\n")
    if not newline:
        line = head[: LINE - 1]
    line = line[2:].strip(b" \t")
    path, rest = [*re.split(rb"[ \t\0]", line, maxsplit=1), b""][:2]
    if not newline and len(head) >= LINE and path == line:
        return f"its first line is longer than {LINE} bytes"
    if not path:
        return "its first line names no interpreter"
    argument = rest.lstrip(b" \t").partition(b"\0")[0]
    if line[len(path) : len(path) + 1] == b"\0":
        argument = b""
    return Interpreter(_text(path), _text(argument) or None)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def env_lookup(argument: str | None) -> Lookup | None:
    """Return what env(1) would look up when a #! line gives it `argument`; None if that runs no program.

    The kernel passes one argument: without -S all of it is the program's name, spaces included.
    """
    if argument is None:
        return None
    split = re.match(r"(?:-[a-zA-Z0]*?S|--split-string(?:=|\s))\s*(.*)", argument, re.DOTALL)
    if split is None:
        return None if argument.startswith("-") or "=" in argument else Lookup(argument, None)
    try:
        words = shlex.split(split[1], comments=True)
    except ValueError:
        return None
    search_path = None
    takes_value = {"-u", "-C", "--unset", "--chdir"}
    while words:
        word = words.pop(0)
        if word in takes_value and words:
            words.pop(0)
        elif word.startswith("PATH="):
            search_path = word.removeprefix("PATH=")
        elif not word.startswith("-") and "=" not in word:
            return Lookup(word, search_path)
    return None
