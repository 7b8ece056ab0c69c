"""The connections of this process as its kernel has them, whoever opened them."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

from permmoe.runtime.silent_peer import PROBES


def probes(*, local: int | None = None, peer: int | None = None) -> dict[str, int]:
    """When the kernel asks whether the other end is there, by option of `PROBES`, on the only connection between these
    ports; nothing where it never asks."""
    [found] = [
        {name: own.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in PROBES}
        if own.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        else {}
        for own in _connections()
        if local in (None, own.getsockname()[1]) and peer in (None, own.getpeername()[1])
    ]
    return found


def _connections() -> list[socket.socket]:
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        # Others open and close theirs meanwhile; what is no connection has no peer.
        with suppress(OSError):
            own = socket.socket(fileno=os.dup(int(descriptor.name)))
            if own.family == socket.AF_INET and own.getpeername():
                found.append(own)
    return found
