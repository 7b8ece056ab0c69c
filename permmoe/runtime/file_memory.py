"""What a process found out about files, remembered for as long as each file is the one that it was."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Generic, TypeVar

Value = TypeVar("Value")

SETTLED_NS = 2 * 10**9
"""A file that changed less than this ago may change again without another time of modification, ns."""


class FileMemory(Generic[Value]):
    """Values by file and by what was asked of it, the least used of which are forgotten first.

    A file is the same while its path, number, size, and time of modification are. One that has just been written is
    not remembered: clocks of file systems tick slowly, and a second change would go unnoticed.
    """

    def __init__(self, most_bytes: int, size: Callable[[Value], int] = lambda _: 1) -> None:
        """`size`: the bytes that a value takes; values that take more than `most_bytes` together are forgotten."""
        self._most, self._size, self._bytes = most_bytes, size, 0
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, file: Path, question: Hashable, find: Callable[[], Value]) -> Value:
        """The remembered answer, or what `find` finds now. Raises OSError for a file that is not there."""
        before = _identity(file)
        key = (file, before, question)
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        found = find()
        if time.time_ns() - before[-1] > SETTLED_NS and _identity(file) == before:
            self._keep(key, found)
        return found

    def _keep(self, key: Hashable, value: Value) -> None:
        with self._lock:
            if key not in self._values:
                self._bytes += self._size(value)
            self._values[key] = value
            while self._bytes > self._most:
                self._bytes -= self._size(self._values.popitem(last=False)[1])


def _identity(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
