"""The terminal of a box: which descriptors are one, and the launcher's part in it, carrying bytes to and fro.

The box gets a terminal of its own and never a descriptor of the caller's: whoever holds one can put characters into its
input (TIOCSTI, TIOCLINUX; CVE-2017-5226), which the caller's shell reads as typed once the box has ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import termios
from collections.abc import Iterable
from typing import NamedTuple

_AT_ONCE = 65536  # bytes read
_PIECE = 4096  # bytes written: so much a pipe takes without blocking when poll says it is ready (PIPE_BUF)
_INPUT, _OUTPUT, _CONTROL, _LOCAL, _CHARACTERS = 0, 1, 2, 3, 6  # termios.tcgetattr's list
_END_OF_INPUT = b"\x04"

Attributes = list[int | list[bytes | int]]


class Wiring(NamedTuple):
    """What stands in for the standard descriptors in the box.

    `pty`: the numbers that are the box's terminal; `pipes`: those that become pipes, because they are the caller's
    terminal and the box is to have none. The others go in as they are.

    `asleep`: the caller's terminal is left alone, with its keys and its settings, until the command asks for keys. So
    it is where input or output are something else: then the keys may be for another, a pager that we write to. The
    command begins in the background of its terminal, and a signal stops it there when it reads or sets it.
    """

    pty: frozenset[int]
    pipes: frozenset[int]
    attributes: Attributes | None  # the terminal's settings to begin with
    size: bytes | None  # struct winsize
    asleep: bool = False

    def __str__(self) -> str:
        if self.pty:
            keys = "; keys when it is first read" if self.asleep else ""
            return f"terminal: the box's own on {', '.join(map(str, sorted(self.pty)))}, as controlling terminal{keys}"
        if self.pipes:
            return f"terminal: none; pipes on {', '.join(map(str, sorted(self.pipes)))}"
        return "terminal: none"


def plan_wiring(pty: bool | None, opened: Iterable[int]) -> Wiring:
    """Return the wiring for the caller's open standard descriptors.

    `pty` None: a terminal where the caller has one; True: on all three; False: none, pipes in place of terminals.
    """
    terminals = frozenset(number for number in opened if number < 3 and os.isatty(number))
    if pty is False or not (pty or terminals):
        return Wiring(frozenset(), terminals, None, None)
    attributes = size = None
    for number in sorted(terminals):
        with contextlib.suppress(termios.error, OSError):
            attributes = termios.tcgetattr(number)
            size = fcntl.ioctl(number, termios.TIOCGWINSZ, b"\0" * 8)
            break
    may_stop = signal.SIG_IGN not in (signal.getsignal(signal.SIGTTIN), signal.getsignal(signal.SIGTTOU))
    asleep = not pty and not {0, 1} <= terminals and may_stop
    if attributes is not None and 0 not in terminals and not asleep:
        # The caller's terminal stays as it is, so its own output processing is still to come.
        assert isinstance(attributes[_OUTPUT], int)
        attributes[_OUTPUT] &= ~termios.OPOST
    return Wiring(frozenset({0, 1, 2}) if pty else terminals, frozenset(), attributes, size, asleep)


def apply_termios(slave: int, wiring: Wiring) -> None:
    """Give the box's terminal settings and size, before anybody reads them."""
    if wiring.attributes is not None:
        termios.tcsetattr(slave, termios.TCSANOW, wiring.attributes)
    if wiring.size is not None:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, wiring.size)


def ends_lines(wiring: Wiring) -> bool:
    """Say whether the box's terminal makes CR LF of each LF that is written to it: ONLCR, termios(3)."""
    output = wiring.attributes[_OUTPUT] if wiring.attributes is not None else 0
    assert isinstance(output, int)
    return bool(output & termios.OPOST and output & termios.ONLCR)


