"""ld.so.cache, held against ldconfig, against ld.so in a chroot, and against damage."""

from __future__ import annotations

import os
import random
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jailbuild.loader.glibc.ld_cache import Cache, CacheEntry, CacheError, read_cache, write_cache

LDCONFIG = shutil.which("ldconfig", path="/sbin:/usr/sbin:/bin:/usr/bin") or ""
LOADER = "/lib64/ld-linux-x86-64.so.2"
X86_64 = 0x303
FLAGS = frozenset([X86_64])
KINDS = {
    1: "ELF",
    3: "libc6",
    X86_64: "libc6,x86-64",
    0x803: "libc6,x32",
    0x903: "libc6,hard-float",
    0xA03: "libc6,AArch64",
    0x403: "libc6,64bit",
    0x503: "libc6,64bit",
    0x1003: "libc6,double-float",
}

needs_ldconfig = pytest.mark.skipif(not LDCONFIG, reason="there is no ldconfig (glibc) here")
needs_chroot = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists(LOADER) or shutil.which("gcc") is None,
    reason="needs root for chroot, glibc's loader for x86-64, and gcc",
)


def library(name: str, path: str = "", hwcaps: str | None = None, hwcap_mask: int = 0) -> CacheEntry:
    return CacheEntry(name, path or f"/lib/{name}", X86_64, hwcaps, hwcap_mask)


def ldconfig(*arguments: str | Path) -> str:
    run = subprocess.run([LDCONFIG, *arguments], env={"LC_ALL": "C"}, capture_output=True, check=True)
    return os.fsdecode(run.stdout)


def printed(cache: Path) -> list[str]:
    """Return what ldconfig prints of each entry, without the oldest kernel that it names."""
    text = re.sub(r", OS ABI: [^)]*", "", ldconfig("-p", "-C", cache))
    return [line[1:] for line in text.split("\n") if line.startswith("\t")]


def as_printed(entries: Iterable[CacheEntry]) -> list[str]:
    lines = []
    for name, path, flags, level, mask in entries:
        hwcap = f', hwcap: "{level}"' if level is not None else f", hwcap: {mask:#018x}" if mask else ""
        lines.append(f"{name} ({KINDS[flags]}{hwcap}) => {path}")
    return lines


def supported_levels() -> tuple[str, ...]:
    text = subprocess.run([LOADER, "--help"], capture_output=True, check=True, text=True).stdout
    return tuple(re.findall(r"^  (x86-64-v\d) \(supported, searched\)$", text, re.MULTILINE))


class LoaderRoot:
    """A root that holds a loader, libraries under /opt, and our cache."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for directory in ("etc", "opt/x"):
            (path / directory).mkdir(parents=True)
        shutil.copy(LOADER, path / "ld.so")
        self.thing = self._build("thing")
        # the loader lists nothing for a program that needs nothing: this one needs a file by its path
        self._build("program", self._build("needed", "-Wl,-soname,/opt/needed"))

    def _build(self, name: str, *more: str | Path) -> Path:
        made = self.path / "opt" / name
        empty = ["-s", "-x", "c", "/dev/null", "-x", "none"]
        options = ["-nostdlib", "-shared", "-Wl,-z,noseparate-code,--no-as-needed"]
        subprocess.run(["gcc", *options, "-o", made, *empty, *more], check=True)
        return made

    def put(self, entries: Iterable[CacheEntry]) -> Cache:
        """Make a file for each entry, and the cache of them all."""
        entries = list(entries)
        content = self.thing.read_bytes()
        for entry in entries:
            file = Path(f"{self.path}{entry.path}")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)  # each its own: the loader would know one file under two names again
        data = write_cache(entries)
        (self.path / "etc/ld.so.cache").write_bytes(data)
        return read_cache(data)

    def load(self, *names: str, mask: str = "") -> dict[str, str | None]:
        """Return where the loader finds each name, each looked up through the cache alone; absent if nowhere."""
        options = ["--glibc-hwcaps-mask", mask] if mask else []
        run = subprocess.run(
            ["/ld.so", *options, "--preload", " ".join(names), "/opt/program"],
            env={"LD_TRACE_LOADED_OBJECTS": "1", "LC_ALL": "C"},
            capture_output=True,
            check=False,
            preexec_fn=lambda: os.chroot(self.path),  # chroot(1) would be traced itself
        )
        pairs = re.findall(r"^\t(.+) => (/.*) \(0x[0-9a-f]+\)$", os.fsdecode(run.stdout), re.MULTILINE)
        return dict(pairs)


@pytest.fixture
def root(tmp_path: Path) -> LoaderRoot:
    return LoaderRoot(tmp_path / "root")


@needs_ldconfig
@pytest.mark.skipif(not os.path.exists("/etc/ld.so.cache"), reason="this machine has no ld.so.cache")
def test_the_cache_of_this_machine_reads_as_ldconfig_prints_it() -> None:
    """Every line of `ldconfig -p`, in its order; and our order of the same entries is ldconfig's."""
    cache = read_cache(Path("/etc/ld.so.cache").read_bytes())
    assert printed(Path("/etc/ld.so.cache")) == as_printed(cache.entries)
    ours = read_cache(write_cache(cache.entries))
    assert sorted(cache.entries, key=repr) == sorted(ours.entries, key=repr)
    assert [entry.name for entry in cache.entries] == [entry.name for entry in ours.entries]


