"""One recipe: what a program or library needs beside its libraries, as a TOML file says it. Read and checked.

What it means for a root is closure/evaluate.py's; which recipes there are, closure/shelf.py's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jailbuild.errors import JailError

_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]*")
_MODE = re.compile(r"[0-7]{3,4}")
_OWNER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?::[A-Za-z0-9_][A-Za-z0-9_.-]*)?")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\$?")
# In front of a path: the directory above the bin or sbin of the program that the recipe applies to, for each path on
# its way through links; for the last of them alone.
EACH_PREFIX, REAL_PREFIX = PREFIXES = "{prefix}", "{real-prefix}"
MAKERS = ("resolv.conf",)  # what `make` may name: see closure/evaluate.py


class When(NamedTuple):
    """When a recipe applies by itself."""

    program: tuple[str, ...] = ()  # patterns of command names, or of absolute paths
    soname: tuple[str, ...] = ()  # patterns
    symbol: tuple[str, ...] = ()  # imported by a requested program itself


class BroughtTree(NamedTuple):
    """A directory with all that is in it, but for what fits a pattern of `exclude`."""

    path: str  # or a pattern
    exclude: tuple[str, ...] = ()  # of paths below it, or without a "/" of base names
    if_there: bool = False


class BroughtDirectory(NamedTuple):
    """A directory that is made, whatever the source root has there."""

    path: str
    owner: str = "root:root"
    mode: int = 0o755


class BroughtDevice(NamedTuple):
    """A device node."""

    path: str
    type: str  # "c" or "b"
    major: int
    minor: int
    mode: int = 0o666


class BroughtFile(NamedTuple):
    """A file that is made: of the content that the recipe has, or by one of MAKERS."""

    path: str
    content: str | None = None
    make: str | None = None
    owner: str = "root:root"
    mode: int = 0o644
    unless: str | None = None  # a path of the source root


class BroughtLink(NamedTuple):
    """A symbolic link that is made."""

    path: str
    target: str


class Bring(NamedTuple):
    """What a recipe brings."""

    programs: tuple[str, ...] = ()
    programs_if_there: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    files_if_there: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    users_if_there: tuple[str, ...] = ()
    tree: tuple[BroughtTree, ...] = ()
    directory: tuple[BroughtDirectory, ...] = ()
    device: tuple[BroughtDevice, ...] = ()
    made: tuple[BroughtFile, ...] = ()
    link: tuple[BroughtLink, ...] = ()


class Recipe(NamedTuple):
    """One recipe, as its file says."""

    name: str
    file: str
    title: str
    about: str
    when: When
    bring: Bring
    find: Mapping[str, tuple[str, ...]] = {}  # where commands stand that no search path has: paths or patterns

    @property
    def by_symbol_alone(self) -> bool:
        """Whether nothing but a symbol makes it apply: then what it brings must be small."""
        return bool(self.when.symbol) and not (self.when.program or self.when.soname)


class WrongRecipe(Exception):
    """What is wrong, and at which key: ("bring", "tree", 1, "path")."""

    def __init__(self, what: str, *key: str | int) -> None:
        super().__init__(what)
        self.what = what
        self.key = key


def read_recipe(file: str, text: str) -> Recipe:
    """Return the recipe that `text`, from `file`, has (JailError with file, line and key of what is wrong)."""
    import tomllib  # only for who has a recipe to read

    try:
        record = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"\(at (?:line (\d+)|end of document)", str(error))
        line = int(place[1]) if place and place[1] else text.count("\n") + 1
        why = str(error).partition(" (at ")[0]
        raise unusable(file, line, why) from None
    except RecursionError:
        raise unusable(file, 1, "it is nested too deep") from None
    name = os.path.basename(file).removesuffix(".toml")
    try:
        if not _NAME.fullmatch(name):
            raise WrongRecipe("its name is not made of a-z, 0-9, '+', '.' and '-'")
        return _recipe(name, file, record)
    except WrongRecipe as error:
        key = ".".join(str(part) for part in error.key if isinstance(part, str))
        what = f"{key}: {error.what}" if key else error.what
        raise unusable(file, line_of(text, error.key), what) from None


def unusable(file: str, line: int, what: str) -> JailError:
    """Return the error for a recipe with a mistake on a line."""
    return JailError(f"cannot use the recipe {file}: line {line}: {what}", "jailbuild recipes shows recipes that work")


def line_of(text: str, key: tuple[str | int, ...]) -> int:
    """Return the line of TOML text on which a key stands; of its table where it has none of its own, else 1."""
    *tables, last = key or ("",)
    wanted = ".".join(part for part in tables if isinstance(part, str))
    number = next((part for part in tables if isinstance(part, int)), None)
    whole = ".".join(part for part in key if isinstance(part, str))
    table, count = "", -1
    counts: dict[str, int] = {}
    found = 1
    for line, words in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\[?\s*([^\]\s]+)\s*\]", words)
        if header:
            table = header[1].replace('"', "")
            count = counts[table] = counts.get(table, -1) + 1
            if (table == wanted and (number is None or count == number)) or (
                table == whole and (not isinstance(last, int) or count == last)
            ):
                found = line
        elif table == wanted and (number is None or count == number) and isinstance(last, str):
            assigned = re.match(r"\s*\"?([A-Za-z0-9_-]+)\"?\s*[=.]", words)
            if assigned and assigned[1] == last:
                return line
    return found


def _recipe(name: str, file: str, record: Mapping[str, Any]) -> Recipe:
    _only(record, ("title", "about", "find", "when", "bring"))
    title = _text(record, "title", required=True)
    if not title or "\n" in title:
        raise WrongRecipe("it is not one line of text", "title")
    when = _table(record, "when")
    _only(when, When._fields, "when")
    find = _table(record, "find")
    bring = _table(record, "bring")
    _only(bring, [field.replace("_", "-") for field in Bring._fields], "bring")
    return Recipe(
        name,
        file,
        title,
        _text(record, "about") or "",
        _when(when),
        Bring(
            _texts(bring, "programs", "bring", check=_program),
            _texts(bring, "programs-if-there", "bring", check=_program),
            _texts(bring, "files", "bring", check=_place),
            _texts(bring, "files-if-there", "bring", check=_place),
            _texts(bring, "recipes", "bring", check=_recipe_name),
            _texts(bring, "users", "bring", check=_user),
            _texts(bring, "users-if-there", "bring", check=_user),
            tuple(_tree(one, "bring", "tree", number) for number, one in _tables(bring, "tree")),
            tuple(_directory(one, "bring", "directory", number) for number, one in _tables(bring, "directory")),
            tuple(_device(one, "bring", "device", number) for number, one in _tables(bring, "device")),
            tuple(_made(one, "bring", "made", number) for number, one in _tables(bring, "made")),
            tuple(_link(one, "bring", "link", number) for number, one in _tables(bring, "link")),
        ),
        {_command(command): _texts(find, command, "find", check=_path) for command in find},
    )


def _when(record: Mapping[str, Any]) -> When:
    return When(
        _texts(record, "program", "when", check=_program),
        _texts(record, "soname", "when", check=_no_slash),
        _texts(record, "symbol", "when", check=_symbol),
    )


_Key = tuple[str | int, ...]


def _only(record: Mapping[str, Any], keys: tuple[str, ...] | list[str], *above: str | int) -> None:
    for key in record:
        if key not in keys:
            import difflib  # only to word a mistake

            near = difflib.get_close_matches(key, keys, 1)
            raise WrongRecipe(f"there is no such key{f'; near: {near[0]}' if near else ''}", *above, key)


def _table(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = record.get(key, {})
    if not isinstance(value, dict):
        raise WrongRecipe("it is no table", key)
    return value


def _tables(record: Mapping[str, Any], key: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    value = record.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise WrongRecipe(f"it is no list of tables: [[bring.{key}]]", "bring", key)
    yield from enumerate(value)


def _text(record: Mapping[str, Any], key: str, *above: str | int, required: bool = False) -> str | None:
    value = record.get(key)
    if value is None and not required:
        return None
    if value is None:
        raise WrongRecipe("it is missing", *above, key)
    if not isinstance(value, str) or "\0" in value:
        raise WrongRecipe("it is no text", *above, key)
    return value


def _texts(record: Mapping[str, Any], key: str, *above: str | int, check: Any = None) -> tuple[str, ...]:
    value = record.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise WrongRecipe("it is no list of texts", *above, key)
    for one in value:
        why = "it is empty" if not one or "\0" in one else check(one) if check is not None else ""
        if why:
            raise WrongRecipe(f"{one!r}: {why}", *above, key)
    return tuple(value)


def _path(text: str) -> str:
    """Return why text is no path or pattern of the source root; "" if it is."""
    if not text.startswith("/") or text == "/":
        return "a path begins with '/', and has something behind it"
    if any(part in ("", ".", "..") for part in text[1:].split("/")):
        return "a path has no '.', '..' or empty parts"
    return ""


def _place(text: str) -> str:
    """Likewise for what may begin at the prefix of the program that the recipe is for."""
    for prefix in PREFIXES:
        if text.startswith(f"{prefix}/"):
            return _path(text[len(prefix) :])
    return _path(text)


def _command(text: str) -> str:
    if not text or "/" in text or "\0" in text:
        raise WrongRecipe("a command has no '/'", "find", text)
    return text


def _made_path(text: str) -> str:
    """Likewise of a place where something may be made."""
    if re.match(r"/(?:proc|sys|\.jailbuild)(?:/|\Z)", text):
        return "nothing is made there: it is hidden when the box is entered"
    return _path(text)


def _program(text: str) -> str:
    return _path(text) if "/" in text else ""


def _no_slash(text: str) -> str:
    return "a SONAME has no '/'" if "/" in text else ""


def _symbol(text: str) -> str:
    return "" if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text) else "that is no symbol"


def _recipe_name(text: str) -> str:
    return "" if _NAME.fullmatch(text) else "that is no name of a recipe"


def _user(text: str) -> str:
    return "" if _USER.fullmatch(text) else "that is no name of a user"


def _one_path(
    record: Mapping[str, Any],
    key: str,
    *above: str | int,
    required: bool = True,
    check: Any = _path,
) -> str | None:
    text = _text(record, key, *above, required=required)
    if text is not None and (why := check(text)):
        raise WrongRecipe(f"{text!r}: {why}", *above, key)
    return text


def _mode(record: Mapping[str, Any], default: int, *above: str | int) -> int:
    text = _text(record, "mode", *above)
    if text is None:
        return default
    if not _MODE.fullmatch(text):
        raise WrongRecipe(f"{text!r}: a mode has three or four digits from 0 to 7", *above, "mode")
    return int(text, 8)


def _owner(record: Mapping[str, Any], *above: str | int) -> str:
    text = _text(record, "owner", *above)
    if text is not None and not _OWNER.fullmatch(text):
        raise WrongRecipe(f"{text!r}: an owner is USER or USER:GROUP", *above, "owner")
    return text or "root:root"


def _tree(record: Mapping[str, Any], *above: str | int) -> BroughtTree:
    _only(record, ("path", "exclude", "if-there"), *above)
    if_there = record.get("if-there", False)
    if not isinstance(if_there, bool):
        raise WrongRecipe("it is neither true nor false", *above, "if-there")
    path = _one_path(record, "path", *above, check=_place) or ""
    return BroughtTree(path, _texts(record, "exclude", *above), if_there)


def _directory(record: Mapping[str, Any], *above: str | int) -> BroughtDirectory:
    _only(record, ("path", "owner", "mode"), *above)
    return BroughtDirectory(
        _one_path(record, "path", *above, check=_made_path) or "", _owner(record, *above), _mode(record, 0o755, *above)
    )


def _device(record: Mapping[str, Any], *above: str | int) -> BroughtDevice:
    _only(record, ("path", "type", "major", "minor", "mode"), *above)
    kind = _text(record, "type", *above, required=True)
    if kind not in ("c", "b"):
        raise WrongRecipe('it is neither "c" nor "b"', *above, "type")
    major, minor = (_number(record, key, most, *above) for key, most in (("major", 1 << 12), ("minor", 1 << 20)))
    path = _one_path(record, "path", *above, check=_made_path) or ""
    return BroughtDevice(path, kind, major, minor, _mode(record, 0o666, *above))


def _number(record: Mapping[str, Any], key: str, most: int, *above: str | int) -> int:
    number = record.get(key)
    if type(number) is not int or not 0 <= number < most:
        raise WrongRecipe(f"it is no number below {most}", *above, key)
    return number


def _made(record: Mapping[str, Any], *above: str | int) -> BroughtFile:
    _only(record, ("path", "content", "make", "owner", "mode", "unless"), *above)
    content, make = _text(record, "content", *above), _text(record, "make", *above)
    if (content is None) == (make is None):
        raise WrongRecipe("there is one of `content` and `make`", *above, "content" if make is None else "make")
    if make is not None and make not in MAKERS:
        raise WrongRecipe(f"{make!r} is none of {', '.join(MAKERS)}", *above, "make")
    return BroughtFile(
        _one_path(record, "path", *above, check=_made_path) or "",
        content,
        make,
        _owner(record, *above),
        _mode(record, 0o644, *above),
        _one_path(record, "unless", *above, required=False),
    )


def _link(record: Mapping[str, Any], *above: str | int) -> BroughtLink:
    _only(record, ("path", "target"), *above)
    target = _text(record, "target", *above, required=True)
    if not target:
        raise WrongRecipe("it is empty", *above, "target")
    return BroughtLink(_one_path(record, "path", *above, check=_made_path) or "", target)


# What a recipe of the package says of `when`, without reading all of it: plain lists of plain strings
_STRINGS = r'\[((?:\s|#[^\n]*\n|"[^"\\\n]*"|,)*)\]'
_WHEN = re.compile(
    r"^\[when\][ \t]*(?:#[^\n]*)?\n((?:[ \t]*(?:#[^\n]*)?\n|(?:program|soname|symbol)[ \t]*=[ \t]*"
    + _STRINGS
    + r"[ \t]*(?:#[^\n]*)?\n)*)(?=\[|\Z)",
    re.MULTILINE,
)
_ANY_WHEN = re.compile(r"^[ \t]*\[*[ \t]*[\"']?when\b", re.MULTILINE)
_LIST = re.compile(r"^(program|soname|symbol)[ \t]*=[ \t]*" + _STRINGS, re.MULTILINE)


def quick_when(text: str) -> When | None:
    """Return what TOML text says under [when], if that is in the plain form; None if all of it must be read."""
    if not _ANY_WHEN.search(text):
        return When()
    found = _WHEN.search(text)
    if found is None or text.count("[when]") > 1:
        return None
    lists = {
        key: tuple(re.findall(r'"([^"\n]*)"', re.sub(r"^\s*#.*$", "", words, flags=re.MULTILINE)))
        for key, words in _LIST.findall(found[1])
    }
    if any("#" in words and re.search(r"#[^\n]*\"", words) for _, words in _LIST.findall(found[1])):
        return None  # a comment with quotes in it
    return When(**lists)
