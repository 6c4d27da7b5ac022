"""An emulator for one box: a binfmt_misc of its own, as operations of its set-up.

A registration of the host's opens the emulator once and for all (flag F), and then it is /proc/self/exe of all that it
runs: root in a box could change its mode and owner. So an isolated box has a binfmt_misc of its own, which a user
namespace can have (Linux 6.7), and in it a sealed copy of the emulator in memory: no file of the host's, nothing for
other boxes, and nothing left behind. Of root's box only the command stands in that user namespace: what is mounted, and
the box's first process, stay as they are without an emulator.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import signal
import struct
from typing import NamedTuple, NoReturn

from jailbuild import syscalls
from jailbuild.enter.emulation import ElfTarget, machine_name, magic, mask, way
from jailbuild.enter.mounts import SetupContext
from jailbuild.syscalls import MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID

_MAX_EMULATOR = 256 << 20  # bytes; qemu's have some six million
_BLOCK = 1 << 22
_FLAGS = "PF"  # P: the emulator gets argv[0] too; F: it is opened now, and looked up no more

# memfd_create(2), fcntl(2)
_CLOEXEC, _ALLOW_SEALING, _EXEC = 1, 2, 0x10
_ADD_SEALS, _ALL_SEALS = 1033, 0x0F


class Emulation(NamedTuple):
    """A binfmt_misc of the box's own with one emulator in it; it is gone with the box's first process."""

    kind: ElfTarget
    emulator: str
    own_user: bool  # whether a user namespace is to be made for it; else the box is in one

    def __str__(self) -> str:
        return (
            f"emulation: {machine_name(self.kind)} programs by {self.emulator}, from a copy in memory,"
            f" in a binfmt_misc of {'a user namespace' if self.own_user else 'the box'}'s own"
        )

    def note(self) -> str:
        """Return what is weaker than without an emulator, in one line."""
        return (
            f"programs for {machine_name(self.kind)} are run by {self.emulator}, in a user namespace:"
            " ports below 1024 are not theirs, and what --cap-keep keeps counts in it alone"
        )

    def do(self, place: SetupContext) -> None:
        if not self.own_user:
            place.emulation = self._register()
            return
        proc = syscalls.new_mount("proc", {}, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        child = syscalls.clone(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS, signal.SIGCHLD)
        if child == 0:
            self._be_first_user(theirs, ours)
        try:
            theirs.close()
            for name in ("gid_map", "uid_map"):
                _write(proc, f"{child}/{name}", _same_ids(name))
            place.user = os.open(f"{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
            ours.send(b"g")
            said, extras, _, _ = ours.recvmsg(16, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
            if not extras:
                number = int(said or errno.ECHILD)
                raise OSError(number, os.strerror(number))
            place.emulation = struct.unpack("i", extras[0][2])[0]
        finally:
            ours.close()  # the child ends with it, if it has not
            os.close(proc)
            os.waitpid(child, 0)

    def _be_first_user(self, channel: _socket.socket, other: _socket.socket) -> NoReturn:
        """Register as the first of a user namespace, and send the mount or an errno."""
        number = errno.EINVAL
        try:
            other.close()
            if channel.recv(1):  # the ids are mapped
                rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", self._register()))
                channel.sendmsg([b"0"], [rights])
                number = 0
        except OSError as error:
            number = error.errno or number
        finally:
            try:
                if number:
                    channel.send(b"%d" % number)
            finally:
                os._exit(0)

    def _register(self) -> int:
        """Return the mount of a new binfmt_misc, this user namespace's, that runs the emulator."""
        copy = _sealed_copy(self.emulator)
        try:
            mount = syscalls.new_mount("binfmt_misc", {}, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)
            line = f":{machine_name(self.kind)}:M::{_escaped(magic(self.kind))}:{_escaped(mask(self.kind))}"
            _write(mount, "register", f"{line}:/proc/self/fd/{copy}:{_FLAGS}".encode())
        finally:
            os.close(copy)
        return mount


def emulation(kind: ElfTarget | None, rootless: bool) -> Emulation | None:
    """Return what lets programs of `kind` run in an isolated box; None where they do anyway, or nothing lets them.

    `way` says which of the two. `rootless`: the box is in a user namespace as it is.
    """
    known = way(kind) if kind is not None else None
    return Emulation(kind, known.name, not rootless) if kind is not None and known and known.how == "emulator" else None


class EmulationUser(NamedTuple):
    """Into the user namespace whose binfmt_misc has the emulator: every id is itself there, capabilities are not."""

    def __str__(self) -> str:
        return "user namespace: every id as it is; capabilities count in it alone"

    def do(self, place: SetupContext) -> None:
        syscalls.join_namespace(place.user, syscalls.CLONE_NEWUSER)
        os.close(place.user)


def _escaped(text: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in text)


def _same_ids(name: str) -> bytes:
    """Return a map in which every id that we have stands for itself."""
    with open(f"/proc/self/{name}", encoding="ascii") as file:
        lines = [line.split() for line in file]
    return "".join(f"{inside} {inside} {count}\n" for inside, _, count in lines).encode()


def _write(directory: int, name: str, content: bytes) -> None:
    opened = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.write(opened, content)
    finally:
        os.close(opened)


def _sealed_copy(path: str) -> int:
    """Return a copy of a program in memory that nobody can change any more."""
    name = os.path.basename(path)
    try:
        copy = os.memfd_create(name, _CLOEXEC | _ALLOW_SEALING | _EXEC)
    except OSError as error:  # before Linux 6.3 every one can be executed
        if error.errno != errno.EINVAL:
            raise
        copy = os.memfd_create(name, _CLOEXEC | _ALLOW_SEALING)
    try:
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(source).st_size
            if size > _MAX_EMULATOR:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
            while os.sendfile(copy, source, None, _BLOCK):
                pass
        finally:
            os.close(source)
        os.fchmod(copy, 0o555)
        fcntl.fcntl(copy, _ADD_SEALS, _ALL_SEALS)
    except OSError:
        os.close(copy)
        raise
    return copy
