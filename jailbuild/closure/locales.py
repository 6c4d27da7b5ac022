"""Where the C library keeps a locale: a directory of its name, or one archive for many (localedef(1))."""

from __future__ import annotations

import os
import struct

from jailbuild.closure.trees import Rules, Tree, read_directory, read_file
from jailbuild.errors import JailError
from jailbuild.root import Root

PLACES = ("/usr/lib/locale", "/usr/share/locale", "/usr/lib64/locale")
_ARCHIVE = "/usr/lib/locale/locale-archive"
_HEAD = struct.Struct("=8I")  # magic, serial, three of the table of names, where the names are, how many bytes, room
_MAGIC = 0xDE020109
_MOST_NAMES = 1 << 20  # bytes
BUILT_IN = ("C", "POSIX")  # in every C library, without a file


def spellings(name: str) -> tuple[str, ...]:
    """Return the names that a locale may have on disk: its codeset in small letters without "-", and as it is.

    glibc locale/findlocale.c and intl/l10nflist.c (_nl_normalize_codeset).
    """
    head, at, modifier = name.partition("@")
    language, dot, codeset = head.partition(".")
    plain = "".join(character for character in codeset if character.isalnum()).lower()
    if plain.isdecimal():
        plain = f"iso{plain}"
    return tuple(dict.fromkeys((f"{language}{dot}{plain}{at}{modifier}", name)))


def is_there(root: Root, name: str) -> bool:
    """Say whether a root has a locale."""
    if not name or name in BUILT_IN:
        return True
    return _directory(root, name) is not None or _in_archive(root, name)


def find(root: Root, name: str, rules: Rules) -> Tree:
    """Return the files of a locale (JailError if the root does not have it)."""
    directory = _directory(root, name)
    if directory is not None:
        return read_directory(root, directory, rules.left_out, rules._replace(is_lenient=True))
    if "/" not in name and _in_archive(root, name):
        return read_file(root, _ARCHIVE, rules.left_out, rules)
    if name in BUILT_IN:
        raise JailError(
            f"cannot add the locale {name}: it is in the C library, and has no files",
            "C.UTF-8 is the same with all characters",
        )
    raise JailError(
        f"cannot add the locale {name}: the source root does not have it in {', '.join(PLACES)}",
        "localedef(1) makes locales; C.UTF-8 comes with the C library",
    )


def _directory(root: Root, name: str) -> str | None:
    if "/" in name or name in (".", ".."):
        return None
    for place in PLACES:
        for spelling in spellings(name):
            if root.is_directory(f"{place}/{spelling}") and _has(root, f"{place}/{spelling}/LC_CTYPE"):
                return f"{place}/{spelling}"
    return None


def _has(root: Root, path: str) -> bool:
    try:
        root.stat(path)
    except OSError:
        return False
    return True


def _in_archive(root: Root, name: str) -> bool:
    """Say whether the archive has a locale."""
    names = root.once(_archived)
    return any(spelling.encode("utf-8", "surrogateescape") in names for spelling in spellings(name))


def _archived(root: Root) -> frozenset[bytes]:
    """Return the names of the locales in the archive: glibc locale/locarchive.h, struct locarhead."""
    try:
        opened = root.open(_ARCHIVE)
    except OSError:
        return frozenset()
    try:
        head = os.pread(opened, _HEAD.size, 0)
        if len(head) < _HEAD.size:
            return frozenset()
        magic, _, _, _, _, place, used, _ = _HEAD.unpack(head)
        names = os.pread(opened, min(used, _MOST_NAMES), place) if magic == _MAGIC else b""
    except OSError:
        return frozenset()
    finally:
        os.close(opened)
    return frozenset(names.split(b"\0"))
