"""The deny list: the compiled filter means what the list says, and the kernel does what the filter says."""

from __future__ import annotations

import errno
import mmap
import os
import platform
import re
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jailbuild.enter import denied, seccomp
from jailbuild.enter.denied import ALONE, ALONE_WITH_THREADS, DENIED, Denial
from jailbuild.enter.seccomp_numbers import NEWEST, NUMBERS
from jailbuild.errors import JailError
from tests import needs

X86_64, I386, AARCH64 = 0xC000003E, 0x40000003, 0xC00000B7  # AUDIT_ARCH_*
COLUMN = {X86_64: 0, I386: 1}
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
GONE = (1 << 32) - 1  # -1 as a call's number

CAPABILITIES = sorted({rule.unless for rule in DENIED if rule.unless})
CALLS = [(rule, name) for rule in DENIED for name in rule.calls.split()]

on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="the filter is for x86-64")


# a small machine that runs a filter, and what the list says by itself


def run(program: bytes, architecture: int, number: int, arguments: tuple[int, ...]) -> int:
    """Run a filter as bpf(4) and linux/seccomp.h tell it, and return its answer."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, *arguments)
    code = list(struct.iter_unpack("=HBBI", program))
    at, accumulator = 0, 0
    while True:
        operation, true, false, operand = code[at]
        at += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, operand)
            case 0x54:
                accumulator &= operand
            case 0x15:
                at += true if accumulator == operand else false
            case 0x35:
                at += true if accumulator >= operand else false
            case 0x05:
                at += operand
            case 0x06:
                return int(operand)
            case _:
                raise AssertionError(f"no such operation: {operation:#x}")


def meaning(
    architecture: int,
    number: int,
    arguments: tuple[int, ...],
    private_network: bool,
    kept: frozenset[str],
) -> int:
    """Return what the list means, read rule by rule."""
    if architecture not in COLUMN:
        return KILL
    if number == GONE:
        return ALLOW
    if architecture == X86_64 and (number & 0x40000000 or number >= 0x80000000 or 512 <= number <= 547):
        return KILL
    if number > NEWEST:
        return ERRNO | errno.ENOSYS
    for rule in DENIED:
        numbers = {NUMBERS[name][COLUMN[architecture]] for name in rule.calls.split()}
        holds = all(
            ((arguments[look.argument] & 0xFFFFFFFF & look.mask) in look.values) != look.others for look in rule.looks
        )
        if number in numbers and holds and rule.unless not in kept and (private_network or not rule.private_network):
            code: int = getattr(errno, rule.action)
            return ERRNO | code
    return ALLOW


known = sorted({number for pair in NUMBERS.values() for number in pair if number is not None})
edges = sorted(
    {
        value & 0xFFFFFFFF
        for rule in DENIED
        for look in rule.looks
        for value in (look.mask, *look.values, *(value | 1 << 31 for value in look.values))
    }
    | {0o755, 0o4755, 0o2000, 0o100, 0o100644, 0o020644, 0x11, 0x5413, 0x10000011}
)
words = st.sampled_from(edges) | st.integers(0, 0xFFFFFFFF)
arguments = st.tuples(*[st.tuples(st.just(0) | words, words).map(lambda halves: halves[0] << 32 | halves[1])] * 6)
numbers = (
    st.sampled_from(known)
    | st.integers(0, 600)
    | st.sampled_from([GONE, 0x3FFFFFFF, 0x40000000, 0x80000000])
    | (st.sampled_from(known).map(lambda number: number | 0x40000000))
    | st.integers(0, GONE)
)
architectures = st.sampled_from([X86_64, I386, AARCH64])


@given(architectures, numbers, arguments, st.booleans(), st.frozensets(st.sampled_from(CAPABILITIES)))
def test_the_compiled_filter_means_what_the_list_says(
    architecture: int,
    number: int,
    arguments: tuple[int, ...],
    private_network: bool,
    kept: frozenset[str],
) -> None:
    program = seccomp.filter_program("x86_64", private_network=private_network, kept=kept)
    assert run(program, architecture, number, arguments) == meaning(
        architecture,
        number,
        arguments,
        private_network,
        kept,
    )


@pytest.mark.parametrize("architecture", [X86_64, I386, AARCH64])
@pytest.mark.parametrize("fill", [0, (1 << 64) - 1, 0o6755, 0o755, 0x5412, 1 << 32 | 0x5412])
def test_every_number_up_to_the_newest_and_beyond_is_decided_as_the_list_says(architecture: int, fill: int) -> None:
    program = seccomp.filter_program("x86_64", private_network=True)
    for number in range(1200):
        assert run(program, architecture, number, (fill,) * 6) == meaning(
            architecture,
            number,
            (fill,) * 6,
            True,
            frozenset(),
        ), number


def deny(rule: Denial) -> tuple[int, ...]:
    """Return arguments that the rule denies and the kernel, without a filter, refuses for being nonsense."""
    arguments = [(1 << 64) - 1] * 6
    for look in rule.looks:
        arguments[look.argument] = look.mask if look.others else look.values[0]
        if look.others and look.values != (0,):
            arguments[look.argument] = 0xDEAD00
    if rule.calls == "clone":
        arguments[0] = 0x00020000 | 0x00000200  # CLONE_NEWNS with CLONE_FS
    if rule.calls == "unshare":
        arguments[0] = 0x00020000 | 0x00000001  # no such flag
    return tuple(arguments)


@pytest.mark.parametrize(("rule", "name"), CALLS, ids=[name for _, name in CALLS])
def test_each_line_of_the_list_denies_its_calls(rule: Denial, name: str) -> None:
    program = seccomp.filter_program("x86_64", private_network=True)
    for architecture, column in COLUMN.items():
        number = NUMBERS[name][column]
        if number is not None:
            code: int = getattr(errno, rule.action)
            assert run(program, architecture, number, deny(rule)) == ERRNO | code


def test_who_is_to_be_alone_makes_no_process_and_an_emulator_a_thread() -> None:
    """By the calls of both architectures."""
    alone = seccomp.filter_program("x86_64", rules=ALONE)
    threads = seccomp.filter_program("x86_64", rules=ALONE_WITH_THREADS)
    thread, process = (0x3D0F00, 0, 0, 0, 0, 0), (0x4111, 0, 0, 0, 0, 0)
    for architecture, column in COLUMN.items():
        for name in ("fork", "vfork", "clone"):
            number = NUMBERS[name][column]
            assert number is not None
            assert run(alone, architecture, number, process) == ERRNO | errno.EPERM
            assert run(threads, architecture, number, process) == ERRNO | errno.EPERM
        clone = NUMBERS["clone"][column]
        assert clone is not None
        assert run(alone, architecture, clone, thread) == ERRNO | errno.EPERM
        assert run(threads, architecture, clone, thread) == ALLOW
        assert run(threads, architecture, 435, thread) == ERRNO | errno.ENOSYS


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("chmod", (0, 0o1777)),
        ("fchmod", (0, 0o755)),
        ("fchmodat", (0, 0, 0o700)),
        ("creat", (0, 0o666)),
        ("open", (0, 0, 0o6777)),
        ("openat", (0, 0, 0o2000000, 0o6777)),  # no O_CREAT: the mode is anything
        ("open", (0, 0o200000, 0o4000)),  # O_DIRECTORY, one of the two bits of O_TMPFILE
        ("mknod", (0, 0o010644)),
        ("mknodat", (0, 0, 0o100644)),
        ("mknod", (0, 0o140755)),  # pipe, file, socket
        ("clone", (0x003D0F00,)),
        ("clone", (0x11,)),
        ("clone", (0x80 | 0x11,)),  # threads, fork
        ("unshare", (0x00000600,)),  # CLONE_FS, CLONE_FILES
        ("ioctl", (0, 0x5401)),
        ("ioctl", (0, 0x5413)),
        ("personality", (0xFFFFFFFF,)),
        ("personality", (0x40000,)),
        ("socket", (1,)),
        ("socket", (2,)),
        ("socket", (10,)),
        ("socket", (16,)),
        ("socketcall", (3,)),
    ],
)
def test_what_programs_use_daily_is_allowed(name: str, arguments: tuple[int, ...]) -> None:
    program = seccomp.filter_program("x86_64", private_network=True)
    for architecture, column in COLUMN.items():
        number = NUMBERS[name][column]
        if number is not None:
            assert run(program, architecture, number, (*arguments, *[0] * (6 - len(arguments)))) == ALLOW


@pytest.mark.parametrize("request_", [0x5412, 0x541C])
def test_the_high_half_of_an_argument_hides_nothing(request_: int) -> None:
    """The kernel takes the low 32 bits of ioctl's request."""
    program = seccomp.filter_program("x86_64")
    for high in (0, 1, 0xFFFFFFFF):
        assert run(program, X86_64, 16, (0, high << 32 | request_, 0, 0, 0, 0)) == ERRNO | errno.EPERM


