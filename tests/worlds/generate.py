"""Random worlds: the same seed gives the same world."""

from __future__ import annotations

import random

from tests.worlds.world import (
    FLAWS,
    LOADER,
    NODEFLIB,
    PIE,
    PROGRAM,
    Copied,
    Data,
    Directory,
    Elf,
    Hard,
    Link,
    Node,
    Thing,
    World,
)

MULTIARCH = "lib/x86_64-linux-gnu"
NAMES = ("liba.so.1", "libb.so", "libc1.so", "libd.so.2", "libe.so", "libf.so")
DEFAULTS = (f"/{MULTIARCH}", f"/usr/{MULTIARCH}", "/lib", "/usr/lib")
PLACES = ("/opt/a", "/opt/b", "/opt/a/sub", "/srv", "/bin", "/lib64", "/usr/local/lib")
ODD_PLACES = ("/opt/x86_64", "/opt/$FOO", "/$ORIGINAL", "/opt/haswell", f"/opt/{MULTIARCH}")
BELOW = (
    "glibc-hwcaps/x86-64-v2",
    "glibc-hwcaps/x86-64-v3",
    "glibc-hwcaps/x86-64-v4",
    "tls",
    "x86_64",
    "tls/x86_64",
    "x86_64/x86_64",
    "tls/x86_64/x86_64",
    "haswell",
    "tls/haswell/x86_64",
    "avx512_1",
    "haswell/avx512_1",
)
ELEMENTS = (
    "/opt/a",
    "/opt/b",
    "/opt/a/sub",
    "/srv",
    "/lib",
    "/usr/lib",
    f"/{MULTIARCH}",
    "/usr/local/lib",
    "/lib64",
)
TOKENS = (
    "$ORIGIN",
    "${ORIGIN}",
    "$ORIGIN/",
    "$ORIGIN/../opt/a",
    "${ORIGIN}/../b",
    "$ORIGIN/sub",
    "/$LIB",
    "/usr/${LIB}",
    "/opt/$LIB",
    "/opt/$PLATFORM",
    "/opt/${PLATFORM}/",
    "$ORIGINAL",
    "/opt/$FOO",
    "${ORIGIN",
    "$ORIGIN}",
    "$LIBX",
    "$",
    "$ORIGIN:$ORIGIN/sub",
    "/opt/$$LIB",
    "/opt/${FOO}",
    "$ORIGIN/$LIB",
    "$ORIGIN//..//opt/b",
    "$LIB",
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
    "/opt/link",
    "/opt/b/up",
    "/nowhere",
    "/opt/a/liba.so.1",
    "bin/prog",
    "bin/prog/x",
    "/opt/loop",
    "/opt/a/../b",
    "opt/nowhere",
    "opt/loop",
    "./",
    "/",
    "//",
    "/./",
    "/",
    "/:/",
)
HARMLESS = (
    "32-bit",
    "for aarch64",
    "for aarch64, relocatable",
    "x32",
    "32-bit, big-endian",
    "32-bit, of another OS",
    "for aarch64, of another phentsize",
    "for aarch64, of another OS",
    "for aarch64, big-endian",
    "for aarch64 big-endian",
    "for x86-64 big-endian",
    "for aarch64, padded, of no byte order",
    "of no class",
    "of class 9",
    "OS ABI GNU",
)
HARMFUL = tuple(flaw for flaw in FLAWS if flaw not in HARMLESS)


