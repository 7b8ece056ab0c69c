"""The door against real sockets: which requests pass, and that a refused one disturbs nobody else."""

from __future__ import annotations

import queue
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from flwr.proto.fleet_pb2 import DeactivateNodeRequest
from flwr.supercore.primitives.asymmetric import generate_key_pairs
from flwr.superlink.routers.fleet.router import router as fleet_router
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from permmoe.federated.message_paths import STUDY_PATHS
from permmoe_server.gateway.door import FLEET_PATHS, FORWARDED_PATHS
from tests.support.gateway import (
    PULL,
    Authority,
    OpenDoor,
    post,
    read_all,
    read_one,
    status,
)
from tests.support.patience import PATIENCE_SECONDS


@pytest.mark.parametrize("path", sorted(FORWARDED_PATHS))
def test_a_sites_request_arrives_unchanged_and_so_does_its_answer(path: bytes, open_door: OpenDoor) -> None:
    door, body = open_door(), random.Random(3).randbytes(70_001)
    signed = [
        (b"flwr-public-key", b"QUJD"),
        (b"flwr-timestamp", b"2026-01-02T03:04:05+00:00"),
        (b"flwr-signature", b"eA=="),
    ]
    sent = [*signed, (b"content-type", b"application/protobuf"), (b"user-agent", b"node")]
    dropped = [b"te: trailers", b"connection: x-hop", b"x-hop: 1", b"x-forwarded-for: 10.1.2.3", b"forwarded: for=a"]
    answer = door.send(post(path, body, *(n + b": " + v for n, v in sent), *dropped))
    head, _, content = answer.partition(b"\r\n\r\n")
    assert (status(answer), content) == (209, b"an answer")
    assert b"flwr-kept: yes" in head and b"keep-alive" not in head.lower()
    assert [seen[:2] + seen[3:] for seen in door.upstream.seen] == [("POST", path, body)]
    arrived = [pair for pair in door.upstream.seen[0][2] if pair[0] not in (b"host", b"content-length")]
    assert sorted(arrived) == sorted(sent)
    assert dict(door.upstream.seen[0][2])[b"host"] == b"superlink"
    assert door.refused() == {}


def test_flowers_own_client_passes(open_door: OpenDoor, authority: Authority) -> None:
    door = open_door()
    door.upstream.reply = b""
    signer = NodeAuthHttpInterceptor(*generate_key_pairs())
    address = f"127.0.0.1:{door.port}"
    with FleetHttpClient(f"https://{address}", interceptors=[signer], verify=door.trust) as client:
        client.DeactivateNode(DeactivateNodeRequest(node_id=7))
    assert {b"flwr-public-key", b"flwr-timestamp", b"flwr-signature"} <= dict(door.upstream.seen[0][2]).keys()


def test_every_fleet_path_of_this_flower_is_either_passed_or_left_out_on_purpose() -> None:
    names = (
        "get-fab", "get-run", "register-node", "unregister-node", "send-node-heartbeat", "pull-messages",
        "push-messages", "pull-object", "push-object", "confirm-message-received",
    )  # fmt: skip
    left_out = {f"/v1/fleet/{name}".encode() for name in names}
    known = {route.path.encode() for route in fleet_router.routes}  # type: ignore[attr-defined]
    assert known == FLEET_PATHS | left_out and not FLEET_PATHS & left_out


def test_health_is_answered_without_the_superlink(open_door: OpenDoor) -> None:
    door = open_door()
    answer = door.send(b"GET /health HTTP/1.1\r\nhost: d\r\nconnection: close\r\n\r\n")
    assert status(answer) == 200 and answer.endswith(b"\r\n\r\nok\n") and door.upstream.seen == []


REFUSED_TARGETS = {
    "path": [
        b"/",
        b"/v1/fleet",
        b"/v1/fleet/",
        b"/v1/fleet/get-fab",
        b"/v1/fleet/pull-object",
        *(path.encode() for path in sorted(STUDY_PATHS)),
        b"/v1/fleet/register-node",
        b"/v1/fleet/unregister-node",
        b"/v1/control/start-run",
        b"/v1/fleet/../control/start-run",
        b"/v1/site/next-message/../../control/start-run",
        b"/v1/fleet/%2e%2e/control/start-run",
        b"/v1/fleet/..%2fcontrol/start-run",
        b"/v1/site/next-message/..",
        b"/v1/site/./next-message",
        b"/v1/site//next-message",
        b"//v1/site/next-message",
        b"/v1/site/next-message/",
        b"/v1/site/Next-Message",
        b"/V1/fleet/pull-messages",
        b"/v1/site/next%2dmessage",
        b"/v1/site/next-message%00",
        b"/v1/site/next-message;a=1",
        b"/v1/site/next-message#a",
        b"/v1\\fleet\\pull-messages",
        b"v1/site/next-message",
        b"https://127.0.0.1/v1/site/next-message",
        b"/health/",
        b"*",
    ],
    "query": [b"/v1/site/next-message?a=1", b"/v1/site/next-message??", b"/v1/site/next-message?/../control"],
    "method": [b"/health"],
}


