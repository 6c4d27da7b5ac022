"""JSON Lines: one object a line, keys in the order of the contract. The schemas stand in report/schemas."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from jailbuild.closure.programs import Program
from jailbuild.loader.resolution import Edge, Library, Missing
from jailbuild.names import to_json


def line(record: Mapping[str, Any]) -> str:
    """Return one object as a line; bytes that are not UTF-8 become replacement characters."""
    text = json.dumps(record, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def program(found: Program) -> dict[str, Any]:
    """Return the object of `deps --json` for one program or library."""
    record: dict[str, Any] = {"kind": "program", **to_json("path", found.path), "type": found.type}
    if found.type == "script":
        record["interpreters"] = [
            {**to_json("path", one.path), **to_json("argument", one.argument)} for one in found.interpreters
        ]
    else:
        record.update(to_json("interpreter", found.interpreter))
    return {
        **record,
        "libraries": [_library(library) for library in found.libraries],
        "missing": [_missing(missing) for missing in found.missing],
        "error": None if found.error is None else found.error.text,
    }


def _library(library: Library) -> dict[str, Any]:
    return {
        **to_json("name", library.name),
        **to_json("path", library.path),
        "found_by": library.found_by,
        "requests": _requests(library.requests),
    }


def _missing(missing: Missing) -> dict[str, Any]:
    return {
        **to_json("name", missing.name),
        "searched": list(missing.searched),
        "requests": _requests(missing.requests),
    }


def _requests(edges: Iterable[Edge]) -> list[dict[str, Any]]:
    return [{**to_json("by", edge.by), "as": edge.how} for edge in edges]
