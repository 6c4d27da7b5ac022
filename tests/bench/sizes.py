"""How large the box of a program is, beside the smallest Debian that has it: `mmdebstrap --variant=minbase`.

    python -m tests.bench.sizes [PROGRAM…]

Needs mmdebstrap, an archive of Debian and root. Both numbers are MB (1 000 000 bytes) of files as du(1) counts them
with --apparent-size, each file once; the box is made from that very Debian by `jailbuild add PROGRAM` alone.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

RELEASE = "bookworm"
# By what `add` is asked for: the packages that have it.
PACKAGES = {
    "git": "git ca-certificates",
    "ssh": "openssh-client",
    "sftp-server": "openssh-sftp-server",
    "curl": "curl ca-certificates",
    "wget": "wget ca-certificates",
    "python3": "python3",
    "perl": "perl",
    "ruby": "ruby",
    "node": "nodejs",
    "php": "php-cli",
    "php-fpm": "php-fpm",
    "java": "default-jre-headless",
    "gcc": "gcc libc6-dev",
    "nginx": "nginx-light",
    "apache2": "apache2",
    "mariadbd": "mariadb-server",
    "postgres": "postgresql",
    "redis-server": "redis-server",
    "named": "bind9",
}


def size(directory: Path) -> float:
    """Return how many MB the files below a directory have."""
    done = subprocess.run(
        ["du", "--summarize", "--apparent-size", "--block-size=1", directory],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return int(done.stdout.split()[0]) / 1e6


def main() -> None:
    """Print a row of the README's table for each program."""
    for program in sys.argv[1:] or PACKAGES:
        with tempfile.TemporaryDirectory() as work:
            root, box = Path(work, "root"), Path(work, "box")
            packages = PACKAGES[program].replace(" ", ",")
            subprocess.run(
                [
                    "mmdebstrap",
                    "--quiet",
                    "--mode=root",
                    "--variant=minbase",
                    f"--include={packages}",
                    "--customize-hook=rm -rf $1/var/cache/apt/* $1/var/lib/apt/lists/*",
                    RELEASE,
                    root,
                ],
                check=True,
            )
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "jailbuild",
                    "add",
                    "--quiet",
                    "--no-sync",
                    program,
                    "--sysroot",
                    root,
                    "--into",
                    box,
                ],
                check=True,
            )
            print(f"| `{program}` | {size(box):.0f} | {size(root):.0f} |", flush=True)


if __name__ == "__main__":
    main()
