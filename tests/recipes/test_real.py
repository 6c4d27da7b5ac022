"""Each fragment with a program that misses something without it, inside an isolated `enter`."""

from __future__ import annotations

import json
import os
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from jailbuild.closure.accounts import read_accounts
from jailbuild.closure.catalog import RecipeCatalog
from jailbuild.closure.evaluate import evaluate
from jailbuild.closure.trees import Rules
from jailbuild.errors import JailError
from jailbuild.root import Root
from tests.box.running import (
    NOBODY,
    Done,
    add,
    complaint,
    dump,
    entries,
    forked,
    manifest,
    objects,
    open_to_all,
    run,
    state,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it enters boxes")


def enter(box: Path, *command: str, env: tuple[str, ...] = ()) -> Done:
    """Run a command inside, isolated, which must end well."""
    words = [word for one in env for word in ("--env", one)]
    done = run("enter", *words, box, *command)
    assert done.returncode == 0, done.stderr
    return done


def chains(box: Path, path: str) -> list[str]:
    """Return what `why` says of a path, without where the chain begins."""
    return run("why", box, path).stdout.splitlines()


def warnings(done: Done) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("warning: ")]


# users


def test_ls_and_whoami_name_root_and_nobody(real: Path) -> None:
    assert enter(real, "whoami").stdout == "root\n"
    assert "root root" in enter(real, "ls", "-l", "/etc/passwd").stdout
    assert enter(real, "id", "nobody").stdout.startswith("uid=65534(nobody) gid=65534(nogroup)")


def test_a_box_without_users_shows_numbers(tmp_path: Path) -> None:
    """What the fragment is for: the tests above can fail."""
    add(tmp_path / "box", "--bare", "ls")
    assert "0 0" in enter(tmp_path / "box", "ls", "-l", "/usr/bin/ls").stdout
    assert not (tmp_path / "box/etc/passwd").exists()


def test_passwd_has_nobody_s_entry_of_the_host_but_those_that_are_needed(real: Path) -> None:
    assert [line.split(":")[0] for line in (real / "etc/passwd").read_text().splitlines()] == ["root", "nobody"]
    assert [line.split(":")[0] for line in (real / "etc/group").read_text().splitlines()] == ["root", "nogroup"]


def test_a_user_is_added_by_name_with_the_ids_of_the_source_root_and_removed(tmp_path: Path) -> None:
    box = tmp_path / "box"
    add(box, "id", "--user", "www-data")
    assert enter(box, "id", "www-data").stdout.startswith("uid=33(www-data) gid=33(www-data)")
    assert {"kind": "request", "type": "user", "name": "www-data", "path": None, "source": None, "bare": False} in (
        manifest(box)
    )
    before = state(box)
    add(box, "id", "--user", "www-data")
    assert state(box) == before
    assert run("remove", "www-data", "--from", box).returncode == 0
    assert "www-data" not in (box / "etc/passwd").read_text() + (box / "etc/group").read_text()
    assert enter(box, "id", "nobody").stdout.startswith("uid=65534(nobody)")
    assert run("check", box).returncode == 0


def test_users_of_several_requests_are_in_one_file_whichever_came_first(tmp_path: Path) -> None:
    words = (("--user", "www-data"), ("--user", "sys"))
    for box, order in (("one", words), ("two", words[::-1])):
        for some in order:
            add(tmp_path / box, "id", *some)
    assert dump(tmp_path / "one", contents=True) == dump(tmp_path / "two", contents=True)
    add(tmp_path / "three", "id", "--user", "sys", "--user", "www-data")
    assert state(tmp_path / "one").keys() == state(tmp_path / "three").keys()
    assert (tmp_path / "one/etc/passwd").read_bytes() == (tmp_path / "three/etc/passwd").read_bytes()
    assert (tmp_path / "one/.jailbuild/manifest.jsonl").read_bytes() == (
        tmp_path / "three/.jailbuild/manifest.jsonl"
    ).read_bytes()


def test_a_user_that_there_is_none_of_is_refused(tmp_path: Path) -> None:
    done = add(tmp_path / "box", "ls", "--user", "nobody-of-that-name", status=1)
    assert "the source root has none of that name" in complaint(done)
    assert not (tmp_path / "box").exists()


# names


@pytest.mark.skipif(not os.path.exists("/etc/services"), reason="there is no /etc/services (Debian: netbase)")
def test_names_are_looked_up_in_the_files_of_the_box(real: Path) -> None:
    assert enter(real, "getent", "hosts", "localhost").stdout.split()[-1].startswith(("localhost", "ip6"))
    assert enter(real, "getent", "services", "https").stdout.split()[:2] == ["https", "443/tcp"]
    assert enter(real, "getent", "protocols", "tcp").stdout.split()[:2] == ["tcp", "6"]
    assert "dns" in (real / "etc/nsswitch.conf").read_text()


