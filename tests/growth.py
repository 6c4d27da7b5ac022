"""How much is done for N things, for 2 N and for 4 N: lines of jailbuild that are run, whatever the machine is at."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import jailbuild
from jailbuild.cli import jailbuild as command_line
from jailbuild.errors import JailError

_HERE = os.path.dirname(jailbuild.__file__)
_LINEAR = 2.15  # how many times as much the second step, which is twice as long, may take as the first
_STEP = 20  # lines; of less nothing can be said

Command = tuple[str | Path, ...]
Make = Callable[[int, Path], Iterable[Command]]  # prepares so many things in an empty directory; commands, one by one


def call(*arguments: str | Path) -> None:
    """Run jailbuild in this process, whatever comes of it."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="surrogateescape")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(JailError):
        command_line.main(list(map(str, arguments)), prog_name="jailbuild", standalone_mode=False)


def lines(run: Callable[[], object], within: str) -> int:
    """Return how many lines of jailbuild are run, or of those of its files that have `within` in their paths."""
    count = 0
    counted: dict[CodeType, bool] = {}

    def in_frame(_frame: FrameType, event: str, _value: Any) -> Any:
        nonlocal count
        count += event == "line"
        return in_frame

    def on_call(frame: FrameType, _event: str, _value: Any) -> Any:
        code = frame.f_code
        if code not in counted:
            counted[code] = code.co_filename.startswith(_HERE) and within in code.co_filename
        return in_frame if counted[code] else None

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        run()
    finally:
        sys.settrace(before)
    return count


def assert_linear(place: Path, make: Make, *, start: int = 8, within: str = "") -> None:
    """Hold each command that `make` prepares to growing no faster than what it is about."""
    found: list[list[int]] = []
    for size in (1, start, 2 * start, 4 * start):
        below = place / str(size)
        below.mkdir()
        found.append([lines(partial(call, *command), within) for command in make(size, below)])
    assert found.pop(0)  # which has loaded all modules
    grown = {
        number: (first, second, third)
        for number, (first, second, third) in enumerate(zip(*found, strict=True))
        if third - second > _LINEAR * max(second - first, _STEP)
    }
    assert not grown, f"lines run for {start}, {2 * start}, {4 * start}, by command: {grown}"
