"""The ports of a coordinator's programs, looked at before anything is started or written."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

from permmoe.errors import ConfigurationError
from permmoe_server.settings import ServerConfig


def require_free_ports(settings: ServerConfig) -> None:
    """Raise ConfigurationError that names the first port at which one of the programs could not listen."""
    for setting, what, host, port in _ports(settings):
        try:
            socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
        except OSError as error:
            is_taken = error.errno == errno.EADDRINUSE
            reason = "another program listens there; end it" if is_taken else error.strerror or "it may not"
            raise ConfigurationError(
                f"{what} cannot listen at {host}, port {port}: {reason}, or choose another {setting} in server.yaml"
            ) from None


def _ports(settings: ServerConfig) -> Iterator[tuple[str, str, str, int]]:
    """Setting, program, address and port of everything that listens."""
    yield "port", "the gateway", settings.listen, settings.port
    yield "admin_port", "the status page", settings.admin_host, settings.admin_port
    yield "health_port", "the gRPC health service", "127.0.0.1", settings.health_port
