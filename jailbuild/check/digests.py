"""The sha256 of many open files, worked out beside whatever else is done: hashlib lets other threads run."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import threading
from collections import deque
from types import TracebackType

_BLOCK = 1 << 20  # bytes
_AT_ONCE = 1 << 16  # bytes; what is smaller is hashed sooner than handed on
_MOST_OPEN = 64  # files that wait
_PATIENCE = 0.1  # seconds between looks at how far the others are
_SWITCH = 0.0002  # seconds; Python's own 5 ms keep a thread waiting longer than it takes to hash a file

Identity = tuple[int, int]  # device and inode


class Digests:
    """Digests of open files by identity, on every processor that this process may use.

    `found` has the sha256 in hex, or the errno of what kept a file from being read. To be used in a `with` block,
    which leaves no descriptor open.
    """

    def __init__(self) -> None:
        self.found: dict[Identity, str | int] = {}
        self.asked: set[Identity] = set()
        self._waiting: deque[tuple[Identity, int, int]] = deque()
        self._changed = threading.Condition()
        self._busy = 0  # threads at work
        self._closed = False
        self._helpers = len(os.sched_getaffinity(0)) - 1
        self._threads: list[threading.Thread] = []
        self._read = [0] * (self._helpers + 1)  # bytes, by thread; 0 is the one that calls
        self._blocks = [bytearray(), *(bytearray() for _ in range(self._helpers))]
        self._switch = sys.getswitchinterval()

    def __enter__(self) -> Digests:
        sys.setswitchinterval(_SWITCH)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._changed:
            self._closed = True
            while self._waiting:
                os.close(self._waiting.pop()[1])
            self._changed.notify_all()
        sys.setswitchinterval(self._switch)

    @property
    def read(self) -> int:
        """How many bytes were read."""
        return sum(self._read)

    def add(self, identity: Identity, opened: int, size: int) -> None:
        """Take over a descriptor, to hash the `size` bytes that it has from its beginning. Each identity once."""
        self.asked.add(identity)
        if size < _AT_ONCE or not self._helpers:
            self._hash(identity, opened, size, 0)
            return
        if len(self._threads) < self._helpers and len(self._threads) <= len(self._waiting):
            number = len(self._threads) + 1
            thread = threading.Thread(target=self._help, args=(number,), daemon=True)
            self._threads.append(thread)
            thread.start()
        with self._changed:
            self._waiting.append((identity, opened, size))
            self._changed.notify()
        if len(self._waiting) > _MOST_OPEN:
            self._take(0)

    def step(self) -> bool:
        """Hash a file that waits, or wait a moment for those that are being hashed; False when all is done."""
        if self._take(0):
            return True
        with self._changed:
            if self._busy:
                self._changed.wait(_PATIENCE)
            return self._busy > 0 or len(self._waiting) > 0

    def _take(self, number: int) -> bool:
        with self._changed:
            if not self._waiting:
                return False
            identity, opened, size = self._waiting.popleft()
            self._busy += 1
        try:
            self._hash(identity, opened, size, number)
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()
        return True

    def _help(self, number: int) -> None:
        while self._take(number) or self._wait_for_more():
            pass

    def _wait_for_more(self) -> bool:
        with self._changed:
            while not (self._waiting or self._closed):
                self._changed.wait()
            return not self._closed

    def _hash(self, identity: Identity, opened: int, size: int, number: int) -> None:
        digest = hashlib.sha256()
        block = self._blocks[number]
        if not block:
            block.extend(bytes(_BLOCK))
        view = memoryview(block)
        read = 0
        try:
            while (some := os.readv(opened, [block])) and not self._closed:
                digest.update(view[:some])
                read += some
                self._read[number] += some
                if read > size:  # it grows: nobody says for how long
                    break
            self.found[identity] = digest.hexdigest()
        except OSError as error:
            self.found[identity] = error.errno or errno.EIO
        finally:
            os.close(opened)
