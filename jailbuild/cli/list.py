"""jailbuild list BOX."""

from __future__ import annotations

import itertools

import click

from jailbuild.cli import Command, write
from jailbuild.cli.box import manifest_of
from jailbuild.cli.options import as_json
from jailbuild.cli.settle import settle
from jailbuild.names import shown
from jailbuild.report import jsonlines

_AT_ONCE = 1000  # lines


@click.command(cls=Command)
@click.argument("box", metavar="BOX", type=click.Path(readable=False))
@as_json
def command(box: str, as_json: bool) -> None:
    """List what jailbuild put into BOX: the requests, then every path with who wants it."""
    settle(box)
    manifest = manifest_of(box, "list")
    if as_json:
        objects = manifest.lines()
        while part := "".join(jsonlines.line(one) for one in itertools.islice(objects, _AT_ONCE)):
            write(part)
        return
    source = "" if manifest.source in ("", "/") else f", {manifest.source or 'an image'}"
    lines = [f"made from {manifest.label}{source}"]
    for name, asked in sorted(manifest.requests.items()):
        place = asked.source or asked.path
        lines.append(f"request {name}" + (f": {place}" if place else ""))
    for path, entry in sorted(manifest.entries.items()):
        mode = "    " if entry.mode is None else f"{entry.mode:04o}"
        size = "" if entry.size is None else str(entry.size)
        target = "" if entry.target is None else f" -> {entry.target}"
        lines.append(f"{entry.type:9} {mode} {size:>9} {path}{target}  ({', '.join(entry.wanted_by)})")
    write("".join(shown(line) + "\n" for line in lines))
