"""The lines of a manifest of schema 1, which version 0.1 wrote: read, and never written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from jailbuild.box.manifest import PARENT, Manifest, Reason
from jailbuild.box.parsing import ManifestParser, Why, get_value, read_request
from jailbuild.closure.commands import DOCS
from jailbuild.elf.priorities import LEVELS
from jailbuild.names import from_json, spelled


class Schema1Parser(ManifestParser):
    """The lines of schema 1: edges are prose, a package's name says whether its documentation came."""

    def _take_header(self, header: dict[str, Any]) -> None:
        self.shared: dict[Why, Why] = {}  # it has neither the source root's path nor anything else

    def take(self, record: dict[str, Any]) -> None:
        """Take one line (ValueError)."""
        if record.get("kind") not in ("request", "entry"):
            raise ValueError("its kind is unknown")
        super().take(record)

    def finished(self) -> Manifest:
        """Return the whole, requests by the path that was asked for: schema 1 knew those by where its links lead."""
        renamed: dict[str, str] = {}
        for path, entry in self.entries.items():
            real = os.path.normpath(os.path.join(os.path.dirname(path), entry.target)) if entry.target else ""
            for why in entry.reasons if real else ():
                if why.how == "path" and why.by == real:
                    renamed.update((name, path) for name in why.wanted_by if self._is_own(name, real))
        if renamed:
            self._rename(renamed)
        return super().finished()

    def _is_own(self, name: str, path: str) -> bool:
        one = self.requests.get(name)
        return one is not None and one.type in ("file", "directory") and one.source is None and one.name == path

    def _rename(self, renamed: Mapping[str, str]) -> None:
        def called(names: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(sorted(renamed.get(name, name) for name in names))

        requests = {}
        for one in self.requests.values():
            name = renamed.get(one.name)
            one = one if name is None else one._replace(name=name, path=name)
            requests[one.name] = one
        self.requests = requests
        for path, entry in self.entries.items():
            reasons = set()
            for why in entry.reasons:
                for name in why.wanted_by:
                    link = renamed.get(name)
                    if link is None:
                        reasons.add(why._replace(wanted_by=(name,)))
                    elif path == link and why.how == "path" and why.by == name:
                        reasons.add(Reason("", self.requests[link].type, (link,)))
                    elif path == name and not why.by:
                        reasons.add(Reason(link, "target", (link,)))
                    else:
                        reasons.add(why._replace(wanted_by=(link,)))
            whole: dict[Reason, list[str]] = {}
            for why in sorted(reasons):
                whole.setdefault(why._replace(wanted_by=()), []).extend(why.wanted_by)
            self.entries[path] = entry._replace(
                wanted_by=called(entry.wanted_by),
                reasons=tuple(sorted(why._replace(wanted_by=tuple(sorted(names))) for why, names in whole.items())),
            )

    def _take_request(self, record: dict[str, Any]) -> None:
        before = read_request(record)
        asked = before
        if before.type == "package" and before.what.endswith(DOCS):
            name = before.name.removesuffix(DOCS)
            asked = before._replace(name=name, flags=frozenset(("docs",)))
        known = self.requests.get(asked.name)
        if known is not None:  # the package alone, and with its documentation: one request that brings as much as both
            asked = asked._replace(
                bare=known.bare and asked.bare,
                without=tuple(sorted({*known.without} & {*asked.without})),
                dlopen=max(known.dlopen, asked.dlopen, key=LEVELS.index),
                flags=known.flags | asked.flags,
            )
        self.requests[asked.name] = asked
        self.names[spelled(before.name)] = asked.name

    def _who(self, record: dict[str, Any], key: str) -> tuple[str, ...]:
        return tuple(sorted({*super()._who(record, key)}))

    def _source(self, record: dict[str, Any], path: str) -> str | None:
        source = from_json(record, "source")
        return path if source == path else source

    def _why(self, record: dict[str, Any]) -> Why:
        wanted_by = self._who(record, "wanted_by")
        found = {self._reason(edge, wanted_by) for edge in get_value(record, "edges", list)}
        why = wanted_by, tuple(sorted(reason for reason in found if reason.how != PARENT))
        return self.shared.setdefault(why, why)

    def _reason(self, value: Any, wanted_by: tuple[str, ...]) -> Reason:
        if not isinstance(value, dict):
            raise ValueError("an edge that is no object")
        if value.get("for") is not None:
            wanted_by = self._who(value, "for")
        return _from_prose(from_json(value, "by") or "", get_value(value, "as", str), wanted_by)


def _from_prose(by: str, how: str, wanted_by: tuple[str, ...]) -> Reason:
    """Return an edge of schema 1: "recipe OUTER > NAME: CAUSE; users NAME…", "user NAME; users …", "locale NAME"."""
    words, _, table = how.partition("; ")
    kind, _, rest = words.partition(" ")
    if kind not in ("recipe", "user", "locale") or not rest:
        return Reason(by, how, wanted_by)
    names = tuple(table.split(" ")[1:])
    if kind != "recipe":
        return Reason(by, kind, wanted_by, names=names or (rest,))
    chain, _, cause = rest.partition(": ")
    *through, recipe = chain.split(" > ")
    return Reason(by, kind, wanted_by, recipe, tuple(through), cause, names)
