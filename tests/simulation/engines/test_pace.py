"""Sites of a simulated federation answer when their time has come, one message after another."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp

from permmoe_server.protocol.exchange import exchange
from permmoe_server.protocol.federation import Federation
from permmoe_simulation.engines.grid import FIRST_NODE
from permmoe_simulation.engines.pace import PacedGrid, PacedTime

echo = ClientApp()


@echo.train()
def _train(message: Message, context: Context) -> Message:
    return Message(message.content, reply_to=message)


@echo.evaluate()
def _evaluate(message: Message, context: Context) -> Message:
    return Message(message.content, reply_to=message)


class Simulated:
    """A federation whose nodes take these seconds for a training, in every round; None: away."""

    def __init__(self, *seconds: float | None) -> None:
        self.paced = PacedTime(lambda node, number: seconds[node - FIRST_NODE])
        self.federation = Federation(PacedGrid(echo, [{}] * len(seconds), paced=self.paced), self.paced.time.clock())
        self.nodes = range(FIRST_NODE, FIRST_NODE + len(seconds))

    def answered(self, deadline: float, kind: str = MessageType.TRAIN) -> Mapping[int, int | None]:
        """Node, counted from 0 -> the time of its answer, None without one; in the order of arrival."""
        contents = {node: RecordDict({"q": ConfigRecord({"n": node})}) for node in self.nodes}
        replies = exchange(self.federation, contents, kind, "1", deadline)
        return {node - FIRST_NODE: reply and round(self.paced.time.seconds) for node, reply in replies}


def test_replies_come_in_the_order_of_their_time() -> None:
    answered = Simulated(7.0, 3.0, 5.0).answered(60.0)
    assert list(answered.items()) == [(1, 3), (2, 5), (0, 7)]


def test_of_replies_that_are_there_at_one_look_the_earlier_comes_first() -> None:
    assert list(Simulated(3.09, 3.05, 3.01).answered(60.0)) == [2, 1, 0]


def test_an_answer_after_its_message_ended_is_not_delivered() -> None:
    simulated = Simulated(15.0)
    replies = exchange(simulated.federation, {FIRST_NODE: RecordDict()}, MessageType.TRAIN, "1", 60.0, ttl_seconds=10.0)
    assert dict(replies) == {FIRST_NODE: None}


def test_an_evaluation_takes_no_time_of_its_own() -> None:
    assert Simulated(7.0, 3.0).answered(60.0, kind=MessageType.EVALUATE) == {0: 0, 1: 0}


def test_a_site_finishes_what_it_was_asked_first() -> None:
    simulated = Simulated(3.0, 7.0)
    list(exchange(simulated.federation, {FIRST_NODE + 1: RecordDict()}, MessageType.TRAIN, "1", 1.0, ttl_seconds=60.0))
    assert simulated.answered(60.0, kind=MessageType.EVALUATE) == {0: 1, 1: 7}


@pytest.mark.parametrize("seconds", [None, 60.0, math.inf])
def test_a_site_that_is_away_or_too_slow_never_answers(seconds: float | None) -> None:
    simulated = Simulated(3.0, seconds)
    assert simulated.answered(10.0) == {0: 3, 1: None}
    assert simulated.answered(10.0)[1] is None


def test_a_message_that_ended_before_its_site_was_free_takes_no_time_of_it() -> None:
    simulated = Simulated(15.0)
    assert simulated.answered(10.0) == {0: None}
    # Free at 15 s; this one ends at 14 s and is never begun, so that the next one is done at 15 + 15 s.
    assert simulated.answered(4.0) == {0: None}
    assert simulated.answered(60.0) == {0: 30}
