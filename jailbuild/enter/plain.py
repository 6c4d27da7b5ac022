"""The plain mode: chroot(2), as chroot(1) does it. A convenience, and no boundary against root."""

from __future__ import annotations

import os

from jailbuild.enter.account import Account
from jailbuild.enter.command import Command
from jailbuild.enter.start import Step, start
from jailbuild.enter.wait import Watch
from jailbuild.root import Root


def plain_steps(root: Root, account: Account) -> list[Step]:
    """Return what a child does to be `account` in the root, in order.

    The root is the directory that was opened once: its path may lead elsewhere by now.
    """
    return [
        Step("setgroups", lambda: os.setgroups(account.groups)),
        Step("fchdir", lambda: os.fchdir(root.descriptor)),
        Step("chroot", lambda: os.chroot(".")),
        Step("chdir", lambda: os.chdir("/")),
        Step("setresgid", lambda: os.setresgid(account.gid, account.gid, account.gid)),
        Step("setresuid", lambda: os.setresuid(account.uid, account.uid, account.uid)),
    ]


def run_plain(root: Root, account: Account, command: Command) -> int:
    """Run the command in the root and return its exit status, 128+n for a signal (StepError, ExecError)."""
    with Watch() as watch:
        return watch.wait(start(plain_steps(root, account), command))
