"""What gives somebody in the box, or beside it on the host, more than he should have."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator

from jailbuild.box.manifest import Manifest
from jailbuild.check.contents import is_beneath_mount_point
from jailbuild.check.exposure import Place
from jailbuild.check.findings import Finding, command_on, on_host
from jailbuild.check.tree import Seen, Tree
from jailbuild.names import quoted

_SET_ID = stat.S_ISUID | stat.S_ISGID
# null, zero, full, random, urandom; tty and ptmx: what every /dev has (Linux, devices.txt)
_HARMLESS = {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)}


def privilege_findings(tree: Tree, manifest: Manifest | None, box: str, place: Place) -> Iterator[Finding]:
    """Yield set-id files, capabilities, devices, what everybody may write to, what has names elsewhere, secrets."""
    here = Counter(seen.identity for seen in tree.seen.values() if seen.names > 1)
    rules = _Rules(tree, manifest, box, place)
    for path, seen in tree.seen.items():
        if stat.S_ISREG(seen.mode):
            if seen.names > here[seen.identity] and not tree.unopened and seen.names > 1:
                name = quoted(on_host(path, box))
                hint = f"put a copy in its place: cp -a {name} {name}.copy && mv -f {name}.copy {name}"
                yield Finding(
                    "outside-hard-link",
                    path,
                    f"{path} has {seen.names} names, and {here[seen.identity]} of "
                    f"them here: what changes it in the box changes it outside",
                    path,
                    hint=hint,
                )
            if seen.secret is not None:
                yield Finding("secret-file", path, f"{path} is a secret: {seen.secret}", path)
            yield from rules.of_file(path, seen)
        elif stat.S_ISDIR(seen.mode):
            yield from rules.of_directory(path, seen)
        elif stat.S_ISCHR(seen.mode) or stat.S_ISBLK(seen.mode):
            yield from rules.of_device(path, seen)


class _Rules:
    def __init__(self, tree: Tree, manifest: Manifest | None, box: str, place: Place) -> None:
        self.tree = tree
        self.entries = manifest.entries if manifest is not None else None
        self.box = box
        self.place = place
        self.open: dict[str, bool] = {"": place.is_reachable}  # directories, by whether others of the host get there

    def of_file(self, path: str, seen: Seen) -> Iterator[Finding]:
        """Yield what is dangerous about a regular file."""
        set_id = seen.mode & _SET_ID
        if set_id or seen.capable:
            what = "is set-id" if set_id else "has capabilities"
            yield self._privileged(path, seen, set_id)
            if seen.mode & 0o001 and not self.place.nosuid:
                yield from self._reachable(path, f"{what}, and other users of the host can run it")
        if seen.mode & 0o002 and not is_beneath_mount_point(path):
            yield Finding(
                "world-writable-file",
                path,
                f"everybody may write to {path}",
                path,
                hint=command_on(path, self.box, "chmod", "o-w"),
            )

    def _privileged(self, path: str, seen: Seen, set_id: int) -> Finding:
        hints = [command_on(path, self.box, "chmod", "u-s,g-s")] if set_id else []
        hints += [command_on(path, self.box, "setcap", "-r")] if seen.capable else []
        hint = f"if it should not be: {'; '.join(hints)}"
        what = " and ".join([*(["is set-id"] if set_id else []), *(["has capabilities"] if seen.capable else [])])
        if self.entries is None:
            return Finding("privileged-file", path, f"{path} {what}", path, hint=hint)
        entry = self.entries.get(path)
        wanted_by = entry.wanted_by if entry is not None else ()
        if entry is None or (entry.mode or 0) & _SET_ID != set_id or entry.type != "file":
            return Finding(
                "unexpected-privileges",
                path,
                f"{path} {what}, and the manifest does not have it so",
                path,
                requested_by=wanted_by,
                hint=hint,
            )
        if seen.capable:
            return Finding(
                "unrecorded-capability",
                path,
                f"{path} has capabilities, and the manifest records none",
                path,
                requested_by=wanted_by,
            )
        return Finding(
            "privileged-file", path, f"{path} is set-id, as the manifest has it", path, requested_by=wanted_by
        )

    def of_directory(self, path: str, seen: Seen) -> Iterator[Finding]:
        """Yield what is dangerous about a directory."""
        if seen.mode & 0o002 and not seen.mode & stat.S_ISVTX and not is_beneath_mount_point(path):
            yield Finding(
                "world-writable-directory",
                path,
                f"everybody may write to {path} and remove what is in it",
                path,
                hint=command_on(path, self.box, "chmod", "+t"),
            )
            yield from self._reachable(path, "can be written to by other users of the host")

    def of_device(self, path: str, seen: Seen) -> Iterator[Finding]:
        """Yield what is dangerous about a device node."""
        entry = self.entries.get(path) if self.entries is not None else None
        numbers = (os.major(seen.device), os.minor(seen.device))
        harmless = stat.S_ISCHR(seen.mode) and numbers in _HARMLESS
        if entry is None and not (self.entries is None and harmless):
            kind = "character" if stat.S_ISCHR(seen.mode) else "block"
            yield Finding("device-node", path, f"{path} is a {kind} device, {numbers[0]}:{numbers[1]}", path)
        if seen.mode & 0o006 and not harmless and not self.place.nodev:
            yield from self._reachable(path, "is a device, and other users of the host can open it")

    def _reachable(self, path: str, why: str) -> Iterator[Finding]:
        if self._is_open(path.rpartition("/")[0]):
            yield Finding("reachable-from-host", path, f"{path} {why} at {self.place.path}{path}", path)

    def _is_open(self, directory: str) -> bool:
        """Say whether other users of the host get into a directory of the box."""
        below = []
        while directory not in self.open:
            below.append(directory)
            directory = directory.rpartition("/")[0]
        may = self.open[directory]
        for directory in reversed(below):
            seen = self.tree.seen.get(directory)
            may = may and seen is not None and bool(seen.mode & 0o001)
            self.open[directory] = may
        return may
