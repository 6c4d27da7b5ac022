"""jailbuild beside its peers, in one run, in alternating order: medians and ratios, as Markdown.

By hand: python tests/bench/bench.py [add] [deps] [--rounds N]. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import click
import elftools

TOP = Path(__file__).parents[2]
PLAIN = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/root"}

# What everybody writes after the first chroot. cp -n: a library that two programs need is copied once.
LOOP = r"""
set -eu
box=$1; shift
mkdir -p "$box"
for name; do
    program=$(command -v "$name")
    mkdir -p "$box$(dirname "$program")"
    cp "$program" "$box$program"
    for library in $(ldd "$program" | grep -o '/[^ ]*'); do
        mkdir -p "$box$(dirname "$library")"
        cp -n "$library" "$box$library"
    done
done
"""

# The modules of `deps`, and nothing done with them.
IMPORTS = "import jailbuild.cli.deps"

Answers = dict[str, frozenset[tuple[int, int]]]  # by program: which files it loads, each by device and inode


class Contestant(NamedTuple):
    """A command to be timed."""

    name: str
    command: list[str]
    before: Callable[[], object] = lambda: None  # makes ready for each run and is not timed
    may_fail: bool = False  # where its status tells that something is missing, or is no dynamic program


class Clock:
    """Times contestants in rounds; each round in another order, the first not counted."""

    def __init__(self, environment: dict[str, str], rounds: int) -> None:
        self.environment = environment
        self.rounds = rounds

    def medians(self, contestants: list[Contestant]) -> dict[str, float]:
        """Return the median seconds of each, by name."""
        seconds: dict[str, list[float]] = {one.name: [] for one in contestants}
        for number in range(self.rounds + 1):
            turn = number % len(contestants)
            order = contestants[turn:] + contestants[:turn]
            for one in order if number % 2 else reversed(order):
                took = self.once(one)
                if number:
                    seconds[one.name].append(took)
        return {name: statistics.median(values) for name, values in seconds.items()}

    def once(self, one: Contestant) -> float:
        """Run it and return how long it took."""
        one.before()
        start = time.perf_counter()
        done = subprocess.run(
            one.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            env=self.environment, check=False,
        )
        took = time.perf_counter() - start
        if done.returncode and not one.may_fail:
            sys.exit(f"{one.name} failed with {done.returncode}: {done.stderr.decode(errors='replace')[-500:]}")
        return took


def table(title: str, seconds: dict[str, float], of: str) -> None:
    """Print a table of medians, each with its ratio to the one called `of`."""
    print(f"\n### {title}\n\n| what | median | ratio to {of} |\n| --- | ---: | ---: |")
    for name, value in seconds.items():
        print(f"| {name} | {value * 1000:.1f} ms | {value / seconds[of]:.2f} |")


# add


def bench_add(clock: Clock, jailbuild: list[str], work: Path) -> None:
    """`add` beside the loop with ldd and cp, into the same file system."""
    box = work / "box"

    def clean() -> None:
        shutil.rmtree(box, ignore_errors=True)

    contestants = [
        Contestant("the loop with ldd and cp", ["sh", "-c", LOOP, "loop", str(box), "bash", "ls"], clean),
        *(
            Contestant(" ".join(["jailbuild add", *options, "bash ls"]),
                       [*jailbuild, "add", *options, "bash", "ls", "--into", str(box)], clean)
            for options in (["--bare", "--no-sync"], ["--bare"], ["--no-sync"])
        ),
        Contestant("jailbuild add --bare --dry-run bash ls",
                   [*jailbuild, "add", "--bare", "--dry-run", "bash", "ls", "--into", str(box)], clean),
        Contestant("jailbuild --version", [*jailbuild, "--version"]),
    ]
    made = {}
    for one in contestants[:2]:
        clock.once(one)
        made[one.name] = {
            os.path.realpath(f"/{path.relative_to(box)}") for path in box.rglob("*")
            if path.is_file() and ".jailbuild" not in path.parts
        }
        if subprocess.run(["chroot", str(box), "bash", "-c", "ls /"], capture_output=True, check=False).returncode:
            sys.exit(f"the box that {one.name} made does not work")
    loop, ours = made.values()
    agree = "the same files" if loop == ours else f"other files: {sorted(loop ^ ours)}"
    seconds = clock.medians(contestants)
    table(f"add, {clock.rounds} rounds; both boxes run ls, and hold {agree}", seconds, contestants[0].name)


# deps


def programs() -> list[str]:
    """Return every ELF program of /usr/bin and /usr/sbin, links left out: each file once, and no directory."""
    found = []
    for directory in ("/usr/bin", "/usr/sbin"):
        for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
            if entry.is_file(follow_symlinks=False):
                with open(entry.path, "rb") as file:
                    if file.read(4) == b"\x7fELF":
                        found.append(entry.path)
    return found


def identities(paths: Iterable[str]) -> frozenset[tuple[int, int]]:
    """Return paths as the files that they are: one file has many names with a merged /usr."""
    found = set()
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            continue
        found.add((status.st_dev, status.st_ino))
    return frozenset(found)


def output(command: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment).stdout


def answers_of_jailbuild(text: str) -> Answers:
    found = {}
    for line in text.splitlines():
        record = json.loads(line)
        loader = [record["interpreter"]] if record.get("interpreter") else []
        found[record["path"]] = identities([*(one["path"] for one in record["libraries"]), *loader])
    return found


def answers_of_ldd(text: str) -> Answers:
    blocks = re.split(r"^(/\S+):$", text, flags=re.MULTILINE)[1:]
    return {
        program: identities(re.findall(r"^\t(?:\S+ => )?(/\S+) \(0x", said, re.MULTILINE))
        for program, said in zip(blocks[::2], blocks[1::2], strict=True)
    }


def answers_of_lddtree(text: str) -> Answers:
    found: Answers = {}
    for block in re.split(r"^(?=/)", text, flags=re.MULTILINE)[1:]:
        first, *lines = block.splitlines()
        loader = re.findall(r"interpreter => (/[^\s)]+)", first)
        found[first.split()[0]] = identities([*re.findall(r"=> (/\S+)", "\n".join(lines)), *loader])
    return found


def answers_of_libtree(text: str) -> Answers:
    """Read what libtree prints with -vvv --path, which the timed runs are without."""
    found: Answers = {}
    for block in re.split(r"^(?=/)", text, flags=re.MULTILINE)[1:]:
        first, *lines = block.splitlines()
        found[first.split()[0]] = identities(re.findall(r"(/\S+) \[", "\n".join(lines)))
    return found


def compare(name: str, theirs: Answers, ours: Answers, loader_counts: bool) -> str:
    """Return how many programs a peer and jailbuild agree on."""
    loaders = identities(["/lib64/ld-linux-x86-64.so.2"]) if not loader_counts else frozenset()
    dynamic = [path for path, files in ours.items() if files]
    same = [path for path in dynamic if theirs.get(path, frozenset()) - loaders == ours[path] - loaders]
    others = [path for path in dynamic if path not in same]
    more = f"; not on {', '.join(others[:5])}{' …' if len(others) > 5 else ''}" if others else ""
    return f"{name} and jailbuild name the same files for {len(same)} of {len(dynamic)} dynamic programs{more}"


def bench_deps(clock: Clock, jailbuild: list[str], python: list[str]) -> None:
    """`deps` of everything, beside what else lists libraries."""
    paths = programs()
    ours = answers_of_jailbuild(output([*jailbuild, "deps", "--json", *paths], clock.environment))
    print(f"\n{len(paths)} ELF programs in /usr/bin and /usr/sbin; jailbuild answers for {len(ours)}.\n")
    peers: list[tuple[str, str, list[str], Callable[[str], Answers], bool]] = [
        ("ldd", "libc-bin", [], answers_of_ldd, True),
        ("lddtree", "pax-utils", [], answers_of_lddtree, True),
        ("libtree -vv", "libtree", ["-vv"], answers_of_libtree, False),
    ]
    slow: list[Contestant] = []
    quick = [
        Contestant("jailbuild deps --json", [*jailbuild, "deps", "--json", *paths], may_fail=True),
        Contestant("jailbuild deps", [*jailbuild, "deps", *paths], may_fail=True),
    ]
    for name, package, options, answers_of, loader_counts in peers:
        program = shutil.which(name.split()[0], path=clock.environment["PATH"])
        if program is None:
            print(f"- {name} is not here (Debian: {package}): skipped")
            continue
        asked = ["-vvv", "--path"] if name.startswith("libtree") else options  # -vv shows each library once a run
        theirs = answers_of(output([program, *asked, *paths], clock.environment))
        print(f"- {compare(name, theirs, ours, loader_counts)}")
        (quick if name.startswith("libtree") else slow).append(
            Contestant(name, [program, *options, *paths], may_fail=True)
        )
    starts = [
        Contestant("start and imports: python, the modules of deps", [*python, "-c", IMPORTS]),
        Contestant("start: python -c pass", [*python, "-c", "pass"]),
    ]
    seconds = clock.medians([*quick, *starts])
    seconds |= Clock(clock.environment, max(3, clock.rounds // 5)).medians(
        [*slow, quick[0]._replace(name="jailbuild deps --json, in the rounds of ldd")]
    )
    table(f"deps, {clock.rounds} rounds, whole processes", seconds, quick[0].name)
    start = seconds[starts[0].name]
    without = {name: seconds[name] - start for name in ("jailbuild deps --json", "jailbuild deps")}
    if "libtree -vv" in seconds:
        without["libtree -vv"] = seconds["libtree -vv"]
    table("deps, start and imports of ours subtracted", without, [*without][-1])


def main() -> None:
    """Compile, then run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", choices=["add", "deps", []], help="both by default")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--work", default=None, help="where boxes are made (default: the temporary directory)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=arguments.work) as made:
        work = Path(made)
        # What users have after `pip install .`: a plain virtual environment (an editable install costs 20 ms more at
        # each start of Python) and compiled modules, here in a place of their own so that no checkout is written to.
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", work / "venv"], check=True)
        packages = [str(Path(package.__path__[0]).parent) for package in (click, elftools)]
        environment = PLAIN | {
            "PYTHONPYCACHEPREFIX": str(work / "pyc"), "PYTHONPATH": ":".join([str(TOP), *dict.fromkeys(packages)]),
        }
        python = [str(work / "venv/bin/python"), "-P"]
        jailbuild = [*python, "-m", "jailbuild"]
        for warm in (["deps", "ls"], ["add", "--dry-run", "ls", "--into", str(work / "warm")], ["--version"]):
            subprocess.run([*jailbuild, *warm], env=environment, check=True, capture_output=True)
        print(f"Python {sys.version.split()[0]}, Linux {os.uname().release}, {os.cpu_count()} processors")
        clock = Clock(environment, arguments.rounds)
        if "add" in arguments.what or not arguments.what:
            bench_add(clock, jailbuild, work)
        if "deps" in arguments.what or not arguments.what:
            bench_deps(clock, jailbuild, python)


if __name__ == "__main__":
    main()
