"""What a hostile process in the box tries, for each sentence that `enter` promises.

Every attack is made twice: first where it must succeed, in the plain mode or in what a chroot by hand gives, so that a
test that attacks nothing fails; then in the isolated mode as root and, rootless, as an ordinary user. The attacks
are in attack.c. What the plain mode could do to the host it does in a mount namespace of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import platform
import pty
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import sysconfig
import tempfile
import termios
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click
import elftools
import pytest

import jailbuild

PATIENCE = 30  # seconds
USER = 64123  # nobody's: an ordinary user of the host
PROMISES = range(1, 22)

# CHOWN, DAC_OVERRIDE, FOWNER, KILL, SETGID, SETUID, NET_BIND_SERVICE: linux/capability.h
KEPT = sum(1 << number for number in (0, 1, 3, 5, 6, 7, 10))

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs root"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the attacks are for x86-64"),
]

_libc = ctypes.CDLL(None, use_errno=True)

Test = TypeVar("Test", bound=Callable[..., None])
cited: dict[int, list[str]] = {}


def promise(*numbers: int) -> Callable[[Test], Test]:
    """Say which sentences of the promise (README, "Entering") a test holds."""
    def cite(test: Test) -> Test:
        for number in numbers:
            cited.setdefault(number, []).append(test.__name__)
        return test
    return cite


class Tools(NamedTuple):
    """What is made once: the attacks, and jailbuild where an ordinary user can read it."""

    directory: Path
    attack: Path
    loader: Path  # of a box, that changes the program it is to load
    python: Path
    environment: dict[str, str]


@pytest.fixture(scope="session")
def tools() -> Iterator[Tools]:
    with tempfile.TemporaryDirectory(prefix="jailbuild-attacks-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        source = Path(__file__).with_name("attack.c")
        compile_ = ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-static"]
        subprocess.run([*compile_, "-o", directory / "attack", source], check=True)
        apart = ["-DAS_LOADER", "-nostdlib", "-Wl,-Ttext-segment=0x70000000"]  # from the program that it loads
        subprocess.run([*compile_, *apart, "-o", directory / "loader", source], check=True)
        for package in (jailbuild, click, elftools):
            home = Path(package.__path__[0])
            shutil.copytree(home, directory / "lib" / home.name, ignore=shutil.ignore_patterns("__pycache__"))
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(directory / "lib"), "PYTHONDONTWRITEBYTECODE": "1"}
        yield Tools(directory, directory / "attack", directory / "loader", _python_for_all(), environment)


def _python_for_all() -> Path:
    """Return a Python that an ordinary user can run: this one, unless it is in somebody's home; else the system's."""
    for python in (os.path.realpath(sys.executable), "/usr/bin/python3.11", "/usr/bin/python3"):
        code = "import sys; sys.exit(sys.version_info < (3, 11))"
        with contextlib.suppress(OSError):
            if subprocess.run([python, "-c", code], user=USER, group=USER, extra_groups=[], cwd="/").returncode == 0:
                return Path(os.path.realpath(python))
    raise AssertionError("there is no Python 3.11 that an ordinary user can run")


class Ran(NamedTuple):
    """What became of an attack."""

    said: str
    words: str
    status: int
    box: Path


class World:
    """A piece of the host with a secret in it, and boxes beside the secret, a new one for each attack."""

    def __init__(self, directory: Path, tools: Tools) -> None:
        self.directory = directory
        self.tools = tools
        self.token = uuid.uuid4().hex
        self.secret = directory / "secret"
        self.secret.write_text(self.token)
        self.secret.chmod(0o644)  # for any user of the host: it is the box that keeps it
        self._count = 0

    def make_box(self, how: str, prepare: Callable[[Path], object] | None = None) -> Path:
        self._count += 1
        box = self.directory / f"box{self._count}"
        for name in ("proc", "dev", "dev/pts", "dev/shm", "sys", "run", "tmp", "usr"):
            (box / name).mkdir(parents=True)
        shutil.copy(self.tools.attack, box / "attack")
        if how == "rootless":
            for path in (box, *box.rglob("*")):
                os.chown(path, USER, USER, follow_symlinks=False)
        (box / "tmp").chmod(0o1777)
        if prepare:
            prepare(box)
        return box

    def command(
        self, how: str, box: Path, *words: object, options: tuple[str, ...] = (), by: Path | None = None,
    ) -> list[str]:
        """Return the command line of an attack; `how` is plain, isolated, rootless, or chroot for chroot(1)."""
        if how == "chroot":
            return ["chroot", str(box), "/attack", *map(str, words)]
        launcher = [str(by or self.tools.python), "-m", "jailbuild", "enter"]
        if how == "plain":
            launcher = ["unshare", "--mount", "--propagation", "private", "--", *launcher, "--plain"]
        else:
            launcher += options
        return [*launcher, str(box), "/attack", *map(str, words)]

    def user(self, how: str) -> dict[str, Any]:
        return {"user": USER, "group": USER, "extra_groups": []} if how == "rootless" else {}

    def attack(
        self, how: str, *words: object, options: tuple[str, ...] = (),
        prepare: Callable[[Path], object] | None = None, by: Path | None = None, before: tuple[str, ...] = (),
        statuses: tuple[int, ...] = (0, 1), **more: Any,
    ) -> Ran:
        """Make one attack in a new box; assert that it was made, whatever came of it.

        `before` is sh(1) code that runs first in a mount namespace, with the box as $box.
        """
        box = self.make_box(how, prepare)
        command = self.command(how, box, *words, options=options, by=by)
        if before:
            if how == "rootless":
                drop = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
                command, how = [*drop, *command], "isolated"
            script = f"set -e; box={box}; {'; '.join(before)}; exec \"$@\""
            command = ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", script, "sh", *command]
        arguments: dict[str, Any] = {
            "stdin": subprocess.DEVNULL, "env": self.tools.environment, "cwd": self.directory, **self.user(how), **more,
        }
        ended = subprocess.run(
            command, capture_output=True, timeout=PATIENCE, **arguments,
        )
        ran = Ran(ended.stdout.decode(errors="replace"), ended.stderr.decode(errors="replace"), ended.returncode, box)
        assert ran.status in statuses, ran
        return ran

    def only_plain(
        self, how: str, *words: object, proof: str | None = None, control: str = "plain", **more: Any,
    ) -> Ran:
        """Assert that an attack gets the proof, by default the secret, in the control, and not in mode `how`."""
        proof = proof or self.token
        assert proof in (found := self.attack(control, *words, **more)).said, found
        ran = self.attack(how, *words, **more)
        assert proof not in ran.said, ran
        return ran


@pytest.fixture
def world(tools: Tools) -> Iterator[World]:
    """Yield a world; afterwards the host has no mount of it and the devices that it had, or the test fails."""
    def devices() -> list[int]:
        return [os.stat(f"/dev/{name}").st_mode for name in ("null", "zero", "full", "random", "urandom", "tty")]

    before = devices()
    with tempfile.TemporaryDirectory(prefix="jailbuild-world-") as name:
        Path(name).chmod(0o755)
        try:
            yield World(Path(name), tools)
        finally:
            lines = Path("/proc/self/mountinfo").read_text().splitlines()
            mounts = [line.split()[4] for line in lines if name in line]
            for mount in reversed(mounts):
                subprocess.run(["umount", "--lazy", mount], check=True)
    assert mounts == []
    assert devices() == before


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline()


def write_line(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin
    process.stdin.write(line + "\n")
    process.stdin.flush()


@pytest.fixture(params=["isolated", "rootless"])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# 1, 2: files of the host, descriptors


@promise(1)
def test_a_second_chroot_with_a_kept_descriptor_does_not_lead_out(world: World, how: str) -> None:
    world.only_plain(how, "second-chroot", world.secret)


@promise(1)
def test_dot_dot_from_a_directory_that_was_moved_out_of_the_box_does_not_lead_out(world: World, how: str) -> None:
    """chroot(2) stops `..` at one directory only; a mount stops it wherever it began."""
    def climb(mode: str) -> str:
        box = world.make_box(mode, lambda box: (box / "moving/inner").mkdir(parents=True))
        with subprocess.Popen(
            world.command(mode, box, "moved-directory", "secret", world.secret), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=world.tools.environment, cwd="/",
            **world.user(mode),
        ) as launcher:
            assert read_line(launcher) == "ready\n"
            (box / "moving/inner").rename(world.directory / f"moved-{mode}")
            said, _ = launcher.communicate("\n", timeout=PATIENCE)
        return str(said)

    assert world.token in climb("plain")
    assert world.token not in climb(how)


@promise(1, 11)
def test_a_file_handle_opens_nothing_outside(world: World, how: str) -> None:
    buffer = ctypes.create_string_buffer(8 + 128)
    struct.pack_into("=I", buffer, 0, 128)
    mount = ctypes.c_int()
    path = os.fsencode(world.secret)
    assert _libc.name_to_handle_at(-100, path, buffer, ctypes.byref(mount), 0) == 0, os.strerror(ctypes.get_errno())
    size, kind = struct.unpack_from("=Ii", buffer)
    world.only_plain(how, "handle", kind, buffer.raw[8:8 + size].hex())


@promise(1, 8)
def test_its_own_mount_namespace_joined_anew_has_no_other_root(world: World, how: str) -> None:
    world.only_plain(how, "rejoin", world.secret)


@promise(1, 4, 8)
def test_proc_shows_no_root_directory_or_descriptor_of_a_process_of_the_host(world: World, how: str) -> None:
    """Neither the one that is mounted nor one that the box mounts."""
    ran = world.only_plain(how, "process-roots", world.secret)
    assert ran.said == ""


@promise(2)
def test_a_directory_that_the_caller_had_open_does_not_get_in(world: World, how: str) -> None:
    """The shell's `exec 9</`. The control is chroot(1): the plain mode closes descriptors too."""
    root = os.open("/", os.O_RDONLY)
    try:
        ran = world.only_plain(how, "descriptors", world.secret, control="chroot", pass_fds=(root,))
    finally:
        os.close(root)
    assert ran.said == ""


