"""Which directory may become a box: an empty one, none yet, a box; another with --adopt; never the system's own.

What could harm the machine where a rule is missing is asked with --dry-run alone.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jailbuild import syscalls
from jailbuild.box.add import AddSpec, plan_addition
from jailbuild.box.apply import Writing, apply_plan
from jailbuild.box.record import BoxChangedError
from jailbuild.box.target import PlanOptions
from jailbuild.errors import JailError
from jailbuild.root import Root
from tests.box import tiny
from tests.box.running import (
    NOBODY,
    Answer,
    add,
    complaint,
    dump,
    entries,
    forked,
    here,
    open_to_all,
    run,
    state,
)

CAP_SYS_ADMIN = 1 << 21  # linux/capability.h
SHARED = ("/", "/home", "/media", "/mnt", "/opt", "/root", "/run", "/srv", "/tmp", "/var", "/var/lib", "/var/tmp")
SYSTEMS = (
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib64",
    "/proc",
    "/sbin",
    "/sys",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/share",
    "/var/log",
)


def wanted(box: object, *arguments: str | Path, sysroot: Path) -> Answer:
    """Say what `add bash --dry-run` says."""
    return here("add", "bash", "--dry-run", "--sysroot", sysroot, "--into", str(box), *arguments)


def refusal(box: object, *arguments: str | Path, sysroot: Path) -> str:
    """Return the one cause for which a directory is refused."""
    answer = wanted(box, *arguments, sysroot=sysroot)
    assert (answer.status, answer.out) == (1, ""), answer
    (cause,) = answer.errors
    assert cause.startswith(f"cannot make a box at {box}: "), cause
    return cause.removeprefix(f"cannot make a box at {box}: ")


# what is not empty


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A directory of the user's that is no box."""
    place = tmp_path / "full"
    (place / "usr/bin").mkdir(parents=True)
    (place / "notes").write_text("precious\n")
    return place


@pytest.mark.parametrize("option", ["--no-sync", "--dry-run", "--as-shell", "--json"])
def test_a_directory_with_something_else_in_it_is_refused(made: Path, full: Path, option: str) -> None:
    """Whatever the run was for; nothing is written, and the hint names the ways on."""
    before = state(full)
    done = add(full, "bash", option, sysroot=made, status=1)
    assert complaint(done) == f"jailbuild: cannot make a box at {full}: it is not empty and no box"
    assert done.stderr.splitlines()[1:] == ["hint: name an empty directory, or --adopt to leave what is there as it is"]
    assert done.stdout == ""
    assert state(full) == before


def test_an_ordinary_user_is_refused_too(made: Path, full: Path, tmp_path: Path) -> None:
    """Of his own directory; with --adopt it becomes a box."""
    open_to_all(made, tmp_path)
    for directory, _, files in os.walk(full):
        for path in [directory, *(os.path.join(directory, name) for name in files)]:
            os.chown(path, NOBODY, NOBODY)
    before = state(full)
    assert "it is not empty and no box" in complaint(add(full, "bash", sysroot=made, status=1, nobody=True))
    assert state(full) == before
    add(full, "bash", "--adopt", sysroot=made, nobody=True)
    assert (full / "notes").read_text() == "precious\n"
    assert "/notes" not in entries(full)


@pytest.mark.parametrize("name", ["hidden", ".hidden", "link", "fifo", "odd\udcff", ".jailbuild"])
def test_one_name_of_whatever_kind_is_something(made: Path, box: Path, name: str) -> None:
    """A /.jailbuild with nothing of ours in it too."""
    box.mkdir()
    if name == "link":
        (box / name).symlink_to("nowhere")
    elif name == "fifo":
        os.mkfifo(box / name)
    elif name == ".jailbuild":
        (box / name).mkdir()
        (box / name / "theirs").touch()
    else:
        (box / name).mkdir()
    assert refusal(box, sysroot=made) == "it is not empty and no box"


