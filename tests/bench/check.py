"""`check` beside a bare hashlib loop over the same files, as Markdown.

By hand: python tests/bench/check.py [--rounds N]. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import elftools
from bench import PLAIN, TOP, Clock, Contestant, programs, table  # type: ignore[import-not-found]

# The sha256 of each file, one after the other.
LOOP = """
import hashlib, os, sys
for directory, _, names in os.walk(sys.argv[1]):
    for name in names:
        path = os.path.join(directory, name)
        if not os.path.islink(path):
            with open(path, "rb") as file:
                hashlib.file_digest(file, "sha256").hexdigest()
"""
LOOP_START = "import hashlib, os, sys"
CHECK_START = "import jailbuild.cli.check, jailbuild.cli, shlex"


def compare(clock: Clock, python: list[str], box: Path, what: str) -> None:
    """Time both on one box, with and without what is only their start."""
    files = [path for path in box.rglob("*") if path.is_file() and not path.is_symlink()]
    size = sum(path.stat().st_size for path in files)
    jailbuild = [*python, "-m", "jailbuild", "check", "-q", str(box)]
    contestants = [
        Contestant("hashlib loop", [*python, "-c", LOOP, str(box)]),
        Contestant("its start", [*python, "-c", LOOP_START]),
        Contestant("jailbuild check", jailbuild),
        Contestant("its start and imports", [*python, "-c", CHECK_START]),
        Contestant("jailbuild check, one processor", ["taskset", "-c", "0", *jailbuild]),
    ]
    seconds = clock.medians(contestants)
    table(f"{what}: {len(files)} files, {size / 1e6:.0f} MB, {clock.rounds} rounds", seconds, "hashlib loop")
    start = seconds["its start and imports"]
    without = {"hashlib loop": seconds["hashlib loop"] - seconds["its start"]}
    without |= {name: seconds[name] - start for name in seconds if name.startswith("jailbuild")}
    table(f"{what}, start and imports subtracted", without, "hashlib loop")


def main() -> None:
    """Make the boxes, then time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--work", default=None, help="where boxes are made (default: the temporary directory)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=arguments.work) as made:
        work = Path(made)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", work / "venv"], check=True)
        packages = [str(Path(package.__path__[0]).parent) for package in (click, elftools)]
        environment = PLAIN | {
            "PYTHONPYCACHEPREFIX": str(work / "pyc"), "PYTHONPATH": ":".join([str(TOP), *dict.fromkeys(packages)]),
        }
        python = [str(work / "venv/bin/python"), "-P"]
        small, large = work / "small", work / "large"
        for box, words in ((small, ["bash", "ls"]), (large, _good(python, environment, programs()))):
            subprocess.run([*python, "-m", "jailbuild", "add", "-q", "--no-sync", *words, "--into", box],
                           env=environment, check=True)
            done = subprocess.run([*python, "-m", "jailbuild", "check", box], env=environment, check=False)
            if done.returncode:
                sys.exit(f"{box} is not as it should be")
        print(f"\nPython {sys.version.split()[0]}, {len(os.sched_getaffinity(0))} processors")
        compare(Clock(environment, arguments.rounds), python, small, "bash and ls")
        compare(Clock(environment, max(3, arguments.rounds // 3)), python, large, "all ELF programs of /usr")


def _good(python: list[str], environment: dict[str, str], paths: list[str]) -> list[str]:
    """Return the programs that miss nothing."""
    done = subprocess.run([*python, "-m", "jailbuild", "deps", "--json", *paths], env=environment, text=True,
                          capture_output=True, check=False)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return [one["path"] for one in answers if not one["missing"] and not one["error"]]


if __name__ == "__main__":
    main()