@needs_ldconfig
def test_ldconfig_prints_what_was_written(tmp_path: Path) -> None:
    """Names, paths, machines, levels and old masks come back from ldconfig, and the order is the file's."""
    entries = [
        library("libplain.so.1"),
        library("libmask.so", hwcap_mask=1 << 63),
        *(library("libfast.so", f"/lib/{level}/libfast.so", hwcaps=level) for level in ("x86-64-v2", "x86-64-v4", "z")),
        library("libfast.so"),
        library("libisa.so", hwcaps="x86-64-v3"),
        *(CacheEntry("libmany.so", f"/lib/{flags}/libmany.so", flags) for flags in KINDS),
    ]
    file = tmp_path / "cache"
    file.write_bytes(write_cache(entries))
    assert sorted(as_printed(entries)) == sorted(printed(file))
    assert as_printed(read_cache(file.read_bytes()).entries) == printed(file)
    assert "Cache generated by: jailbuild\n" in ldconfig("-p", "-C", file)


@needs_ldconfig
def test_ldconfig_sees_the_byte_order(tmp_path: Path) -> None:
    """A cache for a machine of the other byte order says so, and ldconfig refuses it for that."""
    file = tmp_path / "cache"
    file.write_bytes(write_cache([library("libx.so")], little_endian=sys.byteorder != "little"))
    run = subprocess.run([LDCONFIG, "-p", "-C", file], env={"LC_ALL": "C"}, capture_output=True, check=False, text=True)
    assert "wrong endianness" in run.stderr


@needs_ldconfig
@needs_chroot
@pytest.mark.parametrize("form", ["new", "compat", "old"])
def test_what_ldconfig_writes_reads_as_it_prints_it(root: LoaderRoot, form: str) -> None:
    """All three formats, with levels where ldconfig can write them; sorted as ours."""
    for name in ("libq.so", "libq8.so", "libq10.so.1", "libQ.so", "lib9.so", "lib08.so.2", "lib1000000007.so"):
        shutil.copy(root.thing, root.path / "opt/x" / name)
    for level in ("x86-64-v2", "x86-64-v3", "x86-64-v4"):
        directory = root.path / "opt/x/glibc-hwcaps" / level
        directory.mkdir(parents=True)
        for name in ("libq.so", "libq8.so", f"libonly{level[-1]}.so"):
            shutil.copy(root.thing, directory / name)
    (root.path / "etc/ld.so.conf").write_text("/opt/x\n")
    ldconfig("-X", "-c", form, "-r", root.path)
    file = root.path / "etc/ld.so.cache"
    cache = read_cache(file.read_bytes())
    assert printed(file) == as_printed(cache.entries)
    if form == "new":
        assert len(cache.entries) == 7 + 9
        assert cache.entries == read_cache(write_cache(reversed(cache.entries))).entries


