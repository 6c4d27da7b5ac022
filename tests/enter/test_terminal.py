"""The terminal of a box: a real one outside, another inside, and what passes between them."""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from functools import partial
from pathlib import Path

import pytest

from tests import needs
from tests.enter.entering import JAILBUILD, PATIENCE, SHELL, OnTerminal, copy_in, processes, wait_until

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="the isolated mode needs root"), needs.namespaces]

ENTER = f"{' '.join(JAILBUILD)} enter"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    box = tmp_path_factory.mktemp("made") / "box"
    copy_in(box, "bash", "cat", "ls", "sleep", "stty", "tty", "yes")
    (box / "bin").symlink_to("usr/bin")
    for name in ("proc", "dev", "tmp", "root"):
        (box / name).mkdir()
    return box


@pytest.fixture
def box(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "box", symlinks=True)


def test_an_interactive_shell_has_job_control_and_a_terminal_of_its_own(box: Path, on_terminal: OnTerminal) -> None:
    terminal = on_terminal(*JAILBUILD, "enter", box)
    terminal.type("echo $((41 + 1)) in $PWD; tty\n")
    terminal.expect("42 in /\r")
    terminal.expect("/dev/pts/0\r")
    terminal.type("set -o | cat\n")
    terminal.expect("monitor        \ton")
    terminal.type("exit 7\n")
    assert terminal.end() == 7


def test_ctrl_z_stops_a_script_that_waits_for_the_launcher_too(box: Path, on_terminal: OnTerminal) -> None:
    terminal = on_terminal(*SHELL)
    terminal.type(f"sh -c '{ENTER} {box} cat; echo aft\"\"er'\n")
    terminal.type("hello\n")
    terminal.expect("hello\r\nhello")
    terminal.type("\x1a")
    terminal.expect("Stopped")
    terminal.type("fg\n")
    wait_until(lambda: not terminal.settings()[3] & termios.ISIG)  # it goes on
    terminal.type("again\n")
    terminal.expect("again\r\nagain")
    terminal.type("\x04")
    terminal.expect("after")
    terminal.type("exit 0\n")
    assert terminal.end() == 0


def test_ctrl_z_without_a_shell_to_come_back_to_does_not_hang(box: Path, on_terminal: OnTerminal) -> None:
    terminal = on_terminal(*JAILBUILD, "enter", box, "cat")
    terminal.type("one\n")
    terminal.expect("one\r\none")
    terminal.type("\x1a")
    time.sleep(0.3)
    terminal.type("two\n")
    terminal.expect("two\r\ntwo")
    terminal.type("\x04")
    assert terminal.end() == 0


def test_the_size_is_that_of_the_caller_s_terminal_and_follows_it(box: Path, on_terminal: OnTerminal) -> None:
    terminal = on_terminal(*SHELL)
    fcntl.ioctl(terminal.master, termios.TIOCSWINSZ, struct.pack("4H", 33, 77, 0, 0))
    terminal.type(
        f'{ENTER} {box} bash -c \'stty size; trap "stty size; exit 5" WINCH; echo read""y; '
        "while :; do sleep 0.05; done'; echo status=$?\n"
    )
    terminal.expect("33 77")
    terminal.expect("ready")
    fcntl.ioctl(terminal.master, termios.TIOCSWINSZ, struct.pack("4H", 44, 88, 0, 0))
    terminal.expect("44 88")
    terminal.expect("status=5")
    terminal.type("exit 0\n")
    assert terminal.end() == 0


@pytest.mark.parametrize("last", ["exit 7", "kill -KILL $$", "stty raw -echo; kill -SEGV $$", "\x04"])
def test_the_caller_s_terminal_is_as_it_was_however_it_ends(box: Path, on_terminal: OnTerminal, last: str) -> None:
    script = '"$@"; echo status=$?; read line; echo line=$line'
    terminal = on_terminal("sh", "-c", script, "0", *JAILBUILD, "enter", box)
    before = terminal.settings()
    terminal.type("echo begi''n\n")
    terminal.expect("begin")
    terminal.expect("# ")  # the shell inside is at its prompt: before, its terminal may take the end for a line's
    assert not terminal.settings()[3] & termios.ICANON
    terminal.type(last if last == "\x04" else f"{last}\n")
    terminal.expect("status=")
    assert terminal.settings() == before
    terminal.type("hello\n")
    terminal.expect("line=hello")
    assert terminal.end() == 0


