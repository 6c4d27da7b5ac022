"""jailbuild enter BOX [COMMAND…]: run a command, by default a shell that the box has, inside."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from jailbuild import cli
from jailbuild.cli import FAILED, complain, say, write
from jailbuild.cli.options import option
from jailbuild.cli.settle import settle
from jailbuild.enter import emulation, preflight, settings
from jailbuild.enter.account import Account, read_account
from jailbuild.enter.command import Command, find_shell, make_command
from jailbuild.enter.spawn import ExecError, StepError
from jailbuild.errors import JailError, reason
from jailbuild.names import command_line, operand, quoted, shown
from jailbuild.root import Overlay, Root

if TYPE_CHECKING:
    from jailbuild.enter.mounts import Bind, Tmpfs

_NOT_FOUND = 127
_NOT_EXECUTED = 126

# What the plain mode has nothing to do with.
_NOT_PLAIN = ("bind", "tmpfs", "read_only", "hostname", "cap_keep")
_BY_DEFAULT = click.core.ParameterSource.DEFAULT


@click.command(cls=cli.Command, context_settings={"allow_interspersed_args": False})
@option("--plain", is_flag=True, help="As chroot(1): a convenience, no boundary against root inside.")
@option("--isolated", is_flag=True, help="Isolated, rootless if not root, or refused: never plainly.")
@option("--user", metavar="NAME|UID[:GID]", help="Who to be, by the box's own passwd; root by default.")
@option("--env", metavar="K=V", multiple=True, help="Set a variable in the command's environment.")
@option("--keep-env", is_flag=True, help="Keep the caller's environment.")
@option("--workdir", metavar="DIR", default="/", help="The directory to start in.")
@option(
    "--bind",
    metavar="SRC[:DST][:ro]",
    multiple=True,
    help="Show a file or directory of the host at DST, which the box must have.",
)
@option("--tmpfs", metavar="DIR[:SIZE]", multiple=True, help="An empty directory in memory over DIR.")
@option("--read-only", is_flag=True, help="Nothing in the box can be changed.")
@option("--hostname", metavar="NAME", help="The host name inside.")
@option(
    "--net",
    type=click.Choice(["host", "none"]),
    default="host",
    show_default=True,
    help="The host's network, or none but a loopback.",
)
@option("--cap-keep", metavar="CAP", multiple=True, help="Keep one more capability.")
@option("--limit", metavar="NAME=SOFT[:HARD]", multiple=True, help="Set a resource limit, like nofile=1024.")
@option(
    "--seccomp",
    type=click.Choice(["default", "none"]),
    default="default",
    show_default=True,
    help="Refuse dangerous system calls, or none.",
)
@option(
    "--pty/--no-pty",
    default=None,
    help="A terminal on descriptors 0 to 2, or on none; by default where the caller has one.",
)
@option("--status-fd", metavar="N", type=int, help="Write JSON Lines on start and end to this descriptor.")
@option("--pass-fd", metavar="N", type=int, multiple=True, help="Let the command have this descriptor.")
@option("--explain", is_flag=True, help="Print what would be done, a line for each step, and do nothing.")
@click.argument("box", metavar="BOX", type=click.UNPROCESSED)
@click.argument("arguments", metavar="[COMMAND...]", nargs=-1, type=click.UNPROCESSED)
def command(box: str, arguments: tuple[str, ...], **options: Any) -> int:
    """Run a command, by default a shell that the box has, inside BOX.

    Root gets the isolated mode: namespaces, a mount tree of its own, few capabilities, a filter for system calls.
    Others get the same in a user namespace. Root of a container without CAP_SYS_ADMIN is told that it gets what
    --plain gives, where no option asks for more.

    Everything after BOX is the command's own; one -- directly after BOX is dropped. BOX is any directory that holds
    a root. The exit status is the command's, 128+n for a signal, 127 where it is not found, 126 where it cannot be
    executed, 125 where jailbuild could not enter.
    """
    if arguments[:1] == ("--",):
        arguments = arguments[1:]
    is_plain = _is_plain(options)
    started, ended = _status_lines(options["status_fd"])
    passed = _passed(options, is_plain)
    if not options["explain"]:
        settle(box)
    run = _plain if is_plain else _isolated
    status = run(box, arguments, options, passed, started)
    if status is None:
        return 0
    ended(status)
    os._exit(status)  # all has been written; Python's own tidying would take as long as the box did


def _is_plain(options: dict[str, Any]) -> bool:
    """Say whether to enter plainly: with --plain, and in the one case of promise 20 (JailError: a contradiction).

    All else is isolated, or rootless where is_rootless() says so, or refused.
    """
    if options["plain"] and options["isolated"]:
        raise JailError("cannot use --isolated with --plain", "leave one of them out")
    if options["plain"] or options["isolated"]:
        return bool(options["plain"])
    return preflight.has_plain_alone() and not _not_plain(options)


def _isolated(
    box: str,
    arguments: tuple[str, ...],
    options: dict[str, Any],
    passed: tuple[int, ...],
    started: Callable[[int], None],
) -> int | None:
    """Enter isolated, rootless if not root; return the exit status, None where it was only explained."""
    from jailbuild.enter.idmap import is_rootless, plan_ids
    from jailbuild.enter.isolated import Options, make_setup
    from jailbuild.enter.launch import hold_standard, run_isolated
    from jailbuild.enter.seccomp import filter_program
    from jailbuild.enter.terminal import plan_wiring
    from jailbuild.enter.warnings import notes

    closed = hold_standard()
    cap_keep = tuple(settings.read_capability(text) for text in options["cap_keep"])
    private = options["net"] == "none"
    wanted = Options(
        tuple(settings.read_bind(text, os.getcwd()) for text in options["bind"]),
        tuple(map(settings.read_tmpfs, options["tmpfs"])),
        tuple(map(settings.read_limit, options["limit"])),
        options["read_only"],
        settings.read_hostname(options["hostname"]) if options["hostname"] is not None else None,
        private,
        cap_keep,
        _directory(options["workdir"]),
        passed,
        None if options["seccomp"] == "none" else filter_program(kept=cap_keep, private_network=private),
    )
    root = _open(box)
    rootless = is_rootless()
    account, made, name = _command(root, box, arguments, options)
    ids = plan_ids(account, os.geteuid(), os.getegid()) if rootless else None
    kind = emulation.foreign(root, made.files, wanted.directory)
    if kind is not None:
        from jailbuild.enter.binfmt import emulation as emulation_of

        wanted = wanted._replace(emulation=emulation_of(kind, rootless))
    _refuse(preflight.capabilities(cap_keep, rootless), box)
    _refuse(preflight.groups(account, rootless), box)
    _refuse(preflight.limits(wanted.limits, rootless), box)
    mounts: tuple[Bind | Tmpfs, ...] = (*wanted.binds, *wanted.tmpfs)
    _refuse(preflight.duplicate_targets(mounts), box)
    targets = frozenset(one.target for one in mounts)
    for bind in wanted.binds:
        _refuse(preflight.bind(root, box, bind, targets), box)
    wiring = plan_wiring(options["pty"], {0, 1, 2} - set(closed))
    setup = make_setup(root, account, made, wanted, ids, wiring, closed)
    if options["explain"]:
        _print(setup.lines())
        return None
    _refuse(preflight.before(root, box, rootless, bool(wanted.binds)), box)
    for note in notes(root, wanted, ids):
        say(f"jailbuild: {note}")
    try:
        status = run_isolated(setup, started)
    except StepError as failed:
        if kind is not None and failed.what == str(wanted.emulation):
            hint = preflight.other_mode(box, rootless)
            if emulation.way(kind, root, isolated=False).how == "none":
                again = command_line("jailbuild", "enter", "--plain", operand(box))
                hint = f"apt install binfmt-support registers the emulator for {again}"
            raise JailError(f"cannot enter {box}: {emulation.refused(kind, failed.error)}", hint) from None
        _refuse(preflight.after(failed, box, rootless), box)
        hint = preflight.mkdir_hint(failed, root, wanted.directory, wanted.binds, wanted.tmpfs)
        raise JailError(f"cannot enter {box}: {failed}", hint) from None
    except ExecError as failed:
        return _not_started(failed.error, _seen(root), box, name, made, bool(wanted.binds), kind)
    failed_to_start = status == _NOT_FOUND or (status and wanted.emulation is not None)
    if failed_to_start and not wanted.binds and (why := _explain(_seen(_again(root)), name, box, made)):
        complain([why[0]], why[1])
        return _NOT_FOUND  # an emulator that finds no loader has a status of its own
    if not wanted.binds:
        _tell_missed(status, root, box, name, made, options["env"], has_dev=root.is_directory("/dev"))
    return status


def _plain(
    box: str,
    arguments: tuple[str, ...],
    options: dict[str, Any],
    passed: tuple[int, ...],
    started: Callable[[int], None],
) -> int | None:
    """Enter as chroot(1) does; return the exit status, None where it was only explained.

    Without --plain this is the one weakening there is, and it is said each time.
    """
    from jailbuild.enter.idmap import is_rootless
    from jailbuild.enter.plain import plain_steps, run_plain

    for name in _not_plain(options):
        raise JailError(f"cannot use {name} with --plain", "the isolated mode has it")
    limits = tuple(map(settings.read_limit, options["limit"]))
    directory = _directory(options["workdir"])
    if os.geteuid() != 0:
        raise JailError(f"cannot enter {box}: only root may chroot", f"sudo jailbuild enter {quoted(operand(box))}")
    root = _open(box)
    account, made, name = _command(root, box, arguments, options)
    _refuse(preflight.groups(account, is_rootless()), box)
    _refuse(preflight.limits(limits, is_rootless()), box)
    steps = plain_steps(root, account, limits, directory)
    if not options["plain"]:
        say("jailbuild: not isolated: root of this container lacks CAP_SYS_ADMIN; the container is the only boundary")
    if options["explain"]:
        _print([step.what for step in steps])
        return None
    owner = os.fstat(root.descriptor).st_uid
    if owner != 0:
        say(
            f"jailbuild: {box} belongs to uid {owner}, who may have put anything into it;"
            " the plain mode is no boundary against what runs as root inside"
        )
    try:
        status = run_plain(steps, made, passed, started)
    except StepError as failed:
        raise JailError(f"cannot enter {box}: {failed}", _hint_for(failed)) from None
    except ExecError as failed:
        kind = emulation.foreign(root, made.files, directory)
        mode = "plain" if options["plain"] else "container"
        return _not_started(failed.error, root, box, name, made, False, kind, mode)
    if status == _NOT_FOUND and (why := _explain(_again(root), name, box, made)):
        complain([why[0]], why[1])
    else:
        _tell_missed(status, root, box, name, made, options["env"], has_dev=False)
    return status


def _not_plain(options: dict[str, Any]) -> list[str]:
    """Return which of the options ask for what a chroot has not: no option is passed over."""
    asked = click.get_current_context().get_parameter_source
    return [
        *(f"--{name.replace('_', '-')}" for name in _NOT_PLAIN if options[name] not in ((), None, False)),
        *(["--net none"] if options["net"] == "none" else []),
        *(["--seccomp default"] if options["seccomp"] == "default" and asked("seccomp") != _BY_DEFAULT else []),
        *(["--pty"] if options["pty"] else []),
        *(["--no-pty on a terminal"] if options["pty"] is False and any(map(os.isatty, range(3))) else []),
    ]


def _print(lines: list[str]) -> None:
    write("".join(f"{shown(line)}\n" for line in lines))


def _command(
    root: Root,
    box: str,
    arguments: tuple[str, ...],
    options: dict[str, Any],
) -> tuple[Account, Command, str]:
    """Return who runs what in the root, and the command's path or name as seen from /."""
    account = read_account(root, options["user"])
    shell = find_shell(root, account)
    if not arguments:
        if shell is None:
            raise JailError(
                f"cannot enter {box}: there is no shell in it",
                f"jailbuild add bash --into {quoted(box)}, or name a command",
            )
        arguments = (shell,)
    given = settings.read_environment(options["env"])
    made = make_command(arguments, account, shell, os.environ, given, options["keep_env"])
    name = arguments[0]
    return account, made, os.path.join(_directory(options["workdir"]), name) if "/" in name else name


