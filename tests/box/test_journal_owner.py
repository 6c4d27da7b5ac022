"""Whose change was cut short: one's own is finished by the next command, another user's only when that is asked for."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jailbuild.box.record import Record
from jailbuild.box.stage import staged_name
from tests.box.running import (
    NOBODY,
    PATIENCE,
    Done,
    complaint,
    dump,
    forked,
    manifest,
    objects,
    open_to_all,
    put,
    state,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: who else could be two users")

RECORD = ".jailbuild"
BEFORE, AFTER = ("staging:1", "stage:2", "next:1", "directory:1", "finished:1"), ("commit:1", "place:1", "place:2")
READERS = ("list", "why", "check", "enter")
WRITERS = ("add", "remove", "update")


def _be(uid: int) -> Callable[[], None]:
    def become() -> None:
        if uid:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)

    return become


class Box:
    """A box in a directory that everybody may write to, and calls of jailbuild on it by several users."""

    def __init__(self, path: Path, sysroot: Path, owner: int) -> None:
        self.path = path
        self.record = path / RECORD
        self.sysroot = sysroot
        self.owner = owner
        assert self.call(owner, "add", "bash").returncode == 0

    def call(self, uid: int, verb: str, *words: str | Path, die_at: str = "") -> Done:
        """Run a command of jailbuild on the box as a user."""
        into = {"add": ("--into",), "remove": ("--from",)}.get(verb, ())
        root = ("--sysroot", self.sysroot) if verb in ("add", "update") and "--recover" not in words else ()
        return forked(verb, *words, *into, self.path, *root, die_at=die_at, prepare=_be(uid))

    def do(self, uid: int, verb: str, *options: str) -> Done:
        """Run any of the commands in a way that succeeds, but for `enter`, which has the status of the program."""
        if verb in ("why", "enter"):
            plain = ("--plain",) if verb == "enter" else ()
            return forked(verb, *plain, self.path, "/usr/bin/bash", prepare=_be(uid))
        return self.call(uid, verb, *{"add": ("ls",), "remove": ("bash",)}.get(verb, ()), *options)

    def cut_short(self, uid: int, step: str = "commit:1") -> None:
        """Change the box as a user, who is killed at a step."""
        done = self.call(uid, "add", "ls", "editor", die_at=step)
        assert done.returncode == -signal.SIGKILL, done

    def left(self) -> set[str]:
        """Return what is in the record that does not belong there between two changes."""
        return set(os.listdir(self.record)) - {"lock", "manifest.jsonl"}

    @property
    def requests(self) -> set[str]:
        """What was asked of the box."""
        return {line["name"] for line in manifest(self.path) if line["kind"] == "request"}

    @property
    def recovery(self) -> str:
        """The command that ends whoever's change."""
        return f"jailbuild update --recover {self.path}"


