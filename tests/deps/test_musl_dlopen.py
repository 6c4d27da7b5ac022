"""`deps` follows dlopen notes of musl's programs too: what it names is what musl's dlopen opens, in a real chroot."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import needs
from tests.box.running import inside, run
from tests.deps.test_deps import Ended, jailbuild
from tests.deps.test_dlopen import by_dlopen, names
from tests.noted import Entry, assembly, entry

LIBC = "/usr/lib/x86_64-linux-musl/libc.so"
LOADER = "/lib/ld-musl-x86_64.so.1"

pytestmark = [
    pytest.mark.skipif(not shutil.which("musl-gcc"), reason="musl-gcc is not installed (Debian: musl-tools)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a real chroot is the oracle"),
]

# Opens each name it is given and prints each file that is loaded then and was not before, or "-" if it fails.
_OPENS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <string.h>
static char known[64][512];
static int count;
static int look(struct dl_phdr_info *info, size_t size, void *tell) {
    for (int i = 0; i < count; i++) if (!strcmp(known[i], info->dlpi_name)) return 0;
    strcpy(known[count++], info->dlpi_name);
    if (tell) puts(info->dlpi_name);
    return 0;
}
void open_all(int argc, char **argv) {
    dl_iterate_phdr(look, 0);
    for (int i = 0; i < argc; i++) {
        if (!dlopen(argv[i], RTLD_NOW)) puts("-");
        dl_iterate_phdr(look, argv);
    }
}
"""
_MAIN = "void open_all(int, char **); int main(int c, char **v) { open_all(c - 1, v + 1); return 0; }\n"


