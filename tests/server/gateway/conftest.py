"""A running gateway before a real upstream server, and the lines that it logs."""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import uvicorn

from permmoe_server.coordination.local_socket import listen, socket_address
from permmoe_server.gateway.door import make_gateway
from permmoe_server.gateway.server import make_server
from permmoe_server.settings import GatewayLimits
from tests.support.gateway import (
    MANY,
    Authority,
    Door,
    OpenDoor,
    Upstream,
    make_authority,
    running,
    serving,
)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority") / "ours")


@pytest.fixture(scope="module")
def upstream_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    upstream = Upstream(tmp_path_factory.mktemp("upstream") / "superlink.sock")
    config = uvicorn.Config(
        upstream,
        lifespan="off",
        log_level="error",
        log_config=None,
        loop="asyncio",
        timeout_graceful_shutdown=1,
    )
    with serving(uvicorn.Server(config), listen(upstream.path)):
        yield upstream


@pytest.fixture
def upstream(upstream_server: Upstream) -> Upstream:
    upstream_server.seen.clear()
    upstream_server.reply, upstream_server.is_silent = b"an answer", False
    return upstream_server


@pytest.fixture
def open_door(authority: Authority, upstream: Upstream) -> Iterator[OpenDoor]:
    with ExitStack() as servers:

        def open_(
            path: Path = upstream.path,
            is_member: Callable[[bytes], bool] = lambda certificate: True,
            **limits: float,
        ) -> Door:
            chosen = GatewayLimits(**{**MANY, **limits})
            app = make_gateway(socket_address(path), chosen, is_member)
            server = make_server(app, authority.certificate, authority.key, authority.ca, "127.0.0.1", 0)
            return Door(servers.enter_context(running(server)), authority.trust(), app, upstream)

        yield open_


@pytest.fixture
def lines() -> Iterator[queue.Queue[str]]:
    """The gateway's log lines as they are written."""
    written: queue.Queue[str] = queue.Queue()

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.put(record.getMessage())

    logger, handler = logging.getLogger("permmoe.gateway"), Collect()
    logger.addHandler(handler)
    yield written
    logger.removeHandler(handler)