@pytest.fixture
def box_of(made: Path, tmp_path: Path) -> Callable[[int], Box]:
    """Make a box of a user."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    open_to_all(made, tmp_path)
    return lambda uid: Box(tmp_path / "shared/box", made, uid)


@pytest.fixture
def after(made: Path, tmp_path: Path) -> dict[str, str]:
    """What a box has after the change that is cut short here."""
    put(tmp_path / "after", "bash", "editor", "ls", root=made)
    return dump(tmp_path / "after", contents=True)


@pytest.mark.parametrize("step", ["next:1", "commit:1"])
@pytest.mark.parametrize("verb", READERS + WRITERS)
@pytest.mark.parametrize(("owner", "uid"), [(0, 0), (NOBODY, NOBODY), (NOBODY, 0)])
def test_ones_own_is_ended_by_the_next_command(
    box_of: Callable[[int], Box], owner: int, uid: int, verb: str, step: str
) -> None:
    """Root's also in another user's box, who can read the manifest afterwards."""
    box = box_of(owner)
    box.cut_short(uid, step)
    left = {name: (box.record / name).stat().st_uid for name in box.left()}
    assert left == dict.fromkeys(["staging", *(["journal"] if step == "commit:1" else [])], uid)
    done = box.do(uid, verb)
    said = "finished a change that was cut short" if step == "commit:1" else "cleaned up after a change"
    assert f"note: {box.path}: {said}" in done.stderr
    assert done.returncode == {"enter": 125 if uid else 6}.get(verb, 0), done
    assert box.left() == set()
    assert ("ls" in box.requests) == (step == "commit:1" or verb == "add")
    assert (box.record / "manifest.jsonl").stat().st_uid == owner
    assert box.do(owner, "list").returncode == 0


@pytest.mark.parametrize("step", ["next:1", "place:2", "finished:1"])
@pytest.mark.parametrize("verb", READERS)
@pytest.mark.parametrize(("killed", "uid"), [(NOBODY, 0), (0, NOBODY)])
def test_who_only_reads_says_that_there_is_anothers(
    box_of: Callable[[int], Box], killed: int, uid: int, verb: str, step: str
) -> None:
    """In one line with the command that ends it; goes on; and writes nothing."""
    box = box_of(NOBODY)
    box.cut_short(killed, step)
    before = state(box.path)
    done = box.do(uid, verb)
    told = [line for line in done.stderr.splitlines() if "cut short" in line]
    end = "finishes it" if (box.record / "journal").exists() else "takes it back"
    assert told == [f"warning: a change of {box.path} by uid {killed} was cut short: {box.recovery} {end}"]
    assert done.returncode in {"enter": (6, 125), "check": (0, 3)}.get(verb, (0,)), done
    assert before == state(box.path)


@pytest.mark.parametrize("step", ["staging:1", "commit:1", "finished:1"])
@pytest.mark.parametrize("options", [(), ("--dry-run",), ("--no-wait",)])
@pytest.mark.parametrize("verb", WRITERS)
@pytest.mark.parametrize(("killed", "uid"), [(NOBODY, 0), (0, NOBODY)])
def test_who_writes_is_refused(
    box_of: Callable[[int], Box], killed: int, uid: int, verb: str, options: tuple[str, ...], step: str
) -> None:
    """Status 1, a line and the command that ends it; nothing has changed, not even a time."""
    box = box_of(NOBODY)
    box.cut_short(killed, step)
    before = state(box.path)
    done = box.do(uid, verb, *options)
    assert complaint(done) == (
        f"jailbuild: cannot write {box.path}: a change of {box.path} by uid {killed} was cut short"
    )
    assert done.stderr.splitlines()[1] == f"hint: {box.recovery}"
    assert done.stdout == ""
    assert before == state(box.path)


def test_a_script_is_not_written_for_half_of_a_change(box_of: Callable[[int], Box]) -> None:
    """Likewise a plan."""
    box = box_of(NOBODY)
    box.cut_short(NOBODY)
    assert "by uid 65534 was cut short" in complaint(box.call(0, "add", "ls", "--as-shell"))


@pytest.mark.parametrize("verb", WRITERS)
@pytest.mark.parametrize(
    ("step", "end"),
    [
        ("commit:1", "finishes it"),
        ("place:2", "finishes it"),
        ("next:1", "cleans up after it"),
        ("finished:1", "cleans up after it"),
    ],
)
def test_a_dry_run_leaves_ones_own_too(box_of: Callable[[int], Box], verb: str, step: str, end: str) -> None:
    """It says so, writes nothing, and where half of the change is there plans nothing: status 3."""
    box = box_of(0)
    box.cut_short(0, step)
    before = state(box.path)
    done = box.do(0, verb, "--dry-run")
    told = [line for line in done.stderr.splitlines() if "cut short" in line]
    assert told == [f"note: a change of {box.path} was cut short: the next command {end}"]
    if end == "finishes it":
        assert (done.returncode, done.stdout, done.stderr) == (3, "", f"{told[0]}\n")
    else:
        assert done.returncode == 0, done
        assert done.stdout or "is up to date" in done.stderr
    assert before == state(box.path)


def test_a_script_is_not_written_for_half_of_ones_own_change(box_of: Callable[[int], Box]) -> None:
    box = box_of(0)
    box.cut_short(0)
    before = state(box.path)
    done = box.call(0, "add", "ls", "--as-shell")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == f"note: a change of {box.path} was cut short: the next command finishes it\n"
    assert before == state(box.path)


def test_a_dry_run_of_several_boxes_tells_of_others(box_of: Callable[[int], Box], made: Path, tmp_path: Path) -> None:
    box = box_of(0)
    box.cut_short(0)
    put(tmp_path / "other", "bash", root=made)
    done = forked("update", "--dry-run", box.path, tmp_path / "other", "--sysroot", made)
    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        f"note: a change of {box.path} was cut short: the next command finishes it",
        f"{tmp_path / 'other'}: is up to date",
    ]


def test_of_several_boxes_the_others_are_updated(box_of: Callable[[int], Box], made: Path, tmp_path: Path) -> None:
    """A line for the one that is refused, and status 1."""
    box = box_of(NOBODY)
    box.cut_short(NOBODY)
    put(tmp_path / "other", "bash", root=made)
    done = forked("update", box.path, tmp_path / "other", "--sysroot", made)
    assert done.returncode == 1
    assert f"hint: {box.recovery}" in done.stderr
    assert f"{tmp_path / 'other'}: nothing to do" in done.stderr


@pytest.mark.parametrize("step", BEFORE + AFTER)
@pytest.mark.parametrize("killed", [0, NOBODY])
@pytest.mark.parametrize("uid", [0, NOBODY])
def test_recover_ends_anyones_change_and_does_no_more(
    box_of: Callable[[int], Box], after: dict[str, str], killed: int, uid: int, step: str
) -> None:
    """As root; another user at what root left is told who can. What there is not is said too, with status 0."""
    box = box_of(NOBODY)
    was = dump(box.path, contents=True)
    box.cut_short(killed, step)
    before = state(box.path)
    done = box.call(uid, "update", "--recover")
    if killed == 0 != uid:
        assert "only uid 0 or root can finish it" in complaint(done)
        assert f"hint: sudo {box.recovery}" in done.stderr
        assert before == state(box.path)
        return
    by = "" if killed == uid else f" by uid {killed}"
    said = f"finished a change{by} that was cut short" if step in AFTER else f"cleaned up after a change{by} that was"
    assert done.returncode == 0, done
    assert done.stderr.startswith(f"{box.path}: {said}")
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert box.left() == set()
    assert dump(box.path, contents=True) == (after if step in (*AFTER, "finished:1") else was)
    assert (box.record / "manifest.jsonl").stat().st_uid == NOBODY
    before = state(box.path)
    done = box.call(uid, "update", "--recover")
    assert (done.returncode, done.stderr) == (0, f"{box.path}: nothing to recover\n")
    assert box.call(uid, "update", "--recover", "--quiet").stderr == ""
    assert before == state(box.path)


def test_a_kill_just_before_the_end_leaves_a_journal_of_the_boxs_owner(
    box_of: Callable[[int], Box], after: dict[str, str]
) -> None:
    """All is in place by then. Neither user takes journal and staging for one's own; root ends it."""
    box = box_of(NOBODY)
    box.cut_short(0, "given:1")
    assert [(box.record / name).stat().st_uid for name in ("journal", "staging")] == [NOBODY, 0]
    assert dump(box.path, contents=True) == after
    for uid in (0, NOBODY):
        assert "was cut short" in complaint(box.do(uid, "add"))
    assert "only uid 0 or root" in complaint(box.call(NOBODY, "update", "--recover"))
    assert box.call(0, "update", "--recover").returncode == 0
    assert dump(box.path, contents=True) == after
    assert (box.left(), box.requests) == (set(), {"bash", "editor", "ls"})


