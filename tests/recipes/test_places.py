"""Where a recipe looks: at the prefix of its program, and for commands that no search path has."""

from __future__ import annotations

from pathlib import Path

import pytest

from jailbuild.closure.catalog import RecipeCatalog, elsewhere
from jailbuild.closure.evaluate import prefixes_of
from jailbuild.closure.recipe import read_recipe
from jailbuild.errors import JailError
from jailbuild.root import Root
from tests.box import tiny
from tests.box.running import run

RECIPE = """\
title = "ours"

[find]
ours = ["/usr/lib/ours/*/bin/ours"]

[when]
program = ["ours"]

[bring]
users-if-there = ["nobody-of-that-name"]
files-if-there = ["{prefix}/each", "{real-prefix}/real"]

[[bring.tree]]
path = "{prefix}/lib/ours"
if-there = true
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a program in two versions outside PATH, a link to one in a prefix, and a recipe beside it."""
    root = tmp_path / "root"
    program = tiny.program(tmp_path / "ours", flags=("-static", "-no-pie"))
    for version in ("9", "10"):
        home = root / "usr/lib/ours" / version
        (home / "bin").mkdir(parents=True)
        (home / "bin/ours").write_bytes(program.read_bytes())
        (home / "bin/ours").chmod(0o755)
        (home / "lib/ours").mkdir(parents=True)
        for name in ("each", "real", "lib/ours/data"):
            (home / name).write_text(version)
    prefix = root / "opt/env"
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin/ours").symlink_to("/usr/lib/ours/9/bin/ours")
    for name in ("each", "real"):
        (prefix / name).write_text("env")
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf/ours.toml").write_text(RECIPE)
    return root


def files(tmp_path: Path, root: Path, *words: str) -> set[str]:
    """Return the regular files of a box with these words added."""
    box = tmp_path / "box"
    done = run("add", *words, "--sysroot", root, "--recipes", tmp_path / "shelf", "--into", box)
    assert done.returncode == 0, done
    return {
        f"/{path.relative_to(box)}"
        for path in box.rglob("*")
        if path.is_file() and not path.is_symlink() and ".jailbuild" not in path.parts
    }


def test_a_command_is_found_where_a_recipe_says_in_its_highest_version(tmp_path: Path, root: Path) -> None:
    """10 is higher than 9; the real prefix's files come with it."""
    home = "/usr/lib/ours/10"
    found = files(tmp_path, root, "ours")
    assert found == {f"{home}/bin/ours", f"{home}/each", f"{home}/real", f"{home}/lib/ours/data"}
    assert run("update", tmp_path / "box", "--sysroot", root, "--recipes", tmp_path / "shelf").returncode == 0


def test_each_prefix_on_the_way_of_a_program_counts(tmp_path: Path, root: Path) -> None:
    """{prefix} is that of the link and that of the file, {real-prefix} that of the file alone."""
    assert files(tmp_path, root, "/opt/env/bin/ours") == {
        "/usr/lib/ours/9/bin/ours",
        "/usr/lib/ours/9/each",
        "/usr/lib/ours/9/real",
        "/usr/lib/ours/9/lib/ours/data",
        "/opt/env/each",
    }


def test_a_recipe_that_is_asked_for_brings_the_program_whose_prefix_it_means(tmp_path: Path, root: Path) -> None:
    """--with has no program to go by."""
    assert "/usr/lib/ours/10/lib/ours/data" in files(tmp_path, root, "--with", "ours")


def test_what_is_on_the_search_path_goes_before_what_a_recipe_finds(tmp_path: Path, root: Path) -> None:
    """A name is a command first of all."""
    (root / "usr/local/bin").mkdir(parents=True)
    (root / "usr/local/bin/ours").write_bytes((root / "usr/lib/ours/9/bin/ours").read_bytes())
    (root / "usr/local/bin/ours").chmod(0o755)
    assert files(tmp_path, root, "ours") == {"/usr/local/bin/ours"}


def test_a_command_that_no_recipe_finds_is_nowhere(tmp_path: Path, root: Path) -> None:
    """Nor is one whose places are empty."""
    catalog = RecipeCatalog((str(tmp_path / "shelf"),))
    assert elsewhere(Root(str(root)), "other", catalog) is None
    assert prefixes_of(Root(str(root)), "/opt/env/bin/ours") == ("/opt/env", "/usr/lib/ours/9")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ('[find]\n"a/b" = ["/x"]', "line 2: find.a/b: a command has no '/'"),
        ('[find]\na = ["x"]', "line 3: find.a: 'x': a path begins with '/', and has something behind it"),
        ('[bring]\nfiles = ["{prefix}"]', "line 3: bring.files: '{prefix}': a path begins with '/'"),
        ('[bring]\nfiles = ["{other}/x"]', "line 3: bring.files: '{other}/x': a path begins with '/'"),
    ],
)
def test_a_mistake_has_its_line_and_key(wrong: str, said: str) -> None:
    """Of places too."""
    with pytest.raises(JailError) as caught:
        read_recipe("ours.toml", f'title = "x"\n{wrong}\n')
    assert said in str(caught.value)
