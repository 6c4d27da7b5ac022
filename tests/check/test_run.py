"""check --run: the box's own loader, asked inside the box; and what one cannot do that is there to do harm."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from jailbuild.check.loader_crosscheck import loader_findings
from jailbuild.check.run import CheckOptions, check_root
from jailbuild.enter.binfmt import Emulation
from jailbuild.enter.probe import PATIENCE, ProbeRequest, ProbeResult, ask
from jailbuild.errors import JailError
from jailbuild.root import Root
from tests import needs
from tests.box import tiny
from tests.box.running import NOBODY, add, run, state
from tests.check import versions
from tests.check.asking import findings
from tests.enter.entering import public_python
from tests.noted import assembly, entry

ALL = os.environ.get("JAILBUILD_ALL")  # a whole Debian 12 beside the box
LIB = versions.LIBRARIES

# Programs that are asked as if they were loaders; each begins at _start, without a C library.
PLAIN = ("-fno-builtin", "-fno-tree-loop-distribute-patterns")
_CALLS = """
static long call(long n, long a, long b, long c) {
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return r;
}
static void say(const char *s) { long n = 0; while (s[n]) n++; call(1, 1, (long)s, n); }
static void end(int status) { call(231, status, 0, 0); for (;;) {} }
"""


pytestmark = needs.isolation


@pytest.fixture(scope="session")
def versioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return versions.build(tmp_path_factory.mktemp("run") / "root")


@pytest.fixture
def root(versioned: Path, tmp_path: Path) -> Path:
    return tiny.clone(versioned, tmp_path / "root")


def disagreeing(root: Path) -> dict[str, str]:
    """Return message by path, of what the loader says otherwise."""
    return {
        one["path"]: one["message"]
        for one in findings(run("check", root, "--run", "--json"))
        if one["code"] == "loader-disagrees"
    }


def loader(root: Path, body: str, name: str = "loader") -> str:
    """Put a program into a root that can be asked."""
    tiny.compile_c(f"{_CALLS}\nvoid _start(void) {{ {body} end(0); }}", root / name, "-static", *PLAIN)
    return f"/{name}"


def answers(root: Path, *files: str, seconds: float = 5.0) -> list[ProbeResult | None]:
    return ask(Root(str(root)), str(root), [ProbeRequest(file, (file,)) for file in files], seconds)


def test_the_loader_agrees_on_a_box_of_many_programs(tmp_path: Path) -> None:
    """All programs of coreutils, bash, git, perl and python3: every answer is given, and each is the same."""
    box = tmp_path / "box"
    names = [name for name in os.listdir("/usr/bin") if _is_of_coreutils(name)]
    add(box, "--bare", "bash", "git", "perl", "python3", *names[:100])
    asked: list[ProbeResult | None] = []

    def asking(root: Root, name: str, questions: list[ProbeRequest]) -> list[ProbeResult | None]:
        asked.extend(ask(root, name, questions))
        return asked

    report = check_root(Root(str(box)), str(box), CheckOptions(run=True))
    assert [one for one in report.findings if one.code.startswith("loader-")] == []
    assert _compared(box, asking) == []
    assert len(asked) > 20
    assert all(answer is not None and answer.status == 0 for answer in asked)


def _is_of_coreutils(name: str) -> bool:
    with open("/var/lib/dpkg/info/coreutils.list", encoding="utf-8") as file:
        return f"/bin/{name}\n" in (lines := file.read()) or f"/usr/bin/{name}\n" in lines


def _compared(box: Path, asking: object) -> list[object]:
    from jailbuild.check.digests import Digests
    from jailbuild.check.programs import ProgramRules
    from jailbuild.check.tree import read_tree

    root = Root(str(box))
    with Digests() as digests:
        tree = read_tree(root, {}, digests, lambda: None)
        rules = ProgramRules(root, tree, None, str(box))
        list(rules.findings())
    return list(loader_findings(root, rules.resolved, rules.files, None, str(box), asking))  # type: ignore[arg-type]


@pytest.mark.skipif(not ALL, reason="JAILBUILD_ALL is not set: a whole Debian is not downloaded")
def test_the_loader_agrees_on_every_program_of_a_debian(tmp_path: Path) -> None:
    """A minimal Debian 12, made by mmdebstrap."""
    debian = tmp_path / "debian"
    subprocess.run(["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "bookworm", debian], check=True)
    report = check_root(Root(str(debian)), str(debian), CheckOptions(run=True, symbols=True))
    assert [one for one in report.findings if one.severity == "error"] == []
    assert report.programs > 300


def _is_closed(root: Path, path: str) -> bool:
    """Say whether root without its capabilities may not read a file."""
    place = root / path.lstrip("/")
    parts = [part for part in (place, *place.parents) if part.is_relative_to(root)]
    return any(part.stat().st_uid and not part.stat().st_mode & 0o005 for part in parts)


def test_every_program_of_this_debian_agrees(tmp_path: Path) -> None:
    """What /usr/bin, /usr/sbin and the libraries of this machine hold, shown as a root of its own."""
    if os.stat("/usr").st_dev != os.stat(tmp_path).st_dev:
        pytest.skip("/usr and the temporary directory lie on two file systems")
    root = tmp_path / "root"
    for name in ("usr/bin", "usr/sbin", "usr/lib", "etc", "proc"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64", "lib32", "libx32"):
        if os.path.islink(f"/{name}"):
            (root / name).symlink_to(os.readlink(f"/{name}"))
    if not (root / "lib64").is_symlink():
        pytest.skip("this machine has no merged /usr")
    for name in ("bin", "sbin", "lib", "lib64", "lib32", "libx32"):
        if os.path.isdir(f"/usr/{name}") and not os.path.islink(f"/usr/{name}"):
            shutil.rmtree(root / "usr" / name, ignore_errors=True)
            subprocess.run(["cp", "-al", f"/usr/{name}", root / "usr"], check=False, stderr=subprocess.DEVNULL)
    for name in ("ld.so.cache", "alternatives"):
        subprocess.run(["cp", "-a", f"/etc/{name}", root / "etc"], check=True)
    report = check_root(Root(str(root)), str(root), CheckOptions(run=True))
    assert [one for one in report.findings if one.code == "loader-disagrees"] == []
    closed = [one.path for one in report.findings if one.code == "loader-not-asked"]
    print(f"{report.programs} programs, {len(closed)} of them not to be read by their loader")  # noqa: T201
    assert all(_is_closed(root, path) for path in closed)
    assert report.programs > 300


@pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv becomes another user")
def test_the_same_in_a_user_namespace(versioned: Path) -> None:
    """Where others than root may have one; where not, it is refused."""
    with tempfile.TemporaryDirectory() as place:  # pytest's own directories are root's
        os.chmod(place, 0o755)
        command, environment = public_python(Path(place) / "lib")
        root = tiny.clone(versioned, Path(place) / "root")
        for directory, names, files in os.walk(place):
            for name in [*names, *files]:
                os.lchown(os.path.join(directory, name), NOBODY, NOBODY)
        done = subprocess.run(
            [
                "setpriv",
                f"--reuid={NOBODY}",
                f"--regid={NOBODY}",
                "--clear-groups",
                *command,
                "check",
                root,
                "--run",
                "--json",
            ],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
    if done.returncode == 1:
        assert done.stderr.startswith(f"jailbuild: cannot ask the loader of {root}: user namespaces")
    else:
        assert [one["code"] for one in findings(done) if one["code"].startswith("loader-")] == []


def test_what_the_loader_sees_otherwise_is_an_error(root: Path) -> None:
    """A loader that was put there and lists something else, says nothing, or is none."""
    assert disagreeing(root) == {}
    path = root / LIB / "ld-linux-x86-64.so.2"
    real = path.read_bytes()
    path.unlink()
    built_in = 'const char directories[] = "/lib/x86_64-linux-gnu/\\0/usr/lib/x86_64-linux-gnu/\\0/lib/\\0";'
    start = 'void _start(void) { say("\\tlibc.so.6 => /elsewhere/libc.so.6 (0x00007f)\\n"); end(0); }'
    tiny.compile_c(built_in + _CALLS + start, path, "-shared", "-fPIC", "-Wl,-e,_start", *PLAIN)
    said = disagreeing(root)
    assert said["/usr/bin/plain"] == (
        "/usr/bin/plain: its loader loads libc.so.6 from /elsewhere/libc.so.6, where this check has libc.so.6 from "
        "/lib/x86_64-linux-gnu/libc.so.6"
    )
    assert {"/usr/bin/both", "/usr/bin/through", "/usr/bin/plain"} <= set(said)
    path.write_bytes(real)
    assert disagreeing(root) == {}


def test_it_agrees_on_what_is_missing_and_refused(root: Path) -> None:
    """Versions, libraries, files that are no libraries: an error of the check, and no second one."""
    versions.two(root / LIB / "libv.so.1", versions.ONE)
    assert disagreeing(root) == {}
    (root / LIB / "libv.so.1").write_bytes(b"nonsense" * 100)
    assert disagreeing(root) == {}
    (root / LIB / "libv.so.1").unlink()
    assert disagreeing(root) == {}


def test_what_is_opened_later_is_nothing_that_a_loader_tells_of(root: Path) -> None:
    """Neither what is opened and required and not there, nor what a library that is opened needs."""
    gone = versions.library(root / LIB / "libgone.so", "int gone;")
    half = versions.library(root / LIB / "libhalf.so", "int half;", "-Wl,--no-as-needed", gone)
    gone.unlink()
    required = [[entry("libno.so", priority="required")], [entry(half.name, priority="required")]]
    main = f"{assembly(*required)} int main(void) {{ return 0; }}"
    versions.compile_c(main, root / "usr/bin/opens")
    if shutil.which("musl-gcc"):
        shutil.copy("/usr/lib/x86_64-linux-musl/libc.so", root / "usr/lib/ld-musl-x86_64.so.1")
        (root / "etc").mkdir()
        (root / "etc/ld-musl-x86_64.path").write_text(f"/{LIB}\n")
        subprocess.run(
            ["musl-gcc", "-o", root / "usr/bin/opens-too", "-x", "c", "-"], input=main, text=True, check=True
        )
    told = findings(run("check", root, "--run", "--json"))
    assert {one["subject"] for one in told if one["code"] == "missing-library"} >= {"libno.so", "libgone.so"}
    assert "loader-disagrees" not in {one["code"] for one in told}


def test_a_loader_for_another_machine_is_not_asked_and_that_is_said(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A note for each program where there is no emulator: nothing is passed over in silence."""
    for path in (root / "usr/bin/plain", root / LIB / "ld-linux-x86-64.so.2"):
        data = bytearray(path.read_bytes())
        data[18:20] = (183).to_bytes(2, "little")
        path.write_bytes(data)
    if any(name.startswith("qemu-aarch64") for name in _emulated()):
        pytest.skip("this machine runs programs of aarch64")
    monkeypatch.setattr("jailbuild.enter.emulation._DIRECTORIES", ())
    report = check_root(Root(str(root)), str(root), CheckOptions(run=True))
    found = {(one.code, one.path) for one in report.findings}
    assert ("loader-not-asked", "/usr/bin/plain") in found
    assert ("loader-disagrees", "/usr/bin/plain") not in found


