"""What is a secret: by name and by look; and what only resembles one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from jailbuild.closure.secrets import HEAD, secret

NAMES = [
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/shadow.bak",
    "/etc/security/opasswd",
    "/etc/ssh/ssh_host_ed25519_key",
    "/opt/conf/ssh_host_rsa_key",
    "/root/.ssh/id_rsa",
    "/home/u/.ssh/id_ed25519_sk",
    "/home/u/.ssh/identity",
    "/home/u/.ssh/id_work",
    "/srv/id_ecdsa",
    "/etc/ssl/private/snakeoil.key",
    "/root/.bash_history",
    "/root/.zsh_history",
    "/home/u/.python_history",
    "/home/u/.mysql_history",
    "/root/.viminfo",
    "/root/.lesshst",
    "/root/.local/share/fish/fish_history",
    "/root/.netrc",
    "/root/.pgpass",
    "/root/.git-credentials",
    "/root/.aws/credentials",
    "/root/.docker/config.json",
    "/root/.kube/config",
    "/etc/krb5.keytab",
    "/srv/web.p12",
    "/root/.gnupg/private-keys-v1.d/AB.key",
    "/root/.config/gcloud/application_default_credentials.json",
    "/etc/NetworkManager/system-connections/home.nmconnection",
    "/etc/wireguard/wg0.conf",
    "/etc/ppp/chap-secrets",
    "/etc/bind/rndc.key",
    "/etc/apt/auth.conf",
    "/etc/apt/auth.conf.d/mine.conf",
    "/etc/mysql/debian.cnf",
    "/root/.config/git/credentials",
    "/root/.local/share/keyrings/login.keyring",
    "/etc/postfix/sasl_passwd",
    "/var/lib/systemd/random-seed",
    "/var/lib/samba/private/secrets.tdb",
    "/root/.vnc/passwd",
    "/srv/www/.htpasswd",
    "/root/a\nb/.ssh/id_rsa",
    "/root/\udcff/.bash_history",
]
PUBLIC = [
    "/etc/passwd",
    "/etc/group",
    "/etc/ssh/ssh_host_rsa_key.pub",
    "/etc/ssh/sshd_config",
    "/root/.ssh/id_rsa.pub",
    "/root/.ssh/authorized_keys",
    "/root/.ssh/known_hosts",
    "/etc/ssl/certs/ca-certificates.crt",
    "/usr/bin/history",
    "/usr/share/man/man5/shadow.5.gz",
    "/usr/lib/x86_64-linux-gnu/libshadow.so",
    "/etc/shadowed/file",
    "/root/.bashrc",
    "/etc/wpa_supplicant/functions.sh",
    "/etc/pam.d/shadow",
    "/usr/bin/ssh-keygen",
    "/etc/.java/config",
]


@pytest.mark.parametrize("path", NAMES)
def test_a_secret_is_known_by_its_name(path: str) -> None:
    """Whatever is in it."""
    assert secret(path)
    assert secret(path, b"something")


@pytest.mark.parametrize("path", PUBLIC)
def test_what_is_public_is_no_secret(path: str) -> None:
    """Nor what only resembles a secret."""
    assert secret(path) is None
    assert secret(path, b"something public\n") is None


@pytest.mark.parametrize("kind", ["rsa", "ed25519", "ecdsa"])
def test_keys_of_ssh_are_known_by_their_look(tmp_path: Path, kind: str) -> None:
    """The real ssh-keygen made them; the public half is none."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not here (Debian: openssh-client)")
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", tmp_path / "key"], check=True)
    assert secret("/srv/deploy", (tmp_path / "key").read_bytes()) == "a private key"
    assert secret("/srv/deploy", (tmp_path / "key.pub").read_bytes()) is None


@pytest.mark.parametrize(
    "arguments",
    [
        ("genrsa", "-aes128", "-passout", "pass:x", "1024"),
        ("genrsa", "1024"),
        ("genrsa", "-traditional", "1024"),
        ("ecparam", "-genkey", "-name", "prime256v1"),
    ],
)
def test_keys_of_openssl_are_known_by_their_look(arguments: tuple[str, ...]) -> None:
    """The real openssl made them; also behind a chain of certificates."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not here (Debian: openssl)")
    key = subprocess.run(["openssl", *arguments], capture_output=True, check=True).stdout
    assert secret("/srv/web.pem", key) == "a private key"
    chain = b"-----BEGIN CERTIFICATE-----\n" + b"QUJD\n" * 2000 + b"-----END CERTIFICATE-----\n"
    assert secret("/srv/web.pem", (chain + key)[:HEAD]) == "a private key"
    assert secret("/srv/web.pem", chain) is None


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"-----BEGIN PGP PRIVATE KEY BLOCK-----\r\n\r\nlQ", "a private key"),
        (b"PuTTY-User-Key-File-3: ssh-ed25519\n", "a private key"),
        (b"# created: 2024\n# public key: age1\nAGE-SECRET-KEY-1QQQ\n", "a private key"),
        (b"(21:protected-private-key(3:rsa", "a private key"),
        (b"root:$y$j9T$abcdefgh$xyz:19000:0:99999:7:::\n", "password hashes"),
        (b"# users\nalice:$apr1$abcdefgh$0123456789\n", "password hashes"),
        (b"bob:$2y$05$abcdefghijkl\n", "password hashes"),
        (b"[Interface]\nPrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n", "a private key"),
        (b"#\n# 2048 bit OpenVPN static key\n#\n-----BEGIN OpenVPN Static key V1-----\n", "a private key"),
        (b"Private-key-format: v1.3\nAlgorithm: 13 (ECDSAP256SHA256)\n", "a private key"),
        (b'key "k" {\n\talgorithm hmac-sha256;\n\tsecret "c2VjcmV0c2VjcmV0c2VjcmV0";\n};\n', "a key of BIND"),
        (b'key "k" { algorithm hmac-sha256; secret c2VjcmV0c2VjcmV0c2VjcmV0; };\n', "a key of BIND"),
        (b'key "k" { algorithm hmac-sha256; secret "..."; };\n', None),
        (b"PrivateKey = /etc/ssl/key.pem\n", None),
        (b"root:*:19000:0:99999:7:::\n", None),
        (b"path: '$PATH:$HOME'\nPATH=$PATH:$1\n", None),
        (b"the line -----BEGIN PRIVATE KEY----- is how it starts\n", None),
        (b"-----BEGIN PUBLIC KEY-----\n", None),
        (b"", None),
    ],
)
def test_a_secret_is_known_by_its_first_bytes(head: bytes, what: str | None) -> None:
    """Wherever it lies."""
    assert secret("/srv/file", head) == what


def test_sources_that_show_a_key_are_no_secret() -> None:
    """Programs and their documentation have keys as examples."""
    head = b'KEY = """\n-----BEGIN PRIVATE KEY-----\nMII\n'
    assert secret("/usr/lib/python3/test/keys.py", head) is None
    assert secret("/srv/keys", head) == "a private key"


def test_hardly_anything_that_packages_put_in_place_is_a_secret() -> None:
    """Of the machine's own Perl and its documentation, where there is one, nothing."""
    found = []
    for directory, _, names in os.walk("/usr/share/perl"):
        for name in names:
            path = os.path.join(directory, name)
            with open(path, "rb") as file:
                if secret(path, file.read(HEAD)):
                    found.append(path)
    assert found == []
