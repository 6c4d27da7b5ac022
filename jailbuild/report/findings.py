"""What `check` found, for a person."""

from __future__ import annotations

from jailbuild.check.findings import NOTE, Report
from jailbuild.names import shown

_FEW_NOTES = 10


def text(report: Report, name: str, *, quiet: bool, verbose: bool) -> str:
    """Return a line for each finding, its hint below it where it is not the one just given, and a summary.

    Of many notes only the first are shown, unless `verbose`; none if `quiet`.
    """
    lines = []
    last_hint = None
    notes = 0
    for finding in report.findings:
        if finding.severity == NOTE:
            notes += 1
            if quiet or (notes > _FEW_NOTES and not verbose):
                continue
        lines.append(shown(f"{finding.severity}: {finding.message} [{finding.code}]"))
        if finding.hint is not None and finding.hint != last_hint:
            lines.append(shown(f"  hint: {finding.hint}"))
        last_hint = finding.hint
    if notes > _FEW_NOTES and not verbose and not quiet:
        lines.append(f"note: {notes - _FEW_NOTES} more notes (-v shows them)")
    if not quiet or lines:
        summary = report.as_json()
        counted = ", ".join(f"{summary[key]} {key}" for key in ("programs", "files", "errors", "warnings", "notes"))
        lines.append(shown(f"{name}: {counted}"))
    return "".join(f"{line}\n" for line in lines)
