"""check --symbols of musl's programs: what musl's loader says when it is started, of programs made for it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from jailbuild.elf.musl_relocs import remapped
from tests.box.running import Done, run
from tests.check.asking import findings

LIBC = "/usr/lib/x86_64-linux-musl/libc.so"
LOADER = "/lib/ld-musl-x86_64.so.1"

pytestmark = [
    pytest.mark.skipif(not shutil.which("musl-gcc"), reason="musl-gcc is not installed (Debian: musl-tools)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a real chroot is the oracle"),
]

_SAID = re.compile(r"Error relocating (.*): (.*): symbol not found")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    for path in ("lib", "usr/lib", "usr/bin"):
        (made / path).mkdir(parents=True)
    shutil.copy(LIBC, made / LOADER[1:])
    return made


def compile_c(source: str, target: Path, *flags: str | Path) -> Path:
    subprocess.run(
        [
            "musl-gcc",
            "-o",
            target,
            "-x",
            "c",
            "-",
            "-x",
            "none",
            "-Wl,--no-as-needed",
            "-Wl,--allow-shlib-undefined",
            *flags,
        ],
        input=source,
        text=True,
        check=True,
    )
    return target


def library(target: Path, source: str, *flags: str | Path) -> Path:
    return compile_c(source, target, "-shared", "-fPIC", f"-Wl,-soname,{target.name}", *flags)


def started(root: Path, program: str, **environment: str) -> Done:
    def enter() -> None:
        os.chroot(root)
        os.chdir("/")

    return subprocess.run([program], capture_output=True, text=True, preexec_fn=enter, env=environment, check=False)


def asked(root: Path, program: str) -> set[tuple[str, str]]:
    """Return object and symbol of what the loader does not find as it starts a program, which then does not run."""
    done = started(root, program)
    said = {(match[1], match[2]) for line in done.stderr.splitlines() if (match := _SAID.fullmatch(line))}
    assert len(said) == len(set(done.stderr.splitlines())), done.stderr
    assert (done.returncode == 127) == bool(said), (done.returncode, done.stderr)
    return said


def found(root: Path) -> set[tuple[str, str]]:
    """Return object and symbol of each error of `check --symbols`, which has no other."""
    errors = [one for one in findings(run("check", root, "--symbols", "--json")) if one["severity"] != "note"]
    assert {one["code"] for one in errors} <= {"undefined-symbol"}
    return {(one["path"], one["subject"]) for one in errors}


CASES = {  # what a library is made of, what wants it, flags of the program, whether it is found
    "data": ("", "extern int gone; int main(void) { return gone; }", (), False),
    "function, now": ("", "int gone(void); int main(void) { return gone(); }", ("-Wl,-z,now",), False),
    "function, late": (
        "",
        "int gone(void); int main(int c, char **v) { return c > 1 ? gone() : 0; }",
        ("-Wl,-z,lazy",),
        False,
    ),
    "pointer": ("", "int gone(void); int (*where)(void) = gone; int main(void) { return !where; }", (), False),
    "weak": ("", "__attribute__((weak)) int gone(void); int main(void) { return gone ? gone() : 0; }", (), True),
    "there": ("int gone(void) { return 0; }", "int gone(void); int main(void) { return gone(); }", (), True),
    "weak definition": (
        "__attribute__((weak)) int gone(void) { return 0; }",
        "int gone(void); int main(void) { return gone(); }",
        (),
        True,
    ),
    "hidden": (
        '__attribute__((visibility("hidden"))) int gone(void) { return 0; }',
        "int gone(void); int main(void) { return gone(); }",
        (),
        False,
    ),
    "protected": (
        '__attribute__((visibility("protected"))) int gone(void) { return 0; }',
        "int gone(void); int main(void) { return gone(); }",
        (),
        True,
    ),
    "copied": ("int gone = 3;", "extern int gone; int main(void) { return gone - 3; }", ("-no-pie",), True),
    "not there to copy": ("", "extern int gone; int main(void) { return gone - 3; }", ("-no-pie",), False),
    "tls": ("", "extern __thread int gone; int main(void) { return gone; }", (), False),
    "tls there": ("__thread int gone;", "extern __thread int gone; int main(void) { return gone; }", (), True),
    "absolute": (
        '__asm__(".globl gone\\ngone = 5");',
        "extern int gone; void *at = &gone; int main() { return 0; }",
        (),
        True,
    ),
    "absolute zero": (
        '__asm__(".globl gone\\ngone = 0");',
        "extern int gone; void *at = &gone; int main() { return 0; }",
        (),
        False,
    ),
    "ifunc": (
        "static int f(void) { return 0; } static void *g(void) { return f; }\n"
        'int gone(void) __attribute__((ifunc("g")));',
        "int gone(void); int main(int c, char **v) { return c > 1 ? gone() : 0; }",
        (),
        False,
    ),
    "other version": (
        '__asm__(".symver old, gone@V1"); int old(void) { return 0; }',
        "int gone(void); int main(void) { return gone(); }",
        (),
        False,
    ),
    "default version": (
        '__asm__(".symver new, gone@@V1"); int new(void) { return 0; }',
        "int gone(void); int main(void) { return gone(); }",
        (),
        True,
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("hash_style", ["gnu", "sysv"])
def test_a_symbol_is_found_where_musl_finds_it(root: Path, case: str, hash_style: str) -> None:
    """And all is looked up at the start: a program that lacks a function it never calls does not start."""
    source, main, flags, is_there = CASES[case]
    style = f"-Wl,--hash-style={hash_style}"
    extra = []
    if "symver" in source:
        (root.parent / "map").write_text("V1 { };\n")
        extra = [f"-Wl,--version-script={root.parent}/map"]
    full = made = library(root / "usr/lib/libx.so.1", source or "int nothing;", style, *extra)
    if not is_there:  # linked with one that has it
        full = library(
            root.parent / "libx.so.1",
            {
                "data": "int gone;",
                "not there to copy": "int gone = 3;",
                "tls": "__thread int gone;",
            }.get(case, "int gone(void) { return 0; }"),
            style,
        )
    compile_c(main, root / "usr/bin/case", full, style, *flags)
    assert made.exists()
    expected = set() if is_there else {("/usr/bin/case", "gone")}
    assert asked(root, "/usr/bin/case") == expected
    assert found(root) == expected


def test_a_version_is_nothing_to_musl(root: Path) -> None:
    """Who wants a symbol of a version takes it from whoever has one of that name."""
    (root.parent / "map").write_text("V1 { global: gone; };\n")
    full = library(root.parent / "libx.so.1", "int gone(void) { return 0; }", f"-Wl,--version-script={root.parent}/map")
    library(root / "usr/lib/libx.so.1", "int nothing;")
    library(root / "usr/lib/liby.so.1", "int gone(void) { return 0; }")
    compile_c(
        "int gone(void); int main(void) { return gone(); }", root / "usr/bin/case", full, root / "usr/lib/liby.so.1"
    )
    assert asked(root, "/usr/bin/case") == found(root) == set()
    library(root / "usr/lib/liby.so.1", "int other;")
    assert asked(root, "/usr/bin/case") == found(root) == {("/usr/bin/case", "gone")}


def test_what_an_object_has_itself_is_looked_up_too(root: Path) -> None:
    """By name: under a version that is not the default one it does not find its own."""
    (root.parent / "map").write_text("V1 { };\nV2 { } V1;\n")
    for at, expected in (("@", {("/usr/lib/libx.so.1", "gone")}), ("@@", set())):
        library(
            root / "usr/lib/libx.so.1",
            f'__asm__(".symver old, gone{at}V1, remove");'
            "int old(void) { return 0; } int (*where)(void) = old; int in_x;",
            f"-Wl,--version-script={root.parent}/map",
        )
        compile_c("extern int in_x; int main(void) { return in_x; }", root / "usr/bin/case", root / "usr/lib/libx.so.1")
        assert asked(root, "/usr/bin/case") == found(root) == expected


def test_a_librarys_symbol_is_told_once_with_the_programs(root: Path) -> None:
    """Where the program has it, it is found."""
    lib = library(root / "usr/lib/libx.so.1", "int gone(void); int use(void) { return gone(); }")
    main = "int use(void); int main(void) { return use(); }"
    for name in ("one", "two"):
        compile_c(main, root / "usr/bin" / name, lib)
    compile_c(f"int gone(void) {{ return 0; }} {main}", root / "usr/bin/has", lib, "-rdynamic")
    assert asked(root, "/usr/bin/has") == set()
    assert asked(root, "/usr/bin/one") == asked(root, "/usr/bin/two") == found(root) == {("/usr/lib/libx.so.1", "gone")}
    [one] = [one for one in findings(run("check", root, "--symbols", "--json")) if one["code"] == "undefined-symbol"]
    assert (
        one["message"] == "/usr/lib/libx.so.1 wants the symbol gone, which nothing has that /usr/bin/one, "
        "/usr/bin/two load"
    )


def test_a_copy_is_made_of_a_librarys_object_not_of_the_programs(root: Path) -> None:
    """And a libc's own names are found without any library."""
    full = library(root.parent / "libx.so.1", "int gone = 3;")
    library(root / "usr/lib/libx.so.1", "int nothing;")
    compile_c(
        '#include <stdio.h>\nextern int gone; int main(void) { puts(""); return gone; }',
        root / "usr/bin/case",
        full,
        "-no-pie",
        "-rdynamic",
    )
    assert asked(root, "/usr/bin/case") == found(root) == {("/usr/bin/case", "gone")}