def _directory(path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise JailError(f"cannot use --workdir {path}: it is not absolute", "--workdir /a/directory/of/the/box")
    return path


def _passed(options: dict[str, Any], is_plain: bool) -> tuple[int, ...]:
    """Return the descriptors that the command is to have beside 0 to 2 (JailError).

    None of all these may be a directory: with one, all that is above and below it could be reached.
    """
    for number in {0, 1, 2, *options["pass_fd"]}:
        try:
            mode = os.fstat(number).st_mode
        except (OSError, OverflowError, ValueError):
            if number in options["pass_fd"]:
                raise JailError(
                    f"cannot use --pass-fd {number}: no such descriptor is open",
                    f"jailbuild enter --pass-fd {number} … {number}<file",
                ) from None
            continue
        if stat.S_ISDIR(mode) and not is_plain:
            raise JailError(
                f"cannot enter: descriptor {number} is a directory, and a way out of the box",
                "--bind shows a directory inside",
            )
    if options["status_fd"] in options["pass_fd"]:
        raise JailError("cannot use one descriptor for --status-fd and --pass-fd", "the status is for outside")
    return tuple(sorted({number for number in options["pass_fd"] if number > 2}))


def _status_lines(number: int | None) -> tuple[Callable[[int], None], Callable[[int], None]]:
    """Return what tells of the start, and what tells of the end if the start was told; JailError."""
    if number is None:
        return lambda _: None, lambda _: None
    import fcntl

    try:
        if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "")
    except (OSError, OverflowError, ValueError):
        raise JailError(
            f"cannot use --status-fd {number}: no such descriptor is open for writing",
            f"jailbuild enter --status-fd {number} … {number}>file",
        ) from None
    told = []

    def started(process: int) -> None:
        told.append(process)
        _write_line(number, f'{{"kind": "started", "pid": {process}}}\n')

    def ended(status: int) -> None:
        if told:
            _write_line(number, f'{{"kind": "ended", "status": {status}}}\n')

    return started, ended


