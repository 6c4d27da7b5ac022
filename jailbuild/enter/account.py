"""Who root is in a box, by the box's own /etc/passwd and /etc/group.

The files are read as text and confined to the box. The pwd and grp modules would ask the host, and an NSS module of
the box would run as root.
"""

from __future__ import annotations

import os
from typing import NamedTuple

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


def read_account(root: Root) -> Account:
    """Return the first user with uid 0 in the root's /etc/passwd, with the groups that list it in /etc/group.

    Without such a line: root, gid 0, home /root if the root has that directory, else /. Malformed lines (passwd(5),
    group(5)) are passed over, and a file that is absent, special or beyond 16 MiB is as an empty one.
    """
    for name, _, uid, gid, _, home, shell in _lines(root, "/etc/passwd", 7):
        number = _identifier(gid)
        if name and _identifier(uid) == 0 and number is not None:
            home = home if home.startswith("/") else "/"
            return Account(name, 0, number, _groups(root, name, number), home, shell)
    home = "/root" if root.is_directory("/root") else "/"
    return Account("root", 0, 0, _groups(root, "root", 0), home, "")


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


def _identifier(text: str) -> int | None:
    if not (text.isascii() and text.isdecimal() and len(text) <= 10):  # int() takes more: "+0", " 0", "0_0", "٠"
        return None
    number = int(text)
    return number if number <= _LAST_ID else None