def test_resolv_conf_names_no_server_on_the_host_s_loopback_where_there_is_another(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "run/systemd/resolve").mkdir(parents=True)
    (root / "etc").mkdir()
    (root / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    (root / "run/systemd/resolve/stub-resolv.conf").write_text("nameserver 127.0.0.53\n")
    (root / "run/systemd/resolve/resolv.conf").write_text("nameserver 192.0.2.1\n")
    add(tmp_path / "box", "--with", "names", sysroot=root)
    assert not (tmp_path / "box/etc/resolv.conf").is_symlink()
    assert (tmp_path / "box/etc/resolv.conf").read_text() == "nameserver 192.0.2.1\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no /etc/resolv.conf is made: the source root names no server"),
        ("search example.org\n", "/etc/resolv.conf names no server"),
        ("nameserver 127.0.0.53\n", "/etc/resolv.conf names 127.0.0.53 alone: the host's own"),
    ],
)
def test_a_resolv_conf_that_asks_nobody_elsewhere_is_not_silent(tmp_path: Path, text: str | None, said: str) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    if text is not None:
        (root / "etc/resolv.conf").write_text(text)
    done = add(tmp_path / "box", "--with", "names", sysroot=root)
    assert f"note: {said}" in done.stderr
    (root / "etc/resolv.conf").write_text("nameserver 192.0.2.1\nnameserver 127.0.0.1\n")
    assert "resolv.conf" not in add(tmp_path / "other", "--with", "names", sysroot=root).stderr


# zones


@pytest.mark.parametrize(("zone", "expected"), [("UTC", "+0000 UTC"), ("Europe/Paris", "+0100 CET")])
def test_date_knows_utc_alone_until_all_zones_are_brought(tmp_path: Path, zone: str, expected: str) -> None:
    box = tmp_path / "box"
    add(box, "date")
    command = ("date", "-d", "@1700000000", "+%z %Z")
    if zone != "UTC":
        assert enter(box, *command, env=(f"TZ={zone}",)).stdout == "+0000 Europe\n"  # wrong, in silence
        add(box, "--with", "zones")
    assert enter(box, *command, env=(f"TZ={zone}",)).stdout == f"{expected}\n"
    assert os.path.lexists(box / "etc/localtime")
    assert run("check", "--strict", box).returncode == 0


# locales, character sets, terminals


def test_a_locale_is_there_when_it_is_asked_for(tmp_path: Path) -> None:
    box = tmp_path / "box"
    add(box, "locale")
    ask = ("locale", "charmap")
    assert enter(box, *ask, env=("LC_ALL=C.UTF-8",)).stdout == "ANSI_X3.4-1968\n"
    add(box, "--locale", "C.UTF-8")
    assert enter(box, *ask, env=("LC_ALL=C.UTF-8",)).stdout == "UTF-8\n"
    assert run("remove", "locale:C.UTF-8", "--from", box).returncode == 0
    assert not (box / "usr/lib/locale").exists()


def test_the_recipe_of_c_utf_8_brings_the_same_as_its_name(tmp_path: Path) -> None:
    add(tmp_path / "one", "--locale", "C.UTF-8")
    add(tmp_path / "two", "--with", "locale")
    assert dump(tmp_path / "one", contents=True) == dump(tmp_path / "two", contents=True)


def test_a_locale_that_there_is_none_of_is_refused(tmp_path: Path) -> None:
    for name in ("xx_XX.UTF-8", "../../etc", "/etc"):
        done = add(tmp_path / "box", "ls", "--locale", name, status=1)
        assert f"cannot add the locale {name}" in complaint(done)


def test_a_locale_of_the_archive_is_known_by_its_whole_name_alone(tmp_path: Path) -> None:
    """The archive has "fr" and "C" in the data of locales, too: glibc locale/locarchive.h, struct locarhead."""
    root = tmp_path / "root"
    (root / "usr/lib/locale").mkdir(parents=True)
    names, data = b"fr_FR.utf8\0", b"\0fr\0C\0POSIX\0"
    head = struct.pack("=14I", 0xDE020109, 0, 56, 1, 1, 56, len(names), len(names), 0, 0, 0, 0, 0, 0)
    (root / "usr/lib/locale/locale-archive").write_bytes(head + names + data)
    for name in ("fr", "C", "POSIX", "fr_FR", "R.utf8"):
        done = add(tmp_path / "box", "--locale", name, sysroot=root, status=1)
        assert f"cannot add the locale {name}: " in complaint(done)
    for name in ("fr_FR.UTF-8", "fr_FR.utf8", "fr_FR.utf-8"):
        add(tmp_path / name, "--locale", name, sysroot=root)
        assert (tmp_path / name / "usr/lib/locale/locale-archive").exists()


