"""A change that is cut short: the box is as it was or as it should be, and the next command sees to that."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import itertools
import json
import os
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from jailbuild import syscalls
from jailbuild.box import apply, record, replay, stage
from tests import needs
from tests.box import tiny
from tests.box.running import (
    NOBODY,
    PATIENCE,
    Done,
    complaint,
    dump,
    forked,
    inside,
    manifest,
    open_to_all,
    put,
    run,
    settled,
    state,
)

ALL = bool(os.environ.get("JAILBUILD_ALL"))  # every step of a recovery after every step of a change
MINE = "usr/bin/mine"


class Change(NamedTuple):
    """A change of a box: what there is before, and the command, to which --sysroot and the box are added."""

    before: Callable[[Path, Path], None]  # told the box and the source root
    command: tuple[str, ...]
    prepare: Callable[[], None] = lambda: None  # in the process of the change


def bump(sysroot: Path) -> None:
    """A new version of a library: another file, and the link moved to it."""
    libraries = sysroot / tiny.LIBRARIES
    (libraries / "libpcre.so.8.1").unlink()
    tiny.library(libraries / "libpcre.so.8.2", soname="libpcre.so.8", value=9)
    (libraries / "libpcre.so.8").unlink()
    (libraries / "libpcre.so.8").symlink_to("libpcre.so.8.2")
    with (libraries / "libtinfo.so.6.4").open("ab") as file:
        file.write(b"security update")


def _nothing(box: Path, sysroot: Path) -> None:
    pass


def _directory(box: Path, sysroot: Path) -> None:
    (box / "usr/bin").mkdir(parents=True)
    (box / MINE).write_text("mine")


def _box(*programs: str) -> Callable[[Path, Path], None]:
    def before(box: Path, sysroot: Path) -> None:
        put(box, *programs, root=sysroot)
        (box / MINE).write_text("mine")

    return before


def _bumped(*programs: str) -> Callable[[Path, Path], None]:
    def before(box: Path, sysroot: Path) -> None:
        _box(*programs)(box, sysroot)
        bump(sysroot)

    return before


def _modes(box: Path, sysroot: Path) -> None:
    _box("editor")(box, sysroot)
    (sysroot / tiny.LIBRARIES / "libtinfo.so.6.4").chmod(0o555)
    (sysroot / "etc/alternatives").chmod(0o700)


def _family(box: Path, sysroot: Path) -> None:
    for name in ("git", "git-log", "git-show"):
        if name != "git":
            os.link(sysroot / "usr/bin/git", sysroot / "usr/bin" / name)
        else:
            tiny.program(sysroot / "usr/bin/git")
    put(box, "git-log", "bash", root=sysroot)


def _joined(box: Path, sysroot: Path) -> None:
    _family(box, sysroot)
    _box("bash", "env", "git", "git-show")(box, sysroot)
    for name, other in (("env", "bash"), ("git-show", "")):
        path = sysroot / "usr/bin" / name
        whole = path.read_bytes()
        path.unlink()
        if other:
            os.link(sysroot / "usr/bin" / other, path)
        else:
            path.write_bytes(whole)
            path.chmod(0o755)
        os.utime(path, ns=(tiny.TIME * 10**9,) * 2)
    os.utime(sysroot / "usr/bin/git-show", ns=((sysroot / "usr/bin/git").stat().st_mtime_ns,) * 2)


def _given_up(box: Path, sysroot: Path) -> None:
    _bumped("editor")(box, sysroot)
    (box / tiny.LIBRARIES / "libtinfo.so.6.4").write_text("mine, and may go")


def _without_exchange() -> None:
    def cannot(*_: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    for name in ("rename_new", "exchange"):
        setattr(syscalls, name, cannot)


def _with_listings_as_old_as_descriptors() -> None:
    """Be as btrfs: a descriptor of a directory lists what was there when it was made."""
    there: dict[int, list[str]] = {}
    now = os.listdir

    def noting(opening: Callable[..., int]) -> Callable[..., int]:
        def opened(*arguments: object, **options: object) -> int:
            descriptor = opening(*arguments, **options)
            there.pop(descriptor, None)
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                with contextlib.suppress(OSError):  # an O_PATH one
                    there[descriptor] = now(descriptor)
            return descriptor

        return opened

    def as_it_was(place: str | int) -> list[str]:
        return there[place] if isinstance(place, int) else now(place)

    for module, name, other in (
        (syscalls, "openat2", noting(syscalls.openat2)),
        (os, "open", noting(os.open)),
        (os, "listdir", as_it_was),
    ):
        setattr(module, name, other)


TINFO = f"/{tiny.LIBRARIES}/libtinfo.so.6.4"
CHANGES = {
    "a first add": Change(_nothing, ("add", "bash", "ls")),
    "a first add into a directory": Change(_directory, ("add", "bash", "ls", "--adopt")),
    "an add": Change(_box("bash"), ("add", "editor")),
    "an add to a family": Change(_family, ("add", "git", "git-show")),
    "an add that plans all anew": Change(_bumped("editor"), ("add", "ls")),
    "a removal": Change(_box("bash", "editor", "ls"), ("remove", "editor", "ls")),
    "a removal from a family": Change(_family, ("remove", "git-log")),
    "an update": Change(_bumped("editor"), ("update",)),
    "an update of modes": Change(_modes, ("update",)),
    "an update of families alone": Change(_joined, ("update",)),
    "an update over what was given up": Change(_given_up, ("update", "--replace", TINFO)),
    "an update where nothing can be exchanged": Change(_bumped("editor"), ("update",), _without_exchange),
    "an update where listings are old": Change(_bumped("editor"), ("update",), _with_listings_as_old_as_descriptors),
    "a removal where nothing can be exchanged": Change(_box("bash", "editor"), ("remove", "editor"), _without_exchange),
}


class World:
    """A box and its source root before a change, to be had as often as need be."""

    def __init__(self, change: Change, sysroot: Path, place: Path) -> None:
        self.change = change
        self.sysroot = sysroot
        self.kept = place / "kept"
        self.place = place / "place"
        self.box = self.place / "box"
        self.place.mkdir()
        change.before(self.box, sysroot)
        subprocess.run(["cp", "-a", self.place, self.kept], check=True)
        self.before = settled(self.box)

    def restore(self) -> None:
        """Have the box as it was."""
        shutil.rmtree(self.place)
        subprocess.run(["cp", "-a", self.kept, self.place], check=True)

    def run(self, die_at: str | int = "") -> Done:
        """Make the change."""
        verb, *words = self.change.command
        words += {"add": ["--into"], "remove": ["--from"], "update": []}[verb]
        root = [] if verb == "remove" else ["--sysroot", str(self.sysroot)]
        return forked(verb, *words, self.box, *root, "--no-sync", die_at=die_at, prepare=self.change.prepare)

    def recover(self, die_at: str | int = "") -> Done:
        """Do what every command does first with a box that a killed one has left."""
        if not self.box.exists():
            return Done([], 0, "", "")
        return forked(self.box, die_at=die_at, call="recover", prepare=self.change.prepare)


class Layered(World):
    """The same where the box is in the lower layer of an overlayfs, as that of an image is for a container.

    What is changed is copied up first: with other inode numbers where the layers are of two file systems, and apart
    from its hard links.
    """

    def __init__(self, change: Change, sysroot: Path, place: Path, layers: Path) -> None:
        super().__init__(change, sysroot, place)
        self.layers = layers
        assert self.run().returncode == 0
        self.after = settled(self.box)  # where there are no layers
        super().restore()
        self.mount()

    def mount(self) -> None:
        for name in ("upper", "work"):
            shutil.rmtree(self.layers / name, ignore_errors=True)
            (self.layers / name).mkdir()
        options = f"lowerdir={self.kept},upperdir={self.layers / 'upper'},workdir={self.layers / 'work'}"
        subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", self.place], check=True)

    def restore(self) -> None:
        subprocess.run(["umount", self.place], check=True)
        self.mount()


@pytest.fixture(params=["one file system", "two"])
def layered(
    request: pytest.FixtureRequest,
    made: Path,
    memory: Path,
    tmp_path: Path,
) -> Iterator[Callable[[str], Layered]]:
    """Return what gives the world of a change of CHANGES, its box in a lower layer."""
    needs.may_mount()
    if not needs.has_file_system("overlay"):
        pytest.skip("this kernel has no overlay")
    layers, worlds = memory, list[Layered]()
    if request.param == "two":
        layers = tmp_path / "layers"
        layers.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "none", layers], check=True)

    def make(name: str) -> Layered:
        worlds.append(Layered(CHANGES[name], tiny.clone(made, memory / "sysroot"), memory, layers))
        return worlds[0]

    try:
        yield make
    finally:
        for one in worlds:
            subprocess.run(["umount", one.place], check=True)
        if layers != memory:
            subprocess.run(["umount", layers], check=True)


@pytest.fixture
def world(request: pytest.FixtureRequest, made: Path, memory: Path) -> World:
    """The world of a change of CHANGES."""
    return World(CHANGES[request.param], tiny.clone(made, memory / "sysroot"), memory)


def _without_link_counts(found: dict[str, str] | None) -> dict[str, str]:
    """Leave out how many names a file has: of one in a lower layer it is what it was there."""
    assert found is not None
    return {path: what.rpartition(" ")[0] if what.startswith("file") else what for path, what in found.items()}


@pytest.mark.parametrize("name", [name for name, change in CHANGES.items() if change.before is not _nothing])
def test_a_box_of_a_lower_layer_is_changed_as_any_other(layered: Callable[[str], Layered], name: str) -> None:
    """What comes of it is what comes of it elsewhere; with JAILBUILD_ALL killed at any step, too."""
    world = layered(name)
    assert world.run().returncode == 0
    assert _without_link_counts(settled(world.box)) == _without_link_counts(world.after)
    if ALL:
        world.restore()
        _kill_at_every_step(world)


@pytest.mark.parametrize("world", CHANGES, indirect=True)
def test_a_kill_at_any_step_leaves_the_box_as_it_was_or_as_it_should_be(world: World) -> None:
    """Once somebody has looked at it; and until then it says so. Doing it again makes it as it should be."""
    _kill_at_every_step(world)


def _kill_at_every_step(world: World) -> None:
    assert world.run().returncode == 0
    after = settled(world.box)
    assert after != world.before
    outcomes = []
    for step in itertools.count(1):
        world.restore()
        done = world.run(step)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done
        recovered = world.recover()
        assert recovered.returncode == 0, recovered
        found = settled(world.box)
        assert found in (world.before, after)
        assert os.listdir(world.place) in (["box"], [])
        outcomes.append(found == after)
        assert world.recover().stdout.strip() == ""
        if found == world.before or world.change.command[0] != "remove":  # what is removed cannot be removed again
            assert world.run().returncode == 0
        assert after == settled(world.box)
    assert outcomes == sorted(outcomes)  # there is one point from which on it is finished
    assert set(outcomes) == {False, True}
    assert len(outcomes) > 10


@pytest.mark.parametrize("world", CHANGES, indirect=True)
def test_a_recovery_may_be_killed_too(world: World) -> None:
    """At any step, and again and again: the one that is let be ends it."""
    assert world.run().returncode == 0
    after = settled(world.box)
    for step in itertools.count(1, 1 if ALL else 4):
        world.restore()
        if world.run(step).returncode == 0:
            break
        for again in itertools.count(1):
            recovered = world.recover(again)
            if recovered.returncode == 0:
                break
            assert recovered.returncode == -signal.SIGKILL, recovered
        assert settled(world.box) in (world.before, after)


@pytest.mark.parametrize("world", CHANGES if ALL else ["an update"], indirect=True)
def test_a_second_recovery_finishes_what_the_first_began(world: World) -> None:
    """Wherever the change was killed, and wherever its recovery."""
    assert world.run().returncode == 0
    after = settled(world.box)
    for step in itertools.count(1, 1 if ALL else 4):
        world.restore()
        if world.run(step).returncode == 0:
            break
        killed = world.place.with_name("killed")
        subprocess.run(["cp", "-a", world.place, killed], check=True)
        for again in itertools.count(1, 1 if ALL else 4):
            shutil.rmtree(world.place)
            subprocess.run(["cp", "-a", killed, world.place], check=True)
            if world.recover(again).returncode == 0:
                break
            assert world.recover().returncode == 0
            assert settled(world.box) in (world.before, after), (step, again)
        shutil.rmtree(killed)


@pytest.mark.parametrize("name", ["locked", "next", "commit", "place:2", "remove:1", "cleared"])
def test_the_next_command_recovers(sysroot: Path, box: Path, name: str) -> None:
    """Whichever it is, and it says so in a line: here a real process, killed by its environment."""
    _bumped("editor")(box, sysroot)
    put(box.with_name("other"), "editor", "bash", root=sysroot)
    number = "" if ":" in name else ":1"
    done = subprocess.run(
        [sys.executable, "-m", "jailbuild", "update", box, "--sysroot", sysroot],
        env=os.environ | {"JAILBUILD_DIE_AT": f"{name}{number}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done
    done = run("add", "bash", "--into", box, "--sysroot", sysroot)
    assert done.returncode == 0, done
    told = [line for line in done.stderr.splitlines() if "cut short" in line]
    assert len(told) == (name not in ("locked", "cleared")), done.stderr
    (box / MINE).unlink()
    assert settled(box.with_name("other")) == settled(box)


def test_kills_at_random_times(sysroot: Path, box: Path) -> None:
    """Add, remove, update, one after the other, each killed somewhere: what is there is always a whole box."""
    began = time.monotonic()
    assert run("add", "bash", "--into", box, "--sysroot", sysroot).returncode == 0
    whole = time.monotonic() - began  # of such a command, on this machine as busy as it is
    libraries = sysroot / tiny.LIBRARIES
    dice = random.Random(4)
    killed = number = 0
    while killed < 16:
        number += 1
        verb, *words = (("add", "editor", "ls", "--into"), ("update",), ("remove", "editor", "--from"))[number % 3]
        if verb == "update":
            tiny.library(libraries / "libpcre.so.8.1", soname="libpcre.so.8", value=number)
        root = [] if verb == "remove" else ["--sysroot", str(sysroot)]
        process = subprocess.Popen(
            [sys.executable, "-m", "jailbuild", verb, *words, box, *root],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        try:
            process.wait(dice.uniform(0.2 * whole, whole))
        except subprocess.TimeoutExpired:
            process.kill()
        _, said = process.communicate()
        killed += process.returncode == -signal.SIGKILL
        assert process.returncode in (0, -signal.SIGKILL) or "never added" in said, said
        assert forked(box, call="recover").returncode == 0
        assert settled(box) is not None
        assert forked("check", box, "--strict").returncode == 0, number
        names = {line["name"] for line in manifest(box) if line["kind"] == "request"}
        assert names in ({"bash"}, {"bash", "ls"}, {"bash", "ls", "editor"})
        fresh = box.with_name(f"fresh{number}")
        if forked("update", box, "--dry-run", "--sysroot", sysroot).returncode == 0:
            put(fresh, *names, root=sysroot)
            assert settled(fresh) == settled(box)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount a tmpfs with these options."""
    needs.may_mount()
    place = tmp_path / "small"
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(options: str) -> Path:
        place.mkdir(exist_ok=True)
        assert libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, options.encode()) == 0
        return place

    yield mount
    if os.path.ismount(place):
        libc.umount2(os.fsencode(place), 2)  # MNT_DETACH


