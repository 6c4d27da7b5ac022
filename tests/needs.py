"""What a test needs of the machine, looked at before it runs: marks that skip it with the reason.

Root of a container has some of it and not the rest (tests/container.py). What a mark looks at is had or not before
the test begins; a test never takes its own failure for a reason.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from jailbuild.enter.capabilities import NUMBERS

_NOBODY = 64321  # an ordinary user
_NO_NAMESPACES = "namespaces and mounts are not to be had here"


def has_capability(name: str) -> bool:
    """Say whether this process has a capability, without CAP_, in effect (proc_pid_status(5))."""
    effective = re.search(r"^CapEff:\s*(\S+)$", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    return effective is not None and bool(int(effective[1], 16) >> NUMBERS[name] & 1)


def has_filter() -> bool:
    """Say whether a filter for system calls is on this process already (proc_pid_status(5))."""
    return re.search(r"^Seccomp:\s*2$", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE) is not None


@functools.cache
def has_namespaces() -> bool:
    """Say whether the namespaces of the isolated mode can be made here, and mounts in them."""
    script = 'mount -t tmpfs none "$0" && mount -t proc proc "$0"'
    return _works("unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--", "sh", "-c", script, "/tmp")


@functools.cache
def has_user_namespaces() -> bool:
    """Say whether an ordinary user can make a user namespace here, and mounts in it."""
    drop = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"] if os.geteuid() == 0 else []
    return _works(*drop, "unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/tmp")


def has_loop_devices() -> bool:
    return has_namespaces() and os.path.exists("/dev/loop-control")


@functools.cache
def has_tracing() -> bool:
    """Say whether strace(1) is here and may trace."""
    return _works("strace", "-o", os.devnull, "true")


@functools.cache
def has_file_system(kind: str) -> bool:
    """Say whether the kernel has a file system, or a module for it."""
    subprocess.run(["modprobe", "--quiet", kind], check=False) if shutil.which("modprobe") else None
    return kind in Path("/proc/filesystems").read_text(encoding="ascii").split()


def has_attributes(directory: Path) -> bool:
    """Say whether files in the directory can have extended attributes of their user's."""
    probe = directory / "attributes-probe"
    probe.touch()
    try:
        os.setxattr(probe, "user.probe", b"")
    except OSError:
        return False
    finally:
        probe.unlink()
    return True


def has_immutable_files(directory: Path) -> bool:
    """Say whether a file in the directory can be made immutable, chattr(1) +i."""
    probe = directory / "immutable-probe"
    probe.touch()
    is_had = _works("chattr", "+i", str(probe))
    if is_had:
        subprocess.run(["chattr", "-i", probe], check=True)
    probe.unlink()
    return is_had


def _works(*command: str) -> bool:
    if not shutil.which(command[0]):
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def capability(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not has_capability(name), reason=f"CAP_{name} is not to be had here")


def may_mount() -> None:
    """Skip the test of a fixture that mounts, where that is not to be had."""
    if not has_namespaces():
        pytest.skip(_NO_NAMESPACES)


namespaces = pytest.mark.skipif(not has_namespaces(), reason=_NO_NAMESPACES)
isolation = pytest.mark.skipif(
    not (has_namespaces() if os.geteuid() == 0 else has_user_namespaces()),
    reason="neither the isolated nor the rootless mode is to be had here",
)
user_namespaces = pytest.mark.skipif(not has_user_namespaces(), reason="user namespaces are not to be had here")
no_filter = pytest.mark.skipif(has_filter(), reason="a filter for system calls is on already")
tracing = pytest.mark.skipif(not has_tracing(), reason="strace is not here, or may not trace")
loop_devices = pytest.mark.skipif(not has_loop_devices(), reason="loop devices are not to be had here")
