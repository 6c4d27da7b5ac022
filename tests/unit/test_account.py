"""Who root is in a box, and which shell it gets, by what the box says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from jailbuild.enter.account import Account, read_account
from jailbuild.enter.command import find_shell, make_command
from jailbuild.root import Root

NOBODY_KNOWN = Account("root", 0, 0, (), "/", "")


def account_of(directory: Path, passwd: bytes | None = None, group: bytes | None = None) -> Account:
    (directory / "etc").mkdir(exist_ok=True)
    for name, content in (("passwd", passwd), ("group", group)):
        if content is not None:
            (directory / "etc" / name).write_bytes(content)
    return read_account(Root(str(directory)))


def shell_of(directory: Path, account: Account = NOBODY_KNOWN) -> str | None:
    return find_shell(Root(str(directory)), account)


def put(directory: Path, path: str, mode: int = 0o755) -> None:
    file = directory / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"\x7fELF")
    file.chmod(mode)


def test_the_first_line_with_uid_0_is_the_user(tmp_path: Path) -> None:
    passwd = b"daemon:x:1:1:d:/usr/sbin:/bin/false\ntoor:x:0:7:t:/var/toor:/bin/zsh\nroot:x:0:0:r:/root:/bin/bash\n"
    assert Account("toor", 0, 7, (), "/var/toor", "/bin/zsh") == account_of(tmp_path, passwd)


def test_without_a_passwd_it_is_root_in_the_root_directory(tmp_path: Path) -> None:
    assert account_of(tmp_path) == NOBODY_KNOWN


def test_without_a_passwd_home_is_slash_root_where_the_box_has_it(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    assert account_of(tmp_path) == NOBODY_KNOWN._replace(home="/root")


def test_a_file_at_slash_root_is_no_home(tmp_path: Path) -> None:
    (tmp_path / "root").write_bytes(b"")
    assert account_of(tmp_path).home == "/"


@pytest.mark.parametrize(
    "line",
    [
        b"evil:x:0:0:too few:/x",
        b"evil:x:0:0:too:many:/x:/y",
        b"evil:x:+0:0::/x:/y",
        b"evil:x: 0:0::/x:/y",
        b"evil:x:-0:0::/x:/y",
        b"evil:x:0_0:0::/x:/y",
        "evil:x:٠:0::/x:/y".encode(),
        b"evil:x::0::/x:/y",
        b"evil:x:0:::/x:/y",
        b"evil:x:0:4294967295::/x:/y",
        b"evil:x:0:" + b"9" * 5000 + b"::/x:/y",
        b"evil:x:0:0::/x\0:/y",
        b":x:0:0::/x:/y",
        b"+::::::",
        b"\xff\xfe",
        b"",
    ],
)
def test_a_malformed_line_is_passed_over(tmp_path: Path, line: bytes) -> None:
    account = account_of(tmp_path, line + b"\nroot:x:0:3::/home:/bin/sh\n")
    assert Account("root", 0, 3, (), "/home", "/bin/sh") == account


def test_a_name_that_is_not_utf_8_keeps_its_bytes(tmp_path: Path) -> None:
    account = account_of(tmp_path, b"r\xff:x:0:0::/h\xfe:/bin/sh\n")
    environment = make_command(("true",), account, None, {}).environment
    assert (environment[b"USER"], environment[b"HOME"]) == (b"r\xff", b"/h\xfe")


@pytest.mark.parametrize("home", [b"", b"relative"])
def test_a_home_that_is_no_absolute_path_is_the_root_directory(tmp_path: Path, home: bytes) -> None:
    assert account_of(tmp_path, b"root:x:0:0::" + home + b":/bin/sh").home == "/"


def test_supplementary_groups_are_those_that_list_the_user(tmp_path: Path) -> None:
    group = (
        b"root:x:0:\nadm:x:4:syslog,toor\nsudo:x:27:other\nmine:x:7:toor\nagain:x:4:toor\n"
        b"near:x:9:toors\nbad:x:x:toor\nlast:x:4294967294:toor\nnone:x:4294967295:toor\n"
    )
    account = account_of(tmp_path, b"toor:x:0:7::/:/bin/sh\n", group)
    assert account.groups == (4, 4294967294)


def test_without_a_group_file_there_are_no_supplementary_groups(tmp_path: Path) -> None:
    assert account_of(tmp_path, b"root:x:0:0::/:/bin/sh\n").groups == ()


def test_a_link_out_of_the_box_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"host:x:0:9::/host:/host/sh\n")
    box = tmp_path / "box"
    (box / "etc").mkdir(parents=True)
    (box / "etc/passwd").symlink_to("../../secret")
    (box / "etc/group").symlink_to(tmp_path / "secret")
    assert read_account(Root(str(box))) == NOBODY_KNOWN


def test_a_passwd_that_is_no_file_or_too_large_is_as_none(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/group").mkdir()
    with open(tmp_path / "etc/passwd", "wb") as stream:
        stream.write(b"toor:x:0:0::/:/bin/sh\n")
        stream.truncate((1 << 24) + 1)
    assert read_account(Root(str(tmp_path))) == NOBODY_KNOWN


def test_the_shell_is_the_accounts_where_the_box_has_it(tmp_path: Path) -> None:
    put(tmp_path, "/bin/bash")
    put(tmp_path, "/opt/fish")
    assert shell_of(tmp_path, NOBODY_KNOWN._replace(shell="/opt/fish")) == "/opt/fish"


def test_a_shell_that_the_box_lacks_gives_way_to_one_that_it_has(tmp_path: Path) -> None:
    put(tmp_path, "/usr/bin/dash")
    put(tmp_path, "/bin/sh")
    assert shell_of(tmp_path, NOBODY_KNOWN._replace(shell="/bin/bash")) == "/usr/bin/dash"


def test_what_is_not_an_executable_file_is_no_shell(tmp_path: Path) -> None:
    (tmp_path / "bin/bash").mkdir(parents=True)
    put(tmp_path, "/bin/dash", 0o644)
    assert shell_of(tmp_path) is None
    put(tmp_path, "/bin/sh")
    assert shell_of(tmp_path) == "/bin/sh"


def test_a_shell_behind_links_counts_and_one_behind_a_link_out_of_the_box_does_not(tmp_path: Path) -> None:
    box = tmp_path / "box"
    put(tmp_path, "/outside")
    put(box, "/usr/bin/sh")
    (box / "bin").symlink_to("usr/bin")
    (box / "usr/bin/bash").symlink_to(tmp_path / "outside")
    assert shell_of(box) == "/bin/sh"


def test_the_environment_is_the_accounts_and_two_names_of_the_callers(tmp_path: Path) -> None:
    account = Account("toor", 0, 0, (), "/var/toor", "/bin/gone")
    caller = {"TERM": "vt100", "LANG": "C", "LC_ALL": "C", "SHELL": "/bin/evil", "LD_PRELOAD": "/evil.so"}
    assert make_command(("id",), account, "/bin/sh", caller).environment == {
        b"PATH": b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        b"HOME": b"/var/toor",
        b"USER": b"toor",
        b"LOGNAME": b"toor",
        b"SHELL": b"/bin/sh",
        b"TERM": b"vt100",
        b"LANG": b"C",
    }
