"""The plain mode: chroot(2), as chroot(1) does it. A convenience, and no boundary against root."""

from __future__ import annotations

import os
from collections.abc import Callable

from jailbuild.enter.account import Account
from jailbuild.enter.command import Command
from jailbuild.enter.idmap import is_rootless
from jailbuild.enter.mounts import SetupContext
from jailbuild.enter.rights import Limits, LimitsInForce
from jailbuild.enter.settings import Limit
from jailbuild.enter.spawn import Step, start
from jailbuild.enter.wait import Watch
from jailbuild.root import Root


def plain_steps(root: Root, account: Account, limits: tuple[Limit, ...] = (), directory: str = "/") -> list[Step]:
    """Return what a child does to be `account` in the root, in order.

    The root is the directory that was opened once: its path may lead elsewhere by now.
    """
    steps = [
        Step("fchdir", lambda: os.fchdir(root.descriptor)),
        Step("chroot", lambda: os.chroot(".")),
        Step("chdir", lambda: os.chdir("/")),
        Step("setresgid", lambda: os.setresgid(account.gid, account.gid, account.gid)),
        Step("setresuid", lambda: os.setresuid(account.uid, account.uid, account.uid)),
    ]
    if not is_rootless():  # root of a user namespace, who can set no groups, and may be rid of none
        steps.insert(0, Step("setgroups", lambda: os.setgroups(account.groups)))
    if limits:
        steps.insert(0, Step(str(Limits(limits)), lambda: Limits(limits).do(SetupContext())))
    if directory != "/":
        steps.append(Step(f"chdir to {directory}", lambda: os.chdir(directory)))
    if limits:
        steps.append(Step(str(LimitsInForce(limits)), lambda: LimitsInForce(limits).do(SetupContext())))
    return steps


def run_plain(
    steps: list[Step],
    command: Command,
    passed: tuple[int, ...],
    started: Callable[[int], object],
) -> int:
    """Run the command after the steps and return its exit status, 128+n for a signal (StepError, ExecError).

    `passed` are descriptors beyond 2 that it gets; `started` is called with its process id.
    """
    with Watch() as watch:
        child = start(steps, command, passed)
        started(child)
        return watch.wait(child)
