"""The options of `enter`, read: plain values, or a JailError that says what would be right."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from jailbuild.enter.capabilities import NUMBERS
from jailbuild.enter.mounts import Bind, Tmpfs
from jailbuild.errors import JailError

_LIMITS = {name[7:].lower(): getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}
_LIMITS.pop("ofile", None)  # the BSD name of nofile
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class Limit(NamedTuple):
    """A resource limit, setrlimit(2); RLIM_INFINITY is -1."""

    name: str
    number: int
    soft: int
    hard: int

    def __str__(self) -> str:
        return f"{self.name}={_shown(self.soft)}:{_shown(self.hard)}"


def is_above(one: int, other: int) -> bool:
    """Compare two values of a resource limit, RLIM_INFINITY being above all others."""
    return other != resource.RLIM_INFINITY and (one == resource.RLIM_INFINITY or one > other)


def _shown(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)


def _wrong(option: str, text: str, why: str, form: str) -> JailError:
    return JailError(f"cannot use --{option} {text}: {why}", form)


def read_bind(text: str, directory: str) -> Bind:
    """Read SRC[:DST][:ro]; a relative SRC is taken from `directory`, DST is the same path as SRC by default."""
    form = "--bind SRC[:DST][:ro]: DST is an absolute path in the box, and none of them holds a colon"
    parts = text.split(":")
    read_only = len(parts) > 1 and parts[-1] == "ro"
    if read_only:
        parts.pop()
    if not parts[0] or len(parts) > 2 or "\0" in text:
        raise _wrong("bind", text, "it is not of that form", form)
    source = os.path.join(directory, parts[0])
    target = os.path.normpath(parts[1] if len(parts) == 2 else source).replace("//", "/")
    if not target.startswith("/"):
        raise _wrong("bind", text, f"{target} is not absolute", form)
    if target == "/":
        raise _wrong("bind", text, "/ of the box is the box", form)
    return Bind(source, target, read_only)


def read_tmpfs(text: str) -> Tmpfs:
    """Read DIR[:size], the size in bytes or with k, m, g, or in percent of the memory (tmpfs(5))."""
    form = "--tmpfs DIR[:size]: DIR is an absolute path in the box, the size like 64m or 10%"
    path, _, size = text.partition(":")
    target = os.path.normpath(path).replace("//", "/")
    if not path.startswith("/") or target == "/" or "\0" in text:
        raise _wrong("tmpfs", text, "it names no directory below /", form)
    number, unit = (size[:-1], size[-1].lower()) if size and not size[-1].isdigit() else (size, "")
    if size and (not (number.isascii() and number.isdigit()) or unit not in {*_UNITS, "%"} - {"t"} or int(number) == 0):
        raise _wrong("tmpfs", text, f"{size} is no size", form)
    return Tmpfs(target, number + unit if size else None)


def read_limit(text: str) -> Limit:
    """Read NAME=SOFT[:HARD]; values in the units of setrlimit(2), with k, m, g for 1024s, or "unlimited"."""
    form = f"--limit NAME=SOFT[:HARD], NAME one of: {', '.join(sorted(_LIMITS))}"
    name, equals, values = text.partition("=")
    name = name.lower()
    soft, colon, hard = values.partition(":")
    if not equals or name not in _LIMITS:
        raise _wrong("limit", text, f"there is no limit called {name}" if equals else "it has no value", form)
    numbers = [_limit_value(one) for one in ([soft, hard] if colon else [soft, soft])]
    if numbers[0] is None or numbers[1] is None:
        raise _wrong("limit", text, "a value is a number or 'unlimited'", form)
    least, most = (value if value != resource.RLIM_INFINITY else 1 << 64 for value in numbers if value is not None)
    if least > most:
        raise _wrong("limit", text, "the soft limit is above the hard one", form)
    return Limit(name, _LIMITS[name], numbers[0], numbers[1])


def _limit_value(text: str) -> int | None:
    text = text.lower()
    if text in ("unlimited", "infinity"):
        return resource.RLIM_INFINITY
    number, unit = (text[:-1], text[-1]) if text and not text[-1].isdigit() else (text, "")
    if unit not in _UNITS or not (number.isascii() and number.isdigit()):
        return None
    value = int(number) * _UNITS[unit]
    return value if value < 1 << 63 else None


def read_capability(text: str) -> str:
    """Read a capability's name, with or without CAP_, in any case."""
    name = text.upper().removeprefix("CAP_")
    if name not in NUMBERS:
        raise _wrong("cap-keep", text, "there is no such capability", "--cap-keep NET_RAW: see capabilities(7)")
    return name


def read_environment(texts: Iterable[str]) -> dict[str, str]:
    """Read K=V; of two with one name the later counts."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals or "\0" in text:
            raise _wrong("env", text, "it is not of the form NAME=VALUE", "--env NAME=VALUE")
        found[name] = value
    return found


def read_hostname(text: str) -> str:
    """Read a host name: 1 to 64 bytes, as sethostname(2) takes them."""
    if not 1 <= len(os.fsencode(text)) <= 64 or "\0" in text or not text.isprintable():
        raise _wrong("hostname", text, "a host name has 1 to 64 bytes", "--hostname NAME")
    return text


def read_descriptor(option: str, number: int, opened: Mapping[int, os.stat_result]) -> int:
    """Return the number of a descriptor that the caller has `opened`."""
    if number not in opened:
        raise _wrong(option, str(number), "no such descriptor is open", f"--{option} N, opened by the caller: N>file")
    return number
