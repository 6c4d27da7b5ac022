"""jailbuild enter where root has not got CAP_SYS_ADMIN: docker's default, by setpriv(1), and what is not like it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from jailbuild.enter import emulation
from tests import needs
from tests.container import limited
from tests.enter.entering import JAILBUILD, PATIENCE, USER, OnTerminal, copy_in, public_python

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs root"),
    pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv takes the capabilities away"),
]

SAID = "jailbuild: not isolated: root of this container lacks CAP_SYS_ADMIN; the container is the only boundary\n"


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Path:
    box = tmp_path_factory.mktemp("made") / "box"
    copy_in(box, "bash", "cat", "id", "ls", "sleep")
    for name in ("bin", "proc", "dev", "tmp", "etc"):
        (box / name).mkdir()
    (box / "bin/sh").symlink_to("../usr/bin/bash")
    (box / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nann:x:1000:1001::/:/bin/sh\n")
    return box


def enter(
    *words: str | Path,
    by: tuple[str, ...] = limited(),
    stdin: bytes = b"",
    **more: Any,
) -> tuple[int, str, str]:
    ended = subprocess.run(
        [*by, *JAILBUILD, "enter", *words], input=stdin, capture_output=True, timeout=PATIENCE, **more
    )
    return ended.returncode, ended.stdout.decode(), ended.stderr.decode()


# what enters plainly, and says so


def test_a_command_is_run_as_chroot_would_and_that_is_said_each_time(box: Path) -> None:
    listed = "".join(f"{name}\n" for name in sorted(os.listdir(box)))
    for _ in range(2):
        assert enter(box, "ls", "/") == (0, listed, SAID)
    assert enter(box, stdin=b"echo $0; exit 7") == (7, "/bin/sh\n", SAID)


@pytest.mark.parametrize(
    "options",
    [
        ("--net", "host"),
        ("--no-pty",),
        ("--seccomp", "none"),
        ("--limit", "nofile=64"),
        ("--workdir", "/etc"),
        ("--user", "ann"),
        ("--env", "A=b"),
        ("--keep-env",),
    ],
)
def test_what_a_chroot_can_honour_is_as_with_plain(box: Path, options: tuple[str, ...]) -> None:
    script = "id -u; id -g; pwd; ulimit -n; echo $A"
    status, said, words = enter("--plain", *options, box, "bash", "-c", script)
    assert (status, words) == (0, "")
    assert enter(*options, box, "bash", "-c", script) == (0, said, SAID)


def test_descriptors_are_as_with_plain(box: Path, tmp_path: Path) -> None:
    """Status lines, and one that is passed on."""
    with open(tmp_path / "status", "w+b") as status, open(tmp_path / "passed", "w+b") as passed:
        numbers = status.fileno(), passed.fileno()
        options = "--status-fd", str(numbers[0]), "--pass-fd", str(numbers[1])
        assert enter(*options, box, "bash", "-c", f"echo in >&{numbers[1]}; exit 3", pass_fds=numbers)[0] == 3
    assert (tmp_path / "passed").read_bytes() == b"in\n"
    assert (tmp_path / "status").read_text().splitlines()[1] == '{"kind": "ended", "status": 3}'


def test_the_end_is_as_with_plain(box: Path) -> None:
    assert enter(box, "bash", "-c", "kill -TERM $$") == (128 + signal.SIGTERM, "", SAID)
    status, _, words = enter(box, "absent")
    assert (status, words.startswith(SAID)) == (127, True)
    assert f"jailbuild add absent --into {box}" in words
    assert enter(box, "/etc/passwd")[0] == 126


def test_a_program_of_another_machine_needs_what_the_host_has_registered(box: Path) -> None:
    """No root of a container can register an emulator."""
    kind = 32, True, 243  # riscv32, which no package of Debian's registers
    (box / "foreign").write_bytes(emulation.magic(kind).ljust(256, b"\0"))
    (box / "foreign").chmod(0o755)
    if emulation.registered(kind):
        pytest.skip("the host runs programs of riscv32")
    status, _, words = enter(box, "/foreign")
    first, *rest = words.splitlines(keepends=True)
    assert (status, first) == (126, SAID)
    assert "it is for riscv32" in rest[0]
    assert rest[1:] == ["hint: on the host of this container: apt install qemu-user-static binfmt-support\n"]


def test_a_terminal_is_the_caller_s_own_and_needs_no_other(box: Path, on_terminal: OnTerminal) -> None:
    script = "test -t 0 && trap 'echo caught; exit 4' INT; echo ready; while :; do sleep 0.05; done"
    terminal = on_terminal(*limited(), *JAILBUILD, "enter", box, "bash", "-c", script)
    terminal.expect("not isolated: root of this container lacks CAP_SYS_ADMIN")
    terminal.expect("ready")
    terminal.type("\x03")
    terminal.expect("caught")
    assert terminal.end() == 4


def test_explain_prints_the_steps_of_the_plain_mode(box: Path) -> None:
    options = "--explain", "--limit", "nofile=64", "--workdir", "/etc"
    status, said, words = enter("--plain", *options, box, "ls")
    assert (status, words) == (0, "")
    assert "chroot\n" in said
    assert enter(*options, box, "ls") == (0, said, SAID)


# what does not


def test_isolated_is_refused_and_never_weakened(box: Path) -> None:
    assert enter("--isolated", box, "ls", "/") == (
        125,
        "",
        f"jailbuild: cannot enter {box}: root here lacks CAP_SYS_ADMIN for namespaces and mounts, as in most"
        f" containers\nhint: jailbuild enter --plain {box} works, and is no boundary against root\n",
    )


def test_isolated_and_plain_contradict_each_other(box: Path) -> None:
    for by in (limited(), ()):
        assert enter("--isolated", "--plain", box, "ls", by=by) == (
            125,
            "",
            "jailbuild: cannot use --isolated with --plain\nhint: leave one of them out\n",
        )


@pytest.mark.parametrize(
    "options",
    [
        ("--bind", "/etc"),
        ("--tmpfs", "/tmp"),
        ("--read-only",),
        ("--hostname", "x"),
        ("--net", "none"),
        ("--cap-keep", "NET_RAW"),
        ("--cap-keep", "SYS_TIME"),
        ("--pty",),
        ("--seccomp", "default"),
    ],
)
def test_what_a_chroot_cannot_honour_is_refused(box: Path, options: tuple[str, ...]) -> None:
    status, said, words = enter(*options, box, "ls", "/")
    assert (status, said) == (125, "")
    assert f"cannot enter {box}" in words
    assert "not isolated" not in words


def test_no_terminal_for_the_command_is_refused_where_it_would_have_the_caller_s(
    box: Path,
    on_terminal: OnTerminal,
) -> None:
    terminal = on_terminal(*limited(), *JAILBUILD, "enter", "--no-pty", box, "ls")
    terminal.expect("root here lacks CAP_SYS_ADMIN")
    assert terminal.end() == 125
    assert "not isolated" not in terminal.shown


def test_without_the_capability_for_chroot_too_nothing_is_left(box: Path) -> None:
    status, said, words = enter(box, "ls", by=limited("sys_chroot"))
    assert (status, said) == (125, "")
    assert words == (
        f"jailbuild: cannot enter {box}: root here lacks CAP_SYS_ADMIN for namespaces and mounts, as in most"
        " containers, and CAP_SYS_CHROOT for the plain mode\nhint: enter from outside the container\n"
    )


@needs.capability("SYS_ADMIN")
def test_root_who_could_have_the_capability_is_no_root_of_a_container(box: Path) -> None:
    """The bounding set has it, and the process has not: what took it away is no container."""
    drop = (
        "import ctypes, os, sys; c = ctypes.CDLL(None); "
        "h = (ctypes.c_uint32 * 2)(0x20080522); d = (ctypes.c_uint32 * 6)(); c.capget(h, d); "
        "d[0] &= ~(1 << 21); d[1] &= ~(1 << 21); assert not c.capset(h, d); "
        "sys.argv[:1] = ['jailbuild', 'enter']; from jailbuild.cli import main; main()"
    )
    ended = subprocess.run([JAILBUILD[0], "-c", drop, box, "ls"], capture_output=True, text=True, timeout=PATIENCE)
    status, said, words = ended.returncode, ended.stdout, ended.stderr
    assert (status, said) == (125, "")
    assert "root here lacks CAP_SYS_ADMIN" in words
    assert "not isolated" not in words


@needs.namespaces
def test_root_who_has_the_capability_by_inheritance_is_isolated(box: Path) -> None:
    """It comes through an execve past the bounding set, capabilities(7)."""
    by = "setpriv", "--inh-caps=+sys_admin", "setpriv", "--bounding-set=-sys_admin"
    assert enter(box, "bash", "-c", "echo $$", by=by) == (0, "2\n", "")


def test_an_ordinary_user_is_never_entered_plainly(box: Path) -> None:
    """Their mode is rootless or refused, as it is without a bounding set: user namespaces have one of their own."""
    with tempfile.TemporaryDirectory(prefix="jailbuild-enter-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        theirs = shutil.copytree(box, directory / "box", symlinks=True)
        for path in (theirs, *theirs.rglob("*")):
            os.chown(path, USER, USER, follow_symlinks=False)
        launcher, environment = public_python(directory / "lib")
        as_user = (f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *launcher, "enter")
        ended = [
            subprocess.run(
                [*by, *as_user, *words],
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                env=environment,
                cwd=directory,
            )
            for words in ((theirs, "id", "-u"), ("--isolated", theirs, "id", "-u"))
            for by in (("setpriv",), limited())
        ]
    assert {(one.returncode, one.stdout, one.stderr) for one in ended} == {
        (ended[0].returncode, ended[0].stdout, ended[0].stderr),
    }
    assert (ended[0].returncode, ended[0].stdout) == ((0, "0\n") if needs.has_user_namespaces() else (125, ""))
    assert "not isolated" not in ended[0].stderr
