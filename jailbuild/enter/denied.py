"""The system calls that the isolated modes deny, each with its reason.

It is a second fence. Namespaces and dropped capabilities make the boundary; the list takes away what they leave to a
process without capabilities: kernel code that had many of the ways out, what no namespace separates (keys, the kernel's
log, vsock), and set-id bits, which any owner of a file may set. What git, Python, gcc, Java or a database use is not in
it: ptrace(2) and its kin reach only the box's own process namespace, and adjtimex(2), whose argument stands in memory,
reads the clock's state; the capability to change it is gone.
"""

from __future__ import annotations

from typing import NamedTuple

# What the caller gets. Any name of errno may stand here.
EPERM = "EPERM"  # as the kernel says where a capability is missing
ENOSYS = "ENOSYS"  # as a kernel without the call: C libraries then use an older call, whose arguments can be seen


class ArgumentComparison(NamedTuple):
    """A condition on one argument: its low 32 bits under `mask` are among `values`, or with `others` are not.

    Every argument looked at here is an int, an unsigned int or a mode_t for the kernel, or is cut to its low 32 bits
    by it (clone's flags): the high half says nothing, and a filter that compared it could be got round by setting it.
    """

    argument: int  # from 0
    mask: int
    values: tuple[int, ...]
    others: bool = False


class Denial(NamedTuple):
    """Calls that are denied where all of `looks` hold."""

    calls: str  # names, separated by spaces
    action: str
    why: str
    looks: tuple[ArgumentComparison, ...] = ()
    unless: str = ""  # the capability without CAP_ that lifts it: who keeps that one has asked for the call
    private_network: bool = False  # denied only where the box has a network of its own


def any_of(argument: int, bits: int) -> ArgumentComparison:
    """Return the condition that one of the bits is set."""
    return ArgumentComparison(argument, bits, (0,), others=True)


def equal(argument: int, *values: int, mask: int = 0xFFFFFFFF) -> ArgumentComparison:
    return ArgumentComparison(argument, mask, values)


def unequal(argument: int, *values: int) -> ArgumentComparison:
    return ArgumentComparison(argument, 0xFFFFFFFF, values, others=True)


# linux/sched.h: CLONE_NEWNS NEWCGROUP NEWUTS NEWIPC NEWUSER NEWPID NEWNET. The bit of CLONE_NEWTIME (0x80) is one of
# the exit signal in clone(2), and there means nothing else.
_NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
_NEW_TIME = 0x00000080
_THREAD = 0x00010000  # CLONE_THREAD
_SET_ID = 0o6000
_CREATES = 0o100 | 0o20000000  # O_CREAT, __O_TMPFILE: without them open(2) has no mode, and its register holds anything
_TYPE, _CHARACTER, _BLOCK = 0o170000, 0o020000, 0o060000
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # asm-generic/ioctls.h
_SNAPSHOT, _SNAPSHOT_2 = 0x50009401, 0x50009417  # BTRFS_IOC_SNAP_CREATE, BTRFS_IOC_SNAP_CREATE_V2, linux/btrfs.h
_VSOCK, _QIPCRTR = 40, 42  # address families, linux/socket.h
_SOCKETCALL_SOCKET = 1  # linux/net.h
# personality(2): asking, Linux, 32 bits, an old version's number, no randomisation (debuggers, setarch -R)
_PERSONALITIES = (0xFFFFFFFF, 0, 0x0008, 0x0020000, 0x0020008, 0x0040000, 0x0040008)

_SET_ID_WHY = "a set-id file left in the box gives its rights to any user of the host who can reach it"

