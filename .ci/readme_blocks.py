"""The commands of README.md, for whoever runs them: .ci/run, tests/fresh-debian, tests/unit/test_readme.py.

What counts as a command:

- A ```sh block is commands as they are typed.
- A ```console block is what a terminal showed. A line that begins with "$ " or "# " is a command, "> " goes on with
  it. The lines below it are its output. Where one of them begins with another prompt ("bash-5.2# ls /"), that is
  what was typed into the command, a shell in a box for example.
- A block of any other kind (```text, ```toml, ```json, ```dockerfile …) is not run.

In a ```sh block every command has to succeed; in a ```console block one may fail if the next one is `echo $?`.

    readme_blocks.py README.md                            print a bash script of all the commands
    readme_blocks.py README.md --section "Run the tests"  of those under that heading, the ones below it included
    readme_blocks.py README.md --clone-url                the URL of the first `git clone`
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_FENCE = re.compile(r"^(?P<indent> *)(?P<marks>`{3,}|~{3,})(?P<kind>[^`\s]*)[^`]*$")
_HEADING = re.compile(r"^(?P<level>#{1,6}) +(?P<title>.*?)(?: +#+)?$")
_PROMPT = re.compile(r"^[^\s#$]+[#$](?: |$)")
_CLONE = re.compile(r"\bgit clone\b(?: +-\S+)* +(?P<url>[^\s;&|-]\S*)")
STATUS = "echo $?"


class Command(NamedTuple):
    """One command, its newlines included, and what the README shows of it.

    `output` is None in a ```sh block, which shows none; `typed` is what its standard input gets, mostly nothing.
    """

    text: str
    line: int  # in README.md, from 1
    sections: tuple[str, ...]  # the headings above it, the outermost first
    output: str | None = None
    typed: str = ""


def read_commands(text: str) -> list[Command]:
    """Return the commands of a README in their order (ValueError with the line for one that bash cannot read)."""
    found: list[Command] = []
    sections: list[tuple[int, str]] = []
    lines = list(enumerate(text.splitlines(), start=1))
    while lines:
        number, line = lines.pop(0)
        if heading := _HEADING.match(line):
            level = len(heading["level"])
            sections = [*(above for above in sections if above[0] < level), (level, heading["title"])]
        if not (fence := _FENCE.match(line)):
            continue
        block: list[tuple[int, str]] = []
        while lines:
            inside = lines.pop(0)
            if re.match(rf"^ *{fence['marks']}+ *$", inside[1]):
                break
            block.append((inside[0], inside[1].removeprefix(fence["indent"])))
        else:
            raise ValueError(f"line {number}: this block has no end")
        titles = tuple(title for _, title in sections)
        if fence["kind"] == "sh":
            found += (Command(command, at, titles) for at, command in _split(block))
        elif fence["kind"] == "console":
            found += _read_console(block, titles)
    return found


def _split(block: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Take lines together until bash has a whole command; comments and empty lines are left out."""
    start, command = 0, ""
    for number, line in block:
        if not command:
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            start = number
        command += line + "\n"
        if _is_whole(command):
            yield start, command.rstrip("\n")
            command = ""
    if command:
        raise ValueError(f"line {start}: bash cannot read this command: {command}")


def _is_whole(command: str) -> bool:
    if command.endswith("\\\n"):
        return False
    # bash takes a here-document without its end, and warns
    bash = subprocess.run(["bash", "-n"], input=command, capture_output=True, text=True, check=False)
    return bash.returncode == 0 and not bash.stderr


def _read_console(block: list[tuple[int, str]], sections: tuple[str, ...]) -> list[Command]:
    found: list[Command] = []
    for number, line in block:
        if line.startswith(("$ ", "# ")):
            found.append(Command(line[2:], number, sections, ""))
            continue
        if not found:
            raise ValueError(f"line {number}: a console block begins with a command: '$ …' or '# …'")
        last = found[-1]
        if line.startswith("> ") and not last.output and not last.typed and not _is_whole(last.text + "\n"):
            found[-1] = last._replace(text=f"{last.text}\n{line[2:]}")
        elif prompt := _PROMPT.match(line):
            found[-1] = last._replace(typed=f"{last.typed}{line[prompt.end() :]}\n")
        else:
            found[-1] = last._replace(output=f"{last.output}{line}\n")
    for command in found:
        if not _is_whole(command.text + "\n"):
            raise ValueError(f"line {command.line}: bash cannot read this command: {command.text}")
    return found


def may_fail(commands: list[Command], index: int) -> bool:
    """Say whether the README shows the status of this command, by `echo $?` as the next."""
    following = commands[index + 1] if index + 1 < len(commands) else None
    return commands[index].output is not None and following is not None and following.text == STATUS


def script(commands: list[Command]) -> str:
    """Return a script for `bash -e` that shows each command and runs it, all in one shell."""
    parts = []
    for index, command in enumerate(commands):
        shown = shlex.quote(f"\n[README.md:{command.line}] {command.text}")
        if command.text != STATUS:  # $? must still be the one of the command before
            parts.append(f"printf '%s\\n' {shown}\n")
        text = command.text
        if command.typed:
            text = f"{{\n{text}\n}} < <(printf %s {shlex.quote(command.typed)})"
        parts.append(f"set +e\n{text}\n" if may_fail(commands, index) else f"{text}\nset -e\n")
    return "".join(parts)


def clone_url(commands: list[Command]) -> str:
    """Return what the README clones (ValueError if it clones nothing)."""
    for command in commands:
        if found := _CLONE.search(command.text):
            return shlex.split(found["url"])[0]
    raise ValueError("no command is a `git clone`")


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the commands of a README.")
    parser.add_argument("readme", type=Path)
    parser.add_argument("--section", help="only the commands under the heading of this name")
    parser.add_argument("--without", action="append", default=[], help="not those under the heading of this name")
    parser.add_argument("--clone-url", action="store_true", help="print the URL of the first `git clone`")
    options = parser.parse_args()
    try:
        commands = read_commands(options.readme.read_text(encoding="utf-8"))
        if options.clone_url:
            print(clone_url(commands))
            return
        for title in [*options.without, *([options.section] if options.section else [])]:
            if not any(title in command.sections for command in commands):
                raise ValueError(f"no command stands under the heading {title!r}")
    except (OSError, ValueError) as error:
        sys.exit(f"cannot read {options.readme}: {error}")
    commands = [command for command in commands if not set(options.without) & set(command.sections)]
    if options.section:
        commands = [command for command in commands if options.section in command.sections]
    print(script(commands), end="")


if __name__ == "__main__":
    main()
