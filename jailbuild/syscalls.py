"""Linux calls that Python 3.11 lacks: one thin function each, OSError on failure."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

# The same on every architecture but alpha (unistd.h): numbers have been given out for all at once since 424.
_OPEN_TREE = 428
_MOVE_MOUNT = 429
_FSOPEN = 430
_FSCONFIG = 431
_FSMOUNT = 432
_PIDFD_OPEN = 434
_CLONE3 = 435
_CLOSE_RANGE = 436
_OPENAT2 = 437
_MOUNT_SETATTR = 442
_LANDLOCK_CREATE = 444
_LANDLOCK_ADD_RULE = 445
_LANDLOCK_RESTRICT_SELF = 446

# keyctl is older than the common numbers, and no C library has it. By the start of the machine's name and the bits of
# this program: uname(2) says what the kernel is, or what setarch(8) has asked it to say.
_KEYCTL = (
    ("x86_64", 64, 250),
    ("x86_64", 32, 288),
    ("i", 64, 250),
    ("i", 32, 288),
    ("aarch64", 64, 219),
    ("aarch64", 32, 311),
    ("arm", 64, 219),
    ("arm", 32, 311),
    ("riscv", 64, 219),
    ("loongarch", 64, 219),
    ("ppc", 64, 271),
    ("s390x", 64, 280),
)

# openat2(2), how.resolve
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_AT_EMPTY_PATH = 0x1000
_AT_SYMLINK_NOFOLLOW = 0x100
_IMMUTABLE, _APPEND_ONLY = 0x10, 0x20  # statx(2), stx_attributes
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2

_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000

# clone3(2), args.flags
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

# mount_setattr(2) and fsmount(2)
MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08
MS_PRIVATE = 1 << 18

_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_MOVE_FROM_EMPTY = 0x04
_MOVE_TO_EMPTY = 0x40
_FS_CLOEXEC = 1  # FSOPEN_CLOEXEC and FSMOUNT_CLOEXEC
_SET_FLAG, _SET_STRING, _CREATE = 0, 1, 6  # fsconfig(2)

_MNT_DETACH = 2
_CLOSE_RANGE_CLOEXEC = 4
_LAST_DESCRIPTOR = (1 << 32) - 1
_SFD_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_SIGNALS = 1024  # bits in the sigset_t of the C libraries
_LONG = ctypes.sizeof(ctypes.c_long)
_CAPABILITIES_3 = 0x20080522  # capset(2): 64 bits in two halves

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_held = ctypes.PyDLL(None, use_errno=True)  # keeps Python's lock: for the call that returns in two processes
_held.syscall.restype = ctypes.c_long


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _fail(path: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)


def current_processor() -> int:
    """Return the number of the processor that the calling thread runs on: sched_getcpu(3)."""
    number: int = _libc.sched_getcpu()
    if number < 0:
        raise _fail("")
    return number


def openat2(directory: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """Open `path` below the descriptor `directory` and return a new descriptor with O_CLOEXEC.

    openat2(2), Linux 5.6. OSError: ENOSYS where kernel or sandbox lack it, EXDEV or ELOOP where `resolve` forbids
    the way; EAGAIN, a rename that raced with a `..`, is tried again.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    for _ in range(100):
        opened: int = _libc.syscall(
            ctypes.c_long(_OPENAT2),
            ctypes.c_int(directory),
            os.fsencode(path),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if opened >= 0:
            return opened
        if ctypes.get_errno() not in (errno.EAGAIN, errno.EINTR):
            break
    raise _fail(path)


def rename_new(old_directory: int, old: str, new_directory: int, new: str) -> None:
    """Rename, but never over something that is there: renameat2(2) with RENAME_NOREPLACE.

    OSError: EEXIST; EINVAL or ENOSYS where the file system or the kernel cannot promise it.
    """
    _renameat2(old_directory, old, new_directory, new, _RENAME_NOREPLACE)


def exchange(one_directory: int, one: str, other_directory: int, other: str) -> None:
    """Let two names change places in one step: renameat2(2) with RENAME_EXCHANGE. OSError as for rename_new."""
    _renameat2(one_directory, one, other_directory, other, _RENAME_EXCHANGE)


def _renameat2(old_directory: int, old: str, new_directory: int, new: str, flags: int) -> None:
    try:
        renameat2 = _libc.renameat2
    except AttributeError:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), new) from None
    if renameat2(old_directory, os.fsencode(old), new_directory, os.fsencode(new), flags) < 0:
        raise _fail(new)


