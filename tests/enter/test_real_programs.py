"""Real programs work in an isolated box under the default filter, with the host's directories bound read-only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import needs

PATIENCE = 60  # seconds

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="binds of /etc as the ordinary user lack what is root's"),
    needs.namespaces,
]

NGINX = """
daemon on; pid /tmp/nginx.pid; error_log /tmp/error.log; user www-data;
events {}
http {
    access_log off; client_body_temp_path /tmp/a; proxy_temp_path /tmp/b; fastcgi_temp_path /tmp/c;
    uwsgi_temp_path /tmp/d; scgi_temp_path /tmp/e;
    server { listen 127.0.0.1:80; location / { return 200 "first"; } }
}
"""

PROGRAMS = {
    "git": """
cd /tmp && git init -q one && cd one && echo a > a && git add a
git -c user.name=a -c user.email=a@example.org commit -qm first
git clone -q . ../two && git -C ../two log --format=%s && git gc -q && git fsck
""",
    "python3": """
cd /tmp && cat > try.py <<'END'
import concurrent.futures, multiprocessing, os, shutil, socket, sqlite3, ssl, subprocess, tempfile, threading
if __name__ == "__main__":
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        assert list(pool.map(abs, [-1, -2])) == [1, 2]
    thread = threading.Thread(target=os.getpid)
    thread.start()
    thread.join()
    assert subprocess.run(["id", "-u"], capture_output=True, text=True).stdout == "0\\n"
    with tempfile.TemporaryDirectory() as made:
        shutil.copy2(__file__, made)
        sqlite3.connect(made + "/x").execute("create table t (n)")
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
    print("first")
END
python3 try.py
""",
    "gcc": """
cd /tmp && printf '#include <stdio.h>\\nint main(void) { puts("first"); return 0; }\\n' > a.c
gcc -O2 -pipe -o a a.c && ./a
""",
    "nginx": f"""
cat > /tmp/nginx.conf <<'END'{NGINX}END
nginx -e /tmp/error.log -c /tmp/nginx.conf
python3 -c 'import urllib.request as r; print(r.urlopen("http://127.0.0.1/").read().decode())'
nginx -e /tmp/error.log -c /tmp/nginx.conf -s quit
""",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_real_programs_work_in_an_isolated_box(name: str, tmp_path: Path) -> None:
    """Root with few capabilities, no_new_privs, the filter and a network of its own."""
    if not shutil.which(name):
        pytest.skip(f"{name} is not installed")
    box = tmp_path / "box"
    options = ["--net", "none", "--tmpfs", "/tmp"]
    for name_of_directory in ("usr", "etc"):
        options += ["--bind", f"/{name_of_directory}:/{name_of_directory}:ro"]
    for place in ("usr", "etc", "dev", "proc", "tmp", "run", "var"):
        (box / place).mkdir(parents=True)
    for link in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        if os.path.islink(f"/{link}"):
            (box / link).symlink_to(f"usr/{link}")
    ended = subprocess.run(
        [sys.executable, "-m", "jailbuild", "enter", *options, box, "sh", "-ec", PROGRAMS[name]],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
    )
    assert (ended.returncode, ended.stdout.splitlines()[:1]) == (0, ["first"]), ended
    assert "not permitted" not in ended.stderr
