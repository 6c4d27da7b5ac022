"""All rules, held against one root."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from typing import NamedTuple

from jailbuild.box.confined_fs import lstat_in
from jailbuild.box.layout import DIRECTORY
from jailbuild.box.leftover import is_being_written
from jailbuild.box.manifest import Manifest
from jailbuild.check.contents import content_findings
from jailbuild.check.digests import Digests
from jailbuild.check.exposure import place_findings, place_of
from jailbuild.check.findings import Finding, Ignored, Report, sort
from jailbuild.check.links import link_findings
from jailbuild.check.manifest_state import change_findings, read_record, state_of
from jailbuild.check.privileges import privilege_findings
from jailbuild.check.programs import ProgramRules
from jailbuild.check.scope import is_of, places_of
from jailbuild.check.soft_deps import silent_findings
from jailbuild.check.tree import read_tree
from jailbuild.errors import JailError
from jailbuild.root import Root

_PAUSES = (0.0, 0.1, 0.2, 0.4, 0.8)  # seconds before each look at a box that somebody changes

Progress = Callable[[int, int], object]  # told how much is done, and of how much


class CheckOptions(NamedTuple):
    """What a check is to go by beside the rules."""

    trusted: bytes | None = None  # a manifest to be believed instead of the box's own
    uses: tuple[str, ...] = ()  # of place.USES
    ignored: tuple[Ignored, ...] = ()
    source: Root | None = None  # the root that the box should not be behind
    shelves: tuple[str, ...] = ()  # directories with recipes of the user's, for that
    programs: tuple[str, ...] = ()  # paths: nothing but these and what they load
    dlopen: str | None = None  # which libraries there must be that programs open while they run; None: as put in
    symbols: bool = False  # every symbol is to be found too
    run: bool = False  # the root's own loader is to be asked
    is_named: bool = True  # whether the user named the source root


DEFAULT_CHECKS = CheckOptions()


def check_root(
    root: Root, name: str, wishes: CheckOptions = DEFAULT_CHECKS, progress: Progress | None = None
) -> Report:
    """Check a box, or any root, that the user calls `name` (JailError if its manifest cannot be believed).

    A box that is changed meanwhile is looked at again; if that goes on, the report says so.
    """
    for pause in _PAUSES:
        if pause:
            time.sleep(pause)
        last = pause == _PAUSES[-1]
        here = root if pause == 0.0 else Root(root.path)  # a Root remembers what it saw
        before = state_of(here)
        busy = before.journal is not None and is_being_written(here)
        if busy and not last:
            continue
        look = _look(here, name, wishes, progress)
        settled = not busy and state_of(here) == before
        if settled or last:
            break
    findings = [*look.findings, *change_findings(here, look.manifest, name, settled)]
    return Report(sort(findings), look.programs, look.files).without(wishes.ignored)


class _Look(NamedTuple):
    manifest: Manifest | None
    findings: list[Finding]
    programs: int
    files: int


def _look(root: Root, name: str, wishes: CheckOptions, progress: Progress | None) -> _Look:
    """Hold all rules against a root, once."""
    record = read_record(root, name, wishes.trusted)
    manifest = record.manifest
    listed = manifest.entries if manifest is not None else {}
    places: frozenset[str] | None = None
    if wishes.programs:
        places = places_of(root, wishes.programs, manifest, wishes.dlopen)
        listed = {path: entry for path, entry in listed.items() if path in places}
    total = sum(
        entry.size or 0 for path, entry in listed.items() if entry.type == "file" and entry.hardlink in (None, path)
    )
    with Digests() as digests:

        def tick() -> None:
            if progress is not None and total:
                progress(digests.read, total)

        tree = read_tree(root, listed, digests, tick)
        root.learn(tree.places)
        told = progress if manifest is None else None
        only = tuple(dict.fromkeys(root.walk(path).real for path in wishes.programs))
        rules = ProgramRules(root, tree, manifest, name, told, only, wishes.dlopen)
        findings = [*record.findings, *tree.unreadable, *rules.findings()]
        if wishes.symbols:
            from jailbuild.check.symbols import symbol_findings  # only where it is asked for

            findings += symbol_findings(root, rules.resolved, rules.files, manifest, name)
        findings += silent_findings(root, rules.resolved, rules.files, manifest, name)
        findings += link_findings(root, tree, manifest, name)
        place = place_of(root)
        findings += place_findings(root, name, wishes.uses)
        findings += privilege_findings(tree, manifest, name, place)
        while digests.step():
            tick()
        if wishes.source is not None:
            findings += _stale(root, manifest, name, wishes)
        if manifest is not None:
            wanted = manifest._replace(entries=listed)
            findings += content_findings(root, tree, digests, wanted, name, owned=_is_owned(root), device=place.device)
    if wishes.run:  # when no thread is left that hashes: what follows forks
        from jailbuild.check.loader_crosscheck import loader_findings  # only where it is asked for

        known = {(one.code, one.path, one.subject) for one in findings}
        findings += [
            one
            for one in loader_findings(root, rules.resolved, rules.files, manifest, name)
            if (one.code, one.path, one.subject) not in known
        ]
    if places is None:
        return _Look(manifest, findings, rules.count, tree.files)
    files = sum(path in places and stat.S_ISREG(seen.mode) for path, seen in tree.seen.items())
    return _Look(manifest, [one for one in findings if is_of(one, places)], rules.count, files)


def _stale(root: Root, manifest: Manifest | None, name: str, wishes: CheckOptions) -> list[Finding]:
    if manifest is None:
        why = "it has no manifest that can be read"
        raise JailError(f"cannot check whether {name} is stale: {why}", "only a box has a source root")
    from jailbuild.box.source_id import refuse_unnamed_source
    from jailbuild.check.stale import stale_findings  # what plans is loaded by who asks for a plan
    from jailbuild.closure.catalog import RecipeCatalog

    assert wishes.source is not None
    if not wishes.is_named:
        refuse_unnamed_source(manifest, name, "check")
    return list(stale_findings(root, manifest, name, wishes.source, RecipeCatalog(wishes.shelves)))


def _is_owned(root: Root) -> bool:
    """Say whether who made a box could set owners: then the record is root's."""
    try:
        return lstat_in(root, f"/{DIRECTORY}").st_uid == 0
    except OSError:  # there is none any more
        return os.fstat(root.descriptor).st_uid == 0
