"""A root with libc, a library of two versions, and programs and a library that ask for them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

LIBRARIES = "usr/lib/x86_64-linux-gnu"
LOADER = "/lib64/ld-linux-x86-64.so.2"

TWO = "V1 { global: first; local: *; };\nV2 { global: second; } V1;\n"
ONE = "V1 { global: first; second; local: *; };\n"
_BOTH = "int first(void) { return 1; }\nint second(void) { return 2; }\n"


def compile_c(source: str, target: Path, *flags: str | Path) -> Path:
    """Compile C to `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["gcc", "-O1", "-o", target, "-x", "c", "-", "-x", "none", *flags], input=source, text=True, check=True
    )
    return target


def library(target: Path, source: str, *flags: str | Path, versions: str = "") -> Path:
    """Make a shared library whose SONAME is its name; `versions` is a version script."""
    extra: list[str | Path] = []
    if versions:
        script = target.with_name(f"{target.name}.map")
        target.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(versions)
        extra = [f"-Wl,--version-script={script}"]
    made = compile_c(source, target, "-shared", "-fPIC", f"-Wl,-soname,{target.name}", *extra, *flags)
    for leftover in target.parent.glob("*.map"):
        leftover.unlink()
    return made


def two(target: Path, versions: str = TWO, *flags: str) -> Path:
    """Make the library, with both its versions or what is asked for."""
    return library(target, _BOTH, *flags, versions=versions)


def build(root: Path) -> Path:
    """Make the root: /usr/bin/both and /usr/bin/through, which loads libuser.so.1, need V2 of libv.so.1."""
    libraries = root / LIBRARIES
    libraries.mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (root / "usr" / name).mkdir(exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")
    shutil.copy(os.path.realpath(LOADER), libraries / "ld-linux-x86-64.so.2")
    (root / "usr/lib64/ld-linux-x86-64.so.2").symlink_to("/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
    shutil.copy(os.path.realpath("/lib/x86_64-linux-gnu/libc.so.6"), libraries / "libc.so.6")
    v = two(libraries / "libv.so.1")
    user = library(libraries / "libuser.so.1", "int second(void);\nint use(void) { return second(); }\n", v)
    compile_c(
        "int first(void), second(void);\nint main(void) { return first() + second(); }\n", root / "usr/bin/both", v
    )
    compile_c(
        "int use(void);\nint main(void) { return use(); }\n",
        root / "usr/bin/through",
        user,
        "-Wl,--allow-shlib-undefined",
    )
    compile_c("int main(void) { return 0; }\n", root / "usr/bin/plain")
    return root


def started(root: Path, program: str) -> tuple[int, str]:
    """Start a program of a root with chroot(1); return its status and what it says on stderr."""
    done = subprocess.run(["chroot", root, program], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr
