"""The loader's lists of directories and the tokens in them.

elf/dl-load.c: is_dst, _dl_dst_substitute, fillin_rpath.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_TOKEN = re.compile(r"\$(?:\{(ORIGIN|LIB|PLATFORM)\}|(ORIGIN|LIB|PLATFORM)(?![A-Za-z0-9_]))")


_MOST_TEXT = 1 << 20  # bytes


class TooLongError(ValueError):
    """A text would be too long once its tokens are replaced."""


class Tokens(NamedTuple):
    """What the tokens stand for in one object's strings; None where the loader does not know."""

    origin: str | None
    lib: str | None
    platform: str | None


def expand(text: str, tokens: Tokens) -> str | None:
    """Return `text` with its tokens replaced; None if one of them has no value (TooLongError)."""
    if "$" not in text:
        return text
    _refuse_long(text, tokens)
    values = {"ORIGIN": tokens.origin, "LIB": tokens.lib, "PLATFORM": tokens.platform}
    found = [match[1] or match[2] for match in _TOKEN.finditer(text)]
    if any(values[name] is None for name in found):
        return None
    return _TOKEN.sub(lambda match: values[match[1] or match[2]] or "", text)


def directories(text: str, separators: str, tokens: Tokens) -> tuple[str, ...]:
    """Return the directories of a list, each ready to have a file name put behind it.

    An empty element is the current directory, "". Doubles go, trailing slashes become one, nothing else changes
    (TooLongError).
    """
    if not text:
        return ()
    _refuse_long(text, tokens)
    found: dict[str, None] = {}
    for element in re.split(f"[{separators}]", text):
        directory = expand(element, tokens)
        if directory is None or (element and not directory):
            continue
        if directory:
            directory = directory.rstrip("/") + "/"
        found[directory] = None
    return tuple(found)


def _refuse_long(text: str, tokens: Tokens) -> None:
    longest = max(len(value or "") for value in tokens)
    if len(text) + text.count("$") * longest > _MOST_TEXT:
        raise TooLongError(f"its strings would have more than {_MOST_TEXT} bytes with the tokens replaced")
