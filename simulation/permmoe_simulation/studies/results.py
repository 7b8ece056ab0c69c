"""The two tables that most of a report is about: test errors, and paired differences between methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from permmoe.evaluation.combinations import error_sums
from permmoe.evaluation.intervals import Difference, paired_difference, rmse_interval
from permmoe_simulation.studies.prediction_errors import Array, Errors, PredictionErrors
from permmoe_simulation.studies.study import MEAN
from permmoe_simulation.study_tables import RESULTS


def results(found: PredictionErrors) -> pd.DataFrame:
    """Rows of RESULTS, for each seed and averaged over seeds (`all`)."""
    rows: list[dict[str, Any]] = []
    for (method, regime), errors in found.by_method.items():
        for stratum in found.strata:
            for j, combination in enumerate(found.combinations):
                squared = errors.squared(j, stratum)
                key = {"method": method, "regime": regime, "combination": combination, "stratum": stratum}
                per_seed = [_seed_row(found, errors, squared, i, j) for i in range(len(found.seeds))]
                rows += [{**key, **row} for row in [*per_seed, _mean_row(found, per_seed, squared)]]
    return pd.DataFrame(rows)[RESULTS.required_columns]


def _seed_row(found: PredictionErrors, errors: Errors, squared: Array, i: int, j: int) -> dict[str, Any]:
    inside = np.where(np.isnan(squared[i]), np.nan, errors.prediction[i, :, j])
    sums = error_sums(inside, errors.target[i])
    interval = rmse_interval(squared[i : i + 1], found.weights)
    return {"seed": found.seeds[i], "n": sums.n, "rmse": sums.rmse, "mae": sums.mae, "r2": sums.r2,
            "lower": interval.lower, "upper": interval.upper}  # fmt: skip


def _mean_row(found: PredictionErrors, per_seed: Sequence[Mapping[str, Any]], squared: Array) -> dict[str, Any]:
    interval = rmse_interval(squared, found.weights)
    used = [row for row in per_seed if row["n"]]
    means = {key: float(np.mean([row[key] for row in used])) if used else np.nan for key in ("mae", "r2")}
    return {"seed": "all", "n": interval.n, "rmse": interval.estimate, **means,
            "lower": interval.lower, "upper": interval.upper}  # fmt: skip


def difference(
    found: PredictionErrors, method: str, reference: str, regime: str, combination: str, stratum: str = "all"
) -> Difference:
    """The paired difference in RMSE; `combination` may be `mean`."""
    a, b = (found.squared(name, regime, combination, stratum) for name in (method, reference))
    return paired_difference(a, b, found.weights)


def comparisons(found: PredictionErrors, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Rows of COMPARISONS for every pair whose methods both finished, for each combination and their mean."""
    rows = []
    for (method, reference, regime), stratum in product(found.finished(pairs), found.strata):
        for combination in [MEAN, *found.combinations]:
            d = difference(found, method, reference, regime, combination, stratum)
            rows.append(
                {"method": method, "reference": reference, "regime": regime, "combination": combination,
                 "stratum": stratum, "n": d.n, "difference": d.estimate, "lower": d.lower,
                 "upper": d.upper, "p_value": d.p_value, "effect_size": d.effect_size}
            )  # fmt: skip
    return _with_holm(pd.DataFrame(rows))


def _with_holm(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with `p_holm`: p-values after Holm's correction over the combinations of one pair, regime and stratum.

    The mean over combinations is none of the tests that are corrected.
    """
    if not len(rows):
        return rows
    # With SciPy's statistics this takes seconds to import, which workers do not need.
    from statsmodels.stats.multitest import multipletests

    corrected = rows["p_value"].copy()
    single = rows[rows.combination.ne(MEAN) & rows.p_value.notna()]
    for _, family in single.groupby(["method", "reference", "regime", "stratum"]):
        corrected[family.index] = multipletests(family["p_value"], method="holm")[1]
    return rows.assign(p_holm=corrected)
