"""The #! line as the real kernel reads it, and env's argument as the real env(1) takes it."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from jailbuild.closure.shebang import LINE, Interpreter, Lookup, env_lookup, read_line

SHOW = """
long write(int, const char *, long);
int main(int count, char **words) {
    for (int i = 0; i < count; i++) {
        long size = 0;
        while (words[i][size]) size++;
        write(1, words[i], size + 1);
    }
    return 0;
}
"""

here = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def show(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that prints its arguments, each with a NUL behind it; it is called `i`."""
    directory = tmp_path_factory.mktemp("s")
    (directory / "show.c").write_text(SHOW)
    subprocess.run(["gcc", "-O1", "-o", "i", "show.c"], cwd=directory, check=True)
    for name in ("i\r", "i\rx", "i x", "ii", "i\udcff"):
        os.link(directory / "i", directory / name)
    return directory


def kernel(script: Path, head: bytes) -> tuple[str, str | None] | int:
    """Execute a file of these bytes: the interpreter's name and argument as it sees them, or the errno of exec."""
    script.write_bytes(head)
    script.chmod(0o755)
    try:
        done = subprocess.run([str(script)], stdout=subprocess.PIPE, check=True, cwd=script.parent)
    except OSError as error:
        return error.errno or 0
    words = [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]]
    assert words[-1] == str(script)
    assert len(words) in (2, 3)
    return words[0], words[1] if len(words) == 3 else None


