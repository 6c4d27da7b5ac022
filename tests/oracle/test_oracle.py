"""The machine's own ld.so as oracle, over every ELF program of /usr/bin and /usr/sbin."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jailbuild.elf.reader import read_elf
from tests import needs
from tests.box.running import objects, put, run

LOADER = "/lib64/ld-linux-x86-64.so.2"
ALL = bool(os.environ.get("JAILBUILD_ALL"))  # put every program into a box of its own, not only some
SAMPLE = 40

_LISTED = re.compile(r"\t(.+) => (.+) \(0x[0-9a-f]+\)")

pytestmark = pytest.mark.skipif(not os.path.exists(LOADER), reason=f"the oracle is {LOADER}, and it is not here")


def _interpreter(path: str) -> str | None:
    """Return PT_INTERP of an ELF file, by readelf's plain rules: none for scripts and static programs."""
    opened = os.open(path, os.O_RDONLY)
    try:
        if os.pread(opened, 4, 0) != b"\x7fELF":
            return None
        return read_elf(opened).interpreter
    finally:
        os.close(opened)


def _programs() -> list[str]:
    """Return each dynamic program of this machine's loader, once for each file."""
    seen = set()
    found = []
    for directory in ("/usr/bin", "/usr/sbin"):
        for name in sorted(os.listdir(directory)):
            path = f"{directory}/{name}"
            try:
                status = os.stat(path)
            except FileNotFoundError:
                continue
            identity = status.st_dev, status.st_ino
            if not stat.S_ISREG(status.st_mode) or not status.st_mode & 0o111 or identity in seen:
                continue
            if _interpreter(path) == LOADER:
                seen.add(identity)
                found.append(path)
    return found


def _has_privileges(path: str) -> bool:
    return bool(os.stat(path).st_mode & (stat.S_ISUID | stat.S_ISGID)) or ("security.capability" in os.listxattr(path))


def _libraries(lines: list[str]) -> list[tuple[str, str]]:
    """Return name and path of what the loader lists, in its order; without itself and the vDSO."""
    found = [match for line in lines if (match := _LISTED.fullmatch(line))]
    return [(match[1], match[2]) for match in found if match[1] != match[2] and match[1] != LOADER]


def _listed(paths: list[str]) -> dict[str, list[tuple[str, str]]]:
    """Return what ld.so lists for each program, all in one shell.

    Who has privileges would run instead of being listed, or ignore the variable: the loader is called for those.
    """
    script = ["export LD_TRACE_LOADED_OBJECTS=1"]
    for number, path in enumerate(paths):
        command = f"{LOADER} '{path}'" if _has_privileges(path) else f"'{path}'"
        script.append(f"echo '# {number}'; {command} </dev/null 2>&1")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LD_")}
    done = subprocess.run(
        ["sh"],
        input="\n".join(script),
        capture_output=True,
        text=True,
        env=environment,
        cwd="/",
        timeout=120,
        check=False,
    )
    answers: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        if line.startswith("# "):
            answers[paths[int(line[2:])]] = []
        else:
            answers[next(reversed(answers))].append(line)
    return {path: _libraries(lines) for path, lines in answers.items()}


@pytest.fixture(scope="module")
def programs() -> list[str]:
    found = _programs()
    assert found
    return found


@pytest.fixture(scope="module")
def listed(programs: list[str]) -> dict[str, list[tuple[str, str]]]:
    return _listed(programs)


def test_every_program_loads_what_the_loader_lists_in_its_order(
    programs: list[str], listed: dict[str, list[tuple[str, str]]]
) -> None:
    """Names and paths, for each ELF program of /usr/bin and /usr/sbin; nothing else is missing or added."""
    found = {program["path"]: program for program in objects(run("deps", "--json", *programs))}
    assert programs == list(found)
    different = {}
    for path in programs:
        program = found[path]
        ours = [
            (library["name"], library["path"])
            for library in program["libraries"]
            if library["found_by"] != "interpreter"
        ]
        theirs = [library for library in listed[path] if library[1] != "not found"]
        if ours != theirs:
            different[path] = (ours, theirs)
    assert not different
    assert len(programs) > 100


