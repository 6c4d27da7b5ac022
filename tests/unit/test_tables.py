"""passwd, group and shadow, merged by line: held against a plain reading of who has which line."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from jailbuild.box.tables import Merged, merge
from jailbuild.closure.accounts import GROUP, PASSWD

Case = tuple[str, tuple[str, ...], tuple[str, ...], list[str], bytes]
NAMES = st.sampled_from(["a", "b", "c", "d", "é", "\udcff"])
MEMBERS = st.lists(st.sampled_from(["x", "y", "z", "\udcff"]), unique=True, max_size=3)
PASSWD_LINES = st.builds(
    lambda name, uid, shell: f"{name}:x:{uid}:0::/:{shell}", NAMES, st.integers(0, 3), st.sampled_from(["", "/bin/sh"])
)
GROUP_LINES = st.builds(
    lambda name, gid, members: f"{name}:x:{gid}:{','.join(members)}", NAMES, st.integers(0, 2), MEMBERS
)
OTHERS = st.sampled_from(["# a comment", "", "+", "no line", "# a: comment", ":x:0:", "a", " a:x", "a:", "b:x\r", "::"])


def _table(lines: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(lines, unique_by=lambda line: line.partition(":")[0], max_size=4).map(tuple)


@st.composite
def _case(draw: st.DrawFn) -> Case:
    """Return a path, our lines before and after, and what is there: lines, and the bytes of the file."""
    path = draw(st.sampled_from([PASSWD, GROUP]))
    lines = GROUP_LINES if path == GROUP else PASSWD_LINES
    before = draw(_table(lines))
    after = draw(_table(st.sampled_from(before) | lines if before else lines))
    # what we put there, with lines gone, added, and moved about
    there = draw(st.lists(st.sampled_from(before) | lines | OTHERS if before else lines | OTHERS, max_size=6))
    there = draw(st.permutations([*there, *draw(st.sampled_from([(), before]))]))
    data = "\n".join(there) + draw(st.sampled_from(["\n", "\n", ""]) if there else st.just(""))
    return path, before, after, there, data.encode("utf-8", "surrogateescape")


def _name(line: str) -> str:
    return line.partition(":")[0]


def _members(line: str) -> list[str]:
    return [one for one in line.rpartition(":")[2].split(",") if one]


def _same(path: str, line: str, other: str | None) -> bool:
    """Say whether two lines say the same: the order of a group's members says nothing."""
    if other is None or path != GROUP or line.count(":") < 1:
        return line == other
    return line.rpartition(":")[0] == other.rpartition(":")[0] and set(_members(line)) == set(_members(other))


def _lines(merged: Merged) -> list[str]:
    text = merged.data.decode("utf-8", "surrogateescape")
    return text.removesuffix("\n").split("\n") if text else []


def _first(lines: list[str]) -> dict[str, str]:
    """Return the lines that count, by name: getpwnam(3) takes the first."""
    found: dict[str, str] = {}
    for line in lines:
        if _name(line) and ":" in line:
            found.setdefault(_name(line), line)
    return found


def _is_within(some: list[str], of: list[str]) -> bool:
    """Say whether all of some are there, in their order."""
    left = iter(of)
    return all(one in left for one in some)


@settings(max_examples=400)
@given(_case())
@example((GROUP, ("a:x:1:x",), (), ["a:x:1:x,y"], b"a:x:1:x,y\n"))
@example((PASSWD, ("a:x:0:0::/:",), ("a:x:0:0::/:",), ["a"], b"a\n"))
@example((PASSWD, ("a:x:0:0::/:",), (), ["a", "a:x:0:0::/:"], b"a\na:x:0:0::/:\n"))
def test_every_line_of_the_users_stays_in_its_place(case: Case) -> None:
    """Lines that were never ours, that the user changed, and that are no lines at all; in one order."""
    path, before, after, there, data = case
    old, new = ({_name(line): line for line in some} for some in (before, after))
    seen: set[str] = set()
    theirs = []
    for line in there:
        name = _name(line)
        is_line = bool(name) and ":" in line
        counts = is_line and name not in seen  # getpwnam(3) takes the first
        seen.update({name} if is_line else ())
        if counts and (_same(path, line, old.get(name)) or (name in new and (path == GROUP or name in old))):
            continue  # ours, or one that both have
        if line and not _same(path, line, old.get(name)):
            theirs.append(line)
    assert _is_within(theirs, _lines(merge(path, before, after, data)))


@settings(max_examples=400)
@given(_case())
def test_our_lines_are_there_by_name(case: Case) -> None:
    """Each name once more at most; what the user changed keeps their word, or is said to be in the way."""
    path, before, after, there, data = case
    old, new = ({_name(line): line for line in some} for some in (before, after))
    merged = merge(path, before, after, data)
    has, got = _first(there), _first(_lines(merged))
    assert new.keys() <= got.keys()
    assert got.keys() <= new.keys() | has.keys()
    for name, line in new.items():
        if name not in has or _same(path, has[name], old.get(name)):
            assert _same(path, got[name], line) or path == GROUP  # nobody changed it
        elif name in merged.conflicts:
            assert got[name] == has[name]
            assert old[name] != line
        elif path == PASSWD:
            assert got[name] in (has[name], line)
    for name in has.keys() - new.keys():
        is_gone = _same(path, has[name], old.get(name))
        assert name in got or is_gone
        assert name not in got or not is_gone or [*map(_name, there)].count(name) > 1  # they have it once more
    assert {_name(line) for line in merged.lines} <= new.keys()
    assert set(merged.lines) <= set(new.values())


@settings(max_examples=400)
@given(_case())
def test_a_group_has_the_users_members_and_ours(case: Case) -> None:
    """What we put there and no longer want goes, what the user added stays, also where they took one of ours out."""
    path, before, after, there, data = case
    merged = merge(GROUP, before, after, data)
    if path != GROUP:
        return
    old, new = ({_name(line): line for line in some} for some in (before, after))
    got = _first(_lines(merged))
    for name, line in new.items():
        has = _first(there).get(name)
        if has is None or name in merged.conflicts:
            continue
        ours = set(_members(old[name])) if name in old else set()
        assert set(_members(got[name])) == set(_members(has)) - (ours - set(_members(line))) | set(_members(line))


@settings(max_examples=400)
@given(_case())
def test_merging_twice_is_merging_once(case: Case) -> None:
    """With what was recorded of the first time."""
    path, before, after, _, data = case
    once = merge(path, before, after, data)
    if once.conflicts:  # it is not written
        return
    twice = merge(path, once.lines, after, once.data)
    assert twice.data == once.data
    assert set(twice.lines) == set(once.lines)


@settings(max_examples=300)
@given(_case())
def test_taking_back_what_was_added_leaves_what_was_there(case: Case) -> None:
    """Ours is added to the user's file, and taken out again: every line that is not blank is as it was."""
    path, _, after, _, data = case
    theirs = [
        line
        for line in data.decode("utf-8", "surrogateescape").split("\n")
        if _name(line) not in {_name(one) for one in after}
    ]
    text = "".join(f"{line}\n" for line in theirs).encode("utf-8", "surrogateescape")
    added = merge(path, (), after, text)
    removed = merge(path, added.lines, (), added.data)
    assert [line for line in _lines(removed) if line] == [line for line in theirs if line]
    assert removed.lines == ()
