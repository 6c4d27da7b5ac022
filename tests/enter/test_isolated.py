"""The isolated mode as root, and the same rootless as an ordinary user: what the command gets, options, refusals."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import needs
from tests.enter.entering import JAILBUILD, PATIENCE, ROOTLESS, USER, copy_in, public_python

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="the isolated mode needs root"), needs.namespaces]

SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Said(NamedTuple):
    """How a run ended: status, stdout, stderr."""

    status: int
    out: str
    words: str


class Mode:
    """A way to enter: as root, or rootless."""

    def __init__(self, name: str, box: Path, launcher: tuple[str, ...], environment: dict[str, str]) -> None:
        self.name = name
        self.box = box
        self.launcher = launcher
        self.environment = environment
        self.is_rootless = name == "rootless"
        self.user: dict[str, Any] = {"user": USER, "group": USER, "extra_groups": []} if self.is_rootless else {}

    def popen(self, *words: str | Path, **more: Any) -> subprocess.Popen[bytes]:
        arguments: dict[str, Any] = {"env": self.environment, "cwd": self.box.parent, **self.user, **more}
        return subprocess.Popen([*self.launcher, "enter", *map(str, words)], **arguments)

    def enter(self, *words: str | Path, stdin: bytes = b"", **more: Any) -> subprocess.CompletedProcess[bytes]:
        """Run `jailbuild enter` with these words."""
        environment = self.environment | more.pop("environment", {})
        arguments: dict[str, Any] = {"env": environment, "cwd": self.box.parent, **self.user, **more}
        return subprocess.run(
            [*self.launcher, "enter", *map(str, words)],
            input=stdin,
            capture_output=True,
            timeout=PATIENCE,
            **arguments,
        )

    def run(self, *words: str | Path, options: tuple[str | Path, ...] = (), **more: Any) -> Said:
        """Run a command in the box."""
        ended = self.enter(*options, self.box, *words, **more)
        return Said(ended.returncode, ended.stdout.decode(), ended.stderr.decode())

    def bash(self, script: str, *options: str | Path, **more: Any) -> Said:
        return self.run("bash", "-c", script, options=options, **more)

    def give(self) -> None:
        """Let everything in the box belong to whom it is entered by."""
        if self.is_rootless:
            for path in (self.box, *self.box.rglob("*")):
                os.chown(path, USER, USER, follow_symlinks=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    box = tmp_path_factory.mktemp("made") / "box"
    copy_in(box, "bash", "cat", "env", "id", "ls", "ps", "rm", "sleep", "stat", "stty", "touch", "tty")
    (box / "bin").symlink_to("usr/bin")
    for name in ("proc", "dev", "sys", "run", "tmp", "etc", "root", ".jailbuild"):
        (box / name).mkdir()
    (box / "tmp").chmod(0o1777)
    (box / ".jailbuild").chmod(0o700)
    (box / ".jailbuild/manifest.jsonl").write_text("{}\n")
    (box / "etc/passwd").write_text("root:x:0:0::/root:/bin/bash\nann:x:1000:1001:Ann:/home/ann:/bin/bash\n")
    (box / "etc/group").write_text("root:x:0:\ntty:x:5:\nann:x:1001:\nclub:x:2000:bob,ann\n")
    return box


@pytest.fixture(params=["isolated", ROOTLESS])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def mode(how: str, made: Path) -> Iterator[Mode]:
    """Yield a way to enter a box of its own, in a directory that other users can reach: pytest's are root's alone."""
    with tempfile.TemporaryDirectory(prefix="jailbuild-enter-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        box = shutil.copytree(made, directory / "box", symlinks=True)
        if how == "isolated":
            yield Mode(how, box, JAILBUILD, dict(os.environ))
        else:
            launcher, environment = public_python(directory / "lib")
            rootless = Mode(how, box, launcher, environment)
            rootless.give()
            yield rootless


@pytest.fixture
def root_mode(made: Path, tmp_path: Path) -> Mode:
    return Mode("isolated", shutil.copytree(made, tmp_path / "box", symlinks=True), JAILBUILD, dict(os.environ))


# what the command gets


def test_a_command_sees_the_box_as_its_root_and_the_caller_as_uid_0(mode: Mode) -> None:
    ran = mode.bash("echo /*; echo $UID; test $$ = 2 && echo two")
    assert ran == (0, "/bin /dev /etc /lib /lib64 /proc /root /run /sys /tmp /usr\n0\ntwo\n", "")


def test_without_a_command_a_shell_of_the_box_runs(mode: Mode) -> None:
    assert mode.run(stdin=b"echo $0 $SHELL $PWD; exit 7", environment={"SHELL": "/evil"}) == (
        7,
        "/bin/bash /bin/bash /\n",
        "",
    )


def test_the_environment_is_that_of_the_design_and_no_more(mode: Mode) -> None:
    keep = {name: value for name, value in mode.environment.items() if name.startswith("PYTHON") or name == "PATH"}
    ended = mode.enter(mode.box, "env", env=keep | {"SECRET": "1", "TERM": "vt9", "LANG": "C", "LC_ALL": "C"})
    assert sorted(ended.stdout.decode().splitlines()) == [
        "HOME=/root",
        "LANG=C",
        "LOGNAME=root",
        f"PATH={SEARCH}",
        "SHELL=/bin/bash",
        "TERM=vt9",
        "USER=root",
    ]


def test_variables_are_set_and_kept_as_asked(mode: Mode) -> None:
    ran = mode.run("env", options=("--env", "A=b=c", "--env", "HOME=/x", "--env", "EMPTY="))
    assert ran.status == 0, ran
    assert {"A=b=c", "HOME=/x", "EMPTY=", "USER=root"} <= set(ran.out.splitlines())
    ran = mode.run("env", options=("--keep-env",), environment={"MINE": "1", "HOME": "/host", "USER": "me"})
    assert {"MINE=1", "HOME=/root", "USER=root"} <= set(ran.out.splitlines())


def test_a_path_that_was_given_is_searched(mode: Mode) -> None:
    (mode.box / "opt").mkdir()
    shutil.copy(mode.box / "usr/bin/cat", mode.box / "opt/own")
    mode.give()
    assert mode.run("own", "/etc/passwd", options=("--env", "PATH=/opt")).status == 0
    assert mode.run("own").status == 127


def test_stdin_and_stdout_pass_byte_exact_and_stderr_apart(mode: Mode) -> None:
    content = os.urandom(3_000_000)
    assert mode.enter(mode.box, "cat", stdin=content).stdout == content
    assert mode.bash("echo out; echo err >&2") == (0, "out\n", "err\n")


def test_proc_knows_the_box_s_processes_alone(mode: Mode) -> None:
    ran = mode.bash("echo /proc/[0-9]*; ps -o pid= -e | cat")
    assert ran.out.splitlines()[0] in ("/proc/1 /proc/2", "/proc/1 /proc/2 /proc/3")
    assert ran.status == 0


def test_pid_1_shows_neither_its_program_nor_its_arguments(mode: Mode) -> None:
    ran = mode.bash("cat /proc/1/cmdline; cat /proc/1/environ; ls -l /proc/1/exe /proc/1/cwd /proc/1/root /proc/1/fd")
    assert mode.box.name not in ran.out.replace("\0", "")
    for name in ("environ", "exe", "cwd", "root", "fd"):
        assert any(f"/proc/1/{name}" in line and "ermission denied" in line for line in ran.words.splitlines())
    assert "->" not in ran.out


def test_devices_are_the_harmless_ones_and_they_work(mode: Mode) -> None:
    ran = mode.bash(
        "cd /dev; echo *; echo x > null; read -r -N 0 -u 3 3< zero; echo y > full || echo full=$?; "
        "test -c random -a -c urandom -a -c tty && echo chars; echo z > shm/a && cat shm/a; "
        "echo through | cat stdin; (echo also > stdout) | cat"
    )
    assert ran.out == (
        "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero\nfull=1\nchars\nz\nthrough\nalso\n"
    )


def test_proc_and_dev_where_there_is_no_place_are_left_out_with_a_word(mode: Mode) -> None:
    for name in ("proc", "dev"):
        (mode.box / name).rmdir()
    ran = mode.bash("echo ok")
    assert (ran.status, ran.out) == (0, "ok\n")
    assert f"{mode.box} has no /proc: entered without one\n" in ran.words
    assert f"{mode.box} has no /dev: entered without devices\n" in ran.words
    assert sorted(os.listdir(mode.box)) == sorted(
        [".jailbuild", "bin", "etc", "lib", "lib64", "root", "run", "sys", "tmp", "usr"]
    )


def test_what_the_caller_has_open_stays_outside_unless_passed(mode: Mode) -> None:
    look = "exec 2>&-; for ((n = 3; n < 100; n++)); do : <&$n && echo $n; done; true"
    with open(os.devnull) as first, open(mode.box / "etc/passwd") as second:
        opened = (first.fileno(), second.fileno())
        assert mode.bash(look, pass_fds=opened).out == ""
        ran = mode.bash(f"read -r line <&{opened[1]}; echo $line; {look}", "--pass-fd", str(opened[1]), pass_fds=opened)
    assert ran.out == f"root:x:0:0::/root:/bin/bash\n{opened[1]}\n"


def test_a_device_of_the_caller_s_is_the_box_s_own_and_works_as_before(mode: Mode) -> None:
    look = "read -r -N 0 x && echo read; ls -l /proc/self/fd; echo y >&2 || exit 5"
    with open("/dev/zero") as zero, open("/dev/full", "w") as full, open("/dev/null", "a") as null:
        running = mode.popen(
            "--pass-fd",
            str(null.fileno()),
            mode.box,
            "bash",
            "-c",
            look,
            stdin=zero,
            stdout=subprocess.PIPE,
            stderr=full,
            pass_fds=(null.fileno(),),
        )
        said, _ = running.communicate(timeout=PATIENCE)
    assert running.returncode == 5
    lines = said.decode().splitlines()
    assert lines[0] == "read"
    assert sorted(line.partition(" -> ")[2] for line in lines if "/dev/" in line) == [
        "/dev/full",
        "/dev/null",
        "/dev/zero",
    ]


@pytest.mark.parametrize(
    ("redirected", "out"),
    [
        ("$enter cat < in > out", "one\ntwo\n"),
        ("$enter cat < in >> out", "before\none\ntwo\n"),
        ("cat in | $enter cat | cat > out", "one\ntwo\n"),
        ("$enter cat > out <<< word", "word\n"),
        ("{ read -r x; $enter cat; } < in > out", "two\n"),
        ("{ $enter bash -c 'read -r x'; cat; } < in > out", "two\n"),
        ("$enter bash -c 'cat; echo also >&2' < in > out 2>&1", "one\ntwo\nalso\n"),
        ("$enter cat in 1<> out < in", "before\n"),
        ("$enter ls /absent > out 2> /dev/null", ""),
    ],
)
def test_redirections_are_as_with_any_program(mode: Mode, redirected: str, out: str) -> None:
    directory = mode.box.parent
    (directory / "in").write_text("one\ntwo\n")
    (directory / "out").write_text("before\n")
    for name in ("in", "out"):
        (directory / name).chmod(0o666)
    script = f"enter='{' '.join(mode.launcher)} enter {mode.box}'; {redirected}"
    subprocess.run(
        ["bash", "-c", script],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=PATIENCE,
        env=mode.environment,
        **mode.user,
    )
    assert (directory / "out").read_text() == out


def test_a_directory_is_not_passed(mode: Mode) -> None:
    directory = os.open("/", os.O_RDONLY)
    try:
        ran = mode.bash("true", "--pass-fd", str(directory), pass_fds=(directory,))
    finally:
        os.close(directory)
    assert ran.status == 125
    assert f"descriptor {directory} is a directory" in ran.words


@pytest.mark.parametrize("closing", ["0<&-", "1>&-", "0<&- 1>&- 2>&-"])
def test_a_standard_descriptor_that_the_caller_closed_stays_closed(mode: Mode, closing: str) -> None:
    ended = subprocess.run(
        [
            "bash",
            "-c",
            f'"$@" {closing}',
            "0",
            *mode.launcher,
            "enter",
            mode.box,
            "bash",
            "-c",
            f": 5<&{closing[0]} || exit 66",
        ],
        timeout=PATIENCE,
        env=mode.environment,
        **mode.user,
    )
    assert ended.returncode == 66


def test_signals_are_as_the_caller_has_them_and_none_is_blocked(mode: Mode) -> None:
    assert mode.bash("trap").out == ""
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731
    assert mode.bash("trap", preexec_fn=ignore).out == "trap -- '' SIGHUP\n"
    block = lambda: signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # noqa: E731
    assert mode.bash("kill -TERM $$; exit 1", preexec_fn=block).status == 143


def test_files_are_made_with_the_usual_mode_whatever_the_caller_s_umask(mode: Mode) -> None:
    ran = mode.bash("umask; touch /tmp/a; stat -c %a /tmp/a", preexec_fn=lambda: os.umask(0o077))
    assert ran.out == "0022\n644\n"


def test_what_is_mounted_below_the_box_is_not_root_s_to_see_and_said(root_mode: Mode) -> None:
    script = 'mount -t tmpfs x "$0/run" && mkdir "$0/run/below" && exec "$@"'
    ended = subprocess.run(
        [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "--",
            "sh",
            "-c",
            script,
            root_mode.box,
            *root_mode.launcher,
            "enter",
            root_mode.box,
            "ls",
            "/run",
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (ended.returncode, ended.stdout) == (0, "")
    assert f"not seen inside is what is mounted on {root_mode.box}/run (--bind brings it)\n" in ended.stderr


def test_the_host_s_own_root_can_be_entered(root_mode: Mode) -> None:
    ended = root_mode.enter("/", "sh", "-c", "echo $$; ls /proc/1/root 2>&1 >/dev/null | wc -l; ls /dev | wc -l")
    assert (ended.returncode, ended.stdout.decode().split()) == (0, ["2", "1", "13"])


@pytest.mark.skipif(not shutil.which("nsenter"), reason="nsenter(1) is not here")
def test_from_within_a_chroot_the_box_is_the_root_of_its_namespace_too(root_mode: Mode, tmp_path: Path) -> None:
    copy_in(root_mode.box, "nsenter")
    (tmp_path / "root").mkdir()
    script = 'mount --rbind / "$0" && mkdir "$0$1/x" && chroot "$0" "${@:2}"'
    ended = subprocess.run(
        [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "--",
            "bash",
            "-c",
            script,
            tmp_path / "root",
            root_mode.box,
            *root_mode.launcher,
            "enter",
            "--cap-keep",
            "SYS_ADMIN",
            "--cap-keep",
            "SYS_CHROOT",
            "--seccomp",
            "none",
            root_mode.box,
            "nsenter",
            "--mount=/proc/self/ns/mnt",
            "bash",
            "-c",
            "echo /*",
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd="/",
    )
    assert (ended.returncode, ended.stdout) == (
        0,
        "/bin /dev /etc /lib /lib64 /proc /root /run /sys /tmp /usr /x\n",
    ), ended


def test_a_relative_path_and_a_link_to_the_box_are_entered(mode: Mode) -> None:
    (mode.box.parent / "link").symlink_to("box")
    assert mode.enter("link", "ls", "-d", "/bin").stdout == b"/bin\n"


# identity and rights


def status_of(ran: Said) -> dict[str, str]:
    """Return the fields of /proc/self/status."""
    return {line.partition(":")[0]: line.partition(":")[2].strip() for line in ran.out.splitlines()}


def test_rights_are_those_of_the_design(mode: Mode) -> None:
    fields = status_of(mode.run("cat", "/proc/self/status"))
    assert {name: fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {
        "CapInh": "0" * 16,
        "CapPrm": "00000000000004eb",
        "CapEff": "00000000000004eb",
        "CapBnd": "00000000000004eb",
        "CapAmb": "0" * 16,
    }
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    assert (fields["Uid"].split(), fields["Gid"].split()) == (["0"] * 4, ["0"] * 4)


def test_a_capability_that_is_kept_is_there(mode: Mode) -> None:
    options = ("--cap-keep", "cap_net_raw", "--cap-keep", "MKNOD")
    fields = status_of(mode.run("cat", "/proc/self/status", options=options))
    assert int(fields["CapEff"], 16) == 0x4EB | 1 << 13 | 1 << 27
    assert int(fields["CapBnd"], 16) == 0x4EB | 1 << 13 | 1 << 27


def test_a_user_of_the_box_s_own_passwd_gets_what_the_files_say(root_mode: Mode) -> None:
    ran = root_mode.bash("id -u; id -g; id -G; echo $HOME $USER $LOGNAME $SHELL; touch /x", "--user", "ann")
    assert ran.out == "1000\n1001\n1001 2000\n/home/ann ann ann /bin/bash\n"
    assert "Permission denied" in ran.words
    fields = status_of(root_mode.run("cat", "/proc/self/status", options=("--user", "ann")))
    assert {int(fields[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb")} == {0}


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("1000", "1000 1001 1001 2000 ann /home/ann"),
        ("ann:5", "1000 5 5 2000 ann /home/ann"),
        ("ann:tty", "1000 5 5 2000 ann /home/ann"),
        ("4321", "4321 4321 4321 4321 /"),
        ("4321:7", "4321 7 7 4321 /"),
        ("0:9", "0 9 9 root /root"),
        ("root", "0 0 0 root /root"),
    ],
)
def test_users_are_named_in_every_form(root_mode: Mode, user: str, expected: str) -> None:
    assert root_mode.bash("echo $(id -u) $(id -g) $(id -G) $USER $HOME", "--user", user).out == expected + "\n"


@pytest.mark.parametrize("user", ["bob", "", ":5", "ann:", "ann:nogroup", "-1", "4294967295", "99999999999", "１"])
def test_an_unknown_user_is_refused(mode: Mode, user: str) -> None:
    ran = mode.bash("true", "--user", user)
    assert ran.status == 125
    assert ran.words.startswith(f"jailbuild: cannot be {user} in {mode.box}: ")


def test_many_groups_are_one_short_line(root_mode: Mode) -> None:
    def in_groups(count: int) -> None:
        lines = (f"g{number}:x:{number}:root\n" for number in range(10_000, 10_000 + count))
        (root_mode.box / "etc/group").write_text("".join(lines))

    in_groups(70_000)
    for options in ((), ("--plain",)):
        ran = root_mode.bash("true", *options)
        assert (ran.status, ran.out) == (125, "")
        why = "its /etc/group has root in 70000 groups, and Linux stops at 65536"
        assert ran.words.startswith(f"jailbuild: cannot enter {root_mode.box}: {why}\n")
    in_groups(3000)
    assert root_mode.bash("id -G | { read -ra all; echo ${#all[@]}; }").out == "3001\n"
    assert max(map(len, root_mode.bash("true", "--explain").out.splitlines())) < 1000


def test_a_number_is_no_name_whatever_passwd_says(root_mode: Mode) -> None:
    with open(root_mode.box / "etc/passwd", "a") as file:
        file.write("4321:x:0:0::/root:/bin/bash\n")
    assert root_mode.bash("id -u", "--user", "4321").out == "4321\n"


def test_another_user_keeps_a_capability_where_asked(root_mode: Mode) -> None:
    options = ("--user", "ann", "--cap-keep", "NET_BIND_SERVICE")
    fields = status_of(root_mode.run("cat", "/proc/self/status", options=options))
    assert {int(fields[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb")} == {1 << 10}


@pytest.mark.parametrize("how", [ROOTLESS])
def test_a_rootless_box_has_no_other_user_without_ranges(mode: Mode) -> None:
    ran = mode.bash("true", "--user", "ann")
    assert ran.status == 125
    assert "cannot be uid 1000 gid 1001 without root" in ran.words
    assert "--user root" in ran.words


@pytest.mark.parametrize("how", [ROOTLESS])
@pytest.mark.skipif(not shutil.which("newuidmap"), reason="newuidmap(1) is not here")
def test_with_ranges_a_rootless_box_has_other_users(mode: Mode) -> None:
    etc = mode.box.parent / "etc"
    shutil.copytree("/etc", etc, symlinks=True, ignore=lambda directory, names: names if "ssl" in directory else [])
    for name in ("subuid", "subgid"):
        (etc / name).write_text(f"{USER}:200000:65536\n")
    with open(etc / "passwd", "a") as file:
        file.write(f"somebody:x:{USER}:{USER}::/:/bin/sh\n")
    script = f"mount --bind {etc} /etc && exec setpriv --reuid={USER} --regid={USER} --clear-groups"
    ended = subprocess.run(
        [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "--",
            "sh",
            "-c",
            f'{script} "$@"',
            "0",
            *mode.launcher,
            "enter",
            "--user",
            "ann",
            mode.box,
            "bash",
            "-c",
            "id -u; id -g; id -G; echo x > /tmp/mine",
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=mode.environment,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "1000\n1001\n1001 2000\n", "")
    assert (mode.box / "tmp/mine").stat().st_uid == 200999


@pytest.mark.parametrize("how", [ROOTLESS])
def test_root_of_a_user_namespace_enters_as_the_user_that_it_is(mode: Mode) -> None:
    ended = subprocess.run(
        [
            "unshare",
            "--user",
            "--map-root-user",
            "--",
            *mode.launcher,
            "enter",
            mode.box,
            "bash",
            "-c",
            "id -u; echo x > /tmp/mine",
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=mode.environment,
        **mode.user,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "0\n", "")
    assert (mode.box / "tmp/mine").stat().st_uid == USER


def test_limits_are_set(mode: Mode) -> None:
    ran = mode.bash(
        "ulimit -Sn; ulimit -Hn; ulimit -c; ulimit -f",
        "--limit",
        "nofile=30:40",
        "--limit",
        "core=0",
        "--limit",
        "fsize=1m",
    )
    assert ran.out == "30\n40\n0\n1024\n"


@pytest.mark.parametrize("limit", ["nofile", "nofile=x", "files=3", "nofile=5:4", "nofile=", "=4", "nofile=1:2:3"])
def test_a_limit_that_is_none_is_refused(mode: Mode, limit: str) -> None:
    ran = mode.bash("true", "--limit", limit)
    assert ran.status == 125
    assert f"cannot use --limit {limit}: " in ran.words


def test_few_descriptors_and_little_memory_are_for_the_command_alone(mode: Mode) -> None:
    """The set-up itself needs more: it is done by then."""
    assert mode.bash("ulimit -n; ulimit -v", "--limit", "nofile=4", "--limit", "as=100m").out == "4\n102400\n"
    for limit in ("nofile=3", "nofile=0", "as=1m"):
        ran = mode.bash("true", "--limit", limit)
        assert "jailbuild: cannot enter" not in ran.words, ran
        assert ran.status in (126, 127, 139), ran


@pytest.mark.parametrize("options", [(), ("--plain",)])
def test_a_limit_above_the_hard_one_is_refused_with_what_is_possible(mode: Mode, options: tuple[str, ...]) -> None:
    if mode.is_rootless:
        options = ()
    lowered = ["prlimit", "--nofile=100:200"]
    lowered += [] if mode.is_rootless else ["setpriv", "--bounding-set=-sys_resource"]
    ended = subprocess.run(
        [*lowered, *mode.launcher, "enter", *options, "--limit", "nofile=50:201", mode.box, "true"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=mode.environment,
        **mode.user,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (
        125,
        "",
        f"jailbuild: cannot enter {mode.box}: --limit nofile=50:201: the hard limit is 200 here\n"
        "hint: --limit nofile=200 is the most\n",
    )


def _may_raise_limits() -> bool:
    effective = re.search(r"^CapEff:\t(\w+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    return bool(effective and int(effective[1], 16) >> 24 & 1)  # CAP_SYS_RESOURCE


@pytest.mark.skipif(not _may_raise_limits(), reason="root here lacks CAP_SYS_RESOURCE")
def test_root_raises_a_hard_limit(root_mode: Mode) -> None:
    ended = subprocess.run(
        [
            "prlimit",
            "--nofile=100:200",
            *root_mode.launcher,
            "enter",
            "--limit",
            "nofile=201",
            root_mode.box,
            "bash",
            "-c",
            "ulimit -Hn",
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "201\n", "")


def test_the_working_directory_is_taken_as_the_user(root_mode: Mode) -> None:
    closed = root_mode.box / "closed"
    closed.mkdir(mode=0o700)
    assert root_mode.bash("echo $PWD", "--workdir", "/closed").out == "/closed\n"
    ran = root_mode.bash("echo $PWD", "--workdir", "/closed", "--user", "ann")
    assert (ran.status, ran.out) == (125, "")
    assert "/closed: Permission denied" in ran.words


@pytest.mark.parametrize("directory", ["relative", "/absent", "/etc/passwd", "/proc/self/fd/{}", "/proc/1/cwd", ""])
def test_a_directory_that_cannot_be_the_working_one_is_refused(mode: Mode, directory: str) -> None:
    host = os.open("/", os.O_PATH)
    try:
        ran = mode.bash("pwd", "--workdir", directory.format(host), pass_fds=(host,))
    finally:
        os.close(host)
    assert (ran.status, ran.out) == (125, "")
    assert ran.words.startswith("jailbuild: cannot ")


def test_the_host_name_is_the_box_s_own(mode: Mode) -> None:
    before = os.uname().nodename
    assert mode.bash("echo $HOSTNAME", "--hostname", "cell").out == "cell\n"
    assert os.uname().nodename == before


def test_a_private_network_has_its_loopback_up_and_nothing_else(mode: Mode) -> None:
    ran = mode.bash(
        "while read -r name rest; do echo $name; done < /proc/net/dev; : < /dev/tcp/127.0.0.1/9", "--net", "none"
    )
    assert ran.out.splitlines()[2:] == ["lo:"]
    assert "refused" in ran.words  # and not: Network is unreachable


# mounts


def test_a_directory_of_the_host_is_shown_and_can_be_written_to_unless_ro(mode: Mode) -> None:
    (mode.box.parent / "shared").mkdir()
    (mode.box.parent / "shared").chmod(0o777)
    (mode.box / "mnt").mkdir()
    assert mode.bash("echo hi > /mnt/a; cat /mnt/a", "--bind", f"{mode.box.parent}/shared:/mnt").out == "hi\n"
    assert (mode.box.parent / "shared/a").read_text() == "hi\n"
    ran = mode.bash("cat /mnt/a; echo no > /mnt/a", "--bind", "shared:/mnt:ro")
    assert (ran.status, ran.out) == (1, "hi\n")
    assert "Read-only file system" in ran.words
    assert list((mode.box / "mnt").iterdir()) == []


def test_the_same_path_is_the_default_and_files_can_be_bound(mode: Mode) -> None:
    (mode.box.parent / "file").write_text("of the host\n")
    place = mode.box / str(mode.box.parent / "file").lstrip("/")
    place.parent.mkdir(parents=True)
    place.touch()
    mode.give()
    file = mode.box.parent / "file"
    assert mode.run("cat", file, options=("--bind", f"{file}:ro")).out == "of the host\n"


def test_a_bind_within_a_bind_is_made_in_the_order_given(mode: Mode) -> None:
    (mode.box.parent / "a/inner").mkdir(parents=True)
    (mode.box.parent / "b").mkdir()
    (mode.box.parent / "b/found").touch()
    (mode.box / "mnt").mkdir()
    options = ("--bind", f"{mode.box.parent}/a:/mnt", "--bind", f"{mode.box.parent}/b:/mnt/inner")
    ran = mode.run("ls", "/mnt/inner", options=options)
    assert ran.out == "found\n"


def test_a_target_that_is_absent_is_refused_with_what_makes_it(mode: Mode) -> None:
    ran = mode.bash("true", "--bind", "/usr/share:/no/such")
    assert ran.status == 125
    assert f"{mode.box} has no /no/such" in ran.words
    assert f"hint: mkdir -p {mode.box}/no/such\n" in ran.words
    assert not (mode.box / "no").exists()
    ran = mode.bash("true", "--bind", "/etc/passwd:/no/such")
    assert f"hint: mkdir -p {mode.box}/no && touch {mode.box}/no/such\n" in ran.words
    assert mode.bash("true", "--bind", "/etc/passwd:/tmp").status == 125
    assert mode.bash("true", "--bind", "/nonexistent:/tmp").status == 125
    ran = mode.bash("true", "--bind", "/usr/share:/dev/share")
    assert ran.status == 125
    assert "No such file or directory" in ran.words
    assert "hint" not in ran.words  # /dev is made anew for each command


def test_what_makes_an_absent_directory_is_named_where_it_would(mode: Mode) -> None:
    (mode.box.parent / "shared").mkdir()
    (mode.box / "link").symlink_to("/usr")
    for options, hint in (
        (("--workdir", "/absent"), f"{mode.box}/absent"),
        (("--workdir", "/link/absent"), f"{mode.box}/usr/absent"),
        (("--workdir", "/proc/absent"), None),
        (("--workdir", "/etc/passwd"), None),
        (("--tmpfs", "/absent"), f"{mode.box}/absent"),
        (("--tmpfs", "/run", "--workdir", "/run/absent"), None),
        (("--bind", "shared:/run", "--workdir", "/run/absent"), f"{mode.box.parent}/shared/absent"),
        (("--bind", "shared:/run", "--bind", "/etc:/run/absent"), f"{mode.box.parent}/shared/absent"),
    ):
        ran = mode.bash("true", *options)
        assert (ran.status, ran.words.count("\n")) == (125, 2 if hint else 1), ran
        assert hint is None or ran.words.endswith(f"hint: mkdir -p {hint}\n"), ran


@pytest.mark.parametrize("text", ["", ":", ":/a", "/a:b", "/a:/b:/c", "/usr:/", "/a:/b:rw"])
def test_a_bind_that_is_none_is_refused(mode: Mode, text: str) -> None:
    ran = mode.bash("true", "--bind", text)
    assert ran.status == 125
    assert f"cannot use --bind {text}: " in ran.words


def test_a_tmpfs_hides_a_directory_and_has_its_mode_and_goes_away(mode: Mode) -> None:
    (mode.box / "run/kept").touch()
    mode.give()
    (mode.box / "run").chmod(0o751)
    ran = mode.bash("ls -A /run; stat -c '%a %u' /run; echo x > /run/y; cat /run/y", "--tmpfs", "/run")
    assert ran.out == "751 0\nx\n"
    assert os.listdir(mode.box / "run") == ["kept"]
    fill = "for ((i = 0; i < 70000; i++)); do echo; done > /run/y"
    ran = mode.bash(f"stat -f -c '%b %s' /run; {fill}", "--tmpfs", "/run:64k")
    blocks, size = map(int, ran.out.split())
    assert blocks * size == 65536
    assert "No space left" in ran.words


@pytest.mark.parametrize(
    "options",
    [
        ("--tmpfs", "/run", "--bind", "{shared}:/run/deep/place", "--bind", "{shared}/file:/run/one/file:ro"),
        ("--bind", "{shared}/file:/run/one/file:ro", "--bind", "{shared}:/run/deep/place", "--tmpfs", "/run"),
    ],
)
def test_what_is_shown_below_an_empty_directory_is_not_hidden_by_it(mode: Mode, options: tuple[str, ...]) -> None:
    """Its place is made there, whichever is named first."""
    shared = mode.box.parent / "shared"
    shared.mkdir()
    (shared / "file").write_text("of the host\n")
    (mode.box / "run/kept").touch()
    mode.give()
    ran = mode.bash("cat /run/deep/place/file /run/one/file; ls /run", *(one.format(shared=shared) for one in options))
    assert ran == (0, "of the host\nof the host\ndeep\none\n", "")
    assert os.listdir(mode.box / "run") == ["kept"]


def test_the_inner_of_two_mounts_is_seen_whichever_is_named_first(mode: Mode) -> None:
    (mode.box.parent / "a/inner").mkdir(parents=True)
    (mode.box.parent / "b").mkdir()
    (mode.box.parent / "b/found").touch()
    (mode.box / "mnt").mkdir()
    options = ("--bind", "b:/mnt/inner", "--bind", "a:/mnt")
    assert mode.run("ls", "/mnt/inner", options=options).out == "found\n"
    assert mode.bash("echo /a/*", "--tmpfs", "/mnt/b", "--tmpfs", "/mnt", "--workdir", "/mnt/b").status == 0
    assert list((mode.box / "mnt").iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [
        ("--bind", "/usr/share:/run", "--tmpfs", "/run"),
        ("--tmpfs", "/run", "--tmpfs", "/run/"),
    ],
)
def test_two_mounts_at_one_place_are_refused(mode: Mode, options: tuple[str, ...]) -> None:
    ran = mode.bash("true", *options)
    assert (ran.status, ran.out) == (125, "")
    assert "two mounts are wanted at /run" in ran.words


@pytest.mark.parametrize("text", ["", "run", "/", "/run:x", "/run:0", "/run:5,mode=777", "/run/../.."])
def test_a_tmpfs_that_is_none_is_refused(mode: Mode, text: str) -> None:
    ran = mode.bash("true", "--tmpfs", text)
    assert ran.status == 125
    assert f"cannot use --tmpfs {text}: " in ran.words


def test_a_read_only_box_has_writable_tmpfs_and_binds_alone(mode: Mode) -> None:
    (mode.box.parent / "shared").mkdir()
    (mode.box.parent / "shared").chmod(0o777)
    (mode.box / "mnt").mkdir()
    mode.give()
    ran = mode.bash(
        "echo a > /a; echo b > /tmp/b; echo c > /mnt/c; echo d > /dev/shm/d; rm /etc/passwd",
        "--read-only",
        "--tmpfs",
        "/tmp",
        "--bind",
        f"{mode.box.parent}/shared:/mnt",
    )
    assert ran.words.count("Read-only file system") == 2
    assert ran.words.count("\n") == 2
    assert (mode.box.parent / "shared/c").read_text() == "c\n"


def test_the_record_is_covered(mode: Mode) -> None:
    ran = mode.bash("ls -A /.jailbuild; touch /.jailbuild/x")
    assert ran.out == ""
    assert "Read-only file system" in ran.words
    assert os.listdir(mode.box / ".jailbuild") == ["manifest.jsonl"]


# how it ends


@pytest.mark.parametrize("status", [0, 1, 7, 125, 126, 127, 137, 255])
def test_the_status_of_the_command_is_ours(mode: Mode, status: int) -> None:
    assert mode.bash(f"exit {status}") == (status, "", "")


@pytest.mark.parametrize("name", ["TERM", "KILL", "SEGV", "PIPE", "INT", "HUP"])
def test_a_signal_gives_128_and_its_number(mode: Mode, name: str) -> None:
    assert mode.bash(f"kill -{name} $$") == (128 + signal.Signals[f"SIG{name}"], "", "")


def test_what_is_absent_is_127_with_the_command_that_adds_it(mode: Mode) -> None:
    ran = mode.run("nosuch")
    assert (ran.status, ran.out) == (127, "")
    assert f"hint: jailbuild add nosuch --into {mode.box}" in ran.words
    assert mode.run("/no/such").status == 127
    assert mode.run("").status == 127


def test_a_missing_library_is_127_and_named(mode: Mode) -> None:
    for libc in mode.box.rglob("libc.so.6"):
        libc.unlink()
    ran = mode.run("ls", "/")
    assert ran.status == 127
    assert "jailbuild: cannot start ls: /usr/bin/ls needs libc.so.6" in ran.words


def test_what_cannot_be_executed_is_126(mode: Mode) -> None:
    (mode.box / "data").write_bytes(b"")
    mode.give()
    for path, why in (("/data", "it has no execute permission"), ("/usr", "it is a directory")):
        ran = mode.run(path)
        assert ran.status == 126
        assert why in ran.words


def test_a_command_that_leads_to_the_launcher_s_own_program_is_refused(mode: Mode) -> None:
    (mode.box / "usr/bin/link").symlink_to("/proc/self/exe")
    (mode.box / "script").write_text("#! /usr/bin/link -x\n")
    (mode.box / "script").chmod(0o755)
    (mode.box / "circle").symlink_to("circle")
    mode.give()
    for path in ("link", "/usr/bin/link", "/proc/self/exe", "/script"):
        ran = mode.run(path)
        assert ran.status == 126, ran
        assert "/proc" in ran.words
    assert mode.run("/circle").status == 126


def test_status_lines_tell_of_start_and_end(mode: Mode) -> None:
    reading, writing = os.pipe()
    process = mode.popen(
        "--status-fd",
        str(writing),
        mode.box,
        "sleep",
        "100",
        pass_fds=(writing,),
        stdin=subprocess.DEVNULL,
    )
    os.close(writing)
    with os.fdopen(reading) as lines:
        started = json.loads(lines.readline())
        assert list(started) == ["kind", "pid"]
        assert started["kind"] == "started"
        assert Path(f"/proc/{started['pid']}/cmdline").read_bytes() == b"sleep\x00100\x00"
        os.kill(started["pid"], signal.SIGKILL)
        assert json.loads(lines.readline()) == {"kind": "ended", "status": 137}
        assert lines.read() == ""
    assert process.wait(PATIENCE) == 137


@pytest.mark.parametrize("words", [("--workdir", "/absent", "{box}", "true"), ("{box}", "absent"), ("{box}x", "true")])
def test_nothing_is_said_of_a_start_that_failed(mode: Mode, words: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    ended = mode.enter(
        "--status-fd",
        str(writing),
        *(word.format(box=mode.box) for word in words),
        pass_fds=(writing,),
    )
    os.close(writing)
    with os.fdopen(reading) as lines:
        assert lines.read() == ""
    assert ended.returncode in (125, 127)


def test_a_status_descriptor_that_is_not_open_is_refused(mode: Mode) -> None:
    for number in ("77", "-1", "99999999999999999999"):
        assert mode.bash("true", "--status-fd", number).status == 125
        assert mode.bash("true", "--pass-fd", number).status == 125
    with open("/dev/null") as reading:
        ran = mode.bash("true", "--status-fd", str(reading.fileno()), pass_fds=(reading.fileno(),))
    assert ran.status == 125


# explained and refused


def test_explain_prints_the_steps_in_order_and_does_nothing(mode: Mode) -> None:
    before = ours(mode.box)
    ran = mode.bash(
        "touch /tmp/ran", "--explain", "--net", "none", "--hostname", "cell", "--tmpfs", "/run", "--limit", "nofile=9"
    )
    lines = ran.out.splitlines()
    assert (ran.status, ran.words) == (0, "")
    assert lines[0].startswith("namespaces: mount pid ipc uts cgroup network")
    order = [
        "namespaces",
        "mounts",
        f"box: {'rbind' if mode.is_rootless else 'bind'} {mode.box}",
        "/proc: fresh",
        "/dev: tmpfs",
        "/.jailbuild",
        "/run: tmpfs",
        "root: pivot_root",
        "host name: cell",
        "network: none",
        "descriptors: 0, 1, 2",
        "limits: nofile=9:9",
        "capability bounding set",
        "identity: uid 0 gid 0",
        "no_new_privs",
        "directory: /",
        "seccomp",
        "execve: ",
    ]
    places = [next(at for at, line in enumerate(lines) if line.startswith(start)) for start in order]
    assert places == sorted(places)
    assert ("ids: uid 0=64321; gid 0=64321; setgroups denied" in lines) == mode.is_rootless
    assert not (mode.box / "tmp/ran").exists()
    assert ours(mode.box) == before


def test_plain_refuses_what_it_cannot_do_and_does_the_rest(root_mode: Mode) -> None:
    for option in (
        ("--bind", "/usr"),
        ("--tmpfs", "/tmp"),
        ("--read-only",),
        ("--hostname", "x"),
        ("--net", "none"),
        ("--cap-keep", "SYS_ADMIN"),
        ("--pty",),
        ("--seccomp", "default"),
        ("--hostname", ""),
    ):
        ran = root_mode.bash("true", "--plain", *option)
        assert ran.status == 125
        assert "with --plain" in ran.words
    ran = root_mode.bash(
        "id -u; pwd; ulimit -n; echo $A",
        "--plain",
        "--user",
        "ann",
        "--workdir",
        "/etc",
        "--limit",
        "nofile=50",
        "--env",
        "A=b",
        "--no-pty",
        "--net",
        "host",
        "--seccomp",
        "none",
    )
    assert ran == (0, "1000\n/etc\n50\nb\n", "")
    assert "chroot\n" in root_mode.bash("true", "--plain", "--explain").out


@pytest.mark.parametrize("how", [ROOTLESS])
def test_root_of_a_user_namespace_may_enter_plain_and_is_told_of_it_only_where_it_helps(mode: Mode) -> None:
    apart = ["unshare", "--user", "--map-root-user", "--", *mode.launcher, "enter"]
    ended = subprocess.run(
        [*apart, "--plain", mode.box, "id", "-u"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=mode.environment,
        **mode.user,
    )
    assert (ended.returncode, ended.stdout) == (0, "0\n"), ended
    for options in (("--limit", "nproc=unlimited"), ("--workdir", "/closed")):
        (mode.box / "closed").mkdir(mode=0, exist_ok=True)
        ended = subprocess.run(
            ["prlimit", "--nproc=1000:1000", *apart, *options, mode.box, "true"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=mode.environment,
            **mode.user,
        )
        assert ended.returncode == 125, ended
        assert "--plain" not in ended.stderr


@pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv takes the capability away")
def test_without_the_capability_for_mounts_the_mode_that_is_left_is_named(root_mode: Mode) -> None:
    ended = subprocess.run(
        ["setpriv", "--bounding-set=-sys_admin", *root_mode.launcher, "enter", "--isolated", root_mode.box, "true"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (ended.returncode, ended.stdout) == (125, "")
    why, hint = ended.stderr.splitlines()
    assert why.startswith(f"jailbuild: cannot enter {root_mode.box}: root here lacks CAP_SYS_ADMIN")
    assert hint.startswith(f"hint: jailbuild enter --plain {root_mode.box} ")


def test_a_capability_that_we_lack_cannot_be_kept(root_mode: Mode) -> None:
    ended = subprocess.run(
        [
            "setpriv",
            "--bounding-set=-net_raw",
            *root_mode.launcher,
            "enter",
            "--cap-keep",
            "NET_RAW",
            root_mode.box,
            "true",
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ended.returncode == 125
    assert "CAP_NET_RAW cannot be kept" in ended.stderr


@pytest.mark.parametrize("how", [ROOTLESS])
def test_where_user_namespaces_are_forbidden_the_setting_is_named(mode: Mode) -> None:
    # in a user namespace of its own a limit can be set that the host does not notice
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    ended = subprocess.run(
        [
            "unshare",
            "--user",
            "--map-current-user",
            "--keep-caps",
            "--",
            "sh",
            "-c",
            script,
            "0",
            *mode.launcher,
            "enter",
            mode.box,
            "true",
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=mode.environment,
        **mode.user,
    )
    assert (ended.returncode, ended.stdout) == (125, "")
    why, hint = ended.stderr.splitlines()
    assert "user namespaces are forbidden to ordinary users here (user.max_user_namespaces = 0)" in why
    assert "sudo jailbuild enter" in hint
    assert "sysctl -w user.max_user_namespaces" in hint


def test_a_noexec_box_is_refused_with_the_remount(root_mode: Mode, tmp_path: Path) -> None:
    place = tmp_path / "mounted"
    place.mkdir()
    script = 'mount -t tmpfs -o noexec x "$0" && cp -a "$1" "$0/box" && shift && exec "$@"'
    ended = subprocess.run(
        [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "--",
            "sh",
            "-c",
            script,
            place,
            root_mode.box,
            *root_mode.launcher,
            "enter",
            place / "box",
            "true",
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (ended.returncode, ended.stdout) == (125, "")
    assert ended.stderr.splitlines()[1] == f"hint: mount -o remount,exec {place}"


def test_a_nosuid_nodev_box_and_one_of_another_owner_are_entered(root_mode: Mode, tmp_path: Path) -> None:
    place = tmp_path / "mounted"
    place.mkdir()
    script = 'mount -t tmpfs -o nosuid,nodev x "$0" && cp -a "$1" "$0/box" && chown -R 4321 "$0" && shift && exec "$@"'
    ended = subprocess.run(
        [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "--",
            "sh",
            "-c",
            script,
            place,
            root_mode.box,
            *root_mode.launcher,
            "enter",
            place / "box",
            "bash",
            "-c",
            "echo in > /tmp/x; cat /tmp/x",
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "in\n", "")


def test_a_kernel_that_is_too_old_is_named(root_mode: Mode) -> None:
    """A filter that says ENOSYS to mount_setattr(2) stands for Linux before 5.12."""
    code = (
        "import struct, sys\n"
        "from jailbuild import syscalls\n"
        "from jailbuild.enter import seccomp\n"
        "syscalls.prctl(38, 1)\n"
        "one = lambda *fields: struct.pack('=HBBI', *fields)\n"
        "refusing = one(0x15, 0, 1, 442) + one(6, 0, 0, 0x00050026)\n"
        "seccomp.install(one(0x20, 0, 0, 0) + refusing + one(6, 0, 0, 0x7fff0000))\n"
        "from jailbuild.cli import main\n"
        "main()\n"
    )
    ended = subprocess.run(
        [JAILBUILD[0], "-c", code, "enter", root_mode.box, "true"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (ended.returncode, ended.stdout) == (125, "")
    assert "the isolated mode needs Linux 5.12" in ended.stderr
    assert f"jailbuild enter --plain {root_mode.box}" in ended.stderr


def test_a_box_that_is_changed_for_another_meanwhile_is_not_entered(root_mode: Mode, tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from jailbuild import syscalls\n"
        "before = syscalls.clone\n"
        "def clone(flags, signal):\n"
        "    os.rename(sys.argv[2], sys.argv[2] + '.away')\n"
        "    os.mkdir(sys.argv[2])\n"
        "    return before(flags, signal)\n"
        "syscalls.clone = clone\n"
        "from jailbuild.cli import main\n"
        "main()\n"
    )
    ended = subprocess.run(
        [JAILBUILD[0], "-c", code, "enter", root_mode.box, "true"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ended.returncode == 125
    assert f"cannot enter {root_mode.box}: box: bind" in ended.stderr


# nothing is left


def tree(box: Path) -> list[tuple[str, int, int, int, int]]:
    return [
        (path, status.st_mode, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
        for path in [str(box), *sorted(map(str, box.rglob("*")))]
        for status in [os.lstat(path)]
    ]


def ours(box: Path) -> list[str]:
    """Return the mounts of the host that an escape of ours could have made, others' left out."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [line for line in lines if str(box) in line or line.split()[1] in ("/", "/proc", "/dev", "/dev/pts")]


