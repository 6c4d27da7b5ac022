"""Modules that dependencies import and nobody uses here are not loaded, and are there for who uses them."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from jailbuild import Deferred


def imported(*arguments: str) -> set[str]:
    """Return the modules that a run of jailbuild loads."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "jailbuild", *arguments], capture_output=True, text=True, check=True
    )
    return set(re.findall(r"^import time:.*\|\s*(\S+)$", done.stderr, re.MULTILINE))


@pytest.mark.parametrize("arguments", [["deps", "ls"], ["deps", "--json", "ls"], ["--version"]])
def test_what_only_debuggers_want_is_not_loaded(arguments: list[str]) -> None:
    found = imported(*arguments)
    assert "click" in found
    assert {"inspect", "pdb", "traceback", "uuid", "platform"} & found == set()


def test_a_deferred_module_is_the_real_one_at_its_first_use() -> None:
    """While it is entered an import gives a stand-in; afterwards sys.modules has none of it."""
    code = (
        "import sys; from jailbuild import Deferred\n"
        "with Deferred('colorsys'):\n"
        "    import colorsys\n"
        "assert 'colorsys' not in sys.modules\n"
        "stand_in = colorsys\n"
        "assert stand_in.rgb_to_hsv(0, 0, 0) == (0, 0, 0)\n"
        "import colorsys\n"
        "assert colorsys is not stand_in and stand_in.rgb_to_hsv is colorsys.rgb_to_hsv\n"
        "with Deferred('zipapp'):\n"
        "    from zipapp import create_archive\n"
        "assert sys.modules['zipapp'].create_archive is create_archive\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_class_that_is_only_named_in_a_type_is_a_forward_reference() -> None:
    """And the real one as soon as it is used: click's own type for UUIDs still works."""
    code = (
        "import jailbuild.cli, click, sys\n"
        "assert 'uuid' not in sys.modules\n"
        "value = click.UUID.convert('12345678123456781234567812345678', None, None)\n"
        "import uuid\n"
        "assert value == uuid.UUID(int=0x12345678123456781234567812345678)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_module_that_is_there_is_left_alone() -> None:
    with Deferred("re"):
        assert sys.modules["re"] is re
    assert sys.modules["re"] is re
