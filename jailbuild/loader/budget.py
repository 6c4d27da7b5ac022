"""How much may be done for one program: a file may ask for millions of look-ups, which a loader would wait for."""

from __future__ import annotations

from jailbuild.loader.model import TooMuchError

_MOST_STEPS = 100_000  # for one program; half a second. Of 6400 ELF files of one machine none took more than 256
_TEXT_STEP = 128  # bytes of a report that count as a step


class Budget:
    """The steps that are taken for one program after the other."""

    def __init__(self) -> None:
        self._steps = 0
        self._program = ""  # whose steps they are

    def begin(self, program: str) -> None:
        """Look for what a program loads, counting its steps, from now on."""
        self._steps = 0
        self._program = program

    def spend(self, steps: int) -> None:
        """Count steps (TooMuchError beyond _MOST_STEPS)."""
        self._steps += steps
        if self._steps > _MOST_STEPS:
            raise TooMuchError(self._program, f"what it loads cannot be found in {_MOST_STEPS} steps")

    def spend_text(self, *texts: str) -> None:
        """Count the steps that text of a report, or of a name, is worth (TooMuchError)."""
        self.spend(1 + sum(map(len, texts)) // _TEXT_STEP)
