"""Recipes as files: what is taken, what is refused with file, line and key, and which one counts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jailbuild.closure.catalog import OWN, RecipeCatalog
from jailbuild.closure.knowing import Matches
from jailbuild.closure.recipe import When, line_of, quick_when, read_recipe
from jailbuild.errors import JailError
from jailbuild.root import Root

GOOD = """\
title = "all of it"
about = "words"

[when]
program = ["x", "/opt/x/*"]
soname = ["libx.so.*"]
symbol = ["x_open"]

[bring]
programs = ["sh"]
programs-if-there = ["bash"]
files = ["/etc/x.conf"]
files-if-there = ["/etc/y.conf"]
recipes = ["users"]
users = ["www-data"]

[[bring.tree]]
path = "/usr/share/x"
exclude = ["*.html"]
if-there = true

[[bring.directory]]
path = "/var/log/x"
owner = "www-data:adm"
mode = "0750"

[[bring.device]]
path = "/dev/null"
type = "c"
major = 1
minor = 3
mode = "0666"

[[bring.made]]
path = "/etc/x"
content = "x"
owner = "root"
mode = "640"
unless = "/etc/z"

[[bring.made]]
path = "/etc/resolv.conf"
make = "resolv.conf"

[[bring.link]]
path = "/etc/mtab"
target = "../proc/self/mounts"
"""


def mistake(text: str) -> str:
    """Return what is said about a recipe, without the file's name."""
    with pytest.raises(JailError) as caught:
        read_recipe("/x/some.toml", text)
    (cause,) = caught.value.causes
    start = "cannot use the recipe /x/some.toml: "
    assert cause.startswith(start), cause
    return cause.removeprefix(start)


