"""The isolated mode, and the rootless one, which is the same in a user namespace: the list of operations.

The order, and what each place in it has taught:

 1. All is imported, read and opened before anything is entered: a module, a codec, a name service or a locale taken
    later would be the box's, and run with our rights.
 2. One clone3 makes all namespaces, so that none of the box's processes ever stood in one of the host's.
 3. The user namespace's ids are mapped from outside, then the child goes on; it is not dumpable from there on.
 4. Mounts become private before the first is made.
 5. The box, then what is mounted in it, then pivot_root: nothing of the box is used by path before its tree is final.
 6. The terminal comes from the box's devpts before the pivot, its master leaves through the channel.
 7. Host name and loopback need capabilities of the namespaces: before they go.
 8. In the command's own process: descriptors are closed before anything of the box is opened; limits are raised while
    they may be; the bounding set while CAP_SETPCAP is there; groups, gid, uid; capabilities; no_new_privs; the
    directory as the user; then the filter, for it refuses what the others need, and limits that could leave too little
    for them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from jailbuild import syscalls
from jailbuild.box.layout import DIRECTORY
from jailbuild.enter.account import Account, group_id
from jailbuild.enter.capabilities import KEPT, mask
from jailbuild.enter.command import Command
from jailbuild.enter.devices import Dev, Pts, plan_reopened
from jailbuild.enter.idmap import Ids
from jailbuild.enter.init import Hostname, Loopback, Plan, Session, Signals, Standard, Terminal
from jailbuild.enter.mounts import (
    Bind,
    Box,
    Covered,
    Guarded,
    Operation,
    Pivot,
    Private,
    Proc,
    ProcMasked,
    ProcReadOnly,
    Tmpfs,
    in_order,
)
from jailbuild.enter.privileged import privileged_files
from jailbuild.enter.rights import (
    Bounding,
    Capabilities,
    Directory,
    Filter,
    Identity,
    Landlock,
    Limits,
    LimitsInForce,
    NoNewPrivileges,
    OwnProgramsOnly,
    Umask,
    own_arguments,
)
from jailbuild.enter.settings import Limit
from jailbuild.enter.spawn import signals_to_reset
from jailbuild.enter.terminal import Wiring
from jailbuild.root import Root

if TYPE_CHECKING:
    from jailbuild.enter.binfmt import Emulation

_RECORD = f"/{DIRECTORY}"
_NAMESPACES = (
    ("mount", syscalls.CLONE_NEWNS),
    ("pid", syscalls.CLONE_NEWPID),
    ("ipc", syscalls.CLONE_NEWIPC),
    ("uts", syscalls.CLONE_NEWUTS),
    ("cgroup", syscalls.CLONE_NEWCGROUP),
    ("network", syscalls.CLONE_NEWNET),
    ("user", syscalls.CLONE_NEWUSER),
)


class Options(NamedTuple):
    """What was asked for beside box and command, read."""

    binds: tuple[Bind, ...] = ()
    tmpfs: tuple[Tmpfs, ...] = ()
    limits: tuple[Limit, ...] = ()
    read_only: bool = False
    hostname: str | None = None
    private_network: bool = False
    cap_keep: tuple[str, ...] = ()
    directory: str = "/"
    passed: tuple[int, ...] = ()
    filter: bytes | None = None  # the seccomp program
    emulation: Emulation | None = None  # what makes programs of another machine run
    powerless: bool = False  # no capability at all


class Setup(NamedTuple):
    """All that will be done, and nothing of it done yet."""

    namespaces: int
    ids: Ids | None  # of the user namespace
    plan: Plan
    wiring: Wiring

    def lines(self) -> list[str]:
        """Return the set-up in words, a line for each step."""
        names = " ".join(name for name, flag in _NAMESPACES if self.namespaces & flag)
        ids = [str(self.ids)] if self.ids is not None else []
        return [
            f"namespaces: {names}",
            *ids,
            *map(str, (*self.plan.first, *self.plan.second)),
            f"execve: {' or '.join(map(os.fsdecode, self.plan.command.files))}",
        ]


def make_setup(
    root: Root,
    account: Account,
    command: Command,
    options: Options,
    ids: Ids | None,
    wiring: Wiring,
    closed: tuple[int, ...],
) -> Setup:
    """Return the set-up for a command in a root; reads the root and changes nothing.

    `ids` None: the caller's own user namespace. `closed`: those of the descriptors 0 to 2 that the command is not to
    have.
    """
    wanted = {"mount", "pid", "ipc", "uts", "cgroup"}
    wanted |= {"network"} if options.private_network else set()
    wanted |= {"user"} if ids is not None else set()
    given = {0, 1, 2, *options.passed} - {*closed, *wiring.pty, *wiring.pipes}
    reopened = plan_reopened(given)
    first = [
        *_mounts(root, options, ids),
        *([reopened] if reopened.descriptors else []),
        *_terminal(root, account, wiring, ids),
        *([options.emulation] if options.emulation is not None else []),
        Pivot(),
        *([Hostname(options.hostname)] if options.hostname is not None else []),
        *([Loopback()] if options.private_network else []),
    ]
    plan = Plan(
        tuple(first), _rights(account, command, options, ids, wiring, closed), command, options.passed, own_arguments()
    )
    return Setup(sum(flag for name, flag in _NAMESPACES if name in wanted), ids, plan, wiring)


def _mounts(root: Root, options: Options, ids: Ids | None) -> list[Operation]:
    status = os.fstat(root.descriptor)
    operations: list[Operation] = [
        Session(),
        Private(),
        Box(root.path, status.st_dev, status.st_ino, options.read_only, recursive=ids is not None),
    ]
    if root.is_directory("/proc"):
        operations += [Proc(), ProcReadOnly(), ProcMasked()]
    if root.is_directory("/dev"):
        operations += [Dev()]
    if root.is_directory(_RECORD):
        operations += [Covered(_RECORD)]
    guarded = () if options.read_only else privileged_files(root)
    if guarded:
        operations += [Guarded(guarded)]
    return [*operations, *in_order(options.binds, options.tmpfs)]


def _terminal(root: Root, account: Account, wiring: Wiring, ids: Ids | None) -> list[Operation]:
    dev = root.is_directory("/dev")
    if not dev and not wiring.pty:
        return []
    gid = group_id(root, "tty") if ids is None else None  # in a user namespace it stands for nobody
    pts = Pts(gid, attached=dev)
    return [pts, Terminal(wiring, account.uid, console=dev)] if wiring.pty else [pts]


def _emulation_user(options: Options, ids: Ids | None) -> list[Operation]:
    """Return what brings root's command to where the emulator is; a rootless box is there."""
    if options.emulation is None or ids is not None:
        return []
    from jailbuild.enter.binfmt import EmulationUser

    return [EmulationUser()]


