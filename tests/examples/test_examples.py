"""The examples do what they say: each command line in them that is jailbuild's is run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
EXAMPLES = TOP / "examples"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: chroot(2)")

Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Run a command in tmp_path with the jailbuild under test as `jailbuild`."""
    programs = tmp_path / "programs"
    programs.mkdir()
    jailbuild = programs / "jailbuild"
    jailbuild.write_text(f'#!/bin/sh\nPYTHONPATH="{TOP}" exec "{sys.executable}" -P -m jailbuild "$@"\n')
    jailbuild.chmod(0o755)
    environment = {"PATH": f"{programs}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}

    def run(*command: str, status: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, input=stdin, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, (command, done.stdout, done.stderr)
        return done

    return run


DEMOS = ("demo-02-by-hand.sh", "demo-02-jailbuild.sh")


@needs_root
@pytest.mark.parametrize("demo", DEMOS)
def test_a_demo_runs_a_command_in_its_box(demo: str, shell: Shell) -> None:
    names = shell("sh", str(EXAMPLES / demo), "box", "ls", "/usr/bin").stdout.split()
    assert {"bash", "ls"} <= set(names)


@needs_root
@pytest.mark.parametrize("demo", DEMOS)
def test_a_demo_without_a_command_is_a_shell_in_its_box(demo: str, shell: Shell) -> None:
    done = shell("sh", str(EXAMPLES / demo), "box", stdin="cd /; echo $PWD; echo /usr/bin/bash; exit 7\n", status=7)
    assert done.stdout.splitlines()[-2:] == ["/", "/usr/bin/bash"]


@needs_root
@pytest.mark.parametrize("demo", DEMOS)
def test_a_demo_will_not_build_over_what_is_there_without_a_word(demo: str, shell: Shell, tmp_path: Path) -> None:
    """By hand the second mkdir fails; jailbuild finds the box as it should be and enters it."""
    shell("sh", str(EXAMPLES / demo), "box", "ls", "/")
    again = 1 if demo == "demo-02-by-hand.sh" else 0
    shell("sh", str(EXAMPLES / demo), "box", "ls", "/", status=again)


@needs_root
def test_both_boxes_behave_alike(shell: Shell) -> None:
    for demo, box in zip(DEMOS, ("by-hand", "by-jailbuild"), strict=True):
        shell("sh", str(EXAMPLES / demo), box, "ls", "/")
    for command, status in (
        (("bash", "-c", "echo $((6 * 7)); type -t cd"), 0),
        (("bash", "-c", "ls /usr/bin/bash /usr/bin/ls"), 0),
        (("ls", "--version"), 0),
        (("ls", "/nonexistent"), 2),
        (("bash", "-c", "cat /etc/hostname"), 127),
    ):
        by_hand, by_jailbuild = (shell("chroot", box, *command, status=status) for box in ("by-hand", "by-jailbuild"))
        assert by_jailbuild.stdout == by_hand.stdout
        assert by_jailbuild.stderr == by_hand.stderr


@needs_root
def test_the_box_made_by_hand_is_self_contained_too(shell: Shell) -> None:
    shell("sh", str(EXAMPLES / DEMOS[0]), "box", "ls", "/")
    shell("jailbuild", "check", "box")


def _steps(workflow: str) -> list[str]:
    """Return what the `run:` of each step runs; enough of YAML for our own file, which holds to two spaces."""
    lines = workflow.splitlines()
    steps = []
    for index, line in enumerate(lines):
        if not (found := re.match(r"^(?P<indent> +)(?:- )?run: (?P<text>.*)$", line)):
            continue
        if found["text"] != "|":
            steps.append(found["text"])
            continue
        block = []
        for below in lines[index + 1 :]:
            if below.strip() and not below.startswith(found["indent"] + "  "):
                break
            block.append(below.strip())
        steps.append("\n".join(block).strip())
    return steps


def test_the_workflow_is_plain_yaml_with_the_keys_of_one() -> None:
    text = (EXAMPLES / "ci-workflow.yml").read_text(encoding="utf-8")
    assert "\t" not in text
    assert {"name", "on", "jobs"} == set(re.findall(r"^(\w+):", text, re.MULTILINE))
    assert all((len(line) - len(line.lstrip())) % 2 == 0 for line in text.splitlines())
    installing, *steps = _steps(text)
    assert '/pip install "$JAILBUILD"' in installing
    assert all(line.startswith("jailbuild ") for step in steps for line in step.splitlines())
    assert "jailbuild check --strict box" in steps


@needs_root
def test_the_workflow_builds_a_jail_and_passes(shell: Shell) -> None:
    _, *steps = _steps((EXAMPLES / "ci-workflow.yml").read_text(encoding="utf-8"))
    for step in steps:
        done = shell("bash", "-e", "-c", step)
    assert done.stdout.splitlines()[-1] == "a shell in a jail"


@needs_root
def test_the_workflow_fails_when_the_jail_lacks_a_library(shell: Shell, tmp_path: Path) -> None:
    build, check = _steps((EXAMPLES / "ci-workflow.yml").read_text(encoding="utf-8"))[1:3]
    shell("bash", "-e", "-c", build)
    libraries = list((tmp_path / "box").rglob("libtinfo.so.*"))
    assert libraries
    for library in libraries:
        library.unlink()
    shell("bash", "-e", "-c", check, status=3)


def _instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile with their arguments."""
    text = (EXAMPLES / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    found = []
    for line in filter(None, text.splitlines()):
        word, _, rest = line.partition(" ")
        found.append((word, rest.strip()))
    return found


def test_the_image_of_the_dockerfile_starts_from_scratch_and_takes_the_box() -> None:
    instructions = _instructions()
    assert {word for word, _ in instructions} <= {"FROM", "RUN", "COPY", "ENV", "ENTRYPOINT", "CMD"}
    last = max(index for index, (word, _) in enumerate(instructions) if word == "FROM")
    assert instructions[0] == ("FROM", "debian:12 AS build")
    assert [word for word, _ in instructions[last:]] == ["FROM", "COPY", "ENTRYPOINT", "CMD"]
    assert instructions[last : last + 2] == [("FROM", "scratch"), ("COPY", "--from=build /box /")]


@needs_root
def test_the_box_of_the_dockerfile_runs_its_entry_point_and_has_no_manifest(shell: Shell, tmp_path: Path) -> None:
    instructions = _instructions()
    ran = [text.replace("/box", "./box") for word, text in instructions if word == "RUN" and "/box" in text]
    assert [text.split()[0] for text in ran] == ["jailbuild", "jailbuild", "rm"]
    for text in ran:
        shell("sh", "-e", "-c", text)
    assert not (tmp_path / "box/.jailbuild").exists()
    start = [word for key in ("ENTRYPOINT", "CMD") for word in json.loads(dict(instructions)[key])]
    assert "usr" in shell("chroot", "box", *start).stdout


def test_every_example_is_in_the_readme_of_the_examples() -> None:
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    names = sorted(path.name for path in EXAMPLES.iterdir() if path.name != "README.md")
    assert [name for name in names if f"]({name})" not in readme] == []
