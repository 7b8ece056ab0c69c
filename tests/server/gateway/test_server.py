"""The TLS server in front of the door: who gets through its handshake."""

from __future__ import annotations

import queue
import socket
import ssl
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.gateway import (
    PULL,
    Authority,
    Door,
    OpenDoor,
    make_authority,
    post,
)
from tests.support.patience import PATIENCE_SECONDS


def test_plain_http_gets_no_http_answer(open_door: OpenDoor) -> None:
    door = open_door()
    with socket.create_connection(("127.0.0.1", door.port), timeout=PATIENCE_SECONDS) as plain:
        plain.sendall(post(PULL, b"in clear"))
        assert not plain.recv(1000).startswith(b"HTTP")
    assert door.upstream.seen == [] and door.is_open_to_others()


def test_a_client_with_another_authority_refuses_the_door(open_door: OpenDoor, tmp_path: Path) -> None:
    door, other = open_door(), make_authority(tmp_path / "theirs")
    with pytest.raises(ssl.SSLCertVerificationError):
        Door(door.port, other.trust(), door.app, door.upstream).connect()
    assert door.is_open_to_others()


@pytest.mark.parametrize("shown", ["nothing", "another authority's", "an expired one", "the server's own"])
def test_a_client_without_a_valid_certificate_gets_no_answer_and_one_line(
    shown: str, open_door: OpenDoor, authority: Authority, tmp_path: Path, lines: queue.Queue[str]
) -> None:
    door = open_door()
    trust = ssl.create_default_context(cafile=str(authority.ca))
    if shown == "another authority's":
        trust.load_cert_chain(make_authority(tmp_path / "theirs").site)
    elif shown == "an expired one":
        trust.load_cert_chain(authority.expired_site)
    elif shown == "the server's own":
        trust.load_cert_chain(authority.certificate, authority.key)
    # In TLS 1.3 a client believes that it is connected until it reads.
    with suppress(ssl.SSLError, ConnectionError):
        assert Door(door.port, trust, door.app, door.upstream).send(post(PULL, b"body")) == b""
    assert lines.get(timeout=PATIENCE_SECONDS).startswith("refused rule=handshake ")
    assert door.upstream.seen == [] and door.refused() == {"handshake": 1} and lines.empty()
    assert door.is_open_to_others()