def test_what_is_empty_or_absent_needs_no_adopt_and_takes_it(made: Path, tmp_path: Path) -> None:
    """A box as well: with and without it is the same."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty, adopted").mkdir()
    for name in ("absent", "absent, adopted", "empty", "empty, adopted"):
        how = ["--adopt"] if "adopted" in name else []
        add(tmp_path / name, "bash", *how, sysroot=made)
        add(tmp_path / name, "ls", *how, sysroot=made)
        assert dump(tmp_path / name, contents=True) == dump(tmp_path / "absent", contents=True)
        assert entries(tmp_path / name) == entries(tmp_path / "absent")


def test_a_new_file_system_counts_as_empty(made: Path, box: Path) -> None:
    """mke2fs(8) makes lost+found."""
    (box / "lost+found").mkdir(parents=True, mode=0o700)
    add(box, "bash", sysroot=made)
    assert "/lost+found" not in entries(box)
    assert (box / "lost+found").is_dir()


@pytest.mark.parametrize("has_lock", [True, False])
def test_a_record_that_holds_nothing_is_a_box_in_the_making(made: Path, box: Path, has_lock: bool) -> None:
    (box / ".jailbuild").mkdir(parents=True, mode=0o700)
    if has_lock:
        (box / ".jailbuild/lock").touch()
    assert wanted(box, sysroot=made).status == 0
    add(box, "bash", sysroot=made)


@pytest.mark.parametrize("step", ["staging:1", "mkdir:1", "commit:1"])
def test_what_a_killed_first_writer_left_is_a_box_in_the_making(made: Path, box: Path, step: str) -> None:
    """A dry run does not clean it up first."""
    done = forked("add", "bash", "--into", box, "--sysroot", made, die_at=step)
    assert done.returncode == -signal.SIGKILL, done
    assert wanted(box, sysroot=made).status == (3 if step == "commit:1" else 0)  # nothing can be told of half a change
    assert here("add", "bash", "--into", box, "--sysroot", made, "--no-sync").status == 0


# --adopt


@pytest.fixture
def adopted(made: Path, box: Path) -> Path:
    """A box made of a directory with a program that is the source root's own, and a file of the user's."""
    (box / "usr/bin").mkdir(parents=True)
    (box / "etc").mkdir()
    shutil.copy2(made / "usr/bin/bash", box / "usr/bin/bash")
    (box / "notes").write_text("precious\n")
    add(box, "bash", "--adopt", sysroot=made)
    return box


def of_the_user(box: Path) -> dict[str, str]:
    """Return what was in the adopted directory, as it is now."""
    return {path: what for path, what in dump(box, contents=True).items() if path in ("/usr/bin/bash", "/notes")}


def test_what_is_there_and_identical_satisfies_a_need_and_stays_unlisted(adopted: Path, made: Path) -> None:
    listed = entries(adopted)
    assert "/usr/bin/bash" not in listed
    assert "/notes" not in listed
    assert f"/{tiny.LIBRARIES}/libtinfo.so.6.4" in listed
    done = run("check", adopted)
    assert done.returncode == 0, done.stdout
    for path in ("/notes", "/usr/bin/bash"):
        assert any(path in line and "[unlisted-file]" in line for line in done.stdout.splitlines()), done.stdout


def test_what_differs_is_a_conflict_and_all_of_it_is_named(made: Path, full: Path) -> None:
    (full / "usr/bin/bash").write_text("mine\n")
    (full / "lib64").mkdir()
    before = state(full)
    done = add(full, "bash", "ls", "--adopt", sysroot=made, status=1)
    said = done.stderr.splitlines()
    assert [line.split()[3].rstrip(":") for line in said if line.startswith("jailbuild: ")] == [
        "/lib64",
        "/usr/bin/bash",
    ]
    assert said[-1].startswith("hint: nothing was written")
    assert state(full) == before


def test_a_made_file_that_differs_stays_the_users(tmp_path: Path) -> None:
    """A recipe's /etc/passwd, of this machine's ls."""
    box = tmp_path / "box"
    (box / "etc").mkdir(parents=True)
    (box / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    done = add(box, "ls", "--adopt")
    assert "note: /etc/passwd is yours in the box, and stays as it is" in done.stderr.splitlines()
    assert (box / "etc/passwd").read_text() == "root:x:0:0::/:/bin/sh\n"
    assert "/etc/passwd" not in entries(box)


def test_an_adopted_box_is_a_box_like_any_other_to_later_commands(adopted: Path, sysroot: Path) -> None:
    """None of them needs --adopt, and none touches what it did not put there."""
    before = of_the_user(adopted)
    assert len(before) == 2
    add(adopted, "ls", sysroot=sysroot)
    assert of_the_user(adopted) == before
    tiny.library(sysroot / tiny.LIBRARIES / "libpcre.so.8.1", soname="libpcre.so.8", value=80)
    done = run("update", adopted, "--no-sync", "--sysroot", sysroot)
    assert done.returncode == 0, done.stderr
    assert "libpcre.so.8.1" in done.stdout
    assert of_the_user(adopted) == before
    assert run("remove", "ls", "--from", adopted, "--no-sync").returncode == 0
    assert run("remove", "bash", "--from", adopted, "--no-sync").returncode == 0
    assert of_the_user(adopted) == before
    assert not (adopted / tiny.LIBRARIES).exists()


# links


def test_links_to_a_directory_are_followed(made: Path, tmp_path: Path) -> None:
    """One after the other; what is said names what was typed."""
    (tmp_path / "box").mkdir()
    (tmp_path / "near").symlink_to("box")
    (tmp_path / "far").symlink_to(tmp_path / "near")
    done = add(tmp_path / "far", "bash", sysroot=made)
    assert done.stderr.startswith(f"{tmp_path}/far: bash: wrote ")
    assert sorted(os.listdir(tmp_path)) == ["box", "far", "near"]
    assert (tmp_path / "box/.jailbuild/manifest.jsonl").exists()


def test_a_link_to_a_full_directory_is_refused_by_its_own_name(made: Path, full: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(full)
    assert refusal(tmp_path / "link", sysroot=made) == "it is not empty and no box"


def test_a_link_that_leads_nowhere_is_refused(made: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")
    assert refusal(tmp_path / "link", sysroot=made) == "it is a link that leads nowhere"
    assert "symbolic links" in refusal(tmp_path / "circle", "--adopt", sysroot=made)
    assert not (tmp_path / "nowhere").exists()


def swap_link(link: Path, full: Path) -> None:
    link.unlink()
    link.symlink_to(full)


def swap_directory(link: Path, full: Path) -> None:
    target = link.resolve()
    target.rename(target.with_name("aside"))
    full.rename(target)


@pytest.mark.parametrize("swap", [swap_link, swap_directory])
def test_a_directory_that_was_swapped_since_it_was_looked_at_is_not_written_to(
    made: Path, full: Path, tmp_path: Path, swap: Callable[[Path, Path], None]
) -> None:
    """The command looks again, and refuses the other one."""
    (tmp_path / "empty").mkdir()
    link = tmp_path / "link"
    link.symlink_to("empty")
    addition = plan_addition(Root(str(made)), AddSpec(("bash",)), str(link), PlanOptions())
    swap(link, full)
    before = state(tmp_path)
    with pytest.raises(BoxChangedError):
        apply_plan(addition.plan, str(link), addition.source, Writing(sync=False))
    assert state(tmp_path) == before
    with pytest.raises(JailError, match="it is not empty and no box"):
        plan_addition(Root(str(made)), AddSpec(("bash",)), str(link), PlanOptions())


def test_a_directory_that_was_made_since_there_was_none_is_not_written_to(made: Path, full: Path, box: Path) -> None:
    addition = plan_addition(Root(str(made)), AddSpec(("bash",)), str(box), PlanOptions())
    full.rename(box)
    before = state(box)
    with pytest.raises(BoxChangedError):
        apply_plan(addition.plan, str(box), addition.source, Writing(sync=False))
    assert state(box) == before


def test_a_parent_that_was_swapped_leads_no_box_into_dev(made: Path, tmp_path: Path) -> None:
    """What was made there is removed again."""
    (tmp_path / "empty").mkdir()
    link = tmp_path / "link"
    link.symlink_to("empty")
    box = link / f"box of {tmp_path.name}"
    addition = plan_addition(Root(str(made)), AddSpec(("bash",)), str(box), PlanOptions())
    swap_link(link, Path("/dev/shm"))
    try:
        with pytest.raises(JailError, match="it is in the running system's own /dev"):
            apply_plan(addition.plan, str(box), addition.source, Writing(sync=False))
        assert not os.path.lexists(box)
    finally:
        shutil.rmtree(box, ignore_errors=True)


# the running system's own


@pytest.mark.parametrize("path", [path for path in (*SHARED, *SYSTEMS) if os.path.isdir(path)])
@pytest.mark.parametrize("option", ["--no-sync", "--adopt"])
def test_the_running_systems_own_directories_are_refused(made: Path, tmp_path: Path, path: str, option: str) -> None:
    """By whatever name: also one with a slash behind it, a link, /proc/self/root."""
    assert refusal(path, option, sysroot=made) == "it is the running system's own"
    (tmp_path / "link").symlink_to(path)
    for name in (f"{path}/", f"/.{path}/.", tmp_path / "link", f"/proc/self/root{path}"):
        assert refusal(name, option, sysroot=made).startswith("it is the running system's own /")


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/", "name a directory below it"),
        ("/tmp", "name a directory below it"),
        ("/etc", "name a directory elsewhere"),
    ],
)
def test_the_hint_names_a_directory_below_where_that_makes_sense(made: Path, path: str, hint: str) -> None:
    """To an ordinary user too."""
    open_to_all(made)
    for nobody in (True, False):
        done = add(Path(path), "bash", "--dry-run", "--adopt", sysroot=made, status=1, nobody=nobody)
        assert done.stderr.splitlines() == [
            f"jailbuild: cannot make a box at {path}: it is the running system's own",
            f"hint: {hint}",
        ]


def test_a_place_for_one_of_them_is_refused_where_there_is_none(made: Path) -> None:
    for path in ("/efi", "/lib32", "/libx32", "/usr/lib32", "/usr/libx32"):
        if not os.path.lexists(path):
            assert refusal(path, sysroot=made) == "it is the running system's own"
            assert refusal(f"/proc/self/root{path}/", sysroot=made) == f"it is the running system's own {path}"


def test_nothing_in_dev_proc_and_sys_becomes_a_box(made: Path, tmp_path: Path) -> None:
    """Absent, empty or full."""
    (tmp_path / "link").symlink_to("/sys/kernel")
    for path, tree in (
        ("/dev/shm/none", "/dev"),
        ("/proc/self/fd", "/proc"),
        ("/proc/none", "/proc"),
        (tmp_path / "link", "/sys"),
        ("/dev/fd/../none", "/proc"),
        ("/sys/none", "/sys"),
    ):
        for option in ("--no-sync", "--adopt"):
            assert refusal(path, option, sysroot=made) == f"it is in the running system's own {tree}"


def test_what_packages_filled_is_not_adopted(made: Path) -> None:
    for path in ("/usr/lib/x86_64-linux-gnu", "/etc/alternatives", "/usr/share/doc"):
        for option in ("--no-sync", "--adopt"):
            assert refusal(path, option, sysroot=made) == "it is the running system's own"


@pytest.mark.parametrize("parent", ["/", "/etc", "/home", "/mnt", "/opt", "/srv", "/tmp", "/usr/local", "/var/lib"])
def test_directories_below_them_are_the_users(made: Path, parent: str) -> None:
    path = os.path.join(parent, "box of test_which_directory")
    assert wanted(path, sysroot=made).status == 0
    assert not os.path.lexists(path)


def test_the_source_root_is_no_place_for_a_box_and_below_it_is(sysroot: Path) -> None:
    """Also its own /srv: it is not the running system's."""
    (sysroot / "srv").mkdir()
    for option in ("--no-sync", "--adopt"):
        assert refusal(sysroot, option, sysroot=sysroot) == "it is the source root itself"
        assert wanted(sysroot / "srv", option, sysroot=sysroot).status == 0
        assert wanted(sysroot / "box", option, sysroot=sysroot).status == 0


