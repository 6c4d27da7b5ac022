"""The small root, made once, and a copy of it for each test that changes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.box import tiny


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small root; not to be changed."""
    return tiny.build(tmp_path_factory.mktemp("tiny") / "root")


@pytest.fixture
def sysroot(made: Path, tmp_path: Path) -> Path:
    """A copy of the small root, the test's own."""
    return tiny.clone(made, tmp_path / "sysroot")


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """Where a box may be made."""
    return tmp_path / "box"


@pytest.fixture(scope="session")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A program that needs libodd.so.1, and that library, from which it gets 33."""
    place = tmp_path_factory.mktemp("odd")
    library = tiny.library(place / "libodd.so.1", value=33)
    return tiny.program(place / "odd", library), library
