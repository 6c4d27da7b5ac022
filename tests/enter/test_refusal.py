"""Why a mode cannot be had: told from what failed and from the host's settings, which no test may change."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from jailbuild.enter import preflight
from jailbuild.enter.spawn import StepError
from jailbuild.enter.warnings import below, fixed_interpreters

FORBIDDING = [
    (
        "kernel/unprivileged_userns_clone",
        "0\n",
        "namespaces",
        errno.EPERM,
        "sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    ("user/max_user_namespaces", "0\n", "namespaces", errno.ENOSPC, "sysctl -w user.max_user_namespaces=10000"),
    # AppArmor lets the namespace be made and takes its capabilities: a later step fails
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1\n",
        "mounts: private to this namespace",
        errno.EACCES,
        "an AppArmor profile with userns",
    ),
]


def failed(what: str, number: int) -> StepError:
    return StepError(what, OSError(number, os.strerror(number)))


@pytest.fixture
def sysctls(tmp_path: Path) -> Path:
    """Return a /proc/sys where nothing is forbidden."""
    for name, value in (
        ("kernel/unprivileged_userns_clone", "1\n"),
        ("user/max_user_namespaces", "96365\n"),
        ("kernel/apparmor_restrict_unprivileged_userns", "0\n"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(value)
    return tmp_path


@pytest.mark.parametrize(("name", "value", "what", "number", "remedy"), FORBIDDING)
def test_the_setting_that_forbids_user_namespaces_is_named_with_the_way_out(
    sysctls: Path,
    name: str,
    value: str,
    what: str,
    number: int,
    remedy: str,
) -> None:
    (sysctls / name).write_text(value)
    why = preflight.after(failed(what, number), "box", True, str(sysctls))
    assert why is not None
    assert f"{name.replace('/', '.')} = {value.strip()}" in why.why
    assert remedy in why.hint
    assert "jailbuild enter" in why.hint


def test_a_setting_is_not_blamed_for_what_it_does_not_do(sysctls: Path) -> None:
    why = preflight.after(failed("namespaces", errno.EPERM), "box", True, str(sysctls))
    assert why is not None
    assert why.why.startswith("user namespaces cannot be made here, as in a container or a chroot")
    for name, value, *_ in FORBIDDING:
        (sysctls / name).write_text(value)
    why = preflight.after(failed("mounts: private to this namespace", errno.EPERM), "box", False, str(sysctls))
    assert why is not None
    assert "sysctl" not in why.why + why.hint


def test_without_the_settings_at_all_something_is_said(tmp_path: Path) -> None:
    assert preflight.after(failed("namespaces", errno.ENOSPC), "box", True, str(tmp_path)) is not None


@pytest.mark.parametrize(
    ("what", "number", "words"),
    [
        ("root: pivot_root to the box, detach the host's, chroot", errno.EINVAL, "as in an initramfs"),
        ("/proc: fresh (nosuid,nodev,noexec)", errno.EPERM, "parts of /proc are covered here"),
        ("mounts: private to this namespace", errno.ENOSYS, "needs Linux 5.12"),
    ],
)
def test_what_a_step_means_is_said(sysctls: Path, what: str, number: int, words: str) -> None:
    for rootless in (False, True):
        why = preflight.after(failed(what, number), "box", rootless, str(sysctls))
        assert why is not None
        assert words in why.why


def test_a_failure_that_says_it_all_is_left_as_it_is(sysctls: Path) -> None:
    assert preflight.after(failed("directory: /x", errno.ENOENT), "box", False, str(sysctls)) is None


def test_interpreters_that_run_in_every_root_are_known(tmp_path: Path) -> None:
    """As binfmt_misc shows them: admin-guide/binfmt-misc.rst; none can be registered but for the whole host."""
    for name, content in (
        ("status", "enabled\n"),
        ("qemu-arm", "enabled\ninterpreter /usr/bin/qemu-arm-static\nflags: OCF\noffset 0\n"),
        ("python3.11", "enabled\ninterpreter /usr/bin/python3.11\nflags: \noffset 0\nmagic a70d0d0a\n"),
        ("qemu-mips", "disabled\ninterpreter /usr/bin/qemu-mips-static\nflags: F\noffset 0\n"),
    ):
        (tmp_path / name).write_text(content)
    assert fixed_interpreters(str(tmp_path)) == ["/usr/bin/qemu-arm-static"]
    assert fixed_interpreters(str(tmp_path / "absent")) == []


def test_mounts_below_a_box_are_told_from_those_beside_and_those_covered() -> None:
    points = ["/", "/a", "/ab", "/a/b", "/a/proc", "/a/proc/sys", "/a/procs", "/a/dev/pts"]
    assert below("/a", points, {"/proc", "/dev"}) == ["/a/b", "/a/procs"]
    assert below("/", ["/", "/proc", "/sys"], {"/proc"}) == ["/sys"]
