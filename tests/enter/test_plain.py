"""jailbuild enter, plain: real chroots, real signals, real terminals."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import needs
from tests.enter.entering import JAILBUILD, PATIENCE, SHELL, OnTerminal, Running, copy_in

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs root")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    box = tmp_path_factory.mktemp("made") / "box"
    copy_in(box, "bash", "cat", "env", "id", "ls", "sleep")
    (box / "bin").symlink_to("usr/bin")
    return box


@pytest.fixture
def box(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "box", symlinks=True)


def enter(
    *arguments: str | Path,
    stdin: bytes = b"",
    environment: dict[str, str] | None = None,
    prefix: tuple[str, ...] = (),
    before: Callable[[], object] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*prefix, *JAILBUILD, "enter", *arguments],
        input=stdin,
        capture_output=True,
        timeout=PATIENCE,
        env=os.environ | (environment or {}),
        preexec_fn=before,
    )


def plainly(*arguments: str | Path, **more: object) -> tuple[int, str, str]:
    ended = enter("--plain", *arguments, **more)  # type: ignore[arg-type]
    return ended.returncode, ended.stdout.decode(), ended.stderr.decode()


# what is run, and how it is asked for


def test_a_command_sees_the_box_as_its_root(box: Path) -> None:
    assert plainly(box, "ls", "/") == (0, "".join(f"{name}\n" for name in sorted(os.listdir(box))), "")


def test_without_a_command_a_shell_of_the_box_runs(box: Path) -> None:
    assert plainly(box, stdin=b"echo $0 $SHELL $PWD; exit 7", environment={"SHELL": "/bin/evil"}) == (
        7,
        "/bin/bash /bin/bash /\n",
        "",
    )


def test_the_shell_of_the_box_s_own_passwd_is_taken(box: Path) -> None:
    (box / "etc").mkdir()
    (box / "etc/passwd").write_text("root:x:0:0::/:/opt/mine\n")
    (box / "opt").mkdir()
    (box / "opt/mine").write_text("#!/bin/bash\necho mine\n")
    (box / "opt/mine").chmod(0o755)
    assert plainly(box) == (0, "mine\n", "")


def test_a_box_without_a_shell_says_so(box: Path) -> None:
    (box / "usr/bin/bash").unlink()
    status, _, words = plainly(box)
    assert status == 125
    assert f"cannot enter {box}: there is no shell in it" in words
    assert f"hint: jailbuild add bash --into {box}" in words
    assert plainly(box, "ls", "/usr")[0] == 0


def test_options_after_the_box_are_the_command_s(box: Path) -> None:
    assert plainly(box, "ls", "-d", "/")[:2] == (0, "/\n")
    assert plainly(box, "env", "--plain")[0] == 125  # env(1): unknown option


def test_one_dash_dash_after_the_box_is_dropped_and_no_more(box: Path) -> None:
    assert plainly(box, "--", "bash", "-c", 'echo "$@"', "0", "--", "-x", "--")[1] == "-- -x --\n"
    assert plainly(box, "--", "--")[0] == 127
    assert plainly(box, "--", stdin=b"exit 5")[0] == 5


def test_everything_after_the_box_belongs_to_the_command_even_help(box: Path) -> None:
    status, said, words = plainly(box, "--help")
    assert (status, said) == (127, "")
    assert "options stand before BOX" in words


@pytest.mark.parametrize("arguments", [("--unknown", "box"), (), ("--plain",)])
def test_wrong_usage_is_125(arguments: tuple[str, ...]) -> None:
    assert enter(*arguments).returncode == 125


def test_a_box_of_another_user_is_warned_of_in_one_line(box: Path) -> None:
    assert plainly(box, "ls", "/usr")[2] == ""
    os.chown(box, 12345, 12345)
    status, said, words = plainly(box, "ls", "/usr")
    assert (status, said) == (0, plainly(box, "ls", "/usr")[1])
    assert "belongs to uid 12345" in words
    assert words.count("\n") == 1


def test_arguments_pass_byte_exact(box: Path) -> None:
    ended = enter("--plain", box, "bash", "-c", 'printf "%s|" "$@"', "0", os.fsdecode(b"\xff\n"), "", " a  b ")
    assert ended.stdout == b"\xff\n|| a  b |"


def test_stdin_and_stdout_pass_byte_exact(box: Path) -> None:
    content = os.urandom(3_000_000)
    assert enter("--plain", box, "cat", stdin=content).stdout == content


def test_a_box_behind_a_link_and_a_relative_path_is_entered(box: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("box")
    ended = subprocess.run(
        [*JAILBUILD, "enter", "--plain", "link", "ls", "-d", "/bin"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stdout) == (0, "/bin\n")


# what the command gets


def test_the_environment_is_that_of_the_design_and_no_more(box: Path) -> None:
    (box / "root").mkdir()
    ended = subprocess.run(
        [*JAILBUILD, "enter", "--plain", box, "env"],
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k == "PYTHONPATH"} | {"SECRET": "1", "TERM": "vt9", "LC_ALL": "C"},
    )
    assert sorted(ended.stdout.splitlines()) == [
        "HOME=/root",
        "LOGNAME=root",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "SHELL=/bin/bash",
        "TERM=vt9",
        "USER=root",
    ]
    assert "LANG=de_DE.UTF-8" in plainly(box, "env", environment={"LANG": "de_DE.UTF-8"})[1].splitlines()


def test_groups_are_those_of_the_box_s_own_files(box: Path) -> None:
    set_host_groups = lambda: os.setgroups([1, 2, 3])  # noqa: E731
    assert plainly(box, "id", "-G", before=set_host_groups)[1] == "0\n"
    (box / "etc").mkdir()
    (box / "etc/passwd").write_text("root:x:0:5::/:/bin/bash\n")
    (box / "etc/group").write_text("a:x:27:root\nb:x:28:other\nc:x:44:other,root\n")
    assert plainly(box, "id", "-G", before=set_host_groups)[1] == "5 27 44\n"
    assert plainly(box, "id", "-u")[1] == "0\n"


def test_descriptors_of_the_caller_stay_outside(box: Path) -> None:
    look = "exec 2>&-; for ((n = 3; n < 100; n++)); do : <&$n && echo $n; done; : <&777"
    ended = subprocess.run(
        [
            "bash",
            "-c",
            'exec 9</ 33</etc 777</; exec "$@"',
            "0",
            *JAILBUILD,
            "enter",
            "--plain",
            box,
            "bash",
            "-c",
            look,
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", "")


@pytest.mark.parametrize("closing", ["0<&-", "1>&-", "0<&- 1>&- 2>&-"])
def test_a_standard_descriptor_that_the_caller_closed_stays_closed(box: Path, closing: str) -> None:
    number = closing[0]
    ended = subprocess.run(
        [
            "bash",
            "-c",
            f'"$@" {closing}',
            "0",
            *JAILBUILD,
            "enter",
            "--plain",
            box,
            "bash",
            "-c",
            f": 5<&{number} || exit 66",
        ],
        timeout=PATIENCE,
    )
    assert ended.returncode == 66


def test_signals_are_as_the_caller_has_them_and_not_as_python_does(box: Path) -> None:
    assert plainly(box, "bash", "-c", "trap")[1] == ""  # bash lists what was ignored when it started
    ignoring = plainly(box, "bash", "-c", "trap", before=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    assert ignoring[1] == "trap -- '' SIGHUP\n"


def test_no_signal_is_blocked(box: Path) -> None:
    def block() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())

    assert plainly(box, "bash", "-c", "kill -TERM $$; exit 1", before=block)[0] == 143


def test_entering_writes_nothing_into_the_box(box: Path) -> None:
    def tree() -> list[tuple[str, int, int, int]]:
        return [
            (path, status.st_mode, status.st_mtime_ns, status.st_ctime_ns)
            for path in [str(box), *sorted(map(str, box.rglob("*")))]
            for status in [os.lstat(path)]
        ]

    before = tree()
    plainly(box, "ls", "/")
    plainly(box, "absent")
    plainly(box, stdin=b"exit")
    assert tree() == before


# how it ends


@pytest.mark.parametrize("status", [0, 1, 7, 125, 126, 127, 255])
def test_the_status_of_the_command_is_ours(box: Path, status: int) -> None:
    assert plainly(box, "bash", "-c", f"exit {status}") == (status, "", "")


@pytest.mark.parametrize("name", ["TERM", "KILL", "SEGV", "PIPE", "INT", "HUP"])
def test_a_signal_gives_128_and_its_number(box: Path, name: str) -> None:
    assert plainly(box, "bash", "-c", f"kill -{name} $$") == (128 + signal.Signals[f"SIG{name}"], "", "")


def test_a_caller_that_ignores_the_end_of_children_gets_the_status(box: Path) -> None:
    ignore = lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # noqa: E731
    assert plainly(box, "bash", "-c", "exit 7", before=ignore)[0] == 7


def test_what_is_absent_is_127_with_the_command_that_adds_it(box: Path) -> None:
    status, said, words = plainly(box, "nosuch")
    assert (status, said) == (127, "")
    assert "nosuch" in words
    assert f"hint: jailbuild add nosuch --into {box}" in words
    assert plainly(box, "/no/such")[0] == 127
    assert plainly(box, "")[0] == 127


def test_a_missing_loader_is_127_and_named(box: Path) -> None:
    loader = re.search(r"\S*/ld-\S*\.so\.\d", subprocess.run(["ldd", "/bin/ls"], capture_output=True, text=True).stdout)
    assert loader
    (box / loader[0].lstrip("/")).unlink()
    for name in ("ls", "/usr/bin/ls"):
        status, _, words = plainly(box, name, "/")
        assert status == 127
        assert loader[0] in words
        assert "jailbuild add" in words


def test_a_missing_interpreter_is_127_and_named(box: Path) -> None:
    (box / "usr/bin/script").write_text("#!/usr/bin/nosuch-interpreter\n")
    (box / "usr/bin/script").chmod(0o755)
    status, _, words = plainly(box, "script")
    assert status == 127
    assert "/usr/bin/nosuch-interpreter" in words


def test_a_missing_library_is_127_and_named(box: Path) -> None:
    for libc in box.rglob("libc.so.6"):
        libc.unlink()
    status, _, words = plainly(box, "ls", "/")
    assert status == 127
    assert "libc.so.6" in re.sub(r"(?m)^ls: .*\n", "", words)  # the first line is the loader's own
    assert "jailbuild add" in words


def test_nothing_is_said_of_a_127_that_nothing_missing_explains(box: Path) -> None:
    assert plainly(box, "bash", "-c", "exit 127") == (127, "", "")


def test_what_cannot_be_executed_is_126(box: Path) -> None:
    (box / "text").write_text("no interpreter named\n")
    (box / "text").chmod(0o755)
    (box / "data").write_bytes(b"")
    (box / "usr/bin/data").write_bytes(b"")
    denied = "Permission denied"
    for path, why in (("/text", ""), ("/data", denied), ("data", denied), ("/usr", denied), ("/data/x", "")):
        status, said, words = plainly(box, path)
        assert (path, status, said) == (path, 126, "")
        assert f"cannot start {path}" in words
        assert f" in {box}: {why}" in words or not why


def test_a_file_that_is_not_executable_does_not_hide_a_later_one(box: Path) -> None:
    (box / "usr/local/bin").mkdir(parents=True)
    (box / "usr/local/bin/ls").write_bytes(b"")
    assert plainly(box, "ls", "-d", "/")[:2] == (0, "/\n")


@pytest.mark.parametrize(("name", "why"), [("file", "Not a directory"), ("absent", "No such file or directory")])
def test_what_is_no_directory_cannot_be_entered(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    status, _, words = plainly(tmp_path / name)
    assert status == 125
    assert f"jailbuild: cannot enter {tmp_path / name}: {why}\nhint: " in words


@pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv becomes another user")
def test_another_user_is_told_what_would_work(box: Path) -> None:
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    reading = ("--inh-caps=+dac_override", "--ambient-caps=+dac_override")  # Python may be in root's home
    status, said, words = plainly(box, "ls", prefix=(*nobody, *reading))
    assert (status, said) == (125, "")
    assert words == f"jailbuild: cannot enter {box}: only root may chroot\nhint: sudo jailbuild enter {box}\n"


@pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv takes the capability away")
def test_a_step_that_fails_is_named(box: Path) -> None:
    status, said, words = plainly(box, "ls", prefix=("setpriv", "--bounding-set=-sys_chroot"))
    assert (status, said) == (125, "")
    assert f"cannot enter {box}: chroot: Operation not permitted" in words


# nothing of the box runs or is read in the launcher


def plant_modules(box: Path, marker: Path) -> None:
    """Put a module that leaves a mark for every one that Python could be looking for."""
    names = [*sys.stdlib_module_names, "click", "elftools", "jailbuild", "sitecustomize", "usercustomize"]
    for directory in ["", *filter(None, sys.path), str(Path(__file__).parents[2])]:
        place = box / directory.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        for name in names:
            (box / str(marker.parent).lstrip("/")).mkdir(parents=True, exist_ok=True)
            (place / f"{name}.py").write_text(f"open({str(marker)!r}, 'w')\n")


def test_a_module_planted_in_the_box_does_not_run(box: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran-out-here"
    plant_modules(box, marker)
    for arguments in (("ls", "/usr"), ("absent",), ("/usr",), ("bash", "-c", "exit 127")):
        plainly(box, *arguments)
        ended = subprocess.run(
            [*JAILBUILD, "enter", "--plain", ".", *arguments],
            cwd=box,
            capture_output=True,
            env={
                "PYTHONSAFEPATH": "1",
                "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            },
        )
        assert ended.returncode in (0, 126, 127)
        assert not marker.exists()
        assert not (box / str(marker).lstrip("/")).exists()


@needs.tracing
@pytest.mark.parametrize("name", ["ls", "absent"])
def test_after_the_chroot_nothing_is_looked_up_but_the_command(box: Path, tmp_path: Path, name: str) -> None:
    log = tmp_path / "log"
    prefix = ("strace", "-f", "-o", str(log), "-e", "trace=%file,%desc,chroot")
    ended = plainly(box, name, prefix=prefix, environment={"LANG": "de_DE.ISO-8859-1", "LANGUAGE": "de"})
    assert "ptrace" not in ended[2].lower()
    calls = re.findall(r"^(\d+) +(\w+)\((.*)$", log.read_text(), re.MULTILINE)
    begin, child = next((i, process) for i, (process, call, _) in enumerate(calls) if call == "chroot")
    after = []
    for process, call, rest in calls[begin + 1 :]:
        if process == child:
            after.append(call)
            if call == "execve" and rest.startswith('"/usr/bin/ls"'):
                break
    assert after[0] == "chdir"
    assert "execve" in after
    assert set(after[1:]) - {"execve", "close", "close_range"} == ({"write"} if name == "absent" else set())


# signals and terminals


def test_a_signal_that_the_caller_ignores_ends_neither(box: Path) -> None:
    script = "trap 'exit 4' USR1; echo ready; while :; do sleep 0.05; done"
    running = Running(
        *JAILBUILD,
        "enter",
        "--plain",
        box,
        "bash",
        "-c",
        script,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    running.process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    running.process.send_signal(signal.SIGUSR1)
    assert running.end()[0] == 4


def test_ctrl_c_is_the_command_s_to_answer(box: Path, on_terminal: OnTerminal) -> None:
    script = "trap 'echo caught; exit 4' INT; echo ready; while :; do sleep 0.05; done"
    terminal = on_terminal(*JAILBUILD, "enter", "--plain", box, "bash", "-c", script)
    terminal.expect("ready")
    terminal.type("\x03")
    terminal.expect("caught")
    assert terminal.end() == 4


def test_ctrl_c_comes_once(on_terminal: OnTerminal) -> None:
    count = (
        "import signal as s\n"
        "s.pthread_sigmask(s.SIG_BLOCK, [s.SIGINT])\n"
        "print('ready', flush=True)\n"
        "while not (n := s.sigtimedwait([s.SIGINT], 0.1)): pass\n"
        "print('again' if s.sigtimedwait([s.SIGINT], 0.5) else 'once')\n"
    )
    terminal = on_terminal(*JAILBUILD, "enter", "--plain", "/", sys.executable, "-c", count)
    terminal.expect("ready")
    terminal.type("\x03")
    terminal.expect("once")
    assert terminal.end() == 0


@pytest.mark.parametrize(("last", "status"), [("exit 7", 7), ("kill -KILL $$", 137)])
def test_the_terminal_is_given_back(box: Path, on_terminal: OnTerminal, last: str, status: int) -> None:
    script = '"$@"; echo status=$?; read line; echo line=$line'
    terminal = on_terminal("sh", "-c", script, "0", *JAILBUILD, "enter", "--plain", box)
    terminal.type("echo begi''n\n")
    terminal.expect("begin")
    assert terminal.foreground() != terminal.process  # bash has a group of its own
    terminal.type(f"{last}\n")
    terminal.expect(f"status={status}")
    assert terminal.foreground() == terminal.process
    terminal.type("hello\n")
    terminal.expect("line=hello")
    assert terminal.end() == 0


def test_the_terminal_of_a_shell_that_put_us_in_the_background_is_left_alone(
    box: Path,
    on_terminal: OnTerminal,
) -> None:
    terminal = on_terminal(*SHELL)
    terminal.type(f"{' '.join(JAILBUILD)} enter --plain {box} bash -c 'sleep 0.3; exit 2' & wait $!; echo status=$?\n")
    terminal.expect("status=2")
    assert terminal.foreground() == terminal.process
    terminal.type("exit 0\n")
    assert terminal.end() == 0


def test_it_leaves_no_process_and_no_mount(box: Path) -> None:
    plainly(box, "bash", "-c", "exit 0")
    inside = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            inside.append(os.readlink(process / "root"))
        except OSError:
            continue
    assert str(box) not in inside
    assert str(box) not in Path("/proc/self/mounts").read_text()
    assert stat.S_ISDIR(box.stat().st_mode)
