"""jailbuild beside its peers, in one run, in alternating order: medians and ratios, as Markdown.

By hand: python -m tests.bench.bench [add] [deps] [--rounds N]. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.bench.clock import Clock, Contestant, bench, table

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


# add


def bench_add(clock: Clock, jailbuild: list[str], work: Path) -> None:
    """`add` beside the loop with ldd and cp, into the same file system."""
    box = work / "box"

    def clean() -> None:
        shutil.rmtree(box, ignore_errors=True)

    contestants = [
        Contestant("the loop with ldd and cp", ["sh", "-c", LOOP, "loop", str(box), "bash", "ls"], clean),
        *(
            Contestant(
                " ".join(["jailbuild add", *options, "bash ls"]),
                [*jailbuild, "add", *options, "bash", "ls", "--into", str(box)],
                clean,
            )
            for options in (["--bare", "--no-sync"], ["--bare"], ["--no-sync"])
        ),
        Contestant(
            "jailbuild add --bare --dry-run bash ls",
            [*jailbuild, "add", "--bare", "--dry-run", "bash", "ls", "--into", str(box)],
            clean,
        ),
        Contestant("jailbuild --version", [*jailbuild, "--version"]),
    ]
    made = {}
    for one in contestants[:2]:
        clock.once(one)
        made[one.name] = {
            os.path.realpath(f"/{path.relative_to(box)}")
            for path in box.rglob("*")
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
    with bench(parser, 21) as world:
        for warm in (["deps", "ls"], ["add", "--dry-run", "ls", "--into", str(world.work / "warm")], ["--version"]):
            subprocess.run([*world.jailbuild, *warm], env=world.environment, check=True, capture_output=True)
        what = world.arguments.what or ["add", "deps"]
        if "add" in what:
            bench_add(world.clock(), world.jailbuild, world.work)
        if "deps" in what:
            bench_deps(world.clock(), world.jailbuild, world.python)


if __name__ == "__main__":
    main()
