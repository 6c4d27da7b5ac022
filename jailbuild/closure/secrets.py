"""Which files are secrets: by name, and by the look of their first bytes. Such files have no business in a box.

What is public beside them (the .pub of a key, certificates, authorized_keys) is none.
"""

from __future__ import annotations

import re

HEAD = 16384  # bytes to look at: a key may follow a chain of certificates in one file

_NOTES = 512  # bytes; comments that may stand before a key of age

_KEY = "a private key"
_HASHES = "password hashes"
_HISTORY = "what somebody typed"
_PASSWORDS = "passwords or tokens"
_BIND = "a key of BIND"

_NAMES = {
    ".netrc": _PASSWORDS,
    "_netrc": _PASSWORDS,
    ".pgpass": _PASSWORDS,
    ".my.cnf": _PASSWORDS,
    ".mylogin.cnf": _PASSWORDS,
    ".git-credentials": _PASSWORDS,
    ".pypirc": _PASSWORDS,
    ".dockercfg": _PASSWORDS,
    ".vault-token": _PASSWORDS,
    ".s3cfg": _PASSWORDS,
    ".boto": _PASSWORDS,
    ".smbcredentials": _PASSWORDS,
    ".htpasswd": _HASHES,
    "chap-secrets": _PASSWORDS,
    "pap-secrets": _PASSWORDS,
    "ipsec.secrets": _PASSWORDS,
    "sasl_passwd": _PASSWORDS,
    "passwd.client": _PASSWORDS,
    "secrets.tdb": _PASSWORDS,
    "rndc.key": _BIND,
    "random-seed": "what the kernel's random numbers begin with",
    "credential.secret": _KEY,
    "secring.gpg": _KEY,
    ".lesshst": _HISTORY,
    ".viminfo": _HISTORY,
    "fish_history": _HISTORY,
    ".history": _HISTORY,
    ".rediscli_history": _HISTORY,
}
_SUFFIXES = {".keytab": "keys of Kerberos", ".p12": _KEY, ".pfx": _KEY, ".kdbx": _KEY}
_SSH_KEY = re.compile(r"id_(?:rsa|dsa|ecdsa|ed25519|xmss)(?:_sk)?")
_SSH_HOST_KEY = re.compile(r"ssh_host_.*_key", re.DOTALL)
_SHELL_HISTORY = re.compile(r"\.[a-z0-9_]+_history(?:-.*)?", re.DOTALL)
_PATHS = (  # each below /etc or below a name that begins with a dot
    (re.compile(r"/etc/g?shadow(?:[-~+]|\.[^/]*)?"), _HASHES),
    (re.compile(r"/etc/security/opasswd(?:\.[^/]*)?"), _HASHES),
    (re.compile(r"/etc/ssl/private/.*", re.DOTALL), _KEY),
    (re.compile(r"/etc/NetworkManager/system-connections/.*", re.DOTALL), _PASSWORDS),
    (re.compile(r"/etc/wpa_supplicant/.*\.conf", re.DOTALL), _PASSWORDS),
    (re.compile(r"/etc/apt/auth\.conf(?:\.d/.*)?", re.DOTALL), _PASSWORDS),
    (re.compile(r"/etc/mysql/debian\.cnf"), _PASSWORDS),
    (re.compile(r"/etc/wireguard/.*\.conf", re.DOTALL), _KEY),
    (re.compile(r".*/\.ssh/(?:identity|id_[^/]*)(?<!\.pub)", re.DOTALL), _KEY),
    (re.compile(r".*/\.gnupg/private-keys-v1\.d/.*", re.DOTALL), _KEY),
    (re.compile(r".*/\.(?:aws/credentials|docker/config\.json|kube/config)", re.DOTALL), _PASSWORDS),
    (re.compile(r".*/\.(?:cargo/credentials(?:\.toml)?|gem/credentials)", re.DOTALL), _PASSWORDS),
    (re.compile(r".*/\.(?:vnc/passwd|terraform\.d/credentials\.tfrc\.json)", re.DOTALL), _PASSWORDS),
    (re.compile(r".*/\.local/share/keyrings/[^/]*\.keyring", re.DOTALL), _PASSWORDS),
    (re.compile(r".*/\.config/git/credentials", re.DOTALL), _PASSWORDS),
    (re.compile(r".*/\.config/(?:gh/hosts\.yml|gcloud/[^/]*credentials\.(?:db|json))", re.DOTALL), _PASSWORDS),
)
# source and documentation show how a key looks: there only the name counts
_TELLING = re.compile(
    r".*\.(?:py|pyc|pyi|pm|pl|t|pod|rb|js|ts|mjs|c|h|cc|cpp|go|rs|java|php|lua|tcl|html?|md|rst|[1-8])", re.DOTALL
)
_BEGINNINGS = (
    b"PuTTY-User-Key-File-",
    b"(11:private-key",
    b"(21:protected-private-key",
    b"(20:shadowed-private-key",
    b"Key: (",
    b"Private-key-format: v",
    b"untrusted comment: minisign encrypted secret key",
    b"untrusted comment: signify secret key",
)
_PEM = re.compile(rb"^-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----[ \t\r]*$", re.MULTILINE)
_OPENVPN = re.compile(rb"^-----BEGIN OpenVPN (?:Static key V1|tls-crypt-v2 (?:client|server) key)-----", re.MULTILINE)
_WIREGUARD = re.compile(rb"^[ \t]*(?:PrivateKey|PresharedKey)[ \t]*=[ \t]*[A-Za-z0-9+/]{43}=", re.MULTILINE)
_SIGNING = re.compile(rb"(?:^|[\s{;])secret[ \t]+\"?[A-Za-z0-9+/]{16,}={0,2}\"?[ \t]*;", re.MULTILINE)  # rndc.key(5)
_KEYS = ((b"PRIVATE KEY", _PEM), (b"OpenVPN", _OPENVPN), (b"Key", _WIREGUARD))
_AGE = re.compile(rb"^AGE-SECRET-KEY-1", re.MULTILINE)
# crypt(5); htpasswd(1) has apr1
_HASH = re.compile(rb"^[^\s:/#]{1,64}:\$(?:1|2[abxy]?|5|6|7|y|gy|sha1|md5|apr1|argon2id?)\$[^\s:]{8}", re.MULTILINE)