def test_the_caller_s_terminal_is_as_it_was_after_a_sigterm(box: Path, on_terminal: OnTerminal) -> None:
    terminal = on_terminal("sh", "-c", f"echo pid=$$; exec {ENTER} {box} bash -c 'echo read\"\"y; exec sleep 100'")
    before = terminal.settings()
    terminal.expect("ready")
    wait_until(lambda: not terminal.settings()[3] & termios.ICANON)
    os.kill(terminal.process, signal.SIGTERM)
    wait_until(lambda: terminal.settings() == before)
    assert terminal.end() == 143


def test_a_pager_that_has_set_the_terminal_meanwhile_keeps_its_settings(box: Path, on_terminal: OnTerminal) -> None:
    inside = 'echo read""y >&2; read x'
    terminal = on_terminal("sh", "-c", f"{ENTER} {box} bash -c '{inside}' | cat; echo ov\"\"er; read y")
    terminal.expect("ready")
    wait_until(lambda: not terminal.settings()[3] & termios.ICANON)
    own = terminal.settings()
    own[3] |= termios.NOFLSH
    termios.tcsetattr(terminal.master, termios.TCSANOW, own)
    terminal.type("\r")
    terminal.expect("over")
    assert terminal.settings() == own


# As less(1): its settings are those before it when it leaves, and every key is its own.
PAGER = """
import os, sys, termios, tty
first = os.read(0, 100)
terminal = os.open("/dev/tty", os.O_RDWR)
before = termios.tcgetattr(terminal)
tty.setraw(terminal)
os.write(terminal, b"pager:")
keys = b""
while not keys.endswith(b"q"):
    keys += os.read(terminal, 1)
termios.tcsetattr(terminal, termios.TCSADRAIN, before)
print("keys", keys.decode())
"""


@pytest.mark.parametrize("count", [3, 100_000], ids=["that is done before it", "that it leaves undone"])
def test_a_pager_outside_gets_the_keys_and_leaves_the_terminal_as_it_was(
    box: Path,
    on_terminal: OnTerminal,
    count: int,
) -> None:
    script = f"for ((i = 0; i < {count}; i++)); do echo $i; done"
    (box.parent / "pager").write_text(PAGER)
    outer = f"{ENTER} {box} bash -c '{script}' | {sys.executable} {box.parent}/pager; echo over; read -r x; echo got=$x"
    for _ in range(10):
        terminal = on_terminal("bash", "-c", outer)
        before = terminal.settings()
        terminal.expect("pager:")
        if count == 3:  # the launcher has ended, or will have
            wait_until(partial(has_no_child, terminal.process, "jailbuild"))
        terminal.type("jkq")
        terminal.expect("keys jkq")
        terminal.expect("over")
        assert terminal.settings() == before
        terminal.type("word\n")
        terminal.expect("got=word")
        assert terminal.end() == 0


