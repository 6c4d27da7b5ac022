"""Boxes have the libraries that their programs open while they run: by dlopen notes, and what glibc opens itself."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.box import tiny
from tests.box.running import add, complaint, entries, manifest, objects, run
from tests.noted import Entry, assembly, entry

LIB = f"/{tiny.LIBRARIES}"
LIBGCC = "libgcc_s.so.1"
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: chroot(2)")


def noted_program(target: Path, *notes: list[Entry]) -> Path:
    """Make a program that ends with status 0, with notes."""
    source = assembly(*notes) + 'void _start(void) { __asm__ volatile("syscall" : : "a"(231), "D"(0)); for (;;) {} }\n'
    return tiny.compile_c(source, target, "-pie", "-fPIE", f"-Wl,--dynamic-linker={tiny.LOADER}")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root where /usr/bin/prog would open a library of each priority; and one of them another."""
    root = tiny.build(tmp_path / "root")
    for name in ("required", "recommended", "suggested", "inner"):
        target = root / tiny.LIBRARIES / f"lib{name}.so"
        notes = assembly([entry("libinner.so")]) if name == "recommended" else ""
        tiny.compile_c(f"{notes}int {name};\n", target, "-shared", "-fPIC", f"-Wl,-soname,lib{name}.so")
    noted_program(
        root / "usr/bin/prog",
        *([entry(f"lib{name}.so", priority=name)] for name in ("required", "recommended", "suggested")),
    )
    tiny.backdate(root)
    return root


def opened(box: Path) -> set[str]:
    """Return which of the root's libraries a box has."""
    return {
        name.removeprefix("lib").removesuffix(".so")
        for name in os.listdir(box / tiny.LIBRARIES)
        if name.startswith(("librequired", "librecommended", "libsuggested", "libinner"))
    }


def request(box: Path, name: str = "prog") -> dict[str, Any]:
    return next(line for line in manifest(box) if line["kind"] == "request" and line["name"] == name)


def found(box: Path, *options: str) -> dict[str, dict[str, Any]]:
    """Return what `check` says, by code."""
    return {one["code"]: one for one in objects(run("check", "--json", *options, box)) if one["kind"] == "finding"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), {"required", "recommended", "inner"}),
        (("--bare",), {"required", "recommended", "inner"}),
        (("--dlopen", "none"), set()),
        (("--dlopen", "required"), {"required"}),
        (("--dlopen", "recommended"), {"required", "recommended", "inner"}),
        (("--dlopen", "suggested"), {"required", "recommended", "inner", "suggested"}),
    ],
)
def test_add_brings_what_the_level_says_and_remembers_it(
    root: Path, tmp_path: Path, options: tuple[str, ...], expected: set[str]
) -> None:
    """In the request, unless it is the default; the edges say who opens what; check finds nothing wrong."""
    box = tmp_path / "box"
    add(box, "prog", *options, sysroot=root)
    assert opened(box) == expected
    level = options[-1] if options[:1] == ("--dlopen",) else "recommended"
    assert request(box).get("dlopen", "recommended") == level
    assert ("dlopen" in request(box)) == (level != "recommended")
    for name in expected - {"inner"}:
        edges = entries(box)[f"{LIB}/lib{name}.so"]["edges"]
        assert ("/usr/bin/prog", "dlopen") in [(edge["by"], edge["kind"]) for edge in edges]
    assert found(box) == {}
    assert run("update", "--dry-run", "--sysroot", root, box).returncode == 0


def test_update_keeps_the_level_until_it_is_told_another(root: Path, tmp_path: Path) -> None:
    """A later add of something else plans the same too, also where the source has changed meanwhile."""
    box = tmp_path / "box"
    add(box, "prog", "--dlopen", "none", sysroot=root)
    run("update", "--sysroot", root, box)
    assert opened(box) == set()
    with (root / "usr/bin/prog").open("ab") as file:
        file.write(b"changed")
    add(box, "ls", "prog", sysroot=root)
    assert opened(box) == set()
    done = run("update", "--sysroot", root, "--dlopen", "suggested", box)
    assert done.returncode == 0, done.stderr
    assert opened(box) == {"required", "recommended", "inner", "suggested"}
    assert (request(box)["dlopen"], request(box, "ls")["dlopen"]) == ("suggested", "suggested")
    run("update", "--sysroot", root, "--dlopen", "recommended", box)
    assert opened(box) == {"required", "recommended", "inner"}
    assert "dlopen" not in request(box)
    other = tmp_path / "other"
    add(other, "prog", "ls", sysroot=root)
    assert (box / ".jailbuild/manifest.jsonl").read_bytes() == (other / ".jailbuild/manifest.jsonl").read_bytes()


def test_a_manifest_with_a_level_that_there_is_none_of_is_not_believed(root: Path, tmp_path: Path) -> None:
    box = tmp_path / "box"
    add(box, "prog", "--dlopen", "none", sysroot=root)
    path = box / ".jailbuild/manifest.jsonl"
    path.write_text(path.read_text().replace('"dlopen": "none"', '"dlopen": "all"'))
    assert "dlopen is none of none, required" in complaint(run("update", "--sysroot", root, box))


