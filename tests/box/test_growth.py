"""Nothing takes longer than twice as long for twice as much: counted, never timed."""

from __future__ import annotations

import builtins
import os
import shlex
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jailbuild.box import draft
from jailbuild.check import tree
from jailbuild.closure import trees
from jailbuild.closure.programs import Part, Program
from jailbuild.elf.reader import Elf
from jailbuild.loader.files import File
from jailbuild.loader.model import Edge, Library, Resolution
from jailbuild.root import open_beneath
from tests.box import tiny
from tests.box.running import forked, objects
from tests.growth import Command, assert_linear, call


def _chain(top: Path, depth: int, *, with_files: bool) -> None:
    """Make a directory in the other; in each a script and a link to it, where wanted."""
    here = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
        if with_files:
            with os.fdopen(os.open("s", os.O_WRONLY | os.O_CREAT, 0o755, dir_fd=here), "w") as file:
                file.write("#!/usr/bin/env ls\n")
            os.symlink("s", "l", dir_fd=here)
    os.close(here)


def _through_all(data: Path, box: Path, root: Path) -> Iterator[Command]:
    """Yield every command that a directory of data may go through."""
    put = ("--dir", f"{data}:/srv", "--no-sync", "--sysroot", root)
    yield ("add", "--into", box, *put)
    yield ("add", "--into", box, *put)
    yield ("add", "ls", "--into", box, "--no-sync", "--sysroot", root)
    yield ("check", box)
    yield ("check", "--stale", "--sysroot", root, box)
    yield ("list", box)
    (data / "more").write_text("")
    yield ("update", box, *put)
    yield ("remove", "/srv", "--from", box, "--no-sync")


def test_chains_of_directories(made: Path, tmp_path: Path) -> None:
    """A path is not followed from the top again for each directory of it."""

    def make(count: int, place: Path) -> Iterator[Command]:
        data = place / "data"
        data.mkdir()
        _chain(data, count, with_files=False)
        yield from _through_all(data, place / "box", made)

    assert_linear(tmp_path, make, start=20)


def test_scripts_and_links_in_chains_of_directories(made: Path, tmp_path: Path) -> None:
    """Nor is what lies in such directories."""

    def make(count: int, place: Path) -> Iterator[Command]:
        data = place / "data"
        data.mkdir()
        _chain(data, count, with_files=True)
        yield ("check", data)
        yield from _through_all(data, place / "box", made)

    assert_linear(tmp_path, make, start=15)


def test_check_opens_each_directory_of_a_chain_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And those that are kept open for what is far below."""
    opened = 0

    def counted(*arguments: Any) -> int:
        nonlocal opened
        opened += 1
        return open_beneath(*arguments)

    monkeypatch.setattr(tree, "open_beneath", counted)
    _chain(tmp_path, 300, with_files=False)
    call("check", tmp_path)
    assert opened <= 301 + 300 // tree._AT_ONCE


def test_pairs_of_hard_links(made: Path, tmp_path: Path) -> None:
    """What stays of a family is found without a look at all that stays."""

    def make(count: int, place: Path) -> Iterator[Command]:
        data = place / "data"
        data.mkdir()
        for number in range(count):
            (data / f"{number}").write_text("")
            os.link(data / f"{number}", data / f"{number}-again")
        yield from _through_all(data, place / "box", made)

    assert_linear(tmp_path, make)


def test_one_file_of_many_names(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first name of a family is looked for once, and also where the family grows."""
    asked = 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal asked
        asked += 1
        return min(*arguments, **options)

    monkeypatch.setattr(draft, "min", counted, raising=False)

    def make(count: int, place: Path) -> Iterator[Command]:
        nonlocal asked
        data = place / "data"
        data.mkdir()
        (data / "first").write_text("")
        for number in range(count):
            os.link(data / "first", data / f"{number}")
        yield from _through_all(data, place / "box", made)
        data.mkdir(exist_ok=True)
        call("add", "--dir", f"{data}:/srv", "--into", place / "other", "--no-sync", "--sysroot", made)
        for number in range(count):
            os.link(data / "first", data / f"{number}-later")
        asked = 0
        yield ("update", place / "other", "--dir", f"{data}:/srv", "--no-sync", "--sysroot", made)
        assert asked <= 2

    assert_linear(tmp_path, make)


