"""What `check` found, for a person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jailbuild.check.findings import ERROR, NOTE, WARNING, Finding, Report
from jailbuild.names import shown

_EACH = 10  # findings that are told one by one
_GROUPS = 3  # of one code that are each told, of more the largest
_PLACES = 3  # or paths, that are named for the rest of a group
_DEEP = 3  # directories of such a place
_ORDER = (ERROR, WARNING, NOTE)
# One cause makes many of these, and their subject is the cause.
_BY_SUBJECT = frozenset(("missing-library", "missing-interpreter", "missing-script-interpreter"))


class _Group(NamedTuple):
    """Findings of one code, and where their cause is known of one cause; the first is told, the rest is counted."""

    first: Finding
    rest: tuple[Finding, ...] = ()


def text(report: Report, name: str, *, quiet: bool, verbose: bool) -> str:
    """Return a line for each finding, the worst first, then by path, its hint below it where it is not the one just
    given, and a summary.

    Where there are many, unless `verbose`, one line stands for all that are alike, and notes go without hints. No note
    if `quiet`.
    """
    lines = []
    findings = [one for one in report.findings if not (quiet and one.severity == NOTE)]
    if verbose or len(findings) <= _EACH:
        last_hint = None
        for finding in sorted(findings, key=lambda one: _ORDER.index(one.severity)):
            lines.append(_line(finding))
            if finding.advice != last_hint:
                lines.append(_hint(finding))
            last_hint = finding.advice
    else:
        for severity in _ORDER:
            for told in _told([one for one in findings if one.severity == severity]):
                lines.append(told if isinstance(told, str) else _line(told.first, _rest(told)))
                if not isinstance(told, str) and severity != NOTE:
                    lines.append(_hint(told.first))
        lines.append("-v shows each of them, with what to do about it")
    if not quiet or lines:
        summary = report.as_json()
        counted = ", ".join(f"{summary[key]} {key}" for key in ("programs", "files", "errors", "warnings", "notes"))
        lines.append(shown(f"{name}: {counted}"))
    return "".join(f"{line}\n" for line in lines)


def _line(finding: Finding, rest: str = "") -> str:
    return shown(f"{finding.severity}: {finding.message}{rest} [{finding.code}]")


def _hint(finding: Finding) -> str:
    return shown(f"  hint: {finding.advice}")


def _told(findings: Sequence[Finding]) -> Iterator[_Group | str]:
    """Yield the groups that findings of one severity make, and a line for those of a code that are too many."""
    by_code: dict[str, dict[str, list[Finding]]] = {}
    for finding in findings:
        key = (finding.subject or "") if finding.code in _BY_SUBJECT else ""
        by_code.setdefault(finding.code, {}).setdefault(key, []).append(finding)
    for code, groups in by_code.items():
        largest = sorted(groups.values(), key=len, reverse=True)
        for some in largest[:_GROUPS]:
            yield _Group(some[0], tuple(some[1:]))
        if left := largest[_GROUPS:]:
            count = sum(map(len, left))
            yield shown(f"{left[0][0].severity}: {count} more, of {len(left)} other causes [{code}]")


def _rest(group: _Group) -> str:
    """Return in words which others there are; of more than a few how many, and where most of them lie."""
    if not group.rest:
        return ""
    if len(group.rest) <= _PLACES:
        return f"; likewise {', '.join(finding.path for finding in group.rest)}"
    places: dict[str, int] = {}
    for finding in group.rest:
        place = "/".join(finding.path.split("/")[:-1][: _DEEP + 1]) or "/"
        places[place] = places.get(place, 0) + 1
    named = sorted(places, key=lambda place: -places[place])
    more = " and elsewhere" if len(named) > _PLACES else ""
    return f"; {len(group.rest)} more in {', '.join(named[:_PLACES])}{more}"
