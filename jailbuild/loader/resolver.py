"""From a program to what it loads: what the kernel starts for it, and then what that loads.

Rules of the kernel: fs/binfmt_elf.c. Those of the loader that it starts stand in files of their own.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from jailbuild.elf import layouts
from jailbuild.elf.layouts import DT_NEEDED
from jailbuild.loader import arch
from jailbuild.loader.files import File, Files
from jailbuild.loader.glibc.config import LdsoConfig, read_built_in
from jailbuild.loader.glibc.linker import Glibc
from jailbuild.loader.glibc.preload import preload_names
from jailbuild.loader.glibc.program import load
from jailbuild.loader.glibc.symbol_versions import Providers, are_met, bad_versions
from jailbuild.loader.model import NOTHING, UNWINDER, Opening, Refusal, Resolution, unreadable
from jailbuild.loader.musl.config import MuslConfig, arch_of, loader_of_library, read_musl

if TYPE_CHECKING:
    from jailbuild.loader.musl.linker import Musl

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_MAX_PRELOAD = 1 << 20


class Loader:
    """The loaders of one root, seen through `files`.

    `library_path` is what LD_LIBRARY_PATH would be, `preload` what LD_PRELOAD would. `levels` are the glibc-hwcaps
    of the processor, None for this machine's own. The root's /etc/ld.so.preload counts if `preload_file`. `opening`
    says what is followed of that which programs open while they run.
    """

    def __init__(
        self,
        files: Files,
        library_path: str = "",
        preload: tuple[str, ...] = (),
        levels: tuple[str, ...] | None = None,
        preload_file: bool = True,
        opening: Opening = NOTHING,
    ) -> None:
        self.files = files
        self.levels = levels
        self._musl: Musl | None = None  # made when a program of musl's is met
        self._library_path, self._preload = library_path, preload
        self.opening = opening
        preloads = (*preload, *(self.preload_names() if preload_file else ()))
        self._glibc = Glibc(files, library_path, preloads, opening)
        self._interpreters: dict[tuple[str, arch.ElfTarget], LdsoConfig | MuslConfig] = {}
        # for programs that ask for the same: what one of them loads, and who has the versions that they ask for
        self._alike: dict[tuple[object, ...], tuple[Resolution, Providers | None]] = {}

    def resolve(self, path: str) -> Resolution:
        """Resolve the ELF file at `path`: a program, or a library as if its machine's loader were told to load it."""
        file = self.files.get(path)
        if isinstance(file, int):
            return Resolution(None, error=unreadable(path, os.strerror(file)))
        elf = file.elf
        # The kernel looks at less than the loader does, and the loader does not look at what the kernel started.
        if elf.as_library is not None and not elf.is_program:
            elf = elf.as_library
            file = file._replace(elf=elf)
        ident_error = elf.ident_error if elf.ident_error and not elf.is_program else ""
        if problem := ident_error or elf.load_error or elf.exec_error:
            return Resolution(elf.interpreter or None, error=unreadable(path, problem))
        if elf.interpreter is None and elf.is_program:
            return Resolution(None)
        interpreter = self._interpreter(path, file)
        if isinstance(interpreter, Refusal):
            return Resolution(elf.interpreter, error=interpreter)
        # Most programs ask for what another one asked for, and load the same: all that differs is who asked.
        if self._glibc.preloads or "$" in self._glibc.library_path or elf.soname is not None or elf.audit:
            return self._load(interpreter, path, file)[0]
        if elf.dlopens and self.opening.level != "none":
            return self._load(interpreter, path, file)[0]
        plain = elf.kind, elf.type, elf.interpreter, elf.wants, elf.rpath, elf.runpath, elf.nodeflib
        key: tuple[object, ...] = plain
        known = self._alike.get(plain)
        if known is None and self.opening.unwinding:
            key = *plain, self._unwinds(path, file)
            known = self._alike.get(key)
        if known is not None:
            resolution, providers = known
            if providers is None or are_met(elf.versions, providers):
                return resolution.for_another(path, ())
            if isinstance(interpreter, LdsoConfig) and all(need.file in providers for need in elf.versions.needs):
                bad = tuple(bad_versions(path, elf.versions, providers, interpreter.version))
                return resolution.for_another(path, bad)
        resolution, providers = self._load(interpreter, path, file)
        texts = [elf.rpath or "", elf.runpath or "", *[name for _, name in elf.wants]]
        if (
            not any("$" in text for text in texts)
            and all(tag == DT_NEEDED for tag, _ in elf.wants)
            and all(name for _, name in elf.wants)
            and all(library.path != path for library in resolution.libraries)
        ):
            # where it needs libgcc_s anyway it makes no difference who calls for it
            self._alike.setdefault(plain if _needs_unwinder(resolution) else key, (resolution, providers))
        return resolution

    def _unwinds(self, path: str, file: File) -> bool:
        from jailbuild.loader.glibc.libgcc import unwinds  # only for boxes

        return unwinds(self.files, path, file)

    def _load(self, interpreter: LdsoConfig | MuslConfig, path: str, file: File) -> tuple[Resolution, Providers | None]:
        if isinstance(interpreter, MuslConfig):
            from jailbuild.loader.musl.link_map import MuslLinkMapLoader
            from jailbuild.loader.musl.linker import Musl  # few need it

            if self._musl is None:
                self._musl = Musl(self.files, self._library_path, self._preload, self.opening)
            return MuslLinkMapLoader(self._musl, interpreter, path, file).run(), None  # it looks at no versions
        return load(self._glibc, interpreter, path, file)

    def _interpreter(self, program: str, started: File) -> LdsoConfig | MuslConfig | Refusal:
        """Return the loader of a program or library, or why the kernel could not start it."""
        elf = started.elf
        name, kind = elf.interpreter, elf.kind
        path = name
        if path is None:
            path = loader_of_library(self.files, program, started) or arch.machine(kind).loader
        known = self._interpreters.get((path, kind))
        if known is not None:
            return known
        file = self.files.get(path)
        if name is not None:
            if isinstance(file, int):
                code = "missing-interpreter" if file in _ABSENT else "unreadable"
                return Refusal(code, name, f"the interpreter {name} cannot be opened: {os.strerror(file)}")
            if problem := file.elf.load_error or (file.elf.ident_error if file.elf.bits <= 0 else ""):
                return Refusal("unreadable", name, f"the interpreter {name} cannot be loaded: {problem}")
            if file.elf.kind != elf.kind:
                own, other = (f"{layouts.machine_name(one.machine)} ({one.bits}-bit)" for one in (elf, file.elf))
                return Refusal("wrong-machine", name, f"the interpreter {name} is for {other}, the program for {own}")
        found = None if isinstance(file, int) or file.elf.kind != kind else file
        name = arch_of(self.files, path, found) if found is not None else None
        if found is not None and name is not None:
            interpreter: LdsoConfig | MuslConfig = read_musl(self.files, path, kind, found, name)
        else:
            interpreter = read_built_in(self.files, path, kind, found, self.levels)
        self._interpreters[path, kind] = interpreter
        return interpreter

    def preload_names(self) -> list[str]:
        """Return the names in the root's /etc/ld.so.preload."""
        try:
            return preload_names(self.files.root.read("/etc/ld.so.preload", _MAX_PRELOAD))
        except OSError:
            return []


def _needs_unwinder(resolution: Resolution) -> bool:
    return any(
        library.name == UNWINDER and any(edge.how != "dlopen" for edge in library.requests)
        for library in resolution.libraries
    )