def secret(path: str, head: bytes = b"") -> str | None:
    """Say what is secret about the regular file at `path` (absolute) that begins with `head`; None if nothing is.

    `head` is as many of its first HEAD bytes as there are; without them the name alone counts.
    """
    return _by_name(path) or (_by_look(path, head) if head else None)


def _by_name(path: str) -> str | None:
    name = path.rpartition("/")[2]
    found = _NAMES.get(name) or _SUFFIXES.get(name[name.rfind(".") :])
    if found is not None:
        return found
    if name.startswith("id_") and _SSH_KEY.fullmatch(name):
        return _KEY
    if name.startswith("ssh_host_") and _SSH_HOST_KEY.fullmatch(name):
        return "a host key of sshd"
    if "/." not in path and not path.startswith("/etc/"):
        return None
    if _SHELL_HISTORY.fullmatch(name):
        return _HISTORY
    return next((what for pattern, what in _PATHS if pattern.fullmatch(path)), None)


def _by_look(path: str, head: bytes) -> str | None:
    found = None
    if head.startswith(_BEGINNINGS) or _AGE.search(head, 0, _NOTES):
        return _KEY
    if any(mark in head and look.search(head) for mark, look in _KEYS):
        found = _KEY
    elif b"secret" in head and b"algorithm" in head and _SIGNING.search(head):
        found = _BIND
    elif b"$" in head and b":$" in head and _HASH.search(head):
        found = _HASHES
    return None if found and _TELLING.fullmatch(path) else found
