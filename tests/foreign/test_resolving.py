"""Boxes of other machines' programs, made and checked without an emulator; the machines' own loaders are the oracle."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jailbuild.elf.reader import read_elf
from jailbuild.enter.emulation import way
from tests import needs
from tests.box.running import Done, forked, objects, run
from tests.check.asking import findings
from tests.foreign.roots import FOREIGN, MACHINES, Machine

Making = Callable[[str], Path]

everywhere = pytest.mark.parametrize("name", MACHINES)
emulated = pytest.mark.parametrize("name", FOREIGN)
PROGRAMS = ("bash", "git", "python3")


def emulator(machine: Machine) -> str:
    found = shutil.which(f"qemu-{machine.qemu}-static")
    if found is None:
        pytest.skip("qemu-user-static is not installed")
    return found


def copy(box: Path, to: Path) -> None:
    """Copy what is in a box, without its record, into a directory that may have something in it, by hard links."""
    subprocess.run(["cp", "-al", f"{box}/.", to], check=True)
    shutil.rmtree(to / ".jailbuild")


def in_root(root: Path, path: str) -> Path:
    """Return the host's path of what stands at a path of a root: absolute links are the root's."""
    for _ in range(20):
        for end in [*range(1, path.count("/")), None]:
            parts = path.split("/")
            head = "/".join(parts[: end + 1] if end else parts)
            if (root / head.lstrip("/")).is_symlink():
                to = os.path.join(os.path.dirname(head), os.readlink(root / head.lstrip("/")))
                path = os.path.normpath("/".join([to, *parts[end + 1 :]] if end else [to]))
                break
        else:
            return root / path.lstrip("/")
    raise AssertionError(path)


def loader_of(machine: Machine, root: Path) -> Path:
    """Return the loader of a root, as the program bash names it."""
    with open(in_root(root, "/usr/bin/bash"), "rb") as file:
        interpreter = read_elf(file.fileno()).interpreter
    assert interpreter is not None
    return in_root(root, interpreter)


def problems(done: Done) -> list[dict[str, Any]]:
    """Return the errors and warnings of `check --json --strict`."""
    return [one for one in findings(done, strict=True) if one["severity"] != "note"]


def resolved(root: Path, *more: str | Path) -> list[dict[str, Any]]:
    return objects(run("deps", *PROGRAMS, "--sysroot", root, "--json", *more))


@everywhere
def test_a_box_of_unpacked_packages_is_whole(name: str, box_of: Making) -> None:
    """A box with bash, git and python3 has neither errors nor warnings, and no program of another machine in it."""
    box = box_of(name)
    assert problems(run("check", box, "--json", "--strict")) == []
    kinds = set()
    for path in box.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with open(path, "rb") as file:
                elf = read_elf(file.fileno())
            kinds |= {elf.kind} if elf.bits else set()
    assert kinds == {MACHINES[name].kind}


def shared_objects(box: Path) -> list[str]:
    """Return the paths of all files in a box that have .so in their names, as seen from inside."""
    return [
        f"/{path.relative_to(box)}" for path in sorted(box.rglob("*.so*")) if path.is_file() and not path.is_symlink()
    ]


@everywhere
def test_any_library_taken_away_is_found(name: str, box_of: Making, tmp_path: Path) -> None:
    """Of all that is loaded in a box each file taken away is missed by its name: by the programs that need it, or by
    the modules alone that do (Python's). No manifest helps.
    """
    box = tmp_path / "box"
    copy(box_of(name), box)
    programs = resolved(box)
    modules = objects(run("deps", *shared_objects(box), "--sysroot", box, "--json"))
    wanted: dict[Path, set[tuple[str, str]]] = {}  # by file: under which names, and which codes of `check` tell
    for codes, told in (({"unreached-library", "missing-library"}, modules), ({"missing-library"}, programs)):
        for library in (library for one in told for library in one["libraries"]):
            wanted[in_root(box, library["path"])] = {(library["name"], code) for code in codes}
    interpreter = programs[0]["interpreter"]
    wanted[in_root(box, interpreter)] = {(interpreter, "missing-interpreter")}
    assert len(wanted) >= 6
    for file, either in wanted.items():
        aside = box / "aside"
        file.rename(aside)
        try:
            found = {(one["subject"], one["code"]) for one in findings(forked("check", box, "--json"))}
        finally:
            aside.rename(file)
        assert either & found, (file, either)


@everywhere
def test_each_shared_object_taken_away_is_found_by_the_manifest(name: str, box_of: Making, tmp_path: Path) -> None:
    """Python's modules, which nothing asks for by name, are missed too."""
    box = tmp_path / "box"
    subprocess.run(["cp", "-a", box_of(name), box], check=True)
    gone = shared_objects(box)
    for path in gone:
        (box / path.lstrip("/")).unlink()
    found = {one["path"] for one in findings(run("check", box, "--json")) if one["code"] == "missing-file"}
    assert found >= set(gone)


@emulated
def test_libraries_are_those_that_the_machines_own_loader_takes(name: str, root_of: Making) -> None:
    """`deps` names each library and the path that the root's loader, run by an emulator, finds it at."""
    machine, root = MACHINES[name], root_of(name)
    for program in resolved(root):
        listed = subprocess.run(
            [emulator(machine), "-L", root, loader_of(machine, root), "--list", in_root(root, program["path"])],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert listed.returncode == 0, listed.stderr
        expected = dict(re.findall(r"^\t(\S+) => (\S+) \(0x", listed.stdout, re.MULTILINE))
        found = {one["name"]: one["path"] for one in program["libraries"] if one["found_by"] != "interpreter"}
        assert {key: path for key, path in expected.items() if "/" not in key and not key.startswith("ld")} == found


@needs.isolation
@emulated
def test_check_asks_the_boxs_own_loader_by_an_emulator(name: str, box_of: Making, tmp_path: Path) -> None:
    """`check --run` has an answer for each program, and the same one, also where a library is missing."""
    machine, box = MACHINES[name], tmp_path / "box"
    emulator(machine)
    if way(machine.kind).how == "none":
        pytest.skip("this kernel has no binfmt_misc for each namespace, and the host's has nothing for the machine")
    copy(box_of(name), box)
    done = run("check", box, "--run", "--json")
    assert [one for one in findings(done) if one["code"].startswith("loader-")] == []
    tinfo = {one["path"] for one in resolved(box)[0]["libraries"] if one["name"].startswith("libtinfo")}
    in_root(box, tinfo.pop()).unlink()
    codes = {one["code"] for one in findings(run("check", box, "--run", "--json"))}
    assert "missing-library" in codes
    assert not {"loader-not-asked", "loader-disagrees"} & codes


@emulated
def test_default_directories_are_those_that_the_loader_has_built_in(name: str, box_of: Making, tmp_path: Path) -> None:
    """Where `deps` says that it has looked is what the loader says with --help, run by an emulator."""
    machine, box = MACHINES[name], tmp_path / "box"
    copy(box_of(name), box)
    said = subprocess.run(
        [emulator(machine), loader_of(machine, box), "--help"], capture_output=True, text=True, timeout=60
    ).stdout
    expected = re.findall(r"^  (/\S*) \(system search path\)", said, re.MULTILINE)
    assert len(expected) > 1
    tinfo = {one["path"] for one in resolved(box)[0]["libraries"] if one["name"].startswith("libtinfo")}
    in_root(box, tinfo.pop()).unlink()
    missing = resolved(box)[0]["missing"]
    assert [one["searched"] for one in missing] == [[f"default {directory}" for directory in expected]]


def move_libraries(root: Path, triplet: str, to: str, *patterns: str) -> None:
    (root / to.lstrip("/")).mkdir(parents=True)
    for pattern in patterns:
        for file in sorted((root / "usr/lib" / triplet).glob(pattern)):
            file.rename(root / to.lstrip("/") / file.name)


@needs.isolation
@emulated
def test_the_cache_is_read_and_written_as_the_machine_has_it(
    name: str, box_of: Making, root_of: Making, tmp_path: Path
) -> None:
    """What ldconfig of the machine has put into a cache is found there, and a box gets one that its loader reads."""
    machine, source, box = MACHINES[name], tmp_path / "source", tmp_path / "box"
    copy(box_of(name), source)
    move_libraries(source, machine.triplet, "/opt/lib", "libtinfo.so.*")
    (source / "etc").mkdir(exist_ok=True)
    (source / "etc/ld.so.conf").write_text("/opt/lib\n", encoding="utf-8")
    subprocess.run([emulator(machine), root_of(name) / "usr/sbin/ldconfig", "-r", source], check=True, timeout=60)
    found = {one["name"]: (one["path"], one["found_by"]) for one in resolved(source)[0]["libraries"]}
    assert found["libtinfo.so.6"] == ("/opt/lib/libtinfo.so.6", "cache")
    assert run("add", "bash", "--sysroot", source, "--into", box).returncode == 0
    cache = (box / "etc/ld.so.cache").read_bytes()
    assert cache[28] == (2 if machine.kind[1] else 3)
    assert problems(run("check", box, "--json", "--strict")) == []
    entered = run("enter", box, "bash", "-c", "echo $MACHTYPE")
    assert (entered.returncode, entered.stdout.partition("-")[0]) == (0, machine.bash), entered.stderr


def test_one_cache_has_not_two_byte_orders(box_of: Making, tmp_path: Path) -> None:
    """A box whose cache both a little-endian and a big-endian loader would read is refused, and nothing is written."""
    source, box = tmp_path / "source", tmp_path / "box"
    for name, place in (("arm64", "/opt/arm"), ("s390x", "/opt/z")):
        copy(box_of(name), source)
        (source / "usr/bin/bash").rename(source / f"usr/bin/bash-{name}")
        move_libraries(source, MACHINES[name].triplet, place, "libtinfo.so.*")
    asked = ("--library-path", "/opt/arm:/opt/z", "--sysroot", source, "--into", box)
    done = run("add", "bash-arm64", "bash-s390x", *asked)
    assert done.returncode == 1
    assert "little-endian and big-endian" in done.stderr
    assert not box.exists()
    for name, byte in (("arm64", 2), ("s390x", 3)):
        assert run("add", f"bash-{name}", *asked).returncode == 0
        assert (box / "etc/ld.so.cache").read_bytes()[28] == byte
        shutil.rmtree(box)


def test_levels_of_a_foreign_processor_are_asked_for(box_of: Making, tmp_path: Path) -> None:
    """Of a machine that this is not, `deps` takes the base and with --cpu the level; a box gets all."""
    root, box = tmp_path / "root", tmp_path / "box"
    copy(box_of("s390x"), root)
    libraries = f"/lib/{MACHINES['s390x'].triplet}"
    tinfo = in_root(root, f"{libraries}/libtinfo.so.6")
    for level in ("z14", "z15"):
        (tinfo.parent / "glibc-hwcaps" / level).mkdir(parents=True)
        shutil.copy(tinfo, tinfo.parent / "glibc-hwcaps" / level / "libtinfo.so.6")

    def found(*options: str) -> str:
        [path] = [one["path"] for one in resolved(root, *options)[0]["libraries"] if "tinfo" in one["name"]]
        return str(path)

    plain, by_level = f"{libraries}/libtinfo.so.6", f"{libraries}/glibc-hwcaps/{{}}/libtinfo.so.6"
    assert found() == plain
    assert found("--cpu", "z13") == plain
    assert found("--cpu", "z14") == by_level.format("z14")
    assert found("--cpu", "z16") == by_level.format("z15")
    assert run("add", "bash", "--sysroot", root, "--into", box).returncode == 0
    for path in (plain, by_level.format("z14"), by_level.format("z15")):
        assert in_root(box, path).is_file()


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("armhf", 0x05000200),
        ("armhf", 0x05000000),
        ("armhf", 0x05000400),
        ("armhf", 0x04000200),
        ("riscv64", 0x1),
        ("riscv64", 0x3),
        ("riscv64", 0x4),
        ("riscv64", 0xD),
        ("ppc64el", 0x0),
        ("ppc64el", 0x1),
        ("ppc64el", 0x2),
        ("arm64", 0x200),
        ("s390x", 0x1),
    ],
)
def test_a_library_for_another_abi_is_passed_over_as_the_loader_does(
    name: str, flags: int, box_of: Making, tmp_path: Path
) -> None:
    """What e_flags say of floats (ARM, RISC-V) and of function calls (POWER) decides, and nothing elsewhere."""
    machine, root = MACHINES[name], tmp_path / "root"
    copy(box_of(name), root)
    (root / "opt").mkdir()
    tinfo = in_root(root, f"/lib/{machine.triplet}/libtinfo.so.6").read_bytes()
    bits, little, _ = machine.kind
    at = 48 if bits == 64 else 36
    other = tinfo[:at] + flags.to_bytes(4, "little" if little else "big") + tinfo[at + 4 :]
    (root / "opt/libtinfo.so.6").write_bytes(other)
    listed = subprocess.run(
        [
            emulator(machine),
            "-L",
            root,
            loader_of(machine, root),
            "--library-path",
            root / "opt",
            "--list",
            root / "usr/bin/bash",
        ],
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    taken = re.findall(r"libtinfo\.so\.6 => (\S+)", listed)
    found = [one["path"] for one in resolved(root, "--library-path", "/opt")[0]["libraries"] if "tinfo" in one["name"]]
    assert [path.removeprefix(str(root)) for path in taken] == found
    assert len(found) == 1
