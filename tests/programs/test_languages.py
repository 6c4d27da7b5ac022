"""Interpreters and compilers work in a box that `jailbuild add NAME` alone has made."""

from __future__ import annotations

import glob
import subprocess
from pathlib import Path

import pytest

from tests.programs.boxes import fill, need, need_the_host_as_root, run, said

ROOTS = "/etc/ssl/certs/ca-certificates.crt"


def test_a_shell_knows_its_users_the_zone_and_characters(place: Path) -> None:
    """The everyday utilities show names and the right time, and bash knows UTF-8."""
    box = fill(place / "box", "bash", "ls", "date", "id", "cat")
    (box / "tmp/somebody's").touch()
    assert " root root " in said(box, "ls", "-l", "/tmp")
    assert said(box, "id", "-un") == "root\n"
    assert said(box, "date", "-d", "@0", "+%Z", options=("--env", "TZ=UTC")) == "UTC\n"
    assert (
        said(box, "date", "-d", "@86400", "+%F %T")
        == subprocess.run(["date", "-d", "@86400", "+%F %T"], capture_output=True, text=True, env={}).stdout
    )
    unicode = said(box, "bash", "-c", "x=é; echo ${#x}; : < /dev/null", options=("--env", "LC_ALL=C.UTF-8"))
    assert unicode == "1\n"


def test_a_set_of_utilities_can_be_asked_for(place: Path) -> None:
    """--with coreutils brings a shell and what is used every day."""
    box = fill(place / "box", "--with", "coreutils")
    assert said(box, "/bin/sh", "-c", "printf 'b\\na\\n' | sort | tr a-z A-Z | head -n 1") == "A\n"


PYTHON = """
import ctypes, curses, datetime, encodings.idna, multiprocessing, pwd, socket, sqlite3, ssl, subprocess, sys, zoneinfo
print(datetime.datetime(2024, 7, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Paris")).utcoffset())
print(sqlite3.connect(":memory:").execute("select 6 * 7").fetchone()[0])
print(ctypes.CDLL("libc.so.6").abs(-3))
print(pwd.getpwuid(0).pw_name)
print(subprocess.run([sys.executable, "-c", "print(1)"], stdout=subprocess.DEVNULL).returncode)
print(socket.gethostbyname("localhost"))
"""

PYTHON_SAYS = ["2:00:00", "42", "3", "root", "0", "127.0.0.1"]


def test_python_has_its_library(place: Path) -> None:
    """Standard library, SQLite, ctypes, zones, users, a TLS context with roots."""
    need("/usr/bin/python3", ROOTS)
    box = fill(place / "box", "python3")
    (box / "tmp/try.py").write_text(PYTHON)
    assert said(box, "python3", "/tmp/try.py").splitlines() == PYTHON_SAYS
    roots = said(
        box,
        "python3",
        "-c",
        "import ssl; c = ssl.SSLContext(); c.set_default_verify_paths(); "
        f"c.load_verify_locations('{ROOTS}'); print(c.cert_store_stats()['x509_ca'])",
    )
    assert int(roots) > 50


@pytest.mark.parametrize(
    ("program", "option", "source"),
    [
        ("python3", "-c", "import os, sys; sys.exit(os.system('echo ran; true | true') >> 8)"),
        ("perl", "-e", "exit system('echo ran; true | true') >> 8"),
        ("ruby", "-e", "exit system('echo ran; true | true')"),
        ("node", "-e", "process.stdout.write(require('child_process').execSync('echo ran; : | :'))"),
        ("php", "-r", "echo shell_exec('echo ran; : | :');"),
    ],
)
def test_a_language_runs_commands_through_the_shell(place: Path, program: str, option: str, source: str) -> None:
    """As system(3) does; a box without one says so nowhere. --without sh keeps it outside."""
    need(program)
    box = fill(place / "box", program)
    assert said(box, program, option, source.replace("true", ":")) == "ran\n"
    assert not (fill(place / "bare", "--without", "sh", program) / "bin/sh").exists()


def test_python_has_locks_in_a_plain_chroot_too(place: Path) -> None:
    """Its multiprocessing wants /dev/shm, which only the isolated modes of enter mount."""
    need("/usr/bin/python3")
    box = fill(place / "box", "python3")
    program = "import multiprocessing as m; m.Lock(); print(m.Pool(2).map(abs, [-1, 2]))"
    ended = subprocess.run(["chroot", box, "python3", "-c", program], capture_output=True, text=True)
    assert (ended.stdout, ended.returncode) == ("[1, 2]\n", 0), ended.stderr
    assert said(box, "python3", "-c", program) == "[1, 2]\n"
    assert not list((box / "dev/shm").iterdir())


