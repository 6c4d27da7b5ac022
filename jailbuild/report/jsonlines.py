"""JSON Lines: one object a line, keys in the order of the contract. The schemas stand in report/schemas."""

from __future__ import annotations

import json
from collections.abc import Mapping
from json.encoder import encode_basestring  # in C, and what json.dumps itself writes strings with
from typing import Any

from jailbuild.closure.programs import Program
from jailbuild.loader.model import Edge, Library, Missing, Resolution
from jailbuild.names import shown, to_json


def line(record: Mapping[str, Any]) -> str:
    """Return one object as a line; bytes that are not UTF-8 become replacement characters."""
    return _replaced(json.dumps(record, ensure_ascii=False)) + "\n"


def _replaced(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _string(text: str) -> str:
    return encode_basestring(_replaced(text))


def _member(key: str, name: str | None) -> str:
    """Return `name` under `key` as names.to_json has it, in text."""
    if name is None:
        return f'"{key}": null'
    if name.isascii():
        return f'"{key}": {encode_basestring(name)}'
    return json.dumps(to_json(key, name), ensure_ascii=False)[1:-1]


class Programs:
    """Writes the objects of `deps --json`: line by line, and what many programs share once."""

    def __init__(self) -> None:
        self._libraries: dict[Library, str] = {}  # by identity
        self._found: dict[tuple[str, str, str], str] = {}
        self._edges: dict[Edge, str] = {}
        self._alike: dict[Resolution, list[str]] = {}  # by identity

    def line(self, program: Program) -> str:
        """Return the object for one program or library, as a line."""
        if program.type == "script":
            chain = [
                f"{{{_member('path', one.path)}, {_member('argument', one.argument)}}}" for one in program.interpreters
            ]
            start = f'"interpreters": [{", ".join(chain)}]'
        else:
            start = _member("interpreter", program.interpreter)
        first = program.parts[0].resolution if program.type == "elf" and program.parts else None
        if first is None or first.like is None or first.requester is None:
            loads = self._loads(program.libraries, program.missing)
        else:
            loads = self._edge(first.requester).join(self._pieces(first.like))
        error = "null" if program.error is None else _string(shown(program.error.text))  # one line
        return (
            f'{{"kind": "program", {_member("path", program.path)}, "type": "{program.type}", {start}, '
            f'{loads}, "error": {error}}}\n'
        )

    def _loads(self, libraries: tuple[Library, ...], missing: tuple[Missing, ...]) -> str:
        loaded = ", ".join([self._libraries.get(library) or self._library(library) for library in libraries])
        return f'"libraries": [{loaded}], "missing": [{", ".join([self._missing(one) for one in missing])}]'

    def _pieces(self, like: Resolution) -> list[str]:
        """Return what stands between the edges of the program itself; within a string an edge has other quotes."""
        pieces = self._alike.get(like)
        if pieces is None:
            assert like.requester is not None
            pieces = self._alike[like] = self._loads(like.libraries, like.missing).split(self._edge(like.requester))
        return pieces

    def _library(self, library: Library) -> str:
        key = library.name, library.path, library.found_by
        found = self._found.get(key)
        if found is None:
            name, path, found_by = key
            found = self._found[key] = f'{_member("name", name)}, {_member("path", path)}, "found_by": "{found_by}"'
        text = self._libraries[library] = f'{{{found}, "requests": [{self._requests(library.requests)}]}}'
        return text

    def _missing(self, missing: Missing) -> str:
        searched = ", ".join([_string(where) for where in missing.searched])
        requests = self._requests(missing.requests)
        return f'{{{_member("name", missing.name)}, "searched": [{searched}], "requests": [{requests}]}}'

    def _requests(self, edges: list[Edge]) -> str:
        known = self._edges
        return ", ".join([known.get(edge) or self._edge(edge) for edge in edges])

    def _edge(self, edge: Edge) -> str:
        text = self._edges[edge] = f'{{{_member("by", edge.by)}, "as": "{edge.how}"}}'
        return text