DENIED = (
    # set-id bits. A directory's set-gid bit is harmless, and cannot be told from a file's: it is denied with it.
    Denial("chmod fchmod", EPERM, _SET_ID_WHY, (any_of(1, _SET_ID),)),
    Denial("fchmodat", EPERM, _SET_ID_WHY, (any_of(2, _SET_ID),)),
    Denial("creat", EPERM, _SET_ID_WHY, (any_of(1, _SET_ID),)),
    Denial("open", EPERM, _SET_ID_WHY, (any_of(1, _CREATES), any_of(2, _SET_ID))),
    Denial("openat", EPERM, _SET_ID_WHY, (any_of(2, _CREATES), any_of(3, _SET_ID))),
    Denial("mknod", EPERM, _SET_ID_WHY, (any_of(1, _SET_ID),)),
    Denial("mknodat", EPERM, _SET_ID_WHY, (any_of(2, _SET_ID),)),
    Denial("openat2", ENOSYS, "its mode stands in memory, where a filter cannot see it; callers fall back to openat"),
    Denial("fchmodat2", ENOSYS, "as Linux before 6.6: C libraries then use fchmodat, where the mode is looked at"),
    # devices
    Denial(
        "mknod",
        EPERM,
        "a device node is the device: a disk is every file on it",
        (equal(1, _CHARACTER, _BLOCK, mask=_TYPE),),
        unless="MKNOD",
    ),
    Denial(
        "mknodat",
        EPERM,
        "a device node is the device: a disk is every file on it",
        (equal(2, _CHARACTER, _BLOCK, mask=_TYPE),),
        unless="MKNOD",
    ),
    Denial("iopl ioperm", EPERM, "the machine's ports: disks and memory without the kernel", unless="SYS_RAWIO"),
    Denial(
        "ioctl",
        EPERM,
        "until Linux 6.8 a btrfs snapshot of any directory was one of its whole subvolume",
        (equal(1, _SNAPSHOT, _SNAPSHOT_2),),
        unless="SYS_ADMIN",
    ),
    # the caller's terminal, where the box has it (--no-pty)
    Denial(
        "ioctl",
        EPERM,
        "TIOCSTI types into the terminal, TIOCLINUX pastes into it: the caller's shell would run it",
        (equal(1, _TIOCSTI, _TIOCLINUX),),
    ),
    # mounts, roots and namespaces
    Denial(
        "mount umount umount2",
        EPERM,
        "a mount shows what was covered, a fresh proc other processes",
        unless="SYS_ADMIN",
    ),
    Denial(
        "move_mount open_tree open_tree_attr fsopen fsconfig fsmount fspick mount_setattr",
        EPERM,
        "the same by the newer calls; parsing mount options gave CVE-2022-0185",
        unless="SYS_ADMIN",
    ),
    Denial("pivot_root", EPERM, "the root of the box stays its root", unless="SYS_ADMIN"),
    Denial("chroot", EPERM, "a second chroot with a kept directory is the way out of the first", unless="SYS_CHROOT"),
    Denial(
        "unshare",
        EPERM,
        "a user namespace gives every capability back, and with them most of the kernel's code",
        (any_of(0, _NAMESPACES | _NEW_TIME),),
        unless="SYS_ADMIN",
    ),
    Denial("clone", EPERM, "the same", (any_of(0, _NAMESPACES),), unless="SYS_ADMIN"),
    Denial(
        "clone3",
        ENOSYS,
        "its flags stand in memory; C libraries fall back to clone, whose flags are looked at",
        unless="SYS_ADMIN",
    ),
    Denial("setns", EPERM, "its own mount namespace entered anew has the namespace's root as root", unless="SYS_ADMIN"),
    Denial(
        "open_by_handle_at",
        EPERM,
        "opens any file of a file system by number, outside of the box too",
        unless="DAC_READ_SEARCH",
    ),
    # what no namespace separates
    Denial("add_key request_key keyctl", EPERM, "keyrings of the same uid are shared with the host (CVE-2016-0728)"),
    Denial("syslog", EPERM, "the kernel's log is the host's", unless="SYSLOG"),
    Denial("settimeofday clock_settime clock_settime64 stime", EPERM, "the clock is the host's", unless="SYS_TIME"),
    Denial("swapon swapoff", EPERM, "the memory is the host's", unless="SYS_ADMIN"),
    Denial("reboot", EPERM, "the machine is the host's", unless="SYS_BOOT"),
    Denial("acct", EPERM, "a log of every process of the machine", unless="SYS_PACCT"),
    Denial("quotactl quotactl_fd", EPERM, "quotas are the file system's, in the box and outside", unless="SYS_ADMIN"),
    Denial(
        "socket",
        "EAFNOSUPPORT",
        "vsock and qrtr know no network namespaces: they reach host and hypervisor",
        (equal(0, _VSOCK, _QIPCRTR),),
        private_network=True,
    ),
    Denial(
        "socketcall",
        EPERM,
        "the address family stands in memory and may be vsock; the call socket is looked at",
        (equal(0, _SOCKETCALL_SOCKET),),
        private_network=True,
    ),
    # code for the kernel
    Denial("init_module finit_module delete_module", EPERM, "a module is the kernel", unless="SYS_MODULE"),
    Denial(
        "kexec_load kexec_file_load", EPERM, "another kernel, started at once or at the next reboot", unless="SYS_BOOT"
    ),
    Denial(
        "bpf",
        EPERM,
        "programs that run in the kernel; its verifier was wrong often (CVE-2020-8835, CVE-2021-3490)",
        unless="BPF",
    ),
    # calls that were the way into the kernel too often for what they give
    Denial(
        "io_uring_setup io_uring_enter io_uring_register",
        EPERM,
        "its queue, in memory, does what this list denies (openat2), and has had many holes (CVE-2022-29582)",
    ),
    Denial("userfaultfd", EPERM, "holds the kernel in the middle of a copy as long as wanted: races are won with it"),
    Denial(
        "perf_event_open",
        EPERM,
        "a large interface with holes in it (CVE-2013-2094), and it sees the host's work",
        unless="PERFMON",
    ),
    Denial("modify_ldt vm86 vm86old", EPERM, "16-bit segments and modes (CVE-2017-17053), of use to DOS programs only"),
    Denial(
        "personality",
        EPERM,
        "other executions switch protections off: the page at 0 mapped, all data executable",
        (unequal(0, *_PERSONALITIES),),
    ),
    # calls that newer kernels lack; what is left of them in older ones is used by nobody
    Denial(
        "create_module get_kernel_syms query_module nfsservctl _sysctl uselib lookup_dcookie sysfs ustat",
        ENOSYS,
        "given up by the kernel",
    ),
)

# For who is to be one process alone: of what it starts, a time limit says nothing, and its memory counts anew.
_WHY_ALONE = "processes that make processes leave none to the machine: for root there is no limit to their number"
ALONE = (Denial("fork vfork clone", EPERM, _WHY_ALONE), Denial("clone3", ENOSYS, _WHY_ALONE))
ALONE_WITH_THREADS = (
    Denial("fork vfork", EPERM, _WHY_ALONE),
    Denial("clone", EPERM, _WHY_ALONE, (equal(0, 0, mask=_THREAD),)),
    Denial("clone3", ENOSYS, "its flags stand in memory; C libraries fall back to clone, whose flags are looked at"),
)