def test_entering_leaves_box_and_mounts_as_they_were(mode: Mode) -> None:
    before, mounts = tree(mode.box), ours(mode.box)
    mode.bash("ls /", "--tmpfs", "/run", "--hostname", "x", "--bind", "/usr/lib:/tmp")
    mode.run("absent")
    mode.run("ls", "/", options=("--pty",))
    mode.bash("true", "--workdir", "/absent")
    assert tree(mode.box) == before
    assert ours(mode.box) == mounts
    assert stat.S_ISDIR(mode.box.stat().st_mode)


def test_no_code_of_the_box_runs_in_the_launcher(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in the box itself, as the current directory: Python looks for modules there unless told not to."""
    for name in ("os", "sitecustomize", "encodings", "resource", "termios", "shlex"):
        (mode.box / f"{name}.py").write_text(f"open('/tmp/planted-{os.getpid()}', 'w')\nraise SystemExit(99)\n")
    mode.give()
    for words in (("ls", "/usr"), ("absent",), ("bash", "-c", "exit 127"), ("/usr",)):
        ended = mode.enter(".", *words, cwd=mode.box, environment={"PYTHONSAFEPATH": "1"})
        assert ended.returncode in (0, 126, 127)
    assert not Path(f"/tmp/planted-{os.getpid()}").exists()
