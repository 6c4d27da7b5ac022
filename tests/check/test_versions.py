"""check finds what names do not tell: symbol versions that a library does not have. The oracle is a real start."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.box import tiny
from tests.box.running import add, objects, run
from tests.check import versions
from tests.check.asking import codes, findings

LIB = versions.LIBRARIES


@pytest.fixture(scope="session")
def versioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return versions.build(tmp_path_factory.mktemp("versions") / "root")


@pytest.fixture
def source(versioned: Path, tmp_path: Path) -> Path:
    return tiny.clone(versioned, tmp_path / "source")


@pytest.fixture
def box(source: Path, tmp_path: Path) -> Path:
    """A box of all three programs, made of the root."""
    box = tmp_path / "box"
    done = run("add", "--bare", "both", "through", "plain", "--sysroot", source, "--into", box)
    assert done.returncode == 0, done.stderr
    return box


def test_a_whole_box_has_every_version(box: Path) -> None:
    """No finding, and the programs run."""
    assert codes(box) == set()
    assert [versions.started(box, name)[0] for name in ("/usr/bin/both", "/usr/bin/through")] == [3, 2]


def test_a_library_rebuilt_with_an_older_version_is_found(box: Path) -> None:
    """For each program that loads it, with who asks, the version, what there is instead, and what mends it."""
    library = box / LIB / "libv.so.1"
    library.unlink()
    versions.two(library, versions.ONE)
    found = [one for one in findings(run("check", box, "--json")) if one["code"] == "missing-version"]
    assert [(one["path"], one["subject"], one["requested_by"], one["message"], one["hint"]) for one in found] == [
        (
            "/usr/bin/both",
            "V2",
            ["both"],
            "/usr/bin/both needs V2, the box's libv.so.1 has up to V1",
            f"jailbuild add both --into {box}",
        ),
        (
            "/usr/bin/through",
            "V2",
            ["through"],
            "/usr/bin/through (through /lib/x86_64-linux-gnu/libuser.so.1) needs V2, the box's libv.so.1 has up to V1",
            f"jailbuild add through --into {box}",
        ),
    ]
    for program, by in (("both", "/usr/bin/both"), ("through", "/lib/x86_64-linux-gnu/libuser.so.1")):
        status, said = versions.started(box, f"/usr/bin/{program}")
        assert status != 0
        assert f"version `V2' not found (required by {by})" in said
    assert versions.started(box, "/usr/bin/plain")[0] == 0


def test_deps_says_what_the_loader_would_refuse_a_program_for(source: Path) -> None:
    """Exit status 1, one line in `error`, the libraries whole; add refuses."""
    versions.two(source / LIB / "libv.so.1", versions.ONE)
    done = run("deps", "--json", "--sysroot", source, "both", "plain")
    both, plain = objects(done)
    assert done.returncode == 1
    assert both["error"] == "/usr/bin/both needs V2, its libv.so.1 has up to V1"
    assert [one["name"] for one in both["libraries"]] == ["libv.so.1", "libc.so.6", "ld-linux-x86-64.so.2"]
    assert (both["missing"], plain["error"]) == ([], None)
    box = source.parent / "box"
    refused = add(box, "both", sysroot=source, status=1)
    assert "needs V2, its libv.so.1 has up to V1" in refused.stderr
    assert not box.exists()


def test_an_older_libc_is_found_with_the_number_that_it_has_up_to(box: Path) -> None:
    """A program that asks for a GLIBC that is yet to come."""
    library = box / LIB / "libc.so.6"
    program = box / "usr/bin/plain"
    data = program.read_bytes()
    old, new = b"GLIBC_2.34\0", b"GLIBC_9.87\0"
    assert old in data
    data = data.replace(old, new).replace(_hash(old), _hash(new))
    program.write_bytes(data)
    (message,) = [one["message"] for one in findings(run("check", box, "--json")) if one["code"] == "missing-version"]
    latest = subprocess.run(["strings", "-a", library], capture_output=True, text=True, check=True).stdout
    numbers = [tuple(map(int, number.split("."))) for number in re.findall(r"^GLIBC_(2\.[0-9.]+)$", latest, re.M)]
    has = ".".join(map(str, max(numbers)))
    assert message == f"/usr/bin/plain needs GLIBC_9.87, the box's libc.so.6 has up to {has}"
    status, said = versions.started(box, "/usr/bin/plain")
    assert status != 0
    assert "version `GLIBC_9.87' not found" in said


def _hash(name: bytes) -> bytes:
    value = 0
    for byte in name[:-1]:
        value = (value << 4) + byte
        value = (value ^ (value >> 24 & 0xF0)) & 0x0FFFFFFF
    return value.to_bytes(4, "little")


def test_a_hash_that_is_not_the_names_is_another_version(box: Path) -> None:
    """The loader compares both."""
    program = box / "usr/bin/plain"
    data = program.read_bytes()
    program.write_bytes(data.replace(_hash(b"GLIBC_2.34\0"), (0x0123456).to_bytes(4, "little")))
    assert ("missing-version", "/usr/bin/plain") in codes(box)
    status, said = versions.started(box, "/usr/bin/plain")
    assert status != 0
    assert "version `GLIBC_2.34' not found" in said


def test_a_library_without_any_version_is_complained_of(box: Path) -> None:
    """A warning: the loader says so at each start, and goes on."""
    library = box / LIB / "libv.so.1"
    library.unlink()
    versions.library(
        library, 'int puts(const char *);\nint first(void) { return puts(""); }\nint second(void) { return 2; }\n'
    )
    found = [one for one in findings(run("check", box, "--json")) if one["code"] == "no-version-information"]
    assert [(one["path"], one["severity"], one["subject"]) for one in found] == [
        ("/usr/bin/both", "warning", "libv.so.1"),
        ("/usr/bin/through", "warning", "libv.so.1"),
    ]
    assert versions.started(box, "/usr/bin/through") == (
        2,
        "/usr/bin/through: /lib/x86_64-linux-gnu/libv.so.1: no version information available "
        "(required by /lib/x86_64-linux-gnu/libuser.so.1)\n",
    )


def test_a_weak_need_is_no_need(box: Path) -> None:
    """What the loader only mentions is no finding."""
    program = box / "usr/bin/both"
    data = program.read_bytes()
    at = data.index(_hash(b"V2\0"))
    program.write_bytes(data[: at + 4] + b"\2\0" + data[at + 6 :])
    library = box / LIB / "libv.so.1"
    library.unlink()
    versions.two(library, versions.ONE)
    assert ("missing-version", "/usr/bin/both") not in codes(box)
    status, said = versions.started(box, "/usr/bin/both")
    assert "weak version `V2' not found" in said
    assert "symbol lookup error" in said
    assert status == 127


def test_of_a_library_that_no_program_loads_it_is_a_note(box: Path) -> None:
    """As with a library that it misses."""
    plugin = versions.library(
        box / LIB / "libplugin.so", "int second(void);\nint plug(void) { return second(); }\n", box / LIB / "libv.so.1"
    )
    library = box / LIB / "libv.so.1"
    for program in ("both", "through"):
        (box / "usr/bin" / program).unlink()
    (box / LIB / "libuser.so.1").unlink()
    library.unlink()
    versions.two(library, versions.ONE)
    (note,) = [one for one in findings(run("check", box, "--json")) if one["code"] == "unreached-library"]
    assert note["path"] == f"/{LIB}/{plugin.name}"
    assert note["message"].endswith(f"alone, /{LIB}/libplugin.so needs V2, the box's libv.so.1 has up to V1")


def test_a_file_that_is_asked_for_versions_must_be_loaded(box: Path) -> None:
    """The loader would stop with an assertion."""
    program = box / "usr/bin/both"
    data = program.read_bytes()
    # libv.so.1 is no longer NEEDED: another entry of no meaning in its place
    at = data.index(_entry(program, "libv.so.1"))
    program.write_bytes(data[:at] + (0x6FFFFEF0).to_bytes(8, "little") + data[at + 8 :])
    assert ("missing-version", "/usr/bin/both") in codes(box)
    status, said = versions.started(box, "/usr/bin/both")
    assert status == 127
    assert "needed != NULL" in said


def _entry(path: Path, name: str) -> bytes:
    from elftools.elf.dynamic import DynamicSegment
    from elftools.elf.elffile import ELFFile

    with open(path, "rb") as file:
        for segment in ELFFile(file).iter_segments():
            if isinstance(segment, DynamicSegment):
                for tag in segment.iter_tags("DT_NEEDED"):
                    if getattr(tag, "needed", None) == name:
                        return (1).to_bytes(8, "little") + int(tag.entry.d_val).to_bytes(8, "little")
    raise AssertionError(name)


def test_relative_relocations_must_be_marked(box: Path) -> None:
    """DT_RELR without the version that tells of it: the loader gives up, from glibc 2.36 on."""
    program = versions.compile_c(
        "int main(void) { return 0; }\n", box / "usr/bin/packed", "-Wl,-z,pack-relative-relocs"
    )
    data = program.read_bytes()
    mark = _hash(b"GLIBC_ABI_DT_RELR\0")
    if mark not in data:
        pytest.skip("this linker does not pack relative relocations")
    assert {code for code, path in codes(box) if path == "/usr/bin/packed"} == {"unlisted-file"}
    other = _hash(b"GLIBC_2.34\0")
    at, there = data.index(mark), data.index(other)
    program.write_bytes(
        data[:at] + data[there : there + 4] + data[at + 4 : at + 8] + data[there + 8 : there + 12] + data[at + 12 :]
    )
    (message,) = [one["message"] for one in findings(run("check", box, "--json")) if one["code"] == "unreadable"]
    assert message == "/usr/bin/packed: DT_RELR without GLIBC_ABI_DT_RELR dependency"
    status, said = versions.started(box, "/usr/bin/packed")
    assert status == 127
    assert "DT_RELR without GLIBC_ABI_DT_RELR dependency" in said


def test_no_program_of_this_machine_misses_a_version() -> None:
    """The loader starts them all, so there is nothing to be said of any."""
    paths = [f"/usr/bin/{name}" for name in sorted(os.listdir("/usr/bin")) if os.path.isfile(f"/usr/bin/{name}")]
    elves = []
    for path in paths:
        with open(path, "rb") as file:
            if file.read(4) == b"\x7fELF":
                elves.append(path)
    wrong = {one["path"]: one["error"] for one in objects(run("deps", "--json", *elves)) if one["error"]}
    assert len(elves) > 100
    assert wrong == {}


def test_a_loader_and_a_libc_of_two_releases_are_an_error(tmp_path: Path) -> None:
    """Each finds what it needs by name and version; it is their private interfaces that differ. Told once."""
    box = tmp_path / "box"
    add(box, "--bare", "bash", "ls")
    assert "mixed-glibc" not in {code for code, _ in codes(box)}
    loader = box / LIB / "ld-linux-x86-64.so.2"  # not by /lib64, where an absolute link is the host's
    data = loader.read_bytes()
    release = re.search(rb"release version 2\.(\d\d)", data)
    assert release
    other = b"%02d" % (int(release[1]) - 1)
    loader.write_bytes(data[: release.start(1)] + other + data[release.end(1) :])
    for options in ((), ("--program", "ls")):
        told = [one for one in findings(run("check", box, "--json", *options)) if one["code"] == "mixed-glibc"]
        assert [one["path"] for one in told] == ["/usr/lib/x86_64-linux-gnu/libc.so.6"]
        assert f"is of glibc 2.{release[1].decode()}, and /lib64/ld-linux-x86-64.so.2, " in told[0]["message"]
        assert told[0]["message"].endswith(f", of 2.{other.decode()}")
