"""What `add` does, from words to a plan."""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from jailbuild.box.draft import draft
from jailbuild.box.manifest import Asked, Label, Manifest, read_manifest
from jailbuild.box.plan import Plan, make_plan
from jailbuild.box.prove import prove
from jailbuild.closure.commands import NOT_FILES, Request, by_name, find_program, path_note, source_root
from jailbuild.closure.gather import Closure, Options, gather
from jailbuild.elf.reader import read_elf
from jailbuild.errors import JailError, reason
from jailbuild.loader import machines
from jailbuild.root import Root

_TELLTALES = ("/bin/sh", "/usr/bin/env", "/bin/busybox", "/sbin/ldconfig")  # programs that tell a root's machine
_MAX_RELEASE = 1 << 20


class Addition(NamedTuple):
    """A plan to add something to a box, and what it was made from."""

    plan: Plan
    closure: Closure
    source: Root

    def host_path(self, path: str) -> str:
        """Return where on the host the file comes from that the plan puts at `path`."""
        source = self.closure.source_of(path)
        return self.source.host_path(path) if source == path else source


def plan_addition(
    root: Root, words: tuple[str, ...], box: str, options: Options, *, bare: bool = False, keep_privileges: bool = False
) -> Addition:
    """Plan to put the programs that `words` name into the directory `box` (JailError; nothing is written)."""
    requests = _find_all(root, words, options)
    notes = tuple(note for request in requests if request.name in words and (note := path_note(root, request)))
    there = _open_box(box)
    if there is not None and os.path.samestat(os.fstat(there.descriptor), os.fstat(root.descriptor)):
        raise JailError(f"cannot make a box at {box}: it is the source root itself", "name another directory")
    before = read_manifest(there, box) if there is not None else None
    label = label_of(root)
    if before is not None:
        _same_root(before, label, box)
        for request in requests:
            _same_source(request, before)
    source = source_root(root, requests)
    closure = gather(source, requests, options)
    asked = {}
    for request in requests:
        known = before.requests.get(request.name) if before is not None else None
        asked[request.name] = Asked(request.name, request.path, request.source, bare and (known is None or known.bare))
    drafted = draft(closure, label, asked, before, there, keep_privileges)
    closure = closure._replace(notes=(*notes, *closure.notes, *drafted.notes))
    plan = make_plan(drafted, source, before, there)
    if not plan.conflicts:
        prove(plan, closure, there)
    return Addition(plan, closure, source)


def _find_all(root: Root, words: tuple[str, ...], options: Options) -> tuple[Request, ...]:
    """Find what the words mean (JailError: all that is wrong with any of them)."""
    requests: dict[str, Request] = {}
    failures: list[str] = []
    hint = ""
    for word in words:
        try:
            request = by_name(root, find_program(root, word, options.search_path), options.search_path)
            if request.path.startswith(NOT_FILES):
                raise JailError(f"cannot add {word}: what is in {request.path[:5]} is the kernel's, and no file")
            known = requests.setdefault(request.name, request)
            if known != request:
                failures.append(f"cannot add {word}: {request.name} is asked for twice, from different files")
        except JailError as error:
            failures += [cause.replace("cannot find", "cannot add", 1) for cause in error.causes]
            hint = hint or error.hint
    if failures:
        found = tuple(requests.values())
        try:
            gather(source_root(root, found), found, options)
        except JailError as error:
            failures += error.causes
        raise JailError(failures, hint)
    return tuple(requests.values())


def _same_source(request: Request, before: Manifest) -> None:
    known = before.requests.get(request.name)
    if known is not None and (known.path, known.source) != (request.path, request.source):
        raise JailError(
            f"cannot add {request.name}: the box has it from {known.source or known.path}, "
            f"and now it would come from {request.source or request.path}",
            "build a new box",
        )


def _open_box(box: str) -> Root | None:
    """Return the directory of a box, None if there is nothing yet (JailError if there cannot be a box)."""
    if not os.path.lexists(box):
        parent = os.path.dirname(os.path.abspath(box))
        if not os.path.isdir(parent):
            raise JailError(f"cannot make a box at {box}: there is no directory {parent}", f"mkdir -p {parent}")
        return None
    try:
        os.stat(box)
    except OSError as error:
        why = "it is a link that leads nowhere" if error.errno == errno.ENOENT else reason(error)
        raise JailError(f"cannot make a box at {box}: {why}", "name a directory") from None
    if not os.path.isdir(box):
        raise JailError(f"cannot make a box at {box}: it is no directory", "name a directory")
    there = Root(box)
    if there.is_host:
        raise JailError(f"cannot make a box at {box}: it is the host's own root", "name a directory below it")
    return there


def label_of(root: Root) -> Label:
    """Return what tells a source root from others: os-release(5) and the machine of its programs."""
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


def _machine(root: Root) -> str | None:
    for path in _TELLTALES:
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
            return machines.machine(elf.kind).name
    return None


def _same_root(before: Manifest, label: Label, box: str) -> None:
    if before.label != label:
        raise JailError(
            f"cannot add to {box}: it was made from {before.label}, and this root is {label}",
            "name that root with --sysroot, or build a new box",
        )
