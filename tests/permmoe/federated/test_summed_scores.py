"""Scores by severity: what of them can be an honest site's, and how many bytes they take under a mask."""

from __future__ import annotations

import numpy as np
import pytest

from permmoe.calibration.coarse_counts import WIDE_BINS, widened
from permmoe.calibration.score_counts import N_BINS, N_EDGES
from permmoe.config import DEFAULT_RUN
from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.plan import RoundPlan
from permmoe.federated.secure.blocks import _packed, _unpacked, evaluation_blocks, training_blocks
from permmoe.federated.summed_scores import are_of_groups, asks_for_scores, severity_groups, summed_plainly, untold
from permmoe.model import PerMMoE
from tests.support.judged_models import tiny_evaluation
from tests.support.tiny_federation import MODEL, tiny_plan


def row(**visits: int) -> np.ndarray:
    found = np.zeros(N_BINS, np.int64)
    for bin_of, n in visits.items():
        found[int(bin_of[1:])] = n
    return found


@pytest.mark.parametrize(
    ("severity", "is_honest"),
    [
        ({}, True),
        ({"clinical/0": row(b3=5)}, True),
        ({"clinical/0": row(b3=5), "clinical/1": row(b7=6)}, True),
        ({"clinical/0": row(b3=4)}, False),
        ({"clinical/1": row(b7=9)}, False),
        ({"clinical/1": row(b7=15)}, False),
        ({"clinical/3": row(b3=5)}, False),
        ({"fluid/0": row(b3=5)}, False),
        ({"clinical/0": row(b3=-5)}, False),
    ],
)  # fmt: skip
def test_counts_by_severity_are_of_visits_that_are_counted_and_no_rest_is_of_few(
    severity: dict[str, np.ndarray], is_honest: bool
) -> None:
    assert are_of_groups(severity, {"clinical": row(b3=5, b7=12)}, groups=3, least=5) == is_honest


def test_none_is_asked_for_of_a_test_of_a_score_without_stages_or_without_the_setting() -> None:
    asked = {"calibrate": True, "calibrate_severity": True}
    assert severity_groups(tiny_plan(**asked), "validation") == 3
    assert severity_groups(tiny_plan(**asked), "test") == 0 == severity_groups(tiny_plan(calibrate=True), "validation")
    other = MODEL.model_copy(update={"outcome_range": (-3.0, 3.0)})
    assert severity_groups(tiny_plan(**asked).model_copy(update={"model": other}), "validation") == 0


def test_a_finished_model_is_judged_by_combination_alone_whatever_its_plan_asks() -> None:
    judging = tiny_evaluation(calibrate=True, calibrate_severity=True)
    assert asks_for_scores(judging, "test") and not severity_groups(judging, "test")


def test_who_is_told_and_who_is_not_are_together_everybody() -> None:
    summed = summed_plainly(
        {"a": {"clinical": row(b3=5, b7=12)}, "b": {"clinical": row(b3=9)}},
        {"a": {"clinical/0": row(b3=5)}, "b": {"clinical/0": row(b3=9)}},
    )
    assert summed.group_hospitals == {"clinical/0": 2} and (summed.severity["clinical/0"] == row(b3=14)).all()
    assert (untold(summed.counts["clinical"], "clinical", summed.severity) == row(b7=12)).all()


def test_wide_bins_move_a_visit_upwards_by_less_than_five_bins_and_sum_as_their_parts_do() -> None:
    rng = np.random.default_rng(7)
    own, other = rng.poisson(0.3, (2, N_BINS)).astype(np.int64)
    assert (widened(own + other) == widened(own) + widened(other)).all() and (
        widened(widened(own)) == widened(own)
    ).all()
    assert (widened(own).cumsum() <= own.cumsum()).all()
    assert (widened(own).cumsum()[4:] >= own.cumsum()[:-4]).all()
    assert widened(row(b560=3))[N_EDGES] == 3 and not np.delete(widened(own), WIDE_BINS).any()


@pytest.mark.parametrize("each", [2, 3])
def test_counts_of_several_sites_are_added_in_the_numbers_that_they_share(each: int) -> None:
    rng = np.random.default_rng(11)
    sites = rng.integers(0, 1000, (7, 113))
    assert (_unpacked(sum(_packed(own, each) for own in sites), each)[:113] == sites.sum(0)).all()


def test_scores_by_severity_keep_an_evaluation_within_one_per_cent_of_a_round() -> None:
    """Under a mask all blocks travel, whether a site has them or not. A round's model travels down in 32 bits."""
    settings = {"secure": True, "calibrate": True, "calibrate_severity": True}
    plan = RoundPlan(model=DEFAULT_RUN.model, federation=FederationConfig.model_validate(settings))
    bare = plan.model_copy(update={"federation": FederationConfig(secure=True)})
    layout = ModuleLayout.of(PerMMoE(plan.model))
    size = sum(evaluation_blocks(plan, "validation").values()) - sum(evaluation_blocks(bare, "validation").values())
    round_bytes = 8 * sum(training_blocks(layout).values()) + 4 * sum(map(layout.size, layout.modules))
    assert 8 * size < 0.01 * round_bytes
