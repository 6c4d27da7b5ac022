"""`jailbuild deps`: the contract of DESIGN on roots made with gcc, the tree, and its errors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest

JAILBUILD = (sys.executable, "-m", "jailbuild")
TOP = str(Path(__file__).parents[2])
LOADER = "/lib64/ld-linux-x86-64.so.2"
DEFAULTS = ["default /lib/x86_64-linux-gnu", "default /usr/lib/x86_64-linux-gnu", "default /lib", "default /usr/lib"]
NOBODY = 65534

Record = dict[str, Any]


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    words: str

    def objects(self) -> list[Record]:
        """Return the objects of JSON Lines."""
        return [json.loads(line) for line in self.out.splitlines()]


def jailbuild(*arguments: str | Path, directory: Path | str = "/", environment: dict[str, str] | None = None) -> Ended:
    done = subprocess.run(
        [*JAILBUILD, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=directory,
        env=os.environ | {"PYTHONPATH": TOP} | (environment or {}),
    )
    assert "Traceback" not in done.stderr
    return Ended(done.returncode, done.stdout, done.stderr)


class Workshop:
    """A root directory, and gcc to fill it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "lib64").mkdir(parents=True)
        shutil.copy(os.path.realpath(LOADER), root / LOADER[1:])

    def put(self, path: str, content: str, mode: int = 0o755) -> str:
        """Write a file and return its path in the root."""
        file = self.root / path[1:]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        file.chmod(mode)
        return path

    def gcc(self, path: str, *options: str, needs: tuple[str, ...] = (), runpath: str = "", rpath: str = "") -> str:
        """Link something that needs other files of the root (paths), and return its path in the root."""
        file = self.root / path[1:]
        file.parent.mkdir(parents=True, exist_ok=True)
        if runpath or rpath:
            kind = "enable" if runpath else "disable"
            options += (f"-Wl,--{kind}-new-dtags", f"-Wl,-rpath,{runpath or rpath}")
        code = "void _start(void) { for (;;) ; }" if "-shared" not in options else "int x;"
        subprocess.run(
            [
                "gcc",
                "-nostdlib",
                "-fPIC",
                "-x",
                "c",
                "-",
                "-x",
                "none",
                "-o",
                file,
                *options,
                "-Wl,--no-as-needed",
                "-Wl,--allow-shlib-undefined",
                "-Wl,-rpath-link,/nowhere",
                *(str(self.root / need[1:]) for need in needs),
            ],
            input=code,
            text=True,
            check=True,
            stderr=subprocess.DEVNULL,
        )
        return path

    def library(self, path: str, *options: str, needs: tuple[str, ...] = (), runpath: str = "", rpath: str = "") -> str:
        """Link a library whose SONAME is its base name."""
        soname = f"-Wl,-soname,{os.path.basename(path)}"
        return self.gcc(path, "-shared", soname, *options, needs=needs, runpath=runpath, rpath=rpath)

    def remove(self, path: str) -> None:
        (self.root / path[1:]).unlink()

    def ldconfig(self, *directories: str) -> None:
        """Make the root's ld.so.cache, with directories beside the default ones."""
        self.put("/etc/ld.so.conf", "".join(f"{directory}\n" for directory in directories))
        subprocess.run(["/sbin/ldconfig", "-X", "-r", str(self.root)], check=True, capture_output=True)

    def deps(self, *arguments: str) -> Ended:
        return jailbuild("deps", "--sysroot", self.root, *arguments)

    def one(self, *arguments: str, status: int = 0) -> Record:
        """Return the one object of `deps --json`, which must end with `status`."""
        ended = self.deps("--json", *arguments)
        assert (ended.status, ended.words) == (status, "")
        (found,) = ended.objects()
        return found


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path / "root")


def needed(by: str) -> Record:
    return {"by": by, "as": "needed"}


def library(name: str, path: str, found_by: str, *by: str) -> Record:
    return {"name": name, "path": path, "found_by": found_by, "requests": [needed(one) for one in by]}


# the contract


