"""The standard gRPC health service (grpc.health.v1) for the probes of orchestrators, on client and server.

A client offers it on a Unix socket, so that it has no listening port; a server on loopback. No other machine can ask.
Only `Check` of the service is offered, which every probe uses; `Watch` is optional (gRPC health checking protocol,
"Watch").
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from permmoe.errors import ConfigurationError

LOG = logging.getLogger("permmoe.health")

SERVICE = "grpc.health.v1.Health"
MAX_CHECKS = 2
"""The number of checks that are answered at the same time."""


def serve_health(address: str, is_serving: Callable[[], bool]) -> grpc.Server:
    """Start a health service and return it; `.stop(grace)` ends it.

    `address` is `unix:/path.sock`, which only this user can open, or an IP address of loopback with a port, such as
    `127.0.0.1:8090`. `is_serving` is asked each time, from another thread; one that raises is not serving. Raises
    ConfigurationError for any other address, and for one that cannot be listened at.
    """
    _check_local(address)
    # Without SO_REUSEPORT a second process on the same port is an error instead of every other answer.
    server = grpc.server(ThreadPoolExecutor(MAX_CHECKS), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((_handler(is_serving),))
    try:
        server.add_insecure_port(address)
    except RuntimeError:
        raise ConfigurationError(
            f"no health service can listen at {address}; choose a free port, or a socket in a folder that can be "
            "written to"
        ) from None
    if address.startswith("unix:"):
        Path(address.removeprefix("unix:")).chmod(0o600)
    server.start()
    return server


def _check_local(address: str) -> None:
    # "Only this machine can ask": a name could resolve to any address, so a port comes with an IP address.
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        is_local = address.startswith("unix:/") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local = False
    if not is_local:
        raise ConfigurationError(
            f"the health service must stay on this machine, and {address!r} is neither unix:/path.sock nor an address "
            "such as 127.0.0.1:8090"
        )


def _handler(is_serving: Callable[[], bool]) -> grpc.GenericRpcHandler:
    def check(request: HealthCheckRequest, context: grpc.ServicerContext) -> HealthCheckResponse:
        if request.service not in ("", SERVICE):
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        try:
            serving = is_serving()
        except Exception as error:
            # gRPC would send the exception's text, which may name a path.
            LOG.error("the health check failed with %s", type(error).__name__)
            serving = False
        return HealthCheckResponse(status=HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING)

    method = grpc.unary_unary_rpc_method_handler(
        check,
        request_deserializer=HealthCheckRequest.FromString,
        response_serializer=HealthCheckResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(SERVICE, {"Check": method})