def _write_line(number: int, line: str) -> None:
    try:
        os.write(number, line.encode())
    except OSError as error:  # the command runs all the same, and its end is waited for
        say(f"jailbuild: cannot write to descriptor {number}: {reason(error)}")


def _open(box: str) -> Root:
    """Return the box as a root (JailError)."""
    try:
        return Root(box)
    except JailError as error:
        why = error.causes[0].removeprefix(f"cannot open {box}: ")
        hint = error.hint if os.path.lexists(box) else f"jailbuild add bash --into {quoted(box)} makes a box"
        raise JailError(f"cannot enter {box}: {why}", hint) from None


def _refuse(why: preflight.Refusal | None, box: str) -> None:
    if why is not None:
        raise JailError(f"cannot enter {box}: {why.why}", why.hint)


def _hint_for(failed: StepError) -> str:
    if failed.error.errno == errno.EPERM:
        return "root here lacks a capability for it (CAP_SYS_CHROOT, CAP_SETGID): enter from outside the container"
    return ""


def _seen(root: Root) -> Root:
    """Return the root as the isolated modes show it: with a /proc, if there is a place for one."""
    if not root.is_directory("/proc"):
        return root
    return Overlay(root, {"/proc/self/exe": lambda: os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)})


def _again(root: Root) -> Root:
    """Return the root as it is now: what was seen before the command ran may have changed."""
    try:
        return Root(root.path)
    except JailError:
        return root