def test_every_way_to_be_found_has_its_name(shop: Workshop) -> None:
    """`path` is what the loader would open, links not resolved; every edge is listed; in load order."""
    loader = LOADER
    slash = shop.gcc("/opt/slash/libslash.so", "-shared", "-Wl,-soname,/opt/slash/libslash.so")
    by_runpath = shop.library("/opt/run/librun.so")
    by_rpath = shop.library("/opt/r/librpath.so", needs=(loader,))
    by_cache = shop.library("/opt/cached/libcached.so", needs=(by_runpath,))
    by_default = shop.library("/usr/lib/libdefault.so")
    inner = shop.library("/opt/inner/libinner.so", needs=(by_rpath,), rpath="/opt/r")
    program = shop.gcc(
        "/usr/bin/prog",
        needs=(slash, by_runpath, by_cache, by_default, inner, loader),
        runpath="$ORIGIN/../../opt/run:/opt/inner",
    )
    shop.ldconfig("/opt/cached")
    (shop.root / "lib").symlink_to("usr/lib")  # found by the first default directory in which it can be opened
    origin = "/usr/bin/../../opt/run"
    assert shop.one("prog") == {
        "kind": "program",
        "path": program,
        "type": "elf",
        "interpreter": loader,
        "libraries": [
            library("/opt/slash/libslash.so", slash, "path", program),
            library("librun.so", f"{origin}/librun.so", "runpath", program, by_cache),
            library("libcached.so", by_cache, "cache", program),
            library("libdefault.so", "/usr/lib/libdefault.so", "cache", program),
            library("libinner.so", "/opt/inner/libinner.so", "runpath", program),
            library("ld-linux-x86-64.so.2", loader, "interpreter", program, by_rpath),
            library("librpath.so", by_rpath, "rpath", inner),
        ],
        "missing": [],
        "error": None,
    }
    shop.remove("/etc/ld.so.cache")
    found = {
        one["name"]: (one["path"], one["found_by"])
        for one in shop.one(
            "prog",
            "--library-path",
            "/nowhere:/opt/cached",
        )["libraries"]
    }
    assert found["libcached.so"] == ("/opt/cached/libcached.so", "ld_library_path")
    assert found["libdefault.so"] == ("/lib/libdefault.so", "default")


def test_what_is_missing_is_listed_with_where_it_was_searched(shop: Workshop) -> None:
    for path in ("/tmp/x/liba.so", "/tmp/x/libb.so"):
        shop.library(path)
    middle = shop.library("/usr/lib/libmiddle.so", needs=("/tmp/x/liba.so",))
    program = shop.gcc("/usr/bin/prog", needs=("/tmp/x/liba.so", "/tmp/x/libb.so", middle), runpath="/opt/x:/opt/y")
    for path in ("/tmp/x/liba.so", "/tmp/x/libb.so"):
        shop.remove(path)
    found = shop.one("prog", "--library-path", "/opt/l", status=1)
    own = ["ld_library_path /opt/l", "runpath /opt/x", "runpath /opt/y", *DEFAULTS]
    assert found["missing"] == [
        {"name": "liba.so", "searched": own, "requests": [needed(program)]},
        {"name": "libb.so", "searched": own, "requests": [needed(program)]},
        {"name": "liba.so", "searched": ["ld_library_path /opt/l", *DEFAULTS], "requests": [needed(middle)]},
    ]
    assert [one["name"] for one in found["libraries"]] == ["libmiddle.so"]
    assert found["error"] is None
    shop.ldconfig()
    searched = shop.one("prog", status=1)["missing"][0]["searched"]
    assert searched == ["runpath /opt/x", "runpath /opt/y", "cache", *DEFAULTS]


def test_a_name_may_be_missing_for_one_and_found_for_another(shop: Workshop) -> None:
    shop.library("/opt/a/liba.so")
    finder = shop.library("/usr/lib/libfinder.so", needs=("/opt/a/liba.so",), runpath="/opt/a")
    program = shop.gcc("/usr/bin/prog", needs=("/opt/a/liba.so", finder))
    found = shop.one("prog", status=1)
    assert found["missing"] == [{"name": "liba.so", "searched": DEFAULTS, "requests": [needed(program)]}]
    assert library("liba.so", "/opt/a/liba.so", "runpath", "/usr/lib/libfinder.so") in found["libraries"]


