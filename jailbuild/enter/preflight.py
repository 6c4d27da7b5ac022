"""Why a mode cannot be had here, in one line, and the command that would work."""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Collection, Iterable
from typing import NamedTuple

from jailbuild import syscalls
from jailbuild.enter.account import Account
from jailbuild.enter.capabilities import NUMBERS
from jailbuild.enter.idmap import is_rootless
from jailbuild.enter.mounts import Bind, Tmpfs, in_order
from jailbuild.enter.settings import Limit, is_above
from jailbuild.enter.spawn import StepError
from jailbuild.errors import reason
from jailbuild.names import operand, quoted
from jailbuild.root import Root, upwards

_DENIED = (errno.EPERM, errno.EACCES)
_MOST_GROUPS = 1 << 16  # NGROUPS_MAX, linux/limits.h
_IN_EVERY_MODE = ("directory:", "identity:")  # steps that another mode takes too
_PR_CAPBSET_READ = 23  # prctl(2)

# What forbids user namespaces to ordinary users: a file of /proc/sys, the value that does, how it is called.
_FORBIDDING = (
    ("kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
    ("user/max_user_namespaces", "0", "user.max_user_namespaces=10000"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns=0"),
)


class Refusal(NamedTuple):
    """Why, and what would work."""

    why: str
    hint: str


def has_capability(name: str) -> bool:
    """Say whether this process has a capability."""
    return bool(syscalls.capabilities() >> NUMBERS[name] & 1)


def has_plain_alone() -> bool:
    """Say whether this process is root whom the plain mode alone is left, for good: the one case of promise 20.

    Its bounding set lacks CAP_SYS_ADMIN, as docker's default does, so that no program can give it the capability. Root
    of a user namespace that needs another one to enter a box may have the rootless mode, and is not meant.
    """
    return (
        os.geteuid() == 0
        and not has_capability("SYS_ADMIN")
        and not syscalls.prctl(_PR_CAPBSET_READ, NUMBERS["SYS_ADMIN"])
        and has_capability("SYS_CHROOT")
        and not is_rootless()
    )


def before(root: Root, box: str, rootless: bool, has_binds: bool) -> Refusal | None:
    """Return what can be seen without trying."""
    flags = os.fstatvfs(root.descriptor).f_flag
    if flags & os.ST_NOEXEC and not has_binds:
        return Refusal(
            "its file system is mounted noexec, so nothing in it can be executed",
            f"mount -o remount,exec {quoted(mount_point(root.path))}",
        )
    if not rootless and not has_capability("SYS_ADMIN"):
        more = "" if has_capability("SYS_CHROOT") else ", and CAP_SYS_CHROOT for the plain mode"
        return Refusal(
            f"root here lacks CAP_SYS_ADMIN for namespaces and mounts, as in most containers{more}",
            other_mode(box, rootless),
        )
    return None


def capabilities(asked: tuple[str, ...], rootless: bool) -> Refusal | None:
    """Return what keeps a capability from being kept: root can give only what it has (in a user namespace, all)."""
    for name in asked:
        if not rootless and not has_capability(name):
            return Refusal(f"CAP_{name} cannot be kept: jailbuild itself has not got it", "leave out --cap-keep")
    return None


def limits(asked: tuple[Limit, ...], rootless: bool) -> Refusal | None:
    """Return what keeps resource limits from being set: a hard one is raised by root of the host alone."""
    for limit in asked:
        most = resource.getrlimit(limit.number)[1]
        whose = "the hard limit"
        if not rootless and has_capability("SYS_RESOURCE"):
            if limit.name != "nofile" or not (opened := _read("/proc/sys/fs/nr_open") or "").isdecimal():
                continue
            most, whose = int(opened), "fs.nr_open"
        if is_above(limit.hard, most):
            return Refusal(f"--limit {limit}: {whose} is {most} here", f"--limit {limit.name}={most} is the most")
    return None


def groups(account: Account, rootless: bool) -> Refusal | None:
    """Return what keeps an account's groups from being set; rootless none are, or few."""
    if rootless or len(account.groups) <= _MOST_GROUPS:
        return None
    return Refusal(
        f"its /etc/group has {account.name} in {len(account.groups)} groups, and Linux stops at {_MOST_GROUPS}",
        "--user takes another; or mend that file",
    )


def duplicate_targets(wanted: Iterable[Bind | Tmpfs]) -> Refusal | None:
    """Return which place is wanted by two mounts: one would hide the other."""
    seen = set()
    for one in wanted:
        if one.target in seen:
            return Refusal(f"--bind and --tmpfs: two mounts are wanted at {one.target}", "leave one of them out")
        seen.add(one.target)
    return None


def bind(root: Root, box: str, wanted: Bind, targets: Collection[str]) -> Refusal | None:
    """Return what keeps a file or directory from being shown in a root, as far as the root alone tells.

    `targets` are the places of all mounts, each once.
    """
    try:
        source = stat.S_ISDIR(os.stat(wanted.source).st_mode)
    except OSError as error:
        return Refusal(f"--bind {wanted.source}: {reason(error)}", "")
    around = [above for above in upwards(wanted.target) if above != wanted.target]
    if f"{wanted.target}/".startswith(("/dev/", "/proc/")) or any(above in targets for above in around):
        return None  # what is there is not the root's
    try:
        target = stat.S_ISDIR(root.stat(wanted.target).st_mode)
    except OSError as error:
        why = "nothing to mount it on, and entering writes nothing into the box"
        place = _place(root, wanted.target)
        make = "" if place is None else f"mkdir -p {quoted(place if source else os.path.dirname(place))}"
        if place is not None and not source:
            make += f" && touch {quoted(place)}"
        return Refusal(
            f"--bind: {box} has no {wanted.target}: {why}"
            if error.errno == errno.ENOENT
            else f"--bind: {wanted.target}: {reason(error)}",
            make,
        )
    if source != target:
        kinds = ("a file", "a directory")
        return Refusal(f"--bind: {wanted.source} is {kinds[source]} and {wanted.target} is {kinds[target]}", "")
    return None


def mkdir_hint(failed: StepError, root: Root, directory: str, binds: tuple[Bind, ...], tmpfs: tuple[Tmpfs, ...]) -> str:
    """Return a hint for a step that failed because a directory is absent: how to make it, where that can be told."""
    path = failed.error.filename
    if failed.error.errno != errno.ENOENT or path not in (directory, *(one.target for one in in_order(binds, tmpfs))):
        return ""
    around = [one for one in in_order(binds, tmpfs) if path != one.target and f"{path}/".startswith(f"{one.target}/")]
    if around and isinstance(around[-1], Bind):
        return f"mkdir -p {quoted(around[-1].source.rstrip('/') + path[len(around[-1].target) :])}"
    if around or path.startswith(("/proc/", "/dev/")):  # the kernel's, or made anew for each command
        return ""
    place = _place(root, path)
    return "" if place is None else f"mkdir -p {quoted(place)}"


def _place(root: Root, path: str) -> str | None:
    """Return where on the host a path that a root lacks could be made; None where something else stands in its way."""
    there, absent = path.rstrip("/"), ""
    while True:
        try:
            real = root.walk(there or "/").real.rstrip("/")
            break
        except OSError as error:
            if error.errno != errno.ENOENT:
                return None
            there, _, name = there.rpartition("/")
            absent = f"/{name}{absent}"
    try:
        root.lstat(f"{real}/{absent.split('/')[1]}")  # a link that leads nowhere
    except (OSError, IndexError):
        return root.host_path(real + absent)
    return None


def after(failed: StepError, box: str, rootless: bool, sysctls: str = "/proc/sys") -> Refusal | None:
    """Return what is behind a step that failed; None where the step says it all. `sysctls`: where /proc/sys is."""
    number = failed.error.errno
    if number == errno.ENOSYS:
        return Refusal(
            f"{failed}: the isolated mode needs Linux 5.12, this is {os.uname().release}", other_mode(box, rootless)
        )
    if rootless and (failed.what == "namespaces" or number in _DENIED) and (why := _forbidden(box, sysctls)):
        return why
    if failed.what == "namespaces" and number in (*_DENIED, errno.ENOSPC, errno.EINVAL):
        kind = "user namespaces" if rootless else "namespaces"
        return Refusal(
            f"{kind} cannot be made here, as in a container or a chroot ({failed})", other_mode(box, rootless)
        )
    if failed.what.startswith("/proc: fresh") and number in _DENIED:
        return Refusal(
            f"parts of /proc are covered here, as in a container, and a fresh one is refused ({failed})",
            other_mode(box, rootless),
        )
    if failed.what.startswith("root:") and number == errno.EINVAL:
        return Refusal(f"/ cannot be taken away here, as in an initramfs ({failed})", other_mode(box, rootless))
    if failed.what.startswith("limits"):
        return Refusal(str(failed), "a hard limit is raised by root of the host alone: ulimit -aH lists them")
    if number in _DENIED and not failed.what.startswith(_IN_EVERY_MODE) and ": rbind " not in failed.what:
        return Refusal(str(failed), other_mode(box, rootless))
    return None


def _forbidden(box: str, sysctls: str) -> Refusal | None:
    for name, value, remedy in _FORBIDDING:
        if _read(f"{sysctls}/{name}") == value:
            sysctl = name.replace("/", ".")
            profile = ", or an AppArmor profile with userns" if "apparmor" in name else ""
            return Refusal(
                f"user namespaces are forbidden to ordinary users here ({sysctl} = {value})",
                f"{other_mode(box, rootless=True)}; or sysctl -w {remedy}{profile}",
            )
    return None


def other_mode(box: str, rootless: bool) -> str:
    """Return the command that enters the box in the mode that is left."""
    if has_capability("SYS_CHROOT") and os.geteuid() == 0:
        return f"jailbuild enter --plain {quoted(operand(box))} works, and is no boundary against root"
    if rootless:
        return f"sudo jailbuild enter {quoted(operand(box))}"
    return "enter from outside the container"


def mount_point(path: str) -> str:
    """Return the mount point that a real path of the host is on."""
    while path != "/" and not os.path.ismount(path):
        path = os.path.dirname(path)
    return path


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(64).strip()
    except OSError:
        return None
