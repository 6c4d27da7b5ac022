"""A passwd and a group file of the users that are needed, and of nobody else: passwd(5), group(5).

Ids, home and shell are the source root's; root and nobody are there in any case.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from jailbuild.root import Root

PASSWD = "/etc/passwd"
GROUP = "/etc/group"
SHADOW = "/etc/shadow"

_MOST = 16 << 20  # bytes
_LAST_ID = (1 << 32) - 2
_ALWAYS = {
    "root": "root:x:0:0:root:/root:/bin/sh",
    "nobody": "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin",
}
_ALWAYS_GROUPS = {"root": "root:x:0:", "nogroup": "nogroup:x:65534:"}

Table = Mapping[str, str]  # the lines of a file, by their name


class Accounts(NamedTuple):
    """The users and groups of a source root, as its files have them."""

    users: Table
    groups: Table

    def id_of(self, owner: str) -> tuple[int, int] | None:
        """Return uid and gid of USER or USER:GROUP, each a name or a number; None if there is no such one."""
        user, colon, group = owner.partition(":")
        if user.isdecimal():
            uid, gid = int(user), int(user) if not group else 0
        elif user in self.users:
            uid, gid = (int(number) for number in self.users[user].split(":")[2:4])
        else:
            return None
        if colon and group.isdecimal():
            gid = int(group)
        elif colon:
            if group not in self.groups:
                return None
            gid = int(self.groups[group].split(":")[2])
        return (uid, gid) if max(uid, gid) <= _LAST_ID else None

    def of(self, names: Iterable[str]) -> tuple[Table, Table]:
        """Return the lines of users, and of the groups that they are in, with them alone as members."""
        users = {name: self.users[name] for name in names if name in self.users}
        primary = {line.split(":")[3] for line in users.values()}
        groups = {}
        for name, line in self.groups.items():
            _, password, gid, members = line.split(":", 3)
            inside = [member for member in members.split(",") if member in users]
            if gid in primary or inside:
                groups[name] = f"{name}:{password}:{gid}:{','.join(inside)}"
        return users, groups

    def groups_by_user(self) -> dict[str, list[str]]:
        """Return the names of the groups that each user is in."""
        by_gid: dict[str, list[str]] = {}
        found: dict[str, list[str]] = {name: [] for name in self.users}
        for name, line in self.groups.items():
            _, _, gid, members = line.split(":", 3)
            by_gid.setdefault(gid, []).append(name)
            for member in members.split(","):
                if member in found:
                    found[member].append(name)
        for name, line in self.users.items():
            found[name] += by_gid.get(line.split(":")[3], ())
        return found


def read_accounts(root: Root) -> Accounts:
    """Return the users and groups of a root; lines that are none are passed over, and so is a file that is absent."""
    users = dict(_ALWAYS)
    users.update(_lines(root, PASSWD, 7, 2, 3))
    groups = dict(_ALWAYS_GROUPS)
    of_root = _lines(root, GROUP, 4, 2)
    if "65534" in (line.split(":")[2] for line in of_root.values()):
        del groups["nogroup"]  # elsewhere it is called nobody
    groups.update(of_root)
    return Accounts(users, groups)


def parse_table(data: bytes) -> dict[str, str]:
    """Return the lines of a passwd or group file by their names, the first of each name."""
    table: dict[str, str] = {}
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        name = line.partition(":")[0]
        if name and ":" in line:
            table.setdefault(name, line)
    return table


def _lines(root: Root, path: str, fields: int, *numbers: int) -> dict[str, str]:
    try:
        found = parse_table(root.read(path, _MOST))
    except OSError:
        return {}
    lines = {}
    for name, line in found.items():
        parts = line.split(":")
        if (
            len(parts) == fields
            and name[0] not in "+-#"
            and all(
                parts[number].isascii() and parts[number].isdecimal() and int(parts[number]) <= _LAST_ID
                for number in numbers
            )
        ):
            parts[1] = "x"  # never a hash
            lines[name] = ":".join(parts)
    return lines


def merged(path: str, old: Table, new: Table) -> dict[str, str]:
    """Return the lines of two tables as one: of a group that both have with the members of both."""
    lines = {**old, **new}
    if path == GROUP:
        for name in old.keys() & new.keys():
            members = [*old[name].rpartition(":")[2].split(","), *new[name].rpartition(":")[2].split(",")]
            kept = ",".join(sorted({member for member in members if member}))
            lines[name] = f"{new[name].rpartition(':')[0]}:{kept}"
    return lines


def to_bytes(lines: Table) -> bytes:
    """Return a passwd or group file, by id and name."""

    def rank(line: str) -> tuple[int, str]:
        number = line.split(":")[2] if line.count(":") > 2 else ""
        return int(number) if number.isascii() and number.isdecimal() else 0, line

    return "".join(f"{line}\n" for line in sorted(lines.values(), key=rank)).encode("utf-8", "surrogateescape")
