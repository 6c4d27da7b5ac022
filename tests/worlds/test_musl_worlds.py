"""Our resolver against musl's own loader, in random worlds and in one small world a rule.

JAILBUILD_WORLDS says how many random worlds there are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.worlds import musl_oracle
from tests.worlds.__main__ import MUSL, minimal
from tests.worlds.compare import resolve
from tests.worlds.musl_compare import judge
from tests.worlds.musl_generate import GLIBC, REAL
from tests.worlds.musl_generate import world as random_world
from tests.worlds.musl_oracle import LIBC, LOADER
from tests.worlds.world import PROGRAM, Copied, Data, Directory, Elf, Hard, Link, Node, Thing, Workshop, World

SEEDS = range(int(os.environ.get("JAILBUILD_WORLDS", "100")))
PATH_FILE = "/etc/ld-musl-x86_64.path"

pytestmark = pytest.mark.skipif(
    not musl_oracle.works(), reason="needs root for chroot and mounts, and musl's loader for x86-64 (Debian: musl)"
)


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    with Workshop() as made:
        yield made


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_world_gives_musls_answer(workshop: Workshop, seed: int) -> None:
    """Libraries, their order and names, what is missing for whom, and what is fatal."""
    made = random_world(seed)
    if judge(workshop, made)[0]:
        small = minimal(workshop, made, 300, MUSL)
        problem = f"{small}\n\n" + "\n".join(judge(workshop, small)[0])
        pytest.fail(f"seed {seed} (python -m tests.worlds --musl --seed {seed}):\n{problem}", pytrace=False)


def needs(*names: str, **tags: str) -> tuple[tuple[str, str | int], ...]:
    return (*(("NEEDED", name) for name in names), *tags.items())


def simple(
    nodes: dict[str, Thing],
    *tags: tuple[str, str | int],
    library_path: str = "",
    preload: tuple[str, ...] = (),
    program: str = PROGRAM,
    interpreter: str = LOADER,
    exec: bool = False,
) -> World:
    """Return a world with the loader, these files, and a program of these tags."""
    first = [Node(REAL, Copied(LIBC)), Node(interpreter, Link(REAL))]
    rest = [Node(path, thing) for path, thing in nodes.items()]
    made = Node(program, Elf(tags, interpreter, exec=exec, lists=True))
    return World((*first, *rest, made), PROGRAM, library_path, preload)


LIBRARY = Elf()
WORLDS: dict[str, tuple[World, str]] = {
    "breadth first": (
        simple(
            {"/lib/liba.so": Elf(needs("libb.so", RPATH="/opt/a")), "/lib/libb.so": LIBRARY, "/opt/a/libb.so": LIBRARY},
            *needs("liba.so", "libb.so"),
        ),
        "/lib/liba.so[default] /lib/libb.so[default]",
    ),
    "LD_LIBRARY_PATH before RPATH": (
        simple(
            {"/opt/a/liba.so": LIBRARY, "/opt/b/liba.so": LIBRARY},
            *needs("liba.so", RPATH="/opt/a"),
            library_path="/opt/b",
        ),
        "/opt/b/liba.so[ld_library_path]",
    ),
    "a semicolon separates nothing": (
        simple({"/opt/b/liba.so": LIBRARY}, *needs("liba.so"), library_path="/srv;/opt/b"),
        "- liba.so",
    ),
    "a newline separates": (
        simple({"/opt/b/liba.so": LIBRARY}, *needs("liba.so", RPATH="/srv\n/opt/b")),
        "/opt/b/liba.so[rpath]",
    ),
    "an empty element is nothing": (simple({"/liba.so": LIBRARY}, *needs("liba.so", RPATH="::")), "- liba.so"),
    "RUNPATH is inherited": (
        simple(
            {"/opt/a/liba.so": Elf(needs("libb.so")), "/opt/a/libb.so": LIBRARY}, *needs("liba.so", RUNPATH="/opt/a")
        ),
        "/opt/a/liba.so[runpath] /opt/a/libb.so[runpath]",
    ),
    "an object's own list goes before its ancestor's": (
        simple(
            {
                "/opt/a/liba.so": Elf(needs("libb.so", RUNPATH="/opt/b")),
                "/opt/a/libb.so": LIBRARY,
                "/opt/b/libb.so": LIBRARY,
            },
            *needs("liba.so", RPATH="/opt/a"),
        ),
        "/opt/a/liba.so[rpath] /opt/b/libb.so[runpath]",
    ),
    "RUNPATH overrides RPATH": (
        simple({"/opt/a/liba.so": LIBRARY}, *needs("liba.so", RPATH="/opt/a", RUNPATH="/opt/b")),
        "- liba.so",
    ),
    "who asked first is the ancestor": (
        simple(
            {
                "/lib/liba.so": Elf(needs("libx.so", RPATH="/opt/a")),
                "/lib/libb.so": Elf(needs("libx.so")),
                "/lib/libx.so": Elf(needs("libd.so")),
                "/opt/a/libd.so": LIBRARY,
            },
            *needs("libb.so", "liba.so"),
        ),
        "/lib/libb.so[default] /lib/liba.so[default] /lib/libx.so[default] - libd.so",
    ),
    "what was not found for one is found for another": (
        simple(
            {"/opt/a/libb.so": LIBRARY, "/lib/liba.so": Elf(needs("libb.so", RUNPATH="/opt/a"))},
            *needs("libb.so", "liba.so"),
        ),
        "/lib/liba.so[default] /opt/a/libb.so[runpath] - libb.so",
    ),
    "the default directories": (
        simple(
            {"/usr/lib/liba.so": LIBRARY, "/usr/local/lib/liba.so": LIBRARY, "/lib64/libb.so": LIBRARY},
            *needs("liba.so", "libb.so"),
        ),
        "/usr/local/lib/liba.so[default] - libb.so",
    ),
    "the list of directories takes their place": (
        simple(
            {
                PATH_FILE: Data(b"/opt/a\n\n/opt/b:"),
                "/opt/b/liba.so": LIBRARY,
                "/lib/liba.so": LIBRARY,
                "/lib/libb.so": LIBRARY,
            },
            *needs("liba.so", "libb.so"),
        ),
        "/opt/b/liba.so[default] - libb.so",
    ),
    "an empty list leaves none": (
        simple({PATH_FILE: Data(), "/lib/liba.so": LIBRARY}, *needs("liba.so")),
        "- liba.so",
    ),
    "a list that cannot be read leaves none": (
        simple({PATH_FILE: Directory(), "/lib/liba.so": LIBRARY}, *needs("liba.so")),
        "- liba.so",
    ),
    "a list that leads nowhere is none": (
        simple({PATH_FILE: Link("nowhere"), "/lib/liba.so": LIBRARY}, *needs("liba.so")),
        "/lib/liba.so[default]",
    ),
    "the list stands below the loader's prefix": (
        simple(
            {PATH_FILE: Data(b"/srv"), f"/opt/musl{PATH_FILE}": Data(b"/opt/a"), "/opt/a/liba.so": LIBRARY},
            *needs("liba.so"),
            interpreter="/opt/musl/lib/ld.so",
        ),
        "/opt/a/liba.so[default]",
    ),
    "an interpreter of glibc's name may be musl's": (
        simple(
            {"/opt/a/liba.so": Elf(needs("libc.so")), "/etc/ld.so.preload": Data(b"liba.so")},
            *needs("liba.so", RPATH="/opt/a"),
            interpreter="/lib64/ld-linux-x86-64.so.2",
        ),
        "/opt/a/liba.so[rpath] /lib64/ld-linux-x86-64.so.2[interpreter]",
    ),
    "libc, its family and glibc's are the loader itself": (
        simple(
            {"/lib/libm.so.6": LIBRARY, "/lib/libc.so.6": LIBRARY},
            *needs("libc.so.6", "libm.so.6", "libc.musl-x86_64.so.1", "libpthread.so.0"),
        ),
        f"{LOADER}[interpreter]",
    ),
    "another libc is the loader itself, whatever it is called": (
        simple({"/lib/liba.so": Copied(GLIBC), "/lib/libb.so": Copied(LIBC)}, *needs("liba.so", "libb.so")),
        f"{LOADER}[interpreter]",
    ),
    "the loader's SONAME is a name like others": (simple({}, *needs("ld.so")), "- ld.so"),
    "a SONAME is no name": (
        simple({"/lib/liba.so": Elf((("SONAME", "libb.so"),)), "/lib/libb.so": LIBRARY}, *needs("liba.so", "libb.so")),
        "/lib/liba.so[default] /lib/libb.so[default]",
    ),
    "one file under two names": (
        simple({"/lib/liba.so": LIBRARY, "/lib/libb.so": Hard("/lib/liba.so")}, *needs("liba.so", "libb.so")),
        "/lib/liba.so[default]",
    ),
    "what was loaded by its path has no name": (
        simple({"/opt/a/liba.so": LIBRARY, "/lib/liba.so": LIBRARY}, *needs("/opt/a/liba.so", "liba.so")),
        "/opt/a/liba.so[path] /lib/liba.so[default]",
    ),
    "until a search meets it": (
        simple(
            {"/opt/a/liba.so": LIBRARY, "/lib/libb.so": Link("/opt/a/liba.so"), "/lib/liba.so": LIBRARY},
            *needs("/opt/a/liba.so", "libb.so", "liba.so"),
        ),
        "/opt/a/liba.so[path]",
    ),
    "$ORIGIN of the program is where it really is": (
        simple(
            {PROGRAM: Link("/opt/a/prog"), "/opt/a/liba.so": LIBRARY},
            *needs("liba.so", RPATH="$ORIGIN"),
            program="/opt/a/prog",
        ),
        "/opt/a/liba.so[rpath]",
    ),
    "$ORIGIN of a library is where it was found": (
        simple(
            {
                "/opt/a/liba.so": Elf(needs("libb.so", RPATH="${ORIGIN}")),
                "/lib/liba.so": Link("/opt/a/liba.so"),
                "/opt/a/libb.so": LIBRARY,
            },
            *needs("liba.so"),
        ),
        "/lib/liba.so[default] - libb.so",
    ),
    "$ORIGIN may go on": (
        simple({"/binAL/liba.so": LIBRARY}, *needs("liba.so", RPATH="$ORIGINAL")),
        "/binAL/liba.so[rpath]",
    ),
    "another $ makes the list void": (
        simple({"/opt/a/liba.so": LIBRARY}, *needs("liba.so", RPATH="/opt/a:$LIB")),
        "- liba.so",
    ),
    "tokens are for RPATH and RUNPATH alone": (
        simple(
            {"/bin/liba.so": LIBRARY, "/opt/$ORIGIN/libb.so": LIBRARY},
            *needs("$ORIGIN/liba.so", "libb.so"),
            library_path="/opt/$ORIGIN",
        ),
        "/opt/$ORIGIN/libb.so[ld_library_path] - $ORIGIN/liba.so",
    ),
    "a preload is found without the program's RPATH": (
        simple(
            {"/opt/a/liba.so": LIBRARY, "/lib/libb.so": Elf(needs("liba.so"))},
            ("RPATH", "/opt/a"),
            preload=("liba.so", "libb.so"),
        ),
        "/lib/libb.so[default] - liba.so",
    ),
    "filters and audit libraries are none": (
        simple({"/lib/liba.so": LIBRARY}, ("FILTER", "liba.so"), ("AUXILIARY", "liba.so"), ("AUDIT", "liba.so")),
        "",
    ),
    "a wrong file ends the search for it, and the others are loaded": (
        simple(
            {"/opt/a/liba.so": Data(b"no library" * 20), "/lib/liba.so": LIBRARY, "/lib/libb.so": LIBRARY},
            *needs("liba.so", "libb.so", RPATH="/opt/a"),
        ),
        "/lib/libb.so[default] !/opt/a/liba.so",
    ),
    "a loop of links ends the search": (
        simple({"/opt/a/liba.so": Link("liba.so"), "/lib/liba.so": LIBRARY}, *needs("liba.so", RPATH="/opt/a")),
        "!/opt/a/liba.so",
    ),
    "a dangling link does not": (
        simple({"/opt/a/liba.so": Link("nowhere"), "/lib/liba.so": LIBRARY}, *needs("liba.so", RPATH="/opt/a")),
        "/lib/liba.so[default]",
    ),
    "a library of another system's ABI is one": (
        simple({"/lib/liba.so": Elf(flaw="OS ABI FreeBSD")}, *needs("liba.so")),
        "/lib/liba.so[default]",
    ),
    "a PIE is a library too": (
        simple({"/lib/liba.so": Elf((("FLAGS_1", 0x08000000),), LOADER)}, *needs("liba.so")),
        "/lib/liba.so[default]",
    ),
    "a path that is too long is passed over": (
        simple({"/opt/a/liba.so": LIBRARY}, *needs("liba.so", RPATH="/" + "./" * 251 + "opt/a")),
        "- liba.so",
    ),
}


def _said(workshop: Workshop, world: World) -> str:
    """Return our answer in a few words: what is loaded [and how it is found], - what is missing, ! what is wrong."""
    with workshop.built(world) as directory:
        ours = resolve(world, directory)
    words = [f"{library.path}[{library.found_by}]" for library in ours.libraries]
    absent = [one.name for one in ours.missing]
    words += ["-", *absent] if absent else []
    words += [f"!{ours.error.subject}"] if ours.error is not None else []
    return " ".join(words)


@pytest.mark.parametrize("rule", WORLDS)
def test_a_rule_of_musl(workshop: Workshop, rule: str) -> None:
    """What we say is what is expected, and what the loader says."""
    world, expected = WORLDS[rule]
    differences, theirs = judge(workshop, world)
    assert theirs.crashed == ""
    assert differences == []
    assert expected == _said(workshop, world)


def test_a_library_of_another_machine_is_refused(workshop: Workshop) -> None:
    """It maps it, and fails over its relocations; these have none, so that it is not asked."""
    world = simple({"/lib/liba.so": Elf(flaw="for aarch64")}, *needs("liba.so"))
    assert _said(workshop, world) == "!/lib/liba.so"


def test_what_is_missing_says_where_it_was_looked_for(workshop: Workshop) -> None:
    """In the order of the search, with the lists of all ancestors."""
    world = simple(
        {"/lib/liba.so": Elf(needs("libb.so", RUNPATH="/opt/a:$ORIGIN"))},
        *needs("liba.so", RPATH="/opt/b"),
        library_path="/srv",
    )
    with workshop.built(world) as directory:
        (missing,) = resolve(world, directory).missing
    assert missing.searched == (
        "ld_library_path /srv",
        "runpath /opt/a",
        "runpath /lib",
        "rpath /opt/b",
        "default /lib",
        "default /usr/local/lib",
        "default /usr/lib",
    )


def test_the_same_directory_serves_both_libcs(workshop: Workshop) -> None:
    """A library of the one is taken by a program of the other: that is what musl's loader does, and so do we."""
    nodes: dict[str, Thing] = {"/lib/libx.so": Elf(needs("libc.so.6", "libm.so.6")), "/lib/libc.so.6": Copied(GLIBC)}
    world = simple(nodes, *needs("libx.so", "libc.so"))
    assert judge(workshop, world)[0] == []
    assert _said(workshop, world) == f"/lib/libx.so[default] {LOADER}[interpreter]"