@pytest.mark.parametrize("what", ["bytes", "inodes"])
@pytest.mark.parametrize("there", ["no box", "a box"])
def test_a_disk_full_at_any_level(sysroot: Path, small: Callable[[str], Path], what: str, there: str) -> None:
    """One line and everything as it was, until there is enough; or it is done."""
    place = small("size=1500k,nr_inodes=400")
    box = place / "box"
    if there == "a box":
        put(box, "editor", root=sysroot)
        bump(sysroot)
    command = ("update", box) if there == "a box" else ("add", "editor", "ls", "--into", box)
    before = settled(box)
    outcomes = []
    for left in range(0, 400, 12) if what == "bytes" else range(60):
        for name in os.listdir(place):
            if name != "box":
                (place / name).unlink()
        disk = os.statvfs(place)
        if what == "bytes":
            (place / "filler").write_bytes(bytes(max(0, disk.f_bfree * disk.f_bsize - left * 1024)))
        else:
            for number in range(disk.f_ffree - left):
                (place / f"filler{number}").touch()
        done = forked(*command, "--sysroot", sysroot)
        outcomes.append(done.returncode)
        if done.returncode == 0:
            break
        assert "No space left on device" in complaint(done)
        assert before == settled(box)
        assert there == "a box" or not box.exists()
    assert set(outcomes) == {0, 1}
    shutil.rmtree(box) if there == "no box" else None
    if there == "a box":
        assert forked("check", box, "--strict").returncode == 0


