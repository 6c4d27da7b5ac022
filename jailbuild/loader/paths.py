"""The loader's lists of directories and the tokens in them.

elf/dl-load.c: is_dst, _dl_dst_substitute, fillin_rpath.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_TOKEN = re.compile(r"\$(?:\{(ORIGIN|LIB|PLATFORM)\}|(ORIGIN|LIB|PLATFORM)(?![A-Za-z0-9_]))")


class Tokens(NamedTuple):
    """What the tokens stand for in one object's strings; None where the loader does not know."""

    origin: str | None
    lib: str | None
    platform: str | None


def expand(text: str, tokens: Tokens) -> str | None:
    """Return `text` with its tokens replaced; None if one of them has no value."""
    if "$" not in text:
        return text
    values = {"ORIGIN": tokens.origin, "LIB": tokens.lib, "PLATFORM": tokens.platform}
    found = [match[1] or match[2] for match in _TOKEN.finditer(text)]
    if any(values[name] is None for name in found):
        return None
    return _TOKEN.sub(lambda match: values[match[1] or match[2]] or "", text)


def directories(text: str, separators: str, tokens: Tokens) -> tuple[str, ...]:
    """Return the directories of a list, each ready to have a file name put behind it.

    An empty element is the current directory, "". Doubles go, trailing slashes become one, nothing else changes.
    """
    if not text:
        return ()
    found: list[str] = []
    for element in re.split(f"[{separators}]", text):
        directory = expand(element, tokens)
        if directory is None or (element and not directory):
            continue
        if directory:
            directory = directory.rstrip("/") + "/"
        if directory not in found:
            found.append(directory)
    return tuple(found)
