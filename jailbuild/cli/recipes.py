"""jailbuild recipes [NAME…]: what jailbuild knows about."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from jailbuild.cli import Command, write
from jailbuild.cli.options import as_json, option
from jailbuild.closure.catalog import RecipeCatalog
from jailbuild.closure.recipe import Recipe
from jailbuild.names import shown
from jailbuild.report import jsonlines


@click.command(cls=Command)
@click.argument("names", metavar="[NAME]...", nargs=-1)
@option(
    "--recipes",
    "shelves",
    metavar="DIR",
    multiple=True,
    type=click.Path(readable=False),
    help="A directory with recipes of your own.",
)
@as_json
def command(names: tuple[str, ...], shelves: tuple[str, ...], as_json: bool) -> None:
    """List the recipes, or those called NAME: when each applies and what it brings."""
    catalog = RecipeCatalog(shelves)
    found = [catalog.get(name) for name in names or catalog.names]
    if as_json:
        write("".join(jsonlines.line(_record(recipe)) for recipe in found))
        return
    for number, recipe in enumerate(found):
        lines = [f"{recipe.name}: {recipe.title}"]
        lines += [f"  {key}: {', '.join(values)}" for key, values in _told(recipe)]
        if names and recipe.about:
            lines += ["", *recipe.about.strip("\n").splitlines()]
        write(("\n" if number and names else "") + "".join(shown(line) + "\n" for line in lines))


def _told(recipe: Recipe) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield what to tell of a recipe, in words."""
    when, bring = recipe.when, recipe.bring
    for key, values in (
        ("finds", tuple(f"{command} at {' or '.join(places)}" for command, places in recipe.find.items())),
        ("for programs", when.program),
        ("for libraries", when.soname),
        ("for programs that import", when.symbol),
        ("programs", (*bring.programs, *bring.programs_if_there)),
        ("recipes", bring.recipes),
        ("users", (*bring.users, *bring.users_if_there)),
        ("files", (*bring.files, *bring.files_if_there)),
        ("directories with all in them", _trees(recipe)),
        ("makes", _makes(recipe)),
    ):
        if values:
            yield key, values


def _trees(recipe: Recipe) -> tuple[str, ...]:
    return tuple(
        tree.path + (f" without {' '.join(tree.exclude)}" if tree.exclude else "") for tree in recipe.bring.tree
    )


def _makes(recipe: Recipe) -> tuple[str, ...]:
    bring = recipe.bring
    return (
        *(made.path for made in bring.made),
        *(f"{one.path}/ {one.mode:04o} {one.owner}" for one in bring.directory),
        *(f"{one.path} {one.type} {one.major}:{one.minor}" for one in bring.device),
        *(f"{one.path} -> {one.target}" for one in bring.link),
    )


def _record(recipe: Recipe) -> dict[str, Any]:
    """Return the object of `recipes --json`."""
    bring = recipe.bring
    return {
        "kind": "recipe",
        "name": recipe.name,
        "title": recipe.title,
        "about": recipe.about or None,
        "file": recipe.file,
        "find": [{"command": command, "places": list(places)} for command, places in recipe.find.items()],
        "when": {key: list(values) for key, values in recipe.when._asdict().items()},
        "programs": [*bring.programs, *bring.programs_if_there],
        "files": [*bring.files, *bring.files_if_there],
        "recipes": list(bring.recipes),
        "users": [*bring.users, *bring.users_if_there],
        "trees": [{"path": tree.path, "exclude": list(tree.exclude)} for tree in bring.tree],
        "made": [one.path for one in bring.made],
        "directories": [{"path": one.path, "owner": one.owner, "mode": f"{one.mode:04o}"} for one in bring.directory],
        "devices": [
            {"path": one.path, "device": [one.type, one.major, one.minor], "mode": f"{one.mode:04o}"}
            for one in bring.device
        ],
        "links": [{"path": one.path, "target": one.target} for one in bring.link],
    }
