"""Entering a box of another machine's programs: with an emulator, and what is said where there is none."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jailbuild.enter import emulation
from tests import needs
from tests.box.running import Done, open_to_all, run
from tests.enter.entering import USER, public_python
from tests.foreign.roots import FOREIGN, MACHINES

Making = Callable[[str], Path]

EMULATOR = "/usr/bin/qemu-aarch64-static"
BINFMT = "/proc/sys/fs/binfmt_misc"

pytestmark = needs.namespaces

needs_emulator = pytest.mark.skipif(not os.path.exists(EMULATOR), reason="qemu-user-static is not installed")


@pytest.fixture
def box(box_of: Making, tmp_path: Path) -> Path:
    """A box of arm64 with bash, git and python3, to be changed."""
    subprocess.run(["cp", "-a", box_of("arm64"), tmp_path / "box"], check=True)
    return tmp_path / "box"


def tree(directory: Path) -> dict[str, tuple[int, int, int]]:
    """Return mode, size and time of change of all that is in a directory."""
    found = {}
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        found[str(path)] = status.st_mode, status.st_size, status.st_ctime_ns
    return found


def apart(script: str, *arguments: str | Path) -> Done:
    """Run jailbuild where `script` has prepared a mount namespace of its own."""
    command = f'{script}\nexec "$@"'
    return subprocess.run(
        ["unshare", "--mount", "bash", "-ec", command, "bash", sys.executable, "-m", "jailbuild", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


# Root of a user namespace in which every id is itself: it may register with a binfmt_misc that is not the host's.
_APART = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
go, ready = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    if libc.unshare(0x10000000 | 0x00020000):
        os._exit(99)
    os.write(ready[1], b"r")
    os.read(go[0], 1)
    if libc.mount(b"none", b"/proc/sys/fs/binfmt_misc", b"binfmt_misc", 0, None):
        os._exit(98)
    if sys.argv[1]:
        with open("/proc/sys/fs/binfmt_misc/register", "w") as file:
            file.write(sys.argv[1])
    os.execv(sys.executable, [sys.executable, "-m", "jailbuild", *sys.argv[2:]])
os.read(ready[0], 1)
for name in ("gid_map", "uid_map"):
    with open(f"/proc/{child}/{name}", "w") as file:
        file.write("0 0 4294967295")
os.write(go[1], b"g")
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def registered(interpreter: str, flags: str) -> str:
    def escaped(text: bytes) -> str:
        return "".join(f"\\x{byte:02x}" for byte in text)

    kind = MACHINES["arm64"].kind
    return f":testing-arm64:M::{escaped(emulation.magic(kind))}:{escaped(emulation.mask(kind))}:{interpreter}:{flags}"


def with_host(registration: str, *arguments: str | Path) -> Done:
    """Run jailbuild on a host whose binfmt_misc has one registration, or none."""
    return subprocess.run(
        [sys.executable, "-c", _APART, registration, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


@needs_emulator
@pytest.mark.parametrize("name", FOREIGN)
def test_programs_of_another_machine_run_and_start_others(name: str, box_of: Making) -> None:
    """Isolated, a shell of the machine starts git and python3 of the machine."""
    script = "set -e; echo $MACHTYPE; git --version; python3 --version; exit 7"
    done = run("enter", box_of(name), "bash", "-c", script)
    machine, git, python = done.stdout.splitlines()
    assert machine.partition("-")[0] == MACHINES[name].bash
    assert git.startswith("git version ")
    assert python.startswith("Python 3.")
    assert done.returncode == 7


@needs_emulator
def test_emulation_leaves_nothing_behind(box: Path) -> None:
    """Nothing is written into the box, and the host's binfmt_misc has the registrations that it had."""
    before = tree(box), os.listdir(BINFMT)
    assert run("enter", box, "bash", "-c", ":").returncode == 0
    assert (tree(box), os.listdir(BINFMT)) == before


@needs_emulator
def test_real_work_is_done_by_emulated_programs(root_of: Making, tmp_path: Path) -> None:
    """A whole root of arm64: python3 with its library makes threads and processes, git commits, a signal is 128+n."""
    root = root_of("arm64")
    script = """
import os, platform, subprocess, tempfile, threading
found = []
one = threading.Thread(target=lambda: found.append(platform.machine()))
one.start(); one.join()
with tempfile.TemporaryDirectory() as place:
    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(["git", *who, *words], cwd=place, check=True, capture_output=True, text=True).stdout
    git("init"); open(f"{place}/file", "w").write("text"); git("add", "."); git("commit", "-m", "first")
    found.append(git("log", "--format=%s").strip())
print(found, os.getuid(), os.getgroups(), flush=True)
os.kill(os.getpid(), 15)
"""
    done = run("enter", "--tmpfs", "/tmp", "--tmpfs", "/root", root, "/usr/bin/python3", "-c", script)
    assert done.stdout.strip() == "['aarch64', 'first'] 0 []", done.stderr
    assert done.returncode == 128 + 15


