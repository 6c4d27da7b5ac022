"""Whom the ids of a user namespace stand for: user_namespaces(7), subuid(5), newuidmap(1)."""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from jailbuild.enter.account import Account
from jailbuild.errors import JailError
from jailbuild.names import quoted

_WITHOUT_ROOT = "root in the box is you, and needs no more: --user root"


class Ids(NamedTuple):
    """The maps, as lines of inside, outside, count; `by_ranges`: written by newuidmap and newgidmap."""

    uids: tuple[tuple[int, int, int], ...]
    gids: tuple[tuple[int, int, int], ...]
    by_ranges: bool

    def __str__(self) -> str:
        def lines(maps: tuple[tuple[int, int, int], ...]) -> str:
            return ", ".join(
                f"{inside}={outside}" + (f" ({count})" if count > 1 else "") for inside, outside, count in maps
            )

        return f"ids: uid {lines(self.uids)}; gid {lines(self.gids)}{'' if self.by_ranges else '; setgroups denied'}"


def is_rootless() -> bool:
    """Say whether this process needs a user namespace to enter a box.

    Root may be one of a user namespace itself, with one id and no way to set groups (unshare --map-root-user): it is
    no more than an ordinary user then.
    """
    if os.geteuid() != 0:
        return True
    try:
        with open("/proc/self/setgroups", "rb") as file:
            return file.read(4) == b"deny"
    except OSError:
        return False


def plan_ids(account: Account, uid: int, gid: int) -> Ids:
    """Return the maps with which the caller (`uid`, `gid`) can be `account`.

    Root in the box is the caller. Anybody else takes ranges that were given to the caller (JailError without them).
    """
    if account.uid == 0:
        return Ids(((0, uid, 1),), ((account.gid, gid, 1),), False)
    name = _own_name(uid)
    uids = _ranges("/etc/subuid", name, uid)
    gids = _ranges("/etc/subgid", name, uid)
    who = f"cannot be uid {account.uid} gid {account.gid} without root"
    if not uids or not gids:
        raise JailError(
            f"{who}: {name} has no range of ids in /etc/subuid and /etc/subgid",
            f"{_WITHOUT_ROOT}; or usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {quoted(name)}",
        )
    if _find("newuidmap") is None or _find("newgidmap") is None:
        raise JailError(f"{who}: newuidmap and newgidmap are not here", f"{_WITHOUT_ROOT}; or install uidmap")
    for number, ranges, kind in ((account.uid, uids, "uid"), (account.gid, gids, "gid")):
        if number > sum(count for _, count in ranges):
            raise JailError(f"{who}: the ranges of {name} have no room for {kind} {number}", _WITHOUT_ROOT)
    return Ids(_map(uid, uids), _map(gid, gids), True)


def write_ids(ids: Ids, process: int) -> None:
    """Write the maps of a process in a new user namespace (OSError)."""
    if ids.by_ranges:
        _run("newgidmap", process, ids.gids)
        _run("newuidmap", process, ids.uids)
        return
    # setgroups first, before the gid map: else whoever is kept out of a file by a group could drop it (CVE-2014-8989).
    for name, text in (
        ("setgroups", "deny"),
        ("gid_map", " ".join(map(str, ids.gids[0]))),
        ("uid_map", " ".join(map(str, ids.uids[0]))),
    ):
        opened = os.open(f"/proc/{process}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(opened, text.encode())
        finally:
            os.close(opened)


def _map(own: int, ranges: list[tuple[int, int]]) -> tuple[tuple[int, int, int], ...]:
    lines, inside = [(0, own, 1)], 1
    for start, count in ranges:
        lines.append((inside, start, count))
        inside += count
    return tuple(lines)


def _run(name: str, process: int, maps: tuple[tuple[int, int, int], ...]) -> None:
    program = _find(name)
    if program is None:
        raise OSError(errno.ENOENT, "it is not here any more", name)
    arguments = [name, str(process), *(str(number) for line in maps for number in line)]
    child = os.posix_spawn(program, arguments, {"PATH": os.defpath}, setsigmask=())
    _, status = os.waitpid(child, 0)
    if status:
        raise OSError(errno.EPERM, f"{name} has refused them", name)


def _find(name: str) -> str | None:
    import shutil

    return shutil.which(name)


def _own_name(uid: int) -> str:
    import pwd  # the host's, in the launcher: the box is not entered by it

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _ranges(path: str, name: str, uid: int) -> list[tuple[int, int]]:
    """Return the ranges (start, count) of a user in a file as subuid(5) has it."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.strip().split(":") for line in file]
    except OSError:
        return []
    return [
        (int(line[1]), int(line[2]))
        for line in lines
        if len(line) == 3 and line[0] in (name, str(uid)) and line[1].isdecimal() and line[2].isdecimal()
    ]
