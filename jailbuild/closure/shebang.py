"""The #! line, as the kernel reads it, and what env makes of its argument.

Sources: Linux fs/binfmt_script.c, execve(2), coreutils src/env.c.
"""

from __future__ import annotations

import re
from typing import NamedTuple

LINE = 256  # bytes; BINPRM_BUF_SIZE
EXECVP_PATH = "/bin:/usr/bin"  # where execvp(3) looks when there is no PATH


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
    buffer = head[:LINE].ljust(LINE, b"\0")  # as the kernel's: zero behind the end of the file
    end = buffer.partition(b"\0")[0].find(b"\n")
    if end < 0:
        end = LINE - 1
        if re.match(rb"[ \t]*[^ \t\0]+\Z", buffer[2:]):
            return f"its first line is longer than {LINE} bytes"
    line = re.match(rb"([^ \t\0]*)(?:[ \t]+([^\0]*))?", buffer[2:end].strip(b" \t"))
    if line is None or not line[1]:
        return "its first line names no interpreter"
    return Interpreter(_text(line[1]), None if line[2] is None else _text(line[2]))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


# env's options that matter here, by their long names; "-" for those that change nothing about what is run
_OPTIONS = {
    "block-signal": "-",
    "chdir": "C",
    "debug": "-",
    "default-signal": "-",
    "ignore-environment": "i",
    "ignore-signal": "-",
    "list-signal-handling": "-",
    "split-string": "S",
    "unset": "u",
}
_ESCAPES = {"f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", **{sign: sign for sign in "\"#$'\\"}}
_SPACES = " \t\n\v\f\r"


def env_lookup(argument: str | None) -> Lookup | None:
    """Return what env(1) would look up when a #! line gives it `argument`; None if that runs no program.

    The kernel passes one argument: without -S all of it is the program's name, spaces included. None also where the
    name depends on a variable.
    """
    if argument is None:
        return None
    words = [argument]
    search_path = None
    while words and words[0][:1] == "-" and words[0] != "-":  # getopt_long(3)
        word = words.pop(0)
        if word == "--":
            break
        option, value = _option(word, words)
        if option == "S":
            split = split_words(value)
            if split is None:
                return None
            words = split + words
        elif option == "i" or (option == "u" and value == "PATH"):
            search_path = EXECVP_PATH
        elif not option:
            return None
        if option in ("i", "-") and word[1:2] != "-" and len(word) > 2:
            words.insert(0, "-" + word[2:])
    if words and words[0] == "-":
        search_path = EXECVP_PATH
        words.pop(0)
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            return Lookup(word, search_path) if word and VARIABLE not in word else None
        if VARIABLE in name:
            return None
        if name == "PATH":
            search_path = value or "."
    return None


def _option(word: str, rest: list[str]) -> tuple[str, str]:
    """Return the option that a word begins with and its value, which may be the next word; "" for what is none."""
    if not word.startswith("--"):
        option, value = word[1], word[2:]
        if option == "v":
            return "-", ""
        if option in "CSu":
            return (option, value or rest.pop(0)) if value or rest else ("", "")
        return ("i", "") if option == "i" else ("", "")
    name, equals, value = word[2:].partition("=")
    fits = [one for one in _OPTIONS if one == name] or [one for one in _OPTIONS if name and one.startswith(name)]
    if len(fits) != 1:
        return "", ""
    option = _OPTIONS[fits[0]]
    if option in "CSu" and not equals:
        return (option, rest.pop(0)) if rest else ("", "")
    return ("", "") if equals and option == "i" else (option, value)


VARIABLE = "\0"  # in a word: the value of a variable


def split_words(text: str) -> list[str] | None:
    """Split text as env -S does (build_argv); None where env refuses it."""
    words: list[str] = []
    fresh = True  # whether the next character begins a word
    quote = ""
    place = 0

    def put(character: str) -> None:
        nonlocal fresh
        if fresh:
            words.append("")
            fresh = False
        words[-1] += character

    while place < len(text):
        character = text[place]
        place += 1
        if character in "'\"" and quote in ("", character):
            quote = "" if quote else character
            put("")
        elif character in _SPACES and not quote:
            fresh = True
        elif character == "#" and fresh:
            break
        elif character == "\\" and not (quote == "'" and text[place : place + 1] not in ("\\", "'")):
            escaped = text[place : place + 1]
            place += 1
            if escaped == "c" and quote != '"':
                return words
            if escaped == "_" and quote != '"':
                fresh = True
            elif escaped in _ESCAPES or escaped == "_":
                put(_ESCAPES.get(escaped, " "))
            else:
                return None
        elif character == "$" and quote != "'":
            variable = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*\}").match(text, place)
            if variable is None:
                return None
            place = variable.end()
            put(VARIABLE)
        else:
            put(character)
    return None if quote else words