def test_vsock_is_denied_where_the_network_is_the_box_s_own_and_else_is_network_like_any_other() -> None:
    vsock = (40, 1, 0, 0, 0, 0)
    assert run(seccomp.filter_program("x86_64"), X86_64, 41, vsock) == ALLOW
    assert run(seccomp.filter_program("x86_64"), I386, 102, (1, 0, 0, 0, 0, 0)) == ALLOW
    assert run(seccomp.filter_program("x86_64", private_network=True), X86_64, 41, vsock) == (
        ERRNO | errno.EAFNOSUPPORT
    )


@pytest.mark.parametrize("machine", ["x86_64", "i386", "i686"])
def test_machines_of_one_kind_have_one_filter(machine: str) -> None:
    assert seccomp.filter_program(machine) == seccomp.filter_program("x86_64")


@pytest.mark.parametrize("machine", ["aarch64", "riscv64", "s390x", "armv7l", ""])
def test_a_machine_without_a_table_is_refused_and_the_way_out_named(machine: str) -> None:
    with pytest.raises(JailError, match=re.escape(f"their numbers on {machine} are not known")) as refused:
        seccomp.filter_program(machine)
    assert "--seccomp none" in refused.value.hint


def test_the_filter_is_within_the_kernel_s_bounds_and_each_jump_within_the_filter() -> None:
    program = list(struct.iter_unpack("=HBBI", seccomp.filter_program("x86_64", private_network=True)))
    assert len(program) <= 4096  # BPF_MAXINSNS
    assert program[-1][0] == 0x06
    for at, (operation, true, false, operand) in enumerate(program):
        reached = {0x15: (true, false), 0x35: (true, false), 0x05: (operand,), 0x06: ()}.get(operation, (0,))
        assert all(at + 1 + jump < len(program) for jump in reached)


