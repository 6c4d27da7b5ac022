"""What `check` can say: the one table of codes, and a finding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from jailbuild.box.manifest import Manifest
from jailbuild.closure.explain import add_command
from jailbuild.names import shown, to_json

ERROR, WARNING, NOTE = "error", "warning", "note"


class Code(NamedTuple):
    """How bad a kind of finding is, and what it means."""

    severity: str
    meaning: str


CODES = {
    "missing-library": Code(ERROR, "a program needs a library that the loader would not find"),
    "missing-interpreter": Code(ERROR, "the loader that a program names is not there"),
    "missing-script-interpreter": Code(ERROR, "what a script's #! line leads to is not there"),
    "wrong-machine": Code(ERROR, "a program and its loader, or the box, are for different machines"),
    "dangling-link": Code(ERROR, "a symbolic link leads to nothing in the root"),
    "missing-file": Code(ERROR, "the manifest lists it and it is gone"),
    "changed-file": Code(ERROR, "it is not what the manifest says was put there"),
    "unreadable": Code(ERROR, "it cannot be read, or kernel or loader would refuse it"),
    "no-program": Code(WARNING, "the root has no program at all"),
    "unreached-library": Code(NOTE, "a library that no program loads misses something when it is loaded alone"),
    "unlisted-file": Code(NOTE, "it is in the box and jailbuild did not put it there"),
}


def mend(manifest: Manifest, requested_by: Sequence[str], box: str) -> str | None:
    """Return the command that puts requests of a box in again; files from elsewhere are named with their source."""
    words = []
    for name in requested_by:
        asked = manifest.requests.get(name)
        if asked is not None and asked.type != "program":
            words.append("--dir" if asked.type == "directory" else "--file")
        words.append(name if asked is None or asked.source is None else f"{asked.source}:{asked.path}")
    return add_command(words, box) if words else None


class Finding(NamedTuple):
    """One thing that `check` has to say."""

    code: str
    path: str
    message: str
    subject: str | None = None
    searched: tuple[str, ...] = ()
    requested_by: tuple[str, ...] = ()
    hint: str | None = None

    @property
    def severity(self) -> str:
        """How bad it is: "error", "warning" or "note"."""
        return CODES[self.code].severity

    def as_json(self) -> dict[str, Any]:
        """Return the object of `check --json`."""
        return {
            "kind": "finding",
            "code": self.code,
            "severity": self.severity,
            **to_json("path", self.path),
            **to_json("subject", self.subject),
            "searched": list(self.searched),
            "requested_by": list(self.requested_by),
            "origin": None,
            "message": shown(self.message),
            "hint": None if self.hint is None else shown(self.hint),
        }


class Report(NamedTuple):
    """All findings, by path, and how much was looked at."""

    findings: tuple[Finding, ...]
    programs: int
    files: int

    def count(self, severity: str) -> int:
        """Return how many findings are that bad."""
        return sum(finding.severity == severity for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Return the summary of `check --json`."""
        return {
            "kind": "summary",
            "programs": self.programs,
            "files": self.files,
            "errors": self.count(ERROR),
            "warnings": self.count(WARNING),
            "notes": self.count(NOTE),
        }

    def is_good(self, strict: bool) -> bool:
        """Say whether the root is as it should be; warnings count if `strict`."""
        return not self.count(ERROR) and not (strict and self.count(WARNING))


def sort(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings in the order in which they are printed, each once."""
    return tuple(sorted(dict.fromkeys(findings), key=lambda one: (one.path, one.code, one.subject or "")))
