"""Programs of musl in boxes: real ones, made with musl-gcc, that run in a real chroot."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from jailbuild.check.run import check_root
from jailbuild.loader.musl.config import read_list
from jailbuild.root import Root
from tests import needs
from tests.box import tiny
from tests.box.running import add, complaint, dump, entries, inside, manifest, objects, run, settled

LIBC = Path("/usr/lib/x86_64-linux-musl/libc.so")
LOADER = "/lib/ld-musl-x86_64.so.1"
PATH_FILE = "/etc/ld-musl-x86_64.path"
DEBIAN = b"/lib/x86_64-linux-musl\n/usr/lib/x86_64-linux-musl\n"
LIBRARIES = "usr/lib/x86_64-linux-musl"

_LIBRARY = "int {name}(void) {{ return {value}{sum}; }}"
_PROGRAM = """
#include <stdio.h>
{declared}
int main(void) {{ printf("%d\\n", 0{sum}); return 0; }}
"""

pytestmark = pytest.mark.skipif(not shutil.which("musl-gcc"), reason="musl-gcc is not installed (Debian: musl-tools)")


def _compile(source: str, target: Path, needs: tuple[Path, ...], *flags: str) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
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
            *needs,
            "-Wl,--allow-shlib-undefined",
            *flags,
        ],
        input=source,
        text=True,
        check=True,
    )
    return target


def library(target: Path, *needs: Path, value: int = 1) -> Path:
    """Make a library libNAME.so with a function NAME() that returns `value` more than what it `needs` return."""
    names = [need.name.removeprefix("lib").partition(".")[0] for need in needs]
    declared = "".join(f"int {name}(void);" for name in names)
    calls = "".join(f" + {name}()" for name in names)
    name = target.name.removeprefix("lib").partition(".")[0]
    source = declared + _LIBRARY.format(name=name, value=value, sum=calls)
    return _compile(source, target, needs, "-shared", "-fPIC", f"-Wl,-soname,{target.name}")


def program(target: Path, *needs: Path, interpreter: str = LOADER, flags: tuple[str, ...] = ()) -> Path:
    """Make a program that prints the sum of what the libraries that it `needs` return."""
    names = [need.name.removeprefix("lib").partition(".")[0] for need in needs]
    declared = "".join(f"int {name}(void);" for name in names)
    source = _PROGRAM.format(declared=declared, sum="".join(f" + {name}()" for name in names))
    return _compile(source, target, needs, f"-Wl,--dynamic-linker={interpreter}", *flags)


def loader(root: Path, where: str = LIBRARIES) -> None:
    """Put musl into a root as Debian has it."""
    (root / where).mkdir(parents=True, exist_ok=True)
    shutil.copy(LIBC, root / where / "libc.so")
    (root / "usr/lib/ld-musl-x86_64.so.1").symlink_to("x86_64-linux-musl/libc.so")


@pytest.fixture
def both(sysroot: Path) -> Path:
    """The small root with musl beside glibc, and musl's list of directories."""
    loader(sysroot)
    (sysroot / PATH_FILE[1:]).write_bytes(DEBIAN)
    return sysroot