@needs_emulator
def test_root_inside_does_not_reach_the_hosts_emulator(root_of: Making) -> None:
    """What runs the programs is a sealed copy: its mode, its bytes and the registration stay out of reach."""
    script = """
import os
def tried(what):
    try:
        what()
    except OSError as error:
        return error.errno
    return 0
parent = os.getpid()
if os.fork() == 0:
    mine = f"/proc/{parent}/exe"
    os.chmod(mine, 0o700)
    print(os.readlink(mine).startswith("/memfd:"), tried(lambda: os.open(mine, os.O_WRONLY)),
          [tried(lambda: os.open(f"/proc/1/fd/{fd}/register", os.O_WRONLY)) for fd in os.listdir("/proc/1/fd")],
          tried(lambda: os.open("/proc/sys/fs/binfmt_misc/register", os.O_WRONLY)), flush=True)
    os._exit(0)
os.wait()
"""
    before = os.stat(EMULATOR)
    done = run("enter", root_of("arm64"), "/usr/bin/python3", "-c", script)
    copied, written, channels, register = json.loads(
        f"[{done.stdout.replace('True', 'true').replace(' ', ',')}]".replace(",,", ",")
    )
    assert (copied, written, register) == (True, errno.ETXTBSY, errno.ENOENT)
    assert set(channels) <= {errno.EACCES, errno.EPERM}
    after = os.stat(EMULATOR)
    assert (after.st_mode, after.st_ctime_ns) == (before.st_mode, before.st_ctime_ns)


@needs_emulator
def test_what_is_weaker_with_an_emulator_is_said(box: Path) -> None:
    """Root's capabilities count in a user namespace alone, and that is said, with the emulator's path."""
    done = run(
        "enter",
        box,
        "bash",
        "-c",
        "while read line; do case $line in CapEff*) echo $line;; esac; done "
        "< /proc/self/status; while read line; do echo $line; done < /proc/self/uid_map",
    )
    assert done.stdout.splitlines() == ["CapEff: 00000000000004eb", "0 0 4294967295"]
    assert EMULATOR in done.stderr
    assert "ports below 1024" in done.stderr


@needs_emulator
def test_a_user_without_root_has_emulation_too(box: Path, tmp_path: Path) -> None:
    """Rootless, the same box runs."""
    open_to_all(tmp_path)
    shutil.rmtree(box / ".jailbuild")
    command, environment = public_python(tmp_path)
    done = subprocess.run(
        [*command, "enter", str(box), "bash", "-c", "git --version && echo $MACHTYPE"],
        env=environment,
        user=USER,
        group=USER,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
    )
    assert done.stdout.endswith("aarch64-unknown-linux-gnu\n"), done.stderr


@needs_emulator
def test_a_script_of_another_machine_is_run_by_its_interpreter(box: Path) -> None:
    """What a #! line names decides."""
    (box / "usr/bin/hello").write_text("#!/bin/bash\necho hello from $MACHTYPE\n", encoding="utf-8")
    (box / "usr/bin/hello").chmod(0o755)
    assert run("enter", box, "hello").stdout == "hello from aarch64-unknown-linux-gnu\n"


@needs_emulator
def test_what_is_missing_in_an_emulated_box_is_named(box: Path) -> None:
    """A library or the loader that is not there makes the status 127 with the reason, as without an emulator."""
    library = next((box / "usr/lib/aarch64-linux-gnu").glob("libtinfo.so.6.*"))
    library.rename(box / "aside")
    done = run("enter", box, "bash")
    assert (done.returncode, "needs libtinfo.so.6" in done.stderr) == (127, True), done.stderr
    (box / "aside").rename(library)
    (box / "usr/lib/ld-linux-aarch64.so.1").unlink()
    done = run("enter", box, "bash")
    assert (done.returncode, "interpreter /lib/ld-linux-aarch64.so.1" in done.stderr) == (127, True), done.stderr


def test_without_an_emulator_enter_says_so(box: Path) -> None:
    """The machine of the program, that of the host, and what would help; status 126, as the kernel has refused it."""
    hide = f"test ! -e {EMULATOR} || mount --bind /dev/null {EMULATOR}"
    for options, hint in (((), "apt install qemu-user-static\n"), (("--plain",), "binfmt-support\n")):
        done = apart(hide, "enter", *options, box, "bash", "-c", ":")
        assert done.returncode == 126
        assert "cannot start bash" in done.stderr
        assert f"it is for aarch64, and this machine is {os.uname().machine}" in done.stderr
        assert done.stderr.endswith(hint)


