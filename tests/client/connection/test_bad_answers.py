"""What a running client makes of answers that are not the coordinator's, or not what they should be.

Each is a sentence in the log and another try; real TLS, and a real proxy where one is on the way.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Array, ArrayRecord, ConfigRecord, Metadata, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.proto.message_pb2 import ObjectTree, PullObjectRequest, PullObjectResponse
from flwr.proto.node_pb2 import Node
from flwr.supernode.fleet_http_client import FleetHttpClient

from permmoe.federated.message_paths import NEXT_MESSAGE
from permmoe.federated.parcel import joined, pack, separated
from permmoe.runtime.silent_peer import PROBES
from permmoe_client.connection.fleet import BadMessage, Fleet, Unreachable
from permmoe_client.connection.node import run_node
from permmoe_server.provisioning.authority import issue_server, new_authority
from tests.support.connect_proxy import connect_proxy
from tests.support.open_sockets import probes
from tests.support.patience import PATIENCE_SECONDS
from tests.support.preflight_hospital import NOW, Hospital

KEY = ec.generate_private_key(ec.SECP384R1())


class Lines(logging.Handler):
    """The log of the client, as far as it came."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.came = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self.came:
            self.lines.append(record.getMessage())
            self.came.notify_all()

    def wait_for(self, words: str, times: int = 1) -> str:
        """The line with these words, once there were so many; a client that ended makes this wait in vain."""
        with self.came:
            assert self.came.wait_for(
                lambda: sum(words in line for line in self.lines) >= times, timeout=PATIENCE_SECONDS
            ), self.lines
            return next(line for line in self.lines if words in line)


@contextmanager
def running(site: Hospital) -> Iterator[Lines]:
    """A client that runs until the block is left, and then ends without an error."""
    log, handler, stop = logging.getLogger("permmoe.client"), Lines(), threading.Event()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            run_node(site.path, stop)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    thread.start()
    try:
        yield handler
    finally:
        stop.set()
        thread.join()
        log.removeHandler(handler)
        log.setLevel(level)
    assert errors == []


def date_line(later: timedelta = timedelta()) -> str:
    return f"date: {format_datetime(datetime.now(UTC) + later, usegmt=True)}\r\n"


def test_a_login_page_in_the_coordinator_s_place_is_a_sentence_and_another_try(hospital: Hospital) -> None:
    hospital.serve()
    with running(hospital) as log:
        assert "what answered is not the coordinator's program" in log.wait_for("cannot be reached", times=2)


def test_a_redirection_is_not_followed(hospital: Hospital) -> None:
    elsewhere = hospital.serve()
    hospital.serve(status="307 Temporary Redirect", header=lambda: f"location: https://127.0.0.1:{elsewhere.port}/\r\n")
    with running(hospital) as log:
        assert "HTTP status 307" in log.wait_for("refused this site")
    assert elsewhere.received == []


@pytest.mark.parametrize(("minutes", "words"), [(10, "10 min behind"), (-10, "10 min ahead of")])
def test_a_refusal_of_a_machine_whose_clock_is_off_says_so(minutes: int, words: str, hospital: Hospital) -> None:
    hospital.serve(status="401 Unauthorized", header=lambda: date_line(timedelta(minutes=minutes, seconds=2)))
    with running(hospital) as log:
        assert f"this machine's clock is {words} the coordinator's" in log.wait_for("refused this site")


def test_a_refusal_of_a_machine_whose_clock_is_right_says_nothing_of_clocks(hospital: Hospital) -> None:
    hospital.serve(status="401 Unauthorized", header=date_line)
    with running(hospital) as log:
        assert "clock" not in log.wait_for("refused this site")


def test_a_proxy_that_opens_tls_is_named(hospital: Hospital) -> None:
    inspector = new_authority("Inspection Authority", NOW)
    server = hospital.serve(issue_server(inspector, "127.0.0.1", NOW, 365), asks=False)
    with running(hospital) as log:
        line = log.wait_for("cannot be reached")
    assert "'Inspection Authority'" in line and "opens TLS" in line and server.received == []


@pytest.mark.parametrize(("status", "words"), [(407, "asks for a user"), (403, "does not let"), (504, "cannot reach")])
def test_a_running_client_names_a_proxy_that_refuses(status: int, words: str, hospital: Hospital) -> None:
    with connect_proxy(status) as proxy:
        hospital.settings(coordinator={"proxy": proxy.url})
        with running(hospital) as log:
            line = log.wait_for("cannot be reached")
    assert f"by way of the proxy 127.0.0.1:{proxy.port}" in line and words in line and "<b>" not in line


def test_a_running_client_names_a_dead_proxy(hospital: Hospital) -> None:
    with connect_proxy() as proxy:
        pass
    hospital.settings(coordinator={"proxy": proxy.url})
    with running(hospital) as log:
        assert f"the proxy 127.0.0.1:{proxy.port} does not answer" in log.wait_for("cannot be reached")


