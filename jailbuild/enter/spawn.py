"""From the launcher to a running command: a fork, the steps of a mode, execve.

What the child does is prepared before the fork. After a chroot nothing is imported or looked up: a module or a file
of the box would be read as root.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

from jailbuild.enter.command import Command
from jailbuild.errors import reason

EXEC = -1
HOST_PROGRAM = -2  # what would be executed is the launcher's own
_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)  # ignored by the interpreter for itself, not by the caller
_TRY_NEXT = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ENODEV, errno.ETIMEDOUT)  # execvp(3), glibc
_NO_MORE_DESCRIPTORS = 1 << 20  # fs.nr_open as Linux has it


class Step(NamedTuple):
    """One thing that the child does to get into the box; `what` names it in a message."""

    what: str
    do: Callable[[], None]


class StepError(Exception):
    """A step of the set-up failed: which one, and what the system said."""

    def __init__(self, what: str, error: OSError) -> None:
        super().__init__(f"{what}: {reason(error)}")
        self.what = what
        self.error = error


class ExecError(Exception):
    """The set-up was done, and the command could not be started."""

    def __init__(self, error: OSError) -> None:
        super().__init__(reason(error))
        self.error = error


def start(steps: Sequence[Step], command: Command, passed: tuple[int, ...] = ()) -> int:
    """Fork a child that takes the steps and becomes the command; return its process id when it has.

    The command gets the descriptors 0 to 2 and those passed, no blocked signals, and every signal's default but for
    those that the caller ignores (nohup). StepError, ExecError: the child is gone again.
    """
    reports, report = os.pipe()
    others = _others({report, *passed})
    signals = signals_to_reset()
    try:
        child = os.fork()
        if child == 0:
            _become(steps, command, report, others, signals)
    except OSError as error:
        os.close(reports)
        raise StepError("fork", error) from None
    finally:
        os.close(report)
    with open(reports, "rb") as stream:
        said = stream.read()  # ends at the execve, which closes the child's end
    if said:
        os.waitpid(child, 0)
        step, number = map(int, said.split())
        failed = OSError(number, os.strerror(number))
        raise ExecError(failed) if step == EXEC else StepError(steps[step].what, failed)
    return child


def _become(
    steps: Sequence[Step],
    command: Command,
    report: int,
    others: list[tuple[int, int]],
    signals: list[int],
) -> NoReturn:
    """Be the command; where that fails, tell the launcher and exit."""
    doing, number = 0, errno.EINVAL  # what Python refuses by itself (ValueError) the system would call so
    try:
        for step in steps:
            step.do()
            doing += 1
        doing = EXEC
        for first, end in others:
            os.closerange(first, end)
        for caught in signals:
            signal.signal(caught, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        exec_command(command)
    except OSError as error:
        number = error.errno or number
    finally:
        os.write(report, b"%d %d" % (doing, number))
        os._exit(125)


def exec_command(command: Command) -> None:
    """Become the first file that can be executed; OSError as execvp(3) chooses it, ENOENT at last."""
    refused = None
    for file in command.files:
        try:
            os.execve(file, command.arguments, command.environment)
        except OSError as error:
            if not command.is_searched:
                raise
            if error.errno == errno.EACCES:
                refused = error
            elif error.errno not in _TRY_NEXT:
                raise
    raise refused or OSError(errno.ENOENT, "")


def _others(kept: set[int]) -> list[tuple[int, int]]:
    """Return the descriptors beyond 2 that are open, but for those kept: as ranges, the end not included.

    They are listed because a system without close_range(2) closes what may be open one by one.
    """
    try:
        opened = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:  # no /proc, or that of another process namespace
        last = sorted(kept)
        return [(before + 1, end) for before, end in zip([2, *last], [*last, _NO_MORE_DESCRIPTORS], strict=True)]
    return [(descriptor, descriptor + 1) for descriptor in opened if descriptor > 2 and descriptor not in kept]


def signals_to_reset() -> list[int]:
    """Return the signals that Python ignores or catches: those that the caller ignores stay so, as with chroot(1)."""
    ours = [
        number
        for number in signal.valid_signals()
        if signal.getsignal(number) not in (signal.SIG_DFL, signal.SIG_IGN, None)
    ]
    return [*_BY_PYTHON, *ours]
