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
from permmoe_simulation.studies.study import MEAN, Claim
from permmoe_simulation.studies.verdicts import corrected
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
    interval = rmse_interval(squared[i : i + 1])
    return {"seed": found.seeds[i], "n": sums.n, "rmse": sums.rmse, "mae": sums.mae, "r2": sums.r2,
            "lower": interval.lower, "upper": interval.upper}  # fmt: skip


def _mean_row(found: PredictionErrors, per_seed: Sequence[Mapping[str, Any]], squared: Array) -> dict[str, Any]:
    interval = rmse_interval(squared)
    used = [row for row in per_seed if row["n"]]
    means = {key: float(np.mean([row[key] for row in used])) if used else np.nan for key in ("mae", "r2")}
    return {"seed": "all", "n": interval.n, "rmse": interval.estimate, **means,
            "lower": interval.lower, "upper": interval.upper}  # fmt: skip


def difference(
    found: PredictionErrors, method: str, reference: str, regime: str, combination: str, stratum: str = "all"
) -> Difference:
    """The paired difference in RMSE; `combination` may be `mean`."""
    a, b = (found.squared(name, regime, combination, stratum) for name in (method, reference))
    return paired_difference(a, b)


def comparisons(
    found: PredictionErrors, pairs: Sequence[tuple[str, str]], claims: Sequence[Claim] = ()
) -> pd.DataFrame:
    """Rows of COMPARISONS for every pair whose methods both finished, for each combination and their mean."""
    rows = []
    for (method, reference, regime), stratum in product(found.finished(pairs), found.strata):
        for combination in [MEAN, *found.combinations]:
            d = difference(found, method, reference, regime, combination, stratum)
            rows.append(
                {"method": method, "reference": reference, "regime": regime, "combination": combination,
                 "stratum": stratum, "n": d.n, "seeds": d.seeds, "difference": d.estimate, "lower": d.lower,
                 "upper": d.upper, "p_value": d.p_value, "effect_size": d.effect_size}
            )  # fmt: skip
    if not rows:
        return pd.DataFrame()
    table = pd.DataFrame(rows)
    families = [_family(row, claims) for row in rows]
    return table.assign(family=families, p_holm=corrected(table["p_value"].tolist(), families))


def _family(row: Mapping[str, Any], claims: Sequence[Claim]) -> str:
    """Which tests a row is corrected with: those of its kind in all pairs and regimes.

    What was claimed before the study ran is a family by itself, so that looking at more does not weaken it.
    """
    if row["stratum"] != "all":
        return "averages of strata" if row["combination"] == MEAN else "combinations of strata"
    key = (row["method"], row["reference"], row["combination"])
    if any(key == (claim.method, claim.reference, claim.combination) for claim in claims):
        return "claims"
    return "averages" if row["combination"] == MEAN else "combinations"
