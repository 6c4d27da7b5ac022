"""What differs between machines: default directories, cache flags, hwcaps levels, names.

Sources: glibc sysdeps/*/dl-cache.h, dl-hwcaps-subdirs.c, shlib-versions and sysdeps/generic/ldconfig.h.
"""

from __future__ import annotations

import functools
import os
from typing import NamedTuple

ElfTarget = tuple[int, bool, int]  # class, little-endian, e_machine


class Machine(NamedTuple):
    """One machine as glibc knows it."""

    name: str  # as uname(2) has it
    loader: str  # where PT_INTERP usually says it is; its base name is its SONAME
    cache_flags: frozenset[int]  # what ld.so accepts in ld.so.cache; the smallest is not special
    cache_flag: int  # what ldconfig writes
    levels: tuple[str, ...] = ()  # glibc-hwcaps, best first
    directories: tuple[str, ...] = ("/lib64", "/usr/lib64")  # upstream's, where the loader cannot be asked
    vdso: str = "linux-vdso.so.1"


_X86_64_LEVELS = ("x86-64-v4", "x86-64-v3", "x86-64-v2")
_POWER_LEVELS = ("power10", "power9")
_LIB = ("/lib", "/usr/lib")

_MACHINES: dict[ElfTarget, Machine] = {
    (64, True, 62): Machine("x86_64", "/lib64/ld-linux-x86-64.so.2", frozenset({0x303}), 0x303, _X86_64_LEVELS),
    (32, True, 62): Machine(
        "x86_64", "/libx32/ld-linux-x32.so.2", frozenset({0x803}), 0x803, _X86_64_LEVELS, ("/libx32", "/usr/libx32")
    ),
    (32, True, 3): Machine("i686", "/lib/ld-linux.so.2", frozenset({3, 1}), 3, (), _LIB, "linux-gate.so.1"),
    (64, True, 183): Machine("aarch64", "/lib/ld-linux-aarch64.so.1", frozenset({0xA03}), 0xA03),
    (32, True, 40): Machine("armv7l", "/lib/ld-linux-armhf.so.3", frozenset({0x903, 3}), 0x903, (), _LIB),
    (64, True, 21): Machine(
        "ppc64le", "/lib64/ld64.so.2", frozenset({0x503}), 0x503, _POWER_LEVELS, vdso="linux-vdso64.so.1"
    ),
    (64, False, 21): Machine(
        "ppc64", "/lib64/ld64.so.1", frozenset({0x503}), 0x503, _POWER_LEVELS, vdso="linux-vdso64.so.1"
    ),
    (64, False, 22): Machine(
        "s390x",
        "/lib/ld64.so.1",
        frozenset({0x403}),
        0x403,
        ("z17", "z16", "z15", "z14", "z13"),
        vdso="linux-vdso64.so.1",
    ),
    (64, True, 243): Machine(
        "riscv64",
        "/lib/ld-linux-riscv64-lp64d.so.1",
        frozenset({0x1003}),
        0x1003,
        (),
        ("/lib64/lp64d", "/usr/lib64/lp64d"),
    ),
    (64, True, 258): Machine("loongarch64", "/lib64/ld-linux-loongarch-lp64d.so.1", frozenset({0x1203}), 0x1203),
}
_UNKNOWN = Machine("unknown", "/lib/ld.so.1", frozenset({3}), 3, (), _LIB)

BASE = "base"
ALL_LEVELS = tuple(dict.fromkeys(level for known in _MACHINES.values() for level in known.levels))

