"""The limit on the rate of requests."""

from __future__ import annotations

import random

from permmoe_server.gateway.token_buckets import TokenBuckets


def test_token_bucket_agrees_with_a_slow_reference() -> None:
    now, chance = [0.0], random.Random(5)
    buckets = TokenBuckets(per_second=2.0, burst=5, peers=3, clock=lambda: now[0])
    tokens, allowed = 5.0, 0
    for _ in range(500):
        step = chance.choice([0.0, 0.125, 0.25, 1.0, 7.0])
        now[0] += step
        tokens = min(5.0, tokens + 2.0 * step)
        expected = tokens >= 1
        tokens -= expected
        allowed += expected
        assert buckets.take(b"north") is expected
    assert 0 < allowed < 500


def test_token_buckets_remember_a_bounded_number_of_peers() -> None:
    buckets = TokenBuckets(per_second=1.0, burst=2, peers=7, clock=lambda: 0.0)
    assert all(buckets.take(b"%d" % n) for n in range(100)) and len(buckets) == 7
    assert [buckets.take(b"99") for _ in range(2)] == [True, False] and buckets.take(b"98")