def hold_to_kernel(script: Path, head: bytes) -> None:
    """Hold read_line to what the kernel does with a file of these bytes."""
    seen = kernel(script, head)
    line = read_line(head)
    if isinstance(seen, int):
        if isinstance(line, Interpreter):
            assert seen in (errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
            assert not os.path.isfile(os.path.join(script.parent, line.path))
        else:
            assert seen in (errno.ENOEXEC, errno.ENOENT, errno.EACCES)  # the latter for an empty name
    else:
        assert seen == line


def lines(show: Path) -> dict[str, bytes]:
    """Return first lines, plain and odd, of which each names the interpreter in `show` or nothing."""
    name = os.fsencode(show / "i")
    room = LINE - 2 - len(name)  # for what follows the name
    return {
        "plain": b"#!" + name + b"\n",
        "no newline": b"#!" + name,
        "an argument": b"#!" + name + b" -u\n",
        "an argument, no newline": b"#!" + name + b" -u",
        "an argument with spaces": b"#!" + name + b" -e -u  x\n",
        "spaces all over": b"#! \t " + name + b" \t -e \t\n",
        "a space at the end": b"#!" + name + b" \nmore",
        "tabs": b"#!\t" + name + b"\t-e\t-u\t\n",
        "a carriage return": b"#!" + name + b"\r\n",
        "a carriage return behind the argument": b"#!" + name + b" -u\r\n",
        "a carriage return and no newline": b"#!" + name + b"\r",
        "NUL behind the name": b"#!" + name + b"\0 -u\n",
        "NUL in the argument": b"#!" + name + b" -u\0x\n",
        "NUL behind a space": b"#!" + name + b" \0\n",
        "nothing": b"#!",
        "only a newline": b"#!\n",
        "only spaces": b"#!   \t \n",
        "only spaces, no newline": b"#!   \t ",
        "spaces to the end": b"#!" + b" " * 300 + name + b"\n",
        "NUL alone": b"#!\0\n",
        "a space before": b" #!" + name + b"\n",
        "a newline before": b"\n#!" + name + b"\n",
        "half a magic": b"#",
        "relative": b"#!i\n",
        "relative with a dot": b"#!./i -u\n",
        "a directory": b"#!" + os.path.dirname(name) + b"\n",
        "not there": b"#!/nowhere/i -u\n",
        "not UTF-8": b"#!" + name + b"\xff \xfe\n",
        **{
            f"the name ends {LINE + over} bytes in": b"#!" + b" " * (room + over) + name + b"\n" + b"x" * 300
            for over in (-3, -2, -1, 0, 1, 2)
        },
        **{
            f"the argument ends {LINE + over} bytes in": b"#!" + name + b" " + b"a" * (room - 1 + over) + b"\nmore"
            for over in (-3, -2, -1, 0, 1, 2, 200)
        },
        **{
            f"a space {LINE + over} bytes in": b"#!" + name + b" " + b"a" * (room - 1 + over) + b" " + b"b" * 300
            for over in (-3, -2, -1, 0)
        },
        **{
            f"the name ends {LINE + over} bytes in, before {behind!r}": b"#!"
            + b" " * (room + over)
            + name
            + behind
            + b"x" * 300
            for over in (-3, -2, -1, 0)
            for behind in (b" ", b"\0", b"\t")
        },
        "a name longer than all": b"#!/" + b"i" * 400 + b"\n",
        "a name that the cut makes another": (b"#!" + b" " * (room - 1) + name + b"i\n"),
    }


def test_first_lines_are_read_as_the_kernel_reads_them(show: Path) -> None:
    wrong = []
    for what, head in lines(show).items():
        try:
            hold_to_kernel(show / "script", head)
        except AssertionError:
            wrong.append((what, kernel(show / "script", head), read_line(head)))
    assert wrong == []


@here
@given(
    st.lists(
        st.sampled_from([b"i", b" ", b"\t", b"\r", b"\0", b"\n", b"x", b"-e", b"/", b"\xff", b" " * 100]), max_size=9
    )
)
@example([b"i", b" "])
@example([b"i", b" ", b"x", b" "])
def test_any_first_line_is_read_as_the_kernel_reads_it(show: Path, pieces: list[bytes]) -> None:
    hold_to_kernel(show / "script", b"#!" + b"".join(pieces))


@given(st.one_of(st.binary(), st.binary(max_size=400).map(lambda data: b"#!" + data)))
def test_any_bytes_give_an_interpreter_a_reason_or_nothing(data: bytes) -> None:
    line = read_line(data)
    if isinstance(line, Interpreter):
        assert line.path
        assert "\0" not in line.path + (line.argument or "")
        env_lookup(line.argument)
    elif line is None:
        assert not data.startswith(b"#!")
    else:
        assert line
        assert "\n" not in line


def test_an_argument_is_one_however_many_spaces_it_has() -> None:
    assert read_line(b"#!/bin/sh -e -u\n") == Interpreter("/bin/sh", "-e -u")


def test_a_carriage_return_is_part_of_the_name() -> None:
    assert read_line(b"#!/bin/sh\r\n") == Interpreter("/bin/sh\r", None)


def test_names_keep_bytes_that_are_not_utf_8() -> None:
    assert read_line(b"#!/opt/\xff \xfe\n") == Interpreter("/opt/\udcff", "\udcfe")


# env


SCRIPT = "the-script"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories `one` and `two` with programs that print by which directory and name they were found."""
    top = tmp_path_factory.mktemp("env")
    for name in ("one", "two"):
        (top / name).mkdir()
        for program in ("py", "py -u", "other", SCRIPT, "a#b", "a'b", "a b", "x=y"):
            file = top / name / program
            file.write_text(f'#!/bin/sh\nprintf "%s\\n" "{name}/${{0##*/}}"\n')
            file.chmod(0o755)
    (top / "two" / "second").write_text((top / "two" / "py").read_text())
    (top / "two" / "second").chmod(0o755)
    return top


def env(argument: str, top: Path) -> str | None:
    """Return which program the real env runs for a #! line's argument, as "one/py"; None if none or the script."""
    # what env gets from the kernel: the argument, then the script
    done = subprocess.run(
        ["/usr/bin/env", argument, SCRIPT],
        env={"PATH": str(top / "one"), "LC_ALL": "C"},
        cwd=top,
        capture_output=True,
        text=True,
        check=False,
    )
    ran = done.stdout.strip()
    return ran if re.fullmatch(r"(?:one|two)/.*", ran) and not ran.endswith(f"/{SCRIPT}") else None


ARGUMENTS = [
    "py",
    "py -u",
    "other",
    "-S py",
    "-S py -u",
    "-Spy",
    "-S  py",
    "-S\tpy",
    "-S py\t-u",
    "-vS py",
    "-iS py",
    "-ivS py",
    "--split-string=py",
    "--split-string=py -u",
    "--split-string py",
    "-S -i py",
    "-S -u HOME py",
    "-S -uHOME py",
    "-S --unset=HOME py",
    "-S --unset HOME py",
    "-S -C / py",
    "-S --chdir=/ py",
    "-S -C/ py",
    "-S A=1 py",
    "-S A=1 B=2 py -u C=3",
    "-S A=1",
    "A=1",
    "A=1 py",
    "x=y",
    "-",
    "-i",
    "-S - py",
    "-0",
    "-S -- py",
    "-S -v py",
    "-S 'py' -u",
    '-S "py" -u',
    "-S 'py -u'",
    '-S "py -u" x',
    "-S p'y'",
    "-S py # other",
    "-S # py",
    "-S a#b",
    "-S py#other",
    "-S py\\_-u",
    "-S py\\t-u",
    "-S a\\_b",
    '-S "a\\_b"',
    "-S a\\ b",
    "-S a\\'b",
    "-S py\\c other",
    "-S \\#x",
    "-S",
    "-S ",
    "--split-string=",
    "-S 'py",
    '-S "py',
    "-S py\\",
    "-S PATH={two} py",
    "-S PATH={two} second",
    "-S PATH={two} -i py",
    "-S -i PATH={two} py",
    "-S PATH={one} PATH={two} py",
    "-S -u PATH PATH={two} second",
    "-S {two}/py -x",
    "{two}/py",
    "-S two/py",
    "two/py",
    "-S --ignore-environment PATH={two} py",
    "-S --default-signal=INT py",
    "-S --debug py",
    "-S --block-signal py",
    "-S --ignore-signal=PIPE py",
    "-S --list-signal-handling py",
    "-S --nothing py",
    "-S -Q py",
    "-Q",
    "nowhere",
    "-S nowhere",
    "-S py ${{HOME}}",
    "-S $HOME py",
    "-S py $x",
    "-S py \\q",
    "-S 'a\\'b'",
    "-S --split-string=py",
    "-S --un HOME py",
    "-S --split 'py'",
    "-S --chdir",
    "-S -u",
    "-S -i",
    "-S PATH= py",
    "-S -iuHOME py",
    "-S -vuHOME py",
    "-S -viC / py",
    "-i py",
    "-u HOME",
    "-uHOME",
    "-S -S py",
    "-S '-S py'",
    "-vv",
    "-S =x py",
    "=x",
]


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_env_runs_the_program_that_we_look_up(argument: str, programs: Path) -> None:
    argument = argument.format(one=programs / "one", two=programs / "two")
    lookup = env_lookup(argument)
    found = None
    if lookup is not None:
        directory = "" if "/" in lookup.name else lookup.search_path or "one"
        path = programs / directory / lookup.name
        found = str(path.relative_to(programs)) if path.is_file() else None
    assert env(argument, programs) == found


@pytest.mark.parametrize("option", ["-i", "-u PATH", "-", "--ignore-environment", "--unset=PATH"])
def test_without_a_path_env_looks_where_execvp_does(option: str) -> None:
    """execvp(3): "/bin:/usr/bin", whatever the caller's PATH is."""
    assert env_lookup(f"-S {option} py") == Lookup("py", os.confstr("CS_PATH"))


@pytest.mark.parametrize("text", ["${HOME}/x", "${HOME}", "x${HOME}", "--unset=X ${HOME}"])
def test_what_depends_on_a_variable_is_not_known(text: str) -> None:
    assert env_lookup(f"-S {text}") is None


def test_help_and_version_run_nothing() -> None:
    assert [env_lookup(text) for text in ("--help", "--version", "-S --help x", "-S --version x")] == [None] * 4


def test_without_an_argument_env_looks_nothing_up() -> None:
    assert env_lookup(None) is None


def test_without_s_the_whole_argument_is_the_name() -> None:
    assert env_lookup("python3 -u") == Lookup("python3 -u", None)
    assert env_lookup("-S python3 -u") == Lookup("python3", None)


@given(st.text())
def test_any_argument_gives_an_answer(argument: str) -> None:
    for text in (argument, f"-S {argument}", f"--split-string={argument}", f"-vS{argument}"):
        lookup = env_lookup(text)
        assert lookup is None or lookup.name
