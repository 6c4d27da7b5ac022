"""Where a change of a box can be cut short by a test: SIGKILL at a step that the test names.

JAILBUILD_DIE_AT is NAME:N for the Nth time that the step NAME is reached, or N for the Nth step of any name.
"""

from __future__ import annotations

import os
import signal

_WANTED = os.environ.get("JAILBUILD_DIE_AT", "")
_reached: dict[str, int] = {}


def step(name: str) -> None:
    """Mark a step: what came before is done, what comes after is not."""
    if not _WANTED:
        return
    for one in (name, ""):
        _reached[one] = _reached.get(one, 0) + 1
        if _WANTED in (f"{one}:{_reached[one]}", f"{_reached[one]}" if not one else ""):
            os.kill(os.getpid(), signal.SIGKILL)