def _explain(root: Root, name: str, box: str, made: Command) -> tuple[str, str] | None:
    """Return message and hint of what is missing in the box for the command to start, None if nothing is.

    The status is already decided, so a box in which this cannot be found out changes nothing. This process has
    stayed outside the box, so what it imports now is the host's; an enter that goes well need not wait for it.
    """
    from jailbuild.closure.explain import explain_start

    try:
        return explain_start(root, name, box, made.search_path)
    except (OSError, JailError):
        return None


def _tell_missed(
    status: int, root: Root, box: str, name: str, made: Command, env: tuple[str, ...], *, has_dev: bool
) -> None:
    """Tell of a command that ended badly what it may have missed in silence, each with what brings it.

    Statuses that are not the command's own word on what it did, of a signal or of exec, are let be. 1 is often an
    answer and no failure (grep): what programs merely mention is not spoken of then.
    """
    if status in (0, _NOT_EXECUTED, _NOT_FOUND) or 128 < status <= 128 + 64:
        return
    from jailbuild.closure.explain import explain_failure

    asked = dict(word.split("=", 1) for word in env if "=" in word)
    try:
        found = explain_failure(_again(root), name, box, made.search_path, asked, has_dev=has_dev or status == FAILED)
    except (OSError, JailError):
        return
    for text, hint in found:
        say(f"note: {text}")
        say(f"hint: {hint}")


