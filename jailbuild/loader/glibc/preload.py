"""The text of /etc/ld.so.preload, as glibc's loader takes it."""

from __future__ import annotations

import os
import re


def preload_names(content: bytes) -> list[str]:
    """Return the names that the loader takes from the text of /etc/ld.so.preload.

    It looks for each further comment from the start of the file again, and only for as many characters as are left
    behind the last one (elf/rtld.c): a late comment after a short beginning is read as names.
    """
    rest = len(content)
    text = bytearray(content)
    end = 0
    while (start := text.find(b"#", end, rest)) >= 0:
        end = text.find(b"\n", start + 1, rest)
        rest, end = (rest - end, end) if end >= 0 else (0, rest)
        text[start:end] = b" " * (end - start)
    last = max(map(text.rfind, (b" ", b"\t", b"\n", b":"))) + 1
    names = re.split(rb"[ \t\n:]", bytes(text[:last]).partition(b"\0")[0])
    return [os.fsdecode(name) for name in (*names, bytes(text[last:]).partition(b"\0")[0]) if name]
