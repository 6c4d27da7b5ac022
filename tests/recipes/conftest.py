"""Boxes of real programs, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.box import tiny
from tests.box.running import add

PROGRAMS = ("ls", "whoami", "id", "getent", "date", "iconv", "tput", "locale", "cat", "python3")


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A box with small programs and the recipes that apply by themselves; not to be changed."""
    box = tmp_path_factory.mktemp("real") / "box"
    add(box, *PROGRAMS)
    return box


@pytest.fixture(scope="session")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A program that needs libodd.so.1, and that library, from which it gets 33."""
    place = tmp_path_factory.mktemp("odd")
    library = tiny.library(place / "libodd.so.1", value=33)
    return tiny.program(place / "odd", library), library
