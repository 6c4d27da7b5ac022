"""How programs of another machine run here: natively, by an emulator that the kernel starts for them, or not.

The kernel starts it by binfmt_misc (admin-guide/binfmt-misc.rst). The plain mode has what the host has registered
there, the isolated modes register for the box alone where they can: binfmt.py.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
from typing import NamedTuple

from jailbuild.errors import reason
from jailbuild.root import Root

ElfTarget = tuple[int, bool, int]  # class, little-endian, e_machine

_I386, _X86_64, _ARM, _AARCH64 = (32, True, 3), (64, True, 62), (32, True, 40), (64, True, 183)

# As qemu calls a machine in the name of its emulator (the user mode's: qemu-NAME or qemu-NAME-static)
_NAMES: dict[ElfTarget, str] = {
    _X86_64: "x86_64",
    _I386: "i386",
    _AARCH64: "aarch64",
    _ARM: "arm",
    (64, True, 243): "riscv64",
    (32, True, 243): "riscv32",
    (64, True, 258): "loongarch64",
    (64, True, 21): "ppc64le",
    (64, False, 21): "ppc64",
    (32, False, 20): "ppc",
    (64, False, 22): "s390x",
    (32, False, 8): "mips",
    (32, True, 8): "mipsel",
    (64, False, 8): "mips64",
    (64, True, 8): "mips64el",
}

# What a kernel may run by itself, by its name in uname(2); whether it has been built to run 32 bits too exec will say.
_NATIVE: dict[str, frozenset[ElfTarget]] = {
    "x86_64": frozenset({_X86_64, _I386, (32, True, 62)}),
    "aarch64": frozenset({_AARCH64, _ARM}),
    "armv7l": frozenset({_ARM}),
    "armv8l": frozenset({_AARCH64, _ARM}),
    "ppc64le": frozenset({(64, True, 21)}),
    "ppc64": frozenset({(64, False, 21), (32, False, 20)}),
    "s390x": frozenset({(64, False, 22), (32, False, 22)}),
    "riscv64": frozenset({(64, True, 243), (32, True, 243)}),
    "loongarch64": frozenset({(64, True, 258)}),
}
_X86 = ("i386", "i486", "i586", "i686")  # also what a 64-bit kernel says under setarch(8)

_DIRECTORIES = ("/usr/local/bin", "/usr/bin", "/bin")
_REGISTRATIONS = "/proc/sys/fs/binfmt_misc"
_OWN_SINCE = (6, 7)  # Linux: a user namespace may have a binfmt_misc of its own
_HEAD = 256  # bytes; BINPRM_BUF_SIZE
_DEEPEST_SCRIPT = 5  # interpreters of interpreters, fs/exec.c


class Way(NamedTuple):
    """How programs of a machine run here.

    `how` is "native" (the kernel runs them, if it runs the class), "binfmt" (by what the host has registered),
    "emulator" (by one that an isolated box registers for itself) or "none", with `why` in one line and a `hint`.
    `name` is the registration's, or the path of the emulator.
    """

    how: str
    name: str = ""
    why: str = ""
    hint: str = ""


class Registration(NamedTuple):
    """What the host's binfmt_misc has registered for a machine."""

    name: str
    interpreter: str
    flags: str


def machine_name(kind: ElfTarget) -> str:
    """Return what a machine is called."""
    return _NAMES.get(kind) or f"machine {kind[2]} ({kind[0]}-bit)"


def is_native(kind: ElfTarget) -> bool:
    """Say whether this machine's kernel may run programs of `kind`; also of a kernel that nothing is known of."""
    machine = os.uname().machine
    native = _NATIVE.get("x86_64" if machine in _X86 else machine)
    return native is None or kind in native


def foreign(root: Root, files: tuple[bytes, ...], directory: str = "/") -> ElfTarget | None:
    """Return the machine of the first of `files` that the root has, where this one does not run it, else None.

    Of a script it is the machine of its interpreter. What cannot be read says nothing.
    """
    for file in files:
        path = os.path.join(directory, os.fsdecode(file))
        for _ in range(_DEEPEST_SCRIPT):
            head = _head(root, path)
            if head is None:
                break
            kind = _kind(head)
            if kind is not None:
                return None if is_native(kind) else kind
            words = head[2:].partition(b"\n")[0].split() if head.startswith(b"#!") else []
            if not words:
                return None
            path = os.path.join(directory, os.fsdecode(words[0].partition(b"\0")[0]))
        else:
            return None
    return None


def _head(root: Root, path: str) -> bytes | None:
    try:
        if not stat.S_ISREG(root.stat(path).st_mode):
            return None
        opened = root.open(path)
    except (OSError, ValueError):
        return None
    try:
        return os.pread(opened, _HEAD, 0)
    except OSError:
        return None
    finally:
        os.close(opened)


def _kind(head: bytes) -> ElfTarget | None:
    """Return what the first bytes of an ELF file say, as the kernel's binfmt_misc would compare them."""
    if len(head) < 20 or head[:4] != b"\x7fELF" or head[4] not in (1, 2) or head[5] not in (1, 2):
        return None
    little = head[5] == 1
    return 32 * head[4], little, int.from_bytes(head[18:20], "little" if little else "big")