def test_recover_of_what_cannot_be_looked_at_fails(box_of: Callable[[int], Box], tmp_path: Path) -> None:
    """It is not taken for a box in order; a directory that is none, or has no record, is told apart too."""
    box = box_of(0)
    box.cut_short(0)
    assert "Permission denied" in complaint(box.call(NOBODY, "update", "--recover"))
    assert "cannot recover" in complaint(forked("update", "--recover", tmp_path / "nothing"))
    done = forked("update", "--recover", box.path, tmp_path / "nothing", tmp_path)
    assert done.returncode == 1
    assert f"{box.path}: finished a change" in done.stderr
    assert f"{tmp_path}: nothing to recover" in done.stderr


@pytest.mark.parametrize(
    "option",
    [
        "--dry-run",
        "--file=/etc/passwd:/etc/x",
        "--with=users",
        "--rebase",
        "--json",
        "--no-sync",
        "--sysroot=/",
        "-v",
        "--replace=/etc/x",
        "--dlopen=none",
        "--keep-privileges",
        "--user=root",
    ],
)
def test_recover_takes_no_option_that_would_be_passed_over(box_of: Callable[[int], Box], option: str) -> None:
    """Wrong usage, and nothing is done."""
    box = box_of(0)
    box.cut_short(0)
    before = state(box.path)
    done = forked("update", "--recover", box.path, option)
    assert done.returncode == 2, done
    assert "--recover takes no --" in done.stderr
    assert before == state(box.path)


