"""Boxes that version 0.1 made, whose manifests are of schema 1: the archive beside this, and what made it.

    python -m tests.box.boxes_of_0_1 PYTHON

as root, where there is no /srv/old: the paths that the manifests name. PYTHON is one that has version 0.1. It writes
boxes-of-0.1.tar.xz anew, which holds

- root: the source root; its loader jumps to the program's entry and loads nothing, as the real one would be too large
- own: what was added as SRC:DEST
- boxes/root, boxes/user: a box with every kind of request, by root and by uid 65534
- boxes/journal, boxes/staging: such a box of root's whose last change was cut short after and before its commit;
  boxes/user-journal: of that user's
- root.check, user.check: what `check --json` of that version says of them
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.box import tiny
from tests.box.running import AS_NOBODY, NOBODY

ARCHIVE = Path(__file__).with_name("boxes-of-0.1.tar.xz")
PLACE = Path("/srv/old")
ODD = os.fsdecode(b"na\xefve")

_LOADER = """
__asm__(".globl _start\\n_start: mov %rsp, %rax\\n add $8, %rax\\n"
        "1: mov (%rax), %rcx\\n add $8, %rax\\n test %rcx, %rcx\\n jnz 1b\\n"  /* arguments */
        "2: mov (%rax), %rcx\\n add $8, %rax\\n test %rcx, %rcx\\n jnz 2b\\n"  /* environment */
        "3: mov (%rax), %rcx\\n mov 8(%rax), %rdx\\n add $16, %rax\\n cmp $9, %rcx\\n jne 3b\\n"
        " jmp *%rdx\\n"); /* AT_ENTRY */
"""
_SMALL = ("-s", "-Wl,-z,noseparate-code", "-Wl,-z,norelro", "-Wl,--hash-style=gnu")

# What was asked, of each box; the last is what is cut short.
ADDITIONS: tuple[tuple[str, ...], ...] = (
    ("true", "/usr/bin/by-path", f"{PLACE}/own/mine:/opt/mine"),
    ("tool", "--dlopen", "none", "--without", "terminfo"),
    (
        "--file",
        "/etc/os-release",
        "--file",
        f"{PLACE}/own/{ODD}:/etc/{ODD}.conf",
        "--dir",
        "/usr/share/data",
        "--dir",
        f"{PLACE}/own/tree:/srv/tree",
    ),
    ("one", "again", "--bare"),
    ("clear",),
    ("--with", "devices", "--user", "svc", "--locale", "C.UTF-8", "--with", "users"),
    ("--package", "pack"),
    ("--package", "pack", "--docs"),
)
LAST = ("last", f"{PLACE}/own/mine:/usr/bin/mine-too", "--user", "other")


def _build(place: Path) -> None:
    root = place / "root"
    for name in ("usr/bin", "usr/lib64", "usr/lib/x86_64-linux-gnu", "etc"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    tiny.compile_c(
        _LOADER,
        root / "usr/lib64/ld-linux-x86-64.so.2",
        "-shared",
        "-fPIC",
        *_SMALL,
        "-Wl,-soname,ld-linux-x86-64.so.2",
    )
    for name in ("true", "by-path", "one", "last"):
        tiny.program(root / "usr/bin" / name, flags=_SMALL)
    os.link(root / "usr/bin/one", root / "usr/bin/again")
    tiny.program(root / "usr/bin/clear", flags=_SMALL)
    library = tiny.library(root / "opt/tool/lib/libtool.so.3.1", soname="libtool.so.3", flags=_SMALL)
    (library.parent / "libtool.so.3").symlink_to(library.name)
    tiny.program(root / "usr/bin/tool", library, flags=_SMALL)
    tiny.program(root / "usr/bin/pack", flags=_SMALL)
    files = {
        "usr/lib/os-release": "ID=old\nVERSION_ID=1\n",
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nsvc:x:70:70:A service:/srv:/bin/false\n"
        "other:x:71:71::/:/bin/false\n",
        "etc/group": "root:x:0:\nsvc:x:70:\nboth:x:72:svc,other\nother:x:71:\n",
        "usr/lib/locale/C.utf8/LC_CTYPE": "no locale\n",
        f"usr/share/data/{ODD}/{ODD}": "odd\n",
        "usr/share/data/plain": "plain\n",
        "usr/share/terminfo/d/dumb": "no terminal\n",
        "etc/pack.conf": "pack\n",
        "usr/share/doc/pack/copyright": "nobody's\n",
        "var/lib/dpkg/status": "Package: pack\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.2\n",
        "var/lib/dpkg/info/pack.list": "/usr/bin/pack\n/etc/pack.conf\n/usr/share/doc/pack/copyright\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    tiny.cache(root, "/opt/tool/lib")
    (root / "etc/os-release").symlink_to("../usr/lib/os-release")
    (root / f"usr/share/data/link-{ODD}").symlink_to(ODD)
    tiny.backdate(root)
    own = place / "own"
    tiny.program(own / "mine", flags=_SMALL)
    (own / ODD).write_text("odd = yes\n")
    (own / "tree/below").mkdir(parents=True)
    (own / "tree/below/file").write_text("in a tree\n")
    tiny.backdate(own)
    boxes = place / "boxes"
    boxes.mkdir()
    os.chown(boxes, NOBODY, NOBODY)


def _add(python: str, box: str, words: tuple[str, ...], *, user: int = 0, die_at: str = "") -> None:
    os.chown(PLACE / "boxes", user, user)
    done = subprocess.run(
        [
            python,
            *(("-c", AS_NOBODY) if user else ("-m", "jailbuild")),
            "add",
            "--no-sync",
            "--into",
            PLACE / "boxes" / box,
            "--sysroot",
            PLACE / "root",
            *words,
        ],
        capture_output=True,
        text=True,
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "JAILBUILD_DIE_AT": die_at, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    if done.returncode != (-9 if die_at else 0):
        raise SystemExit(f"{words}: {done.returncode}\n{done.stdout}{done.stderr}")


def main(python: str) -> None:
    """Make the archive with the version 0.1 that PYTHON has."""
    os.umask(0o022)
    PLACE.mkdir()
    try:
        _build(PLACE)
        for box, user in (("root", 0), ("user", NOBODY)):
            for words in ADDITIONS:
                _add(python, box, words, user=user)
            done = subprocess.run(
                [python, "-m", "jailbuild", "check", "--json", PLACE / "boxes" / box],
                cwd="/",
                capture_output=True,
                check=False,
            )
            (PLACE / f"{box}.check").write_bytes(done.stdout)
        for box, user, step in (
            ("journal", 0, "place:2"),
            ("staging", 0, "next:1"),
            ("user-journal", NOBODY, "commit:1"),
        ):
            tiny.clone(PLACE / "boxes" / ("user" if user else "root"), PLACE / "boxes" / box)
            _add(python, box, LAST, user=user, die_at=step)
        os.chown(PLACE / "boxes", 0, 0)
        _pack()
    finally:
        shutil.rmtree(PLACE)


def _pack() -> None:
    with tarfile.open(ARCHIVE, "w:xz", format=tarfile.GNU_FORMAT, preset=9) as archive:
        for name in ("root", "own", "boxes", *sorted(one.name for one in PLACE.glob("*.check"))):
            archive.add(PLACE / name, name)


if __name__ == "__main__":
    main(sys.argv[1])
