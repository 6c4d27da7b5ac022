"""The sha256 of many open files, worked out beside whatever else is done: hashlib lets other threads run."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import heapq
import os
import sys
import threading
from types import TracebackType

from jailbuild import syscalls

_BLOCK = 1 << 21  # bytes
_AT_ONCE = 1 << 16  # bytes; what is smaller is hashed sooner than handed on
_MOST_OPEN = 64  # files that wait
_PATIENCE = 0.1  # seconds between looks at how far the others are
_SWITCH = 0.00005  # seconds; Python's own 5 ms keep a thread waiting longer than it takes to hash a file

Identity = tuple[int, int]  # device and inode


def _current_processor() -> int | None:
    try:
        return syscalls.current_processor()
    except OSError:
        return None


class Digests:
    """Digests of open files by identity, on every processor that this process may use.

    `found` has the sha256 in hex, or the errno of what kept a file from being read. To be used in a `with` block,
    which leaves no descriptor open.
    """

    def __init__(self) -> None:
        self.found: dict[Identity, str | int] = {}
        self.asked: set[Identity] = set()
        self._waiting: list[tuple[int, int, Identity]] = []  # a heap: -size, descriptor, identity
        self._changed = threading.Condition()
        self._busy = 0  # threads at work
        self._closed = False
        self._processors = os.sched_getaffinity(0)
        self._helpers = len(self._processors) - 1
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
            others = self._processors - {_current_processor()}
            thread = threading.Thread(target=self._help, args=(number, others), daemon=True)
            self._threads.append(thread)
            thread.start()
        with self._changed:
            heapq.heappush(self._waiting, (-size, opened, identity))
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
            size, opened, identity = heapq.heappop(self._waiting)  # the largest first, so that none is last
            self._busy += 1
        try:
            self._hash(identity, opened, -size, number)
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()
        return True

    def _help(self, number: int, processors: set[int]) -> None:
        # Left to itself a thread begins, and goes on after each wait, on the processor of the one that woke it, though
        # another is idle: for some milliseconds, which is longer than a small box takes.
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, processors)
        while self._take(number) or self._wait_for_more():
            pass

    def _wait_for_more(self) -> bool:
        with self._changed:
            while not (self._waiting or self._closed):
                self._changed.wait()
            return not self._closed

    def _hash(self, identity: Identity, opened: int, size: int, number: int) -> None:
        digest = hashlib.sha256()
        if len(self._blocks[number]) < min(size + 1, _BLOCK):
            self._blocks[number] = bytearray(min(size + 1, _BLOCK))
        block = self._blocks[number]
        view = memoryview(block)
        read = 0
        try:
            while not self._closed:
                some = os.readv(opened, [block])
                digest.update(view[:some])
                read += some
                self._read[number] += some
                if not some or read == size < len(block) or read > size:  # more: it grows, nobody says for how long
                    break
            self.found[identity] = digest.hexdigest()
        except OSError as error:
            self.found[identity] = error.errno or errno.EIO
        finally:
            os.close(opened)
