"""Secure studies through the apps of server and sites: equal to plain ones, and refused where a server lies."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from permmoe.federated.modules import ModuleLayout
from permmoe.federated.plan import RoundPlan
from permmoe.federated.secure import session
from permmoe.federated.secure.neighbourhood import Neighbourhood
from permmoe.training.seeds import make_model
from permmoe_client.app import SITES
from permmoe_client.app import app as client_app
from permmoe_client.site import read_site
from permmoe_server.protocol.readiness import NoQuorum
from permmoe_simulation.engines.grid import FIRST_NODE
from tests.support.secure_federation import SecureFederation, found
from tests.support.tiny_federation import tiny_plan

NAMES = ("north", "south", "west", "east", "mid")


def secure_plan(**federation: Any) -> RoundPlan:
    return tiny_plan(secure=True, min_sites=3, secure_threshold=0.5, max_failed_rounds=1, **federation)


def going_silent(stage: str, at_round: int, site: str, names: tuple[str, ...] = NAMES) -> ClientApp:
    """The sites' app, of which one site is dead from a stage of a round to that round's end."""
    app, node, dead = ClientApp(), FIRST_NODE + names.index(site), {"is": False}

    def answer(message: Message, context: Context) -> Message:
        if context.node_id == node:
            if message.metadata.group_id == str(at_round) and message.metadata.message_type == stage:
                dead["is"] = True
            elif message.metadata.message_type in ("train", "evaluate"):
                dead["is"] = False
            if dead["is"]:
                return Message(Error(3, "dead"), reply_to=message)
        return client_app(message, context)

    app.train()(answer)
    for name in ("share", "mask", "count", "open"):
        app.query(f"secure_{name}")(answer)
    app.evaluate()(answer)
    return app


def absent(site: str, rounds: Collection[int]) -> ClientApp:
    """The sites' app, of which one site answers nothing in some rounds."""
    app, node = ClientApp(), FIRST_NODE + NAMES.index(site)

    def answer(message: Message, context: Context) -> Message:
        if context.node_id == node and int(message.metadata.group_id) in rounds:
            return Message(Error(3, "dead"), reply_to=message)
        return client_app(message, context)

    app.train()(answer)
    app.evaluate()(answer)
    for name in ("share", "mask", "count", "open"):
        app.query(f"secure_{name}")(answer)
    return app


