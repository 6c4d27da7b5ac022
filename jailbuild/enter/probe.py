"""Asking programs of a box: one isolated room for all of them, in which each is run after the other and has its say.

What runs there may be anything: nothing in the box can be changed, there is no network but an empty one, no terminal,
no capability, nothing on stdin, no second process; and each program has so many seconds, and so many bytes to say.
Programs of another machine have a room of their own, with its emulator.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import struct
import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, NoReturn

from jailbuild import syscalls
from jailbuild.enter import preflight
from jailbuild.enter.account import Account
from jailbuild.enter.binfmt import Emulation, emulation
from jailbuild.enter.command import Command
from jailbuild.enter.denied import ALONE, ALONE_WITH_THREADS, Denial
from jailbuild.enter.emulation import foreign
from jailbuild.enter.idmap import is_rootless, plan_ids
from jailbuild.enter.isolated import Options, Setup, make_setup
from jailbuild.enter.launch import hold_standard, run_isolated
from jailbuild.enter.seccomp import filter_program, install
from jailbuild.enter.settings import read_limit
from jailbuild.enter.spawn import ExecError, StepError
from jailbuild.enter.terminal import plan_wiring
from jailbuild.errors import JailError, reason
from jailbuild.root import Root

SECONDS = 10.0  # for each program
MOST = 1 << 20  # bytes that each may say
PATIENCE = 3  # how often a program may take longer, or say more, before it is asked no more
_MORE = 5.0  # seconds beyond that in which the room itself has to answer

_LIMITS = ("core=0", "fsize=0", "nofile=1024")
_MEMORY, _EMULATED_MEMORY = "as=4g", "as=12g"  # for 32 bits, qemu reserves 4 GB of addresses
_FRAME = struct.Struct("<IiiI")  # number of the question, status, errno, length of what was said
_FAILED = (1 << 32) - 1  # instead of a number: the room could not be had
_NOT_EMULATED = _FAILED - 1  # instead of a number: the emulator could not be had
_SET_PDEATHSIG = 1  # prctl(2)
_ROOT = Account("root", 0, 0, (), "/", "")


class ProbeRequest(NamedTuple):
    """A program to be run, a path in the box, and its arguments, its own name first."""

    file: str
    arguments: tuple[str, ...]


class ProbeResult(NamedTuple):
    """What a program said on stdout and stderr, and how it ended.

    `status`: as exit status, below 0 for a signal; None where it was ended for taking too long or saying too much.
    `errno`: of execve(2), 0 where it was run.
    """

    status: int | None
    errno: int
    text: str


class _Room(NamedTuple):
    """Where programs of one machine are run."""

    setup: Setup
    emulation: Emulation | None
    box: str
    rootless: bool


def ask(root: Root, box: str, questions: Sequence[ProbeRequest], seconds: float = SECONDS) -> list[ProbeResult | None]:
    """Return the answers, None where what ran before made an end of it all (JailError: no such room can be had).

    The isolated mode as root, the same in a user namespace for others, and no other. `box` is how the user calls the
    root. A program that took too long, or said too much, PATIENCE times is asked no more, and has None.
    """
    rootless = is_rootless()
    why = preflight.before(root, box, rootless, has_binds=False)
    if why is not None:
        raise _refused(box, why.why)
    emulations = {
        file: emulation(foreign(root, (os.fsencode(file),)), rootless)
        for file in dict.fromkeys(question.file for question in questions)
    }
    answers: list[ProbeResult | None] = [None] * len(questions)
    for emulated in dict.fromkeys(emulations.values()):
        here = [at for at, question in enumerate(questions) if emulations[question.file] == emulated]
        asked = [questions[at] for at in here]
        for at, answer in zip(here, _ask_in_room(root, box, asked, seconds, emulated, rootless), strict=True):
            answers[at] = answer
    return answers


def _ask_in_room(
    root: Root,
    box: str,
    questions: list[ProbeRequest],
    seconds: float,
    emulated: Emulation | None,
    rootless: bool,
) -> list[ProbeResult | None]:
    """Return the answers of programs that one machine, or one emulator, runs."""
    closed = hold_standard()
    memory = _MEMORY if emulated is None else _EMULATED_MEMORY
    options = Options(
        limits=tuple(map(read_limit, (*_LIMITS, memory))),
        read_only=True,
        private_network=True,
        powerless=True,
        filter=filter_program(kept=(), private_network=True),
        emulation=emulated,
    )
    files = tuple(dict.fromkeys(os.fsencode(question.file) for question in questions))
    command = Command((b"",), {}, files, False, "")
    ids = plan_ids(_ROOT, os.geteuid(), os.getegid()) if rootless else None
    setup = make_setup(root, _ROOT, command, options, ids, plan_wiring(False, ()), ())
    rules: tuple[Denial, ...] = ALONE if emulated is None else ALONE_WITH_THREADS  # an emulator has one of its own
    alone = filter_program(rules=rules)
    instead = partial(_answer, [_bytes(question) for question in questions], seconds, alone)
    setup = setup._replace(plan=setup.plan._replace(instead=instead))
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _launch(_Room(setup, emulated, box, rootless), writing)
    os.close(writing)
    try:
        return _collect(reading, len(questions), seconds + _MORE, box)
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)  # and with it ends all that is left in the room
        os.waitpid(child, 0)
        for number in closed:
            os.close(number)


def _refused(box: str, why: str) -> JailError:
    return JailError(
        f"cannot ask the loader of {box}: {why}",
        "leave out --run, or check where the isolated mode of enter can be had; it is not weakened",
    )


def _bytes(question: ProbeRequest) -> tuple[bytes, list[bytes]]:
    return os.fsencode(question.file), [os.fsencode(word) for word in question.arguments]


def _launch(room: _Room, writing: int) -> NoReturn:
    """Be the launcher of the room, with nothing of the caller's on descriptors 0 to 2."""
    said = ""
    number = _FAILED
    try:
        syscalls.prctl(_SET_PDEATHSIG, signal.SIGKILL)
        # Not /dev/null, which is the host's: whoever is uid 0 and is given it may change its mode.
        for standard in (0, 2):
            ends = os.pipe()
            os.dup2(ends[0 if standard == 0 else 1], standard)
        os.dup2(writing, 1)
        syscalls.close_range(3)
        run_isolated(room.setup, lambda _: None)
    except StepError as failed:
        if room.emulation is not None and failed.what == str(room.emulation):
            number = _NOT_EMULATED
        why = preflight.after(failed, room.box, room.rootless)
        said = why.why if why is not None else str(failed)
    except (ExecError, OSError, JailError) as failed:
        said = reason(failed) if isinstance(failed, OSError) else str(failed)
    finally:
        if said:
            text = os.fsencode(said)
            os.write(1, _FRAME.pack(number, 0, 0, len(text)) + text)
        os._exit(0)


