"""The small root, made once, and a copy of it for each test that changes it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import needs
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


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where a tmpfs can be mounted, else on disk: for what copies and kills a great deal."""
    libc = ctypes.CDLL(None, use_errno=True)
    place = tmp_path / "memory"
    place.mkdir()
    if not needs.has_namespaces():
        yield place
        return
    assert libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, b"size=1g") == 0
    try:
        yield place
    finally:
        libc.umount2(os.fsencode(place), 2)  # MNT_DETACH
