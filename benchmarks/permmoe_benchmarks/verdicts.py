"""How often intervals of studies hold the truth, and how often a verdict is false, in simulated studies.

Each simulated study has subjects with skewed errors, methods whose every training draws its weights anew, and splits
that test different subjects. A training's weights a move its predictions by a·x on a subject with features x, so that
some trainings are better than others for everybody: what an interval over subjects alone does not see.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from permmoe.evaluation.figures import Array, Figure, difference_figure, ratio_change, rmse_figure
from permmoe.evaluation.intervals import Estimate, of_one_model, over_seeds

ERRORS: Mapping[str, Callable[[np.random.Generator, int], Float[Array, " subject"]]] = {
    "lognormal": lambda rng, n: 1.2 * (np.exp(0.5 * rng.normal(size=n)) - np.exp(0.125)),
    "exponential": lambda rng, n: rng.exponential(size=n) - 1,
    "normal mixture": lambda rng, n: rng.normal(size=n) * np.where(rng.random(n) < 0.2, 2.5, 1.0),
}
"""What no method can predict, points: as skewed as errors in CDR-SB points, whose squares have a kurtosis of 60."""
VARIANCES = {"lognormal": 1.44 * (np.exp(0.5) - np.exp(0.25)), "exponential": 1.0, "normal mixture": 0.8 + 0.2 * 6.25}
DRAWS_OF_TRUTH = 20_000


@dataclass(frozen=True)
class Scenario:
    """How the simulated studies come about."""

    n: int
    """Subjects that each seed tests."""
    seeds: int
    errors: str
    """Which of ERRORS."""
    features: int = 3
    """The fewer, the more alike are a training's mistakes for all subjects."""
    luck: float = 0.6
    """SD of what a training adds to a subject's error, points."""
    harm: float = 0.0
    """What the second method adds to the errors of a subject at one SD of the first feature, points."""
    is_split_anew: bool = True
    """Whether every seed tests another quarter of the cohort, or all the same subjects."""

    def studies(self, rng: np.random.Generator) -> Float[Array, "method seed subject"]:
        """Squared errors of one simulated study of two methods; NaN where a seed does not test a subject."""
        cohort = 4 * self.n if self.is_split_anew else self.n
        truth, features = ERRORS[self.errors](rng, cohort), rng.normal(size=(cohort, self.features))
        weights = self._weights(rng, self.seeds)
        squared: Array = (truth - weights @ features.T) ** 2
        if self.is_split_anew:
            for seed in range(self.seeds):
                squared[:, seed, rng.permutation(cohort)[self.n :]] = np.nan
        return squared

    def true_rmse(self) -> Float[Array, " method"]:
        """Over all trainings and subjects there could be."""
        weights = self._weights(np.random.default_rng(0), DRAWS_OF_TRUTH)
        rmse: Array = np.sqrt(VARIANCES[self.errors] + (weights**2).sum(2)).mean(1)
        return rmse

    def _weights(self, rng: np.random.Generator, trainings: int) -> Float[Array, "method seed feature"]:
        weights: Array = rng.normal(size=(2, trainings, self.features)) * self.luck / np.sqrt(self.features)
        weights[1, :, 0] += self.harm
        return weights


SCENARIOS = tuple(
    Scenario(n, seeds, errors, features, luck, harm, is_split_anew)
    for n in (40, 110, 400)
    for seeds, errors in ((5, "lognormal"), (5, "normal mixture"), (10, "exponential"))
    for features, luck, harm, is_split_anew in (
        (3, 0.6, 0.0, True),
        (30, 0.3, 0.0, True),
        (30, 0.3, 0.7, True),
        (3, 0.05, 0.7, True),
        (3, 0.6, 0.0, False),
        (30, 0.3, 0.7, False),
    )
)
"""Training luck that dwarfs the subjects' part, that is as large, and that is hardly there; a difference and none."""


def over_subjects_alone(figure: Figure, *, is_rmse: bool = False) -> Estimate:
    """What studies used until 2026-11-28, up to its resampling: the trained models are held fixed."""
    return Estimate(figure.value, float(np.sqrt((figure.influence.mean(0) ** 2).sum())), 1e9, is_rmse)


def over_seeds_alone(figure: Figure, *, is_rmse: bool = False) -> Estimate:
    """Student's test on the seeds' values: subjects that several seeds test count as often."""
    count = len(figure.by_seed)
    return Estimate(figure.value, float(figure.by_seed.std(ddof=1) / np.sqrt(count)), count - 1.0, is_rmse)


def both_in_full(figure: Figure, *, is_rmse: bool = False) -> Estimate:
    """Both parts in full, as a bootstrap of seeds and subjects has them (Owen 2007): what they share counts twice."""
    subjects, seeds = over_subjects_alone(figure), over_seeds_alone(figure)
    parts = subjects.standard_error**2, seeds.standard_error**2
    degrees = sum(parts) ** 2 / (parts[1] ** 2 / seeds.degrees + parts[0] ** 2 / max(figure.n - 1, 1))
    return Estimate(figure.value, float(np.sqrt(sum(parts))), degrees, is_rmse)


ESTIMATORS: Mapping[str, Callable[..., Estimate]] = {
    "subjects alone": over_subjects_alone,
    "seeds alone": over_seeds_alone,
    "both in full": both_in_full,
    "two-way (ours)": over_seeds,
}


def figures_of(squared: Float[Array, "method seed subject"]) -> dict[str, Figure]:
    """The kinds of figures that a study states of two methods; a trend is over three regimes of one true difference."""
    method, reference = squared
    difference = difference_figure([method], [reference])
    return {
        "RMSE": rmse_figure(method),
        "difference": difference,
        "percentage": ratio_change(rmse_figure(method), rmse_figure(reference)),
    }


def measured(scenario: Scenario, studies: int, seed: int) -> pd.DataFrame:
    """Rows: estimator, figure, how often its interval holds the truth, its mean width, how often zero is outside."""
    rng, true = np.random.default_rng(seed), scenario.true_rmse()
    truths = {"RMSE": true[0], "difference": true[0] - true[1], "percentage": 100 * (true[0] / true[1] - 1)}
    rows = []
    for _ in range(studies):
        for kind, figure in figures_of(scenario.studies(rng)).items():
            for name, estimator in ESTIMATORS.items():
                lower, upper = estimator(figure, is_rmse=kind == "RMSE").bounds()
                rows.append((name, kind, lower <= truths[kind] <= upper, upper - lower, not lower <= 0 <= upper))
    table = pd.DataFrame(rows, columns=["estimator", "figure", "coverage", "width", "called"]).astype({"called": float})
    return table.groupby(["estimator", "figure"], sort=False).mean().reset_index()


def coverage_of_one_model(errors: str, n: int, studies: int, seed: int) -> float:
    """How often the interval of one trained model's RMSE, as `permmoe evaluate` prints it, holds the truth."""
    rng, true = np.random.default_rng(seed), np.sqrt(VARIANCES[errors])
    held = 0
    for _ in range(studies):
        lower, upper = of_one_model(rmse_figure(ERRORS[errors](rng, n)[None] ** 2)).bounds()
        held += lower <= true <= upper
    return held / studies
