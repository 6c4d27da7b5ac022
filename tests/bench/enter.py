"""`enter BOX true` beside what else enters a directory, in one run: medians and ratios, as Markdown.

By hand, as root: python tests/bench/enter.py [--rounds N]. How the time is taken: README.md beside this file. The
budget is the time of `python -c 'import click'` and 25 ms; peers that are not here are named and left out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import elftools

TOP = Path(__file__).parents[2]
PLAIN = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/root"}
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
        return ["bwrap", "--bind", str(box), "/", "--proc", "/proc", "--dev", "/dev", "--unshare-pid", "--unshare-ipc",
                "--unshare-uts", "--die-with-parent", "/usr/bin/true"]
    if program == "podman":
        return ["podman", "run", "--rm", "--network", "host", "--rootfs", str(box), "/usr/bin/true"]
    oci_bundle(program, box, work / program)
    return [program, "run", "--bundle", str(work / program), f"bench-{os.getpid()}"]


def once(command: list[str], environment: dict[str, str]) -> float | None:
    """Run a command and return the seconds it took, None if it failed."""
    start = time.perf_counter()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=environment, check=False)
    took = time.perf_counter() - start
    if done.returncode:
        print(f"- {command[0]} fails here: {done.stderr.decode(errors='replace').strip()[-200:]}", file=sys.stderr)
        return None
    return took


def main() -> None:
    """Make a box, time everybody, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=31)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="bench-") as made:
        work = Path(made)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", work / "venv"], check=True)
        packages = [str(Path(package.__path__[0]).parent) for package in (click, elftools)]
        environment = PLAIN | {
            "PYTHONPYCACHEPREFIX": str(work / "pyc"), "PYTHONPATH": ":".join([str(TOP), *dict.fromkeys(packages)]),
        }
        python = [str(work / "venv/bin/python"), "-P"]
        jailbuild = [*python, "-m", "jailbuild"]
        box = work / "box"
        subprocess.run([*jailbuild, "add", "true", "--bare", "--no-sync", "--into", str(box)], env=environment,
                       check=True, capture_output=True)
        contestants = {
            "python -c 'import click'": [*python, "-c", "import click"],
            "jailbuild enter": [*jailbuild, "enter", str(box), "true"],
            "jailbuild enter --plain": [*jailbuild, "enter", "--plain", str(box), "true"],
            "chroot(1)": ["chroot", str(box), "/usr/bin/true"],
        }
        for program, package in PEERS:
            if shutil.which(program, path=PLAIN["PATH"]):
                contestants[program] = peer(program, box, work)
            else:
                print(f"- {program} is not here (Debian: {package}): left out")
        working = {name: words for name, words in contestants.items() if once(words, environment) is not None}
        seconds: dict[str, list[float]] = {name: [] for name in working}
        for number in range(rounds):
            order = list(working.items())
            turn = number % len(order)
            for name, words in order[turn:] + order[:turn]:
                seconds[name].append(once(words, environment) or float("nan"))
        first = statistics.median(seconds["python -c 'import click'"])
        print(f"Python {sys.version.split()[0]}, Linux {os.uname().release}, {os.cpu_count()} processors")
        print(f"\n### enter BOX true, {rounds} rounds\n")
        print("| what | median | over `import click` |\n| --- | ---: | ---: |")
        for name, values in seconds.items():
            median = statistics.median(values)
            print(f"| {name} | {median * 1000:.1f} ms | {(median - first) * 1000:+.1f} ms |")
        over = [ours - base for ours, base in
                zip(seconds["jailbuild enter"], seconds["python -c 'import click'"], strict=True)]
        print(f"\nIn the median of the rounds {statistics.median(over) * 1000:.1f} ms over it; "
              f"the budget is {BUDGET * 1000:.0f} ms.")


if __name__ == "__main__":
    main()
