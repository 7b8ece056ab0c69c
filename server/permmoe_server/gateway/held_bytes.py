"""The gateway's limit on memory: the bytes of all bodies that it holds at one time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from permmoe_server.gateway.refusals import Refused


class HeldBytes:
    """Counts the bytes of all bodies in memory and keeps them within a limit."""

    def __init__(self, limit: int) -> None:
        self._free = limit

    @contextmanager
    def buffer(self, longest: int, rule: str) -> Iterator[Callable[[bytes], bytearray]]:
        """Yield a function that appends a chunk to a body and returns the whole body; its bytes are freed at the end.

        The function raises Refused under `rule` past `longest` bytes, and under `busy` past the limit of all bodies.
        """
        whole = bytearray()
        try:
            yield functools.partial(self._append, whole, longest, rule)
        finally:
            self._free += len(whole)

    def _append(self, whole: bytearray, longest: int, rule: str, chunk: bytes) -> bytearray:
        if len(whole) + len(chunk) > longest:
            raise Refused(rule)
        if len(chunk) > self._free:
            raise Refused("busy")
        self._free -= len(chunk)
        whole.extend(chunk)
        return whole
