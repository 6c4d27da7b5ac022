"""Calling jailbuild as a user does, looking at trees, and running programs inside a box."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib
import io
import json
import os
import pkgutil
import signal
import stat
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import jailbuild as package
from jailbuild import syscalls
from jailbuild.box import apply, faults
from jailbuild.box.add import AddSpec, plan_addition
from jailbuild.box.apply import Writing, apply_plan
from jailbuild.box.records import parse_manifest
from jailbuild.box.target import PlanOptions
from jailbuild.cli import COMMANDS, jailbuild, main
from jailbuild.closure.catalog import RecipeCatalog
from jailbuild.closure.gathering import Options
from jailbuild.errors import JailError, reason
from jailbuild.report import jsonlines
from jailbuild.root import Root

PATIENCE = 60  # seconds
NOBODY = 65534

# Imports everything, then becomes somebody who may read next to nothing.
AS_NOBODY = f"""
import base64, difflib, importlib, os, pkgutil, shlex, sys, tomllib
import click, jailbuild
for module in pkgutil.walk_packages(jailbuild.__path__, "jailbuild."):
    if module.name != "jailbuild.__main__":
        importlib.import_module(module.name)
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
from jailbuild.cli import main
main()
"""

Done = subprocess.CompletedProcess[str]


def open_to_all(*places: Path) -> None:
    """Let everybody into directories of the tests' own and those that pytest made above them, and into no other."""
    for place in places:
        for directory in (place, *place.parents):
            if directory == Path(tempfile.gettempdir()):
                break
            mode = stat.S_IMODE(directory.stat().st_mode)
            if mode & 0o005 != 0o005:
                directory.chmod(mode | 0o055)


def run(*arguments: str | Path, cwd: Path | None = None, nobody: bool = False) -> Done:
    """Run jailbuild; names that are not UTF-8 come and go as os.fsdecode has them."""
    command = [sys.executable, "-c", AS_NOBODY] if nobody else [sys.executable, "-m", "jailbuild"]
    return subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        cwd=cwd,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONWARNINGS": "default"},
    )


def forked(
    *arguments: str | Path, die_at: str | int = "", prepare: Callable[[], None] = lambda: None, call: str = ""
) -> Done:
    """Run jailbuild in a child of this process, which has all modules already; killed at a step if `die_at` names one.

    `call` names a function of jailbuild.box.apply to be called instead, and `prepare` is called in the child before.
    What the disk does is not waited for: a kill does not lose what was written.
    """
    for name in COMMANDS:
        importlib.import_module(f"jailbuild.cli.{name}")
    words = [os.memfd_create(name) for name in ("stdout", "stderr")]
    child = os.fork()
    if not child:
        try:
            for number, file in enumerate(words, 1):
                os.dup2(file, number)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            sys.stdout, sys.stderr = (
                io.TextIOWrapper(io.FileIO(number, "w"), encoding="utf-8", errors="surrogateescape")
                for number in (1, 2)
            )
            faults._WANTED = str(die_at)
            faults._reached.clear()
            syscalls.syncfs = lambda _: None  # type: ignore[assignment]
            os.fsync = lambda _: None  # type: ignore[assignment]
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)  # whose default is to end the process
            prepare()
            sys.argv = ["jailbuild", *map(str, arguments)]
            if call:
                sys.stdout.writelines(f"{line}\n" for line in getattr(apply, call)(*map(str, arguments), None))
            else:
                main()
        except SystemExit as left:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(left.code if isinstance(left.code, int) else int(left.code is not None))
        except BaseException:  # noqa: BLE001 - a child must never go on as the parent
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(70)
        sys.stdout.flush()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said = []
    for file in words:
        os.lseek(file, 0, os.SEEK_SET)
        with os.fdopen(file, "rb") as opened:
            said.append(opened.read().decode("utf-8", "surrogateescape"))
    assert "Traceback" not in said[1], said[1]
    return Done(list(map(str, arguments)), status, said[0], said[1])


def become_nobody() -> None:
    """Give up all privileges of this process, which has imported all of jailbuild: for `prepare` of `forked`."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE: its files in /proc are its own, as after exec(2)


def import_all() -> None:
    """Import what jailbuild may import while it runs: who can read next to nothing could not."""
    importlib.import_module("difflib")
    for module in pkgutil.walk_packages(package.__path__, "jailbuild."):
        if module.name != "jailbuild.__main__":
            importlib.import_module(module.name)


def add(box: Path, *arguments: str | Path, sysroot: Path | None = None, status: int = 0, **options: Any) -> Done:
    """Run `jailbuild add`, which must end with `status`."""
    root = ("--sysroot", sysroot) if sysroot is not None else ()
    done = run("add", *arguments, "--into", box, "--no-sync", *root, **options)
    assert status == done.returncode, done.stderr + done.stdout
    return done


def put(box: Path, *words: str, root: Path = Path("/"), library_path: str = "", adopt: bool = False) -> None:
    """Add without a process of its own (JailError; AssertionError if it waits for what never comes)."""

    def late(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"adding to {box} takes longer than {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        choices = PlanOptions(Options(library_path=library_path), catalog=RecipeCatalog())
        addition = plan_addition(Root(str(root)), AddSpec(words), str(box), choices, adopt=adopt)
        addition.plan.refuse_conflicts()
        apply_plan(addition.plan, str(box), addition.source, Writing(sync=False))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def complaint(done: Done) -> str:
    """Return what a run that failed said: one line and a hint at most, no traceback, nothing else."""
    lines = done.stderr.splitlines()
    assert done.returncode == 1, done
    assert len(lines) <= 2, done.stderr
    assert lines[0].startswith("jailbuild: cannot "), done.stderr
    assert all(line.startswith("hint: ") for line in lines[1:]), done.stderr
    return lines[0]


def objects(done: Done) -> list[dict[str, Any]]:
    """Return the JSON Lines of a run."""
    return [json.loads(line) for line in done.stdout.splitlines()]


def manifest(box: Path) -> list[dict[str, Any]]:
    """Return the lines of a box's manifest, in full, as `list --json` prints them."""
    found = parse_manifest((box / ".jailbuild/manifest.jsonl").read_bytes())
    return [json.loads(jsonlines.line(line)) for line in found.lines()]