@needs.loop_devices
def test_a_disk_that_fills_after_the_commit(sysroot: Path, tmp_path: Path) -> None:
    """The journal stays, one line says why, and the next command goes on as soon as there is space."""
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is not installed")
    image, box = tmp_path / "image", tmp_path / "mounted/box"
    box.parent.mkdir()
    with image.open("wb") as file:
        file.truncate(8 << 20)
    for setting_up in (f"mkfs.ext4 -q -b 1024 -O ^has_journal -m 0 {image}", f"mount -o loop {image} {box.parent}"):
        subprocess.run(setting_up.split(), capture_output=True, check=True)
    try:
        put(box, "bash", root=sysroot)
        names = [f"{'long' * 40}{number}" for number in range(20)]  # more than one block of a directory holds
        for name in names:
            tiny.script(sysroot / "usr/bin" / name, "#!/bin/bash")
        before = settled(box)
        command = ("add", *names, "--into", str(box), "--sysroot", str(sysroot), "--no-sync")
        assert forked(*command, die_at="commit:1").returncode == -signal.SIGKILL
        with contextlib.suppress(OSError), (box.parent / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1024))
        done = forked(*command)
        assert "No space left on device" in complaint(done)
        assert (box / ".jailbuild/journal").exists()
        assert complaint(done) == complaint(forked(*command))
        (box.parent / "filler").unlink()
        assert forked(box, call="recover").returncode == 0
        put(tmp_path / "fresh", "bash", *names, root=sysroot)
        assert settled(tmp_path / "fresh") == settled(box) != before
    finally:
        subprocess.run(["umount", box.parent], check=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("change", ["a first add", "an update"])
def test_a_signal_at_any_step(made: Path, memory: Path, number: int, change: str) -> None:
    """Nothing is left of the change, or it is finished; the exit status says that it was stopped."""
    world = World(CHANGES[change], tiny.clone(made, memory / "sysroot"), memory)
    assert world.run().returncode == 0
    after = settled(world.box)
    outcomes = []
    for step in itertools.count(1):

        def signalled(step: int = step) -> None:
            reached = itertools.count(1)

            def mark(_name: str) -> None:
                if next(reached) == step:
                    os.kill(os.getpid(), number)

            for module in (apply, record, replay, stage):
                module.step = mark  # type: ignore[attr-defined]

        world.restore()
        world.change = world.change._replace(prepare=signalled)
        done = world.run()
        if done.returncode == 0:
            break
        assert done.returncode in (128 + number, -number), (step, done)
        assert settled(world.box) in (world.before, after), step
        assert os.listdir(world.place) == (["box"] if world.box.exists() else [])
        assert world.box.exists() == (settled(world.box) is not None)
        outcomes.append(settled(world.box) == after)
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {False, True}


@contextlib.contextmanager
def writer(box: Path) -> Iterator[None]:
    """Hold the lock of a box, as a writer at work does."""
    with (box / ".jailbuild/lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(json.dumps({"pid": 4711, "command": "jailbuild add everything", "made_box": False}))
        lock.flush()
        yield
        lock.truncate(0)


def test_a_second_writer_waits_and_says_for_whom(sysroot: Path, box: Path) -> None:
    """The process and its command; and goes on when that has ended."""
    put(box, "bash", root=sysroot)
    with writer(box):
        process = subprocess.Popen(
            [sys.executable, "-m", "jailbuild", "add", "ls", "--into", box, "--sysroot", sysroot],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        told = process.stderr.readline()
        assert all(what in told for what in (str(box), "4711", "jailbuild add everything")), told
        assert process.poll() is None
        assert not (box / "usr/bin/ls").exists()
    _, words = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, words
    assert inside(box, "/usr/bin/ls").returncode == 9


@pytest.mark.parametrize("command", [("add", "ls", "--into"), ("remove", "bash", "--from"), ("update",)])
def test_a_writer_that_will_not_wait_is_refused(sysroot: Path, box: Path, command: tuple[str, ...]) -> None:
    """With --no-wait: exit status 1, one line that says who is at it, nothing changed."""
    put(box, "bash", root=sysroot)
    bump(sysroot)
    before = state(box)
    root = () if command[0] == "remove" else ("--sysroot", sysroot)
    with writer(box):
        assert "4711 (jailbuild add everything)" in complaint(forked(*command, box, *root, "--no-wait"))
        assert {**before, "/.jailbuild/lock": ""} == {**state(box), "/.jailbuild/lock": ""}


@pytest.mark.parametrize("command", [("list",), ("why",), ("check",), ("enter", "--plain"), ("update", "--dry-run")])
@pytest.mark.parametrize("there", ["a box at rest", "a change under way"])
def test_readers_are_not_blocked(sysroot: Path, box: Path, command: tuple[str, ...], there: str) -> None:
    """Neither by a lock that is held, nor by what its holder has begun; and they leave that alone."""
    put(box, "bash", root=sysroot)
    if there == "a change under way":
        forked("add", "ls", "--into", box, "--sysroot", sysroot, die_at="next:1")
    last: dict[str, tuple[str, ...]] = {
        "why": ("/usr/bin/bash",),
        "enter": ("/usr/bin/bash",),
        "update": ("--sysroot", str(sysroot)),
    }
    with writer(box):
        before = state(box)
        done = forked(*command, box, *last.get(command[0], ()))
        assert done.returncode == (6 if command[0] == "enter" else 0), done
        assert before == state(box)


def test_two_adds_at_once_both_end_up_in_the_box(sysroot: Path, box: Path) -> None:
    """Whoever comes second plans again; also where there was no box."""
    for _ in range(4):
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "jailbuild", "add", name, "--into", box, "--sysroot", sysroot],
                stderr=subprocess.PIPE,
                text=True,
            )
            for name in ("bash", "ls", "editor")
        ]
        words = [process.communicate(timeout=PATIENCE)[1] for process in processes]
        assert [process.returncode for process in processes] == [0, 0, 0], words
        fresh = box.with_name("fresh")
        put(fresh, "bash", "ls", "editor", root=sysroot)
        assert settled(fresh) == settled(box)
        shutil.rmtree(box)
        shutil.rmtree(fresh)


