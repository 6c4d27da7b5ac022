"""What --file and --dir put in (DESIGN, "files"): every name below SRC, at DST in the source root."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from jailbuild.closure.commands import Request
from jailbuild.closure.gather import gather
from jailbuild.closure.gathering import Options
from jailbuild.closure.places import split
from jailbuild.closure.trees import Tree, identity, lay_over, opener, read_directory, read_file
from jailbuild.errors import JailError
from jailbuild.root import Root
from tests import needs
from tests.box import tiny
from tests.box.running import NOBODY, open_to_all

ODD = ["with space", "new\nline", "'quo\"te'", "back\\slash", "-n", "$(id)", "caf\udce9", ":/a", "*"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A source root with a merged /usr."""
    top = tmp_path / "root"
    for directory in ("usr/lib", "usr/bin", "etc/ssl", "srv", "tmp"):
        (top / directory).mkdir(parents=True)
    for name in ("bin", "lib"):
        (top / name).symlink_to(f"usr/{name}")
    (top / "etc/hosts").write_text("hosts")
    return top


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory of the user's."""
    top = tmp_path / "data"
    (top / "sub/empty").mkdir(parents=True)
    (top / "file").write_text("file")
    (top / "sub/tool").write_bytes(b"\x7fELF and more")
    (top / "sub/script").write_text("#!/bin/sh\n")
    return top


def listed(tree: Tree) -> dict[str, str]:
    """Return the items of a tree: "file", "directory", "link -> target"."""
    return {item.path: item.type if item.target is None else f"link -> {item.target}" for item in tree.items}


def directory(root: Path, word: str, *left_out: Path) -> Tree:
    return read_directory(Root(str(root)), word, frozenset(identity(path.stat()) for path in left_out))


def file(root: Path, word: str, *left_out: Path) -> Tree:
    return read_file(Root(str(root)), word, frozenset(identity(path.stat()) for path in left_out))


def refusal(read: object) -> list[str]:
    """Return why something is refused."""
    assert callable(read)
    with pytest.raises(JailError) as refused:
        read()
    return list(refused.value.causes)


# words


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("/etc/hosts", ("/etc/hosts", None)),
        ("a:/b", ("a", "/b")),
        ("/a:b:/c", ("/a:b", "/c")),
        ("a:b", ("a:b", None)),
        (":/b", (":/b", None)),
        ("a:/", ("a", "/")),
        ("/srv/a:/b", ("/srv/a:/b", None)),
    ],
)
def test_the_last_colon_before_a_slash_parts_where_no_file_has_the_whole_name(
    root: Path, word: str, expected: tuple[str, str | None]
) -> None:
    (root / "srv/a:").mkdir()
    (root / "srv/a:/b").write_text("")
    assert split(Root(str(root)), word) == expected


@pytest.mark.parametrize("word", ["", "a\0b"])
def test_a_word_that_is_no_name_is_refused(root: Path, word: str) -> None:
    assert refusal(lambda: split(Root(str(root)), word)) == ["cannot add '': a file needs a name"]


# one file


def test_a_file_without_dst_is_the_source_roots_own(root: Path) -> None:
    """It stands where it is, and nothing has to be laid over."""
    tree = file(root, "/etc/hosts")
    assert (tree.path, tree.source, listed(tree)) == ("/etc/hosts", None, {"/etc/hosts": "file"})
    assert tree.items[0].source == str(root / "etc/hosts")
    assert isinstance(lay_over(plain := Root(str(root)), [tree]), Root)
    assert lay_over(plain, [tree]) is plain


def test_links_on_the_way_to_a_file_come_along(root: Path) -> None:
    """As the loader and libc meet them: /etc/localtime -> zone, and /lib of a merged /usr."""
    (root / "usr/lib/zone").write_text("zone")
    (root / "etc/localtime").symlink_to("../lib/zone")
    expected = {"/etc/localtime": "link -> ../lib/zone", "/lib": "link -> usr/lib", "/usr/lib/zone": "file"}
    assert listed(file(root, "/etc/localtime")) == expected