def test_links_to_secrets(made: Path, tmp_path: Path) -> None:
    """Each link of a chain that ends in a secret is looked at once."""

    def make(count: int, place: Path) -> Iterator[Command]:
        (place / "data").mkdir()
        (place / "data/.netrc").write_text("")
        for number in range(count):
            (place / f"data/{number}").symlink_to(f"{number - 1}" if number else ".netrc")
        yield ("add", "--dir", f"{place}/data:/srv", "--into", place / "box", "--no-sync", "--sysroot", made)

    assert_linear(tmp_path, make)


def test_secrets_that_are_allowed_one_by_one(made: Path, tmp_path: Path) -> None:
    """A secret is looked up among those that are allowed."""

    def make(count: int, place: Path) -> Iterator[Command]:
        for number in range(count):
            (place / f"data/{number}").mkdir(parents=True)
            (place / f"data/{number}/.netrc").write_text("")
        allowed = [word for number in range(count) for word in ("--allow-secrets", f"/srv/{number}/.netrc")]
        yield ("add", "--dir", f"{place}/data:/srv", "--into", place / "box", "--no-sync", "--sysroot", made, *allowed)

    assert_linear(tmp_path, make, within="closure/trees.py")


class _Compared(str):
    """A text that counts how often it is compared."""

    times = 0
    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        _Compared.times += 1
        return str.__eq__(self, other)


def test_warnings_beside_notes() -> None:
    """No note is held against every warning."""
    warnings = [_Compared(f"warning: {number}") for number in range(50)]
    notes = [_Compared(f"{number}") for number in range(50)]
    _Compared.times = 0
    assert trees._few_notes([*notes, *warnings])[:50] == warnings
    assert _Compared.times <= 50


def test_links_that_lead_to_many_directories(made: Path, tmp_path: Path) -> None:
    """Whether what a link leads to comes anyway is not asked of each directory that comes."""

    def make(count: int, place: Path) -> Iterator[Command]:
        root = tiny.clone(made, place / "root")
        (root / "srv/data").mkdir(parents=True)
        for number in range(count):
            (root / f"opt/{number}").mkdir(parents=True)
            (root / f"srv/data/{number}").symlink_to(f"/opt/{number}")
        yield ("add", "--dir", "/srv/data", "--into", place / "box", "--no-sync", "--sysroot", root)

    assert_linear(tmp_path, make, within="closure/following.py")


def _recipes(place: Path, root: Path, count: int) -> tuple[str | Path, ...]:
    """Write recipes with a tree each, for commands that are nowhere; return the options that ask for them."""
    (place / "recipes").mkdir()
    for number in range(count):
        (root / f"opt/{number}").mkdir(parents=True)
        (root / f"opt/{number}/file").write_text("")
        (place / f"recipes/own{number}.toml").write_text(
            f'title = "{number}"\n[find]\nx{number} = ["/opt/{number}/x"]\n[bring]\n'
            f'programs-if-there = ["absent{number}"]\nfiles = ["/opt/{number}/*"]\n'
            f'[[bring.tree]]\npath = "/opt/{number}"\n'
        )
    return tuple(word for number in range(count) for word in ("--with", f"own{number}"))