class Made:
    """A root with musl, and musl-gcc to fill it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for path in ("lib", "usr/lib", "usr/bin", "proc"):
            (root / path).mkdir(parents=True)
        shutil.copy(LIBC, root / LOADER[1:])

    def build(self, path: str, source: str, *flags: str, needs: tuple[str, ...] = ()) -> str:
        """Compile C to a path of the root, which it returns."""
        target = self.root / path[1:]
        target.parent.mkdir(parents=True, exist_ok=True)
        libraries = [str(self.root / need[1:]) for need in needs]
        subprocess.run(
            [
                "musl-gcc",
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
            f"{assembly(*notes)}int in_it;\n{source}",
            "-shared",
            "-fPIC",
            f"-Wl,-soname,{name}",
            *flags,
            needs=needs,
        )

    def program(self, *notes: list[Entry], flags: tuple[str, ...] = (), needs: tuple[str, ...] = ()) -> str:
        """Make /usr/bin/prog, which opens what it is told to, with notes."""
        return self.build("/usr/bin/prog", assembly(*notes) + _OPENS + _MAIN, *flags, needs=needs)

    def opened(self, *asked: str) -> list[str]:
        """Return the files that come in, in order, when the program opens these names in a chroot; "-" for none."""
        proc = self.root / "proc"  # for $ORIGIN
        subprocess.run(["mount", "-t", "proc", "proc", proc], check=True)
        try:
            done = subprocess.run(
                ["/usr/sbin/chroot", self.root, "/usr/bin/prog", *asked],
                capture_output=True,
                text=True,
                check=True,
                env={},
            )
        finally:
            subprocess.run(["umount", proc], check=True)
        return done.stdout.split()

    def deps(self, *options: str | Path) -> Ended:
        return jailbuild("deps", "--json", "--sysroot", self.root, "/usr/bin/prog", *options)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path / "root")


RUNPATH = ("-Wl,--enable-new-dtags,-rpath,/opt/own",)


def _the_programs_path_counts(made: Made) -> list[str]:
    made.library("/opt/own/libx.so")
    made.library("/usr/lib/libx.so")
    made.program([entry("libx.so")], flags=RUNPATH)
    return ["libx.so"]


def _by_origin(made: Made) -> list[str]:
    made.library("/usr/bin/plugins/libx.so")
    made.program([entry("libx.so")], flags=("-Wl,-rpath,$ORIGIN/plugins",))
    return ["libx.so"]


def _the_path_of_the_library_that_opens_does_not_count(made: Made) -> list[str]:
    made.library("/opt/own/libx.so")
    made.library("/usr/lib/libx.so")
    opener = made.library("/usr/lib/libopener.so", [entry("libx.so")], flags=RUNPATH, source=_OPENS)
    made.build("/usr/bin/prog", _MAIN, needs=(opener,))
    return ["libx.so"]


def _the_programs_path_counts_for_a_library_that_opens(made: Made) -> list[str]:
    made.library("/opt/own/libx.so")
    made.library("/usr/lib/libx.so")
    opener = made.library("/usr/lib/libopener.so", [entry("libx.so")], source=_OPENS)
    made.build("/usr/bin/prog", _MAIN, *RUNPATH, needs=(opener,))
    return ["libx.so"]


def _what_the_opened_needs_is_found_by_its_own_path_and_the_programs(made: Made) -> list[str]:
    own, deep = made.library("/opt/own/libown.so"), made.library("/opt/deep/libdeep.so")
    made.library("/usr/lib/libx.so", needs=(own, deep), flags=("-Wl,-rpath,/opt/deep",))
    made.program([entry("libx.so")], flags=RUNPATH)
    return ["libx.so"]


def _the_first_alternative_that_is_there(made: Made) -> list[str]:
    made.library("/usr/lib/libx.so.1")
    made.library("/usr/lib/libx.so.0")
    made.program([entry("libx.so.2", "libx.so.1", "libx.so.0")])
    return ["libx.so.2", "libx.so.1"]


def _an_alternative_that_lacks_something_is_taken_back(made: Made) -> list[str]:
    half, gone = made.library("/usr/lib/libhalf.so"), made.library("/usr/lib/libgone.so")
    made.library("/usr/lib/libx.so.2", needs=(half, gone))
    made.library("/usr/lib/libx.so.1", needs=(half,))
    (made.root / gone[1:]).unlink()
    made.program([entry("libx.so.2", "libx.so.1")])
    return ["libx.so.2", "libx.so.1"]


def _an_alternative_that_is_no_library_is_not_there(made: Made) -> list[str]:
    (made.root / "usr/lib/libx.so.2").write_text("no ELF file, and long enough to be one" * 9)
    made.library("/usr/lib/libx.so.1")
    made.program([entry("libx.so.2", "libx.so.1")])
    return ["libx.so.2", "libx.so.1"]


def _by_a_path(made: Made) -> list[str]:
    made.library("/opt/plugin.so")
    made.program([entry("/opt/plugin.so")])
    return ["/opt/plugin.so"]


def _not_by_its_soname(made: Made) -> list[str]:
    there = made.build("/opt/own/liby.so", "int y;", "-shared", "-fPIC", "-Wl,-soname,libx.so")
    made.library("/usr/lib/libx.so")
    (made.root / "opt/own/libx.so").symlink_to("liby.so")
    made.program([entry("liby.so")], needs=(there,), flags=RUNPATH)
    return ["liby.so"]


def _another_by_the_list_of_directories(made: Made) -> list[str]:
    (made.root / "etc").mkdir()
    (made.root / "etc/ld-musl-x86_64.path").write_text("/opt/listed\n/usr/lib\n")
    made.library("/opt/listed/libx.so")
    made.library("/usr/lib/libx.so")
    made.program([entry("libx.so")])
    return ["libx.so"]


@needs.namespaces
@pytest.mark.parametrize(
    "make",
    [
        _the_programs_path_counts,
        _by_origin,
        _the_path_of_the_library_that_opens_does_not_count,
        _the_programs_path_counts_for_a_library_that_opens,
        _what_the_opened_needs_is_found_by_its_own_path_and_the_programs,
        _the_first_alternative_that_is_there,
        _an_alternative_that_lacks_something_is_taken_back,
        _an_alternative_that_is_no_library_is_not_there,
        _by_a_path,
        _not_by_its_soname,
        _another_by_the_list_of_directories,
    ],
    ids=lambda make: make.__name__.lstrip("_"),
)
def test_what_musl_opens_is_what_deps_names(made: Made, make: Callable[[Made], list[str]]) -> None:
    """All files that come in by opening the names of the note one after the other until one opens, in that order."""
    asked = make(made)
    theirs = [path for path in made.opened(*asked) if path != "-"]
    ended = made.deps()
    assert (ended.status, ended.words) == (0, "")
    record = ended.objects()[0]
    before = {one["path"] for one in made.deps("--dlopen", "none").objects()[0]["libraries"]}
    assert [one["path"] for one in record["libraries"] if one["path"] not in before] == theirs
    assert record["missing"] == []
    assert len(by_dlopen(record)) == 1


def test_what_an_opened_library_opens_is_found_too(made: Made) -> None:
    """One opens another, and that the first again; and nothing of glibc's is opened by itself."""
    made.library("/usr/lib/libtwo.so", [entry("libone.so")])
    made.library("/usr/lib/libone.so", [entry("libtwo.so")])
    made.library("/usr/lib/libgcc_s.so.1")
    made.program([entry("libone.so")])
    record = made.deps().objects()[0]
    assert by_dlopen(record) == {"libone.so": "/usr/lib/libone.so", "libtwo.so": "/usr/lib/libtwo.so"}
    assert [one["requests"] for one in record["libraries"] if one["name"] == "libone.so"] == [
        [{"by": "/usr/bin/prog", "as": "dlopen"}, {"by": "/usr/lib/libtwo.so", "as": "dlopen"}]
    ]


