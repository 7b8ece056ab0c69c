"""The bound on the time of a TLS handshake."""

from __future__ import annotations

import socket

from tests.support.gateway import (
    OpenDoor,
)
from tests.support.patience import PATIENCE_SECONDS


def test_a_stalled_handshake_is_cut_off(open_door: OpenDoor) -> None:
    door = open_door(handshake_seconds=0.3)
    with socket.create_connection(("127.0.0.1", door.port), timeout=PATIENCE_SECONDS) as plain:
        assert plain.recv(100) == b""
    assert door.is_open_to_others()