@promise(2)
def test_the_descriptor_of_the_status_does_not_get_in(world: World, how: str) -> None:
    reading, status = os.pipe()
    try:
        proof = f"open {status}\n"
        option = ("--status-fd", str(status))
        ran = world.only_plain(
            how, "descriptors", "/nowhere", proof=proof, control="chroot", pass_fds=(status,), options=option,
        )
        assert ran.said == ""
    finally:
        os.close(reading)
        os.close(status)


@promise(2)
@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
def test_a_directory_as_standard_stream_does_not_get_in(world: World, how: str, stream: str) -> None:
    """Python refuses it before jailbuild can, which would say 125."""
    root = os.open("/", os.O_RDONLY)
    streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL) | {stream: root}
    by_hand = world.command("chroot", world.make_box("chroot"), "nothing")
    ours = world.command(how, world.make_box(how), "nothing")
    try:
        assert subprocess.run(by_hand, **streams).returncode == 0
        assert subprocess.run(ours, env=world.tools.environment, **streams, **world.user(how)).returncode in (1, 125)
    finally:
        os.close(root)


# 3, 4: processes of the host, PID 1


@contextlib.contextmanager
def victim(world: World, how: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Yield a process outside that holds the secret in its memory, and the address."""
    code = (
        "import ctypes, sys; kept = ctypes.create_string_buffer(sys.stdin.readline().strip().encode());"
        "print(ctypes.addressof(kept), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [str(world.tools.python), "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        process_group=0, **world.user(how),
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


# 5: capabilities


@promise(5)
def test_the_capabilities_are_those_of_the_promise_in_every_set(world: World, how: str) -> None:
    uid, *sets, no_new_privs = world.attack("plain", "rights").said.split()
    assert int(sets[0], 16) & ~KEPT
    uid, *sets, no_new_privs = world.attack(how, "rights").said.split()
    assert (uid, [int(one, 16) for one in sets], no_new_privs) == ("0", [KEPT, KEPT, 0, KEPT, 0], "1")


@promise(5, 10)
def test_a_set_id_program_of_the_box_gives_no_rights(world: World) -> None:
    def prepare(box: Path) -> None:
        shutil.copy(box / "attack", box / "su")
        (box / "su").chmod(0o6755)

    box = world.make_box("isolated", prepare)
    by_hand = ["chroot", "--userspec=1000:1000", str(box), "/attack", "become", "/su"]
    assert subprocess.run(by_hand, capture_output=True, text=True).stdout.startswith("0 ")
    ran = world.attack("isolated", "become", "/su", options=("--user", "1000:1000"), prepare=prepare)
    assert ran.said.startswith("1000 0 0 0 "), ran


# 6, 7: devices, /proc


def disk() -> list[tuple[str, int, int]]:
    """Return a disk of the machine that root can read, if it has one."""
    for line in Path("/proc/partitions").read_text().splitlines()[2:]:
        major, minor, _, name = line.split()
        with contextlib.suppress(OSError), open(f"/dev/{name}", "rb", buffering=0) as file:
            if file.read(512):
                return [("b", int(major), int(minor))]
    return []


DEVICES = [("c", 1, 9), *disk()]  # urandom: not its like of the box, but one more


@promise(6)
@pytest.mark.parametrize("device", DEVICES, ids=[device[0] for device in DEVICES])
def test_no_device_node_can_be_made_and_read(world: World, how: str, device: tuple[str, int, int]) -> None:
    assert world.only_plain(how, "make-node", *device, proof="/node").said == ""


@promise(6)
@pytest.mark.parametrize("below", [False, True], ids=["of the box", "of a mount below"])
@pytest.mark.parametrize("device", DEVICES, ids=[device[0] for device in DEVICES])
def test_a_device_node_that_lies_in_the_box_cannot_be_read(
    world: World, how: str, device: tuple[str, int, int], below: bool,
) -> None:
    node = "$box/usr/node"
    before: tuple[str, ...] = (f"mknod -m 666 {node} {device[0]} {device[1]} {device[2]}",)
    if below:
        before = ("mount -t tmpfs none $box/usr", *before)
    assert world.only_plain(how, "open", "/usr/node", proof="read", before=before).said == ""


@promise(6)
def test_a_change_to_a_device_of_the_box_is_none_to_the_host_s(world: World, how: str) -> None:
    names = ("null", "zero", "full", "random", "urandom", "tty")

    def host() -> list[tuple[int, int, int]]:
        return [(file.st_mode, file.st_uid, file.st_gid) for file in (os.stat(f"/dev/{name}") for name in names)]

    lent = world.directory / "null"  # as the host's would be, bound into a chroot by hand
    os.mknod(lent, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    before = ("touch $box/dev/null", f"mount --bind {lent} $box/dev/null")
    world.attack("plain", "modes", 0o667, "/dev/null", before=before)
    assert stat.S_IMODE(lent.stat().st_mode) == 0o667
    as_it_was = host()
    try:
        world.attack(how, "modes", 0o667, *(f"/dev/{name}" for name in names))
        assert host() == as_it_was
    finally:
        for name, (mode, _, _) in zip(names, as_it_was, strict=True):
            os.chmod(f"/dev/{name}", stat.S_IMODE(mode))


WRITES = ("sys/kernel/core_pattern", "sys/kernel/modprobe", "sys/vm/drop_caches", "sysrq-trigger")
READS = ("kcore", "keys", "timer_list")


@promise(7)
@pytest.mark.parametrize("name", [name for name in (*WRITES, *READS) if os.path.exists(f"/proc/{name}")])
def test_files_of_the_kernel_in_proc_are_closed(world: World, how: str, name: str) -> None:
    """They are opened, not written to."""
    verb = "write" if name in WRITES else "read"
    world.only_plain(how, "open", f"/proc/{name}", proof=f"{verb} /proc/{name}")


@promise(7)
def test_no_file_in_proc_but_those_of_processes_can_be_opened_for_writing(world: World, how: str) -> None:
    said = world.only_plain(how, "sweep-proc", proof="/proc/sys/kernel/core_pattern").said
    assert [path for path in said.splitlines() if not path.startswith("/proc/self/")] == []


@promise(7)
def test_modes_of_files_in_proc_cannot_be_changed(world: World, how: str) -> None:
    """The kernel keeps them for all that ever mount a /proc."""
    def seen_anew() -> int:
        code = "mount -t proc none /proc && stat -c %a /proc/version"
        apart = ["unshare", "--mount", "--pid", "--fork", "--propagation", "private"]
        return int(subprocess.run([*apart, "sh", "-c", code], capture_output=True, check=True).stdout, 8)

    before = stat.S_IMODE(os.stat("/proc/version").st_mode)
    try:
        world.attack(how, "modes", before | 1, "/proc/version")
        assert seen_anew() == before
        proc = ("mount -t proc none $box/proc",)
        world.attack("plain", "modes", before | 1, "/proc/version", before=proc)
        assert seen_anew() == before | 1
    finally:
        os.chmod("/proc/version", before)


# 8, 9: mounts


@promise(8)
def test_nothing_can_be_mounted(world: World, how: str) -> None:
    kinds = ("tmpfs", "proc", "sysfs", "cgroup2", "devpts", "mqueue", "ramfs")
    said = world.attack("plain", "mounts", *kinds).said.split()
    assert {"tmpfs", "proc", "sysfs", "bind", "fsopen", "open_tree"} <= set(said)
    assert world.attack(how, "mounts", *kinds).said == ""


@promise(8)
def test_no_namespace_can_be_made(world: World, how: str) -> None:
    said = world.attack("plain", "namespaces").said.splitlines()
    assert {"clone mount", "unshare mount", "clone net", "unshare pid"} <= set(said)
    assert world.attack(how, "namespaces").said == ""


@promise(8, 9)
def test_the_covers_cannot_be_taken_away(world: World, how: str) -> None:
    def prepare(box: Path) -> None:
        (box / ".jailbuild").mkdir(0o700)
        (box / ".jailbuild/manifest.jsonl").write_text(world.token)
        if how == "rootless":
            os.chown(box / ".jailbuild", USER, USER)

    manifest = "/.jailbuild/manifest.jsonl"
    by_hand = ("mount -t tmpfs none $box/.jailbuild",)
    covered = world.attack("plain", "uncover", manifest, prepare=prepare, before=by_hand)
    assert "unmounted /.jailbuild\n" + world.token == covered.said
    assert world.attack(how, "uncover", manifest, prepare=prepare).said == ""
    files = ("/proc/sys/kernel/core_pattern", "/proc/kcore", "/proc/sysrq-trigger", "/dev/null", "/dev/shm")
    assert "mounted" not in world.attack(how, "uncover", *files, prepare=prepare).said


@promise(9)
def test_nothing_can_be_put_into_the_covered_directory(world: World, how: str) -> None:
    world.only_plain(
        how, "write", "/.jailbuild", proof="/.jailbuild",
        prepare=lambda box: [(box / ".jailbuild").mkdir(), (box / ".jailbuild").chmod(0o777)],
    )


# 10: set-id


WAYS = [
    "chmod", "fchmod", "fchmodat", "open", "openat", "openat2", "creat", "tmpfile", "mknod", "mknodat", "int80",
    *(["fchmodat2"] if tuple(map(int, re.findall(r"\d+", platform.release())[:2])) >= (6, 6) else []),
]


def set_id_files(box: Path) -> list[str]:
    found = [Path(place, name) for place, _, names in os.walk(box) for name in names]
    return [
        str(path.relative_to(box)) for path in found
        if stat.S_ISREG(path.lstat().st_mode) and path.lstat().st_mode & 0o6000
    ]


@promise(10)
@pytest.mark.parametrize("way", WAYS)
def test_no_set_id_program_can_be_left_for_a_user_of_the_host(world: World, how: str, way: str) -> None:
    assert set_id_files(world.attack("plain", "set-id", way).box) == ["left/shell"]
    assert set_id_files(world.attack(how, "set-id", way).box) == []


@promise(10)
def test_a_set_id_program_of_the_box_loses_its_bits_when_it_is_written_to(world: World, how: str) -> None:
    def prepare(box: Path) -> None:
        (box / "su").write_bytes(b"x" * 4096)
        if how == "rootless":
            os.chown(box / "su", USER, USER)
        (box / "su").chmod(0o4755)

    def changed(mode: str) -> bool:
        box = world.attack(mode, "replace", "/su", prepare=prepare).box
        return (box / "su").read_bytes()[:1] == b"#" and set_id_files(box) == ["su"]

    assert changed("plain")
    assert not changed(how)


@promise(10)
def test_no_file_capability_can_be_given(world: World, how: str) -> None:
    assert "security.capability" in os.listxattr(world.attack("plain", "file-capability", "/attack").box / "attack")
    assert os.listxattr(world.attack(how, "file-capability", "/attack").box / "attack") == []


# 11: calls


@promise(11)
def test_calls_that_break_kernels_are_refused(world: World, how: str) -> None:
    assert {"bpf", "perf", "syslog"} <= set(world.attack("plain", "calls").said.split())
    assert world.attack(how, "calls").said == ""


@promise(11)
def test_keys_of_the_host_cannot_be_read(world: World, how: str) -> None:
    code = (
        "import ctypes, sys; call = ctypes.CDLL(None).syscall; word = sys.stdin.readline().strip().encode();"
        "key = call(248, b'user', word, word, len(word), -4);"  # add_key to the user's keyring
        "call(250, 5, key, 0x3f3f0000); print(key, flush=True);"  # KEYCTL_SETPERM: for the user too
        "sys.stdin.read(); call(250, 21, key)"  # KEYCTL_INVALIDATE
    )
    for mode in ("plain", how):
        with subprocess.Popen(
            [str(world.tools.python), "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            **world.user(mode),
        ) as keeper:
            write_line(keeper, world.token)
            assert int(read_line(keeper)) > 0
            assert (world.token in world.attack(mode, "keyring", world.token).said) == (mode == "plain")


# 12: the terminal


@promise(12)
@pytest.mark.parametrize("option", ["--pty", "--no-pty"])
def test_nothing_can_be_typed_into_the_terminal_of_the_caller_and_its_size_stays(
    world: World, how: str, option: str,
) -> None:
    def typed(mode: str, *words: str) -> tuple[bytes, int]:
        """Return what the caller's shell would read next, and how wide its terminal is."""
        master, terminal = pty.openpty()
        if how == "rootless":
            os.fchown(terminal, USER, USER)
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
        drain = threading.Thread(target=_drain, args=(master,), daemon=True)
        drain.start()
        try:
            ended = subprocess.run(
                world.command(mode, world.make_box(mode), *words, options=(option,)),
                stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True, timeout=PATIENCE,
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0), env=world.tools.environment,
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


# 13: sockets of the host


@promise(13)
def test_with_net_none_no_abstract_socket_passes_a_descriptor_in(world: World, how: str) -> None:
    with socket.socket(socket.AF_UNIX) as listening, open(world.secret) as secret:
        listening.bind("\0" + world.token)
        listening.listen()

        def give() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection, open(world.secret) as secret:
                        socket.send_fds(connection, [b"x"], [secret.fileno()])

        giver = threading.Thread(target=give, daemon=True)
        giver.start()
        assert secret.read() == world.token
        try:
            world.only_plain(how, "receive", world.token, options=("--net", "none"))
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            giver.join(PATIENCE)


@promise(13)
def test_with_net_none_there_are_no_sockets_that_namespaces_do_not_separate(world: World, how: str) -> None:
    """A vsock reaches the hypervisor, if the kernel has it."""
    try:
        socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()
        has_vsock = True
    except OSError:
        has_vsock = False
    assert ("vsock" in world.attack("plain", "vsock").said) == has_vsock
    assert world.attack(how, "vsock", options=("--net", "none")).said == ""


@promise(13)
def test_with_net_none_the_loopback_is_not_the_host_s(world: World, how: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection:
                        connection.sendall(world.token.encode())

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        try:
            world.only_plain(how, "loopback", listening.getsockname()[1], options=("--net", "none"))
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            server.join(PATIENCE)


# 14: code of the box in the launcher


@promise(14)
def test_a_python_module_planted_in_the_box_does_not_run(world: World, how: str) -> None:
    """Every module's name is taken, in every directory where Python would look, and in the directory that one is in."""
    evil = "import os\nos.close(os.open('/ran', os.O_CREAT | os.O_WRONLY, 0o666))\nraise SystemExit(0)\n"
    names = sorted(sys.stdlib_module_names - set(sys.builtin_module_names))
    paths = sysconfig.get_paths()
    places = ["", paths["stdlib"], paths["purelib"], str(world.tools.directory / "lib"), str(world.directory)]

    def prepare(box: Path) -> None:
        box.chmod(0o777)
        for place in places:
            directory = box / place.lstrip("/")
            directory.mkdir(parents=True, exist_ok=True)
            for name in (*names, "jailbuild", "click"):
                (directory / f"{name}.py").write_text(evil)

    naive = world.make_box("plain", prepare)
    code = f"import os; os.chroot({str(naive)!r}); os.chdir('/'); import colorsys"
    subprocess.run([world.tools.python, "-c", code], check=True)
    assert (naive / "ran").exists()
    ran = world.attack(how, "nothing", prepare=prepare)
    assert ran.said == "nothing\n"
    assert not (ran.box / "ran").exists()
    failing = world.command(how, ran.box, options=())[:-1]  # an error, too, is said without the box's help
    ended = subprocess.run(
        [*failing, "/nowhere"], env=world.tools.environment, capture_output=True, **world.user(how),
    )
    assert ended.returncode == 127
    assert not (ran.box / "ran").exists()


@promise(14)
def test_a_name_service_library_planted_in_the_box_does_not_run(world: World, how: str) -> None:
    source = world.directory / "evil.c"
    source.write_text(
        "#include <fcntl.h>\n#include <unistd.h>\n"
        "__attribute__((constructor)) static void ran(void) { close(open(\"/ran\", O_CREAT | O_WRONLY, 0666)); }\n",
    )
    library = world.directory / "libnss_evil.so.2"
    subprocess.run(["gcc", "-shared", "-fPIC", "-nostdlib", "-o", library, source], check=True)

    def prepare(box: Path) -> None:
        box.chmod(0o777)
        (box / "etc").mkdir()
        (box / "etc/nsswitch.conf").write_text("passwd: evil files\ngroup: evil files\nhosts: evil\n")
        (box / "etc/passwd").write_text("root:x:0:0::/:/attack\nuser:x:0:0::/:/attack\n")
        for place in ("lib64", "lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"):
            (box / place).mkdir(parents=True)
            for name in ("evil", "files", "compat", "dns"):
                shutil.copy(library, box / place / f"libnss_{name}.so.2")

    naive = world.make_box("plain", prepare)
    code = f"import os, pwd; os.chroot({str(naive)!r}); os.chdir('/'); pwd.getpwnam('nobody-at-all')"
    subprocess.run([world.tools.python, "-c", code], capture_output=True)
    assert (naive / "ran").exists()
    ran = world.attack(how, "nothing", prepare=prepare, options=("--user", "user"))
    assert ran.said == "nothing\n"
    assert not (ran.box / "ran").exists()


# 15, 17: nothing written, links


def tree(directory: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in (directory, *sorted(directory.rglob("*"))):
        status = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        found[str(path)] = status.st_mode, status.st_uid, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, content
    return found


@promise(15)
def test_entering_leaves_the_box_as_it_was(world: World, how: str) -> None:
    before: dict[Path, dict[str, tuple[object, ...]]] = {}

    def look(box: Path) -> None:
        (box / ".jailbuild").mkdir()
        if how == "rootless":
            os.chown(box / ".jailbuild", USER, USER)
        before[box] = tree(box)

    for words in (("nothing",), ("sweep-proc",)):
        ran = world.attack(how, *words, prepare=look)
        assert tree(ran.box) == before[ran.box]


TARGETS = ("proc", "dev", "dev/pts", "dev/shm", "dev/null", "sys", "run", "tmp", ".jailbuild", "etc/passwd", "data")


@promise(15, 17)
@pytest.mark.parametrize(("target", "kind"), [
    *((target, kind) for target in TARGETS for kind in ("absolute", "climbing", "magic")),
    *((target, kind) for target in ("proc", "dev", ".jailbuild") for kind in ("dangling", "to itself", "to a file")),
])
def test_a_link_at_a_mount_target_leads_nowhere_but_into_the_box(
    world: World, how: str, target: str, kind: str,
) -> None:
    """The place is entered without it, or not entered at all; nothing outside is seen, mounted over or written."""
    trap = world.directory / "trap"
    for name in ("", "pts", "shm", "sys", "kernel"):
        (trap / name).mkdir(exist_ok=True)
    for name in ("secret", "null", "passwd", "manifest.jsonl"):
        (trap / name).write_text(world.token)
    for path in (trap, *trap.rglob("*")):
        path.chmod(0o777)
    links = {
        "absolute": str(trap), "climbing": "../" * 30 + str(trap).lstrip("/"), "dangling": f"{trap}/nowhere",
        "to itself": os.path.basename(target), "to a file": f"{trap}/secret", "magic": f"/proc/{os.getpid()}/cwd/trap",
    }

    def prepare(box: Path) -> None:
        place = box / target
        place.parent.mkdir(exist_ok=True)
        if place.is_dir():
            shutil.rmtree(place)
        place.symlink_to(links[kind])

    as_it_was = tree(trap)
    options = ("--bind", f"{world.tools.directory}:/data", "--tmpfs", "/data") if target == "data" else ()
    ran = world.attack(
        how, "open", f"/{target}/secret", f"/{target}", prepare=prepare, options=options[:2], statuses=(0, 1, 125),
    )
    assert world.token not in ran.said + ran.words
    assert f"read /{target}/secret" not in ran.said
    if options:
        ran = world.attack(
            how, "open", f"/{target}/secret", prepare=prepare, options=options[2:], statuses=(0, 1, 125),
        )
        assert ran.said == ""
    assert tree(trap) == as_it_was


@promise(17)
def test_a_mount_by_hand_follows_such_a_link_out_of_the_box(world: World) -> None:
    """The control of the test above."""
    trap = world.directory / "trap"
    trap.mkdir()

    def prepare(box: Path) -> None:
        (box / "sys").rmdir()
        (box / "sys").symlink_to(trap)

    before = ("mount -t tmpfs none $box/sys", f"touch {world.directory}/trap/seen", f"! test -e {trap}/secret")
    world.attack("plain", "nothing", prepare=prepare, before=(*before, f"grep -q ' {trap} ' /proc/self/mountinfo"))


# 16: the end


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
    def left(mode: str) -> bool:
        with subprocess.Popen(
            world.command(mode, world.make_box(mode), "stay", world.token + mode), stdout=subprocess.PIPE, text=True,
            env=world.tools.environment, **world.user(mode),
        ) as launcher:
            assert read_line(launcher) == "started\n"
            assert len(attackers(world.token + mode)) == 2
            launcher.kill()
            launcher.wait(PATIENCE)
            end = time.monotonic() + (PATIENCE if mode != "plain" else 1)
            while attackers(world.token + mode) and time.monotonic() < end:
                time.sleep(0.02)
            found = attackers(world.token + mode)
            for process in found:
                os.kill(process, signal.SIGKILL)
        return bool(found)

    assert left("plain")
    assert not left(how)


# 18: programs of the host


@promise(18)
@pytest.mark.parametrize("lead", ["link", "script", "script to a link", "script to a script"])
def test_a_command_that_leads_to_the_launcher_s_own_program_does_not_reach_it(
    world: World, how: str, lead: str,
) -> None:
    """The program is the host's Python; the loader that it asks for is the box's, and changes its mode."""
    python = world.directory / "python3"

    def prepare(box: Path) -> None:
        (box / "lib64").mkdir()
        shutil.copy(world.tools.loader, box / "lib64/ld-linux-x86-64.so.2")
        (box / "attack").unlink()
        (box / "link").symlink_to("/proc/self/exe")
        (box / "script").write_text("#!/proc/self/exe\n")
        (box / "attack").write_text({
            "script": "#!/proc/self/exe\n", "script to a link": "#!/link\n", "script to a script": "#!/script\n",
        }.get(lead, ""))
        if lead == "link":
            (box / "attack").unlink()
            (box / "attack").symlink_to("/proc/self/exe")
        else:
            (box / "attack").chmod(0o755)
            (box / "script").chmod(0o755)

    def changed(mode: str) -> int:
        shutil.copy(world.tools.python, python)
        python.chmod(0o755)
        if how == "rootless":
            os.chown(python, USER, USER)
        before = ("mount -t proc proc $box/proc",) if mode == "plain" else ()
        ran = world.attack(mode, prepare=prepare, by=python, before=before, statuses=(0, 1, 126))
        if mode != "plain":
            assert ran.status == 126
        return stat.S_IMODE(python.stat().st_mode)

    assert changed("plain") == 0o777
    assert changed(how) == 0o755


# 19: read-only


@promise(19)
def test_a_read_only_box_cannot_be_written_to(world: World, how: str) -> None:
    places = ("/", "/usr", "/proc", "/sys", "/run")
    assert set(world.attack("plain", "write", "/", "/usr").said.split()) == {"/", "/usr"}
    ran = world.attack(how, "write", *places, options=("--read-only",))
    assert ran.said == ""


@promise(19)
@pytest.mark.parametrize("below", [False, True], ids=["itself", "a mount below"])
def test_what_is_bound_read_only_cannot_be_written_to(world: World, how: str, below: bool) -> None:
    shared = world.directory / "shared"
    (shared / "below").mkdir(parents=True)
    before = (f"mount -t tmpfs none {shared}/below" if below else "true", f"chmod 777 {shared} {shared}/below")
    place = "/shared/below" if below else "/shared"
    writable = world.attack(how, "write", place, before=before, options=("--bind", f"{shared}:/shared"),
                            prepare=lambda box: (box / "shared").mkdir())
    assert writable.said == f"{place}\n"
    ran = world.attack(how, "write", place, before=before, options=("--bind", f"{shared}:/shared:ro"),
                       prepare=lambda box: (box / "shared").mkdir())
    assert ran.said == ""


# 20, 21


@promise(20)
def test_a_mode_that_cannot_be_had_is_refused_and_not_weakened(world: World) -> None:
    def drop() -> None:
        _libc.prctl(24, 21, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_SYS_ADMIN: gone at the next execve

    ran = world.attack("isolated", "nothing", preexec_fn=drop, statuses=(125,))
    assert ran.said == ""
    assert "--plain" in ran.words


@promise(21)
def test_root_of_a_rootless_box_has_the_rights_of_the_caller(world: World) -> None:
    private = world.directory / "private"
    private.mkdir()
    (private / "file").write_text(world.token)
    (private / "file").chmod(0o600)

    def prepare(box: Path) -> None:
        (box / "private").mkdir()

    lent: dict[str, Any] = {"options": ("--bind", f"{private}:/private"), "prepare": prepare}
    assert "read" in world.attack("isolated", "open", "/private/file", **lent).said
    assert world.attack("rootless", "open", "/private/file", **lent).said == ""
    assert world.attack("rootless", "modes", 0o666, "/private/file", **lent).said == ""
    assert world.attack("rootless", "write", "/private", **lent).said == ""


def test_each_sentence_of_the_promise_is_attacked() -> None:
    assert sorted(cited) == list(PROMISES)
