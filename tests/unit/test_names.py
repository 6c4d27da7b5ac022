"""Names survive JSON whatever their bytes are, and harm no terminal."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jailbuild.names import from_json, shown, to_json

file_names = st.binary().filter(lambda data: b"\0" not in data).map(os.fsdecode)


@given(file_names)
def test_a_name_of_any_bytes_comes_back_from_json(name: str) -> None:
    record = to_json("path", name)
    assert from_json(json.loads(json.dumps(record, ensure_ascii=False)), "path") == name
    assert next(iter(record)) == "path"


@given(file_names)
def test_the_text_of_a_name_can_be_written_as_utf_8(name: str) -> None:
    for text in to_json("path", name).values():
        assert text is not None
        text.encode("utf-8")


@pytest.mark.parametrize("name", ["", "/usr/bin/ls", "/opt/naïve/日本", "a b\n"])
def test_a_name_in_utf_8_stands_alone(name: str) -> None:
    assert to_json("path", name) == {"path": name}


def test_other_bytes_stand_beside_a_text_with_replacement_characters() -> None:
    assert to_json("path", "/na\udcefve") == {"path": "/na\N{REPLACEMENT CHARACTER}ve", "path_b64": "L25h73Zl"}


def test_a_real_replacement_character_is_no_reason_for_bytes() -> None:
    assert to_json("by", "\N{REPLACEMENT CHARACTER}") == {"by": "\N{REPLACEMENT CHARACTER}"}


def test_no_name_is_null() -> None:
    assert to_json("target", None) == {"target": None}
    assert from_json({"target": None}, "target") is None
    assert from_json({}, "target") is None


@pytest.mark.parametrize(
    "record",
    [
        {"path": 5},
        {"path": ["x"]},
        {"path": True},
        {"path": "a\0b"},
        {"path": "x", "path_b64": "AA=="},
        {"path": "x", "path_b64": "%"},
        {"path": "x", "path_b64": "a"},
        pytest.param({"path": "x", "path_b64": "\u00e9"}, id="not ASCII"),
    ],
)
def test_what_is_no_name_is_a_value_error(record: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        from_json(record, "path")


@given(st.dictionaries(st.sampled_from(["path", "path_b64"]), st.one_of(st.none(), st.text(), st.integers())))
def test_any_record_gives_a_name_or_a_value_error(record: dict[str, object]) -> None:
    try:
        name = from_json(record, "path")
    except ValueError:
        return
    assert name is None or "\0" not in name


@given(st.one_of(file_names, st.text()))
def test_what_is_shown_stays_on_its_line_and_can_be_written(text: str) -> None:
    line = shown(text)
    assert line.isprintable()
    line.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("/usr/bin/ls", "/usr/bin/ls"),
        ("naïve 日本", "naïve 日本"),
        ("a\nb", "a\\nb"),
        ("\x1b[2J", "\\x1b[2J"),
        ("na\udcefve", "na\\xefve"),
        ("a\u202eb", "a\\u202eb"),
        ("tab\t", "tab\\t"),
    ],
)
def test_what_would_move_the_cursor_is_an_escape(text: str, line: str) -> None:
    assert shown(text) == line
