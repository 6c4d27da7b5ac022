"""Keys on a terminal, isolated and plain: who gets what is typed, and whom Ctrl-C and Ctrl-Z concern."""

from __future__ import annotations

import os
import shlex
import termios
from pathlib import Path

import pytest

from tests import needs
from tests.enter.entering import JAILBUILD, SHELL, OnTerminal, copy_in, processes, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs root")


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Path:
    box = tmp_path_factory.mktemp("keys") / "box"
    copy_in(box, "bash", "sleep")
    (box / "bin").symlink_to("usr/bin")
    for name in ("proc", "dev"):
        (box / name).mkdir()
    return box


@pytest.fixture(params=[pytest.param("isolated", marks=needs.namespaces), "plain"])
def enter(request: pytest.FixtureRequest, box: Path) -> list[str]:
    """Return the words that enter the box."""
    return [*JAILBUILD, "enter", *(["--plain"] if request.param == "plain" else []), str(box)]


def test_an_interactive_shell_has_job_control_and_its_exit_is_ours(enter: list[str], on_terminal: OnTerminal) -> None:
    terminal = on_terminal(*enter)
    terminal.type("echo $((41 + 1)) in $PWD\n")
    terminal.expect("42 in /\r")
    terminal.type("set -o | while read -r name state; do [ $name = monitor ] && echo $name is $state; done\n")
    terminal.expect("monitor is on\r")
    terminal.type("exit 7\n")
    assert terminal.end() == 7


def test_ctrl_c_ends_what_runs_inside_and_not_the_shell(enter: list[str], on_terminal: OnTerminal) -> None:
    mark = f"6{os.getpid()}"
    terminal = on_terminal(*enter)
    terminal.type(f"sleep {mark}\n")
    wait_until(lambda: bool(processes(mark)))
    terminal.type("\x03")
    terminal.type("echo aliv''e $?\n")
    terminal.expect("alive 130")
    terminal.type("exit 8\n")
    assert terminal.end() == 8


def test_ctrl_c_ends_a_command_that_does_not_answer_it(enter: list[str], on_terminal: OnTerminal) -> None:
    terminal = on_terminal(*enter, "bash", "-c", "echo ready; exec sleep 100")
    terminal.expect("ready")
    terminal.type("\x03")
    assert terminal.end() == 130


def test_ctrl_z_stops_a_job_of_the_shell_inside(enter: list[str], on_terminal: OnTerminal) -> None:
    mark = f"5{os.getpid()}"
    terminal = on_terminal(*enter)
    terminal.type(f"sleep {mark}\n")
    wait_until(lambda: bool(processes(mark)))
    terminal.type("\x1a")
    terminal.expect("Stopped")
    terminal.type("jobs; kill %1; exit 4; exit 4\n")
    terminal.expect("Stopped")
    assert terminal.end() == 4


def test_ctrl_z_stops_a_command_and_the_launcher_for_the_shell_that_called_it(
    enter: list[str],
    on_terminal: OnTerminal,
) -> None:
    terminal = on_terminal(*SHELL)
    shell = terminal.process
    terminal.type(shlex.join([*enter, "bash", "-c", 'echo read""y; read x; echo got=$x; exit 9']) + "\n")
    terminal.expect("ready")
    terminal.type("\x1a")
    terminal.expect("Stopped")
    assert terminal.settings()[3] & termios.ISIG  # the outer shell's terminal is as it was
    wait_until(lambda: terminal.foreground() == shell)
    terminal.type("fg; echo status=$?\n")
    wait_until(lambda: terminal.foreground() != shell)
    terminal.type("word\n")
    terminal.expect("got=word")
    terminal.expect("status=9")
    terminal.type("exit 0\n")
    assert terminal.end() == 0


def test_a_shell_inside_can_suspend_itself_and_come_back(enter: list[str], on_terminal: OnTerminal) -> None:
    terminal = on_terminal(*SHELL)
    terminal.type(shlex.join(enter) + "\n")
    terminal.type("echo begi''n\n")
    terminal.expect("begin")
    terminal.type("suspend\n")
    terminal.expect("Stopped")
    terminal.type("echo outsid''e\n")
    terminal.expect("outside")
    terminal.type("fg; echo status=$?\n")
    terminal.type("echo insid''e\n")
    terminal.expect("inside")
    terminal.type("exit 3\n")
    terminal.expect("status=3")
    terminal.type("exit 0\n")
    assert terminal.end() == 0