def test_a_client_goes_through_the_proxy_that_the_check_went_through(hospital: Hospital) -> None:
    hospital.serve(status="503 Service Unavailable")
    with connect_proxy() as proxy:
        hospital.settings(coordinator={"proxy": proxy.url})
        with running(hospital) as log:
            assert "HTTP status 503" in log.wait_for("cannot be reached")
        assert proxy.asked


@pytest.mark.parametrize("is_led", [False, True])
def test_a_client_that_waits_finds_out_that_the_coordinator_s_machine_is_gone(is_led: bool, hospital: Hospital) -> None:
    """Its kernel asks the other one; by way of a proxy, the proxy's."""
    found: list[dict[str, int]] = []
    with connect_proxy() as proxy:

        def while_it_waits() -> str:
            found.append(probes(peer=proxy.port if is_led else server.port))
            return ""

        server = hospital.serve(status="503 Service Unavailable", header=while_it_waits)
        hospital.settings(coordinator={"proxy": proxy.url if is_led else "direct"})
        with running(hospital) as log:
            log.wait_for("cannot be reached")
    assert found[0] == PROBES


class Answers(FleetHttpClient):
    """A coordinator whose answers are given, without a network."""

    def __init__(self, pulled: PullMessagesResponse, objects: dict[str, bytes]) -> None:
        super().__init__("https://127.0.0.1")
        self._pulled, self._objects = pulled, objects
        self.late: set[str] = set()
        """What is there when it is asked for once more."""
        self._client = httpx.Client(transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == NEXT_MESSAGE:
            return httpx.Response(200, content=self._pulled.SerializeToString())
        asked = [PullObjectRequest.FromString(part).object_id for part in separated(request.content)]
        return httpx.Response(200, content=joined(self._object(name).SerializeToString() for name in asked))

    def _object(self, name: str) -> PullObjectResponse:
        if name in self.late:
            self.late.remove(name)
            return PullObjectResponse(object_found=True)
        content = self._objects.get(name)
        return PullObjectResponse(
            object_found=content is not None, object_available=True, object_content=content or b""
        )


def bad_answers() -> dict[str, tuple[PullMessagesResponse, dict[str, bytes]]]:
    metadata = Metadata(1, "m", 1, 1, "", "1", time.time(), 3600.0, "train")
    header = message_to_proto(make_message(metadata=metadata, content=RecordDict()))
    tree = ObjectTree(object_id="a" * 64)
    whole = make_message(metadata=metadata, content=RecordDict())
    objects = {**pack(whole.content), "b" * 64: whole.deflate()}
    under_another_name = ObjectTree(object_id="b" * 64, children=[ObjectTree(object_id=n) for n in pack(whole.content)])
    return {
        "a message that is not the one that was announced": (
            PullMessagesResponse(messages_list=[header], message_object_trees=[under_another_name]),
            objects,
        ),
        "a message without a tree": (PullMessagesResponse(messages_list=[header]), {}),
        "an object that is no object": (
            PullMessagesResponse(messages_list=[header], message_object_trees=[tree]),
            {"a" * 64: b"<html>please log in</html>"},
        ),
        "an empty object": (PullMessagesResponse(messages_list=[header], message_object_trees=[tree]), {"a" * 64: b""}),
        "an object of another type": (
            PullMessagesResponse(messages_list=[header], message_object_trees=[tree]),
            {"a" * 64: ConfigRecord({"a": 1}).deflate()},
        ),
    }


def test_a_parcel_that_comes_later_than_the_next_one_takes_its_own_place() -> None:
    numbers = Array(np.arange(2_000_000, dtype=np.float32))
    content = RecordDict({name: ArrayRecord({"x": numbers}) for name in "ab"} | {"c": ConfigRecord({"t": "words"})})
    whole = make_message(Metadata(1, "m", 1, 1, "", "1", time.time(), 3600.0, "train"), content=content)
    parcels = pack(content)
    assert len(parcels) > 1
    tree = ObjectTree(object_id=whole.object_id, children=[ObjectTree(object_id=name) for name in parcels])
    header = message_to_proto(remove_content_from_message(whole))
    pulled = PullMessagesResponse(messages_list=[header], message_object_trees=[tree])
    answers = Answers(pulled, {**parcels, whole.object_id: whole.deflate()})
    answers.late = {next(iter(parcels))}
    message = Fleet(answers, Node(node_id=1), KEY, threading.Event()).receive()
    assert message and answers.late == set() and message.content.object_id == content.object_id


@pytest.mark.parametrize("what", bad_answers())
def test_a_bad_object_is_passed_over(what: str) -> None:
    pulled, objects = bad_answers()[what]
    fleet = Fleet(Answers(pulled, objects), Node(node_id=1), KEY, threading.Event())
    with pytest.raises(BadMessage):
        fleet.receive()


def test_an_object_that_is_gone_may_come_again() -> None:
    pulled, _ = bad_answers()["an empty object"]
    fleet = Fleet(Answers(pulled, {}), Node(node_id=1), KEY, threading.Event())
    with pytest.raises(Unreachable, match="withdrawn"):
        fleet.receive()
