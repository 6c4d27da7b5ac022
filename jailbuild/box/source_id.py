"""What tells a source root from others."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

from jailbuild.box.manifest import Label, Manifest
from jailbuild.closure.commands import STANDARD_PATH
from jailbuild.elf.reader import read_elf
from jailbuild.errors import JailError, OtherSourceError
from jailbuild.loader import arch
from jailbuild.names import quoted
from jailbuild.root import Root

_TELLTALES = ("/bin/sh", "/usr/bin/env", "/bin/busybox", "/sbin/ldconfig")  # programs that most roots have
_MOST_TRIED = 500  # programs
_MAX_RELEASE = 1 << 20  # bytes


def label_of(root: Root) -> Label:
    """Return the label of a source root: os-release(5) and the machine of its programs."""
    fields: dict[str, str] = {}
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            text = root.read(path, _MAX_RELEASE).decode("utf-8", "replace")
        except OSError:
            continue
        for line in text.splitlines():
            key, _, value = line.partition("=")
            fields.setdefault(key.strip(), value.strip().strip("\"'"))
        break
    return Label(fields.get("ID"), fields.get("VERSION_ID"), os.uname().machine if root.is_host else _machine(root))


def _candidates(root: Root) -> Iterator[str]:
    """Yield programs that may tell a root's machine: it must not depend on which of them the root has."""
    yield from _TELLTALES
    for directory in STANDARD_PATH.split(":"):
        try:
            yield from (f"{directory}/{name}" for name in root.listdir(directory))
        except OSError:
            continue


def _machine(root: Root) -> str | None:
    for path in itertools.islice(_candidates(root), _MOST_TRIED):
        try:
            opened = root.open(path)
        except OSError:
            continue
        try:
            elf = read_elf(opened)
        except OSError:
            continue
        finally:
            os.close(opened)
        if elf.bits:
            return arch.machine(elf.kind).name
    return None


def refuse_other_root(before: Manifest, label: Label, box: str, what: str) -> None:
    """Raise JailError unless a box was made from a root with this label."""
    if before.label != label:
        raise JailError(
            f"cannot {what} {box}: it was made from {before.label}, and this root is {label}",
            "name that root with --sysroot, or go over to this one with --rebase",
        )


def refuse_unnamed_source(before: Manifest | None, box: str, what: str) -> None:
    """Raise OtherSourceError where a box was made from another source root than the host's own, and none was named.

    What the record says makes us refuse, and never read elsewhere.
    """
    if before is None or before.source in ("", "/"):
        return
    if before.source is None:
        cause = f"cannot {what} {box}: it was made from an image, and not from this root"
        raise OtherSourceError(cause, "name a root with --sysroot", None)
    if not os.path.isdir(before.source):
        cause = f"cannot {what} {box}: it was made from {before.source}, which is not there any more"
        raise OtherSourceError(cause, "name where that root is now with --sysroot DIR", None)
    raise OtherSourceError(
        f"cannot {what} {box}: it was made from {before.source}",
        f"--sysroot {quoted(before.source)} takes that root again",
        before.source,
    )