def test_a_static_program_has_neither_interpreter_nor_libraries(shop: Workshop) -> None:
    nothing: Record = {"type": "elf", "interpreter": None, "libraries": [], "missing": [], "error": None}
    for path, option in (("/usr/bin/static", "-static"), ("/usr/bin/static-pie", "-static-pie")):
        shop.gcc(path, option)
        assert shop.one(path) == {"kind": "program", "path": path, **nothing}


def test_a_script_has_its_interpreters_and_what_all_of_them_load(shop: Workshop) -> None:
    for name in ("liba.so", "libb.so"):
        shop.library(f"/usr/lib/{name}")
    shop.gcc("/usr/bin/env", needs=("/usr/lib/liba.so",))
    shop.gcc("/usr/bin/python3", needs=("/usr/lib/liba.so", "/usr/lib/libb.so"))
    shop.put("/usr/bin/tool", "#!/usr/bin/env python3\n")
    found = shop.one("tool")
    assert [*found] == ["kind", "path", "type", "interpreters", "libraries", "missing", "error"]
    assert found["type"] == "script"
    assert found["interpreters"] == [
        {"path": "/usr/bin/env", "argument": "python3"},
        {"path": "/usr/bin/python3", "argument": None},
    ]
    assert [(one["name"], one["requests"]) for one in found["libraries"]] == [
        ("liba.so", [needed("/usr/bin/env"), needed("/usr/bin/python3")]),
        ("libb.so", [needed("/usr/bin/python3")]),
    ]


def test_an_interpreter_may_be_a_script_itself(shop: Workshop) -> None:
    shop.gcc("/bin/sh", "-static")
    shop.put("/opt/run", "#!/bin/sh -e -u\n")
    shop.put("/opt/tool", "#! /opt/run x y\n")
    assert shop.one("/opt/tool")["interpreters"] == [
        {"path": "/opt/run", "argument": "x y"},
        {"path": "/bin/sh", "argument": "-e -u"},
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("#!/nowhere/sh\n", ("/opt/tool", "/nowhere/sh")),
        ("#!/bin/sh\r\n", ("/opt/tool", "carriage return")),
        ("#!/usr/bin/env nothing\n", ("/opt/tool", "nothing")),
        ("#!/usr/bin/env sh -u\n", ("/opt/tool", "sh -u")),
        ("#!\n", ("/opt/tool", "names no interpreter")),
        ("#!/opt/tool\n", ("/opt/tool", "too many interpreters")),
        ("#!/opt\n", ("/opt/tool", "/opt", "Is a directory")),
        ("#!/opt/text\n", ("/opt/text", "neither an ELF file nor a script")),
    ],
)
def test_a_script_that_cannot_start_says_why_in_one_line(content: str, words: tuple[str, ...], shop: Workshop) -> None:
    shop.gcc("/bin/sh", "-static")
    shop.gcc("/usr/bin/env", "-static")
    shop.put("/opt/text", "text\n")
    shop.put("/opt/tool", content)
    found = shop.one("/opt/tool", status=1)
    assert "\n" not in found["error"]
    for word in words:
        assert word in found["error"]


def test_what_kernel_or_loader_would_refuse_stands_in_error(shop: Workshop) -> None:
    program = shop.gcc("/usr/bin/prog")
    shop.remove(LOADER)
    absent = shop.one("prog", status=1)
    assert (absent["interpreter"], absent["libraries"]) == (LOADER, [])
    assert LOADER in absent["error"]
    assert "No such file" in absent["error"]
    (shop.root / program[1:]).write_bytes((shop.root / program[1:]).read_bytes()[:40])
    assert shop.one("prog", status=1)["error"] == f"{program}: file too short"


def test_a_library_that_the_loader_dies_of_stands_in_error(shop: Workshop) -> None:
    shop.library("/usr/lib/liba.so")
    shop.gcc("/usr/bin/prog", needs=("/usr/lib/liba.so",))
    shop.put("/usr/lib/liba.so", "no library at all" * 10)
    found = shop.one("prog", status=1)
    assert found["error"] == "/usr/lib/liba.so: invalid ELF header"