def _rights(
    account: Account,
    command: Command,
    options: Options,
    ids: Ids | None,
    wiring: Wiring,
    closed: tuple[int, ...],
) -> tuple[Operation, ...]:
    asked = mask(options.cap_keep)
    kept = mask(KEPT) | asked if account.uid == 0 and not options.powerless else asked
    ambient = 0 if account.uid == 0 else asked
    groups = account.groups if ids is None or ids.by_ranges else None
    operations: list[Operation] = [
        Standard(wiring, options.passed, closed),
        OwnProgramsOnly(command.files, options.directory),
        *([Limits(options.limits)] if options.limits else []),
        Umask(),
        *_emulation_user(options, ids),
        Bounding(kept),
        Identity(account.uid, account.gid, groups, keeps_capabilities=bool(ambient)),
        Capabilities(kept, ambient),
        NoNewPrivileges(),
        # Landlock refuses mounting altogether: who keeps SYS_ADMIN has asked for it.
        *([Landlock()] if "SYS_ADMIN" not in options.cap_keep else []),
        Directory(options.directory),
        Signals(tuple(signals_to_reset())),
        *([Filter(options.filter)] if options.filter is not None else []),
        *([LimitsInForce(options.limits)] if options.limits else []),
    ]
    return tuple(operations)
