"""What is at a path of a box: seen through real directories only, so that no link in the box leads the look out."""

from __future__ import annotations

import hashlib
import os
import stat

from jailbuild.errors import JailError, reason
from jailbuild.root import Root, open_beneath

_BLOCK = 1 << 20


def lstat_in(box: Root, path: str) -> os.stat_result:
    """Return what is at a path of the box, through real directories only."""
    opened = open_beneath(box.descriptor, path.lstrip("/"), os.O_PATH | os.O_NOFOLLOW)
    try:
        return os.fstat(opened)
    finally:
        os.close(opened)


def read_link_in(box: Root, path: str) -> str:
    """Return the text of the link at a path of the box."""
    opened = open_beneath(box.descriptor, path.lstrip("/"), os.O_PATH | os.O_NOFOLLOW)
    try:
        return os.readlink("", dir_fd=opened)
    finally:
        os.close(opened)


def kind_of(mode: int) -> str:
    """Return the type of an entry for a mode of stat(2)."""
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISLNK(mode):
        return "link"
    if stat.S_ISDIR(mode):
        return "directory"
    return "device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "special file"


def digest_in(root: Root, path: str) -> str:
    """Return the sha256 of the file at a path of any root (JailError if it cannot be read)."""
    try:
        opened = root.open(path)
        try:
            return digest(opened)
        finally:
            os.close(opened)
    except OSError as error:
        raise JailError(f"cannot read {root.host_path(path)}: {reason(error)}") from None


def digest(opened: int) -> str:
    """Return the sha256 of an open file's bytes, in hex (OSError)."""
    found = hashlib.sha256()
    while block := os.read(opened, _BLOCK):
        found.update(block)
    return found.hexdigest()
