"""The launcher of an isolated command: outside, it makes the box's first process, and is its line to the world.

It carries the terminal's bytes, passes signals on, stops and goes on with the command, and ends as it has ended. When
it is killed, the channel to PID 1 closes, and the death signal comes: nothing of the box lives on.
"""

from __future__ import annotations

import _socket
import errno
import os
import signal
import struct
from collections.abc import Callable

from jailbuild import syscalls
from jailbuild.enter.idmap import write_ids
from jailbuild.enter.init import MESSAGE, be_first
from jailbuild.enter.isolated import Setup
from jailbuild.enter.mounts import SetupContext
from jailbuild.enter.spawn import EXEC, HOST_PROGRAM, ExecError, StepError
from jailbuild.enter.terminal import Relay
from jailbuild.enter.wait import FROM_TERMINAL, SI_KERNEL, STOPS, Watch

_SIGNAL = struct.Struct("IiiI112x")  # signalfd_siginfo: ssi_signo, ssi_errno, ssi_code, ssi_pid, signalfd(2)
_CREDENTIALS = struct.Struct("iii")  # struct ucred, unix(7)


def hold_standard() -> tuple[int, ...]:
    """Open those of the descriptors 0 to 2 that the caller has closed, and return them.

    Else a socket of ours would get such a number, and be taken for the command's stdin.
    """
    closed = []
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            closed.append(number)
    return tuple(closed)


def run_isolated(setup: Setup, started: Callable[[int], object]) -> int:
    """Run the command and return its exit status, 128+n for a signal (StepError, ExecError).

    `started` is called with its process id outside, when it is being executed.
    """
    with Watch() as watch:
        place = SetupContext()
        reports, place.report = os.pipe()
        channel, inner = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        channel.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 1)
        place.channel = inner.fileno()
        ours = {}
        for number in setup.wiring.pipes:
            ends = os.pipe()
            ours[number], place.pipes[number] = ends if number else ends[::-1]
        child = 0
        try:
            child = _clone(setup.namespaces)
            if child == 0:
                be_first(setup.plan, place)
            inner.close()
            for descriptor in (place.report, *place.pipes.values()):
                os.close(descriptor)
            _let_go(setup, child, channel)
            _read_report(setup, reports)
            master, process = _meet(channel)
            if not process:
                raise StepError("set-up", OSError(errno.ECHILD, "its first process was killed"))
            started(process)
            relay = Relay(setup.wiring, master, ours)
            try:
                return _watch(child, channel, relay, watch)
            finally:
                relay.restore()
        finally:
            channel.close()  # PID 1 ends with it, if it has not
            os.close(reports)
            if child:
                _collect(child)


def _clone(namespaces: int) -> int:
    try:
        try:
            return syscalls.clone(namespaces, signal.SIGCHLD)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # A kernel without cgroups has no namespace for them, and nothing that it would hide.
            return syscalls.clone(namespaces & ~syscalls.CLONE_NEWCGROUP, signal.SIGCHLD)
    except OSError as error:
        raise StepError("namespaces", error) from None


def _let_go(setup: Setup, child: int, channel: _socket.socket) -> None:
    """Map the ids and let the child go on."""
    if setup.ids is not None:
        try:
            write_ids(setup.ids, child)
        except OSError as error:
            raise StepError(str(setup.ids), error) from None
    try:
        channel.send(b"g")
    except OSError:  # it is gone, and its report says why
        pass


def _read_report(setup: Setup, reports: int) -> None:
    """Wait until the command is executed (StepError, ExecError)."""
    said = b""
    while block := os.read(reports, 8192):  # ends at the execve, which closes the last of the other ends
        said += block
    if not said:
        return
    step, number, path = said.split(b" ", 2)
    error = OSError(int(number), os.strerror(int(number)), os.fsdecode(path) or None)
    if int(step) == EXEC:
        raise ExecError(error)
    if int(step) == HOST_PROGRAM:
        why = "by /proc/self/exe it is jailbuild's own program, which is none of the box"
        raise ExecError(OSError(errno.ELOOP, why, os.fsdecode(path)))
    raise StepError(setup.plan.at(int(step)), error)


def _meet(channel: _socket.socket) -> tuple[int, int]:
    """Return the terminal's master, -1 without one, and the command's process id outside."""
    master, process = -1, 0
    space = _socket.CMSG_SPACE(_CREDENTIALS.size) + _socket.CMSG_SPACE(4)
    while True:
        message, extras, _, _ = channel.recvmsg(16, space, _socket.MSG_CMSG_CLOEXEC)
        for level, kind, data in extras:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                master = struct.unpack("i", data)[0]
            elif level == _socket.SOL_SOCKET and kind == _socket.SCM_CREDENTIALS:
                process = _CREDENTIALS.unpack(data)[0]
        if message in (b"c", b""):
            return master, process


def _watch(child: int, channel: _socket.socket, relay: Relay, watch: Watch) -> int:
    """Carry, pass on and wait; return the status in the end."""
    signals = syscalls.signalfd(watch.watched)
    others = {signals, channel.fileno()}
    try:
        while True:
            ready = relay.carry(others, None)
            if channel.fileno() in ready:
                message = channel.recv(16)
                if not message:
                    others.discard(channel.fileno())
                elif message[:1] == b"s":
                    _stop(message[1], relay, watch, channel)
                elif message[:1] == b"k":
                    relay.wake()
                    _tell(channel, signal.SIGCONT, from_terminal=True)
            if signals in ready:
                status = _take_signals(signals, child, channel, relay)
                if status is not None:
                    relay.drain()
                    return status
    finally:
        os.close(signals)


def _take_signals(signals: int, child: int, channel: _socket.socket, relay: Relay) -> int | None:
    """Pass on what has come; return the exit status if that is what has come."""
    for number, _, code, _ in _SIGNAL.iter_unpack(os.read(signals, _SIGNAL.size * 64)):
        if number == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
        elif number == signal.SIGWINCH and relay.master >= 0:
            relay.resize()
            if relay.is_asleep:  # the kernel tells who is in the foreground, and the command is not
                _tell(channel, number, from_terminal=True)
        elif number == signal.SIGCONT:
            relay.raw()
            relay.resize()
            _tell(channel, number, from_terminal=True)
        elif number in (signal.SIGTTIN, signal.SIGTTOU) and code == SI_KERNEL:
            pass  # for what we did ourselves in the background
        else:
            # What the caller's terminal sends, it sends to every process in its foreground: so do we.
            _tell(channel, number, from_terminal=code == SI_KERNEL and number in (*FROM_TERMINAL, *STOPS))
    return None


def _tell(channel: _socket.socket, number: int, from_terminal: bool) -> None:
    try:
        channel.send(MESSAGE.pack(number, from_terminal))
    except OSError:  # it ends just now
        pass


def _stop(number: int, relay: Relay, watch: Watch, channel: _socket.socket) -> None:
    """Stop as the command did, with the terminal as it was.

    Where we had the keyboard, the caller's terminal has not seen the Ctrl-Z: then it is on us to stop all of the
    caller's job, or a script that waits for us would wait on. With no shell to come back to (an orphaned process
    group, setpgid(2)) nothing stops us, and the command goes on.
    """
    relay.flush()
    watch.stop(number, with_group=relay.restore() and number in STOPS)
    if signal.SIGCONT not in signal.sigpending():
        relay.raw()
        _tell(channel, signal.SIGCONT, from_terminal=True)


def _collect(child: int) -> None:
    try:
        os.waitpid(child, 0)
    except ChildProcessError:
        pass
