"""Messages over a real superlink: whole, once, in time, to whom they are for, through kills and lost answers."""

from __future__ import annotations

import asyncio
import queue
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPResponse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import FastAPI
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode, SubStatus
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PushTaskOutputRequest
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.utils import uint64_to_int64
from flwr.superlink.federation import NoOpFederationManager
from flwr.supernode.fleet_http_client import FleetHttpClient

from permmoe.federated.message_paths import (
    HEARTBEAT,
    LONGEST_SILENCE_SECONDS,
    NEXT_MESSAGE,
    OBJECTS,
    REPLY,
    REPLY_OBJECTS,
    STUDY_MESSAGES,
    STUDY_OBJECTS,
    STUDY_PATHS,
    WAIT_SECONDS,
    post,
)
from permmoe.federated.parcel import PARCEL_BYTES, joined, object_name
from permmoe_client.connection.fleet import Fleet, Unreachable
from permmoe_server.coordination import message_desk
from permmoe_server.coordination.local_socket import IDLE_SECONDS, connected, socket_address
from permmoe_server.coordination.message_desk import TURNS_AT_ONCE
from permmoe_server.coordination.nonblocking_grid import NonblockingGrid
from permmoe_server.coordination.site_messages import MOST_TIMES_GIVEN_AGAIN, STATUS_SECONDS
from permmoe_server.coordination.turns import Turns
from permmoe_server.protocol.reply_sizes import ReplySize
from tests.support.patience import PATIENCE_SECONDS
from tests.support.real_superlink import RealSuperlink, openssh

LARGE = 3 * PARCEL_BYTES // 4 + 17
"""Numbers of an array that takes several parcels and several requests."""
SIZE = ReplySize(numbers=4 * LARGE + 5000, records=100_000)


@pytest.fixture(scope="module")
def superlink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealSuperlink]:
    found = RealSuperlink.founded(tmp_path_factory.mktemp("superlink") / "federation")
    yield found
    found.end()


@pytest.fixture
def grid(superlink: RealSuperlink) -> NonblockingGrid:
    return superlink.untrusting(superlink.grid(), SIZE)


def content(numbers: int = 100) -> RecordDict:
    array = Array(np.random.default_rng(numbers).standard_normal(numbers).astype(np.float32))
    return RecordDict({"a": ArrayRecord({"x": array}), "b": ConfigRecord({"text": "words", "bytes": b"\0" * 9})})


def to(fleet: Fleet, what: RecordDict, seconds: float = 60.0) -> Message:
    return Message(what, fleet.node_id, "train", ttl=seconds, group_id="1")


def replies(grid: NonblockingGrid, names: list[str], seconds: float = 30.0) -> dict[str, Message]:
    """The replies to these messages, by the message."""
    end, found = time.monotonic() + seconds, dict[str, Message]()
    while len(found) < len(names) and time.monotonic() < end:
        for reply in grid.pull_messages([name for name in names if name not in found]):
            found[reply.metadata.reply_to_message_id] = reply
    return found


def as_bytes(what: RecordDict) -> list[bytes]:
    return [what[name].deflate() for name in sorted(what)]


def status_of(ask: Callable[[], object]) -> int:
    try:
        ask()
    except httpx.HTTPStatusError as error:
        return error.response.status_code
    return 200


def rows(superlink: RealSuperlink, table: str) -> int:
    with sqlite3.connect(f"file:{superlink.folder.superlink_database}?mode=ro", uri=True) as database:
        return int(database.execute(f"select count(*) from {table}").fetchone()[0])


@pytest.mark.parametrize("numbers", [1, 1000, LARGE])
def test_a_message_and_its_reply_arrive_bit_by_bit(
    numbers: int, superlink: RealSuperlink, grid: NonblockingGrid
) -> None:
    site, sent, answer = superlink.site(), content(numbers), content(numbers + 1)
    [name] = grid.push_messages([to(site, sent)])
    received = site.receive()
    assert received and received.metadata.message_id == name and as_bytes(received.content) == as_bytes(sent)
    site.send(Message(answer, reply_to=received), 1.5)
    found = replies(grid, [name])
    assert as_bytes(found[name].content) == as_bytes(answer) and found[name].metadata.src_node_id == site.node_id
    # What is whole at its place is given up, with the next question.
    list(grid.pull_messages([]))
    assert rows(superlink, "objects") == 0


def back(superlink: RealSuperlink, site: Fleet) -> Fleet:
    """The connection of the site's next process."""
    return Fleet(site._client, site._node, site._key, threading.Event())


