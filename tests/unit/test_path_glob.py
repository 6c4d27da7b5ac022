"""Patterns of whole paths: held against a matcher that tries everything, and never slow."""

from __future__ import annotations

import fnmatch
import re
import signal
from collections.abc import Iterator
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jailbuild.closure.path_glob import path_regex

SETS = (
    "[ab]",
    "[!a]",
    "[a-c]",
    "[!/]",
    "[/]",
    "[]]",
    "[!]]",
    "[!!]",
    "[^a]",
    "[a-]",
    "[-a]",
    "[\\]",
    "[[]",
    "[a&&b]",
    "[a||b]",
    "[a~~b]",
    "[+--b]",
    "[--a]",
    "[a-c-e]",
    "[a-c-]",
    "[.]",
    "[*]",
    "[!?]",
    "[^]]",
    "[+-\\]",
    "[[-^]",
)
TOKENS = (
    *SETS,
    "*",
    "**",
    "***",
    "?",
    "/**/",
    "/**",
    "**/",
    "/",
    "a",
    "b",
    "c",
    ".",
    "+",
    "(",
    "\\",
    "^",
    "$",
    "|",
    "\n",
    "ï",
    "]",
    "[",
    "!",
    "-",
    "{",
)
ANY_SET = st.text(st.sampled_from("abc-]!^[&~|\\+./*"), min_size=1, max_size=5).map(lambda inside: f"[{inside}]")
PATTERNS = st.lists(st.sampled_from(TOKENS) | ANY_SET, max_size=6).map("".join)
PATHS = st.text(st.sampled_from("abc/.]!^-\n*[\\"), max_size=8)


def _tokens(pattern: str) -> list[str]:
    """Return the parts of a pattern: a star or more, a set, "/" and "/**/", any other character."""
    found = []
    while pattern:
        stars = re.match(r"\*+", pattern)
        token = pattern[0]
        if pattern.startswith("/**/"):
            token = "/**"  # the "/" at its end may begin the next
        elif stars:
            token = stars[0]
        elif token == "[" and (end := pattern.find("]", 3 if pattern[1:2] == "!" else 2)) > 0:
            token = pattern[: end + 1]
        found.append(token)
        pattern = pattern[len(token) :]
    return found


def matches(pattern: str, path: str) -> bool:
    """Say whether a path fits, by trying every length of every star."""
    tokens = _tokens(pattern)

    @cache
    def fits(at: int, rest: str) -> bool:
        if at == len(tokens):
            return not rest
        token = tokens[at]
        if token == "/**":  # with the "/" that follows: one "/", or two with anything between
            return rest.startswith("/") and any(
                fits(at + 1, rest[end:]) for end in range(len(rest)) if rest[end] == "/"
            )
        if token.startswith("**"):
            return any(fits(at + 1, rest[end:]) for end in range(len(rest) + 1))
        if token == "*":
            return any(fits(at + 1, rest[end:]) for end in range(len(rest) + 1) if "/" not in rest[:end])
        if not rest:
            return False
        if token == "?":
            is_fit = rest[0] != "/"
        elif len(token) > 1:
            is_fit = rest[0] != "/" and fnmatch.fnmatchcase(rest[0], token)
        else:
            is_fit = rest[0] == token
        return is_fit and fits(at + 1, rest[1:])

    return fits(0, path)


@settings(max_examples=1500)
@given(PATTERNS, PATHS)
@example("/**/x", "/x")
@example("/**/**/x", "/x")
@example("/a/**/b", "/a/b")
@example("/a/**/b", "/ab")
@example("/a**b", "/a/x/b")
@example("/**", "/")
@example("**/", "a/")
def test_what_fits_is_what_a_plain_matcher_says(pattern: str, path: str) -> None:
    """Also what the pattern itself is, and paths that differ from it by little."""
    try:
        compiled = re.compile(path_regex(pattern))
    except ValueError as error:
        assert re.search(r"\[.*(.)-(.).*\] is no set", str(error), re.DOTALL)  # a range that is reversed
        return
    for one in (path, pattern, f"/{path}", path.replace("b", "a")):
        assert (compiled.fullmatch(one) is not None) == matches(pattern, one), (pattern, one)


@settings(max_examples=300)
@given(st.text(max_size=12))
def test_a_pattern_is_compiled_or_refused_in_words(pattern: str) -> None:
    """Whatever it is: a set that is none is ValueError."""
    try:
        re.compile(f"(?:{path_regex(pattern)}|x)")
    except re.error:
        raise
    except ValueError as error:
        assert "is no set of characters" in str(error)


@pytest.fixture
def patience() -> Iterator[None]:
    """End what would take hours, and takes a second where it is at most the square."""

    def late(_number: int, _frame: object) -> None:
        raise AssertionError("a match takes more than the square of the path's length")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 120)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    "pattern",
    [
        "/" + "*a" * 30 + "*b",
        "/" + "**a" * 30 + "**b",
        "/**/a" * 20 + "/b",
        "/*/**/*a" * 15 + "b",
        "/" + "a*?" * 25 + "b",
        "/**a*a**a*a**a*a**b",
        "/" + "[!b]*" * 30 + "b",
        "/" + "*" * 200 + "b",
        "/" + "**/*" * 50 + "b",
        "/**/" * 100 + "b",
    ],
)
@pytest.mark.parametrize("path", ["/" + "a" * 4000, "/a" * 2000, "/" + "a" * 2000 + "/a" * 1000])
def test_no_pattern_is_slow_on_a_path_that_it_nearly_fits(patience: None, pattern: str, path: str) -> None:
    """The cube of a path's length, with these, is 64 thousand million steps."""
    compiled = re.compile(path_regex(pattern))
    assert compiled.fullmatch(path) is None
