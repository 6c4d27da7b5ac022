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
from collections.abc import Callable, Iterable

from jailbuild import syscalls
from jailbuild.box.copy import copy_file, finish
from jailbuild.box.faults import step
from jailbuild.box.look import digest_in, fingerprint, identity, open_parent
from jailbuild.box.manifest import Entry, Manifest
from jailbuild.box.plan import Action, Plan, manifest_after
from jailbuild.box.record import Record
from jailbuild.errors import JailError, reason
from jailbuild.names import from_json, to_json
from jailbuild.root import Root, open_beneath

GIVEN = "given.jsonl"  # in the staging: what of the user's may go, by --replace
_MAX_GIVEN = 64 << 20  # bytes


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
        """Make everything, the manifest to come last but for the directories; return that manifest."""
        self._look_at_parents()
        self.record.open_staging()
        for action in sorted(self.plan.changes, key=_rank):
            if action.kind != "remove" and action.entry.type != "directory":
                try:
                    self._make(action.entry)
                except OSError as error:
                    raise JailError(f"cannot write {action.entry.path} in the box: {reason(error)}") from None
                step("stage")
        self._note_given()
        after = manifest_after(self.plan, self.digests)
        self.record.write_next(after)
        step("next")
        for action in self.plan.changes:
            if action.kind == "add" and action.entry.type == "directory":
                self._make_directory(action.entry)
                step("directory")
        return after

    def take_back(self) -> None:
        """Remove all that was made."""
        remove_directories(self.box, self.made)
        with contextlib.suppress(OSError):
            self.record.clear_staging()

    def _look_at_parents(self) -> None:
        """Refuse what could not be done after the commit (JailError): renames need one file system, and permission."""
        seen = set()
        for action in self.plan.changes:
            parent = action.entry.path.rpartition("/")[0]
            if parent in seen and action.kind == "add":
                continue
            try:
                with open_parent(self.box, action.entry.path) as (opened, name):
                    if parent not in seen and not os.access(
                        ".", os.W_OK | os.X_OK, dir_fd=opened, effective_ids=True
                    ):
                        raise JailError(
                            f"cannot write {action.entry.path} in the box: no permission to write in {parent or '/'}")
                    for one in ("." if parent not in seen else "", name if action.kind != "add" else ""):
                        if one and syscalls.is_fixed(opened, one):
                            raise JailError(f"cannot write {action.entry.path} in the box: it is made unchangeable",
                                            "chattr -i, or chattr -a, lets it be changed")
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno == errno.EXDEV:
                    raise JailError(
                        f"cannot write {action.entry.path} in the box: {parent} is on something mounted in the box",
                        "unmount it",
                    ) from None
                raise JailError(f"cannot write {action.entry.path} in the box: {reason(error)}") from None
            seen.add(parent)

    def _make(self, entry: Entry) -> None:
        name = staged_name(entry.path)
        staging = self.record.staging
        if entry.type == "link":
            os.symlink(entry.target or "", name, dir_fd=staging)
            _finish_link(staging, name, entry)
        elif not self._link_to_family(entry, name):
            target = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=staging)
            try:
                self.digests[entry.path] = self._fill(entry, target)
            finally:
                os.close(target)

    def _link_to_family(self, entry: Entry, name: str) -> bool:
        """Make a file that is one with another a link to it; False if it is the first of them."""
        if entry.hardlink is None:
            return False
        staging = self.record.staging
        for action in self.plan.actions:
            other = action.entry
            if other.hardlink != entry.hardlink or other.path == entry.path or action.kind == "remove":
                continue
            if other.path in self.digests:
                os.link(staged_name(other.path), name, src_dir_fd=staging, dst_dir_fd=staging, follow_symlinks=False)
                self.digests[entry.path] = self.digests[other.path]
                return True
            listed = self.plan.before.entries.get(other.path) if self.plan.before is not None else None
            if action.kind == "keep" and listed is not None and listed.sha256 is not None:
                if self.source is None or digest_in(self.source, entry.path) != listed.sha256:
                    continue  # the manifest may call anything one with it
                with open_parent(self.box, other.path) as (parent, other_name):
                    if fingerprint(parent, other_name) != f"file {listed.sha256}":
                        continue
                    os.link(other_name, name, src_dir_fd=parent, dst_dir_fd=staging, follow_symlinks=False)
                self.digests[entry.path] = listed.sha256
                return True
        return False

    def _fill(self, entry: Entry, target: int) -> str:
        made = self.plan.draft.made.get(entry.path)
        if made is not None:
            source = os.memfd_create("made", os.MFD_CLOEXEC)
            os.write(source, made)
        else:
            assert self.source is not None
            try:
                source = self.source.open(entry.path)
            except OSError as error:
                raise JailError(f"cannot read {self.source.host_path(entry.path)}: {reason(error)}") from None
        try:
            if stat.S_ISREG(os.fstat(source).st_mode):
                digest = copy_file(source, target, entry, self.keep_privileges)
                status = os.fstat(source)
                if made is not None or (status.st_size, status.st_mtime_ns) == (entry.size, entry.mtime_ns):
                    return digest
            raise JailError(f"cannot copy {entry.path}: it changed since it was looked at", "try again")
        finally:
            os.close(source)
            self.progress(entry.size or 0)

    def _note_given(self) -> None:
        """Write down what the user gives up, as it is now: nothing else of his may go after the commit."""
        lines = []
        for action in self.plan.changes:
            if action.given:
                with open_parent(self.box, action.entry.path) as (parent, name):
                    there = identity(parent, name)
                lines.append(json.dumps({**to_json("path", action.entry.path), **to_json("there", there)}) + "\n")
        if lines:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with os.fdopen(os.open(GIVEN, flags, 0o600, dir_fd=self.record.staging), "w") as file:
                file.writelines(lines)

    def _make_directory(self, entry: Entry) -> None:
        try:
            with open_parent(self.box, entry.path) as (parent, name):
                os.mkdir(name, 0o700, dir_fd=parent)
                self.made.append(entry.path)
                finish_directory(self.box, entry, 0o700)
        except OSError as error:
            raise JailError(f"cannot write {entry.path} in the box: {reason(error)}") from None


def given_up(record: Record) -> dict[str, str]:
    """Return what the user gave up before the commit: identities by path. What cannot be read is not given up."""
    found: dict[str, str] = {}
    try:
        opened = open_beneath(record.staging, GIVEN, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return found
    with os.fdopen(opened, "rb") as file, contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
        for line in file.read(_MAX_GIVEN).splitlines():
            note = json.loads(line)
            path, there = from_json(note, "path"), from_json(note, "there")
            if path and there:
                found[path] = there
    return found


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


def remove_directories(box: Root, paths: Iterable[str]) -> None:
    """Remove directories that are empty, deepest first; the others stay."""
    for path in sorted(paths, reverse=True):
        try:
            with open_parent(box, path) as (parent, name):
                os.rmdir(name, dir_fd=parent)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.ELOOP,
                                   errno.EBUSY, errno.EXDEV):
                raise


def _rank(action: Action) -> tuple[bool, bool, str]:
    entry = action.entry
    return entry.type == "link", entry.hardlink not in (None, entry.path), entry.path