def test_a_site_that_comes_back_empty_handed_is_given_its_message_again_until_it_answers(
    superlink: RealSuperlink, grid: NonblockingGrid
) -> None:
    site, sent = superlink.site(), content()
    [name] = grid.push_messages([to(site, sent)])
    for _ in range(3):
        site = back(superlink, site)
        again = site.receive()
        assert again and again.metadata.message_id == name and as_bytes(again.content) == as_bytes(sent)
    site.send(Message(content(5), reply_to=again), 1.0)
    [later] = grid.push_messages([to(site, content(7))])
    following = back(superlink, site).receive()
    assert following and following.metadata.message_id == later
    assert as_bytes(replies(grid, [name])[name].content) == as_bytes(content(5))


def test_within_one_connection_and_of_a_run_that_is_over_no_message_is_given_again(superlink: RealSuperlink) -> None:
    site, run = superlink.site(), superlink.grid()
    first = superlink.untrusting(run, SIZE)
    for numbers in (3, 5):
        [name] = first.push_messages([to(site, content(numbers))])
        received = site.receive()
        assert received and received.metadata.message_id == name
    run._runtime_client.PushTaskOutput(PushTaskOutputRequest(sub_status=SubStatus.FAILED, details="killed"))
    time.sleep(STATUS_SECONDS)
    [name] = superlink.untrusting(superlink.grid(), SIZE).push_messages([to(site, content(7))])
    again = back(superlink, site).receive()
    assert again and again.metadata.message_id == name


def test_a_message_that_ends_a_sites_process_each_time_is_not_given_for_ever(
    superlink: RealSuperlink, grid: NonblockingGrid
) -> None:
    site = superlink.site()
    fatal, harmless = grid.push_messages([to(site, content(3))])[0], grid.push_messages([to(site, content(5))])[0]
    given = []
    while harmless not in given:
        received = back(superlink, site).receive()
        assert received
        given.append(received.metadata.message_id)
    assert given == [fatal] * (1 + MOST_TIMES_GIVEN_AGAIN) + [harmless]


def test_attack_who_comes_back_empty_handed_is_given_nothing_of_another_site(
    superlink: RealSuperlink, grid: NonblockingGrid
) -> None:
    site, other = superlink.site(), superlink.site()
    grid.push_messages([to(site, content(3))])
    assert site.receive()
    [own] = grid.push_messages([to(other, content(5))])
    received = other.receive()
    assert received and received.metadata.message_id == own


def test_an_error_arrives_as_an_error(superlink: RealSuperlink, grid: NonblockingGrid) -> None:
    site = superlink.site()
    [name] = grid.push_messages([to(site, content())])
    message = site.receive()
    assert message
    site.send(Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "BudgetSpent"), reply_to=message), 0.0)
    assert replies(grid, [name])[name].error.reason == "BudgetSpent"


def test_a_content_that_goes_to_many_sites_is_kept_once(superlink: RealSuperlink, grid: NonblockingGrid) -> None:
    sites, sent = [superlink.site() for _ in range(20)], content(10_000)
    before = rows(superlink, "objects")
    names = list(grid.push_messages([to(site, sent) for site in sites]))
    assert len(set(names)) == 20 and rows(superlink, "objects") == before + 20 + 1
    for site, name in zip(sites, names, strict=True):
        received = site.receive()
        assert received and received.metadata.message_id == name and as_bytes(received.content) == as_bytes(sent)


def is_given_nothing(site: Fleet) -> bool:
    """Whether a site that waits for two seconds is given no message."""
    threading.Timer(2.0, site._stop.set).start()
    return site.receive() is None


def test_a_site_that_waits_is_told_at_once_and_others_are_not_told(
    superlink: RealSuperlink, grid: NonblockingGrid
) -> None:
    waiting, other = superlink.site(), superlink.site()
    got: dict[str, tuple[Message | None, float]] = {}

    def wait(name: str, site: Fleet) -> None:
        got[name] = site.receive(), time.monotonic()
        other._stop.set()

    threads = [threading.Thread(target=wait, args=item) for item in (("waiting", waiting), ("other", other))]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    begun = time.monotonic()
    [name] = grid.push_messages([to(waiting, content())])
    for thread in threads:
        thread.join()
    message, at = got["waiting"]
    assert message and message.metadata.message_id == name and at - begun < 4.0
    assert got["other"][0] is None


