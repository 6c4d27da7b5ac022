"""Life and death in every mode: signals passed on, stops, kill -9, what is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import needs
from tests.enter.entering import (
    JAILBUILD,
    PATIENCE,
    ROOTLESS,
    USER,
    Running,
    copy_in,
    processes,
    public_python,
    wait_until,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the isolated mode needs root")

ISOLATED = pytest.param("isolated", marks=needs.namespaces)


@pytest.fixture(scope="module")
def box() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="jailbuild-life-") as name:
        Path(name).chmod(0o755)
        box = Path(name) / "box"
        copy_in(box, "bash", "sleep")
        (box / "bin").symlink_to("usr/bin")
        for place in ("proc", "dev"):
            (box / place).mkdir()
        yield box


@pytest.fixture(params=[ISOLATED, ROOTLESS, "plain"])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def begin(how: str, box: Path, script: str) -> Running:
    """Run a script of bash in the box, in one of the modes."""
    launcher: tuple[str, ...] = JAILBUILD
    more: dict[str, Any] = {}
    if how == "rootless":
        launcher, environment = public_python(box.parent / "lib")
        more = {"env": environment, "user": USER, "group": USER, "extra_groups": []}
    options = ["--plain"] if how == "plain" else []
    return Running(*launcher, "enter", *options, box, "bash", "-c", script, cwd=box.parent, **more)


@pytest.mark.parametrize("name", ["TERM", "HUP", "USR1", "USR2", "ALRM", "INT", "QUIT", "WINCH", "RTMIN"])
def test_a_signal_sent_to_the_launcher_reaches_the_command(how: str, box: Path, name: str) -> None:
    running = begin(how, box, f"trap 'echo got {name}; exit 3' {name}; echo ready; while :; do sleep 0.05; done")
    for _ in range(int(PATIENCE)):  # bash forgets a SIGINT that comes while its own child just ends
        running.process.send_signal(signal.Signals[f"SIG{name}"])
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.process.wait(1)
            break
    assert running.end() == (3, f"got {name}\n")


@pytest.mark.parametrize(("name", "status"), [("TERM", 143), ("INT", 130), ("HUP", 129)])
def test_a_command_that_a_signal_ends_gives_its_number(how: str, box: Path, name: str, status: int) -> None:
    running = begin(how, box, "echo ready; exec sleep 100")
    running.process.send_signal(signal.Signals[f"SIG{name}"])
    assert running.end()[0] == status


def test_sigkill_inside_is_137(how: str, box: Path) -> None:
    running = begin(how, box, "echo ready; kill -KILL $$")
    assert running.end() == (137, "")


def test_a_command_that_signals_its_own_group_gets_it_once(how: str, box: Path) -> None:
    running = begin(how, box, "trap 'echo got' USR1; echo ready; kill -USR1 0; sleep 0.3; exit 6")
    assert running.end() == (6, "got\n")


@pytest.mark.parametrize("name", ["STOP", "TSTP"])
def test_the_launcher_stops_with_the_command_and_both_go_on(how: str, box: Path, name: str) -> None:
    running = begin(how, box, f"echo ready; kill -{name} $$; echo on; exit 5")

    def is_stopped() -> bool:
        return Path(f"/proc/{running.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    wait_until(is_stopped)
    running.process.send_signal(signal.SIGCONT)
    assert running.end() == (5, "on\n")


@pytest.mark.parametrize("how", [ISOLATED, ROOTLESS])
def test_what_the_command_leaves_behind_is_reaped_and_ends_with_it(how: str, box: Path) -> None:
    script = (  # PID 1, the shell and the long sleep are left when the short one has been reaped
        "(sleep 0.1 & ); (sleep 98765 & ); echo ready; "
        "for ((n = 0; n < 300; n++)); do set -- /proc/[0-9]*; [ $# = 3 ] && exit 4; sleep 0.1; done; exit 5"
    )
    assert begin(how, box, script).end() == (4, "")
    assert processes("98765") == []


@pytest.mark.parametrize("how", [ISOLATED, ROOTLESS])
def test_a_launcher_that_is_killed_leaves_no_process(how: str, box: Path) -> None:
    mark = f"9{os.getpid()}"
    daemon = f"(trap '' HUP; sleep {mark} < /dev/null > /dev/null 2>&1 &)"
    running = begin(how, box, f"trap '' HUP TERM INT; {daemon}; echo ready; sleep {mark}")
    wait_until(lambda: len(processes(mark)) == 2)
    running.process.kill()
    running.process.wait()
    wait_until(lambda: processes(mark) == [])
    assert running.process.stdout
    running.process.stdout.close()


@needs.namespaces
def test_a_launcher_that_is_killed_during_the_set_up_leaves_no_process(box: Path) -> None:
    """Killed at every point of it: before, while and after the box is made."""
    mark = f"8{os.getpid()}"
    for step in range(30):
        process = subprocess.Popen([*JAILBUILD, "enter", box, "sleep", mark], stdin=subprocess.DEVNULL)
        time.sleep(0.03 + step * 0.004)
        process.kill()
        process.wait()
    wait_until(lambda: processes(mark) == [])


@needs.namespaces
def test_pid_1_that_is_killed_ends_all_and_is_told(box: Path) -> None:
    running = begin("isolated", box, "echo ready; exec sleep 100")
    children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children")
    if not children.exists():
        pytest.skip("this kernel does not list children")
    os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
    assert running.end()[0] == 137


def test_a_reader_that_goes_away_ends_the_command(box: Path) -> None:
    process = subprocess.Popen(
        [*JAILBUILD, "enter", box, "bash", "-c", "while echo y; do :; done"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout
    assert process.stdout.read(2) == b"y\n"
    process.stdout.close()
    assert process.wait(PATIENCE) in (1, 141)


@needs.namespaces
def test_two_boxes_from_one_directory_do_not_see_each_other(box: Path) -> None:
    one = begin("isolated", box, "echo ready; exec sleep 100")
    two = subprocess.run(
        # without --isolated a machine that has no such mode would be rid of all its processes
        [*JAILBUILD, "enter", "--isolated", box, "bash", "-c", "echo /proc/[0-9]*; kill -TERM -1; echo $?"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert two.stdout.splitlines()[0] == "/proc/1 /proc/2"
    assert one.process.poll() is None
    one.process.terminate()
    assert one.end()[0] == 143


@needs.namespaces
@needs.tracing
def test_after_the_pivot_nothing_is_looked_up_but_the_command(box: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    ended = subprocess.run(
        [
            "strace",
            "-f",
            "-o",
            log,
            "-e",
            "trace=%file,chroot,pivot_root,execve,openat2",
            *JAILBUILD,
            "enter",
            box,
            "sleep",
            "0",
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"LANG": "de_DE.ISO-8859-1", "LANGUAGE": "de"},
    )
    assert ended.returncode == 0, ended.stderr
    lines = log.read_text().splitlines()
    begin = next(at for at, line in enumerate(lines) if "pivot_root(" in line)
    end = next(at for at, line in enumerate(lines) if 'execve("/usr/bin/sleep"' in line)
    calls = [line.split(maxsplit=1)[1] for line in lines[begin + 1 : end]]
    expected = (
        "umount2(",
        "chroot(",
        "chdir(",
        "stat",
        "newfstatat(",
        'openat2(AT_FDCWD, "/',
        'openat(AT_FDCWD, "/"',
        'execve("/usr/local/',
        'execve("/usr/sbin',
        "getcwd(",
        "fstat",
        "<...",
    )
    assert [call for call in calls if not call.startswith(expected)] == []
    assert not any(".py" in call or ".so" in call or "locale" in call or "passwd" in call for call in calls)
