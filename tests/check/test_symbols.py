"""check --symbols: what `ldd -r` says, of programs made for it and of those of this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from jailbuild.closure.programs import Programs
from jailbuild.elf.relocs import Linkage, read_linkage
from jailbuild.loader.files import Files
from jailbuild.loader.resolver import Loader
from jailbuild.loader.symbols import Symbols
from jailbuild.root import Root
from tests.box import tiny
from tests.box.running import run
from tests.check import versions
from tests.check.asking import findings

LIB = versions.LIBRARIES
ALL = bool(os.environ.get("JAILBUILD_ALL"))  # every library of the machine, not only some
SAMPLE = 250

_UNDEFINED = re.compile(r"undefined symbol: ([^,\s]+)(?:, version (\S+))?\t\((.*)\)")

Symbol = tuple[str, str, str | None]  # the object that wants it, its name, its version


@pytest.fixture(scope="session")
def versioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return versions.build(tmp_path_factory.mktemp("symbols") / "root")


@pytest.fixture
def root(versioned: Path, tmp_path: Path) -> Path:
    return tiny.clone(versioned, tmp_path / "root")


def found(root: Path) -> dict[tuple[str, str], str]:
    """Return severity by object and symbol."""
    return {
        (one["path"], one["subject"]): one["severity"]
        for one in findings(run("check", root, "--symbols", "--json"))
        if one["code"] in ("undefined-symbol", "undefined-function")
    }


def asked(root: Path, program: str) -> set[tuple[str, str]]:
    """Return object and symbol of what the root's own loader does not find."""

    def enter() -> None:
        os.chroot(root)
        os.chdir("/")

    done = subprocess.run(
        [versions.LOADER, program],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=enter,
        env={"LD_TRACE_LOADED_OBJECTS": "1", "LD_WARN": "yes", "LD_BIND_NOW": "yes"},
    )
    return {
        (match[3], match[1])
        for line in (done.stdout + done.stderr).splitlines()
        if (match := _UNDEFINED.fullmatch(line))
    }


def test_a_whole_root_finds_every_symbol(root: Path) -> None:
    """And without the option nothing is looked up."""
    assert found(root) == {}
    versions.two(root / LIB / "libv.so.1", "V1 { global: first; local: *; };\nV2 { } V1;\n")
    assert {one["code"] for one in findings(run("check", root, "--json"))} <= {"no-dev-null"}


def test_a_function_that_is_gone_is_a_warning_where_it_is_looked_up_late(root: Path) -> None:
    """Of a library once, with the programs that load it; the program starts, and ends where it calls it."""
    library = root / LIB / "libv.so.1"
    library.unlink()
    versions.two(library, "V1 { global: first; local: *; };\nV2 { } V1;\n")
    shutil.copy(root / "usr/bin/through", root / "usr/bin/again")
    user = "/lib/x86_64-linux-gnu/libuser.so.1"
    assert found(root) == {("/usr/bin/both", "second"): "warning", (user, "second"): "warning"}
    assert asked(root, "/usr/bin/both") == {("/usr/bin/both", "second")}
    assert asked(root, "/usr/bin/through") == {(user, "second")}
    messages = {one["path"]: one["message"] for one in findings(run("check", root, "--symbols", "--json"))}
    assert (
        messages["/usr/bin/both"] == "/usr/bin/both wants the symbol second of version V2, which nothing that it "
        "loads has"
    )
    assert (
        messages[user] == f"{user} wants the symbol second of version V2, which nothing has that "
        "/usr/bin/again, /usr/bin/through load"
    )
    status, said = versions.started(root, "/usr/bin/through")
    assert (status, "symbol lookup error" in said) == (127, True)