def is_fixed(directory: int, name: str) -> bool:
    """Say whether a file may be neither removed nor replaced by anybody, as chattr(1) +i and +a make it: statx(2).

    False where the file system or the C library does not tell. OSError if there is no such file.
    """
    try:
        statx = _libc.statx
    except AttributeError:
        return False
    told = (ctypes.c_uint64 * 32)()  # struct statx; the second word are the attributes
    if statx(directory, os.fsencode(name), _AT_SYMLINK_NOFOLLOW, 0, told) < 0:
        raise _fail(name)
    return bool(told[1] & (_IMMUTABLE | _APPEND_ONLY))


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def chown_open(descriptor: int, uid: int, gid: int) -> None:
    """Give what an O_PATH descriptor stands for, a link also, an owner: fchownat(2) with AT_EMPTY_PATH."""
    if _libc.fchownat(descriptor, b"", ctypes.c_uint(uid), ctypes.c_uint(gid), _AT_EMPTY_PATH) < 0:
        raise _fail("")


def utime_open(descriptor: int, time_ns: int) -> None:
    """Give what an O_PATH descriptor stands for, a link also, its times: utimensat(2) with AT_EMPTY_PATH.

    OSError: EINVAL before Linux 5.8.
    """
    time = _Timespec(*divmod(time_ns, 1_000_000_000))
    times = (_Timespec * 2)(time, time)
    if _libc.utimensat(descriptor, b"", times, _AT_EMPTY_PATH) < 0:
        raise _fail("")


def syncfs(descriptor: int) -> None:
    """Write out the file system that a descriptor is on: syncfs(2)."""
    if _libc.syncfs(descriptor) < 0:
        raise _fail("")


class _CloneArguments(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
        )
    )


class _MountAttributes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns_fd"))


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilityHalf(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def _call(number: int, *arguments: object, path: str = "") -> int:
    """Make the numbered call; int is passed as long, so that none is cut or padded with what the register held."""
    passed = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *passed)
    if result < 0:
        raise _fail(path)
    return result


def _checked(result: int, path: str = "") -> None:
    if result < 0:
        raise _fail(path)


def clone(namespaces: int, signal: int) -> int:
    """Fork into new namespaces (CLONE_NEW…): 0 in the child, else its process id. clone3(2), Linux 5.3.

    `signal` is sent to us when it ends (SIGCHLD).

    Of one thread only. Nothing that is registered to run at a fork runs.
    """
    arguments = _CloneArguments(flags=namespaces, exit_signal=signal)
    result: int = _held.syscall(
        ctypes.c_long(_CLONE3), ctypes.byref(arguments), ctypes.c_size_t(ctypes.sizeof(arguments))
    )
    if result < 0:
        raise _fail("")
    return result


def open_tree(directory: int, path: str, recursive: bool = False) -> int:
    """Return a descriptor of a new, unattached bind mount of `path` ("" for `directory` itself), links followed."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    return _call(_OPEN_TREE, directory, os.fsencode(path), flags | (0 if path else _AT_EMPTY_PATH), path=path)


def move_mount(mount: int, onto: int) -> None:
    """Attach the mount that one descriptor stands for at the place that the other does."""
    _call(_MOVE_MOUNT, mount, b"", onto, b"", _MOVE_FROM_EMPTY | _MOVE_TO_EMPTY)


def new_mount(kind: str, options: dict[str, str | None], attributes: int) -> int:
    """Return a descriptor of a new file system's unattached mount (options without a value have None)."""
    context = _call(_FSOPEN, os.fsencode(kind), _FS_CLOEXEC)
    try:
        for name, value in options.items():
            if value is None:
                _call(_FSCONFIG, context, _SET_FLAG, os.fsencode(name), None, 0)
            else:
                _call(_FSCONFIG, context, _SET_STRING, os.fsencode(name), os.fsencode(value), 0)
        _call(_FSCONFIG, context, _CREATE, None, None, 0)
        return _call(_FSMOUNT, context, _FS_CLOEXEC, attributes)
    finally:
        os.close(context)


def set_mount(mount: int, path: str = "", attributes: int = 0, private: bool = False, recursive: bool = False) -> None:
    """Add attributes to the mount at `path` ("" for the descriptor `mount` itself). mount_setattr(2), Linux 5.12."""
    change = _MountAttributes(set=attributes, propagation=MS_PRIVATE if private else 0)
    flags = (0 if path else _AT_EMPTY_PATH) | (_AT_RECURSIVE if recursive else 0)
    _call(_MOUNT_SETATTR, mount, os.fsencode(path), flags, ctypes.byref(change), ctypes.sizeof(change), path=path)


def pivot_root(new: str, old: str) -> None:
    """Make `new` the root of the mount namespace and put the one that was at `old`: pivot_root(2)."""
    _checked(_libc.pivot_root(os.fsencode(new), os.fsencode(old)))


def rejoin_namespace(kind: int) -> None:
    """Enter the namespace (one of CLONE_NEW…) that we are in: setns(2) by a pidfd, Linux 5.8."""
    process = _call(_PIDFD_OPEN, os.getpid(), 0)
    try:
        _checked(_libc.setns(ctypes.c_int(process), ctypes.c_int(kind)))
    finally:
        os.close(process)