# the list


def test_each_line_has_a_reason_and_a_known_action() -> None:
    for rule in DENIED:
        assert rule.why, rule.calls
        assert isinstance(getattr(errno, rule.action), int)
        assert all(0 <= look.argument < 6 and look.values for look in rule.looks)
        assert all(value & look.mask == value for look in rule.looks for value in look.values), rule.calls


def test_the_numbers_are_of_the_named_calls_and_no_others() -> None:
    named = {name for rule in (*DENIED, *ALONE, *ALONE_WITH_THREADS) for name in rule.calls.split()}
    assert sorted(NUMBERS) == sorted(named)
    assert max(number for pair in NUMBERS.values() for number in pair if number is not None) <= NEWEST


@on_x86
@pytest.mark.parametrize(("column", "header"), [(0, "unistd_64.h"), (1, "unistd_32.h")])
def test_the_numbers_are_those_of_the_kernel_s_headers(column: int, header: str) -> None:
    text = Path("/usr/include/x86_64-linux-gnu/asm", header).read_text()
    theirs = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+)\s+(\d+)", text)}
    oldest_new = max(theirs.values())
    for name, pair in NUMBERS.items():
        number = pair[column]
        if number is not None and number > oldest_new:
            continue  # newer than the headers
        assert theirs.get(name) == number, name