def _answer(questions: list[tuple[bytes, list[bytes]]], seconds: float, alone: bytes) -> NoReturn:
    """Run the programs in the room, as its second process, and write what they say to descriptor 1.

    `alone` is the filter that keeps each from making processes.
    """
    ended: dict[bytes, int] = {}
    try:
        for number, (file, arguments) in enumerate(questions):
            if ended.get(file, 0) >= PATIENCE:
                continue
            status, failed, text = _run(file, arguments, seconds, alone)
            if status == _ENDED:
                ended[file] = ended.get(file, 0) + 1
            _write(_FRAME.pack(number, status, failed, len(text)) + text)
    finally:
        os._exit(0)


_ENDED = 1 << 16  # a status that no program has: we made an end of it


def _run(file: bytes, arguments: list[bytes], seconds: float, alone: bytes) -> tuple[int, int, bytes]:
    reading, writing = os.pipe()
    failures, failing = os.pipe()  # closed by the execve, or says why there was none
    child = os.fork()
    if child == 0:
        _become(file, arguments, writing, failing, alone)
    os.close(writing)
    os.close(failing)
    text, whole = _read(reading, time.monotonic() + seconds)
    os.close(reading)
    if not whole:
        _end_all()
    failed = int(os.read(failures, 16) or 0)
    os.close(failures)
    while True:
        try:
            _, status = os.waitpid(child, 0)
            break
        except InterruptedError:
            continue
    _end_all()  # whatever it has left behind
    if failed:
        return 0, failed, b""
    return os.waitstatus_to_exitcode(status) if whole else _ENDED, 0, text


def _become(file: bytes, arguments: list[bytes], writing: int, failing: int, alone: bytes) -> NoReturn:
    number = errno.EINVAL
    try:
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        install(alone)
        os.execve(file, arguments, {})
    except OSError as error:
        number = error.errno or number
    finally:
        os.write(failing, b"%d" % number)
        os._exit(1)


def _read(reading: int, until: float) -> tuple[bytes, bool]:
    """Return what is said, and whether that is all of it."""
    said = b""
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    while (left := until - time.monotonic()) > 0 and poll.poll(left * 1000):
        block = os.read(reading, 65536)
        if not block:
            return said, True
        said += block
        if len(said) > MOST:
            break
    return said[:MOST], False


def _end_all() -> None:
    try:
        os.kill(-1, signal.SIGKILL)  # all that is in this namespace but PID 1 and ourselves, kill(2)
    except OSError:
        pass


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def _collect(reading: int, count: int, patience: float, box: str) -> list[ProbeResult | None]:
    """Read the answers until all are there, none comes for `patience` seconds, or nobody is left to give one."""
    answers: list[ProbeResult | None] = [None] * count
    waiting = b""
    left = count
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    until = time.monotonic() + patience
    while left and (rest := until - time.monotonic()) > 0:
        if not poll.poll(rest * 1000):
            break
        block = os.read(reading, 1 << 16)
        if not block:
            break
        waiting += block
        while len(waiting) >= _FRAME.size:
            number, status, failed, length = _FRAME.unpack_from(waiting)
            if len(waiting) < _FRAME.size + length:
                break
            text = os.fsdecode(waiting[_FRAME.size : _FRAME.size + length])
            waiting = waiting[_FRAME.size + length :]
            if number == _FAILED:
                raise _refused(box, text)
            if number == _NOT_EMULATED:
                return [ProbeResult(0, errno.ENOEXEC, "")] * count
            answers[number] = ProbeResult(None if status == _ENDED else status, failed, text)
            left -= 1
            until = time.monotonic() + patience
    return answers
