"""Our resolver against the real loader, in random worlds and in one small world a rule."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from jailbuild.elf.reader import read_elf
from jailbuild.loader.files import Files
from jailbuild.loader.resolver import Loader
from jailbuild.root import Root
from tests.worlds import oracle
from tests.worlds.__main__ import minimal
from tests.worlds.compare import judge, resolve
from tests.worlds.generate import world as random_world
from tests.worlds.world import (
    FLAWS,
    LDCONFIG,
    LOADER,
    NODEFLIB,
    PIE,
    PROGRAM,
    Copied,
    Data,
    Directory,
    Elf,
    Hard,
    Link,
    Node,
    Thing,
    Workshop,
    World,
)

MULTIARCH = "/lib/x86_64-linux-gnu"
SEEDS = range(50)


def _loader() -> str:
    try:
        run = subprocess.run([LOADER, "--version"], capture_output=True, check=False)
    except OSError:
        return ""
    return run.stdout.decode(errors="replace").split("\n")[0]


pytestmark = [
    pytest.mark.skipif(
        os.geteuid() != 0 or not oracle.works() or not LDCONFIG,
        reason="needs root for chroot and mounts, glibc's loader for x86-64, and ldconfig",
    ),
    pytest.mark.skipif("Debian GLIBC" not in _loader(), reason="the worlds are made for Debian's directories"),
]


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    with Workshop() as made:
        yield made


def explain(workshop: Workshop, made: World) -> str:
    """Return the smallest world that differs as `made` does, and how; "" if it agrees."""
    if not judge(workshop, made)[0]:
        return ""
    small = minimal(workshop, made, 300)
    return f"{small}\n\n" + "\n".join(judge(workshop, small)[0])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_world_gives_the_loaders_answer(workshop: Workshop, seed: int) -> None:
    """Libraries, their order, names and steps, what is missing, and what is fatal."""
    if problem := explain(workshop, random_world(seed)):
        pytest.fail(f"seed {seed} (python -m tests.worlds --seed {seed}):\n{problem}", pytrace=False)


def needs(*names: str, **tags: str) -> tuple[tuple[str, str | int], ...]:
    return (*(("NEEDED", name) for name in names), *tags.items())


def simple(
    nodes: dict[str, Thing],
    *tags: tuple[str, str | int],
    library_path: str = "",
    preload: tuple[str, ...] = (),
    conf: tuple[str, ...] | None = None,
    program: str = PROGRAM,
) -> World:
    """Return a world with the loader, these files, and a program of these tags."""
    real = f"{MULTIARCH}/ld-linux-x86-64.so.2"
    first = [Node(real, Copied(LOADER)), Node(LOADER, Link(real))]
    rest = [Node(path, thing) for path, thing in nodes.items()]
    return World((*first, *rest, Node(program, Elf(tags, LOADER))), PROGRAM, library_path, preload, conf)


LIBRARY = Elf()
A32 = Elf(flaw="32-bit")
WORLDS: dict[str, tuple[World, str]] = {
    "breadth first": (
        simple(
            {"/lib/liba.so": Elf(needs("libb.so", RPATH="/opt/a")), "/lib/libb.so": LIBRARY, "/opt/a/libb.so": LIBRARY},
            *needs("liba.so", "libb.so"),
        ),
        "/lib/liba.so /lib/libb.so",
    ),
    "a loop": (
        simple({"/lib/liba.so": Elf(needs("libb.so")), "/lib/libb.so": Elf(needs("liba.so"))}, *needs("liba.so")),
        "/lib/liba.so /lib/libb.so",
    ),
    "a SONAME that is loaded already": (
        simple({"/lib/liba.so": Elf((("SONAME", "libb.so"),)), "/lib/libb.so": LIBRARY}, *needs("liba.so", "libb.so")),
        "/lib/liba.so",
    ),
    "one file under two names": (
        simple({"/lib/liba.so": LIBRARY, "/lib/libb.so": Hard("/lib/liba.so")}, *needs("liba.so", "libb.so")),
        "/lib/liba.so",
    ),
    "a name is asked for again after it was not found": (
        simple(
            {"/opt/a/libb.so": LIBRARY, "/lib/liba.so": Elf(needs("libb.so", RUNPATH="/opt/a"))},
            *needs("libb.so", "liba.so"),
        ),
        "/lib/liba.so /opt/a/libb.so - libb.so",
    ),
    "RPATH is inherited": (
        simple({"/opt/a/liba.so": Elf(needs("libb.so")), "/opt/a/libb.so": LIBRARY}, *needs("liba.so", RPATH="/opt/a")),
        "/opt/a/liba.so /opt/a/libb.so",
    ),
    "RUNPATH is not inherited": (
        simple(
            {"/opt/a/liba.so": Elf(needs("libb.so")), "/opt/a/libb.so": LIBRARY}, *needs("liba.so", RUNPATH="/opt/a")
        ),
        "/opt/a/liba.so - libb.so",
    ),
    "RUNPATH makes RPATH void": (
        simple({"/opt/a/liba.so": LIBRARY}, *needs("liba.so", RPATH="/opt/a", RUNPATH="/opt/b")),
        "- liba.so",
    ),
    "the walk goes on past an ancestor with RUNPATH": (
        simple(
            {
                "/opt/a/liba.so": Elf(needs("libb.so", RUNPATH="/opt/b")),
                "/opt/b/libb.so": Elf(needs("libc1.so")),
                "/opt/a/libc1.so": LIBRARY,
            },
            *needs("liba.so", RPATH="/opt/a"),
        ),
        "/opt/a/liba.so /opt/b/libb.so /opt/a/libc1.so",
    ),
    "RPATH before LD_LIBRARY_PATH": (
        simple(
            {"/opt/a/liba.so": LIBRARY, "/opt/b/liba.so": LIBRARY},
            *needs("liba.so", RPATH="/opt/a"),
            library_path="/opt/b",
        ),
        "/opt/a/liba.so",
    ),
    "LD_LIBRARY_PATH before RUNPATH, with either separator": (
        simple(
            {"/opt/a/liba.so": LIBRARY, "/opt/b/liba.so": LIBRARY},
            *needs("liba.so", RUNPATH="/opt/a"),
            library_path="/srv;/opt/b:/opt/a",
        ),
        "/opt/b/liba.so",
    ),
    "an empty element is the current directory": (
        simple({"/liba.so": LIBRARY}, *needs("liba.so", RUNPATH="/srv:")),
        "liba.so",
    ),
    "$ORIGIN is the program's real directory": (
        World(
            (
                *simple({"/srv/libb.so": LIBRARY, PROGRAM: Link("../srv/p")}, program="/srv/p").nodes[:-1],
                Node("/srv/p", Elf(needs("libb.so", RUNPATH="${ORIGIN}:$ORIGINAL"), LOADER)),
            )
        ),
        "/srv/libb.so",
    ),
    "$ORIGIN of a library is where it was found": (
        simple(
            {
                "/opt/b/liba.so": Elf(needs("libb.so", RUNPATH="$ORIGIN")),
                "/opt/a/liba.so": Link("../b/liba.so"),
                "/opt/a/libb.so": LIBRARY,
                "/opt/b/libb.so": LIBRARY,
            },
            *needs("liba.so", RUNPATH="/opt/a"),
        ),
        "/opt/a/liba.so /opt/a/libb.so",
    ),
    "$ORIGIN keeps the slashes of a name": (
        simple(
            {"/opt/a/liba.so": Elf(needs("libb.so", "libc1.so", RUNPATH="$ORIGIN/sub")), "/opt/a/sub/libb.so": LIBRARY},
            *needs("/opt/a///liba.so"),
        ),
        "/opt/a///liba.so /opt/a///sub/libb.so - libc1.so",
    ),
    "$ORIGIN at the top": (
        simple(
            {"/liba.so": Elf(needs("libb.so", RUNPATH="$ORIGIN/opt/a")), "/opt/a/libb.so": LIBRARY}, *needs("//liba.so")
        ),
        "//liba.so //opt/a/libb.so",
    ),
    "$LIB": (
        simple({"/opt/lib/x86_64-linux-gnu/liba.so": LIBRARY}, *needs("liba.so", RUNPATH="/opt/$LIB")),
        "/opt/lib/x86_64-linux-gnu/liba.so",
    ),
    "no token is no token": (
        simple({"/opt/$FOO/liba.so": LIBRARY}, *needs("liba.so", RUNPATH="/opt/$FOO")),
        "/opt/$FOO/liba.so",
    ),
    "a name with a slash": (
        simple({"/opt/a/liba.so": LIBRARY}, *needs("opt/a/liba.so", "$ORIGIN/../opt/a/liba.so", "/opt/a/libb.so")),
        "opt/a/liba.so - /opt/a/libb.so",
    ),
    "files for other machines are passed over": (
        simple(
            {
                "/opt/a/liba.so": A32,
                "/opt/b/liba.so": Elf(flaw="for aarch64"),
                "/opt/c/liba.so": Elf(flaw="of class 9"),
                "/lib/liba.so": LIBRARY,
            },
            *needs("liba.so", RUNPATH="/opt/a:/opt/b:/opt/c"),
        ),
        "/lib/liba.so",
    ),
    "Debian's loader passes over other machines whatever else is wrong": (
        simple(
            {"/opt/a/liba.so": Elf(flaw="for aarch64, of another OS"), "/lib/liba.so": LIBRARY},
            *needs("liba.so", RUNPATH="/opt/a"),
        ),
        "/lib/liba.so",
    ),
    "a file of OS ABI GNU may have an ABI version": (
        simple({"/lib/liba.so": Elf(flaw="OS ABI GNU, version 1")}, *needs("liba.so")),
        "/lib/liba.so",
    ),
    "a link loop ends its list": (
        simple(
            {"/opt/a/liba.so": Link("liba.so"), "/opt/b/liba.so": LIBRARY, "/lib/liba.so": LIBRARY},
            *needs("liba.so", RUNPATH="/opt/a:/opt/b"),
        ),
        "/lib/liba.so",
    ),
    "a relative directory that is none ends its list": (
        simple({"/opt/b/liba.so": LIBRARY, "/lib/liba.so": LIBRARY}, *needs("liba.so", RUNPATH="bin/prog:/opt/b")),
        "/lib/liba.so",
    ),
    "an absolute directory that is none is passed over": (
        simple({"/opt/b/liba.so": LIBRARY, "/lib/liba.so": LIBRARY}, *needs("liba.so", RUNPATH="/bin/prog:/opt/b")),
        "/opt/b/liba.so",
    ),
    "dangling links are passed over": (
        simple({f"{MULTIARCH}/liba.so": Link("/nowhere"), "/lib/liba.so": LIBRARY}, *needs("liba.so")),
        "/lib/liba.so",
    ),
    "an empty file is fatal": (simple({"/lib/liba.so": Data()}, *needs("liba.so")), "! /lib/liba.so"),
    "a script is fatal": (simple({"/lib/liba.so": Data(b"#!/bin/sh\n" * 20)}, *needs("liba.so")), "! /lib/liba.so"),
    "a short text is fatal": (simple({"/lib/liba.so": Data(b"INPUT(libx.so)\n")}, *needs("liba.so")), "! /lib/liba.so"),
    "a directory is fatal": (simple({"/lib/liba.so": Directory()}, *needs("liba.so")), "! /lib/liba.so"),
    "a PIE is fatal": (simple({"/lib/liba.so": Elf((PIE,))}, *needs("liba.so")), "! liba.so"),
    "ET_EXEC is fatal": (simple({"/lib/liba.so": Elf(exec=True)}, *needs("liba.so")), "! liba.so"),
    "the cache": (
        simple({"/opt/a/liba.so": Elf(needs(SONAME="liba.so.1"))}, *needs("liba.so.1"), conf=("/opt/a",)),
        "/opt/a/liba.so.1",
    ),
    "ld.so.conf alone is nothing": (
        simple({"/opt/a/liba.so": LIBRARY, "/etc/ld.so.conf": Data(b"/opt/a\n")}, *needs("liba.so")),
        "- liba.so",
    ),
    "a stale cache": (
        World(
            (*simple({"/lib/liba.so": LIBRARY}, *needs("liba.so")).nodes, Node("/opt/a/liba.so", LIBRARY, when="gone")),
            conf=("/opt/a",),
        ),
        "/lib/liba.so",
    ),
    "the cache knows tls and x86_64 directories": (
        simple({"/opt/a/tls/x86_64/liba.so": LIBRARY}, *needs("liba.so"), conf=("/opt/a",)),
        "/opt/a/tls/x86_64/liba.so",
    ),
    "tls directories in a list": (
        simple({"/opt/a/liba.so": LIBRARY, "/opt/a/tls/liba.so": LIBRARY}, *needs("liba.so", RUNPATH="/opt/a")),
        "/opt/a/tls/liba.so",
    ),
    "NODEFLIB": (
        simple(
            {"/lib/liba.so": LIBRARY, "/opt/a/libb.so": LIBRARY},
            *needs("liba.so", "libb.so"),
            NODEFLIB,
            conf=("/opt/a",),
        ),
        "/opt/a/libb.so - liba.so",
    ),
    "a filtee comes before its filter": (
        simple(
            {
                "/lib/liba.so": Elf((("FILTER", "libb.so"), ("NEEDED", "libc1.so"))),
                "/lib/libb.so": LIBRARY,
                "/lib/libc1.so": LIBRARY,
            },
            *needs("liba.so"),
        ),
        "/lib/libb.so /lib/liba.so /lib/libc1.so",
    ),
    "a filtee of the program is not listed": (
        simple({"/lib/liba.so": LIBRARY, "/lib/libb.so": LIBRARY}, ("FILTER", "libb.so"), *needs("liba.so")),
        "/lib/liba.so",
    ),
    "a filtee of the program is loaded again for the next who asks": (
        simple(
            {"/lib/liba.so": Elf(needs("libb.so")), "/lib/libb.so": LIBRARY},
            *needs("liba.so"),
            ("AUXILIARY", "libb.so"),
        ),
        "/lib/liba.so /lib/libb.so",
    ),
    "what a filtee of the program needs is listed": (
        simple(
            {"/lib/liba.so": LIBRARY, "/lib/libb.so": Elf(needs("libc1.so")), "/lib/libc1.so": LIBRARY},
            ("FILTER", "libb.so"),
            *needs("liba.so"),
        ),
        "/lib/liba.so /lib/libc1.so",
    ),
    "an optional filtee of the program may be absent": (
        simple({"/lib/liba.so": LIBRARY}, ("AUXILIARY", "libb.so"), *needs("liba.so")),
        "/lib/liba.so",
    ),
    "after one miss / is no directory any more": (
        simple({"/liba.so": LIBRARY, "/tls/libb.so": LIBRARY}, *needs("libx.so", "liba.so", "libb.so", RUNPATH="/")),
        "/tls/libb.so - libx.so - liba.so",
    ),
    "not in the list of another either": (
        simple(
            {"/libb.so": LIBRARY, "/opt/a/liba.so": Elf(needs("libb.so", RUNPATH="/"))},
            *needs("liba.so", RPATH="//:/opt/a"),
        ),
        "/opt/a/liba.so - libb.so",
    ),
    "after a hit / is one for good": (
        simple({"/liba.so": LIBRARY, "/libb.so": LIBRARY}, *needs("liba.so", "libx.so", "libb.so", RUNPATH="///")),
        "/liba.so /libb.so - libx.so",
    ),
    "/ by another name is tried each time": (
        simple({"/liba.so": LIBRARY}, *needs("libx.so", "liba.so", RUNPATH="/./")),
        "/./liba.so - libx.so",
    ),
    "empty elements of every list, and of many slashes": (
        simple(
            {"/liba.so": LIBRARY, "/opt/a/libb.so": LIBRARY, "/opt/b/libc1.so": LIBRARY},
            *needs("libx.so", "liba.so", "libb.so", "libc1.so", RPATH="::/opt//a///"),
            library_path=";/opt/b//;",
        ),
        "liba.so /opt//a/libb.so /opt/b/libc1.so - libx.so",
    ),
    "an empty LD_LIBRARY_PATH or RUNPATH is none": (
        simple({"/liba.so": LIBRARY}, *needs("liba.so", RUNPATH="")),
        "- liba.so",
    ),
    "a list of one separator is the current directory": (
        simple({"/liba.so": LIBRARY}, *needs("liba.so"), library_path=";"),
        "liba.so",
    ),
    "a preload with a token": (
        simple({f"{MULTIARCH}/liba.so": LIBRARY}, *needs("libb.so"), preload=("/$LIB/liba.so",)),
        f"{MULTIARCH}/liba.so - libb.so",
    ),
    "preloads come first and may be absent": (
        simple({"/lib/liba.so": LIBRARY, "/lib/libb.so": LIBRARY}, *needs("libb.so"), preload=("libx.so", "liba.so")),
        "/lib/liba.so /lib/libb.so",
    ),
    "a preload of the loader is none": (
        simple({"/lib/libb.so": LIBRARY}, *needs("libb.so"), preload=("ld-linux-x86-64.so.2",)),
        "/lib/libb.so",
    ),
    "ld.so.preload has comments, some of which are names": (
        simple(
            {
                "/lib/liba.so": LIBRARY,
                "/lib/libb.so": LIBRARY,
                "/lib/libc1.so": LIBRARY,
                "/etc/ld.so.preload": Data(b"liba.so # libx.so\nlibb.so\n#x libc1.so\n"),
            },
            *needs("libd.so"),
        ),
        "/lib/liba.so /lib/libb.so /lib/libc1.so - libd.so",
    ),
    "an empty name is the program": (simple({"/lib/liba.so": LIBRARY}, *needs("", "liba.so")), "/lib/liba.so"),
    "the vDSO is there": (simple({"/lib/liba.so": LIBRARY}, *needs("linux-vdso.so.1", "liba.so")), "/lib/liba.so"),
    "the loader is there": (simple({}, *needs("ld-linux-x86-64.so.2", LOADER)), LOADER),
    "the program's own SONAME": (simple({"/lib/libp.so": LIBRARY}, *needs("libp.so", SONAME="libp.so")), ""),
    "a loader that is not there": (
        simple({LOADER: Directory()}, *needs("liba.so"))._replace(
            nodes=(Node(PROGRAM, Elf(needs("liba.so"), "/nowhere/ld.so")),)
        ),
        "! exec",
    ),
}


FOR_THE_KERNEL_NOTHING = (  # it goes by e_machine alone
    "x32",
    "of no class",
    "of class 9",
    "big-endian",
    "of no byte order",
    "32-bit, big-endian",
    "32-bit, of another OS",
    "of ident version 2",
    "of version 2",
    "OS ABI FreeBSD",
    "of ABI version 1",
    "padded",
)


@pytest.mark.parametrize("flaw", FOR_THE_KERNEL_NOTHING)
def test_a_program_or_a_loader_with_forged_first_bytes_starts(workshop: Workshop, flaw: str) -> None:
    """The same file is no library for anybody."""
    flaws = dict(FLAWS[flaw])
    flaws.pop(18, None)
    image = bytearray(Path(LOADER).read_bytes())
    for place, value in flaws.items():
        image[place : place + len(value or b"")] = value or b""
    forged = Elf(needs("liba.so"), LOADER)._replace(flaw=flaw if flaws == FLAWS[flaw] else "")
    world = World((Node(LOADER, Data(bytes(image))), Node("/lib/liba.so", LIBRARY), Node(PROGRAM, forged)))
    differences, theirs = judge(workshop, world)
    assert [path for _, path in theirs.libraries] == ["/lib/liba.so"]
    assert not differences
    library = simple({"/lib/liba.so": Elf(flaw=flaw)}, *needs("liba.so"))
    differences, theirs = judge(workshop, library)
    assert not theirs.libraries
    assert not differences


AUDITED: dict[str, tuple[World, list[str], list[str]]] = {  # what is loaded to audit, and what is not found
    "by RPATH, and what it needs too": (
        simple(
            {"/opt/a/liba.so": Elf(needs("libb.so")), "/opt/a/libb.so": LIBRARY, "/opt/b/liba.so": LIBRARY},
            *needs(RPATH="/opt/a", AUDIT="liba.so"),
            library_path="/opt/b",
        ),
        ["/opt/a/liba.so", "/opt/a/libb.so"],
        [],
    ),
    "by RUNPATH as by RPATH": (
        simple(
            {"/opt/a/liba.so": Elf(needs("libb.so")), "/opt/a/libb.so": LIBRARY, "/opt/b/liba.so": LIBRARY},
            *needs(RUNPATH="/opt/a", DEPAUDIT="liba.so"),
            library_path="/opt/b",
        ),
        ["/opt/a/liba.so", "/opt/a/libb.so"],
        [],
    ),
    "NODEFLIB of the program does not count": (
        simple({"/lib/liba.so": LIBRARY}, *needs(AUDIT="liba.so"), NODEFLIB),
        ["/lib/liba.so"],
        [],
    ),
    "several, absent and broken ones too": (
        simple(
            {"/lib/liba.so": LIBRARY, "/lib/libb.so": Data(b"no library" * 10)},
            *needs(AUDIT="libx.so:liba.so", DEPAUDIT="libb.so"),
        ),
        ["/lib/liba.so"],
        ["libx.so", "libb.so"],
    ),
    "who audits is not audited": (
        simple({"/lib/liba.so": Elf(needs(AUDIT="liba.so:libb.so")), "/lib/libb.so": LIBRARY}, *needs(AUDIT="liba.so")),
        ["/lib/liba.so"],
        [],
    ),
    "nor is it told of preloads": (
        simple(
            {"/opt/a/liba.so": LIBRARY, "/lib/libb.so": LIBRARY},
            *needs(RUNPATH="/opt/a", AUDIT="liba.so"),
            preload=("libb.so",),
        ),
        ["/lib/libb.so", "/opt/a/liba.so"],
        [],
    ),
}


@pytest.mark.parametrize("rule", AUDITED)
def test_what_audits_a_program_is_found_as_by_the_loader(workshop: Workshop, rule: str) -> None:
    """The loader lists none of it, but tells where it found it."""
    world, expected, absent = AUDITED[rule]
    with workshop.built(world) as directory:
        ours, theirs = resolve(world, directory), oracle.ask(world, directory)
        assert not theirs.crashed
        tried = [path for path, _ in theirs.found_by if (directory / path[1:]).exists()]
    assert sorted({*tried} - {"/lib/libb.so"} if "libb.so" in absent else tried) == sorted(expected)
    assert ([library.path for library in ours.libraries], ours.error) == (expected, None)
    assert [missing.name for missing in ours.missing] == absent


def test_a_filtee_of_the_program_comes_first(workshop: Workshop) -> None:
    """The loader opens it and does not list it; loaded for a second one, it stands where that one made it stand."""
    alone = simple({"/lib/liba.so": LIBRARY, "/lib/libb.so": LIBRARY}, *needs("liba.so"), ("FILTER", "libb.so"))
    again = simple(
        {"/lib/liba.so": Elf(needs("libb.so")), "/lib/libb.so": LIBRARY}, *needs("liba.so"), ("FILTER", "libb.so")
    )
    for world, expected in ((alone, ["/lib/libb.so", "/lib/liba.so"]), (again, ["/lib/liba.so", "/lib/libb.so"])):
        with workshop.built(world) as directory:
            assert [library.path for library in resolve(world, directory).libraries] == expected
            assert "/lib/libb.so" in dict(oracle.ask(world, directory).found_by)


def test_what_one_program_learned_of_the_top_is_nothing_to_the_next(workshop: Workshop) -> None:
    """Each program of a run has the answer that it has alone."""
    first = simple({"/liba.so": LIBRARY}, *needs("libx.so", "liba.so", RUNPATH="/"))
    second = Elf(needs("liba.so", "libx.so", RUNPATH="/"), LOADER)
    with workshop.built(first._replace(nodes=(*first.nodes, Node("/bin/second", second)))) as directory:
        loader = Loader(Files(Root(str(directory))))
        found = [
            [library.path for library in loader.resolve(path).libraries] for path in (PROGRAM, "/bin/second", PROGRAM)
        ]
    assert found == [[], ["/liba.so"], []]


@pytest.mark.parametrize("rule", WORLDS)
def test_a_rule_holds_for_the_loader_and_for_us(workshop: Workshop, rule: str) -> None:
    """Each world shows one rule: the loader says what is written here, and we say the same."""
    world, expected = WORLDS[rule]
    differences, theirs = judge(workshop, world)
    assert not theirs.crashed
    said = [path for _, path in theirs.libraries] + [word for name in theirs.missing for word in ("-", name)]
    if theirs.error is not None:
        said = ["!", theirs.error.split(":")[0]]
    assert " ".join(said) == expected
    assert not differences, f"{world}\n\n" + "\n".join(differences)


def test_our_object_files_read_as_those_of_gcc(tmp_path: Path) -> None:
    """The same tags, made by gcc's linker and by us, are the same to our reader."""
    made = tmp_path / "made"
    ours = Elf(
        (
            ("NEEDED", "libx.so"),
            ("SONAME", "libs.so"),
            ("RUNPATH", "$ORIGIN/a:b"),
            ("FILTER", "libf.so"),
            ("AUXILIARY", "libaux.so"),
            NODEFLIB,
        )
    )
    empty = ["gcc", "-nostdlib", "-shared", "-x", "c", "/dev/null", "-x", "none"]
    subprocess.run([*empty, "-Wl,-soname,libx.so", "-o", tmp_path / "libx.so"], check=True)
    options = [
        "-soname,libs.so",
        "--enable-new-dtags",
        "-rpath,$ORIGIN/a:b",
        "-F,libf.so",
        "-f,libaux.so",
        "-z,nodefaultlib",
        "--no-as-needed",
    ]
    subprocess.run([*empty, "-o", made, *(f"-Wl,{option}" for option in options), tmp_path / "libx.so"], check=True)
    (tmp_path / "ours").write_bytes(ours.image())
    read = []
    for path in (made, tmp_path / "ours"):
        with open(path, "rb") as file:
            elf = read_elf(file.fileno())
        read.append(elf._replace(wants=tuple(sorted(elf.wants))))
    assert read[0] == read[1]
