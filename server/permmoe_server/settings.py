"""The coordinator's settings of the server: server.yaml in the federation's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from permmoe.config import Configuration, read_config
from permmoe.errors import ConfigurationError
from permmoe.runtime.logs import LogFormat
from permmoe_server.provisioning.authority import checked_host


class GatewayLimits(Configuration):
    """The gateway's limits on sizes, rates and times.

    The bytes held are at most `held_bytes` for bodies in both directions, and for each connection a read buffer below
    0.5 MiB and a reply that it has not read yet.
    """

    body_bytes: int = Field(8 << 20, gt=0, description="longest request body")
    response_bytes: int = Field(16 << 20, gt=0, description="longest response of the superlink")
    held_bytes: int = Field(512 << 20, gt=0, description="bodies and responses held at once, over all connections")
    room_seconds: float = Field(60.0, gt=0, description="for a request to wait until there is room for its bytes")
    head_bytes: int = Field(16 << 10, gt=0, description="longest incomplete request header")
    handshake_seconds: float = Field(10.0, gt=0, description="from the TCP connection to a finished TLS handshake")
    head_seconds: float = Field(10.0, gt=0, description="from the first byte to a whole request header")
    body_seconds: float = Field(60.0, gt=0, description="from the request header to a whole body")
    upstream_seconds: float = Field(
        100.0, gt=0, description="for the superlink to answer in full, which lets sites wait 80 s"
    )
    reply_seconds: float = Field(60.0, gt=0, description="for the client to take the answer")
    idle_seconds: int = Field(75, gt=0, description="between two requests of one connection")
    connections: int = Field(512, gt=0, description="open connections, all addresses")
    connections_per_address: int = Field(32, gt=0, description="open connections of one address")
    upstream_connections: int = Field(8, gt=0, description="connections to the superlink for one site")
    requests_per_second: float = Field(50.0, gt=0, description="tokens that a site gains each second")
    request_burst: int = Field(200, gt=0, description="tokens that a site can hold")
    sites: int = Field(4096, gt=0, description="sites whose tokens are remembered")

    @property
    def exchange_seconds(self) -> float:
        """From a request's head until its answer was taken, seconds."""
        return self.room_seconds + self.body_seconds + self.upstream_seconds + self.reply_seconds


class ServerConfig(Configuration):
    """The settings of a coordinator's server."""

    host: str = Field(description="name or IP address by which sites reach the server")
    port: int = Field(8443, ge=1, le=65535, description="TCP port by which sites reach the server")
    listen: str = Field("0.0.0.0", description="address at which the gateway listens")
    certificate_days: int = Field(90, ge=1, description="validity of a server certificate, days")
    site_certificate_days: int = Field(730, ge=1, description="validity of a site's certificate, days")
    admin_host: str = Field("127.0.0.1", description="address of the status page, which has no login")
    admin_names: tuple[str, ...] = Field((), description="further host names to which the status page answers")
    admin_port: int = Field(8081, ge=1, le=65535, description="port of the status page, /health and /metrics")
    health_port: int = Field(8082, ge=1, le=65535, description="port of the gRPC health service, on 127.0.0.1")
    quorum_seconds: float = Field(
        600.0, gt=0, description="how long a study without --stay waits for what somebody can mend"
    )
    log_format: LogFormat = Field("text", description="how lines of the log are written: text, or json for machines")
    limits: GatewayLimits = GatewayLimits()

    @model_validator(mode="before")
    @classmethod
    def _passes_over_the_superlinks_port(cls, settings: Any) -> Any:
        # Files of older versions name it. The superlink listens at no port any more.
        return {k: v for k, v in settings.items() if k != "superlink_port"} if isinstance(settings, dict) else settings

    @field_validator("host")
    @classmethod
    def _is_a_host(cls, host: str) -> str:
        try:
            return checked_host(host)
        except ConfigurationError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _has_different_ports(self) -> ServerConfig:
        ports = (self.port, self.admin_port, self.health_port)
        if len(set(ports)) < len(ports):
            raise ValueError("port, admin_port and health_port have to differ")
        return self


def read_server(path: Path) -> ServerConfig:
    """Return the settings in a server.yaml. Raises ConfigurationError."""
    return read_config(path, ServerConfig)


def server_template(host: str, port: int) -> str:
    """Return a server.yaml that explains every setting that a coordinator may want to change."""
    default = ServerConfig(host=host, port=port)
    return f"""\
# The settings of the coordinator's server.

# Name or IP address by which sites reach the server. After a change run permmoe-server rotate-certificate, and inform
# the sites, whose site.yaml has the address too.
host: {json.dumps(host)}

# TCP port by which sites reach the server: the only one that has to be open to them.
port: {port}

# Address of this machine to listen at for sites; 0.0.0.0 is all of them.
listen: {default.listen}

# Validity of a server certificate, days. permmoe-server rotate-certificate makes a new one; sites notice nothing.
certificate_days: {default.certificate_days}

# Validity of a site's certificate, days. The coordinator makes a new one in time, and the site's client fetches it.
site_certificate_days: {default.site_certificate_days}

# Status page, /health and /metrics. They have no login: leave them on 127.0.0.1 and use an SSH tunnel, or put a proxy
# with a login in front and name it in admin_names.
admin_host: {default.admin_host}
admin_port: {default.admin_port}
admin_names: []

# One more port, on 127.0.0.1: the gRPC health service for probes.
health_port: {default.health_port}

# How long a study that is run without --stay waits for sites, approvals, or whatever else somebody can mend, seconds;
# with --stay it waits for as long as that takes. With --stay too, a study that had begun counts as stalled after this.
quorum_seconds: {default.quorum_seconds:.0f}

# How lines of the coordinator's and the gateway's log are written: text, or json for machines.
log_format: {default.log_format}

# What the gateway lets a site do; every limit of permmoe_server.settings.GatewayLimits can stand here.
limits:
  body_bytes: {default.limits.body_bytes}
  requests_per_second: {default.limits.requests_per_second:.0f}
  connections_per_address: {default.limits.connections_per_address}
"""


def region_template(host: str, port: int) -> str:
    """Return the server.yaml of a region: the settings that its gateway goes by."""
    default = ServerConfig(host=host, port=port)
    return f"""\
# The settings of a region's server. After a change of host or port the coordinator has to know, too: it writes them
# into hospitals' kits, from its own copy of this file, regions/NAME/server.yaml.

# Name or IP address by which the region's sites reach it.
host: {json.dumps(host)}

# TCP port by which sites reach it: the only one that has to be open to them.
port: {port}

# Address of this machine to listen at for sites; 0.0.0.0 is all of them.
listen: {default.listen}

# How lines of the log are written: text, or json for machines.
log_format: {default.log_format}

# What the gateway lets a site do; every limit of permmoe_server.settings.GatewayLimits can stand here.
limits:
  body_bytes: {default.limits.body_bytes}
  requests_per_second: {default.limits.requests_per_second:.0f}
  connections_per_address: {default.limits.connections_per_address}
"""