@pytest.fixture
def few_keepers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a large federation: three of the four others keep shares of a site's secrets, and three of these four
    recover them."""
    monkeypatch.setattr(session, "neighbourhood", lambda n, share: Neighbourhood(keepers=n - 1, threshold=n - 2))


@pytest.mark.parametrize("keepers", ["all", "few"])
def test_a_secure_round_ends_with_the_weights_of_a_plain_one_to_the_last_bit(
    keepers: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if keepers == "few":
        request.getfixturevalue("few_keepers")
    settings = {"rounds": 1, "min_sites": 3}
    plain = found(tmp_path / "plain", tiny_plan(**settings), NAMES)
    secure = found(tmp_path / "secure", secure_plan(rounds=1), NAMES)
    [before], [after] = plain.run(), secure.run()
    modules = [*after["released"], *after["withheld"]]
    holders = {m: sum(m in site["modules"] for site in before["sites"]) for m in modules}
    assert set(after["released"]) == {m for m, n in holders.items() if n >= 3} and after["visits"] == before["visits"]
    assert after["train_loss"] == pytest.approx(before["train_loss"])
    start = make_model(secure.plan.model, secure.plan.train.seed)
    layout = ModuleLayout.of(start)
    first, there, here = (layout.flatten_all(w) for w in (start.state_dict(), plain.weights(), secure.weights()))
    for module, n in holders.items():
        assert torch.equal(here[module], there[module] if n >= 3 else first[module])
    assert any(n >= 3 for n in holders.values()) and any(0 < n < 3 for n in holders.values())
    sums, plain_sums = (r["validation"]["sums"] for r in (after, before))
    assert sums and sums.keys() < plain_sums.keys()
    assert all(sums[name]["n"] <= plain_sums[name]["n"] for name in sums)


def test_the_record_of_a_secure_round_says_nothing_of_a_single_site(tmp_path: Path) -> None:
    [first, *_] = found(tmp_path, secure_plan(), NAMES).run()
    assert {site["site"] for site in first["sites"]} == set(NAMES)
    assert all(site["visits"] == 0 and not site["modules"] and site["train_seconds"] == 0 for site in first["sites"])
    sizes = {site["site"]: site["bytes_up"] for site in first["sites"]}
    # Names have lengths too: these have the same.
    assert sizes["north"] == sizes["south"] and sizes["west"] == sizes["east"]
    assert "trunk" in first["released"] and first["visits"] > 0


@pytest.mark.parametrize(
    "stage", ["query.secure_share", "query.secure_mask", "query.secure_count", "query.secure_open"]
)
def test_a_site_that_dies_at_a_stage_costs_the_round_nothing_but_itself(stage: str, tmp_path: Path) -> None:
    # One site that comes back is one site more: study and sites have to allow sums that differ by one.
    plan = secure_plan(rounds=2, evaluate_every=0, min_cohort_difference=1)
    federation = found(tmp_path, plan, NAMES, release={"min_cell_count": 1, "min_cohort_difference": 1})
    first, second = federation.run(going_silent(stage, 1, "west"))
    assert first["is_aggregated"] and second["is_aggregated"]
    is_in_sum = stage in ("query.secure_count", "query.secure_open")
    assert (first["visits"] == second["visits"]) == is_in_sum


def test_what_a_site_has_already_is_not_sent_again_as_others_go_silent(tmp_path: Path) -> None:
    federation = found(tmp_path, secure_plan(rounds=1, evaluate_every=0), NAMES)
    app, asked, answer = ClientApp(), list[set[str]](), going_silent("query.secure_open", 1, "west")

    def listen(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "query.secure_open" and context.node_id == FIRST_NODE:
            asked.append(set(message.content))
        return answer(message, context)

    app.train()(listen)
    for name in ("share", "mask", "count", "open"):
        app.query(f"secure_{name}")(listen)
    [record] = federation.run(app)
    assert record["is_aggregated"] and {"bits", "count-shares", "silent"} < asked[0]
    assert asked[1:] == [{"session", "silent"}]


@pytest.mark.usefixtures("few_keepers")
@pytest.mark.parametrize("stage", ["query.secure_mask", "query.secure_count", "query.secure_open"])
def test_a_site_that_dies_is_recovered_by_the_keepers_that_it_chose(stage: str, tmp_path: Path) -> None:
    federation = found(tmp_path, secure_plan(rounds=1, evaluate_every=0), NAMES)
    [record] = federation.run(going_silent(stage, 1, "west"))
    assert record["is_aggregated"] and rejections(record) == ({"west": "dead"} if stage == "query.secure_mask" else {})


def rejections(record: Mapping[str, Any]) -> dict[str, str]:
    return {site["site"]: site["rejected"] for site in record["sites"] if site["rejected"]}


def test_a_site_that_comes_back_waits_until_sums_differ_by_two_again(tmp_path: Path) -> None:
    federation = found(tmp_path, secure_plan(rounds=3), NAMES)
    records = federation.run(going_silent("query.secure_share", 1, "west"))
    assert [record["is_aggregated"] for record in records] == [True] * 3
    assert [rejections(record) for record in records] == [
        {"west": "dead"}, {"west": "cohort_difference"}, {"west": "cohort_difference"},
    ]  # fmt: skip
    # Sites that trained a model evaluate it, and no others.
    assert all(set(record["validation"]["sites"]) == set(NAMES) - {"west"} for record in records)


def test_a_site_that_is_lost_for_good_takes_another_out_with_it(tmp_path: Path) -> None:
    federation = found(tmp_path, secure_plan(rounds=3, evaluate_every=0), NAMES)
    first, second, third = federation.run(absent("west", (2, 3)))
    assert not rejections(first) and first["is_aggregated"]
    for record in (second, third):
        assert record["is_aggregated"] and set(rejections(record)) == {"west", "south"}
        assert rejections(record)["south"] == "cohort_difference"


def test_a_sum_that_would_differ_by_one_site_fails_before_any_share_is_given(tmp_path: Path) -> None:
    plan = secure_plan(rounds=3, evaluate_every=0)
    patient = plan.federation.model_copy(update={"max_failed_rounds": 2})
    federation = found(tmp_path, plan.model_copy(update={"federation": patient}), NAMES)
    records = federation.run(going_silent("query.secure_mask", 2, "west"))
    assert [(r["round"], r["is_aggregated"], r["is_spent"]) for r in records] == [
        (1, True, False), (2, False, True), (3, True, False),
    ]  # fmt: skip
    assert set(rejections(records[1]).values()) == {"dead", "cohort_difference"}
    assert "count" not in records[1]["stage_seconds"]


class Killed(BaseException):
    """What ends a coordinator's process at once."""


