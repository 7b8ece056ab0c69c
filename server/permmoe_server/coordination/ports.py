"""The ports of a coordinator's programs, looked at before anything is started or written."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator

from permmoe.errors import ConfigurationError
from permmoe_server.settings import ServerConfig

Listening = tuple[str, str, str, int]
"""Setting, program, address and port of what listens."""


def coordinator_ports(settings: ServerConfig) -> Iterator[Listening]:
    """Where the programs of a coordinator listen."""
    yield from region_ports(settings)
    yield "admin_port", "the status page", settings.admin_host, settings.admin_port
    yield "health_port", "the gRPC health service", "127.0.0.1", settings.health_port


def region_ports(settings: ServerConfig) -> Iterator[Listening]:
    """Where the programs of a region listen."""
    yield "port", "the gateway", settings.listen, settings.port


def require_free_ports(ports: Iterable[Listening]) -> None:
    """Raise ConfigurationError that names the first port at which its program could not listen."""
    for setting, what, host, port in ports:
        try:
            socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
        except OSError as error:
            is_taken = error.errno == errno.EADDRINUSE
            reason = "another program listens there; end it" if is_taken else error.strerror or "it may not"
            raise ConfigurationError(
                f"{what} cannot listen at {host}, port {port}: {reason}, or choose another {setting} in server.yaml"
            ) from None
