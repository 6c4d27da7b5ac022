"""A box remembers which source root it was made from, and is not made from another in silence."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.box import tiny
from tests.box.running import Done, complaint, forked, manifest, state

SILENT = ("--no-sync",)


@pytest.fixture
def like_host(sysroot: Path) -> Path:
    """A root with the label of the host's own."""
    shutil.copy("/etc/os-release", sysroot / "etc/os-release")
    return sysroot


@pytest.fixture
def filled(like_host: Path, box: Path) -> Path:
    """A box made from it."""
    done = forked("add", "bash", "--into", box, "--sysroot", like_host, *SILENT)
    assert not done.returncode, done
    return box


def _source(box: Path) -> object:
    return manifest(box)[0].get("source", "absent")


COMMANDS = {
    "add": ("add", "ls", "--into", "{box}"),
    "add --dry-run": ("add", "ls", "--into", "{box}", "--dry-run"),
    "add --as-shell": ("add", "ls", "--into", "{box}", "--as-shell"),
    "add --rebase": ("add", "ls", "--into", "{box}", "--rebase"),
    "update": ("update", "{box}"),
    "update --dry-run": ("update", "{box}", "--dry-run"),
    "update --rebase": ("update", "{box}", "--rebase"),
    "check --stale": ("check", "{box}", "--stale"),
}


def _run(name: str, box: Path) -> Done:
    return forked(*(word.format(box=box) for word in COMMANDS[name]))


@pytest.mark.parametrize("name", COMMANDS)
def test_what_would_read_another_root_is_refused_with_the_right_command(
    filled: Path, like_host: Path, name: str
) -> None:
    before = state(filled)
    done = _run(name, filled)
    assert f"it was made from {like_host}" in complaint(done)
    words = [word.format(box=filled) for word in COMMANDS[name]]
    assert done.stderr.splitlines()[-1] == (
        "hint: " + " ".join(["jailbuild", words[0], "--sysroot", str(like_host), *words[1:]])
    )
    assert state(filled) == before
    again = forked(words[0], "--sysroot", like_host, *words[1:])
    assert again.returncode in (0, 3), again


@pytest.mark.parametrize("name", COMMANDS)
def test_a_box_of_the_hosts_own_root_needs_no_name(box: Path, name: str) -> None:
    assert forked("add", "true", "--bare", "--into", box, *SILENT).returncode == 0
    assert _source(box) == "/"
    assert _run(name, box).returncode in (0, 3)


def test_what_reads_no_source_root_is_not_refused(filled: Path) -> None:
    for words in (
        ("list", filled),
        ("why", filled, "/usr/bin/bash"),
        ("check", filled),
        ("remove", "bash", "--from", filled),
    ):
        assert forked(*words).returncode == 0


def test_another_path_that_is_named_is_taken_and_recorded(filled: Path, like_host: Path, tmp_path: Path) -> None:
    moved = tiny.clone(like_host, tmp_path / "moved")
    assert forked("update", filled, "--sysroot", moved, *SILENT).returncode == 0
    assert _source(filled) == str(moved)
    shutil.rmtree(moved)
    done = forked("update", filled)
    assert f"made from {moved}, which is not there any more" in complaint(done)
    assert forked("update", filled, "--sysroot", like_host / "etc/..", *SILENT).returncode == 0
    assert _source(filled) == str(like_host)


def test_another_label_still_needs_rebase(filled: Path, made: Path) -> None:
    done = forked("update", filled, "--sysroot", made)
    assert "--rebase" in done.stderr
    assert done.returncode == 1


def test_of_many_boxes_one_is_refused_and_the_others_go_on(filled: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert forked("add", "true", "--bare", "--into", other, *SILENT).returncode == 0
    done = forked("update", filled, other, *SILENT)
    assert done.returncode == 1
    assert f"jailbuild: cannot update {filled}: it was made from" in done.stderr
    assert str(other) not in next(line for line in done.stderr.splitlines() if line.startswith("hint: "))
    assert f"{other}: nothing to do" in done.stderr


def test_an_image_is_no_root_of_the_host(filled: Path) -> None:
    record = filled / ".jailbuild/manifest.jsonl"
    header, rest = record.read_text().split("\n", 1)
    record.write_text(json.dumps({**json.loads(header), "source": None}) + "\n" + rest)
    assert "it was made from an image" in complaint(forked("update", filled))


def test_a_record_makes_nobody_read_elsewhere(filled: Path, like_host: Path, tmp_path: Path) -> None:
    """What somebody inside wrote into it refuses, and that is all; the hint is quoted."""
    record = filled / ".jailbuild/manifest.jsonl"
    header, rest = record.read_text().split("\n", 1)
    evil = str(tmp_path / "x; touch PWNED")
    os.mkdir(evil)
    record.write_text(json.dumps({**json.loads(header), "source": evil}) + "\n" + rest)
    done = forked("update", filled)
    assert done.returncode == 1
    assert f"--sysroot '{evil}'" in done.stderr
    assert forked("update", filled, "--sysroot", like_host, *SILENT).returncode == 0
    assert _source(filled) == str(like_host)


def test_a_link_is_remembered_by_where_it_leads(like_host: Path, box: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(like_host)
    assert forked("add", "bash", "--into", box, "--sysroot", tmp_path / "link", *SILENT).returncode == 0
    assert _source(box) == os.path.realpath(like_host)
