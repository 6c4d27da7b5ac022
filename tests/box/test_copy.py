"""Copying files: what came out is what the digest says, whatever happens to the source meanwhile."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import signal
import stat
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

from jailbuild.box.copy import Job, copy_all, copy_file
from jailbuild.box.manifest import Entry
from jailbuild.errors import JailError, SourceChangedError
from tests import needs
from tests.box.running import NOBODY

BIG = 3 << 20  # bytes: several blocks
HOLE = 1 << 26  # bytes
OLD = 1_000_000_000  # seconds


def entry_of(path: Path, **others: object) -> Entry:
    """Return the entry that a plan would have for a file as it is now."""
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    entry = Entry("/there", "file", mode, 0, 0, status.st_size, status.st_mtime_ns, source=str(path))
    return entry._replace(**others)  # type: ignore[arg-type]


def unplanned(path: Path) -> Entry:
    """Return an entry that says nothing about what the file is like."""
    return entry_of(path, size=None, mtime_ns=None)


def source_opener(path: Path) -> Callable[[], int]:
    return lambda: os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def target_opener(path: Path) -> Callable[[], int]:
    return lambda: os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def copy(
    source: Path,
    target: Path,
    entry: Entry | None = None,
    keep_privileges: bool = False,
    meanwhile: Callable[[], None] | None = None,
) -> str:
    """Copy `source` to the new file `target`; `meanwhile` runs once, after the first block."""
    waiting = [meanwhile] if meanwhile is not None else []

    def step(_count: int) -> None:
        if waiting:
            waiting.pop()()

    opened, made = source_opener(source)(), target_opener(target)()
    try:
        return copy_file(opened, made, entry or entry_of(source), keep_privileges, step)
    finally:
        os.close(opened)
        os.close(made)


def sha256sum(path: Path) -> str:
    """Return what sha256sum(1) says."""
    done = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True)
    return done.stdout.split()[0].lstrip("\\")


def old(path: Path, data: bytes) -> Path:
    """Make a file that was last changed long ago."""
    path.write_bytes(data)
    os.utime(path, (OLD, OLD))
    return path


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """A file of several blocks, no two alike."""
    return old(tmp_path / "big", b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(BIG // 32)))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where a copy may be made."""
    return tmp_path / "target"


