"""Hints are to be pasted: every word in them is a word of a shell, and none does what was not meant."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jailbuild.names import command_line, shown
from tests.box import tiny
from tests.box.running import add, complaint, forked, objects, put, run
from tests.check.asking import findings

ODD = ["a b", "a'b", "$(touch x)", "*", "\\", "new\nline", "\x1b[2J", "na\udcefve", "\u202e", "'\t\\'", "\x07" + "7"]
NAMES = st.binary(min_size=1, max_size=20).filter(lambda data: b"\0" not in data).map(os.fsdecode)


def _hint(done: object) -> str:
    (line,) = [line for line in str(getattr(done, "stderr", "")).splitlines() if line.startswith("hint: ")]
    return line.removeprefix("hint: ")


def _words(line: str) -> list[str]:
    """Return the words that bash makes of a line."""
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True)
    return [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]]


@given(st.lists(NAMES, min_size=1, max_size=20))
def test_a_word_is_the_same_when_bash_has_read_it(names: list[str]) -> None:
    line = command_line(*names)
    assert shown(line) == line  # a terminal gets it as it is
    assert names == _words(line)


@pytest.mark.parametrize("name", ODD)
def test_words_of_the_user_in_hints_are_quoted(made: Path, tmp_path: Path, name: str) -> None:
    """Of every command: boxes, sources and patterns."""
    place = tmp_path / name
    place.mkdir()
    box = place / "box"
    put(box, "bash", root=made)
    for verb, *more in (["remove", "nothing", "--from"], ["update", "--file", "/usr/bin/ls", "--sysroot", str(made)]):
        assert ["jailbuild", "list", str(box)] == _words(_hint(forked(verb, *more, box)))
    assert ["jailbuild", "list", str(box)] == _words(_hint(forked("why", box, "/nothing")))
    assert ["mkdir", "-p", str(place / "no")] == _words(_hint(forked("add", "ls", "--into", place / "no/box")))
    done = forked("add", "ls", "--into", box, "--exclude", name, "--sysroot", made)
    assert ["--exclude", f"/**/{name}"] == _words(_hint(done))
    (place / "file").write_text("x")
    for option, word in (("--dir", place / "file"), ("--file", place)):
        other = {"--dir": "--file", "--file": "--dir"}[option]
        done = forked("add", option, f"{word}:/srv/x", "--into", box, "--sysroot", made)
        assert [other, f"{word}:/srv/x"] == _words(_hint(done))
    (place / "tool").write_text("#!/usr/bin/bash\n")
    done = forked("add", f"{place}/tool:/srv/tool", "--into", box, "--sysroot", made)
    assert ["chmod", "+x", f"{place}/tool"] == _words(_hint(done))  # not what is called /srv/tool outside
    done = forked("add", f"{place}/tool:/usr/bin", "--into", box, "--sysroot", made)
    assert [f"{place}/tool:/usr/bin/"] == _words(_hint(done))


@pytest.mark.parametrize("name", ODD)
def test_words_of_the_user_in_hints_of_check_are_quoted(made: Path, tmp_path: Path, name: str) -> None:
    box = tmp_path / name
    put(box, f"{made}/usr/bin/ls:/opt/{name}", root=made)
    (box / tiny.LIBRARIES / "libpcre.so.8").unlink()
    (box / "opt" / name).chmod(0o4755)
    found = {one["code"]: one["hint"] for one in findings(run("check", box, "--json"))}
    assert _words(found["missing-library"])[-2:] == ["--into", str(box)]
    assert _words(found["wrong-mode"]) == ["chmod", "0755", f"{box}/opt/{name}"]
    assert found["wrong-mode"] in run("check", box, "-v").stdout


def test_a_request_that_looks_like_an_option_is_in_no_hint(made: Path, tmp_path: Path) -> None:
    """Whoever is in the box may have written it into the manifest."""
    box = tmp_path / "box"
    put(box, "ls", root=made)
    record = box / ".jailbuild/manifest.jsonl"
    record.write_text(record.read_text().replace('"ls"', '"--replace=/etc"'))
    (box / tiny.LIBRARIES / "libpcre.so.8").unlink()
    found = findings(run("check", box, "--json"))
    assert [one["requested_by"] for one in found if one["code"] == "missing-library"] == [["--replace=/etc"]]
    assert not any("--replace" in one["hint"] for one in found)


def test_a_hint_that_is_too_long_to_be_shown_is_left_out(tmp_path: Path) -> None:
    """A part of a command would be another command."""
    deep = "/".join([str(tmp_path), *["d" * 200] * 10])
    done = forked("add", "ls", "--into", f"{deep}/box")
    assert "cannot make a box at " in complaint(done)
    assert "hint: " not in done.stderr


@pytest.mark.parametrize(
    "pattern",
    [
        "/**/libpcre.so.8*",
        "/usr/lib/*/libpcre.so.8",
        "/lib/x86_64-linux-gnu/libpcre.so.?",
        "/**/libpcre.so.8.1",
        "/usr/**/x86_64-linux-gnu/libpcre*",
    ],
)
def test_what_an_exclude_kept_out_comes_when_that_is_lifted(made: Path, tmp_path: Path, pattern: str) -> None:
    """The hint says which one, and what it says helps."""
    box = tmp_path / "box"
    add(box, "ls", "bash", "--exclude", pattern, "--exclude", "/usr/share/doc/*", sysroot=made)
    found = [one for one in findings(run("check", box, "--json")) if one["code"] == "missing-library"]
    assert [(one["path"], one["subject"]) for one in found] == [("/usr/bin/ls", "libpcre.so.8")]
    assert shlex.split(found[0]["hint"]) == ["jailbuild", "remove", f"exclude:{pattern}", "--from", str(box)]
    done = run(*shlex.split(found[0]["hint"])[1:])
    assert done.returncode == 0, done
    assert run("update", box, "--sysroot", made).returncode == 0
    assert findings(run("check", box, "--json")) == []


def test_an_exclude_that_is_of_something_else_is_not_blamed(made: Path, tmp_path: Path) -> None:
    box = tmp_path / "box"
    add(box, "ls", "--exclude", "/usr/share/doc/*", "--exclude", "/**/libtinfo*", "--exclude", "/opt", sysroot=made)
    (box / tiny.LIBRARIES / "libpcre.so.8").unlink()
    found = [one for one in findings(run("check", box, "--json")) if one["code"] == "missing-library"]
    assert [one["hint"] for one in found] == [f"jailbuild add ls --into {box}"]


def test_a_script_interpreter_that_is_excluded(made: Path, tmp_path: Path) -> None:
    root = tiny.clone(made, tmp_path / "root")
    tiny.script(root / "usr/bin/sheet", "#!/bin/sh -e")
    box = tmp_path / "box"
    add(box, "sheet", "--exclude", "/usr/bin/sh", sysroot=root)
    found = [one for one in findings(run("check", box, "--json")) if one["code"] == "missing-script-interpreter"]
    assert [one["hint"] for one in found] == [f"jailbuild remove exclude:/usr/bin/sh --from {box}"]


def test_a_source_root_that_is_gone_is_in_no_command(made: Path, tmp_path: Path) -> None:
    root = tiny.clone(made, tmp_path / "root")
    box = tmp_path / "box"
    add(box, "ls", sysroot=root)
    root.rename(tmp_path / "moved")
    for words in (("update", str(box)), ("add", "bash", "--into", str(box))):
        done = forked(*words)
        assert f"made from {root}, which is not there any more" in complaint(done)
        assert _hint(done) == "name where that root is now with --sysroot DIR"


def test_json_has_the_same_hint(made: Path, tmp_path: Path) -> None:
    box = tmp_path / "new\nline"
    put(box, "ls", root=made)
    (box / "usr/bin/ls").unlink()
    (hint,) = {one["hint"] for one in objects(run("check", box, "--json")) if one.get("code") == "missing-file"}
    assert hint == json.loads(json.dumps(hint)) == f"jailbuild add ls --into $'{tmp_path}/new\\012line'"
