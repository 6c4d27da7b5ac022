"""list and why: what the manifest says, read back."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from tests.box import tiny
from tests.box.running import entries, manifest, objects, put, run, state

LIB = f"/{tiny.LIBRARIES}"


@pytest.fixture
def far(root: Path, tmp_path: Path) -> Path:
    """A box with a script, an alternative, hard links and a cache."""
    tiny.program(root / "usr/bin/far", tiny.library(root / "opt/far/libfar.so.3", value=3))
    tiny.script(root / "usr/bin/tool", "#!/usr/bin/env bash")
    os.link(root / "usr/bin/bash", root / "usr/bin/again")
    tiny.cache(root, "/opt/far")
    box = tmp_path / "box"
    put(box, "far", "tool", "editor", "again", root=root)
    return box


def test_list_prints_the_manifests_own_lines(far: Path) -> None:
    """--json: in full, whatever is stored once."""
    done = run("list", far, "--json")
    assert manifest(far) == objects(done)
    assert [line["kind"] for line in objects(done)][:2] == ["header", "request"]


def test_list_names_every_path_for_a_person(far: Path) -> None:
    """One line for the root, one a request, one a path."""
    before = state(far)
    lines = run("list", far).stdout.splitlines()
    assert len(manifest(far)) == len(lines)
    assert "tiny 1" in lines[0]
    for path in entries(far):
        assert any(f" {path}" in line for line in lines), path
    assert before == state(far)


@pytest.mark.parametrize("command", ["list", "why"])
def test_what_is_no_box_is_said(root: Path, tmp_path: Path, command: str) -> None:
    """A root without a manifest, and nothing at all: one line, exit status 1."""
    for place in (root, tmp_path / "absent"):
        done = run(command, place, *(["/usr/bin/ls"] if command == "why" else []))
        assert done.returncode == 1
        assert done.stderr.startswith("jailbuild: cannot ")
        assert "Traceback" not in done.stderr


def test_every_chain_goes_from_a_request_to_the_path_through_entries(far: Path) -> None:
    """Each step is an edge of the manifest."""
    listed = entries(far)
    starts = {line["path"] for line in manifest(far) if line["kind"] == "request"}
    for path, entry in [*listed.items()][::4]:
        found = objects(run("why", far, path, "--json"))
        assert found, path
        for chain in found:
            assert list(chain) == ["kind", "steps"]
            steps = chain["steps"]
            assert all(list(step) == ["path", "as"] for step in steps)
            assert path == steps[-1]["path"]
            assert {step["path"] for step in steps} <= set(listed)
            assert (
                steps[0]["path"] in starts
                or [edge["kind"] for edge in entry["edges"]] == ["mount-point"]
                or (steps[0]["as"] == "mount-point")
            ), chain
            for before, step in itertools.pairwise(steps):
                edges = [(edge["by"], edge["kind"]) for edge in listed[step["path"]]["edges"]]
                assert (before["path"], step["as"]) in edges, chain


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("/usr/bin/far", [("/usr/bin/far", "program")]),
        ("/opt/far/libfar.so.3", [("/usr/bin/far", "program"), ("/opt/far/libfar.so.3", "needed")]),
        (
            "/usr/bin/vim.basic",
            [("/usr/bin/editor", "program"), ("/etc/alternatives/editor", "target"), ("/usr/bin/vim.basic", "target")],
        ),
        ("/usr/bin/env", [("/usr/bin/tool", "program"), ("/usr/bin/env", "interpreter")]),
    ],
)
def test_a_chain_says_how_each_step_leads_to_the_next(far: Path, path: str, steps: list[tuple[str, str]]) -> None:
    """Needed by, interpreter of, target of."""
    found = objects(run("why", far, path, "--json"))
    assert steps in [[(step["path"], step["as"]) for step in chain["steps"]] for chain in found]


@pytest.mark.parametrize(
    ("spelling", "path"),
    [
        ("/lib/x86_64-linux-gnu/libtinfo.so.6", f"{LIB}/libtinfo.so.6"),
        ("/bin/far", "/usr/bin/far"),
        ("usr/bin/far", "/usr/bin/far"),
        ("//usr/./bin//far", "/usr/bin/far"),
        ("/usr/bin/../bin/far", "/usr/bin/far"),
    ],
)
def test_a_path_may_be_spelled_through_a_merged_usr(far: Path, spelling: str, path: str) -> None:
    """The same chains as for the entry itself."""
    expected = run("why", far, path, "--json")
    assert expected.stdout == run("why", far, spelling, "--json").stdout
    assert path in expected.stdout


def test_a_path_that_is_not_there_is_said(far: Path) -> None:
    """One line and a hint."""
    done = run("why", far, "/usr/bin/absent")
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot explain /usr/bin/absent" in done.stderr