def way(kind: ElfTarget, root: Root | None = None, *, isolated: bool = True) -> Way:
    """Return how programs of `kind` run here, in the isolated modes or in the plain one.

    An isolated box registers an emulator for itself where kernel and host have what it takes, else it has what the host
    has registered, as the plain mode. `root` may have the interpreter that a registration without F names.
    """
    if is_native(kind):
        return Way("native")
    name = machine_name(kind)
    why = f"it is for {name}, and this machine is {os.uname().machine}"
    emulator = find_emulator(kind) if kind in _NAMES else None
    own = isolated and _release() >= _OWN_SINCE
    if emulator is not None and own:
        return Way("emulator", emulator)
    known = registered(kind)
    if known is not None and ("F" in known.flags or (root is not None and _head(root, known.interpreter) is not None)):
        return Way("binfmt", known.name)
    if kind not in _NAMES:
        return Way("none", why=f"{why}, with no emulator known for it")
    package = "apt install qemu-user-static" + ("" if own else " binfmt-support")
    if known is not None:
        looks = f"{why}, whose binfmt_misc looks for {known.interpreter} in the box ({known.name}, no flag F)"
        return Way("none", why=looks, hint=package)
    if emulator is None:
        return Way("none", why=f"{why}, with no qemu-{name}-static to run it", hint=package)
    hint = "apt install binfmt-support registers it"
    if not isolated and _release() >= _OWN_SINCE:
        hint += "; without --plain the box has it registered for itself alone"
    return Way("none", why=f"{why}; {emulator} is here, but not registered with binfmt_misc", hint=hint)


def _release() -> tuple[int, ...]:
    """Return major and minor of the kernel's version."""
    return tuple(int(part) for part in re.findall(r"[0-9]+", os.uname().release)[:2])


def find_emulator(kind: ElfTarget) -> str | None:
    """Return the path of an emulator that needs no library of the box it is to run in: a static one."""
    for name in (f"qemu-{_NAMES[kind]}-static", f"qemu-{_NAMES[kind]}"):
        for directory in _DIRECTORIES:
            path = f"{directory}/{name}"
            if os.access(path, os.X_OK) and _is_static(path):
                return path
    return None


def _is_static(path: str) -> bool:
    from jailbuild.elf.reader import read_elf

    try:
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            elf = read_elf(opened)
        finally:
            os.close(opened)
    except OSError:
        return False
    return elf.bits > 0 and not elf.load_error and elf.interpreter is None


def registered(kind: ElfTarget) -> Registration | None:
    """Return what the host's binfmt_misc runs programs of `kind` by, None for nothing (or nothing to be seen)."""
    head = magic(kind)
    try:
        names = os.listdir(_REGISTRATIONS)
        with open(f"{_REGISTRATIONS}/status", encoding="ascii") as file:
            if file.read().strip() != "enabled":
                return None
    except OSError:
        return None
    for name in names:
        try:
            with open(f"{_REGISTRATIONS}/{name}", encoding="utf-8", errors="surrogateescape") as file:
                state, *lines = file.read().split("\n")
            fields = dict(line.partition(" ")[::2] for line in lines)
            known_magic = bytes.fromhex(fields["magic"])
            bits = bytes.fromhex(fields["mask"]) if "mask" in fields else b"\xff" * len(known_magic)
            known = Registration(name, fields["interpreter"], fields.get("flags:", ""))
        except (OSError, KeyError, ValueError):  # no entry, or one that goes by the file's name
            continue
        matches = all(one & bit == other & bit for one, other, bit in zip(head, known_magic, bits, strict=False))
        if state == "enabled" and fields.get("offset") == "0" and 18 < len(known_magic) <= len(head) and matches:
            return known
    return None


def magic(kind: ElfTarget) -> bytes:
    """Return the first bytes of a program of `kind` (ET_EXEC)."""
    bits, little, machine = kind
    return (
        b"\x7fELF"
        + struct.pack("BBBB8x", bits // 32, 1 if little else 2, 1, 0)
        + struct.pack("<HH" if little else ">HH", 2, machine)
    )


def mask(kind: ElfTarget) -> bytes:
    """Return which of those bytes count: not the OS ABI, and ET_DYN is as good as ET_EXEC."""
    return b"\xff" * 7 + b"\0" + b"\xff" * 8 + struct.pack("<HH" if kind[1] else ">HH", 0xFFFE, 0xFFFF)


def refused(kind: ElfTarget, error: OSError) -> str:
    """Return why a box cannot have a binfmt_misc of its own, in one line."""
    name = machine_name(kind)
    if error.errno in (errno.EPERM, errno.ENODEV, errno.EINVAL, errno.ENOSPC):
        return (
            f"programs for {name} need a binfmt_misc of the box's own, from Linux 6.7 on and with user namespaces;"
            f" this is {os.uname().release} ({reason(error)})"
        )
    return f"the emulator for {name} cannot be set up: {reason(error)}"
