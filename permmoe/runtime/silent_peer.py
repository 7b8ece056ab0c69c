"""What the kernel is told about connections, so that it ends one whose other end vanished without a word.

That alone tells a machine that is gone from a program that is slow to answer: the kernel of the second answers.
"""

from __future__ import annotations

import socket

SocketOption = tuple[int, int, int]
"""Level, name, value."""
PROBES = {"TCP_KEEPIDLE": 8, "TCP_KEEPINTVL": 4, "TCP_KEEPCNT": 3}
"""Seconds of silence before the kernel asks whether the other end is there, between two questions, and how many in vain
end the connection. Who waits for an answer is silent, and a network on the way never sees that for longer."""


def socket_options() -> list[SocketOption]:
    """Return the options that end a silent connection within some 20 s after its other end has vanished."""
    # Systems other than Linux call them otherwise, or have none.
    known = [
        (socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in PROBES.items() if hasattr(socket, name)
    ]
    return [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *known]
