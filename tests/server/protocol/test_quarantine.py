"""A site that goes on sending what is no reply is not asked any more, and the record says so."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from permmoe.federated.secure.session import Advertisement
from permmoe.federated.secure.signatures import ADVERTISED, sign
from permmoe.federated.secure.site_sum import SiteSum
from permmoe_client.app import app as client_app
from permmoe_server.protocol.federation import Federation
from permmoe_server.protocol.quarantine import MOST_MALFORMED, QUARANTINED, Quarantine
from permmoe_server.protocol.rounds import run_rounds
from permmoe_server.protocol.rules import MALFORMED_RULES, SITE_ERROR, UNPROVEN_RULES, reply_reason
from permmoe_server.studies.round_line import record_json
from permmoe_server.studies.round_log import summarise
from permmoe_server.studies.study_run import quarantine_of
from permmoe_simulation.engines.grid import FIRST_NODE
from tests.server.protocol.test_rounds import (
    ATTACKS,
    HONEST,
    LAYOUT,
    START,
    StillClock,
    client,
    grid_of,
    run,
    same_weights,
)
from tests.support.secure_federation import SecureFederation, found
from tests.support.tiny_federation import tiny_plan

CAT = FIRST_NODE + 2
BROKEN = ATTACKS["no content"][0]


def test_after_three_replies_that_are_none_a_site_is_not_asked_any_more(caplog: pytest.LogCaptureFixture) -> None:
    asked: list[int] = []

    def broken(content: RecordDict) -> None:
        asked.append(1)
        BROKEN(content)

    plan = tiny_plan(rounds=6, evaluate_every=0)
    with caplog.at_level(logging.WARNING, "permmoe.server"):
        state, records = run(grid_of([*HONEST, "cat"], client(broken)), plan)
    rules = [[site.rejected for site in record.sites if site.node == CAT] for record in records]
    assert rules == [["missing_reply"]] * MOST_MALFORMED + [[QUARANTINED]] * 3 and len(asked) == MOST_MALFORMED
    assert same_weights(state, run(grid_of(HONEST), plan)[0])
    [warning] = [line for line in caplog.messages if "not asked any more" in line]
    assert f"node {CAT}" in warning and reply_reason("missing_reply") in warning


def test_replies_to_evaluations_count_and_the_record_of_an_evaluation_says_who_was_not_asked() -> None:
    _, records = run(grid_of([*HONEST, "cat"], client(None, BROKEN)), tiny_plan(rounds=4))
    assert [record.validation.rejected.get(CAT) for record in records] == ["missing_sums"] * 3 + [QUARANTINED]


HONEST_RULES = ["norm", "no_reply", "wrong_round", "ValueError", "not_finite", "visits", None]


@pytest.mark.parametrize("rule", [*HONEST_RULES, *sorted(UNPROVEN_RULES)])
def test_what_an_honest_site_may_come_to_or_a_superlink_may_bring_about_is_no_reason_for_a_quarantine(
    rule: str | None,
) -> None:
    quarantine = Quarantine()
    for _ in range(10):
        quarantine.note("ant", rule)
    assert not quarantine.holds("ant")


def test_a_coordinator_that_starts_again_remembers_who_is_quarantined() -> None:
    grid = grid_of([*HONEST, "cat"], client(BROKEN))
    done = list(run_rounds(Federation(grid, StillClock()), tiny_plan(), LAYOUT, START))
    again = quarantine_of(summarise(json.loads(record_json(record))) for _, record in done)
    assert again.holds(f"node {CAT}") and not again.holds(f"node {FIRST_NODE}")


def test_every_rule_for_what_is_no_reply_or_not_known_to_be_a_sites_has_a_sentence_of_its_own() -> None:
    sentences = [reply_reason(rule) for rule in [*MALFORMED_RULES, *UNPROVEN_RULES]]
    assert SITE_ERROR not in sentences and len(set(sentences)) == len(sentences)


NAMES = ("north", "east", "mid", "west")


def secure(folder: Path, rounds: int = 1, **settings: object) -> SecureFederation:
    plan = tiny_plan(rounds=rounds, secure=True, evaluate_every=0, max_failed_rounds=9, **settings)
    return found(folder, plan, NAMES)


def lying(stage: str, lie: Callable[[RecordDict], RecordDict]) -> ClientApp:
    """Honest sites, but for the last one, which changes its reply of one stage."""
    app = ClientApp()

    def answer(message: Message, context: Context, name: str) -> Message:
        reply = client_app(message, context)
        if context.node_id == FIRST_NODE + len(NAMES) - 1 and name == stage and reply.has_content():
            return Message(lie(reply.content), reply_to=message)
        return reply

    app.train()(lambda message, context: answer(message, context, "train"))
    for name in ("share", "mask", "count", "open"):
        app.query(f"secure_{name}")(lambda message, context, n=name: answer(message, context, n))
    return app


def nothing(content: RecordDict) -> RecordDict:
    return RecordDict()


def cut(record: str) -> Callable[[RecordDict], RecordDict]:
    """Every byte string of a record one byte shorter."""
    return lambda content: RecordDict(
        {**content, record: ConfigRecord({name: value[:-1] for name, value in content[record].items()})}
    )


def other_numbers(content: RecordDict) -> RecordDict:
    return RecordDict({**content, "numbers": ArrayRecord({"modules": Array(np.zeros((2, 2)))})})


LIES = {
    "no advertisement": ("train", nothing, "missing_advertisement"),
    "an advertisement cut short": ("train", cut("advertisement"), "secure_advertisement"),
    "no shares": ("share", nothing, "missing_sealed"),
    "shares cut short": ("share", cut("sealed"), "sealed"),
    "no masked numbers": ("mask", nothing, "missing_reply"),
    "numbers of another shape": ("mask", other_numbers, "dtype"),
    "no count shares": ("count", nothing, "missing_count-shares"),
    "count shares cut short": ("count", cut("count-shares"), "keys"),
    "no block keys": ("open", nothing, "missing_block-keys"),
    "block keys of another length": ("open", cut("block-keys"), "secure_sum"),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_is_no_reply_to_a_stage_is_that_sites_failure_alone(lie: str, tmp_path: Path) -> None:
    stage, change, rule = LIES[lie]
    [record] = secure(tmp_path).run(lying(stage, change))
    assert record["is_aggregated"]
    by_site = {site["site"]: site for site in record["sites"]}
    assert all(by_site[name]["rejected"] is None and not by_site[name]["lost_at"] for name in NAMES[:-1])
    if stage in ("train", "share", "mask"):
        assert by_site[NAMES[-1]]["rejected"] == rule
    assert by_site[NAMES[-1]]["lost_at"] == stage


def test_a_member_whose_signed_keys_are_of_low_order_is_left_out_before_others_use_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advertise = SiteSum.advertise

    def of_low_order(site: SiteSum) -> Advertisement:
        honest = advertise(site)
        if honest.site != NAMES[-1]:
            return honest
        weak = replace(honest, mask_key=bytes(32), signature=b"")
        return replace(weak, signature=sign(site._key, ADVERTISED + site._session.digest() + weak.content()))

    monkeypatch.setattr(SiteSum, "advertise", of_low_order)
    [record] = secure(tmp_path).run()
    assert record["is_aggregated"]
    assert [s["site"] for s in record["sites"] if s["rejected"] == "secure_advertisement"] == [NAMES[-1]]
    assert all(s["rejected"] is None for s in record["sites"] if s["site"] != NAMES[-1])


def test_a_site_is_quarantined_in_secure_rounds_too(tmp_path: Path) -> None:
    records = secure(tmp_path, rounds=4).run(lying("train", nothing))
    last = [next(s["rejected"] for s in r["sites"] if s["site"] == NAMES[-1]) for r in records]
    assert last == ["missing_advertisement"] * MOST_MALFORMED + [QUARANTINED]
    assert all(record["is_aggregated"] for record in records)
