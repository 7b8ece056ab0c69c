"""Intervals and tests over training seeds, splits and subjects together; and over subjects, for one trained model.

A study claims something of a way to train, not of the few models that it happened to train. Its figures vary with the
training's seed, with the split, and with the subjects that are tested; and a subject that several seeds tested counts
once. So the variance of a figure has two parts (a two-way random-effects model, in which seeds and subjects are partly
crossed and partly nested, by its moments):

- **subjects**: Σ over subjects of the squared mean over seeds of their influences;
- **seeds**: what the values of the seeds differ by beyond what their different test subjects explain, over the number
  of seeds; never below zero.

Few seeds say little about their own spread, and skewed errors little about theirs: the quantile is Student's, with
Satterthwaite's degrees of freedom (1946) of the two parts. `python benchmarks/verdicts.py` measures coverage and false
verdicts; tests/benchmarks/test_verdicts.py holds them. What no interval here can know is how much another
cohort's training patients would change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import stdtr, stdtrit

from permmoe.evaluation.figures import Array, Figure, contrast, difference_figure, mean_figure, rmse_figure

FEWEST_SEEDS = 5
"""With fewer, a spread over seeds is hardly known at all, and nothing is judged."""
FEWEST_SUBJECTS = 10
"""With fewer, errors as skewed as ours tell next to nothing of the subjects to come."""
LEVEL = 0.05
USUAL_KURTOSIS = 60.0
"""Of squared errors in CDR-SB points, as a model of the synthetic cohort makes them (784 test visits)."""
USUAL_SUBJECTS = 20


@dataclass(frozen=True)
class Interval:
    """A figure with its 95% interval; without ends (NaN) where it is not judged, without figure too for n = 0."""

    n: int
    """Subjects whom some seed tested."""
    estimate: float
    lower: float
    upper: float
    seeds: int = 1
    """Seeds that tested somebody."""


@dataclass(frozen=True)
class Difference(Interval):
    """A paired difference in RMSE, with its test against zero."""

    p_value: float = float("nan")
    """Two-sided; NaN where there is no interval."""
    effect_size: float = float("nan")
    """Cohen's d of paired values: mean over subjects of the difference in squared error, over its SD."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its standard error and the degrees of freedom that it is known with."""

    value: float
    standard_error: float
    degrees: float
    is_rmse: bool = False
    """Whether the interval is symmetric in the figure's logarithm."""

    def p_value(self, null: float = 0.0) -> float:
        """Two-sided, against the figure being `null`."""
        distance = abs(self.value - null)
        if self.standard_error == 0:
            return float(distance == 0)
        return float(2 * stdtr(self.degrees, -distance / self.standard_error))

    def bounds(self) -> tuple[float, float]:
        """The ends of the 95% interval."""
        reach = float(stdtrit(self.degrees, 1 - LEVEL / 2)) * self.standard_error
        if self.is_rmse and self.value > 0:
            factor = float(np.exp(min(reach / self.value, 700.0)))
            return self.value / factor, self.value * factor
        return self.value - reach, self.value + reach


def why_not_judged(n: int, seeds: int) -> str:
    """Why a study does not judge a figure, in words; empty where it does."""
    if n == 0:
        return "no subject"
    if seeds < FEWEST_SEEDS:
        return f"{seeds} training seed{'s' * (seeds != 1)}, fewer than {FEWEST_SEEDS}"
    return f"n = {n}, fewer than {FEWEST_SUBJECTS}" if n < FEWEST_SUBJECTS else ""


def over_seeds(figure: Figure, *, is_rmse: bool = False) -> Estimate:
    """Seeds, splits and subjects vary. Raises ValueError for a figure of one seed, which has no spread over seeds."""
    count = len(figure.by_seed)
    if count < 2:
        raise ValueError("one seed has no spread over seeds; `of_one_model` has the interval of one trained model")
    subjects, subject_degrees = _subject_variance(figure, is_rmse)
    spread = float(figure.by_seed.var(ddof=1))
    explained = float(figure.influence.var(axis=0, ddof=1).sum())
    seeds = max(0.0, spread - explained) / count
    variance = subjects + seeds
    # The part of the seeds is as uncertain as the whole spread that it was taken from.
    uncertainty = (spread / count) ** 2 / (count - 1) + subjects**2 / subject_degrees
    fewest = min(count - 1.0, subject_degrees)
    degrees = max(variance**2 / uncertainty, fewest) if uncertainty > 0 else fewest
    return Estimate(figure.value, float(np.sqrt(variance)), degrees, is_rmse)


def of_one_model(rmse: Figure) -> Estimate:
    """Subjects alone vary: the RMSE of a model that is trained and stays as it is."""
    variance, degrees = _subject_variance(rmse, is_rmse=True)
    return Estimate(rmse.value, float(np.sqrt(variance)), degrees, is_rmse=True)