@pytest.fixture
def mounting() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a script of sh, with its arguments as "$@", where its mounts are its own."""
    if not syscalls.capabilities() & CAP_SYS_ADMIN:
        pytest.skip("mounting needs CAP_SYS_ADMIN")

    def run_mounting(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "--", "sh", "-ec", script, "sh", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run_mounting


def test_what_the_administrator_filled_below_usr_local_is_adopted(
    made: Path, mounting: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    script = (
        "mount -t tmpfs none /usr/local/src; mkdir /usr/local/src/box; touch /usr/local/src/box/notes; "
        'exec "$1" -m jailbuild add bash --sysroot "$2" --into /usr/local/src/box $3'
    )
    assert "not empty" in mounting(script, sys.executable, made, "").stderr
    assert mounting(script, sys.executable, made, "--adopt").returncode == 0


@pytest.mark.parametrize("path", ["/srv", "/usr", "/var/lib"])
def test_a_bind_mount_hides_none_of_them(
    made: Path, tmp_path: Path, mounting: Callable[..., subprocess.CompletedProcess[str]], path: str
) -> None:
    place = tmp_path / "mounted"
    place.mkdir()
    done = mounting(
        'mount --bind "$1" "$2"; exec "$3" -m jailbuild add bash --sysroot "$4" --adopt --dry-run --into "$2"',
        path,
        place,
        sys.executable,
        made,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[0] == (
        f"jailbuild: cannot make a box at {place}: it is the running system's own {path}"
    )


def test_a_box_that_is_there_is_not_written_to_as_one_of_them(
    made: Path, tmp_path: Path, mounting: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """Every command that writes holds to it."""
    box = tmp_path / "box"
    add(box, "bash", "ls", sysroot=made)
    before = state(box)
    done = mounting(
        'mount --bind "$1" /srv; exec "$2" -m jailbuild remove ls --from /srv',
        box,
        sys.executable,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("jailbuild: cannot make a box at /srv: it is the running system's own\n")
    assert state(box) == before


def test_an_empty_volume_mounted_below_them_is_the_users(
    made: Path, tmp_path: Path, mounting: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """At /mnt itself it is not."""
    script = (
        'mount -t tmpfs none /mnt; mkdir -p "/mnt$1"; exec "$2" -m jailbuild add bash --sysroot "$3" --into "/mnt$1"'
    )
    assert mounting(script, "/volume", sys.executable, made).returncode == 0
    done = mounting(script, "", sys.executable, made)
    assert done.returncode == 1
    assert done.stderr.startswith("jailbuild: cannot make a box at /mnt: it is the running system's own\n")


def test_the_callers_home_directory_is_refused(
    made: Path, tmp_path: Path, mounting: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """As passwd has it, whatever HOME says; below it is his."""
    home = tmp_path / "home"
    home.mkdir()
    passwd = tmp_path / "passwd"
    passwd.write_text(f"root:x:0:0::{home}:/bin/sh\n")
    script = (
        'mount --bind "$1" /etc/passwd; export HOME=/nowhere; '
        'exec "$2" -m jailbuild add bash --sysroot "$3" --adopt --dry-run --into "$4"'
    )
    done = mounting(script, passwd, sys.executable, made, home)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"jailbuild: cannot make a box at {home}: it is your home directory",
        "hint: name a directory below it",
    ]
    assert mounting(script, passwd, sys.executable, made, home / "box").returncode == 0
