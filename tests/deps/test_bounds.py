"""One file may ask for millions of look-ups: `deps` answers, or says in one line that it will not, and soon.

The kernel holds the limits: 256 MB of address space, and a second of processor time, start of Python included. What is
here takes half of it at most; a file that is not bounded takes minutes.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deps.forged import AUDIT, FILTER, LOADER, NEEDED, RPATH, RUNPATH, SONAME, forge

MEGABYTE = 1 << 20
SECONDS = 1
NAMES = [(NEEDED, f"libnone{number}.so.1") for number in range(4096)]
DIRECTORIES = ":".join(f"/nowhere/{number}" for number in range(1000))

pytestmark = pytest.mark.skipif(not os.path.exists(LOADER), reason=f"the files are for {LOADER}, and it is not here")


def limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (256 * MEGABYTE,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))


def deps(path: Path | str, *options: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "jailbuild", "deps", *options, path],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )
    assert done.returncode in (0, 1), (done.returncode, done.stderr[-300:])
    assert "Traceback" not in done.stderr
    return done


def missing_in(top: Path) -> Path:
    return forge(top / "prog", NAMES)


def missing_in_rpath(top: Path) -> Path:
    return forge(top / "prog", [*NAMES, (RPATH, DIRECTORIES)])


def missing_in_runpath(top: Path) -> Path:
    return forge(top / "prog", [*NAMES, (RUNPATH, DIRECTORIES)])


def missing_in_directories_that_are_there(top: Path) -> Path:
    directories = [top / str(number) for number in range(1000)]
    for directory in directories:
        directory.mkdir()
    return forge(top / "prog", [*NAMES, (RPATH, ":".join(map(str, directories)))])


def a_megabyte_of_directories(top: Path) -> Path:
    return forge(top / "prog", [*NAMES[:100], (RPATH, ":".join(f"/n/{number}" for number in range(100_000)))])


def a_megabyte_of_empty_directories(top: Path) -> Path:
    return forge(top / "prog", [*NAMES[:1], (RPATH, ":" * 1_000_000)])


def origin_in_every_directory(top: Path) -> Path:
    return forge(top / "prog", [*NAMES[:1], (RPATH, ":".join(["$ORIGIN/x"] * 100_000))])


def deep(top: Path) -> Path:
    """Return a directory whose path has some 2000 bytes."""
    directory = top.joinpath(*["d" * 180] * 11)
    directory.mkdir(parents=True)
    return directory


def origin_far_down(top: Path) -> Path:
    return forge(deep(top) / "prog", [*NAMES[:1], (RPATH, "$ORIGIN" * 145_000)])


def names_of_origins(top: Path) -> Path:
    return forge(deep(top) / "prog", [(NEEDED, "$ORIGIN" * 250 + f"/{number}.so") for number in range(500)])


def filters(top: Path) -> Path:
    return forge(top / "prog", [(FILTER, name) for _, name in NAMES])


def audits(top: Path) -> Path:
    return forge(top / "prog", [(AUDIT, ":".join(name for _, name in NAMES))])


def a_chain_that_inherits_directories(top: Path) -> Path:
    for number in range(100):
        more = ":".join(f"/x{number}/{other}" for other in range(900))
        wants = [(NEEDED, f"lib{number + 1}.so"), (NEEDED, f"libnone{number}.so"), (RPATH, f"{top}:{more}")]
        forge(top / f"lib{number}.so", wants, None)
    return forge(top / "prog", [(NEEDED, "lib0.so"), (RPATH, str(top))])


def each_needs_all(top: Path) -> Path:
    everything = [(NEEDED, f"lib{number}.so") for number in range(400)]
    for _, name in everything:
        forge(top / name, [*everything, (SONAME, name)], None)
    return forge(top / "prog", [*everything, (RPATH, str(top))])


def a_chain_of_libraries(top: Path) -> Path:
    for number in range(1500):
        forge(top / f"lib{number}.so", [(NEEDED, f"lib{number + 1}.so")] if number < 1499 else [], None)
    return forge(top / "prog", [(NEEDED, "lib0.so"), (RPATH, str(top))])


def its_own_interpreter(top: Path) -> Path:
    return forge(top / "prog", NAMES[:10], str(top / "prog"))


def a_chain_of_interpreters(top: Path) -> Path:
    for number in range(100):
        forge(top / str(number), [], str(top / str(number + 1)))
    return top / "0"


def a_loader_full_of_slashes(top: Path) -> Path:
    loader = forge(top / "ld.so", [(SONAME, "ld.so")], None)
    with loader.open("ab") as file:
        file.write(b"/\0/" * (2 * MEGABYTE) + b"\0lib/" * MEGABYTE)
    return forge(top / "prog", NAMES[:10], str(loader))


def a_loader_of_64_megabytes(top: Path) -> Path:
    loader = forge(top / "ld.so", [(SONAME, "ld.so")], None)
    os.truncate(loader, 64 * MEGABYTE)
    return forge(top / "prog", NAMES[:10], str(loader))


def script(path: Path, interpreter: Path) -> Path:
    path.write_text(f"#!{interpreter}\n")
    path.chmod(0o755)
    return path


def scripts_in_a_circle(top: Path) -> Path:
    script(top / "one", top / "two")
    return script(top / "two", top / "one")


def scripts_in_a_row(top: Path) -> Path:
    for number in range(100):
        script(top / str(number), top / str(number + 1))
    return top / "0"


def a_name_of_a_million_slashes(top: Path) -> Path:
    return forge(top / "prog", [(NEEDED, "/" * 1_000_000 + "x.so")])


def a_name_of_numbers(top: Path) -> Path:
    return forge(top / "prog", [(NEEDED, "x" + "1.0" * 300_000 + ".so")])


def filters_that_are_there(top: Path) -> Path:
    names = [f"lib{number}.so" for number in range(1000)]
    for name in names:
        forge(top / name, [(SONAME, name)], None)
    forge(top / "libfilter.so", [(FILTER, name) for name in names], None)
    needs = [(NEEDED, "libfilter.so"), *((NEEDED, name) for name in names)]
    return forge(top / "prog", [*needs, *((FILTER, name) for name in names), (RPATH, str(top))])


def auditors_that_audit_themselves(top: Path) -> Path:
    everything = ":".join(str(top / f"lib{number}.so") for number in range(100))
    for number in range(100):
        forge(top / f"lib{number}.so", [(AUDIT, everything)], None)
    return forge(top / "prog", [(AUDIT, everything)])


def candidates_of_another_machine(top: Path) -> Path:
    names = [f"lib{number}.so" for number in range(1000)]
    for name in names:
        data = bytearray(forge(top / name, [], None).read_bytes())
        data[18] = 0xB7  # e_machine: aarch64
        (top / name).write_bytes(data)
    paths = [(NEEDED, str(top / name)) for name in names]
    return forge(top / "prog", [*((NEEDED, name) for name in names), *paths, (RPATH, str(top))])


def a_chain_each_of_which_misses_many(top: Path) -> Path:
    for number in range(60):
        absent = [(NEEDED, f"libno{number}-{other}.so") for other in range(1500)]
        forge(top / f"lib{number}.so", [*absent, (NEEDED, f"lib{number + 1}.so")], None)
    return forge(top / "prog", [(NEEDED, "lib0.so"), (RPATH, str(top))])


FORMS: tuple[list[str], ...] = (["--json"], [], ["-v"], ["--paths"], ["--dot"], ["--mermaid"])
EXPENSIVE = (
    filters_that_are_there,
    auditors_that_audit_themselves,
    candidates_of_another_machine,
    a_chain_each_of_which_misses_many,
    missing_in,
    missing_in_rpath,
    missing_in_runpath,
    missing_in_directories_that_are_there,
    a_megabyte_of_directories,
    a_megabyte_of_empty_directories,
    origin_in_every_directory,
    origin_far_down,
    names_of_origins,
    filters,
    audits,
    a_chain_that_inherits_directories,
    each_needs_all,
    a_chain_of_libraries,
    its_own_interpreter,
    a_chain_of_interpreters,
    a_loader_full_of_slashes,
    a_loader_of_64_megabytes,
    scripts_in_a_circle,
    scripts_in_a_row,
    a_name_of_a_million_slashes,
    a_name_of_numbers,
)


@pytest.mark.parametrize("make", EXPENSIVE, ids=lambda make: make.__name__)
@pytest.mark.parametrize("options", FORMS, ids=lambda options: "".join(options).lstrip("-") or "tree")
def test_an_expensive_file_gives_an_answer_within_the_limits(
    make: Callable[[Path], Path], options: list[str], tmp_path: Path
) -> None:
    done = deps(make(tmp_path), *options)
    if options == ["--json"]:
        record = json.loads(done.stdout)
        assert (done.returncode == 1) == bool(record["error"] or record["missing"])


def root(top: Path, files: dict[str, bytes]) -> Path:
    """Make a root with the loader, a program /prog, and these files."""
    made = top / "root"
    for path, content in files.items():
        (made / path).parent.mkdir(parents=True, exist_ok=True)
        (made / path).write_bytes(content)
    (made / "lib64").mkdir()
    shutil.copy(os.path.realpath(LOADER), made / LOADER[1:])
    forge(made / "prog", [(NEEDED, "libnone.so"), (NEEDED, "l0.so"), (RPATH, "/./")])
    return made


def preloads_of_nothing(top: Path) -> Path:
    return root(top, {"etc/ld.so.preload": b"a " * 500_000})


def preloads_with_comments(top: Path) -> Path:
    return root(top, {"etc/ld.so.preload": b"#\n" * 500_000})


def a_preload_without_end(top: Path) -> Path:
    return root(top, {"etc/ld.so.preload": b"a" * 1_000_000 + b" b"})


def a_cache_of_one_name(top: Path) -> Path:
    """Return a root whose cache has a name 100 000 times, for another machine, and 300 who ask for it."""
    count = 100_000
    strings = 48 + 24 * count
    rows = struct.pack("<iIIIQ", 5, strings, strings, 0, 0) * count
    header = struct.pack("<20sIIB15x", b"glibc-ld.so.cache1.1", count, 11, 2)
    made = root(top, {"etc/ld.so.cache": header + rows + b"libnone.so\0"})
    for number in range(300):
        wants = [(NEEDED, "libnone.so"), (NEEDED, f"l{number + 1}.so"), (RPATH, f"/./:/{number}")]
        forge(made / f"l{number}.so", wants, None)
    return made


ROOTS = (preloads_of_nothing, preloads_with_comments, a_preload_without_end, a_cache_of_one_name)


@pytest.mark.parametrize("make", ROOTS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("options", FORMS, ids=lambda options: "".join(options).lstrip("-") or "tree")
def test_an_expensive_root_gives_an_answer_within_the_limits(
    make: Callable[[Path], Path], options: list[str], tmp_path: Path
) -> None:
    assert deps("/prog", "--sysroot", make(tmp_path), *options).returncode == 1


@pytest.mark.parametrize("make", [missing_in, missing_in_rpath], ids=lambda make: make.__name__)
def test_whatever_can_be_searched_is_reported(make: Callable[[Path], Path], tmp_path: Path) -> None:
    """4096 names that are nowhere, and 1000 directories that are not there either: the loader would say it of each."""
    record = json.loads(deps(make(tmp_path), "--json").stdout)
    if make is missing_in:
        assert record["error"] is None
        assert [name for _, name in NAMES] == [missing["name"] for missing in record["missing"]]
    else:  # a thousand lines for each name would be too much to print
        assert record["error"].endswith("steps")
        assert all(len(missing["searched"]) > 1000 for missing in record["missing"])


def test_a_program_after_an_expensive_one_is_resolved_as_ever(tmp_path: Path) -> None:
    """What is counted is counted for each program."""
    expensive = missing_in_rpath(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "jailbuild", "deps", "--json", expensive, "ls", expensive, "bash"],
        capture_output=True,
        text=True,
        check=False,
    )
    first, ls, again, bash = map(json.loads, done.stdout.splitlines())
    assert first == again
    assert first["error"]
    assert ls["error"] is bash["error"] is None
    assert [] == ls["missing"] == bash["missing"]


def test_a_tree_too_deep_goes_on_in_one_of_its_own(tmp_path: Path) -> None:
    """Every library of a chain of 1500 is drawn once, and no line is moved in by more than a screen or two."""
    lines = deps(a_chain_of_libraries(tmp_path)).stdout.splitlines()
    drawn = [line.split(" => ")[0].split()[-1] for line in lines if " => " in line]
    assert [f"lib{number}.so" for number in range(1500)] == drawn
    assert max(len(line) - len(line.lstrip("│ ")) for line in lines) < 300