@pytest.fixture(params=["ramfs", "tmpfs", "btrfs", "xfs"])
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A small file system of some kind, gone afterwards."""
    kind = request.param
    needs.may_mount()
    if not needs.has_file_system(kind):
        pytest.skip(f"this kernel has no {kind}")
    place = tmp_path / "mounted"
    place.mkdir()
    what, options = kind, "size=1m" if kind == "tmpfs" else ""
    if kind in ("btrfs", "xfs"):
        if shutil.which(f"mkfs.{kind}") is None:
            pytest.skip(f"mkfs.{kind} is not installed")
        if not needs.has_loop_devices():
            pytest.skip("loop devices are not to be had here")
        what, options = str(tmp_path / "image"), "loop"
        with open(what, "wb") as image:
            image.truncate(400 << 20)
        subprocess.run([f"mkfs.{kind}", "-q", what], check=True, stdout=subprocess.DEVNULL)
    command = ["mount", *(["-o", options] if options else []), *(["-t", kind, what, str(place)])]
    subprocess.run(command, capture_output=True, text=True, check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def only(*kinds: str) -> pytest.MarkDecorator:
    """Run a test with these file systems."""
    return pytest.mark.parametrize("mounted", kinds, indirect=True)


# bytes and holes


def test_bytes_mode_and_time_are_those_of_the_source(big: Path, target: Path) -> None:
    """The digest is what sha256sum(1) says of the copy."""
    big.chmod(0o4751)
    os.utime(big, ns=(0, OLD * 10**9 + 123_456_789))
    digest = copy(big, target)
    assert target.read_bytes() == big.read_bytes()
    assert digest == sha256sum(target)
    status = target.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o4751, OLD * 10**9 + 123_456_789)


def test_an_empty_file_is_copied(tmp_path: Path, target: Path) -> None:
    assert copy(old(tmp_path / "empty", b""), target) == hashlib.sha256().hexdigest()
    assert target.read_bytes() == b""


@pytest.mark.parametrize(
    ("data_at", "size"),
    [
        ([], HOLE),
        ([0], HOLE),
        ([HOLE // 2], HOLE),
        ([HOLE - 4], HOLE),
        ([5000, 1 << 24, (1 << 25) + 7], HOLE),
        ([], 1),
        ([0], 3 << 20),
    ],
)
def test_holes_stay_holes_and_count_as_zeros(tmp_path: Path, target: Path, data_at: list[int], size: int) -> None:
    """Wherever they are: the copy takes no more room than the source, and sha256sum(1) agrees on both."""
    source = tmp_path / "sparse"
    with open(source, "wb") as file:
        for place in data_at:
            file.seek(place)
            file.write(b"data")
        file.truncate(size)
    digest = copy(source, target)
    assert digest == sha256sum(target)
    assert target.stat().st_size == size
    assert target.stat().st_blocks <= source.stat().st_blocks
    assert subprocess.run(["cmp", source, target], check=False).returncode == 0


@only("tmpfs", "btrfs")
def test_a_source_on_another_file_system_is_copied(mounted: Path, target: Path) -> None:
    source = mounted / "source"
    with open(source, "wb") as file:
        file.write(b"data" * 10000)
        file.truncate(10 << 20)
    assert copy(source, target) == sha256sum(source) == sha256sum(target)
    assert target.stat().st_blocks < 1000


# sources that change


def changes(big: Path) -> dict[str, Callable[[], None]]:
    """Return what somebody may do to the bytes of a file while it is copied."""

    def write_at(place: int, data: bytes) -> None:
        with open(big, "r+b") as file:
            file.seek(place)
            file.write(data)

    def rewritten_in_secret() -> None:
        before = big.stat()
        write_at(10, b"changed")  # in what was copied already
        os.utime(big, ns=(before.st_atime_ns, before.st_mtime_ns))

    return {
        "grown": lambda: write_at(BIG, b"more"),
        "shrunk": lambda: os.truncate(big, BIG // 2),
        "emptied": lambda: os.truncate(big, 0),
        "rewritten": lambda: write_at(10, b"changed"),
        "rewritten, its time set back": rewritten_in_secret,
    }


CHANGES = ["grown", "shrunk", "emptied", "rewritten", "rewritten, its time set back"]


@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_while_it_was_copied_is_copied_again(big: Path, target: Path, change: str) -> None:
    """The copy is the file as it came to be, and nothing of before."""
    before = big.read_bytes()
    digest = copy(big, target, unplanned(big), meanwhile=changes(big)[change])
    assert big.read_bytes() != before
    assert target.read_bytes() == big.read_bytes()
    assert digest == sha256sum(target)


@pytest.mark.parametrize("change", CHANGES[:-1])
def test_what_is_no_longer_as_planned_is_refused(big: Path, target: Path, change: str) -> None:
    """A plan was made from what the file was: its size and time are already written down."""
    with pytest.raises(SourceChangedError) as refused:
        copy(big, target, meanwhile=changes(big)[change])
    assert refused.value.causes == (f"cannot copy {big}: it changed while it was copied",)


def test_what_changed_before_it_was_copied_is_refused(big: Path, target: Path) -> None:
    entry = entry_of(big)
    changes(big)["grown"]()
    with pytest.raises(SourceChangedError, match="it changed since the plan was made"):
        copy(big, target, entry)
    assert target.read_bytes() == b""


def test_a_digest_that_is_known_decides_and_not_the_time(big: Path, target: Path) -> None:
    known = entry_of(big, sha256=sha256sum(big))
    os.utime(big)
    assert copy(big, target, known) == known.sha256
    target.unlink()
    changes(big)["rewritten"]()
    with pytest.raises(SourceChangedError, match="no longer what the manifest lists"):
        copy(big, target, known)


@only("ramfs")
def test_a_write_in_the_same_tick_of_the_clock_is_not_missed(mounted: Path, big: Path) -> None:
    """Where times go in steps of milliseconds, a file that was just written may be written again at the same time."""
    source, target = mounted / "source", mounted / "target"
    times = set()

    def rewrite() -> None:
        with open(source, "r+b") as file:
            file.write(b"changed")
        times.add(source.stat().st_mtime_ns == first)

    for _ in range(20):
        source.write_bytes(big.read_bytes())
        first = source.stat().st_mtime_ns
        assert copy(source, target, unplanned(source), meanwhile=rewrite) == sha256sum(target)
        assert target.read_bytes() == source.read_bytes()
        target.unlink()
    if times == {False}:
        pytest.skip("each write has a time of its own here")


def test_a_file_that_never_holds_still_is_refused(big: Path, target: Path) -> None:
    """A program that writes all the time, as a real process."""
    writer = subprocess.Popen(["sh", "-c", 'while :; do printf x >> "$1"; done', "sh", str(big)])

    def until_written(_count: int) -> None:
        size = big.stat().st_size
        while big.stat().st_size == size:
            assert writer.poll() is None

    opened, made = source_opener(big)(), target_opener(target)()
    try:
        with pytest.raises(SourceChangedError, match="it changed while it was copied"):
            copy_file(opened, made, unplanned(big), False, until_written)
    finally:
        os.close(opened)
        os.close(made)
        writer.kill()
        writer.wait()


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.chmod(0o700),
        lambda path: os.link(path, f"{path}.other"),
        lambda path: path.unlink(),
        lambda path: path.rename(f"{path}.other"),
        lambda path: path.read_bytes(),
    ],
    ids=["chmod", "link", "unlink", "rename", "read"],
)
def test_what_changes_no_byte_is_no_change(big: Path, target: Path, change: Callable[[Path], object]) -> None:
    """Mode and names are the inode's; one who opened a file has it, also when its name is gone."""
    before = sha256sum(big)
    done: list[object] = []
    assert copy(big, target, entry_of(big), meanwhile=lambda: done.append(change(big))) == before
    assert sha256sum(target) == before


