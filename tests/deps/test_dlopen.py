"""`deps` follows dlopen notes: what it names is what dlopen(3) opens, in a root made for it, in a real chroot."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import needs
from tests.deps.test_deps import Ended, jailbuild
from tests.noted import Entry, assembly, entry

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a real chroot is the oracle")

LIBRARIES = "/usr/lib/x86_64-linux-gnu"
LIBC = "/lib/x86_64-linux-gnu/libc.so.6"
# Opens each name it is given and prints where that was found, as the loader has it, or "-".
_OPENS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
void open_all(int count, char **names) {
    for (int i = 0; i < count; i++) {
        void *opened = dlopen(names[i], RTLD_NOW);
        struct link_map *map = 0;
        if (opened) dlinfo(opened, RTLD_DI_LINKMAP, &map);
        puts(map ? map->l_name : "-");
    }
}
"""
_MAIN = "void open_all(int, char **); int main(int c, char **v) { open_all(c - 1, v + 1); return 0; }\n"


class Made:
    """A root with a C library, and gcc to fill it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for path in ("/lib64/ld-linux-x86-64.so.2", LIBC):
            (root / path[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(os.path.realpath(path), root / path[1:])
        (root / LIBRARIES[1:]).mkdir(parents=True)

    def build(self, path: str, source: str, *flags: str, needs: tuple[str, ...] = ()) -> str:
        """Compile C to a path of the root, which it returns."""
        target = self.root / path[1:]
        target.parent.mkdir(parents=True, exist_ok=True)
        libraries = [str(self.root / need[1:]) for need in needs]
        subprocess.run(
            [
                "gcc",
                "-o",
                target,
                "-x",
                "c",
                "-",
                "-x",
                "none",
                "-Wl,--no-as-needed",
                "-Wl,--allow-shlib-undefined",
                *libraries,
                *flags,
            ],
            input=source,
            text=True,
            check=True,
            cwd=self.root,
        )
        return path

    def library(
        self, path: str, *notes: list[Entry], flags: tuple[str, ...] = (), needs: tuple[str, ...] = (), source: str = ""
    ) -> str:
        """Make a library with notes."""
        name = path.rpartition("/")[2]
        return self.build(
            path,
            f"{assembly(*notes)}int in_{abs(hash(path))};\n{source}",
            "-shared",
            "-fPIC",
            f"-Wl,-soname,{name}",
            *flags,
            needs=needs,
        )

    def program(self, *notes: list[Entry], flags: tuple[str, ...] = (), needs: tuple[str, ...] = ()) -> str:
        """Make /usr/bin/prog, which opens what it is told to, with notes."""
        return self.build("/usr/bin/prog", assembly(*notes) + _OPENS + _MAIN, *flags, needs=needs)

    def opened(self, *names: str, env: dict[str, str] | None = None) -> list[str]:
        """Return where the program itself, in a chroot, finds each of the names that it opens."""
        done = subprocess.run(
            ["/usr/sbin/chroot", self.root, "/usr/bin/prog", *names],
            capture_output=True,
            text=True,
            check=True,
            env=env or {},
        )
        return done.stdout.split()

    def deps(self, *options: str | Path) -> Ended:
        return jailbuild("deps", "--json", "--sysroot", self.root, "/usr/bin/prog", *options)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path / "root")


def by_dlopen(record: dict[str, Any]) -> dict[str, str]:
    """Return the paths of the libraries that somebody opens, by name."""
    return {
        one["name"]: one["path"]
        for one in record["libraries"]
        if any(edge["as"] == "dlopen" for edge in one["requests"])
    }


def names(record: dict[str, Any], key: str = "libraries") -> list[str]:
    return [one["name"] for one in record[key]]


def test_what_is_opened_comes_after_all_that_is_needed_with_what_it_needs(made: Made) -> None:
    deep = made.library(f"{LIBRARIES}/libdeep.so")
    made.library(f"{LIBRARIES}/libopened.so", needs=(deep,))
    needed = made.library(f"{LIBRARIES}/libneeded.so")
    made.program([entry("libopened.so")], needs=(needed,))
    ended = made.deps()
    record = ended.objects()[0]
    assert (ended.status, ended.words) == (0, "")
    assert names(record)[:2] == ["libneeded.so", "libc.so.6"]
    assert [one for one in names(record) if not one.startswith("ld-")][2:] == ["libopened.so", "libdeep.so"]
    opened = next(one for one in record["libraries"] if one["name"] == "libopened.so")
    assert opened["requests"] == [{"by": "/usr/bin/prog", "as": "dlopen"}]
    assert opened["found_by"] == "default"
    assert made.opened("libopened.so") == [opened["path"]]


def _by_the_runpath_of_who_opens(made: Made) -> list[str]:
    made.library("/opt/own/libx.so")
    made.library(f"{LIBRARIES}/libx.so")
    made.program([entry("libx.so")], flags=("-Wl,--enable-new-dtags,-rpath,/opt/own",))
    return ["libx.so"]


def _by_origin(made: Made) -> list[str]:
    made.library("/usr/bin/plugins/libx.so")
    made.program([entry("libx.so")], flags=("-Wl,--enable-new-dtags,-rpath,$ORIGIN/plugins",))
    return ["libx.so"]


def _by_an_old_rpath_before_the_defaults(made: Made) -> list[str]:
    made.library("/opt/own/libx.so")
    made.library(f"{LIBRARIES}/libx.so")
    made.program([entry("libx.so")], flags=("-Wl,--disable-new-dtags,-rpath,/opt/own",))
    return ["libx.so"]


def _what_is_loaded_already_by_its_soname(made: Made) -> list[str]:
    there = made.library("/opt/own/libx.so")
    made.library(f"{LIBRARIES}/libx.so")
    made.program([entry("libx.so")], needs=(there,), flags=("-Wl,--enable-new-dtags,-rpath,/opt/own",))
    return ["libx.so"]


def _the_first_alternative_that_is_there(made: Made) -> list[str]:
    made.library(f"{LIBRARIES}/libx.so.1")
    made.library(f"{LIBRARIES}/libx.so.0")
    made.program([entry("libx.so.2", "libx.so.1", "libx.so.0")])
    return ["libx.so.2", "libx.so.1"]


def _an_alternative_that_lacks_something_is_not_there(made: Made) -> list[str]:
    gone = made.library(f"{LIBRARIES}/libgone.so")
    made.library(f"{LIBRARIES}/libhalf.so")
    made.library(f"{LIBRARIES}/libx.so.2", needs=(f"{LIBRARIES}/libhalf.so", gone))
    made.library(f"{LIBRARIES}/libx.so.1")
    (made.root / gone[1:]).unlink()
    made.program([entry("libx.so.2", "libx.so.1")])
    return ["libx.so.2", "libx.so.1"]


def _an_alternative_that_is_no_library_is_not_there(made: Made) -> list[str]:
    (made.root / f"{LIBRARIES[1:]}/libx.so.2").write_text("no ELF file, and long enough to be one" * 9)
    made.library(f"{LIBRARIES}/libx.so.1")
    made.program([entry("libx.so.2", "libx.so.1")])
    return ["libx.so.2", "libx.so.1"]


def _a_path(made: Made) -> list[str]:
    made.library("/opt/plugin.so")
    made.program([entry("/opt/plugin.so")])
    return ["/opt/plugin.so"]


@needs.namespaces
@pytest.mark.parametrize(
    "make",
    [
        _by_the_runpath_of_who_opens,
        _by_origin,
        _by_an_old_rpath_before_the_defaults,
        _what_is_loaded_already_by_its_soname,
        _the_first_alternative_that_is_there,
        _an_alternative_that_lacks_something_is_not_there,
        _an_alternative_that_is_no_library_is_not_there,
        _a_path,
    ],
    ids=lambda make: make.__name__.lstrip("_"),
)
def test_what_dlopen_opens_is_what_deps_names(made: Made, make: Callable[[Made], list[str]]) -> None:
    """The first name that the program itself can open in a chroot, and none besides."""
    asked = make(made)
    (made.root / "proc").mkdir()
    subprocess.run(["mount", "-t", "proc", "proc", made.root / "proc"], check=True)  # for $ORIGIN
    try:
        there = next(path for path in made.opened(*asked) if path != "-")
    finally:
        subprocess.run(["umount", made.root / "proc"], check=True)
    ended = made.deps()
    assert (ended.status, ended.words) == (0, "")
    record = ended.objects()[0]
    assert list(by_dlopen(record).values()) == [there]
    assert record["missing"] == []
    assert not {"libhalf.so", "libgone.so"} & set(names(record))


def test_libraries_notes_are_followed_with_their_own_search_until_nothing_is_new(made: Made) -> None:
    """A needed library opens one by its RUNPATH, which opens another, which opens the first again."""
    made.library("/opt/a/libthree.so", [entry("libtwo.so")])
    made.library("/opt/a/libtwo.so", [entry("libthree.so")], flags=("-Wl,--enable-new-dtags,-rpath,/opt/a",))
    one = made.library(
        f"{LIBRARIES}/libone.so", [entry("libtwo.so")], source=_OPENS, flags=("-Wl,--enable-new-dtags,-rpath,/opt/a",)
    )
    made.build("/usr/bin/prog", _MAIN, needs=(one,))
    record = made.deps().objects()[0]
    assert by_dlopen(record) == {"libtwo.so": "/opt/a/libtwo.so", "libthree.so": "/opt/a/libthree.so"}
    assert made.opened("libtwo.so") == ["/opt/a/libtwo.so"]
    two = next(one for one in record["libraries"] if one["name"] == "libtwo.so")
    assert two["requests"] == [
        {"by": f"{LIBRARIES}/libone.so", "as": "dlopen"},
        {"by": "/opt/a/libthree.so", "as": "dlopen"},
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), ["librequired.so", "librecommended.so", "libunsaid.so"]),
        (("--dlopen", "none"), []),
        (("--dlopen", "required"), ["librequired.so"]),
        (("--dlopen", "recommended"), ["librequired.so", "librecommended.so", "libunsaid.so"]),
        (("--dlopen", "suggested"), ["librequired.so", "librecommended.so", "libunsaid.so", "libsuggested.so"]),
    ],
)
def test_a_level_brings_its_priority_and_those_before_it(
    made: Made, options: tuple[str, ...], expected: list[str]
) -> None:
    """The strongest first; recommended is what a note says that says nothing, and what a user wants who does not."""
    for priority in ("required", "recommended", "suggested", "unsaid"):
        made.library(f"{LIBRARIES}/lib{priority}.so")
    made.program(
        [entry("libsuggested.so", priority="suggested")],
        [
            entry("librecommended.so", priority="recommended"),
            entry("libunsaid.so"),
            entry("librequired.so", priority="required"),
        ],
    )
    assert list(by_dlopen(made.deps(*options).objects()[0])) == expected


def test_what_is_required_and_not_there_is_missing(made: Made) -> None:
    made.program([entry("libx.so.1", "libx.so.0", priority="required")])
    ended = made.deps()
    assert ended.status == 1
    missing = ended.objects()[0]["missing"]
    assert [(one["name"], one["requests"]) for one in missing] == [
        ("libx.so.1", [{"by": "/usr/bin/prog", "as": "dlopen"}])
    ]
    assert missing[0]["searched"][0].startswith("default ")
    shown = jailbuild("deps", "--sysroot", made.root, "/usr/bin/prog")
    assert "dlopen libx.so.1: not found, searched in" in shown.out
    assert made.deps("--dlopen", "none").status == 0


def test_what_a_required_library_lacks_is_missing(made: Made) -> None:
    gone = made.library(f"{LIBRARIES}/libgone.so")
    made.library(f"{LIBRARIES}/libx.so", needs=(gone,))
    (made.root / gone[1:]).unlink()
    made.program([entry("libx.so", priority="required")])
    ended = made.deps()
    assert ended.status == 1
    record = ended.objects()[0]
    assert "libx.so" in names(record)
    assert names(record, "missing") == ["libgone.so"]


def test_what_can_be_done_without_is_told_and_is_no_failure(made: Made) -> None:
    """Whatever that itself requires: a note that is not followed is nobody's loss."""
    made.library(f"{LIBRARIES}/libx.so", [entry("libgone.so", priority="required")])
    made.program([entry("libabsent.so", feature="colour")], [entry("libx.so", priority="suggested")])
    ended = made.deps("--dlopen", "suggested")
    assert ended.status == 0
    assert ended.objects()[0]["missing"] == []
    notes = ended.words.splitlines()
    assert len(notes) == 2
    assert notes[0].startswith(
        "note: /usr/bin/prog would open libabsent.so (recommended, for colour), which is in none of: default /"
    )
    assert "/libx.so would open libgone.so (required" in notes[1]
    assert "libabsent.so" in made.deps().words
    assert made.deps("--dlopen", "required").words == ""


def test_what_is_needed_and_opened_and_not_there_is_missing_and_told_for_each(made: Made) -> None:
    """The note does not count among those that need it, and the need not among those who can do without."""
    gone = made.library(f"{LIBRARIES}/libgone.so")
    made.program([entry("libgone.so")], needs=(gone,))
    (made.root / gone[1:]).unlink()
    ended = made.deps()
    assert ended.status == 1
    assert [one["requests"] for one in ended.objects()[0]["missing"]] == [[{"by": "/usr/bin/prog", "as": "needed"}]]
    assert ended.words.startswith("note: /usr/bin/prog would open libgone.so (recommended, for f), which is in none")


def test_a_note_of_a_thousand_libraries_that_are_not_there_is_soon_answered(made: Made) -> None:
    made.program(*([entry(*(f"lib{number}.{other}.so" for other in range(16)))] for number in range(300)))
    ended = made.deps()
    assert ended.status == 0
    assert len(ended.words.splitlines()) == 256
