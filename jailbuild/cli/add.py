"""jailbuild add PROGRAM… --into BOX."""

from __future__ import annotations

import click

from jailbuild.box.add import Addition, plan_addition
from jailbuild.box.apply import BoxChangedError, apply_plan
from jailbuild.cli import Command, say
from jailbuild.cli.options import as_json, option, programs, resolving, write
from jailbuild.closure.gather import Options
from jailbuild.names import shown
from jailbuild.report import jsonlines
from jailbuild.root import Root

_FEW = 8  # names in the summary
_ATTEMPTS = 10  # at a box that others write to at the same time


@click.command(cls=Command)
@programs
@option("--into", "box", metavar="BOX", required=True, type=click.Path(readable=False),
              help="The box; made if need be.")
@resolving
@option("--bare", is_flag=True, help="Programs, libraries and the links on their way; no names beside them.")
@option("--keep-privileges", is_flag=True, help="Keep setuid and setgid bits and file capabilities.")
@option("--no-sync", is_flag=True, help="Do not wait for the disk: for boxes that are thrown away.")
@option("--dry-run", is_flag=True, help="Print what would be done, write nothing.")
@option("--as-shell", is_flag=True, help="Print it as a shell script, write nothing.")
@as_json
@option("-q", "--quiet", is_flag=True, help="Say nothing where nothing is wrong.")
@option("-v", "--verbose", is_flag=True, help="Name every path.")
def command(
    programs: tuple[str, ...], box: str, library_path: str, search_path: str, sysroot: str, bare: bool,
    keep_privileges: bool, no_sync: bool, dry_run: bool, as_shell: bool, as_json: bool, quiet: bool, verbose: bool,
) -> None:
    """Put PROGRAM... and every file they need into BOX.

    A program is a name, looked up in the standard PATH, a path, or SRC:DEST: a file from anywhere, put at DEST.
    """
    options = Options(search_path, library_path)
    for attempt in range(_ATTEMPTS):
        addition = plan_addition(Root(sysroot), programs, box, options, bare=bare, keep_privileges=keep_privileges)
        plan = addition.plan
        if as_shell or dry_run or plan.conflicts:
            break
        try:
            apply_plan(plan, box, addition.source, keep_privileges, not no_sync)
            break
        except BoxChangedError:
            if attempt == _ATTEMPTS - 1:
                raise
    if not quiet:
        for note in addition.closure.notes:
            say(f"note: {note}")
    if as_shell and not plan.conflicts:
        from jailbuild.report import shell

        if keep_privileges:
            say("note: a script of cp keeps set-id bits and no file capabilities: setcap(8) sets those")
        write(shell.script(plan.actions, plan.draft.made, box, addition.host_path))
        return
    if as_json:
        write("".join(jsonlines.line(action.as_json()) for action in plan.actions))
    elif dry_run or verbose:
        write("".join(f"{action.kind:8} {shown(action.entry.path)}\n" for action in plan.actions))
    plan.refuse_conflicts()
    if not (dry_run or quiet or as_json):
        say(_summary(addition, box))


def _summary(addition: Addition, box: str) -> str:
    written = [action.entry for action in addition.plan.changes]
    requests = addition.closure.requests
    names = ", ".join(request.name for request in requests[:_FEW])
    if len(requests) > _FEW:
        names += f" and {len(requests) - _FEW} more"
    if not written:
        return f"{box}: {names}: nothing to do"
    parts = []
    for kind, plural in (("file", "files"), ("link", "links"), ("directory", "directories")):
        some = [entry for entry in written if entry.type == kind]
        if some:
            size = sum(entry.size or 0 for entry in some if entry.hardlink in (None, entry.path))
            much = f" ({size / 1e6:.1f} MB)" if kind == "file" else ""
            parts.append(f"{len(some)} {kind if len(some) == 1 else plural}{much}")
    return f"{box}: {names}: wrote {', '.join(parts)}"
