"""File names where text is wanted: in JSON, and in words for a person. Bytes that are not UTF-8 survive both.

Names are str as os.fsdecode gives them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping

_LONGEST = 1000  # characters


def to_json(key: str, name: str | None) -> dict[str, str | None]:
    """Return `name` under `key`; where it is not UTF-8, its bytes too, under KEY_b64."""
    if name is None or name.isascii():
        return {key: name}
    data = os.fsencode(name)
    text = data.decode("utf-8", "replace")
    if text.encode("utf-8") == data:
        return {key: text}
    import base64  # only for what is not UTF-8

    return {key: text, f"{key}_b64": base64.b64encode(data).decode("ascii")}


def from_json(record: Mapping[str, object], key: str) -> str | None:
    """Return the name that to_json wrote (ValueError if it is no name)."""
    name = text_from_json(record, key)
    if name is not None and "\0" in name:
        raise ValueError(f"{key} is not a name")
    return name


def text_from_json(record: Mapping[str, object], key: str) -> str | None:
    """Return the text that to_json wrote, which may have any bytes (ValueError if it is none)."""
    coded = record.get(f"{key}_b64")
    name = record.get(key)
    if isinstance(coded, str):
        import base64

        name = os.fsdecode(base64.b64decode(coded, validate=True))
    if name is None:
        return None
    if not isinstance(name, str) or not _is_encodable(name):
        raise ValueError(f"{key} is not a name")
    return name


def spelled(name: str) -> str:
    """Return a name as text, also where it is not UTF-8, and no two alike."""
    written = to_json("name", name)
    coded = written.get("name_b64")
    return str(written["name"]) if coded is None else f"{written['name']} (base64 {coded})"


def _is_encodable(name: str) -> bool:
    """Say whether a name can be bytes again: JSON can hold halves of characters that no file is called by."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def shown(text: str) -> str:
    """Return text for one line of a terminal: what would move the cursor, or is no character, is written as escape."""
    if text.isprintable():
        return text
    return "".join(_escape(character) for character in text)


def shortened(text: str) -> str:
    """Return text of a length that a person may read: of what is longer, as any name of a file may be, both ends."""
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST * 3 // 4]} … {text[-_LONGEST // 4 :]}"


def _escape(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape: one byte
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def quoted(name: str) -> str:
    r"""Return a word of a shell for a name, in characters that `shown` leaves alone: a hint is to be pasted as it is.

    What they cannot say is written as $'\ooo', which bash, ksh and zsh know.
    """
    if not name.isprintable():
        return f"$'{''.join(map(_octal, name))}'"
    import shlex  # where something is to be said

    return shlex.quote(name)


def _octal(character: str) -> str:
    if character.isprintable() and character not in "\\'":
        return character
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(character))


def command_line(*words: str) -> str:
    """Return a command of a shell for a hint, each of its words as it is `quoted`."""
    return " ".join(map(quoted, words))


def operand(path: str) -> str:
    """Return a path that no command takes for an option."""
    return f"./{path}" if path.startswith("-") else path


def matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Return what says whether one of some patterns of fnmatch(3) fits a name: in one look, however many they are."""
    import fnmatch
    import re

    names = set()
    others = []
    for pattern in dict.fromkeys(patterns):
        if any(character in pattern for character in "*?["):
            others.append(fnmatch.translate(pattern))
        else:
            names.add(pattern)
    fits = re.compile("|".join(others)).match if others else None
    return lambda name: name in names or (fits is not None and fits(name) is not None)
