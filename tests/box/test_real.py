"""The main job on the machine's own programs, in a real chroot."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.box.running import add, dump, entries, inside, objects, run

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs root")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    box = tmp_path_factory.mktemp("real") / "box"
    add(box, "bash", "ls")
    return box


def test_bash_runs_in_the_box(real: Path) -> None:
    """With what it needs and nothing of the host."""
    done = inside(real, "/bin/bash", "-c", "echo /usr/bin/b*; echo $((6 * 7)); [ ! -e /var ] && echo alone")
    assert (done.stdout, done.stderr, done.returncode) == ("/usr/bin/bash\n42\nalone\n", "", 0)


def test_ls_lists_the_root_of_the_box(real: Path) -> None:
    """The names at the top are the box's own."""
    done = inside(real, "/bin/bash", "-c", "ls -A /")
    assert sorted(os.listdir(real)) == sorted(done.stdout.split()), done.stderr


def test_the_box_is_self_contained(real: Path) -> None:
    """`check`, the same resolver with the box as its root, finds nothing but what recipes leave out for its size."""
    done = run("check", real, "--strict", "--json")
    assert done.returncode == 0, done.stdout
    assert {one.get("code") for one in objects(done)} <= {None, "no-gconv", "no-dev-null"}


def test_everything_in_the_box_is_listed(real: Path) -> None:
    """The manifest has each path of the tree, and nothing else."""
    assert sorted(dump(real)) == sorted(entries(real))


def test_perl_under_both_names_is_one_file(tmp_path: Path) -> None:
    """/usr/bin/perl and perl5.36.0 are hard links on Debian: added one after the other they still are."""
    names = ["perl", *sorted(name for name in os.listdir("/usr/bin") if name.startswith("perl5"))]
    names = [
        name
        for name in names
        if os.path.exists(f"/usr/bin/{name}") and os.path.samefile(f"/usr/bin/{name}", "/usr/bin/perl")
    ]
    assert len(names) > 1
    for name in names:
        add(tmp_path / "box", name)
    assert len(names) == (tmp_path / "box/usr/bin/perl").stat().st_nlink
    add(tmp_path / "once", *names)
    assert (tmp_path / "once/.jailbuild/manifest.jsonl").read_bytes() == (
        tmp_path / "box/.jailbuild/manifest.jsonl"
    ).read_bytes()