def _hard_link(lock: Path) -> None:
    other = lock.parents[2] / "of the host"
    other.write_text("precious")
    os.link(other, lock)


LOCKS: dict[str, Callable[[Path], object]] = {
    "a FIFO": os.mkfifo,
    "a directory": os.mkdir,
    "a link": lambda lock: lock.symlink_to("/etc/passwd"),
    "a link to nothing": lambda lock: lock.symlink_to("nothing"),
    "a device": lambda lock: os.mknod(lock, 0o600 | stat.S_IFCHR, os.makedev(1, 7)),
    "a file of the host": _hard_link,
}


@pytest.mark.parametrize("what", LOCKS)
def test_a_lock_that_is_none_is_refused(sysroot: Path, box: Path, what: str) -> None:
    """In one line, at once, and nothing is written to where it may lead."""
    put(box, "bash", root=sysroot)
    lock = box / ".jailbuild/lock"
    lock.unlink()
    LOCKS[what](lock)
    before = state(box)
    assert "/.jailbuild/lock" in complaint(forked("add", "ls", "--into", box, "--sysroot", sysroot))
    assert before == state(box)
    if what == "a file of the host":
        assert (box.parent / "of the host").read_text() == "precious"


@pytest.mark.parametrize(
    "words",
    [
        b"",
        b"\xff\x00garbage",
        b"[" * 5000,
        b'{"pid": "x"}',
        b'{"pid": 1e999, "command": 1}',
        b"[1]",
        b'{"pid": 1, "command": "\\u001b[31mred\\nline"}',
        b'{"pid": ' + b"9" * 5000,
    ],
)
def test_garbage_in_the_lock_does_no_harm(sysroot: Path, box: Path, words: bytes) -> None:
    """It is held by somebody, whatever it says; and free when nobody holds it."""
    put(box, "bash", root=sysroot)
    lock = box / ".jailbuild/lock"
    lock.write_bytes(words)
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        refused = complaint(forked("add", "ls", "--into", box, "--sysroot", sysroot, "--no-wait"))
        assert "is writing to it" in refused
        assert "\033" not in refused
    assert forked("add", "ls", "--into", box, "--sysroot", sysroot).returncode == 0


