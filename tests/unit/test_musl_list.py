"""musl's list of directories: read as its loader reads it, and written for boxes."""

from __future__ import annotations

import hypothesis.strategies as some
import pytest
from hypothesis import example, given

from jailbuild.loader.musl.config import added, prefix, read_list, split, write_list

_ELEMENT = some.text(some.characters(codec="utf-8", exclude_characters="\0:\n"), min_size=1)


@given(some.binary(max_size=200))
@example(b"")
@example(b"\0/lib")
def test_any_bytes_are_a_list(data: bytes) -> None:
    """Nothing raises; what stands before the first NUL comes out, in its order, without separators."""
    found = read_list(data)
    assert all(element and not set(element) & set(":\n\0") for element in found)
    text = data.partition(b"\0")[0]
    assert "".join(found).encode("utf-8", "surrogateescape") == text.replace(b":", b"").replace(b"\n", b"")


@given(some.lists(_ELEMENT), some.lists(some.sampled_from(":\n"), min_size=1, max_size=3))
def test_separators_may_stand_anywhere(elements: list[str], separators: list[str]) -> None:
    """One or more of them, of either kind, between, before and behind."""
    between = "".join(separators)
    assert split(between + between.join(elements) + between) == tuple(elements)


@given(some.lists(_ELEMENT, unique=True), some.binary(max_size=100))
def test_what_is_written_before_a_list_is_read_before_it(elements: list[str], rest: bytes) -> None:
    """And comes off again, which leaves the list byte for byte."""
    data = write_list(elements, rest)
    assert read_list(data) == (*elements, *read_list(rest))
    assert added(data) == (tuple(elements), rest)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("/lib/ld-musl-x86_64.so.1", ""),
        ("/opt/musl/lib/ld.so", "/opt/musl"),
        ("/ld.so", ""),
        ("//lib//ld.so", "//lib"),
        ("lib/ld.so", ""),
        ("", ""),
        ("/opt/musl/lib/../lib/ld.so", "/opt/musl/lib/.."),
    ],
)
def test_the_prefix_is_the_name_less_its_last_two_components(name: str, expected: str) -> None:
    assert prefix(name) == expected
