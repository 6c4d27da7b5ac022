"""The small root and a box made from it; a copy for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.box import tiny
from tests.box.running import put


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small root; not to be changed."""
    return tiny.build(tmp_path_factory.mktemp("tiny") / "root")


@pytest.fixture(scope="session")
def whole(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A box of the small root with bash and ls in it; not to be changed."""
    box = tmp_path_factory.mktemp("whole") / "box"
    put(box, "bash", "ls", root=made)
    return box


@pytest.fixture
def box(whole: Path, tmp_path: Path) -> Path:
    """A copy of that box, the test's own."""
    return tiny.clone(whole, tmp_path / "box")


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy of the small root: a root without a manifest."""
    return tiny.clone(made, tmp_path / "root")
