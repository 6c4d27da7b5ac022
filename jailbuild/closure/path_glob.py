"""Patterns of whole paths, as `--exclude` takes them."""

from __future__ import annotations

import re


def path_regex(pattern: str) -> str:
    """Return the regular expression of a pattern of whole paths: "*" and "?" stop at "/", "**" does not.

    "/**/" is a "/" too. [abc], [a-z] and [!a] are as in fnmatch(3), and never a "/". ValueError: a range is reversed.

    Whatever the pattern, a match takes at most the square of the path's length: each star but the last of its kind
    stops at the first place where what follows it fits, which is right, as the next star takes the rest.
    """
    segments: list[list[str]] = [[""]]  # parted by "**", and each by "*"
    for token in re.findall(r"(?:/\*\*)+/|\*\*+|\*|\?|\[!?+(?:\][^]]*|[^]]+)\]|.", pattern, re.DOTALL):
        if token.startswith("/*"):
            segments[-1][-1] += "/"
            segments.append(["(?<=/)"])
        elif token.startswith("**"):
            segments.append([""])
        elif token == "*":
            segments[-1].append("")
        else:
            segments[-1][-1] += _character(token)
    *others, last = segments
    if not others:
        return f"(?s:{_segment(last, is_last=True)})"
    middle = "".join(f"(?>.*?{_segment(one, is_last=False)})" for one in others[1:])
    return f"(?s:{_segment(others[0], is_last=False)}{middle}.*{_segment(last, is_last=True)})"


def _segment(parts: list[str], *, is_last: bool) -> str:
    first, *others = parts
    lazy = others[:-1] if is_last else others
    return first + "".join(f"(?>[^/]*?{one})" for one in lazy) + (f"[^/]*{others[-1]}" if is_last and others else "")


def _character(token: str) -> str:
    if token == "?":
        return "[^/]"
    if len(token) == 1:
        return re.escape(token)
    negated = token[1] == "!"
    inside = ""
    for first, last, alone in re.findall(r"(.)-(.)|(.)", token[1 + negated : -1], re.DOTALL):
        if last < first:
            raise ValueError(f"{token} is no set of characters")
        inside += f"{re.escape(first)}-{re.escape(last)}" if last else re.escape(alone)
    return f"(?!/)[{'^' if negated else ''}{inside}]"