def test_deps_of_a_library(shop: Workshop) -> None:
    shop.library("/usr/lib/liba.so")
    path = shop.library("/opt/libb.so", needs=("/usr/lib/liba.so",))
    assert shop.one(path) == {
        "kind": "program",
        "path": path,
        "type": "elf",
        "interpreter": None,
        "libraries": [library("liba.so", "/usr/lib/liba.so", "default", path)],
        "missing": [],
        "error": None,
    }


def test_a_name_that_is_not_utf_8_has_its_bytes_beside_it(shop: Workshop) -> None:
    path = shop.gcc("/opt/na\udcefve", "-static")
    found = shop.one(path)
    assert (found["path"], found["path_b64"]) == ("/opt/na\N{REPLACEMENT CHARACTER}ve", "L29wdC9uYe92ZQ==")


def test_a_file_named_with_dest_is_resolved_as_if_it_stood_there(shop: Workshop, tmp_path: Path) -> None:
    """`$ORIGIN` included."""
    shop.library("/opt/app/lib/liba.so")
    shop.gcc("/build/prog", needs=("/opt/app/lib/liba.so",), runpath="$ORIGIN/../lib")
    outside = shutil.move(shop.root / "build/prog", tmp_path / "prog")
    found = shop.one(f"{outside}:/opt/app/bin/prog")
    assert found["path"] == "/opt/app/bin/prog"
    assert found["libraries"] == [library("liba.so", "/opt/app/bin/../lib/liba.so", "runpath", "/opt/app/bin/prog")]


def test_objects_come_in_the_order_of_the_request_and_unknown_names_have_none(shop: Workshop) -> None:
    for path in ("/usr/bin/a", "/usr/bin/b"):
        shop.gcc(path, "-static")
    ended = shop.deps("--json", "b", "bb", "/opt/nothing", "a")
    assert [one["path"] for one in ended.objects()] == ["/usr/bin/b", "/usr/bin/a"]
    assert ended.status == 1
    assert "jailbuild: cannot resolve bb: no such program in " in ended.words
    assert "jailbuild: cannot resolve /opt/nothing: /opt/nothing: No such file or directory\n" in ended.words


def test_the_caller_s_library_path_and_preload_are_ignored(shop: Workshop) -> None:
    shop.library("/opt/x/liba.so")
    shop.gcc("/usr/bin/prog", needs=("/opt/x/liba.so",))
    environment = {"LD_LIBRARY_PATH": "/opt/x", "LD_PRELOAD": "/opt/x/liba.so"}
    ended = jailbuild("deps", "--sysroot", shop.root, "prog", environment=environment)
    assert ended.status == 1
    ended = jailbuild("deps", "--sysroot", shop.root, "prog", "--library-path", "/opt/x")
    assert ended.status == 0


def test_nothing_of_a_sysroot_is_looked_up_outside_of_it(shop: Workshop, tmp_path: Path) -> None:
    shop.library("/usr/lib/liba.so")
    shop.gcc("/usr/bin/prog", needs=("/usr/lib/liba.so",))
    shutil.move(shop.root / "usr/lib/liba.so", tmp_path / "liba.so")
    (shop.root / "usr/lib/liba.so").symlink_to("../../../liba.so")  # leads out, seen from outside
    assert [one["name"] for one in shop.one("prog", status=1)["missing"]] == ["liba.so"]


def test_deps_runs_nothing(tmp_path: Path) -> None:
    """Not even a program whose interpreter is a trap, as it would be for ldd."""
    shop = Workshop(tmp_path / "root")
    trap = tmp_path / "trap"
    shop.gcc("/usr/bin/prog", f"-Wl,--dynamic-linker={trap}")
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    trap.chmod(0o755)
    ended = jailbuild("deps", shop.root / "usr/bin/prog")
    assert ended.status == 1
    assert not (tmp_path / "sprung").exists()


def test_what_deps_says_of_this_machine_is_what_its_loader_says() -> None:
    (found,) = jailbuild("deps", "--json", "git").objects()
    traced = subprocess.run(
        ["/usr/bin/git"], env={"LD_TRACE_LOADED_OBJECTS": "1"}, capture_output=True, text=True, check=True
    ).stdout
    theirs = [line.split() for line in traced.splitlines() if "linux-vdso" not in line]
    assert [one["path"] for one in found["libraries"]] == [words[2] if "=>" in words else words[0] for words in theirs]


