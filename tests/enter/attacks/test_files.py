"""Ways to files of the host: chroots, descriptors, handles, directories that move, links at mount targets."""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.enter.attacks.world import NEEDS, PATIENCE, USER, World, promise, read_line

pytestmark = NEEDS

_libc = ctypes.CDLL(None, use_errno=True)


@promise(1)
def test_a_second_chroot_with_a_kept_descriptor_does_not_lead_out(world: World, how: str) -> None:
    world.only_plain(how, "second-chroot", world.secret)


@promise(1)
def test_dot_dot_from_a_directory_that_was_moved_out_of_the_box_does_not_lead_out(world: World, how: str) -> None:
    """chroot(2) stops `..` at one directory only; a mount stops it wherever it began."""

    def climb(mode: str) -> str:
        box = world.make_box(mode, lambda box: (box / "moving/inner").mkdir(parents=True))
        with subprocess.Popen(
            world.command(mode, box, "moved-directory", "secret", world.secret),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=world.tools.environment,
            cwd="/",
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
    world.only_plain(how, "handle", kind, buffer.raw[8 : 8 + size].hex())


@promise(1, 8)
def test_its_own_mount_namespace_joined_anew_has_no_other_root(world: World, how: str) -> None:
    world.only_plain(how, "rejoin", world.secret)


@promise(1)
def test_with_the_capabilities_for_it_too_there_is_no_host_to_go_to(world: World, how: str) -> None:
    """The host's mounts are not in the namespace: it is not for the want of a capability that nobody gets to them."""
    kept = ("--cap-keep", "SYS_CHROOT", "--cap-keep", "SYS_ADMIN", "--seccomp", "none")
    world.only_plain(how, "second-chroot", world.secret, options=kept)
    world.only_plain(how, "rejoin", world.secret, options=kept)
    assert world.token not in world.attack(how, "rejoin", world.secret, "and under it", options=kept).said


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
            how,
            "descriptors",
            "/nowhere",
            proof=proof,
            control="chroot",
            pass_fds=(status,),
            options=option,
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


@promise(1, 2)
@pytest.mark.parametrize(
    "way",
    [
        "/proc/self/fd/{}",
        "/proc/1/root",
        "/proc/1/cwd",
        "/proc/self/root",
        "/proc/self/cwd",
        "/proc/{process}/root",
    ],
)
def test_a_working_directory_does_not_lead_out(world: World, how: str, way: str) -> None:
    """The directory is a link of the box to what /proc says; the caller has / open (CVE-2024-21626)."""
    root = os.open("/", os.O_RDONLY)
    way = way.format(root, process=os.getpid())
    words = ("here", world.secret)

    chroot = world.make_box("chroot")

    def by_hand() -> None:
        os.chroot(chroot)
        os.fchdir(root)

    def prepare(box: Path) -> None:
        (box / "way").symlink_to(way)

    try:
        command = ["/attack", *map(str, words)]
        control = subprocess.run(command, preexec_fn=by_hand, capture_output=True, pass_fds=(root,), text=True)
        assert control.stdout == world.token
        ran = world.attack(
            how,
            *words,
            options=("--workdir", "/way"),
            prepare=prepare,
            pass_fds=(root,),
            statuses=(0, 1, 125),
        )
        assert ran.said == ""
    finally:
        os.close(root)


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


@promise(15)
def test_where_mounts_are_shared_none_reaches_the_host(world: World, how: str) -> None:
    """As systemd has them; in a mount namespace that stands for the host's."""
    before, after = world.directory / "before", world.directory / "after"

    def left(*command: str) -> bool:
        look = "cat /proc/self/mountinfo"
        script = f'mount --make-rshared /; {look} >{before}; "$@" >{world.directory}/said 2>&1; {look} >{after}'
        apart = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *command]
        subprocess.run(apart, check=True, timeout=PATIENCE, env=world.tools.environment, cwd=world.directory)
        return before.read_text() != after.read_text()

    naive = world.make_box("plain")
    assert left("unshare", "--mount", "--propagation", "unchanged", "mount", "-t", "tmpfs", "none", f"{naive}/tmp")
    drop = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"] if how == "rootless" else []
    assert not left(*drop, *world.command(how, world.make_box(how), "nothing"))
    assert (world.directory / "said").read_text() == "nothing\n"


TARGETS = ("proc", "dev", "dev/pts", "dev/shm", "dev/null", "sys", "run", "tmp", ".jailbuild", "etc/passwd", "data")


@promise(15, 17)
@pytest.mark.parametrize(
    ("target", "kind"),
    [
        *((target, kind) for target in TARGETS for kind in ("absolute", "climbing", "magic")),
        *(
            (target, kind)
            for target in ("proc", "dev", ".jailbuild")
            for kind in ("dangling", "to itself", "to a file")
        ),
    ],
)
def test_a_link_at_a_mount_target_leads_nowhere_but_into_the_box(
    world: World,
    how: str,
    target: str,
    kind: str,
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
        "absolute": str(trap),
        "climbing": "../" * 30 + str(trap).lstrip("/"),
        "dangling": f"{trap}/nowhere",
        "to itself": os.path.basename(target),
        "to a file": f"{trap}/secret",
        "magic": f"/proc/1/root{trap}",
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
        how,
        "open",
        f"/{target}/secret",
        f"/{target}",
        prepare=prepare,
        options=options[:2],
        statuses=(0, 1, 125),
    )
    assert world.token not in ran.said + ran.words
    assert f"read /{target}/secret" not in ran.said
    if options:
        ran = world.attack(
            how,
            "open",
            f"/{target}/secret",
            prepare=prepare,
            options=options[2:],
            statuses=(0, 1, 125),
        )
        assert ran.said == ""
    assert tree(trap) == as_it_was


@promise(17)
@pytest.mark.parametrize("kind", ["absolute", "climbing"])
@pytest.mark.parametrize(
    ("target", "file"),
    [("dev", "zero"), ("proc", "uptime"), ("data", "attack"), (".jailbuild", "manifest.jsonl")],
)
def test_a_link_that_has_a_place_in_the_box_and_outside_leads_to_the_one_in_the_box(
    world: World,
    how: str,
    target: str,
    file: str,
    kind: str,
) -> None:
    """What is mounted is found where the link leads for those inside."""
    trap = world.directory / "trap"
    trap.mkdir()
    trap.chmod(0o777)

    def prepare(box: Path) -> None:
        inside = box / str(trap).lstrip("/")
        inside.mkdir(parents=True)
        (inside / "manifest.jsonl").write_text(world.token)
        if (box / target).is_dir():
            shutil.rmtree(box / target)
        (box / target).symlink_to(str(trap) if kind == "absolute" else "../" * 30 + str(trap).lstrip("/"))

    as_it_was = tree(trap)
    options = ("--bind", f"{world.tools.directory}:/data") if target == "data" else ()
    ran = world.attack(how, "open", f"/{target}/{file}", prepare=prepare, options=options)
    assert (f"read /{target}/{file}\n" in ran.said) == (target != ".jailbuild"), ran
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
    writable = world.attack(
        how,
        "write",
        place,
        before=before,
        options=("--bind", f"{shared}:/shared"),
        prepare=lambda box: (box / "shared").mkdir(),
    )
    assert writable.said == f"{place}\n"
    ran = world.attack(
        how,
        "write",
        place,
        before=before,
        options=("--bind", f"{shared}:/shared:ro"),
        prepare=lambda box: (box / "shared").mkdir(),
    )
    assert ran.said == ""
