"""A world: the description of a small root directory with one program to start in it, and how it is put on disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LDCONFIG = shutil.which("ldconfig", path="/sbin:/usr/sbin:/bin:/usr/bin") or ""
LOADER = "/lib64/ld-linux-x86-64.so.2"  # where PT_INTERP of this machine's programs says it is
PROGRAM = "/bin/prog"

TAGS = {
    "NEEDED": 1,
    "SONAME": 14,
    "RPATH": 15,
    "RUNPATH": 29,
    "FLAGS_1": 0x6FFFFFFB,
    "FILTER": 0x7FFFFFFF,
    "AUXILIARY": 0x7FFFFFFD,
    "AUDIT": 0x6FFFFEFC,
    "DEPAUDIT": 0x6FFFFEFB,
}
NODEFLIB = ("FLAGS_1", 0x800)
PIE = ("FLAGS_1", 0x08000000)

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_ENTRY = struct.Struct("<qQ")
_BASE = 0x400000  # where ET_EXEC stands

# Writes l_name of each link map that r_debug leads to, a line each, and ends (x86-64). The four bytes at _TO_DEBUG are
# how far it is from the end of the first instruction to the value of DT_DEBUG.
_LISTING = bytes.fromhex(
    "488b1d00000000"  # mov rbx, [rip + …]     r_debug
    "488b5b08"  # mov rbx, [rbx + 8]           r_map
    "4885db7430"  # next: test rbx, rbx; jz end
    "488b730831d2"  # mov rsi, [rbx + 8]; xor edx, edx
    "803c16007404ffc2ebf6"  # its length into edx
    "bf0100000089f80f05"  # write(1, rsi, edx)
    "6a0a4889e6ba0100000089d789d00f0558"  # write(1, "\n", 1)
    "488b5b18ebcb"  # mov rbx, [rbx + 24]; jmp next
    "31ffb83c0000000f05"  # end: exit(0)
)
_TO_DEBUG = 3

# What can be wrong with a file: the bytes that differ, by offset; None cuts it off there
FLAWS: dict[str, dict[int, bytes | None]] = {
    "32-bit": {4: b"\1", 18: b"\3\0"},
    "x32": {4: b"\1"},
    "for aarch64": {18: b"\xb7\0"},
    "for aarch64, relocatable": {16: b"\1", 18: b"\xb7\0"},
    "for aarch64, of another phentsize": {18: b"\xb7\0", 54: b"\1"},
    "32-bit, big-endian": {4: b"\1", 5: b"\2"},
    "32-bit, of another OS": {4: b"\1", 7: b"\x09"},
    "of no class": {4: b"\0"},
    "of class 9": {4: b"\x09"},
    "OS ABI GNU": {7: b"\3"},
    "OS ABI GNU, version 1": {7: b"\3", 8: b"\1"},
    "for aarch64, of another OS": {7: b"\x09", 18: b"\xb7\0"},
    "for aarch64, big-endian": {5: b"\2", 18: b"\xb7\0"},
    "for aarch64 big-endian": {5: b"\2", 18: b"\0\xb7"},
    "for x86-64 big-endian": {5: b"\2", 18: b"\0\x3e"},
    "for aarch64, padded, of no byte order": {5: b"\0", 15: b"\1", 18: b"\xb7\0"},
    "big-endian": {5: b"\2"},
    "of no byte order": {5: b"\0"},
    "of ident version 2": {6: b"\2"},
    "of version 2": {20: b"\2"},
    "for aarch64, of version 2": {18: b"\xb7\0", 20: b"\2"},
    "OS ABI FreeBSD": {7: b"\x09"},
    "of ABI version 1": {8: b"\1"},
    "of ABI version 3": {8: b"\3"},
    "padded": {15: b"\1"},
    "relocatable": {16: b"\1"},
    "a core": {16: b"\4"},
    "of another phentsize": {54: b"\1"},
    "without segments": {56: b"\0\0"},
    "only a magic number": {4: None},
    "cut in its header": {40: None},
    "cut to 64 bytes": {64: None},
    "cut in its segments": {150: None},
}


class Elf(NamedTuple):
    """An object file with a dynamic section of these tags, in this order; a program if it has an interpreter."""

    tags: tuple[tuple[str, str | int], ...] = ()
    interpreter: str = ""
    exec: bool = False  # ET_EXEC instead of ET_DYN
    dynamic: bool = True
    flaw: str = ""
    lists: bool = False  # when it is started it writes the names of all that is loaded

    def __str__(self) -> str:
        words = ["program of " + self.interpreter if self.interpreter else "library"]
        words += ["ET_EXEC"] * self.exec + ["without a dynamic section"] * (not self.dynamic)
        words += [self.flaw] if self.flaw else []
        words += [f"{tag}={value:#x}" if isinstance(value, int) else f"{tag}={value!r}" for tag, value in self.tags]
        return " ".join(words)

    def image(self) -> bytes:
        """Return the file."""
        base = _BASE if self.exec else 0
        count = 3 + self.dynamic + bool(self.interpreter)
        strings = b"\0"
        at: dict[str, int] = {}
        texts = [self.interpreter, *(value for _, value in self.tags if isinstance(value, str))]
        for text in texts:
            if text not in at:
                at[text] = len(strings)
                strings += os.fsencode(text) + b"\0"
        segments_at = _HEADER.size
        dynamic_at = segments_at + count * _SEGMENT.size
        entries = [(TAGS[tag], at[value] if isinstance(value, str) else value) for tag, value in self.tags]
        if self.lists:
            entries.insert(0, (21, 0))  # DT_DEBUG
        strings_at = dynamic_at + (len(entries) + 6) * _ENTRY.size * self.dynamic
        symbols_at = strings_at + len(strings) + -len(strings) % 8
        hash_at = symbols_at + 24
        code_at = hash_at + 16
        code = bytearray(_LISTING) if self.lists else b""
        if isinstance(code, bytearray):
            code[_TO_DEBUG : _TO_DEBUG + 4] = struct.pack("<i", dynamic_at + 8 - (code_at + _TO_DEBUG + 4))
        end = code_at + len(code)
        # DT_STRTAB, DT_STRSZ, DT_SYMTAB, DT_SYMENT, DT_HASH, DT_NULL
        entries += [(5, base + strings_at), (10, len(strings)), (6, base + symbols_at), (11, 24), (4, base + hash_at)]
        entries.append((0, 0))
        dynamic = b"".join(_ENTRY.pack(*entry) for entry in entries) if self.dynamic else b""

        def segment(kind: int, flags: int, place: int, size: int, align: int) -> bytes:
            return _SEGMENT.pack(kind, flags, place, base + place, base + place, size, size, align)

        segments = segment(6, 4, segments_at, count * _SEGMENT.size, 8)  # PT_PHDR
        if self.interpreter:
            segments += segment(3, 4, strings_at + at[self.interpreter], len(os.fsencode(self.interpreter)) + 1, 1)
        segments += segment(1, 7 if self.lists else 6, 0, end, 4096)  # PT_LOAD
        if self.dynamic:
            segments += segment(2, 6, dynamic_at, len(dynamic), 8)
        segments += _SEGMENT.pack(0x6474E551, 6, 0, 0, 0, 0, 0, 16)  # PT_GNU_STACK
        ident = b"\x7fELF\2\1\1".ljust(16, b"\0")
        kind, entry = 2 if self.exec else 3, base + code_at if code else base
        header = _HEADER.pack(ident, kind, 62, 1, entry, segments_at, 0, 0, 64, 56, count, 64, 0, 0)
        image = bytearray(header + segments + dynamic + strings).ljust(hash_at, b"\0")
        image += struct.pack("<4I", 1, 1, 0, 0) + code
        for place, value in FLAWS[self.flaw].items() if self.flaw else ():
            if value is None:
                del image[place:]
            else:
                image[place : place + len(value)] = value
        return bytes(image)


class Link(NamedTuple):
    """A symbolic link."""

    target: str

    def __str__(self) -> str:
        return f"-> {self.target}"


class Hard(NamedTuple):
    """Another name of the file at `path`, which comes earlier."""

    path: str

    def __str__(self) -> str:
        return f"= {self.path}"


class Data(NamedTuple):
    """A file of these bytes."""

    content: bytes = b""

    def __str__(self) -> str:
        return f"bytes {self.content!r}"


class Directory(NamedTuple):
    """A directory."""

    mode: int = 0o755

    def __str__(self) -> str:
        return f"directory {self.mode:o}"


class Copied(NamedTuple):
    """A file of this machine."""

    source: str

    def __str__(self) -> str:
        return f"copy of this machine's {self.source}"


Thing = Elf | Link | Hard | Data | Directory | Copied


class Node(NamedTuple):
    """What stands at a path."""

    path: str
    thing: Thing
    mode: int | None = None
    when: str = ""  # "gone": removed after ldconfig; "late": put there after it

    def __str__(self) -> str:
        words = [self.path, str(self.thing)]
        words += [f"mode {self.mode:o}"] if self.mode is not None else []
        words += {"": [], "gone": ["(removed after ldconfig)"], "late": ["(made after ldconfig)"]}[self.when]
        return " ".join(words)


class World(NamedTuple):
    """A root and what is started in it. Nodes are made in their order, with the directories above them."""

    nodes: tuple[Node, ...]
    program: str = PROGRAM
    library_path: str = ""
    preload: tuple[str, ...] = ()
    conf: tuple[str, ...] | None = None  # of ldconfig; None: there is no cache
    plain_user: bool = False  # started by somebody who is not root

    def __str__(self) -> str:
        lines = [f"run {self.program}" + " as a plain user" * self.plain_user]
        lines += [f"LD_LIBRARY_PATH={self.library_path}"] if self.library_path else []
        lines += [f"LD_PRELOAD={':'.join(self.preload)}"] if self.preload else []
        lines += [f"ldconfig with ld.so.conf: {' '.join(self.conf)}"] if self.conf is not None else []
        return "\n".join([*lines, *map(str, self.nodes)])

    def build(self, root: Path, template: Path) -> None:
        """Put the world into the empty directory `root`; a node that cannot be made is left out."""
        top = str(root)
        made = [node for node in self.nodes if node.when != "late" and _make(top, node, template)]
        if self.conf is not None:
            _put(f"{top}/etc/ld.so.conf", "".join(line + "\n" for line in self.conf).encode())
            os.makedirs(f"{top}/etc", exist_ok=True)
            subprocess.run([LDCONFIG, "-r", top], capture_output=True, check=False, env={"LC_ALL": "C"})
        for node in self.nodes:
            if node.when == "late":
                if _make(top, node, template):
                    made.append(node)
            elif node.when == "gone":
                with contextlib.suppress(OSError):
                    os.unlink(_inside(top, node.path))
        for node in reversed(made):
            mode = node.thing.mode if isinstance(node.thing, Directory) else node.mode
            if mode is not None:
                with contextlib.suppress(OSError):
                    path = _inside(top, node.path)
                    if not os.path.islink(path):  # which would lead out of the world
                        os.chmod(path, mode)


def _inside(top: str, path: str) -> str:
    """Return the host's path of the node at `path`: the links of its directory followed inside the root."""
    real = ""
    todo = os.path.dirname(path).split("/")[::-1]
    for _ in range(200):
        if not todo:
            return f"{top}{real}/{os.path.basename(path)}"
        name = todo.pop()
        if name == "..":
            real = os.path.dirname(real)
        elif name not in ("", "."):
            here = f"{top}{real}/{name}"
            if os.path.islink(here):
                target = os.readlink(here)
                real = "" if target.startswith("/") else real
                todo += target.split("/")[::-1]
            else:
                real += "/" + name
    raise OSError(f"too many links in {path}")


