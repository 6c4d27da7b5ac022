"""What the commands print with --json is what the published schemas say, key by key and in their order."""

from __future__ import annotations

import importlib.resources
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from jailbuild.box.chains import chains
from jailbuild.box.manifest import Entry, Manifest, Reason
from jailbuild.box.plan import Action
from jailbuild.box.records import encode, parse_manifest
from jailbuild.check.findings import CODES, Finding, Report
from jailbuild.cli import COMMANDS
from jailbuild.closure.programs import Part, Program
from jailbuild.closure.shebang import Interpreter
from jailbuild.elf.reader import Elf
from jailbuild.loader.files import File
from jailbuild.loader.model import Edge, Library, Missing, Resolution
from jailbuild.report import jsonlines

OPTIONAL = {
    "for",
    "through",
    "cause",
    "box",
    "lines",
    "without",
    "dlopen",
    "docs",
    "depends",
    "recommends",
    "state",
}

JAILBUILD = (sys.executable, "-m", "jailbuild")
SCHEMAS = ("add", "check", "deps", "list", "recipes", "why")
ODD = "/opt/na\udcefve"  # the byte EF, which is no UTF-8

Record = dict[str, Any]


def schema(name: str) -> Record:
    text = importlib.resources.files("jailbuild.report").joinpath(f"schemas/{name}.json").read_text(encoding="utf-8")
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema(name), format_checker=jsonschema.FormatChecker())


def is_valid(name: str, record: Record) -> bool:
    return bool(validator(name).is_valid(record))


def hold(name: str, text: str) -> list[Record]:
    """Hold the lines of `text` against a schema, the order of the keys included, and return the objects."""
    records = [json.loads(line) for line in text.splitlines()]
    whole = schema(name)
    for record in records:
        validator(name).validate(record)
        assert next(iter(record)) == "kind"
        assert [*out_of_order(record, whole, whole)] == []
    return records


def alternatives(part: Record, whole: Record) -> Iterator[Record]:
    """Yield the object schemas that a part of a schema can stand for."""
    if "$ref" in part:
        yield from alternatives(whole["$defs"][part["$ref"].rpartition("/")[2]], whole)
    for one in part.get("oneOf", ()):
        yield from alternatives(one, whole)
    if "properties" in part or "items" in part:
        yield part


def out_of_order(value: object, part: Record, whole: Record) -> Iterator[list[str]]:
    """Yield the keys of each object in `value` that are not in the order in which its schema lists them."""
    if isinstance(value, list):
        for one in alternatives(part, whole):
            if isinstance(one.get("items"), dict):
                for item in value:
                    yield from out_of_order(item, one["items"], whole)
    if isinstance(value, dict):
        fits = [
            one
            for one in alternatives(part, whole)
            if "properties" in one and jsonschema.Draft202012Validator({**one, "$defs": whole["$defs"]}).is_valid(value)
        ]
        assert len(fits) == 1
        listed = fits[0]["properties"]
        if [*value] != [key for key in listed if key in value]:
            yield [*value]
        for key, item in value.items():
            yield from out_of_order(item, listed[key], whole)


