"""Curves, limits and counts of failures, on invented numbers whose answers are known."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan

import numpy as np
import pytest

from permmoe.preparation.quality.roc import Account, Trial, account, curve, limit_that_passes_none
from tests.support.invented_metrics import METRICS


def trials(pairs: list[tuple[float, float]]) -> list[Trial]:
    """From pairs of a second registration's disagreement and the true error, mm."""
    return [Trial(replace(METRICS, disagreement_mm=found), true) for found, true in pairs]


MIXED = trials([(1.0, 0.5), (2.0, 1.0), (6.0, 2.0), (5.0, 12.0), (30.0, 40.0), (20.0, nan), (2.0, 5.0)])


def test_verdicts_are_counted_for_failures_and_for_sound_images() -> None:
    assert account(MIXED, 10.0) == Account(
        3, left_out=2, to_look_at=1, passed=0, sound=4, falsely_left_out=0, falsely_to_look_at=1
    )
    assert account(MIXED, 3.0) == Account(
        4, left_out=2, to_look_at=1, passed=1, sound=3, falsely_left_out=0, falsely_to_look_at=1
    )


@pytest.mark.parametrize("beyond_mm", [3.0, 10.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_area_is_the_chance_that_a_failure_is_more_suspicious(seed: int, beyond_mm: float) -> None:
    rng = np.random.default_rng(seed)
    true = rng.uniform(0, 20, 60)
    found = np.round(true + rng.normal(0, 6, 60))
    failures, sound = found[true > beyond_mm], found[true <= beyond_mm]
    wins = (failures[:, None] > sound).mean() + 0.5 * (failures[:, None] == sound).mean()
    pairs = [(float(f), float(t)) for f, t in zip(found, true, strict=True)]
    assert curve(trials(pairs), "disagreement_mm", beyond_mm).area == pytest.approx(wins)


def test_a_curve_rises_to_all_images_flagged() -> None:
    found = curve(MIXED, "disagreement_mm", 10.0)
    assert list(found.found) == sorted(found.found) and list(found.falsely_flagged) == sorted(found.falsely_flagged)
    assert found.found[-1] == found.falsely_flagged[-1] == 1
    assert list(found.thresholds) == sorted(found.thresholds, reverse=True)


def test_a_metric_that_tells_all_has_an_area_of_one_whichever_side_is_suspicious() -> None:
    images = [
        Trial(replace(METRICS, mask_overlap=overlap), true)
        for overlap, true in [(0.95, 1.0), (0.93, 2.0), (0.7, 20.0), (0.8, 30.0)]
    ]
    assert curve(images, "mask_overlap", 10.0).area == 1
    assert limit_that_passes_none(images, "mask_overlap", 10.0) == (0.8, 0.0)


def test_the_chosen_limit_flags_every_failure_and_no_stricter_one_is_needed() -> None:
    limit, falsely = limit_that_passes_none(MIXED, "disagreement_mm", 10.0)
    assert (limit, falsely) == (5.0, 0.25)
    assert all(t.metrics.disagreement_mm >= limit for t in MIXED if not t.true_error_mm <= 10)


def test_a_metric_that_is_no_number_is_most_suspicious() -> None:
    assert limit_that_passes_none(trials([(nan, 30.0), (1.0, 1.0)]), "disagreement_mm", 10.0) == (inf, 0.0)
    unknown = [Trial(replace(METRICS, noise=None), 30.0), Trial(METRICS, 1.0)]
    assert limit_that_passes_none(unknown, "noise", 10.0) == (inf, 0.0)


@pytest.mark.parametrize("field", ["nothing", "mask_volume_ml", "is_mirrored"])
def test_a_metric_without_one_suspicious_side_has_no_curve(field: str) -> None:
    with pytest.raises(ValueError, match="disagreement_mm"):
        curve(MIXED, field, 10.0)


def test_images_that_all_failed_or_all_did_not_have_no_curve() -> None:
    for beyond_mm in (0.0, 1e9):
        with pytest.raises(ValueError, match="images that are none"):
            curve(MIXED[:5], "disagreement_mm", beyond_mm)
