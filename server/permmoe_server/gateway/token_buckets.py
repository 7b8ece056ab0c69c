"""The gateway's limit on the rate of requests: a token bucket for each client."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable


class TokenBuckets:
    """One token bucket for each peer, for at most `peers` peers; the least recently seen one is forgotten."""

    def __init__(self, per_second: float, burst: int, peers: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._burst, self._peers, self._clock = per_second, burst, peers, clock
        self._buckets: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, peer: bytes) -> bool:
        """Take a token from the peer's bucket; return whether there was one."""
        now = self._clock()
        tokens, seen = self._buckets.pop(peer, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - seen) * self._per_second)
        self._buckets[peer] = (tokens - 1 if tokens >= 1 else tokens, now)
        if len(self._buckets) > self._peers:
            self._buckets.popitem(last=False)
        return tokens >= 1