def test_messages_that_are_stored_while_a_site_asks_are_found_at_once_again_and_again(
    superlink: RealSuperlink, grid: NonblockingGrid
) -> None:
    site = superlink.site()
    assert site.receive() is None
    begun, got = time.monotonic(), list[str]()

    def take() -> None:
        while len(got) < 60 and time.monotonic() < begun + 60.0:
            if (message := site.receive()) is not None:
                got.append(message.metadata.message_id)

    thread = threading.Thread(target=take)
    thread.start()
    sent = []
    for number in range(60):
        sent += grid.push_messages([to(site, RecordDict({"n": ConfigRecord({"n": number})}))])
        time.sleep(0.003 * (number % 9))
    thread.join()
    # A message that was missed for one wait alone would take twenty seconds.
    assert got == sent and time.monotonic() - begun < 30.0


def test_an_answer_that_was_lost_on_its_way_is_given_again_until_the_objects_are_asked_for(
    superlink: RealSuperlink, grid: NonblockingGrid
) -> None:
    site = superlink.site()
    [name] = grid.push_messages([to(site, content())])
    question = PullMessagesRequest(node=site._node).SerializeToString()
    lost = [PullMessagesResponse.FromString(post(site._client, NEXT_MESSAGE, question)) for _ in range(3)]
    assert [answer.messages_list[0].metadata.message_id for answer in lost] == [name] * 3
    received = site.receive()
    assert received and received.metadata.message_id == name
    # The message is given once, however long the site works on it.
    assert is_given_nothing(site)


def test_a_reply_that_is_sent_twice_counts_once(superlink: RealSuperlink, grid: NonblockingGrid) -> None:
    site = superlink.site()
    [name] = grid.push_messages([to(site, content())])
    message = site.receive()
    assert message
    sent: list[tuple[str, bytes]] = []

    def kept(path: str, body: bytes) -> bytes:
        sent.append((path, body))
        return post(site._client, path, body)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site, "_post", kept)
        site.send(Message(content(7), reply_to=message), 0.0)
    [again] = sent
    post(site._client, *again)
    assert list(replies(grid, [name])) == [name]
    post(site._client, *again)
    assert list(grid.pull_messages([name])) == []


def test_a_large_reply_whose_answers_are_lost_is_sent_again_and_arrives_once(
    superlink: RealSuperlink, grid: NonblockingGrid
) -> None:
    site, answer = superlink.site(), content(LARGE + 3)
    [name] = grid.push_messages([to(site, content())])
    message = site.receive()
    assert message

    def twice(path: str, body: bytes) -> bytes:
        post(site._client, path, body)
        return post(site._client, path, body)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site, "_post", twice)
        site.send(Message(answer, reply_to=message), 0.0)
    assert as_bytes(replies(grid, [name])[name].content) == as_bytes(answer)


def test_messages_and_replies_survive_a_kill_of_the_superlink(superlink: RealSuperlink, grid: NonblockingGrid) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    with superlink.control() as control:
        control.register(openssh(key), "site")
    site = superlink.site(key)
    first, second = grid.push_messages([to(site, content(5)), to(site, content(6))])
    superlink.restart()
    message = site.receive()
    assert message
    site.send(Message(content(8), reply_to=message), 0.0)
    superlink.restart()
    found = replies(grid, [message.metadata.message_id])
    assert as_bytes(found[message.metadata.message_id].content) == as_bytes(content(8))
    other = site.receive()
    assert other and {message.metadata.message_id, other.metadata.message_id} == {first, second}


def test_a_site_that_is_gone_is_an_error_in_its_place(superlink: RealSuperlink, grid: NonblockingGrid) -> None:
    site = superlink.site()
    [name] = grid.push_messages([to(site, content())])
    # A site that waits for messages is there; one that says nothing for two heartbeats is not.
    found = replies(grid, [name], seconds=40.0)
    assert found[name].error.code == ErrorCode.NODE_UNAVAILABLE


def online_until(superlink: RealSuperlink, *sites: Fleet) -> list[float]:
    """Until when the superlink counts sites as online unless it hears of them, seconds since 1970."""
    nodes = [uint64_to_int64(site.node_id) for site in sites]
    with sqlite3.connect(f"file:{superlink.folder.superlink_database}?mode=ro", uri=True) as database:
        found = dict(database.execute("select node_id, online_until from node").fetchall())
    return [found[node] for node in nodes]