# the kernel

HEAD = """
import ctypes, os, sys
from jailbuild.enter import seccomp
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
filtered = sys.argv[1] == "filtered"
program = seccomp.filter_program(private_network=True)
def install():
    assert libc.prctl(38, ctypes.c_ulong(1), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) == 0
    if filtered:
        seccomp.install(program)
"""

ONE_BY_ONE = (
    HEAD
    + """
calls = [tuple(map(int, line.split())) for line in sys.stdin]
install()
for number, *arguments in calls:
    ctypes.set_errno(0)
    libc.syscall(ctypes.c_long(number), *map(ctypes.c_ulong, arguments))
    print(ctypes.get_errno(), flush=True)
"""
)

BEFORE = (
    HEAD
    + """
install()
os.execv(sys.argv[2], sys.argv[2:])
"""
)

# reads 32-bit words: a number and five arguments; writes what the call returned
FOR_I386 = r"""
static int call(int number, int a, int b, int c, int d, int e)
{
    int result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e) : "memory");
    return result;
}
void _start(void)
{
    int words[6];
    while (call(3, 0, (int)words, sizeof words, 0, 0) == sizeof words) {
        int result = call(words[0], words[1], words[2], words[3], words[4], words[5]);
        call(4, 1, (int)&result, sizeof result, 0, 0);
    }
    call(1, 0, 0, 0, 0, 0);
}
"""