# x86-64 psABI, "Micro-architecture levels", in the words of /proc/cpuinfo
_X86_64_FLAGS = {
    "x86-64-v2": {"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"},
    "x86-64-v3": {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"},
    "x86-64-v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
}


def machine(kind: ElfTarget) -> Machine:
    """Return what is known of the machine that files of `kind` are for."""
    return _MACHINES.get(kind, _UNKNOWN)


@functools.cache
def _cpu() -> tuple[str, frozenset[str]]:
    """Return this processor's vendor and flags (empty where /proc/cpuinfo does not tell)."""
    vendor, flags = "", frozenset[str]()
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                key, _, value = line.partition(":")
                if key.strip() == "vendor_id":
                    vendor = value.strip()
                elif key.strip() == "flags":
                    flags = frozenset(value.split())
                elif not line.strip():
                    break
    except OSError:
        pass
    return vendor, flags


def cpu_levels(levels: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of a machine's levels that this processor has, best first; none for a foreign machine."""
    if levels != _X86_64_LEVELS or os.uname().machine != "x86_64":
        return ()
    _, flags = _cpu()
    supported: list[str] = []
    for level, needed in _X86_64_FLAGS.items():
        if not needed <= flags:
            break
        supported.insert(0, level)
    return tuple(supported)


def levels_up_to(level: str | None) -> tuple[str, ...] | None:
    """Return the glibc-hwcaps levels that a processor of `level` has, best first; None, its own, for None."""
    if level is None:
        return None
    for known in _MACHINES.values():
        if level in known.levels:
            return known.levels[known.levels.index(level) :]
    return ()


def platform(kind: ElfTarget, version: tuple[int, int], levels: tuple[str, ...] = ()) -> str | None:
    """Return what `$PLATFORM` is for a loader of `version`: AT_PLATFORM, or on x86 what glibc to 2.36 makes of it.

    `levels` are the glibc-hwcaps of the processor, best first: POWER and Z call their processors the same in both. Of a
    foreign machine nothing else is known, and the oldest processor that it runs on is taken.
    """
    name = machine(kind).name
    if name in ("riscv64", "loongarch64", "unknown"):
        return None
    if name == "s390x":
        return levels[0] if levels else None
    if name in ("ppc64", "ppc64le"):
        return levels[0] if levels else "power8" if name == "ppc64le" else None
    if name == "armv7l":
        return "v7l"
    if name == "x86_64" and version <= (2, 36) and os.uname().machine == "x86_64":
        vendor, flags = _cpu()
        if vendor == "GenuineIntel" and {"avx2", "bmi1", "bmi2", "abm", "movbe", "popcnt"} <= flags:
            return "haswell"
    return name


# What glibc to 2.36 calls the abilities of a processor that matter (HWCAP_IMPORTANT in each dl-procinfo.h or
# dl-hwcap.h), with their bits: of those, the ones that every processor of the machine has.
_LEGACY: dict[str, tuple[tuple[str, int], ...]] = {
    "x86_64": (("x86_64", 1),),
    "i686": (("sse2", 0),),
    "armv7l": (("vfp", 6),),
    "ppc64le": (("dfp", 10), ("altivec", 28)),
    "ppc64": (),
    "s390x": (("zarch", 1), ("ldisp", 4), ("eimm", 5)),
}
_LEGACY_PLATFORMS = {"haswell": 50, "i686": 49}  # sysdeps/x86/dl-hwcap.h, sysdeps/i386/dl-procinfo.c


def _legacy(kind: ElfTarget) -> tuple[tuple[str, int], ...]:
    """Return the names of a processor's abilities that glibc to 2.36 makes directories of, with their bits."""
    names = _LEGACY.get(machine(kind).name, ())
    if kind == (64, True, 62) and os.uname().machine == "x86_64":
        vendor, flags = _cpu()
        if vendor == "GenuineIntel" and _X86_64_FLAGS["x86-64-v4"] <= flags and "avx512er" not in flags:
            names += (("avx512_1", 2),)
    return names


def legacy_subdirectories(kind: ElfTarget, version: tuple[int, int], levels: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the directories that glibc to 2.36 tries below each one it searches, best first.

    Every combination of "tls", the platform and the hwcap names, by falling binary number (elf/dl-hwcaps.c).
    """
    if version > (2, 36):
        return ()
    names = [name for name, _ in _legacy(kind)]
    name = platform(kind, version, levels)
    if name is not None:
        names.append(name)
    names.append("tls")
    combinations = []
    for mask in range((1 << len(names)) - 1, 0, -1):
        chosen = [names[bit] for bit in range(len(names) - 1, -1, -1) if mask >> bit & 1]
        combinations.append("/".join(chosen))
    return tuple(dict.fromkeys(combinations))


def legacy_hwcaps(kind: ElfTarget, version: tuple[int, int]) -> int:
    """Return the bits that glibc to 2.36 accepts in the hwcap of a plain entry of the cache (elf/dl-cache.c)."""
    if version > (2, 36):
        return 0
    bits = 1 << 63  # tls
    for _, bit in _legacy(kind):
        bits |= 1 << bit
    return bits | 1 << _LEGACY_PLATFORMS.get(platform(kind, version) or "", 63)


def abi(kind: ElfTarget, flags: int) -> int:
    """Return the part of e_flags that must be equal for files to be loaded together (elf_machine_matches_host;
    for ARM VALID_FLOAT_ABI).
    """
    if kind[2] == 243:  # RISC-V: EF_RISCV_FLOAT_ABI
        return flags & 6
    if kind == (64, True, 21):  # ppc64le takes ELFv2 and files that do not say
        return int(flags & 3 == 1)
    if kind == (64, False, 21):
        return int(flags & 3 == 2)
    if kind == (32, True, 40) and flags >> 24 == 5:  # EABI 5: a loader for hard floats refuses what says soft
        return int(bool(flags & 0x200))
    return 0
