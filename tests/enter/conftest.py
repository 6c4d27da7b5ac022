"""Fixtures of the tests of `enter`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.enter.entering import Terminal


@pytest.fixture
def on_terminal() -> Iterator[Callable[..., Terminal]]:
    terminals: list[Terminal] = []

    def begin(*command: str | Path, **more: Any) -> Terminal:
        terminals.append(Terminal(*command, **more))
        return terminals[-1]

    yield begin
    for terminal in terminals:
        terminal.close()