class Raw:
    """The caller's terminal while another one does the work of its line discipline: every key goes through as it is."""

    def __init__(self, terminal: int) -> None:
        self.terminal = terminal
        self._before: Attributes | None = None
        self._ours: Attributes | None = None

    def set(self) -> bool:
        """Make it raw, if it is not and we are in its foreground; say if it is."""
        if self._before is None and self.is_ours():
            try:
                before = termios.tcgetattr(self.terminal)
                now = termios.tcgetattr(self.terminal)
            except termios.error:  # hung up
                return False
            flags = [one for one in now[:4] if isinstance(one, int)]
            flags[_INPUT] &= ~(
                termios.IGNBRK
                | termios.BRKINT
                | termios.PARMRK
                | termios.ISTRIP
                | termios.INLCR
                | termios.IGNCR
                | termios.ICRNL
                | termios.IXON
            )
            flags[_OUTPUT] &= ~termios.OPOST
            flags[_LOCAL] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
            flags[_CONTROL] = flags[_CONTROL] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
            now[:4] = flags
            characters = now[_CHARACTERS]
            assert isinstance(characters, list)
            characters[termios.VMIN], characters[termios.VTIME] = 1, 0
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self.terminal, termios.TCSADRAIN, now)
                self._before, self._ours = before, termios.tcgetattr(self.terminal)
        return self._before is not None

    def restore(self) -> None:
        """Make it as it was, unless somebody else has set it since: a pager that we write to."""
        before, self._before = self._before, None
        if before is not None:
            with contextlib.suppress(termios.error):
                if termios.tcgetattr(self.terminal) == self._ours:
                    termios.tcsetattr(self.terminal, termios.TCSADRAIN, before)

    def is_set(self) -> bool:
        """Say whether it is raw by us."""
        return self._before is not None

    def is_ours(self) -> bool:
        """Say whether our process group is the terminal's foreground: only then its input is ours to read."""
        try:
            return os.tcgetpgrp(self.terminal) == os.getpgrp()
        except OSError:
            return False


class Flow:
    """Bytes on their way from one descriptor to another."""

    def __init__(self, source: int, sink: int, types: bool = False, is_keyboard: bool = False) -> None:
        """`types`: the sink is a terminal's keyboard side, where the end of the input has to be typed.

        `is_keyboard`: the source is the caller's terminal.
        """
        self.source = source
        self.sink = sink
        self.waiting = b""
        self.is_open = True  # the source may have more
        self.joins_lines = False  # CR LF becomes LF: the sink is a terminal that will make CR LF of it again
        self._types = types
        self.is_keyboard = is_keyboard
        self._last = b"\n"  # of what was read

    def read(self) -> bool:
        """Take what there is; say whether there was something."""
        try:
            block = os.read(self.source, _AT_ONCE)
        except BlockingIOError:
            return False
        except OSError:  # EIO: a terminal that nobody has open any more
            if self.is_keyboard and os.isatty(self.source):  # or that is another's to read just now
                return False
            block = b""
        self._last = block[-1:] or self._last
        if self.sink >= 0:
            self.waiting += block.replace(b"\r\n", b"\n") if self.joins_lines else block
        if not block:
            self.is_open = False
            if self._types:
                # Within a line it hands on what was typed so far, and is the end only when typed again (termios(3)).
                self.waiting += _END_OF_INPUT * (1 if self._last == b"\n" else 2)
            self._end()
        return bool(block)

    def write(self) -> None:
        """Hand on a piece of what waits."""
        try:
            self.waiting = self.waiting[os.write(self.sink, self.waiting[:_PIECE]) :]
        except BlockingIOError:
            return
        except OSError:  # nobody reads it any more
            self.waiting = b""
            self.sink = -1
        self._end()

    def _end(self) -> None:
        """Close a pipe whose other end is through, so that the command learns of it."""
        if not self.waiting and not self.is_open and self.sink > 2 and not self._types:
            os.close(self.sink)
            self.sink = -1


