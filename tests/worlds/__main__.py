"""Run worlds by hand: `python -m tests.worlds [--musl] [-j JOBS] COUNT`, or `… --seed N`."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from tests.worlds import compare, generate, musl_compare, musl_generate, musl_oracle, oracle
from tests.worlds.shrink import shrink
from tests.worlds.world import Workshop, World


class Side(NamedTuple):
    """The worlds of one libc: the world of a seed, and what differs in it between the loader's answer and ours."""

    world: Callable[[int], World]
    judge: Callable[[Workshop, World], tuple[list[str], oracle.Answer | musl_oracle.Answer]]


GLIBC = Side(generate.world, compare.judge)
MUSL = Side(musl_generate.world, musl_compare.judge)


def kind(differences: list[str]) -> str:
    """Return what kinds of differences these are, without their particulars."""
    return ", ".join(sorted({difference.partition(":")[0] for difference in differences}))


def minimal(workshop: Workshop, made: World, most: int = 2000, side: Side = GLIBC) -> World:
    """Return the smallest world that differs in the same way."""
    wanted = kind(side.judge(workshop, made)[0])
    return shrink(made, lambda smaller: kind(side.judge(workshop, smaller)[0]) == wanted, most)


def _run(task: tuple[int, int, int, bool]) -> list[tuple[int, str, str, str]]:
    first, count, step, is_musl = task
    side = MUSL if is_musl else GLIBC
    with Workshop() as workshop:
        results = []
        for seed in range(first, first + count, step):
            differences, theirs = side.judge(workshop, side.world(seed))
            what = "error" if theirs.error else f"{len(theirs.libraries)} libraries"
            results.append((seed, kind(differences), theirs.crashed, what))
        return results


def main() -> int:
    """Run them."""
    parser = argparse.ArgumentParser(prog="python -m tests.worlds", description=__doc__)
    parser.add_argument("-j", dest="jobs", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--first", type=int, default=0, metavar="SEED")
    parser.add_argument("--shrink", type=int, default=5, metavar="N", help="make that many failing worlds smaller")
    parser.add_argument("--seed", type=int, action="append", default=[], help="only this one; may be repeated")
    parser.add_argument("--raw", action="store_true", help="with --seed: print the world as it is")
    parser.add_argument("count", type=int, nargs="?", default=1000)
    parser.add_argument("--musl", action="store_true", help="worlds of musl")
    options = parser.parse_args()
    side = MUSL if options.musl else GLIBC
    say = sys.stdout.write
    failing = list(options.seed)
    if not failing:
        started = time.monotonic()
        tasks = [
            (options.first + start, options.count - start, options.jobs * 8, options.musl)
            for start in range(options.jobs * 8)
        ]
        with multiprocessing.Pool(options.jobs) as pool:
            results = sorted(result for part in pool.imap_unordered(_run, tasks) for result in part)
        crashed = [result for result in results if result[2]]
        differing = [result for result in results if result[1]]
        for seed, _, what, _ in crashed[:10]:
            say(f"seed {seed}: the loader crashed: {what}\n")
        say(
            f"{len(results) - len(crashed) - len(differing)} of {len(results)} worlds agree, {len(differing)} differ, "
            f"{len(crashed)} crash the loader; {time.monotonic() - started:.0f} s\n"
        )
        say(f"what the loader says: {Counter(result[3] for result in results).most_common(12)}\n")
        for what, number in Counter(result[1] for result in differing).most_common():
            seeds = [result[0] for result in differing if result[1] == what]
            say(f"{number} times {what}: seeds {' '.join(map(str, seeds[:12]))}\n")
        failing = [result[0] for result in differing][: options.shrink]
    with Workshop() as workshop:
        for seed in failing:
            made = side.world(seed)
            small = made if options.raw else minimal(workshop, made, side=side)
            differences, theirs = side.judge(workshop, small)
            say(f"\nseed {seed}:\n{small}\n" + "\n".join(differences) + f"\n{theirs.crashed}\n")
    return 1 if failing and not options.seed else 0


if __name__ == "__main__":
    sys.exit(main())
