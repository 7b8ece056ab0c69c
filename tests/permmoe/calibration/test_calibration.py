"""A card's calibration gives each patient intervals that stay on the scale and say whose errors they are from."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf

import numpy as np
import pytest
import torch

from permmoe.calibration.calibrate import calibrate, predicted, require_calibration, score_counts
from permmoe.calibration.calibration import (
    CARD_KEY,
    EARLIER_KEY,
    Calibration,
    calibration_of,
    change_bounds,
    intervals_of,
    read_calibration,
    recalibrated,
    severity_ends,
)
from permmoe.calibration.intervals import (
    BY_COMBINATION,
    BY_SEVERITY,
    POOLED,
    Quantile,
    interval,
    quantiles,
    severity_columns,
)
from permmoe.calibration.score_counts import RATIO, ScoreCounts, count_scores, rank
from permmoe.config import CDR_SB, Score
from permmoe.data.dataset import VisitData
from permmoe.data.visits import VisitTable
from permmoe.errors import ConfigurationError, DataError
from permmoe.modality import all_combinations, combination_name
from permmoe.model import PerMMoE
from tests.support.small_visits import small_visits
from tests.support.tiny_federation import MODEL

COMBINATIONS = all_combinations(MODEL.names)


def model(seed: int = 0) -> PerMMoE:
    torch.manual_seed(seed)
    return PerMMoE(MODEL).eval()


def at_sites(data: VisitData, n_sites: int) -> VisitData:
    visits = tuple(replace(v, site=f"{i % n_sites}") for i, v in enumerate(data.visits))
    return replace(data, visits=VisitTable(visits))


def given(counts: ScoreCounts, combination: tuple[str, ...], *, baseline: float = 1.0, change: float = 1.0):
    made = calibration_of(counts, unit_points=1.0, severity_ends=severity_ends(MODEL))
    return intervals_of(
        made, counts, MODEL, combination=combination, baseline=baseline, change=change, spread=None
    )  # fmt: skip


def counts_with(n_of: dict[tuple[str, ...], int], severity: int = 0) -> ScoreCounts:
    """Visits of score 1, each with one combination alone, of one severity group."""
    rows = [COMBINATIONS.index(c) for c, n in n_of.items() for _ in range(n)]
    scores = np.full((len(rows), len(COMBINATIONS)), np.nan)
    scores[np.arange(len(rows)), rows] = 1.0
    return count_scores(MODEL.names, scores, np.full(len(rows), severity), 3, ["north"] * len(rows))


def test_a_calibration_counts_every_visit_once_in_every_combination_that_it_has() -> None:
    data = at_sites(small_visits(MODEL, 60), 4)
    found = score_counts(model(), data)
    for j, combination in enumerate(COMBINATIONS):
        having = data.observed[:, [data.names.index(m) for m in combination]].all(1)
        assert found.n(combination) == int(having.sum())
        assert found.sites[j, 0] == len({data.visits.visits[i].site for i in having.nonzero().flatten().tolist()})
    assert found.visits[0] == 60 and found.sites[-1, 0] == 4


def test_its_quantiles_are_those_of_the_model_s_own_errors() -> None:
    data, network = small_visits(MODEL, 80), model()
    found = score_counts(network, data)
    predictions, scales = predicted(network, data)
    for j, combination in enumerate(COMBINATIONS):
        own = np.sort(np.abs(data.target.double().numpy() - predictions[:, j])[~np.isnan(predictions[:, j])])
        assert np.nanmax(scales) == 1.0
        exact = own[rank(len(own), 0.8) - 1]
        assert exact <= found.quantile(combination, 0.8) <= max(0.1, exact * RATIO * (1 + 1e-9))


def test_a_card_gives_back_the_counts_that_it_was_written_from() -> None:
    found = calibrate(model(), at_sites(small_visits(MODEL, 60), 3), source="ours")
    assert found is not None
    read = read_calibration(json.loads(json.dumps({CARD_KEY: found.model_dump(mode="json")})), "a card")
    assert read == found and read.source == "ours"
    again, exact = read.counts(MODEL.names), score_counts(model(), at_sites(small_visits(MODEL, 60), 3))
    for field in ("counts", "visits", "sites"):
        assert np.array_equal(getattr(again, field), getattr(exact, field))


def test_a_visit_without_outcome_is_not_counted() -> None:
    data = small_visits(MODEL, 40)
    target = data.target.clone()
    target[::2] = float("nan")
    assert score_counts(model(), replace(data, target=target)).visits[0] == 20


def test_new_visits_are_held_as_often_as_promised_in_each_combination() -> None:
    network = model()
    made = calibrate(network, small_visits(MODEL, 1500, seed=1), source="")
    assert made is not None
    counts, new = made.counts(MODEL.names), small_visits(MODEL, 1500, seed=2)
    predictions, _ = predicted(network, new)
    held: dict[float, list[list[bool]]] = {0.8: [[] for _ in COMBINATIONS], 0.95: [[] for _ in COMBINATIONS]}
    for i in range(len(new)):
        for j, combination in enumerate(COMBINATIONS):
            if not np.isnan(predictions[i, j]):
                for one in intervals_of(
                    made, counts, MODEL, combination=combination, baseline=new.baseline[i].item(),
                    change=predictions[i, j], spread=None,
                ):  # fmt: skip
                    held[one.level][j].append(one.low <= new.target[i].item() <= one.high)
    # Targets leave the scale here (small_visits draws them freely), so the ends at the scale's may cost a little.
    for level, by_combination in held.items():
        for inside in by_combination:
            assert abs(np.mean(inside) - level) < 0.035 + 0.03


def test_too_few_of_a_combination_get_the_pooled_interval_and_it_says_so() -> None:
    few, many = COMBINATIONS[0], COMBINATIONS[-1]
    counts = counts_with({few: 8, many: 50})
    assert {i.basis for i in given(counts, few)} == {POOLED} and {i.visits for i in given(counts, few)} == {58}
    assert {i.basis for i in given(counts, many)} == {BY_COMBINATION}
    never = COMBINATIONS[3]
    assert {(i.basis, i.visits) for i in given(counts, never)} == {(POOLED, 58)}
    enough_at_80 = given(counts_with({few: 9, many: 50}), few)
    assert [(i.level, i.basis) for i in enough_at_80] == [(0.8, BY_COMBINATION), (0.95, POOLED)]


def test_too_few_visits_of_all_have_fewer_intervals_or_none() -> None:
    assert [i.level for i in given(counts_with({COMBINATIONS[0]: 20}), COMBINATIONS[0])] == [0.8]
    assert given(counts_with({COMBINATIONS[0]: 8}), COMBINATIONS[0]) == ()
    assert calibrate(model(), small_visits(MODEL, 8), source="") is None
    with pytest.raises(DataError, match=r"8 visits with an outcome are too few .* 9 give intervals of 80%"):
        require_calibration(None, 8)


def of_severities(*n: int) -> ScoreCounts:
    """Visits with the first combination, so many of each severity group, whose score is the group's number plus one."""
    scores = np.full((sum(n), len(COMBINATIONS)), np.nan)
    groups = np.repeat(np.arange(3), n)
    scores[:, 0] = 1.0 + groups
    return count_scores(MODEL.names, scores, groups, 3, ["north"] * sum(n))