@needs_emulator
def test_plain_mode_has_what_the_host_has_registered(box: Path) -> None:
    """A registration with F runs the box; one without looks into the box, and is said to; with none that is said."""
    asked = ("enter", "--plain", box, "bash", "-c", "echo $MACHTYPE")
    done = with_host(registered(EMULATOR, "PF"), *asked)
    assert (done.returncode, done.stdout) == (0, "aarch64-unknown-linux-gnu\n"), done.stderr
    done = with_host(registered(EMULATOR, "P"), *asked)
    assert done.returncode == 127
    assert f"looks for {EMULATOR} in the box (testing-arm64, no flag F)" in done.stderr
    (box / "usr/bin/qemu-aarch64-static").symlink_to("bash")  # the emulator inside: the kernel finds it there
    shutil.copy(EMULATOR, box / "usr/bin/emulator")
    done = with_host(registered("/usr/bin/emulator", "P"), *asked)
    assert (done.returncode, done.stdout) == (0, "aarch64-unknown-linux-gnu\n"), done.stderr
    done = with_host("", *asked)
    assert done.returncode == 126
    assert f"{EMULATOR} is here, but not registered with binfmt_misc" in done.stderr


@needs_emulator
def test_an_isolated_box_goes_by_its_own_emulator_whatever_the_host_has(box: Path) -> None:
    """A registration of the host's that runs nothing does not get in the way."""
    done = with_host(registered("/usr/bin/false", "PF"), "enter", box, "bash", "-c", "echo $MACHTYPE")
    assert (done.returncode, done.stdout) == (0, "aarch64-unknown-linux-gnu\n"), done.stderr


@needs_emulator
def test_an_isolated_box_has_what_the_host_has_registered_where_there_is_nothing_else(box: Path) -> None:
    """With F, and an emulator that is nowhere to be found (a container has registered it), and its risk is told."""
    hide = _APART.replace("os.execv(", f"os.system('mount --bind /dev/null {EMULATOR}')\n    os.execv(")
    done = subprocess.run(
        [sys.executable, "-c", hide, registered(EMULATOR, "PF"), "enter", box, "bash", "-c", "echo $MACHTYPE"],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, done.stdout) == (0, "aarch64-unknown-linux-gnu\n"), done.stderr
    assert f"root inside can change {EMULATOR} of the host" in done.stderr


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("6.7.0-1-amd64", "emulator"),
        ("7.0", "emulator"),
        ("6.1.0-13-amd64", "none"),
        ("5.15.153.1-generic", "none"),
    ],
)
@needs_emulator
def test_a_kernel_without_a_binfmt_misc_for_each_namespace_has_the_hosts_alone(
    release: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Linux 6.7 the host has to register the emulator, in any mode, and that is said."""
    here = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((*here[:2], release, *here[3:])))
    monkeypatch.setattr(emulation, "registered", lambda kind: None)
    told = emulation.way(MACHINES["arm64"].kind)
    assert told.how == expected
    assert ("not registered" in told.why and "binfmt-support" in told.hint) == (expected == "none")
    monkeypatch.setattr(emulation, "registered", lambda kind: emulation.Registration("arm", EMULATOR, "F"))
    told = emulation.way(MACHINES["arm64"].kind)
    assert told.how == ("binfmt" if expected == "none" else "emulator")


@needs_emulator
def test_where_no_user_namespace_is_to_be_had_the_mode_is_refused(box: Path) -> None:
    """Status 125, with the reason and what would work: it is not tried without the emulator."""
    limit = "echo 0 >/proc/sys/user/max_user_namespaces"
    arguments = [sys.executable, "-m", "jailbuild", "enter", box, "bash", "-c", ":"]
    inner = _APART.replace("os.execv(", f"os.system({limit!r})\n    os.execv(")
    done = subprocess.run(
        [sys.executable, "-c", inner, "", *map(str, arguments[3:])],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 125
    assert "programs for aarch64 need a binfmt_misc of the box's own" in done.stderr
    assert "apt install binfmt-support registers the emulator for jailbuild enter --plain" in done.stderr


def test_how_programs_run_here_is_told_for_each_machine() -> None:
    """Those of this machine natively; of one that nothing emulates, not at all."""
    native = {"x86_64": (64, True, 62), "aarch64": (64, True, 183)}[os.uname().machine]
    assert emulation.way(native) == emulation.Way("native")
    unknown = emulation.way((64, True, 4711))
    assert (unknown.how, "no emulator known" in unknown.why) == ("none", True)
    if os.path.exists(EMULATOR):
        assert emulation.way(MACHINES["arm64"].kind) == emulation.Way("emulator", EMULATOR)
