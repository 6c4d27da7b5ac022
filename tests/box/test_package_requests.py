"""Packages in a box: what `add --package` brings, and which package the manifest names for each file."""

from __future__ import annotations

import importlib.resources
import json
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest

from tests.box import tiny
from tests.box.running import add, complaint, entries, inside, manifest, objects, run

NAME = "package:tool"


def _packaged(sysroot: Path, **lists: str) -> None:
    """Let dpkg have these packages in a root, words for lines of their lists."""
    info = sysroot / "var/lib/dpkg/info"
    info.mkdir(parents=True, exist_ok=True)
    for name, words in lists.items():
        (info / f"{name}.list").write_text("".join(f"{word}\n" for word in words.split()))
    (info.parent / "status").write_text(
        "\n".join(
            f"Package: {path.stem}\nStatus: install ok installed\nArchitecture: amd64\n" for path in info.glob("*.list")
        )
    )


@pytest.fixture
def packaged(sysroot: Path) -> Path:
    """The small root, made of packages; one has a program, a script, configuration, a manual and a translation."""
    libraries = sysroot / tiny.LIBRARIES
    tool = libraries / "libtool.so.3"
    tiny.program(sysroot / "usr/bin/tool", tiny.library(tool, value=30))
    tiny.script(sysroot / "usr/bin/tool-script", "#!/bin/bash")
    data = (
        "etc/tool.conf",
        "usr/share/man/man1/tool.1.gz",
        "usr/share/locale/de/LC_MESSAGES/tool.mo",
        "usr/share/doc/tool/copyright",
    )
    for word in data:
        (sysroot / word).parent.mkdir(parents=True, exist_ok=True)
        (sysroot / word).write_text(f"{word}\n")
    (sysroot / "var/lib/tool").mkdir(parents=True, mode=0o750)
    _packaged(
        sysroot,
        bash="/bin/bash /usr/bin/sh",
        libtinfo6=f"/{tiny.LIBRARIES}/libtinfo.so.6.4",
        libc6=f"/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 {tiny.LOADER}",
        libtool3=f"/{tiny.LIBRARIES}/libtool.so.3",
        tool=f"/. /usr /usr/bin /bin/tool /usr/bin/tool-script /var /var/lib /var/lib/tool /{' /'.join(data)}",
    )
    tiny.backdate(sysroot)
    return sysroot


def _from(box: Path) -> dict[str, str]:
    return {path: entry["package"] for path, entry in entries(box).items() if entry["package"] is not None}


def test_the_manifest_names_the_package_of_each_file(packaged: Path, box: Path) -> None:
    """Of files and links; what is in no list has none, nor directories."""
    add(box, "bash", sysroot=packaged)
    assert _from(box) == {
        "/usr/bin/bash": "bash",
        f"/{tiny.LIBRARIES}/libtinfo.so.6.4": "libtinfo6",
        f"/{tiny.LIBRARIES}/ld-linux-x86-64.so.2": "libc6",
        "/usr/lib64/ld-linux-x86-64.so.2": "libc6",
    }


def test_a_file_from_elsewhere_has_no_package(packaged: Path, box: Path, tmp_path: Path) -> None:
    """Even where it stands in the place of a packaged one."""
    own = shutil.copy(packaged / "usr/bin/bash", tmp_path / "own")
    add(box, f"{own}:/usr/bin/bash", "--file", f"{own}:/usr/bin/tool", sysroot=packaged)
    assert {"/usr/bin/bash", "/usr/bin/tool"} & _from(box).keys() == set()


def test_packages_are_the_same_however_the_box_came_about(packaged: Path, box: Path, tmp_path: Path) -> None:
    add(box, "bash", "ls", sysroot=packaged)
    other = tmp_path / "other"
    add(other, "ls", sysroot=packaged)
    add(other, "bash", sysroot=packaged)
    assert manifest(box) == manifest(other)


