"""What the user types: one module a command; parse, call, report.

A command's module is imported when the command is called, so that `jailbuild --help` stays quick.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

from jailbuild import Deferred, __version__, be_interrupted, not_be_interrupted
from jailbuild.errors import JailError, reason
from jailbuild.names import command_line, shortened, shown

# Before the imports, which make most of it: looking for garbage takes longer here than it would ever free.
gc.set_threshold(200_000)

# a third of click's import: for `Option` below, for texts that nobody has here, for a type of options that is not used
with Deferred("inspect", forward=("uuid",)):
    import click

COMMANDS = {
    "add": "Put programs and every file they need into a box.",
    "remove": "Take programs out of a box, and what only they needed.",
    "update": "Bring boxes up to the source root as it is now.",
    "list": "List what is in a box.",
    "why": "Show the chains that lead from a request to a path.",
    "deps": "Show what programs need, without a box: the safe ldd.",
    "check": "Check that a box, or any root, is self-contained.",
    "enter": "Run a command, or a shell, inside a box.",
    "recipes": "List what is known of programs beside their libraries.",
}

_TYPED = "jailbuild.typed"

FAILED = 1
BEHIND = 3
INTERRUPTED = 130
CANNOT_ENTER = 125


class Option(click.Option):
    """An option whose help is written as it is to be read: click would load `inspect` to take indents out."""

    def __init__(self, *arguments: Any, help: str | None = None, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.help = help


class Command(click.Command):
    """A command whose help option is an `Option` too, and that knows what was typed."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments, and remember them for `retyped`."""
        ctx.meta[_TYPED] = tuple(args)
        return super().parse_args(ctx, args)

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        names = self.get_help_option_names(ctx)
        if not names or not self.add_help_option:
            return None
        return Option(
            names,
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_show_help,
            help="Show this message and exit.",
        )


def _show_help(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        write(f"{ctx.get_help()}\n")
        ctx.exit()


def _show_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        write(f"jailbuild {__version__}\n")
        ctx.exit()


class _Commands(Command, click.Group):
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
@click.option(
    "--version",
    cls=Option,
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
def jailbuild() -> None:
    """Make a directory that can serve as / for a few programs, prove it, enter it."""


def retyped(*words: str, leave_out: tuple[str, ...] = ()) -> str:
    """Return the command line that the user typed with more options in it, and some words left out, for a shell."""
    context = click.get_current_context()
    typed = [word for word in context.meta[_TYPED] if word not in leave_out]
    return command_line("jailbuild", context.info_name or "", *words, *typed)


def write(text: str) -> None:
    """Write data to stdout, names that are not UTF-8 with their bytes (JailError where it is closed, OSError).

    An answer that cannot be written is a failure: who asked would take its absence for an answer.
    """
    if not text:
        return
    if sys.stdout is None:
        raise JailError("cannot write the answer: stdout is closed")
    sys.stdout.buffer.write(os.fsencode(text))
    sys.stdout.buffer.flush()


def say(text: str) -> None:
    """Write one line of words to the person, on stderr."""
    if sys.stdout is not None:
        sys.stdout.flush()
    if sys.stderr is not None:  # None where the caller closed it
        sys.stderr.write(shortened(shown(text)) + "\n")
        sys.stderr.flush()


def complain(causes: Sequence[str], hint: str = "") -> None:
    """Write what could not be done, a line for each cause, and what to do about it."""
    for cause in causes:
        say(f"jailbuild: {cause}")
    if hint and shortened(hint) == hint:  # a part of a command would be another
        say(f"hint: {hint}")


def _drop_output() -> None:
    """Let nothing of what could not be written be tried again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def main() -> None:
    """Run the command line and exit with the status of DESIGN: 0, 1, 2, 3, 130; `enter` has its own."""
    entering = sys.argv[1:2] == ["enter"]
    if entering:  # short, and forks: a collection finds nothing, and writes to every page that children share
        gc.disable()
    try:
        be_interrupted()
        status = _run(entering)
        not_be_interrupted()
    except (click.Abort, KeyboardInterrupt):
        not_be_interrupted()
        _drop_output()  # a reader that does not read would hold up the end
        status = INTERRUPTED
    if sys.argv[1:2] and sys.argv[1] in COMMANDS:
        _leave(status or 0)
    sys.exit(status)


def _run(entering: bool) -> Any:
    """Run the command line and return its exit status, with words about what went wrong."""
    failed = CANNOT_ENTER if entering else FAILED
    try:
        status = jailbuild.main(prog_name="jailbuild", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.ClickException as error:
        error.message = shortened(shown(error.message))  # type: ignore[misc]  # Final there, for want of another way
        error.show()
        status = CANNOT_ENTER if entering else error.exit_code
    except JailError as error:
        complain(error.causes, error.hint)
        status = failed
    except BrokenPipeError:  # the reader of our output has gone
        _drop_output()
        status = failed
    except OSError as error:
        _drop_output()
        what = error.filename if isinstance(error.filename, str) and error.filename else "the system"
        complain([f"cannot go on: {what}: {reason(error)}"])
        status = failed
    except MemoryError:
        _drop_output()
        complain(["cannot go on: there is not enough memory"])
        status = failed
    return status


def _leave(status: int) -> NoReturn:
    """End the process as the kernel does: taking apart each object of a large answer would take longer."""
    if sys.stderr is not None:
        with suppress(OSError):
            sys.stderr.flush()
    os._exit(status)