def test_a_site_that_waits_is_online_without_a_word_and_one_that_went_away_while_it_waited_is_not(
    superlink: RealSuperlink,
) -> None:
    waits, leaves = superlink.site(), superlink.site()

    def wait(site: Fleet) -> None:
        with suppress(Unreachable):
            site.receive()

    threads = [threading.Thread(target=wait, args=[site]) for site in (waits, leaves)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    first = online_until(superlink, waits, leaves)
    # As the kernel does for a process that was killed.
    [connection] = leaves._client._client._transport._pool.connections  # type: ignore[attr-defined]
    connection._connection._network_stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
    time.sleep(LONGEST_SILENCE_SECONDS + 2.0)
    waiting, gone = (now - then for now, then in zip(online_until(superlink, waits, leaves), first, strict=True))
    assert waiting > 1.0 and gone == 0.0
    waits._stop.set()
    for thread in threads:
        thread.join()


def test_a_rounds_messages_go_to_so_many_sites_at_a_time_and_who_waits_for_its_turn_is_online(
    superlink: RealSuperlink, grid: NonblockingGrid
) -> None:
    sites = [superlink.site() for _ in range(TURNS_AT_ONCE + 4)]
    told: queue.Queue[Fleet] = queue.Queue()

    def wait(site: Fleet) -> None:
        question = PullMessagesRequest(node=site._node).SerializeToString()
        if PullMessagesResponse.FromString(post(site._client, NEXT_MESSAGE, question)).messages_list:
            told.put(site)

    threads = [threading.Thread(target=wait, args=[site]) for site in sites]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    [*names] = grid.push_messages([to(site, content()) for site in sites])
    first = [told.get(timeout=PATIENCE_SECONDS) for _ in range(TURNS_AT_ONCE)]
    with pytest.raises(queue.Empty):
        told.get(timeout=1.0)
    # One fetches its message, and another one is told.
    received = first[0].receive()
    assert received and received.metadata.message_id in names
    later = [told.get(timeout=PATIENCE_SECONDS)]
    # The others do not come, and are not waited for.
    later += [told.get(timeout=PATIENCE_SECONDS) for _ in range(3)]
    assert {site.node_id for site in [*first, *later]} == {site.node_id for site in sites}
    heard = online_until(superlink, first[1], later[-1])
    assert heard[1] > heard[0]
    for thread in threads:
        thread.join()


def test_a_site_whose_request_waits_sends_no_heartbeat_and_one_that_works_does() -> None:
    asked, answered = threading.Event(), threading.Event()

    def post(path: str, body: bytes) -> bytes:
        asked.set()
        answered.wait()
        return b""

    site = Fleet(
        FleetHttpClient("https://nowhere"), Node(node_id=1), ec.generate_private_key(ec.SECP384R1()), threading.Event()
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site, "_post", post)
        thread = threading.Thread(target=site.receive)
        thread.start()
        asked.wait()
        begun = time.monotonic()
        time.sleep(0.1)
        assert site.silent_at() > begun + 0.1 + LONGEST_SILENCE_SECONDS - 0.01
        answered.set()
        thread.join()
    heard = site.silent_at()
    time.sleep(0.1)
    assert site.silent_at() == heard


def test_a_site_that_is_to_stop_does_not_wait_for_an_answer(superlink: RealSuperlink) -> None:
    site = superlink.site()
    threading.Timer(0.3, site._stop.set).start()
    begun = time.monotonic()
    assert site.receive() is None and time.monotonic() - begun < WAIT_SECONDS / 2


def requests_of(node: int, run_id: int = 1) -> dict[str, bytes]:
    """What a site can ask, in a node's name."""
    own = Node(node_id=node)
    one = PullObjectRequest(node=own, run_id=run_id, object_id="a" * 64).SerializeToString()
    pushed = PushObjectRequest(node=own, run_id=run_id, object_id="a" * 64, session_id="x").SerializeToString()
    return {
        NEXT_MESSAGE: PullMessagesRequest(node=own).SerializeToString(),
        HEARTBEAT: SendNodeHeartbeatRequest(node=own, heartbeat_interval=10.0).SerializeToString(),
        OBJECTS: joined([one]),
        REPLY_OBJECTS: joined([pushed]),
    }


def test_attack_nobody_speaks_in_another_nodes_name(superlink: RealSuperlink) -> None:
    victim, attacker = superlink.site(), superlink.site()
    for path, body in requests_of(victim.node_id).items():
        assert status_of(lambda p=path, b=body: post(attacker._client, p, b)) == 401, path
    stranger = superlink.fleet_client(ec.generate_private_key(ec.SECP384R1()))
    for path, body in requests_of(victim.node_id).items():
        assert status_of(lambda p=path, b=body: post(stranger, p, b)) == 401, path


def test_attack_nobody_replies_in_another_nodes_name(superlink: RealSuperlink, grid: NonblockingGrid) -> None:
    victim, attacker = superlink.site(), superlink.site()
    [name] = grid.push_messages([to(victim, content())])
    message = victim.receive()
    assert message
    bodies: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(victim, "_post", lambda path, body: bodies.append(body) or b"")
        victim.send(Message(content(11), reply_to=message), 0.0)
    assert status_of(lambda: post(attacker._client, REPLY, bodies[0])) == 401
    unsigned = connected(RuntimeHttpClient, superlink.folder.superlink_socket, "nobody")
    assert status_of(lambda: post(unsigned, REPLY, bodies[0])) == 401
    assert list(grid.pull_messages([name])) == []
    post(victim._client, REPLY, bodies[0])
    assert as_bytes(replies(grid, [name])[name].content) == as_bytes(content(11))


def test_attack_what_a_site_may_ask_needs_a_signature_and_what_a_study_may_ask_its_token(
    superlink: RealSuperlink, grid: NonblockingGrid
) -> None:
    unsigned = connected(RuntimeHttpClient, superlink.folder.superlink_socket, "nobody")
    for path, body in requests_of(superlink.site().node_id).items():
        assert status_of(lambda p=path, b=body: post(unsigned, p, b)) == 401, path
    site = superlink.site()
    for path in STUDY_PATHS:
        body = joined([PullAppMessagesRequest().SerializeToString()])
        assert status_of(lambda p=path, b=body: post(unsigned, p, b)) == 403, path
        assert status_of(lambda p=path, b=body: post(site._client, p, b)) == 403, path


def test_attack_a_reply_cannot_bring_objects_of_others_or_other_bytes(
    superlink: RealSuperlink, grid: NonblockingGrid
) -> None:
    site, other = superlink.site(), superlink.site()
    [name] = grid.push_messages([to(site, content())])
    message = site.receive()
    assert message
    bodies: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site, "_post", lambda path, body: bodies.append(body) or b"")
        site.send(Message(content(9), reply_to=message), 0.0)
    honest = message_desk.separated(bodies[0])

    def changed(change: Callable[[Any], None]) -> bytes:
        one = PushObjectRequest.FromString(honest[1])
        change(one)
        return joined([honest[0], one.SerializeToString(), *honest[2:]])

    # Other bytes under the name of an object that nobody has stored: a superlink ignores what it has already.
    def poison(one: Any) -> None:
        one.object_content = one.object_content[:-1] + b"!"

    assert status_of(lambda: post(site._client, REPLY, changed(poison))) == 403
    assert status_of(lambda: post(site._client, REPLY, changed(lambda one: setattr(one, "run_id", 5)))) == 403
    in_anothers = changed(lambda one: one.node.CopyFrom(Node(node_id=other.node_id)))
    assert status_of(lambda: post(site._client, REPLY, in_anothers)) == 403
    # Nothing of all this was kept, and the honest reply is as welcome as before.
    post(site._client, REPLY, bodies[0])
    assert as_bytes(replies(grid, [name])[name].content) == as_bytes(content(9))