def python(code: str, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", code, *arguments], input=stdin, capture_output=True)


def native(filtered: str) -> dict[str, list[int]]:
    """Make every denied call in a child; return for each name the errno of each of its rules."""
    listed = [(rule, name) for rule, name in CALLS if NUMBERS[name][0] is not None]
    asked = "".join(f"{NUMBERS[name][0]} {' '.join(map(str, deny(rule)))}\n" for rule, name in listed)
    done = python(ONE_BY_ONE, filtered, stdin=asked.encode())
    assert done.returncode == 0, done.stderr.decode()
    results: dict[str, list[int]] = {}
    for (_, name), line in zip(listed, done.stdout.splitlines(), strict=True):
        results.setdefault(name, []).append(int(line))
    return results


def foreign(program: Path, filtered: str) -> dict[str, list[int]]:
    listed = [(rule, name) for rule, name in CALLS if NUMBERS[name][1] is not None]
    asked = b"".join(
        struct.pack("<6I", NUMBERS[name][1], *(value & 0xFFFFFFFF for value in deny(rule)[:5])) for rule, name in listed
    )
    done = python(BEFORE, filtered, str(program), stdin=asked)
    assert done.returncode == 0, done.stderr.decode()
    results: dict[str, list[int]] = {}
    for (_, name), (result,) in zip(listed, struct.iter_unpack("<i", done.stdout), strict=True):
        results.setdefault(name, []).append(-min(result, 0))
    return results


@pytest.fixture(scope="module")
def i386(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("i386")
    (work / "calls.c").write_text(FOR_I386)
    subprocess.run(
        [
            "gcc",
            "-m32",
            "-nostdlib",
            "-static",
            "-ffreestanding",
            "-fno-stack-protector",
            "-fno-pie",
            "-no-pie",
            "-o",
            work / "calls",
            work / "calls.c",
        ],
        check=True,
    )
    return work / "calls"


def expected(column: int) -> dict[str, list[int]]:
    results: dict[str, list[int]] = {}
    for rule, name in CALLS:
        if NUMBERS[name][column] is not None:
            results.setdefault(name, []).append(getattr(errno, rule.action))
    return results


def refused_by_the_kernel_too(found: dict[str, list[int]], column: int) -> set[str]:
    return {name for name, codes in expected(column).items() if set(codes) & set(found[name])}


# With every capability the kernel says EFAULT, EINVAL or EBADF to these calls; what it has given up says ENOSYS.
GIVEN_UP = set(DENIED[-1].calls.split())
LACKED_BY_SOME_KERNELS = {"fchmodat2", "vm86", "vm86old", "modify_ldt", "socket"}


@on_x86
@needs.no_filter
@needs.capability("SYS_ADMIN")
@pytest.mark.skipif(os.geteuid() != 0, reason="with capabilities it is the filter that says no")
def test_the_kernel_denies_each_call_of_the_list_even_to_root() -> None:
    assert native("filtered") == expected(0)
    assert refused_by_the_kernel_too(native("unfiltered"), 0) <= GIVEN_UP | LACKED_BY_SOME_KERNELS


@on_x86
@needs.no_filter
@needs.capability("SYS_ADMIN")
@pytest.mark.skipif(os.geteuid() != 0, reason="with capabilities it is the filter that says no")
def test_an_i386_program_is_denied_them_by_its_own_numbers(i386: Path) -> None:
    assert foreign(i386, "filtered") == expected(1)
    assert refused_by_the_kernel_too(foreign(i386, "unfiltered"), 1) <= GIVEN_UP | LACKED_BY_SOME_KERNELS


def in_child(code: str, *, filtered: bool = True) -> int:
    return python(HEAD + "install()\n" + code, "filtered" if filtered else "unfiltered").returncode


@on_x86
@needs.no_filter
@pytest.mark.parametrize("number", [0x40000000 + 39, 0x40000000 + 514, 512, 514, 520, 547])
def test_a_call_of_x32_kills(number: int) -> None:
    code = f"libc.syscall(ctypes.c_long({number}), ctypes.c_long(-1), ctypes.c_long(-1), ctypes.c_long(-1))"
    assert in_child(code) == -signal.SIGSYS
    assert in_child(code, filtered=False) == 0


@on_x86
def test_the_process_is_killed_and_not_a_thread_of_it() -> None:
    code = """
import threading
thread = threading.Thread(target=libc.syscall, args=(ctypes.c_long(0x40000000),))
thread.start()
thread.join()
"""
    assert in_child(code) == -signal.SIGSYS


@on_x86
def test_a_call_that_a_tracer_took_back_is_no_call_of_x32() -> None:
    assert in_child("assert libc.syscall(ctypes.c_long(-1)) == -1; assert ctypes.get_errno() == 38") == 0


@on_x86
def test_a_64_bit_process_gains_nothing_by_calls_of_i386() -> None:
    """fchmod(-1, 06755) by int 0x80: mov eax, edi; mov ebx, esi; mov ecx, edx; int 0x80, with rbx kept."""
    code = f"""
import mmap
page = mmap.mmap(-1, 4096, prot={mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC})
page.write(bytes.fromhex("53 89f8 89f3 89d1 cd80 5b c3"))
call = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int)(
    ctypes.addressof(ctypes.c_char.from_buffer(page)))
os._exit(-call(94, -1, 0o6755))
"""
    assert in_child(code) == errno.EPERM
    assert in_child(code, filtered=False) == errno.EBADF


@on_x86
def test_the_filter_holds_for_children_and_after_execve(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    done = python(BEFORE, "filtered", "/bin/sh", "-c", f"chmod 4755 {file}; chmod 755 {file}")
    assert (done.returncode, b"not permitted" in done.stderr) == (0, True)
    assert oct(file.stat().st_mode) == "0o100755"


SET_ID_WAYS = {
    "chmod": "os.chmod(path, 0o4755)",
    "fchmod": "os.fchmod(os.open(path, os.O_RDWR), 0o2755)",
    "fchmodat": "os.chmod('file', 0o4755, dir_fd=os.open(os.path.dirname(path), 0))",
    "open": "os.close(os.open(path + 'new', os.O_CREAT | os.O_WRONLY, 0o4755))",
    "tmpfile": (
        "file = os.open(os.path.dirname(path), os.O_TMPFILE | os.O_RDWR, 0o4755)\n"
        "assert libc.linkat(-100, b'/proc/self/fd/%d' % file, -100, (path + 'new').encode(), 0x400) == 0"
    ),
    "mknod": "os.mknod(path + 'new', 0o104755)",
    "creat": "assert libc.creat((path + 'new').encode(), 0o4755) >= 0, ctypes.get_errno()",
    "openat2": (
        "assert libc.syscall(437, -100, (path + 'new').encode(), (ctypes.c_uint64 * 3)(0o101, 0o4755, 0),"
        " ctypes.c_size_t(24)) >= 0"
    ),
}


@on_x86
@pytest.mark.parametrize("way", SET_ID_WAYS)
def test_no_way_of_leaving_a_set_id_file_is_open(way: str, tmp_path: Path) -> None:
    """Each of them leaves one where there is no filter."""
    found = {}
    for filtered in (False, True):
        directory = tmp_path / str(filtered)
        directory.mkdir()
        (directory / "file").write_bytes(b"")
        ended = in_child(f"os.umask(0); path = {str(directory / 'file')!r}\n{SET_ID_WAYS[way]}", filtered=filtered)
        found[filtered] = ended == 0, any(file.stat().st_mode & 0o6000 for file in directory.iterdir())
    assert found == {False: (True, True), True: (False, False)}


@on_x86
def test_without_no_new_privs_and_capabilities_it_cannot_be_installed_and_that_is_an_oserror() -> None:
    code = (
        HEAD
        + """
os.setresgid(65534, 65534, 65534), os.setresuid(65534, 65534, 65534)
try:
    seccomp.install(program)
except OSError as error:
    sys.exit(error.errno)
"""
    )
    if os.geteuid() != 0:
        code = code.replace("os.setresgid(65534, 65534, 65534), os.setresuid(65534, 65534, 65534)", "")
    assert python(code, "filtered").returncode == errno.EACCES


@on_x86
def test_nothing_is_imported_when_it_is_installed() -> None:
    assert in_child("") == 0
    code = HEAD + "loaded = set(sys.modules)\ninstall()\nassert set(sys.modules) == loaded, set(sys.modules) - loaded\n"
    assert python(code, "filtered").returncode == 0


# real programs

PROGRAMS = {
    "git": "git init -q . && echo a > a && git add a && git -c user.name=a -c user.email=a@example.org commit -qm a"
    " && git gc -q && git clone -q . copy && test -f copy/a",
    "gcc": "echo 'int main(void) { return 7; }' > a.c && gcc -o a a.c; ./a || test $? = 7",
    "python3": "python3 -c 'import subprocess, threading, multiprocessing as m, shutil, tempfile, socket\n"
    'socket.socketpair(); subprocess.run(["true"], check=True); threading.Thread(target=print).start()\n'
    "p = m.Process(target=print); p.start(); p.join(); assert p.exitcode == 0\n"
    'with tempfile.TemporaryDirectory() as d: shutil.copytree("/etc/default", d + "/x")\'',
    "tar": "mkdir d && echo a > d/a && chmod 1777 d && tar cf d.tar d && mkdir e && tar xpf d.tar -C e && test -k e/d",
    "strace": "strace -f -o out sh -c 'true; true' && test -s out",
    "sh": "mkfifo p; (echo a > p) & read a < p; test $a = a; nice true; umask; ulimit -n",
}


@on_x86
@pytest.mark.parametrize("name", PROGRAMS)
def test_real_programs_work_under_the_filter(name: str, tmp_path: Path) -> None:
    if not shutil.which(name):
        pytest.skip(f"{name} is not installed")
    done = subprocess.run(
        [sys.executable, "-c", BEFORE, "filtered", "/bin/sh", "-ec", PROGRAMS[name]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(denied.__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr
    assert "not permitted" not in done.stderr
    assert "not implemented" not in done.stderr
