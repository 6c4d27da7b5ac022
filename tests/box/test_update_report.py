"""What `update` says at its end: what changed, by package and version."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.box import tiny
from tests.box.running import Done, forked, manifest

STATUS = """Package: {name}
Status: install ok installed
Architecture: {architecture}
{source}Version: {version}
"""


def _install(root: Path, **versions: str) -> None:
    """Let dpkg have bash, its library and others in a root, in these versions."""
    lists = {"bash": "/usr/bin/bash", "libtinfo6": f"/{tiny.LIBRARIES}/libtinfo.so.6.4", "ls": "/usr/bin/ls"}
    info = root / "var/lib/dpkg/info"
    info.mkdir(parents=True, exist_ok=True)
    for name, path in lists.items():
        (info / f"{name}.list").write_text(f"{path}\n")
    (info.parent / "status").write_text(
        "\n".join(
            STATUS.format(
                name=name,
                version=version,
                architecture="amd64",
                source="Source: ncurses (6.4-4)\n" if name == "libtinfo6" else "",
            )
            for name, version in versions.items()
        )
    )


@pytest.fixture
def root(sysroot: Path) -> Path:
    """A root whose packages have versions."""
    _install(sysroot, bash="5.2-1", libtinfo6="6.4-4", ls="9.1-1")
    return sysroot


def _upgrade(root: Path) -> None:
    for path in ("usr/bin/bash", f"{tiny.LIBRARIES}/libtinfo.so.6.4"):
        with (root / path).open("ab") as file:
            file.write(b"upgraded")
    _install(root, bash="5.2-2", libtinfo6="6.4-4", ls="9.1-1")


def _made(box: Path, root: Path, *words: str) -> Path:
    assert forked("add", *words, "--bare", "--into", box, "--sysroot", root, "--no-sync").returncode == 0
    return box


def _update(*words: str | Path, root: Path, status: int = 0) -> Done:
    done = forked("update", *words, "--sysroot", root, "--no-sync")
    assert done.returncode == status, done
    return done


def test_packages_are_recorded_with_version_architecture_and_source(root: Path, box: Path) -> None:
    _made(box, root, "bash")
    assert [line for line in manifest(box) if line["kind"] == "package"] == [
        {"kind": "package", "name": "bash", "version": "5.2-1", "architecture": "amd64", "source": "bash"},
        {"kind": "package", "name": "libtinfo6", "version": "6.4-4", "architecture": "amd64", "source": "ncurses"},
    ]


def test_one_box_names_paths_and_then_packages(root: Path, box: Path) -> None:
    _made(box, root, "bash", "ls")
    _upgrade(root)
    done = _update(box, root=root)
    assert done.stdout == f"replace  /usr/bin/bash\nreplace  /{tiny.LIBRARIES}/libtinfo.so.6.4\n"
    first, *others = done.stderr.splitlines()
    assert first.startswith(f"{box}: replaced 2 files")
    assert others == ["  bash 5.2-1 -> 5.2-2: 1 file", "  libtinfo6 6.4-4: 1 file"]
    assert _update(box, root=root).stderr == f"{box}: nothing to do\n"


def test_of_several_boxes_each_has_a_line(root: Path, tmp_path: Path) -> None:
    boxes = [_made(tmp_path / name, root, *words) for name, words in (("a", ("bash", "ls")), ("b", ("ls",)))]
    _upgrade(root)
    done = _update(*boxes, root=root)
    assert done.stdout == ""
    first, second = done.stderr.splitlines()
    assert first.startswith(f"{boxes[0]}: replaced 2 files")
    assert first.endswith("(bash 5.2-1 -> 5.2-2: 1 file; libtinfo6 6.4-4: 1 file)")
    assert second == f"{boxes[1]}: nothing to do"


def test_a_dry_run_says_what_would_change_or_that_the_box_is_current(root: Path, box: Path, tmp_path: Path) -> None:
    _made(box, root, "bash")
    other = _made(tmp_path / "other", root, "ls")
    assert _update(box, "--dry-run", root=root).stderr == f"{box}: is up to date\n"
    _upgrade(root)
    done = _update(box, "--dry-run", root=root, status=3)
    assert done.stderr.splitlines()[0].startswith(f"{box}: would replace 2 files")
    assert done.stderr.splitlines()[1:] == ["  bash 5.2-1 -> 5.2-2: 1 file", "  libtinfo6 6.4-4: 1 file"]
    both = _update(box, other, "--dry-run", root=root, status=3)
    assert [line.partition(" (")[0] for line in both.stderr.splitlines()] == [
        f"{box}: would replace 2 files",
        f"{other}: is up to date",
    ]
    assert _update(box, "--dry-run", "-q", root=root, status=3).stderr == ""


def test_what_comes_and_goes_is_told_with_its_version(root: Path, box: Path) -> None:
    _made(box, root, "bash")
    tiny.program(root / "usr/bin/bash")  # which needs no library any more
    _install(root, bash="6.0-1", ls="9.1-1")
    done = _update(box, root=root)
    assert done.stderr.splitlines()[1:] == [
        "  bash 5.2-1 -> 6.0-1: 1 file",
        "  libtinfo6 6.4-4 -> none: 1 file",
        "  of no package: 1 file",
    ]


def test_a_package_of_two_architectures_is_two(root: Path, box: Path) -> None:
    info = root / "var/lib/dpkg/info"
    (info / "libtinfo6.list").rename(info / "libtinfo6:amd64.list")
    (info / "libtinfo6:i386.list").write_text("/usr/lib/i386-linux-gnu/libtinfo.so.6\n")
    status = info.parent / "status"
    status.write_text(
        status.read_text() + "\n" + STATUS.format(name="libtinfo6", version="6.4-9", architecture="i386", source="")
    )
    _made(box, root, "bash")
    found = [line for line in manifest(box) if line["kind"] == "package" and line["name"] == "libtinfo6"]
    assert [(line["version"], line["architecture"]) for line in found] == [("6.4-4", "amd64")]
