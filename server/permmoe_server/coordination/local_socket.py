"""The socket behind the gateway: the superlink listens at a file that the coordinator's own user alone can reach.

Flower's Control and Runtime services ask nobody for credentials, or show theirs on a command line. On a port of
127.0.0.1 every user of the machine could start a run, which would run as the coordinator and read its keys. The kernel
lets nobody else connect to a socket of mode 0600 in a folder of mode 0700.

This file uses private names of Flower, as do permmoe_server.coordination.superlink and the files of its processes.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import httpx
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufClient
from flwr.supercore.retry import RetryInvoker

LONGEST_PATH = 100
"""Bytes that the address of a socket may have; Linux allows 107."""
BACKLOG = 512
TIMEOUT_SECONDS = 30.0
"""In which something of an answer comes."""
ANSWER_SECONDS, ANSWER_BYTES = 120.0, 64 << 20
"""Of a whole answer. A region's superlink is not one's own: what it answers is bounded, as what a site sends is."""
IDLE_SECONDS, KEPT_SECONDS = 2.0, 30
"""For how long a connection without a request is used again, and is kept by the superlink. One that the superlink drops
as a request comes would show as a failed request, so that the first is much shorter: programs also wait for a core."""
ORIGIN = "http://superlink"
"""Stands in requests where a host would; it names nothing."""

Client = TypeVar("Client", bound=ProtobufClient)


def listen(path: Path) -> socket.socket:
    """Return a socket that listens at a path and takes connections of this user alone; what was there is replaced."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(socket_address(path))
    path.chmod(0o600)
    listener.listen(BACKLOG)
    return listener


def socket_address(path: Path) -> str:
    """Return a path by which a socket can be reached; one that is too long for an address goes by its open folder.

    The folder then stays open for as long as the process runs, once however often it is asked for; where it was deleted
    and made anew, the new one is opened. Raises OSError where there is no such folder.
    """
    if len(os.fsencode(path)) <= LONGEST_PATH:
        return str(path)
    found = path.parent.stat()
    return f"/proc/self/fd/{_opened(path.parent, found.st_dev, found.st_ino)}/{path.name}"


@lru_cache(maxsize=256)
def _opened(folder: Path, _device: int, _inode: int) -> int:
    return os.open(folder, os.O_PATH | os.O_DIRECTORY)


def connected(
    kind: type[Client],
    path: Path,
    component: str,
    *interceptors: Any,
    retry_invoker: RetryInvoker | None = None,
) -> Client:
    """Return one of Flower's clients that speaks to the superlink at a path; `component` is what it says it is.

    `interceptors` are Flower's, for requests on their way out.
    """
    version = RuntimeVersionHttpInterceptor(component_name=component)
    client = kind(ORIGIN, interceptors=[version, *interceptors], retry_invoker=retry_invoker)
    client._client.close()
    client._client = httpx.Client(
        transport=BoundedTransport(socket_address(path)), timeout=TIMEOUT_SECONDS, trust_env=False
    )
    return client


class BoundedTransport(httpx.HTTPTransport):
    """A transport to a socket's address, whose answers end: in bytes, none of them packed, and in time."""

    def __init__(self, address: str) -> None:
        super().__init__(uds=address, trust_env=False, limits=httpx.Limits(keepalive_expiry=IDLE_SECONDS))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        # "An answer is as long as its bytes": a few packed ones would become gigabytes.
        if "content-encoding" in response.headers:
            response.close()
            raise httpx.ReadError("a packed answer", request=request)
        assert isinstance(response.stream, httpx.SyncByteStream)
        response.stream = _Bounded(response.stream, request)
        return response


class _Bounded(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, request: httpx.Request) -> None:
        self._stream, self._request = stream, request
        self._until = time.monotonic() + ANSWER_SECONDS

    def __iter__(self) -> Iterator[bytes]:
        left = ANSWER_BYTES
        for chunk in self._stream:
            left -= len(chunk)
            if left < 0:
                raise httpx.ReadError("an answer of too many bytes", request=self._request)
            if time.monotonic() > self._until:
                raise httpx.ReadTimeout("an answer that does not end", request=self._request)
            yield chunk

    def close(self) -> None:
        self._stream.close()
