"""jailbuild check DIR."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from jailbuild.check.exposure import USES
from jailbuild.check.findings import CODES, Ignored
from jailbuild.check.manifest_state import read_trusted
from jailbuild.check.run import CheckOptions, check_root
from jailbuild.check.scope import find_programs
from jailbuild.cli import Command, write
from jailbuild.cli.options import as_json, dlopen, naming_source, option
from jailbuild.cli.progress import progress
from jailbuild.cli.settle import settle
from jailbuild.errors import JailError
from jailbuild.report import jsonlines
from jailbuild.report.findings import text
from jailbuild.root import Root

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

NOT_AS_IT_SHOULD_BE = 3


def _ignored(_ctx: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[Ignored, ...]:
    """Read CODE[:PATH]: a code of the one table, and a pattern of paths."""
    found = []
    for value in values:
        code, colon, paths = value.partition(":")
        if code not in CODES:
            raise click.BadParameter(f"there is no code {code!r}; the codes are {', '.join(CODES)}")
        if colon and not paths:
            raise click.BadParameter(f"{value!r} has no path behind its colon")
        found.append(Ignored(code, paths or "*"))
    return tuple(found)


def _complete_code(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(code) for code in CODES if code.startswith(incomplete)]


@click.command(cls=Command)
@click.argument("directory", metavar="DIR", type=click.Path(readable=False))
@option(
    "--program",
    "programs",
    metavar="PATH",
    multiple=True,
    type=click.UNPROCESSED,
    help="Check only PATH and its dependencies (repeatable).",
)
@option("--strict", is_flag=True, help="Warnings count as errors.")
@option(
    "--for",
    "uses",
    multiple=True,
    type=click.Choice(USES),
    help="Hold DIR to the rules of this use too; may be given again.",
)
@option(
    "--ignore",
    "ignored",
    multiple=True,
    metavar="CODE[:PATH]",
    callback=_ignored,
    shell_complete=_complete_code,
    help="Leave out findings of this code, at all paths or those that fit (* and ?); may be given again.",
)
@option(
    "--manifest",
    "manifest",
    metavar="FILE",
    type=click.Path(readable=False),
    help="Verify against this manifest instead of the box's own.",
)
@dlopen
@option("--symbols", is_flag=True, help="Look up every symbol that programs and their libraries want, as ldd -r does.")
@option("--run", is_flag=True, help="Ask DIR's own loader too, isolated, what each program loads; nothing else is run.")
@option("--stale", is_flag=True, help="Compare a box with its source root too: what would an update change?")
@option("--sysroot", metavar="DIR", help="The source root, for --stale; by default the host's own /.")
@option(
    "--recipes",
    "shelves",
    metavar="DIR",
    multiple=True,
    type=click.Path(readable=False),
    help="A directory with recipes of your own, for --stale.",
)
@as_json
@option("-q", "--quiet", is_flag=True, help="Print errors and warnings alone.")
@option("-v", "--verbose", is_flag=True, help="Print every finding, also where many are alike.")
def command(
    directory: str,
    programs: tuple[str, ...],
    strict: bool,
    uses: tuple[str, ...],
    ignored: tuple[Ignored, ...],
    manifest: str | None,
    level: str | None,
    symbols: bool,
    run: bool,
    stale: bool,
    sysroot: str | None,
    shelves: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Check that DIR, a box or any root directory, is self-contained, unchanged and safe.

    Exit status 3 if it is not as it should be.
    """
    settle(directory)
    try:
        root = Root(directory)
    except JailError as error:
        causes = [cause.replace("cannot open", "cannot check", 1) for cause in error.causes]
        raise JailError(causes, error.hint) from None
    trusted = None if manifest is None else read_trusted(manifest)
    wishes = CheckOptions(
        trusted,
        uses,
        ignored,
        Root(sysroot or "/") if stale else None,
        shelves,
        find_programs(root, programs),
        level,
        symbols,
        run,
        sysroot is not None,
    )
    with progress("checking", quiet) as tell, naming_source():
        report = check_root(root, directory, wishes, tell)
    if as_json:
        write("".join(jsonlines.line(finding.as_json()) for finding in report.findings))
        write(jsonlines.line(report.as_json()))
    else:
        write(text(report, directory, quiet=quiet, verbose=verbose))
    return 0 if report.is_good(strict) else NOT_AS_IT_SHOULD_BE
