"""What all benches share: an installed jailbuild, a clock that is fair, and a table.

How the time is taken, and why so: README.md beside this file.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import click
import elftools

TOP = Path(__file__).parents[2]
PLAIN = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/root"}


class Bench(NamedTuple):
    """What a bench works with."""

    arguments: argparse.Namespace  # of them `rounds`
    work: Path  # a temporary directory
    python: list[str]  # the words that start a Python which has jailbuild as users have it
    environment: dict[str, str]

    @property
    def jailbuild(self) -> list[str]:
        """The words that start jailbuild."""
        return [*self.python, "-m", "jailbuild"]

    def clock(self, slower: int = 1) -> Clock:
        """Return a clock for as many rounds as were asked for, or a part of them and at least three."""
        rounds = self.arguments.rounds
        return Clock(self.environment, rounds if slower == 1 else max(3, rounds // slower))


@contextmanager
def bench(parser: argparse.ArgumentParser, rounds: int) -> Iterator[Bench]:
    """Read the arguments, make a directory to work in and a jailbuild as after `pip install .`, and say on what."""
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--work", default=None, help="where boxes are made (default: the temporary directory)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=arguments.work) as made:
        work = Path(made)
        # A plain virtual environment (an editable install costs 20 ms more at each start of Python) and compiled
        # modules, here in a place of their own so that no checkout is written to.
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", work / "venv"], check=True)
        packages = [str(Path(package.__path__[0]).parent) for package in (click, elftools)]
        environment = PLAIN | {
            "PYTHONPYCACHEPREFIX": str(work / "pyc"),
            "PYTHONPATH": ":".join([str(TOP), *dict.fromkeys(packages)]),
        }
        print(f"Python {sys.version.split()[0]}, Linux {os.uname().release}, {len(os.sched_getaffinity(0))} processors")
        yield Bench(arguments, work, [str(work / "venv/bin/python"), "-P"], environment)


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
            one.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=self.environment,
            check=False,
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
