"""Data in a box: add --file and --dir, by themselves and with what runs among them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.box import tiny
from tests.box.running import add, complaint, dump, inside, manifest, run

PLACE = "/opt/data"


@pytest.fixture
def data(tmp_path: Path, made: Path) -> Path:
    """A directory of the host: a plain file, a directory, a link, an empty directory, odd names."""
    data = tmp_path / "data"
    (data / "sub").mkdir(parents=True)
    (data / "empty").mkdir(mode=0o750)
    (data / "plain").write_text("text\n")
    (data / "sub/odd\n'name'").write_text("odd\n")
    (data / "sub/link").symlink_to("../plain")
    os.link(data / "plain", data / "sub/same")
    (data / "set-id").write_text("x")
    (data / "set-id").chmod(0o4755)
    tiny.backdate(tmp_path)
    return data


def _requests(box: Path) -> list[tuple[str, str, str | None]]:
    return [(line["type"], line["name"], line["source"]) for line in manifest(box) if line["kind"] == "request"]


def _timeless(tree: Path) -> dict[str, str]:
    """Return all that is in a tree, directories without their times."""
    found = dump(tree, times=True, contents=True)
    return {
        path: what.partition(" @")[0] if what.startswith("directory") else what
        for path, what in found.items()
        if path != "/"
    }


def test_a_directory_goes_in_as_it_is(made: Path, box: Path, data: Path) -> None:
    """Bytes, modes, times, links and hard links; set-id bits are dropped, and it is said."""
    done = add(box, "bash", "--dir", f"{data}:{PLACE}", sysroot=made)
    assert f"{PLACE}/set-id goes in without setuid" in done.stderr
    (data / "set-id").chmod(0o755)
    assert _timeless(data) == _timeless(box / PLACE[1:])
    assert (box / "opt/data/plain").stat().st_ino == (box / "opt/data/sub/same").stat().st_ino
    assert ("directory", PLACE, str(data)) in _requests(box)
    assert run("check", box).returncode == 0


def test_a_file_without_a_destination_comes_from_the_source_root(sysroot: Path, box: Path) -> None:
    """It stands where it stands there."""
    (sysroot / "etc/motd").write_text("hello\n")
    add(box, "bash", "--file", "/etc/motd", sysroot=sysroot)
    assert (box / "etc/motd").read_text() == "hello\n"
    assert ("file", "/etc/motd", None) in _requests(box)


def test_what_runs_among_the_data_is_resolved_at_its_place(sysroot: Path, box: Path, tmp_path: Path) -> None:
    """A program by a path that is right only there, a script by its interpreter; `why` tells."""
    data = tmp_path / "app"
    library = tiny.library(data / "lib/libown.so.1", value=21)
    tiny.program(data / "bin/tool", library, flags=("-Wl,-rpath,/srv/app/lib",))
    tiny.script(data / "run", "#!/bin/bash")
    add(box, "--dir", f"{data}:/srv/app", sysroot=sysroot)
    assert inside(box, "/srv/app/bin/tool").returncode == 21
    assert inside(box, "/srv/app/run").returncode == 6
    done = run("why", box, f"/{tiny.LIBRARIES}/libtinfo.so.6.4")
    assert done.stdout.startswith("/srv/app (directory) -> /srv/app/run (tree) -> ")
    assert run("check", box).returncode == 0


def test_what_a_program_among_data_misses_is_a_note_and_of_a_file_an_error(
    sysroot: Path, box: Path, tmp_path: Path
) -> None:
    """A directory may hold plug-ins that miss things alone; a file that may be executed is meant to run."""
    library = tiny.library(tmp_path / "libnowhere.so.1")
    (tmp_path / "app").mkdir()
    tiny.program(tmp_path / "app/broken", library)
    done = add(box, "bash", "--dir", f"{tmp_path}/app:/srv/app", sysroot=sysroot)
    assert "libnowhere.so.1" in done.stderr and done.stderr.startswith("note: ")
    word = f"{tmp_path}/app/broken:/srv/broken"
    cause = complaint(add(tmp_path / "other", "--file", word, sysroot=sysroot, status=1))
    assert "libnowhere.so.1" in cause
    assert not (tmp_path / "other").exists()


def test_removing_data_takes_it_and_what_only_it_needed(made: Path, box: Path, data: Path, tmp_path: Path) -> None:
    """What is left is what a box without it is."""
    shutil.copy(made / "usr/bin/ls", data / "prog")
    add(box, "bash", "--dir", f"{data}:{PLACE}", sysroot=made)
    assert run("remove", PLACE, "--from", box).returncode == 0
    add(tmp_path / "fresh", "bash", sysroot=made)
    assert dump(tmp_path / "fresh", contents=True, record=True) == dump(box, contents=True, record=True)


def test_an_update_believes_no_path_of_a_manifest(made: Path, box: Path, data: Path) -> None:
    """It says what stays as it is and how to name it again; named again it is brought up to date."""
    add(box, "bash", "--dir", f"{data}:{PLACE}", "--file", f"{data}/plain:/etc/plain", sysroot=made)
    before = dump(box, contents=True, record=True)
    (data / "plain").write_text("new\n")
    (data / "more").write_text("more\n")
    (data / "set-id").unlink()
    done = run("update", box, "--sysroot", made)
    assert f"--dir SRC:{PLACE}" in done.stderr and "--file SRC:/etc/plain" in done.stderr
    assert before == dump(box, contents=True, record=True)
    done = run("update", box, "--sysroot", made, "--dir", f"{data}:{PLACE}", "--file", f"{data}/plain:/etc/plain")
    assert done.returncode == 0, done.stderr
    assert (box / "etc/plain").read_text() == (box / "opt/data/plain").read_text() == "new\n"
    assert sorted(os.listdir(box / "opt/data")) == ["empty", "more", "plain", "sub"]


def test_a_file_of_the_users_is_in_the_way_until_it_is_given_up(made: Path, box: Path, data: Path) -> None:
    """A conflict leaves everything as it was; --replace lets that one go."""
    add(box, "bash", sysroot=made)
    (box / "etc").mkdir(exist_ok=True)
    (box / "etc/plain").write_text("mine\n")
    before = dump(box, contents=True, record=True)
    words = ("--file", f"{data}/plain:/etc/plain")
    assert "/etc/plain" in complaint(add(box, *words, sysroot=made, status=1))
    assert before == dump(box, contents=True, record=True)
    add(box, *words, "--replace", "/etc/plain", sysroot=made)
    assert (box / "etc/plain").read_text() == "text\n"
    assert sorted(os.listdir(box / "etc")) == ["plain"]


@pytest.mark.parametrize(
    "words",
    [
        ("--file", "/nowhere"),
        ("--dir", "/etc/os-release"),
        ("--file", "/usr/bin"),
        ("--dir", "/nowhere:/x"),
        ("--file", "/etc/os-release:/.jailbuild/x"),
        ("--file", "/etc/os-release:/proc/x"),
        ("--dir", "/usr:/../x"),
    ],
)
def test_data_that_cannot_go_in_is_one_line(made: Path, box: Path, words: tuple[str, ...]) -> None:
    """And there is no box."""
    complaint(add(box, "bash", *words, sysroot=made, status=1))
    assert not box.exists()


def test_nothing_asked_for_is_wrong_usage(box: Path) -> None:
    """Status 2."""
    assert run("add", "--into", box).returncode == 2


def test_a_box_does_not_swallow_itself(made: Path, tmp_path: Path) -> None:
    """The box inside the directory that goes in is left out; a file of the box is refused."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("x")
    box = tree / "box"
    add(box, "bash", sysroot=made)
    done = add(box, "--dir", f"{tree}:/copy", sysroot=made)
    assert "left out" in done.stderr
    assert sorted(os.listdir(box / "copy")) == ["file"]
    assert "in the box itself" in complaint(add(box, "--file", f"{box}/copy/file:/x", sysroot=made, status=1))
