"""The source root lives: what changes while it is looked at and copied, and who is at work there."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jailbuild.box.apply import apply_plan
from jailbuild.cli import change
from jailbuild.root import Root
from tests.box import tiny
from tests.box.running import NOBODY, add, complaint, dump, forked, here, inside, open_to_all, run

MOMENTS = 16  # of a run at which something changes, spread over it
RUNS = 4  # beside a package manager
DATA = "usr/share/app"
REQUESTS = ("bash", "--dir", f"/{DATA}")


@pytest.fixture
def sysroot(made: Path, tmp_path: Path) -> Path:
    """A copy of the small root with some data, the test's own."""
    root = tiny.clone(made, tmp_path / "sysroot")
    (root / DATA / "sub").mkdir(parents=True)
    for name in ("one", "two", "sub/three"):
        (root / DATA / name).write_text(f"{name} 1\n")
    (root / DATA / "link").symlink_to("one")
    tiny.backdate(root)
    return root


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What was waited for, without waiting."""
    waited: list[float] = []
    in_pauses(monkeypatch, waited.append)
    return waited


def in_pauses(monkeypatch: pytest.MonkeyPatch, act: Callable[[float], object]) -> None:
    """Do something instead of waiting for the source root to come to rest."""
    monkeypatch.setattr(change, "time", SimpleNamespace(sleep=act), raising=False)


def _put(path: Path, make: Callable[[Path], object]) -> None:
    """Replace a file as package managers do: made under a name of its own, and renamed."""
    make(new := path.with_name(f"{path.name}.dpkg-new"))
    new.rename(path)


def replace_library(root: Path) -> None:
    """A new version under a new name, the link to it renamed, the old one removed."""
    libraries = root / tiny.LIBRARIES
    tiny.library(libraries / "libtinfo.so.6.5", soname="libtinfo.so.6", value=60)
    _put(libraries / "libtinfo.so.6", lambda new: new.symlink_to("libtinfo.so.6.5"))
    (libraries / "libtinfo.so.6.4").unlink()


def replace_program(root: Path) -> None:
    libraries = root / tiny.LIBRARIES
    other = [libraries / "libtinfo.so.6.4", libraries / "libselinux.so.1"]
    _put(root / "usr/bin/bash", lambda new: tiny.program(new, *other))


def replace_data(root: Path) -> None:
    for name in ("one", "two", "sub/three"):
        _put(root / DATA / name, lambda new: new.write_text("of version 22\n"))


def take_data_away(root: Path) -> None:
    (root / DATA / "two").unlink()


def add_data(root: Path) -> None:
    (root / DATA / "four").write_text("four 2\n")


def turn_link(root: Path) -> None:
    _put(root / DATA / "link", lambda new: new.symlink_to("two"))


def turn_directory_into_link(root: Path) -> None:
    shutil.move(root / DATA / "sub", root / DATA / "other")
    (root / DATA / "sub").symlink_to("other")


def write_to_data(root: Path) -> None:
    with open(root / DATA / "two", "a", encoding="ascii") as file:
        file.write("and more\n")


CHANGES = [
    replace_library,
    replace_program,
    replace_data,
    take_data_away,
    add_data,
    turn_link,
    turn_directory_into_link,
    write_to_data,
]


@contextlib.contextmanager
def at_look(monkeypatch: pytest.MonkeyPatch, root: Path, number: int, act: Callable[[], object]) -> Iterator[list[int]]:
    """Do something just before the look with a number is taken at a root; give how many were taken, in a list."""
    taken = [0]
    look = Root._beneath

    def counted(self: Root, canonical: str, flags: int) -> int:
        if self.path == str(root):
            taken[0] += 1
            if taken[0] == number:
                act()
        return look(self, canonical, flags)

    with monkeypatch.context() as patched:
        patched.setattr(Root, "_beneath", counted)
        yield taken


def looks(monkeypatch: pytest.MonkeyPatch, root: Path, *arguments: str | Path) -> int:
    """Return how often a run looks at a root that holds still."""
    with at_look(monkeypatch, root, -1, lambda: None) as taken:
        assert here(*arguments).status == 0
    return taken[0]


@pytest.mark.parametrize("change_root", CHANGES)
def test_whenever_the_root_changes_a_box_is_of_one_state_of_it(
    sysroot: Path,
    tmp_path: Path,
    pauses: list[float],
    monkeypatch: pytest.MonkeyPatch,
    change_root: Callable[[Path], None],
) -> None:
    """The root as it was, or as it is; whatever vanished, or is another thing, is looked for anew."""

    def command(root: Path, box: Path) -> tuple[str | Path, ...]:
        return ("add", *REQUESTS, "--into", box, "--sysroot", root, "--no-sync")

    after = tiny.clone(sysroot, tmp_path / "after")
    change_root(after)
    states = []
    for root in (sysroot, after):
        assert here(*command(root, tmp_path / f"{root.name}.box")).status == 0
        states.append(dump(tmp_path / f"{root.name}.box", contents=True))
    assert states[0] != states[1]
    root = tmp_path / "root"
    tiny.clone(sysroot, root)
    total = looks(monkeypatch, root, *command(root, tmp_path / "still"))
    ends = set()
    for number in sorted({1 + total * moment // MOMENTS for moment in range(MOMENTS)} | {total}):
        for place in (root, tmp_path / "box"):
            shutil.rmtree(place, ignore_errors=True)
        tiny.clone(sysroot, root)
        with at_look(monkeypatch, root, number, lambda: change_root(root)):
            answer = here(*command(root, tmp_path / "box"))
        assert (number, 0, ()) == (number, answer.status, answer.errors)
        ends.add(states.index(dump(tmp_path / "box", contents=True)))
    assert 1 in ends
    assert len(pauses) >= 1


HOST_CHANGES = [replace_data, take_data_away, add_data, turn_link, turn_directory_into_link, write_to_data]


@pytest.mark.parametrize("is_planned", [False, True])
@pytest.mark.parametrize("change_root", [*HOST_CHANGES, None])
def test_on_the_host_itself_it_is_the_same(
    sysroot: Path,
    odd: tuple[Path, Path],
    box: Path,
    pauses: list[float],
    monkeypatch: pytest.MonkeyPatch,
    change_root: Callable[[Path], None] | None,
    is_planned: bool,
) -> None:
    """Something changes once all was looked at, or once the plan is made; None: a library."""
    program, library = (Path(shutil.copy(path, sysroot)) for path in odd)

    def late() -> None:
        if change_root is None:
            _put(library, lambda new: tiny.library(new, soname="libodd.so.1", value=44))
        else:
            change_root(sysroot)

    def apply_late(*arguments: Any) -> list[str]:
        if not pauses:
            late()
        return apply_plan(*arguments)

    def changed_late(self: Root) -> str | None:
        if not pauses:
            late()
        return changed(self)

    changed = Root.changed
    if is_planned:
        monkeypatch.setattr(change, "apply_plan", apply_late)
    else:
        monkeypatch.setattr(Root, "changed", changed_late)
    answer = here("add", program, "--library-path", sysroot, "--dir", sysroot / DATA, "--into", box, "--no-sync")
    assert (answer.status, answer.errors) == (0, ())
    if not (is_planned and change_root in (add_data, turn_link, turn_directory_into_link)):  # of the plan's moment
        assert len(pauses) == 1
        (within,) = (path for path in box.rglob("app") if path.is_dir())
        assert dump(within, contents=True) == dump(sysroot / DATA, contents=True)
        assert inside(box, str(program)).returncode == (33 if change_root is not None else 44)


@pytest.mark.parametrize("words", [("--dry-run",), ("--as-shell",)])
def test_a_plan_that_is_only_shown_is_made_anew_too(
    sysroot: Path, box: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    changed = Root.changed

    def changed_late(self: Root) -> str | None:
        if not pauses:
            replace_library(sysroot)
        return changed(self)

    monkeypatch.setattr(Root, "changed", changed_late)
    answer = here("add", *REQUESTS, "--into", box, "--sysroot", sysroot, *words)
    assert (answer.status, answer.errors) == (0, ())
    assert "libtinfo.so.6.5" in answer.out
    assert "libtinfo.so.6.4" not in answer.out
    assert len(pauses) == 1


def test_what_stays_in_the_box_is_of_the_same_state_as_what_is_replaced(
    sysroot: Path, box: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file was replaced before the plan, another between plan and copy: both come."""
    add(box, *REQUESTS, sysroot=sysroot)
    _put(sysroot / DATA / "one", lambda new: new.write_text("one 2, longer\n"))

    def late(*arguments: Any) -> list[str]:
        if not pauses:
            _put(sysroot / DATA / "two", lambda new: new.write_text("two 2, longer\n"))
        return apply_plan(*arguments)

    monkeypatch.setattr(change, "apply_plan", late)
    assert here("update", box, "--dir", f"/{DATA}", "--sysroot", sysroot, "--no-sync").status == 0
    assert [(box / DATA / name).read_text() for name in ("one", "two")] == ["one 2, longer\n", "two 2, longer\n"]
    assert len(pauses) == 1


