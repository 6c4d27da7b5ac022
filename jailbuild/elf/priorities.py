"""How much a library matters that a program opens while it runs (UAPI.12)."""

from __future__ import annotations

PRIORITIES = ("required", "recommended", "suggested")
LEVELS = ("none", *PRIORITIES)  # how far libraries are followed: those of one priority, and of all before it
DEFAULT = "recommended"  # of a library that does not say, and of a user who does not
