"""jailbuild why BOX PATH."""

from __future__ import annotations

from collections.abc import Iterator

import click

from jailbuild.box.chains import Chain, chains, words_of
from jailbuild.box.manifest import Manifest
from jailbuild.cli import Command, write
from jailbuild.cli.box import manifest_of
from jailbuild.cli.options import as_json
from jailbuild.cli.settle import settle
from jailbuild.errors import JailError
from jailbuild.names import command_line, operand, shown, to_json
from jailbuild.report import jsonlines
from jailbuild.root import Root

_FEW = 20


@click.command(cls=Command)
@click.argument("box", metavar="BOX", type=click.Path(readable=False))
@click.argument("path", metavar="PATH", type=click.UNPROCESSED)
@as_json
@click.option("-v", "--verbose", is_flag=True, help="Print every chain.")
def command(box: str, path: str, as_json: bool, verbose: bool) -> None:
    """Show the chains that lead from a request to PATH, a path in BOX."""
    settle(box)
    manifest = manifest_of(box, "explain")
    found = chains(manifest, _listed(manifest, box, path))
    if as_json:
        for chain in found:
            steps = [{**to_json("path", step.by), "as": words_of(step)} for step in chain]
            write(jsonlines.line({"kind": "chain", "steps": steps}))
        return
    for number, chain in enumerate(found):
        if number == _FEW and not verbose:
            write("… and more (-v shows them)\n")
            break
        write(shown(" -> ".join(_steps(chain))) + "\n")


def _steps(chain: Chain) -> Iterator[str]:
    first = chain[0]
    if first.how == "package":  # which one, its path does not tell
        yield f"{', '.join(name.removeprefix('package:') for name in first.wanted_by)} (package)"
    yield from (f"{step.by} ({'listed' if step.how == 'package' else words_of(step)})" for step in chain)


def _listed(manifest: Manifest, box: str, path: str) -> str:
    """Return the entry that a path means: itself, or where its directories lead in the box."""
    wanted = "/" + "/".join(part for part in path.split("/") if part not in ("", "."))
    if wanted in manifest.entries:
        return wanted
    parent, _, name = wanted.rpartition("/")
    try:
        there = f"{Root(box).walk(parent or '/').real.rstrip('/')}/{name}"
    except OSError:
        there = ""
    if there in manifest.entries:
        return there
    raise JailError(
        f"cannot explain {path}: it is not in the manifest of {box}", command_line("jailbuild", "list", operand(box))
    )