def test_remove_takes_what_was_opened_and_why_tells_who_opens_it(root: Path, tmp_path: Path) -> None:
    box = tmp_path / "box"
    add(box, "prog", "bash", sysroot=root)
    done = run("why", box, f"{LIB}/libinner.so")
    assert done.stdout == (
        f"/usr/bin/prog (program) -> {LIB}/librecommended.so (dlopen) -> {LIB}/libinner.so (dlopen)\n"
    )
    run("remove", "prog", "--from", box)
    assert opened(box) == set()


def test_without_what_is_required_nothing_is_added_and_without_the_rest_a_note_says_so(
    root: Path, tmp_path: Path
) -> None:
    (root / tiny.LIBRARIES / "librecommended.so").unlink()
    done = add(tmp_path / "box", "prog", sysroot=root)
    assert "note: /usr/bin/prog would open librecommended.so (recommended, for f), which is in none of: " in done.stderr
    assert opened(tmp_path / "box") == {"required"}
    assert set(found(tmp_path / "box")) == {"missing-optional-library"}
    (root / tiny.LIBRARIES / "librequired.so").unlink()
    words = complaint(run("add", "prog", "--into", tmp_path / "none", "--sysroot", root))
    assert words.startswith("jailbuild: cannot add prog: /usr/bin/prog needs librequired.so, which is in none of: ")
    assert not (tmp_path / "none").exists()
    add(tmp_path / "none", "prog", "--dlopen", "none", sysroot=root)


def test_check_finds_what_is_opened_and_was_taken_away(root: Path, tmp_path: Path) -> None:
    """Required: an error, the rest: a note; with the manifest and without, as far as the program was put in with."""
    box = tmp_path / "box"
    add(box, "prog", sysroot=root)
    (box / tiny.LIBRARIES / "librequired.so").unlink()
    (box / tiny.LIBRARIES / "libinner.so").unlink()
    shutil.copytree(box, tmp_path / "bare", symlinks=True, ignore=shutil.ignore_patterns(".jailbuild"))
    for directory in (box, tmp_path / "bare"):
        say = found(directory)
        assert (say["missing-library"]["path"], say["missing-library"]["subject"]) == (
            "/usr/bin/prog",
            "librequired.so",
        )
        assert say["missing-optional-library"]["path"] == f"{LIB}/librecommended.so"
        assert say["missing-optional-library"]["subject"] == "libinner.so"
        assert "missing-optional-library" not in found(directory, "--dlopen", "required")
        assert not {"missing-library", "missing-optional-library"} & set(found(directory, "--dlopen", "none"))


def test_a_box_made_for_less_is_held_to_less(root: Path, tmp_path: Path) -> None:
    box = tmp_path / "box"
    add(box, "prog", "--dlopen", "none", sysroot=root)
    assert found(box) == {}
    assert set(found(box, "--dlopen", "required")) == {"missing-library"}
    assert set(found(box, "--dlopen", "recommended")) == {"missing-library", "missing-optional-library"}


def test_a_program_whose_notes_tell_what_it_opens_is_covered(tmp_path: Path) -> None:
    """uncovered-dlopen is for those that open something and tell nobody."""
    source = '#include <dlfcn.h>\nint main(void) { return dlopen("libz.so.1", RTLD_NOW) == 0; }\n'
    for name, notes in (("tells", assembly([entry("libz.so.1")])), ("silent", "")):
        subprocess.run(["gcc", "-x", "c", "-", "-o", tmp_path / name], input=notes + source, text=True, check=True)
        add(tmp_path / f"box-{name}", f"{tmp_path}/{name}:/usr/bin/{name}")
    assert "uncovered-dlopen" not in found(tmp_path / "box-tells")
    assert found(tmp_path / "box-silent")["uncovered-dlopen"]["path"] == "/usr/bin/silent"
    assert subprocess.run(["/usr/sbin/chroot", tmp_path / "box-tells", "/usr/bin/tells"], check=False).returncode == 0
    assert subprocess.run(["/usr/sbin/chroot", tmp_path / "box-silent", "/usr/bin/silent"], check=False).returncode == 1


# libgcc_s, which glibc opens by itself


_THREADS = """
#include <execinfo.h>
#include <pthread.h>
#include <unistd.h>
static void *ends(void *unused) { (void)unused; %s; return 0; }
int main(void) {
    pthread_t thread;
    void *frames[4];
    pthread_create(&thread, 0, ends, 0);
    %s;
    pthread_join(thread, 0);
    return %s;
}
"""
_WAYS = {
    "exit": ("pthread_exit(0)", "", "0"),
    "cancel": ("for (;;) pause()", "pthread_cancel(thread)", "0"),
    "backtrace": ("", "", "backtrace(frames, 4) < 1"),
}


