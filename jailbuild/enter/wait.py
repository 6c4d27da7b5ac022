"""The launcher while the command runs: it waits outside, passes signals on, stops and goes on with the command.

Both are in one process group, as with any program that runs another, so the terminal's own signals (Ctrl-C, Ctrl-Z)
reach the command without us.
"""

from __future__ import annotations

import os
import signal
from types import TracebackType

SI_KERNEL = 0x80  # siginfo.si_code: not sent by a process, asm-generic/siginfo.h

STOPS = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
FROM_TERMINAL = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH)
PASSED_ON = (
    *FROM_TERMINAL,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGVTALRM,
    signal.SIGPROF,
    signal.SIGIO,
    signal.SIGPWR,
    *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
)


class Watch:
    """A context in which signals wait to be taken by wait(), instead of acting on the launcher.

    It is entered before the command is started, so that none is lost in between.
    """

    def __enter__(self) -> Watch:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where the caller ignores it no status could be had
        self.watched = {signal.SIGCHLD, signal.SIGCONT, *STOPS, *PASSED_ON}
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, self.watched)
        self.group = os.getpgrp()
        try:
            self._terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:  # no controlling terminal
            self._terminal = -1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        while signal.sigtimedwait(self.watched, 0):  # what came for a command that is gone
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)
        if self._terminal >= 0:
            os.close(self._terminal)

    def wait(self, child: int) -> int:
        """Return the exit status of the child when it has ended, 128+n for a signal.

        Until then what is sent to the launcher is sent on, and when the child is stopped (Ctrl-Z, suspend) so is the
        launcher, for the shell that called it, and SIGCONT makes both go on. The terminal's foreground group is
        given back where the child (an interactive shell) took it and died with it.
        """
        took_terminal = False
        while True:
            news = signal.sigwaitinfo(self.watched)
            number = news.si_signo
            if number == signal.SIGCHLD:
                ended, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
                if ended and os.WIFSTOPPED(status):
                    took_terminal = self._take_terminal(child)
                    self.stop(os.WSTOPSIG(status))
                elif ended:
                    self._take_terminal(child)
                    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
            elif number == signal.SIGCONT:
                if took_terminal and self.foreground() == self.group:
                    self._set_foreground(child)
                took_terminal = False
                self._continue(child)
            elif number not in STOPS and not _has_had(child, news):
                os.kill(child, number)

    def stop(self, number: int, with_group: bool = False) -> None:
        """Stop as the child did, alone or with all of our process group.

        In an orphaned process group only SIGSTOP does anything, setpgid(2).
        """
        # One signal for all: a shell that sees the others stopped may send its SIGCONT before we have stopped.
        os.kill(0 if with_group else os.getpid(), number)
        if number in STOPS:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (number,))  # it happens here
            signal.pthread_sigmask(signal.SIG_BLOCK, (number,))

    def _continue(self, child: int) -> None:
        if os.getpgid(child) == child:  # a shell that made a group of its own
            os.killpg(child, signal.SIGCONT)
        else:
            os.kill(child, signal.SIGCONT)

    def foreground(self) -> int:
        """Return the terminal's foreground process group, -1 without a terminal."""
        try:
            return os.tcgetpgrp(self._terminal)
        except OSError:
            return -1

    def _set_foreground(self, group: int) -> bool:
        try:
            os.tcsetpgrp(self._terminal, group)  # SIGTTOU is blocked: allowed from the background too
        except OSError:
            return False
        return True

    def _take_terminal(self, child: int) -> bool:
        """Make our group the foreground again if it is the child's, or one of which nobody is left; say if it was.

        Any other is somebody's who is using the terminal: the shell that has put us into the background.
        """
        foreground = self.foreground()
        if foreground in (-1, self.group) or not (foreground == child or _is_gone(foreground)):
            return False
        return self._set_foreground(self.group)


def _has_had(child: int, news: signal.struct_siginfo) -> bool:
    """Say whether the child got the signal too: from the terminal, or by its own kill(0, …), we being in its group."""
    return news.si_pid == child or (news.si_code == SI_KERNEL and news.si_signo in FROM_TERMINAL)


def _is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
