"""A site's connection to the coordinator: Flower's Fleet API over mutual TLS.

It is the client's one file with private Flower names; elsewhere only the numbers of Flower's errors are used.
Flower's own node fetches code from the coordinator and runs it. This connection cannot even ask for code: it pulls
messages and pushes replies, each request signed with the site's key, and opens no port.
"""

from __future__ import annotations

import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TypeVar, cast

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    ObjectUnavailableError,
    pull_and_inflate_object_from_tree,
    push_objects,
)
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from permmoe.federated.membership import MAX_PAPERS_BYTES, MEMBER_PATH, VERSION_HEADER
from permmoe_client.connection.clock import ahead_seconds, clock_text, is_clock_right
from permmoe_client.connection.route import Proxy, refusal

HEARTBEAT_SECONDS = 10.0
"""The shortest that Flower takes: a node that vanished is missed after two, and may come back after two."""
REQUEST_SECONDS = 30.0
"""How long the other end may be silent within one request."""
RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Pauses between attempts at one request; the last one repeats."""

Answer = TypeVar("Answer")


class Unreachable(Exception):
    """The coordinator did not answer, or could not: the same request may succeed later."""


class Untrusted(Unreachable):
    """Somebody answered in the coordinator's place, or with a certificate that is not to be believed."""


class Refused(Exception):
    """The coordinator answered, and said no."""


class BadMessage(Exception):
    """What came is no message of this protocol. The next one may be."""


class Fleet:
    """An activated connection. Requests wait out a coordinator that is gone for as long as their message lives."""

    def __init__(
        self, client: FleetHttpClient, node: Node, stop: threading.Event, proxy: Proxy | None = None, origin: str = ""
    ) -> None:
        self._client, self._node, self._stop, self._proxy, self._origin = client, node, stop, proxy, origin

    @property
    def node_id(self) -> int:
        """What Flower calls this site in this federation."""
        return int(self._node.node_id)

    def receive(self) -> Message | None:
        """The next message, whole; None where there is none. Raises Unreachable, Refused, BadMessage."""
        answer = self._answer(self._client.PullMessages, PullMessagesRequest(node=self._node))
        if not answer.messages_list:
            return None
        try:
            return self._whole(answer)
        except (Unreachable, Refused):
            raise
        except Exception as error:
            # Flower's readers raise of many types for bytes that are not what they should be.
            raise BadMessage(type(error).__name__) from None

    def _whole(self, answer: PullMessagesResponse) -> Message:
        header, tree = message_from_proto(answer.messages_list[0]), answer.message_object_trees[0]
        run_id, deadline = header.metadata.run_id, _deadline(header)

        def pull(identifier: str) -> bytes:
            request = PullObjectRequest(node=self._node, run_id=run_id, object_id=identifier)
            answer = self._patiently(lambda: self._answer(self._client.PullObject, request), deadline)
            if not answer.object_found:
                raise ObjectPullError(identifier, "not found")
            if not answer.object_available:
                raise ObjectUnavailableError(identifier)
            return bytes(answer.object_content)

        def confirm(identifier: str) -> None:
            request = ConfirmMessageReceivedRequest(node=self._node, run_id=run_id, message_object_id=identifier)
            self._patiently(lambda: self._answer(self._client.ConfirmMessageReceived, request), deadline)

        try:
            message = pull_and_inflate_object_from_tree(tree, pull, confirm, return_type=Message)
        except ObjectPullError as error:
            raise Unreachable("the message was withdrawn before it had arrived") from error
        message.metadata.__dict__["_message_id"] = tree.object_id
        return message

    def send(self, reply: Message, seconds: float) -> None:
        """Send a reply; `seconds` is what the work took. Raises Unreachable once the message it answers is too old."""
        run_id, deadline = reply.metadata.run_id, _deadline(reply)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        with no_object_id_recompute():
            tree = get_object_tree(reply)
            header = remove_content_from_message(reply) if reply.has_content() else reply
            request = PushMessagesRequest(
                node=self._node,
                messages_list=[message_to_proto(header)],
                message_object_trees=[tree],
                clientapp_runtime_list=[seconds],
            )
            answer = self._patiently(lambda: self._answer(self._client.PushMessages, request), deadline)

            def push(identifier: str, content: bytes) -> None:
                request = PushObjectRequest(
                    node=self._node,
                    run_id=run_id,
                    object_id=identifier,
                    object_content=content,
                    session_id=answer.session_id,
                )
                if not self._patiently(lambda: self._answer(self._client.PushObject, request), deadline).stored:
                    raise ObjectPushError(identifier, run_id, answer.session_id)

            try:
                push_objects(get_all_nested_objects(reply), push, object_ids_to_push=set(answer.objects_to_push))
            except ObjectPushError as error:
                raise Refused("the coordinator no longer takes this reply") from error

    def papers(self, version: str) -> bytes:
        """What the coordinator keeps for this site (permmoe.federated.membership), not looked into. Raises Unreachable,
        Refused."""

        def get(_: object) -> bytes:
            headers, content = {VERSION_HEADER: version}, bytearray()
            with self._client._client.stream("GET", self._origin + MEMBER_PATH, headers=headers) as answer:
                answer.raise_for_status()
                for piece in answer.iter_raw():
                    content += piece
                    if len(content) > MAX_PAPERS_BYTES:
                        raise ValueError("longer than any roster")
            return bytes(content)

        return _answer_to(get, None, self._proxy)

    def heartbeat(self) -> None:
        """Tell the coordinator that this site is there. Raises Unreachable, Refused."""
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_SECONDS)
        if not self._answer(self._client.SendNodeHeartbeat, request).success:
            raise Refused("the coordinator does not know this connection any more")

    def _answer(self, call: Callable[..., Answer], request: object) -> Answer:
        return _answer_to(call, request, self._proxy)

    def _patiently(self, ask: Callable[[], Answer], deadline: float) -> Answer:
        attempt = 0
        while True:
            try:
                return ask()
            except Unreachable:
                pause = RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)]
                if time.time() + pause > deadline or self._stop.wait(pause):
                    raise
                attempt += 1


