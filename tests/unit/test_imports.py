"""Imports run one way: a room may import those above it in the house, never those below it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import jailbuild

HOUSE = (
    "errors",
    "names",
    "syscalls",
    "root",
    "elf",
    "loader",
    "packages",
    "closure",
    "recipes",
    "box",
    "jailfile",
    "enter",
    "check",
    "trace",
    "image",
    "report",
    "cli",
)
STRANGERS = frozenset({("trace", "image"), ("image", "trace")})  # they import not each other
PACKAGE = Path(jailbuild.__file__).parent

Import = tuple[str, int]  # what is imported, dotted and absolute; the line


def imports(source: str, module: str, is_package: bool) -> Iterator[Import]:
    """Yield every import of a module, wherever in the file it stands: in functions, under TYPE_CHECKING.

    `from jailbuild.box import plan` gives both jailbuild.box and jailbuild.box.plan. Of import_module("jailbuild.x")
    the constant beginning of the name is taken.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((name.name, node.lineno) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                parents = parents[: len(parents) - node.level + is_package]
                base = ".".join([*parents, base] if base else parents)
            yield base, node.lineno
            yield from ((f"{base}.{name.name}", node.lineno) for name in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "import_module"):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.JoinedStr) and first.values:
                first = first.values[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value.rstrip("."), node.lineno


def room(module: str) -> str | None:
    """Return the room that a module of jailbuild is in, None for the package itself and what is not jailbuild's."""
    first, _, rest = module.partition(".")
    name = rest.partition(".")[0]
    return name if first == "jailbuild" and name in HOUSE else None


def modules() -> Iterator[tuple[Path, str, list[Import]]]:
    """Yield each file of the package with its module name and its imports."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = list(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        is_package = parts[-1] == "__init__"
        module = ".".join(parts[:-1] if is_package else parts)
        yield path, module, list(imports(path.read_text(encoding="utf-8"), module, is_package))


def _unwanted(importer: str | None, imported: str | None) -> bool:
    if importer is None or imported is None or importer == imported:
        return False
    return HOUSE.index(imported) > HOUSE.index(importer) or (importer, imported) in STRANGERS


def test_a_room_imports_only_rooms_above_it() -> None:
    wrong = {
        f"{path}:{line}: {room(module)} imports {name}, which is below it"
        for path, module, found in modules()
        for name, line in found
        if _unwanted(room(module), room(name))
    }
    assert wrong == set(), "\n" + "\n".join(sorted(wrong))


def test_every_file_of_the_package_is_in_a_room_of_the_house() -> None:
    lost = [
        str(path)
        for path, module, _ in modules()
        if room(module) is None and module not in ("jailbuild", "jailbuild.__main__")
    ]
    assert lost == []


def test_the_package_itself_imports_no_room() -> None:
    """Every import of jailbuild.x runs jailbuild/__init__.py first."""
    found = [name for _, module, names in modules() if module == "jailbuild" for name, _ in names if room(name)]
    assert found == []


def test_only_the_elf_room_imports_elftools() -> None:
    wrong = {
        f"{path}:{line}"
        for path, module, found in modules()
        for name, line in found
        if name.split(".")[0] == "elftools" and room(module) != "elf"
    }
    assert wrong == set()


def test_recipes_hold_no_code() -> None:
    assert list((PACKAGE / "recipes").rglob("*.py")) == []


def test_help_imports_nothing_heavy() -> None:
    """What only some commands need is imported by them: start-up is most of the time of a small job."""
    code = (
        "import runpy, sys\n"
        "sys.argv = ['jailbuild', '--help']\n"
        "try:\n"
        "    runpy.run_module('jailbuild', run_name='__main__')\n"
        "except SystemExit as stopped:\n"
        "    assert not stopped.code, stopped.code\n"
        "print(*sys.modules, file=sys.stderr)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "Usage: " in done.stdout
    assert {"elftools", "tarfile", "subprocess", "tomllib"} & set(done.stderr.split()) == set()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import jailbuild.cli.add", {"jailbuild.cli.add"}),
        ("from jailbuild import cli", {"jailbuild", "jailbuild.cli"}),
        ("def f():\n    from ..report import tree", {"jailbuild.report", "jailbuild.report.tree"}),
        ("from . import copy", {"jailbuild.box", "jailbuild.box.copy"}),
        ("if TYPE_CHECKING:\n    import jailbuild.check", {"jailbuild.check"}),
        ("importlib.import_module(f'jailbuild.cli.{name}')", {"jailbuild.cli"}),
    ],
)
def test_an_import_is_seen_in_every_form(source: str, expected: set[str]) -> None:
    assert {name for name, _ in imports(source, "jailbuild.box.plan", is_package=False)} == expected


def test_an_import_downwards_or_between_trace_and_image_is_unwanted() -> None:
    assert _unwanted("box", "cli")
    assert _unwanted("image", "trace")
    assert not _unwanted("report", "check")
    assert not _unwanted("box", "box")
    assert not _unwanted("cli", None)
