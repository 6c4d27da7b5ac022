"""Device nodes where they can be made and where not."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

from tests import needs
from tests.box.running import add, entries, run


@needs.user_namespaces
def test_root_in_a_user_namespace_records_devices_and_makes_none(tmp_path: Path) -> None:
    """Containers without CAP_MKNOD, and user namespaces: nothing fails, and the next root makes them."""
    box = tmp_path / "box"
    words = [sys.executable, "-m", "jailbuild", "add", "--no-sync", "--with", "devices", "ls", "--into", box]
    inside = subprocess.run(
        ["unshare", "--user", "--map-root-user", *map(str, words)], capture_output=True, text=True, check=False
    )
    assert (inside.returncode, inside.stderr.count("\n")) == (0, 1), inside.stderr
    assert entries(box)["/dev/null"]["device"] == ["c", 1, 3]
    assert not (box / "dev/null").exists()
    checked = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-m", "jailbuild", "check", box],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout
    assert run("check", box).returncode == 3
    add(box, "--with", "devices")
    assert stat.S_ISCHR(os.stat(box / "dev/null").st_mode)
    assert run("check", box).returncode == 0


def test_a_container_without_the_capability_is_no_failure(tmp_path: Path) -> None:
    box = tmp_path / "box"
    words = [sys.executable, "-m", "jailbuild", "add", "--no-sync", "--with", "devices", "ls", "--into", box]
    done = subprocess.run(
        ["capsh", "--drop=cap_mknod", "--", "-c", 'exec "$@"', "-", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not (box / "dev/null").exists()