def test_the_mounts_of_the_host_are_read_once(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many trees and files recipes bring, and beside what is laid over the source root."""
    root = tiny.clone(made, tmp_path / "root")
    asked = _recipes(tmp_path, root, 5)
    (tmp_path / "file").write_text("")
    read = 0
    opened = open

    def counted(file: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal read
        read += file == "/proc/self/mountinfo"
        return opened(file, *arguments, **options)

    monkeypatch.setattr(builtins, "open", counted)
    call(
        "add",
        *asked,
        "--file",
        f"{tmp_path}/file:/srv/file",
        "--recipes",
        tmp_path / "recipes",
        "--sysroot",
        root,
        "--into",
        tmp_path / "box",
        "--no-sync",
    )
    assert (tmp_path / "box/opt/4/file").exists()
    assert read == 1


def test_recipes_that_say_where_commands_are(made: Path, tmp_path: Path) -> None:
    """A command that is on no PATH is not looked for in each recipe."""

    def make(count: int, place: Path) -> Iterator[Command]:
        root = tiny.clone(made, place / "root")
        asked = _recipes(place, root, count)
        yield ("add", *asked, "--recipes", place / "recipes", "--sysroot", root, "--into", place / "box", "--no-sync")
        yield ("update", place / "box", "--recipes", place / "recipes", "--sysroot", root, "--no-sync")

    assert_linear(tmp_path, make, within="closure/shelf.py")


def test_programs_beside_recipes_for_others(made: Path, tmp_path: Path) -> None:
    """Whether a recipe is for a program is not asked of each recipe."""

    def make(count: int, place: Path) -> Iterator[Command]:
        root = tiny.clone(made, place / "root")
        (place / "recipes").mkdir()
        for number in range(count):
            shutil.copy(root / "usr/bin/ls", root / f"usr/bin/ls{number}")
            (place / f"recipes/own{number}.toml").write_text(
                f'title = "{number}"\n[when]\nprogram = ["x{number}*"]\nsoname = ["y{number}*"]\n'
                f'symbol = ["z{number}"]\n[bring]\nfiles-if-there = ["/absent"]\n'
            )
        names = [f"ls{number}" for number in range(count)]
        yield ("add", *names, "--recipes", place / "recipes", "--sysroot", root, "--into", place / "box", "--no-sync")

    assert_linear(tmp_path, make, within="closure/knowing.py")


def test_users(made: Path, tmp_path: Path) -> None:
    """The users and groups of a root are read once, and not gone through for each user."""

    def make(count: int, place: Path) -> Iterator[Command]:
        root = tiny.clone(made, place / "root")
        (root / "etc/passwd").write_text(
            "".join(f"u{number}:x:{1000 + number}:{1000 + number}::/:/bin/sh\n" for number in range(count))
        )
        (root / "etc/group").write_text("".join(f"u{number}:x:{1000 + number}:\n" for number in range(count)))
        users = [word for number in range(count) for word in ("--user", f"u{number}")]
        yield ("add", *users, "--into", place / "box", "--no-sync", "--sysroot", root)
        yield ("add", "ls", "--into", place / "box", "--no-sync", "--sysroot", root)
        yield ("update", place / "box", "--no-sync", "--sysroot", root)

    assert_linear(tmp_path, make)


def test_locales_of_an_archive(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The archive is opened to find them once, and once to be copied."""
    root = tiny.clone(made, tmp_path / "root")
    (root / "usr/lib/locale").mkdir()
    names = b"".join(b"xx_%d.utf8\0" % number for number in range(40))
    head = struct.pack("=8I", 0xDE020109, 0, 0, 0, 0, 32, len(names), len(names))
    (root / "usr/lib/locale/locale-archive").write_bytes(head + names)
    asked = [word for number in range(40) for word in ("--locale", f"xx_{number}.UTF-8")]
    call("add", *asked, "--into", tmp_path / "box", "--no-sync", "--sysroot", root)
    assert (tmp_path / "box/usr/lib/locale/locale-archive").exists()
    read = 0
    pread = os.pread

    def counted(opened: int, size: int, place: int) -> bytes:
        nonlocal read
        read += size == len(names)
        return pread(opened, size, place)

    monkeypatch.setattr(os, "pread", counted)
    call("update", tmp_path / "box", "--no-sync", "--sysroot", root)
    assert read == 1


def _packages(root: Path, files: dict[str, list[str]]) -> None:
    database = root / "var/lib/dpkg"
    (database / "info").mkdir(parents=True)
    for name, paths in files.items():
        (database / f"info/{name}.list").write_text("".join(f"{path}\n" for path in paths))
    (database / "status").write_text(
        "".join(f"Package: {name}\nStatus: install ok installed\nArchitecture: all\n\n" for name in files)
    )


def test_packages(made: Path, tmp_path: Path) -> None:
    """The database of dpkg is read once, not for each package."""

    def make(count: int, place: Path) -> Iterator[Command]:
        root = tiny.clone(made, place / "root")
        (root / "opt").mkdir()
        for number in range(count):
            (root / f"opt/{number}").write_text("")
        _packages(root, {f"own{number}": [f"/opt/{number}"] for number in range(count)})
        asked = [word for number in range(count) for word in ("--package", f"own{number}")]
        yield ("add", *asked, "--into", place / "box", "--no-sync", "--sysroot", root)
        yield ("update", place / "box", "--no-sync", "--sysroot", root)
        yield ("remove", *(f"own{number}" for number in range(count)), "--from", place / "box", "--no-sync")

    assert_linear(tmp_path, make)


def test_links_of_a_package(made: Path, tmp_path: Path) -> None:
    """Whether a directory that a link leads to stays empty is not asked of each file."""

    def make(count: int, place: Path) -> Iterator[Command]:
        root = tiny.clone(made, place / "root")
        (root / "opt/links").mkdir(parents=True)
        for number in range(count):
            (root / f"opt/{number}").mkdir()
            (root / f"opt/links/{number}").symlink_to(f"/opt/{number}")
        _packages(root, {"own": [f"/opt/links/{number}" for number in range(count)]})
        yield ("add", "--package", "own", "--into", place / "box", "--no-sync", "--sysroot", root)

    assert_linear(tmp_path, make, within="closure/packages.py")


def test_words_of_remove(made: Path, tmp_path: Path) -> None:
    """What a word means is looked up, not asked of each request."""

    def make(count: int, place: Path) -> Iterator[Command]:
        files = []
        for number in range(count):
            (place / f"{number}").write_text("")
            files.append(f"{place}/{number}:/srv/{number}")
        asked = [word for file in files for word in ("--file", file)]
        call("add", *asked, "--into", place / "box", "--no-sync", "--sysroot", made)
        assert (place / f"box/srv/{count - 1}").exists()
        yield ("remove", *files, "--from", place / "box", "--no-sync")
        assert not (place / "box/srv/0").exists()

    assert_linear(tmp_path, make, within="box/remove.py")


def test_programs_that_open_libraries(made: Path, tmp_path: Path) -> None:
    """Whether a recipe is for a program is not asked of each edge of the manifest."""
    library = tiny.compile_c(
        "void *dlopen(const char *name, int how) { return 0; }",
        tmp_path / "libdl.so.2",
        "-shared",
        "-fPIC",
        "-Wl,-soname,libdl.so.2",
    )
    program = tiny.compile_c(
        "void *dlopen(const char *, int); void _start(void) { dlopen(0, 0); }",
        tmp_path / "opens",
        "-pie",
        "-fPIE",
        f"-Wl,--dynamic-linker={tiny.LOADER}",
        str(library),
    )

    def make(count: int, place: Path) -> Iterator[Command]:
        root = tiny.clone(made, place / "root")
        shutil.copy(library, root / tiny.LIBRARIES)
        names = [f"opens{number}" for number in range(count)]
        for name in names:
            shutil.copy(program, root / "usr/bin" / name)
        call("add", *names, "--into", place / "box", "--no-sync", "--sysroot", root)
        yield ("check", place / "box")

    assert_linear(tmp_path, make)


def test_chains_of_many_requests(made: Path, tmp_path: Path) -> None:
    """The manifest is not gone through again for each request that wants a path."""

    def make(count: int, place: Path) -> Iterator[Command]:
        root = tiny.clone(made, place / "root")
        names = [f"ls{number}" for number in range(count)]
        for name in names:
            shutil.copy(root / "usr/bin/ls", root / "usr/bin" / name)
        call("add", *names, "--into", place / "box", "--no-sync", "--sysroot", root)
        yield ("why", "-v", place / "box", f"/{tiny.LIBRARIES}/libselinux.so.1")

    assert_linear(tmp_path, make)


def test_findings_that_are_ignored_one_by_one(tmp_path: Path) -> None:
    """A finding is looked up among those that are ignored."""

    def make(count: int, place: Path) -> Iterator[Command]:
        (place / "root").mkdir()
        for number in range(count):
            (place / f"root/{number}").symlink_to("nowhere")
        ignored = [word for number in range(count) for word in ("--ignore", f"dangling-link:/{number}")]
        yield ("check", place / "root", *ignored)

    assert_linear(tmp_path, make, within="check/findings.py")


def test_symbols_that_nothing_has(made: Path, tmp_path: Path) -> None:
    """A symbol is not looked for in each library that a program loads."""
    library = tiny.compile_c(
        "__attribute__((weak)) int absent(void); int here(void) { return absent ? 1 : 2; }",
        tmp_path / "library",
        "-shared",
        "-fPIC",
    )

    def make(count: int, place: Path) -> Iterator[Command]:
        root = tiny.clone(made, place / "root")
        libraries = [root / tiny.LIBRARIES / f"libown{number}.so" for number in range(count)]
        for one in libraries:
            shutil.copy(library, one)
        tiny.compile_c(
            "int here(void); void _start(void) { here(); }",
            root / "usr/bin/own",
            "-pie",
            "-fPIE",
            f"-Wl,--dynamic-linker={tiny.LOADER}",
            "-Wl,--no-as-needed",
            f"-L{root / tiny.LIBRARIES}",
            *(f"-l:{one.name}" for one in libraries),
        )
        yield ("check", "--symbols", root)

    assert_linear(tmp_path, make, within="loader/lookup.py")


def test_binds(made: Path, tmp_path: Path) -> None:
    """Which mount lies in which other one is not asked of each pair."""

    def make(count: int, place: Path) -> Iterator[Command]:
        root = tiny.clone(made, place / "root")
        for number in range(count):
            (root / f"opt/{number}").mkdir(parents=True)
        binds = [word for number in range(count) for word in ("--bind", f"{place}:/opt/{number}")]
        yield ("enter", "--explain", *binds, root, "/bin/ls")

    assert_linear(tmp_path, make)


class _ComparedEdge(Edge):
    """An edge that counts how often it is compared."""

    times = 0
    __slots__ = ()
    __hash__ = Edge.__hash__

    def __eq__(self, other: object) -> bool:
        _ComparedEdge.times += 1
        return tuple.__eq__(self, other)


def test_a_library_that_all_want_in_both_parts_of_a_program() -> None:
    """Who asks for it is told without a comparison of each with each."""

    def part(name: str) -> Part:
        edges: list[Edge] = [_ComparedEdge(f"/lib/{name}{number}", "needed") for number in range(50)]
        library = Library("libc.so", "/lib/libc.so", "default", File(1, 1, Elf()), edges[0])
        library.requests[:] = edges
        return Part(name, Resolution(None, (library,)))

    _ComparedEdge.times = 0
    program = Program("/script", "script", (), (part("one"), part("two")))
    assert len(program.libraries[0].requests) == 100
    assert _ComparedEdge.times <= 100


def test_a_hint_of_check_names_few_of_many_requests(sysroot: Path, box: Path) -> None:
    """Or findings times requests would be told; each request brings all that it needs again."""
    names = [f"tool{number}" for number in range(40)]
    for name in names:
        shutil.copy(sysroot / "usr/bin/bash", sysroot / "usr/bin" / name)
    assert not forked("add", *names, "--bare", "--into", box, "--sysroot", sysroot, "--no-sync").returncode
    (box / tiny.LIBRARIES / "libtinfo.so.6.4").unlink()
    found = [one for one in objects(forked("check", box, "--json")) if one.get("code") == "missing-file"]
    assert [len(one["hint"].split()) for one in found] == [len(["jailbuild", "add", "--into", "BOX"]) + 8]
    assert len(found[0]["requested_by"]) == 40
    command = shlex.split(found[0]["hint"])[1:]
    assert not forked(*command, "--sysroot", sysroot, "--no-sync").returncode
    assert not forked("check", box).returncode