def test_programs_of_both_libcs_are_held_each_to_its_own_rules(root: Path) -> None:
    """A function that is looked up late is a warning for glibc, an error for musl, in one library of one root."""
    libraries = root / "lib/x86_64-linux-gnu"
    libraries.mkdir()
    for path in ("/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6"):
        (root / path[1:]).parent.mkdir(exist_ok=True)
        shutil.copy(os.path.realpath(path), root / path[1:])
    full = library(root.parent / "libx.so.1", "int gone(void) { return 0; }", "-nostdlib")
    library(root / "usr/lib/libx.so.1", "int nothing;", "-nostdlib")
    source = "int gone(void); int main(int c, char **v) { return c > 1 ? gone() : 0; }"
    compile_c(source, root / "usr/bin/musl", full)
    subprocess.run(
        ["gcc", "-o", root / "usr/bin/glibc", "-x", "c", "-", "-x", "none", full, "-Wl,-z,lazy"],
        input=source,
        text=True,
        check=True,
    )
    told = findings(run("check", root, "--symbols", "--json"))
    assert {(one["path"], one["code"]) for one in told if one["severity"] != "note"} == {
        ("/usr/bin/musl", "undefined-symbol"),
        ("/usr/bin/glibc", "undefined-function"),
    }
    assert asked(root, "/usr/bin/musl") == {("/usr/bin/musl", "gone")}
    assert started(root, "/usr/bin/glibc").returncode == 0


def test_names_with_64_stand_for_others_in_a_libc_that_says_so() -> None:
    """From 1.2.4 on; the list ends with an empty name."""
    listed = b"xx\0aio_cancel\0open\0lseek\0__xstat\0\0yy"
    assert remapped(listed) == {
        "aio_cancel64": "aio_cancel",
        "open64": "open",
        "lseek64": "lseek",
        "__xstat64": "__xstat",
        "readdir64_r": "readdir_r",
    }
    assert remapped(b"aio_cancel\0aio_cancel64\0__xstat\0__xstat64\0") == {}