def test_attack_bodies_that_are_none_are_refused_and_disturb_nobody(
    superlink: RealSuperlink, grid: NonblockingGrid
) -> None:
    site = superlink.site()
    bodies = [b"", b"\xff", b"\xff" * 8, (2**63).to_bytes(8, "big") + b"x", joined([b"\xff\xff"]), joined([b""] * 9)]
    for path in (OBJECTS, REPLY, REPLY_OBJECTS, HEARTBEAT):
        for body in bodies:
            assert status_of(lambda p=path, b=body: post(site._client, p, b)) in (400, 401, 403), (path, body)
    for path in STUDY_PATHS - {STUDY_OBJECTS}:
        assert status_of(lambda p=path: post(grid._grid._runtime_client, p, b"\xff" * 20)) == 400, path
    [name] = grid.push_messages([to(site, content())])
    received = site.receive()
    assert received and received.metadata.message_id == name


def test_the_superlink_keeps_an_idle_connection_for_longer_than_its_peers_would_use_it(
    superlink: RealSuperlink,
) -> None:
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(socket_address(superlink.folder.superlink_socket))
        raw.settimeout(IDLE_SECONDS + 4.0)  # uvicorn drops them after 5 s by default
        raw.sendall(b"GET / HTTP/1.1\r\nhost: superlink\r\n\r\n")
        answer = HTTPResponse(raw)
        answer.begin()
        answer.read()
        with pytest.raises(TimeoutError):
            raw.recv(1)