@pytest.mark.parametrize(
    ("n", "parts"),
    [
        ((39, 39, 39), [[1], [2], [3]]),
        ((39, 38, 39), [[1], [2, 3], [2, 3]]),
        ((20, 20, 39), [[1, 2], [1, 2], [3]]),
        ((300, 40, 38), [[1], [2, 3], [2, 3]]),
        ((300, 20, 18), [[], [], []]),
        ((38, 0, 38), [[], [], []]),
        ((0, 0, 300), [[], [], []]),
    ],
)
def test_severity_groups_with_few_visits_are_taken_together(n: tuple[int, ...], parts: list[list[int]]) -> None:
    assert [severity_columns(of_severities(*n), COMBINATIONS[0], group) for group in range(3)] == parts


def test_severity_has_its_own_intervals_where_enough_visits_share_it() -> None:
    counts = of_severities(60, 60, 60)
    for baseline, group in ((1.0, 0), (4.0, 1), (4.5, 2)):
        found = given(counts, COMBINATIONS[0], baseline=baseline, change=3.0)
        assert {(i.basis, i.visits) for i in found} == {(BY_SEVERITY, 60)}
        # An end of the scale may be nearer than the score.
        assert found[0].high == pytest.approx(3.0 + group + 1, rel=0.01)
    assert {i.basis for i in given(of_severities(150, 20, 10), COMBINATIONS[0])} == {BY_COMBINATION}


def test_a_partition_by_severity_holds_as_often_as_promised_over_everybody() -> None:
    """What mixing an easy group's own quantile with everybody's for the others would break."""
    rng, held = np.random.default_rng(0), []
    for _ in range(300):
        groups = rng.choice(3, size=260, p=(0.7, 0.18, 0.12))
        scores = np.full((260, len(COMBINATIONS)), np.nan)
        scores[:, 0] = np.abs(rng.normal(size=260)) * (1.0 + groups)
        counts = count_scores(MODEL.names, scores[:200], groups[:200], 3, ["north"] * 200)
        for score, group in zip(scores[200:, 0], groups[200:], strict=True):
            held.append(score <= next(quantiles(counts, COMBINATIONS[0], int(group))).score)
    assert 0.795 < np.mean(held) < 0.83