def entries(box: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of a box's manifest, by path."""
    return {line["path"]: line for line in manifest(box) if line["kind"] == "entry"}


def _describe(path: str, status: os.stat_result, contents: bool, times: bool) -> str:
    mode = stat.S_IMODE(status.st_mode)
    time = f" @{status.st_mtime_ns}" if times else ""
    if stat.S_ISLNK(status.st_mode):
        return f"link -> {os.readlink(path)}{time}"
    if stat.S_ISDIR(status.st_mode):
        return f"directory {mode:04o}{time}"
    if not stat.S_ISREG(status.st_mode):
        return f"special {mode:04o}{time}"
    if contents:
        with open(path, "rb") as file:
            time = f" {hashlib.file_digest(file, 'sha256').hexdigest()[:16]}{time}"
    return f"file {mode:04o}{time}"


def dump(root: Path, *, contents: bool = False, times: bool = False, record: bool = False) -> dict[str, str]:
    """Return everything below `root` by path: "directory 0755", "file 0644", "link -> target".

    With the digests of files, with all mtimes, with jailbuild's own record where asked for.
    """
    found = {}
    if record or times:
        found["/"] = _describe(str(root), root.stat(), contents, times)
    for directory, names, leaves in os.walk(root):
        if not record and directory == str(root) and ".jailbuild" in names:
            names.remove(".jailbuild")
        for name in [*names, *leaves]:
            path = os.path.join(directory, name)
            found[path.removeprefix(str(root))] = _describe(path, os.lstat(path), contents, times)
    return dict(sorted(found.items()))


def state(root: Path) -> dict[str, str]:
    """Return all that can be seen of a tree: types, modes, bytes, times, the record too."""
    return dump(root, contents=True, times=True, record=True)


def settled(box: Path) -> dict[str, str] | None:
    """Return all that a change of a box decides: everything but the times of directories and of the record.

    None if there is no box, or an empty directory. AssertionError where a change left something of its own.
    """
    if not box.exists() or not os.listdir(box):
        return None
    if (box / ".jailbuild").exists():
        assert {"lock", "manifest.jsonl"} >= set(os.listdir(box / ".jailbuild"))
    found = {}
    for path, what in dump(box, contents=True, times=True, record=True).items():
        if path != "/.jailbuild/lock":
            timeless = what.startswith("directory") or path.startswith("/.jailbuild/")
            status = os.lstat(f"{box}{path}")
            what = f"{what.partition(' @')[0] if timeless else what} {status.st_uid}:{status.st_gid}"
            found[path] = f"{what} {status.st_nlink}" if what.startswith("file") else what
    return found


def _entering(root: Path) -> Callable[[], None]:
    chroot, chdir = os.chroot, os.chdir

    def enter() -> None:
        chroot(root)
        chdir("/")

    return enter


def inside(box: Path, *command: str) -> Done:
    """Run a command with the box as its root: a real chroot(2)."""
    return subprocess.run(
        command,
        preexec_fn=_entering(box),
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        timeout=PATIENCE,
        encoding="utf-8",
        errors="surrogateescape",
        stdin=subprocess.DEVNULL,
    )


def listed_inside(box: Path, program: str) -> dict[str, str]:
    """Return what the box's own loader says a program would load, by name, when it is started inside."""
    done = subprocess.run(
        [program],
        preexec_fn=_entering(box),
        env={"LD_TRACE_LOADED_OBJECTS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    found = {}
    for line in done.stdout.splitlines():
        name, arrow, path = line.strip().partition(" => ")
        if arrow:
            found[name] = path.rpartition(" (")[0] or path
    return found


class Answer(NamedTuple):
    """How a command that was called here ended, and what it said."""

    status: int
    errors: tuple[str, ...]  # causes of the one error that a user sees
    out: str
    words: str


def here(*arguments: str | Path) -> Answer:
    """Call jailbuild without a process of its own; AssertionError if it waits for what never comes.

    Errors that main() would not put into one line are raised.
    """

    def late(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"jailbuild {' '.join(map(str, arguments))} takes longer than {PATIENCE} s")

    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="surrogateescape")
    words = io.StringIO()
    status: object = 0
    errors: tuple[str, ...] = ()
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(words):
            status = jailbuild.main(list(map(str, arguments)), prog_name="jailbuild", standalone_mode=False)
    except SystemExit as left:
        status = left.code
    except JailError as error:
        status, errors = 1, error.causes
    except OSError as error:
        status, errors = 1, (f"cannot go on: {error.filename or 'the system'}: {reason(error)}",)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    out.seek(0)
    return Answer(status if isinstance(status, int) else 0, errors, out.read(), words.getvalue())


def everything(root: Path) -> dict[str, tuple[object, ...]]:
    """Return all that a stranger could change about a tree: types, modes, owners, times and bytes."""
    found: dict[str, tuple[object, ...]] = {}
    for directory, names, leaves in os.walk(root):
        for path in [directory, *(os.path.join(directory, name) for name in [*names, *leaves])]:
            status = os.lstat(path)
            found[path] = (*_describe(path, status, True, True).split(), status.st_uid, status.st_gid)
    return found
