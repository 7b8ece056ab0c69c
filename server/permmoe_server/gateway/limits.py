"""What peers may use of the gateway: requests in a time, and memory."""

from __future__ import annotations

import functools
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from permmoe_server.gateway.rules import Refused


class TokenBuckets:
    """One token bucket for each peer; the least recently seen one is forgotten."""

    def __init__(self, per_second: float, burst: int, peers: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._burst, self._peers, self._clock = per_second, burst, peers, clock
        self._buckets: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, peer: bytes) -> bool:
        """Whether this peer had a token left; if so, it is taken."""
        now = self._clock()
        tokens, seen = self._buckets.pop(peer, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - seen) * self._per_second)
        self._buckets[peer] = (tokens - 1 if tokens >= 1 else tokens, now)
        if len(self._buckets) > self._peers:
            self._buckets.popitem(last=False)
        return tokens >= 1


class HeldBytes:
    """The memory that all request and response bodies may take together, bytes."""

    def __init__(self, limit: int) -> None:
        self._free = limit

    @contextmanager
    def buffer(self, longest: int, rule: str) -> Iterator[Callable[[bytes], bytearray]]:
        """Yield a function that appends a chunk and returns the whole body so far.

        The function raises Refused: with `rule` past `longest` bytes, with `busy` where the common memory is used up.
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