def test_a_root_that_never_comes_to_rest_is_said_in_a_line(
    sysroot: Path, box: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time another file has come to the place; nothing is written, and the pauses grow, to some seconds."""
    numbers = itertools.count(10)

    def late(*arguments: Any) -> list[str]:
        _put(sysroot / DATA / "two", lambda new: new.write_text("2" * next(numbers)))
        return apply_plan(*arguments)

    monkeypatch.setattr(change, "apply_plan", late)
    answer = here("add", *REQUESTS, "--into", box, "--sysroot", sysroot, "--no-sync")
    why = f"/{DATA}/two: it changed since the plan was made"
    assert (1, (f"cannot add bash, /{DATA}: the source root keeps changing: {why}",)) == (answer.status, answer.errors)
    assert not box.exists()
    assert pauses == sorted(pauses)
    assert sum(pauses) < 10


# Holds a lock as dpkg and rpm do, or as apk does, until its stdin ends.
_HOLDING = """
import fcntl, sys
file = open(sys.argv[1], "w")
getattr(fcntl, sys.argv[2])(file, fcntl.LOCK_EX)
print(flush=True)
sys.stdin.read()
"""

LOCKS = [
    ("var/lib/dpkg/lock", "lockf"),
    ("var/lib/dpkg/lock-frontend", "lockf"),
    ("var/lib/rpm/.rpm.lock", "lockf"),
    ("usr/lib/sysimage/rpm/.rpm.lock", "lockf"),
    ("lib/apk/db/lock", "flock"),
]


@contextlib.contextmanager
def at_work(root: Path, lock: str = "var/lib/dpkg/lock", call: str = "lockf") -> Iterator[str]:
    """Have a package manager's lock held; give the line that says by whom."""
    path = root / lock
    path.parent.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDING, path, call], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"\n"
        name = Path(f"/proc/{holder.pid}/comm").read_text().strip()
        try:
            yield f"{name} (process {holder.pid})"
        finally:
            holder.stdin.close()