@pytest.mark.parametrize(("baseline", "change"), [(0.0, 0.0), (0.5, -0.5), (17.5, 0.5), (18.0, -2.0)])
def test_intervals_stay_on_the_scale_and_hold_the_prediction(baseline: float, change: float) -> None:
    for one in given(counts_with({COMBINATIONS[0]: 60}), COMBINATIONS[0], baseline=baseline, change=change):
        assert -baseline <= one.low <= change <= one.high <= 18 - baseline


def test_an_error_without_an_end_is_bounded_by_the_scale_or_left_out() -> None:
    endless = Quantile(0.8, inf, 60, 1, POOLED)
    assert interval(1.0, 1.0, endless, (-2.0, 16.0)).low == -2.0
    counts = count_scores(
        MODEL.names, np.full((60, len(COMBINATIONS)), 1e6), np.zeros(60, dtype=int), 3, ["north"] * 60
    )
    free = MODEL.model_copy(update={"outcome_range": None})
    made = calibration_of(counts, unit_points=1.0, severity_ends=severity_ends(MODEL))
    asked = {"combination": COMBINATIONS[0], "baseline": 1.0, "change": 1.0, "spread": None}
    assert intervals_of(made, counts, free, **asked) == ()
    assert [(i.low, i.high) for i in intervals_of(made, counts, MODEL, **asked)] == [(-1.0, 17.0)] * 2


def test_a_patient_beyond_the_calibration_s_visits_is_told_of() -> None:
    made = calibration_of(
        counts_with({COMBINATIONS[0]: 60}), unit_points=1.0, severity_ends=severity_ends(MODEL),
        baseline_range=(0.5, 7.0), prediction_range=(-1.0, 4.0),
    )  # fmt: skip
    assert made.outside(3.0, 1.0) == () and made.outside(7.0, 4.0) == ()
    assert made.outside(9.0, 5.0) == (
        "the score at the visit (9 is not within 0.5 to 7)", "the predicted change (5 is not within -1 to 4)",
    )  # fmt: skip


def test_a_new_calibration_never_loses_the_old_one() -> None:
    first, second, third = (
        calibration_of(counts_with({COMBINATIONS[0]: n}), unit_points=1.0, severity_ends=severity_ends(MODEL))
        for n in (60, 61, 62)
    )
    card = recalibrated(recalibrated(recalibrated({"model": {}}, first), second), third)
    assert Calibration.model_validate(card[CARD_KEY]) == third
    assert [Calibration.model_validate(c) for c in card[EARLIER_KEY]] == [second, first]
    assert EARLIER_KEY not in recalibrated({}, first)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bins": 12}, "a grid of 12 bins"),
        ({"visits": [60]}, "other severity groups"),
        ({"visits": [60, 60]}, "not one count of visits"),
        ({"scores": {"clinical": [[[999, 1]], [], [], []]}}, "not of the grid"),
        ({"scores": {"clinical": [[[1, 0]], [], [], []]}}, "holds no visit"),
        ({"quantile": 3}, "unknown key"),
        ({"unit_points": 0}, "greater than 0"),
    ],
)
def test_a_card_whose_calibration_was_damaged_is_refused_and_says_why(change: dict[str, object], said: str) -> None:
    sound = calibration_of(counts_with({COMBINATIONS[0]: 60}), unit_points=1.0, severity_ends=severity_ends(MODEL))
    card = {CARD_KEY: sound.model_dump(mode="json") | change}
    with pytest.raises(ConfigurationError, match=f"the calibration of a card cannot be used(.|\n)*{said}"):
        read_calibration(card, "a card")


def test_a_calibration_of_other_modalities_is_refused() -> None:
    sound = calibration_of(counts_with({COMBINATIONS[0]: 60}), unit_points=1.0, severity_ends=severity_ends(MODEL))
    with pytest.raises(DataError, match="other modalities"):
        sound.counts(("t1", "tau"))
    assert read_calibration({}, "a card") is None


def test_units_and_severities_follow_from_the_score() -> None:
    assert MODEL.unit_points == 1.0 and severity_ends(MODEL) == (2.5, 4.0)
    other = MODEL.model_copy(update={"score": Score(name="MMSE", lowest=0, highest=30), "outcome_range": (-30.0, 6.0)})
    assert other.unit_points == 1.0 and severity_ends(other) == ()
    assert change_bounds(27.0, other) == (-27.0, 3.0)
    free = MODEL.model_copy(update={"outcome_range": None, "baseline_scale_points": 3.0})
    assert free.unit_points == 3.0 and change_bounds(2.0, free) == (-inf, inf)
    assert MODEL.score == CDR_SB and combination_name(COMBINATIONS[0]) == "clinical"
