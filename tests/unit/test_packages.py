"""dpkg's database: whose file is this, which files has a package. The oracle is dpkg-query of the machine."""

from __future__ import annotations

import os
import random
import stat
import subprocess
from pathlib import Path

import pytest

from jailbuild.closure.packages import find_package
from jailbuild.closure.trees import Rules
from jailbuild.errors import JailError
from jailbuild.packages.documentation import is_documentation
from jailbuild.packages.dpkg import Dpkg
from jailbuild.root import Root

SAMPLE = 300


def database(root: Path, lists: dict[str, str], diversions: str = "", status: str = "install ok installed") -> Root:
    """Make a root with a merged /usr where dpkg has these lists, by NAME or NAME:ARCHITECTURE, words for lines."""
    info = root / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    (root / "usr/bin").mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    stanzas = []
    for key, words in lists.items():
        name, _, architecture = key.partition(":")
        (info / f"{key}.list").write_text("".join(f"{word}\n" for word in ["/.", *words.split()]))
        stanzas.append(f"Package: {name}\nStatus: {status}\nArchitecture: {architecture or 'amd64'}\n")
    (info.parent / "status").write_text("\n".join(stanzas))
    (info.parent / "diversions").write_text("".join(f"{word}\n" for word in diversions.split()))
    return Root(str(root))


def owners(root: Root, *paths: str) -> dict[str, str]:
    return Dpkg(root).owners(dict.fromkeys(paths))


def _dpkg(*words: str) -> list[str]:
    return subprocess.run(["dpkg", *words], capture_output=True, text=True, check=False).stdout.splitlines()


def _machine_files() -> list[str]:
    """Return canonical paths of files and links that the machine has, of packages and of nobody's."""
    found = []
    for top in ("/usr/bin", "/usr/sbin", "/usr/lib", "/etc", "/usr/share/perl", "/usr/share/zoneinfo"):
        for directory, _, names in os.walk(top):
            found += [f"{directory}/{name}" for name in names]
    return sorted(path for path in found if path.isascii() and not set(path) & set("*?[\\ "))


def _as_dpkg_says(paths: list[str]) -> dict[str, set[str]]:
    """Return the names of packages by path, by either name that a merged /usr has for it; without diverted ones."""
    spelled = {path: path for path in paths}
    for path in paths:
        if path.startswith(("/usr/bin/", "/usr/sbin/", "/usr/lib/", "/usr/lib64/")):
            spelled[path.removeprefix("/usr")] = path
    found: dict[str, set[str]] = {}
    for line in _dpkg("-S", *spelled):
        names, _, path = line.partition(": ")
        if not line.startswith("diversion "):
            packages = {name.partition(":")[0] for name in names.split(", ")}
            found.setdefault(spelled[path], set()).update(packages)
    return found


@pytest.fixture(scope="module")
def sample() -> list[str]:
    """Some files of the machine, the same ones in every run on the same files."""
    diverted = {line.split()[-1] for line in _dpkg("-S", "/usr/bin/*") if line.startswith("diversion")}
    files = [path for path in _machine_files() if path not in diverted and path.removeprefix("/usr") not in diverted]
    return random.Random(300).sample(files, SAMPLE)


def test_files_of_the_machine_belong_to_what_dpkg_says(sample: list[str]) -> None:
    """Three hundred of them, those that nobody owns too; dpkg -S is the oracle."""
    expected = _as_dpkg_says(sample)
    assert len(expected) > SAMPLE / 2
    links = {path: os.readlink(path) if os.path.islink(path) else None for path in sample}
    found = Dpkg(Root("/")).owners(links)
    assert expected == {path: {key.partition(":")[0] for key in name.split(", ")} for path, name in found.items()}


def test_one_path_alone_and_many_together_have_the_same_package(sample: list[str]) -> None:
    """Guessing where a path is listed, and stopping early, changes no answer."""
    root = Root("/")
    links = {path: os.readlink(path) if os.path.islink(path) else None for path in sample[:40]}
    together = Dpkg(root).owners({path: os.readlink(path) if os.path.islink(path) else None for path in sample})
    alone: dict[str, str] = {}
    for path, target in links.items():
        alone |= Dpkg(root).owners({path: target})
    assert {path: name for path, name in together.items() if path in links} == alone


