"""What `--package NAME` puts into a box: the files that the source root has from one of its packages."""

from __future__ import annotations

import os
import stat

from jailbuild.closure.commands import DOCS, Request
from jailbuild.closure.places import why_not
from jailbuild.closure.secrets import HEAD, secret
from jailbuild.closure.trees import NO_RULES, Item, Rules, Tree
from jailbuild.elf.reader import MAGIC
from jailbuild.errors import JailError, reason
from jailbuild.names import quoted
from jailbuild.packages.documentation import is_documentation
from jailbuild.packages.dpkg import Dpkg
from jailbuild.packages.leftovers import is_proper
from jailbuild.root import Root

_FEW = 10
_SPECIAL = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFBLK: "a device", stat.S_IFCHR: "a device"}


def find_package(root: Root, word: str, rules: Rules = NO_RULES) -> tuple[Request, Tree]:
    """Return the request for a package NAME or NAME/docs, and its files as the source root has them (JailError).

    Its conffiles are among them. Documentation and translations are not, unless the word says so; secrets (but for
    those that the rules allow), what cannot be in a box, and what is not there (any more) are left out with a note. A
    file of another package comes too where a link of this one leads to it.
    """
    packages = Dpkg(root)
    package = packages.find(word.removesuffix(DOCS))
    reading = _Reading(root, packages.files(package), word.endswith(DOCS), rules)
    items = tuple(item for _, item in sorted(reading.items.items()))
    tree = Tree(package.place, None, items, tuple(reading.notes(package.name)), led=reading.led)
    return Request(f"package:{word.removesuffix(DOCS)}", package.place, None, "package"), tree


class _Reading:
    def __init__(self, root: Root, listed: tuple[str, ...], docs: bool, rules: Rules) -> None:
        self.root = root
        self.docs = docs
        self.rules = rules
        self.items: dict[str, Item] = {}
        self.led: dict[str, str] = {}
        self.absent: list[str] = []
        self.left_out: list[str] = []
        self.secrets: list[str] = []
        above = set()
        for path in listed:
            while (path := path.rpartition("/")[0]) and path not in above:
                above.add(path)
        for path in listed:
            if (docs or not is_documentation(path)) and path not in above and is_proper(path.rpartition("/")[2]):
                self._add(path)

    def _add(self, path: str) -> None:
        """Add one path of the list; directories only if the package has nothing in them, others come by themselves."""
        parent, _, name = path.rpartition("/")
        try:
            path = f"{self.root.walk(parent or '/').real.rstrip('/')}/{name}"
            status = self.root.lstat(path)
        except OSError:
            self.absent.append(path)
            return
        if why := why_not(path):
            if not stat.S_ISDIR(status.st_mode):  # each box has those
                self.left_out.append(f"{path} is left out: {why}")
        elif stat.S_ISLNK(status.st_mode):
            self._add_link(path)
        else:
            self._add_real(path)
            self.led.pop(path, None)

    def _add_real(self, path: str) -> bool:
        """Add what is no link; say whether it could be."""
        try:
            status = self.root.lstat(path)
            if stat.S_ISDIR(status.st_mode):
                self.items[path] = Item(self.root.host_path(path), path, "directory", status)
                return True
            if special := _SPECIAL.get(stat.S_IFMT(status.st_mode)):
                self.left_out.append(f"{path} is left out: it is {special}")
                return False
            opened = self.root.open(path)
            try:
                status = os.fstat(opened)
                head = os.pread(opened, HEAD, 0)
            finally:
                os.close(opened)
        except OSError as error:
            raise JailError(f"cannot read {path}: {reason(error)}") from None
        if not self.rules.is_allowed(path) and (what := secret(path, head)):
            self.secrets.append(f"warning: {path} is left out: it is a secret: {what} (--allow-secrets {quoted(path)})")
            return False
        kind = "elf" if head.startswith(MAGIC) else "script" if head.startswith(b"#!") else None
        self.items[path] = Item(self.root.host_path(path), path, "file", status, None, kind)
        return True

    def _add_link(self, path: str) -> None:
        """Add a link with what it leads to; one that leads nowhere, or to what is left out, would be wrong in a box."""
        try:
            walk = self.root.walk(path)
        except OSError:
            self.left_out.append(f"{path} is left out: it leads nowhere")
            return
        if not self.docs and is_documentation(walk.real):
            return
        if why := why_not(walk.real):
            self.left_out.append(f"{path} is left out: it leads to {walk.real}, and {why}")
            return
        if walk.real != "/" and walk.real not in self.items:
            if not self._add_real(walk.real):
                return
            self.led[walk.real] = path
        for link, target in walk.links:
            if link not in self.items:
                self.items[link] = Item(self.root.host_path(link), link, "link", self.root.lstat(link), target)
                if link != path:
                    self.led[link] = path
        self.led.pop(path, None)

    def notes(self, name: str) -> list[str]:
        """Return what is left out, in words."""
        full: set[str] = set()  # directories with something in them
        for path in self.items if self.led else ():
            while (path := path.rpartition("/")[0]) and path not in full:
                full.add(path)
        for path, link in self.led.items():
            if self.items[path].type == "directory" and path not in full:
                self.left_out.append(f"{link} leads to {path}, which is left empty: what is in it is not of {name}")
        notes = [*self.secrets, *self.left_out[:_FEW]]
        if len(self.left_out) > _FEW:
            notes.append(f"{len(self.left_out) - _FEW} more files of {name} are left out")
        if self.absent:
            more = f" and {len(self.absent) - 1} more" if len(self.absent) > 1 else ""
            notes.append(f"{self.absent[0]}{more}: listed for {name}, and not in the source root")
        return notes