def _all_libraries() -> list[str]:
    """Return each library of this machine's loader below /usr/lib, once for each file; programs and objects not."""
    found: dict[tuple[int, int], str] = {}
    for directory, _, names in os.walk("/usr/lib"):
        for name in names:
            path = f"{directory}/{name}"
            if ".so" not in name or not os.path.isfile(path):
                continue
            status = os.stat(path)
            opened = os.open(path, os.O_RDONLY)
            try:
                elf = read_elf(opened)
            finally:
                os.close(opened)
            if elf.kind == (64, True, 62) and elf.dynamic and not elf.is_program:
                found.setdefault((status.st_dev, status.st_ino), path)
    return sorted(found.values())


def _loaded(lines: list[str]) -> list[tuple[str, str]]:
    """Return name and path of what `ld.so --list` says; where it names one alone, it was asked for by its path."""
    found = [match for line in lines if (match := re.fullmatch(r"\t(?:(.+) => )?(/.+) \(0x[0-9a-f]+\)", line))]
    return [(match[1] or match[2], match[2]) for match in found if match[2] != LOADER]


def test_every_library_loads_what_the_loader_lists_in_its_order() -> None:
    """`ld.so --list` stops where one is missing: then deps names what is missing, and no more is compared."""
    paths = _all_libraries()
    assert len(paths) > 100
    found = {one["path"]: one for one in objects(run("deps", "--json", *paths))}
    assert paths == list(found)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LD_")}
    different: dict[str, object] = {}
    whole = 0
    for path in paths:
        done = subprocess.run(
            [LOADER, "--list", path], capture_output=True, text=True, check=False, cwd="/", env=environment, timeout=60
        )
        theirs = _loaded(done.stdout.splitlines())
        library = found[path]
        ours = [(one["name"], one["path"]) for one in library["libraries"] if one["found_by"] != "interpreter"]
        if done.returncode:
            if not (library["missing"] or library["error"]):
                different[path] = (ours, done.stderr)
            continue
        whole += 1
        if (ours, library["missing"], library["error"]) != (theirs, [], None):
            different[path] = (ours, theirs)
    print(f"{len(paths) - len(different)} of {len(paths)} agree, {whole} of them with nothing missing")  # noqa: T201
    assert not different
    assert whole > len(paths) / 2


class _Enter:
    """Become a process with a box as its root and the host's /proc in it, from which the loader learns $ORIGIN."""

    def __init__(self) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)

    def into(self, box: Path) -> Callable[[], None]:
        libc, root, proc = self.libc, os.fsencode(box), os.fsencode(box / "proc")

        def enter() -> None:
            # the mount goes with the process
            if libc.unshare(0x20000) or libc.mount(b"none", b"/", None, 0x44000, None):
                raise OSError(ctypes.get_errno(), "unshare")
            if libc.mount(b"/proc", proc, None, 0x5000, None):
                raise OSError(ctypes.get_errno(), "mount")
            os.chroot(root)
            os.chdir("/")

        return enter


def _inside(enter: _Enter, box: Path, path: str) -> list[tuple[str, str]]:
    command = [LOADER, path] if _has_privileges(path) else [path]
    done = subprocess.run(
        command,
        preexec_fn=enter.into(box),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"LD_TRACE_LOADED_OBJECTS": "1"},
        stdin=subprocess.DEVNULL,
    )
    return _libraries(done.stdout.splitlines())


def _spread(programs: list[str]) -> list[str]:
    """Return some of the programs, the same ones on every machine that has them."""
    return sorted(programs, key=lambda path: hashlib.sha256(os.fsencode(path)).digest())[:SAMPLE]


@needs.namespaces
def test_in_a_box_of_its_own_a_program_loads_what_it_loads_outside(
    programs: list[str], listed: dict[str, list[tuple[str, str]]], tmp_path: Path
) -> None:
    """The real loader in a real chroot lists the same names and paths, in the same order."""
    begun = time.monotonic()
    chosen = [path for path in programs if path.startswith("/usr/bin/")]
    if not ALL:
        chosen = _spread(chosen)
    enter = _Enter()
    different = {}
    for path in chosen:
        box = tmp_path / "box"
        put(box, path)
        inside = _inside(enter, box, path)
        if inside != listed[path]:
            different[path] = (inside, listed[path])
        shutil.rmtree(box)
    print(f"{len(chosen) - len(different)} of {len(chosen)} agree, {time.monotonic() - begun:.1f} s")  # noqa: T201
    assert not different