def write_database(root: Path, number: int) -> None:
    """Leave the trace of a package that dpkg has put in."""
    (root / "var/lib/dpkg").mkdir(parents=True, exist_ok=True)
    (root / "var/lib/dpkg/status-new").write_text("")
    (root / "var/lib/dpkg/status-new").rename(root / "var/lib/dpkg/status")
    os.utime(root / "var/lib/dpkg", (number, number))


def test_a_program_that_is_not_there_is_not_waited_for(sysroot: Path, box: Path, pauses: list[float]) -> None:
    """Nor where a package manager's lock lies about that nobody holds."""
    (sysroot / "var/lib/dpkg").mkdir(parents=True)
    (sysroot / "var/lib/dpkg/lock").touch()
    answer = here("add", "nosuch", "--into", box, "--sysroot", sysroot)
    assert answer.status == 1
    assert answer.errors[0].startswith("cannot add nosuch: no such program in ")
    assert pauses == []


@pytest.mark.parametrize(("lock", "call"), LOCKS)
def test_what_a_package_manager_has_in_hand_is_looked_for_anew(
    sysroot: Path, box: Path, monkeypatch: pytest.MonkeyPatch, lock: str, call: str
) -> None:
    """A program is away for a moment."""
    bash, aside = sysroot / "usr/bin/bash", sysroot / "aside"
    bash.rename(aside)
    in_pauses(monkeypatch, lambda _: aside.rename(bash))
    with at_work(sysroot, lock, call):
        answer = here("add", "bash", "--into", box, "--sysroot", sysroot, "--no-sync")
    assert (answer.status, answer.errors) == (0, ())
    assert (box / "usr/bin/bash").exists()