def test_the_digest_is_of_what_was_written_also_when_a_mapping_writes(big: Path, target: Path) -> None:
    """Writes by mmap(2) show in no time of the file until they are flushed: the box is what the digest says."""
    import mmap

    with open(big, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[BIG - 1] ^= 1  # dirty before the copy begins
        digest = copy(big, target, unplanned(big), meanwhile=lambda: mapped.__setitem__(BIG - 1, 7))
    assert digest == sha256sum(target)


# clones


def shares_blocks(path: Path) -> bool:
    """Say whether the file system has the first block of a file for another file too: FS_IOC_FIEMAP."""
    request = bytearray(struct.pack("=QQLLLL", 0, 1 << 62, 1, 0, 1, 0) + bytes(56))  # FIEMAP_FLAG_SYNC, one extent
    with open(path, "rb") as file:
        fcntl.ioctl(file, 0xC020660B, request)
    return bool(struct.unpack_from("=L", request, 32 + 40)[0] & 0x2000)


@only("btrfs", "xfs")
def test_a_file_system_that_can_clone_is_asked_to(mounted: Path, big: Path) -> None:
    """Both share their blocks, and mode, time and digest are right all the same."""
    source, target = Path(shutil.copy2(big, mounted / "source")), mounted / "target"
    digest = copy(source, target)
    assert shares_blocks(target)
    assert digest == sha256sum(target) == sha256sum(big)
    assert target.stat().st_mtime == OLD


@only("btrfs", "xfs")
@pytest.mark.parametrize("change", CHANGES)
def test_a_clone_is_what_its_digest_says_though_the_source_changes(mounted: Path, big: Path, change: str) -> None:
    """The clone is the source as planned: what happens while it is hashed is no matter."""
    source, target = Path(shutil.copy2(big, mounted / "source")), mounted / "target"
    digest = copy(source, target, meanwhile=changes(source)[change])
    assert source.read_bytes() != big.read_bytes()
    assert digest == sha256sum(target) == sha256sum(big)


@only("btrfs")
def test_a_target_that_cannot_be_read_gets_a_copy_and_no_clone(mounted: Path, big: Path) -> None:
    source, target = Path(shutil.copy2(big, mounted / "source")), mounted / "target"
    opened, made = os.open(source, os.O_RDONLY), os.open(target, os.O_WRONLY | os.O_CREAT)
    try:
        digest = copy_file(opened, made, entry_of(source), False)
    finally:
        os.close(opened)
        os.close(made)
    assert digest == sha256sum(target) == sha256sum(big)


# what cannot be copied


def test_what_is_no_regular_file_is_refused_and_never_waited_for(tmp_path: Path, target: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), tmp_path):
        with pytest.raises(JailError) as refused:
            copy(path, target, unplanned(path))
        assert refused.value.causes == (f"cannot copy {path}: it is not a regular file",)
        target.unlink()


