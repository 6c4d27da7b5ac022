"""What to say before a box is entered: what it lacks, what will not be seen inside, what does not hold on this host."""

from __future__ import annotations

import os

from jailbuild.enter.idmap import Ids
from jailbuild.enter.isolated import Options
from jailbuild.root import Root


def notes(root: Root, options: Options, ids: Ids | None) -> list[str]:
    """Return what the person should know, a line each."""
    found = [
        f"{root.path} has no {path}: entered without {what}"
        for path, what in (("/proc", "one"), ("/dev", "devices"))
        if not root.is_directory(path)
    ]
    if ids is not None:  # all mounts come along, and nothing of the host's root is the caller's to change
        return found
    mounts = _mount_points()
    covered = {"/proc", "/dev", *(bind.target for bind in options.binds), *(tmpfs.target for tmpfs in options.tmpfs)}
    hidden = below(root.path, [point for point, _ in mounts], covered)
    if hidden:
        more = ", …" if len(hidden) > 4 else ""
        found.append(f"not seen inside is what is mounted on {', '.join(hidden[:4])}{more} (--bind brings it)")
    if options.emulation is not None:  # which is the only one that the box's programs see
        return [*found, options.emulation.note()]
    for point in [point for point, kind in mounts if kind == "binfmt_misc"]:
        found += [
            f"root inside can change {program} of the host: binfmt_misc runs it for foreign programs (flag F)"
            for program in fixed_interpreters(point)
        ]
    return found


def _mount_points() -> list[tuple[str, str]]:
    """Return the mount points of the host with their file systems' types, proc_pid_mountinfo(5)."""
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            lines = [line.split() for line in file]
    except OSError:
        return []
    return [(_unescaped(line[4]), os.fsdecode(line[line.index(b"-") + 1])) for line in lines]


def _unescaped(point: bytes) -> str:
    for code, byte in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        point = point.replace(code, byte)
    return os.fsdecode(point)


def below(path: str, points: list[str], covered: set[str]) -> list[str]:
    """Return the mount points below a directory of the host, but for those in what will be covered."""
    prefix = path.rstrip("/") + "/"
    return sorted(
        {
            point
            for point in points
            if point.startswith(prefix)
            and point != "/"
            and not any(f"/{point[len(prefix) :]}/".startswith(f"{one}/") for one in covered)
        }
    )


def fixed_interpreters(directory: str) -> list[str]:
    """Return the programs of the host that binfmt_misc runs in every root: opened when they were registered, flag F.

    Such a program is /proc/self/exe of what it interprets, past all mounts (admin-guide/binfmt-misc.rst; CVE-2019-5736
    is the same for a launcher).
    """
    found = set()
    try:
        names = os.listdir(directory)
        for name in names:
            if name not in ("register", "status"):
                with open(os.path.join(directory, name), encoding="utf-8", errors="surrogateescape") as file:
                    state, *lines = file.read().split("\n")
                fields = dict(line.partition(" ")[::2] for line in lines)
                if state == "enabled" and "F" in fields.get("flags:", ""):
                    found.add(fields.get("interpreter", name))
    except OSError:
        pass
    return sorted(found)
