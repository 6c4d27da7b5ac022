"""The record of a box as `check` takes it: which manifest counts, and whether somebody is changing the box.

From a writer's commit until its end there is a journal. What is looked at here holds nobody up.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from jailbuild.box.layout import DIRECTORY, JOURNAL, NAME, STAGING
from jailbuild.box.leftover import is_being_written, others_leftover, recover_command
from jailbuild.box.manifest import Manifest
from jailbuild.box.records import parse_manifest, read_manifest
from jailbuild.check.findings import Finding, readd_command
from jailbuild.closure.explain import add_command
from jailbuild.errors import JailError, reason
from jailbuild.names import command_line, operand
from jailbuild.root import Root, open_beneath

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
_BLOCK = 1 << 20

_Stamp = tuple[int, int, int, int, int] | None  # device, inode, size, mtime, ctime; None: it is not there


class State(NamedTuple):
    """What tells whether a box was changed between two looks."""

    manifest: _Stamp
    journal: _Stamp


class Record(NamedTuple):
    """The manifest that a box is held to."""

    manifest: Manifest | None
    findings: tuple[Finding, ...]  # about the record itself


def state_of(root: Root) -> State:
    """Look at the record of a box from outside."""
    return State(_stamp(root, NAME), _stamp(root, JOURNAL))


def _stamp(root: Root, name: str) -> _Stamp:
    try:
        opened = open_beneath(root.descriptor, f"{DIRECTORY}/{name}", os.O_PATH | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        status = os.fstat(opened)
    finally:
        os.close(opened)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def read_trusted(path: str) -> bytes:
    """Return the bytes of a manifest that is kept elsewhere (JailError if there is none that can be believed)."""
    try:
        opened = os.open(path, _READ | os.O_CLOEXEC)
        with os.fdopen(opened, "rb") as file:
            if not stat.S_ISREG(os.fstat(opened).st_mode):
                raise JailError(f"cannot read {path}: it is no regular file", "name a copy of a box's manifest")
            data = file.read()
    except OSError as error:
        raise JailError(f"cannot read {path}: {reason(error)}", "name a copy of a box's manifest") from None
    try:
        parse_manifest(data)
    except ValueError as error:
        raise JailError(f"cannot believe the manifest {path}: {error}", "name a copy of a box's manifest") from None
    return data


def read_record(root: Root, name: str, trusted: bytes | None) -> Record:
    """Return what a box that the user calls `name` is held to: its own manifest, or the `trusted` copy of it.

    JailError if its own cannot be believed; what only its owner may read is a finding.
    """
    where = f"/{DIRECTORY}/{NAME}"
    try:
        opened = open_beneath(root.descriptor, where[1:], _READ)
    except OSError as error:
        own = None
        unread = error.errno == errno.EACCES
    else:
        own = opened
        unread = False
    findings = []
    try:
        if unread:
            findings.append(Finding("unread-manifest", where, f"{where} is for its owner: {_without(trusted)}", where))
        elif trusted is not None and (own is None or not _holds(own, trusted)):
            findings.append(Finding("manifest-differs", where, f"{where} is not the copy that is trusted", where))
    finally:
        if own is not None:
            os.close(own)
    if trusted is not None:
        return Record(parse_manifest(trusted), tuple(findings))
    return Record(None if unread else read_manifest(root, name), tuple(findings))


def _without(trusted: bytes | None) -> str:
    return "only the copy counted" if trusted is not None else "the box was checked as a root without one"


def _holds(opened: int, data: bytes) -> bool:
    status = os.fstat(opened)
    if not stat.S_ISREG(status.st_mode) or status.st_size != len(data):
        return False
    place = 0
    while (block := os.pread(opened, _BLOCK, place)) and place <= len(data):
        if block != data[place : place + len(block)]:
            return False
        place += len(block)
    return place == len(data)


def change_findings(root: Root, manifest: Manifest | None, name: str, settled: bool) -> Iterator[Finding]:
    """Yield what somebody left undone, or is doing still: the box was not `settled` while it was looked at."""
    others = others_leftover(root)
    journal = f"/{DIRECTORY}/{JOURNAL}"
    if not settled:
        yield Finding(
            "unfinished-change",
            journal,
            f"{name} is being changed: what was found may be half of it",
            journal,
            hint=f"check again: {command_line('jailbuild', 'check', operand(name))}",
        )
    elif _stamp(root, JOURNAL) is not None:
        by = f" by uid {others.uid}" if others is not None else ""
        if others is not None:
            again: str | None = recover_command(name)
        else:
            again = readd_command(manifest, [*manifest.requests][:1], name) if manifest is not None else None
        yield Finding(
            "unfinished-change",
            journal,
            f"a change of {name}{by} was interrupted",
            journal,
            hint=f"finish it: {again or add_command(['bash'], name)}",
        )
    elif _stamp(root, STAGING) is not None and not is_being_written(root):
        staging = f"/{DIRECTORY}/{STAGING}"
        yield Finding(
            "leftover-staging",
            staging,
            f"{staging} was left by a change that never came about",
            staging,
            hint=f"take it back: {recover_command(name)}" if others is not None else None,
        )