def test_a_file_that_fails_to_be_read_is_named(target: Path) -> None:
    """/proc/self/mem has nothing at address 0: reading gives EIO."""
    path = Path("/proc/self/mem")
    with pytest.raises(JailError) as refused:
        copy(path, target, unplanned(path))
    assert refused.value.causes == (f"cannot read {path}: Input/output error",)


def test_a_file_without_a_size_of_its_own_is_refused_and_not_copied_as_empty(target: Path) -> None:
    path = Path("/proc/version")
    with pytest.raises(JailError, match="cannot copy /proc/version: it holds more than its size says"):
        copy(path, target, unplanned(path))


@only("tmpfs")
def test_a_full_disk_is_an_error_of_the_target(mounted: Path, big: Path) -> None:
    """It comes as the OSError that it is, so that the caller can tell it from an unreadable source."""
    with pytest.raises(OSError, match="No space left") as full:
        copy(big, mounted / "target")
    assert full.value.errno == errno.ENOSPC


# attributes


@pytest.fixture
def attributed(big: Path) -> Path:
    """A file with an attribute of each kind that may be set here, and cap_net_raw."""
    if not needs.has_attributes(big.parent):
        pytest.skip("the file system has no extended attributes")
    hosts = ("trusted.private", "security.selinux") if needs.has_capability("SYS_ADMIN") else ()
    for name in ("user.origin", "user.odd \udcff", *hosts):
        os.setxattr(big, name, b"a value\0\xff")
    os.setxattr(big, "user.empty", b"")
    subprocess.run(["setcap", "cap_net_raw+ep", big], check=True)
    # system.posix_acl_access: u::rwx u:65534:rwx g::r-x m::rwx o::r-x
    tags = ((1, 7, 0xFFFFFFFF), (2, 7, NOBODY), (4, 5, 0xFFFFFFFF), (16, 7, 0xFFFFFFFF), (32, 5, 0xFFFFFFFF))
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *tag) for tag in tags)
    os.setxattr(big, "system.posix_acl_access", acl)
    return big


def attributes(path: Path) -> dict[str, bytes]:
    return {name: os.getxattr(path, name) for name in os.listxattr(path)}


@pytest.mark.parametrize("mode", [0o755, 0o444])
def test_of_extended_attributes_the_users_own_are_kept(attributed: Path, target: Path, mode: int) -> None:
    """Not what belongs to the host: labels of its policy, its book-keeping, access lists with its users."""
    copy(attributed, target, entry_of(attributed, mode=mode))
    expected = {name: value for name, value in attributes(attributed).items() if name.startswith("user.")}
    assert len(expected) == 3
    assert attributes(target) == expected


def test_file_capabilities_are_kept_where_privileges_are(attributed: Path, target: Path) -> None:
    """Also for an owner other than root: chown(2) takes capabilities away."""
    copy(attributed, target, entry_of(attributed, uid=NOBODY, gid=NOBODY), keep_privileges=True)
    said = subprocess.run(["getcap", target], capture_output=True, text=True, check=True).stdout
    assert said == f"{target} cap_net_raw=ep\n"
    assert (target.stat().st_uid, target.stat().st_gid) == (NOBODY, NOBODY)


@only("ramfs")
def test_a_file_system_without_attributes_takes_the_file_without(mounted: Path, attributed: Path) -> None:
    """But capabilities that were asked for are not lost in silence."""
    copy(attributed, mounted / "target")
    assert (mounted / "target").read_bytes() == attributed.read_bytes()
    with pytest.raises(JailError) as refused:
        copy(attributed, mounted / "other", keep_privileges=True)
    assert refused.value.causes == ("cannot give /there its file capabilities: Operation not supported",)


# many files


def jobs(sources: list[Path], into: Path) -> Iterator[Job]:
    """Yield a job for each source; its copy is a number."""
    into.mkdir(exist_ok=True)
    for number, source in enumerate(sources):
        yield Job(unplanned(source), source_opener(source), target_opener(into / str(number)))