# the tree


def test_the_tree_says_how_each_was_found(shop: Workshop) -> None:
    deep = shop.library("/usr/lib/libdeep.so")
    first = shop.library("/opt/x/libfirst.so", needs=(deep,))
    second = shop.library("/usr/lib/libsecond.so", needs=(deep, first))
    shop.gcc("/usr/bin/prog", needs=(first, second), rpath="/opt/x")
    assert shop.deps("prog") == Ended(
        0,
        f"""\
/usr/bin/prog  [loader {LOADER}]
├── libfirst.so => /opt/x/libfirst.so [rpath]
│   └── libdeep.so => /usr/lib/libdeep.so [default]
└── libsecond.so => /usr/lib/libsecond.so [default]
    ├── libfirst.so (above)
    └── libdeep.so (above)
""",
        "",
    )


def test_the_tree_numbers_where_a_missing_library_was_searched(shop: Workshop) -> None:
    shop.library("/opt/x/liba.so")
    shop.library("/usr/lib/libb.so")
    shop.gcc("/usr/bin/prog", needs=("/opt/x/liba.so", "/usr/lib/libb.so"), runpath="/opt/y")
    assert shop.deps("prog") == Ended(
        1,
        f"""\
/usr/bin/prog  [loader {LOADER}]
├── libb.so => /usr/lib/libb.so [default]
└── liba.so: not found, searched in
      1. runpath /opt/y
      2. default /lib/x86_64-linux-gnu
      3. default /usr/lib/x86_64-linux-gnu
      4. default /lib
      5. default /usr/lib
""",
        "",
    )


def test_the_tree_tells_which_candidates_were_passed_over(shop: Workshop) -> None:
    path = shop.library("/usr/lib/liba.so")
    shop.gcc("/usr/bin/prog", needs=(path,))
    data = bytearray((shop.root / path[1:]).read_bytes())
    data[18] = 0xB7  # e_machine: aarch64
    (shop.root / path[1:]).write_bytes(data)
    assert "/usr/lib/liba.so is for aarch64 (64-bit)" in shop.deps("prog").out


def test_the_tree_of_a_script_shows_its_interpreters(shop: Workshop) -> None:
    shop.library("/usr/lib/liba.so")
    shop.gcc("/bin/sh", needs=("/usr/lib/liba.so",))
    shop.put("/opt/tool", "#!/bin/sh -e\n")
    assert shop.deps("/opt/tool").out == (
        "/opt/tool\n#! /bin/sh -e\n/bin/sh\n└── liba.so => /usr/lib/liba.so [default]\n"
    )


def test_the_tree_of_a_static_program_is_one_line(shop: Workshop) -> None:
    shop.gcc("/usr/bin/static", "-static")
    assert shop.deps("static").out == "/usr/bin/static  [static]\n"


def test_the_tree_ends_with_the_error(shop: Workshop) -> None:
    shop.put("/opt/text", "text")
    ended = shop.deps("/opt/text")
    assert ended.status == 1
    assert ended.out == "/opt/text\nerror: /opt/text: it is neither an ELF file nor a script\n"


def test_names_in_the_tree_move_no_cursor(shop: Workshop) -> None:
    shop.gcc("/opt/a\x1b[2Jb\nc", "-static")
    out = shop.deps("/opt/a\x1b[2Jb\nc").out
    assert out == "/opt/a\\x1b[2Jb\\nc  [static]\n"


def test_libc_and_its_family_are_folded_unless_verbose() -> None:
    folded = jailbuild("deps", "ls")
    whole = jailbuild("deps", "-v", "ls")
    assert "libc.so.6 =>" not in folded.out
    assert "libc.so.6" in folded.out.splitlines()[-1]
    assert "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 [cache]" in whole.out


def test_paths_prints_each_file_once(shop: Workshop) -> None:
    path = shop.library("/usr/lib/liba.so")
    for name in ("one", "two"):
        shop.gcc(f"/usr/bin/{name}", needs=(path,))
    lines = shop.deps("--paths", "one", "two").out.splitlines()
    assert sorted(lines) == sorted(set(lines)) == [LOADER, "/usr/bin/one", "/usr/bin/two", "/usr/lib/liba.so"]


