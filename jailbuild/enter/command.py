"""What is to run in a box: arguments, environment, and the files to try, all bytes before the fork."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import NamedTuple

from jailbuild.closure.commands import STANDARD_PATH
from jailbuild.enter.account import Account
from jailbuild.root import Root

# the most comfortable first, sh last: it is a link to one of the others, or all there is
_SHELLS = ("bash", "zsh", "ksh", "mksh", "dash", "ash", "sh")
_SHELL_DIRECTORIES = ("/bin", "/usr/bin", "/usr/local/bin")
_SHELL_UNKNOWN = "/bin/sh"  # passwd(5), of an empty field

_FROM_CALLER = ("TERM", "LANG")


class Command(NamedTuple):
    """A command as execve(2) takes it."""

    arguments: tuple[bytes, ...]
    environment: dict[bytes, bytes]
    files: tuple[bytes, ...]  # to be tried in this order; none for an empty name
    is_searched: bool  # a name looked up in the search path, not a path
    search_path: str  # the absolute directories of its PATH


def find_shell(root: Root, account: Account) -> str | None:
    """Return the shell to run in the root: the account's if the root has it, else the best of those it has.

    The caller's own $SHELL says nothing about the root and is not asked.
    """
    wanted = [account.shell] if account.shell.startswith("/") else []
    wanted += [f"{directory}/{name}" for name in _SHELLS for directory in _SHELL_DIRECTORIES]
    for path in wanted:
        try:
            mode = root.stat(path).st_mode
        except OSError:
            continue
        if stat.S_ISREG(mode) and mode & 0o111:
            return path
    return None


def make_command(
    arguments: tuple[str, ...],
    account: Account,
    shell: str | None,
    caller: Mapping[str, str],
    given: Mapping[str, str] | None = None,
    keep: bool = False,
) -> Command:
    """Return how `arguments`, at least one, run as `account`.

    From the environment `caller` TERM and LANG are taken, or with `keep` everything that the account does not say
    itself; what is `given` comes last. A name is searched in the PATH that comes of it, absolute directories only.
    """
    environment = {name: caller[name] for name in (caller if keep else _FROM_CALLER) if name in caller}
    environment |= {
        "PATH": STANDARD_PATH,
        "HOME": account.home,
        "USER": account.name,
        "LOGNAME": account.name,
        "SHELL": shell or account.shell or _SHELL_UNKNOWN,
    }
    environment.update(given or {})
    name = arguments[0]
    is_searched = "/" not in name
    directories = [one for one in environment["PATH"].split(":") if one.startswith("/")]
    files = [f"{directory}/{name}" for directory in directories if name] if is_searched else [name]
    return Command(
        tuple(map(os.fsencode, arguments)),
        {os.fsencode(key): os.fsencode(value) for key, value in environment.items()},
        tuple(map(os.fsencode, files)),
        is_searched,
        ":".join(directories),
    )
