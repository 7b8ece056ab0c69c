"""A proxy as hospitals have them: it leads through by CONNECT, or refuses."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from tests.support.patience import PATIENCE_SECONDS

LED = b"HTTP/1.1 200 Connection established\r\n\r\n"


@dataclass
class ConnectProxy:
    """A running proxy."""

    port: int
    status: int | None
    """What it answers to everybody; None: it leads through."""
    asked: list[bytes] = field(default_factory=list)
    """The heads of the requests that came."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def connect_proxy(status: int | None = None, credentials: bytes | None = None) -> Iterator[ConnectProxy]:
    """A proxy that leads everybody through, or who sends `credentials` (of Basic), or answers all with a status."""
    listener = socket.create_server(("127.0.0.1", 0))
    proxy = ConnectProxy(listener.getsockname()[1], status)

    def serve(client: socket.socket) -> None:
        with suppress(OSError), client:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += client.recv(1)
            proxy.asked.append(head)
            refused = proxy.status
            if refused is None and credentials and b"Basic " + credentials not in head:
                refused = 407
            if refused is not None:
                client.sendall(f"HTTP/1.1 {refused} <b>\x1b[2J no</b>\r\ncontent-length: 0\r\n\r\n".encode())
                return
            host, _, port = head.split(b" ")[1].decode().rpartition(":")
            with socket.create_connection((host, int(port))) as server:
                client.sendall(LED)
                back = threading.Thread(target=pump, args=(server, client), daemon=True)
                back.start()
                pump(client, server)
                back.join(PATIENCE_SECONDS)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        # Closing a listener does not wake who waits on it; shutting it down does.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(PATIENCE_SECONDS)


def pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
