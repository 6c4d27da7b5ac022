"""What musl's loader has built in, and the list of directories that it reads (ldso/dynlink.c: load_library)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import NamedTuple

from jailbuild.elf.layouts import DT_NEEDED
from jailbuild.loader import arch
from jailbuild.loader.files import File, Files

DIRECTORIES = ("/lib", "/usr/local/lib", "/usr/lib")  # where there is no list
# what open(2) may say of one file, and the search goes on
PASSED_OVER = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ENAMETOOLONG)

_MAX_LIST = 1 << 20  # bytes
_PREFIX, _SUFFIX = "ld-musl-", ".so.1"  # of its usual name
_ARCHES: dict[arch.ElfTarget, tuple[str, ...]] = {  # LDSO_ARCH, those of hard floats first
    (64, True, 62): ("x86_64",),
    (32, True, 62): ("x32",),
    (32, True, 3): ("i386",),
    (64, True, 183): ("aarch64",),
    (64, False, 183): ("aarch64_be",),
    (32, True, 40): ("armhf", "arm"),
    (32, False, 40): ("armebhf", "armeb"),
    (64, True, 21): ("powerpc64le",),
    (64, False, 21): ("powerpc64",),
    (32, False, 20): ("powerpc", "powerpc-sf"),
    (64, False, 22): ("s390x",),
    (64, True, 243): ("riscv64", "riscv64-sp", "riscv64-sf"),
    (32, True, 243): ("riscv32", "riscv32-sp", "riscv32-sf"),
    (64, True, 258): ("loongarch64", "loongarch64-sp", "loongarch64-sf"),
    (64, True, 8): ("mips64el", "mips64el-sf"),
    (64, False, 8): ("mips64", "mips64-sf"),
    (32, True, 8): ("mipsel", "mipsel-sf"),
    (32, False, 8): ("mips", "mips-sf"),
}


class MuslConfig(NamedTuple):
    """What one binary of musl's loader goes by, under one name."""

    kind: arch.ElfTarget
    name: str  # PT_INTERP's string
    file: File | None
    path_file: str  # the list of directories that it reads
    has_path_file: bool
    directories: tuple[str, ...]  # of the list, or where there is none its own; as they are written


def arch_of(files: Files, name: str, file: File) -> str | None:
    """Return musl's word for the machine of a loader, None if it is not musl's.

    What counts is what the file has in it, whatever it is called; its name counts where that tells of neither libc.
    """
    facts = files.facts(name, file)
    if facts.musl is not None or facts.version is not None:
        return facts.musl
    base = os.path.basename(name)
    named = base.removeprefix(_PREFIX).removesuffix(_SUFFIX)
    return named if named and base == f"{_PREFIX}{named}{_SUFFIX}" else None


def loader_of_library(files: Files, path: str, file: File) -> str | None:
    """Return where musl's loader is that would load the library at `path`, which names none; None if it is glibc's.

    It goes by the libc that the library asks for, and where it asks for none by which loader the root has. musl's own
    library is the loader.
    """
    elf = file.elf
    names = [name for tag, name in elf.wants if tag == DT_NEEDED]
    if not names and os.path.basename(path).startswith(("libc.", _PREFIX)) and files.facts(path, file).musl is not None:
        return path
    if any(name.startswith("libc.so.") for name in names):
        return None
    paths = [f"/lib/ld-musl-{arch}.so.1" for arch in _ARCHES.get(elf.kind, ())]
    found = [path for path in paths if isinstance(files.get(path), File)]
    if not found:
        return None
    asked = [f"/lib/ld-{name[3:]}" for name in names if name.startswith("libc.musl-")]
    for path in asked:
        if path in found:
            return path
    if "libc.so" in names or asked or isinstance(files.get(arch.machine(elf.kind).loader), int):
        return found[0]
    return None


def read_musl(files: Files, name: str, kind: arch.ElfTarget, file: File, arch: str) -> MuslConfig:
    """Read what the loader in `file`, called `name`, goes by.

    A list that is there and cannot be read is an empty one: then there are no directories at all.
    """
    path_file = f"{prefix(name)}/etc/ld-musl-{arch}.path"
    directories: tuple[str, ...] = ()
    has_path_file = False
    try:
        directories = read_list(files.root.read(path_file, _MAX_LIST))
        has_path_file = True
    except OSError as error:
        if error.errno == errno.ENOENT:
            directories = DIRECTORIES
    return MuslConfig(kind, name, file, path_file, has_path_file, directories)


def prefix(name: str) -> str:
    """Return the directory that a loader's files are below: its absolute name less the last two components."""
    if not name.startswith("/"):
        return ""
    return name[: max(name.rfind("/", 0, name.rfind("/")), 0)]


def read_list(data: bytes) -> tuple[str, ...]:
    """Return the directories in the text of a list; a NUL ends it."""
    return split(os.fsdecode(data.partition(b"\0")[0]))


def split(text: str) -> tuple[str, ...]:
    """Return the elements of a list of directories, as they are; an empty one is none."""
    return tuple([element for element in text.replace("\n", ":").split(":") if element])


def write_list(directories: Iterable[str], rest: bytes) -> bytes:
    """Return the text of a list that has these directories before what another one, `rest`, has.

    An empty line, which the loader passes over, stands between them.
    """
    return b"".join(os.fsencode(directory) + b"\n" for directory in directories) + b"\n" + rest


def added(data: bytes) -> tuple[tuple[str, ...], bytes]:
    """Return the directories that write_list put before a list, and that list."""
    before, _, rest = (b"\n" + data).partition(b"\n\n")
    return read_list(before), rest
