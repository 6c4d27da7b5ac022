"""The real loader's answer: the program started in the world, told to list what it would load."""

from __future__ import annotations

import ctypes
import functools
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.worlds.world import LOADER, Workshop, World

_CLONE_NEWNS = 0x20000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
_NOBODY = 65534
_TIMEOUT = 5  # seconds

_LISTED = re.compile(r"\t(.*) => (.*) \(0x[0-9a-f]+\)")
_ALONE = re.compile(r"\t(.*) \(0x[0-9a-f]+\)")
_ABSENT = re.compile(r"\t(.*) => not found")
_FATAL = re.compile(r": error while loading shared libraries: (.*)")
_IGNORED = re.compile(r"ERROR: ld\.so: object '(.*)' from \S+ cannot be preloaded \((.*)\)")
_DEBUG = re.compile(r" *[0-9]+:\t(.*)")


class Answer(NamedTuple):
    """What the loader says. `crashed` if it died in a way that is no answer."""

    libraries: tuple[tuple[str, str], ...] = ()  # (name, path), in its order
    missing: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()  # preloads
    error: str | None = None  # the line of a refusal, or the errno of execve
    found_by: tuple[tuple[str, str], ...] = ()  # (path, step), of those that were searched for
    crashed: str = ""
    listed: bool = True  # False: a program without DT_NEEDED, for which it lists nothing, not even preloads


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def enter(root: Path, plain_user: bool) -> Callable[[], None]:
    """Return what a child calls to be in the world, with /proc there."""
    libc = _libc()
    proc = os.fsencode(root / "proc")
    chroot, chdir, setgid, setuid, setgroups = os.chroot, os.chdir, os.setgid, os.setuid, os.setgroups

    def inside() -> None:
        # /proc/self/exe is where the loader learns $ORIGIN from; the mount goes with the process
        if libc.unshare(_CLONE_NEWNS) or libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None):
            raise OSError(ctypes.get_errno(), "unshare")
        if libc.mount(b"/proc", proc, None, _MS_BIND | _MS_REC, None):
            raise OSError(ctypes.get_errno(), "mount")
        chroot(root)
        chdir("/")
        if plain_user:
            setgroups([])
            setgid(_NOBODY)
            setuid(_NOBODY)

    return inside


@functools.cache
def works() -> bool:
    """Say whether worlds can be started here: it takes the right to chroot and to mount, and this machine's loader."""
    if os.geteuid() != 0 or not os.path.exists(LOADER):
        return False
    with Workshop() as workshop, workshop.built(World(())) as root:
        try:
            (root / "proc").mkdir()
            subprocess.run(["/nowhere"], check=False, preexec_fn=enter(root, False))
        except FileNotFoundError:
            return True
        except (OSError, subprocess.SubprocessError):
            return False
    return False


def ask(world: World, root: Path) -> Answer:
    """Start the program of the world that is built at `root`."""
    environment = {"LD_TRACE_LOADED_OBJECTS": "1", "LD_DEBUG": "libs", "LC_ALL": "C"}
    if world.library_path:
        environment["LD_LIBRARY_PATH"] = world.library_path
    if world.preload:
        environment["LD_PRELOAD"] = ":".join(world.preload)
    made = not os.path.lexists(root / "proc")
    if made:
        os.mkdir(root / "proc")
    try:
        run = subprocess.run(
            [world.program],
            env=environment,
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
            preexec_fn=enter(root, world.plain_user),
            timeout=_TIMEOUT,
        )
    except subprocess.TimeoutExpired:  # it can go round in circles over filters
        return Answer(crashed="no end")
    except OSError as error:
        return Answer(error=f"exec: {os.strerror(error.errno or 0)}")
    finally:
        if made:
            os.rmdir(root / "proc")
    return read(run.returncode, os.fsdecode(run.stdout), os.fsdecode(run.stderr))


def read(status: int, listed: str, said: str) -> Answer:
    """Read what the loader printed."""
    debug = []
    ignored = []
    error = None
    for line in said.split("\n"):
        if match := _DEBUG.fullmatch(line):
            debug.append(match[1])
        elif match := _IGNORED.match(line):
            ignored.append(match[1])
        elif match := _FATAL.search(line):
            error = match[1]
    if error is not None and "DT_RELR without" in error:  # a consequence of a library that was not found
        return Answer(crashed=error)
    if status == 127 and error is not None:
        return Answer(error=error, ignored=tuple(ignored))
    if status:
        return Answer(crashed=f"status {status}: {said.strip().splitlines()[-1:]}")
    libraries = []
    missing = []
    for line in listed.split("\n"):
        if match := _ABSENT.fullmatch(line):
            missing.append(match[1])
        elif match := _LISTED.fullmatch(line) or _ALONE.fullmatch(line):
            pair = match[1], match[match.lastindex or 1]
            if pair[1] != "linux-vdso.so.1":
                libraries.append(pair)
        elif line == "\tstatically linked":
            return Answer((), (), tuple(ignored), None, tuple(_steps(debug).items()), listed=False)
        elif line:
            return Answer(crashed=f"what is this: {line!r}")
    return Answer(tuple(libraries), tuple(missing), tuple(ignored), None, tuple(_steps(debug).items()))


def _steps(debug: list[str]) -> dict[str, str]:
    """Return by which step each file was found that was the last one tried in a search."""
    steps: dict[str, str] = {}
    step = tried = ""
    for line in debug:
        if line.startswith("find library="):
            step = tried = ""
        elif line.startswith(" search path="):
            what = line.rpartition("\t\t(")[2].rstrip(")")
            step = "default" if step in ("cache", "default") else what.split(" from file")[0]
        elif line.startswith(" search cache="):
            step = "cache"
        elif line.startswith("  trying file="):
            tried = line.removeprefix("  trying file=")
        elif not line and tried:
            steps.setdefault(tried, step)
            tried = ""
    names = {"RPATH": "rpath", "RUNPATH": "runpath", "LD_LIBRARY_PATH": "ld_library_path"}
    return {path: names.get(step, step) for path, step in steps.items()}