def test_python_of_a_virtual_environment(place: Path) -> None:
    """Given by its path it brings its own packages, and the Python that it was made from."""
    need_the_host_as_root()
    need("/usr/bin/python3")
    # as `python3 -m venv` makes it, which Debian has in a package of its own
    version = subprocess.run(
        ["/usr/bin/python3", "-c", "import sys; print('python%d.%d' % sys.version_info[:2])"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    environment = place / "environment"
    packages = environment / "lib" / version / "site-packages"
    packages.mkdir(parents=True)
    (environment / "bin").mkdir()
    (environment / "bin/python3").symlink_to("/usr/bin/python3")
    (environment / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    (packages / "ours.py").write_text("import json\nwords = json.dumps([1])\n")
    box = fill(place / "box", environment / "bin/python3")
    found = said(box, str(environment / "bin/python3"), "-c", "import ours, sys; print(ours.words, sys.prefix)")
    assert found == f"[1] {environment}\n"


def test_perl_has_its_modules(place: Path) -> None:
    """POSIX, Socket and Encode are compiled, the last with tables of its own."""
    need("perl")
    box = fill(place / "box", "perl")
    program = (
        'use POSIX; use Socket; use Encode; use Data::Dumper; use File::Temp; use List::Util "sum"; use utf8;'
        'print floor(2.5), " ", inet_ntoa(INADDR_LOOPBACK), " ", length(encode("UTF-8", "é")), " ",'
        ' unpack("H*", encode("iso-8859-15", "€")), " ", (getpwuid(0))[0], "\\n"'
    )
    assert said(box, "perl", "-e", program) == "2 127.0.0.1 2 a4 root\n"


def test_ruby_has_its_library(place: Path) -> None:
    """The standard library, extensions, encodings, gems."""
    need("ruby")
    box = fill(place / "box", "ruby")
    program = (
        'require "socket"; require "json"; require "set"; require "openssl"; require "etc"; '
        'puts JSON.dump(["é".encode("ISO-8859-1").bytes, Etc.getpwuid.name, Gem::Version.new("1.0").segments,'
        ' OpenSSL::Digest::SHA256.hexdigest("")[0, 4]])'
    )
    assert said(box, "ruby", "-e", program) == '[[233],"root",[1,0],"e3b0"]\n'


def test_node_has_its_modules(place: Path) -> None:
    """Those that Debian keeps outside the binary: fetch needs undici, import() a lexer of modules."""
    need("node")
    box = fill(place / "box", "node")
    program = """
import("fs").then(async () => {
    const text = await (await fetch("data:text/plain,fetched")).text();
    const hash = require("crypto").createHash("sha256").update("").digest("hex").slice(0, 4);
    console.log(text, hash, require("os").userInfo().username, new Date(0).toISOString());
});
"""
    assert said(box, "node", "-e", program) == "fetched e3b0 root 1970-01-01T00:00:00.000Z\n"


def test_php_on_the_command_line(place: Path) -> None:
    """Extensions by the host's settings; zones, without which it crashes."""
    need("php")
    box = fill(place / "box", "php")
    program = (
        'date_default_timezone_set("Europe/Paris");'
        'echo date("H", 0), posix_getpwuid(0)["name"], ctype_digit("4"), bin2hex(iconv("UTF-8", "ISO-8859-15", "€"));'
    )
    ended = run(box, "php", "-r", program)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "01root1a4", "")


def test_java_starts(place: Path) -> None:
    """The virtual machine with its modules, settings and zones."""
    need("java")
    box = fill(place / "box", "java")
    ended = run(box, "java", "-version")
    assert ended.returncode == 0, ended
    assert "Runtime Environment" in ended.stderr
    settings = run(box, "java", "-XshowSettings:properties", "-version").stderr
    assert "user.name = root" in settings


def test_gcc_compiles_a_program_that_runs(place: Path) -> None:
    """Compiler, assembler, linker, headers and start files; -lm, threads, -flto and -static too."""
    need("gcc", "/usr/include/stdio.h")
    box = fill(place / "box", "gcc")
    (box / "tmp/hello.c").write_text(
        "#include <math.h>\n#include <pthread.h>\n#include <stdio.h>\n#include <sys/socket.h>\n#include <linux/if.h>\n"
        'int main(int count, char **words) { printf("hello, world %.3f\\n", sin(count)); return 0; }\n'
    )
    for options in (["-O2"], ["-O2", "-flto"], ["-static"]):
        said(box, "gcc", *options, "-o", "/tmp/hello", "/tmp/hello.c", "-lm", "-lpthread")
        assert said(box, "/tmp/hello") == "hello, world 0.841\n"


def test_gxx_compiles_a_program_that_runs(place: Path) -> None:
    """What C++ has beside C."""
    need("g++")
    box = fill(place / "box", "g++")
    (box / "tmp/hello.cc").write_text(
        "#include <iostream>\n#include <map>\n"
        'int main() { std::map<int, int> m{{1, 2}}; std::cout << m[1] << "\\n"; }\n'
    )
    said(box, "g++", "-o", "/tmp/hello", "/tmp/hello.cc")
    assert said(box, "/tmp/hello") == "2\n"


def test_sqlite_answers(place: Path) -> None:
    """It needs nothing."""
    need("sqlite3")
    box = fill(place / "box", "sqlite3")
    query = "create table t (n); insert into t values (6 * 7); select n from t"
    assert said(box, "sqlite3", "/tmp/data", query) == "42\n"


def test_python_of_another_prefix(place: Path) -> None:
    """A Python that somebody built, given by its path, brings the library of its own prefix."""
    need_the_host_as_root()
    need("/usr/bin/python3")
    library = glob.glob("/usr/lib/python3.[0-9]*")[0]
    prefix = place / "prefix"
    (prefix / "bin").mkdir(parents=True)
    (prefix / "lib").mkdir()
    executable = Path("/usr/bin/python3").resolve()
    subprocess.run(["cp", executable, prefix / "bin/python3"], check=True)
    subprocess.run(["cp", "-r", library, prefix / "lib"], check=True)
    box = fill(place / "box", prefix / "bin/python3")
    found = said(box, str(prefix / "bin/python3"), "-c", "import json, ssl, sys; print(sys.prefix, json.__file__)")
    assert found == f"{prefix} {prefix}/lib/{Path(library).name}/json/__init__.py\n"
    assert not (box / "usr/lib" / Path(library).name).exists()