def _put(path: str, content: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "xb") as file:
        file.write(content)


def _make(top: str, node: Node, template: Path) -> bool:
    try:
        path = _inside(top, node.path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        thing = node.thing
        if isinstance(thing, Elf):
            _put(path, thing.image())
            os.chmod(path, 0o755)
        elif isinstance(thing, Data):
            _put(path, thing.content)
            os.chmod(path, 0o755)
        elif isinstance(thing, Link):
            os.symlink(thing.target, path)
        elif isinstance(thing, Hard):
            os.link(_inside(top, thing.path), path, follow_symlinks=False)
        elif isinstance(thing, Directory):
            os.mkdir(path)
        else:
            kept = template / os.path.basename(thing.source)
            if not kept.exists():
                shutil.copy(thing.source, kept)
            os.link(kept, path)
    except OSError:
        return False
    return True


class Workshop:
    """Where worlds are made, one at a time; nothing stays."""

    def __init__(self, parent: str | None = None) -> None:
        self._made = tempfile.TemporaryDirectory(prefix="worlds-", dir=parent, ignore_cleanup_errors=True)
        top = Path(self._made.name)
        top.chmod(0o755)
        self.template = top / "template"
        self.template.mkdir()
        self._rooms = top / "rooms"
        self._rooms.mkdir()
        self._count = 0

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, *_: object) -> None:
        self._made.cleanup()

    @contextlib.contextmanager
    def built(self, world: World) -> Iterator[Path]:
        """Build a world, give its directory, and take it down again."""
        self._count += 1
        root = self._rooms / str(self._count)
        root.mkdir()
        try:
            world.build(root, self.template)
            yield root
        finally:
            shutil.rmtree(root, ignore_errors=True)
