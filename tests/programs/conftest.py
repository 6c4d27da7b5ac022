"""The place of the boxes: they are large, and gone when the test is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import needs


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Return an empty directory that is removed after the test."""
    if os.geteuid() != 0:
        pytest.skip("owners, device nodes and servers that drop their privileges want root")
    needs.may_mount()  # the boxes are entered without a network
    made = tmp_path / "place"
    made.mkdir()
    yield made
    shutil.rmtree(made)