def test_update_looks_anew_for_a_program_that_is_away(
    sysroot: Path, box: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(box, "bash", "ls", sysroot=sysroot)
    ls, aside = sysroot / "usr/bin/ls", sysroot / "aside"
    ls.rename(aside)
    in_pauses(monkeypatch, lambda _: aside.rename(ls))
    with at_work(sysroot):
        answer = here("update", box, "--sysroot", sysroot, "--no-sync")
    assert (answer.status, answer.errors) == (0, ())
    assert "no longer in the source root" not in answer.words


def test_who_is_at_work_is_named_where_the_root_does_not_come_to_rest(
    sysroot: Path, box: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line each, and nothing is lost or written."""
    add(box, "bash", "ls", sysroot=sysroot)
    before = dump(box, contents=True, times=True, record=True)
    (sysroot / "usr/bin/ls").unlink()
    numbers = itertools.count(1)
    in_pauses(monkeypatch, lambda _: write_database(sysroot, next(numbers)))
    for arguments, what in (
        (("add", "ls", "nosuch", "--into", box), "add ls, nosuch"),
        (("update", box), f"update {box}"),
    ):
        with at_work(sysroot) as who:
            answer = here(*arguments, "--sysroot", sysroot, "--no-sync")
        line = f"cannot {what}: the source root keeps changing: {who} is at work there"
        said = answer.errors or (answer.words.splitlines()[0].removeprefix("jailbuild: "),)
        assert (1, (line,)) == (answer.status, said)
        assert before == dump(box, contents=True, times=True, record=True)


def test_where_nothing_is_written_the_error_is_told_and_who_waits(
    sysroot: Path, box: Path, pauses: list[float]
) -> None:
    """A package manager may hold its lock while it asks its user; a typing error stays one."""
    with at_work(sysroot) as who:
        done = forked("add", "nosuch", "--into", box, "--sysroot", sysroot)
    assert complaint(done).startswith("jailbuild: cannot add nosuch: no such program in ")
    assert done.stderr.splitlines()[1] == f"hint: {who} is at work in the source root: try again later"
    assert not box.exists()


LEFTOVERS = [
    "conf.dpkg-new",
    "conf.dpkg-tmp",
    "conf.dpkg-old",
    "conf.dpkg-dist",
    "conf.dpkg-bak",
    "conf.dpkg-backup",
    "conf.dpkg-remove",
    "conf.ucf-old",
    "conf.ucf-new",
    "conf.ucf-dist",
    "conf.rpmnew",
    "conf.rpmsave",
    "conf.rpmorig",
    "conf;5f3a01bc",
    "conf.apk-new",
    ".apk.0123456789abcdef0123456789abcdef0123456789abcdef",
    "conf.pacnew",
    "conf.pacsave",
    "conf.pacsave.1",
    "conf.pacorig",
]
PROPER = ["conf", "dpkg-new", "conf.dpkg", "conf.dpkg-newer", "conf;1", "conf;5f3a01bg", "rpmsave", "a.apk", "conf.bak"]


@pytest.fixture
def littered(sysroot: Path) -> Path:
    """The small root with leftovers among its data, of a package of dpkg's."""
    place = sysroot / DATA
    for name in [*LEFTOVERS, *PROPER]:
        (place / name).write_text(name)
    (place / "dir.dpkg-staging-dir").mkdir()
    (place / "dir.dpkg-staging-dir/file").write_text("")
    (sysroot / "var/lib/dpkg/info").mkdir(parents=True)
    listed = ["/.", *(f"/{DATA}/{name}" for name in [*LEFTOVERS, *PROPER, "one"])]
    (sysroot / "var/lib/dpkg/info/app.list").write_text("".join(f"{line}\n" for line in listed))
    (sysroot / "var/lib/dpkg/status").write_text("Package: app\nStatus: install ok installed\nArchitecture: all\n")
    return sysroot


@pytest.mark.parametrize(("name", "count"), [("status", 0), ("info/other.list", 0), ("info/app.list", 1)])
def test_what_dpkg_notes_of_other_packages_is_no_change(
    littered: Path, box: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch, name: str, count: int
) -> None:
    """It does so all the time while it upgrades a system; the list of the package that is asked for counts."""
    noted = littered / "var/lib/dpkg" / name
    noted.touch()
    changed = Root.changed

    def changed_late(self: Root) -> str | None:
        if not pauses:
            _put(noted, lambda new: shutil.copy(noted, new))
        return changed(self)

    monkeypatch.setattr(Root, "changed", changed_late)
    assert here("add", "bash", "--package", "app", "--sysroot", littered, "--into", box, "--no-sync").status == 0
    assert len(pauses) == count


RECIPES = {
    "pattern": f'files = ["/{DATA}/*", "/{DATA}/.apk*"]',
    "deep": f'files = ["/{DATA}/**/*", "/{DATA}/**/.apk*"]',
    "tree": f'tree = [{{ path = "/{DATA}" }}]',
}


@pytest.mark.parametrize(
    "words", [("--dir", f"/{DATA}"), ("--package", "app"), *(("--with", name) for name in RECIPES)]
)
def test_leftovers_come_by_no_tree_pattern_or_package(
    littered: Path, tmp_path: Path, box: Path, words: tuple[str, ...]
) -> None:
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    for name, bring in RECIPES.items():
        (recipes / f"{name}.toml").write_text(f'title = "x"\n\n[bring]\n{bring}\n')
    add(box, "bash", *words, "--recipes", recipes, sysroot=littered)
    there = set(os.listdir(box / DATA))
    assert there & {*LEFTOVERS, "dir.dpkg-staging-dir"} == set()
    assert {*PROPER, "one"} <= there


def test_what_is_named_comes_and_so_does_a_directory_of_the_users_own(littered: Path, box: Path) -> None:
    files = [word for name in LEFTOVERS for word in ("--file", f"/{DATA}/{name}")]
    add(box, *files, "--dir", f"{littered / DATA}:/mine", sysroot=littered)
    assert set(LEFTOVERS) <= set(os.listdir(box / DATA))
    assert {*LEFTOVERS, *PROPER, "dir.dpkg-staging-dir"} <= set(os.listdir(box / "mine"))


def _package(place: Path, version: int) -> Path:
    """Build a package: a program with a library of another name in each version, and data; all say the version."""
    root = place / f"tool-{version}"
    libraries = root / tiny.LIBRARIES
    library = tiny.library(libraries / f"libtool.so.1.{version}", soname="libtool.so.1", value=version)
    (libraries / "libtool.so.1").symlink_to(library.name)
    tiny.program(root / "usr/bin/tool", library)
    (root / "usr/share/tool").mkdir(parents=True)
    for number in range(20):
        (root / f"usr/share/tool/{number}").write_text(f"version {version}\n" * version)
    (root / f"usr/share/tool/only-{version}").write_text(f"version {version}\n" * version)
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN/control").write_text(
        f"Package: tool\nVersion: {version}\nArchitecture: all\nMaintainer: A B <a@example.org>\nDescription: a tool\n"
    )
    (place / f"{version}.deb").unlink(missing_ok=True)
    subprocess.run(
        ["dpkg-deb", "-b", "-Znone", "--root-owner-group", root, place / f"{version}.deb"],
        check=True,
        capture_output=True,
    )
    return place / f"{version}.deb"


@contextlib.contextmanager
def dpkg_at_work(root: Path, *packages: Path) -> Iterator[None]:
    """Have dpkg put in one version after the other, again and again."""
    stop = root.parent / "stop"
    dpkg = ["dpkg", f"--root={root}", "--force-unsafe-io", "--force-bad-path", "--no-triggers", "-i"]
    subprocess.run([*dpkg, packages[0]], check=True, capture_output=True)
    loop = 'stop=$1; shift; while :; do for deb in $DEBS; do [ -e "$stop" ] && exit; "$@" "$deb"; done; done'
    with subprocess.Popen(
        ["sh", "-c", loop, "sh", stop, *dpkg],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"DEBS": " ".join(map(str, packages))},
    ) as working:
        try:
            yield
        finally:
            stop.touch()
    assert working.returncode == 0
    stop.unlink()


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg and dpkg-deb")
@pytest.mark.skipif(os.geteuid() != 0, reason="dpkg unpacks only for root")
def test_beside_a_real_dpkg_every_run_ends_well_or_says_who_is_at_work(made: Path, tmp_path: Path, box: Path) -> None:
    """Whatever the moment; and once dpkg has ended, a run gives a box that is all of one version."""
    root = tiny.clone(made, tmp_path / "root")
    for name in ("info", "updates", "triggers"):
        (root / "var/lib/dpkg" / name).mkdir(parents=True)
    for name in ("status", "available"):
        (root / "var/lib/dpkg" / name).touch()
    debs = [_package(tmp_path, version) for version in (1, 2)]
    requests = ("tool", "--dir", "/usr/share/tool", "--package", "tool")
    with dpkg_at_work(root, *debs):
        for number in range(RUNS):
            for command in (
                ("add", *requests, "--into", tmp_path / f"box{number}"),
                ("add", *requests, "--into", box),
                ("update", box, "--dir", "/usr/share/tool"),
            ):
                if command[0] == "update" and not box.exists():
                    continue
                done = run(*command, "--sysroot", root, "--no-sync")
                if done.returncode != 0:
                    assert "the source root keeps changing" in complaint(done)
    add(box, *requests, sysroot=root)
    done = run("update", box, "--dir", "/usr/share/tool", "--sysroot", root, "--no-sync")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    version = inside(box, "/usr/bin/tool").returncode
    texts = {path.read_text() for path in (box / "usr/share/tool").iterdir()}
    assert texts == {f"version {version}\n" * version}
    assert not list(box.rglob("*.dpkg-*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to run as somebody else")
def test_who_holds_a_lock_is_told_without_leave_to_open_it(
    sysroot: Path, tmp_path: Path, box: Path, pauses: list[float]
) -> None:
    """The lock is root's alone, the list of all locks is everybody's."""

    def become_nobody() -> None:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)

    open_to_all(tmp_path)
    with at_work(sysroot) as who:
        (sysroot / "var/lib/dpkg/lock").chmod(0o600)
        done = forked("add", "/usr/bin/nosuch", "--into", box, "--sysroot", sysroot, prepare=become_nobody)
    assert done.returncode == 1
    assert f"hint: {who} is at work in the source root: try again later" in done.stderr
