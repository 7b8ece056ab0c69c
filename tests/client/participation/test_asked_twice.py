"""A site that is asked the same again, since its answer was lost: it says the same, and never another thing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from permmoe.federated.plan import RoundPlan
from permmoe_client.app import SITES
from permmoe_client.app import app as client_app
from permmoe_client.connection.identity import open_ledger
from permmoe_client.site import read_site
from permmoe_simulation.engines.grid import FIRST_NODE
from tests.support.secure_federation import SecureFederation, found
from tests.support.tiny_federation import tiny_plan

NAMES = ("north", "south", "west", "east", "mid")
STAGES = ("share", "mask", "count", "open")
ANYWHERE = FIRST_NODE + 1


def secure_plan(**settings: Any) -> RoundPlan:
    return tiny_plan(secure=True, rounds=1, min_sites=3, secure_threshold=0.5, max_failed_rounds=1, **settings)


def federation_of(folder: Path, **settings: Any) -> SecureFederation:
    return found(folder, secure_plan(**settings), NAMES)


def asking(twice: Callable[[Message, Context], Message]) -> ClientApp:
    """The sites' app, of which one site's messages go through `twice`."""
    app = ClientApp()

    def answer(message: Message, context: Context) -> Message:
        return (twice if context.node_id == ANYWHERE else client_app)(message, context)

    app.train()(answer)
    app.evaluate()(answer)
    for stage in STAGES:
        app.query(f"secure_{stage}")(answer)
    return app


def again(message: Message) -> Message:
    """The same message, as a second delivery makes it."""
    content = RecordDict({name: record.copy() for name, record in message.content.items()})
    return Message(content, message.metadata.dst_node_id, message.metadata.message_type, ttl=60.0, group_id="1")


def entries(federation: SecureFederation) -> list[tuple[str, Mapping[str, Any]]]:
    ledger = open_ledger(read_site(federation.deployment.sites[NAMES[1]]))
    assert ledger
    return [(entry.kind, entry.facts) for entry in ledger.entries()]


def test_the_same_question_gets_the_same_bytes_at_every_stage_and_is_done_once(tmp_path: Path) -> None:
    once, twice = federation_of(tmp_path / "once"), federation_of(tmp_path / "twice")
    asked: list[str] = []

    def ask_twice(message: Message, context: Context) -> Message:
        second = again(message)
        first, repeated = client_app(message, context), client_app(second, context)
        assert first.content.object_id == repeated.content.object_id
        asked.append(message.metadata.message_type)
        return first

    [expected], [found_] = once.run(), twice.run(asking(ask_twice))
    assert {kind.rpartition("_")[2] for kind in asked} == {"train", "evaluate", *STAGES}
    assert found_["released"] == expected["released"] and found_["visits"] == expected["visits"] > 0
    assert all((twice.weights()[name] == tensor).all() for name, tensor in once.weights().items())
    assert [kind for kind, _ in entries(twice)] == [kind for kind, _ in entries(once)]


def changed(content: RecordDict, record: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> RecordDict:
    return RecordDict({**content, record: ConfigRecord(change(dict(content[record])))})


def without_first(values: dict[str, Any]) -> dict[str, Any]:
    return dict(list(values.items())[1:])


def with_another_byte(values: dict[str, Any]) -> dict[str, Any]:
    first = next(iter(values))
    return {**values, first: bytes([values[first][0] ^ 1]) + values[first][1:]}


OTHERS: Mapping[str, Callable[[RecordDict], RecordDict]] = {
    "share": lambda content: changed(content, "cohort", without_first),
    "mask": lambda content: changed(content, "sealed", with_another_byte),
    "count": lambda content: changed(content, "arrived", without_first),
    "open": lambda content: changed(content, "bits", with_another_byte),
}


@pytest.mark.parametrize("stage", STAGES)
def test_attack_a_second_and_different_question_at_a_stage_is_refused(stage: str, tmp_path: Path) -> None:
    federation, errors = federation_of(tmp_path, evaluate_every=0), list[str]()

    def ask_another(message: Message, context: Context) -> Message:
        second = again(message)
        first = client_app(message, context)
        if message.metadata.message_type == f"query.secure_{stage}":
            other = Message(OTHERS[stage](second.content), ANYWHERE, second.metadata.message_type, group_id="1")
            errors.append(client_app(other, context).error.reason)
            # The refusal has not cost the site its answer.
            assert client_app(second, context).content.object_id == first.content.object_id
        return first

    [record] = federation.run(asking(ask_another))
    assert errors == ["SecureSumRefused"] and record["is_aggregated"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_site_that_was_restarted_has_no_answer_any_more(stage: str, tmp_path: Path) -> None:
    federation, errors = federation_of(tmp_path, evaluate_every=0), list[str]()

    def restarted(message: Message, context: Context) -> Message:
        second = again(message)
        first = client_app(message, context)
        if message.metadata.message_type == f"query.secure_{stage}" and not errors:
            kept = SITES.at(federation.deployment.sites[NAMES[1]])
            session, kept.session = kept.session, None
            errors.append(client_app(second, context).error.reason)
            SITES.at(federation.deployment.sites[NAMES[1]]).session = session
        return first

    federation.run(asking(restarted))
    assert errors == ["SecureSumRefused"]