def prints(box: Path, path: str, expected: int) -> None:
    """Hold a program to what it must print in a chroot, and the box to `check`."""
    done = inside(box, path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{expected}\n", "")
    assert [finding for finding in check_root(Root(str(box)), str(box)).findings if finding.severity != "note"] == []


def test_a_program_of_musl_runs_in_its_box(both: Path, box: Path) -> None:
    """With its libraries, the links that lead to its loader, and the list that the loader reads; no ld.so.cache."""
    one = library(both / LIBRARIES / "libone.so", value=4)
    program(both / "usr/bin/tool", library(both / LIBRARIES / "libtwo.so", one))
    add(box, "tool", sysroot=both)
    prints(box, "/usr/bin/tool", 5)
    files = {path for path, what in dump(box).items() if not what.startswith("directory")}
    assert files == {
        "/lib",
        "/bin",
        PATH_FILE,
        "/usr/bin/tool",
        "/usr/lib/ld-musl-x86_64.so.1",
        *(f"/{LIBRARIES}/{name}" for name in ("libc.so", "libone.so", "libtwo.so")),
    }
    assert entries(box)[PATH_FILE]["source"] == PATH_FILE


def test_why_the_list_of_directories_is_there(both: Path, box: Path) -> None:
    """The loader reads it."""
    program(both / "usr/bin/tool")
    add(box, "tool", sysroot=both)
    steps = [(step["path"], step["as"]) for step in objects(run("why", "--json", box, PATH_FILE))[0]["steps"]]
    assert steps == [
        ("/usr/bin/tool", "program"),
        ("/usr/lib/ld-musl-x86_64.so.1", "interpreter"),
        (PATH_FILE, "path-file"),
    ]


def test_without_a_list_none_is_made(both: Path, box: Path) -> None:
    """The loader's own directories do then."""
    (both / PATH_FILE[1:]).unlink()
    program(both / "usr/bin/tool", library(both / "usr/local/lib/libone.so", value=3))
    add(box, "tool", sysroot=both)
    prints(box, "/usr/bin/tool", 3)
    assert "/etc" not in dump(box)


def test_programs_of_both_libcs_share_a_box(both: Path, box: Path) -> None:
    """Each finds the library of one name that is meant for it."""
    program(both / "usr/bin/tool", library(both / LIBRARIES / "libtinfo.so.6", value=66))
    add(box, "tool", "bash", "fixed", sysroot=both)
    prints(box, "/usr/bin/tool", 66)
    assert inside(box, "/usr/bin/bash").returncode == 6
    assert "/etc/ld.so.cache" not in dump(box)


def test_a_library_of_glibcs_is_taken_as_musl_takes_it(both: Path, box: Path) -> None:
    """Both ask for one name in one directory: both get the one file, and where it asks for libc that is each one's."""
    (both / PATH_FILE[1:]).write_bytes(b"/usr/lib/x86_64-linux-gnu\n")
    shared = tiny.library(both / tiny.LIBRARIES / "libshared.so", value=7)
    program(both / "usr/bin/tool", shared)
    tiny.program(both / "usr/bin/other", shared)
    add(box, "tool", "other", sysroot=both)
    prints(box, "/usr/bin/tool", 7)
    assert inside(box, "/usr/bin/other").returncode == 7


@pytest.mark.parametrize("content", [None, DEBIAN, b""], ids=["no list", "a list", "an empty list"])
def test_what_a_library_path_led_to_is_found_in_the_box(both: Path, box: Path, content: bytes | None) -> None:
    """The box's list has its directory first, then what the root's has or the loader takes instead."""
    (both / PATH_FILE[1:]).unlink()
    if content is not None:
        (both / PATH_FILE[1:]).write_bytes(content)
    program(both / "usr/bin/tool", library(both / "opt/far/libone.so", value=8))
    add(box, "tool", "--library-path", "/opt/far", sysroot=both)
    rest = ("/lib", "/usr/local/lib", "/usr/lib") if content is None else read_list(content)
    assert read_list((box / PATH_FILE[1:]).read_bytes()) == ("/opt/far", *rest)
    assert entries(box)[PATH_FILE]["source"] is None
    prints(box, "/usr/bin/tool", 8)
    add(box, "tool", "--library-path", "/opt/far", sysroot=both)
    prints(box, "/usr/bin/tool", 8)


def test_the_list_does_not_depend_on_who_came_first(both: Path, box: Path, tmp_path: Path) -> None:
    """Two programs with a library path each, and one without, in either order and out again."""
    for name in ("x", "y"):
        program(both / f"usr/bin/{name}", library(both / f"opt/{name}/lib{name}.so", value=ord(name)))
    program(both / "usr/bin/z")
    orders = [("x", "y", "z"), ("z", "y", "x"), ("y", "z", "x")]
    boxes = [tmp_path / "".join(order) for order in orders]
    for one, order in zip(boxes, orders, strict=True):
        for name in order:
            add(one, name, *(("--library-path", f"/opt/{name}") if name != "z" else ()), sysroot=both)
        for name in "xy":
            prints(one, f"/usr/bin/{name}", ord(name))
    assert settled(boxes[0]) == settled(boxes[1]) == settled(boxes[2])
    assert run("remove", "x", "--from", boxes[0], "--no-sync").returncode == 0
    assert read_list((boxes[0] / PATH_FILE[1:]).read_bytes()) == ("/opt/y", *read_list(DEBIAN))
    prints(boxes[0], "/usr/bin/y", ord("y"))
    assert run("remove", "y", "--from", boxes[0], "--no-sync").returncode == 0
    assert (boxes[0] / PATH_FILE[1:]).read_bytes() == DEBIAN
    prints(boxes[0], "/usr/bin/z", 0)
    add(box, "z", sysroot=both)
    assert dump(box, contents=True) == dump(boxes[0], contents=True)


def test_each_prefix_has_a_list_of_its_own(both: Path, box: Path) -> None:
    """Two loaders in one root, each with its own list, which a library path adds to."""
    (both / "opt/musl/lib").mkdir(parents=True)
    (both / "opt/musl/etc").mkdir()
    shutil.copy(LIBC, both / "opt/musl/lib/ld-musl-x86_64.so.1")
    (both / f"opt/musl{PATH_FILE}").write_bytes(b"/opt/musl/lib\n")
    one, two = (
        library(both / where / "libone.so", value=value) for where, value in ((LIBRARIES, 1), ("opt/musl/lib", 2))
    )
    program(both / "usr/bin/here", one)
    program(
        both / "usr/bin/there",
        two,
        library(both / "opt/far/libfar.so", value=30),
        interpreter="/opt/musl/lib/ld-musl-x86_64.so.1",
    )
    add(box, "here", sysroot=both)
    add(box, "there", "--library-path", "/opt/far", sysroot=both)
    prints(box, "/usr/bin/here", 1)
    prints(box, "/usr/bin/there", 32)
    assert (box / PATH_FILE[1:]).read_bytes() == DEBIAN
    assert read_list((box / f"opt/musl{PATH_FILE}").read_bytes()) == ("/opt/far", "/opt/musl/lib")


def test_a_list_that_would_lead_another_program_astray_is_refused(both: Path, box: Path) -> None:
    """What the box has would load another library then: nothing is changed."""
    program(both / "usr/bin/near", library(both / LIBRARIES / "libone.so", value=1))
    program(both / "usr/bin/far", library(both / "opt/far/libone.so", value=2))
    add(box, "near", sysroot=both)
    before = settled(box)
    done = add(box, "far", "--library-path", "/opt/far", sysroot=both, status=1)
    assert "would load" in complaint(done)
    assert settled(box) == before


def test_what_is_missing_is_said(both: Path, box: Path) -> None:
    """Where musl looked; and nothing is made."""
    program(both / "usr/bin/tool", library(both / "opt/far/libone.so"))
    done = add(box, "tool", sysroot=both, status=1)
    assert complaint(done) == (
        "jailbuild: cannot add tool: /usr/bin/tool needs libone.so, which is in none of: "
        "default /lib/x86_64-linux-musl, default /usr/lib/x86_64-linux-musl"
    )
    assert not box.exists()


def test_an_absent_loader_is_said(sysroot: Path, box: Path) -> None:
    program(sysroot / "usr/bin/tool")
    done = add(box, "tool", sysroot=sysroot, status=1)
    assert f"the interpreter {LOADER} cannot be opened" in complaint(done)


def test_check_finds_a_list_that_is_gone(both: Path, box: Path) -> None:
    """The entry, and the library that is not found without it."""
    program(both / "usr/bin/tool", library(both / LIBRARIES / "libone.so"))
    add(box, "tool", sysroot=both)
    (box / PATH_FILE[1:]).unlink()
    found = {(finding.code, finding.path) for finding in check_root(Root(str(box)), str(box)).findings}
    assert found == {("missing-file", PATH_FILE), ("missing-library", "/usr/bin/tool")}
    assert inside(box, "/usr/bin/tool").returncode == 127


def test_a_check_of_one_program_is_about_its_list_too(both: Path, box: Path) -> None:
    """A list of directories that was changed is told of the program that goes by it, and of no other."""
    program(both / "usr/bin/musled", library(both / LIBRARIES / "libf.so"))
    add(box, "--bare", "musled", "fixed", sysroot=both)
    with open(box / PATH_FILE.lstrip("/"), "ab") as file:
        file.write(b"\n")
    told = {
        word: [(one["code"], one["path"]) for one in objects(run("check", box, "--json", "--program", word))[:-1]]
        for word in ("musled", "fixed")
    }
    assert told == {"musled": [("changed-file", PATH_FILE)], "fixed": []}


def test_a_library_alone_is_resolved_by_the_libc_that_it_asks_for(both: Path) -> None:
    """Both loaders are there: one that asks for libc.so is musl's, also where no program loads it."""
    library(both / LIBRARIES / "libalone.so", library(both / LIBRARIES / "libone.so"))
    (both / "usr/bin/plain").unlink(missing_ok=True)
    program(both / "usr/bin/tool")
    report = check_root(Root(str(both)), str(both))
    assert [finding for finding in report.findings if finding.code == "unreached-library"] == []


def test_musls_library_itself_may_be_asked_for(both: Path, box: Path) -> None:
    """It needs nothing, and glibc's loader least of all."""
    add(box, f"/{LIBRARIES}/libc.so", sysroot=both)
    assert {path for path, what in dump(box).items() if what.startswith("file")} == {f"/{LIBRARIES}/libc.so"}


def test_a_static_program_of_musl_brings_nothing(both: Path, box: Path) -> None:
    program(both / "usr/bin/alone", flags=("-static",))
    add(box, "alone", sysroot=both)
    prints(box, "/usr/bin/alone", 0)
    assert [line["path"] for line in manifest(box) if line["kind"] == "entry" and line["type"] == "file"] == [
        "/usr/bin/alone"
    ]


def test_the_plan_as_shell_makes_the_same_box(both: Path, box: Path, tmp_path: Path) -> None:
    """The list that was made included."""
    program(both / "usr/bin/tool", library(both / "opt/far/libone.so", value=8))
    done = add(tmp_path / "by-hand", "tool", "--library-path", "/opt/far", "--as-shell", sysroot=both)
    subprocess.run(["sh", "-eu"], input=done.stdout, text=True, check=True, capture_output=True)
    add(box, "tool", "--library-path", "/opt/far", sysroot=both)
    assert dump(tmp_path / "by-hand", contents=True) == dump(box, contents=True)
    assert inside(tmp_path / "by-hand", "/usr/bin/tool").stdout == "8\n"


@needs.namespaces
def test_a_symbol_that_musls_loader_does_not_find_is_no_disagreement(both: Path) -> None:
    """Without --symbols nobody but the loader looks for it: what it says is told as what it is."""
    target = both / LIBRARIES / "libf.so"
    program(both / "usr/bin/musled", library(target))
    assert {one.get("code") for one in objects(run("check", both, "--json", "--run"))} <= {None, "no-user-database"}
    _compile("int other;", target, (), "-shared", "-fPIC", "-Wl,-soname,libf.so")
    told = [one for one in objects(run("check", both, "--json", "--run")) if one.get("severity") == "error"]
    assert [(one["code"], one["path"], one["subject"]) for one in told] == [
        ("undefined-symbol", "/usr/bin/musled", "f")
    ]
    assert inside(both, "/usr/bin/musled").returncode == 127