def _as_nobody() -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def test_who_recovers_need_not_be_who_was_killed(made: Path, tmp_path: Path) -> None:
    """A box that somebody else than root has begun is finished by root, told to: its owners are merely intended."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    open_to_all(made, tmp_path)
    done = forked(
        "add", "bash", "ls", "--into", shared / "box", "--sysroot", made, die_at="commit:1", prepare=_as_nobody
    )
    assert done.returncode == -signal.SIGKILL, done
    done = forked("update", "--recover", shared / "box")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (0, "", 1), done
    put(tmp_path / "fresh", "bash", "ls", root=made)
    assert dump(tmp_path / "fresh", contents=True) == dump(shared / "box", contents=True)
    assert inside(shared / "box", "/usr/bin/ls").returncode == 9


def _order(trace: str) -> list[str]:
    """Return what a trace of system calls says of the order, in a word each."""
    seen = []
    for line in trace.splitlines():
        call = line.partition(" ")[2].strip()
        words = re.findall(r'"([^"]*)"', call)
        name = call.partition("(")[0]
        if " = -1 " in call:
            continue
        if name in ("syncfs", "fsync"):
            seen.append(name)
        elif name.startswith("rename"):
            into = words[1].rpartition("/")[2]
            last = "take" if len(into) == 40 else "place"
            seen.append({"journal": "commit", "manifest.jsonl": "end"}.get(into, last))
        elif name.startswith("mkdir"):
            seen.append("record" if words[0] in (".jailbuild", "staging") else "mkdir")
        elif name == "openat" and "O_CREAT" in call and words[0] != "lock":
            seen.append("next" if words[0] == "manifest.next" else "stage")
        elif name.startswith(("symlink", "link")):
            seen.append("stage")
        elif name.startswith("unlink") and "lock" not in words:
            seen.append("remove")
    return [what for what, _ in itertools.groupby(seen)]


def test_writes_and_syncs_keep_their_order(sysroot: Path, box: Path) -> None:
    """What a power loss can do follows from it: nothing is relied on before it is on disk."""
    put(box, "editor", root=sysroot)
    bump(sysroot)
    tiny.script(sysroot / "opt/new", "#!/bin/editor")
    (sysroot / "usr/bin/editor").unlink()
    (sysroot / "usr/bin/editor").symlink_to("/opt/new")
    (sysroot / "opt/new").write_bytes((sysroot / "usr/bin/vim.basic").read_bytes())
    trace = box.with_name("trace")
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    subprocess.run(
        [
            "strace",
            "-f",
            "-o",
            trace,
            "-e",
            "trace=openat,openat2,/rename,/mkdir,/unlink,rmdir,/link,syncfs,fsync",
            sys.executable,
            "-m",
            "jailbuild",
            "update",
            box,
            "--sysroot",
            sysroot,
        ],
        check=True,
        capture_output=True,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    order = _order(trace.read_text())
    assert order[:7] == ["record", "stage", "next", "syncfs", "mkdir", "commit", "fsync"]
    assert order[7:-5] == [what for what in order[7:-5] if what in ("place", "remove", "take")]
    assert {"place", "remove", "take"} <= set(order[7:-5])
    assert order[-4:] == ["syncfs", "end", "remove", "fsync"]


@pytest.mark.parametrize("is_ever", [False, True])
def test_a_source_that_changes_meanwhile_is_planned_anew(sysroot: Path, box: Path, is_ever: bool) -> None:
    """Between the plan and the copy; one that never rests is refused in the end, and nothing stays."""
    program = sysroot / "usr/bin/ls"

    def change() -> None:
        changes = itertools.count()

        def mark(name: str) -> None:
            if name == "locked" and (next(changes) == 0 or is_ever):
                with program.open("ab") as file:
                    file.write(b"upgraded")

        setattr(apply, "step", mark)  # noqa: B010

    done = forked("add", "ls", "bash", "--into", box, "--sysroot", sysroot, prepare=change)
    if is_ever:
        assert "/usr/bin/ls" in complaint(done)
        assert not box.exists()
    else:
        assert done.returncode == 0, done
        put(box.with_name("fresh"), "ls", "bash", root=sysroot)
        assert settled(box.with_name("fresh")) == settled(box)


@pytest.mark.parametrize("change", ["an add", "an update", "a removal"])
def test_somebody_else_than_root_is_served_alike(made: Path, memory: Path, change: str) -> None:
    """Killed, and recovered, without a privilege."""
    open_to_all(made, memory)
    world = World(CHANGES[change], tiny.clone(made, memory / "sysroot"), memory)
    for path in (world.place, world.kept):
        subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", path], check=True)
    world.before = settled(world.box)
    world.change = world.change._replace(prepare=_as_nobody)
    assert world.run().returncode == 0
    after = settled(world.box)
    outcomes = set()
    for step in itertools.count(1, 3):
        world.restore()
        if world.run(step).returncode == 0:
            break
        assert world.recover().returncode == 0
        assert settled(world.box) in (world.before, after)
        outcomes.add(settled(world.box) == after)
    assert outcomes == {False, True}


def test_a_read_only_box_with_a_journal_waits(sysroot: Path, small: Callable[[str], Path]) -> None:
    """One line; and it is finished when it may be written again."""
    place = small("size=4m")
    box = place / "box"
    _bumped("editor")(box, sysroot)
    assert forked("update", box, "--sysroot", sysroot, die_at="exchange:1").returncode == -signal.SIGKILL
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    assert "Read-only file system" in complaint(forked("update", box, "--sysroot", sysroot))
    subprocess.run(["mount", "-o", "remount,rw", place], check=True)
    assert forked("update", box, "--sysroot", sysroot).returncode == 0
    (box / MINE).unlink()
    put(place / "fresh", "editor", root=sysroot)
    assert settled(place / "fresh") == settled(box)


@pytest.mark.parametrize("journal", [b"", b"garbage", b"[" * 100_000, None])
def test_a_journal_that_cannot_be_believed_is_refused(made: Path, box: Path, journal: bytes | None) -> None:
    """In one line, and nothing in the box is touched."""
    put(box, "bash", root=made)
    path = box / ".jailbuild/journal"
    if journal is None:
        os.mkfifo(path)
    else:
        path.write_bytes(journal)
    before = dump(box, contents=True, record=journal is not None)
    complaint(forked("add", "ls", "--into", box, "--sysroot", made))
    now = dump(box, contents=True, record=journal is not None)
    assert {**before, "/.jailbuild/lock": "", "/.jailbuild/staging": ""} == {
        **now,
        "/.jailbuild/lock": "",
        "/.jailbuild/staging": "",
    }


def test_a_staging_of_somebody_elses_making_does_no_harm(made: Path, box: Path) -> None:
    """Links in it lead nowhere, directories in it go with what is in them, what they point at stays."""
    put(box, "bash", root=made)
    staging = box / ".jailbuild/staging"
    (staging / "deep/er").mkdir(parents=True)
    (staging / "deep/er/file").write_text("")
    (staging / "link").symlink_to(box.parent / "precious")
    (staging / "deep/link").symlink_to(box.parent / "precious")
    os.mkfifo(staging / "fifo")
    (box.parent / "precious").mkdir()
    (box.parent / "precious/file").write_text("precious")
    before = settled_but_for_staging(box)
    assert forked(box, call="recover").returncode == 0
    assert before == settled(box)
    assert (box.parent / "precious/file").read_text() == "precious"


def settled_but_for_staging(box: Path) -> dict[str, str] | None:
    """Return what `settled` would if there were no staging."""
    staging = box / ".jailbuild/staging"
    staging.rename(box.parent / "staging")
    found = settled(box)
    (box.parent / "staging").rename(staging)
    return found
