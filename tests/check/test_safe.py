"""check: a box that is whole, and not safe. Each rule is broken in a real box; the sound one has no finding."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import needs
from tests.box import tiny
from tests.box.running import NOBODY, add, open_to_all, run
from tests.check.asking import codes, findings

LS = "/usr/bin/ls"


def _secret(path: Path, text: str = "secret\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _directory(path: Path, mode: int) -> None:
    path.mkdir()
    path.chmod(mode)


def _mode(path: Path, mode: int) -> None:
    path.touch()
    path.chmod(mode)


def _capable(path: Path) -> None:
    path.touch(0o755)
    subprocess.run(["setcap", "cap_net_raw+ep", path], check=True)


def _device(path: Path, kind: int, major: int, minor: int, mode: int = 0o600) -> None:
    os.mknod(path, kind | mode, os.makedev(major, minor))
    path.chmod(mode)


KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk=\n-----END OPENSSH PRIVATE KEY-----\n"

# what somebody did to the box: what is found with the manifest, and without one (None: the same); unlisted-file aside
CHANGES: dict[str, tuple[Callable[[Path], object], set[tuple[str, str]], set[tuple[str, str]] | None]] = {
    "a listed file belongs to another": (lambda box: os.chown(box / "usr/bin/ls", 1, 0), {("wrong-owner", LS)}, set()),
    "a link belongs to another": (lambda box: os.lchown(box / "bin", 0, 1), {("wrong-owner", "/bin")}, set()),
    "a listed file has another mode": (lambda box: (box / "usr/bin/ls").chmod(0o700), {("wrong-mode", LS)}, set()),
    "a directory has another mode": (lambda box: (box / "usr").chmod(0o750), {("wrong-mode", "/usr")}, set()),
    "a listed file became set-id": (
        lambda box: (box / "usr/bin/ls").chmod(0o4755),
        {("wrong-mode", LS), ("unexpected-privileges", LS)},
        {("privileged-file", LS)},
    ),
    "a set-id file was put in": (
        lambda box: _mode(box / "usr/bin/su", 0o2755),
        {("unexpected-privileges", "/usr/bin/su")},
        {("privileged-file", "/usr/bin/su")},
    ),
    "a set-id file lies in /tmp": (
        lambda box: _mode(box / "tmp/su", 0o4755),
        {("unexpected-privileges", "/tmp/su")},
        {("privileged-file", "/tmp/su")},
    ),
    "a listed file got capabilities": (
        lambda box: _capable(box / "usr/bin/ls"),
        {("unrecorded-capability", LS)},
        {("privileged-file", LS)},
    ),
    "a file with capabilities was put in": (
        lambda box: _capable(box / "usr/bin/ping"),
        {("unexpected-privileges", "/usr/bin/ping")},
        {("privileged-file", "/usr/bin/ping")},
    ),
    "a directory for everybody": (
        lambda box: _directory(box / "all", 0o777),
        {("world-writable-directory", "/all")},
        None,
    ),
    "/tmp lost its sticky bit": (
        lambda box: (box / "tmp").chmod(0o777),
        {("world-writable-directory", "/tmp"), ("wrong-mode", "/tmp")},
        {("world-writable-directory", "/tmp")},
    ),
    "the box itself is for everybody": (lambda box: box.chmod(0o777), {("world-writable-directory", "/")}, None),
    "a file for everybody": (lambda box: _mode(box / "usr/all", 0o666), {("world-writable-file", "/usr/all")}, None),
    "a disk": (lambda box: _device(box / "dev/sda", stat.S_IFBLK, 8, 0), {("device-node", "/dev/sda")}, None),
    "the memory": (lambda box: _device(box / "usr/mem", stat.S_IFCHR, 1, 1), {("device-node", "/usr/mem")}, None),
    "the null device": (
        lambda box: _device(box / "dev/null", stat.S_IFCHR, 1, 3),
        {("device-node", "/dev/null")},
        set(),
    ),
    "password hashes": (lambda box: _secret(box / "etc/shadow"), {("secret-file", "/etc/shadow")}, None),
    "a private key by its look": (
        lambda box: _secret(box / "srv/web.pem", KEY),
        {("secret-file", "/srv/web.pem")},
        None,
    ),
    "what somebody typed": (
        lambda box: _secret(box / "root/.bash_history"),
        {("secret-file", "/root/.bash_history")},
        None,
    ),
    "a root for its owner alone": (lambda box: box.chmod(0o700), {("not-enterable", "/")}, None),
    "a root for its group too": (lambda box: box.chmod(0o750), {("not-enterable", "/")}, None),
    "a file of the host": (
        lambda box: _link(box.parent / "host", box / "usr/file"),
        {("outside-hard-link", "/usr/file")},
        None,
    ),
    "a sticky directory, a FIFO, a socket, two names for one file": (lambda box: _odd(box), set(), set()),
}


def _link(path: Path, other: Path) -> None:
    path.touch()
    os.link(path, other)


def _odd(box: Path) -> None:
    _directory(box / "shared", 0o1777)
    os.mkfifo(box / "fifo", 0o600)
    _socket(box / "socket")
    _link(box / "one", box / "usr/two")


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a name of a socket has 108 bytes
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("listed", [True, False], ids=["box", "root"])
def test_what_is_not_safe_is_found(box: Path, what: str, listed: bool) -> None:
    """In a box, and in a root without a manifest, and nothing else."""
    change, in_box, in_root = CHANGES[what]
    if not listed:
        shutil.rmtree(box / ".jailbuild")
    assert codes(box) == set()
    change(box)
    found = {one for one in codes(box) if one[0] != "unlisted-file"}
    assert found == (in_box if listed or in_root is None else in_root)


def test_privileges_that_were_asked_for_are_a_note(root: Path, tmp_path: Path) -> None:
    """The manifest has the set-id bit; of capabilities it says nothing."""
    (root / "usr/bin/ls").chmod(0o4755)
    subprocess.run(["setcap", "cap_net_raw+ep", root / "usr/bin/bash"], check=True)
    add(tmp_path / "box", "ls", "bash", "--keep-privileges", sysroot=root)
    assert codes(tmp_path / "box") == {("privileged-file", LS), ("unrecorded-capability", "/usr/bin/bash")}
    add(tmp_path / "other", "ls", "bash", sysroot=root)
    assert codes(tmp_path / "other") == set()


def test_every_hint_of_a_mode_or_an_owner_mends_it(box: Path) -> None:
    """Typed as it stands."""
    (box / "usr/bin/ls").chmod(0o4777)
    os.chown(box / "usr/bin/bash", 1, 1)
    os.lchown(box / "bin", 1, 1)
    (box / "tmp").chmod(0o755)
    box.chmod(0o700)
    for finding in findings(run("check", box, "--json")):
        command = finding["hint"].removeprefix("if it should not be: ").partition(", and keep")[0]
        subprocess.run(["sh", "-c", command], check=True)
    assert codes(box) == set()


def test_owners_that_could_not_be_set_are_not_compared(root: Path, tmp_path: Path) -> None:
    """A box that somebody made without root belongs to him; a changed mode is still seen."""
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o777)
    shared.chmod(0o777)
    open_to_all(root, tmp_path)
    add(shared / "box", "bash", "ls", sysroot=root, nobody=True)
    assert (shared / "box/usr/bin/ls").stat().st_uid == NOBODY
    assert codes(shared / "box") == codes(shared / "box", nobody=True) == set()
    (shared / "box/usr/bin/ls").chmod(0o700)
    assert codes(shared / "box") == codes(shared / "box", nobody=True) == {("wrong-mode", LS)}


@pytest.fixture
def public(whole: Path, tmp_path: Path) -> Path:
    """A box whose every parent directory is open to all."""
    open_to_all(tmp_path)
    return tiny.clone(whole, tmp_path / "box")


DANGERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a set-id program": (lambda box: _mode(box / "usr/bin/su", 0o4755), "/usr/bin/su"),
    "a program with capabilities": (lambda box: _capable(box / "ping"), "/ping"),
    "a disk": (lambda box: _device(box / "sda", stat.S_IFBLK, 8, 0, 0o666), "/sda"),
    "a directory to write to": (lambda box: _directory(box / "all", 0o777), "/all"),
}


@pytest.mark.parametrize("what", DANGERS)
def test_what_other_users_of_the_host_can_reach_is_found(public: Path, what: str) -> None:
    """A set-id file that a root inside left there is run by anybody outside; closed above, it is not."""
    change, path = DANGERS[what]
    assert codes(public) == set()
    change(public)
    assert ("reachable-from-host", path) in codes(public)
    before = stat.S_IMODE(public.parent.stat().st_mode)
    public.parent.chmod(0o700)
    try:
        assert "reachable-from-host" not in {code for code, _ in codes(public)}
    finally:
        public.parent.chmod(before)


def test_what_nobody_else_can_reach_is_not_reported(public: Path) -> None:
    """In a directory of the box that is closed; a program that others may not run; a device that is harmless."""
    _directory(public / "closed", 0o700)
    _directory(public / "closed/all", 0o777)
    _mode(public / "closed/su", 0o4755)
    _mode(public / "usr/bin/su", 0o4750)
    _device(public / "dev/null", stat.S_IFCHR, 1, 3, 0o666)
    assert "reachable-from-host" not in {code for code, _ in codes(public)}


@needs.namespaces
def test_set_id_is_not_dangerous_where_it_means_nothing(public: Path) -> None:
    """On a file system that is mounted nosuid and nodev."""
    libc = ctypes.CDLL(None, use_errno=True)
    place = public.parent / "mounted"
    place.mkdir()
    options = b"size=8m,mode=755"
    assert libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 2 | 4, options) == 0  # MS_NOSUID, MS_NODEV
    try:
        box = tiny.clone(public, place / "box")
        _mode(box / "usr/bin/su", 0o4755)
        _device(box / "mem", stat.S_IFCHR, 1, 1, 0o666)
        found = {code for code, _ in codes(box)}
        assert {"unexpected-privileges", "device-node"} <= found
        assert "reachable-from-host" not in found
    finally:
        libc.umount2(os.fsencode(place), 2)


def test_sshd_wants_every_directory_above_to_be_roots_own(box: Path) -> None:
    """sshd_config(5), ChrootDirectory; without --for sshd nobody asks."""
    above = box.parent

    def refused() -> set[str]:
        done = run("check", box, "--json", "--for", "sshd")
        return {one["subject"] for one in findings(done) if one["code"] == "sshd-refuses"}

    known = refused()  # of the directories above the test's own
    assert not {str(box), str(above)} & known
    assert known <= {str(directory) for directory in above.parents}
    for place in (box, above):
        before = stat.S_IMODE(place.stat().st_mode)
        for owner, changed in ((0, 0o775), (0, 0o757), (1, before)):
            os.chown(place, owner, 0)
            place.chmod(changed)
            assert refused() == known | {str(place)}
            assert "sshd-refuses" not in {code for code, _ in codes(box)}
            os.chown(place, 0, 0)
            place.chmod(before)
    assert refused() == known


def test_a_path_through_a_link_is_held_to_the_rules_of_sshd_on_both_ways(box: Path, tmp_path: Path) -> None:
    """Where the link lies, and where it leads."""
    for name in ("link", "place"):
        (tmp_path / name).mkdir(mode=0o755)
    box.rename(tmp_path / "place/box")
    (tmp_path / "link/box").symlink_to(tmp_path / "place/box")
    for name in ("link", "place"):
        (tmp_path / name).chmod(0o777)
        done = run("check", tmp_path / "link/box", "--json", "--for", "sshd")
        assert str(tmp_path / name) in {one["subject"] for one in findings(done)}
        (tmp_path / name).chmod(0o755)


def test_for_what_nobody_knows_is_wrong_usage(box: Path) -> None:
    """Exit status 2."""
    assert run("check", box, "--for", "telnetd").returncode == 2