# errors: one line and a hint each, a status, nothing half-done


def complaint(ended: Ended, status: int = 1) -> str:
    """Return the one line of words with which a command failed; hints apart."""
    lines = ended.words.splitlines()
    causes = [line for line in lines if not line.startswith("hint: ")]
    assert ended.status == status
    assert len(causes) == 1, lines
    assert causes[0].startswith("jailbuild: cannot ")
    return causes[0]


def hint(ended: Ended) -> str:
    """Return the one hint."""
    (line,) = [line for line in ended.words.splitlines() if line.startswith("hint: ")]
    return line


@pytest.mark.parametrize("verb", ["deps", "add"])
def test_an_unknown_program_has_near_matches(verb: str, shop: Workshop, tmp_path: Path) -> None:
    shop.gcc("/usr/bin/frobnicate", "-static")
    ended = run(verb, shop, tmp_path, "frobnicat")
    cannot = "resolve" if verb == "deps" else "add"
    assert f"cannot {cannot} frobnicat: no such program in /usr/local/sbin:" in complaint(ended)
    assert "frobnicate" in ended.words
    assert hint(ended)


def run(verb: str, shop: Workshop, tmp_path: Path, *words: str) -> Ended:
    """Run `deps` or `add` on words and, for `add`, make sure that no box is left."""
    more = ("--into", tmp_path / "box") if verb == "add" else ()
    ended = jailbuild(verb, "--sysroot", shop.root, *words, *more)
    assert not (tmp_path / "box").exists()
    return ended


@pytest.mark.parametrize("verb", ["deps", "add"])
def test_a_directory_is_no_program(verb: str, shop: Workshop, tmp_path: Path) -> None:
    (shop.root / "opt").mkdir()
    said = complaint(run(verb, shop, tmp_path, "/opt"))
    assert "/opt" in said
    assert "directory" in said


@pytest.mark.parametrize("verb", ["deps", "add"])
def test_a_fifo_or_a_device_is_no_program(verb: str, shop: Workshop, tmp_path: Path) -> None:
    os.mkfifo(shop.root / "fifo", 0o755)
    said = complaint(run(verb, shop, tmp_path, "/fifo"))
    assert "/fifo" in said
    if verb == "deps":
        assert said.endswith("it is not a regular file")


@pytest.mark.parametrize("verb", ["deps", "add"])
def test_a_path_that_is_not_there_is_an_error(verb: str, shop: Workshop, tmp_path: Path) -> None:
    assert complaint(run(verb, shop, tmp_path, "/opt/nothing")).endswith("No such file or directory")


@pytest.mark.parametrize("verb", ["deps", "add"])
def test_a_text_file_that_is_no_script_is_an_error(verb: str, shop: Workshop, tmp_path: Path) -> None:
    shop.put("/usr/bin/text", "just words\n")
    ended = run(verb, shop, tmp_path, "text")
    assert ended.status == 1
    assert "/usr/bin/text: it is neither an ELF file nor a script" in ended.out + ended.words


AS_NOBODY = f"""
import os, sys, encodings.idna
import jailbuild.cli.add, jailbuild.cli.deps
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
jailbuild.cli.main()
"""


@pytest.mark.parametrize("verb", ["deps", "add"])
@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_a_file_that_the_caller_may_not_read_is_an_error_that_names_it(verb: str, shop: Workshop) -> None:
    shop.gcc("/usr/bin/secret", "-static")
    (shop.root / "usr/bin/secret").chmod(0o711)
    with tempfile.TemporaryDirectory() as home:  # pytest's own directories are for their owner alone
        root = shutil.copytree(shop.root, f"{home}/root")
        for directory in (home, root):
            os.chmod(directory, 0o755)
        os.mkdir(f"{home}/mine")
        os.chown(f"{home}/mine", NOBODY, NOBODY)
        more = ("--into", f"{home}/mine/box") if verb == "add" else ()
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, verb, "--sysroot", root, "secret", *more],
            env=os.environ | {"PYTHONPATH": TOP},
            capture_output=True,
            text=True,
            check=False,
        )
        said = complaint(Ended(done.returncode, done.stdout, done.stderr))
        assert "/usr/bin/secret" in said
        assert said.endswith("Permission denied")
        assert os.listdir(f"{home}/mine") == []


