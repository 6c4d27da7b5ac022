"""Before the commit: every file and link that a plan writes is made in the staging, and new directories in the box.

All of it can be taken back without a trace; so nothing that can fail for want of space or of a readable source is left
for after the commit.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property

from jailbuild import syscalls
from jailbuild.box.confined_fs import can_make_devices, digest_in, fingerprint, identity, open_parent
from jailbuild.box.copy import Job, copy_all, do_job, finish
from jailbuild.box.faults import step
from jailbuild.box.manifest import Entry, Manifest
from jailbuild.box.plan import UNMANAGED, Action, Plan, manifest_after
from jailbuild.box.record import Record
from jailbuild.errors import JailError, SourceChangedError, reason
from jailbuild.names import from_json, to_json
from jailbuild.root import Root, open_beneath

_STAYS = "stays"
GIVEN = "given.jsonl"  # in the staging: what of the user's may go, by --replace
RENEWED = ".new"  # in the staging: the second name of what replaces something
_MAX_GIVEN = 64 << 20  # bytes
_WORTH_THREADS = 32 << 20  # bytes; less is copied before a second thread has begun


def staged_name(path: str) -> str:
    """Return the name in the staging of what is to stand at a path of the box."""
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:40]


class Staging:
    """The making of what a plan writes."""

    def __init__(
        self, plan: Plan, record: Record, source: Root | None, keep_privileges: bool, progress: Callable[[int], None]
    ) -> None:
        self.plan = plan
        self.record = record
        self.box = record.box
        self.source = source
        self.keep_privileges = keep_privileges
        self.progress = progress  # told how many bytes were copied
        self.digests: dict[str, str] = {}
        self.made: list[str] = []  # directories

    def run(self) -> Manifest:
        """Make all that goes to the staging, the manifest to come last; return that manifest."""
        self._look_at_parents()
        self.record.open_staging()
        written = [action.entry for action in sorted(self.plan.changes, key=_rank) if action.kind != "remove"]
        self._make_files([entry for entry in written if entry.type == "file"])
        for entry in written:
            if entry.type == "link" or (entry.type == "device" and can_make_devices()):
                with _saying(entry):
                    self._make_link(entry) if entry.type == "link" else self._make_device(entry)
                step("stage")
        for action in self.plan.changes:
            if (
                action.kind == "replace"
                and action.entry.type != "directory"
                and (action.entry.type != "device" or can_make_devices())
            ):
                with _saying(action.entry):
                    self._name_again(action.entry)
        self._refuse_changed()
        self._note_given()
        after = manifest_after(self.plan, self.digests)
        self.record.write_next(after)
        step("next")
        return after

    def make_directories(self) -> None:
        """Make the new directories in the box: once the manifest to come is on disk, which says what to remove."""
        for action in self.plan.changes:
            if action.kind == "add" and action.entry.type == "directory":
                self._make_directory(action.entry)
                step("directory")

    def take_back(self) -> None:
        """Remove all that was made."""
        with contextlib.suppress(OSError):
            remove_directories(self.box, self.made)
        with contextlib.suppress(OSError):
            self.record.clear_staging()

    def _look_at_parents(self) -> None:
        """Refuse what could not be done after the commit (JailError): renames need one file system, and permission."""
        seen = set()
        longest = os.fstatvfs(self.box.descriptor).f_namemax
        for action in self.plan.changes:
            parent, _, name = action.entry.path.rpartition("/")
            if len(os.fsencode(name)) > longest:
                raise JailError(
                    f"cannot write {action.entry.path} in the box: its name is longer than {longest} bytes",
                    "name another place",
                )
            if parent in seen and action.kind == "add":
                continue
            try:
                with open_parent(self.box, action.entry.path) as (opened, name):
                    if parent not in seen and not os.access(".", os.W_OK | os.X_OK, dir_fd=opened, effective_ids=True):
                        raise JailError(
                            f"cannot write {action.entry.path} in the box: no permission to write in {parent or '/'}"
                        )
                    if action.kind != "add":
                        os.close(open_beneath(opened, name, os.O_PATH | os.O_NOFOLLOW, one_mount=True))
                    for one in ("." if parent not in seen else "", name if action.kind != "add" else ""):
                        if one and syscalls.is_fixed(opened, one):
                            raise JailError(
                                f"cannot write {action.entry.path} in the box: it is made unchangeable",
                                "chattr -i, or chattr -a, lets it be changed",
                            )
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno == errno.EXDEV:
                    raise JailError(
                        f"cannot write {action.entry.path} in the box: something is mounted there, or above it",
                        "unmount it",
                    ) from None
                raise JailError(f"cannot write {action.entry.path} in the box: {reason(error)}") from None
            seen.add(parent)

    def _make_link(self, entry: Entry) -> None:
        name = staged_name(entry.path)
        os.symlink(entry.target or "", name, dir_fd=self.record.staging)
        _finish_link(self.record.staging, name, entry)

    def _make_device(self, entry: Entry) -> None:
        assert entry.device is not None
        kind, major, minor = entry.device
        name, staging = staged_name(entry.path), self.record.staging
        os.mknod(
            name, (stat.S_IFCHR if kind == "c" else stat.S_IFBLK) | 0o600, os.makedev(major, minor), dir_fd=staging
        )
        os.chown(name, entry.uid, entry.gid, dir_fd=staging, follow_symlinks=False)
        os.chmod(name, entry.mode or 0, dir_fd=staging)
        os.utime(name, ns=(0, 0), dir_fd=staging, follow_symlinks=False)

    def _name_again(self, entry: Entry) -> None:
        """Give what may look like what it replaces a second name in the staging, by which it is known afterwards."""
        name, staging = staged_name(entry.path), self.record.staging
        try:
            os.link(name, name + RENEWED, src_dir_fd=staging, dst_dir_fd=staging, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP):  # no second names for links, or for anything
                raise

    def _make_files(self, entries: Iterable[Entry]) -> None:
        """Copy what is to be copied, and link to it what is one file with it."""
        jobs: list[Job] = []
        links: list[Entry] = []
        firsts: dict[str, str] = {}
        for entry in entries:
            if entry.hardlink is not None:
                if self._link_to_kept(entry):
                    step("stage")
                    continue
                if entry.hardlink in firsts:
                    links.append(entry)
                    continue
                firsts[entry.hardlink] = entry.path
            jobs.append(Job(entry, self._source_of(entry), self._target_of(entry)))
        for job, digest in self._copied(jobs):
            self.digests[job.entry.path] = digest
            step("stage")
        for entry in links:
            first = firsts[entry.hardlink or ""]
            with _saying(entry):
                os.link(
                    staged_name(first),
                    staged_name(entry.path),
                    src_dir_fd=self.record.staging,
                    dst_dir_fd=self.record.staging,
                    follow_symlinks=False,
                )
            self.digests[entry.path] = self.digests[first]
            step("stage")

    def _copied(self, jobs: list[Job]) -> Iterator[tuple[Job, str]]:
        if sum(job.entry.size or 0 for job in jobs) >= _WORTH_THREADS:
            try:
                yield from copy_all(jobs, len(os.sched_getaffinity(0)), self.keep_privileges, self.progress)
            except OSError as error:
                raise JailError(f"cannot write {self.record.name}: {reason(error)}") from None
            return
        for job in jobs:
            with _saying(job.entry):
                yield job, do_job(job, self.keep_privileges, self.progress)

    def _refuse_changed(self) -> None:
        """Refuse a plan by which a file of the box stays that is another one in the source root by now.

        Of what was copied and of all else that was looked at that is known.
        """
        for action in self.plan.actions:
            entry = action.entry
            if (
                action.kind == "keep"
                and action.why != UNMANAGED
                and entry.type == "file"
                and (
                    entry.source == entry.path and self.source is not None and entry.path not in self.plan.draft.carried
                )
            ):
                try:
                    status = self.source.lstat(entry.path)
                except OSError as error:
                    raise SourceChangedError(f"cannot read {entry.path}: {reason(error)}", "try again") from None
                if (status.st_size, status.st_mtime_ns) != (entry.size, entry.mtime_ns):
                    why = "it changed since the plan was made"
                    raise SourceChangedError(f"cannot keep {entry.path}: {why}", "try again")

    def _source_of(self, entry: Entry) -> Callable[[], int] | bytes:
        made = self.plan.draft.made.get(entry.path)
        if made is not None:
            return made
        source = self.source
        assert source is not None
        return lambda: source.open(entry.path)

    def _target_of(self, entry: Entry) -> Callable[[], int]:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return lambda: os.open(staged_name(entry.path), flags, 0o600, dir_fd=self.record.staging)

    def _link_to_kept(self, entry: Entry) -> bool:
        """Make a file that is one with another that stays in the box a link to it, if there is such a one."""
        kept = self._kept.get(entry.hardlink or "")
        if kept is None or self.source is None:
            return False
        digest = digest_in(self.source, entry.path)  # the manifest may call anything one with it
        others = kept.get(digest, [])
        while others:
            with _saying(entry), open_parent(self.box, others[-1]) as (parent, other_name):
                if fingerprint(parent, other_name) == f"file {digest}":
                    os.link(
                        other_name,
                        staged_name(entry.path),
                        src_dir_fd=parent,
                        dst_dir_fd=self.record.staging,
                        follow_symlinks=False,
                    )
                    self.digests[entry.path] = digest
                    return True
            others.pop()  # it is not as listed: for the next one neither
        return False

    @cached_property
    def _kept(self) -> dict[str, dict[str, list[str]]]:
        """What stays of families of hard links: the paths by family and by the listed digest, the last one first."""
        found: dict[str, dict[str, list[str]]] = {}
        before = self.plan.before.entries if self.plan.before is not None else {}
        for action in reversed(self.plan.actions):
            path, family = action.entry.path, action.entry.hardlink
            if action.kind == "keep" and family is not None and path in before:
                found.setdefault(family, {}).setdefault(before[path].sha256 or "", []).append(path)
        return found

    def _note_given(self) -> None:
        """Write down what the user gives up, as it is now: nothing else of his may go after the commit.

        And what stays, although it is listed no longer.
        """
        lines = []
        for action in self.plan.actions:
            if action.released:
                lines.append(json.dumps({**to_json("path", action.entry.path), "there": _STAYS}) + "\n")
            elif action.given:
                with open_parent(self.box, action.entry.path) as (parent, name):
                    there = identity(parent, name)
                lines.append(json.dumps({**to_json("path", action.entry.path), **to_json("there", there)}) + "\n")
        if lines:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with os.fdopen(os.open(GIVEN, flags, 0o600, dir_fd=self.record.staging), "w") as file:
                file.writelines(lines)

    def _make_directory(self, entry: Entry) -> None:
        with _saying(entry), open_parent(self.box, entry.path) as (parent, name):
            self.made.append(entry.path)  # first: a signal may come between
            try:
                os.mkdir(name, 0o700, dir_fd=parent)
            except FileExistsError:
                self.made.pop()
                raise
            step("mkdir")
            finish_directory(self.box, entry, 0o700)


def given_up(record: Record) -> tuple[dict[str, str], frozenset[str]]:
    """Return what the user gave up before the commit, identities by path; and the paths of what stays unlisted.

    What cannot be read is not given up.
    """
    found: dict[str, str] = {}
    try:
        opened = open_beneath(record.staging, GIVEN, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return found, frozenset()
    with os.fdopen(opened, "rb") as file, contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
        for line in file.read(_MAX_GIVEN).splitlines():
            note = json.loads(line)
            path, there = from_json(note, "path"), from_json(note, "there")
            if path and there:
                found[path] = there
    return found, frozenset(path for path, there in found.items() if there == _STAYS)


def _finish_link(directory: int, name: str, entry: Entry) -> None:
    """Give a link that was made a moment ago owner and time; not what somebody has put in its place meanwhile."""
    made = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        status = os.fstat(made)
        if not stat.S_ISLNK(status.st_mode) or status.st_nlink != 1:
            raise OSError(errno.EBUSY, "somebody else is writing there")
        if os.geteuid() == 0:
            syscalls.chown_open(made, entry.uid, entry.gid)
        if entry.mtime_ns is None:
            return
        try:
            syscalls.utime_open(made, entry.mtime_ns)
        except OSError as error:
            if error.errno != errno.EINVAL:  # before Linux 5.8
                raise
            os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=directory, follow_symlinks=False)
    finally:
        os.close(made)


def finish_directory(box: Root, entry: Entry, more: int = 0) -> None:
    """Give a directory owner and mode, with `more` bits as long as something is to be put into it (OSError)."""
    made = open_beneath(box.descriptor, entry.path.lstrip("/"), os.O_RDONLY | os.O_DIRECTORY, one_mount=True)
    try:
        finish(made, entry._replace(mode=(entry.mode or 0) | more, mtime_ns=None))
    finally:
        os.close(made)


def limit_directory(box: Root, entry: Entry, uid: int) -> bool:
    """Give a directory its mode by the word of user `uid`, and say whether it has that mode then (OSError).

    That word counts for directories of that user's alone, and for no set-ID bit.
    """
    made = open_beneath(box.descriptor, entry.path.lstrip("/"), os.O_RDONLY | os.O_DIRECTORY, one_mount=True)
    try:
        status = os.fstat(made)
        if status.st_uid == uid and stat.S_IMODE(status.st_mode) != entry.mode:
            os.fchmod(made, (entry.mode or 0) & 0o1777)
        return stat.S_IMODE(os.fstat(made).st_mode) == entry.mode
    finally:
        os.close(made)


def remove_directories(box: Root, paths: Iterable[str]) -> None:
    """Remove directories that are empty, deepest first; the others stay."""
    for path in sorted(paths, reverse=True):
        try:
            with open_parent(box, path) as (parent, name):
                os.rmdir(name, dir_fd=parent)
            step("rmdir")
        except OSError as error:
            if error.errno not in (
                errno.ENOTEMPTY,
                errno.EEXIST,
                errno.ENOENT,
                errno.ENOTDIR,
                errno.ELOOP,
                errno.EBUSY,
                errno.EXDEV,
            ):
                raise


@contextlib.contextmanager
def _saying(entry: Entry) -> Iterator[None]:
    """Say of what the system refuses which path it is about."""
    try:
        yield
    except OSError as error:
        raise JailError(f"cannot write {entry.path} in the box: {reason(error)}") from None


def _rank(action: Action) -> tuple[bool, bool, str]:
    entry = action.entry
    return entry.type == "link", entry.hardlink not in (None, entry.path), entry.path