@contextmanager
def connect(
    host: str,
    port: int,
    tls: ssl.SSLContext,
    key: ec.EllipticCurvePrivateKey,
    stop: threading.Event,
    proxy: Proxy | None = None,
) -> Iterator[Fleet]:
    """Connect, through the proxy if there is one, and stay online, with a heartbeat from a thread, until the block is
    left.

    Raises Refused where the coordinator does not know the key, or still counts this site as connected (for up to two
    heartbeats after a connection broke off); Unreachable where it does not answer.
    """
    signer = NodeAuthHttpInterceptor(key, key.public_key())
    version = RuntimeVersionHttpInterceptor(component_name="SuperNode")
    address = f"[{host}]" if ":" in host else host
    origin = f"https://{address}:{port}"
    with FleetHttpClient(origin, interceptors=[version, signer], verify=tls) as client:
        # Flower's own would follow redirections, with signed requests, and proxies that site.yaml does not name.
        client._client.close()
        client._client = _http_client(tls, proxy)
        request = ActivateNodeRequest(
            public_key=public_key_to_bytes(key.public_key()), heartbeat_interval=HEARTBEAT_SECONDS
        )
        node = Node(node_id=_answer_to(client.ActivateNode, request, proxy).node_id)
        fleet = Fleet(client, node, stop, proxy, origin)
        left = threading.Event()
        beating = threading.Thread(target=_beat, args=(fleet, left), name="heartbeat", daemon=True)
        beating.start()
        try:
            yield fleet
        finally:
            left.set()
            beating.join()
            # Where this fails, the site is missed after two heartbeats.
            with suppress(Unreachable, Refused):
                _answer_to(client.DeactivateNode, DeactivateNodeRequest(node_id=node.node_id), proxy)


def _beat(fleet: Fleet, left: threading.Event) -> None:
    """Heartbeats until the connection is left; the main thread learns of a refusal when it asks for messages."""
    while not left.wait(HEARTBEAT_SECONDS * 0.8):
        try:
            fleet.heartbeat()
        except (Unreachable, Refused):
            continue


def _answer_to(call: Callable[..., Answer], request: object, proxy: Proxy | None) -> Answer:
    """The answer to one request. Raises Unreachable or Refused, without any text of the answer."""
    try:
        return call(request)
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if status in (408, 429) or status >= 500:
            raise Unreachable(f"HTTP status {status}") from None
        raise Refused(f"HTTP status {status}{_clock(error.response)}") from None
    except httpx.ProxyError as error:
        # Its text begins with the status; the rest is the proxy's own words.
        found = re.match(r"[0-9]{3}\b", str(error))
        raise Unreachable(refusal(proxy, int(found[0])) if proxy and found else type(error).__name__) from None
    except (httpx.HTTPError, OSError) as error:
        raise _unreachable(error, proxy) from None
    except ValueError:
        raise Unreachable("what answered is not the coordinator's program: a page of something in between?") from None


def _http_client(tls: ssl.SSLContext, proxy: Proxy | None) -> httpx.Client:
    through = None
    if proxy:
        user = None if proxy.user is None else (proxy.user, proxy.password)
        through = httpx.Proxy(f"http://{proxy}", auth=user)
    return httpx.Client(verify=tls, proxy=through, trust_env=False, timeout=REQUEST_SECONDS, follow_redirects=False)


def _clock(response: httpx.Response) -> str:
    """What to say where the reason of a refusal may be this machine's clock; requests are signed with the time."""
    ahead = ahead_seconds(response.headers.get("date"), datetime.now(UTC))
    if ahead is None or is_clock_right(ahead):
        return ""
    return f": {clock_text(ahead)}, and the coordinator refuses such requests; set the clock (timedatectl shows it)"


def _unreachable(error: BaseException, proxy: Proxy | None) -> Unreachable:
    cause = error
    while cause.__cause__ or cause.__context__:
        cause = cast(BaseException, cause.__cause__ or cause.__context__)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Untrusted(f"the server's certificate is not to be believed: {cause.verify_message}")
    if isinstance(cause, ssl.SSLError):
        return Unreachable(f"TLS failed: {cause.reason or type(cause).__name__}")
    if proxy and isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return Unreachable(f"the proxy {proxy} does not answer: {type(cause).__name__}")
    return Unreachable(type(cause).__name__)


def message_bytes(content: RecordDict) -> bytes:
    """A message's content as it crosses the network: all its objects, one after another."""
    return b"".join(thing.deflate() for thing in get_all_nested_objects(content).values())


def _deadline(message: Message) -> float:
    return float(message.metadata.created_at + message.metadata.ttl)