WORDS = ["lib", "so", "a", "b", "A", "Z", "z", "_", "-", ".", "+", "~", "é", "\udcff", "\udc80"]
NUMBERS = ["0", "1", "8", "9", "10", "99", "100", "20230802", "999999999", "08", "0010"]


def names(count: int) -> list[str]:
    chance = random.Random(1)
    made = {"lib9.so", "lib10.so", "lib08.so", "LIB.so", "l" * 250, "lib", "lib.", "lib\udcff", "lib1", "1", "\udcff"}
    while len(made) < count:
        name = "".join(chance.choice(chance.choice([WORDS, NUMBERS])) for _ in range(chance.randint(1, 9)))
        if name.strip(".") and not re.search("[0-9]{10}", name):  # larger numbers overflow: see below
            made.add(name)
    return sorted(made)


@needs_chroot
def test_the_loader_finds_every_name_in_our_cache(root: LoaderRoot) -> None:
    """Hundreds of names with digits, capitals and bytes that are no UTF-8, all found by ld.so's bisection."""
    wanted = names(600)
    cache = root.put(library(name, f"/opt/x/{number}") for number, name in enumerate(wanted))
    expected = {name: cache.find(name, FLAGS, ()) for name in wanted}
    assert None not in expected.values()
    found = root.load(*wanted)
    assert set(expected.values()) == set(found.values())
    assert found == {name: expected[name] for name in found}


@needs_chroot
def test_names_are_the_same_where_the_loader_says_so(root: LoaderRoot) -> None:
    """Digits are a 32-bit number: 08 is 8, so is 4294967304; of one such name ld.so takes the first in the file."""
    have = [
        "libx.so.08",
        "libx.so.8",
        "liby8z008.so",
        "libn00.so",
        "libb4294967304.so",
        "libc9000000000000000000000000008.so",
        "libm2147483648.so",
        "lib.so.1.2",
    ]
    asked = [
        *have,
        "libx.so.008",
        "libx.so.80",
        "liby08z8.so",
        "liby8z8.so",
        "liby8z800.so",
        "libn.so",
        "libn0.so",
        "libb8.so",
        "libb8589934600.so",
        f"libc{9 * 10**27 + 8 & 0xFFFFFFFF}.so",
        f"libc{'0' * 5000}8.so",
        "libm02147483648.so",
        "libm0.so",
        "lib.so.01.02",
        "lib.so.1.20",
        "LIB.so.1.2",
    ]
    cache = root.put(library(name, f"/opt/x/{name}") for name in have)
    for name in asked:
        assert {name: cache.find(name, FLAGS, ())} == {name: root.load(name).get(name)}


