"""What a coordinator takes as counts of errors with noise, of one site and of a secure sum, and what it does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from permmoe.evaluation.combinations import ErrorSums
from permmoe.federated.instructions import Instruction
from permmoe.federated.private_errors import error_noise
from permmoe.federated.replies import EvaluationReply, write_evaluation_reply
from permmoe.federated.secure.blocks import (
    ERRORS_BLOCK,
    EvaluationSum,
    evaluation_blocks,
    evaluation_numbers,
    read_evaluation,
)
from permmoe.federated.secure.exchanged import UnmaskedSum
from permmoe_server.protocol.acceptance import RejectedReply, accept_evaluation, is_acceptable_evaluation
from permmoe_server.protocol.round_records import estimated_evaluation
from tests.support.noised_errors import noised_plan
from tests.support.tiny_federation import tiny_plan

PLAN = noised_plan()
SHAPE = error_noise(PLAN).shape
HONEST = EvaluationReply("north", 1, "d", {}, noised=np.full(SHAPE, -3))
TRAINED = {"north": 50.0}


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda reply: reply, None),
        (lambda reply: replace(reply, noised=None), "noised"),
        (lambda reply: replace(reply, noised=reply.noised[:, 1:]), "noised"),
        (lambda reply: replace(reply, noised=reply.noised[1:]), "noised"),
        (lambda reply: replace(reply, noised=np.full(SHAPE, 2000)), "evaluated_visits"),
        (lambda reply: replace(reply, noised=np.full(SHAPE, -2000)), "evaluated_visits"),
        (lambda reply: replace(reply, sums={"clinical": ErrorSums(9, 1.0, 1.0, 1.0, 1.0)}), "noised"),
        (lambda reply: replace(reply, scores={"clinical": np.full(561, 9)}), "scores"),
    ],
)
def test_a_reply_that_no_honest_site_sends_is_left_out(
    change: Callable[[EvaluationReply], EvaluationReply], rule: str | None
) -> None:
    content = write_evaluation_reply(change(HONEST))
    if rule is None:
        assert accept_evaluation(content, Instruction(PLAN, 1, "d"), (), "north", TRAINED).noised is not None
        return
    with pytest.raises(RejectedReply) as rejected:
        accept_evaluation(content, Instruction(PLAN, 1, "d"), (), "north", TRAINED)
    assert rejected.value.rule == rule


def test_a_study_that_asks_for_no_noise_takes_no_counts_with_noise() -> None:
    with pytest.raises(RejectedReply) as rejected:
        accept_evaluation(write_evaluation_reply(HONEST), Instruction(tiny_plan(), 1, "d"), (), "north", TRAINED)
    assert rejected.value.rule == "noised"


def test_masked_sums_are_those_of_all_sites_also_below_zero() -> None:
    rng = np.random.default_rng(1)
    each = [replace(HONEST, noised=rng.integers(-40, 40, SHAPE)) for _ in range(5)]
    blocks = evaluation_blocks(PLAN, "test")
    assert blocks == {ERRORS_BLOCK: SHAPE[0] * SHAPE[1]}
    total = np.zeros(blocks[ERRORS_BLOCK], np.uint64)
    for reply in each:
        total += evaluation_numbers(reply)[ERRORS_BLOCK].view(np.uint64)
    found = read_evaluation(UnmaskedSum({ERRORS_BLOCK: total.view(np.int64)}), PLAN, "test")
    assert found.noised is not None and (found.noised == sum(reply.noised for reply in each)).all()
    assert is_acceptable_evaluation(found, PLAN, 5)
    assert not is_acceptable_evaluation(EvaluationSum({}, noised=np.full(SHAPE, 10**8)), PLAN, 5)


def test_a_block_that_too_few_sites_hold_is_an_evaluation_without_figures() -> None:
    found = read_evaluation(UnmaskedSum({}), PLAN, "validation")
    assert found.noised is None and is_acceptable_evaluation(found, PLAN, 3)
    record = estimated_evaluation(found.noised, PLAN, "validation", ("north",), {})
    assert not record.sums and not record.bounds and record.scores is None
