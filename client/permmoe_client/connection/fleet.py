"""A site's connection to the coordinator: Flower's Fleet API over mutual TLS.

It is the client's one file with private Flower names; elsewhere only the numbers of Flower's errors are used.
Flower's own node fetches code from the coordinator and runs it. This connection cannot even ask for code: it pulls
messages and pushes replies, each request and each reply signed with the site's key, and opens no port.
"""

from __future__ import annotations

import itertools
import queue
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
    PushMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from permmoe.federated.membership import MAX_PAPERS_BYTES, MEMBER_PATH, VERSION_HEADER
from permmoe.federated.message_paths import (
    EMPTY_HANDED,
    HEARTBEAT,
    HEARTBEAT_SECONDS,
    LONGEST_SILENCE_SECONDS,
    NEXT_MESSAGE,
    OBJECTS,
    REPLY,
    REPLY_OBJECTS,
    post,
)
from permmoe.federated.parcel import (
    MOST_PARTS,
    in_bodies,
    in_parcels,
    joined,
    object_name,
    pack,
    separated,
    unpack,
)
from permmoe.federated.reply_signature import sign_reply
from permmoe_client.connection.clock import ahead_seconds, clock_text, is_clock_right
from permmoe_client.connection.probed_transport import ProbedTransport
from permmoe_client.connection.route import Proxy, refusal