@pytest.mark.parametrize("name", ["bash", "coreutils", "libc6", "dash", "perl-base", "dpkg"])
def test_a_package_has_the_files_that_dpkg_lists(name: str) -> None:
    """The oracle is dpkg -L; what it says of diversions is where the file is."""
    expected: list[str] = []
    for line in _dpkg("-L", name):
        if line.startswith(("diverted by ", "locally diverted to:")):
            expected[-1] = line.partition(" to: ")[2]
        elif not line.startswith("package diverts others to:") and line != "/.":
            expected.append(line)
    packages = Dpkg(Root("/"))
    assert expected
    assert sorted(expected) == sorted(packages.files(packages.find(name)))


def test_a_path_is_found_under_either_name_of_a_merged_usr(tmp_path: Path) -> None:
    root = database(tmp_path, {"old": "/bin /bin/old", "new": "/usr /usr/bin /usr/bin/new"})
    assert owners(root, "/usr/bin/old", "/usr/bin/new") == {"/usr/bin/old": "old", "/usr/bin/new": "new"}


def test_links_of_a_merged_usr_and_of_the_alternatives_are_nobodys(tmp_path: Path) -> None:
    root = database(tmp_path, {"old": "/bin /usr/bin/awk /etc/alternatives/awk"})
    links = {"/bin": "usr/bin", "/etc/alternatives/awk": "/usr/bin/mawk", "/usr/bin/awk": "/etc/alternatives/awk"}
    assert Dpkg(root).owners(links) == {}


def test_an_architecture_is_named_where_there_are_several(tmp_path: Path) -> None:
    """Of a file that they share all are named."""
    shared = "/usr/share/x"
    root = database(
        tmp_path,
        {
            "libx:amd64": f"/usr/lib/a/libx.so.1 {shared}",
            "libx:i386": f"/usr/lib/i/libx.so.1 {shared}",
            "liby:amd64": "/usr/lib/a/liby.so.1",
        },
    )
    expected = {
        "/usr/lib/a/libx.so.1": "libx:amd64",
        "/usr/lib/i/libx.so.1": "libx:i386",
        shared: "libx:amd64, libx:i386",
        "/usr/lib/a/liby.so.1": "liby",
    }
    assert owners(root, *expected) == expected
    assert owners(root, shared) == {shared: expected[shared]}


def test_a_diverted_file_is_its_packages_where_it_went(tmp_path: Path) -> None:
    """And the place is the diverting package's; nobody's where the administrator diverts."""
    root = database(
        tmp_path,
        {"a": "/bin/tool /usr/bin/own", "b": "/usr/bin/tool"},
        "/bin/tool /bin/tool.distrib b /usr/bin/own /usr/bin/own.old :",
    )
    expected = {"/usr/bin/tool": "b", "/usr/bin/tool.distrib": "a", "/usr/bin/own.old": "a"}
    assert owners(root, "/usr/bin/own", *expected) == expected
    packages = Dpkg(root)
    assert packages.files(packages.find("a")) == ("/usr/bin/tool.distrib", "/usr/bin/own.old")
    assert packages.files(packages.find("b")) == ("/usr/bin/tool",)


def test_an_image_without_dpkg_has_its_packages_in_status_d(tmp_path: Path) -> None:
    """As distroless images: a stanza and the sums of the files for each package."""
    place = tmp_path / "var/lib/dpkg/status.d"
    place.mkdir(parents=True)
    (place / "libssl3").write_text("Package: libssl3\nArchitecture: amd64\nVersion: 3\n")
    (place / "libssl3.md5sums").write_text(f"{'0' * 32}  usr/lib/libssl.so.3\n{'1' * 32}  ./usr/lib/libcrypto.so.3\n")
    root = Root(str(tmp_path))
    assert owners(root, "/usr/lib/libssl.so.3", "/usr/lib/libno.so.3") == {"/usr/lib/libssl.so.3": "libssl3"}
    packages = Dpkg(root)
    assert packages.files(packages.find("libssl3")) == ("/usr/lib/libssl.so.3", "/usr/lib/libcrypto.so.3")


