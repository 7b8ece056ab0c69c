"""Several superlinks behind one study: nobody waits for another, nobody speaks for another, and one may be away."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import pytest
from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.runtime_pb2 import PushAppMessagesResponse

from permmoe.federated.message_paths import STUDY_MESSAGES, STUDY_OBJECTS, STUDY_REPLIES
from permmoe_server.coordination import grid_member, joined_grid
from permmoe_server.coordination.grid_member import ARRIVED_AT_ONCE, Connect
from permmoe_server.coordination.joined_grid import OWN, JoinedGrid
from permmoe_server.protocol.reply_sizes import ReplySize
from tests.support.patience import PATIENCE_SECONDS, wait_until
from tests.support.replying_superlink import ReplyingGrid, sent, site_keys

SIZE = ReplySize(numbers=10_000, records=100_000)
NODES = {OWN: (11, 12), "east": (21, 22), "west": (31, 32, 33, 34, 35, 36, 37)}
HOMES = {node: region for region, nodes in NODES.items() for node in nodes}


@dataclass
class Played(ReplyingGrid):
    """A superlink whose part is played here: it may hold its answers back, be away, or answer what it likes."""

    nodes: tuple[int, ...]
    may_answer: threading.Event = field(default_factory=threading.Event)
    may_connect: threading.Event = field(default_factory=threading.Event)
    is_away: bool = False
    says: Mapping[str, bytes] = field(default_factory=dict)
    """Path -> what it answers in place of the truth."""
    connections: int = 0
    seen: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(self.nodes)
        self.may_answer.set()
        self.may_connect.set()

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request.url.path)
        if request.url.path == STUDY_REPLIES:
            assert self.may_answer.wait(PATIENCE_SECONDS)
        self._refuse_where_away()
        if request.url.path in self.says:
            return httpx.Response(200, content=self.says[request.url.path])
        return super()._answer(request)

    def get_node_ids(self) -> tuple[int, ...]:
        self._refuse_where_away()
        return self.nodes

    def _refuse_where_away(self) -> None:
        if self.is_away:
            raise httpx.ConnectError("nobody listens")

    @contextmanager
    def connected(self) -> Iterator[ReplyingGrid]:
        assert self.may_connect.wait(PATIENCE_SECONDS)
        self._refuse_where_away()
        self.connections += 1
        yield self


@pytest.fixture
def superlinks(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Played]]:
    monkeypatch.setattr(grid_member, "COME_BACK_SECONDS", 0.05)
    monkeypatch.setattr(grid_member, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(joined_grid, "REPLY_SECONDS", 0.05)
    found = {name: Played(nodes) for name, nodes in NODES.items()}
    yield found
    for superlink in found.values():
        superlink.may_answer.set()


@pytest.fixture
def removed() -> set[str]:
    """The regions that there are not, at this moment."""
    return set()


@pytest.fixture
def grid(superlinks: dict[str, Played], removed: set[str]) -> Iterator[JoinedGrid]:
    def regions() -> dict[str, Connect]:
        return {name: superlink.connected for name, superlink in superlinks.items() if name and name not in removed}

    with JoinedGrid(superlinks[OWN], regions, lambda _: SIZE, lambda: HOMES, lambda: site_keys(*HOMES)) as joined:
        yield joined


def ask(grid: JoinedGrid, *nodes: int) -> dict[int, str]:
    """Send each node a message; node -> message."""
    messages = [Message(RecordDict(), node, "train", ttl=600.0, group_id="1") for node in nodes]
    return dict(zip(nodes, grid.push_messages(messages), strict=True))


def answer(superlinks: Mapping[str, Played], asked: Mapping[int, str], *nodes: int) -> None:
    for node in nodes:
        superlinks[HOMES[node]].answer(sent(node, asked[node], RecordDict()))


def pulled(grid: JoinedGrid, asked: Mapping[int, str], is_enough: Callable[[list[Message]], bool]) -> list[Message]:
    """Replies in the order of arrival, until there are enough."""
    found = list[Message]()

    def more() -> bool:
        found.extend(grid.pull_messages(list(asked.values())))
        return is_enough(found)

    wait_until("there are enough replies", more)
    return found


def senders(replies: list[Message]) -> list[int]:
    return sorted(reply.metadata.src_node_id for reply in replies if not reply.has_error())


def test_every_superlink_is_asked_for_its_own_sites_and_each_reply_comes_once(
    grid: JoinedGrid, superlinks: dict[str, Played]
) -> None:
    assert sorted(grid.get_node_ids()) == sorted(HOMES)
    asked = ask(grid, *HOMES)
    for name, superlink in superlinks.items():
        assert {message.metadata.dst_node_id for message in superlink.asked.values()} == set(NODES[name])
    answer(superlinks, asked, *HOMES)
    found = pulled(grid, asked, lambda replies: len(replies) >= len(HOMES))
    assert senders(found) == sorted(HOMES)
    assert list(grid.pull_messages(list(asked.values()))) == []


def test_a_superlink_that_says_nothing_holds_no_other_up(grid: JoinedGrid, superlinks: dict[str, Played]) -> None:
    superlinks["east"].may_answer.clear()
    asked = ask(grid, *HOMES)
    answer(superlinks, asked, *HOMES)
    others = sorted(node for node, region in HOMES.items() if region != "east")
    assert senders(pulled(grid, asked, lambda replies: len(replies) >= len(others))) == others
    wait_until("east is asked", lambda: STUDY_REPLIES in superlinks["east"].seen)
    superlinks["east"].may_answer.set()
    assert senders(pulled(grid, asked, lambda replies: len(replies) >= 2)) == [21, 22]


def test_of_a_region_that_dies_each_message_fails_once_and_after_it_came_back_its_sites_take_part(
    grid: JoinedGrid, superlinks: dict[str, Played]
) -> None:
    asked = ask(grid, *HOMES)
    answer(superlinks, asked, 11, 12, 21, 22, 31)
    found = pulled(grid, asked, lambda replies: len(replies) >= 5)
    superlinks["west"].is_away = True
    found += pulled(grid, asked, lambda replies: len(replies) >= 6)
    assert senders(found) == [11, 12, 21, 22, 31]
    lost = [reply for reply in found if reply.has_error()]
    assert {reply.error.code for reply in lost} == {ErrorCode.NODE_UNAVAILABLE}
    assert {reply.metadata.reply_to_message_id for reply in lost} == {asked[node] for node in NODES["west"][1:]}
    assert sorted(grid.get_node_ids()) == [11, 12, 21, 22]
    assert ask(grid, 11, 31)[31] == "", "a site of a region that is away is sent nothing"
    # What a site answers to a run that is over belongs to nothing.
    answer(superlinks, asked, *NODES["west"])
    superlinks["west"].is_away = False
    wait_until("west is back", lambda: len(list(grid.get_node_ids())) == len(HOMES))
    assert superlinks["west"].connections == 2
    again = ask(grid, 31, 11)
    answer(superlinks, again, 31, 11)
    everything = {**asked, **{-node: name for node, name in again.items()}}
    found = pulled(grid, everything, lambda replies: len(replies) >= 2)
    assert {reply.metadata.reply_to_message_id for reply in found} == set(again.values())


@pytest.fixture
def later(removed: set[str]) -> None:
    """West is not there in the beginning. A test names it before the grid."""
    removed.add("west")


@pytest.mark.usefixtures("later")
def test_a_region_that_is_added_takes_part_from_then_on_and_nobody_waits_until_it_can_be_reached(
    grid: JoinedGrid, superlinks: dict[str, Played], removed: set[str]
) -> None:
    assert sorted(grid.get_node_ids()) == [11, 12, 21, 22]
    assert ask(grid, 31) == {31: ""}
    superlinks["west"].may_connect.clear()
    removed.clear()
    asked = ask(grid, 11, 21)
    # It is asked for its nodes, and does not say yet that it is there, nor that it is not.
    assert sorted(grid.get_node_ids()) == [11, 12, 21, 22]
    answer(superlinks, asked, 11, 21)
    assert senders(pulled(grid, asked, lambda replies: len(replies) >= 2)) == [11, 21]
    superlinks["west"].is_away = True
    superlinks["west"].may_connect.set()
    assert sorted(grid.get_node_ids()) == [11, 12, 21, 22]
    superlinks["west"].is_away = False
    wait_until("west is there", lambda: sorted(grid.get_node_ids()) == sorted(HOMES))
    asked = ask(grid, *HOMES)
    answer(superlinks, asked, *HOMES)
    assert senders(pulled(grid, asked, lambda replies: len(replies) >= len(HOMES))) == sorted(HOMES)
    assert superlinks["west"].connections == 1


def test_of_a_region_that_is_removed_each_message_fails_once_and_one_of_its_name_takes_part_again(
    grid: JoinedGrid, superlinks: dict[str, Played], removed: set[str]
) -> None:
    asked = ask(grid, *HOMES)
    answer(superlinks, asked, 11, 21, 31)
    found = pulled(grid, asked, lambda replies: len(replies) >= 3)
    removed.add("west")
    [west] = [member for member in grid._members if member.name == "west"]
    assert set(grid.get_node_ids()) <= set(HOMES)
    wait_until("west is left", lambda: west.has_ended)
    with grid._changed:
        assert west.send([], {}).is_over, "what is sent to it goes nowhere, at once"
    assert ask(grid, 31) == {31: ""}
    answer(superlinks, asked, 12, 22)
    found += pulled(grid, asked, lambda replies: len(replies) >= 8)
    assert senders(found) == [11, 12, 21, 22, 31]
    lost = [reply for reply in found if reply.has_error()]
    assert {reply.error.code for reply in lost} == {ErrorCode.NODE_UNAVAILABLE}
    assert {reply.metadata.reply_to_message_id for reply in lost} == {asked[node] for node in NODES["west"][1:]}
    assert len(found) == len(HOMES) and sorted(grid.get_node_ids()) == [11, 12, 21, 22]
    assert [member.name for member in grid._members] == [OWN, "east"]
    removed.clear()
    wait_until("west is there", lambda: sorted(grid.get_node_ids()) == sorted(HOMES))
    again = ask(grid, 31, 11)
    answer(superlinks, again, 31, 11)
    assert senders(pulled(grid, again, lambda replies: len(replies) >= 2)) == [11, 31]


@pytest.mark.parametrize("path", [STUDY_MESSAGES, STUDY_REPLIES])
def test_attack_a_region_that_is_added_and_answers_what_is_no_answer_or_nothing_changes_nothing_for_others(
    path: str, later: None, grid: JoinedGrid, superlinks: dict[str, Played], removed: set[str]
) -> None:
    superlinks["west"].says = {path: b"\0" * 80}
    superlinks["west"].nodes = (*NODES["west"], 11, 21)
    removed.clear()
    wait_until("west says who is there", lambda: sorted(grid.get_node_ids()) == sorted(HOMES))
    for _ in range(3):
        asked = ask(grid, 11, 21, 31)
        sent_to = {node: name for node, name in asked.items() if name}
        answer(superlinks, sent_to, *(sent_to.keys() - {31}))
        found = pulled(grid, sent_to, lambda replies: {11, 21} <= set(senders(replies)))
        assert senders(found) == [11, 21]


def test_what_is_sent_to_a_region_that_does_not_take_it_is_given_up_and_others_go_on(
    grid: JoinedGrid, superlinks: dict[str, Played], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joined_grid, "SEND_SECONDS", 0.2)
    superlinks["east"].may_answer.clear()
    asked = ask(grid, 21)
    list(grid.pull_messages(list(asked.values())))
    wait_until("east is asked", lambda: STUDY_REPLIES in superlinks["east"].seen)
    more = ask(grid, 11, 22, 31)
    assert more[11] and more[31] and not more[22]
    superlinks["east"].may_answer.set()
    answer(superlinks, asked, 21)
    assert senders(pulled(grid, asked, bool)) == [21]
    assert 22 not in {message.metadata.dst_node_id for message in superlinks["east"].asked.values()}


def test_replies_stay_where_they_are_until_others_were_taken(grid: JoinedGrid, superlinks: dict[str, Played]) -> None:
    asked = ask(grid, *NODES["west"])
    answer(superlinks, asked, *NODES["west"])
    assert list(grid.pull_messages([])) == []
    [west] = [member for member in grid._members if member.name == "west"]
    with grid._changed:
        west.want(asked.values())
    fetched = superlinks["west"].seen.count
    wait_until("it has some", lambda: len(west._arrived) >= ARRIVED_AT_ONCE)
    ask(grid, 11)
    assert len(west._arrived) == ARRIVED_AT_ONCE and fetched(STUDY_OBJECTS) <= 2 * ARRIVED_AT_ONCE
    assert senders(pulled(grid, asked, lambda replies: len(replies) >= 7)) == list(NODES["west"])


def test_attack_a_region_that_says_that_it_has_anothers_sites_is_asked_for_none_of_them(
    grid: JoinedGrid, superlinks: dict[str, Played]
) -> None:
    superlinks["east"].nodes = (21, 22, 11, 31, 99)
    superlinks["west"].nodes = ()
    wait_until("both have said so", lambda: sorted(grid.get_node_ids()) == [11, 12, 21, 22])
    asked = ask(grid, 11, 31, 99)
    assert not asked[99] and not superlinks["east"].asked
    superlinks["east"].answer(sent(11, asked[11], RecordDict()))
    superlinks["east"].answer(sent(31, asked[31], RecordDict()))
    answer(superlinks, asked, 31)
    [reply] = pulled(grid, asked, bool)
    assert reply.metadata.src_node_id == 31 and STUDY_REPLIES not in superlinks["east"].seen


def test_attack_a_region_that_answers_for_anothers_message_or_gives_its_own_another_name(
    grid: JoinedGrid, superlinks: dict[str, Played]
) -> None:
    first = ask(grid, 11)
    superlinks["east"].says = {STUDY_MESSAGES: PushAppMessagesResponse(message_ids=[first[11]]).SerializeToString()}
    assert ask(grid, 21) == {21: ""}
    superlinks["east"].says = {}
    asked = first | ask(grid, 21, 22)
    forged = sent(11, asked[11], RecordDict())
    superlinks["east"].answer(forged)
    superlinks["east"].replies[asked[21]] = superlinks["east"].replies[asked[11]]
    answer(superlinks, asked, 11, 22)
    found = pulled(grid, asked, lambda replies: len(replies) >= 2)
    assert senders(found) == [11, 22] and len(superlinks[OWN].confirmed) <= 1


@pytest.mark.parametrize(
    "lie",
    [b"", b"\0" * 7, (4).to_bytes(8, "big") + b"\xff" * 4, b"\0" * 80],
    ids=["nothing", "half", "no message", "messages without a word"],
)
@pytest.mark.parametrize("path", [STUDY_MESSAGES, STUDY_REPLIES, STUDY_OBJECTS])
def test_attack_a_region_that_answers_what_is_no_answer_is_away_and_no_other_notices(
    path: str, lie: bytes, grid: JoinedGrid, superlinks: dict[str, Played]
) -> None:
    superlinks["east"].says = {path: lie}
    asked = ask(grid, 11, 21, 31)
    sent_to = {node: name for node, name in asked.items() if name}
    answer(superlinks, sent_to, *sent_to)
    found = pulled(grid, sent_to, lambda replies: {11, 31} <= set(senders(replies)))
    assert 21 not in senders(found)
    assert sorted(grid.get_node_ids())[:2] == [11, 12]


def test_without_the_coordinators_own_superlink_the_study_ends(grid: JoinedGrid, superlinks: dict[str, Played]) -> None:
    superlinks[OWN].is_away = True
    with pytest.raises(httpx.ConnectError):
        wait_until("it is noticed", lambda: not list(grid.get_node_ids()))
    with pytest.raises(httpx.ConnectError):
        ask(grid, 21)
