"""A progress bar for work that takes longer than a moment."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

_MOMENT = 0.5  # seconds
_STEP = 0.1  # seconds between two drawings


@contextlib.contextmanager
def progress(label: str, quiet: bool = False) -> Iterator[Callable[[int, int], None] | None]:
    """Give what is to be told how much is done, and of how much; None where nobody would see it.

    The bar is drawn on stderr, if that is a terminal, on a line of its own.
    """
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    bar = _Bar(label)
    try:
        yield bar.tell
    finally:
        bar.end()


class _Bar:
    def __init__(self, label: str) -> None:
        self.label = label
        self.next = time.monotonic() + _MOMENT
        self.bar: ProgressBar[int] | None = None

    def tell(self, done: int, total: int) -> None:
        """Draw how far the work is, if it is time to."""
        now = time.monotonic()
        if now < self.next or total <= 0:
            return
        self.next = now + _STEP
        if self.bar is None:
            import click

            self.bar = click.progressbar(length=total, label=self.label, file=sys.stderr, show_pos=False)
            self.bar.__enter__()
        self.bar.length = total
        self.bar.finished = False
        self.bar.update(min(done, total) - self.bar.pos)

    def end(self) -> None:
        """End the line, with the cursor to be seen again."""
        if self.bar is not None:
            self.bar.__exit__(None, None, None)
            self.bar = None