def test_every_key_of_the_format_is_taken() -> None:
    recipe = read_recipe("/x/some.toml", GOOD)
    assert recipe.name == "some"
    assert recipe.title == "all of it"
    assert recipe.when == When(("x", "/opt/x/*"), ("libx.so.*",), ("x_open",))
    assert recipe.bring.tree[0].exclude == ("*.html",)
    assert recipe.bring.directory[0].mode == 0o750
    assert recipe.bring.device[0][1:4] == ("c", 1, 3)
    assert [made.mode for made in recipe.bring.made] == [0o640, 0o644]
    assert recipe.bring.link[0].target == "../proc/self/mounts"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('title = "all of it"\n', "", "line 1: title: it is missing"),
        ('"all of it"', '"two\\nlines"', "line 1: title: it is not one line of text"),
        ('about = "words"', "about = 7", "line 2: about: it is no text"),
        ("program = [", "programm = [", "line 5: when.programm: there is no such key; near: program"),
        ('"libx.so.*"', "7", "line 6: when.soname: it is no list of texts"),
        ('"libx.so.*"', '"/lib/x"', "line 6: when.soname: '/lib/x': a SONAME has no '/'"),
        ('"x_open"', '"x open"', "line 7: when.symbol: 'x open': that is no symbol"),
        (
            '["sh"]',
            '["../sh"]',
            "line 10: bring.programs: '../sh': a path begins with '/', and has something behind it",
        ),
        (
            '["/etc/x.conf"]',
            '["/etc/../x"]',
            "line 12: bring.files: '/etc/../x': a path has no '.', '..' or empty parts",
        ),
        ('["users"]', '["Users"]', "line 14: bring.recipes: 'Users': that is no name of a recipe"),
        ('["www-data"]', '["www data"]', "line 15: bring.users: 'www data': that is no name of a user"),
        ('path = "/usr/share/x"\n', "", "line 17: bring.tree.path: it is missing"),
        ("if-there = true", 'if-there = "yes"', "line 20: bring.tree.if-there: it is neither true nor false"),
        (
            'mode = "0750"',
            'mode = "0790"',
            "line 25: bring.directory.mode: '0790': a mode has three or four digits from 0 to 7",
        ),
        ('"www-data:adm"', '"a b"', "line 24: bring.directory.owner: 'a b': an owner is USER or USER:GROUP"),
        (
            'path = "/etc/mtab"',
            'path = "/proc/mtab"',
            "line 46: bring.link.path: '/proc/mtab': nothing is made there: it is hidden when the box is entered",
        ),
        (
            'path = "/var/log/x"',
            'path = "/.jailbuild/x"',
            "line 23: bring.directory.path: '/.jailbuild/x': nothing is made there: it is hidden when the box is "
            "entered",
        ),
        ('type = "c"', 'type = "p"', 'line 29: bring.device.type: it is neither "c" nor "b"'),
        ("minor = 3", "minor = -3", "line 31: bring.device.minor: it is no number below 1048576"),
        ('make = "resolv.conf"', 'make = "magic"', "line 43: bring.made.make: 'magic' is none of resolv.conf"),
        ('content = "x"\n', "", "line 34: bring.made.content: there is one of `content` and `make`"),
        ('target = "../proc/self/mounts"', 'target = ""', "line 47: bring.link.target: it is empty"),
        ("[when]", "[when", "line 4: Expected ']' at the end of a table declaration"),
        ('title = "all of it"', 'title = "all of it"\ntitle = "again"', "line 2: Cannot overwrite a value"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_key(old: str, new: str, said: str) -> None:
    assert old in GOOD
    assert mistake(GOOD.replace(old, new, 1)) == said


def test_the_second_table_of_a_kind_is_told_from_the_first() -> None:
    text = 'title = "x"\n[[bring.tree]]\npath = "/a"\n\n[[bring.tree]]\npath = "b"\n'
    assert mistake(text).startswith("line 6: bring.tree.path: 'b'")


_KEYS = st.sampled_from(
    [
        "title",
        "about",
        "when",
        "bring",
        "program",
        "soname",
        "symbol",
        "programs",
        "files",
        "recipes",
        "users",
        "tree",
        "directory",
        "device",
        "made",
        "link",
        "path",
        "mode",
        "owner",
        "type",
        "major",
        "content",
        "make",
        "exclude",
    ]
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.sampled_from(["/a", "/a/*", "c", "0755", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)


def _toml(value: object) -> str:
    """Return a value as TOML text, all in one line."""
    if value is None:
        return "1979-05-27"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(character):08x}" for character in value) + '"'
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    assert isinstance(value, dict)
    return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + "}"


@given(st.dictionaries(_KEYS, _VALUES, max_size=5))
def test_whatever_a_file_says_it_is_a_recipe_or_one_line_of_complaint(record: dict[str, object]) -> None:
    text = "".join(f"{key} = {_toml(value)}\n" for key, value in record.items())
    try:
        recipe = read_recipe("/x/some.toml", text)
    except JailError as error:
        assert len(error.causes) == 1
        assert "\n" not in error.causes[0]
        assert error.causes[0].startswith("cannot use the recipe /x/some.toml: line ")
    else:
        assert recipe.title


@given(st.text())
def test_any_text_is_a_recipe_or_one_line_of_complaint(text: str) -> None:
    try:
        assert read_recipe("/x/some.toml", text).title
    except JailError as error:
        assert error.causes[0].startswith("cannot use the recipe /x/some.toml: line ")


@given(st.text(alphabet="[]when.=\" \n#program,x\\'bring", max_size=80))
def test_the_quick_look_at_when_says_what_the_whole_file_says_or_nothing(text: str) -> None:
    whole = f'title = "x"\n{text}\n'
    try:
        recipe = read_recipe("/x/some.toml", whole)
    except JailError:
        return
    assert quick_when(whole) in (None, recipe.when)


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("", When()),
        ('[when]\nprogram = ["a", "b[0-9]"]\n', When(("a", "b[0-9]"))),
        ('[when]\nprogram = [\n  "a",  \n  "b",\n]\nsymbol = ["s"]\n[bring]\n', When(("a", "b"), (), ("s",))),
        ('[when]\n# soname = ["z"]\nprogram = ["a"] # "b"\n', When(("a",))),
    ],
)
def test_the_plain_form_of_when_is_read_quickly(text: str, when: When) -> None:
    assert quick_when(f'title = "x"\n{text}') == when


@pytest.mark.parametrize(
    "text",
    [
        "[when]\nprogram = ['a']\n",
        'when.program = ["a"]\n',
        'when = {program = ["a"]}\n',
        '[when]\nprogram = ["\\u0061"]\n',
        '["when"]\nprogram = ["a"]\n',
    ],
)
def test_another_form_of_when_is_left_to_the_parser(text: str) -> None:
    assert quick_when(f'title = "x"\n{text}') is None