def threads() -> int:
    """Return how many threads were started and have not ended."""
    return threading.active_count()


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_many_files_come_out_in_their_order_with_their_digests(tmp_path: Path, workers: int) -> None:
    """Programs of the machine, as sha256sum(1) sees them; nothing is left running."""
    sources = [path for path in sorted(Path("/usr/bin").iterdir()) if path.is_file()][:150]
    before = threads()
    results = list(copy_all(jobs(sources, tmp_path / "into"), workers, False))
    said = subprocess.run(["sha256sum", *sources], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [digest for _, digest in results] == [line.lstrip("\\").split()[0] for line in said]
    assert [job.entry.source for job, _ in results] == [str(source) for source in sources]
    for number, source in enumerate(sources):
        assert (tmp_path / "into" / str(number)).read_bytes() == source.read_bytes()
    assert threads() == before


def test_no_job_gives_no_result() -> None:
    assert list(copy_all([], 2, False)) == []


def test_bytes_of_our_own_are_written_among_the_files(tmp_path: Path, target: Path) -> None:
    entry = Entry("/etc/made", "file", 0o640, 0, 0, 5, 0)
    ((_, digest),) = copy_all([Job(entry, b"words", target_opener(target))], 2, False)
    assert digest == sha256sum(target) == hashlib.sha256(b"words").hexdigest()
    assert (stat.S_IMODE(target.stat().st_mode), target.stat().st_mtime_ns) == (0o640, 0)


def test_progress_tells_of_every_byte_in_the_callers_own_thread(tmp_path: Path, big: Path) -> None:
    """Holes count: they take time too."""
    sparse = tmp_path / "sparse"
    with open(sparse, "wb") as file:
        file.truncate(1 << 30)
    told: list[tuple[int, int]] = []

    def progress(count: int) -> None:
        told.append((count, threading.get_ident()))

    list(copy_all(jobs([sparse, big, big], tmp_path / "into"), 2, False, progress))
    assert sum(count for count, _ in told) == (1 << 30) + 2 * BIG
    assert {thread for _, thread in told} == {threading.get_ident()}
    assert len(told) > 1


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A file that takes many minutes to hash."""
    path = tmp_path / "endless"
    with open(path, "wb") as file:
        file.truncate(4 << 40)
    return path


def test_the_first_failure_stops_the_others_where_they_are(tmp_path: Path, endless: Path) -> None:
    """Though another would have gone on for hours; the error is the failure's own, and no thread is left."""
    absent = tmp_path / "absent"
    job = Job(Entry("/there", "file", source=str(absent)), source_opener(absent), target_opener(tmp_path / "t"))
    before = threads()
    with pytest.raises(JailError) as failed:
        list(copy_all([*jobs([endless], tmp_path / "into"), job], 2, False))
    assert failed.value.causes == (f"cannot read {absent}: No such file or directory",)
    assert threads() == before
    assert not (tmp_path / "t").exists()


def test_an_unreadable_file_is_named(tmp_path: Path, big: Path) -> None:
    big.chmod(0)
    into = jobs([big], tmp_path / "into")
    tmp_path.chmod(0o777)
    job = next(into)
    os.seteuid(NOBODY)
    try:
        with pytest.raises(JailError) as failed:
            list(copy_all([job], 2, False))
    finally:
        os.seteuid(0)
    assert failed.value.causes == (f"cannot read {big}: Permission denied",)


@only("tmpfs")
def test_a_full_disk_comes_out_as_it_is(mounted: Path, big: Path) -> None:
    before = threads()
    with pytest.raises(OSError, match="No space left") as full:
        list(copy_all(jobs([big] * 10, mounted), 2, False))
    assert full.value.errno == errno.ENOSPC
    assert threads() == before


def test_a_caller_who_looks_no_further_leaves_nothing_running(tmp_path: Path, big: Path, endless: Path) -> None:
    before = threads()
    results = copy_all(jobs([big, endless, endless], tmp_path / "into"), 2, False)
    job, _ = next(results)
    assert job.entry.source == str(big)
    results.close()
    assert threads() == before


def test_an_interrupt_comes_through_and_leaves_nothing_running(tmp_path: Path, endless: Path) -> None:
    """The signal reaches the thread that waits, with any mask of signals as it was."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before, mask = threads(), signal.pthread_sigmask(signal.SIG_BLOCK, [])
    kept = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            list(copy_all(jobs([endless, endless, endless], tmp_path / "into"), 2, False))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, kept)
    assert threads() == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
