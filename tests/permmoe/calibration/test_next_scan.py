"""What a missing scan would bring is what it brought to calibration visits that were judged with it and without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from permmoe.calibration.calibrate import calibrate, predicted
from permmoe.calibration.next_scan import LEAST_WITH_BOTH, Added, added_scans, next_scans
from permmoe.calibration.score_counts import RATIO, count_scores
from permmoe.config import CDR_SB
from permmoe.data.cache import VolumeCache
from permmoe.data.visits import Visit, VisitTable
from permmoe.modality import all_combinations, combination_name
from permmoe.predict import TrainedModel, predict
from permmoe.prediction_output import worth
from permmoe.training.seeds import make_model
from tests.support.small_visits import small_visits
from tests.support.tiny_federation import MODEL

NAMES = ("t1", "tau")


def errors(n_both: int, n_t1: int, with_both: float, with_t1: float) -> np.ndarray:
    """Columns t1, tau, t1+tau."""
    both = np.tile([with_t1, np.nan, with_both], (n_both, 1))
    both[:, 1] = 5.0
    return np.concatenate([both, np.tile([with_t1, np.nan, np.nan], (n_t1, 1))])


def counted(found: np.ndarray):
    return count_scores(NAMES, found, np.zeros(len(found), dtype=int), 1, ["north"] * len(found))


def test_only_visits_that_have_both_are_counted_with_and_without() -> None:
    found = errors(40, 100, 1.0, 2.0)
    sums = added_scans(NAMES, found, np.ones_like(found))
    assert sums["t1"]["tau"] == Added(visits=40, error_without=80, error_with=40, scale_without=40, scale_with=40)
    assert set(sums) == {"t1", "tau"} and "t1" in sums["tau"]


def test_sums_are_those_of_a_plain_loop_over_visits() -> None:
    data, network = small_visits(MODEL, 60), make_model(MODEL, 0)
    predictions, scales = predicted(network, data)
    off = np.abs(data.target.double().numpy()[:, None] - predictions)
    sums = added_scans(MODEL.names, off, scales)
    combinations = all_combinations(MODEL.names)
    for j, combination in enumerate(combinations):
        for name in set(MODEL.names) - set(combination):
            k = next(i for i, c in enumerate(combinations) if set(c) == {*combination, name})
            rows = [i for i in range(60) if not np.isnan(off[i, k])]
            own = sums[combination_name(combination)][name]
            assert own.visits == len(rows)
            assert own.error_with == pytest.approx(sum(off[i, k] for i in rows))
            assert own.error_without == pytest.approx(sum(off[i, j] for i in rows))


def test_the_narrowing_is_the_difference_of_the_two_intervals_and_errors_shrink_by_their_mean() -> None:
    found = errors(60, 0, 1.0, 2.0)
    (tau,) = next_scans(added_scans(NAMES, found, np.ones_like(found)), counted(found), ("t1",), 0, 1.0)
    assert tau.modality == "tau" and tau.visits == 60 and tau.error_change == -1.0
    assert tau.narrowing == pytest.approx(2.0, abs=2 * 2 * (RATIO - 1))


def test_a_spread_that_a_scan_halves_halves_the_interval() -> None:
    found, scales = errors(60, 0, 1.0, 1.0), np.tile([4.0, 4.0, 2.0], (60, 1))
    (tau,) = next_scans(added_scans(NAMES, found, scales), counted(found), ("t1",), 0, 3.0)
    assert tau.narrowing == pytest.approx(2 * (3.0 - 1.5), rel=0.02)


def test_scans_of_which_too_few_tell_and_scans_that_are_there_are_not_suggested() -> None:
    few = errors(LEAST_WITH_BOTH - 1, 100, 1.0, 2.0)
    assert next_scans(added_scans(NAMES, few, np.ones_like(few)), counted(few), ("t1",), 0, 1.0) == ()
    enough = errors(60, 0, 1.0, 2.0)
    assert next_scans(added_scans(NAMES, enough, np.ones_like(enough)), counted(enough), NAMES, 0, 1.0) == ()


def test_a_prediction_says_what_each_missing_scan_would_bring_the_most_first(tmp_path: Path) -> None:
    network = make_model(MODEL, 0).eval()
    model = TrainedModel(network, calibration=calibrate(network, small_visits(MODEL, 400), source=""))
    visit = Visit("p", "north", "bl", 3.0, None, 24.0, tables={"clinical": (0.1, -0.4, 1.2)})
    found = predict(model, VisitTable((visit,)), VolumeCache(tmp_path))[0][0]
    assert {scan.modality for scan in found.next_scans} == {"fluid", "gene"}
    narrowing = [scan.narrowing for scan in found.next_scans]
    assert narrowing == sorted(narrowing, reverse=True)
    assert predict(replace(model, calibration=None), VisitTable((visit,)), VolumeCache(tmp_path))[0][0].next_scans == ()
    said = worth(replace(found.next_scans[0], narrowing=0.5, error_change=0.25), CDR_SB)
    assert "0.50 narrower and the error 0.25 larger" in said
