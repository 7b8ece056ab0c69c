"""The bound on the bytes that the gateway holds at one time."""

from __future__ import annotations

import queue

from tests.support.gateway import (
    PULL,
    OpenDoor,
    post,
    status,
)
from tests.support.patience import PATIENCE_SECONDS


def test_bodies_held_at_once_are_bounded_over_all_connections_and_given_back(
    open_door: OpenDoor, lines: queue.Queue[str]
) -> None:
    door = open_door(held_bytes=1009, body_bytes=1000, body_seconds=20)
    assert status(door.send(post(PULL, b"a" * 1000))) == 209
    assert status(door.send(post(PULL, b"a" * 1000))) == 209
    door.upstream.reply = b"b" * 10
    assert status(door.send(post(PULL, b"a" * 1000))) == 503
    assert lines.get(timeout=PATIENCE_SECONDS).startswith("refused rule=busy ")
    door.upstream.reply = b"an answer"
    assert door.is_open_to_others()