def join_namespace(namespace: int, kind: int) -> None:
    """Enter the namespace of a kind (one of CLONE_NEW…) that a descriptor stands for: setns(2)."""
    _checked(_libc.setns(ctypes.c_int(namespace), ctypes.c_int(kind)))


def detach(path: str) -> None:
    """Take a mount, and all below it, out of the tree: umount2(2), MNT_DETACH."""
    _checked(_libc.umount2(os.fsencode(path), _MNT_DETACH), path)


def sethostname(name: bytes) -> None:
    """Set the host name of this UTS namespace."""
    _checked(_libc.sethostname(name, ctypes.c_size_t(len(name))))


def close_range(first: int, last: int = _LAST_DESCRIPTOR, on_exec: bool = False) -> None:
    """Close the descriptors from `first` to `last`, at once or on execve. close_range(2), Linux 5.11."""
    if first <= last:
        _call(_CLOSE_RANGE, first, last, _CLOSE_RANGE_CLOEXEC if on_exec else 0)


def prctl(operation: int, *arguments: int) -> int:
    """Do a prctl(2) whose arguments are numbers."""
    result: int = _libc.prctl(ctypes.c_int(operation), *(ctypes.c_ulong(one) for one in (*arguments, 0, 0, 0, 0)[:4]))
    _checked(result)
    return result


def capabilities() -> int:
    """Return the permitted capabilities of this process, bit n for capability n."""
    header, halves = _CapabilityHeader(_CAPABILITIES_3, 0), (_CapabilityHalf * 2)()
    _checked(_libc.capget(ctypes.byref(header), ctypes.byref(halves)))
    return int(halves[0].permitted) | int(halves[1].permitted) << 32


def set_capabilities(permitted: int, inheritable: int) -> None:
    """Set the permitted (and with it the effective) and the inheritable capabilities of this process."""
    header, halves = _CapabilityHeader(_CAPABILITIES_3, 0), (_CapabilityHalf * 2)()
    for half, shift in ((halves[0], 0), (halves[1], 32)):
        half.effective = half.permitted = permitted >> shift & 0xFFFFFFFF
        half.inheritable = inheritable >> shift & 0xFFFFFFFF
    _checked(_libc.capset(ctypes.byref(header), ctypes.byref(halves)))


def signalfd(signals: set[int]) -> int:
    """Return a non-blocking descriptor that reads 128 bytes, a signalfd_siginfo, for each of these blocked signals."""
    bits = bytearray(_SIGNALS // 8)
    for number in signals:
        bits[(number - 1) // 8] |= 1 << (number - 1) % 8
    words = b"".join(  # a sigset_t is an array of unsigned long
        int.from_bytes(bits[at : at + _LONG], "little").to_bytes(_LONG, sys.byteorder)
        for at in range(0, len(bits), _LONG)
    )
    result: int = _libc.signalfd(ctypes.c_int(-1), words, ctypes.c_int(_SFD_NONBLOCK_CLOEXEC))
    _checked(result)
    return result


def unlock_terminal(master: int) -> None:
    """Let the other end of a pseudo-terminal be opened: unlockpt(3)."""
    _checked(_libc.unlockpt(ctypes.c_int(master)))


def new_session_keyring() -> None:
    """Leave the caller's session keyring for a new, empty one: keyctl(2), KEYCTL_JOIN_SESSION_KEYRING.

    OSError: ENOSYS also where the call's number is not known.
    """
    machine = os.uname().machine
    for name, bits, number in _KEYCTL:
        if machine.startswith(name) and bits == _LONG * 8:
            _call(number, 1, None)
            return
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def landlock_execute_below(path: str) -> None:
    """Let this process, and all that come from it, execute files below `path` and no others. Linux 5.19.

    Does nothing on a kernel that lacks Landlock, or has its first version, which would refuse every rename from one
    directory into another. no_new_privs has to be set.
    """
    try:
        if _call(_LANDLOCK_CREATE, None, 0, 1) < 2:  # LANDLOCK_CREATE_RULESET_VERSION
            return
    except OSError:
        return
    rights = ctypes.c_uint64(1 | 1 << 13)  # LANDLOCK_ACCESS_FS_EXECUTE, LANDLOCK_ACCESS_FS_REFER
    rules = _call(_LANDLOCK_CREATE, ctypes.byref(rights), 8, 0)
    directory = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    rule = struct.pack("=Qi", rights.value, directory)  # struct landlock_path_beneath_attr is packed
    _call(_LANDLOCK_ADD_RULE, rules, 1, rule, 0)
    _call(_LANDLOCK_RESTRICT_SELF, rules, 0)
    os.close(directory)
    os.close(rules)
