"""Where a root lies on the host, and who may get there."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from jailbuild.check.findings import Finding, command_on
from jailbuild.errors import reason
from jailbuild.names import quoted
from jailbuild.root import Root, upwards

USES = ("sshd",)  # what a root may be checked for beside


class Place(NamedTuple):
    """Where a root lies."""

    path: str  # on the host
    device: int
    is_reachable: bool  # every user of the host may enter it: it and each directory above are open to all
    nosuid: bool  # its file system takes no notice of set-id bits and capabilities
    nodev: bool  # and of device nodes


def place_of(root: Root) -> Place:
    """Return where a root lies. The host's own root is nobody's secret and counts as not reachable from beside."""
    flags = os.fstatvfs(root.descriptor).f_flag
    return Place(
        root.path.rstrip("/"),
        os.fstat(root.descriptor).st_dev,
        not root.is_host and _is_open_to_all(root),
        bool(flags & os.ST_NOSUID),
        bool(flags & os.ST_NODEV),
    )


def _is_open_to_all(root: Root) -> bool:
    try:
        return all(os.stat(path).st_mode & 0o001 for path in upwards(root.path))
    except OSError:
        return False


def place_findings(root: Root, name: str, uses: tuple[str, ...]) -> Iterator[Finding]:
    """Yield what is wrong with the directory of a root itself, for all uses and for those that are named.

    `name` is the path of the root as the user gives it: sshd goes by it, links and all.
    """
    mode = stat.S_IMODE(os.fstat(root.descriptor).st_mode)
    if not mode & 0o001:
        open_it = command_on("/", name, "chmod", "a+rx")
        yield Finding(
            "not-enterable",
            "/",
            f"{name} has mode {mode:04o}: who is neither owner nor group cannot enter",
            "/",
            hint=f"{open_it}, and keep others out by the directory above it",
        )
    if mode & 0o002 and not mode & stat.S_ISVTX:
        yield Finding(
            "world-writable-directory",
            "/",
            f"everybody may write to {name} and remove what is in it",
            "/",
            hint=command_on("/", name, "chmod", "o-w"),
        )
    if "sshd" in uses:
        yield from _sshd(root, name)


def _sshd(root: Root, name: str) -> Iterator[Finding]:
    """Yield what makes sshd refuse the root.

    sshd_config(5), ChrootDirectory: all components of the path are root's and writable for nobody else. Links in the
    path are followed; the directories above where they lead are held to the same.
    """
    paths = dict.fromkeys([*upwards(os.path.abspath(name)), *upwards(root.path)])
    known = set()
    for path in reversed(paths):
        try:
            status = os.stat(path)
        except OSError as error:
            yield Finding("sshd-refuses", "/", f"{path} cannot be looked at: {reason(error)}", path)
            continue
        identity = (status.st_dev, status.st_ino)
        if identity in known:
            continue
        known.add(identity)
        mode = stat.S_IMODE(status.st_mode)
        wrong, hints = [], []
        if status.st_uid != 0:
            wrong.append(f"belongs to user {status.st_uid}")
            hints.append(f"chown root {quoted(path)}")
        if mode & 0o022:
            wrong.append(f"has mode {mode:04o}, writable for group or others")
            hints.append(f"chmod go-w {quoted(path)}")
        if wrong:
            yield Finding(
                "sshd-refuses", "/", f"sshd refuses {name}: {path} {' and '.join(wrong)}", path, hint=" && ".join(hints)
            )
