"""Files and directories of a root with what the links in them lead to outside of them. Only reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from jailbuild.closure.places import why_not
from jailbuild.closure.trees import Item, Rules, Tree, read_directory, read_file
from jailbuild.errors import JailError
from jailbuild.root import Root, upwards

_FEW = 3
# a link to one of these leads to half a system
_TOO_MUCH = frozenset(
    (
        "/",
        "/bin",
        "/boot",
        "/etc",
        "/home",
        "/lib",
        "/lib64",
        "/media",
        "/mnt",
        "/opt",
        "/root",
        "/run",
        "/sbin",
        "/srv",
        "/tmp",
        "/usr",
        "/usr/bin",
        "/usr/lib",
        "/usr/lib64",
        "/usr/local",
        "/usr/sbin",
        "/usr/share",
        "/var",
        "/var/cache",
        "/var/lib",
        "/var/log",
        "/var/tmp",
    )
)
_GONE = ("/run/", "/tmp/")  # mounted over, or emptied


class Part(NamedTuple):
    """A file or directory that was read; `by` is the link that leads there, "" for what was named."""

    tree: Tree
    named: str  # its entry: what the tree's path is, or a link that leads there
    by: str = ""


def real_path(root: Root, path: str) -> str | None:
    """Return where a path leads, None for nowhere."""
    try:
        return root.walk(path).real
    except OSError:
        return None


def external_targets(root: Root, tree: Tree, rules: Rules) -> tuple[Tree, list[Part], list[str]]:
    """Return a directory, what the links in it lead to elsewhere in `root`, and in words what is left out of that.

    Links that lead nowhere stay in the directory as they are; those to what is left out go.
    """
    following = SymlinkFollower(root, rules, keep_lost=True)
    following.take(tree, tree.path)
    parts = [part for part in following.whole() if part.by]
    if following.refused:
        tree = tree._replace(items=tuple(item for item in tree.items if item.path not in following.refused))
    return tree, parts, following.notes


class SymlinkFollower:
    """What is read, each thing once, and then what links in it lead to, again and again until nothing new is met."""

    def __init__(self, root: Root, rules: Rules, *, keep_lost: bool = False) -> None:
        """Begin with nothing. What cannot be read is left out with a note; a link that leads nowhere as well."""
        self.root = root
        self.rules = rules._replace(is_lenient=True)
        self.keep_lost = keep_lost
        self.parts: dict[str, Part] = {}  # by what was named
        self.roots: set[str] = set()  # of trees, canonical
        self.notes: list[str] = []
        self.laid: list[tuple[str, str]] = []  # what is the user's own there, and the link that leads to it, if any
        self.lost: list[str] = []  # links that lead nowhere
        self.refused: set[str] = set()  # links to what does not come

    def take(self, tree: Tree, path: str, by: str = "") -> None:
        """Take what was read at a path."""
        parent, _, name = path.rpartition("/")
        self.parts[path] = Part(tree, f"{(real_path(self.root, parent or '/') or '').rstrip('/')}/{name}", by)
        if any(item.type == "directory" and item.path == tree.path for item in tree.items):
            self.roots.add(tree.path)

    def read(self, path: str, by: str = "", exclude: tuple[str, ...] = ()) -> None:
        """Read what is at a path, unless it was read before."""
        real = real_path(self.root, path)
        if path in self.parts or real is None or (not by and real in self.roots):
            return
        if self.root.is_laid(real):
            self._read_links(path, real, by)
            return
        if why := why_not(real):
            self.notes.append(f"{path} is left out: {why}")
            return
        try:
            if self.root.is_directory(path):
                tree = read_directory(self.root, path, self.rules.left_out, self.rules._replace(exclude=exclude))
            else:
                tree = read_file(self.root, path, self.rules.left_out, self.rules)
        except JailError as error:
            self.notes += [f"warning: {cause}" for cause in error.causes]
            return
        self.take(tree, path, by)
        self.notes += tree.notes

    def _read_links(self, path: str, real: str, by: str) -> None:
        """Take the links that lead to what is the user's own there; who wants that is told."""
        links = [
            Item(self.root.host_path(link), link, "link", self.root.lstat(link), target)
            for link, target in sorted(self.root.walk(path).links)
        ]
        if links:
            self.take(Tree(real, None, tuple(links), ()), path, by)
        self.laid.append((real, self.parts[path].named if links else ""))

    def whole(self) -> Iterator[Part]:
        """Yield what was read, and what the links in it lead to."""
        done: set[str] = set()
        while todo := [path for path in self.parts if path not in done]:
            for path in todo:
                done.add(path)
                part = self.parts[path]
                gone = {
                    item.path
                    for item in part.tree.items
                    if item.type == "link" and not self._follow(part.tree, item.path)
                }
                if gone and not self.keep_lost:
                    items = tuple(item for item in part.tree.items if item.path not in gone)
                    part = part._replace(tree=part.tree._replace(items=items))
                if part.tree.items:
                    yield part
        if self.lost and not self.keep_lost:
            more = f" and {len(self.lost) - _FEW} more" if len(self.lost) > _FEW else ""
            self.notes.append(f"{', '.join(self.lost[:_FEW])}{more}: links that lead nowhere are left out")

    def _follow(self, tree: Tree, link: str) -> bool:
        """Bring what a link leads to, unless it comes anyway; say whether it leads anywhere."""
        if not link.startswith(f"{tree.path}/"):
            return True  # on the way to the tree
        real = real_path(self.root, link)
        if real is None:
            self.lost.append(link)
            return False
        if real.startswith(f"{tree.path}/") or any(above in self.roots for above in upwards(real)):
            return True
        if why_not(real) or real.startswith(_GONE):
            return True  # there when the box is entered
        if self.root.is_directory(real) and (real in _TOO_MUCH or tree.path.startswith(f"{real}/")):
            self.notes.append(f"{link} leads to {real}, which is not brought")
            return True
        self.read(link, link)
        if link in self.parts and not any(item.path == real for item in self.parts[link].tree.items):
            self.refused.add(link)  # what it leads to is left out as a secret, with a note
            return False
        return True
