"""What a change of a box is, by package and version."""

from __future__ import annotations

from jailbuild.box.plan import Plan
from jailbuild.box.retain import named_packages
from jailbuild.packages.info import PackageInfo


def package_lines(plan: Plan) -> list[str]:
    """Return a line for each package that files are written or removed of: "libc6 2.36-9 -> 2.36-10: 31 files"."""
    known = named_packages(plan.before) if plan.before is not None else {}
    listed = plan.before.entries if plan.before is not None else {}
    counts: dict[str, int] = {}
    others = 0
    for action in plan.changes:
        if action.entry.type not in ("file", "link"):
            continue
        old = listed.get(action.entry.path)
        package = action.entry.package or (old.package if old is not None else None)
        for word in package.split(", ") if package is not None else ():
            counts[word] = counts.get(word, 0) + 1
        others += package is None
    left = {
        word
        for action in plan.actions
        if action.kind != "remove" and action.entry.package is not None
        for word in action.entry.package.split(", ")
    }
    before = {
        word: known.get(word, PackageInfo(word, None, None, None))
        for entry in listed.values()
        if entry.package is not None
        for word in entry.package.split(", ")
    }
    after = {word: one for word, one in plan.draft.packages.items() if word in left}
    lines = [
        f"{word} {_versions(before.get(word), after.get(word))}: {_files(count)}"
        for word, count in sorted(counts.items())
    ]
    return [*lines, *([f"of no package: {_files(others)}"] if others and lines else [])]


def _versions(was: PackageInfo | None, now: PackageInfo | None) -> str:
    old, new = (one.version if one is not None else None for one in (was, now))
    if now is None:
        return f"{old or '?'} -> none"
    if was is None:
        return f"none -> {new or '?'}"
    return f"{old or '?'} -> {new or '?'}" if old != new else new or "?"


def _files(count: int) -> str:
    return f"{count} file" if count == 1 else f"{count} files"
