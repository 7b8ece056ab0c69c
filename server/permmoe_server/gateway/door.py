"""The public door in front of Flower's superlink: an exact list of paths passes, nothing else.

The superlink's socket also serves Flower's Control and Runtime services, where a peer without credentials can start
a run. So the door compares the path as it came over the wire, byte for byte, and sends its own copy of it upstream.

Two layers establish who a client is. TLS admits only certificates of the federation's own authority
(permmoe_server.gateway.server), and the door only keys that are on the signed roster at that moment: a stranger reaches
no parser but that of TLS. The superlink then checks each request's headers, signed with the same key, and which
messages belong to that node. permmoe_server.gateway.rules lists every reason for a refusal.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from permmoe.federated.membership import MEMBER_PATH, VERSION_HEADER
from permmoe.federated.message_paths import SITE_PATHS
from permmoe_server.gateway.addresses import peer_address
from permmoe_server.gateway.asker import AskerGone
from permmoe_server.gateway.forwarding import Forwarder, send_answer
from permmoe_server.gateway.refusals import Refusals, Refused, refusal_body
from permmoe_server.gateway.rules import GATEWAY_RULES
from permmoe_server.gateway.token_buckets import TokenBuckets
from permmoe_server.gateway.upstream import Upstream
from permmoe_server.settings import GatewayLimits

# What a site asks Flower's own routes for: to be there, and to be gone. They offer more: get-fab hands out code, and a
# hospital never runs code from the coordinator; register-node and unregister-node are for nodes that bring a fresh key
# of their own, where here the coordinator registers the roster's keys; messages go by paths of our own.
FLEET_PATHS = frozenset({b"/v1/fleet/activate-node", b"/v1/fleet/deactivate-node"})
FORWARDED_PATHS = FLEET_PATHS | {path.encode() for path in SITE_PATHS}
HEALTH_PATH = b"/health"
OWN_PATHS = frozenset({HEALTH_PATH, MEMBER_PATH.encode()})
"""What the gateway answers itself."""


MEMBER = MEMBER_PATH.encode()
AnswerMember = Callable[[bytes, str], bytes]
"""Certificate (DER) and version of a member -> what it may fetch about itself."""


def no_papers(certificate: bytes, version: str) -> bytes:
    """The answer of a gateway that keeps nothing for members."""
    return b""


def make_gateway(
    upstream: str,
    limits: GatewayLimits,
    is_member: Callable[[bytes], bool],
    answer_member: AnswerMember = no_papers,
) -> Starlette:
    """Return the door as an application. `upstream` is the address of the superlink's socket, a path.

    `is_member` says of a client's certificate (DER), which TLS has verified, whether it is admitted; it is called at
    every request. `answer_member` answers at MEMBER_PATH. `app.state.refusals` counts what was refused. Run the
    application with permmoe_server.gateway.server: that bounds connections and request headers, which an application
    never sees.
    """
    connections = Upstream(upstream, limits)
    forwarder = Forwarder(connections, limits)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with connections:
            yield

    refusals = Refusals()
    # The door stands as middleware, before the router: a router compares decoded paths.
    door = Middleware(
        _Door, forwarder=forwarder, limits=limits, refusals=refusals, is_member=is_member, answer=answer_member
    )
    app = Starlette(middleware=[door], lifespan=lifespan)
    app.state.limits = limits
    app.state.refusals = refusals
    return app


class _Door:
    """Answers every HTTP request itself; only the lifespan goes on to Starlette's router."""

    def __init__(
        self,
        app: ASGIApp,
        forwarder: Forwarder,
        limits: GatewayLimits,
        refusals: Refusals,
        is_member: Callable[[bytes], bool],
        answer: AnswerMember,
    ) -> None:
        self._app, self._forwarder, self._is_member, self._answer_member = app, forwarder, is_member, answer
        self._longest_body, self._refusals = limits.body_bytes, refusals
        self._buckets = TokenBuckets(limits.requests_per_second, limits.request_burst, limits.sites)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            path = self._admit(scope)
            if path == HEALTH_PATH:
                await send_answer(send, 200, [(b"content-type", b"text/plain")], b"ok\n")
            elif path == MEMBER:
                await self._send_papers(scope, send)
            else:
                certificate = scope["state"]["certificate"]
                await self._forwarder.forward(path, certificate, scope["headers"], receive, send)
        except Refused as refusal:
            await self._refuse(refusal.rule, scope, send)
        except AskerGone:
            return

    def _admit(self, scope: Scope) -> bytes:
        """Return the path of an admitted request. Raises Refused."""
        certificate: bytes = scope["state"]["certificate"]
        # "A certificate spends a token for each request, a refused one included": hospitals may share an address.
        if not self._buckets.take(certificate):
            raise Refused("rate")
        # "The certificate's key is on the roster now."
        if not self._is_member(certificate):
            raise Refused("not_on_roster")
        # "The path as sent equals a listed one byte for byte."
        if scope["raw_path"] not in FORWARDED_PATHS | OWN_PATHS:
            raise Refused("path")
        path: bytes = scope["raw_path"]
        # "What is forwarded is POST, what the gateway answers itself is GET."
        if scope["method"] != _method_of(path):
            raise Refused("method")
        # "No query string." (A lone `?` is lost before it gets here, and goes nowhere: the query is never forwarded.)
        if scope["query_string"]:
            raise Refused("query")
        # "A body that is announced to be too long is not read."
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        if any(int(length) > self._longest_body for length in lengths):
            raise Refused("body_size")
        return path

    async def _send_papers(self, scope: Scope, send: Send) -> None:
        """Answer a member from its own certificate; of the request only the version is looked at."""
        versions = [value for name, value in scope["headers"] if name == VERSION_HEADER.encode()]
        version = versions[0].decode("latin-1") if len(versions) == 1 else ""
        body = await asyncio.to_thread(self._answer_member, scope["state"]["certificate"], version)
        await send_answer(send, 200, [(b"content-type", b"application/json")], body)

    async def _refuse(self, rule: str, scope: Scope, send: Send) -> None:
        self._refusals.note(rule, peer_address(scope["client"]), scope["method"], scope["raw_path"])
        status = GATEWAY_RULES[rule].status
        assert status is not None, f"{rule} has no answer, so it is not the door's to enforce"
        headers = [(b"content-type", b"text/plain"), (b"connection", b"close")]
        if rule == "method":
            headers.append((b"allow", _method_of(scope["raw_path"]).encode()))
        await send_answer(send, status, headers, refusal_body(rule))


def _method_of(path: bytes) -> str:
    return "GET" if path in OWN_PATHS else "POST"
