"""The way of an admitted request to the superlink and back: its body, its answer and their limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.gateway import (
    PULL,
    OpenDoor,
    post,
    read_all,
    read_one,
    status,
)
from tests.support.patience import wait_until


def test_chunked_body_arrives_whole_and_one_connection_serves_many_requests(open_door: OpenDoor) -> None:
    door = open_door()
    with door.connect() as client:
        for _ in range(3):
            client.sendall(b"POST %s HTTP/1.1\r\nhost: d\r\ntransfer-encoding: chunked\r\n\r\n" % PULL)
            client.sendall(b"3\r\nabc\r\n5\r\ndefgh\r\n0\r\n\r\n")
            assert status(read_one(client, b"an answer")) == 209
        client.sendall(post(PULL, b"one", close=False) + post(PULL, b"two"))
        assert read_all(client).count(b"an answer") == 2
    assert [seen[3] for seen in door.upstream.seen] == [b"abcdefgh"] * 3 + [b"one", b"two"]
    assert dict(door.upstream.seen[0][2]).get(b"content-length") == b"8"


def test_body_of_the_longest_allowed_length_passes_and_one_byte_more_does_not(open_door: OpenDoor) -> None:
    door = open_door(body_bytes=70_001)
    assert status(door.send(post(PULL, b"a" * 70_001))) == 209
    announced = b"POST %s HTTP/1.1\r\nhost: d\r\ncontent-length: 70002\r\n\r\n" % PULL
    assert status(door.send(announced)) == 413
    chunked = b"POST %s HTTP/1.1\r\nhost: d\r\ntransfer-encoding: chunked\r\n\r\n" % PULL
    assert status(door.send(chunked + b"11172\r\n" + b"a" * 70_002)) == 413
    assert [len(seen[3]) for seen in door.upstream.seen] == [70_001]
    assert door.refused() == {"body_size": 2} and door.is_open_to_others()


def test_an_endless_chunked_body_is_cut_off(open_door: OpenDoor) -> None:
    door = open_door(body_bytes=10_007)
    with door.connect() as client:
        client.sendall(b"POST %s HTTP/1.1\r\nhost: d\r\ntransfer-encoding: chunked\r\n\r\n" % PULL)
        with pytest.raises(OSError):
            for _ in range(100_000):
                client.sendall(b"3e8\r\n" + b"a" * 1000 + b"\r\n")
    assert door.refused() == {"body_size": 1} and door.upstream.seen == [] and door.is_open_to_others()


def test_a_slow_body_is_refused_while_an_honest_request_passes(open_door: OpenDoor) -> None:
    door = open_door(body_seconds=0.5)
    with door.connect() as client:
        client.sendall(post(PULL, b"a" * 100)[:-1])
        assert door.is_open_to_others()
        assert status(read_all(client)) == 408
    assert door.refused() == {"slow_body": 1} and len(door.upstream.seen) == 1 and door.is_open_to_others()


def test_the_superlink_learns_of_a_client_that_goes_away_while_it_waits(open_door: OpenDoor) -> None:
    door = open_door()
    door.upstream.is_silent = True
    with door.connect() as client:
        client.sendall(post(PULL, b"body"))
        wait_until("the superlink is asked", lambda: door.upstream.seen)
        assert door.upstream.left == 0
    wait_until("the superlink knows", lambda: door.upstream.left == 1)
    door.upstream.is_silent = False
    assert door.is_open_to_others() and door.refused() == {}


def test_a_superlink_that_is_down_gives_502(open_door: OpenDoor, tmp_path: Path) -> None:
    door = open_door(tmp_path / "nobody.sock")
    assert status(door.send(post(PULL, b"body"))) == 502
    assert door.upstream.seen == [] and door.refused() == {"upstream": 1}


def test_a_superlink_that_does_not_answer_gives_504_and_one_that_answers_too_much_502(open_door: OpenDoor) -> None:
    door = open_door(upstream_seconds=0.3, response_bytes=1009)
    door.upstream.is_silent = True
    assert status(door.send(post(PULL, b"body"))) == 504
    door.upstream.is_silent, door.upstream.reply = False, b"b" * 1010
    assert status(door.send(post(PULL, b"body"))) == 502
    door.upstream.reply = b"an answer"
    assert door.is_open_to_others()
