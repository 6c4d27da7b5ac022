"""The command line itself: help, version, usage, completion, interruption, and an output that nobody takes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jailbuild import __version__
from jailbuild.cli import COMMANDS

JAILBUILD = (sys.executable, "-m", "jailbuild")
TOP = Path(__file__).parents[2]
PATIENCE = 30  # seconds


def run(*arguments: str | Path, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*JAILBUILD, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=TOP,
        timeout=PATIENCE,
        env=os.environ | {"COLUMNS": "120"} | (environment or {}),
    )


# help and version


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_lists_every_command(option: str) -> None:
    done = run(option)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: jailbuild ")
    for name, words in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(words)}$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_says_what_it_does(name: str, option: str) -> None:
    done = run(name, option)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: jailbuild {name} ")
    options = re.findall(r"^  (-\S[^\n]*?)(?:  |$)", done.stdout, re.MULTILINE)
    assert any(one.endswith("--help") for one in options)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_explained(name: str) -> None:
    done = run(name, "--help")
    for line in done.stdout.partition("Options:\n")[2].splitlines():
        if line.startswith("  -"):
            assert re.fullmatch(r"  -.*\S  +\S.*", line), line


def test_the_version_is_the_package_s() -> None:
    assert run("--version").stdout == f"jailbuild {__version__}\n"


def test_the_console_script_and_the_module_are_the_same() -> None:
    script = Path(sys.executable).with_name("jailbuild")
    if not script.exists():
        pytest.skip("jailbuild is not installed beside this python")
    for arguments in (["--version"], ["--help"], ["deps", "--help"]):
        done = subprocess.run(
            [script, *arguments],
            capture_output=True,
            text=True,
            check=True,
            cwd=TOP,
            env=os.environ | {"COLUMNS": "120"},
        )
        assert done.stdout == run(*arguments).stdout


# wrong usage


@pytest.mark.parametrize(
    "arguments",
    [
        ("nothing",),
        ("--nothing",),
        ("deps",),
        ("deps", "--nothing", "ls"),
        ("add", "ls"),
        ("add", "--into"),
        ("add", "--into", "/nowhere/box"),
        ("check",),
        ("check", "a", "b"),
        ("list",),
        ("why", "box"),
        ("deps", "--json=1"),
    ],
)
def test_wrong_usage_is_2_and_says_how_it_is_right(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(r"^Error: .", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [("--nothing", "box"), (), ("--plain",)])
def test_wrong_usage_of_enter_is_125(arguments: tuple[str, ...]) -> None:
    done = run("enter", *arguments)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith("Usage: jailbuild enter")


def test_without_a_command_the_help_is_shown_and_the_status_is_2() -> None:
    done = run()
    assert done.returncode == 2
    assert "Usage: jailbuild " in done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [("nothing",), ("deps", "/nowhere"), ("check", "/nowhere"), ("list", "/nowhere")])
def test_words_go_to_stderr_and_data_to_stdout(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode
    assert done.stdout == ""
    assert done.stderr


LONG = "x" * 100_000


@pytest.mark.parametrize(
    "arguments",
    [
        ("deps", LONG),
        ("check", LONG),
        ("list", LONG),
        ("why", LONG, LONG),
        ("add", LONG, "--into", LONG),
        (f"--{LONG}",),
        ("remove", LONG, "--from", LONG),
        ("update", LONG),
        (LONG,),
        ("enter", LONG),
        ("enter", "/", LONG, LONG),
        *(
            ("enter", option, LONG, "/")
            for option in (
                "--user",
                "--env",
                "--workdir",
                "--bind",
                "--tmpfs",
                "--hostname",
                "--net",
                "--cap-keep",
                "--limit",
                "--status-fd",
                "--pass-fd",
                f"--{LONG}",
            )
        ),
    ],
    ids=lambda words: " ".join(word[:12] for word in words),
)
def test_an_error_is_short_whatever_it_is_about(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode in (1, 2, 125, 126, 127)
    assert 0 < max(map(len, done.stderr.splitlines())) < 1200
    assert len(done.stderr.splitlines()) < 8


# completion


def complete(words: str, shell: str = "bash") -> list[str]:
    """Return what the shell is offered for the last of the words."""
    split = words.split(" ")
    done = run(
        environment={
            "_JAILBUILD_COMPLETE": f"{shell}_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(split) - 1),
        }
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_s_completion_script_is_printed(shell: str) -> None:
    done = run(environment={"_JAILBUILD_COMPLETE": f"{shell}_source"})
    assert done.returncode == 0
    assert "_JAILBUILD_COMPLETE" in done.stdout
    assert f"{shell}_complete" in done.stdout


def test_the_completion_script_is_bash() -> None:
    script = run(environment={"_JAILBUILD_COMPLETE": "bash_source"}).stdout
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_a_command_is_completed() -> None:
    assert complete("jailbuild de") == ["deps"]
    assert sorted(complete("jailbuild ")) == sorted(COMMANDS)


def test_an_option_is_completed() -> None:
    assert complete("jailbuild deps --sys") == ["--sysroot"]


@pytest.mark.parametrize("command", ["deps", "add"])
def test_a_program_is_completed_from_the_standard_path(command: str) -> None:
    offered = complete(f"jailbuild {command} bas")
    assert "bash" in offered
    assert all(name.startswith("bas") for name in offered)
    assert complete(f"jailbuild {command} no-such-program-anywhere") == []


# interruption


def test_ctrl_c_gives_130_without_a_traceback(tmp_path: Path) -> None:
    """While a command waits: here for the writer of a FIFO that it was told to write its data to."""
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(tmp_path / "fifo", os.O_WRONLY)
    command = subprocess.Popen(
        [*JAILBUILD, "deps", "--json", *["bash", "ls", "git"] * 200],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        cwd=TOP,
    )
    os.close(writer)
    try:
        deadline = time.monotonic() + PATIENCE
        while _is_running(command.pid) and time.monotonic() < deadline:  # until the pipe is full
            time.sleep(0.01)
        command.send_signal(signal.SIGINT)
        _, words = command.communicate(timeout=PATIENCE)
    finally:
        os.close(reader)
        command.kill()
    assert command.returncode == 130
    assert "Traceback" not in words


@pytest.mark.parametrize(
    "launcher",
    [JAILBUILD, (sys.executable, Path(sys.executable).with_name("jailbuild"))],
    ids=["module", "console script"],
)
@pytest.mark.parametrize("command", ["deps", "enter"])
def test_ctrl_c_while_the_program_is_not_up_yet_gives_130_without_a_word(
    tmp_path: Path,
    launcher: tuple[str | Path, ...],
    command: str,
) -> None:
    """Python imports for some 50 ms; here it is interrupted in the middle of that, by what stands for click."""
    if not Path(launcher[1]).exists() and launcher != JAILBUILD:
        pytest.skip("jailbuild is not installed beside this python")
    (tmp_path / "click.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(30)\n")
    done = subprocess.run(
        [*launcher, command, "ls"],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{TOP}"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_ctrl_c_that_the_caller_ignores_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "elftools.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run(
        [*JAILBUILD, "--version"],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{TOP}"},
    )
    assert done.returncode == 0


def test_a_program_that_imports_jailbuild_keeps_its_ctrl_c() -> None:
    code = "import signal, jailbuild.cli; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=TOP)
    assert done.stdout == "True\n"


def _is_running(pid: int) -> bool:
    """Say whether a process does something; waiting on a pipe is nothing."""
    return "pipe" not in Path(f"/proc/{pid}/wchan").read_text()


# an output that nobody takes


def shell(script: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash, with "$@" for jailbuild; the status is that of its last command."""
    return subprocess.run(
        ["bash", "-c", script, "bash", *JAILBUILD],
        capture_output=True,
        text=True,
        check=False,
        cwd=TOP,
        timeout=PATIENCE,
    )


