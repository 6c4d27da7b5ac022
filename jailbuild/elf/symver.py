"""Symbol versions: which ones a file asks of others, and which ones it has. Tables and strings, no file.

Rules: glibc elf/dl-version.c. The loader goes from record to record by the offsets in them, whatever their number is
said to be, compares hash and name, and of a definition takes the first name.

A version is a string, its name. Where a file gives it a hash that is not that of the name, the hash stands behind the
name and a NUL: to the loader that is another version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from struct import Struct
from struct import error as StructError
from typing import NamedTuple

from jailbuild.elf.layouts import Records

RELR = "GLIBC_ABI_DT_RELR"  # asked for by who has DT_RELR

_MAX_RECORDS = 1 << 14  # the most that was seen in a file is some 500
_USUAL = 128  # versions of one file
_MAX_KNOWN = 1 << 14
_LONG = 256  # bytes of a name
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
    load_error: str = ""  # what makes the loader give up


NO_VERSIONS = Versions()


class VersionError(Exception):
    """A version table that the loader would give up over."""


class BeyondError(Exception):
    """A version table that does not end where its bytes do."""


Group = tuple[int, tuple[int, ...], tuple[int, ...]]  # offset of a file's name; hashes; offsets of their names


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


def needed(data: bytes, at: int, layout: Records) -> list[Group]:
    """Return the records of DT_VERNEED, which begin `at` a place in the data (BeyondError, VersionError).

    Those that need not be there are left out.
    """
    found: list[Group] = []
    record, auxiliary = layout.verneed.unpack_from, layout.vernaux.unpack_from
    left = _MAX_RECORDS
    try:
        while True:
            number, _, file, aux, following = record(data, at)
            if number != 1 and not found:  # of the others the loader does not ask
                raise VersionError(f"unsupported version {number} of Verneed record")
            hashes, names = [], []
            there = at + aux
            while True:
                digest, flags, name, further = auxiliary(data, there)
                if not flags & _WEAK:
                    hashes.append(digest)
                    names.append(name)
                left -= 1
                if left < 0:
                    raise VersionError("more versions than anybody would count")
                if not further:
                    break
                there += further
            found.append((file, tuple(hashes), tuple(names)))
            if not following:
                return found
            at += following
    except (StructError, OverflowError):  # the latter: beyond what any file could be
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
    except (StructError, OverflowError):  # the latter: beyond what any file could be
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

    def read(self, data: bytes, at: int, known: Mapping[int, str]) -> tuple[Need, ...] | None:
        """Return what a table asks for; None where another look has to be taken.

        `data` begins with the string table and holds the other `at` a place; `known` are strings by their offsets.
        """
        found = []
        record, shapes, names, texts = self._record, self._shapes, self._names, self._texts
        size = record.size
        try:
            while True:
                number, count, file, aux, following = record.unpack_from(data, at)
                shape = shapes.get(count) or self._shape(count)
                words = shape[0].unpack_from(data, at + size)
                hashes = words[::4]
                if number != 1 or aux != size or words[1::4] != shape[1] or words[3::4] != shape[2]:
                    return None
                try:
                    same = all(map(data.startswith, map(texts.__getitem__, hashes), words[2::4]))
                except KeyError:
                    self._learn_from(data, hashes, words[2::4])
                    same = all(map(data.startswith, map(texts.__getitem__, hashes), words[2::4]))
                if not same:
                    return None
                found.append(Need(known[file], tuple(map(names.__getitem__, hashes))))
                if not following:
                    return tuple(found)
                at += following
        except (StructError, KeyError, OverflowError):
            return None

    def _shape(self, count: int) -> tuple[Struct, tuple[int, ...], tuple[int, ...]]:
        """Return how `count` records unpack, and what their flags and distances are (KeyError: they are too many)."""
        if not 0 < count <= _USUAL:
            raise KeyError(count)
        shape = (
            Struct(self._format[0] + self._format[1:] * count),
            (0,) * count,
            (self._record.size,) * (count - 1) + (0,),
        )
        return self._shapes.setdefault(count, shape)

    def _learn_from(self, data: bytes, hashes: Sequence[int], offsets: Sequence[int]) -> None:
        """Remember the versions whose names are in the string table that `data` begins with."""
        for digest, offset in zip(hashes, offsets, strict=True):
            end = data.find(b"\0", offset, offset + _LONG)
            if digest not in self._names and end >= 0:
                self.learn(data[offset:end].decode("utf-8", "surrogateescape"), digest)

    def learn(self, name: str, digest: int) -> str:
        """Remember a version, and return it."""
        known = version(name, digest)
        if digest not in self._names and len(self._names) < _MAX_KNOWN:
            self._names[digest] = known
            self._texts[digest] = name.encode("utf-8", "surrogateescape") + b"\0"
        return known


@cache
def usual(layout: Records) -> Usual:
    """Return the reader of usual tables of a class and byte order."""
    return Usual(layout)
