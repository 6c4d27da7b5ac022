"""One program resolved: an ELF file through its loader, a script through its interpreters."""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

from jailbuild.closure import shebang
from jailbuild.closure.commands import STANDARD_PATH, find_command
from jailbuild.elf.reader import MAGIC
from jailbuild.errors import reason
from jailbuild.loader.files import File, Files
from jailbuild.loader.model import Library, Missing, Refusal, Resolution, Unopened, unreadable
from jailbuild.loader.resolver import Loader

_MAX_CHAIN = 16  # interpreters; the kernel allows five in one exec, env starts afresh

_ABSENT_CODE = "missing-script-interpreter"
NEITHER = "it is neither an ELF file nor a script"


class Part(NamedTuple):
    """An ELF file that runs when a program is started, and what it loads."""

    path: str
    resolution: Resolution
    soname: str | None = None


class Program(NamedTuple):
    """A program and what it takes to start it."""

    path: str
    type: str  # "elf" or "script"; "other" for what is neither
    interpreters: tuple[shebang.Interpreter, ...] = ()  # of a script, in the order in which they run
    parts: tuple[Part, ...] = ()
    error: Refusal | None = None

    @property
    def interpreter(self) -> str | None:
        """PT_INTERP of an ELF program."""
        return self.parts[0].resolution.interpreter if self.type == "elf" and self.parts else None

    @property
    def is_static(self) -> bool:
        """Whether the kernel starts it without a loader."""
        return self.type == "elf" and self.error is None and self.parts[0].resolution.built_in is None

    @property
    def libraries(self) -> tuple[Library, ...]:
        """What all its parts load, each path once."""
        if len(self.parts) == 1:
            return self.parts[0].resolution.libraries
        found: dict[str, Library] = {}
        for part in self.parts:
            for library in part.resolution.libraries:
                known = found.get(library.path)
                if known is None:
                    found[library.path] = library
                else:
                    before = set(known.requests)
                    new = [request for request in library.requests if request not in before]
                    if new:
                        found[library.path] = known.needed_by([*known.requests, *new])
        return tuple(found.values())

    @property
    def files(self) -> tuple[str, ...]:
        """The paths of all files that it takes: itself, interpreters, loaders, libraries."""
        found = [self.path, *(interpreter.path for interpreter in self.interpreters)]
        for part in self.parts:
            if part.resolution.interpreter is not None:
                found.append(part.resolution.interpreter)
            found += [library.path for library in part.resolution.libraries]
        return tuple(dict.fromkeys(found))

    @property
    def missing(self) -> tuple[Missing, ...]:
        """The searches that failed in any of its parts."""
        return tuple(missing for part in self.parts for missing in part.resolution.missing)

    @property
    def unopened(self) -> tuple[Unopened, ...]:
        """What its parts would open while they run, and can do without."""
        return tuple(one for part in self.parts for one in part.resolution.unopened)


class Programs:
    """The programs of one root. What was resolved once is remembered."""

    def __init__(self, files: Files, loader: Loader, search_path: str = STANDARD_PATH) -> None:
        self.files = files
        self.loader = loader
        self.search_path = search_path  # where env looks
        self._parts: dict[str, Part] = {}

    def resolve(self, path: str) -> Program:
        """Resolve the file at `path`. OSError if it cannot be read; what is neither ELF nor script has an `error`."""
        file = self.files.get(path)
        head = MAGIC if isinstance(file, File) and file.elf.bits else self._head(path)
        if head.startswith(MAGIC):
            part = self._part(path)
            return Program(path, "elf", (), (part,), part.resolution.error)
        if head.startswith(b"#!"):
            return self._script(path, head)
        return Program(path, "other", error=unreadable(path, NEITHER))

    def resolve_script(self, path: str, text: bytes) -> Program:
        """Resolve a script that is not in the root yet: it will stand at `path`, and begins with `text`."""
        return self._script(path, text[: shebang.LINE])

    def _part(self, path: str) -> Part:
        part = self._parts.get(path)
        if part is None:
            part = self._parts[path] = self._resolve_part(path)
        return part

    def _resolve_part(self, path: str) -> Part:
        resolution = self.loader.resolve(path)
        file = self.files.get(path)
        return Part(path, resolution, None if isinstance(file, int) else file.elf.soname)

    def _head(self, path: str) -> bytes:
        root = self.files.root
        opened = root.open(self.files.absolute(path))
        try:
            mode = os.fstat(opened).st_mode
            if not stat.S_ISREG(mode):
                if stat.S_ISDIR(mode):
                    raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
                raise OSError(errno.EACCES, "it is not a regular file", path)  # the errno is that of execve(2)
            return os.pread(opened, shebang.LINE, 0)
        finally:
            os.close(opened)

    def _script(self, path: str, head: bytes) -> Program:
        chain: list[shebang.Interpreter] = []
        parts: list[Part] = []

        def failed(why: Refusal) -> Program:
            return Program(path, "script", tuple(chain), tuple(parts), why)

        script = path
        while True:
            line = shebang.read_line(head)
            if isinstance(line, str):
                return failed(unreadable(script, line))
            if line is None:
                return failed(unreadable(script, NEITHER))
            while True:  # the interpreter, and what it looks up if it is env
                if len(chain) >= _MAX_CHAIN:
                    return failed(unreadable(path, "too many interpreters, one after the other"))
                chain.append(line)
                interpreter = line.path
                try:
                    head = self._head(interpreter)
                except OSError as error:
                    return failed(_unopened(script, interpreter, error))
                if not head.startswith(MAGIC):
                    break  # the interpreter is a script itself
                part = self._part(interpreter)
                if part not in parts:
                    parts.append(part)
                if part.resolution.error:
                    return failed(part.resolution.error)
                lookup = shebang.env_lookup(line.argument) if os.path.basename(interpreter) == "env" else None
                if lookup is None:
                    return Program(path, "script", tuple(chain), tuple(parts))
                found: str | None = lookup.name
                if "/" not in lookup.name:
                    found = find_command(self.files.root, lookup.name, lookup.search_path or self.search_path)
                if found is None:
                    where = lookup.search_path or self.search_path
                    why = f"{script} runs {lookup.name} through env, and there is no such program in {where}"
                    return failed(Refusal(_ABSENT_CODE, lookup.name, why))
                line = shebang.Interpreter(found, None)
            script = interpreter


def _unopened(script: str, interpreter: str, error: OSError) -> Refusal:
    code = _ABSENT_CODE if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP) else "unreadable"
    if interpreter.endswith("\r"):
        why = f"{script}: its first line ends in a carriage return, so that it asks for {interpreter!r}"
    else:
        why = f"{script}: its interpreter {interpreter} cannot be opened: {reason(error)}"
    return Refusal(code, interpreter, why)
