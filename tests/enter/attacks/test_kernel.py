"""Devices, /proc, mounts, namespaces and calls: ways to the host through its kernel."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.enter.attacks.world import NEEDS, USER, World, promise, read_line, write_line

pytestmark = NEEDS


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
    world: World,
    how: str,
    device: tuple[str, int, int],
    below: bool,
) -> None:
    node = "$box/usr/node"
    before: tuple[str, ...] = (f"mknod -m 666 {node} {device[0]} {device[1]} {device[2]}",)
    if below:
        before = ("mount -t tmpfs none $box/usr", *before)
    assert world.only_plain(how, "open", "/usr/node", proof="read", before=before).said == ""


@promise(1, 6)
@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("with_dev", [True, False], ids=["a box with /dev", "a box without"])
def test_a_device_that_the_caller_redirects_from_or_to_keeps_its_mode(
    world: World,
    how: str,
    number: int,
    with_dev: bool,
) -> None:
    lent = world.directory / "null"  # as the host's
    os.mknod(lent, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    lent.chmod(0o666)
    if how == "rootless":
        os.chown(lent, USER, USER)
    device = os.open(lent, os.O_RDWR)
    stream = ("stdin", "stdout", "stderr")[number]

    def prepare(box: Path) -> None:
        if not with_dev:
            shutil.rmtree(box / "dev")

    def mode_after(mode: str, **more: Any) -> int:
        arguments: dict[str, Any] = {stream: device, "prepare": prepare}
        world.attack(mode, "modes", 0o640, f"/proc/self/fd/{number}", **arguments, **more)
        return stat.S_IMODE(lent.stat().st_mode)

    try:
        assert mode_after("plain", before=("mount -t proc none $box/proc",)) == 0o640
        lent.chmod(0o666)
        assert mode_after(how) == 0o666
    finally:
        os.close(device)


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
        how,
        "write",
        "/.jailbuild",
        proof="/.jailbuild",
        prepare=lambda box: [(box / ".jailbuild").mkdir(), (box / ".jailbuild").chmod(0o777)],
    )


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
            [str(world.tools.python), "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            **world.user(mode),
        ) as keeper:
            write_line(keeper, world.token)
            assert int(read_line(keeper)) > 0
            assert (world.token in world.attack(mode, "keyring", world.token).said) == (mode == "plain")
