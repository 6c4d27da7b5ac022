"""check --stale: what an update would change, as findings."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.box import tiny
from tests.box.conftest import made, sysroot
from tests.box.running import add, run, state
from tests.check.asking import findings

__all__ = ["made", "sysroot"]

BUMPED = f"/{tiny.LIBRARIES}/libtinfo.so.6.4"


@pytest.fixture
def box(sysroot: Path, tmp_path: Path) -> Path:
    """A box with bash, ls and a file, made from the small root."""
    tiny.script(sysroot / "usr/bin/tool", "#!/bin/bash")
    add(tmp_path / "box", "bash", "tool", "--file", "/etc/os-release", sysroot=sysroot)
    return tmp_path / "box"


def test_a_box_that_is_up_to_date_is_not_stale(box: Path, sysroot: Path) -> None:
    """But for what was put in by path, which nothing is known about."""
    done = run("check", "--stale", "--sysroot", sysroot, box, "--json")
    assert [(one["code"], one["path"]) for one in findings(done)] == [("not-compared", "/etc/os-release")]
    assert done.returncode == 0


def test_what_an_update_would_change_is_stale(box: Path, sysroot: Path) -> None:
    """Status 3, the command that mends it, and nothing is written; after it, nothing is left."""
    with (sysroot / BUMPED[1:]).open("ab") as file:
        file.write(b"upgraded")
    (sysroot / "usr/bin/tool").unlink()
    before = state(box)
    done = run("check", "--stale", "--sysroot", sysroot, box, "--json", "--ignore", "not-compared")
    found = findings(done)
    assert [(one["code"], one["path"]) for one in found] == [("vanished-program", "/usr/bin/tool"), ("stale", BUMPED)]
    assert found[1]["hint"] == f"jailbuild update {box} --sysroot {sysroot}"
    assert done.returncode == 3
    assert before == state(box)
    assert run("update", box, "--sysroot", sysroot).returncode == 0
    after = findings(run("check", "--stale", "--sysroot", sysroot, box, "--json", "--ignore", "not-compared"))
    assert [one["code"] for one in after] == ["vanished-program"]


def test_another_root_is_one_finding(box: Path, sysroot: Path) -> None:
    """The hint names --rebase."""
    (sysroot / "etc/os-release").write_text("ID=tiny\nVERSION_ID=2\n")
    (found,) = findings(run("check", "--stale", "--sysroot", sysroot, box, "--json"))
    assert (found["code"], found["path"]) == ("stale", "/")
    assert found["hint"].endswith("--rebase")


def test_only_a_box_can_be_stale(sysroot: Path) -> None:
    """A root without manifest is refused in one line."""
    done = run("check", "--stale", sysroot)
    assert done.returncode == 1
    assert "no manifest" in done.stderr