def test_a_file_without_dst_is_looked_up_inside_the_source_root(root: Path) -> None:
    """A link out of it leads nowhere, as it would in a chroot."""
    (root / "etc/out").symlink_to("/../../../../etc/passwd")
    assert refusal(lambda: file(root, "/etc/out")) == ["cannot add /etc/out: No such file or directory"]


def test_a_file_with_dst_is_the_callers(root: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative SRC from the caller's directory; links to it are followed, since it was named."""
    monkeypatch.chdir(data)
    (data / "named").symlink_to("file")
    for word in (f"{data}/file:/etc/mine", "file:/etc/mine", "./sub/../named:/etc//mine"):
        tree = file(root, word)
        assert (tree.path, tree.source, listed(tree)) == ("/etc/mine", str(data / "file"), {"/etc/mine": "file"})
        assert tree.items[0].source == str(data / "file")


def test_a_dst_that_ends_with_a_slash_takes_the_name_of_the_file(root: Path, data: Path) -> None:
    (data / "named").symlink_to("file")
    assert file(root, f"{data}/named:/etc/").path == "/etc/named"


def test_a_dst_is_where_links_of_the_source_root_lead(root: Path, data: Path) -> None:
    """Directories that are not there yet, below ones that are links."""
    tree = file(root, f"{data}/file:/lib/new/mine")
    assert listed(tree) == {"/lib": "link -> usr/lib", "/usr/lib/new/mine": "file"}
    assert tree.path == "/usr/lib/new/mine"


def test_a_file_takes_the_place_of_a_link_and_is_not_put_where_that_leads(root: Path, data: Path) -> None:
    (root / "etc/localtime").symlink_to("/usr/lib/zone")
    tree = file(root, f"{data}/file:/etc/localtime")
    assert listed(tree) == {"/etc/localtime": "file"}
    over = lay_over(Root(str(root)), [tree])
    assert over.walk("/etc/localtime").links == ()
    assert over.read("/etc/localtime", 100) == b"file"


@pytest.mark.parametrize(
    ("destination", "why"),
    [
        ("/proc/x", "something is mounted there when the box is entered"),
        ("/dev/null", "something is mounted there when the box is entered"),
        ("//sys/x", "something is mounted there when the box is entered"),
        ("/.jailbuild/manifest.jsonl", "that is for the box's own record"),
        ("/.jailbuild", "that is for the box's own record"),
        ("/kernel/x", "something is mounted there when the box is entered"),
        ("/etc", "that is a directory"),
        ("/tmp", "that is a directory"),
        ("/run", "that is a directory"),
        ("/", "that is a directory"),
        ("/srv/../etc/x", "a destination has no '..'"),
    ],
)
def test_some_places_are_not_for_files(root: Path, data: Path, destination: str, why: str) -> None:
    """Also where a link leads there."""
    (root / "kernel").symlink_to("proc")
    (root / "proc").mkdir()
    word = f"{data}/file:{destination}" if destination != "/" else f"{data}/file:/etc/.."
    (cause,) = refusal(lambda: file(root, word))
    assert cause.startswith(f"cannot put {data}/file at ")
    assert cause.endswith((f": {why}", "a destination has no '..'"))


def test_what_is_no_regular_file_is_refused_and_never_waited_for(root: Path, data: Path) -> None:
    os.mkfifo(data / "fifo")
    os.mkfifo(root / "etc/fifo")
    assert refusal(lambda: file(root, f"{data}/fifo:/x")) == [f"cannot add {data}/fifo:/x: it is not a regular file"]
    assert refusal(lambda: file(root, "/etc/fifo")) == ["cannot add /etc/fifo: it is not a regular file"]
    assert refusal(lambda: file(root, f"{data}:/x")) == [f"cannot add {data}:/x: it is a directory"]
    assert refusal(lambda: file(root, "/")) == ["cannot add /: it is a directory"]
    assert refusal(lambda: file(root, f"{data}/no:/x")) == [f"cannot add {data}/no: No such file or directory"]
    assert refusal(lambda: directory(root, f"{data}/fifo:/x")) == [f"cannot add {data}/fifo:/x: it is no directory"]


# directories


def test_a_directory_goes_in_with_all_that_is_below_it(root: Path, data: Path) -> None:
    """Empty directories too; which files are programs is told."""
    tree = directory(root, f"{data}/:/srv/app/")
    assert listed(tree) == {
        "/srv/app": "directory",
        "/srv/app/file": "file",
        "/srv/app/sub": "directory",
        "/srv/app/sub/empty": "directory",
        "/srv/app/sub/script": "file",
        "/srv/app/sub/tool": "file",
    }
    assert (tree.path, tree.source, tree.notes) == ("/srv/app", str(data), ())
    programs = {item.path: item.program for item in tree.items if item.program}
    assert programs == {"/srv/app/sub/script": "script", "/srv/app/sub/tool": "elf"}
    for item in tree.items:
        assert identity(item.status) == identity(os.lstat(item.source))


def test_a_directory_without_dst_is_the_source_roots_own(root: Path) -> None:
    (root / "usr/lib/app").mkdir()
    (root / "usr/lib/app/x").write_text("")
    expected = {"/lib": "link -> usr/lib", "/usr/lib/app": "directory", "/usr/lib/app/x": "file"}
    assert listed(directory(root, "/lib/app")) == expected


def test_the_names_below_are_those_that_find_prints(root: Path) -> None:
    """A real tree of the machine, without DST, held against find(1)."""
    tree = directory(Path("/"), "/usr/share/perl5" if Path("/usr/share/perl5").is_dir() else "/usr/share/doc")
    said = subprocess.run(["find", tree.path, "-print0"], capture_output=True, check=True).stdout
    assert {item.path for item in tree.items} == {os.fsdecode(name) for name in said.split(b"\0") if name}


@pytest.mark.parametrize("name", ODD)
def test_any_name_goes_in_as_it_is(root: Path, data: Path, name: str) -> None:
    """Also one that holds what parts SRC from DST."""
    odd = data / name
    odd.parent.mkdir(exist_ok=True)
    odd.write_text("odd")
    (data / "odd link").symlink_to(name)
    tree = directory(root, f"{data}:/srv/x")
    found = listed(tree)
    assert (found[f"/srv/x/{name}"], found["/srv/x/odd link"]) == ("file", f"link -> {name}")
    assert lay_over(Root(str(root)), [tree]).read(f"/srv/x/{name}", 10) == b"odd"


def test_links_are_put_in_and_never_followed(root: Path, data: Path) -> None:
    """To a directory outside, to themselves, to what is above them, to nothing."""
    for name, target in {"out": "/etc", "self": "self", "up": "..", "none": "/none/at all"}.items():
        (data / "sub" / name).symlink_to(target)
    found = listed(directory(root, f"{data}/sub:/srv/x"))
    assert {path: what for path, what in found.items() if what.startswith("link")} == {
        "/srv/x/out": "link -> /etc",
        "/srv/x/self": "link -> self",
        "/srv/x/up": "link -> ..",
        "/srv/x/none": "link -> /none/at all",
    }
    assert len(found) == 8


def test_src_itself_may_be_a_link_to_a_directory(root: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to("data")
    tree = directory(root, f"{tmp_path}/current:/srv/x")
    assert (tree.source, listed(tree)["/srv/x/file"]) == (str(data), "file")


def test_fifos_sockets_and_devices_are_left_out_and_named(root: Path, data: Path) -> None:
    os.mkfifo(data / "fifo")
    os.mknod(data / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(data / "socket"))
        tree = directory(root, f"{data}:/srv/x")
    assert tree.notes == (
        f"{data}/fifo is left out: it is a FIFO",
        f"{data}/null is left out: it is a device",
        f"{data}/socket is left out: it is a socket",
    )
    assert {"/srv/x/fifo", "/srv/x/null", "/srv/x/socket"}.isdisjoint(listed(tree))


def test_files_that_are_one_are_told(root: Path, data: Path) -> None:
    """Names inside the tree; a name outside makes no family."""
    os.link(data / "file", data / "sub/same")
    os.link(data / "sub/script", root / "etc/elsewhere")
    assert directory(root, f"{data}:/x").families == (("/x/file", "/x/sub/same"),)


def test_the_box_is_left_out_of_the_tree_that_it_is_in(root: Path, data: Path) -> None:
    """Wherever it is mounted: it is told by what it is, not by its name."""
    box = data / "sub/box"
    (box / "etc").mkdir(parents=True)
    tree = directory(root, f"{data}:/x", box)
    assert tree.notes == (f"{box} is left out: it is the box itself",)
    assert not any("box" in path for path in listed(tree))


def test_what_is_in_the_box_is_no_source_for_it(root: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("data/sub")
    for word in (f"{data}:/x", f"{data}/sub:/x", f"{tmp_path}/link:/x"):
        (cause,) = refusal(lambda word=word: directory(root, word, data))
        assert cause.endswith(": it is in the box itself")
    (cause,) = refusal(lambda: file(root, f"{tmp_path}/link/tool:/x", data))
    assert cause == f"cannot add {data}/sub/tool: it is in the box itself"
    (root / "srv/box").mkdir()
    (cause,) = refusal(lambda: directory(root, "/srv/box", root / "srv/box"))
    assert cause == f"cannot add {root}/srv/box: it is in the box itself"


def test_all_that_cannot_be_read_is_said_at_once(root: Path, data: Path, tmp_path: Path) -> None:
    """A line for each of the first, and how many more there are."""
    (data / "sub").chmod(0)
    (data / "file").chmod(0)
    os.chown(data, NOBODY, NOBODY)
    open_to_all(tmp_path)
    plain = Root(str(root))
    os.seteuid(NOBODY)
    try:
        causes = refusal(lambda: read_directory(plain, f"{data}:/x"))
        for number in range(30):
            (data / f"more{number:02}").touch(0)
        many = refusal(lambda: read_directory(plain, f"{data}:/x"))
    finally:
        os.seteuid(0)
    assert causes == [f"cannot read {data}/file: Permission denied", f"cannot read {data}/sub: Permission denied"]
    assert len(many) == 11
    assert many[-1] == "cannot add 22 more names"


def test_a_path_that_is_too_long_for_the_kernel_is_refused(root: Path, tmp_path: Path) -> None:
    """Directories 4000 deep, as a loop of mkdir and cd makes them: one line, no endless walk."""
    top = tmp_path / "deep"
    top.mkdir()
    before = os.open(".", os.O_RDONLY)
    try:
        os.chdir(top)
        for _ in range(100):
            name = "d" * 100
            os.mkdir(name)
            os.chdir(name)
        (cause,) = refusal(lambda: directory(root, f"{top}:/x"))
    finally:
        os.fchdir(before)
        os.close(before)
        subprocess.run(["rm", "-rf", top], check=True)
    assert "too long" in cause.lower()


# beside what the source root has


def test_a_directory_goes_where_a_link_of_the_source_root_leads(root: Path, data: Path) -> None:
    """A tree with /lib, on a root where /lib is a link: its files are in /usr/lib, and the link stays one."""
    (data / "lib/app").mkdir(parents=True)
    (data / "lib/app/x").write_text("")
    found = listed(directory(root, f"{data}:/"))
    assert (found["/lib"], found["/usr/lib/app/x"]) == ("link -> usr/lib", "file")
    assert not any(path.startswith("/lib/") for path in found)
    assert "/" not in found
    assert listed(directory(root, f"{data}/lib:/lib"))["/usr/lib/app/x"] == "file"


def test_two_names_for_one_place_are_refused(root: Path, data: Path) -> None:
    for place in ("lib", "usr/lib"):
        (data / place).mkdir(parents=True)
        (data / place / "x").write_text(place)
    (cause,) = refusal(lambda: directory(root, f"{data}:/"))
    assert cause in {
        f"cannot put {data}/{one}/x at /usr/lib/x: {data}/{other}/x comes there too"
        for one, other in (("lib", "usr/lib"), ("usr/lib", "lib"))
    }


def test_what_is_mounted_on_entry_is_left_out_of_a_whole_root(root: Path, data: Path) -> None:
    for name in ("proc/1", "dev", "sys", ".jailbuild", "etc"):
        (data / name).mkdir(parents=True)
    tree = directory(root, f"{data}:/")
    expected = {f"{data}/{name}" for name in ("proc", "dev", "sys", ".jailbuild")}
    assert {note.partition(" is left out: ")[0] for note in tree.notes} - {f"{data}/etc"} == expected
    assert {"/proc", "/dev", "/sys", "/.jailbuild", "/proc/1"}.isdisjoint(listed(tree))
    assert listed(tree)["/etc"] == "directory"


@needs.namespaces
def test_the_kernels_own_trees_are_left_out_wherever_they_are_mounted(root: Path, data: Path) -> None:
    place = data / "sub/empty"
    subprocess.run(["mount", "-t", "proc", "proc", place], check=True)
    try:
        tree = directory(root, f"{data}:/x")
        causes = refusal(lambda: directory(root, f"{place}:/x")) + refusal(lambda: file(root, f"{place}/version:/x"))
    finally:
        subprocess.run(["umount", place], check=True)
    assert causes == [f"cannot add {place}: it is the kernel's", f"cannot add {place}/version: it is the kernel's"]
    assert tree.notes == (f"{place} is left out: it is the kernel's",)


def test_a_directory_that_both_have_is_as_the_source_root_has_it(root: Path, data: Path) -> None:
    """Programs in the box count on /etc; that SRC has it otherwise is said."""
    (data / "etc").mkdir(mode=0o700)
    (data / "etc/new").mkdir(mode=0o700)
    tree = directory(root, f"{data}:/")
    modes = {item.path: stat.S_IMODE(item.status.st_mode) for item in tree.items if item.path.startswith("/etc")}
    assert modes == {"/etc": 0o755, "/etc/new": 0o700}
    assert tree.notes == (f"/etc is 0755 0:0, as in the source root, and not 0700 0:0, as {data}/etc",)


def test_a_directory_is_no_place_for_a_file_nor_the_other_way_round(root: Path, data: Path) -> None:
    assert refusal(lambda: directory(root, f"{data}:/etc/hosts")) == [
        f"cannot put {data} at /etc/hosts: that is no directory"
    ]
    (data / "etc/hosts").mkdir(parents=True)
    (data / "srv").write_text("")
    assert sorted(refusal(lambda: directory(root, f"{data}:/"))) == [
        f"cannot put {data}/etc/hosts at /etc/hosts: that is no directory in the source root",
        f"cannot put {data}/srv at /srv: that is a directory",
    ]


# laid over


def test_programs_are_resolved_as_at_their_destination(tmp_path: Path) -> None:
    """An ELF program finds the library beside it by $ORIGIN, a script its interpreter in the source root."""
    root = tiny.clone(tiny.build(tmp_path / "made"), tmp_path / "root")
    app = tmp_path / "app"
    library = tiny.library(app / "lib/libmine.so.1", value=5)
    tiny.program(app / "bin/mine", library, flags=("-Wl,-rpath,$ORIGIN/../lib",))
    (app / "bin/run").write_text("#!/bin/bash\n")
    (app / "bin/run").chmod(0o755)
    plain = Root(str(root))
    over = lay_over(plain, [read_directory(plain, f"{app}:/opt/app")])
    closure = gather(over, (Request("mine", "/opt/app/bin/mine"), Request("run", "/opt/app/bin/run")), Options())
    assert "/opt/app/bin/../lib/libmine.so.1" in closure.nodes
    assert "/bin/bash" in closure.nodes


def test_what_is_laid_over_is_seen_with_its_own_mode_links_and_time(root: Path, data: Path) -> None:
    """Also twice, one over the other."""
    (data / "file").chmod(0o640)
    (data / "sub/link").symlink_to("tool")
    plain = Root(str(root))
    first = lay_over(plain, [read_file(plain, f"{data}/file:/etc/first")])
    over = lay_over(first, [read_directory(plain, f"{data}:/etc/app")])
    assert over.read("/etc/first", 10) == over.read("/etc/app/file", 10) == b"file"
    assert over.read("/etc/hosts", 10) == b"hosts"
    assert over.stat("/etc/app/file").st_mode & 0o777 == 0o640
    assert over.walk("/etc/app/sub/link").real == "/etc/app/sub/tool"
    assert over.lstat("/etc/app/sub/link") == os.lstat(data / "sub/link")
    assert over.stat("/etc/app/sub").st_ino == (data / "sub").stat().st_ino
    assert over.is_directory("/etc/app/sub/empty")


def test_two_trees_do_not_hide_each_other(root: Path, data: Path) -> None:
    """Two files for one path are refused, one file twice and directories are not."""
    (data / "sub/file").write_text("another")
    plain = Root(str(root))
    whole, sub = read_directory(plain, f"{data}:/x"), read_directory(plain, f"{data}/sub:/x")
    assert refusal(lambda: lay_over(plain, [whole, sub])) == [
        f"cannot put {data}/sub/file at /x/file: {data}/file comes there too"
    ]
    again = read_file(plain, f"{data}/file:/x/file")
    assert lay_over(plain, [whole, again]).read("/x/file", 10) == b"file"


def test_a_file_that_came_to_the_place_later_is_not_opened(root: Path, data: Path) -> None:
    """Nor one behind a link that took the place of a directory."""
    tree = directory(root, f"{data}:/x")
    items = {item.path: item for item in tree.items}
    (data / "other").write_text("other")
    (data / "other").rename(data / "file")
    assert refusal(opener(items["/x/file"])) == [f"cannot read {data}/file: another file has come to its place"]
    shutil.copytree(data / "sub", data / "copy")
    shutil.rmtree(data / "sub")
    (data / "sub").symlink_to("copy")
    assert refusal(opener(items["/x/sub/tool"])) == [f"cannot read {data}/sub/tool: another file has come to its place"]


def test_a_directory_that_becomes_a_link_meanwhile_leads_nowhere(root: Path, data: Path, tmp_path: Path) -> None:
    """RENAME_EXCHANGE in a loop beside the walk: what is outside is never listed."""
    outside = tmp_path / "outside"
    (outside / "secret").mkdir(parents=True)
    (tmp_path / "link").symlink_to("outside")
    libc = ctypes.CDLL(None)
    is_over = threading.Event()

    def exchange() -> None:
        while not is_over.is_set():
            libc.renameat2(-100, os.fsencode(data / "sub"), -100, os.fsencode(tmp_path / "link"), 2)

    thread = threading.Thread(target=exchange)
    thread.start()
    seen = set()
    try:
        for _ in range(300):
            try:
                found = listed(directory(root, f"{data}:/x"))
            except JailError as error:
                assert all(cause.startswith(f"cannot read {data}/sub") for cause in error.causes)
                seen.add("refused")
            else:
                assert "/x/sub/secret" not in found
                seen.add(found["/x/sub"])
    finally:
        is_over.set()
        thread.join()
    assert len(seen) > 1
