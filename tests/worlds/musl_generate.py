"""Random worlds of musl: the same seed gives the same world."""

from __future__ import annotations

import random

from tests.worlds.musl_oracle import LIBC, LOADER
from tests.worlds.world import PIE, PROGRAM, Copied, Data, Directory, Elf, Hard, Link, Node, Thing, World

REAL = "/lib/x86_64-linux-musl/libc.so"
GLIBC = "/lib/x86_64-linux-gnu/libc.so.6"
NAMES = ("liba.so.1", "libb.so", "libc1.so", "libd.so.2", "libe.so", "libf.so")
DEFAULTS = ("/lib", "/usr/local/lib", "/usr/lib")
PLACES = ("/opt/a", "/opt/b", "/opt/a/sub", "/srv", "/bin", "/lib/x86_64-linux-musl", "/lib64")
ODD_PLACES = ("/opt/$FOO", "/$ORIGINAL", "/opt/aAL", "/binAL", "/opt/a b", "/opt/;")
ELEMENTS = (*DEFAULTS, *PLACES)
TOKENS = (
    "$ORIGIN",
    "${ORIGIN}",
    "$ORIGIN/",
    "$ORIGIN/../opt/a",
    "${ORIGIN}/../b",
    "$ORIGIN/sub",
    "$ORIGINAL",
    "${ORIGIN}AL",
    "/opt/$FOO",
    "/$LIB",
    "${ORIGIN",
    "$ORIGIN}",
    "$",
    "$ORIGIN:$ORIGIN/sub",
    "$ORIGIN//..//opt/b",
    "$origin",
    "/$ORIGINAL",
    "$$ORIGIN",
    "/opt/a$ORIGIN/../../opt/b",
    "$PLATFORM",
    "/opt/b/$",
)
ODD_ELEMENTS = (
    "",
    ".",
    "opt/a",
    "./opt/b",
    "..",
    "//opt/a",
    "/opt//a",
    "/opt/a/",
    "/opt/b//",
    "opt/b/",
    "/opt/a;/opt/b",
    "/opt/;",
    "/opt/link",
    "/opt/b/up",
    "/nowhere",
    "/opt/a/liba.so.1",
    "bin/prog",
    "/opt/loop",
    "/opt/a/../b",
    "opt/nowhere",
    "/",
    "//",
    "/:/",
    "/opt/a\n/opt/b",
    "\n",
    "::",
    "/opt/a b",
    " /opt/a",
    "/" + "./" * 245 + "opt/a",
    "/" + "./" * 247 + "opt/a",
    "/" + "./" * 251 + "opt/a",
    "/" + "x" * 300,
    "/opt/\x7f",
)
RESERVED = (
    "libc.so",
    "libc.so.6",
    "libm.so.6",
    "libpthread.so.0",
    "librt.so.1",
    "libdl.so.2",
    "libutil.so.1",
    "libxnet.so",
    "libc.musl-x86_64.so.1",
    "libc.",
    "libm.x/liba.so.1",
    "libc.so/../../opt/a/libb.so",
)
ODD_NEEDS = (
    "ld-musl-x86_64.so.1",
    LOADER,
    "//lib/ld-musl-x86_64.so.1",
    REAL,
    "linux-gate.so.1",
    "prog",
    PROGRAM,
    "$ORIGIN",
    "lib$ORIGINAL.so",
    "",
    ".",
    "..",
    "/",
    "lib" + "x" * 249 + ".so",
    "lib" + "x" * 250 + ".so",
    "lib" + "x" * 260,
    "libmusl.so",
    "libcc.so",
    "libc",
    "libc-2.so",
    "liba.so.01",
    "./",
    "opt/a",
    "/opt/ld.so",
    "ld.so",
)
# What musl does not look at, and what it refuses. A library of another machine it maps, and fails to relocate it.
HARMLESS = (
    "OS ABI GNU",
    "OS ABI FreeBSD",
    "of ABI version 1",
    "padded",
    "of ident version 2",
    "of version 2",
    "big-endian",
    "of no byte order",
    "of no class",
    "of class 9",
    "x32",
)
HARMFUL = (
    "relocatable",
    "a core",
    "without segments",
    "only a magic number",
    "cut in its header",
    "cut to 64 bytes",
    "cut in its segments",
)
INTERPRETERS = (
    "/opt/ld.so",
    "/opt/musl/lib/ld-musl-x86_64.so.1",
    "/ld.so",
    "lib/ld-musl-x86_64.so.1",
    "//lib//ld.so",
    "/opt/../lib/ld-musl-x86_64.so.1",
    "/opt/musl/lib/../lib/ld.so",
    "/lib64/ld-linux-x86-64.so.2",
)
PREFIXES = ("", "/opt/musl", "/opt", "/opt/..", "/opt/musl/lib/..", "/lib", "/usr")


