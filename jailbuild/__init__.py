"""jailbuild makes a directory that can serve as "/" for a few programs, proves it, and enters it."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"


class Deferred:
    """While it is entered, importing these modules gives stand-ins, which import the real ones at their first use.

    For modules that dependencies import for what is never asked of them here, and that take longer than the
    dependency itself. A module that is there already is left alone, and afterwards nothing is left in sys.modules.
    """

    def __init__(self, *names: str) -> None:
        self.names = names
        self.placed: dict[str, ModuleType] = {}

    def __enter__(self) -> None:
        for name in self.names:
            if name not in sys.modules:
                sys.modules[name] = self.placed[name] = _stand_in(name)

    def __exit__(self, *_: object) -> None:
        for name, module in self.placed.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def _stand_in(name: str) -> ModuleType:
    module = ModuleType(name)

    def get(attribute: str) -> object:
        if sys.modules.get(name) is module:
            del sys.modules[name]
        return getattr(import_module(name), attribute)

    vars(module)["__getattr__"] = get  # PEP 562
    return module
