"""Boxes that `jailbuild add NAME` alone makes, what runs in them, and servers that others ask from beside them."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

JAILBUILD = (sys.executable, "-m", "jailbuild")
# The root that the programs come from: the host's, or another (a Debian 13 that mmdebstrap made).
ROOT = os.environ.get("JAILBUILD_TEST_SYSROOT", "/")
STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PATIENCE = 60  # seconds

Done = subprocess.CompletedProcess[str]

_KNOCK = """
import socket, sys, time
deadline = time.monotonic() + float(sys.argv[2])
while True:
    try:
        socket.create_connection(("127.0.0.1", int(sys.argv[1]))).close()
        break
    except OSError:
        if time.monotonic() > deadline:
            raise
        time.sleep(0.02)
"""
_FETCH = "import sys, urllib.request as r; sys.stdout.write(r.urlopen(sys.argv[1], timeout=20).read().decode())"


def place_of(program: str) -> str | None:
    """Return where the root has a program, by its name or a glob of its path; of versions the highest."""
    patterns = [program] if "/" in program else [f"{one}/{program}" for one in STANDARD_PATH.split(":")]
    for pattern in patterns:
        if found := sorted(glob.glob(pattern.lstrip("/"), root_dir=ROOT)):
            return "/" + found[-1]
    return None


def need(*programs: str) -> None:
    """Skip the test where the root has not all of the programs (names, or globs of paths)."""
    for program in programs:
        if place_of(program) is None and not Path(ROOT, program.lstrip("/")).is_symlink():
            pytest.skip(f"{program} is not installed")


def need_on_the_host(*programs: str) -> None:
    """Likewise for what the test itself runs."""
    for program in programs:
        if shutil.which(program, path=STANDARD_PATH) is None:
            pytest.skip(f"{program} is not installed")


def need_the_host_as_root() -> None:
    """Skip the test where the programs come from elsewhere."""
    if ROOT != "/":
        pytest.skip("what this puts into a box is made on the host")


def fill(box: Path, *arguments: str | Path) -> Path:
    """Do `jailbuild add ARGUMENTS --into BOX`; the box must then be as it should be."""
    added = subprocess.run(
        [*JAILBUILD, "add", "--sysroot", ROOT, "--no-sync", "--quiet", *arguments, "--into", box],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
    )
    assert added.returncode == 0, added.stderr
    checked = subprocess.run([*JAILBUILD, "check", "--quiet", box], capture_output=True, text=True, timeout=PATIENCE)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    return box


def run(box: Path, *command: str, options: tuple[str, ...] = ()) -> Done:
    """Run a command in the box, isolated and without a network."""
    return subprocess.run(
        [*JAILBUILD, "enter", "--net", "none", *options, box, *command],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
    )


def said(box: Path, *command: str, options: tuple[str, ...] = ()) -> str:
    """Run a command in the box and return what it printed; it must succeed."""
    ended = run(box, *command, options=options)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


class Server(NamedTuple):
    """A command that runs in a network of its own, where there is nothing but a loopback."""

    process: subprocess.Popen[bytes]
    pid: int  # a process that is in that network
    log: Path

    def beside(self, *command: str | Path) -> Done:
        """Run a command of the host in the server's network."""
        return subprocess.run(
            ["nsenter", f"--net=/proc/{self.pid}/ns/net", *command],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            stdin=subprocess.DEVNULL,
        )

    def wait_for(self, port: int) -> None:
        """Wait until somebody listens there."""
        ended = self.beside(sys.executable, "-c", _KNOCK, str(port), str(PATIENCE / 2))
        assert ended.returncode == 0, (ended.stderr, self.log.read_text(errors="replace"))

    def wait_for_file(self, path: Path) -> None:
        """Wait until the file is there."""
        deadline = time.monotonic() + PATIENCE / 2
        while not path.exists():
            assert time.monotonic() < deadline, (path, self.log.read_text(errors="replace"))
            time.sleep(0.02)

    def page(self, url: str) -> str:
        """Fetch a page."""
        ended = self.beside(sys.executable, "-c", _FETCH, url)
        assert ended.returncode == 0, (ended.stderr, self.log.read_text(errors="replace"))
        return ended.stdout

    def said(self, box: Path, *command: str) -> str:
        """Run a command in a box that has this network, isolated in all else, and return what it printed."""
        ended = self.beside(*JAILBUILD, "enter", box, *command)
        assert ended.returncode == 0, (ended.stdout, ended.stderr, self.log.read_text(errors="replace"))
        return ended.stdout


@contextlib.contextmanager
def serving(box: Path, *command: str, options: tuple[str, ...] = ()) -> Iterator[Server]:
    """Run a server in the box, isolated and without a network; it ends with the block."""
    status, theirs = os.pipe()
    log = box.with_name(f"{box.name}-{os.path.basename(command[0])}.log")
    with log.open("wb") as words:
        process = subprocess.Popen(
            [*JAILBUILD, "enter", "--net", "none", "--status-fd", str(theirs), *options, box, *command],
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            pass_fds=[theirs],
        )
    os.close(theirs)
    with process, open(status, encoding="utf-8") as reports:
        try:
            first = reports.readline()
            assert first, log.read_text(errors="replace")
            yield Server(process, json.loads(first)["pid"], log)
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE / 4)
            except subprocess.TimeoutExpired:
                process.kill()
