"""What the user types: one module a command; parse, call, report.

A command's module is imported when the command is called, so that `jailbuild --help` stays quick.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Sequence

import click

from jailbuild import __version__
from jailbuild.errors import JailError, reason
from jailbuild.names import shown

COMMANDS = {
    "add": "Put programs and every file they need into a box.",
    "list": "List what is in a box.",
    "why": "Show the chains that lead from a request to a path.",
    "deps": "Show what programs need, without a box: the safe ldd.",
    "check": "Check that a box, or any root, is self-contained.",
    "enter": "Run a command, or a shell, inside a box.",
}

FAILED = 1
INTERRUPTED = 130
CANNOT_ENTER = 125


class _Commands(click.Group):
    """The commands by name; each lives in the module of its name, as `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"jailbuild.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def jailbuild() -> None:
    """Make a directory that can serve as / for a few programs, prove it, enter it."""


def say(text: str) -> None:
    """Write one line of words to the person, on stderr."""
    if sys.stdout is not None:
        sys.stdout.flush()
    if sys.stderr is not None:  # None where the caller closed it
        sys.stderr.write(shown(text) + "\n")
        sys.stderr.flush()


def complain(causes: Sequence[str], hint: str = "") -> None:
    """Write what could not be done, a line for each cause, and what to do about it."""
    for cause in causes:
        say(f"jailbuild: {cause}")
    if hint:
        say(f"hint: {hint}")


def _drop_output() -> None:
    """Let nothing of what could not be written be tried again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def main() -> None:
    """Run the command line and exit with the status of DESIGN: 0, 1, 2, 3, 130; `enter` has its own."""
    entering = sys.argv[1:2] == ["enter"]
    failed = CANNOT_ENTER if entering else FAILED
    if entering:  # short, and forks: a collection finds nothing, and writes to every page that children share
        gc.disable()
    try:
        status = jailbuild.main(prog_name="jailbuild", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        status = CANNOT_ENTER if entering else error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _drop_output()  # a reader that does not read would hold up the end
        status = INTERRUPTED
    except JailError as error:
        complain(error.causes, error.hint)
        status = failed
    except BrokenPipeError:  # the reader of our output has gone
        _drop_output()
        status = failed
    except OSError as error:
        _drop_output()
        complain([f"cannot go on: {error.filename or 'the system'}: {reason(error)}"])
        status = failed
    sys.exit(status)
