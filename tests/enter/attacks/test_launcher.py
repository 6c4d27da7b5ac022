"""Code of the box in the launcher, and the launcher as code for the box."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.enter.attacks.world import NEEDS, USER, World, promise

pytestmark = NEEDS


@promise(14)
def test_a_python_module_planted_in_the_box_does_not_run(world: World, how: str) -> None:
    """Every module's name is taken, in every directory where Python would look, and in the directory that one is in."""
    evil = "import os\nos.close(os.open('/ran', os.O_CREAT | os.O_WRONLY, 0o666))\nraise SystemExit(0)\n"
    names = sorted(sys.stdlib_module_names - set(sys.builtin_module_names))
    paths = sysconfig.get_paths()
    places = ["", paths["stdlib"], paths["purelib"], str(world.tools.directory / "lib"), str(world.directory)]

    def prepare(box: Path) -> None:
        box.chmod(0o777)
        for place in places:
            directory = box / place.lstrip("/")
            directory.mkdir(parents=True, exist_ok=True)
            for name in (*names, "jailbuild", "click"):
                (directory / f"{name}.py").write_text(evil)

    naive = world.make_box("plain", prepare)
    code = f"import os; os.chroot({str(naive)!r}); os.chdir('/'); import colorsys"
    subprocess.run([world.tools.python, "-c", code], check=True)
    assert (naive / "ran").exists()
    ran = world.attack(how, "nothing", prepare=prepare)
    assert ran.said == "nothing\n"
    assert not (ran.box / "ran").exists()
    failing = world.command(how, ran.box, options=())[:-1]  # an error, too, is said without the box's help
    ended = subprocess.run(
        [*failing, "/nowhere"],
        env=world.tools.environment,
        capture_output=True,
        **world.user(how),
    )
    assert ended.returncode == 127
    assert not (ran.box / "ran").exists()


@promise(14)
def test_a_name_service_library_planted_in_the_box_does_not_run(world: World, how: str) -> None:
    source = world.directory / "evil.c"
    source.write_text(
        "#include <fcntl.h>\n#include <unistd.h>\n"
        '__attribute__((constructor)) static void ran(void) { close(open("/ran", O_CREAT | O_WRONLY, 0666)); }\n',
    )
    library = world.directory / "libnss_evil.so.2"
    subprocess.run(["gcc", "-shared", "-fPIC", "-nostdlib", "-o", library, source], check=True)

    def prepare(box: Path) -> None:
        box.chmod(0o777)
        (box / "etc").mkdir()
        (box / "etc/nsswitch.conf").write_text("passwd: evil files\ngroup: evil files\nhosts: evil\n")
        (box / "etc/passwd").write_text("root:x:0:0::/:/attack\nuser:x:0:0::/:/attack\n")
        for place in ("lib64", "lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"):
            (box / place).mkdir(parents=True)
            for name in ("evil", "files", "compat", "dns"):
                shutil.copy(library, box / place / f"libnss_{name}.so.2")

    naive = world.make_box("plain", prepare)
    code = f"import os, pwd; os.chroot({str(naive)!r}); os.chdir('/'); pwd.getpwnam('nobody-at-all')"
    subprocess.run([world.tools.python, "-c", code], capture_output=True)
    assert (naive / "ran").exists()
    ran = world.attack(how, "nothing", prepare=prepare, options=("--user", "user"))
    assert ran.said == "nothing\n"
    assert not (ran.box / "ran").exists()


@promise(18)
@pytest.mark.parametrize("lead", ["link", "script", "script to a link", "script to a script"])
def test_a_command_that_leads_to_the_launcher_s_own_program_does_not_reach_it(
    world: World,
    how: str,
    lead: str,
) -> None:
    """The program is the host's Python; the loader that it asks for is the box's, and changes its mode."""
    python = world.directory / "python3"

    def prepare(box: Path) -> None:
        (box / "lib64").mkdir()
        shutil.copy(world.tools.loader, box / "lib64/ld-linux-x86-64.so.2")
        (box / "attack").unlink()
        (box / "link").symlink_to("/proc/self/exe")
        (box / "script").write_text("#!/proc/self/exe\n")
        (box / "attack").write_text(
            {
                "script": "#!/proc/self/exe\n",
                "script to a link": "#!/link\n",
                "script to a script": "#!/script\n",
            }.get(lead, "")
        )
        if lead == "link":
            (box / "attack").unlink()
            (box / "attack").symlink_to("/proc/self/exe")
        else:
            (box / "attack").chmod(0o755)
            (box / "script").chmod(0o755)

    def changed(mode: str) -> int:
        shutil.copy(world.tools.python, python)
        python.chmod(0o755)
        if how == "rootless":
            os.chown(python, USER, USER)
        before = ("mount -t proc proc $box/proc",) if mode == "plain" else ()
        ran = world.attack(mode, prepare=prepare, by=python, before=before, statuses=(0, 1, 126))
        if mode != "plain":
            assert ran.status == 126
        return stat.S_IMODE(python.stat().st_mode)

    assert changed("plain") == 0o777
    assert changed(how) == 0o755
