"""Fixtures of the tests with other machines' programs: each root is made once in a run."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import needs
from tests.box.running import run
from tests.foreign.roots import make_root

Making = Callable[[str], Path]


def _once(make: Callable[[str, Path], Path], base: Path) -> Making:
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            (base / name).mkdir()
            made[name] = make(name, base / name)
        return made[name]

    return get


@pytest.fixture(scope="session")
def root_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Making]:
    """Return what gives the root of a machine by Debian's name; it is not to be changed.

    They are in memory where they can be: six times 200 MB of small files are slow to write and to delete.
    """
    base = tmp_path_factory.mktemp("roots")
    in_memory = needs.has_namespaces()
    if in_memory:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4g,mode=0755", "none", base], check=True)
    try:
        yield _once(make_root, base)
    finally:
        if in_memory:
            subprocess.run(["umount", base], check=True)
        else:
            shutil.rmtree(base)


@pytest.fixture(scope="session")
def box_of(tmp_path_factory: pytest.TempPathFactory, root_of: Making) -> Iterator[Making]:
    """Return what gives a machine's box with bash, git and python3; it is not to be changed."""

    def make(name: str, directory: Path) -> Path:
        done = run("add", "bash", "git", "python3", "--sysroot", root_of(name), "--into", directory / "box")
        assert done.returncode == 0, done.stderr
        return directory / "box"

    base = tmp_path_factory.mktemp("boxes")
    yield _once(make, base)
    shutil.rmtree(base)