@needs_chroot
@pytest.mark.parametrize("start", [0, (1 << 31) - 40, (1 << 31) + 40, (1 << 32) - 40, (1 << 33) - 40])
def test_the_loader_finds_numbers_that_overflow(root: LoaderRoot, start: int) -> None:
    """Its comparison subtracts as C does: numbers on both sides of 2 ** 31 are in order, and our order is that."""
    wanted = [f"lib{start + step}.so" for step in range(0, 1 << 31, (1 << 31) // 60)]
    root.put(library(name) for name in wanted)
    assert root.load(*wanted) == {name: f"/lib/{name}" for name in wanted}


@needs_chroot
@pytest.mark.parametrize("path", [False, True], ids=["levels and no plain entry", "levels and a plain entry"])
def test_the_loader_takes_the_level_that_find_takes(root: LoaderRoot, path: bool) -> None:
    """Every set of levels in the cache, on this processor and with its levels masked, one mask after the other."""
    everything = ("x86-64-v4", "x86-64-v3", "x86-64-v2", "riscy")
    sets = [levels for size in range(len(everything) + 1) for levels in combinations(everything, size)]
    entries = []
    for number, levels in enumerate(sets):
        entries += [library(f"lib{number}.so", f"/opt/{level}/lib{number}.so", hwcaps=level) for level in levels]
        entries += [library(f"lib{number}.so", f"/opt/x/lib{number}.so")] if path else []
    cache = root.put(entries)
    supported = supported_levels()
    wanted = [f"lib{number}.so" for number in range(len(sets))]
    for mask in ["", "none", *supported, ":".join(supported[1:])]:
        levels = tuple(level for level in supported if not mask or level in mask.split(":"))
        found = root.load(*wanted, mask=mask)
        assert {name: cache.find(name, FLAGS, levels) for name in wanted} == {name: found.get(name) for name in wanted}


@needs_chroot
def test_the_loader_passes_over_other_machines(root: LoaderRoot) -> None:
    """Entries for i386, x32 and aarch64 of the same name stand before and after ours, and are not taken."""
    cache = root.put(
        CacheEntry(name, f"/opt/{flags:x}/{name}", flags)
        for flags in (3, X86_64, 0x803)
        for name in ("libx.so", "liby.so")
    )
    found = root.load("libx.so", "liby.so")
    assert found == {name: f"/opt/303/{name}" for name in ("libx.so", "liby.so")}
    assert found == {name: cache.find(name, FLAGS, ()) for name in found}


def test_an_old_mask_is_passed_over() -> None:
    """From glibc 2.37 on no entry with such a mask is taken; it is still a variant of the library."""
    cache = Cache([library("libx.so", "/lib/haswell/libx.so", hwcap_mask=4), library("libx.so")])
    assert cache.find("libx.so", FLAGS, ()) == "/lib/libx.so"
    assert cache.variants("libx.so", FLAGS) == ("/lib/haswell/libx.so", "/lib/libx.so")


def test_variants_are_all_paths_of_a_name_for_one_machine() -> None:
    """Base and every level, in the file's order, each path once, and none of another machine."""
    entries = [
        library("libx.so", "/l/v2", hwcaps="x86-64-v2"),
        library("libx.so", "/l/v9", hwcaps="v9"),
        library("libx.so", "/l"),
        library("libx.so", "/l/v9", hwcaps="v99"),
        CacheEntry("libx.so", "/i386", 3),
        library("liby.so", "/y"),
    ]
    cache = read_cache(write_cache(entries))
    assert cache.variants("libx.so", FLAGS) == ("/l/v9", "/l/v2", "/l")
    assert cache.variants("libz.so", FLAGS) == ()


def test_a_name_that_is_not_there_is_not_found() -> None:
    """Neither in an empty cache nor beside others, nor for another machine."""
    assert read_cache(write_cache([])).find("libx.so", FLAGS, ()) is None
    cache = read_cache(write_cache([library("libx.so")]))
    assert cache.find("libx.so.1", FLAGS, ()) is None
    assert cache.find("libx.so", frozenset([0xA03]), ()) is None


def test_names_sort_by_the_char_of_their_machine() -> None:
    """A byte from 128 on comes before ASCII where char is signed (x86), after it where it is not (aarch64)."""

    def order(flags: int) -> list[str]:
        return [e.name for e in read_cache(write_cache(CacheEntry(n, "/l", flags) for n in ("é", "a", "1"))).entries]

    assert order(X86_64) == ["1", "a", "é"]
    assert order(0xA03) == ["1", "é", "a"]


text = st.one_of(
    st.binary(max_size=12).map(lambda data: os.fsdecode(data.replace(b"\0", b""))),
    st.lists(st.sampled_from(WORDS + NUMBERS), max_size=6).map("".join),
)
plain = st.builds(
    CacheEntry, text, text, st.sampled_from([*KINDS, -1, 0]), st.none(), st.sampled_from([0, 4, 1 << 63, (1 << 62) - 1])
)
by_level = st.builds(CacheEntry, text, text, st.sampled_from([*KINDS]), text, st.sampled_from([0, 1023 << 32]))
many = st.lists(st.one_of(plain, by_level), max_size=20)


@given(entries=many, little=st.booleans(), chance=st.randoms(use_true_random=False))
def test_what_is_written_is_read(entries: list[CacheEntry], little: bool, chance: random.Random) -> None:
    """Any entries come back, each once, in either byte order; another order of theirs gives the same bytes."""
    data = write_cache(entries, little_endian=little)
    read = read_cache(data).entries
    assert len(read) == len(set(entries))
    assert set(read) == set(entries)
    chance.shuffle(entries)
    assert write_cache(entries, little_endian=little) == data


@given(entries=st.lists(plain, min_size=1, max_size=20), little=st.booleans())
def test_a_cache_without_a_byte_order_is_read(entries: list[CacheEntry], little: bool) -> None:
    """As ldconfig before 2.33 wrote it: the counts and offsets say which it is."""
    data = bytearray(write_cache(entries, little_endian=little))
    data[28] = 0
    assert set(read_cache(bytes(data)).entries) == set(entries)


def old_and_new(order: str) -> bytes:
    """Return an old table of one entry with a new one behind it, as ldconfig -c compat writes them."""
    new = write_cache([library("libx.so", "/new")], little_endian=order == "<")
    old = struct.pack(order + "11sxI", b"ld.so-1.7.0", 1) + struct.pack(order + "iII", 3, 4 + len(new), 4 + len(new))
    return old + bytes(4) + new + b"old\0"


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_new_format_is_read_behind_the_old(order: str) -> None:
    """Strings count from the new header; without one the old table serves, its strings counting from its end."""
    data = old_and_new(order)
    assert read_cache(data).entries == (library("libx.so", "/new"),)
    without = data.replace(b"glibc-ld.so.cache1.1", b"glibc-ld.so.cache9.9")
    assert read_cache(without).entries == (CacheEntry("old", "old", 3),)


SEEDS = [
    write_cache([*map(library, ("liba.so.1", "libb.so.2", "lib08")), library("liba.so.1", "/h", hwcaps="x86-64-v3")]),
    write_cache([library("libb.so", hwcaps="v2"), library("libc.so")], little_endian=False),
    old_and_new("<"),
    old_and_new(">"),
]


@given(
    seed=st.sampled_from(SEEDS),
    cut=st.integers(0, 400),
    changes=st.lists(st.tuples(st.integers(0, 399), st.sampled_from([0, 1, 2, 3, 48, 127, 128, 255])), max_size=6),
)
def test_damage_raises_nothing_but_cache_error(seed: bytes, cut: int, changes: list[tuple[int, int]]) -> None:
    """Caches with bytes changed and ends cut off either read or are refused in one line; what reads can be asked."""
    data = bytearray(seed)
    for place, value in changes:
        data[place % len(data)] = value
    ask(bytes(data[: len(data) - cut if cut < 20 else None]))


@given(head=st.sampled_from([b"", b"ld.so-1.7.0\0", b"glibc-ld.so.cache1.1"]), data=st.binary(max_size=200))
def test_any_bytes_raise_nothing_but_cache_error(head: bytes, data: bytes) -> None:
    """With and without a magic number in front."""
    ask(head + data)


def ask(data: bytes) -> None:
    try:
        cache = read_cache(data)
    except CacheError as error:
        assert "\n" not in str(error)
        return
    for entry in cache.entries:
        cache.find(entry.name, frozenset([entry.flags]), ("x86-64-v3",))
        assert entry.path in cache.variants(entry.name, frozenset([entry.flags]))


HOSTILE = """
import resource, struct, sys, time
from jailbuild.loader.glibc.ld_cache import CacheError, read_cache
resource.setrlimit(resource.RLIMIT_AS, (256 << 20, 256 << 20))
size = 8 << 20
head = struct.Struct("<20sIIB3xI12x")
def make(count, key, value, mark=0, hwcap=lambda number: 0, tail=b"x"):
    rows = [struct.pack("<iIIIQ", 3, key(n), value(n), 0, hwcap(n)) for n in range(count)]
    data = head.pack(b"glibc-ld.so.cache1.1", count, 0, mark, 0) + b"".join(rows)
    return data + tail * ((size - len(data) - 1) // len(tail)) + bytes(1)
def same(number): return size - 1
half = size // 48
cases = {
    "each entry is the tail of one long string": make(half, lambda n: size - 1 - n, lambda n: size // 2 + n),
    "nothing but entries": make(size // 24 - 4, same, same, hwcap=lambda n: n << 20 | n),
    "short strings": make(half, lambda n: size // 2 + 17 * n, lambda n: size // 2 + 5 * n + 3,
        tail=b"01\\xf0\\x9f\\x98\\x80\\0"),
    "no end": make(half, lambda n: size // 2, same)[:-1],
    "a count of billions": head.pack(b"glibc-ld.so.cache1.1", 0xFFFFFFFF, 0, 0, 0) + bytes(size - 48),
    "an old count of billions": struct.pack("<11sxI", b"ld.so-1.7.0", 0xFFFFFFFF) + bytes(size - 16),
    "too long": bytes(size + 1),
    "as many tables of levels as can be": head.pack(b"glibc-ld.so.cache1.1", 0, 0, 2, 48)
    + struct.pack("<II", -358342284 & 0xFFFFFFFF, size // 32)
    + struct.pack("<IIII", 1, 0, size // 2 + 1024, size // 4) * (size // 32) + bytes(size // 2 - 56),
    "one long table of levels": head.pack(b"glibc-ld.so.cache1.1", 0, 0, 2, 48)
    + struct.pack("<IIIIII", -358342284 & 0xFFFFFFFF, 1, 1, 0, 1024, size - 1024) + bytes(size - 72),
}
for name, data in cases.items():
    start = time.process_time()
    try:
        print(name, len(read_cache(data).entries), end=" ")
    except CacheError as error:
        print(name, error, end=" ")
    print(time.process_time() - start)
    assert time.process_time() - start < float(sys.argv[1]), name
"""


def test_no_bytes_take_long_or_much() -> None:
    """Eight megabytes made to be slow: each is done with in a second or so of processor time, and within 256 MB."""
    run = subprocess.run([sys.executable, "-c", HOSTILE, "2"], capture_output=True, check=False, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    "wrong",
    [
        library("lib\0.so"),
        library("libx.so", "/lib/\0"),
        library("libx.so", hwcaps="\0"),
        library("libx.so", hwcap_mask=-1),
        library("libx.so", hwcap_mask=1 << 64),
        library("libx.so", hwcap_mask=1 << 62),
        CacheEntry("libx.so", "/l", 1 << 31),
        library("libx.so", hwcaps="x86-64-v2", hwcap_mask=1),
    ],
    ids=repr,
)
def test_what_has_no_place_in_a_cache_is_refused(wrong: CacheEntry) -> None:
    """NUL in a string, numbers that do not fit, a mask that would read as a level."""
    with pytest.raises(CacheError, match="no place in a cache"):
        write_cache([library("liby.so"), wrong])


@pytest.mark.parametrize("place", [32, 33, "magic"])
def test_damaged_extensions_cost_the_levels_alone(place: int | str) -> None:
    """As for ld.so: what a level has is passed over, and the plain entry is found."""
    data = bytearray(write_cache([library("libx.so", "/v3/libx.so", "x86-64-v3"), library("libx.so")]))
    data[data.index(b"\x74\x21\xa4\xea") if place == "magic" else int(place)] ^= 0x12
    cache = read_cache(bytes(data))
    assert [entry.hwcaps for entry in cache.entries] == ["", None]
    assert cache.find("libx.so", FLAGS, ("x86-64-v3",)) == "/lib/libx.so"
    assert cache.variants("libx.so", FLAGS) == ("/v3/libx.so", "/lib/libx.so")


def test_a_file_of_another_kind_is_refused() -> None:
    """And so is one that says it has no byte order."""
    with pytest.raises(CacheError, match=r"no ld\.so\.cache"):
        read_cache(b"\x7fELF")
    data = bytearray(write_cache([]))
    data[28] = 1
    with pytest.raises(CacheError, match="byte order"):
        read_cache(bytes(data))
