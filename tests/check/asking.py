"""Asking `check`, with its contract held at each answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.box.running import Done, objects, run

KEYS = ["kind", "code", "severity", "path", "subject", "searched", "requested_by", "origin", "message", "hint"]
SUMMARY = ["kind", "programs", "files", "errors", "warnings", "notes"]
SEVERITIES = {
    "error": {
        "missing-library",
        "missing-interpreter",
        "missing-script-interpreter",
        "wrong-machine",
        "dangling-link",
        "missing-file",
        "changed-file",
        "wrong-owner",
        "wrong-mode",
        "unreadable",
        "unexpected-privileges",
        "manifest-differs",
        "unfinished-change",
        "sshd-refuses",
        "stale",
        "missing-version",
        "undefined-symbol",
        "loader-disagrees",
        "mixed-glibc",
    },
    "warning": {
        "unrecorded-capability",
        "device-node",
        "outside-hard-link",
        "world-writable-directory",
        "world-writable-file",
        "secret-file",
        "reachable-from-host",
        "not-enterable",
        "leftover-staging",
        "unread-manifest",
        "no-program",
        "vanished-program",
        "undefined-function",
        "no-version-information",
    },
    "note": {
        "privileged-file",
        "unreached-library",
        "unlisted-file",
        "not-compared",
        "no-user-database",
        "no-tls-roots",
        "no-gconv",
        "no-dev-null",
        "origin-needs-proc",
        "uncovered-dlopen",
        "absent-zone",
        "absent-locale",
        "missing-optional-library",
        "loader-not-asked",
    },
}


def findings(done: Done, strict: bool = False) -> list[dict[str, Any]]:
    """Return the findings of `check --json`, whose contract is held here."""
    *found, summary = objects(done)
    for finding in found:
        assert [key for key in finding if not key.endswith("_b64")] == KEYS
        assert finding["code"] in SEVERITIES[finding["severity"]]
        assert finding["origin"] is None
        assert finding["message"] and "\n" not in finding["message"]
        assert finding["hint"] and "\n" not in finding["hint"]
    assert list(summary) == SUMMARY
    assert summary["kind"] == "summary"
    counted = [sum(finding["severity"] == severity for finding in found) for severity in ("error", "warning", "note")]
    assert [summary["errors"], summary["warnings"], summary["notes"]] == counted
    assert (3 if counted[0] or (strict and counted[1]) else 0) == done.returncode, done.stderr
    return found


def codes(root: Path, *options: str | Path, nobody: bool = False) -> set[tuple[str, str]]:
    """Return code and path of each finding."""
    done = run("check", root, "--json", *options, nobody=nobody)
    return {(finding["code"], finding["path"]) for finding in findings(done)}
