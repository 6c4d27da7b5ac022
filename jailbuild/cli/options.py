"""Options that several commands share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from jailbuild.cli import Option, retyped
from jailbuild.closure.commands import STANDARD_PATH, command_names
from jailbuild.elf.priorities import DEFAULT, LEVELS
from jailbuild.errors import OtherSourceError
from jailbuild.root import Root

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

option = partial(click.option, cls=Option)  # as click.option

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _complete_program(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    if "/" in incomplete:
        return [CompletionItem(incomplete, type="file")]
    return [CompletionItem(name) for name in sorted(set(command_names(Root("/")))) if name.startswith(incomplete)]


def programs(*, required: bool) -> Callable[[_Command], _Command]:
    """Take PROGRAM…, completed from the host's standard PATH."""
    return click.argument(
        "programs",
        metavar="PROGRAM..." if required else "[PROGRAM]...",
        nargs=-1,
        required=required,
        type=click.UNPROCESSED,
        shell_complete=_complete_program,
    )


def resolving(command: _Command) -> _Command:
    """Take the options that say where programs and libraries are looked for."""
    for decorate in (
        option(
            "--library-path",
            metavar="LIST",
            default="",
            help="Directories to search as LD_LIBRARY_PATH would; the caller's own is ignored.",
        ),
        option(
            "--path",
            "search_path",
            metavar="LIST",
            default=STANDARD_PATH,
            show_default=True,
            help="Where names of programs are looked up.",
        ),
        option(
            "--sysroot", metavar="DIR", help="The directory that is / for every look-up; by default the host's own /."
        ),
    ):
        command = decorate(command)
    return command


dlopen = option(
    "--dlopen",
    "level",
    metavar="LEVEL",
    type=click.Choice(LEVELS),
    default=None,
    help=f"Which libraries count of those that programs say they open while they run: {', '.join(LEVELS)}; each with "
    f"those before it. By default {DEFAULT}.",
)


def absolute(paths: tuple[str, ...]) -> frozenset[str]:
    """Return paths that the user typed, from "/" on."""
    return frozenset(os.path.abspath(path) for path in paths)


def knowing(command: _Command) -> _Command:
    """Take the options that say which recipes apply, and what else a box is to have by name."""
    for decorate in (
        option(
            "--allow-secrets",
            "allowed",
            metavar="PATH",
            multiple=True,
            type=click.UNPROCESSED,
            help="A secret, or a directory with secrets, that may go in.",
        ),
        option(
            "--recipes",
            "shelves",
            metavar="DIR",
            multiple=True,
            type=click.Path(readable=False),
            help="A directory with recipes of your own.",
        ),
        option("--locale", "locales", metavar="NAME", multiple=True, help="A locale, such as C.UTF-8."),
        option(
            "--user",
            "users",
            metavar="NAME",
            multiple=True,
            type=click.UNPROCESSED,
            help="A user of the source root that the box is to know.",
        ),
        option("--without", metavar="NAME", multiple=True, help="A recipe that is not to apply."),
        option(
            "--unmanaged",
            metavar="PATH",
            multiple=True,
            type=click.UNPROCESSED,
            help="A path in the box that is yours for good, with all below: put if absent, then left.",
        ),
        option(
            "--exclude",
            "excludes",
            metavar="PATTERN",
            multiple=True,
            type=click.UNPROCESSED,
            help="Paths that never come into the box: * stops at /, ** does not.",
        ),
        option("--with", "recipes", metavar="NAME", multiple=True, help="A recipe to apply."),
    ):
        command = decorate(command)
    return command


@contextlib.contextmanager
def naming_source(others: tuple[str, ...] = ()) -> Iterator[None]:
    """Say of a box that was made from another source root which command takes that root, without the `others`."""
    try:
        yield
    except OtherSourceError as error:
        if error.source is not None:
            error.hint = retyped("--sysroot", error.source, leave_out=others)
        raise


as_json = option("--json", "as_json", is_flag=True, help="Print JSON Lines.")
