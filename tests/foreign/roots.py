"""Roots of other machines: Debian's packages, fetched by an apt with a configuration of its own and unpacked.

Nothing of the host's is changed, and nothing of the packages is run.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGES = ("bash", "git", "python3", "libc-bin")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
NEWER = ("trixie", "forky", "sid")  # where the host's own release has not got the machine, or not just now
PATIENCE = 300  # seconds


class Machine(NamedTuple):
    """One of Debian's machines."""

    debian: str
    kind: tuple[int, bool, int]  # as jailbuild has it: class, little-endian, e_machine
    qemu: str  # qemu-NAME-static
    triplet: str  # the name of its library directories
    bash: str  # what its bash calls it


MACHINES = {
    machine.debian: machine
    for machine in (
        Machine("arm64", (64, True, 183), "aarch64", "aarch64-linux-gnu", "aarch64"),
        Machine("armhf", (32, True, 40), "arm", "arm-linux-gnueabihf", "arm"),
        Machine("riscv64", (64, True, 243), "riscv64", "riscv64-linux-gnu", "riscv64"),
        Machine("ppc64el", (64, True, 21), "ppc64le", "powerpc64le-linux-gnu", "powerpc64le"),
        Machine("s390x", (64, False, 22), "s390x", "s390x-linux-gnu", "s390x"),
        Machine("i386", (32, True, 3), "i386", "i386-linux-gnu", "i686"),
    )
}
FOREIGN = tuple(name for name in MACHINES if name != "i386")


def mirrors() -> list[str]:
    """Return where the host's apt gets Debian's own packages (none where there is no apt)."""
    try:
        listed = subprocess.run(
            ["apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)", "Created-By: Packages"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        ).stdout.split("\n")
    except OSError:
        return []
    found = [line.split()[-1] for line in listed if line.startswith("Debian ") and "security" not in line]
    return list(dict.fromkeys(found))


def releases() -> tuple[str, ...]:
    """Return the releases to try, the host's own first."""
    try:
        own = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    except OSError:
        own = ""
    return tuple(dict.fromkeys(filter(None, (own, *NEWER))))


def make_root(name: str, directory: Path) -> Path:
    """Unpack PACKAGES and what they depend on for a machine; skip where packages cannot be fetched at all."""
    sites = mirrors()
    if not sites:
        pytest.skip("no apt with a mirror of Debian")
    said = []
    for release in releases():
        apt = directory / f"apt-{release}"
        done = _fetch(name, release, sites[0], apt)
        said.append(f"{release}: {done.stderr.strip()[-600:]}")
        if done.returncode == 0:
            root = directory / "root"
            _unpack(sorted((apt / "cache/archives").glob("*.deb")), root)
            return root
        shutil.rmtree(apt)
    if all(re.search(r"resolv|connect|unreachable", one, re.IGNORECASE) for one in said):
        pytest.skip("no network to fetch Debian's packages by")
    raise AssertionError(f"no packages for {name}:\n" + "\n".join(said))


def _fetch(name: str, release: str, site: str, apt: Path) -> subprocess.CompletedProcess[str]:
    for below in ("state/lists/partial", "cache/archives/partial", "empty"):
        (apt / below).mkdir(parents=True)
    (apt / "status").touch()
    signed = f"[signed-by={KEYRING}] " if os.path.exists(KEYRING) else ""
    (apt / "sources.list").write_text(f"deb {signed}{site} {release} main\n", encoding="utf-8")
    settings = {
        "APT::Architecture": name,
        "APT::Architectures": name,
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
        "Dir::State": f"{apt}/state",
        "Dir::State::status": f"{apt}/status",
        "Dir::Cache": f"{apt}/cache",
        "Dir::Etc::SourceList": f"{apt}/sources.list",
        "Dir::Etc::SourceParts": f"{apt}/empty",
        "Dir::Etc::PreferencesParts": f"{apt}/empty",
        "Dir::Etc::Preferences": "/dev/null",
    }
    lines = "".join(f'{key} "{value}";\n' for key, value in settings.items())
    (apt / "apt.conf").write_text(f"#clear APT::Architectures;\n{lines}", encoding="utf-8")
    environment = os.environ | {"APT_CONFIG": f"{apt}/apt.conf", "LC_ALL": "C"}
    for arguments in (["update"], ["install", "--yes", "--download-only", *PACKAGES]):
        done = subprocess.run(
            ["apt-get", "-q", *arguments],
            capture_output=True,
            text=True,
            env=environment,
            timeout=PATIENCE,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            break
    return done


def _unpack(packages: list[Path], root: Path) -> None:
    """Unpack as one does before dpkg is there: with /bin, /lib and the like as links into /usr."""
    assert packages
    root.mkdir()
    for name in ("bin", "lib", "sbin"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in packages:
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as archive:
            subprocess.run(
                [
                    "tar",
                    "-x",
                    "-C",
                    root,
                    "--keep-directory-symlink",
                    "--exclude=./usr/share/doc/*",
                    "--exclude=./usr/share/locale/*",
                    "--exclude=./usr/share/man/*",
                    "--exclude=./usr/share/i18n/*",
                    "--exclude=./usr/share/bash-completion/*",
                ],
                stdin=archive.stdout,
                check=True,
            )
        assert archive.returncode == 0, package
        package.unlink()
