"""The limits on connections: their number, and the time that each may take."""

from __future__ import annotations

import queue
import socket

import pytest

from permmoe.runtime.silent_peer import PROBES
from tests.support.gateway import (
    PULL,
    OpenDoor,
    post,
    read_all,
    read_one,
    status,
)
from tests.support.open_sockets import probes
from tests.support.patience import PATIENCE_SECONDS


@pytest.mark.parametrize("first", [b"", b"P", b"POST /v1/site/next-message HTTP/1.1\r\nhost: d\r\nx: "])
def test_a_slow_head_is_refused_while_an_honest_request_passes(first: bytes, open_door: OpenDoor) -> None:
    door = open_door(head_seconds=0.5)
    with door.connect() as client:
        client.sendall(first)
        assert door.is_open_to_others()
        assert status(read_all(client)) == 408
    assert door.refused() == {"slow_headers": 1} and door.is_open_to_others()


@pytest.mark.parametrize("together", [True, False])
def test_a_slow_head_is_refused_after_an_honest_request_on_the_same_connection(
    together: bool, open_door: OpenDoor
) -> None:
    door = open_door(head_seconds=0.3)
    with door.connect() as client:
        client.sendall(post(PULL, b"first", close=False) + (b"POST" if together else b""))
        assert status(read_one(client, b"an answer")) == 209
        if not together:
            client.sendall(b"P")
        assert status(read_all(client)) == 408
    assert door.refused() == {"slow_headers": 1}


def test_an_idle_connection_is_closed_without_being_called_refused(open_door: OpenDoor) -> None:
    door = open_door(idle_seconds=1)
    with door.connect() as client:
        client.sendall(post(PULL, b"first", close=False))
        read_one(client, b"an answer")
        assert read_all(client) == b""
    assert door.refused() == {}


def test_the_gateway_finds_out_that_a_client_s_machine_is_gone(open_door: OpenDoor) -> None:
    door = open_door()
    with door.connect() as client:
        client.sendall(post(PULL, b"first", close=False))
        read_one(client, b"an answer")
        assert probes(local=door.port, peer=client.getsockname()[1]) == PROBES
        assert probes(local=client.getsockname()[1], peer=door.port) == {}, "of this end nobody asked for it"


def test_a_client_that_does_not_read_its_answer_is_cut_off(open_door: OpenDoor, lines: queue.Queue[str]) -> None:
    door = open_door(room_seconds=0.2, body_seconds=0.2, upstream_seconds=6, reply_seconds=0.2, response_bytes=32 << 20)
    door.upstream.reply = b"b" * (24 << 20)
    with door.connect() as client:
        client.sendall(post(PULL, b"", close=False) * 3)
        assert lines.get(timeout=PATIENCE_SECONDS).startswith("refused rule=slow_exchange ")
        door.upstream.reply = b"an answer"
        assert door.is_open_to_others()


def test_an_address_has_a_bounded_number_of_connections(open_door: OpenDoor) -> None:
    door = open_door(connections_per_address=3)
    held = [door.connect() for _ in range(3)]
    for client in held:
        client.sendall(post(PULL, b"", close=False))
        read_one(client, b"an answer")
    assert status(door.send(b"")) == 503
    assert door.refused() == {"address_connections": 1}
    held[0].sendall(post(PULL, b"still served", close=False))
    assert status(read_one(held[0], b"an answer")) == 209
    for client in held:
        client.close()


def test_all_addresses_have_a_bounded_number_of_connections(open_door: OpenDoor) -> None:
    door = open_door(connections=1)
    with door.connect() as client:
        client.sendall(post(PULL, b"", close=False))
        read_one(client, b"an answer")
        assert status(door.send(b"")) == 503
    assert door.refused() == {"connections": 1}


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b"NOT HTTP\r\n\r\n",
        b"POST /v1/site/next-message HTTP/1.1\r\nhost: d\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc",
        b"POST /v1/site/next-message HTTP/1.1\r\nhost: d\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/site/next-message HTTP/1.1\r\nhost: d\r\ncontent-length: " + b"9" * 5000 + b"\r\n\r\n",
        b"POST /v1/site/next-message HTTP/1.1\r\nhost: d\r\ntransfer-encoding: gzip\r\n\r\n",
        b"POST /v1/site/next-message HTTP/1.1\r\nhost: d\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/site/next-message HTTP/1.1\r\nhost: d\r\nx: " + b"a" * 100_000,
        b"POST /v1/site/next-message HTTP/1.1\nhost : d\n\n",
        b"POST /v1/site/next message HTTP/1.1\r\nhost: d\r\n\r\n",
        b"POST /v1/site/next-message HTTP/1.1\r\n\r\n",
    ],
    ids=range(11),
)
def test_what_is_not_http_is_refused_in_one_line(
    request_bytes: bytes, open_door: OpenDoor, lines: queue.Queue[str]
) -> None:
    door = open_door(head_seconds=1)
    with door.connect() as client:
        client.sendall(request_bytes)
        client.shutdown(socket.SHUT_WR)
        read_all(client)
    assert door.is_open_to_others()
    assert sum(door.refused().values()) == 1 == lines.qsize(), list(lines.queue)
    assert len(door.upstream.seen) == 1
