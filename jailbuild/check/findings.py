"""What `check` can say: the one table of codes, and a finding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from jailbuild.box.manifest import Manifest
from jailbuild.closure.commands import DOCS, OPTIONS
from jailbuild.closure.explain import add_command
from jailbuild.names import command_line, matcher, operand, shown, to_json

_FEW = 8  # requests in a hint
ERROR, WARNING, NOTE = "error", "warning", "note"


class Code(NamedTuple):
    """How bad a kind of finding is, what it means, and what to do about it where nothing better is known."""

    severity: str
    meaning: str
    hint: str


CODES = {
    "missing-library": Code(
        ERROR,
        "a program needs a library that the loader would not find",
        "add the program again, or put the library where the loader looks",
    ),
    "missing-interpreter": Code(ERROR, "the loader that a program names is not there", "add the program again"),
    "missing-script-interpreter": Code(
        ERROR, "what a script's #! line leads to is not there", "add the interpreter, or mend the script's first line"
    ),
    "missing-version": Code(
        ERROR,
        "a program, or a library of it, needs a symbol version that the library it loads does not have",
        "add the program again, or put in the library that it was linked with, or a later one",
    ),
    "mixed-glibc": Code(
        ERROR,
        "the loader and the libc.so.6 that it loads are of two releases of glibc: programs crash at the start",
        "put in both from one package",
    ),
    "undefined-symbol": Code(
        ERROR,
        "a program, or a library of it, wants a symbol at the start that nothing it loads has (--symbols)",
        "put in the library that it was linked with",
    ),
    "loader-disagrees": Code(
        ERROR,
        "the box's own loader says something else than this check (--run)",
        "trust the loader, and tell the authors of jailbuild",
    ),
    "wrong-machine": Code(
        ERROR,
        "a program and its loader, or the box, are for different machines",
        "take the program from a root of the box's own machine",
    ),
    "dangling-link": Code(
        ERROR, "a symbolic link leads to nothing in the root", "put in what it leads to, or remove it"
    ),
    "missing-file": Code(ERROR, "the manifest lists it and it is gone", "add again what it was for"),
    "changed-file": Code(
        ERROR, "it is not what the manifest says was put there", "remove it, and add again what it was for"
    ),
    "wrong-owner": Code(ERROR, "it belongs to somebody else than the manifest says", "give it back its owner"),
    "wrong-mode": Code(ERROR, "its permissions are not those that the manifest says", "give it back its mode"),
    "unreadable": Code(
        ERROR,
        "it cannot be read, or kernel or loader would refuse it",
        "check as somebody who may read it; put a damaged program in again",
    ),
    "unexpected-privileges": Code(
        ERROR,
        "it is set-id or has capabilities, and the manifest does not have it so",
        "find out who did that; chmod u-s,g-s and setcap -r take the privileges away",
    ),
    "manifest-differs": Code(
        ERROR,
        "the box's own manifest is not the copy that --manifest trusts",
        "keep a new copy if it was you who changed the box; if not, build a new box",
    ),
    "unfinished-change": Code(
        ERROR,
        "a change of the box was interrupted, or is still under way",
        "check again later; where nothing is running, the next jailbuild add finishes it",
    ),
    "sshd-refuses": Code(
        ERROR,
        "sshd takes no ChrootDirectory that others may write to, or into whose path they may (--for sshd)",
        "make the box and every directory above it root's own, writable for nobody else",
    ),
    "stale": Code(
        ERROR, "the source root has something else for it now (--stale)", "jailbuild update brings the box up to it"
    ),
    "unrecorded-capability": Code(
        WARNING,
        "a listed file has capabilities, which the manifest does not record",
        "setcap -r takes them away; --ignore unrecorded-capability:PATH if they were kept on purpose",
    ),
    "device-node": Code(
        WARNING,
        "a device node that the manifest does not list",
        "remove it: whoever may open it is at the device itself",
    ),
    "outside-hard-link": Code(
        WARNING,
        "the file has another name outside the root: a change inside changes it there too",
        "put a copy in its place",
    ),
    "world-writable-directory": Code(
        WARNING,
        "everybody may write to the directory, and it has no sticky bit",
        "chmod o-w, or chmod +t as /tmp has it",
    ),
    "world-writable-file": Code(WARNING, "everybody may write to the file", "chmod o-w"),
    "secret-file": Code(
        WARNING,
        "a secret, by its name or its look: password hashes, a private key, a history",
        "remove it: what is in the box is for everybody in it",
    ),
    "reachable-from-host": Code(
        WARNING,
        "other users of the host can reach what is dangerous to leave to them: set-id files, devices, "
        "world-writable directories",
        "keep the box below a directory that only its owner may enter (chmod 700)",
    ),
    "not-enterable": Code(
        WARNING,
        "the root is closed to others: daemons that drop their privileges fail in it",
        "chmod 755, and keep others out by the directory above it",
    ),
    "leftover-staging": Code(
        WARNING,
        "files of a change that never came about were left in /.jailbuild",
        "the next jailbuild add removes them",
    ),
    "unread-manifest": Code(
        WARNING,
        "the manifest is for the box's owner alone: nothing was compared with it",
        "check as the owner, or name a copy with --manifest",
    ),
    "undefined-function": Code(
        WARNING,
        "a program, or a library of it, may call a function that nothing it loads has (--symbols)",
        "put in the library that it was linked with; nothing, if the function is never called",
    ),
    "no-version-information": Code(
        WARNING,
        "a program, or a library of it, asks for symbol versions of a library that has none",
        "put in the library that it was linked with: the loader complains at every start",
    ),
    "no-program": Code(WARNING, "the root has no program at all", "jailbuild add puts programs in"),
    "vanished-program": Code(
        WARNING,
        "the source root no longer has a program that the box has (--stale)",
        "remove it from the box, or install it again",
    ),
    "privileged-file": Code(
        NOTE,
        "it is set-id as the manifest has it; or set-id or with capabilities, and there is no manifest",
        "chmod u-s,g-s and setcap -r take the privileges away",
    ),
    "unreached-library": Code(
        NOTE,
        "a library that no program loads misses something when it is loaded alone",
        "nothing, if a program opens it while it runs: plugins often miss things alone",
    ),
    "missing-optional-library": Code(
        NOTE,
        "a library that a program would open while it runs, and can do without, is not there",
        "nothing, if what it is for is not missed; else install it, and add the program again",
    ),
    "loader-not-asked": Code(
        NOTE,
        "the loader of a program could not be asked: for another machine, or unreadable (--run)",
        "check on a machine of its own kind, or with qemu-user-static installed",
    ),
    "unlisted-file": Code(
        NOTE,
        "it is in the box and jailbuild did not put it there",
        "nothing, if it is yours: jailbuild neither changes nor removes it",
    ),
    "no-user-database": Code(
        NOTE,
        "a program looks up users, and there is no /etc/passwd: it shows numbers, or refuses to run",
        "jailbuild add --with users --into BOX",
    ),
    "no-tls-roots": Code(
        NOTE,
        "a program loads a library of TLS, and there are no certificates of authorities: it trusts nobody",
        "jailbuild add --with tls-roots --into BOX",
    ),
    "no-gconv": Code(
        NOTE, "a program converts character sets, and there is no gconv", "jailbuild add --with gconv --into BOX"
    ),
    "no-dev-null": Code(
        NOTE,
        "a program opens /dev/null, which is there in the isolated modes of enter alone",
        "jailbuild add --with devices --into BOX",
    ),
    "origin-needs-proc": Code(
        NOTE, "a program finds its libraries by $ORIGIN, for which the loader needs /proc", "jailbuild enter mounts it"
    ),
    "uncovered-dlopen": Code(
        NOTE,
        "a program opens libraries while it runs, and neither it nor a recipe says which",
        "jailbuild enter --env LD_DEBUG=files BOX PROGRAM shows which",
    ),
    "absent-zone": Code(
        NOTE,
        "a file asks for a time zone that is not there: times are wrong in silence",
        "jailbuild add --with zones --into BOX",
    ),
    "absent-locale": Code(NOTE, "a file asks for a locale that is not there", "jailbuild add --locale NAME --into BOX"),
    "not-compared": Code(
        NOTE,
        "put in by path, which is not believed: it cannot be compared with its source (--stale)",
        "jailbuild update --file SRC:DST names its source again",
    ),
}


def readd_command(manifest: Manifest, requested_by: Sequence[str], box: str) -> str | None:
    """Return the command that puts requests of a box in again; files from elsewhere are named with their source.

    Each of them brings all that it needs: of many some will do.
    """
    words = []
    for name in requested_by[:_FEW]:
        asked = manifest.requests.get(name)
        if name.startswith("-"):  # it would be an option, and whoever wrote the manifest may have meant it to be
            continue
        if asked is None:
            words.append(name)
            continue
        word = asked.word if asked.source is None else f"{asked.source}:{asked.path}"
        option = OPTIONS.get(asked.type)
        docs = ["--docs"] if asked.type == "package" and word.endswith(DOCS) else []
        words += [*([option] if option else []), word.removesuffix(DOCS) if docs else word, *docs]
    return add_command(words, box) if words else None


def on_host(path: str, box: str) -> str:
    """Return a path of the box as the user would name it."""
    return operand(f"{box.rstrip('/')}{path}" if path != "/" else box)


def command_on(path: str, box: str, *words: str) -> str:
    """Return a command with a path of the box behind its words, ready for a shell."""
    return command_line(*words, on_host(path, box))


class Finding(NamedTuple):
    """One thing that `check` has to say. Without a `hint` of its own it has that of its code."""

    code: str
    path: str
    message: str
    subject: str | None = None
    searched: tuple[str, ...] = ()
    requested_by: tuple[str, ...] = ()
    hint: str | None = None

    @property
    def severity(self) -> str:
        """How bad it is: "error", "warning" or "note"."""
        return CODES[self.code].severity

    @property
    def advice(self) -> str:
        """What to do about it."""
        return self.hint or CODES[self.code].hint

    def as_json(self) -> dict[str, Any]:
        """Return the object of `check --json`."""
        return {
            "kind": "finding",
            "code": self.code,
            "severity": self.severity,
            **to_json("path", self.path),
            **to_json("subject", self.subject),
            "searched": list(self.searched),
            "requested_by": list(self.requested_by),
            "origin": None,
            "message": shown(self.message),
            "hint": shown(self.advice),
        }


class Ignored(NamedTuple):
    """Findings that are not to be reported: of a code, at the paths that a pattern of fnmatch(3) fits."""

    code: str
    paths: str = "*"


class Report(NamedTuple):
    """All findings, by path, and how much was looked at."""

    findings: tuple[Finding, ...]
    programs: int
    files: int

    def count(self, severity: str) -> int:
        """Return how many findings are that bad."""
        return sum(finding.severity == severity for finding in self.findings)

    def without(self, ignored: Sequence[Ignored]) -> Report:
        """Return the report without findings that are not wanted."""
        patterns: dict[str, list[str]] = {}
        for one in ignored:
            patterns.setdefault(one.code, []).append(one.paths)
        fits = {code: matcher(some) for code, some in patterns.items()}
        return self._replace(
            findings=tuple(one for one in self.findings if one.code not in fits or not fits[one.code](one.path))
        )

    def as_json(self) -> dict[str, Any]:
        """Return the summary of `check --json`."""
        return {
            "kind": "summary",
            "programs": self.programs,
            "files": self.files,
            "errors": self.count(ERROR),
            "warnings": self.count(WARNING),
            "notes": self.count(NOTE),
        }

    def is_good(self, strict: bool) -> bool:
        """Say whether the root is as it should be; warnings count if `strict`."""
        return not self.count(ERROR) and not (strict and self.count(WARNING))


def sort(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings in the order in which they are printed, each once."""
    return tuple(sorted(dict.fromkeys(findings), key=lambda one: (one.path, one.code, one.subject or "")))