def test_a_root_without_packages_has_none(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    assert owners(root, "/usr/bin/ls") == {}
    with pytest.raises(JailError, match="has no packages that dpkg knows of"):
        Dpkg(root).find("ls")


@pytest.mark.parametrize("odd", ["directory", "fifo", "outside"])
def test_a_list_that_is_none_names_no_owner(tmp_path: Path, odd: str) -> None:
    """Nothing waits for a FIFO, and no link leads out of the root."""
    root = database(tmp_path / "root", {"a": "/usr/bin/a"})
    place = tmp_path / "root/var/lib/dpkg/info/b.list"
    if odd == "directory":
        place.mkdir()
    elif odd == "fifo":
        os.mkfifo(place)
    else:
        (tmp_path / "outside").write_text("/usr/bin/b\n")
        place.symlink_to(tmp_path / "outside")
    assert owners(root, "/usr/bin/a", "/usr/bin/b") == {"/usr/bin/a": "a"}


def test_a_package_is_named_with_its_architecture_where_that_is_needed(tmp_path: Path) -> None:
    root = database(tmp_path, {"libx:amd64": "/a", "libx:i386": "/i", "tool": "/t"})
    packages = Dpkg(root)
    assert packages.files(packages.find("libx:i386")) == ("/i",)
    assert packages.find("tool:amd64") == packages.find("tool")
    for word, why in (
        ("libx", "libx:amd64 and libx:i386"),
        ("tool:arm64", "it is there for amd64"),
        ("toll", "near: tool"),
    ):
        with pytest.raises(JailError, match=why):
            packages.find(word)


def test_a_removed_package_is_not_there(tmp_path: Path) -> None:
    """Its list still has the configuration that is left."""
    root = database(tmp_path, {"gone": "/etc/gone.conf"}, status="deinstall ok config-files")
    with pytest.raises(JailError, match="only its configuration is left"):
        Dpkg(root).find("gone")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/usr/share/doc/x/copyright", True),
        ("/usr/share/man/man1/x.1.gz", True),
        ("/usr/share/info/x.info.gz", True),
        ("/usr/share/man/de/man1/x.1.gz", True),
        ("/usr/share/lintian/overrides/x", True),
        ("/usr/share/doc", True),
        ("/usr/share/bash-completion/completions/x", True),
        ("/etc/bash_completion.d/x", True),
        ("/usr/share/locale/de/LC_MESSAGES/x.mo", True),
        ("/usr/share/locale/de", True),
        ("/usr/share/locale/locale.alias", False),
        ("/usr/share/docbook/x", False),
        ("/usr/lib/locale/C.utf8/x", False),
        ("/usr/share/zoneinfo/Europe/Berlin", False),
        ("/opt/usr/share/doc/x", False),
    ],
)
def test_what_is_documentation_is_told_by_its_place(path: str, expected: bool) -> None:
    assert is_documentation(path) is expected


def test_a_package_is_read_without_documentation_and_secrets(tmp_path: Path) -> None:
    """Conffiles and empty directories are the package's too; secrets only where they are allowed."""
    words = "/etc /etc/x.conf /etc/x.key /usr /usr/bin /usr/bin/x /var /var/lib/x /usr/share/doc /usr/share/doc/x /gone"
    root = database(tmp_path, {"x": words})
    for word in ("etc/x.conf", "etc/x.key", "usr/bin/x", "usr/share/doc/x"):
        (tmp_path / word).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / word).write_text("#!/bin/sh\n")
    (tmp_path / "etc/x.key").write_text("-----BEGIN PRIVATE KEY-----\n")
    (tmp_path / "var/lib/x").mkdir(parents=True)
    request, tree = find_package(root, "x")
    assert (request.type, request.name, request.path) == ("package", "package:x", "/var/lib/dpkg/info/x.list")
    expected = {"/etc/x.conf": "file", "/usr/bin/x": "file", "/var/lib/x": "directory"}
    assert {item.path: item.type for item in tree.items} == expected
    assert tree.notes[0] == (
        "warning: /etc/x.key is left out: it is a secret: a private key (--allow-secrets /etc/x.key)"
    )
    assert [note.partition(":")[0] for note in tree.notes[1:]] == ["/gone"]
    _, tree = find_package(root, "x/docs", Rules(allowed=("/etc/x.key",)))
    assert {item.path for item in tree.items} == {*expected, "/etc/x.key", "/usr/share/doc/x"}


