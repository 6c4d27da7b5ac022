"""Clients work in boxes that `jailbuild add NAME` alone has made: against an authority of ours, and a real sshd."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.programs.boxes import (
    JAILBUILD,
    PATIENCE,
    Done,
    Server,
    fill,
    need,
    need_on_the_host,
    need_the_host_as_root,
    said,
)

BUNDLE = "etc/ssl/certs/ca-certificates.crt"

_AUTHORITY = """
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ours \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign -keyout ca.key -out ca.crt
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -keyout server.key -out server.csr
printf 'subjectAltName=DNS:localhost\\n' > names
openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.crt
"""

_HTTPS = """
import functools, http.server, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("server.crt", "server.key")
files = functools.partial(http.server.SimpleHTTPRequestHandler, directory="site")
server = http.server.ThreadingHTTPServer(("127.0.0.1", 443), files)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


@contextlib.contextmanager
def outside(directory: Path, *command: str) -> Iterator[Server]:
    """Run a server of the host's in a network of its own that has a loopback; it ends with the block."""
    log = directory / "server.log"
    with log.open("wb") as words:
        process = subprocess.Popen(
            [
                "unshare",
                "--net",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "sh",
                "-ec",
                'ip link set lo up; echo ready; exec "$@"',
                "sh",
                *command,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=words,
            cwd=directory,
        )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n", log.read_text(errors="replace")
            yield Server(process, process.pid, log)
        finally:
            process.kill()


@contextlib.contextmanager
def https_site(directory: Path) -> Iterator[Server]:
    """Serve directory/site over https, as localhost, with a certificate of directory/ca.crt."""
    (directory / "site").mkdir()
    (directory / "site/page.txt").write_text("a page\n")
    subprocess.run(["sh", "-ec", _AUTHORITY], cwd=directory, check=True, capture_output=True, timeout=PATIENCE)
    with outside(directory, sys.executable, "-c", _HTTPS) as server:
        server.wait_for(443)
        yield server


def ask(server: Server, box: Path, *command: str) -> Done:
    """Run a command in a box that has the server's network."""
    return server.beside(*JAILBUILD, "enter", box, *command)


def trust(box: Path, directory: Path) -> None:
    """Put our authority among those that the box trusts."""
    with (box / BUNDLE).open("a") as bundle:
        bundle.write((directory / "ca.crt").read_text())


def test_curl_and_wget_over_https(place: Path) -> None:
    """They know the authorities in the box and no others, and find the host by its name."""
    need("curl", "wget", f"/{BUNDLE}")
    need_on_the_host("openssl", "ip")
    curl, wget = fill(place / "curl", "curl"), fill(place / "wget", "wget")
    url = "https://localhost/page.txt"
    with https_site(place) as server:
        assert ask(server, curl, "curl", "-sS", url).returncode == 60  # CURLE_PEER_FAILED_VERIFICATION
        assert ask(server, wget, "wget", "-q", "-O", "-", url).returncode == 5  # EXIT STATUS of wget(1)
        for box in (curl, wget):
            trust(box, place)
        assert server.said(curl, "curl", "-sS", url) == "a page\n"
        assert server.said(wget, "wget", "-q", "-O", "-", url) == "a page\n"


def test_python_makes_a_tls_context_with_roots(place: Path) -> None:
    """ssl.create_default_context() trusts what the box does."""
    need("/usr/bin/python3", f"/{BUNDLE}")
    need_on_the_host("openssl", "ip")
    box = fill(place / "box", "python3")
    program = (
        "import ssl, urllib.request as r; c = ssl.create_default_context(cafile=CAFILE); "
        "print(c.cert_store_stats()['x509_ca'] > 50, r.urlopen('https://localhost/page.txt', context=c).read())"
    ).replace("CAFILE", repr(f"/{BUNDLE}"))
    with https_site(place) as server:
        refused = ask(server, box, "python3", "-c", program)
        assert "CERTIFICATE_VERIFY_FAILED" in refused.stderr
        trust(box, place)
        assert server.said(box, "python3", "-c", program) == "True b'a page\\n'\n"
    roots = "import ssl; p = ssl.get_default_verify_paths(); print(bool(p.cafile or p.capath))"
    assert said(box, "python3", "-c", roots) == "True\n"


def test_git_clones_over_https(place: Path) -> None:
    """git-remote-https, with the authorities of the box."""
    need("git", f"/{BUNDLE}")
    need_on_the_host("openssl", "ip", "git")
    box = fill(place / "box", "git")
    make = """
git init -q -b main work && cd work
git -c user.name=A -c user.email=a@example.org commit -q --allow-empty -m first
git clone -q --bare . ../site/one.git && git -C ../site/one.git update-server-info
"""
    with https_site(place) as server:
        subprocess.run(["sh", "-ec", make], cwd=place, check=True, capture_output=True, timeout=PATIENCE)
        assert "certificate" in ask(server, box, "git", "clone", "-q", "https://localhost/one.git", "/tmp/one").stderr
        trust(box, place)
        server.said(box, "git", "clone", "-q", "https://localhost/one.git", "/tmp/one")
        assert server.said(box, "git", "-C", "/tmp/one", "log", "--format=%s") == "first\n"


# sshd wants a directory that is nobody else's all the way from /, and an account: both are made in a mount namespace
# of its own, which ends with it.
_SSHD = r"""
mount -t tmpfs -o mode=755 none /mnt
mkdir /mnt/box /mnt/etc /mnt/keys /mnt/sshd
for table in passwd group; do cp /etc/$table /mnt/etc/$table; done
echo 'someone:x:64321:64321::/home/someone:/bin/sh' >> /mnt/etc/passwd
echo 'someone:x:64321:' >> /mnt/etc/group
for table in passwd group; do mount --bind /mnt/etc/$table /etc/$table; done
mount -t tmpfs -o mode=755 none /run
mkdir /run/sshd
"$@" --user someone --no-sync --quiet --into box
mount --bind box /mnt/box
install -d -o root -g root -m 0755 /mnt/box/home
install -d -o 64321 -g 64321 -m 0700 /mnt/box/home/someone
ssh-keygen -q -t ed25519 -N '' -f host_key
ssh-keygen -q -t ed25519 -N '' -f user_key
cp user_key.pub /mnt/keys/someone
cat > sshd_config <<'DONE'
ListenAddress 127.0.0.1:22
HostKey HOSTKEY
AuthorizedKeysFile /mnt/keys/%u
PidFile none
UsePAM no
PasswordAuthentication no
Subsystem sftp /usr/lib/openssh/sftp-server
ADVICE
DONE
exec /usr/sbin/sshd -D -e -f sshd_config
"""


def advice(box: str) -> str:
    """Return the sshd_config block that `jailbuild recipes sftp` prints, for our user and box."""
    printed = subprocess.run([*JAILBUILD, "recipes", "sftp"], capture_output=True, text=True, check=True).stdout
    lines = printed[printed.index("Match User") :].splitlines()
    block = [lines[0], *(line for line in lines[1:] if line.startswith("    ") and not line.strip().startswith("#"))]
    return "\n".join(block).replace("USER", "someone").replace("BOX", box)


@contextlib.contextmanager
def sshd_with_a_jail(place: Path, *more: str) -> Iterator[tuple[Server, tuple[str, ...]]]:
    """Run a real sshd whose ChrootDirectory for one account is a box; yields also the client's options.

    The box is what `jailbuild add sftp-server` makes, with more programs if they are named.
    """
    need_the_host_as_root()
    need("ssh", "/usr/lib/openssh/sftp-server")
    need_on_the_host("sshd", "ssh-keygen", "ip")
    place.chmod(0o755)
    script = _SSHD.replace("HOSTKEY", str(place / "host_key")).replace("ADVICE", advice("/mnt/box"))
    options = tuple(
        word
        for option in (
            f"IdentityFile={place}/user_key",
            "IdentitiesOnly=yes",
            "BatchMode=yes",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            "User=someone",
        )
        for word in ("-o", option)
    )
    with outside(place, "sh", "-ec", script, "sh", *JAILBUILD, "add", "sftp-server", *more) as server:
        server.wait_for(22)
        yield server, options


def test_sshd_keeps_an_account_in_the_box(place: Path) -> None:
    """Shell, scp, rsync and sftp, through a real sshd whose ChrootDirectory is the box, by the block we print."""
    need("rsync", "sftp", "scp")
    with sshd_with_a_jail(place) as (server, options):
        ours = place / "ours"
        ours.write_text("ours\n")

        def client(*command: str | Path, given: str = "") -> str:
            ended = subprocess.run(
                ["nsenter", f"--net=/proc/{server.pid}/ns/net", *command],
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                input=given,
            )
            assert ended.returncode == 0, (ended.stderr, server.log.read_text(errors="replace"))
            return ended.stdout

        shell = client("ssh", *options, "127.0.0.1", "id -un; pwd; ls -d /home/*; ls /.jailbuild 2>&1 || cat /dev/null")
        assert shell.splitlines()[:3] == ["someone", "/home/someone", "/home/someone"]
        listing = client("sftp", *options, "-b", "-", "127.0.0.1", given=f"put {ours} put\npwd\nls -l\n")
        assert "/home/someone" in listing
        assert " someone " in listing
        client("scp", *options, ours, "127.0.0.1:copied")
        client("scp", "-O", *options, ours, "127.0.0.1:copied-by-scp")
        client("rsync", "-e", " ".join(["ssh", *options]), ours, "127.0.0.1:synced")
        home = place / "box/home/someone"
        found = {path.name: (path.read_text(), path.stat().st_uid) for path in home.iterdir()}
        assert found == dict.fromkeys(("put", "copied", "copied-by-scp", "synced"), ("ours\n", 64321))


def test_the_ssh_client_and_git_over_ssh(place: Path) -> None:
    """From a box with ssh alone, and from one with git, to a real sshd."""
    need("git")
    with sshd_with_a_jail(place, "git") as (server, options):
        client, git = fill(place / "client", "ssh"), fill(place / "git", "git")
        for box in (client, git):
            shutil.copy(place / "user_key", box / "root/user_key")
        inside = tuple(word.replace(str(place), "/root") for word in options)
        assert server.said(client, "ssh", *inside, "127.0.0.1", "id -un") == "someone\n"
        assert server.said(client, "ssh", *inside, "localhost", "echo there") == "there\n"
        remote = "git init -q -b main one && git -C one -c user.name=A -c user.email=a commit -q --allow-empty -m first"
        server.said(client, "ssh", *inside, "localhost", remote)
        command = " ".join(["ssh", *inside])
        url = "ssh://localhost/home/someone/one"
        server.said(git, "git", "-c", f"core.sshCommand={command}", "clone", "-q", url, "/tmp/one")
        assert server.said(git, "git", "-C", "/tmp/one", "log", "--format=%s") == "first\n"
