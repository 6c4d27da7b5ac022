"""Processes of the host, PID 1 of the box, and what outlives the launcher."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.enter.attacks.world import NEEDS, PATIENCE, USER, World, promise, read_line, write_line

pytestmark = NEEDS

_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def victim(world: World, how: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Yield a process outside that holds the secret in its memory, and the address."""
    code = (
        "import ctypes, sys; kept = ctypes.create_string_buffer(sys.stdin.readline().strip().encode());"
        "print(ctypes.addressof(kept), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [str(world.tools.python), "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
        **world.user(how),
    ) as process:
        write_line(process, world.token)
        try:
            yield process, int(read_line(process))
        finally:
            process.kill()


@promise(3)
def test_a_process_of_the_host_cannot_be_traced_or_read(world: World, how: str) -> None:
    with victim(world, how) as (process, address):
        words = ("trace", process.pid, address, len(world.token))
        assert {world.token, "seized"} == set(world.attack("plain", *words).said.split())
        assert world.attack(how, *words).said == ""


@promise(3, 4)
def test_pid_1_cannot_be_traced(world: World, how: str) -> None:
    """It is the parent of the command; of the plain one it is the launcher."""
    world.only_plain(how, "trace", 0, 0, 1, proof="seized")


@promise(3)
def test_a_process_of_the_host_cannot_be_signalled(world: World, how: str) -> None:
    with victim(world, how) as (process, _):
        world.attack(how, "signal", process.pid, signal.SIGTERM.value)
        assert process.poll() is None
        world.attack("plain", "signal", process.pid, signal.SIGTERM.value)
        assert process.wait(PATIENCE) == -signal.SIGTERM


@promise(3)
def test_the_process_group_of_the_launcher_cannot_be_signalled(world: World, how: str) -> None:
    """kill(0) reaches a group across process namespaces."""
    with victim(world, how) as (process, _):
        group: dict[str, Any] = {"process_group": process.pid}
        assert "sent" in world.attack(how, "signal", 0, signal.SIGTERM.value, **group).said
        assert process.poll() is None
        ended = (0, 1, -signal.SIGTERM, 128 + signal.SIGTERM)
        world.attack("plain", "signal", 0, signal.SIGTERM.value, statuses=ended, **group)
        assert process.wait(PATIENCE) == -signal.SIGTERM


@promise(3)
def test_shared_memory_of_the_host_cannot_be_read(world: World, how: str) -> None:
    _libc.shmat.restype = ctypes.c_void_p
    key = int(world.token[:7], 16)
    segment = _libc.shmget(key, 4096, 0o1666)
    assert segment >= 0
    try:
        memory = _libc.shmat(segment, None, 0)
        ctypes.memmove(memory, world.token.encode() + b"\0", len(world.token) + 1)
        world.only_plain(how, "shared-memory", key)
        _libc.shmdt(ctypes.c_void_p(memory))
    finally:
        _libc.shmctl(segment, 0, None)  # IPC_RMID


@promise(4)
def test_environments_of_other_processes_cannot_be_read(world: World, how: str) -> None:
    environment = world.tools.environment | {"PASSWORD": world.token}
    assert world.only_plain(how, "other-environments", env=environment).said == ""


@promise(4)
def test_arguments_of_the_launcher_cannot_be_read(world: World, how: str) -> None:
    world.only_plain(how, "other-commands", world.token)


@promise(4)
def test_the_program_of_pid_1_can_be_neither_seen_nor_changed(world: World, how: str) -> None:
    python = world.directory / "python3"
    modes = {}
    for mode in ("plain", how):
        shutil.copy(world.tools.python, python)
        python.chmod(0o755)
        if how == "rootless":
            os.chown(python, USER, USER)
        said = world.attack(mode, "other-programs", by=python).said
        modes[mode] = str(python) in said, stat.S_IMODE(python.stat().st_mode)
    assert modes == {"plain": (True, 0o777), how: (False, 0o755)}
    assert said == ""


def attackers(word: str) -> list[int]:
    """Return the processes that run the attack with a word among its arguments."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if words[0] == b"/attack" and word.encode() in words:
                found.append(int(process.name))
    return found


@promise(16)
def test_a_daemon_does_not_outlive_a_launcher_that_is_killed(world: World, how: str) -> None:
    """Not one that has a session of its own, no parent, and ignores every signal that can be ignored."""

    def left(mode: str) -> bool:
        word = world.token + mode
        with subprocess.Popen(
            world.command(mode, world.make_box(mode), "stay", word),
            stdout=subprocess.PIPE,
            text=True,
            env=world.tools.environment,
            **world.user(mode),
        ) as launcher:
            try:
                assert read_line(launcher) == "started\n"
                assert len(attackers(word)) == 2
                launcher.kill()
                launcher.wait(PATIENCE)
                end = time.monotonic() + (PATIENCE if mode != "plain" else 0.3)
                while attackers(word) and time.monotonic() < end:
                    time.sleep(0.02)
                return bool(attackers(word))
            finally:
                launcher.kill()
                for process in attackers(word):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)

    assert left("plain")
    assert not left(how)