CONNECT_SECONDS, REQUEST_SECONDS = 30.0, 200.0
"""How long the other end may take to be reached, and be silent within one request: a coordinator with hundreds of
hospitals lets some of them wait, each for longer than its gateway may take. A machine that is gone shows earlier."""
RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Pauses between attempts at one request; the last one repeats."""
STOP_SECONDS = 0.25

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
        self,
        client: FleetHttpClient,
        node: Node,
        key: ec.EllipticCurvePrivateKey,
        stop: threading.Event,
        proxy: Proxy | None = None,
        origin: str = "",
    ) -> None:
        self._client, self._node, self._key, self._stop = client, node, key, stop
        self.stop_seconds = STOP_SECONDS
        """How soon a site that waits for a message notices that it is to stop."""
        self._proxy, self._origin = proxy, origin
        self._is_new = True
        """Whether no request for a message was answered yet."""
        self._heard_at = time.monotonic()
        """When the coordinator was last told that this site is there."""
        self._is_waiting = False
        """Whether a request for a message is under way, which tells the coordinator so for as long as it is."""

    @property
    def node_id(self) -> int:
        """What Flower calls this site in this federation."""
        return int(self._node.node_id)

    def receive(self) -> Message | None:
        """The next message, whole; None where none comes while the coordinator lets this site wait, or this site is to
        stop. Raises Unreachable, Refused, BadMessage."""
        request = PullMessagesRequest(node=self._node, message_ids=[EMPTY_HANDED] if self._is_new else [])
        answer = self._until_stopped(lambda: self._post(NEXT_MESSAGE, request.SerializeToString()))
        self._is_new = self._is_new and answer is None
        try:
            announced = PullMessagesResponse.FromString(answer or b"")
            return self._whole(announced) if announced.messages_list else None
        except (Unreachable, Refused):
            raise
        except Exception as error:
            # Flower's readers raise of many types for bytes that are not what they should be.
            raise BadMessage(type(error).__name__) from None

    def _until_stopped(self, ask: Callable[[], bytes]) -> bytes | None:
        """The answer to a request that may wait for long; None once this site is to stop, whatever becomes of it."""
        done: queue.SimpleQueue[tuple[bytes | None, Exception | None]] = queue.SimpleQueue()

        def wait() -> None:
            try:
                done.put((ask(), None))
            except Exception as error:
                done.put((None, error))

        self._heard_at, self._is_waiting = time.monotonic(), True
        threading.Thread(target=wait, name="waiting", daemon=True).start()
        try:
            while not self._stop.is_set():
                with suppress(queue.Empty):
                    answer, error = done.get(timeout=self.stop_seconds)
                    if error:
                        raise error
                    self._heard_at = time.monotonic()
                    return answer
            return None
        finally:
            self._is_waiting = False

    def _whole(self, announced: PullMessagesResponse) -> Message:
        header, tree = message_from_proto(announced.messages_list[0]), announced.message_object_trees[0]
        run_id, deadline = header.metadata.run_id, _deadline(header)
        missing = [one.object_id for one in iterate_object_tree(tree)]
        there: dict[str, bytes] = {}
        attempt = 0
        while missing:
            asked = [PullObjectRequest(node=self._node, run_id=run_id, object_id=name) for name in missing]
            body = joined(one.SerializeToString() for one in asked)
            parts = separated(self._patiently(lambda body=body: self._post(OBJECTS, body), deadline))  # type: ignore[misc]
            answers = [PullObjectResponse.FromString(part) for part in parts]
            if not all(one.object_found for one in answers):
                raise Unreachable("the message was withdrawn before it had arrived")
            here = list(itertools.takewhile(lambda one: one.object_available, answers))
            there |= dict(zip(missing, (one.object_content for one in here), strict=False))
            if len(here) < len(answers) or not answers:
                # The coordinator has announced what it is still writing.
                self._pause(attempt, deadline)
                attempt += 1
            missing = missing[len(here) :]
        own = there.pop(tree.object_id)
        if object_name(own) != tree.object_id:
            raise BadMessage("the message is not the one that was announced")
        contents = unpack(there.values(), MOST_PARTS) | {tree.object_id: own}
        message = cast(Message, inflate_object_from_contents(tree.object_id, contents))
        message.metadata.__dict__["_message_id"] = tree.object_id
        return message

    def send(self, reply: Message, seconds: float) -> None:
        """Send a reply, signed; `seconds` is what the work took. Raises Unreachable once the message it answers is too
        old."""
        run_id, deadline = reply.metadata.run_id, _deadline(reply)
        with no_object_id_recompute():
            name = reply.object_id
            # "A reply that is sent again answers another message": it is signed here, as the answer to that one.
            signature = sign_reply(name, self._key)
            parcels = pack(reply.content, beside=[signature]) if reply.has_content() else in_parcels([signature])
            reply.metadata.__dict__["_message_id"] = name
            objects = {**parcels, name: reply.deflate()}
            header = remove_content_from_message(reply) if reply.has_content() else reply
        request = PushMessagesRequest(
            node=self._node,
            messages_list=[message_to_proto(header)],
            message_object_trees=[ObjectTree(object_id=name, children=[ObjectTree(object_id=own) for own in parcels])],
            clientapp_runtime_list=[seconds],
        )

        def pushed(name: str, session: str = "") -> bytes:
            one = PushObjectRequest(
                node=self._node, run_id=run_id, object_id=name, object_content=objects[name], session_id=session
            )
            return bytes(one.SerializeToString())

        body = joined([request.SerializeToString(), *next(in_bodies(map(pushed, objects)))])
        answer = PushMessagesResponse.FromString(self._patiently(lambda: self._post(REPLY, body), deadline))
        # A reply of some megabytes needs more than one request.
        for parts in in_bodies(pushed(name, answer.session_id) for name in answer.objects_to_push):
            rest = joined(parts)
            stored = separated(self._patiently(lambda rest=rest: self._post(REPLY_OBJECTS, rest), deadline))  # type: ignore[misc]
            if not all(PushObjectResponse.FromString(one).stored for one in stored):
                raise Refused("the coordinator no longer takes this reply")

    def _post(self, path: str, body: bytes) -> bytes:
        return _answer_to(lambda _: post(self._client, path, body), None, self._proxy)

    def _pause(self, attempt: int, deadline: float) -> None:
        """Pause before another try. Raises Unreachable where there is no time for one, or this site is to stop."""
        pause = RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)]
        if time.time() + pause > deadline or self._stop.wait(pause):
            raise Unreachable("there was no time for another try")

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

    def silent_at(self) -> float:
        """When the coordinator has to be told that this site is there, monotonic seconds."""
        return (time.monotonic() if self._is_waiting else self._heard_at) + LONGEST_SILENCE_SECONDS

    def heartbeat(self) -> None:
        """Tell the coordinator that this site is there. Raises Unreachable, Refused."""
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_SECONDS)
        self._post(HEARTBEAT, request.SerializeToString())
        self._heard_at = time.monotonic()

    def _patiently(self, ask: Callable[[], Answer], deadline: float) -> Answer:
        for attempt in itertools.count():
            try:
                return ask()
            except Unreachable as error:
                try:
                    self._pause(attempt, deadline)
                except Unreachable:
                    raise error from None
        raise AssertionError("there is no end to counting")


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
        fleet = Fleet(client, node, key, stop, proxy, origin)
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
    """Heartbeats until the connection is left, where nothing else shows that this site is there; the main thread learns
    of a refusal when it asks for messages."""
    pause = 0.0
    while not left.wait(max(fleet.silent_at() - time.monotonic(), pause)):
        pause = 0.0
        if fleet.silent_at() > time.monotonic():
            continue
        try:
            fleet.heartbeat()
        except (Unreachable, Refused):
            pause = RETRY_SECONDS[2]


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
    transport = ProbedTransport(verify=tls, proxy=through, trust_env=False)
    timeout = httpx.Timeout(REQUEST_SECONDS, connect=CONNECT_SECONDS)
    return httpx.Client(transport=transport, trust_env=False, timeout=timeout, follow_redirects=False)


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
