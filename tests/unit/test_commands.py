"""What the user may call a program: a name, a path, or SRC:DEST (DESIGN, "A program is a name")."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from jailbuild.closure.commands import (
    STANDARD_PATH,
    Request,
    by_name,
    command_names,
    find_command,
    find_program,
    path_note,
    source_root,
)
from jailbuild.errors import JailError
from jailbuild.root import Root


def put(top: Path, path: str, mode: int = 0o755, content: str = "") -> Path:
    file = top / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    file.chmod(mode)
    return file


def find(top: Path, word: str, search_path: str = STANDARD_PATH) -> Request:
    return find_program(Root(str(top)), word, search_path)


def named(top: Path, word: str, search_path: str = STANDARD_PATH) -> Request:
    root = Root(str(top))
    return by_name(root, find_program(root, word, search_path), search_path)


def refusal(top: Path, word: str, search_path: str = STANDARD_PATH) -> tuple[str, str]:
    with pytest.raises(JailError) as refused:
        find(top, word, search_path)
    (cause,) = refused.value.causes
    return cause, refused.value.hint


# names


def test_the_standard_path_has_local_first_and_sbin_before_bin() -> None:
    assert STANDARD_PATH.split(":") == [
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ]


def test_the_first_directory_of_the_path_that_has_a_name_decides(tmp_path: Path) -> None:
    for directory in reversed(STANDARD_PATH.split(":")):
        put(tmp_path, f"{directory}/tool")
        assert find(tmp_path, "tool") == Request("tool", f"{directory}/tool")


def test_another_path_can_be_given(tmp_path: Path) -> None:
    put(tmp_path, "/opt/bin/tool")
    put(tmp_path, "/usr/bin/tool")
    assert find(tmp_path, "tool", "/nowhere:/opt/bin:/usr/bin") == Request("tool", "/opt/bin/tool")


def test_the_path_of_the_caller_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "/opt/bin/tool")
    monkeypatch.setenv("PATH", "/opt/bin")
    assert refusal(tmp_path, "tool")[0].startswith("cannot find tool: no such program in ")


def test_what_is_not_executable_is_passed_over(tmp_path: Path) -> None:
    put(tmp_path, "/usr/sbin/tool", 0o644)
    put(tmp_path, "/usr/bin/tool", 0o641)
    assert find(tmp_path, "tool").path == "/usr/bin/tool"


@pytest.mark.parametrize("mode", [0o100, 0o010, 0o001, 0o4711])
def test_one_execute_bit_is_enough(mode: int, tmp_path: Path) -> None:
    put(tmp_path, "/usr/bin/tool", mode)
    assert find(tmp_path, "tool").path == "/usr/bin/tool"


def test_a_directory_or_a_fifo_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "usr/sbin/tool").mkdir(parents=True)
    (tmp_path / "usr/bin").mkdir()
    os.mkfifo(tmp_path / "usr/bin/tool", 0o755)
    put(tmp_path, "/bin/tool")
    assert find(tmp_path, "tool").path == "/bin/tool"


def test_a_link_is_followed_inside_the_root_and_its_own_path_is_kept(tmp_path: Path) -> None:
    put(tmp_path, "/opt/real")
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/tool").symlink_to("/opt/real")
    (tmp_path / "usr/bin/lost").symlink_to("/opt/nothing")
    (tmp_path / "usr/bin/out").symlink_to("../../../../../../../bin/sh")
    assert find(tmp_path, "tool") == Request("tool", "/usr/bin/tool")
    assert find_command(Root(str(tmp_path)), "lost") is None
    assert find_command(Root(str(tmp_path)), "out") is None


def test_the_directories_of_a_merged_usr_are_links(tmp_path: Path) -> None:
    put(tmp_path, "/usr/bin/tool")
    (tmp_path / "bin").symlink_to("usr/bin")
    assert find(tmp_path, "tool", "/bin:/usr/bin") == Request("tool", "/bin/tool")


def test_an_unknown_name_says_where_it_was_looked_for_and_what_is_near(tmp_path: Path) -> None:
    for name in ("git", "gitk", "grep"):
        put(tmp_path, f"/usr/bin/{name}")
    cause, hint = refusal(tmp_path, "gitt")
    assert cause.startswith(f"cannot find gitt: no such program in {STANDARD_PATH}")
    near = {"git", "gitk", "grep"} & set(re.findall(r"\w+", cause + hint))
    assert "git" in near
    assert "grep" not in near
    assert refusal(tmp_path, "xyz")[1] == "a file elsewhere is named by its path"
    assert refusal(tmp_path, "xyz", "/opt")[0] == "cannot find xyz: no such program in /opt"


def test_the_names_of_a_path_pass_over_what_cannot_be_read(tmp_path: Path) -> None:
    put(tmp_path, "/usr/bin/b")
    put(tmp_path, "/usr/bin/a")
    put(tmp_path, "/sbin")
    assert list(command_names(Root(str(tmp_path)))) == ["a", "b"]


@pytest.mark.parametrize("word", ["", "a\0b", "/usr/bin/a\0b"])
def test_what_can_be_no_name_is_refused(word: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, word)[0].startswith("cannot find ")


def test_a_note_says_where_the_caller_s_own_path_would_find_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Root("/")
    request = find_program(host, "ls")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert path_note(host, request) is None
    put(tmp_path, "ls")
    monkeypatch.setenv("PATH", f"/nowhere:{tmp_path}:/usr/bin")
    assert path_note(host, request) == (
        f"ls is {request.path}, from the standard PATH; your own PATH would find {tmp_path}/ls"
    )
    monkeypatch.setenv("PATH", "/nowhere")
    assert path_note(host, request) is None
    monkeypatch.delenv("PATH")
    assert path_note(host, request) is None


def test_the_caller_s_path_does_not_speak_of_another_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "/usr/bin/ls")
    put(tmp_path, "/opt/ls")
    monkeypatch.setenv("PATH", "/opt")
    assert path_note(Root(str(tmp_path)), find(tmp_path, "ls")) is None


def test_a_name_that_only_the_caller_s_path_has_is_named_in_the_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "only-here")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert f"{tmp_path}/only-here" in refusal(Path("/"), "only-here")[1]


def test_a_name_with_a_colon_is_a_name(tmp_path: Path) -> None:
    put(tmp_path, "/usr/bin/a:b")
    assert find(tmp_path, "a:b") == Request("a:b", "/usr/bin/a:b")


# paths


def test_an_absolute_path_is_inside_the_source_root(tmp_path: Path) -> None:
    put(tmp_path, "/opt/tool")
    assert find(tmp_path, "/opt/tool") == Request("/opt/tool", "/opt/tool")


def test_a_path_that_the_name_s_search_would_find_counts_as_the_name(tmp_path: Path) -> None:
    put(tmp_path, "/usr/bin/tool")
    put(tmp_path, "/bin/tool")
    assert named(tmp_path, "/usr/bin/tool") == named(tmp_path, "tool") == Request("tool", "/usr/bin/tool")
    assert named(tmp_path, "/bin/tool") == Request("/bin/tool", "/bin/tool")
    assert named(tmp_path, "/bin/tool", "/bin:/usr/bin") == Request("tool", "/bin/tool")
    file = put(tmp_path, "elsewhere")
    assert named(tmp_path, f"{file}:/usr/bin/new").name == "/usr/bin/new"


@pytest.mark.parametrize("word", ["//opt//tool", "/opt/./tool", "/./opt/tool", "/opt/tool/", "/opt/../opt/tool"])
def test_one_place_has_one_path(word: str, tmp_path: Path) -> None:
    put(tmp_path, "/opt/tool")
    assert find(tmp_path, word).path == "/opt/tool"


def test_two_dots_are_taken_where_the_links_lead(tmp_path: Path) -> None:
    put(tmp_path, "/data/tool")
    (tmp_path / "data/deep").mkdir()
    (tmp_path / "short").symlink_to("data/deep")
    assert find(tmp_path, "/short/../tool").path == "/data/tool"


def test_two_dots_do_not_lead_out_of_the_root(tmp_path: Path) -> None:
    put(tmp_path, "/root/opt/tool")
    put(tmp_path, "/tool")
    assert find(tmp_path / "root", "/../../opt/tool").path == "/opt/tool"
    assert find(tmp_path / "root", "/../tool").path == "/tool"  # inside, where there is none


def test_two_dots_through_nothing_are_an_error(tmp_path: Path) -> None:
    cause, _ = refusal(tmp_path, "/nowhere/../tool")
    assert cause == "cannot find /nowhere/../tool: No such file or directory"


def test_a_relative_path_starts_from_the_caller_s_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "tool")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find(Path("/"), "./tool").path == f"{tmp_path}/tool"
    monkeypatch.chdir(tmp_path / "below")
    assert find(Path("/"), "../tool").path == f"{tmp_path}/tool"


def test_a_relative_path_is_then_inside_the_source_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "/root/opt/deep/tool")
    monkeypatch.chdir(tmp_path / "root/opt")
    assert find(tmp_path / "root", "deep/tool") == Request("/opt/deep/tool", "/opt/deep/tool")
    assert find(tmp_path / "root", "./deep/../deep/tool").path == "/opt/deep/tool"
    monkeypatch.chdir(tmp_path / "root")
    assert find(tmp_path / "root", "./opt/deep/tool").path == "/opt/deep/tool"


def test_a_relative_path_from_outside_the_source_root_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "/root/opt/tool")
    (tmp_path / "root2").mkdir()
    for directory in (tmp_path, tmp_path / "root2"):
        monkeypatch.chdir(directory)
        assert refusal(tmp_path / "root", "opt/tool") == (
            f"cannot find opt/tool: {directory} is outside {tmp_path}/root",
            "name the file by its path inside the root, or as SRC:DEST",
        )


# SRC:DEST


def test_a_file_from_anywhere_is_resolved_as_if_it_stood_at_dest(tmp_path: Path) -> None:
    file = put(tmp_path, "/elsewhere/prog", content="these bytes")
    root = Root(str(tmp_path / "elsewhere"))
    request = find_program(root, f"{file}:/opt/app/bin/prog")
    assert request == Request("/opt/app/bin/prog", "/opt/app/bin/prog", str(file))
    assert source_root(root, (request,)).read("/opt/app/bin/prog", 100) == b"these bytes"


def test_a_dest_that_is_a_directory_takes_the_file_s_name(tmp_path: Path) -> None:
    file = put(tmp_path, "prog")
    assert find(tmp_path, f"{file}:/opt/").path == "/opt/prog"
    assert find(tmp_path, f"{file}:/").path == "/prog"


def test_dest_is_one_name_for_a_place(tmp_path: Path) -> None:
    file = put(tmp_path, "prog")
    assert find(tmp_path, f"{file}://opt//./x").path == "/opt/x"


def test_dest_has_no_two_dots(tmp_path: Path) -> None:
    file = put(tmp_path, "prog")
    for destination in ("/opt/../x", "/..", "/../x", "/x/.."):
        cause, _ = refusal(tmp_path, f"{file}:{destination}")
        assert cause == f"cannot put {file} at {destination}: a destination has no '..'"


def test_a_relative_src_starts_from_the_caller_s_directory_also_with_a_sysroot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "here/prog")
    (tmp_path / "root").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert find(tmp_path / "root", "prog:/opt/x") == Request("/opt/x", "/opt/x", f"{tmp_path}/here/prog")


def test_a_link_as_src_is_followed_on_the_host(tmp_path: Path) -> None:
    file = put(tmp_path, "prog")
    (tmp_path / "link").symlink_to("prog")
    assert find(tmp_path, f"{tmp_path}/link:/opt/").path == "/opt/link"
    assert find(tmp_path, f"{tmp_path}/link:/opt/").source == str(file)


def test_where_a_file_has_the_whole_name_it_is_that_file(tmp_path: Path) -> None:
    put(tmp_path, "/opt/a:/b")
    assert find(tmp_path, "/opt/a:/b") == Request("/opt/a:/b", "/opt/a:/b")
    (tmp_path / "opt/a:/b").unlink()
    assert find(tmp_path, "/opt/a:/b") == Request("/b", "/b", "/opt/a")


def test_the_last_colon_divides(tmp_path: Path) -> None:
    file = put(tmp_path, "a:b")
    assert find(tmp_path, f"{file}:/opt/x").source == str(file)


def test_what_stands_behind_the_colon_must_be_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path, "dir/a:b")
    assert find(tmp_path, "dir/a:b").path == "/dir/a:b"
    assert find(tmp_path, ":/x").source is None


def test_a_src_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    request = find(tmp_path, f"{tmp_path}/nothing:/opt/x")
    with pytest.raises(FileNotFoundError):
        source_root(Root(str(tmp_path)), (request,)).open("/opt/x")
