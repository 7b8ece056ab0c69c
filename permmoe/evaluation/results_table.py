"""The table that a run at one place ends with: every combination and stratum, with counts and intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from permmoe.data.dataset import VisitData
from permmoe.ensemble import Network
from permmoe.evaluation.combinations import STRATA, combination_predictions, error_sums
from permmoe.evaluation.intervals import rmse_interval
from permmoe.modality import all_combinations, combination_name


def results_table(model: Network, data: VisitData) -> pd.DataFrame:
    """RMSE with this model's interval over subjects, MAE and R² for every combination and stratum.

    Rows of fewer than ten visits have no interval, those of none no figure.
    """
    predictions = combination_predictions(model, data)
    baseline, target = data.baseline.double().numpy(), data.target.double().numpy()
    rows: list[dict[str, Any]] = []
    for stratum, belongs in STRATA.items():
        inside = belongs(baseline, target)
        for j, combination in enumerate(all_combinations(data.names)):
            column = np.where(inside, predictions[:, j], np.nan)
            sums, interval = error_sums(column, target), rmse_interval(((column - target) ** 2)[None])
            rows.append(
                {"combination": combination_name(combination), "stratum": stratum, "n": sums.n, "rmse": sums.rmse,
                 "mae": sums.mae, "r2": sums.r2, "lower": interval.lower, "upper": interval.upper}
            )  # fmt: skip
    return pd.DataFrame(rows)
