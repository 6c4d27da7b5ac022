"""README.md does what it says.

Its commands (`readme_blocks` says what counts as one) are run in their order in one bash, in an empty directory that
holds `examples` of the checkout, with an empty standard input and the jailbuild under test as `jailbuild`. The ones
under "Run the tests" are not: that is what runs this.

Set-up is left to tests/fresh-debian, which runs every word of the README: of commands joined by " && ", those that
are `git clone` and `cd` to what it makes, apt-get or apt, the making and activating of a virtual environment, pip.

What a console block shows has to be what is printed, stdout and stderr together, byte for byte but for spaces at the
ends of lines. "…" in it stands for any text within a line; on a line of its own, for any lines or none.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import readme_blocks
from readme_blocks import Command
from tests import needs

TOP = Path(__file__).parents[2]
README = TOP / "README.md"
UNTESTED = "Run the tests"
ISOLATED = "Entering"  # its commands ask for more than a chroot can do
CONTAINER = "jailbuild: not isolated: root of this container lacks CAP_SYS_ADMIN; the container is the only boundary\n"

_SET_UP = re.compile(
    r"(?:sudo )?(?:"
    r"git clone\b|apt(?:-get)? |python3? -m venv\b|(?:\S*/)?pip3? |(?:\S*/)?python3? -m pip\b|"
    r"(?:\.|source) \S*bin/activate\b|export PATH="
    r")"
)


class Ran(NamedTuple):
    """What became of a command; status None: the shell did not come so far."""

    output: str
    status: int | None


def without_set_up(text: str, checkout: str) -> str:
    """Return a command without its parts that are set-up, "" if nothing else is in it.

    `checkout` is the directory that `git clone` makes.
    """
    parts = re.split(r" && (?:\\\n)? *", text)
    return " && ".join(part for part in parts if not _SET_UP.match(part) and part.strip() != f"cd {checkout}")


def to_run(commands: list[Command]) -> list[Command]:
    """Return what of a README is run here."""
    tested = [command for command in commands if UNTESTED not in command.sections]
    checkout = readme_blocks.clone_url(commands).rpartition("/")[2].removesuffix(".git")
    bare = [command._replace(text=without_set_up(command.text, checkout)) for command in tested]
    return [command for command in bare if command.text]


def matches(shown: str, printed: str) -> bool:
    """Say whether a command printed what the README shows."""
    pattern = "".join(
        r"(?:.*\n)*" if line.strip() == "…" else ".*".join(map(re.escape, line.rstrip().split("…"))) + r"\n"
        for line in shown.splitlines()
    )
    trimmed = "".join(line.rstrip() + "\n" for line in printed.splitlines())
    return re.fullmatch(pattern, trimmed) is not None


def run(commands: list[Command], here: Path, records: Path) -> list[Ran]:
    """Run the commands one after the other in one bash that starts in `here`; `records` is for notes."""
    script = []
    for index, command in enumerate(commands):
        typed = records / f"{index}.typed"
        typed.write_text(command.typed, encoding="utf-8")
        # the subshell at the end puts $? back for the next command
        script.append(
            f"{{\n{command.text}\n}} <{typed} >{records}/{index}.output 2>&1\n"
            f"readme_status=$?; echo $readme_status >{records}/{index}.status; (exit $readme_status)\n"
        )
    programs = records / "bin"
    programs.mkdir()
    jailbuild = programs / "jailbuild"
    jailbuild.write_text(f'#!/bin/sh\nPYTHONPATH="{TOP}" exec "{sys.executable}" -P -m jailbuild "$@"\n')
    jailbuild.chmod(0o755)
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(here),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
    }
    subprocess.run(
        ["bash", "-c", "".join(script)],
        cwd=here,
        env=environment,
        stdin=subprocess.DEVNULL,
        check=False,
        timeout=300,
    )
    done = []
    for index in range(len(commands)):
        status = records / f"{index}.status"
        output = records / f"{index}.output"
        done.append(
            Ran(
                output.read_text(encoding="utf-8", errors="replace") if output.exists() else "",
                int(status.read_text()) if status.exists() else None,
            )
        )
    return done


def faults(commands: list[Command], done: list[Ran]) -> list[str]:
    """Say in what the README was wrong, a text for each command."""
    wrong = []
    for index, (command, ran) in enumerate(zip(commands, done, strict=True)):
        said = f"README.md:{command.line}: {command.text}"
        if ran.status is None:
            wrong.append(f"{said}\nnever came to its end; it printed:\n{ran.output}")
        elif ran.status and not readme_blocks.may_fail(commands, index):
            wrong.append(f"{said}\nended with status {ran.status}; it printed:\n{ran.output}")
        elif command.output is not None and not matches(command.output, ran.output):
            wrong.append(f"{said}\nis shown to print:\n{command.output}but printed:\n{ran.output}")
    return wrong


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the README enters boxes")
@pytest.mark.skipif(
    needs.has_capability("SYS_ADMIN") and not needs.has_namespaces(),
    reason="neither the isolated mode nor what root of a container gets is to be had here",
)
def test_every_command_of_the_readme_does_what_is_shown(tmp_path: Path) -> None:
    """In a container `enter` says one line more, and what asks for more than a chroot can do is refused."""
    here = tmp_path / "here"
    records = tmp_path / "records"
    here.mkdir()
    records.mkdir()
    (here / "examples").symlink_to(TOP / "examples")
    commands = to_run(readme_blocks.read_commands(README.read_text(encoding="utf-8")))
    assert any(command.text.startswith("jailbuild ") for command in commands)
    if not needs.has_capability("SYS_ADMIN"):
        commands = [command for command in commands if ISOLATED not in command.sections]
    done = run(commands, here, records)
    if not needs.has_capability("SYS_ADMIN"):
        entering = ["jailbuild enter " in command.text for command in commands]
        assert [CONTAINER in ran.output for ran in done] == entering
        done = [ran._replace(output=ran.output.replace(CONTAINER, "")) for ran in done]
    wrong = faults(commands, done)
    assert wrong == [], "\n\n".join(["", *wrong])


def _in_heading_or_table(pattern: str, readme: str) -> bool:
    return any(re.search(pattern, line) for line in readme.splitlines() if line.startswith(("#", "|")))


def test_every_command_of_the_help_is_documented() -> None:
    """A heading or a row of a table names it in code: `jailbuild add …` or `add …`."""
    done = subprocess.run(
        [sys.executable, "-m", "jailbuild", "--help"], cwd=TOP, capture_output=True, text=True, check=True
    )
    listed = re.findall(r"^  ([a-z-]+)  ", done.stdout.partition("\nCommands:\n")[2], re.MULTILINE)
    assert listed
    readme = README.read_text(encoding="utf-8")
    assert [name for name in listed if not _in_heading_or_table(rf"`(?:jailbuild )?{name}\b", readme)] == []


def test_every_exit_status_is_documented() -> None:
    """A row of a table begins with it."""
    readme = README.read_text(encoding="utf-8")
    statuses = (0, 1, 2, 3, 125, 126, 127, 130)
    assert [status for status in statuses if not _in_heading_or_table(rf"^\|\s*`?{status}`?\s*\|", readme)] == []


def test_the_readme_sets_up_and_tests_in_its_own_words() -> None:
    """What .ci/run and tests/fresh-debian take from it."""
    commands = readme_blocks.read_commands(README.read_text(encoding="utf-8"))
    assert readme_blocks.clone_url(commands)
    assert [command for command in commands if UNTESTED in command.sections]


# The rules above, on a README of our own.

SAMPLE = """\
# Sample