@contextlib.contextmanager
def _at_work(box: Box) -> Iterator[None]:
    with (box.record / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_a_living_writer_is_no_leftover(box_of: Callable[[int], Box]) -> None:
    """Readers say nothing; writers wait, or are told that somebody is at it. It is one as soon as that one ends."""
    box = box_of(NOBODY)
    box.cut_short(NOBODY)
    with _at_work(box):
        for verb in READERS:
            assert "cut short" not in box.do(0, verb).stderr, verb
        for verb in ("add", "remove"):
            assert "is writing to it" in complaint(box.do(0, verb, "--no-wait"))
        assert "is writing to it" in complaint(box.call(0, "update", "--recover", "--no-wait"))
        assert box.do(0, "add", "--dry-run").returncode == 0
    assert box.left() == {"journal", "staging"}
    assert "was cut short" in complaint(box.do(0, "add"))


def test_a_writer_that_is_killed_while_another_user_waits_leaves_a_leftover(box_of: Callable[[int], Box]) -> None:
    """Who waited is refused like who comes later, and has changed nothing."""
    box = box_of(NOBODY)
    box.cut_short(NOBODY)
    before = {**state(box.path), f"/{RECORD}/lock": ""}
    with _at_work(box):
        waiting = subprocess.Popen(
            [sys.executable, "-m", "jailbuild", "add", "ls", "--into", box.path, "--sysroot", box.sysroot],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert waiting.stderr is not None
        assert "waiting for" in waiting.stderr.readline()
    _, words = waiting.communicate(timeout=PATIENCE)
    assert waiting.returncode == 1
    assert words.splitlines() == [
        f"jailbuild: cannot write {box.path}: a change of {box.path} by uid {NOBODY} was cut short",
        f"hint: {box.recovery}",
    ]
    assert before == {**state(box.path), f"/{RECORD}/lock": ""}


@pytest.mark.parametrize("step", ["record:1", "lock:1"])
@pytest.mark.parametrize("verb", ["update", "add"])
def test_a_record_of_anothers_that_holds_nothing_is_in_nobodys_way(
    box_of: Callable[[int], Box], step: str, verb: str
) -> None:
    """There is nothing to finish: recover removes it, with a box that was made for it, and add goes on with it."""
    box = box_of(NOBODY)
    shutil.rmtree(box.path)
    assert box.call(NOBODY, "add", "bash", die_at=step).returncode == -signal.SIGKILL
    assert set(os.listdir(box.record)) == ({"lock"} if step == "lock:1" else set())
    done = box.call(0, verb, *(["--recover"] if verb == "update" else ["ls"]))
    assert done.returncode == 0, done
    if verb == "add":
        assert (box.left(), box.requests) == (set(), {"ls"})
        return
    assert f"{box.path}: removed its record, which held nothing\n" in done.stderr
    assert not box.record.exists()


def test_a_manifest_that_somebody_took_away_is_no_change_that_was_cut_short(box_of: Callable[[int], Box]) -> None:
    box = box_of(0)
    (box.record / "manifest.jsonl").unlink()
    done = box.do(0, "update")
    assert done.stderr.splitlines()[:2] == [
        f"note: {box.path}: removed its record, which held nothing",
        f"jailbuild: cannot update {box.path}: it has no manifest",
    ]


def test_check_names_the_command_that_ends_anothers_change(box_of: Callable[[int], Box]) -> None:
    """As the hint of its finding, for a journal and for a staging."""
    box = box_of(NOBODY)
    for step, code in (("commit:1", "unfinished-change"), ("next:1", "leftover-staging")):
        box.cut_short(NOBODY, step)
        hints = {one.get("code"): str(one.get("hint")) for one in objects(forked("check", box.path, "--json"))}
        assert hints[code].endswith(f": {box.recovery}")
        assert box.call(0, "update", "--recover").returncode == 0
        box.call(0, "remove", "ls")


def test_the_command_is_ready_for_a_shell(made: Path, tmp_path: Path) -> None:
    """Whatever the box is called."""
    open_to_all(made, tmp_path)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    box = Box(tmp_path / "shared/my box; true", made, NOBODY)
    box.cut_short(NOBODY)
    done = box.do(0, "add")
    assert done.stderr.splitlines()[1] == f"hint: jailbuild update --recover '{box.path}'"


# ---- what somebody has planted


def _forge(box: Box, *changes: dict[str, object], uid: int = NOBODY) -> Path:
    """Write a journal that is the manifest with other entries, and a staging; return it."""
    lines = manifest(box.path)
    for change in changes:
        lines = [line for line in lines if line.get("path") != change["path"]]
        of_old = next((line for line in manifest(box.path) if line.get("path") == change["path"]), {})
        lines.append({**of_old, **change})
    journal = box.record / "journal"
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (box.record / "staging").mkdir()
    for path in (journal, box.record / "staging"):
        os.chown(path, uid, uid)
    return journal


def _directory(path: str, mode: str) -> dict[str, object]:
    return {
        "kind": "entry",
        "path": path,
        "type": "directory",
        "mode": mode,
        "uid": 0,
        "gid": 0,
        "size": None,
        "mtime_ns": None,
        "sha256": None,
        "target": None,
        "hardlink": None,
        "device": None,
        "source": None,
        "package": None,
        "wanted_by": ["bash"],
        "edges": [],
    }


EVIL = _directory("/usr", "7777")
EVIL_BASH = {"path": "/usr/bin/bash", "size": 4, "sha256": hashlib.sha256(b"evil").hexdigest()}


def _owners(root: Path) -> dict[str, tuple[int, int, int]]:
    found = {}
    for directory, _, names in os.walk(root):
        for path in (directory, *(os.path.join(directory, name) for name in names)):
            status = os.lstat(path)
            found[path] = (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))
    return found


def test_root_gives_no_owner_and_no_set_id_bit_by_anothers_word(box_of: Callable[[int], Box]) -> None:
    """Told to finish it: modes that the other could give are given, to directories of the other alone."""
    box = box_of(NOBODY)
    for name in ("theirs", "roots", "sticky"):
        (box.path / name).mkdir(0o755)
        if name != "roots":
            os.chown(box.path / name, NOBODY, NOBODY)
    before = _owners(box.path)
    _forge(
        box,
        _directory("/theirs", "6777"),
        _directory("/roots", "0777"),
        _directory("/sticky", "1770"),
        _directory("/gone", "0750"),
    )
    done = box.call(0, "update", "--recover")
    assert done.returncode == 1
    assert [line.partition(":")[2].split(" was ")[0].strip() for line in done.stderr.splitlines()[1:]] == [
        "/theirs",
        "/roots",
    ]
    after = _owners(box.path)
    changed = {path.removeprefix(str(box.path)): after[path] for path in after if after[path] != before.get(path)}
    changed = {path: how for path, how in changed.items() if not path.startswith(f"/{RECORD}")}
    assert changed == {"/theirs": (NOBODY, NOBODY, 0o777), "/sticky": (NOBODY, NOBODY, 0o1770), "/gone": (0, 0, 0o750)}


def _other_file(box: Box) -> Path:
    other = box.path.parent / "of the host"
    shutil.copy(box.record / "manifest.jsonl", other)
    return other


def _a_link(box: Box) -> None:
    (box.record / "journal").symlink_to(_other_file(box))


def _a_hard_link(box: Box) -> None:
    os.link(_other_file(box), box.record / "journal")


def _a_root_owned_file_moved_there(box: Box) -> None:
    journal = _forge(box, EVIL, uid=0)
    shutil.rmtree(box.record / "staging")
    assert journal.stat().st_uid == 0


def _the_same_beside_a_staging_of_theirs(box: Box) -> None:
    _forge(box, EVIL, uid=0)
    os.chown(box.record / "staging", NOBODY, NOBODY)


def _files_of_theirs(box: Box) -> None:
    _forge(box, EVIL, EVIL_BASH)
    evil = box.record / "staging" / staged_name("/usr/bin/bash")
    evil.write_text("evil")
    os.chown(evil, NOBODY, NOBODY)


PLANTED: dict[str, Callable[[Box], object]] = {
    "a journal of theirs": lambda box: _forge(box, EVIL),
    "a journal and files of theirs": _files_of_theirs,
    "a file of root's moved there": _a_root_owned_file_moved_there,
    "a file of root's beside a staging of theirs": _the_same_beside_a_staging_of_theirs,
    "a link": _a_link,
    "a hard link": _a_hard_link,
    "a FIFO": lambda box: os.mkfifo(box.record / "journal"),
    "a directory": lambda box: (box.record / "journal").mkdir(),
    "a staging of theirs": lambda box: os.chown(_made(box.record / "staging"), NOBODY, NOBODY),
    "a link for a staging": lambda box: (box.record / "staging").symlink_to(box.path.parent),
}


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


@pytest.mark.parametrize("record", ["theirs", "sticky", "shared"])
@pytest.mark.parametrize("what", PLANTED)
def test_what_a_stranger_planted_is_not_believed(box_of: Callable[[int], Box], what: str, record: str) -> None:
    """In a record of their own or one that they may write to: root changes nothing in the box, and nothing outside."""
    box = box_of(NOBODY if record == "theirs" else 0)
    if record != "theirs":
        box.record.chmod({"sticky": 0o1777, "shared": 0o777}[record])
    PLANTED[what](box)
    before = _everything(box)
    for verb in (*READERS, *WRITERS):
        done = box.do(0, verb)
        assert "finished a change" not in done.stderr, (verb, done)
        assert "cleaned up" not in done.stderr, (verb, done)
        assert before == _everything(box), verb
        if verb in WRITERS:
            complaint(done)


def test_a_journal_that_is_swapped_while_it_is_looked_at_is_not_believed(box_of: Callable[[int], Box]) -> None:
    """It was root's when its owner was asked for, and is another's when it is opened."""
    box = box_of(NOBODY)
    box.cut_short(0)
    for name in ("journal", "staging"):
        (box.record / name).rename(box.path.parent / name)
    _forge(box, EVIL).rename(box.path.parent / "forged")
    (box.record / "staging").rmdir()
    for name in ("journal", "staging"):
        (box.path.parent / name).rename(box.record / name)
    before = _owners(box.path / "usr")

    def swapping() -> None:
        open_journal = Record.open_journal

        def late(self: Record) -> bool:
            (box.path.parent / "forged").replace(box.record / "journal")
            return open_journal(self)

        Record.open_journal = late  # type: ignore[method-assign]

    done = forked("add", "ls", "--into", box.path, "--sysroot", box.sysroot, prepare=swapping)
    assert "was cut short" in complaint(done)
    assert (box.record / "journal").stat().st_uid == NOBODY
    assert before == _owners(box.path / "usr")


def _everything(box: Box) -> tuple[object, ...]:
    return (
        _owners(box.path.parent),
        dump(box.path, contents=False, record=True),
        {
            path: path.read_bytes()
            for path in box.path.parent.rglob("*")
            if path.is_file() and not path.is_symlink() and path.name != "lock"
        },
    )


@pytest.mark.parametrize("what", ["a link", "a hard link", "a FIFO", "a directory", "a link for a staging"])
@pytest.mark.parametrize("owner", [0, NOBODY])
def test_recover_does_not_believe_what_is_no_journal(box_of: Callable[[int], Box], what: str, owner: int) -> None:
    """Status 1 and a line; nothing inside or outside is changed."""
    box = box_of(owner)
    PLANTED[what](box)
    before = _everything(box)[0]
    complaint(box.call(0, "update", "--recover"))
    assert before == _everything(box)[0]


def test_root_does_not_give_away_another_file_than_it_wrote(box_of: Callable[[int], Box]) -> None:
    """Somebody puts another file in the journal's place just before its owner is changed: that keeps its owner."""
    box = box_of(NOBODY)
    secret = box.path.parent / "secret"
    secret.write_text("root's")
    secret.chmod(0o600)

    def swapping() -> None:
        finish = Record.finish

        def late(self: Record) -> None:
            (box.record / "journal").rename(box.record / "aside")
            os.link(secret, box.record / "journal")
            finish(self)

        Record.finish = late  # type: ignore[method-assign]

    forked("add", "ls", "--into", box.path, "--sysroot", box.sysroot, prepare=swapping)
    assert secret.stat().st_uid == 0
    assert (box.record / "aside").stat().st_uid == NOBODY
