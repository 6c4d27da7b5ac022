"""A small root made by hand: usrmerge, a version link for each library, alternatives, the machine's own loader.

Programs say which of the libraries they got by their exit status: no C library, no start-up code, nothing hidden.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

LIBRARIES = "usr/lib/x86_64-linux-gnu"
LOADER = "/lib64/ld-linux-x86-64.so.2"
TIME = 1_000_000_000  # seconds; all that the root has was made then

_PROGRAM = """
{declared}
void _start(void) {{
    int status = {sum};
    __asm__ volatile("syscall" : : "a"(231), "D"(status));
    for (;;) {{}}
}}
"""
_LIBRARY = """
{declared}
int {name}(void) {{ return {value}{sum}; }}
"""


def compile_c(source: str, target: Path, *flags: str) -> Path:
    """Compile freestanding C to `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [
            "gcc",
            "-nostdlib",
            "-Os",
            "-fno-stack-protector",
            "-fno-asynchronous-unwind-tables",
            "-Wl,--build-id=none",
            "-o",
            target,
            "-x",
            "c",
            "-",
            "-x",
            "none",
            *flags,
        ],
        input=source,
        text=True,
        check=True,
    )
    return target


def _calls(needs: tuple[Path, ...]) -> tuple[str, str, list[str]]:
    names = [need.name.removeprefix("lib").partition(".")[0] for need in needs]
    declared = "\n".join(f"int {name}(void);" for name in names)
    return (
        declared,
        "".join(f" + {name}()" for name in names),
        ["-Wl,--no-as-needed", *map(str, needs), "-Wl,--allow-shlib-undefined"],
    )


def library(target: Path, *needs: Path, soname: str | None = None, value: int = 1, flags: tuple[str, ...] = ()) -> Path:
    """Make a library libNAME.so… with a function NAME() that returns `value` more than what it `needs` return."""
    name = target.name.removeprefix("lib").partition(".")[0]
    declared, calls, linked = _calls(needs)
    source = _LIBRARY.format(declared=declared, name=name, value=value, sum=calls)
    return compile_c(source, target, "-shared", "-fPIC", f"-Wl,-soname,{soname or target.name}", *linked, *flags)


def program(target: Path, *needs: Path, flags: tuple[str, ...] = ()) -> Path:
    """Make a program whose exit status is the sum of what the libraries it `needs` return."""
    declared, calls, linked = _calls(needs)
    source = _PROGRAM.format(declared=declared, sum=f"0{calls}")
    dynamic = [] if "-static-pie" in flags else ["-pie", f"-Wl,--dynamic-linker={LOADER}"]
    return compile_c(source, target, *dynamic, "-fPIE", *linked, *flags)


def script(target: Path, *lines: str, mode: int = 0o755) -> Path:
    """Write a script."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(b"".join(os.fsencode(line) + b"\n" for line in lines))
    target.chmod(mode)
    return target


def build(root: Path) -> Path:
    """Make the root: bash and ls with libraries, an editor by way of the alternatives, static programs, sh and env."""
    libraries = root / LIBRARIES
    libraries.mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")
    shutil.copy(os.path.realpath(LOADER), libraries / "ld-linux-x86-64.so.2")
    (root / "usr/lib64/ld-linux-x86-64.so.2").symlink_to("/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
    tinfo = library(libraries / "libtinfo.so.6.4", soname="libtinfo.so.6", value=6)
    pcre = library(libraries / "libpcre.so.8.1", soname="libpcre.so.8", value=8)
    selinux = library(libraries / "libselinux.so.1", pcre, value=1)
    for name in ("libtinfo.so.6", "libpcre.so.8"):
        (libraries / name).symlink_to(tinfo.name if "tinfo" in name else pcre.name)
    bash = program(root / "usr/bin/bash", tinfo)
    program(root / "usr/bin/ls", selinux)
    program(root / "usr/bin/vim.basic", tinfo, selinux)
    (root / "etc/alternatives").mkdir(parents=True)
    (root / "etc/alternatives/editor").symlink_to("/usr/bin/vim.basic")
    (root / "usr/bin/editor").symlink_to("/etc/alternatives/editor")
    (root / "usr/bin/sh").symlink_to("bash")
    shutil.copy(bash, root / "usr/bin/env")
    program(root / "usr/bin/fixed", flags=("-static", "-no-pie"))
    program(root / "usr/bin/moving", flags=("-static-pie",))
    (root / "etc/os-release").write_text('ID=tiny\nVERSION_ID="1"\n')
    backdate(root)
    return root


def backdate(root: Path) -> None:
    """Set every mtime of a tree to TIME."""
    for directory, names, leaves in os.walk(root):
        for name in [*names, *leaves]:
            os.utime(os.path.join(directory, name), (TIME, TIME), follow_symlinks=False)


def clone(root: Path, to: Path) -> Path:
    """Copy a root as it is."""
    subprocess.run(["cp", "-a", root, to], check=True)
    return to


def cache(root: Path, *directories: str) -> None:
    """Let the real ldconfig(8) write the root's ld.so.cache, for these directories beside the standard ones."""
    (root / "etc/ld.so.conf").write_text("".join(f"{directory}\n" for directory in directories))
    subprocess.run(["ldconfig", "-X", "-r", root], check=True)
