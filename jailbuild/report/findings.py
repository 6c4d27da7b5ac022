"""What `check` found, for a person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jailbuild.check.findings import NOTE, Finding, Report
from jailbuild.names import shown

_FEW_NOTES = 10
_ALIKE = 5  # findings of one code in one place that are each told
_FIRST = 3  # that are told of more
_PLACES = 4  # for one code
_DEEP = 6  # directories


def text(report: Report, name: str, *, quiet: bool, verbose: bool) -> str:
    """Return a line for each finding, its hint below it where it is not the one just given, and a summary.

    Where many of one code lie together the first are told and the others counted, and of many notes only the first
    are told, unless `verbose`; no note if `quiet`.
    """
    lines = []
    last_hint = None
    notes = 0
    findings = [one for one in report.findings if not (quiet and one.severity == NOTE)]
    for finding, more in [(one, "") for one in findings] if verbose else _told(findings):
        if finding.severity == NOTE and not verbose:
            notes += 1
            if notes > _FEW_NOTES:
                continue
        lines.append(shown(f"{finding.severity}: {finding.message} [{finding.code}]"))
        if finding.advice != last_hint:
            lines.append(shown(f"  hint: {finding.advice}"))
        last_hint = finding.advice
        if more:
            lines.append(shown(more))
    if notes > _FEW_NOTES:
        lines.append(f"note: {notes - _FEW_NOTES} more notes (-v shows them)")
    if not quiet or lines:
        summary = report.as_json()
        counted = ", ".join(f"{summary[key]} {key}" for key in ("programs", "files", "errors", "warnings", "notes"))
        lines.append(shown(f"{name}: {counted}"))
    return "".join(f"{line}\n" for line in lines)


def _told(findings: Sequence[Finding]) -> Iterator[tuple[Finding, str]]:
    """Yield the findings that are told, in their order; with a line behind the last that stands for others."""
    by_code: dict[str, list[Finding]] = {}
    for finding in findings:
        by_code.setdefault(finding.code, []).append(finding)
    told: dict[Finding, str] = {}
    for code, some in by_code.items():
        for place, alike in _by_place(some).items():
            few = alike if len(alike) <= _ALIKE else alike[:_FIRST]
            told.update(dict.fromkeys(few, ""))
            if len(few) < len(alike):
                rest = len(alike) - len(few)
                told[few[-1]] = f"{few[-1].severity}: {rest} more in {place} [{code}] (-v shows them)"
    for finding in findings:
        if finding in told:
            yield finding, told[finding]


def _by_place(findings: list[Finding]) -> dict[str, list[Finding]]:
    """Return findings by the directories that hold them, as deep as there are but a few."""
    directories = [finding.path.split("/")[1:-1] for finding in findings]
    for depth in range(_DEEP, -1, -1):
        places: dict[str, list[Finding]] = {}
        for parts, finding in zip(directories, findings, strict=True):
            places.setdefault("/" + "/".join(parts[:depth]), []).append(finding)
        if len(places) <= _PLACES or len(findings) <= _ALIKE:
            break
    return places
