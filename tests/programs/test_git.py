"""git works in a box that `jailbuild add git` alone has made."""

from __future__ import annotations

from pathlib import Path

from tests.programs.boxes import fill, need, run, said

FIRST = """
cd /tmp
git init -q -b main one && cd one
git config user.name A && git config user.email a@example.org
echo a > a && git add a && git commit -qm first
git clone -q file:///tmp/one ../two
cd ../two && git log --format='%s %an' && git fsck
"""

SUBMODULE = """
cd /tmp/two
git config user.name A && git config user.email a@example.org
git -c protocol.file.allow=always submodule --quiet add file:///tmp/one inner
git commit -qm second
git -c protocol.file.allow=always clone -q --recurse-submodules file:///tmp/two ../three
git -C ../three submodule status && cat ../three/inner/a
"""

OTHER = """
cd /tmp/one
git bisect start > /dev/null && git bisect reset 2> /dev/null
echo b > b && git stash -q -u && git stash pop -q > /dev/null && git add b && git commit -qm third
git rebase -q --exec 'test -e b' HEAD~1 > /dev/null 2>&1
export FILTER_BRANCH_SQUELCH_WARNING=1
git filter-branch -f --msg-filter 'tr a-z A-Z' HEAD~1..HEAD > /dev/null
git gc -q && git archive HEAD > /tmp/archive
git log --format=%s -1
git rev-parse --show-toplevel
"""


def test_git_clones_and_has_submodules(place: Path) -> None:
    """Its commands, those that are shell scripts too, and their helpers."""
    need("git")
    box = fill(place / "box", "git")
    assert said(box, "sh", "-ec", FIRST) == "first A\n"
    status, inner = said(box, "sh", "-ec", SUBMODULE).splitlines()
    assert (status.split()[1:], inner) == (["inner", "(heads/main)"], "a")
    assert said(box, "sh", "-ec", OTHER) == "THIRD\n/tmp/one\n"


def test_git_s_scripts_find_what_they_call(place: Path) -> None:
    """Mergetool's helpers run env, and what git shows is cut at either end."""
    need("git")
    box = fill(place / "box", "git")
    ended = run(box, "sh", "-ec", "git init -q /tmp/one; cd /tmp/one; git mergetool --tool-help | tail -n 1")
    assert (ended.returncode, ended.stderr) == (0, "")