def test_no_other_spelling_of_a_path_passes(open_door: OpenDoor, lines: queue.Queue[str]) -> None:
    door = open_door()
    for rule, targets in REFUSED_TARGETS.items():
        for target in targets:
            answer = door.send(post(target, b"a body with a secret"))
            assert status(answer) == {"path": 404, "query": 400, "method": 405}[rule], target
            assert len(answer.partition(b"\r\n\r\n")[2]) < 40
            line = lines.get(timeout=PATIENCE_SECONDS)
            assert f"rule={rule} " in line and "method=POST" in line and "secret" not in line
    assert door.upstream.seen == [] and lines.empty()
    assert door.refused() == {rule: len(targets) for rule, targets in REFUSED_TARGETS.items()}
    assert door.is_open_to_others()


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "post", "POSTX", "PRI"]
)
def test_a_fleet_path_takes_post_alone(method: str, open_door: OpenDoor) -> None:
    door = open_door()
    answer = door.send(b"%s %s HTTP/1.1\r\nhost: d\r\ncontent-length: 0\r\n\r\n" % (method.encode(), PULL))
    assert status(answer) == 405 and b"allow: POST" in answer and door.refused() == {"method": 1}
    assert door.upstream.seen == []


def test_a_site_that_leaves_the_roster_is_refused_at_its_next_request_on_an_open_connection(
    open_door: OpenDoor, authority: Authority
) -> None:
    certificate = x509.load_pem_x509_certificate(authority.site.read_bytes())
    roster = {certificate.public_bytes(serialization.Encoding.DER)}
    door = open_door(is_member=roster.__contains__)
    with door.connect() as client:
        client.sendall(post(PULL, b"first", close=False))
        assert status(read_one(client, b"an answer")) == 209
        roster.clear()
        client.sendall(post(PULL, b"second", close=False))
        assert status(read_all(client)) == 403
    assert [body for _, _, _, body in door.upstream.seen] == [b"first"] and door.refused() == {"not_on_roster": 1}


def test_rate_limit_counts_the_certificate_whatever_headers_say(open_door: OpenDoor) -> None:
    door = open_door(requests_per_second=1e-6, request_burst=3)
    answers = [door.send(post(PULL, b"", b"x-forwarded-for: 10.0.0.%d" % n)) for n in range(5)]
    assert [status(a) for a in answers] == [209, 209, 209, 429, 429] and door.refused() == {"rate": 2}


def test_10_000_random_requests_disturb_nobody_and_reach_nothing(open_door: OpenDoor) -> None:
    door, chance = open_door(body_bytes=4001, body_seconds=0.5, head_seconds=0.5), random.Random(11)
    heads = [PULL, b"/v1/fleet/../control/start-run", b"/health", b"/" + bytes(range(33, 127))]

    def random_request(number: int) -> bytes:
        noise = chance.randbytes(chance.randrange(1, 3000))
        if number % 2:
            return noise + b"\r\n\r\n"
        request = bytearray(post(chance.choice(heads), noise))
        for _ in range(chance.randrange(1, 7)):
            request[chance.randrange(60)] = chance.randrange(256)
        return bytes(request) + b"\r\n\r\n"

    with door.connect() as first:
        first.sendall(post(PULL, b"honest"))
        assert status(read_all(first)) == 209
        # Certificates are tested elsewhere: with the session of the first, 10,000 connections need not show them again.
        session = first.session
    requests = [random_request(number) for number in range(10_000)]
    with ThreadPoolExecutor(16) as clients:
        answers = clients.map(lambda request: door.send(request, session), requests)
        honest = [status(door.send(post(PULL, b"honest"))) for _ in range(20)]
        good = sum(status(answer) in (200, 209) for answer in answers)
    assert honest == [209] * 20
    assert {(method, target) for method, target, _, _ in door.upstream.seen} == {("POST", PULL)}
    assert good < 1000 and sum(door.refused().values()) >= 10_000 - good
    assert door.is_open_to_others()
