"""`enter BOX true` beside what else enters a directory, in one run: medians and ratios, as Markdown.

By hand, as root: python -m tests.bench.enter [--rounds N]. How the time is taken: README.md beside this file. The
budget is the time of `python -c 'import click'` and 25 ms; peers that are not here are named and left out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.bench.clock import PLAIN, Contestant, bench

BUDGET = 0.025  # seconds over `import click`
PEERS = (("bwrap", "bubblewrap"), ("crun", "crun"), ("runc", "runc"), ("podman", "podman"))


def oci_bundle(program: str, box: Path, bundle: Path) -> None:
    """Make the configuration of an OCI runtime for the box: its own default, without a terminal."""
    bundle.mkdir()
    subprocess.run([program, "spec"], cwd=bundle, check=True, env=PLAIN)
    path = bundle / "config.json"
    config = json.loads(path.read_text())
    config["process"] |= {"terminal": False, "args": ["/usr/bin/true"]}
    config["root"] = {"path": str(box), "readonly": False}
    path.write_text(json.dumps(config))


def peer(program: str, box: Path, work: Path) -> list[str]:
    """Return the command by which a peer runs `true` in the box."""
    if program == "bwrap":
        return [
            "bwrap",
            "--bind",
            str(box),
            "/",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "--unshare-pid",
            "--unshare-ipc",
            "--unshare-uts",
            "--die-with-parent",
            "/usr/bin/true",
        ]
    if program == "podman":
        return ["podman", "run", "--rm", "--network", "host", "--rootfs", str(box), "/usr/bin/true"]
    oci_bundle(program, box, work / program)
    return [program, "run", "--bundle", str(work / program), f"bench-{os.getpid()}"]


def works(command: list[str], environment: dict[str, str]) -> bool:
    """Say whether a command works here; tell where it does not."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=environment, check=False)
    if done.returncode:
        print(f"- {command[0]} fails here: {done.stderr.decode(errors='replace').strip()[-200:]}", file=sys.stderr)
    return done.returncode == 0


def main() -> None:
    """Make a box, time everybody, print the table."""
    with bench(argparse.ArgumentParser(description=__doc__), 31) as world:
        box = world.work / "box"
        subprocess.run(
            [*world.jailbuild, "add", "true", "--bare", "--no-sync", "--into", str(box)],
            env=world.environment,
            check=True,
            capture_output=True,
        )
        contestants = {
            "python -c 'import click'": [*world.python, "-c", "import click"],
            "jailbuild enter": [*world.jailbuild, "enter", str(box), "true"],
            "jailbuild enter --plain": [*world.jailbuild, "enter", "--plain", str(box), "true"],
            "chroot(1)": ["chroot", str(box), "/usr/bin/true"],
        }
        for program, package in PEERS:
            if shutil.which(program, path=PLAIN["PATH"]):
                contestants[program] = peer(program, box, world.work)
            else:
                print(f"- {program} is not here (Debian: {package}): left out")
        working = [Contestant(name, words) for name, words in contestants.items() if works(words, world.environment)]
        seconds = world.clock().medians(working)
        first = seconds["python -c 'import click'"]
        print(f"\n### enter BOX true, {world.arguments.rounds} rounds; the budget is {BUDGET * 1000:.0f} ms\n")
        print("| what | median | over `import click` |\n| --- | ---: | ---: |")
        for name, median in seconds.items():
            print(f"| {name} | {median * 1000:.1f} ms | {(median - first) * 1000:+.1f} ms |")


if __name__ == "__main__":
    main()