CASES = {  # what two libraries are made of, flags of the program, what it wants; then the severity
    "data": ("", "extern int gone; int main(void) { return gone; }", (), "error"),
    "now": ("", "int gone(void); int main(void) { return gone(); }", ("-Wl,-z,now",), "error"),
    "lazy": ("", "int gone(void); int main(void) { return gone(); }", ("-Wl,-z,lazy",), "warning"),
    "pointer": ("", "int gone(void); int (*where)(void) = gone; int main(void) { return !where; }", (), "error"),
    "weak": ("", "__attribute__((weak)) int gone(void); int main(void) { return gone ? gone() : 0; }", (), None),
    "there": ("int gone(void) { return 0; }", "int gone(void); int main(void) { return gone(); }", (), None),
    "weak definition": (
        "__attribute__((weak)) int gone(void) { return 0; }",
        "int gone(void); int main(void) { return gone(); }",
        (),
        None,
    ),
    "hidden": (
        '__attribute__((visibility("hidden"))) int gone(void) { return 0; }',
        "int gone(void); int main(void) { return gone(); }",
        ("-Wl,-z,now",),
        "error",
    ),
    "copied": ("int gone = 3;", "extern int gone; int main(void) { return gone; }", ("-no-pie",), None),
    "tls": ("", "extern __thread int gone; int main(void) { return gone; }", (), "error"),
    "tls there": ("__thread int gone;", "extern __thread int gone; int main(void) { return gone; }", (), None),
    "ifunc": (
        "static int f(void) { return 0; } static void *g(void) { return f; }\n"
        'int gone(void) __attribute__((ifunc("g")));',
        "int gone(void); int main(void) { return gone(); }",
        (),
        None,
    ),
    "own": ("", "int gone(void) { return 0; } int main(void) { return gone(); }", ("-rdynamic",), None),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("hash_style", ["gnu", "sysv"])
def test_a_symbol_is_found_where_the_loader_finds_it(root: Path, case: str, hash_style: str) -> None:
    """And is an error where it is looked up at the start; the loader agrees on each, and on whether it starts."""
    source, main, flags, severity = CASES[case]
    style = f"-Wl,--hash-style={hash_style}"
    library = versions.library(root / LIB / "libx.so.1", source or "int nothing;", style)
    full = library
    if severity is not None:  # linked with one that has it
        full = versions.library(
            root.parent / "libx.so.1",
            {"data": "int gone;", "tls": "__thread int gone;"}.get(case, "int gone(void) { return 0; }"),
            style,
        )
    versions.compile_c(
        main,
        root / "usr/bin/case",
        full,
        style,
        "-Wl,--no-as-needed",
        "-Wl,--unresolved-symbols=ignore-all",
        *(flags or ("-Wl,-z,lazy",)),
    )
    expected = {} if severity is None else {("/usr/bin/case", "gone"): severity}
    assert found(root) == expected
    assert asked(root, "/usr/bin/case") == set(expected)
    status, said = versions.started(root, "/usr/bin/case")
    assert ("undefined symbol: gone" in said) == (severity is not None), said
    assert (status == 127) == (severity is not None)


def test_an_unversioned_reference_takes_the_oldest_or_the_only_version(root: Path) -> None:
    """A hidden version is for those who ask for it."""
    for script, symbols, expected in (
        ("V1 { global: gone; };", "", {}),
        ("V1 { };\nV2 { global: gone; } V1;", "", {}),
        (
            "V1 { };\nV2 { } V1;\nV3 { } V2;",
            '__asm__(".symver old, gone@V3"); int old(void) { return 0; }',
            {("/usr/bin/case", "gone"): "error"},
        ),
    ):
        source = symbols or "int gone(void) { return 0; }"
        versions.library(root / LIB / "libx.so.1", source, versions=script)
        plain = versions.library(root.parent / "libx.so.1", "int gone(void) { return 0; }")
        versions.compile_c(
            "int gone(void); int main(void) { return gone(); }", root / "usr/bin/case", plain, "-Wl,-z,now"
        )
        assert found(root) == expected, script
        assert asked(root, "/usr/bin/case") == set(expected), script


def test_what_is_missing_anyhow_is_said_once(root: Path) -> None:
    """Where a library or a version is missing its symbols are not told of too."""
    library = root / LIB / "libv.so.1"
    library.unlink()
    assert found(root) == {}
    versions.two(library, versions.ONE)
    assert found(root) == {}


def test_this_machines_programs_and_libraries_want_what_its_loader_says() -> None:
    """Object, name and version, for a sample of files, for all with JAILBUILD_ALL."""
    paths = _files()
    root = Root("/")
    files = Files(root)
    programs = Programs(files, Loader(files))

    def read(path: str) -> Linkage:
        opened = root.open(path)
        try:
            return read_linkage(opened)
        finally:
            os.close(opened)

    symbols = Symbols(files, read)
    different = {}
    compared = wanting = 0
    for path in paths if ALL else paths[:: max(1, len(paths) // SAMPLE)]:
        resolution = programs.resolve(path).parts[0].resolution
        if resolution.error is not None or resolution.missing:
            continue
        ours: set[Symbol] = {
            (one.by, one.reference.name, one.reference.version) for one in symbols.unfound(path, resolution)
        }
        theirs = _undefined(path)
        compared += 1
        wanting += bool(theirs)
        if ours != theirs:
            different[path] = (ours - theirs, theirs - ours)
    print(f"{compared - len(different)} of {compared} agree, {wanting} of them want something")  # noqa: T201
    assert different == {}
    assert compared > 100
    assert wanting > 10


def _files() -> list[str]:
    found: dict[tuple[int, int], str] = {}
    for above in ("/usr/bin", "/usr/sbin", "/usr/lib"):
        for directory, _, names in os.walk(above):
            for name in names:
                path = os.path.realpath(f"{directory}/{name}")
                if not os.path.isfile(path) or (".so" not in name and above == "/usr/lib"):
                    continue
                status = os.stat(path)
                with open(path, "rb") as file:
                    head = file.read(20)
                if head[:5] == b"\x7fELF\2" and head[18:20] == b"\x3e\0" and _is_dynamic(path):
                    found.setdefault((status.st_dev, status.st_ino), path)
    return sorted(found.values())


def _is_dynamic(path: str) -> bool:
    file = Files(Root("/")).get(path)
    if isinstance(file, int) or not file.elf.dynamic:
        return False
    return file.elf.interpreter in (None, versions.LOADER) and not (file.elf.is_program and not file.elf.interpreter)


def _undefined(path: str) -> set[Symbol]:
    environment = {"LD_TRACE_LOADED_OBJECTS": "1", "LD_WARN": "yes", "LD_BIND_NOW": "yes"}
    done = subprocess.run(
        [versions.LOADER, path], capture_output=True, text=True, check=False, cwd="/", env=environment, timeout=60
    )
    return {
        (match[3], match[1], match[2])
        for line in (done.stdout + done.stderr).splitlines()
        if (match := _UNDEFINED.fullmatch(line))
    }
