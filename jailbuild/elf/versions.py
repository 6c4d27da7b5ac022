"""Symbol versions: which ones a file asks of others, and which ones it has. Tables and strings, no file.

Rules: glibc elf/dl-version.c. The loader goes from record to record by the offsets in them, whatever their number is
said to be, compares hash and name, and of a definition takes the first name.

A version is a string, its name. Where a file gives it a hash that is not that of the name, the hash stands behind the
name and a NUL: to the loader that is another version.
"""

from __future__ import annotations

from functools import cache, lru_cache
from struct import Struct
from struct import error as StructError
from typing import NamedTuple

from jailbuild.elf.records import Records

RELR = "GLIBC_ABI_DT_RELR"  # asked for by who has DT_RELR

_MAX_RECORDS = 1 << 14  # the most that was seen in a file is some 500
_USUAL = 128  # versions of one file
_MAX_KNOWN = 1 << 14
_WEAK = 2  # VER_FLG_WEAK: where it is not found the loader only says so


class Need(NamedTuple):
    """What a file asks of another: the name of that file, and the versions that must be there, in its order."""

    file: str
    versions: tuple[str, ...]


class Versions(NamedTuple):
    """The versions that a file asks for and has; `defined` is None where it knows of none."""

    needs: tuple[Need, ...] = ()
    defined: frozenset[str] | None = None
    unmarked: bool = False  # it has DT_RELR, and does not ask libc for what understands that
    damage: str = ""  # what makes the loader give up


NO_VERSIONS = Versions()


class VersionError(Exception):
    """A version table that the loader would give up over."""


class BeyondError(Exception):
    """A version table that does not end where its bytes do."""


RawNeed = tuple[int, list[tuple[int, int]]]  # offset of a file's name; hash and offset of the name of each version


@lru_cache(1 << 12)
def version(name: str, digest: int) -> str:
    """Return a version by its name and the hash that a file gives it."""
    return name if digest == elf_hash(name) else f"{name}\0{digest:08x}"


def elf_hash(name: str) -> int:
    """Return the hash of a name (gABI, "Hash Table")."""
    value = 0
    for byte in name.encode("utf-8", "surrogateescape"):
        value = (value << 4) + byte
        value ^= value >> 24 & 0xF0
        value &= 0x0FFFFFFF
    return value


def needed(data: bytes, at: int, layout: Records) -> list[RawNeed]:
    """Return the records of DT_VERNEED, which begin `at` a place in the data (BeyondError, VersionError).

    Those that need not be there are left out.
    """
    found: list[RawNeed] = []
    record, auxiliary = layout.verneed.unpack_from, layout.vernaux.unpack_from
    left = _MAX_RECORDS
    try:
        while True:
            number, _, file, aux, following = record(data, at)
            if number != 1 and not found:  # of the others the loader does not ask
                raise VersionError(f"unsupported version {number} of Verneed record")
            versions = []
            there = at + aux
            while True:
                digest, flags, name, further = auxiliary(data, there)
                if not flags & _WEAK:
                    versions.append((digest, name))
                left -= 1
                if left < 0:
                    raise VersionError("more versions than anybody would count")
                if not further:
                    break
                there += further
            found.append((file, versions))
            if not following:
                return found
            at += following
    except StructError:
        raise BeyondError from None


def defined(data: bytes, at: int, layout: Records) -> list[tuple[int, int]]:
    """Return hash, and offset of the name, of each record of DT_VERDEF (BeyondError, VersionError)."""
    found = []
    record, auxiliary = layout.verdef.unpack_from, layout.verdaux.unpack_from
    try:
        while True:
            number, digest, aux, following = record(data, at)
            if number != 1:
                raise VersionError(f"unsupported version {number} of Verdef record")
            found.append((digest, auxiliary(data, at + aux)[0]))
            if len(found) > _MAX_RECORDS:
                raise VersionError("more versions than anybody would count")
            if not following:
                return found
            at += following
    except StructError:
        raise BeyondError from None


class Usual:
    """Reads tables of DT_VERNEED as linkers write them, in a third of the time.

    The versions of a file follow each other, none is weak, and each is known by its hash from a file before; that the
    name is the same is looked at in the bytes of the string table.
    """

    def __init__(self, layout: Records) -> None:
        self._record = layout.verneed
        self._format = layout.vernaux.format
        self._names: dict[int, str] = {}
        self._texts: dict[int, bytes] = {}  # the names with the NUL behind them
        self._shapes: dict[int, tuple[Struct, tuple[int, ...], tuple[int, ...]]] = {}

    def read(self, data: bytes, at: int, first: int) -> list[tuple[int, tuple[str, ...]]] | None:
        """Return for each file the offset of its name, and its versions; None where another look has to be taken.

        `data` begins with what is at the offset `first` of the string table.
        """
        found = []
        size = self._record.size
        try:
            while True:
                number, count, file, aux, following = self._record.unpack_from(data, at)
                if number != 1 or aux != size or not 0 < count <= _USUAL:
                    return None
                form, flags, distances = self._shapes.get(count) or self._shape(count)
                words = form.unpack_from(data, at + size)
                hashes = words[::4]
                if words[1::4] != flags or words[3::4] != distances:
                    return None
                places = [offset - first for offset in words[2::4]]
                texts = map(self._texts.__getitem__, hashes)
                if min(places) < 0 or not all(map(data.startswith, texts, places)):
                    return None
                found.append((file, tuple(map(self._names.__getitem__, hashes))))
                if not following:
                    return found
                at += following
        except (StructError, KeyError):
            return None

    def _shape(self, count: int) -> tuple[Struct, tuple[int, ...], tuple[int, ...]]:
        """Return how `count` records unpack, and what their flags and distances are."""
        shape = (
            Struct(self._format[0] + self._format[1:] * count), (0,) * count,
            (self._record.size,) * (count - 1) + (0,),
        )
        return self._shapes.setdefault(count, shape)

    def learn(self, name: str, digest: int) -> None:
        """Remember a version."""
        if len(self._names) < _MAX_KNOWN and digest not in self._names:
            self._names[digest] = version(name, digest)
            self._texts[digest] = name.encode("utf-8", "surrogateescape") + b"\0"


@cache
def usual(layout: Records) -> Usual:
    """Return the reader of usual tables of a class and byte order."""
    return Usual(layout)
