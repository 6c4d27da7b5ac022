"""The set-id files of a box are found by its manifest, of schema 1 and 2, whatever they are called."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from jailbuild.box.manifest import Entry, Label, Manifest, Reason, RecordedRequest
from jailbuild.box.records import encode
from jailbuild.enter.privileged import privileged_files
from jailbuild.root import Root

NAMES = (
    "/bin/su",
    "/bin/na\udcefve",
    "/bin/naïve",
    '/bin/"quoted\\"',
    "/bin/two\nlines",
    "/bin/back\\slash",
    "/bin/\x1b",
    '/bin/x", "type": "file", "mode": "4755',
)
MODES = {"set-uid": 0o4755, "set-gid": 0o2755, "both": 0o6755, "all bits": 0o7777}


def _file(path: str, mode: int) -> Entry:
    return Entry(
        path,
        "file",
        mode,
        size=1,
        mtime_ns=0,
        sha256="0" * 64,
        source=path,
        wanted_by=("su",),
        reasons=(Reason("", "program", ("su",)),),
    )


def _as_schema_1(manifest: Manifest) -> bytes:
    lines = [{"kind": "header", "schema": 1, "root": manifest.label._asdict()}]
    lines += [entry.as_json() for entry in manifest.entries.values()]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()


def _box(place: Path, entries: list[Entry], schema: int) -> Root:
    """Make a box that has the files as they are listed."""
    (place / ".jailbuild").mkdir(parents=True)
    for entry in entries:
        path = Path(f"{place}{entry.path}")
        path.parent.mkdir(exist_ok=True)
        if entry.type == "directory":
            path.mkdir(exist_ok=True)
        else:
            path.touch()
        path.chmod(entry.mode or 0)
    manifest = Manifest(
        Label(None, None, None), {"su": RecordedRequest("su", "/bin/su")}, {entry.path: entry for entry in entries}
    )
    data = _as_schema_1(manifest) if schema == 1 else b"".join(encode(manifest))
    (place / ".jailbuild/manifest.jsonl").write_bytes(data)
    return Root(str(place))


@pytest.mark.parametrize("schema", [1, 2])
@pytest.mark.parametrize("what", MODES)
def test_set_id_files_are_found_by_any_name(tmp_path: Path, what: str, schema: int) -> None:
    """Whether their edges are shared or not."""
    others = [
        _file("/bin/plain", 0o755),
        _file("/bin/sticky", 0o1755),
        Entry("/bin", "directory", 0o2755),
        _file("/bin/many", 0o755),
    ]
    root = _box(tmp_path / "box", [*(_file(name, MODES[what]) for name in NAMES), *others], schema)
    assert sorted(NAMES) == sorted(privileged_files(root))


@pytest.mark.parametrize("schema", [1, 2])
def test_one_that_is_not_set_id_any_more_is_let_be(tmp_path: Path, schema: int) -> None:
    """Nor one that has gone, or is something else now."""
    names = ("/bin/a", "/bin/b", "/bin/c", "/bin/d")
    root = _box(tmp_path / "box", [_file(name, 0o4755) for name in names], schema)
    (tmp_path / "box/bin/a").chmod(0o755)
    (tmp_path / "box/bin/b").unlink()
    (tmp_path / "box/bin/c").unlink()
    os.symlink("d", tmp_path / "box/bin/c")
    assert privileged_files(root) == ("/bin/d",)