def jailbuild(*arguments: str | Path, status: int = 0) -> str:
    done = subprocess.run([*JAILBUILD, *arguments], capture_output=True, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout.decode("utf-8")  # whatever the names are, the lines are UTF-8


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("boxes") / "box"
    jailbuild("add", "--no-sync", "bash", "ls", "--into", made)
    return made


def libraries(count: int = 1, name: str = "libx.so") -> tuple[Library, ...]:
    file = File(1, 2, Elf())
    return tuple(Library(name, f"{ODD}/{name}", "rpath", file, Edge(ODD, "needed")) for _ in range(count))


# the schemas themselves


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_one_and_describes_every_object_and_key(name: str) -> None:
    whole = schema(name)
    jsonschema.Draft202012Validator.check_schema(whole)
    assert whole["title"] == f"jailbuild {name} --json"
    objects = [part for part in (whole, *whole["$defs"].values()) if part.get("type") == "object"]
    assert objects
    for part in objects:
        assert part["description"]
        assert part["additionalProperties"] is False
        of_header, of_request = ("schema" in part["properties"], "bare" in part["properties"])
        optional = OPTIONAL | ({"source"} if of_header else {"mode", "owner"} if of_request else set())
        keys = {key for key in part["properties"] if not key.endswith("_b64") and key not in optional}
        assert set(part["required"]) == keys
        for key, said in part["properties"].items():
            assert (
                "$ref" in said
                or "const" in said
                or "enum" in said
                or said.get("description")
                or (said == {"type": "null"})
            ), key


def test_every_command_with_json_has_a_schema_and_no_other() -> None:
    with_json = [name for name in COMMANDS if "--json" in jailbuild(name, "--help")]
    assert sorted(with_json) == sorted({*SCHEMAS, "remove", "update"})  # whose plans are those of add
    there = {file.name for file in importlib.resources.files("jailbuild.report").joinpath("schemas").iterdir()}
    assert there == {f"{name}.json" for name in SCHEMAS}


def test_the_codes_of_check_are_those_of_the_one_table() -> None:
    listed = schema("check")["$defs"]["finding"]["properties"]["code"]["oneOf"]
    assert [one["const"] for one in listed] == [*CODES]
    for code in CODES:
        finding = Finding(code, "/x", "words").as_json()
        assert is_valid("check", finding)
        for severity in {"error", "warning", "note"} - {finding["severity"]}:
            assert not is_valid("check", {**finding, "severity": severity})


@pytest.mark.parametrize(
    ("name", "example"),
    [
        (
            "deps",
            """{"kind": "program", "path": "/usr/bin/ls", "type": "elf", "interpreter": "/lib64/ld-linux-x86-64.so.2",
            "libraries": [{"name": "libc.so.6", "path": "/lib/x86_64-linux-gnu/libc.so.6", "found_by": "cache",
            "requests": [{"by": "/usr/bin/ls", "as": "needed"}]}],
            "missing": [{"name": "libx.so", "searched": ["runpath /opt/x", "cache", "default /lib"],
            "requests": [{"by": "/usr/bin/ls", "as": "needed"}]}],
            "error": null}""",
        ),
        (
            "deps",
            """{"kind": "program", "path": "/usr/bin/2to3", "type": "script", "interpreters":
            [{"path": "/usr/bin/env", "argument": "python3"}, {"path": "/usr/bin/python3", "argument": null}],
            "libraries": [], "missing": [], "error": null}""",
        ),
        (
            "check",
            """{"kind": "finding", "code": "missing-library", "severity": "error", "path": "/usr/bin/ls",
            "subject": "libx.so", "searched": ["…"], "requested_by": ["ls"], "origin": null, "message": "…",
            "hint": "jailbuild add …"}""",
        ),
        ("check", '{"kind": "summary", "programs": 2, "files": 9, "errors": 1, "warnings": 0, "notes": 0}'),
        (
            "why",
            """{"kind": "chain", "steps": [{"path": "/usr/bin/ls", "as": "program"},
            {"path": "/usr/lib/libc.so.6", "as": "needed"}]}""",
        ),
    ],
)
def test_the_design_s_own_examples_fit(name: str, example: str) -> None:
    hold(name, example.replace("\n", " "))


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_key_too_many_or_too_few_does_not_fit(name: str, box: Path) -> None:
    record = [*printed(name, box)][-1]
    assert is_valid(name, record)
    assert not is_valid(name, {**record, "more": None})
    for key in record:
        assert not is_valid(name, {other: value for other, value in record.items() if other != key}), key


def printed(name: str, box: Path) -> list[Record]:
    arguments: dict[str, tuple[str | Path, ...]] = {
        "add": ("bash", "ls", "cat", "--into", box, "--dry-run"),
        "check": (box,),
        "deps": ("bash", "ls"),
        "list": (box,),
        "recipes": (),
        "why": (box, "/usr/lib/x86_64-linux-gnu/libc.so.6"),
    }
    return hold(name, jailbuild(name, *arguments[name], "--json"))


# what the commands print


def test_deps_prints_objects_in_the_order_of_the_request(box: Path) -> None:
    found = hold("deps", jailbuild("deps", "--json", "ls", "ldd", "bash", "/lib64/ld-linux-x86-64.so.2"))
    assert [one["path"] for one in found] == [
        "/usr/bin/ls",
        "/usr/bin/ldd",
        "/usr/bin/bash",
        "/lib64/ld-linux-x86-64.so.2",
    ]
    assert [one["type"] for one in found] == ["elf", "script", "elf", "elf"]
    assert [*found[0]] == ["kind", "path", "type", "interpreter", "libraries", "missing", "error"]
    assert [*found[1]] == ["kind", "path", "type", "interpreters", "libraries", "missing", "error"]
    assert [*found[0]["libraries"][0]] == ["name", "path", "found_by", "requests"]
    assert [*found[0]["libraries"][0]["requests"][0]] == ["by", "as"]


def test_deps_of_every_program_of_the_machine_fits() -> None:
    programs = [entry.path for entry in os.scandir("/usr/bin") if entry.is_file()]
    done = subprocess.run([*JAILBUILD, "deps", "--json", *programs], capture_output=True, check=False)
    for line in done.stdout.decode("utf-8").splitlines():
        record = json.loads(line)
        # by the kind of file, which is much quicker than oneOf
        kind = validator("deps").evolve(schema={**schema("deps"), "oneOf": [{"$ref": f"#/$defs/{record['type']}"}]})
        kind.validate(record)


def test_deps_of_a_file_that_is_neither_program_nor_script_has_an_object(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program\n")
    assert [one["type"] for one in hold("deps", jailbuild("deps", "--json", tmp_path / "text", status=1))] == ["other"]


def test_add_prints_the_plan_by_path(box: Path, tmp_path: Path) -> None:
    new = hold("add", jailbuild("add", "--json", "--dry-run", "bash", "--into", tmp_path / "new"))
    assert {one["kind"] for one in new} == {"add"}
    assert [one["path"] for one in new] == sorted(one["path"] for one in new)
    assert {one["type"] for one in new} == {"file", "link", "directory"}
    again = hold("add", jailbuild("add", "--json", "--dry-run", "bash", "--into", box))
    assert {one["kind"] for one in again} == {"keep"}


def test_add_prints_conflicts_with_the_reason(box: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(box, tmp_path / "box", symlinks=True)
    (changed / "usr/bin/cat").write_text("mine")
    plan = hold("add", jailbuild("add", "--json", "cat", "--into", changed, status=1))
    assert [(one["path"], one["why"] is None) for one in plan if one["kind"] == "conflict"] == [("/usr/bin/cat", False)]


def test_the_dry_run_and_the_real_run_print_the_same_plan(tmp_path: Path) -> None:
    words = ("add", "--json", "--no-sync", "bash", "--into", tmp_path / "box")
    assert jailbuild(*words, "--dry-run") == jailbuild(*words)


def test_list_prints_the_manifest_s_own_lines(box: Path) -> None:
    text = jailbuild("list", "--json", box)
    lines = hold("list", text)
    stored = (box / ".jailbuild/manifest.jsonl").read_bytes()
    assert b"".join(encode(parse_manifest(stored))) == stored
    assert len(text.encode()) > len(stored)
    kinds = [kind for kind, _ in itertools.groupby(lines, lambda one: one["kind"])]
    assert kinds == ["header", "request", "package", "entry"]
    assert [*lines[0]["root"]] == ["id", "version_id", "machine"]
    paths = [one["path"] for one in lines if one["kind"] == "entry"]
    assert paths == sorted(paths)


def test_why_prints_chains_that_begin_with_a_request(box: Path) -> None:
    found = hold("why", jailbuild("why", "--json", box, "/usr/lib/x86_64-linux-gnu/libc.so.6"))
    assert {one["steps"][0]["as"] for one in found} == {"program"}
    assert {one["steps"][-1]["path"] for one in found} == {"/usr/lib/x86_64-linux-gnu/libc.so.6"}


def test_check_prints_findings_and_then_one_summary(box: Path, tmp_path: Path) -> None:
    assert {one.get("severity", one["kind"]) for one in hold("check", jailbuild("check", "--json", box))} <= {
        "note",
        "summary",
    }
    broken = shutil.copytree(box, tmp_path / "box", symlinks=True)
    (broken / "usr/lib/x86_64-linux-gnu/libtinfo.so.6").unlink()
    (broken / "usr/bin/ls").write_bytes(b"\x7fELF")
    (broken / "mine").write_text("mine")
    (broken / "lost").symlink_to("nowhere")
    found = hold("check", jailbuild("check", "--json", broken, status=3))
    assert [one["kind"] for one in found] == ["finding"] * (len(found) - 1) + ["summary"]
    assert [*found[0]] == [
        "kind",
        "code",
        "severity",
        "path",
        "subject",
        "searched",
        "requested_by",
        "origin",
        "message",
        "hint",
    ]
    assert {"missing-library", "missing-file", "changed-file", "dangling-link", "unlisted-file", "unreadable"} <= {
        one["code"] for one in found[:-1]
    }
    counts = {key: found[-1][key] for key in ("errors", "warnings", "notes")}
    assert counts == {
        f"{severity}s": sum(one["severity"] == severity for one in found[:-1])
        for severity in ("error", "warning", "note")
    }


# names that are not UTF-8, and what this machine does not have


def test_every_name_of_deps_may_be_other_bytes_than_utf_8() -> None:
    missing = Missing("lib\udcff.so", ("runpath /\udcff",), [Edge(ODD, "audit")], ())
    resolution = Resolution(f"{ODD}/ld.so", libraries(), (missing,))
    program = Program(ODD, "elf", (), (Part(ODD, resolution),))
    script = Program(ODD, "script", (Interpreter("/bin/\udcff", "\udcfe"), Interpreter("/bin/sh", None)))
    lines = jsonlines.Programs()
    text = "".join(lines.line(one) for one in (program, script))
    first, second = hold("deps", text)
    assert first["path"] == "/opt/na\N{REPLACEMENT CHARACTER}ve"
    assert first["path_b64"] == "L29wdC9uYe92ZQ=="
    assert [*second["interpreters"][0]] == ["path", "path_b64", "argument", "argument_b64"]


def test_every_name_of_an_entry_may_be_other_bytes_than_utf_8(box: Path) -> None:
    manifest = parse_manifest((box / ".jailbuild/manifest.jsonl").read_bytes())
    link = next(entry for entry in manifest.entries.values() if entry.type == "link")
    file = next(entry for entry in manifest.entries.values() if entry.type == "file")
    odd: list[Entry] = [
        link._replace(path=ODD, target="\udcff", source=ODD, wanted_by=("\udcff",)),
        file._replace(path=f"{ODD}2", hardlink=ODD, source=ODD),
        Entry("/dev/null", "device", 0o666, 0, 0, device=("c", 1, 3), wanted_by=("ls",), reasons=file.reasons),
    ]
    requests = {ODD: manifest.requests["ls"]._replace(name=ODD, path=ODD, source=ODD)}
    changed = Manifest(manifest.label._replace(id=None), requests, {entry.path: entry for entry in odd})
    hold("list", "".join(jsonlines.line(line) for line in changed.lines()))
    hold("add", "".join(jsonlines.line(Action("add", entry).as_json()) for entry in odd if entry.reasons))


def test_an_entry_has_what_its_type_needs_and_no_more(box: Path) -> None:
    manifest = parse_manifest((box / ".jailbuild/manifest.jsonl").read_bytes())
    for entry in manifest.entries.values():
        for wrong in ({"type": "device"}, {"target": "x" if entry.type != "link" else None}, {"wanted_by": None}):
            assert not is_valid("list", {**entry.as_json(entry.reasons or (Reason("/x", "parent"),)), **wrong})


def test_a_finding_about_other_bytes_than_utf_8_fits() -> None:
    finding = Finding("changed-file", ODD, f"{ODD} is new", ODD, (f"runpath {ODD}",), ("\udcff",), f"see {ODD}")
    report = Report((finding,), 1, 1)
    hold("check", jsonlines.line(finding.as_json()) + jsonlines.line(report.as_json()))


def test_chains_are_made_of_steps_with_path_and_as(box: Path) -> None:
    manifest = parse_manifest((box / ".jailbuild/manifest.jsonl").read_bytes())
    for path in manifest.entries:
        assert [*chains(manifest, path)], path