class _Maker:
    """The making of one world. Each feature is on or off in the whole of it, so that few meet at a time."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.nodes: list[Node] = []
        features = (
            "tokens",
            "odd lists",
            "odd places",
            "slashes",
            "links",
            "harmless",
            "harmful",
            "path file",
            "odd path file",
            "library path",
            "preload",
            "both tags",
            "reserved",
            "libcs",
            "directory links",
            "plain user",
            "interpreter",
            "odd needs",
            "exec",
        )
        rare = {"harmful": 0.15, "interpreter": 0.15, "plain user": 0.2, "odd path file": 0.1, "exec": 0.1}
        self.on = {feature for feature in features if self.chance.random() < rare.get(feature, 0.3)}
        self.files: list[str] = []

    def roll(self, probability: float, feature: str = "") -> bool:
        return (not feature or feature in self.on) and self.chance.random() < probability

    def place(self) -> str:
        if self.roll(0.25, "odd places"):
            return self.chance.choice(ODD_PLACES)
        return self.chance.choice(DEFAULTS if self.roll(0.5) else PLACES)

    def directories(self) -> str:
        elements = []
        for _ in range(self.chance.randint(1, 3)):
            if self.roll(0.5, "tokens"):
                elements.append(self.chance.choice(TOKENS))
            elif self.roll(0.5, "odd lists"):
                elements.append(self.chance.choice(ODD_ELEMENTS))
            else:
                elements.append(self.chance.choice(ELEMENTS))
        return (":" if self.roll(0.8) else "\n").join(elements)

    def need(self) -> str:
        if self.roll(0.3, "slashes"):
            name = self.chance.choice(NAMES)
            return self.chance.choice(
                (
                    f"/opt/a/{name}",
                    f"/opt/b/{name}",
                    f"$ORIGIN/{name}",
                    f"./{name}",
                    f"opt/a/{name}",
                    f"/opt//a/{name}",
                    f"/opt/a//{name}",
                    f"//{name}",
                    f"/opt/a/../b/{name}",
                    f"/opt/link/{name}",
                    f"/lib/{name}",
                    self.chance.choice(self.files or ["/nowhere/libx.so"]),
                )
            )
        if self.roll(0.2, "odd needs"):
            return self.chance.choice(ODD_NEEDS)
        if self.roll(0.3, "reserved"):
            return self.chance.choice(RESERVED)
        if self.roll(0.2):
            return "libc.so"
        return self.chance.choice(NAMES)

    def tags(self, name: str, program: bool = False) -> tuple[tuple[str, str | int], ...]:
        tags: list[tuple[str, str | int]] = []
        low, high = (1, 4) if program else (0, 3)
        tags += [("NEEDED", self.need()) for _ in range(self.chance.randint(low, high))]
        if not program and self.roll(0.5):
            tags.append(("SONAME", name if self.roll(0.5) else self.chance.choice((*NAMES, "libother.so"))))
        if self.roll(0.5 if program else 0.3):
            tags.append((self.chance.choice(("RPATH", "RUNPATH")), self.directories()))
        if self.roll(0.2, "both tags"):
            tags += [("RPATH", self.directories()), ("RUNPATH", self.chance.choice((self.directories(), "")))]
        if self.roll(0.05):
            tags.append((self.chance.choice(("FILTER", "AUXILIARY", "AUDIT")), self.need()))
        if self.roll(0.5):
            self.chance.shuffle(tags)
        return tuple(tags)

    def thing(self, name: str) -> Thing:
        if self.files and self.roll(0.3, "links"):
            other = self.chance.choice(self.files)
            if self.roll(0.4):
                return Hard(other)
            return Link(
                other
                if self.roll(0.6)
                else self.chance.choice(
                    (
                        other.rpartition("/")[2],
                        "nowhere",
                        name,
                        "/bin",
                        f"{other}/x",
                        self.chance.choice(NAMES),
                        "../" + name,
                        PROGRAM,
                    )
                )
            )
        if self.roll(0.2, "libcs"):
            if "plain user" in self.on:  # the modes of what has the loader's inode are the loader's
                return self.chance.choice((Link(REAL), Copied(GLIBC)))
            return self.chance.choice((Link(REAL), Hard(REAL), Copied(LIBC), Copied(GLIBC)))
        if self.roll(0.25, "harmless"):
            return Elf(self.tags(name), flaw=self.chance.choice(HARMLESS))
        if self.roll(0.1, "exec"):
            return Elf(self.tags(name), exec=True)
        if self.roll(0.15, "harmful"):
            return self.chance.choice(
                (
                    Elf(self.tags(name), flaw=self.chance.choice(HARMFUL)),
                    Elf(dynamic=False),
                    Data(),
                    Data(b"#!/bin/sh\n"),
                    Data(b"INPUT(liba.so.1)\n" * 40),
                    Directory(),
                )
            )
        if self.roll(0.05):
            return Elf((*self.tags(name), PIE), self.chance.choice(("", LOADER)))
        return Elf(self.tags(name))

    def root(self) -> tuple[list[Node], str]:
        """Return the directories and the loader, and where PT_INTERP says it is."""
        nodes = []
        if self.roll(0.5):  # usrmerge
            nodes += [Node(f"/usr/{name}", Directory()) for name in ("bin", "lib", "lib64")]
            nodes += [Node(f"/{name}", Link(f"usr/{name}")) for name in ("bin", "lib", "lib64")]
        interpreter = LOADER
        if self.roll(0.7, "interpreter"):
            interpreter = self.chance.choice(INTERPRETERS)
            if "/../" in interpreter:
                nodes += [Node("/opt/musl/lib", Directory())]
        nodes.append(Node(REAL, Copied(LIBC)))
        at = interpreter if interpreter.startswith("/") else f"/{interpreter}"
        nodes.append(Node(at, Hard(REAL) if self.roll(0.3) else Link(REAL)))
        if interpreter == "/opt/../lib/ld-musl-x86_64.so.1":
            nodes.append(Node(LOADER, Link(REAL)))
        if self.roll(0.1, "interpreter"):
            interpreter = self.chance.choice(("/nowhere/ld-musl-x86_64.so.1", "opt/ld.so", "/opt/a", "/lib"))
        return nodes, interpreter

    def path_file(self) -> list[Node]:
        path = f"{self.chance.choice(PREFIXES) if self.roll(0.7, 'interpreter') else ''}/etc/ld-musl-x86_64.path"
        if self.roll(0.7, "odd path file"):
            return [
                Node(
                    path,
                    self.chance.choice(
                        (
                            Directory(),
                            Link("ld-musl-x86_64.path"),
                            Link("nowhere"),
                            Data(b""),
                            Data(b"\n\n"),
                            Link("/opt/list"),
                            Data(b"/opt/a\0:/opt/b"),
                            Data(b"\0/opt/a"),
                            Data(b"/opt/a\r\n/opt/b"),
                            Data(b" /opt/a"),
                            Data(b"# /opt/a\n/opt/b"),
                            Data(b"/opt/a;/opt/b"),
                            Data(b"$ORIGIN\n/opt/a"),
                            Data(b"/nowhere/" * 900),
                        )
                    ),
                    0 if self.roll(0.3, "plain user") else None,
                ),
                Node("/opt/list", Data(b"/opt/b")),
            ]
        text = self.chance.choice((":", "\n", "\n\n", ":\n")).join(
            self.chance.choice(ODD_ELEMENTS if self.roll(0.4, "odd lists") else ELEMENTS)
            for _ in range(self.chance.randint(1, 4))
        )
        return [Node(path, Data((text + self.chance.choice(("", "\n", ":", "\n\n"))).encode()))]

    def make(self) -> World:
        nodes, interpreter = self.root()
        if "directory links" in self.on:
            nodes += [
                Node(path, Link(target))
                for path, target in (
                    ("/opt/link", "a"),
                    ("/opt/b/up", "../a"),
                    ("/opt/loop", "loop"),
                    ("/srv", "/opt/b"),
                    ("/usr/local/lib", "/nowhere"),
                )
                if self.roll(0.5)
            ]
        if self.roll(0.8, "path file") or self.roll(0.5, "odd path file"):
            nodes += self.path_file()
        if "plain user" in self.on and self.roll(0.3):
            nodes.append(Node(self.chance.choice(PLACES), Directory(self.chance.choice((0o700, 0o711, 0o744)))))
        for _ in range(self.chance.randint(4, 22)):
            name = self.chance.choice(NAMES)
            path = f"{self.place()}/{name}"
            node = Node(path, self.thing(name))
            if isinstance(node.thing, Elf | Data) and self.roll(0.3, "plain user"):
                node = node._replace(mode=self.chance.choice((0, 0o600, 0o644, 0o711)))
            nodes.append(node)
            self.files.append(path)
        if self.roll(0.3, "odd needs"):
            nodes.append(Node(f"{self.place()}/{self.chance.choice(ODD_NEEDS[-17:-10])}"[:200], Elf()))
        made = Elf(self.tags("", program=True), interpreter, exec=self.roll(0.2), lists=True)
        if self.roll(0.3) and not made.exec:
            made = made._replace(tags=(*made.tags, PIE))
        program = PROGRAM
        if self.roll(0.2):
            path, link = self.chance.choice(
                (
                    ("/opt/a/prog", "../opt/a/prog"),
                    ("/srv/prog", "/srv/prog"),
                    ("/prog", "../prog"),
                    ("/opt/a/sub/prog", "/opt/a/sub/../sub/prog"),
                )
            )
            nodes += [Node(path, made), Node(PROGRAM, Link(link))]
        else:
            nodes.append(Node(program, made))
        preload: tuple[str, ...] = ()
        if self.roll(0.7, "preload"):
            preload = tuple(self.preload() for _ in range(self.chance.randint(1, 3)))
        library_path = self.directories() if self.roll(0.7, "library path") else ""
        return World(tuple(nodes), program, library_path, preload, None, "plain user" in self.on)

    def preload(self) -> str:
        name = self.need()
        return name if name and not set(name) & set(" :\n\t") else "libb.so"


def world(seed: int) -> World:
    """Return the world of a seed."""
    return _Maker(seed).make()
