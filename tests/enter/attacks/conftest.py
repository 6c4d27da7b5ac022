"""The tools of the attacks, made once; a world for each; and the modes that must hold."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import elftools
import pytest

import jailbuild
from tests import needs
from tests.enter.attacks.world import USER, Tools, World

# Not the place of tmp_path, which is pytest's user's alone, nor /tmp, which may be mounted nosuid and nodev: there the
# controls would fail.
PLACE = "/var/tmp"


@pytest.fixture(scope="session")
def tools() -> Iterator[Tools]:
    with tempfile.TemporaryDirectory(prefix="jailbuild-attacks-", dir=PLACE) as name:
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
        python = _python_for_all()
        subprocess.run([python, "-m", "compileall", "-q", directory / "lib"], check=True)  # they are started often
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(directory / "lib"), "PYTHONDONTWRITEBYTECODE": "1"}
        yield Tools(directory, directory / "attack", directory / "loader", python, environment)


def _python_for_all() -> Path:
    """Return a Python that an ordinary user can run: this one, unless it is in somebody's home; else the system's."""
    for python in (os.path.realpath(sys.executable), "/usr/bin/python3.11", "/usr/bin/python3"):
        code = "import sys; sys.exit(sys.version_info < (3, 11))"
        with contextlib.suppress(OSError):
            if subprocess.run([python, "-c", code], user=USER, group=USER, extra_groups=[], cwd="/").returncode == 0:
                return Path(os.path.realpath(python))
    raise AssertionError("there is no Python 3.11 that an ordinary user can run")


@pytest.fixture
def world(tools: Tools) -> Iterator[World]:
    """Yield a world; afterwards the host has no mount of it and the devices that it had, or the test fails."""

    def devices() -> list[int]:
        return [os.stat(f"/dev/{name}").st_mode for name in ("null", "zero", "full", "random", "urandom", "tty")]

    before = devices()
    with tempfile.TemporaryDirectory(prefix="jailbuild-world-", dir=PLACE) as name:
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


@pytest.fixture(params=["isolated", pytest.param("rootless", marks=needs.user_namespaces)])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)