def _subject_variance(figure: Figure, is_rmse: bool) -> tuple[float, float]:
    """The variance by subjects, and its degrees of freedom.

    A variance estimated from n values of kurtosis k has about 2n / (k − 1) of them (O'Neill 2014). Small samples of
    skewed errors understate k, for they seldom hold the largest ones: it is raised by a factor of 1 + 2√(k / n), and
    for an RMSE, whose errors no second method cancels, taken as if USUAL_SUBJECTS more had USUAL_KURTOSIS.
    """
    moved, n = figure.influence.mean(0), figure.n
    variance = float((moved**2).sum())
    if variance == 0 or n < 2:
        return variance, max(n - 1.0, 1.0)
    kurtosis = n * float((moved**4).sum()) / variance**2
    kurtosis *= 1 + 2 * np.sqrt(kurtosis / n)
    if is_rmse:
        kurtosis = (n * kurtosis + USUAL_SUBJECTS * USUAL_KURTOSIS) / (n + USUAL_SUBJECTS)
    # Kurtosis is 1 at least. With two degrees or fewer Student's distribution has no variance of its own.
    return variance, float(np.clip(2 * n / max(kurtosis - 1, 1e-9), min(2.0, n - 1), n - 1))


def rmse_interval(squared_error: Float[Array, "seed subject"]) -> Interval:
    """RMSE averaged over seeds. A subject that a seed did not test is NaN there and counts for other seeds only.

    One seed is one trained model, whose interval is over subjects; of two to four seeds there is the estimate alone.
    """
    return mean_rmse_interval([squared_error])


def mean_rmse_interval(squared_errors: Sequence[Float[Array, "seed subject"]]) -> Interval:
    """RMSE averaged over seeds and over the combinations listed that have a subject; otherwise as `rmse_interval`."""
    figure = mean_figure([rmse_figure(one) for one in squared_errors])
    is_one_model = len(figure.by_seed) == 1
    if figure.n < FEWEST_SUBJECTS or (not is_one_model and figure.seeds < FEWEST_SEEDS):
        return Interval(figure.n, figure.value, np.nan, np.nan, figure.seeds)
    estimate = of_one_model(figure) if is_one_model else over_seeds(figure, is_rmse=True)
    return Interval(figure.n, figure.value, *estimate.bounds(), figure.seeds)


def judged_interval(figure: Figure) -> Interval:
    """A figure with its interval over seeds and subjects, if there are enough of both."""
    if why_not_judged(figure.n, figure.seeds):
        return Interval(figure.n, figure.value, np.nan, np.nan, figure.seeds)
    return Interval(figure.n, figure.value, *over_seeds(figure).bounds(), figure.seeds)


def judged_p_value(figure: Figure, null: float = 0.0) -> float:
    """The two-sided p-value of the figure being `null`; NaN where there are too few seeds or subjects."""
    return float("nan") if why_not_judged(figure.n, figure.seeds) else over_seeds(figure).p_value(null)


def paired_difference(
    method: Sequence[Float[Array, "seed subject"]], reference: Sequence[Float[Array, "seed subject"]]
) -> Difference:
    """RMSE of the method − RMSE of the reference, averaged over the combinations listed, on the same subjects.

    Combinations without a subject are left out of the average; n is the number of subjects in any of them.
    """
    if not method:
        return Difference(0, np.nan, np.nan, np.nan, 0)
    figure = difference_figure(method, reference)
    found = judged_interval(figure)
    return Difference(found.n, found.estimate, found.lower, found.upper, found.seeds, judged_p_value(figure),
                      _effect_size(method, reference))  # fmt: skip


def _effect_size(
    method: Sequence[Float[Array, "seed subject"]], reference: Sequence[Float[Array, "seed subject"]]
) -> float:
    # First the mean of each subject over its seeds and combinations: one subject, one value.
    change = np.concatenate([a - b for a, b in zip(method, reference, strict=True)])
    known = ~np.isnan(change)
    tested = known.any(0)
    if not tested.any():
        return float("nan")
    mean = np.where(known, change, 0.0).sum(0)[tested] / known.sum(0)[tested]
    spread = mean.std(ddof=1) if len(mean) > 1 else 0.0
    return float(mean.mean() / spread) if spread > 0 else 0.0


def share_of_gap(gained: Figure, gap: Figure) -> Interval:
    """gained / gap: 1 where all of the gap is closed, 0 where nothing is.

    The interval holds every share s for which gained − s · gap cannot be told from zero (Fieller 1954), so that it is
    infinite where that is all the data say. A gap that may be nothing has no shares: see that it lies beyond chance
    before you ask for one. Without enough seeds or subjects, or where nobody was tested, the ends are NaN.
    """
    n, seeds = min(gained.n, gap.n), min(gained.seeds, gap.seeds)
    if n == 0 or gap.value == 0:
        return Interval(n, np.nan, np.nan, np.nan, seeds)
    share = gained.value / gap.value
    if why_not_judged(n, seeds):
        return Interval(n, share, np.nan, np.nan, seeds)

    def is_possible(candidate: float) -> bool:
        return over_seeds(contrast([gained, gap], [1.0, -candidate])).p_value() >= LEVEL

    return Interval(n, share, _furthest(is_possible, share, -1.0), _furthest(is_possible, share, 1.0), seeds)


def _furthest(is_possible: Callable[[float], bool], start: float, direction: float) -> float:
    """The last value on the way from `start` that is possible; infinite where there is no end within 1,000."""
    inside, step = start, 0.01
    while is_possible(inside + direction * step):
        inside += direction * step
        step *= 2
        if abs(inside - start) > 1000:
            return direction * float("inf")
    outside = inside + direction * step
    for _ in range(40):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if is_possible(middle) else (inside, middle)
    return inside