def has_no_child(process: int, word: str) -> bool:
    """Say whether no child that lives has the word on its command line."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return not any(word.encode() in Path(f"/proc/{child}/cmdline").read_bytes() for child in children)


def test_a_command_that_reads_the_terminal_has_the_keys_wherever_its_stdin_comes_from(
    box: Path,
    on_terminal: OnTerminal,
) -> None:
    inside = 'read -r first; echo "ask:" >&2; read -r key < /dev/tty; echo "$first and $key" >&2; exit 5'
    outer = f"echo piped | {ENTER} {box} bash -c '{inside}'; echo status=$?; read -r x; echo got=$x"
    terminal = on_terminal("bash", "-c", outer)
    before = terminal.settings()
    terminal.expect("ask:\r\n")
    terminal.type("secret\r")
    terminal.expect("piped and secret\r\n")
    terminal.expect("status=5\r\n")
    assert terminal.settings() == before
    terminal.type("word\n")
    terminal.expect("got=word")
    assert terminal.end() == 0


def test_what_is_asked_for_a_pipe_is_typed_without_being_shown_if_the_command_says_so(
    box: Path,
    on_terminal: OnTerminal,
) -> None:
    inside = "echo before >&2; read -rs -p ask: key; echo after >&2; echo $key"
    terminal = on_terminal("bash", "-c", f"x=$({ENTER} {box} bash -c '{inside}'); echo status=$? x=$x")
    terminal.expect("before\r\nask:")
    terminal.type("secret\r")
    terminal.expect("after\r\nstatus=0 x=secret\r\n")
    assert terminal.shown == "before\r\nask:after\r\nstatus=0 x=secret\r\n"
    assert terminal.end() == 0


def test_a_shell_whose_output_is_piped_has_the_keyboard_and_job_control(box: Path, on_terminal: OnTerminal) -> None:
    terminal = on_terminal("bash", "-c", f"{ENTER} {box} bash | cat; echo status=${{PIPESTATUS[0]}}")
    terminal.type("echo $((41 + 1))\r")
    terminal.expect("42\n")
    mark = f"7{os.getpid()}"
    terminal.type(f"sleep {mark}\r")
    wait_until(lambda: bool(processes(mark)))
    terminal.type("\x03")
    terminal.type("exit 6\r")
    terminal.expect("status=6")
    assert terminal.end() == 0


def test_before_a_command_reads_the_terminal_ctrl_c_and_its_size_reach_it_too(
    box: Path,
    on_terminal: OnTerminal,
) -> None:
    traps = 'trap "echo wide" WINCH; trap "echo caught >&2; exit 4" INT'
    script = f'{traps}; echo read""y; while :; do sleep 0.05; done'
    terminal = on_terminal("bash", "-c", f"{ENTER} {box} bash -c '{script}' | cat; echo status=${{PIPESTATUS[0]}}")
    terminal.expect("ready")
    assert terminal.settings()[3] & termios.ICANON
    fcntl.ioctl(terminal.master, termios.TIOCSWINSZ, struct.pack("4H", 44, 88, 0, 0))
    terminal.expect("wide")
    terminal.type("\x03")
    terminal.expect("caught")  # and not on stdout: what was to read it is interrupted too
    terminal.end()


def test_piped_stdin_and_stdout_stay_byte_exact_beside_a_terminal(box: Path, on_terminal: OnTerminal) -> None:
    content = bytes(range(256)) * 4000
    (box.parent / "in").write_bytes(content)
    terminal = on_terminal(
        "sh",
        "-c",
        f"{ENTER} {box} bash -c 'cat; echo on the screen >&2' < {box.parent}/in > {box.parent}/out; "
        "echo status=$?; read x",
    )
    terminal.expect("on the screen\r\n")
    terminal.expect("status=0")
    assert (box.parent / "out").read_bytes() == content
    terminal.type("\n")
    assert terminal.end() == 0


def test_only_what_was_a_terminal_is_one(box: Path, on_terminal: OnTerminal) -> None:
    look = "for n in 0 1 2; do [ -t $n ] && echo -n $n >&2; done; echo . >&2"
    for redirections, expected in (("", "012."), ("< /dev/null", "12."), ("> /dev/null", "02."), ("| cat", "02.")):
        script = f"{ENTER} {box} bash -c '{look}' {redirections}; sleep 0.1; echo en''d; read x"
        terminal = on_terminal("sh", "-c", script)
        terminal.expect(expected)
        terminal.expect("end")
        terminal.type("\n")
        assert terminal.end() == 0


def test_a_pipeline_into_a_command_on_the_terminal_can_be_interrupted(box: Path, on_terminal: OnTerminal) -> None:
    inside = 'echo read""y; cat > /dev/null'
    terminal = on_terminal("bash", "-c", f"yes | {ENTER} {box} bash -c '{inside}'; echo status=$?")
    terminal.expect("ready")
    terminal.type("\x03")
    terminal.expect("^C")
    terminal.end()


def test_without_a_terminal_there_is_none_inside(box: Path) -> None:
    ended = subprocess.run(
        [*JAILBUILD, "enter", box, "bash", "-c", "tty; : < /dev/tty"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ended.stdout == "not a tty\n"
    assert "No such device or address" in ended.stderr


def test_no_pty_gives_pipes_in_place_of_the_terminal(box: Path, on_terminal: OnTerminal) -> None:
    look = "tty; : < /dev/tty || echo none; read x; echo got=$x; read y || echo end; echo err >&2"
    terminal = on_terminal(*JAILBUILD, "enter", "--no-pty", box, "bash", "-c", look)
    terminal.expect("not a tty\r\n")
    terminal.expect("none\r\n")
    terminal.type("word\n")
    terminal.expect("got=word\r\n")
    terminal.type("\x04")
    terminal.expect("end\r\n")
    terminal.expect("err\r\n")
    assert terminal.end() == 0


def test_plain_refuses_no_pty_on_a_terminal_which_it_would_pass_on(box: Path, on_terminal: OnTerminal) -> None:
    terminal = on_terminal(*JAILBUILD, "enter", "--plain", "--no-pty", box, "tty")
    terminal.expect("cannot use --no-pty on a terminal with --plain")
    assert terminal.end() == 125


def test_a_terminal_that_is_passed_on_purpose_is_passed(box: Path, on_terminal: OnTerminal) -> None:
    script = f"{ENTER} --pass-fd 5 {box} bash -c 'echo through >&5' 5>/dev/tty >/dev/null 2>&1 </dev/null"
    terminal = on_terminal("bash", "-c", script)
    terminal.expect("through")
    assert terminal.end() == 0


def test_pty_gives_a_terminal_where_the_caller_has_none(box: Path) -> None:
    ended = subprocess.run(
        [*JAILBUILD, "enter", "--pty", box, "bash", "-c", "tty; cat; echo err >&2"],
        input=b"line\n",
        capture_output=True,
        timeout=PATIENCE,
    )
    assert ended.returncode == 0
    assert ended.stdout.replace(b"\r\n", b"\n").replace(b"line\nline\n", b"line\n") in (
        b"/dev/pts/0\nline\nerr\n",
        b"line\n/dev/pts/0\nline\nerr\n",
    )
    assert ended.stderr == b""


@pytest.mark.parametrize("typed", [b"", b"line\n", b"line"])
def test_the_end_of_piped_input_is_typed_into_the_terminal(box: Path, typed: bytes) -> None:
    ended = subprocess.run(
        [*JAILBUILD, "enter", "--pty", box, "cat"],
        input=typed,
        capture_output=True,
        timeout=PATIENCE,
    )
    assert ended.returncode == 0
    assert ended.stdout.count(b"line") == (2 if typed else 0)  # the terminal's echo, and cat's


def test_much_output_comes_through_whole(box: Path, on_terminal: OnTerminal) -> None:
    script = "stty -opost; for ((i = 0; i < 100000; i++)); do echo $i; done"
    terminal = on_terminal(*JAILBUILD, "enter", box, "bash", "-c", script)
    said = b""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and select.select([terminal.master], [], [], PATIENCE)[0]:
        try:
            said += os.read(terminal.master, 65536)
        except OSError:
            break
    assert said == b"".join(b"%d\n" % number for number in range(100000))
    assert terminal.end() == 0


def test_in_the_background_the_keys_are_left_to_the_shell(box: Path, on_terminal: OnTerminal) -> None:
    terminal = on_terminal(*SHELL)
    terminal.type(f"{ENTER} {box} bash -c 'sleep 1; exit 2' & echo mi''ne; wait $!; echo status=$?\n")
    terminal.expect("mine")
    assert terminal.settings()[3] & termios.ISIG
    terminal.expect("status=2")
    assert terminal.foreground() == terminal.process
    terminal.type("exit 0\n")
    assert terminal.end() == 0


def test_a_terminal_that_hangs_up_takes_the_box_along(box: Path, on_terminal: OnTerminal) -> None:
    terminal = on_terminal(*JAILBUILD, "enter", box, "bash", "-c", "echo ready; sleep 4321")
    terminal.expect("ready")
    process = terminal.process
    os.close(terminal.master)
    terminal.master = os.open(os.devnull, os.O_RDONLY)
    _, status = os.waitpid(process, 0)
    terminal.process = 0
    assert os.waitstatus_to_exitcode(status) in (128 + signal.SIGHUP, -signal.SIGHUP)


def test_a_box_without_dev_has_a_terminal_all_the_same(box: Path, on_terminal: OnTerminal) -> None:
    (box / "dev").rmdir()
    terminal = on_terminal(*JAILBUILD, "enter", box)
    terminal.type("[ -t 0 ] && echo y''es; exit 6\n")
    terminal.expect("yes")
    assert terminal.end() == 6


def test_a_user_can_open_the_terminal_by_its_name(box: Path, on_terminal: OnTerminal) -> None:
    script = "echo by name > $(tty); echo c > /dev/console"
    terminal = on_terminal(*JAILBUILD, "enter", "--user", "1234", box, "bash", "-c", script)
    terminal.expect("by name")
    terminal.expect("c\r\n")
    assert terminal.end() == 0


def test_the_terminal_stays_one_when_all_have_closed_it(box: Path, on_terminal: OnTerminal) -> None:
    script = "exec < /dev/null > /dev/null 2>&1; sleep 0.5; echo later > /dev/tty"
    terminal = on_terminal(*JAILBUILD, "enter", box, "bash", "-c", script)
    terminal.expect("later")
    assert terminal.end() == 0
