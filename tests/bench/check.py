"""`check` beside a bare hashlib loop over the same files, as Markdown.

By hand: python -m tests.bench.check [--rounds N]. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from tests.bench.bench import programs
from tests.bench.clock import Clock, Contestant, bench, table

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
    with bench(argparse.ArgumentParser(description=__doc__), 21) as world:
        small, large = world.work / "small", world.work / "large"
        for box, words in ((small, ["bash", "ls"]), (large, _good(world.jailbuild, world.environment, programs()))):
            subprocess.run(
                [*world.jailbuild, "add", "-q", "--no-sync", *words, "--into", box], env=world.environment, check=True
            )
            done = subprocess.run([*world.jailbuild, "check", box], env=world.environment, check=False)
            if done.returncode:
                sys.exit(f"{box} is not as it should be")
        compare(world.clock(), world.python, small, "bash and ls")
        compare(world.clock(3), world.python, large, "all ELF programs of /usr")


def _good(jailbuild: list[str], environment: dict[str, str], paths: list[str]) -> list[str]:
    """Return the programs that miss nothing."""
    done = subprocess.run(
        [*jailbuild, "deps", "--json", *paths], env=environment, text=True, capture_output=True, check=False
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return [one["path"] for one in answers if not one["missing"] and not one["error"]]


if __name__ == "__main__":
    main()