def test_all_missing_libraries_are_listed_by_add_and_nothing_is_written(shop: Workshop, tmp_path: Path) -> None:
    for name in ("liba.so", "libb.so", "libc.so"):
        shop.library(f"/opt/x/{name}")
    shop.gcc("/usr/bin/one", needs=("/opt/x/liba.so", "/opt/x/libb.so"), runpath="/opt/y")
    shop.gcc("/usr/bin/two", needs=("/opt/x/libc.so",))
    ended = run("add", shop, tmp_path, "one", "two")
    causes = [line for line in ended.words.splitlines() if not line.startswith("hint: ")]
    default = ", ".join(DEFAULTS)
    nowhere = "which is in none of:"
    assert causes == [
        f"jailbuild: cannot add one: /usr/bin/one needs liba.so, {nowhere} runpath /opt/y, {default}",
        f"jailbuild: cannot add one: /usr/bin/one needs libb.so, {nowhere} runpath /opt/y, {default}",
        f"jailbuild: cannot add two: /usr/bin/two needs libc.so, {nowhere} {default}",
    ]
    assert "--library-path" in hint(ended)
    assert ended.status == 1


def test_a_sysroot_that_is_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "nothing", tmp_path / "file"):
        assert str(path) in complaint(jailbuild("deps", "--sysroot", path, "ls"))


def test_a_relative_path_from_outside_the_sysroot_has_a_hint(shop: Workshop, tmp_path: Path) -> None:
    ended = jailbuild("deps", "--sysroot", shop.root, "usr/bin/x", directory=tmp_path)
    assert f"{tmp_path} is outside {shop.root}" in complaint(ended)
    assert "SRC:DEST" in hint(ended)


@pytest.mark.parametrize("forms", [("--json", "--paths"), ("--dot", "--mermaid"), ("--json", "--dot", "--paths")])
def test_two_forms_of_output_are_wrong_usage(forms: tuple[str, ...]) -> None:
    """One of them would be ignored in silence."""
    ended = jailbuild("deps", *forms, "ls")
    assert (ended.status, ended.out) == (2, "")
    assert "exclude each other" in ended.words


def test_where_nothing_was_found_every_form_is_still_one_of_its_kind(shop: Workshop) -> None:
    assert shop.deps("--json", "/nothing").out == shop.deps("--paths", "/nothing").out == ""
    assert shop.deps("--dot", "/nothing").out.startswith("digraph")
    assert shop.deps("--mermaid", "/nothing").out == "flowchart LR\n"


def test_output_that_cannot_be_written_is_an_error(shop: Workshop) -> None:
    """A full disk, in each form: one line, status 1."""
    shop.gcc("/usr/bin/prog", "-static")
    for form in ([], ["--json"], ["--paths"], ["--dot"], ["--mermaid"]):
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [*JAILBUILD, "deps", "--sysroot", shop.root, *form, "prog"],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
                env=os.environ | {"PYTHONPATH": TOP},
            )
        assert (done.returncode, done.stderr) == (1, "jailbuild: cannot go on: the system: No space left on device\n")


def test_an_error_is_one_line_whatever_the_names(shop: Workshop) -> None:
    shop.library("/usr/lib/liba.so")
    shop.gcc("/usr/bin/prog", needs=("/usr/lib/liba.so",), runpath="/opt/n\nl")
    shop.put("/opt/n\nl/liba.so", "no library at all" * 10)
    assert shop.one("prog", status=1)["error"] == "/opt/n\\nl/liba.so: invalid ELF header"


def test_preloads_are_separated_as_the_loader_does(shop: Workshop) -> None:
    """By spaces and colons; a tab belongs to the name."""
    shop.gcc("/usr/bin/prog", "-Wl,--hash-style=sysv", "-pie")
    paths = [shop.library(f"/opt/{name}") for name in ("liba.so", "libb.so", "lib\tc.so")]
    found = shop.one("prog", "--preload", f" {paths[0]}::{paths[1]} {paths[2]}:")
    assert [one["path"] for one in found["libraries"]] == paths
