"""dpkg's database, read from any root without running dpkg: deb(5), dpkg(1), dpkg-divert(1).

Debian keeps a list of names for each package in /var/lib/dpkg/info. Images made from packages without dpkg
("distroless") have a stanza and the MD5 sums of its files for each in /var/lib/dpkg/status.d instead.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import NamedTuple

from jailbuild.errors import JailError, reason
from jailbuild.packages.info import PackageInfo
from jailbuild.root import Root

_PLACE = "/var/lib/dpkg"
_MOST = 64 << 20  # bytes of one list
_FEW = 64  # paths for which it is worth guessing where they are listed, before every list is read
_USUAL = ("coreutils", "libc6", "libc-bin", "util-linux", "zlib1g", "base-files", "dash")
_ALTERNATIVES = "/etc/alternatives/"
# Compiled when they are used: few runs need more than the first.
_LIBRARY = r"(lib.*?)(?:\.so\.(\d+)[^/]*|-([\d.]+)\.so)"
_VERSION = rb"(?m)^(Version|Architecture|Source):[ \t]*(.*?)[ \t]*$"
_FIELD = rb"(?m)^(Package|Architecture|Status):[ \t]*(.*?)[ \t]*$"
_NAME = r"[a-z0-9][a-z0-9+.-]*(?::[a-z0-9-]+)?"  # deb-control(5); with an architecture, dpkg(1)


class Package(NamedTuple):
    """An installed package."""

    name: str
    architecture: str
    place: str  # the list of its files in the root


class Dpkg:
    """The packages of a root, as dpkg has recorded them; each list is read when it is needed."""

    def __init__(self, root: Root) -> None:
        self.root = root

    @property
    def _lists(self) -> dict[str, str]:
        """The lists of files by package: NAME, or NAME:ARCHITECTURE of what can be there for several."""
        return self.root.once(_lists)

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """The keys of the lists, by the package's name alone."""
        found: dict[str, list[str]] = {}
        for key in self._lists:
            found.setdefault(key.partition(":")[0], []).append(key)
        return found

    @cached_property
    def _aliases(self) -> dict[str, str]:
        """The links of a merged /usr, with where they lead: lists name files by either."""
        return self.root.once(_aliases)

    def _merged(self, path: str) -> str:
        top, slash, rest = path[1:].partition("/")
        return f"{self._aliases[f'/{top}']}/{rest}" if slash and f"/{top}" in self._aliases else path

    @cached_property
    def _diversions(self) -> dict[str, tuple[str, str]]:
        """By path, where it goes instead, and the package that has the path for itself (":" for the administrator)."""
        return {self._merged(path): (self._merged(to), by) for path, to, by in self.root.once(_diversions)}

    @cached_property
    def _diverted(self) -> dict[str, str]:
        """By where something goes instead, the path that it is listed by."""
        return {to: path for path, (to, _) in self._diversions.items()}

    def owners(self, links: Mapping[str, str | None]) -> dict[str, str]:
        """Return the packages that canonical paths of files and links belong to; what no list names is left out.

        `links` has the text of each that is a link. Links of a merged /usr and of the alternatives are nobody's. Of
        packages that are there for several architectures the name says which: all that share the file. Lists that
        cannot be read count as empty.
        """
        sought: dict[bytes, list[str]] = {}
        spellings: dict[str, list[str]] = {}
        for alias, real in self._aliases.items():
            spellings.setdefault(real, []).append(alias)
        waiting = set()
        for path, target in links.items():
            # update-alternatives(1) and usrmerge make these, and no list would ever end the search for them
            if path in self._aliases or path.startswith(_ALTERNATIVES) or (target or "").startswith(_ALTERNATIVES):
                continue
            waiting.add(path)
            listed = self._diverted.get(path, path)
            sought.setdefault(os.fsencode(listed), []).append(path)
            for real, aliases in spellings.items():
                if listed.startswith(f"{real}/"):
                    for alias in aliases:
                        sought.setdefault(os.fsencode(alias + listed[len(real) :]), []).append(path)
        found: dict[str, list[str]] = {}
        for key, more in self._in_order(links):
            for name in sought.keys() & self._listed(key):
                for path in sought[name]:
                    if self._may_own(key, path):
                        found.setdefault(path, []).append(key)
                        waiting.discard(path)
            if not waiting and not more:
                break
        return {path: self._called(keys) for path, keys in found.items()}

    def _in_order(self, paths: Mapping[str, str | None]) -> Iterator[tuple[str, bool]]:
        """Yield all keys, the likely ones first, each with whether the next is the same package's.

        A file has one package, or one for several architectures: who has found all may stop in between.
        """
        likely = {}
        if len(paths) <= _FEW:
            likely = dict.fromkeys([*(name for path in paths for name in _guesses(path)), *_USUAL])
        for name in dict.fromkeys([*(name for name in likely if name in self._by_name), *self._by_name]):
            keys = self._by_name[name]
            yield from ((key, key != keys[-1]) for key in keys)

    def _may_own(self, key: str, path: str) -> bool:
        """Say whether what a package lists is at `path`, diversions considered."""
        name = key.partition(":")[0]
        if path in self._diverted:
            return name != self._diversions[self._diverted[path]][1]
        return path not in self._diversions or name == self._diversions[path][1]

    def _called(self, keys: list[str]) -> str:
        """Return how a manifest names packages."""
        name = keys[0].partition(":")[0]
        return name if len(self._by_name[name]) == 1 else ", ".join(dict.fromkeys(keys))

    def _listed(self, key: str) -> list[bytes]:
        try:
            return self._read(self._lists[key], volatile=True)  # most are of packages that nobody asks for
        except OSError:
            return []

    def _read(self, place: str, *, volatile: bool = False) -> list[bytes]:
        data = self.root.read(place, _MOST, volatile=volatile)
        if place.endswith(".list"):
            return data.split(b"\n")
        names = (line.partition(b"  ")[2] for line in data.split(b"\n"))
        return [b"/" + name.removeprefix(b"./").lstrip(b"/") for name in names if name]

    def find(self, word: str) -> Package:
        """Return the installed package that a word names, NAME or NAME:ARCHITECTURE (JailError if there is none)."""
        if not re.fullmatch(_NAME, word):
            raise JailError(f"cannot find the package {word}: that is no name of a package", "dpkg -l")
        name, _, architecture = word.partition(":")
        known = self.root.once(_installed).get(name, [])
        there = [one for one in known if one[2] and architecture in ("", one[1])]
        if len(there) > 1:
            some = " and ".join(f"{name}:{one[1]}" for one in there)
            raise JailError(f"cannot find the package {word}: there are {some}", "name one of them")
        if not there:
            raise JailError(*self._not_found(word, name, known))
        architecture = there[0][1]
        key = f"{name}:{architecture}" if f"{name}:{architecture}" in self._lists else name
        if key not in self._lists:
            raise JailError(f"cannot find the files of the package {word}: there is no list of them in {_PLACE}")
        return Package(name, architecture, self._lists[key])

    def _not_found(self, word: str, name: str, known: list[tuple[str, str, bool]]) -> tuple[str, str]:
        import difflib  # only needed to word an error

        cause = f"cannot find the package {word}: "
        if any(is_installed for _, _, is_installed in known):
            return f"{cause}it is there for {', '.join(sorted(one for _, one, is_there in known if is_there))}", ""
        if known:
            return f"{cause}it was removed, and only its configuration is left", "install it again"
        names = sorted(name for name, some in self.root.once(_installed).items() if any(one[2] for one in some))
        if not names:
            return f"{cause}{self.root.path} has no packages that dpkg knows of", "name programs, --file or --dir"
        near = difflib.get_close_matches(name, names, 3)
        return f"{cause}it is not installed" + (f"; near: {', '.join(near)}" if near else ""), "install it first"

    def describe(self, words: Collection[str]) -> dict[str, PackageInfo]:
        """Return what is known of packages, NAME or NAME:ARCHITECTURE, by those words; of an unknown one its name."""
        found: dict[str, PackageInfo] = {}
        names = {os.fsencode(word.partition(":")[0]) for word in words}
        places = [f"{_PLACE}/status", *(f"{_PLACE}/status.d/{os.fsdecode(name)}" for name in names)]
        for place in places if words else ():
            try:
                data = self.root.read(place, _MOST, volatile=True)
            except OSError:
                continue
            for stanza in (b"\n" + data).split(b"\nPackage: ")[1:]:  # which is each stanza's first line
                if (name := stanza[: stanza.find(b"\n")].strip()) in names:
                    one = _described(os.fsdecode(name), stanza.partition(b"\n\n")[0])
                    found.setdefault(one.name, one)
                    found[f"{one.name}:{one.architecture}"] = one
        return {
            word: found.get(word, PackageInfo(word.partition(":")[0], None, word.partition(":")[2] or None, None))
            for word in words
        }

    def files(self, package: Package) -> tuple[str, ...]:
        """Return what a package has put into the root, directories too: where it is, diversions considered.

        Links of a merged /usr may be in the way of a path. JailError if the list cannot be read.
        """
        try:
            lines = self._read(package.place)
        except OSError as error:
            raise JailError(f"cannot read {package.place}: {reason(error)}") from None
        found = []
        for line in lines:
            path = os.fsdecode(line)
            if path in ("", "/", "/.") or not path.startswith("/"):
                continue
            to, by = self._diversions.get(self._merged(path), (path, package.name))
            found.append(path if by == package.name else to)
        return tuple(found)