def test_a_coordinator_that_was_killed_remembers_a_sum_that_its_sites_remember(tmp_path: Path) -> None:
    plan = secure_plan(rounds=2, evaluate_every=0)
    patient = plan.federation.model_copy(update={"max_failed_rounds": 2})
    federation = found(tmp_path, plan.model_copy(update={"federation": patient}), NAMES)
    with pytest.raises(Killed):
        federation.run(killing_at("query.secure_open"))
    records = federation.run(absent("west", (2,)))
    assert [(r["round"], r["is_aggregated"]) for r in records] == [(1, False), (2, True)]
    assert set(rejections(records[0]).values()) == {"AlreadyAnswered"}
    assert rejections(records[1]) == {"west": "dead", "south": "cohort_difference"}


def killing_at(stage: str) -> ClientApp:
    """The sites' app, with a coordinator that dies once two sites have answered a stage."""
    app, answered = ClientApp(), list[int]()

    def answer(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        if message.metadata.message_type == stage:
            answered.append(context.node_id)
            if len(answered) == 2:
                raise Killed
        return reply

    app.train()(answer)
    for name in ("share", "mask", "count", "open"):
        app.query(f"secure_{name}")(answer)
    return app


def test_a_module_that_too_few_sites_hold_stays_as_it_was(tmp_path: Path) -> None:
    federation = found(tmp_path, secure_plan(rounds=1, evaluate_every=0), ("north", "south", "west"))
    [record] = federation.run()
    assert {"encoder/fluid", "encoder/gene"} <= set(record["withheld"]) and "encoder/clinical" in record["released"]
    weights, before = federation.weights(), make_model(federation.plan.model, federation.plan.train.seed).state_dict()
    changed = {name for name, tensor in before.items() if not torch.equal(weights[name], tensor)}
    assert not any("encoders.fluid" in name or "encoders.gene" in name for name in changed)
    assert any("encoders.clinical" in name for name in changed)


def test_two_sites_are_too_few_for_a_secure_round(tmp_path: Path) -> None:
    federation = found(tmp_path, secure_plan(round_deadline_seconds=0.5), ("north", "south"))
    with pytest.raises(NoQuorum):
        federation.run()


def messages_to(site: str, federation: SecureFederation) -> tuple[list[Message], list[Message]]:
    """All messages of a study to one site, and its replies, as a server could keep them."""
    app, sent, replies = ClientApp(), list[Message](), list[Message]()
    node = FIRST_NODE + federation.names.index(site)

    def answer(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        if context.node_id == node:
            sent.append(message)
            replies.append(reply)
        return reply

    app.train()(answer)
    app.evaluate()(answer)
    for name in ("share", "mask", "count", "open"):
        app.query(f"secure_{name}")(answer)
    federation.run(app)
    return sent, replies


def ask(federation: SecureFederation, site: str, message: Message) -> Message:
    config = {"site-config": str(federation.deployment.sites[site])}
    context = Context(1, FIRST_NODE + federation.names.index(site), config, RecordDict(), {})
    return client_app(message, context)


def test_attack_every_message_of_an_old_round_replayed_is_refused(tmp_path: Path) -> None:
    federation = found(tmp_path, secure_plan(rounds=2, evaluate_every=1), NAMES[:3])
    sent, replies = messages_to("west", federation)
    assert len(sent) == 5 * 2 + 5 * 2 + 5
    newest, old = sent[-1], sent[:-1]
    # The newest is what a coordinator sends again where an answer was lost: it tells nobody more than it did.
    assert ask(federation, "west", newest).content.object_id == replies[-1].content.object_id
    answers = [ask(federation, "west", message) for message in old]
    assert all(answer.has_error() for answer in answers)
    reasons = {answer.error.reason for answer in answers}
    assert reasons == {"ModelNotAnnounced", "AlreadyAnswered", "SecureSumRefused"}


def test_attack_the_same_round_asked_again_after_a_restart_is_refused(tmp_path: Path) -> None:
    federation = found(tmp_path, secure_plan(rounds=1, evaluate_every=0), NAMES[:3])
    sent, _ = messages_to("west", federation)
    SITES.forget()
    content = sent[0].content
    again = ConfigRecord({**content["secure"], "nonce": "another"})
    fresh = Message(RecordDict({**content, "secure": again}), 1, "train", group_id="1")
    fresh.metadata.__dict__["_src_node_id"], fresh.metadata.__dict__["_message_id"] = 1, "x"
    assert ask(federation, "west", fresh).error.reason == "AlreadyAnswered"


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        ({"min_cohort": 4}, "3 sites take part"),
        ({"min_secure_threshold": 0.8}, "is under this site's"),
    ],
)
def test_a_site_with_a_stricter_policy_does_not_take_part(
    policy: Mapping[str, Any], why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    federation = found(
        tmp_path, secure_plan(round_deadline_seconds=5.0), NAMES[:3], release={"min_cell_count": 1, **policy}
    )
    with pytest.raises(NoQuorum):
        federation.run()
    assert why in caplog.text


def test_a_site_that_requires_the_secure_sum_sends_nothing_in_a_plain_study(tmp_path: Path) -> None:
    plan = tiny_plan(max_failed_rounds=1)
    federation = found(tmp_path, plan, NAMES[:3], release={"require_secure": True})
    with pytest.raises(NoQuorum):
        federation.run()
    ledger = read_site(federation.deployment.sites["north"]).ledger
    assert ledger and not (ledger / "ledger.jsonl").exists()


def test_a_round_that_fails_after_inputs_were_given_is_followed_by_the_next_number(tmp_path: Path) -> None:
    plan = secure_plan(rounds=3, evaluate_every=0).model_copy(
        update={
            "federation": secure_plan(rounds=3, evaluate_every=0).federation.model_copy(update={"max_failed_rounds": 2})
        }
    )
    federation = found(tmp_path, plan, NAMES[:3])
    lost: Callable[[], ClientApp] = lambda: going_silent_all_at("query.secure_count", 2)  # noqa: E731
    records = federation.run(lost())
    assert [(r["round"], r["is_aggregated"], r["is_spent"]) for r in records] == [
        (1, True, False), (2, False, True), (3, True, False),
    ]  # fmt: skip


def going_silent_all_at(stage: str, at_round: int) -> ClientApp:
    app = ClientApp()

    def answer(message: Message, context: Context) -> Message:
        if message.metadata.group_id == str(at_round) and message.metadata.message_type == stage:
            return Message(Error(3, "dead"), reply_to=message)
        return client_app(message, context)

    app.train()(answer)
    for name in ("share", "mask", "count", "open"):
        app.query(f"secure_{name}")(answer)
    return app
