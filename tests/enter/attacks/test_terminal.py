"""The caller's terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading
from typing import Any

import pytest

from tests.enter.attacks.world import NEEDS, PATIENCE, USER, World, promise

pytestmark = NEEDS


@promise(12)
@pytest.mark.parametrize("streams", [("stdin", "stdout", "stderr"), ("stderr",)], ids=["on all", "on stderr"])
@pytest.mark.parametrize("options", [(), ("--pty",), ("--no-pty",)], ids=["by default", "--pty", "--no-pty"])
def test_nothing_can_be_typed_into_the_terminal_of_the_caller_and_its_size_stays(
    world: World,
    how: str,
    options: tuple[str, ...],
    streams: tuple[str, ...],
) -> None:
    def typed(mode: str, *words: str) -> tuple[bytes, int]:
        """Return what the caller's shell would read next, and how wide its terminal is."""
        master, terminal = pty.openpty()
        if how == "rootless":
            os.fchown(terminal, USER, USER)
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
        places: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        places |= dict.fromkeys(streams, terminal)
        drain = threading.Thread(target=_drain, args=(master,), daemon=True)
        drain.start()
        try:
            ended = subprocess.run(
                world.command(mode, world.make_box(mode), *words, options=options),
                start_new_session=True,
                preexec_fn=lambda: fcntl.ioctl(2, termios.TIOCSCTTY, 0),
                env=world.tools.environment,
                timeout=PATIENCE,
                **places,
                **world.user(mode),
            )
            assert ended.returncode in (0, 1), mode
            os.set_blocking(terminal, False)
            try:
                said = os.read(terminal, 1000)
            except BlockingIOError:
                said = b""
            return said, struct.unpack("4H", fcntl.ioctl(terminal, termios.TIOCGWINSZ, bytes(8)))[1]
        finally:
            os.close(terminal)
            drain.join(PATIENCE)
            os.close(master)

    assert b"reboot" in typed("plain", "type", "reboot\n")[0]
    assert typed(how, "type", "reboot\n")[0] == b""
    assert typed("plain", "resize", "33")[1] == 33
    assert typed(how, "resize", "33")[1] == 80


def _drain(master: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(master, 65536):
            pass