class _Maker:
    """The making of one world. Each feature is on or off in the whole of it, so that few meet at a time."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.nodes: list[Node] = []
        features = (
            "tokens",
            "odd lists",
            "odd places",
            "below",
            "slashes",
            "nodeflib",
            "filters",
            "links",
            "harmless",
            "harmful",
            "cache",
            "cache of levels",
            "stale",
            "library path",
            "preload",
            "preload file",
            "both tags",
            "libc",
            "directory links",
            "plain user",
            "interpreter",
            "odd needs",
            "odd programs",
        )
        rare = {
            "harmful": 0.15,
            "interpreter": 0.15,
            "odd programs": 0.1,
            "filters": 0.2,
            "plain user": 0.2,
            "libc": 0.2,
        }
        self.on = {feature for feature in features if self.chance.random() < rare.get(feature, 0.3)}
        self.files: list[str] = []

    def roll(self, probability: float, feature: str = "") -> bool:
        return (not feature or feature in self.on) and self.chance.random() < probability

    def place(self) -> str:
        if self.roll(0.25, "odd places"):
            place = self.chance.choice(ODD_PLACES)
        else:
            place = self.chance.choice(DEFAULTS if self.roll(0.5) else PLACES)
        if self.roll(0.3, "below"):
            place = f"{place.rstrip('/')}/{self.chance.choice(BELOW)}"
        return place.rstrip("/")

    def directories(self) -> str:
        elements = []
        for _ in range(self.chance.randint(1, 3)):
            if self.roll(0.5, "tokens"):
                elements.append(self.chance.choice(TOKENS))
            elif self.roll(0.5, "odd lists"):
                elements.append(self.chance.choice(ODD_ELEMENTS))
            else:
                elements.append(self.chance.choice(ELEMENTS))
        return ":".join(elements)

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
                    f"/$LIB/{name}",
                    f"${{ORIGIN}}/sub/{name}",
                    f"/opt/a//{name}",
                    f"//{name}",
                    f"./opt/b/{name}",
                    f"/opt/a/../b/{name}",
                    f"/opt/link/{name}",
                    self.chance.choice(self.files or ["/nowhere/libx.so"]),
                )
            )
        if self.roll(0.2, "odd needs"):
            return self.chance.choice(
                (
                    "ld-linux-x86-64.so.2",
                    LOADER,
                    "linux-vdso.so.1",
                    "prog",
                    "$LIB",
                    "$ORIGIN",
                    "$FOO",
                    "libprog.so",
                    "lib$ORIGINAL.so",
                    "/lib/ld-linux-x86-64.so.2",
                    "",
                    ".",
                    "..",
                    "/",
                    "lib" + "x" * 260 + ".so",
                    f"/{MULTIARCH}/ld-linux-x86-64.so.2",
                    "liba.so.01",
                )
            )
        if self.roll(0.3, "libc"):
            return self.chance.choice(("libc.so.6", "libm.so.6"))
        return self.chance.choice(NAMES)

    def tags(self, name: str, program: bool = False) -> tuple[tuple[str, str | int], ...]:
        tags: list[tuple[str, str | int]] = []
        low, high = (1, 4) if program else (0, 3)
        tags += [("NEEDED", self.need()) for _ in range(self.chance.randint(low, high))]
        if not program and self.roll(0.7):
            tags.append(("SONAME", name if self.roll(0.7) else self.chance.choice((*NAMES, "libother.so"))))
        elif program and self.roll(0.1):
            tags.append(("SONAME", self.chance.choice(("libprog.so", *NAMES))))
        if self.roll(0.5 if program else 0.3):
            tags.append((self.chance.choice(("RPATH", "RUNPATH")), self.directories()))
        if self.roll(0.2, "both tags"):
            tags += [("RPATH", self.directories()), ("RUNPATH", self.directories())]
        if self.roll(0.3, "nodeflib"):
            tags.append(NODEFLIB)
        if self.roll(0.25, "filters"):
            tags.append((self.chance.choice(("FILTER", "AUXILIARY")), self.need()))
        if self.roll(0.5):
            self.chance.shuffle(tags)
        return tuple(tags)

    def thing(self, name: str) -> Thing:
        if self.files and self.roll(0.3, "links"):
            other = self.chance.choice(self.files)
            if self.roll(0.3):
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
                    )
                )
            )
        if self.roll(0.25, "harmless"):
            return Elf(self.tags(name), flaw=self.chance.choice(HARMLESS))
        if self.roll(0.15, "harmful"):
            return self.chance.choice(
                (
                    Elf(self.tags(name), flaw=self.chance.choice(HARMFUL)),
                    Elf((*self.tags(name), PIE)),
                    Elf(self.tags(name), exec=True),
                    Elf(dynamic=False),
                    Elf(dynamic=False, exec=True),
                    Data(),
                    Data(b"#!/bin/sh\n"),
                    Data(b"INPUT(liba.so.1)\n" * 40),
                    Directory(),
                    Elf(self.tags(name), exec=True, flaw="for aarch64"),
                    Elf((*self.tags(name), PIE), LOADER),
                )
            )
        return Elf(self.tags(name))

    def root(self) -> tuple[list[Node], str]:
        """Return the directories and the loader, and where PT_INTERP says it is."""
        nodes = []
        if self.roll(0.5):  # usrmerge
            nodes += [Node(f"/usr/{name}", Directory()) for name in ("bin", "lib", "lib64")]
            nodes += [Node(f"/{name}", Link(f"usr/{name}")) for name in ("bin", "lib", "lib64")]
        elif self.roll(0.2):
            nodes += [Node("/lib", Directory()), Node("/lib64", Link("lib"))]
        interpreter = LOADER
        real = f"/{MULTIARCH}/ld-linux-x86-64.so.2"
        if self.roll(0.3, "interpreter"):
            interpreter = real = "/opt/ld.so"
        nodes.append(Node(real, Copied(LOADER)))
        if real != interpreter:
            nodes.append(Node(interpreter, Link(real)))
        if self.roll(0.4, "interpreter"):
            nodes.append(
                Node(
                    f"{self.chance.choice(DEFAULTS + PLACES)}/ld-linux-x86-64.so.2",
                    self.chance.choice((Hard(real), Elf(), Link(real))),
                )
            )
        if self.roll(0.1, "interpreter"):
            interpreter = self.chance.choice(("/nowhere/ld.so", "opt/ld.so", "/opt/a", "/lib"))
        return nodes, interpreter

    def make(self) -> World:
        nodes, interpreter = self.root()
        if "libc" in self.on:
            paths = (f"/{MULTIARCH}/{name}" for name in ("libc.so.6", "libm.so.6"))
            nodes += [Node(path, Copied(path)) for path in paths]
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
        if "plain user" in self.on and self.roll(0.3):
            nodes.append(Node(self.chance.choice(PLACES), Directory(self.chance.choice((0o700, 0o711, 0o744)))))
        for _ in range(self.chance.randint(4, 22)):
            name = self.chance.choice(NAMES)
            path = f"{self.place()}/{name}"
            node = Node(path, self.thing(name))
            if not isinstance(node.thing, Link | Directory) and self.roll(0.3, "plain user"):
                node = node._replace(mode=self.chance.choice((0, 0o600, 0o644, 0o711)))
            if self.roll(0.25, "stale"):
                node = node._replace(when=self.chance.choice(("gone", "late")))
            nodes.append(node)
            self.files.append(path)
        program, more = self.program(interpreter)
        nodes += more
        preload: tuple[str, ...] = ()
        if self.roll(0.7, "preload"):
            preload = tuple(self.preload() for _ in range(self.chance.randint(1, 3)))
        if self.roll(0.7, "preload file"):
            separator = self.chance.choice((" ", "\n", "\t", ":", " : ", "\n# liba.so.1 is no name\n", "#x\n"))
            text = separator.join(self.preload() for _ in range(self.chance.randint(1, 3)))
            nodes.append(Node("/etc/ld.so.preload", Data((text + self.chance.choice(("", "\n", " "))).encode()), 0o644))
        library_path = ""
        if self.roll(0.7, "library path"):
            library_path = self.directories()
            if self.roll(0.3):
                library_path = library_path.replace(":", ";")
        conf = None
        if "cache" in self.on or "cache of levels" in self.on:
            conf = tuple(place for place in (*PLACES[:4], "/usr/local/lib") if self.roll(0.4))
        return World(tuple(nodes), program, library_path, preload, conf, "plain user" in self.on)

    def preload(self) -> str:
        name = self.need()
        return name if name and not set(name) & set(" :;\n\t#") else "libb.so"

    def program(self, interpreter: str) -> tuple[str, list[Node]]:
        made = Elf(self.tags("", program=True), interpreter, exec=self.roll(0.2))
        if self.roll(0.3) and not made.exec:
            made = made._replace(tags=(*(tag for tag in made.tags if tag[0] != "FLAGS_1"), PIE))
        if self.roll(0.5, "odd programs"):
            made = made._replace(flaw=self.chance.choice(tuple(FLAWS)))
        if self.roll(0.2):
            path, link = self.chance.choice(
                (
                    ("/opt/a/prog", "../opt/a/prog"),
                    ("/srv/prog", "/srv/prog"),
                    ("/opt/a/sub/prog", "/opt/a/sub/../sub/prog"),
                )
            )
            return PROGRAM, [Node(path, made), Node(PROGRAM, Link(link))]
        return PROGRAM, [Node(PROGRAM, made)]


def world(seed: int) -> World:
    """Return the world of a seed."""
    return _Maker(seed).make()
