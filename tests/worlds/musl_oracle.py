"""musl's answer: the program is started in the world and lists what is loaded; its loader lists it once more."""

from __future__ import annotations

import functools
import os
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.worlds.oracle import enter
from tests.worlds.world import Copied, Elf, Node, Workshop, World

LOADER = "/lib/ld-musl-x86_64.so.1"  # where PT_INTERP of musl's programs says it is
LIBC = "/usr/lib/x86_64-linux-musl/libc.so"  # where Debian has the file
_TIMEOUT = 5  # seconds
_SEPARATORS = " :\t\n"  # of LD_PRELOAD

_LISTED = re.compile(r"\t(.*) => (.*) \((?:0x[0-9a-f]+|0)\)")
_FAILED = re.compile(r"Error loading shared library (.*): ([^:]*) \(needed by (.*)\)")


class Answer(NamedTuple):
    """What the loader says. `crashed` if it died in a way that is no answer."""

    started: bool = False
    libraries: tuple[str, ...] = ()  # paths in its order; without the loader itself where it did not start
    names: tuple[tuple[str, str], ...] = ()  # (name, path) of what was loaded, as it was first asked for
    failed: tuple[tuple[str, str, str], ...] = ()  # (name, who needs it, the words of the error)
    error: str | None = None  # of execve
    crashed: str = ""


@functools.cache
def works() -> bool:
    """Say whether worlds can be started here: it takes the right to chroot and to mount, and musl's loader."""
    if os.geteuid() != 0 or os.uname().machine != "x86_64" or not os.path.exists(LIBC):
        return False
    world = World((Node(LOADER, Copied(LIBC)), Node("/bin/prog", Elf((), LOADER, lists=True))))
    with Workshop() as workshop, workshop.built(world) as root:
        try:
            return ask(world, root).started
        except subprocess.SubprocessError:
            return False


def ask(world: World, root: Path) -> Answer:
    """Start the program of the world that is built at `root`."""
    environment = {}
    if world.library_path:
        environment["LD_LIBRARY_PATH"] = world.library_path
    if world.preload:
        separator = _SEPARATORS[len("".join(world.preload)) % len(_SEPARATORS)]
        environment["LD_PRELOAD"] = separator.join(world.preload)
    made = not os.path.lexists(root / "proc")
    if made:
        os.mkdir(root / "proc")

    def run(*command: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            command,
            env=environment,
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
            preexec_fn=enter(root, world.plain_user),
            timeout=_TIMEOUT,
        )

    try:
        started = run(world.program)
        if started.returncode not in (0, 127):
            return Answer(crashed=f"status {started.returncode}")
        # told to list, it takes $ORIGIN from the name that it is given, not from /proc/self/exe
        interpreter = _interpreter(world)
        listing = run(interpreter, "--list", "--", _real(root, world.program))
    except subprocess.TimeoutExpired:
        return Answer(crashed="no end")
    except OSError as error:
        return Answer(error=os.strerror(error.errno or 0))
    finally:
        if made:
            os.rmdir(root / "proc")
    return read(started, listing, interpreter)


def _interpreter(world: World) -> str:
    return next(node.thing.interpreter for node in world.nodes if isinstance(node.thing, Elf) and node.thing.lists)


def _real(root: Path, path: str) -> str:
    """Return the real path of a program as /proc/self/exe has it in the world."""
    real = ""
    todo = path.split("/")[::-1]
    while todo:
        name = todo.pop()
        if name == "..":
            real = real.rpartition("/")[0]
        elif name not in ("", "."):
            here = f"{root}{real}/{name}"
            if os.path.islink(here):
                target = os.readlink(here)
                real = "" if target.startswith("/") else real
                todo += target.split("/")[::-1]
            else:
                real += "/" + name
    return real


def read(
    started: subprocess.CompletedProcess[bytes], listing: subprocess.CompletedProcess[bytes], interpreter: str
) -> Answer:
    """Read what both runs printed."""
    failed = []
    for line in os.fsdecode(started.stderr).split("\n"):
        if match := _FAILED.fullmatch(line):
            failed.append((match[1], match[3], match[2]))
        elif line.startswith("Error loading"):
            return Answer(crashed=f"what is this: {line!r}")
    if started.returncode and not failed:
        return Answer(crashed=f"it did not start: {os.fsdecode(started.stderr).strip()}")
    if listing.returncode not in (0, 127):
        return Answer(crashed=f"listing: status {listing.returncode}")
    names = []
    for line in os.fsdecode(listing.stdout).split("\n")[1:]:  # the first has the loader's name
        if match := _LISTED.fullmatch(line):
            if match[2] != interpreter:
                names.append((match[1], match[2]))
        elif line:
            return Answer(crashed=f"what is this: {line!r}")
    libraries = tuple(path for _, path in names)
    if not started.returncode:
        lines = os.fsdecode(started.stdout).split("\n")
        libraries = tuple(path for path in lines[1:] if path)  # the first is the program, the vDSO has no name
    return Answer(not started.returncode, libraries, tuple(names), tuple(failed))