class Relay:
    """The launcher's ends of a box's terminal or pipes."""

    def __init__(self, wiring: Wiring, master: int, pipes: dict[int, int]) -> None:
        self.wiring = wiring
        self.master = master
        is_keyboard = 0 in wiring.pty | wiring.pipes and os.isatty(0)
        self.is_asleep = wiring.asleep
        self.keyboard = Raw(0) if is_keyboard and not self.is_asleep else None
        self.flows: list[Flow] = []
        self.ins: list[Flow] = []
        if master >= 0:
            os.set_blocking(master, False)
            if 0 in wiring.pty and not (is_keyboard and self.is_asleep):
                self.ins.append(Flow(0, master, types=True, is_keyboard=is_keyboard))
            self.flows.append(Flow(master, self._screen()))
            self.flows[0].joins_lines = self.is_asleep and ends_lines(wiring)
        for number, end in pipes.items():
            if number == 0:
                self.ins.append(Flow(0, end, is_keyboard=is_keyboard))
            else:
                self.flows.append(Flow(end, number))
        self.raw()

    def _screen(self) -> int:
        """Return where the terminal's output goes: where the caller would see it."""
        for number in (1, 2):
            if number in self.wiring.pty:
                return number
        try:
            return os.open("/dev/tty", os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            return 0

    def wake(self) -> None:
        """Take over the caller's keyboard for a command that now asks for it, wherever its stdin comes from."""
        self.flush()  # with the caller's terminal as it was
        self.is_asleep = self.flows[0].joins_lines = False
        try:
            terminal = 0 if os.isatty(0) else os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:  # the caller has a terminal to show things on, and none to be asked by
            return
        self.keyboard = Raw(terminal)
        self.ins.append(Flow(terminal, self.master, types=True, is_keyboard=True))
        self.raw()

    def raw(self) -> None:
        """Take over the caller's keyboard, if it is ours to take."""
        if self.master >= 0 and self.keyboard is not None:
            self.keyboard.set()

    def restore(self) -> bool:
        """Give the caller's terminal back as it was; say whether it had been taken over."""
        was_raw = self.is_raw()
        if self.keyboard is not None:
            self.keyboard.restore()
        return was_raw

    def is_raw(self) -> bool:
        """Say whether keys go through as they are: then the caller's terminal makes no signals of them."""
        return self.keyboard is not None and self.keyboard.is_set()

    def resize(self) -> None:
        """Give the box's terminal the size of the caller's; the kernel tells who is in its foreground."""
        if self.master < 0:
            return
        for number in (0, 1, 2):
            try:
                size = fcntl.ioctl(number, termios.TIOCGWINSZ, b"\0" * 8)
            except OSError:
                continue
            with contextlib.suppress(OSError):
                fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)
            return

    def carry(self, others: Iterable[int], patience: float | None) -> set[int]:
        """Wait until something is ready, carry what there is, and return which of the `others` can be read.

        `patience`: seconds at most, None for ever.
        """
        poll = select.poll()
        wanted: dict[int, int] = {}
        away = self.keyboard is not None and not self.keyboard.is_ours()
        if away:  # in the background: the keys are somebody else's, and nothing tells when they are ours again
            patience = 0.2 if patience is None else min(patience, 0.2)
        else:
            self.raw()
        for flow in [*self.flows, *self.ins]:
            if flow.waiting and flow.sink >= 0:
                wanted[flow.sink] = wanted.get(flow.sink, 0) | select.POLLOUT
            if flow.is_open and len(flow.waiting) < _AT_ONCE and not (away and flow.is_keyboard):
                wanted[flow.source] = wanted.get(flow.source, 0) | select.POLLIN
        for descriptor in others:
            wanted[descriptor] = select.POLLIN
        for descriptor, events in wanted.items():
            poll.register(descriptor, events)
        ready = dict(poll.poll(None if patience is None else patience * 1000))
        for flow in [*self.flows, *self.ins]:
            if flow.waiting and ready.get(flow.sink, 0) & (select.POLLOUT | select.POLLERR | select.POLLHUP):
                flow.write()
            arrived = ready.get(flow.source, 0) & ~select.POLLOUT if wanted.get(flow.source, 0) & select.POLLIN else 0
            if flow.is_open and arrived:
                flow.read()
        return {descriptor for descriptor in others if ready.get(descriptor)}

    def flush(self) -> None:
        """Write out what there is just now."""
        for flow in self.flows:
            while flow.waiting or (flow.is_open and flow.source == self.master and flow.read()):
                flow.write()

    def drain(self) -> None:
        """Write out what the box has written; it has ended, so that there is an end."""
        for flow in self.flows:
            while flow.is_open or flow.waiting:
                if flow.is_open and len(flow.waiting) < _AT_ONCE and not flow.read():
                    flow.is_open = False
                if flow.waiting:
                    flow.write()
