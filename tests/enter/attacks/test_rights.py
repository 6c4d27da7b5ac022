"""Capabilities, set-id files, the rights of a rootless box."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.enter.attacks.world import NEEDS, USER, World, promise

pytestmark = NEEDS

# CHOWN, DAC_OVERRIDE, FOWNER, KILL, SETGID, SETUID, NET_BIND_SERVICE: linux/capability.h
KEPT = sum(1 << number for number in (0, 1, 3, 5, 6, 7, 10))

_libc = ctypes.CDLL(None, use_errno=True)


@promise(5)
def test_the_capabilities_are_those_of_the_promise_in_every_set(world: World, how: str) -> None:
    uid, *sets, no_new_privs = world.attack("plain", "rights").said.split()
    assert int(sets[0], 16) & ~KEPT
    uid, *sets, no_new_privs = world.attack(how, "rights").said.split()
    assert (uid, [int(one, 16) for one in sets], no_new_privs) == ("0", [KEPT, KEPT, 0, KEPT, 0], "1")


@promise(5)
def test_capabilities_that_the_caller_hands_on_do_not_get_in(world: World) -> None:
    """Inheritable and ambient ones, for root and for another user (CVE-2022-24769)."""
    handed = "+chown,+sys_admin"
    hand_on = (f'set -- setpriv --inh-caps={handed} --ambient-caps={handed} "$@"',)
    _, _, _, inheritable, _, ambient, _ = world.attack("plain", "rights", before=hand_on).said.split()
    assert int(inheritable, 16) == int(ambient, 16) == 1 | 1 << 21
    _, *sets, _ = world.attack("isolated", "rights", before=hand_on).said.split()
    assert [int(one, 16) for one in sets] == [KEPT, KEPT, 0, KEPT, 0]
    user = world.attack("isolated", "rights", before=hand_on, options=("--user", "1000:1000")).said
    assert user == "1000 0 0 0 0 0 1\n"


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


WAYS = [
    "chmod",
    "fchmod",
    "fchmodat",
    "open",
    "openat",
    "openat2",
    "creat",
    "tmpfile",
    "mknod",
    "mknodat",
    "int80",
    *(["fchmodat2"] if tuple(map(int, re.findall(r"\d+", platform.release())[:2])) >= (6, 6) else []),
]


def set_id_files(box: Path) -> list[str]:
    found = [Path(place, name) for place, _, names in os.walk(box) for name in names]
    return [
        str(path.relative_to(box))
        for path in found
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
@pytest.mark.parametrize("name", ["su", 's\xfcu "quoted" \\', b"\xff".decode(errors="surrogateescape")])
def test_a_set_id_program_that_jailbuild_put_in_cannot_be_changed_by_a_mapping(
    world: World,
    how: str,
    name: str,
) -> None:
    """Which takes no bits away."""
    source = world.directory / "source"
    source.write_bytes(b"x" * 4096)
    source.chmod(0o4755)

    def prepare(box: Path) -> None:
        add = [str(world.tools.python), "-m", "jailbuild", "add", "--quiet", "--keep-privileges", "--adopt"]
        words = ("--into", str(box), "--file", f"{source}:/{name}")
        subprocess.run([*add, *words], env=world.tools.environment, check=True)
        if how == "rootless":
            for path in (box, *box.rglob("*")):
                os.chown(path, USER, USER, follow_symlinks=False)
            (box / name).chmod(0o4755)
        assert set_id_files(box) == [name]

    def is_changed(mode: str) -> bool:
        box = world.attack(mode, "replace-mapped", f"/{name}", prepare=prepare).box
        return (box / name).read_bytes()[:1] == b"#" and set_id_files(box) == [name]

    assert is_changed("plain")
    assert not is_changed(how)
    assert (world.attack(how, "open", f"/{name}", prepare=prepare)).said  # it can be read
    box = world.attack(how, "put-over", "/attack", f"/{name}", prepare=prepare).box
    assert (box / name).read_bytes() == b"x" * 4096


@promise(10)
def test_no_file_capability_can_be_given(world: World, how: str) -> None:
    assert "security.capability" in os.listxattr(world.attack("plain", "file-capability", "/attack").box / "attack")
    assert os.listxattr(world.attack(how, "file-capability", "/attack").box / "attack") == []


@promise(20)
def test_a_mode_that_cannot_be_had_is_refused_and_not_weakened(world: World) -> None:
    def drop() -> None:
        _libc.prctl(24, 21, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_SYS_ADMIN: gone at the next execve

    asked = (("--isolated",), ("--read-only",), ("--net", "none"), ("--bind", "/etc:/tmp"), ("--pty",))
    for options in asked:
        ran = world.attack("default", "nothing", options=options, preexec_fn=drop, statuses=(125,))
        assert ran.said == ""
        assert "--plain" in ran.words
        assert "not isolated" not in ran.words


@promise(20)
def test_root_of_a_container_alone_is_let_in_plainly_and_told_each_time(world: World) -> None:
    """Whose bounding set lacks CAP_SYS_ADMIN, and who asks for nothing that a chroot cannot honour."""

    def lose(number: int) -> Callable[[], None]:
        return lambda: _libc.prctl(24, number, 0, 0, 0)  # PR_CAPBSET_DROP: gone at the next execve

    line = "jailbuild: not isolated: root of this container lacks CAP_SYS_ADMIN; the container is the only boundary\n"
    for _ in range(2):
        ran = world.attack("default", "second-chroot", world.secret, preexec_fn=lose(21))
        assert world.token in ran.said
        assert ran.words == line
    for number in (7, 18):  # CAP_SETUID, CAP_SYS_CHROOT: another one is no container's
        ran = world.attack("default", "second-chroot", world.secret, preexec_fn=lose(number), statuses=(0, 1, 125))
        assert world.token not in ran.said
        assert line not in ran.words
    for number in (21, 18):
        ran = world.attack("rootless", "second-chroot", world.secret, preexec_fn=lose(number))
        assert world.token not in ran.said
        assert line not in ran.words


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


@promise(21)
def test_what_a_rootless_box_leaves_is_the_caller_s(world: World) -> None:
    """The attack makes a directory first."""
    assert (world.attack("isolated", "second-chroot", world.secret).box / "tmp/deeper").stat().st_uid == 0
    assert (world.attack("rootless", "second-chroot", world.secret).box / "tmp/deeper").stat().st_uid == USER


@promise(21)
def test_root_of_a_rootless_box_can_be_nobody_else(world: World) -> None:
    assert world.attack("isolated", "identities").said.split() == ["groups", "gid", "uid"]
    assert world.attack("rootless", "identities").said == ""
