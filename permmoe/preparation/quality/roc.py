"""How well metrics and verdicts tell images that were registered wrongly, given how wrong each one truly is.

`benchmarks/prepare.py` knows the truth, since it moved the heads itself; limits (permmoe.preparation.quality.limits)
are chosen so that no failure passes unflagged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from jaxtyping import Bool, Float64

from permmoe.preparation.quality.limits import MEASURES, Measure
from permmoe.preparation.quality.metrics import ImageMetrics
from permmoe.preparation.quality.rules import Verdict, judge_alone, value_of


@dataclass(frozen=True)
class Trial:
    """An image whose true place is known."""

    metrics: ImageMetrics
    true_error_mm: float
    """How far its brain's points lie off, on average; NaN or infinite for no place at all, which is a failure."""


@dataclass(frozen=True)
class Curve:
    """The receiver operating characteristic of one metric: a point for each threshold, from the strictest on."""

    thresholds: tuple[float, ...]
    """Images at least this suspicious are flagged; of a metric that is suspicious when low, the negative."""
    found: tuple[float, ...]
    """Share of failures that are flagged."""
    falsely_flagged: tuple[float, ...]
    """Share of sound images that are flagged."""
    area: float
    """Chance that a failure is more suspicious than a sound image, ties half: 0.5 tells nothing, 1 all."""


@dataclass(frozen=True)
class Account:
    """What the verdicts say of failures and of sound images."""

    failures: int
    left_out: int
    """Failures with the verdict `failed`."""
    to_look_at: int
    passed: int
    """Failures with the verdict `good`: none should be."""
    sound: int
    falsely_left_out: int
    falsely_to_look_at: int


def account(trials: Sequence[Trial], beyond_mm: float) -> Account:
    """Count verdicts, by limits alone; a failure lies more than `beyond_mm` off."""
    is_failure = _is_failure(trials, beyond_mm)
    verdicts = [judge_alone(trial.metrics).verdict for trial in trials]

    def count(verdict: Verdict, of_failures: bool) -> int:
        return sum(v is verdict and bool(f) is of_failures for v, f in zip(verdicts, is_failure, strict=True))

    return Account(
        failures=int(is_failure.sum()),
        left_out=count(Verdict.FAILED, True),
        to_look_at=count(Verdict.LOOK, True),
        passed=count(Verdict.GOOD, True),
        sound=int((~is_failure).sum()),
        falsely_left_out=count(Verdict.FAILED, False),
        falsely_to_look_at=count(Verdict.LOOK, False),
    )


def curve(trials: Sequence[Trial], field: str, beyond_mm: float) -> Curve:
    """The curve of one metric. Raises ValueError where there are no failures or nothing else, or for no such metric."""
    suspicion, is_failure = _suspicion(trials, field), _is_failure(trials, beyond_mm)
    if not is_failure.any() or is_failure.all():
        raise ValueError(f"a curve needs failures beyond {beyond_mm:g} mm, and images that are none")
    thresholds = np.unique(suspicion)[::-1]
    is_flagged = suspicion[None, :] >= thresholds[:, None]
    found, falsely = is_flagged[:, is_failure].mean(1), is_flagged[:, ~is_failure].mean(1)
    area = float(np.trapezoid(np.concatenate([[0.0], found]), np.concatenate([[0.0], falsely])))
    return Curve(_floats(thresholds), _floats(found), _floats(falsely), area)


def limit_that_passes_none(trials: Sequence[Trial], field: str, beyond_mm: float) -> tuple[float, float]:
    """The loosest limit of a metric by which every failure is flagged, and the share of sound images it flags, too.

    It is the value of the least suspicious failure; an image is flagged at it or beyond. Raises as `curve` does.
    """
    found = curve(trials, field, beyond_mm)
    last = next(k for k, share in enumerate(found.found) if share == 1)
    limit = found.thresholds[last]
    return (-limit if _measure(field).suspicious == "low" else limit), found.falsely_flagged[last]


def _suspicion(trials: Sequence[Trial], field: str) -> Float64[np.ndarray, " trial"]:
    """How suspicious each image is: more for worse; a metric that is missing or not a number is most suspicious."""
    measure = _measure(field)
    sign = -1.0 if measure.suspicious == "low" else 1.0
    values = [value_of(trial.metrics, measure) for trial in trials]
    signed = np.array([inf if value is None else sign * value for value in values], dtype=np.float64)
    return np.where(np.isnan(signed), inf, signed)


def _measure(field: str) -> Measure:
    found = next((measure for measure in MEASURES if measure.field == field), None)
    if found is None or found.suspicious not in ("low", "high"):
        one_sided = ", ".join(measure.field for measure in MEASURES if measure.suspicious in ("low", "high"))
        raise ValueError(f"no metric {field!r} that is suspicious on one side; there are {one_sided}")
    return found


def _is_failure(trials: Sequence[Trial], beyond_mm: float) -> Bool[np.ndarray, " trial"]:
    errors = np.array([trial.true_error_mm for trial in trials], dtype=np.float64)
    return ~(errors <= beyond_mm)


def _floats(values: Float64[np.ndarray, " n"]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