def test_every_recipe_of_the_package_is_right_and_in_the_plain_form() -> None:
    catalog = RecipeCatalog()
    assert {
        "devices",
        "users",
        "names",
        "tls-roots",
        "zones",
        "locale",
        "gconv",
        "terminfo",
        "pam",
        "os-release",
        "dev-log",
    } <= {*catalog.names}
    for name in catalog.names:
        recipe = catalog.get(name)
        assert quick_when(Path(recipe.file).read_text(encoding="utf-8")) == recipe.when, name
        assert {*recipe.bring.recipes} <= {*catalog.names}, name


def test_a_later_directory_s_recipe_replaces_the_one_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "users.toml").write_text('title = "mine"\n')
    (tmp_path / "more.toml").write_text('title = "more"\n')
    (tmp_path / "README").write_text("not a recipe")
    catalog = RecipeCatalog((str(tmp_path),))
    assert catalog.get("users").title == "mine"
    assert catalog.get("more").file == str(tmp_path / "more.toml")
    assert {*catalog.names} == {*RecipeCatalog().names, "more"}


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(JailError, match=r"cannot read recipes in /nowhere: No such file"):
        RecipeCatalog(("/nowhere",)).whens()
    (tmp_path / "x.toml").write_bytes(b'title = "x"\n# \xff\n')
    with pytest.raises(JailError, match=r"x.toml: line 2: it is not UTF-8"):
        RecipeCatalog((str(tmp_path),)).whens()
    (tmp_path / "x.toml").unlink()
    os.mkfifo(tmp_path / "x.toml")  # nobody waits for who writes to it
    with pytest.raises(JailError, match=r"cannot read recipes in .*x.toml: it is no regular file"):
        RecipeCatalog((str(tmp_path),)).whens()
    (tmp_path / "x.toml").unlink()
    (tmp_path / "Big.toml").write_text('title = "x"\n')
    with pytest.raises(JailError, match=r"Big.toml: line 1: its name is not made of"):
        RecipeCatalog((str(tmp_path),)).whens()


def test_an_unknown_recipe_is_told_with_what_is_near() -> None:
    with pytest.raises(JailError, match=r"cannot find the recipe user: there is none of that name; near: users"):
        RecipeCatalog().get("user")


def test_a_line_is_found_for_a_key_in_quotes_and_for_none() -> None:
    assert line_of('title = "x"\n\n"when" = 7\n', ("when",)) == 3
    assert line_of('title = "x"\n', ()) == 1


# which recipes a program calls for


def test_programs_are_matched_by_name_by_path_and_by_where_links_lead(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/vim.basic").touch()
    (tmp_path / "usr/bin/editor").symlink_to("vim.basic")
    matches = Matches(
        {
            "name": When(("editor",)),
            "end": When(("vim.*",)),
            "path": When(("/usr/bin/edit??",)),
            "end-path": When(("/usr/bin/vim.basic",)),
            "other": When(("vi", "/bin/editor", "EDITOR")),
        }
    )
    root = Root(str(tmp_path))
    assert {*matches.of_program(root, "/usr/bin/editor")} == {"name", "end", "path", "end-path"}
    assert {*matches.of_program(root, "/usr/bin/editor", by_name=False)} == {"path", "end-path"}
    assert [*matches.of_program(root, "/usr/bin/absent")] == []


def test_libraries_are_matched_by_patterns_of_sonames() -> None:
    matches = Matches({"ssl": When((), ("libssl.so.*",)), "z": When((), ("libz.so.1",))})
    assert [*matches.of("soname", "libssl.so.3")] == ["ssl"]
    assert [*matches.of("soname", "libz.so.1")] == ["z"]
    assert [*matches.of("soname", "libssl.so")] == []


# what starts quickly


@pytest.mark.parametrize("words", [("--help",), ("deps", "ls"), ("add", "--bare", "--dry-run", "ls", "--into", "box")])
def test_what_needs_no_recipe_does_not_load_the_parser_of_toml(words: tuple[str, ...], tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "import jailbuild.cli as cli\n"
        f"sys.argv = ['jailbuild', *{words!r}]\n"
        "leave = lambda status: (print(*sys.modules, file=sys.stderr), sys.stderr.flush(), os._exit(status))\n"
        "cli._leave = leave\n"
        "try:\n"
        "    cli.main()\n"
        "except SystemExit as left:\n"
        "    leave(left.code or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(OWN).parents[1])},
    )
    loaded = done.stderr.split()
    assert "jailbuild.cli" in loaded
    assert "tomllib" not in loaded
    assert not [name for name in loaded if name.endswith((".recipes", ".knowing", ".bring"))]
