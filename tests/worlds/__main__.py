"""Run worlds by hand: `python -m tests.worlds [-j JOBS] [FIRST] COUNT`, or `python -m tests.worlds --seed N`."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter

from tests.worlds.compare import judge
from tests.worlds.generate import world
from tests.worlds.shrink import shrink
from tests.worlds.world import Workshop, World


def kind(differences: list[str]) -> str:
    """Return what kinds of differences these are, without their particulars."""
    return ", ".join(sorted({difference.partition(":")[0] for difference in differences}))


def minimal(workshop: Workshop, made: World, most: int = 2000) -> World:
    """Return the smallest world that differs in the same way."""
    wanted = kind(judge(workshop, made)[0])
    return shrink(made, lambda smaller: kind(judge(workshop, smaller)[0]) == wanted, most)


def _run(task: tuple[int, int, int]) -> list[tuple[int, str, str, str]]:
    first, count, step = task
    with Workshop() as workshop:
        results = []
        for seed in range(first, first + count, step):
            differences, theirs = judge(workshop, world(seed))
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
    options = parser.parse_args()
    say = sys.stdout.write
    failing = list(options.seed)
    if not failing:
        started = time.monotonic()
        tasks = [
            (options.first + start, options.count - start, options.jobs * 8) for start in range(options.jobs * 8)
        ]
        with multiprocessing.Pool(options.jobs) as pool:
            results = sorted(result for part in pool.imap_unordered(_run, tasks) for result in part)
        crashed = [result for result in results if result[2]]
        differing = [result for result in results if result[1]]
        for seed, _, what, _ in crashed[:10]:
            say(f"seed {seed}: the loader crashed: {what}\n")
        say(f"{len(results) - len(crashed) - len(differing)} of {len(results)} worlds agree, {len(differing)} differ, "
            f"{len(crashed)} crash the loader; {time.monotonic() - started:.0f} s\n")
        say(f"what the loader says: {Counter(result[3] for result in results).most_common(12)}\n")
        for what, number in Counter(result[1] for result in differing).most_common():
            seeds = [result[0] for result in differing if result[1] == what]
            say(f"{number} times {what}: seeds {' '.join(map(str, seeds[:12]))}\n")
        failing = [result[0] for result in differing][: options.shrink]
    with Workshop() as workshop:
        for seed in failing:
            made = world(seed)
            small = made if options.raw else minimal(workshop, made)
            differences, theirs = judge(workshop, small)
            say(f"\nseed {seed}:\n{small}\n" + "\n".join(differences) + f"\n{theirs.crashed}\n")
    return 1 if failing and not options.seed else 0


if __name__ == "__main__":
    sys.exit(main())
