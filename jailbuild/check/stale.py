"""A box must be what an update from its source root would make of it (`check --stale`)."""

from __future__ import annotations

from collections.abc import Iterator

from jailbuild.box.manifest import Manifest
from jailbuild.box.source_id import label_of
from jailbuild.box.target import PlanOptions
from jailbuild.box.update import plan_update
from jailbuild.check.findings import Finding
from jailbuild.closure.catalog import RecipeCatalog
from jailbuild.errors import JailError
from jailbuild.names import command_line, operand
from jailbuild.root import Root

_WORDS = {
    "add": "would be added",
    "replace": "would be replaced",
    "remove": "would be removed",
    "conflict": "would have to change, and cannot",
}


def stale_findings(root: Root, manifest: Manifest, box: str, source: Root, catalog: RecipeCatalog) -> Iterator[Finding]:
    """Yield what `update` from the source root `source` would change, and what it could not bring up to date."""
    where = ["--sysroot", source.path] if source.path != "/" else []
    where += [word for directory in catalog.directories for word in ("--recipes", directory)]
    hint = command_line("jailbuild", "update", operand(box), *where)
    label = label_of(source)
    if label != manifest.label:
        yield Finding(
            "stale",
            "/",
            f"{box} was made from {manifest.label}, and the source root is {label}",
            str(label),
            hint=f"{hint} --rebase",
        )
        return
    try:
        change, found = plan_update(source, box, root, manifest, (), (), PlanOptions(catalog=catalog), rebase=False)
    except JailError as error:
        for cause in error.causes:
            yield Finding("stale", "/", f"{box} could not be brought up to date: {cause}", hint=error.hint or hint)
        return
    for name in found.vanished:
        path = manifest.requests[name].path
        yield Finding("vanished-program", path, f"{name} is no longer in the source root", name, requested_by=(name,))
    for name in sorted(found.carried - set(found.vanished)):
        path = manifest.requests[name].path
        yield Finding(
            "not-compared",
            path,
            f"{name} was put in by path: nothing tells where it comes from",
            name,
            requested_by=(name,),
        )
    for action in change.plan.actions:
        if action.kind in _WORDS:
            why = f": it {action.why}" if action.why else ""
            yield Finding(
                "stale",
                action.entry.path,
                f"{action.entry.path} {_WORDS[action.kind]} by an update{why}",
                action.entry.path,
                requested_by=action.entry.wanted_by,
                hint=hint,
            )