def threads(target: Path, way: str, *flags: str) -> Path:
    """Make a program whose threads end in a way."""
    subprocess.run(
        ["gcc", "-x", "c", "-", "-o", target, "-pthread", *flags], input=_THREADS % _WAYS[way], text=True, check=True
    )
    return target


@pytest.mark.parametrize("options", [(), ("--bare",)], ids=["usual", "bare"])
@pytest.mark.parametrize("way", _WAYS)
def test_threads_that_end_early_work_in_a_box_made_by_add_alone(
    tmp_path: Path, way: str, options: tuple[str, ...]
) -> None:
    """Nothing NEEDs libgcc_s, and without it the program fails there; why says that libc opens it."""
    program, box = threads(tmp_path / "prog", way), tmp_path / "box"
    needed = subprocess.run(["readelf", "-d", program], capture_output=True, text=True, check=True).stdout
    assert LIBGCC not in needed
    add(box, f"{program}:/usr/bin/prog", *options)
    enter = ["/usr/sbin/chroot", str(box), "/usr/bin/prog"]
    assert subprocess.run(enter, check=False).returncode == 0
    library = next(path for path in entries(box) if path.endswith(f"/{LIBGCC}"))
    assert [edge["kind"] for edge in entries(box)[library]["edges"]] == ["dlopen"]
    assert f"libc.so.6 (needed) -> {library} (dlopen)" in run("why", box, library).stdout
    (box / library[1:]).unlink()
    assert subprocess.run(enter, check=False, capture_output=True).returncode != 0
    say = found(box)
    assert say["missing-file"]["path"] == library
    assert say["missing-optional-library"]["subject"] == LIBGCC


def test_a_library_whose_threads_end_early_brings_libgcc_s_too(tmp_path: Path) -> None:
    library, box = tmp_path / "libends.so", tmp_path / "box"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", library, "-Wl,-soname,libends.so"],
        text=True,
        input="#include <pthread.h>\nvoid ends(void) { pthread_exit(0); }\n",
        check=True,
    )
    subprocess.run(
        ["gcc", "-x", "c", "-", "-x", "none", "-o", tmp_path / "prog", library, "-Wl,-rpath,/opt/own"],
        input="void ends(void); int main(void) { ends(); }\n",
        text=True,
        check=True,
    )
    add(box, f"{library}:/opt/own/libends.so", f"{tmp_path}/prog:/usr/bin/prog")
    assert subprocess.run(["/usr/sbin/chroot", box, "/usr/bin/prog"], check=False).returncode == 0


def test_who_ends_no_thread_and_who_wants_nothing_opened_has_no_libgcc_s(tmp_path: Path) -> None:
    def has(box: Path) -> bool:
        return any(path.endswith(f"/{LIBGCC}") for path in entries(box))

    add(tmp_path / "one", "bash", "ls", "cat")
    assert not has(tmp_path / "one")
    program = threads(tmp_path / "prog", "exit")
    add(tmp_path / "two", f"{program}:/usr/bin/prog", "--dlopen", "none")
    assert not has(tmp_path / "two")
    assert "missing-optional-library" not in found(tmp_path / "two")
    add(tmp_path / "three", f"{threads(tmp_path / 'fixed', 'exit', '-static')}:/usr/bin/fixed")
    assert not has(tmp_path / "three")


def test_a_source_without_libgcc_s_is_told_and_not_refused(tmp_path: Path) -> None:
    """Most programs never come to where they would need it."""
    root = tmp_path / "root"
    for path in (tiny.LOADER, "/lib/x86_64-linux-gnu/libc.so.6"):
        (root / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.path.realpath(path), root / path[1:])
    (root / "usr/bin").mkdir(parents=True)
    threads(root / "usr/bin/prog", "exit")
    done = add(tmp_path / "box", "prog", sysroot=root)
    assert "/libc.so.6 would open libgcc_s.so.1 (recommended, for unwinding), which is in none of: " in done.stderr
    assert set(found(tmp_path / "box")) & {"missing-library", "missing-optional-library"} == {
        "missing-optional-library"
    }


def test_a_check_of_one_program_is_about_what_it_opens_too(root: Path, box: Path) -> None:
    """As far as it was put in with; and about what such a library would open in vain."""
    add(box, "prog", "--sysroot", root, "--dlopen", "suggested")
    assert found(box, "--program", "prog").keys() <= {"no-user-database"}
    with open(box / tiny.LIBRARIES / "libsuggested.so", "ab") as file:
        file.write(b"!")
    assert found(box, "--program", "prog")["changed-file"]["path"] == f"{LIB}/libsuggested.so"
    assert "changed-file" not in found(box, "--program", "prog", "--dlopen", "required")
    (root / tiny.LIBRARIES / "libinner.so").unlink()
    missed = found(root, "--program", "/usr/bin/prog")["missing-optional-library"]
    assert (missed["path"], missed["subject"]) == (f"{LIB}/librecommended.so", "libinner.so")