def _names(root: Root, place: str) -> list[str]:
    try:
        return root.listdir(place)
    except OSError:
        return []


def _lists(root: Root) -> dict[str, str]:
    found = {}
    for place, suffix in ((f"{_PLACE}/status.d", ".md5sums"), (f"{_PLACE}/info", ".list")):
        for name in _names(root, place):
            if name.endswith(suffix) and name.isprintable():  # no package has another
                found[name[: -len(suffix)]] = f"{place}/{name}"
    return found


def _aliases(root: Root) -> dict[str, str]:
    found = {}
    for name in _names(root, "/"):
        try:
            walk = root.walk(f"/{name}")
        except OSError:
            continue
        if walk.links and walk.real != "/" and root.is_directory(walk.real):
            found[f"/{name}"] = walk.real
    return found


def _diversions(root: Root) -> list[tuple[str, str, str]]:
    """Return what is diverted: its path, where it goes instead, and the package that has the path for itself."""
    try:
        data = root.read(f"{_PLACE}/diversions", _MOST)
    except OSError:
        return []
    lines = os.fsdecode(data).split("\n")
    return list(zip(lines[::3], lines[1::3], lines[2::3], strict=False))


def _installed(root: Root) -> dict[str, list[tuple[str, str, bool]]]:
    """Return name, architecture and whether it is installed of all packages that there is a stanza for, by name."""
    stanzas = []
    places = [f"{_PLACE}/status"]
    places += [
        f"{_PLACE}/status.d/{name}" for name in _names(root, f"{_PLACE}/status.d") if not name.endswith(".md5sums")
    ]
    for place in places:
        try:
            stanzas += root.read(place, _MOST, volatile=True).split(b"\n\n")  # of all packages
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
                raise JailError(f"cannot read {place}: {reason(error)}") from None
    found: dict[str, list[tuple[str, str, bool]]] = {}
    for stanza in stanzas:
        fields = {key: os.fsdecode(value) for key, value in re.findall(_FIELD, stanza)}
        if b"Package" in fields:
            # "want flag status", dpkg-query(1); an image's stanza has none
            status = fields.get(b"Status", "install ok installed").split(" ")[-1]
            is_there = status not in ("not-installed", "config-files")
            name = fields[b"Package"]
            found.setdefault(name, []).append((name, fields.get(b"Architecture", ""), is_there))
    return found


def _described(name: str, stanza: bytes) -> PackageInfo:
    fields = {key: value.decode("utf-8", "replace") for key, value in re.findall(_VERSION, stanza)}
    source = fields.get(b"Source", name).partition(" ")[0]  # with its version, where that is another
    return PackageInfo(name, fields.get(b"Version"), fields.get(b"Architecture"), source)


def _guesses(path: str) -> Iterator[str]:
    """Yield names that the package of a file may have: parts of its path, and by Debian policy 8.1 for a library."""
    parts = path.split("/")
    library = re.fullmatch(_LIBRARY, parts[-1])
    if library is not None:
        name, *versions = library.groups()
        version = next(version for version in versions if version is not None)
        name = name.lower().replace("_", "-")
        yield f"{name}-{version}" if name[-1].isdigit() else f"{name}{version}"
        yield f"{name}{version}t64"
        yield name
    yield from reversed(parts)
