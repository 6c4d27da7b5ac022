"""jailbuild makes a directory that can serve as "/" for a few programs, proves it, and enters it."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what signal.py is made of, which takes longer than all of this
import os
import sys

TYPE_CHECKING = False  # typing's own takes longer, and until below Ctrl-C is a traceback
if TYPE_CHECKING:
    from types import ModuleType

__version__ = "0.2.0"

_INTERRUPTED = 130


def _end(_number: int, _frame: object) -> None:
    os._exit(_INTERRUPTED)


def end_quietly() -> None:
    """Let Ctrl-C end a program that is not up yet without a word, if the caller lets it end at all."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _end)


def be_interrupted() -> None:
    """Let Ctrl-C be a KeyboardInterrupt again."""
    if _signal.getsignal(_signal.SIGINT) is _end:
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)


def not_be_interrupted() -> None:
    """Let Ctrl-C do nothing to a program that is ending."""
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)


# This file is the first of ours that a program reads; the imports to come take most of the time until it is up. As a
# library it is no program's beginning. ("-m" stands there while `python -m` looks for the module.)
if sys.argv[:1] == ["-m"] or os.path.basename("".join(sys.argv[:1])).startswith("jailbuild"):
    end_quietly()


class Deferred:
    """While it is entered, importing these modules gives stand-ins, which import the real ones at their first use.

    For modules that dependencies import for what is never asked of them here, and that take longer than the
    dependency itself. A module that is there already is left alone, and afterwards nothing is left in sys.modules.
    Of modules that are `forward`, classes are meanwhile what typing(3) knows as forward references: their names.
    """

    def __init__(self, *names: str, forward: tuple[str, ...] = ()) -> None:
        self.names = *names, *forward
        self.forward = forward
        self.placed: dict[str, ModuleType] = {}

    def __enter__(self) -> None:
        for name in self.names:
            if name not in sys.modules:
                sys.modules[name] = self.placed[name] = _stand_in(name, name in self.forward)

    def __exit__(self, *_: object) -> None:
        for name, module in self.placed.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def _stand_in(name: str, is_forward: bool) -> ModuleType:
    module = type(sys)(name)

    def get(attribute: str) -> object:
        if sys.modules.get(name) is module:
            if is_forward and attribute[:1] != "_":
                return f"{name}.{attribute}"
            del sys.modules[name]
        from importlib import import_module

        return getattr(import_module(name), attribute)

    vars(module)["__getattr__"] = get  # PEP 562
    return module