def test_a_package_brings_what_its_programs_need_and_no_documentation(packaged: Path, box: Path) -> None:
    """Programs, a script's interpreter, libraries of others, configuration, an empty directory."""
    done = add(box, "--package", "tool", sysroot=packaged)
    assert f"{box}: package tool: wrote " in done.stderr
    assert inside(box, "/usr/bin/tool").returncode == 30
    assert inside(box, "/usr/bin/tool-script").returncode == 6
    assert (box / "etc/tool.conf").read_text() == "etc/tool.conf\n"
    assert (box / "var/lib/tool").stat().st_mode & 0o777 == 0o750
    assert not (box / "usr/share").exists()
    assert _from(box)["/usr/bin/tool"] == "tool"
    assert _from(box)[f"/{tiny.LIBRARIES}/libtool.so.3"] == "libtool3"
    assert run("check", "--strict", box).returncode == 0


def test_documentation_and_translations_come_when_asked_for(packaged: Path, box: Path) -> None:
    """The request remembers it: an update keeps them."""
    add(box, "--package", "tool", "--docs", sysroot=packaged)
    assert (box / "usr/share/man/man1/tool.1.gz").exists()
    (packaged / "usr/share/doc/tool/copyright").write_text("another\n")
    assert run("update", "--no-sync", "--sysroot", packaged, box).returncode == 0
    assert (box / "usr/share/doc/tool/copyright").read_text() == "another\n"
    assert (box / "usr/share/locale/de/LC_MESSAGES/tool.mo").exists()
    asked = [line for line in manifest(box) if line["kind"] == "request"]
    assert [(line["name"], line["docs"]) for line in asked] == [("tool", True)]


def test_a_package_and_a_program_of_the_same_name_are_two_requests(packaged: Path, box: Path) -> None:
    """Each is removed by itself: the program by its name, the package as package:NAME, or NAME where that is free."""
    add(box, "tool", "--package", "tool", sysroot=packaged)
    requests = [(line["name"], line["type"]) for line in manifest(box) if line["kind"] == "request"]
    assert requests == [("tool", "package"), ("tool", "program")]
    assert run("remove", "tool", "--from", box, "--no-sync").returncode == 0
    assert (box / "usr/bin/tool").exists()
    assert run("remove", "tool", "--from", box, "--no-sync").returncode == 0
    assert entries(box) == {}


def test_remove_takes_the_full_name_of_a_package_request(packaged: Path, box: Path) -> None:
    add(box, "bash", "--package", "tool", sysroot=packaged)
    assert run("remove", NAME, "--from", box, "--no-sync").returncode == 0
    assert not (box / "usr/bin/tool").exists()
    assert inside(box, "/usr/bin/bash").returncode == 6


def test_an_update_follows_the_packages_list(packaged: Path, box: Path) -> None:
    """What is new in the package comes, what went goes; --dry-run says that the box is behind."""
    add(box, "--package", "tool", sysroot=packaged)
    shutil.copy(packaged / "usr/bin/tool", packaged / "usr/bin/tool2")
    (packaged / "etc/tool.conf").unlink()
    _packaged(packaged, tool="/usr/bin/tool /usr/bin/tool2")
    update = ("update", "--sysroot", packaged, box)
    assert run(*update, "--dry-run").returncode == 3
    assert run("check", box, "--stale", "--sysroot", packaged).returncode == 3
    assert run(*update, "--no-sync").returncode == 0
    assert inside(box, "/usr/bin/tool2").returncode == 30
    assert not (box / "etc").exists()
    assert run(*update, "--dry-run").returncode == 0


def test_a_package_that_is_gone_stays_as_it_is(packaged: Path, box: Path) -> None:
    add(box, "--package", "tool", sysroot=packaged)
    (packaged / "var/lib/dpkg/info/tool.list").unlink()
    _packaged(packaged)
    done = run("update", "--sysroot", packaged, "--no-sync", box)
    assert (done.returncode, f"{NAME} is no longer in the source root" in done.stderr) == (0, True)
    assert inside(box, "/usr/bin/tool").returncode == 30


def test_why_and_list_name_the_package(packaged: Path, box: Path) -> None:
    add(box, "--package", "tool", sysroot=packaged)
    library = f"/{tiny.LIBRARIES}/libtool.so.3"
    done = run("why", box, library)
    assert done.stdout == f"tool (package) -> /usr/bin/tool (listed) -> {library} (needed)\n"
    assert [objects(run("why", "--json", box, library))[0]["steps"][0]] == [{"path": "/usr/bin/tool", "as": "package"}]
    assert f"request {NAME}: /var/lib/dpkg/info/tool.list" in run("list", box).stdout


