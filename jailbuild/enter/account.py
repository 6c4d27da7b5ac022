"""Who somebody is in a box, by the box's own /etc/passwd and /etc/group.

The files are read as text and confined to the box. The pwd and grp modules would ask the host, and an NSS module of
the box would run as root.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from jailbuild.errors import JailError
from jailbuild.root import Root

_MOST = 1 << 24  # bytes of a passwd or group file: somebody inside may have written them
_LAST_ID = (1 << 32) - 2  # 2**32 - 1 is -1, "leave it as it is", to setresgid(2)


class Account(NamedTuple):
    """The user that a command in the box runs as."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]  # supplementary, without `gid`, in the order of /etc/group
    home: str  # an absolute path in the box; nothing promises that it is there
    shell: str  # as the passwd file says, "" where it says nothing


def read_account(root: Root, user: str | None = None) -> Account:
    """Return who NAME or UID, with :GROUP or :GID or without, is in the root (None: uid 0).

    A number is a number, whatever names the root's passwd file has: a name there must not make root of uid 1000. The
    first line with the uid counts; without one: its number for a name, itself for a gid, / for a home (uid 0: "root",
    gid 0, /root if the root has that directory). Supplementary groups are those that list the name in /etc/group.
    Malformed lines (passwd(5), group(5)) are passed over, and a file that is absent, special or beyond 16 MiB is as
    an empty one. JailError: a name that is not there, a number that is no id.
    """
    who, colon, group = (user if user is not None else "0").partition(":")
    uid = _identifier(who)
    if (uid is None and _looks_like_number(who)) or not who or (colon and not group):
        raise _no_user(root, user, "it is no user", "--user NAME, --user UID or --user UID:GID")
    account = _in_passwd(root, who, uid)
    if account is None:
        if uid is None:
            raise _no_user(root, user, f"its /etc/passwd has no {who}", "--user UID:GID takes any number")
        account = _unlisted(root, uid)
    gid = _group(root, group, user) if colon else account.gid
    return account._replace(gid=gid, groups=_groups(root, account.name, gid))


def group_id(root: Root, group: str) -> int | None:
    """Return the id of a group by its name in /etc/group."""
    return next((_identifier(gid) for name, _, gid, _ in _lines(root, "/etc/group", 4) if name == group), None)


def _in_passwd(root: Root, who: str, uid: int | None) -> Account | None:
    for name, _, number, gid, _, home, shell in _lines(root, "/etc/passwd", 7):
        found, primary = _identifier(number), _identifier(gid)
        if name and found is not None and primary is not None and (found == uid if uid is not None else name == who):
            return Account(name, found, primary, (), home if home.startswith("/") else "/", shell)
    return None


def _unlisted(root: Root, uid: int) -> Account:
    if uid == 0:
        return Account("root", 0, 0, (), "/root" if root.is_directory("/root") else "/", "")
    return Account(str(uid), uid, uid, (), "/", "")


def _group(root: Root, group: str, user: str | None) -> int:
    number = _identifier(group)
    if number is None and not _looks_like_number(group):
        number = group_id(root, group)
    if number is None:
        raise _no_user(root, user, f"its /etc/group has no {group}", "--user UID:GID takes any number")
    return number


def _no_user(root: Root, user: str | None, why: str, hint: str) -> JailError:
    return JailError(f"cannot be {'root' if user is None else user} in {root.path}: {why}", hint)


def _groups(root: Root, user: str, primary: int) -> tuple[int, ...]:
    found: dict[int, None] = {}
    for name, _, gid, members in _lines(root, "/etc/group", 4):
        number = _identifier(gid)
        if name and number not in (None, primary) and user in members.split(","):
            assert number is not None
            found[number] = None
    return tuple(found)


def _lines(root: Root, path: str, fields: int) -> list[list[str]]:
    """Return the lines of a colon-separated file that have so many fields and could be passed to the kernel."""
    try:
        content = root.read(path, _MOST)
    except OSError:
        return []
    lines = [os.fsdecode(line).split(":") for line in content.split(b"\n") if b"\0" not in line]
    return [line for line in lines if len(line) == fields]


def _looks_like_number(text: str) -> bool:
    return text.isdecimal() or text[:1] in ("+", "-")


def _identifier(text: str) -> int | None:
    if not (text.isascii() and text.isdecimal() and len(text) <= 10):  # int() takes more: "+0", " 0", "0_0", "٠"
        return None
    number = int(text)
    return number if number <= _LAST_ID else None