def _not_started(
    error: OSError,
    root: Root,
    box: str,
    name: str,
    made: Command,
    has_binds: bool,
    kind: emulation.ElfTarget | None,
    mode: str = "isolated",
) -> int:
    """Say why the command could not be started and what to do about it, and return the status for it.

    `mode` is "isolated" or "plain", or "container" for the plain mode that was not asked for, whose root cannot
    register an emulator. What is bound into the box is not seen from here, so that nothing can be said of what is
    missing.
    """
    asked = os.fsdecode(made.arguments[0])
    message = f"cannot start {asked or repr(asked)} in {box}: {reason(error)}"
    how = emulation.way(kind, root, isolated=mode == "isolated") if kind is not None else None
    if how is not None and how.how == "none":
        outside = "on the host of this container: apt install qemu-user-static binfmt-support"
        complain(
            [f"cannot start {asked} in {box}: {how.why}"], outside if how.hint and mode == "container" else how.hint
        )
    elif error.errno == errno.ENOENT and asked.startswith("-"):
        complain([message], f"options stand before BOX: jailbuild enter {quoted(asked)} {quoted(operand(box))}")
    elif has_binds or error.errno == errno.ELOOP:
        complain([message])
    elif error.errno != errno.EACCES and asked and (why := _explain(root, name, box, made)):  # EACCES: it is there
        complain([why[0]], why[1])
    elif error.errno == errno.EACCES and (denied := _why_denied(root, name, made)):
        complain([f"{message}: {denied}"], f"chmod and mount say who may execute what; so does ls -l below {box}")
    elif error.errno == errno.ENOENT and asked and "/" not in asked:
        complain([message], f"jailbuild add {quoted(asked)} --into {quoted(box)}")
    else:
        complain([message])
    return _NOT_FOUND if error.errno == errno.ENOENT else _NOT_EXECUTED


def _why_denied(root: Root, name: str, made: Command) -> str | None:
    """Return what the box shows of the reason why a command may not be executed."""
    from jailbuild.closure.explain import explain_denied

    paths = [name] if "/" in name else [f"{one}/{name}" for one in made.search_path.split(":")]
    return next((why for path in paths if (why := explain_denied(root, path))), None)
