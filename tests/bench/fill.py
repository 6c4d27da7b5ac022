"""Everything in /usr/bin and /usr/sbin put into one box, beside dracut-install; and the copying alone, beside cp.

By hand, as root: python -m tests.bench.fill [--rounds N] [--work DIR], in the top directory. Prints Markdown.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from jailbuild.box.copy import Job, copy_all
from jailbuild.box.manifest import Entry
from tests.bench.bench import programs
from tests.bench.clock import Clock, Contestant, bench, table

DRACUT = "/usr/lib/dracut/dracut-install"  # Debian: dracut-core
_COPY = "import sys; from tests.bench.fill import copy_list; copy_list(sys.argv[1], sys.argv[2], int(sys.argv[3]))"


def copy_list(files: str, target: str, workers: int) -> None:
    """Copy the files that are listed in `files` to numbers in the directory `target`, by copy_all."""
    for _ in copy_all(_jobs(Path(files).read_text(encoding="utf-8").splitlines(), target), workers, False):
        pass


def _jobs(paths: list[str], target: str) -> Iterator[Job]:
    for number, path in enumerate(paths):
        status = os.lstat(path)
        entry = Entry(path, "file", 0o755, 0, 0, status.st_size, status.st_mtime_ns, source=path)
        made = f"{target}/{number}"
        yield Job(
            entry,
            lambda path=path: os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC),  # type: ignore[misc]
            lambda made=made: os.open(made, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC),  # type: ignore[misc]
        )


def copied_files(jailbuild: list[str], environment: dict[str, str], box: Path, paths: list[str]) -> list[str]:
    """Return which files of the host `add` would copy for programs: each file once, however many names it has."""
    done = subprocess.run(
        [*jailbuild, "add", "--bare", "--dry-run", "--json", *paths, "--into", str(box)],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[tuple[int, int], str] = {}
    for line in done.stdout.splitlines():
        record = json.loads(line)
        if record["type"] == "file" and record["source"] is not None:
            status = os.stat(record["source"])
            found.setdefault((status.st_dev, status.st_ino), record["source"])
    return sorted(found.values())


def digests(top: Path) -> set[str]:
    """Return what files a tree holds, by their bytes."""
    found = set()
    for directory, names, leaves in os.walk(top):
        if ".jailbuild" in names:
            names.remove(".jailbuild")
        for name in leaves:
            path = os.path.join(directory, name)
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb") as file:
                    found.add(hashlib.file_digest(file, "sha256").hexdigest())
    return found


def bench_fill(clock: Clock, jailbuild: list[str], work: Path, paths: list[str]) -> None:
    """`add` of everything beside dracut-install, which resolves and copies too, hashes nothing and does not sync."""
    box = work / "box"

    def clean() -> None:
        shutil.rmtree(box, ignore_errors=True)
        os.sync()

    def clean_and_make() -> None:
        clean()
        box.mkdir()

    contestants = [
        Contestant("dracut-install -l", [DRACUT, "-D", str(box), "-l", "-a", *paths], clean_and_make),
        Contestant(
            "jailbuild add --bare --no-sync",
            [*jailbuild, "add", "--bare", "-q", "--no-sync", *paths, "--into", str(box)],
            clean,
        ),
        Contestant("jailbuild add --bare", [*jailbuild, "add", "--bare", "-q", *paths, "--into", str(box)], clean),
    ]
    if not os.path.exists(DRACUT):
        print("dracut-install is not here (Debian: dracut-core): skipped")
        del contestants[0]
    made = []
    for one in contestants[:2]:
        clock.once(one)
        made.append(digests(box))
    if len(made) == 2:
        theirs, ours = made
        print(
            f"- {len(ours & theirs)} files are in both boxes, {len(ours - theirs)} only in that of jailbuild, "
            f"{len(theirs - ours)} only in that of dracut-install"
        )
    title = f"{len(paths)} ELF programs into one box, {clock.rounds} rounds"
    table(title, clock.medians(contestants), contestants[0].name)


def bench_copy(clock: Clock, python: list[str], work: Path, files: list[str]) -> None:
    """copy_all, which hashes, beside one cp for all, which does not, and cp and sha256sum, one after the other."""
    target = work / "copies"
    (work / "files").write_text("".join(f"{path}\n" for path in files), encoding="utf-8")

    def clean() -> None:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        os.sync()

    relative = [path.lstrip("/") for path in files]
    contestants = [
        Contestant("cp -p --parents", ["env", "-C", "/", "cp", "-p", "--parents", "-t", str(target), *relative], clean),
        Contestant(
            "cp, then sha256sum",
            [
                "env",
                "-C",
                "/",
                "sh",
                "-c",
                'target=$1; shift; cp -p --parents -t "$target" "$@"; sha256sum "$@"',
                "sh",
                str(target),
                *relative,
            ],
            clean,
        ),
        *(
            Contestant(
                f"copy_all, {workers} at a time",
                [*python, "-c", _COPY, str(work / "files"), str(target), str(workers)],
                clean,
            )
            for workers in (1, 2, 3)
        ),
    ]
    size = sum(os.stat(path).st_size for path in files)
    title = f"copying {len(files)} files, {size / 1e6:.0f} MB, {clock.rounds} rounds, whole processes"
    table(title, clock.medians(contestants), contestants[0].name)


def main() -> None:
    """Compile, then run both."""
    with bench(argparse.ArgumentParser(description=__doc__), 5) as world:
        paths = programs()
        files = copied_files(world.jailbuild, world.environment, world.work / "box", paths)
        bench_fill(world.clock(), world.jailbuild, world.work, paths)
        bench_copy(world.clock(), world.python, world.work, files)


if __name__ == "__main__":
    main()
