"""A piece of the host with a secret in it, boxes beside it, and how an attack is made from one of them.

Every attack is made twice: first where it must succeed, in the plain mode or in what a chroot by hand gives, so that a
test that attacks nothing fails; then in the isolated mode as root and, rootless, as an ordinary user. The attacks
are in attack.c. What the plain mode could do to the host it does in a mount namespace of its own.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

from tests import needs

PATIENCE = 30  # seconds
USER = 64123  # nobody's: an ordinary user of the host

NEEDS = [
    pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs root"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the attacks are for x86-64"),
    needs.namespaces,
]

Test = TypeVar("Test", bound=Callable[..., None])


def promise(*numbers: int) -> Callable[[Test], Test]:
    """Say which sentences of the promise (README, "Entering") a test holds."""

    def cite(test: Test) -> Test:
        return test

    return cite


class Tools(NamedTuple):
    """What is made once: the attacks, and jailbuild where an ordinary user can read it."""

    directory: Path
    attack: Path
    loader: Path  # of a box, that changes the program it is to load
    python: Path
    environment: dict[str, str]


class Ran(NamedTuple):
    """What became of an attack."""

    said: str
    words: str
    status: int
    box: Path


class World:
    """A piece of the host with a secret in it, and boxes beside the secret, a new one for each attack."""

    def __init__(self, directory: Path, tools: Tools) -> None:
        self.directory = directory
        self.tools = tools
        self.token = uuid.uuid4().hex
        self.secret = directory / "secret"
        self.secret.write_text(self.token)
        self.secret.chmod(0o644)  # for any user of the host: it is the box that keeps it
        self._count = 0

    def make_box(self, how: str, prepare: Callable[[Path], object] | None = None) -> Path:
        self._count += 1
        box = self.directory / f"box{self._count}"
        for name in ("proc", "dev", "dev/pts", "dev/shm", "sys", "run", "tmp", "usr"):
            (box / name).mkdir(parents=True)
        shutil.copy(self.tools.attack, box / "attack")
        if how == "rootless":
            for path in (box, *box.rglob("*")):
                os.chown(path, USER, USER, follow_symlinks=False)
        (box / "tmp").chmod(0o1777)
        if prepare:
            prepare(box)
        return box

    def command(
        self,
        how: str,
        box: Path,
        *words: object,
        options: tuple[str, ...] = (),
        by: Path | None = None,
    ) -> list[str]:
        """Return the command line of an attack; `how` is plain, isolated, rootless, chroot for chroot(1), or default.

        Isolated is said: no attack is ever made plainly because of what this machine has not got.
        """
        if how == "chroot":
            return ["chroot", str(box), "/attack", *map(str, words)]
        launcher = [str(by or self.tools.python), "-m", "jailbuild", "enter"]
        if how == "plain":
            launcher = ["unshare", "--mount", "--propagation", "private", "--", *launcher, "--plain"]
        else:
            launcher += [*(["--isolated"] if how != "default" else []), *options]
        return [*launcher, str(box), "/attack", *map(str, words)]

    def user(self, how: str) -> dict[str, Any]:
        return {"user": USER, "group": USER, "extra_groups": []} if how == "rootless" else {}

    def attack(
        self,
        how: str,
        *words: object,
        options: tuple[str, ...] = (),
        prepare: Callable[[Path], object] | None = None,
        by: Path | None = None,
        before: tuple[str, ...] = (),
        statuses: tuple[int, ...] = (0, 1),
        **more: Any,
    ) -> Ran:
        """Make one attack in a new box; assert that it was made, whatever came of it.

        `before` is sh(1) code that runs first in a mount namespace, with the box as $box.
        """
        box = self.make_box(how, prepare)
        command = self.command(how, box, *words, options=options, by=by)
        if before:
            if how == "rootless":
                drop = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
                command, how = [*drop, *command], "isolated"
            script = f'set -e; box={box}; {"; ".join(before)}; exec "$@"'
            command = ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", script, "sh", *command]
        arguments: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "env": self.tools.environment,
            "cwd": self.directory,
            **self.user(how),
            **more,
        }
        ended = subprocess.run(command, timeout=PATIENCE, **arguments)
        said, told = ((text or b"").decode(errors="replace") for text in (ended.stdout, ended.stderr))
        ran = Ran(said, told, ended.returncode, box)
        assert ran.status in statuses, ran
        return ran

    def only_plain(
        self,
        how: str,
        *words: object,
        proof: str | None = None,
        control: str = "plain",
        **more: Any,
    ) -> Ran:
        """Assert that an attack gets the proof, by default the secret, in the control, and not in mode `how`."""
        proof = proof or self.token
        assert proof in (found := self.attack(control, *words, **more)).said, found
        ran = self.attack(how, *words, **more)
        assert proof not in ran.said, ran
        return ran


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline()


def write_line(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin
    process.stdin.write(line + "\n")
    process.stdin.flush()
