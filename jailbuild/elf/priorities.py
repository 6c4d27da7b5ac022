"""How much a library matters that a program opens while it runs (UAPI.12)."""

from __future__ import annotations

PRIORITIES = ("required", "recommended", "suggested")
LEVELS = ("none", *PRIORITIES)  # how far libraries are followed: those of one priority, and of all before it
DEFAULT = "recommended"  # of a library that does not say, and of a user who does not

# How a dlopen note looks between its sizes and its text: type and owner, by whether the file is little-endian. Here, as
# few files have one, and elf/notes.py is for those.
MARKS = {True: b"\x0a\x0c\x7c\x40FDO\0", False: b"\x40\x7c\x0c\x0aFDO\0"}