def test_what_is_printed_of_packages_and_data_is_what_the_schemas_say(packaged: Path, box: Path) -> None:
    """The plan, the manifest, and chains."""
    words = ("--package", "tool", "--docs", "--file", "/etc/os-release", "--dir", "/usr/share/man", "--into", box)
    planned = run("add", *words, "--sysroot", packaged, "--dry-run", "--json")
    add(box, *words[:-2], sysroot=packaged)
    manual = "/usr/share/man/man1/tool.1.gz"
    for name, done in (
        ("add", planned),
        ("list", run("list", "--json", box)),
        ("why", run("why", "--json", box, manual)),
    ):
        text = importlib.resources.files("jailbuild.report").joinpath(f"schemas/{name}.json").read_text("utf-8")
        validator = jsonschema.Draft202012Validator(json.loads(text))
        assert objects(done)
        assert [error.message for line in objects(done) for error in validator.iter_errors(line)] == []


@pytest.mark.parametrize("name", ["../../../etc", "X", "tool"])
def test_an_update_finds_a_package_by_its_name_alone(packaged: Path, box: Path, name: str) -> None:
    """Whatever a manifest calls it or says of where it is listed; what is no package's name stays as it is."""
    add(box, "--package", "tool", sysroot=packaged)
    record = box / ".jailbuild/manifest.jsonl"
    text = record.read_text("utf-8").replace(NAME, f"package:{name}").replace('"name": "tool"', f'"name": "{name}"')
    record.write_text(text.replace("/var/lib/dpkg/info/tool.list", "/etc/os-release"), "utf-8")
    before = sorted(entries(box))
    done = run("update", "--no-sync", "--sysroot", packaged, box)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert sorted(entries(box)) == before
    assert (name == "tool") is ("no longer in the source root" not in done.stderr)


def test_as_shell_prints_a_package_as_the_commands_of_the_demo(packaged: Path, box: Path) -> None:
    done = run("add", "--package", "tool", "--into", box, "--sysroot", packaged, "--as-shell")
    assert subprocess.run(["sh", "-eu", "-c", done.stdout], check=False).returncode == 0
    assert inside(box, "/usr/bin/tool").returncode == 30


def test_an_unknown_package_is_one_line_with_near_matches(packaged: Path, box: Path) -> None:
    done = add(box, "--package", "toool", sysroot=packaged, status=1)
    assert complaint(done).endswith("cannot add the package toool: it is not installed; near: tool, libtool3")
    assert not box.exists()


def test_a_script_that_the_root_itself_cannot_run_goes_in_to_be_read(packaged: Path, box: Path) -> None:
    """As openssh-server's for runit: what jailbuild has put in place, check does not complain of."""
    tiny.script(packaged / "usr/bin/tool-script", "#!/lib/runit/invoke-run")
    done = add(box, "--package", "tool", sysroot=packaged)
    assert "it goes in without execute permission" in done.stderr
    assert (box / "usr/bin/tool-script").stat().st_mode & 0o777 == 0o644
    assert run("check", box).returncode == 0


def test_docs_without_a_package_are_wrong_usage(packaged: Path, box: Path) -> None:
    done = add(box, "bash", "--docs", sysroot=packaged, status=2)
    assert "--docs is about packages" in done.stderr


def test_a_damaged_file_of_a_package_is_mended_by_the_command_that_check_names(packaged: Path, box: Path) -> None:
    add(box, "--package", "tool", "--docs", sysroot=packaged)
    (box / "etc/tool.conf").unlink()
    done = run("check", box)
    assert f"jailbuild add --package tool --docs --into {box}" in done.stdout + done.stderr


def test_a_package_of_the_machine_runs_in_a_box(box: Path) -> None:
    """And everything that comes from a file of Debian's says from which package."""
    add(box, "--package", "sed")
    assert inside(box, "/usr/bin/sed", "--version").stdout.startswith("/usr/bin/sed (GNU sed)")
    files = {path: entry for path, entry in entries(box).items() if entry["type"] == "file"}
    assert files["/usr/bin/sed"]["package"] == "sed"
    assert [path for path, entry in files.items() if entry["package"] is None] == []
