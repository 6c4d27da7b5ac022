"""jailbuild check DIR."""

from __future__ import annotations

import click

from jailbuild.check.run import check_root
from jailbuild.cli import Command
from jailbuild.cli.options import as_json, option, write
from jailbuild.errors import JailError
from jailbuild.report import jsonlines
from jailbuild.report.findings import text
from jailbuild.root import Root

NOT_AS_IT_SHOULD_BE = 3


@click.command(cls=Command)
@click.argument("directory", metavar="DIR", type=click.Path(readable=False))
@option("--strict", is_flag=True, help="Warnings count as errors.")
@as_json
@option("-q", "--quiet", is_flag=True, help="Print errors and warnings alone.")
@option("-v", "--verbose", is_flag=True, help="Print every note.")
def command(directory: str, strict: bool, as_json: bool, quiet: bool, verbose: bool) -> int:
    """Check that DIR, a box or any root directory, is self-contained and unchanged.

    Exit status 3 if it is not as it should be.
    """
    try:
        root = Root(directory)
    except JailError as error:
        causes = [cause.replace("cannot open", "cannot check", 1) for cause in error.causes]
        raise JailError(causes, error.hint) from None
    report = check_root(root, directory)
    if as_json:
        write("".join(jsonlines.line(finding.as_json()) for finding in report.findings))
        write(jsonlines.line(report.as_json()))
    else:
        write(text(report, directory, quiet=quiet, verbose=verbose))
    return 0 if report.is_good(strict) else NOT_AS_IT_SHOULD_BE
