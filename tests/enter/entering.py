"""What the tests of `enter` share: boxes made by hand, real terminals, an ordinary user."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import elftools
import pytest

import jailbuild
from tests import needs

JAILBUILD = (sys.executable, "-m", "jailbuild")
PATIENCE = 30  # seconds
ROOTLESS = pytest.param("rootless", marks=needs.user_namespaces)  # the mode, for a test that has it by name
SHELL = ("bash", "--norc", "--noprofile", "-i")  # that somebody calls jailbuild from
USER = 64321  # nobody's: an ordinary user


def copy_in(box: Path, *programs: str) -> None:
    """Do the demo: copy programs and what ldd says of them."""
    for program in programs:
        found = shutil.which(program, path="/usr/bin:/bin")
        assert found, program
        listed = subprocess.run(["ldd", found], capture_output=True, text=True).stdout
        for file in [found, *re.findall(r"/\S+", listed)]:
            to = box / ("usr/bin/" + program if file == found else file.lstrip("/"))
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, to)


def public_python(directory: Path) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return jailbuild's command and the environment for it as an ordinary user may run them.

    The modules are copied: a checkout, and a Python too, may lie where only root may look (then the test is skipped).
    """
    for path in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        parents = [Path(path), *Path(path).parents]
        if os.path.exists(path) and all(parent.stat().st_mode & 0o005 == 0o005 for parent in parents):
            break
    else:
        pytest.skip("no Python that other users may run")
    for package in (jailbuild, click, elftools):
        home = Path(package.__path__[0])
        shutil.copytree(home, directory / home.name, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    return (path, "-m", "jailbuild"), {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(directory),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def processes(word: str) -> list[int]:
    """Return the processes that have a word on their command line."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word.encode() in (process / "cmdline").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found


class Running:
    """A launcher under way, in a process group of its own, whose command has said that it is ready."""

    def __init__(self, *command: str | Path, **more: Any) -> None:
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0, process_group=0, **more)
        assert self.process.stdout
        assert self.process.stdout.readline() == b"ready\n"

    def end(self) -> tuple[int, str]:
        said, _ = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, said.decode()


class Terminal:
    """A process with a fresh terminal."""

    def __init__(
        self,
        *command: str | Path,
        before: Callable[[], object] | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.said = ""  # since what was expected last
        self.shown = ""
        self.process, self.master = pty.fork()
        if self.process == 0:
            try:
                for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
                    signal.signal(number, signal.SIG_DFL)
                if before:
                    before()
                os.execvpe(command[0], [str(word) for word in command], environment or dict(os.environ))
            finally:
                os._exit(99)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def expect(self, text: str) -> None:
        """Wait until the terminal shows the text, after what was expected last."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.said:
            if not select.select([self.master], [], [], max(0, deadline - time.monotonic()))[0]:
                raise AssertionError(f"no {text!r} in {self.said!r}")
            try:
                block = os.read(self.master, 65536)
            except OSError:  # EIO: nobody has it open any more
                block = b""
            assert block, f"ended without {text!r}: {self.said!r}"
            self.shown += block.decode(errors="replace")
            self.said += block.decode(errors="replace")
        self.said = self.said.partition(text)[2]

    def settings(self) -> list[Any]:
        return termios.tcgetattr(self.master)

    def foreground(self) -> int:
        return os.tcgetpgrp(self.master)

    def end(self) -> int:
        _, status = os.waitpid(self.process, 0)
        self.process = 0
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        os.close(self.master)  # hangs up on all that is left
        if self.process:
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)


OnTerminal = Callable[..., Terminal]