def test_where_the_emulator_cannot_be_had_the_loader_is_not_asked(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its programs are told as those of a machine that is not run here; the others are asked."""
    foreign = bytearray((root / "usr/bin/plain").read_bytes())
    foreign[18:20] = (183).to_bytes(2, "little")
    (root / "foreign").write_bytes(foreign)
    (root / "foreign").chmod(0o755)
    fine = loader(root, 'say("fine");', "fine")
    monkeypatch.setattr(
        "jailbuild.enter.probe.emulation",
        lambda kind, rootless: kind and Emulation(kind, "/nowhere/qemu-static", not rootless),
    )
    assert answers(root, "/foreign", fine, "/foreign") == [
        ProbeResult(0, 8, ""),
        ProbeResult(0, 0, "fine"),
        ProbeResult(0, 8, ""),
    ]


def _emulated() -> list[str]:
    place = "/proc/sys/fs/binfmt_misc"
    return os.listdir(place) if os.path.isdir(place) else []


# what a loader cannot do


def test_programs_are_not_run(root: Path) -> None:
    """The loader lists; a program that would leave a mark leaves none, and nothing in the root is changed."""
    versions.compile_c(
        '#include <stdio.h>\nint main(void) { puts("ran"); fclose(fopen("/mark", "w")); return 0; }',
        root / "usr/bin/plain",
    )
    before = state(root)
    assert disagreeing(root) == {}
    assert before == state(root)


def test_a_loader_writes_nothing_and_reaches_nothing(root: Path) -> None:
    """No file in the root, no network, no device that matters, no capability, no descriptor but 0 to 2."""
    body = """
        if (call(2, (long)"/mark", 0101, 0644) >= 0) say("wrote ");
        if (call(83, (long)"/directory", 0755, 0) >= 0) say("made ");
        long s = call(41, 2, 1, 0);
        struct { short family; unsigned short port; unsigned int address; char pad[8]; } to = {2, 0x3500, 0x08080808};
        if (call(42, s, (long)&to, 16) >= 0) say("connected ");
        for (int n = 3; n < 64; n++) if (n != s && call(72, n, 1, 0) >= 0) say("descriptor ");
        struct { unsigned version; int pid; } head = {0x20080522, 0};
        unsigned data[6] = {0};
        call(125, (long)&head, (long)data, 0);
        if (data[0] | data[1] | data[3] | data[4]) say("capable ");
        char c;
        if (call(0, 0, (long)&c, 1) != 0) say("stdin ");
        for (int n = 0; n < 3; n++) call(91, n, 0, 0);
        say("done");
    """
    file = loader(root, body)
    before = state(root), os.stat("/dev/null").st_mode
    assert answers(root, file) == [ProbeResult(0, 0, "done")]
    assert before == (state(root), os.stat("/dev/null").st_mode)


def test_a_loader_that_never_ends_or_never_stops_talking_is_ended(root: Path) -> None:
    """And the next one is asked all the same."""
    sleeps = loader(root, "for (;;) call(34, 0, 0, 0);", "sleeps")
    talks = loader(
        root, 'for (;;) say("more and more and more and more and more and more and more and more\\n");', "talks"
    )
    fine = loader(root, 'say("fine");', "fine")
    begun = time.monotonic()
    found = answers(root, sleeps, talks, fine, seconds=1.0)
    assert [answer and answer.status for answer in found] == [None, None, 0]
    assert found[2] == ProbeResult(0, 0, "fine")
    assert time.monotonic() - begun < 60


def test_a_loader_that_takes_too_long_again_and_again_is_asked_no_more(root: Path) -> None:
    """A root may have thousands of programs: it is given up, and another is asked all the same."""
    sleeps = loader(root, "for (;;) call(34, 0, 0, 0);", "sleeps")
    fine = loader(root, 'say("fine");', "fine")
    found = answers(root, *[sleeps] * (PATIENCE + 20), fine, seconds=0.2)
    assert found == [*[ProbeResult(None, 0, "")] * PATIENCE, *[None] * 20, ProbeResult(0, 0, "fine")]


def test_a_loader_is_one_process_and_stays_one(root: Path) -> None:
    """Neither fork, vfork, clone nor a thread, by the calls of x86-64 or of i386: no loader fills a machine."""
    body = """
        if (call(57, 0, 0, 0) != -1) say("fork ");
        if (call(58, 0, 0, 0) != -1) say("vfork ");
        if (call(56, 17, 0, 0) != -1) say("clone ");
        if (call(56, 0x10f00, 0, 0) != -1) say("thread ");
        if (call(435, 0, 0, 0) != -38) say("clone3 ");
        long old[3] = {2, 190, 120};
        for (int n = 0; n < 3; n++) {
            long r = -1;
            __asm__ volatile("int $0x80" : "=a"(r) : "a"(old[n]), "b"(17), "c"(0), "d"(0), "S"(0), "D"(0) : "memory");
            if ((int)r != -1 && (int)r != -38) say("i386 ");
        }
        say("done");
    """
    assert answers(root, loader(root, body, "forks")) == [ProbeResult(0, 0, "done")]


def test_a_loader_that_kills_all_it_can_silences_the_rest_and_that_is_told(root: Path) -> None:
    """Nothing of the room is left, and nobody waits for ever."""
    kills = loader(root, "call(62, -1, 9, 0); call(62, 2, 9, 0);", "kills")
    fine = loader(root, 'say("fine");', "fine")
    found = answers(root, kills, fine, seconds=1.0)
    assert found[1] in (None, ProbeResult(0, 0, "fine"))


def test_statuses_and_failures_are_told_as_they_are(root: Path) -> None:
    """The exit status, the signal, the errno of an exec that failed."""
    seven = loader(root, "end(7);", "seven")
    crashes = loader(root, "*(volatile int *)0 = 1;", "crashes")
    (root / "text").write_text("no program")
    (root / "text").chmod(0o755)
    assert answers(root, seven, crashes, "/absent", "/text") == [
        ProbeResult(7, 0, ""),
        ProbeResult(-11, 0, ""),
        ProbeResult(0, 2, ""),
        ProbeResult(0, 8, ""),
    ]


def test_where_there_is_no_isolated_mode_it_is_refused(root: Path) -> None:
    """Exit status 1, one line with the reason, one with what to do; never another mode."""
    code = (
        "import ctypes, sys\n"
        "libc = ctypes.CDLL(None)\n"
        "from jailbuild import syscalls\n"
        "syscalls.set_capabilities(syscalls.capabilities() & ~(1 << 21), 0)\n"
        "from jailbuild.cli import main\n"
        f"sys.argv = ['jailbuild', 'check', {str(root)!r}, '--run']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    first, second = done.stderr.splitlines()
    assert first == (
        f"jailbuild: cannot ask the loader of {root}: root here lacks CAP_SYS_ADMIN for namespaces and "
        "mounts, as in most containers"
    )
    assert second.startswith("hint: leave out --run")


def test_a_failure_of_the_room_is_one_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever step of the set-up it is."""
    monkeypatch.setattr("jailbuild.enter.probe._LIMITS", ("nofile=999999999",))
    with pytest.raises(JailError, match=f"cannot ask the loader of {root}: "):
        answers(root, loader(root, ""))