def test_each_secret_of_a_package_is_named(tmp_path: Path) -> None:
    """Of what else is left out, some."""
    root = database(tmp_path, {"x": " ".join(f"/srv/{number}.p12 /srv/{number}.fifo" for number in range(20))})
    (tmp_path / "srv").mkdir()
    for number in range(20):
        (tmp_path / f"srv/{number}.p12").write_text("x")
        os.mkfifo(tmp_path / f"srv/{number}.fifo")
    _, tree = find_package(root, "x")
    assert len([note for note in tree.notes if note.startswith("warning: ")]) == 20
    assert len(tree.notes) == 20 + 10 + 1


def test_what_a_link_of_a_package_leads_to_comes_too(tmp_path: Path) -> None:
    """A link that leads nowhere does not, nor one to documentation that is left out."""
    root = database(tmp_path, {"x": "/usr/bin/to /usr/bin/lost /usr/bin/doc", "y": "/usr/bin/y"})
    for name, target in (("to", "via"), ("via", "y"), ("lost", "nowhere"), ("doc", "/usr/share/doc/y")):
        (tmp_path / "usr/bin" / name).symlink_to(target)
    (tmp_path / "usr/bin/y").write_text("y")
    (tmp_path / "usr/share/doc/y").mkdir(parents=True)
    _, tree = find_package(root, "x")
    assert [item.path for item in tree.items] == ["/usr/bin/to", "/usr/bin/via", "/usr/bin/y"]
    assert tree.led == {"/usr/bin/y": "/usr/bin/to", "/usr/bin/via": "/usr/bin/to"}
    assert [note for note in tree.notes if "lost" in note] == list(tree.notes)


def test_a_directory_of_others_that_a_link_leads_to_is_made_and_it_is_said(tmp_path: Path) -> None:
    """What is in it belongs to others; a directory with files of the package needs no words."""
    root = database(tmp_path, {"x": "/usr/bin/other /usr/bin/own /srv/own/file"})
    for name in ("other", "own"):
        (tmp_path / "usr/bin" / name).symlink_to(f"/srv/{name}")
        (tmp_path / "srv" / name).mkdir(parents=True)
        (tmp_path / "srv" / name / "file").write_text("")
    _, tree = find_package(root, "x")
    assert {item.path for item in tree.items} == {
        "/usr/bin/other",
        "/usr/bin/own",
        "/srv/other",
        "/srv/own",
        "/srv/own/file",
    }
    assert [note.partition(",")[0] for note in tree.notes] == ["/usr/bin/other leads to /srv/other"]


def test_special_files_of_a_package_stay_outside(tmp_path: Path) -> None:
    root = database(tmp_path, {"x": "/usr/bin/pipe /dev/own"})
    os.mkfifo(tmp_path / "usr/bin/pipe")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/own").write_text("")
    assert stat.S_ISFIFO(os.stat(tmp_path / "usr/bin/pipe").st_mode)
    _, tree = find_package(root, "x")
    assert (tree.items, len(tree.notes)) == ((), 2)


@pytest.mark.parametrize("name", ["../x", "", "x\n", "X", "x/y"])
def test_what_is_no_name_of_a_package_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(JailError, match="no name of a package"):
        find_package(database(tmp_path, {"x": "/x"}), name)
