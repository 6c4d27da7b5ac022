"""passwd, group and shadow of a box, merged line by line: ours by name, all others are the user's. Only reads.

A line is ours if its name is among those that we put there. Three versions tell what to do with it: as it was put in,
as the box has it, as it is to be.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from jailbuild.box.manifest import Entry, Reason
from jailbuild.closure import accounts
from jailbuild.names import spelled
from jailbuild.root import Root

if TYPE_CHECKING:
    from jailbuild.closure.evaluate import Made

PATHS = frozenset((accounts.PASSWD, accounts.GROUP, accounts.SHADOW))

LARGEST = 16 << 20  # bytes


class Merged(NamedTuple):
    """A file as it is to be."""

    data: bytes
    lines: tuple[str, ...]  # ours in it
    conflicts: tuple[str, ...]  # names of lines of ours that the user changed, and that would have to change


def lines_of(path: str, made: Made) -> tuple[str, ...]:
    """Return the lines of what a recipe makes at a path; none for what is not merged by lines."""
    if made.table or path not in PATHS or made.content is None:
        return made.table
    return tuple(accounts.parse_table(made.content).values())


def read_table(box: Root | None, path: str) -> bytes | None:
    """Return what a box has at a path; None if it is no file of a sensible size."""
    if box is None:
        return None
    try:
        return box.read(path, LARGEST)
    except OSError:
        return None


def is_copy(listed: Entry, there: bytes) -> bool:
    """Say whether a file is the copy of another that was asked for by path, as it was put in."""
    return listed.source is not None and hashlib.sha256(there).hexdigest() == listed.sha256


def our_lines(entries: Mapping[str, Entry], path: str, there: bytes | None) -> tuple[str, ...]:
    """Return the lines that we put into a file that is listed, and that the box has with these bytes.

    A manifest of schema 1 does not say. They are known where the digest proves them: the user changed nothing, or no
    more than to add lines, and members of groups. Else none is: what is not known to be ours is the user's.
    """
    listed = entries.get(path)
    if listed is None or listed.source is not None or not listed.wanted_by:  # by nobody: all left in it is the user's
        return ()
    if listed.lines or there is None:
        return listed.lines
    lines = tuple(accounts.parse_table(there).values())
    if hashlib.sha256(there).hexdigest() == listed.sha256:
        return lines
    lines = kept_lines(path, lines, listed, entries.get(accounts.PASSWD))
    return lines if hashlib.sha256(accounts.to_bytes(_by_name(lines))).hexdigest() == listed.sha256 else ()


def named(reasons: Iterable[Reason]) -> frozenset[str]:
    """Return the names of the lines that edges want, as edges write them."""
    return frozenset(name for one in reasons for name in one.names)


def kept_lines(path: str, lines: Iterable[str], table: Entry, passwd: Entry | None) -> tuple[str, ...]:
    """Return which of our lines the edges of an entry want; of a group only the members that passwd's edges want."""
    names = named(table.reasons)
    if not names:  # a whole file of a recipe's
        return tuple(lines)
    users = named(passwd.reasons) if passwd is not None else frozenset()
    found = {name: line for name, line in _by_name(lines).items() if spelled(name) in names}
    if path == accounts.GROUP:
        for name, line in found.items():
            head, members = _split(line)
            found[name] = _group(head, [one for one in members if spelled(one) in users])
    return tuple(found.values())


def joined(path: str, old: Iterable[str], new: Iterable[str]) -> tuple[str, ...]:
    """Return our lines for requests that stay (`old`) and for others: of a group that both have, all members."""
    return _sorted(accounts.merged(path, _by_name(old), _by_name(new)))


