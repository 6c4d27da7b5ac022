"""jailbuild enter BOX [COMMAND…]: run a command, by default a shell that the box has, inside."""

from __future__ import annotations

import errno
import os
import shlex

import click

from jailbuild.cli import complain, say
from jailbuild.enter.account import read_account
from jailbuild.enter.command import SEARCH_PATH, find_shell, make_command
from jailbuild.enter.plain import run_plain
from jailbuild.enter.start import ExecError, StepError
from jailbuild.errors import JailError, reason
from jailbuild.root import Root

_NOT_FOUND = 127
_NOT_EXECUTED = 126


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("--plain", is_flag=True, help="As chroot(1): a convenience, no boundary against root inside.")
@click.argument("box", metavar="BOX", type=click.UNPROCESSED)
@click.argument("arguments", metavar="[COMMAND...]", nargs=-1, type=click.UNPROCESSED)
def command(plain: bool, box: str, arguments: tuple[str, ...]) -> int:
    """Run a command, by default a shell that the box has, inside BOX.

    Everything after BOX is the command's own; one -- directly after BOX is dropped. BOX is any directory that holds
    a root. The exit status is the command's, 128+n for a signal, 127 where it is not found, 126 where it cannot be
    executed, 125 where jailbuild could not enter.
    """
    if arguments[:1] == ("--",):
        arguments = arguments[1:]
    root = _open(box)
    account = read_account(root)
    shell = find_shell(root, account)
    if not arguments:
        if shell is None:
            raise JailError(
                f"cannot enter {box}: there is no shell in it",
                f"jailbuild add bash --into {shlex.quote(box)}, or name a command",
            )
        arguments = (shell,)
    if not plain:
        say(f"jailbuild: entering {box} in plain mode, no boundary against root inside (--plain: without this line)")
    try:
        status = run_plain(root, account, make_command(arguments, account, shell, os.environ))
    except StepError as failed:
        raise JailError(f"cannot enter {box}: {failed}", _hint_for(failed)) from None
    except ExecError as failed:
        _complain_of(failed.error, root, box, arguments[0])
        return _NOT_FOUND if failed.error.errno == errno.ENOENT else _NOT_EXECUTED
    if status == _NOT_FOUND and (why := _explain(_again(root), arguments[0], box)):
        complain([why[0]], why[1])
    return status


def _open(box: str) -> Root:
    """Return the box as a root that this process may enter (JailError)."""
    if os.geteuid() != 0:
        raise JailError(f"cannot enter {box}: only root may chroot", f"sudo jailbuild enter {shlex.quote(box)}")
    try:
        return Root(box)
    except JailError as error:
        why = error.causes[0].removeprefix(f"cannot open {box}: ")
        hint = error.hint if os.path.lexists(box) else f"jailbuild add bash --into {shlex.quote(box)} makes a box"
        raise JailError(f"cannot enter {box}: {why}", hint) from None


def _hint_for(failed: StepError) -> str:
    if failed.error.errno == errno.EPERM:
        return "root here lacks a capability for it (CAP_SYS_CHROOT, CAP_SETGID): enter from outside the container"
    return ""


def _again(root: Root) -> Root:
    """Return the root as it is now: what was seen before the command ran may have changed."""
    try:
        return Root(root.path)
    except JailError:
        return root


def _explain(root: Root, name: str, box: str) -> tuple[str, str] | None:
    """Return message and hint of what is missing in the box for the command to start, None if nothing is.

    The status is already decided, so a box in which this cannot be found out changes nothing. This process has
    stayed outside the box, so what it imports now is the host's; an enter that goes well need not wait for it.
    """
    from jailbuild.closure.explain import explain_start

    try:
        return explain_start(root, os.path.join("/", name) if "/" in name else name, box, SEARCH_PATH)
    except (OSError, JailError):
        return None


def _complain_of(error: OSError, root: Root, box: str, name: str) -> None:
    """Say why the command could not be started, and what to do about it."""
    message = f"cannot start {name or repr(name)} in {box}: {reason(error)}"
    if error.errno == errno.ENOENT and name.startswith("-"):
        complain([message], f"options stand before BOX: jailbuild enter {shlex.quote(name)} {shlex.quote(box)}")
    elif error.errno != errno.EACCES and name and (why := _explain(root, name, box)):  # EACCES: it is there
        complain([why[0]], why[1])
    elif error.errno == errno.EACCES and (denied := _why_denied(root, name)):
        complain([f"{message}: {denied}"], f"chmod and mount say who may execute what; so does ls -l below {box}")
    elif error.errno == errno.ENOENT and name and "/" not in name:
        complain([message], f"jailbuild add {shlex.quote(name)} --into {shlex.quote(box)}")
    else:
        complain([message])


def _why_denied(root: Root, name: str) -> str | None:
    """Return what the box shows of the reason why a command may not be executed."""
    from jailbuild.closure.explain import explain_denied

    paths = [os.path.join("/", name)] if "/" in name else [f"{one}/{name}" for one in SEARCH_PATH.split(":")]
    return next((why for path in paths if (why := explain_denied(root, path))), None)
