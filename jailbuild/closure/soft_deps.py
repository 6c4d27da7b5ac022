"""What programs miss in silence: they start, and then show numbers for names, are hours off, or trust nobody.

For `check`, and for an `enter` whose command failed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from jailbuild.closure.programs import Program
from jailbuild.elf.dynsym import symbols_of
from jailbuild.root import Root

_MAX_TEXT = 1 << 16  # bytes of a configuration file
_MAX_PROGRAM = 256 << 20  # bytes
_BLOCK = 1 << 20


class Want(NamedTuple):
    """A thing beside libraries: what tells that a program wants it, where it would be, the recipe that brings it."""

    code: str  # of `check`
    what: str  # "no TLS roots"
    recipe: str
    places: tuple[str, ...]  # any of them will do; "*" for each name in a directory
    symbols: frozenset[str] = frozenset()
    sonames: tuple[str, ...] = ()  # beginnings
    text: bytes = b""  # in the program itself


WANTS = (
    Want(
        "no-user-database",
        "there is no /etc/passwd",
        "users",
        ("/etc/passwd",),
        frozenset(
            (
                "getpwuid",
                "getpwuid_r",
                "getpwnam",
                "getpwnam_r",
                "getpwent",
                "getgrgid",
                "getgrgid_r",
                "getgrnam",
                "getgrnam_r",
                "getgrent",
                "initgroups",
                "getgrouplist",
            )
        ),
    ),
    Want(
        "no-tls-roots",
        "there are no certificates of authorities",
        "tls-roots",
        (
            "/etc/ssl/certs/ca-certificates.crt",
            "/etc/ssl/cert.pem",
            "/etc/pki/tls/certs/ca-bundle.crt",
            "/etc/ssl/ca-bundle.pem",
            "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
        ),
        sonames=("libssl.so.", "libgnutls.so."),
    ),
    Want(
        "no-gconv",
        "there is no gconv: of character sets, only ASCII and UTF-8 can be converted",
        "gconv",
        ("/usr/lib/*/gconv", "/usr/lib/gconv", "/usr/lib64/gconv"),
        frozenset(("iconv_open",)),
    ),
    Want(
        "no-dev-null",
        "there is no /dev/null outside of the isolated modes of enter",
        "devices",
        ("/dev/null",),
        text=b"/dev/null\0",
    ),
)
DLOPEN = frozenset(("dlopen", "dlmopen"))
_ZONEINFO = "/usr/share/zoneinfo"
_ASKING = (  # files that name a zone or a locale
    ("/etc/timezone", re.compile(r"^(?P<zone>[A-Za-z][A-Za-z0-9_+/-]*)\s*$", re.MULTILINE)),
    ("/etc/default/locale", re.compile(r"^(?:LANG|LC_ALL)=[\"']?(?P<locale>[^\s\"']+)", re.MULTILINE)),
    ("/etc/locale.conf", re.compile(r"^(?:LANG|LC_ALL)=[\"']?(?P<locale>[^\s\"']+)", re.MULTILINE)),
)


def is_there(root: Root, place: str) -> bool:
    """Say whether something is at a place of WANTS."""
    above, star, below = place.partition("/*")
    try:
        names = [f"{above}/{name}{below}" for name in root.listdir(above)] if star else [place]
    except OSError:
        return False
    for name in names:
        try:
            root.stat(name)
        except OSError:
            continue
        return True
    return False


def absent(root: Root) -> list[Want]:
    """Return what is not in a root."""
    return [want for want in WANTS if not any(is_there(root, place) for place in want.places)]


def reason_for(root: Root, program: Program, want: Want, symbols: frozenset[str]) -> str | None:
    """Return why a program wants something, in words behind its name; None if it does not. `symbols`: its imports."""
    if found := sorted(want.symbols & symbols):
        return f"imports {found[0]}"
    if want.sonames and (names := [one.name for one in program.libraries if one.name.startswith(want.sonames)]):
        return f"loads {names[0]}"
    if want.text and program.type == "elf" and _has(root, program.path, want.text):
        return f"names {want.text[:-1].decode()}"
    return None


def imports(root: Root, program: Program) -> frozenset[str]:
    """Return what a program imports itself; nothing for a script."""
    return symbols_of(root, program.path) if program.type == "elf" else frozenset()


def _has(root: Root, path: str, text: bytes) -> bool:
    try:
        opened = root.open(path)
    except OSError:
        return False
    try:
        end, read = b"", 0
        while read < _MAX_PROGRAM and (block := os.read(opened, _BLOCK)):
            if text in end + block:
                return True
            end, read = block[-len(text) :], read + len(block)
    except OSError:
        pass
    finally:
        os.close(opened)
    return False


class NamedFile(NamedTuple):
    """A zone or a locale that a file of the root asks for, and that is not there."""

    code: str
    path: str
    name: str


def asked_and_absent(root: Root) -> Iterator[NamedFile]:
    """Yield the zones and locales that a root's own files ask for in vain."""
    for path, pattern in _ASKING:
        try:
            text = root.read(path, _MAX_TEXT).decode("utf-8", "replace")
        except OSError:
            continue
        for found in pattern.finditer(text):
            kind, name = found.lastgroup or "", found[found.lastgroup or 0]
            if not (has_zone(root, name) if kind == "zone" else has_locale(root, name)):
                yield NamedFile(f"absent-{kind}", path, name)


def has_zone(root: Root, name: str) -> bool:
    """Say whether a root knows what TZ=NAME means; rules that are spelled out need no file (tzset(3))."""
    name = name.removeprefix(":")
    if not name or re.fullmatch(r"(?:[A-Za-z]{3,}|<[A-Za-z0-9+-]+>)[+-]?\d.*", name) or ".." in name.split("/"):
        return True
    if name in ("UTC", "GMT") and not is_there(root, _ZONEINFO):
        return True  # the same without a file
    return is_there(root, name if name.startswith("/") else f"{_ZONEINFO}/{name}")


def has_locale(root: Root, name: str) -> bool:
    """Say whether a root has a locale."""
    from jailbuild.closure import locales  # seldom asked

    return locales.is_there(root, name)


def environment_absent(root: Root, environment: Iterable[tuple[str, str]]) -> Iterator[NamedFile]:
    """Yield the zones and locales that an environment asks for, and that a root does not have."""
    for key, value in environment:
        if key == "TZ" and not has_zone(root, value):
            yield NamedFile("absent-zone", "TZ", value)
        elif (key in ("LANG", "LC_ALL") or key.startswith("LC_")) and not has_locale(root, value):
            yield NamedFile("absent-locale", key, value)