@needs.namespaces
def test_what_is_required_is_missing_and_what_is_not_is_told(made: Made) -> None:
    """A required library that lacks something is there, and what it lacks is missing."""
    gone = made.library("/usr/lib/libgone.so")
    made.library("/usr/lib/libhalf.so", needs=(gone,))
    (made.root / gone[1:]).unlink()
    made.program(
        [entry("libx.so.1", "libx.so.0", priority="required")],
        [entry("libhalf.so", priority="required")],
        [entry("liby.so", feature="colour")],
    )
    assert made.opened("libx.so.1", "libhalf.so", "liby.so") == ["-", "-", "-"]
    ended = made.deps()
    assert ended.status == 1
    record = ended.objects()[0]
    assert names(record, "missing") == ["libx.so.1", "libgone.so"]
    assert record["missing"][0]["searched"] == ["default /lib", "default /usr/local/lib", "default /usr/lib"]
    assert "libhalf.so" in names(record)
    assert "/usr/bin/prog would open liby.so (recommended, for colour), which is in none of" in ended.words


@needs.namespaces
def test_the_libc_itself_is_opened_and_nothing_comes_in(made: Made) -> None:
    """Under each of the names that musl takes for its own."""
    made.program([entry("libm.so.6")], [entry("libc.musl-x86_64.so.1")])
    assert made.opened("libm.so.6", "libpthread.so.0", "libc.musl-x86_64.so.1") == []
    ended = made.deps()
    assert (ended.status, ended.words) == (0, "")
    [libc] = ended.objects()[0]["libraries"]
    assert (libc["path"], libc["requests"]) == (
        LOADER,
        [{"by": "/usr/bin/prog", "as": "needed"}, {"by": "/usr/bin/prog", "as": "dlopen"}],
    )


def test_a_box_has_what_its_program_opens(made: Made, tmp_path: Path) -> None:
    """And no libgcc_s, though the program calls what glibc would open it for."""
    made.library("/opt/own/libx.so")
    made.library("/usr/lib/libgcc_s.so.1")
    made.build(
        "/usr/bin/prog",
        assembly([entry("libx.so")]) + _OPENS + "#include <pthread.h>\n"
        "int main(int c, char **v) { open_all(c - 1, v + 1); pthread_exit(0); }\n",
        *RUNPATH,
    )
    box = tmp_path / "box"
    done = run("add", "/usr/bin/prog", "--sysroot", made.root, "--into", box)
    assert done.returncode == 0, done.stderr
    done = inside(box, "/usr/bin/prog", "libx.so")
    assert (done.returncode, done.stdout) == (0, "/opt/own/libx.so\n")
    assert not (box / "usr/lib/libgcc_s.so.1").exists()