def test_attack_a_thousand_questions_of_one_site_hold_nobody_up(
    superlink: RealSuperlink, grid: NonblockingGrid
) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    with superlink.control() as control:
        control.register(openssh(key), "greedy")
    greedy, honest = superlink.site(key), superlink.site()
    clients = [superlink.fleet_client(key) for _ in range(100)]
    question = PullMessagesRequest(node=greedy._node).SerializeToString()
    answered: list[int] = []

    def ask() -> None:
        answered.append(status_of(lambda: post(clients.pop(), NEXT_MESSAGE, question)))

    threads = [threading.Thread(target=ask) for _ in range(100)]
    for thread in threads:
        thread.start()
    [name] = grid.push_messages([to(honest, content())])
    received = honest.receive()
    # The last of its questions still waits, as long as a question may.
    assert received and received.metadata.message_id == name and len(answered) < 100
    for thread in threads:
        thread.join()
    assert answered == [200] * 100


def test_a_message_that_was_announced_and_not_yet_written_is_waited_for(
    superlink: RealSuperlink, grid: NonblockingGrid
) -> None:
    site = superlink.site()
    bodies: list[tuple[str, bytes]] = []

    def kept(client: Any, path: str, body: bytes) -> bytes:
        # The first request without its objects, the objects in a later one.
        parts = message_desk.separated(body)
        if path == STUDY_MESSAGES:
            return post(client, path, joined(parts[:1]))
        bodies.append((path, body))
        threading.Timer(1.0, lambda: post(client, path, body)).start()
        return b""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("permmoe_server.coordination.nonblocking_grid.post", kept)
        [name] = grid.push_messages([to(site, content())])
    received = site.receive()
    assert bodies and received and received.metadata.message_id == name


def test_a_few_replies_are_in_memory_at_one_time(tmp_path: Path) -> None:
    app, reading, most = FastAPI(), 0, 0
    state = SqlLinkState(":memory:", NoOpFederationManager(), SqlObjectStore(":memory:"))
    app.state.linkstate_factory = SimpleNamespace(state=lambda: state)
    desk = message_desk.MessageDesk(app)

    async def read() -> bytes:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        await asyncio.sleep(0.01)
        reading -= 1
        return b"no body"

    async def nothing_more() -> dict[str, Any]:
        return await asyncio.Future()

    async def all_answers() -> list[tuple[int, bytes]]:
        scope = {"path": REPLY, "headers": []}
        return await asyncio.gather(*(desk.answer(scope, read, nothing_more) for _ in range(50)))

    assert {status for status, _ in asyncio.run(all_answers())} == {400}
    assert most == message_desk.REPLIES_AT_ONCE


def test_a_site_that_has_fetched_its_message_lets_the_next_one_have_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    app = FastAPI()
    state = SqlLinkState(":memory:", NoOpFederationManager(), SqlObjectStore(":memory:"))
    app.state.linkstate_factory = SimpleNamespace(state=lambda: state)
    desk = message_desk.MessageDesk(app)
    monkeypatch.setattr(desk, "_authenticate", lambda scope, request: None)
    monkeypatch.setattr(desk._sites, "objects", lambda requests: [])
    monkeypatch.setattr(desk, "_turns", Turns(1, seconds=PATIENCE_SECONDS))

    async def fetch() -> bytes:
        return requests_of(5)[OBJECTS]

    async def nothing_more() -> dict[str, Any]:
        return await asyncio.Future()

    async def scene() -> tuple[bool, bool, bool]:
        first, early = await desk._turns.take(5, 0.0), await desk._turns.take(7, 0.1)
        await desk.answer({"path": OBJECTS, "headers": []}, fetch, nothing_more)
        return first, early, await desk._turns.take(7, PATIENCE_SECONDS)

    assert asyncio.run(scene()) == (True, False, True)


def test_names_are_the_digests_of_what_they_name(superlink: RealSuperlink, grid: NonblockingGrid) -> None:
    site = superlink.site()
    message = to(site, content())
    [name] = grid.push_messages([message])
    assert object_name(message.deflate()) == name == message.object_id