MANY = " ".join(["bash ls git"] * 200)


@pytest.mark.parametrize("arguments", [f"deps {MANY}", f"deps --json {MANY}", "deps ls", "--help", "--version"])
def test_a_reader_that_goes_away_is_no_traceback(arguments: str) -> None:
    done = shell(f'"$@" {arguments} | head -n 1; echo "${{PIPESTATUS[0]}}" >&2')
    assert len(done.stdout.splitlines()) == 1
    *words, status = done.stderr.splitlines()
    assert words == []
    assert int(status) in (0, 1, 128 + signal.SIGPIPE)


@pytest.mark.parametrize("arguments", ["deps ls", "deps --json ls", "deps nothing-like-this", "check /nowhere"])
@pytest.mark.parametrize("closed", ["2>&-", "<&-", "<&- 2>&-"])
def test_closed_descriptors_are_no_traceback(arguments: str, closed: str) -> None:
    done = shell(f'"$@" {arguments} {closed}')
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert done.returncode == (0 if arguments.endswith(" ls") else 1)


ANSWERS = [
    "--help",
    "--version",
    "deps --help",
    "enter --help",
    "deps ls",
    "deps --json ls",
    "deps --dot ls",
    "check {box}",
    "check --json {box}",
    "list {box}",
    "list --json {box}",
    "why {box} /usr/bin/cat",
    "add --dry-run ls --into {box}",
    "add --as-shell ls --into {box}2",
    "remove --dry-run cat --from {box}",
    "remove --dry-run --json cat --from {box}",
    "enter --isolated --explain {box} cat",
]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Path:
    box = tmp_path_factory.mktemp("answers") / "box"
    subprocess.run([*JAILBUILD, "add", "--quiet", "--bare", "cat", "--into", box], check=True, cwd=TOP)
    return box


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize(
    ("place", "why"),
    [
        (">&-", "write the answer: stdout is closed"),
        (">/dev/full", "go on: the system: No space left on device"),
        ("<&- >&-", "write the answer: stdout is closed"),
        ("1</dev/null", "go on: the system: Bad file descriptor"),
    ],
)
def test_an_answer_that_cannot_be_written_is_an_error_of_one_line(box: Path, answer: str, place: str, why: str) -> None:
    done = shell(f'"$@" {answer.format(box=box)} {place}')
    assert (done.returncode, done.stderr) == (
        125 if answer.startswith("enter") else 1,
        f"jailbuild: cannot {why}\n",
    )


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_with_nothing_to_write_to_only_the_status_is_left(box: Path, closed: str) -> None:
    done = shell(f'"$@" list {box} {closed}')
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_what_has_no_answer_needs_no_stdout(box: Path) -> None:
    done = shell(f'"$@" update {box} >&-')
    assert done.returncode == 0


def test_a_full_disk_is_an_error_and_not_a_traceback() -> None:
    done = shell('"$@" deps --json ls >/dev/full')
    assert done.returncode == 1
    assert done.stderr.startswith("jailbuild: cannot ")
    assert len(done.stderr.splitlines()) == 1