def merge(path: str, before: tuple[str, ...], after: tuple[str, ...], there: bytes | None) -> Merged:
    """Return a file that has our lines as they are to be, and every line of the user's, in their order.

    `before` are our lines as they were put in, `there` what the box has. A line of ours that the user changed stays as
    it is, unless it would have to become another than it was: that is a conflict.
    """
    old, new = _by_name(before), _by_name(after)
    present = accounts.parse_table(there or b"")
    ours: dict[str, str] = {}
    lines: dict[str, str] = {}
    conflicts = []
    for name, line in new.items():
        found = _merged_line(path, old.get(name), line, present.get(name))
        if found is None:
            conflicts.append(name)
        lines[name] = present[name] if found is None else found
        if name in old or path == accounts.GROUP or present.get(name) in (None, line):
            ours[name] = line  # else it is the user's, who has one of that name
    gone = {name for name in old.keys() - new.keys() if name in present and _is_same(path, present[name], old[name])}
    text = (there or b"").decode("utf-8", "surrogateescape")
    if not has_others(path, before, there or b""):
        result = {name: line for name, line in {**present, **lines}.items() if name not in gone}
        data = there if there is not None and result == present else accounts.to_bytes(result)
        return Merged(data, _sorted(ours), tuple(conflicts))
    out = []
    before_it = text.removesuffix("\n").split("\n")
    for line in before_it:
        name = line.partition(":")[0]
        if present.get(name) != line:  # no line of a table, or not the one that counts
            out.append(line)
            continue
        del present[name]
        if name not in gone:
            out.append(lines.pop(name, line))
    if out == before_it and not lines:  # also where the last has no end
        return Merged(there or b"", _sorted(ours), tuple(conflicts))
    data = "".join(f"{line}\n" for line in out).encode("utf-8", "surrogateescape") + accounts.to_bytes(lines)
    return Merged(data, _sorted(ours), tuple(conflicts))


def has_others(path: str, ours: Iterable[str], there: bytes) -> bool:
    """Say whether a file has lines that are not ours as we put them in."""
    known = _by_name(ours)
    lines = there.decode("utf-8", "surrogateescape").split("\n")
    return any(line and not _is_same(path, line, known.get(line.partition(":")[0], "")) for line in lines)


def missing_lines(path: str, ours: Iterable[str], there: bytes) -> Iterator[tuple[str, bool]]:
    """Yield the lines of ours that a file does not have as we put them in, each with whether one of its name is there.

    Of a group, members that the user added are the user's.
    """
    present = accounts.parse_table(there)
    for line in ours:
        found = present.get(line.partition(":")[0])
        if found is not None and path == accounts.GROUP:
            (head, members), (other_head, others) = _split(line), _split(found)
            if head == other_head and set(members) <= set(others):
                continue
        if found != line:
            yield line, found is not None


def _merged_line(path: str, old: str | None, new: str, there: str | None) -> str | None:
    """Return the line that is to stand there; None where the user changed ours, and it would have to change."""
    if there is None or there in (old, new):
        return new
    if path == accounts.GROUP:
        return _merged_group(old or "", new, there)
    return there if old in (None, new) else None


def _merged_group(old: str, new: str, there: str) -> str | None:
    """Return a group with the user's members and ours."""
    (head, has), (was, had), (becomes, wants) = _split(there), _split(old), _split(new)
    if old and head not in (was, becomes) and was != becomes:
        return None
    result = (set(has) - (set(had) - set(wants))) | set(wants)
    first = [one for one in has if one in result]
    return _group(becomes if head == was else head, [*first, *sorted(result - set(first))])


def _is_same(path: str, line: str, other: str) -> bool:
    """Say whether two lines say the same: of a group in whatever order."""
    if path != accounts.GROUP or ":" not in other:
        return line == other
    (head, members), (other_head, others) = _split(line), _split(other)
    return head == other_head and sorted(members) == sorted(others)


def _split(group: str) -> tuple[str, list[str]]:
    """Return a group(5) line without its members, and these."""
    head, _, members = group.rpartition(":")
    return head, [one for one in members.split(",") if one]


def _group(head: str, members: list[str]) -> str:
    return f"{head}:{','.join(members)}"


def _by_name(lines: Iterable[str]) -> dict[str, str]:
    return {line.partition(":")[0]: line for line in lines}


def _sorted(lines: Mapping[str, str]) -> tuple[str, ...]:
    text = accounts.to_bytes(lines).decode("utf-8", "surrogateescape")
    return tuple(line for line in text.split("\n") if line)