```sh
# a comment
git clone https://example.org/x.git && cd x
for i in 1 2; do
  echo $i >> seen
done
```

```text
rm -rf everything
```

## Show

1. indented:

   ```console
   $ cat <<END
   > one
   > END
   one
   # cat
   bash-5.2# two
   two
   $ (exit 3)
   $ echo $?
   3
   ```

### Run the tests

```sh
false
```
"""


def test_commands_are_taken_with_their_lines_headings_output_and_input() -> None:
    assert readme_blocks.read_commands(SAMPLE) == [
        Command("git clone https://example.org/x.git && cd x", 5, ("Sample",)),
        Command("for i in 1 2; do\n  echo $i >> seen\ndone", 6, ("Sample",)),
        Command("cat <<END\none\nEND", 20, ("Sample", "Show"), "one\n"),
        Command("cat", 24, ("Sample", "Show"), "two\n", "two\n"),
        Command("(exit 3)", 27, ("Sample", "Show"), ""),
        Command("echo $?", 28, ("Sample", "Show"), "3\n"),
        Command("false", 35, ("Sample", "Show", "Run the tests")),
    ]


def test_commands_run_in_one_shell_and_are_compared(tmp_path: Path) -> None:
    commands = to_run(readme_blocks.read_commands(SAMPLE))
    assert faults(commands, run(commands, tmp_path, tmp_path)) == []
    assert (tmp_path / "seen").read_text() == "1\n2\n"


def test_a_readme_that_shows_what_is_not_printed_is_wrong(tmp_path: Path) -> None:
    readme = "```console\n$ echo one\ntwo\n$ false\n$ echo\n\n$ exit 0\n```\n"
    commands = readme_blocks.read_commands(readme)
    wrong = faults(commands, run(commands, tmp_path, tmp_path))
    assert [text.splitlines()[1] for text in wrong] == [
        "is shown to print:",
        "ended with status 1; it printed:",
        "never came to its end; it printed:",
    ]


def test_the_script_of_a_readme_stops_at_the_first_command_that_fails() -> None:
    script = readme_blocks.script(
        readme_blocks.read_commands(
            SAMPLE.replace("git clone", "echo git clone").replace("&& cd x", "").replace(">> seen", "")
        )
    )
    done = subprocess.run(["bash", "-e", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.endswith("\n3\n\n[README.md:35] false\n")


def test_a_block_without_an_end_is_an_error() -> None:
    with pytest.raises(ValueError, match="line 2: this block has no end"):
        readme_blocks.read_commands("\n```sh\ntrue\n")


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        (
            "sudo apt-get install -y git && git clone https://example.org/x && cd x && jailbuild add ls --into box",
            "jailbuild add ls --into box",
        ),
        ("python3 -m venv .venv && .venv/bin/pip install . && . .venv/bin/activate", ""),
        ("git clone https://example.org/x && cd x && \\\n  jailbuild -h", "jailbuild -h"),
        ("cd x", ""),
        ("cd box && ls", "cd box && ls"),
    ],
)
def test_set_up_is_left_out_of_a_command(text: str, rest: str) -> None:
    assert without_set_up(text, "x") == rest


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a … c\n", "a b c\n", True),
        ("a\n…\n", "a\n", True),
        ("a\n…\nd\n", "a\nb\nc\nd\n", True),
        ("a…\n", "a\nb\n", False),
        ("a\n", "a  \n", True),
        ("", "a\n", False),
        ("a.\n", "ab\n", False),
    ],
)
def test_an_ellipsis_stands_for_any_text(shown: str, printed: str, same: bool) -> None:
    assert matches(shown, printed) is same