def test_iconv_converts_from_what_needs_gconv(real: Path) -> None:
    assert "CP437" in enter(real, "iconv", "-l").stdout
    box_file = real / "tmp/text"
    box_file.write_bytes(b"\x82")
    try:
        assert enter(real, "iconv", "-f", "CP437", "-t", "UTF-8", "/tmp/text").stdout == "é"
    finally:
        box_file.unlink()


@pytest.mark.parametrize("terminal", ["xterm", "xterm-256color", "linux", "screen", "vt100", "dumb"])
def test_tput_knows_common_terminals(real: Path, terminal: str) -> None:
    assert enter(real, "tput", f"-T{terminal}", "cols").stdout.strip().isdecimal()


# devices


def test_devices_are_made_and_removed_and_read_outside_of_enter(tmp_path: Path) -> None:
    box = tmp_path / "box"
    done = add(box, "cat", "--with", "devices")
    assert "6 devices" in done.stderr
    assert stat.S_ISCHR((box / "dev/null").stat().st_mode)
    assert (box / "dev/zero").stat().st_rdev == os.makedev(1, 5)
    assert stat.S_IMODE((box / "dev/tty").stat().st_mode) == 0o666
    plain = run("enter", "--plain", box, "cat", "/dev/null")
    assert (plain.returncode, plain.stdout) == (0, "")
    assert entries(box)["/dev/null"]["device"] == ["c", 1, 3]
    assert run("check", "--strict", box).returncode == 0
    (box / "dev/null").unlink()
    assert "missing-file" in run("check", "--json", box).stdout
    add(box, "cat", "--with", "devices")
    os.unlink(box / "dev/full")
    os.mknod(box / "dev/full", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert "is another device in the box" in complaint(add(box, "--with", "devices", status=1))
    add(box, "--with", "devices", "--replace", "/dev/full")
    assert (box / "dev/full").stat().st_rdev == os.makedev(1, 7)
    assert run("remove", "devices", "--from", box).returncode == 0
    assert os.listdir(box / "dev") == []


def test_without_root_devices_and_owners_are_intended_and_nothing_is_wrong(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    os.chown(place, NOBODY, NOBODY)
    open_to_all(place)
    box = place / "box"
    add(box, "bash", "--with", "devices", nobody=True)
    assert not (box / "dev/null").exists()
    assert entries(box)["/dev/null"]["device"] == ["c", 1, 3]
    checked = run("check", box, nobody=True)
    assert (checked.returncode, "missing" in checked.stdout) == (0, False)
    assert "no-dev-null" not in checked.stdout  # what no command of this user's would mend
    assert "no-dev-null" in run("check", box).stdout
    assert "nothing to do" in add(box, "bash", "--with", "devices", nobody=True).stderr


# PAM, os-release, TLS


def test_pam_comes_with_its_modules_and_without_secrets(tmp_path: Path) -> None:
    box = tmp_path / "box"
    add(box, "--with", "pam")
    (module,) = box.glob("usr/lib/*/security/pam_unix.so")
    assert f"/usr/lib/{module.parent.parent.name}/libcrypt.so.1" in entries(box)
    assert (box / "etc/pam.d/common-auth").is_file()
    assert run("check", "--strict", box).returncode == 0


def test_os_release_is_where_its_link_leads(tmp_path: Path) -> None:
    add(tmp_path / "box", "cat", "--with", "os-release")
    assert enter(tmp_path / "box", "cat", "/etc/os-release").stdout == Path("/etc/os-release").read_text()


def test_a_library_of_tls_brings_the_roots(tmp_path: Path) -> None:
    box = tmp_path / "box"
    add(box, "openssl")
    asked = enter(box, "openssl", "storeutl", "-noout", "-certs", "/etc/ssl/certs/ca-certificates.crt")
    assert int(asked.stdout.rsplit(" ", 1)[1]) > 50
    assert any(
        chain.endswith("libssl.so.3 (needed) -> /etc/ssl/certs/ca-certificates.crt (recipe tls-roots: libssl.so.3)")
        for chain in chains(box, "/etc/ssl/certs/ca-certificates.crt")
    )


# why, with, without, bare, update, remove


def test_why_names_the_symbol_and_the_recipe(real: Path) -> None:
    assert "/usr/bin/ls (program) -> /etc/passwd (recipe users: imports getpwuid; users nobody root)" in chains(
        real, "/etc/passwd"
    )
    assert "/usr/bin/ls (program) -> /etc/nsswitch.conf (recipe users > nsswitch: imports getpwuid)" in chains(
        real, "/etc/nsswitch.conf"
    )
    record = json.loads(run("why", "--json", real, "/etc/localtime").stdout.splitlines()[0])
    assert record["steps"][-1]["as"].startswith("recipe zone: imports ")


def test_what_a_program_s_recipes_brought_leaves_with_it(tmp_path: Path) -> None:
    box = tmp_path / "box"
    add(box, "--bare", "cat")
    before = dump(box, contents=True)
    add(box, "ls", "iconv")
    assert (box / "etc/passwd").exists()
    assert run("remove", "ls", "iconv", "--from", box).returncode == 0
    assert {*dump(box)} - {*before} <= {"/bin", "/lib", "/sbin"}
    assert run("check", "--strict", box).returncode == 0


def test_bare_has_no_recipes_and_with_has_those_alone(tmp_path: Path) -> None:
    add(tmp_path / "one", "--bare", "ls")
    assert not (tmp_path / "one/etc").exists()
    add(tmp_path / "two", "--bare", "ls", "--with", "users")
    assert sorted(os.listdir(tmp_path / "two/etc")) == ["group", "nsswitch.conf", "passwd"]
    assert run("update", tmp_path / "one").returncode == 0
    assert not (tmp_path / "one/etc").exists()


def test_without_leaves_a_recipe_out_and_update_remembers(tmp_path: Path) -> None:
    box = tmp_path / "box"
    add(box, "ls", "--without", "users")
    assert not (box / "etc/passwd").exists()
    assert (box / "etc/localtime").exists()
    assert "nothing to do" in run("update", box).stderr
    assert not (box / "etc/passwd").exists()
    add(box, "ls")
    assert (box / "etc/passwd").exists()
    assert run("update", "--without", "users", box).returncode == 0
    assert not (box / "etc/passwd").exists()
    assert "nothing to do" in run("update", box).stderr


def test_an_unknown_recipe_is_an_error_for_with_and_without(tmp_path: Path) -> None:
    for option in ("--with", "--without"):
        done = add(tmp_path / "box", "ls", option, "userz", status=1)
        assert "the recipe userz: there is none of that name; near: users" in complaint(done)
        assert not (tmp_path / "box").exists()
    add(tmp_path / "box", "ls")
    for option in ("--with", "--without"):
        assert "the recipe userz" in complaint(run("update", option, "userz", tmp_path / "box"))


def test_update_brings_a_recipe_too_and_then_keeps_it(tmp_path: Path) -> None:
    box = tmp_path / "box"
    add(box, "ls")
    assert run("update", "--with", "os-release", box).returncode == 0
    assert (box / "etc/os-release").exists()
    before = state(box)
    done = run("update", box)
    assert "nothing to do" in done.stderr
    assert state(box) == before
    assert run("check", "--stale", box).returncode == 0


def test_a_recipe_that_finds_nothing_says_what_it_looked_for_if_it_was_asked_for(tmp_path: Path) -> None:
    root, mine = tmp_path / "root", tmp_path / "mine"
    (root / "etc").mkdir(parents=True)
    mine.mkdir()
    (mine / "x.toml").write_text('title = "x"\n[bring]\nfiles = ["/opt/x/*.conf"]\nprograms = ["xd"]\n')
    done = add(tmp_path / "box", "--with", "x", "--recipes", mine, sysroot=root)
    assert warnings(done) == ["warning: the recipe x finds nothing: there is no xd, no /opt/x/*.conf"]
    done = add(tmp_path / "box", "--with", "names", "--with", "terminfo", sysroot=root)
    assert [warning.partition(":")[2].partition(",")[0] for warning in warnings(done)] == [
        " the recipe terminfo finds nothing: there is no /lib/terminfo/a/ansi"
    ]


def test_of_much_that_is_absent_some_is_named_and_the_command_that_names_all(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "usr/bin").mkdir(parents=True)
    (warning,) = warnings(add(tmp_path / "box", "--with", "terminfo", sysroot=root))
    assert warning.endswith(" more (jailbuild recipes terminfo)")
    assert warning.count(", no ") == 9


def test_what_a_recipe_seeks_at_a_prefix_is_told_as_a_path(tmp_path: Path) -> None:
    """A Python without its library, put in at another place."""
    done = add(tmp_path / "box", "/usr/bin/python3:/opt/odd/bin/python3")
    assert any("there is no /opt/odd/lib*/python3.*" in warning for warning in warnings(done))


def test_a_pattern_that_fits_too_much_is_told_with_its_recipe(
    tmp_path: Path, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jailbuild.closure.globbing._MOST", 3)
    (mine / "wide.toml").write_text('title = "x"\n[bring]\nfiles = ["/*"]\n')
    recipe = RecipeCatalog((str(mine),)).get("wide")
    for number in range(5):
        (tmp_path / str(number)).touch()
    root = Root(str(tmp_path))
    with pytest.raises(JailError, match=rf"{mine}/wide.toml: cannot bring /\*: more than 3 names fit"):
        evaluate(root, recipe, read_accounts(root), "/bin", Rules(), RecipeCatalog())


def test_a_root_without_any_of_it_makes_no_noise_for_a_symbol(tmp_path: Path) -> None:
    root = tmp_path / "root"
    add(root, "--bare", "ls")
    (root / "etc").mkdir()
    done = add(tmp_path / "box", "ls", sysroot=root)
    assert warnings(done) == []
    assert (tmp_path / "box/etc/passwd").read_text().startswith("root:x:0:0:")
    assert enter(tmp_path / "box", "ls", "-l", "/").returncode == 0


def test_what_is_the_user_s_own_in_a_box_stays(tmp_path: Path) -> None:
    box = tmp_path / "box"
    (box / "etc").mkdir(parents=True)
    (box / "etc/passwd").write_text("me:x:7:7::/:/bin/sh\n")
    done = add(box, "ls", "--adopt")
    assert "note: /etc/passwd is yours in the box, and stays as it is" in done.stderr
    assert (box / "etc/passwd").read_text() == "me:x:7:7::/:/bin/sh\n"
    assert "/etc/passwd" not in entries(box)
    run("remove", "ls", "--from", box)
    assert (box / "etc/passwd").exists()


def test_a_file_that_is_asked_for_goes_before_what_a_recipe_makes(tmp_path: Path) -> None:
    box, own = tmp_path / "box", tmp_path / "own"
    own.write_text("root:x:0:0:me:/:/bin/sh\n")
    add(box, "ls")
    add(box, "--file", f"{own}:/etc/passwd")
    assert (box / "etc/passwd").read_bytes() == own.read_bytes()
    add(box, "whoami", "--user", "sys")
    assert (box / "etc/passwd").read_bytes() == own.read_bytes()
    assert run("check", "--strict", box).returncode == 0


# what recipes of one's own bring


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A directory of recipes."""
    (tmp_path / "mine").mkdir()
    return tmp_path / "mine"


def test_no_pattern_of_a_recipe_brings_the_host_s_users_or_what_is_made_better(tmp_path: Path, mine: Path) -> None:
    """/etc/* fits passwd and resolv.conf too: those that are made go before them, and a list of users stays outside."""
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nalice:x:1000:\n")
    (root / "etc/passwd-").write_text("alice:x:1000:1000::/home/alice:/bin/sh\n")
    for name in ("hosts", "nsswitch.conf", "other"):
        (root / "etc" / name).write_text("alice\n")
    (mine / "all.toml").write_text('title = "x"\n[bring]\nfiles = ["/etc/*"]\n')
    (mine / "tree.toml").write_text('title = "x"\n[[bring.tree]]\npath = "/etc"\n')
    (mine / "named.toml").write_text('title = "x"\n[bring]\nfiles = ["/etc/hosts", "/etc/passwd"]\n')
    for recipe in ("all", "tree"):
        box = tmp_path / recipe
        done = add(box, "--with", recipe, "--with", "names", "--with", "users", "--recipes", mine, sysroot=root)
        assert "/etc/passwd is left out" in done.stderr
        found = {path.name for path in (box / "etc").iterdir() if "alice" in path.read_text()}
        assert found == {"other"}
        assert not add(box, "--with", recipe, "--recipes", mine, sysroot=root).stdout.count("replaced")
        add(tmp_path / f"{recipe}-alone", "--with", recipe, "--recipes", mine, sysroot=root)
        assert not (tmp_path / f"{recipe}-alone/etc/passwd").exists()
    box = tmp_path / "named"
    add(box, "--with", "named", "--with", "names", "--with", "users", "--recipes", mine, sysroot=root)
    assert (box / "etc/hosts").read_text() == "alice\n"
    assert "alice" not in (box / "etc/passwd").read_text()


def test_a_recipe_brings_all_that_it_can(tmp_path: Path, mine: Path) -> None:
    root, box = tmp_path / "root", tmp_path / "box"
    for path, text in {
        "opt/x/keep.txt": "",
        "opt/x/doc/a.html": "",
        "opt/x/sub/b.html": "",
        "opt/x/sub/c": "",
        "opt/y/far": "far",
        "etc/x/one.conf": "",
        "etc/x/deep/er/two.conf": "",
        "etc/x/.hidden.conf": "",
        "etc/passwd": "root:$6$notthehash:0:0::/root:/bin/sh\nxd:x:77:78::/opt:/bin/false\nother:x:9:9::/:/bin/sh\n",
        "etc/group": "root:x:0:\nxd:x:78:\nlog:x:79:xd,other\nwheel:x:80:other\n",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (root / "opt/x/out").symlink_to("../y")
    (root / "opt/x/gone").symlink_to("nowhere")
    (root / "opt/x/all").symlink_to("/etc")
    (mine / "x.toml").write_text("""
title = "x"
[bring]
files = ["/etc/x/**/*.conf"]
users = ["xd"]
[[bring.tree]]
path = "/opt/?"
exclude = ["doc", "sub/*.html"]
[[bring.directory]]
path = "/var/log/x"
owner = "xd:log"
mode = "2750"
[[bring.link]]
path = "/etc/mtab"
target = "../proc/self/mounts"
""")
    done = add(box, "--with", "x", "--recipes", mine, sysroot=root)
    found = dump(box)
    assert {path for path in found if path.startswith(("/etc/x/", "/opt/"))} == {
        "/etc/x/one.conf",
        "/etc/x/deep",
        "/etc/x/deep/er",
        "/etc/x/deep/er/two.conf",
        "/opt/x",
        "/opt/x/keep.txt",
        "/opt/x/sub",
        "/opt/x/sub/c",
        "/opt/x/out",
        "/opt/x/all",
        "/opt/y",
        "/opt/y/far",
    }
    assert found["/var/log/x"] == "directory 2750"
    status = (box / "var/log/x").stat()
    assert (status.st_uid, status.st_gid) == (77, 79)
    assert found["/etc/mtab"] == "link -> ../proc/self/mounts"
    assert "/opt/x/gone: links that lead nowhere are left out" in done.stderr
    assert "/opt/x/all leads to /etc, which is not brought" in done.stderr
    assert (box / "etc/passwd").read_text() == "xd:x:77:78::/opt:/bin/false\n"
    assert (box / "etc/group").read_text() == "xd:x:78:\nlog:x:79:xd\n"


def test_what_a_recipe_brings_is_resolved_and_may_call_for_further_recipes(tmp_path: Path, mine: Path) -> None:
    """A program, its own recipe by name; a script in a tree, its interpreter's recipe; a library, its recipe."""
    (mine / "first.toml").write_text(
        'title = "1"\n[when]\nprogram = ["cat"]\n[bring]\nprograms = ["iconv", "openssl"]\nfiles = ["/usr/bin/ldd"]\n'
    )
    (mine / "second.toml").write_text(
        'title = "2"\n[when]\nprogram = ["bash"]\n[[bring.made]]\npath = "/etc/second"\ncontent = "2"\n'
    )
    box = tmp_path / "box"
    add(box, "cat", "--recipes", mine)
    assert run("check", "--strict", box).returncode == 0
    assert (box / "etc/second").exists()  # cat -> ldd, a script of bash
    assert [*box.glob("usr/lib/*/gconv/CP*")]  # cat -> iconv
    assert (box / "etc/ssl/certs/ca-certificates.crt").exists()  # cat -> openssl -> libssl
    assert chains(box, "/etc/second") == [
        "/usr/bin/cat (program) -> /usr/bin/ldd (recipe first: program cat) -> /usr/bin/bash (interpreter) -> "
        "/etc/second (recipe second: program bash)"
    ]
    assert not (box / "etc/passwd").exists()  # bash imports getpwuid, and was not asked for


def test_a_library_that_is_missing_is_a_warning_in_what_a_recipe_brings(
    tmp_path: Path, mine: Path, odd: tuple[Path, Path]
) -> None:
    program, _ = odd
    root = tmp_path / "root"
    add(root, "--bare", "cat")
    (root / "opt").mkdir()
    (root / "opt/odd").write_bytes(program.read_bytes())
    (root / "opt/odd").chmod(0o755)
    for key in ("programs", "files"):
        (mine / "x.toml").write_text(f'title = "x"\n[bring]\n{key} = ["/opt/odd"]\n')
        done = add(tmp_path / key, "cat", "--with", "x", "--recipes", mine, sysroot=root)
        assert any("/opt/odd needs libodd.so.1" in line for line in warnings(done)), done.stderr
        assert (tmp_path / key / "opt/odd").exists()


def test_an_excluded_program_is_no_program_and_a_mistake_stops_all(tmp_path: Path, mine: Path) -> None:
    (mine / "x.toml").write_text('title = "x"\n[bring]\nrecipes = ["none-such"]\n')
    assert "cannot find the recipe none-such" in complaint(
        add(tmp_path / "box", "ls", "--with", "x", "--recipes", mine, status=1)
    )
    (mine / "x.toml").write_text('title = "x"\n[bring]\nprogram = ["sh"]\n')
    assert f"{mine}/x.toml: line 3: bring.program: there is no such key; near: programs" in complaint(
        add(tmp_path / "box", "ls", "--recipes", mine, status=1)
    )
    assert not (tmp_path / "box").exists()


# secrets


def test_a_secret_is_refused_by_name_and_by_look_whoever_asks(tmp_path: Path, mine: Path) -> None:
    root, box = tmp_path / "root", tmp_path / "box"
    (root / "etc/app").mkdir(parents=True)
    (root / "etc/shadow").write_text("root:$y$j9T$aaaaaaaaaaaaaaaa$bbbbbbbbbbbbbbbbbbbb:19000:0:99999:7:::\n")
    (root / "etc/app/key").write_text("-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n")
    (root / "etc/app/conf").write_text("x")
    said = complaint(add(box, "--file", "/etc/shadow", sysroot=root, status=1))
    assert "/etc/shadow: it is a secret: password hashes" in said
    assert "it is a secret: a private key" in complaint(
        add(box, "--file", f"{root}/etc/app/key:/etc/harmless", status=1)
    )
    assert "it is a secret: password hashes" in complaint(
        add(box, "--file", f"{root}/etc/shadow:/etc/harmless", status=1)
    )
    assert not box.exists()
    done = add(box, "--dir", "/etc/app", sysroot=root)
    assert [line.partition("/etc/app/key")[2] for line in warnings(done)] == [
        " is left out: it is a secret: a private key (--allow-secrets /etc/app/key)"
    ]
    assert os.listdir(box / "etc/app") == ["conf"]
    (mine / "x.toml").write_text('title = "x"\n[bring]\nfiles = ["/etc/*", "/etc/shadow"]\n')
    done = add(tmp_path / "two", "--with", "x", "--recipes", mine, sysroot=root)
    assert len(warnings(done)) >= 2
    assert {path for path in dump(tmp_path / "two") if path.startswith("/etc/")} == {"/etc/app", "/etc/app/conf"}


def test_what_runs_a_script_that_a_recipe_makes_comes_too(tmp_path: Path, mine: Path) -> None:
    (mine / "mine.toml").write_text(
        'title = "x"\n[[bring.made]]\npath = "/bin/hello"\nmode = "0755"\n'
        'content = "#!/usr/bin/env -S sh -e\\necho hi\\n"\n'
        '[[bring.made]]\npath = "/bin/odd"\nmode = "0755"\ncontent = "#!/opt/odd\\n"\n'
    )
    box = tmp_path / "box"
    done = add(box, "--with", "mine", "--recipes", mine)
    assert warnings(done) == [
        "warning: /usr/bin/odd: its interpreter /opt/odd cannot be opened: No such file or directory"
    ]
    assert enter(box, "hello").stdout == "hi\n"
    assert "/usr/bin/hello (recipe mine) -> /usr/bin/env (interpreter)" in chains(box, "/usr/bin/env")
    assert run("remove", "mine", "--from", box).returncode == 0
    assert not (box / "usr").exists()


def test_a_secret_is_not_made_either_and_users_are_made_in_one_way(tmp_path: Path, mine: Path) -> None:
    (mine / "mine.toml").write_text(
        'title = "x"\n[[bring.made]]\npath = "/etc/shadow"\ncontent = "root::1:::::::\\n"\n'
        '[[bring.made]]\npath = "/etc/passwd"\ncontent = "root:x:0:0::/:/bin/sh\\n"\n'
    )
    said = warnings(add(tmp_path / "box", "ls", "--with", "mine", "--recipes", mine))
    assert [line.partition(": ")[2].partition(":")[0] for line in said] == [
        "/etc/shadow is left out",
        "what a recipe makes at /etc/passwd is left out",
    ]
    assert not (tmp_path / "box/etc/shadow").exists()
    assert "nobody" in (tmp_path / "box/etc/passwd").read_text()
    add(
        tmp_path / "other",
        "ls",
        "--with",
        "mine",
        "--without",
        "users",
        "--recipes",
        mine,
        "--allow-secrets",
        "/etc/shadow",
    )
    assert (tmp_path / "other/etc/passwd").read_text() == "root:x:0:0::/:/bin/sh\n"
    assert (tmp_path / "other/etc/shadow").exists()


def test_a_link_to_a_secret_stays_outside_with_it(tmp_path: Path, mine: Path) -> None:
    """As /etc/letsencrypt/live has them: nothing dangles in the box, whoever brought the directory."""
    root = tmp_path / "root"
    for name in ("archive", "live", "elsewhere"):
        (root / "srv" / name).mkdir(parents=True)
    for place in ("archive/key1.pem", "elsewhere/key.pem"):
        (root / "srv" / place).write_text("-----BEGIN PRIVATE KEY-----\nMII=\n-----END PRIVATE KEY-----\n")
    (root / "srv/archive/cert1.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    (root / "srv/live/key.pem").symlink_to("../archive/key1.pem")
    (root / "srv/live/again.pem").symlink_to("key.pem")
    (root / "srv/live/cert.pem").symlink_to("../archive/cert1.pem")
    (root / "srv/live/other.pem").symlink_to("/srv/elsewhere/key.pem")
    for one in ("live", "archive"):
        (mine / f"{one}.toml").write_text(f'title = "x"\n[[bring.tree]]\npath = "/srv/{one}"\n')
    (mine / "all.toml").write_text('title = "x"\n[[bring.tree]]\npath = "/srv"\n')
    ways: dict[str, tuple[str | Path, ...]] = {
        "all": ("--with", "all"),
        "two": ("--with", "live", "--with", "archive"),
        "dir": ("--dir", "/srv"),
        "live": ("--dir", "/srv/live"),
        "laid": ("--dir", f"{root / 'srv'}:/srv"),
    }
    for name, words in ways.items():
        box = tmp_path / name
        done = add(box, *words, "--recipes", mine, sysroot=root)
        assert "is left out: it is a secret: a private key" in done.stderr
        assert {path.name for path in box.glob("srv/*/*")} == {"cert.pem", "cert1.pem"}, name
        assert (box / "srv/live/cert.pem").resolve() == box / "srv/archive/cert1.pem"
        assert "dangling-link" not in run("check", box).stdout


def test_each_secret_that_is_left_out_is_named(tmp_path: Path) -> None:
    """However many there are: a file left out is never silent."""
    (tmp_path / "keys").mkdir()
    for number in range(15):
        (tmp_path / f"keys/{number}.p12").touch()
    done = add(tmp_path / "box", "--dir", f"{tmp_path / 'keys'}:/srv")
    assert len(warnings(done)) == 15


def test_a_secret_goes_in_where_it_is_allowed_by_path(tmp_path: Path) -> None:
    root, box = tmp_path / "root", tmp_path / "box"
    (root / "etc/app").mkdir(parents=True)
    for name in ("one", "two"):
        (root / f"etc/app/{name}.p12").write_text("x")
    add(box, "--dir", "/etc/app", "--allow-secrets", "/etc/app/one.p12", sysroot=root)
    assert os.listdir(box / "etc/app") == ["one.p12"]
    add(tmp_path / "all", "--dir", "/etc/app", "--allow-secrets", "/etc/app", sysroot=root)
    assert sorted(os.listdir(tmp_path / "all/etc/app")) == ["one.p12", "two.p12"]


# the size rule


def test_recipes_by_symbol_bring_less_than_100_kb_together(tmp_path: Path) -> None:
    """And python3 or bash would have brought most of them: the rule holds for all of them at once."""
    from jailbuild.closure.catalog import RecipeCatalog

    catalog = RecipeCatalog()
    names = [name for name in catalog.names if catalog.get(name).when.symbol]
    assert {"users", "names", "zone"} <= {*names}
    assert all(catalog.get(name).by_symbol_alone for name in names)
    box = tmp_path / "box"
    add(box, *[word for name in names for word in ("--with", name)])
    assert sum(entry["size"] or 0 for entry in entries(box).values()) < 100_000


# the command


def test_recipes_lists_them_and_shows_one_with_what_to_know(mine: Path) -> None:
    listed = run("recipes").stdout
    assert "\nusers: a user database" in listed
    assert "  users: root, nobody" in listed
    shown = run("recipes", "dev-log").stdout
    assert "enter --bind /dev/log" in shown
    assert "users" not in shown
    (mine / "x.toml").write_text('title = "of my own"\n[bring]\nfiles = ["/x"]\n')
    (record,) = objects(run("recipes", "--json", "x", "--recipes", mine))
    assert (record["title"], record["files"], record["file"]) == ("of my own", ["/x"], f"{mine}/x.toml")
    assert "near: users" in complaint(run("recipes", "userz"))


def test_the_script_of_as_shell_makes_what_recipes_evaluate(tmp_path: Path, mine: Path) -> None:
    (mine / "x.toml").write_text(
        'title = "x"\n[[bring.directory]]\npath = "/var/x"\nowner = "nobody:nogroup"\nmode = "1770"\n'
    )
    words = ("ls", "--with", "devices", "--with", "x", "--recipes", mine)
    box, hand = tmp_path / "box", tmp_path / "hand"
    add(box, *words)
    script = run("add", *words, "--into", hand, "--as-shell").stdout
    subprocess.run(["sh"], input=script, text=True, check=True)
    assert dump(hand, contents=True) == dump(box, contents=True)
    assert (hand / "dev/null").stat().st_rdev == os.makedev(1, 3)
    assert (hand / "var/x").stat().st_uid == NOBODY


def test_python_of_the_tests_is_that_of_the_package() -> None:
    """The recipes are found beside the code, wherever that was installed."""
    done = subprocess.run(
        [sys.executable, "-c", "from jailbuild.closure.catalog import OWN; print(OWN)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (Path(done.stdout.strip()) / "users.toml").is_file()


@pytest.mark.parametrize("step", ["stage:3", "next:1", "commit:1", "place:1", "place:4", "exchange:1", "finished:1"])
def test_a_change_with_devices_and_users_that_is_killed_is_finished_or_was_never_begun(
    tmp_path: Path, step: str
) -> None:
    box, whole = tmp_path / "box", tmp_path / "whole"
    words = ("id", "--user", "sys", "--with", "devices")
    for one in (box, whole):
        add(one, "id")
    add(whole, *words)
    assert forked("add", *words, "--into", box, die_at=step).returncode == -9
    add(box, *words)
    assert dump(box, contents=True) == dump(whole, contents=True)
    assert (box / ".jailbuild/manifest.jsonl").read_bytes() == (whole / ".jailbuild/manifest.jsonl").read_bytes()
    assert run("check", "--strict", box).returncode == 0
