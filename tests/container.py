"""What root of a container is by docker's default: fourteen capabilities, no new namespaces, no mounts.

    python -m tests.container COMMAND...    run a command so, as root

The command has a process namespace of its own, as in a container: `kill -1` reaches nobody else.
"""

from __future__ import annotations

import os
import sys

from jailbuild.enter import seccomp
from jailbuild.enter.denied import ENOSYS, EPERM, Denial, any_of

CAPABILITIES = (
    "chown",
    "dac_override",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "net_bind_service",
    "net_raw",
    "sys_chroot",
    "mknod",
    "audit_write",
    "setfcap",
)
_INSIDE = "--inside"
_NAMESPACES = 0x7E020000  # CLONE_NEW*, linux/sched.h

# Of docker's profile what the capabilities do not refuse anyway: a user namespace would give all of them.
_DENIED = (
    Denial("unshare setns mount umount2 pivot_root", EPERM, ""),
    Denial("open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr", EPERM, ""),
    Denial("clone", EPERM, "", (any_of(0, _NAMESPACES),)),
    Denial("clone3", ENOSYS, "its flags stand in memory"),
)


def limited(*without: str) -> tuple[str, ...]:
    """Return a command prefix (setpriv) that leaves root these capabilities, but for those in `without`, for good."""
    kept = ",".join(f"+{name}" for name in CAPABILITIES if name not in without)
    return "setpriv", f"--bounding-set=-all,{kept}", "--inh-caps=-all"


def main() -> None:
    options, command = sys.argv[1:2], sys.argv[2:]
    if options != [_INSIDE]:
        apart = ("unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc")
        os.execvp(apart[0], [*apart, sys.executable, "-m", "tests.container", _INSIDE, *options, *command])
    if os.uname().machine == "x86_64":
        seccomp.install(seccomp.filter_program(rules=_DENIED))
    first = (*limited(), "sh", "-c", '"$@"; exit $?', "sh")  # PID 1, which collects orphans
    os.execvp(first[0], [*first, *command])


if __name__ == "__main__":
    main()
