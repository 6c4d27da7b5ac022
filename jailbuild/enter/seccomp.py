"""The deny list of denied.py as a seccomp filter: compiled to classic BPF, and installed.

A filter is asked at every system call, with the architecture, the number and the six arguments as 64-bit integers
(struct seccomp_data, linux/seccomp.h); memory that an argument points to is not seen. It cannot be taken off again,
and children have it too.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Collection, Sequence

from jailbuild.enter.denied import DENIED, ArgumentComparison, Denial
from jailbuild.enter.seccomp_numbers import NEWEST, NUMBERS
from jailbuild.errors import JailError

# Both are in one program: a 64-bit process makes calls of i386 too, by int 0x80, and a 64-bit kernel calls itself i686
# under setarch(8).
_MACHINES = ("x86_64", "i386", "i486", "i586", "i686")
_X86_64, _I386 = 0xC000003E, 0x40000003  # AUDIT_ARCH_*, linux/audit.h
_X32 = 0x40000000  # __X32_SYSCALL_BIT
_NO_CALL = 0xFFFFFFFF  # -1: a tracer in the box told the kernel to make none

_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000  # SECCOMP_RET_*: the process is killed, not the thread

# BPF_LD|W|ABS, BPF_ALU|AND|K, BPF_JMP|JEQ|K, |JGE|K, |JA, BPF_RET|K: linux/bpf_common.h
_LOAD, _AND, _IF_EQUAL, _IF_AT_LEAST, _JUMP, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x05, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_FAR = 255  # a conditional jump's offset is one byte

# The code is made from its parts, and each part runs on to what follows it or returns; so jumps are lengths.
_Code = tuple[tuple[int, int, int, int], ...]  # struct sock_filter: code, jump if true, if false, operand

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))  # struct sock_fprog


_libc = ctypes.CDLL(None, use_errno=True)


def filter_program(
    machine: str | None = None,
    *,
    private_network: bool = False,
    kept: Collection[str] = (),
    rules: Sequence[Denial] = DENIED,
) -> bytes:
    """Return the filter for a machine as uname(2) names it, this one's by default: an array of struct sock_filter.

    `kept` are the capabilities that the command keeps, without CAP_: they lift the denials that name them.
    JailError where there is no table for the machine.
    """
    name = os.uname().machine if machine is None else machine
    if name not in _MACHINES:
        raise JailError(
            f"cannot filter system calls: their numbers on {name} are not known",
            "jailbuild enter --seccomp none goes without the filter",
        )
    held = [rule for rule in rules if rule.unless not in kept and (private_network or not rule.private_network)]
    x32 = (  # its calls are those of x86-64 with other numbers, which a list of numbers would not know
        (_IF_AT_LEAST, 0, 3, _X32),
        (_IF_EQUAL, 0, 1, _NO_CALL),
        _end(_ALLOW),
        _end(_KILL),
        # before Linux 5.4 they could be made without the bit
        (_IF_AT_LEAST, 0, 2, 512),
        (_IF_AT_LEAST, 1, 0, 548),
        _end(_KILL),
    )
    native = (*x32, *_calls(held, 0))
    other = ((_IF_EQUAL, 0, 1, _NO_CALL), _end(_ALLOW), *_calls(held, 1))
    program: _Code = (
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IF_EQUAL, 1, 0, _X86_64),
        (_JUMP, 0, 0, len(native) + 1),
        (_LOAD, 0, 0, _NUMBER),
        *native,
        (_IF_EQUAL, 1, 0, _I386),
        _end(_KILL),
        (_LOAD, 0, 0, _NUMBER),
        *other,
    )
    return b"".join(struct.pack("=HBBI", *one) for one in program)


def install(program: bytes) -> None:
    """Put the calling thread under the filter, for good (prctl(2), PR_SET_SECCOMP).

    The thread has no_new_privs set, or CAP_SYS_ADMIN. OSError: EINVAL where the kernel has no filters, EACCES.
    """
    kept = ctypes.create_string_buffer(program, len(program))
    request = _Program(len(program) // 8, ctypes.addressof(kept))
    if _libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(request)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _calls(rules: list[Denial], column: int) -> _Code:
    """Return the code that decides about a call of one architecture, its number being loaded."""
    bodies: dict[int, _Code] = {}
    for rule in rules:
        for name in rule.calls.split():
            number = NUMBERS[name][column]
            if number is not None:
                bodies[number] = bodies.get(number, ()) + _rule(rule)
    # A later call was judged by nobody: it may be another chmod. C libraries are used to calls that a kernel lacks.
    late = (_IF_AT_LEAST, 0, 1, NEWEST + 1), _end(_ERRNO | errno.ENOSYS)
    return (*late, *_tree(sorted(bodies.items())))


def _tree(bodies: list[tuple[int, _Code]]) -> _Code:
    """Return the code that finds a number by halving, runs its body, and allows what has none."""
    if len(bodies) > 2:
        middle = len(bodies) // 2
        low, high = _tree(bodies[:middle]), _tree(bodies[middle:])
        pivot = bodies[middle][0]
        if len(low) <= _FAR:
            return ((_IF_AT_LEAST, len(low), 0, pivot), *low, *high)
        return ((_IF_AT_LEAST, 0, 1, pivot), (_JUMP, 0, 0, len(low)), *low, *high)
    code: _Code = (_end(_ALLOW),)
    for number, body in reversed(bodies):
        whole = (*body, _end(_ALLOW))  # a body has loaded arguments: the number is gone
        code = ((_IF_EQUAL, 0, len(whole), number), *whole, *code)
    return code


def _rule(rule: Denial) -> _Code:
    """Return the code that denies the call where all the rule's conditions hold, and else runs on."""
    number: int = getattr(errno, rule.action)
    code: _Code = (_end(_ERRNO | number),)
    for look in reversed(rule.looks):
        code = _look(look, code)
    return code


def _look(look: ArgumentComparison, then: _Code) -> _Code:
    """Return the code that runs `then` where the condition holds, and else runs on behind it."""
    low_half = 0 if sys.byteorder == "little" else 4
    code: _Code = ((_LOAD, 0, 0, _ARGUMENTS + 8 * look.argument + low_half), (_AND, 0, 0, look.mask))
    count = len(look.values)
    for at, value in enumerate(look.values):
        left = count - 1 - at  # comparisons after this one
        if look.others:
            code += ((_IF_EQUAL, left + len(then), 0, value),)
        else:
            code += ((_IF_EQUAL, left, 0 if left else len(then), value),)
    return code + then


def _end(what: int) -> tuple[int, int, int, int]:
    return _RETURN, 0, 0, what
