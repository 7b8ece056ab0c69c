"""The figures that a tracker of experiments may be told: none over fewer than `FEWEST_VISITS` visits.

A tracker may be a server of somebody else's. What it is told is over as many patients as the hospitals of a federation
ask for by default (`min_cell_count`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import nan

import pandas as pd

from permmoe.evaluation.combinations import ErrorSums

FEWEST_VISITS = 5


def epoch_figures(
    loss: float, n_trained: int, validation_rmse: float, validation: Mapping[str, ErrorSums]
) -> dict[str, float]:
    """What is known after an epoch: the mean loss over `n_trained` visits, and the mean RMSE of the validation."""
    n_validated = max((sums.n for sums in validation.values()), default=0)
    return {
        "loss": loss if n_trained >= FEWEST_VISITS else nan,
        "validation_rmse": validation_rmse if n_validated >= FEWEST_VISITS else nan,
    }


def result_figures(results: pd.DataFrame, part: str = "test") -> dict[str, float]:
    """RMSE and number of visits by combination, of rows with `combination`, `n` and `rmse`; and their mean.

    Combinations of fewer visits are left out, and with one of these the mean, from which it could be told.
    """
    columns = (results[name].tolist() for name in ("combination", "n", "rmse"))
    return combination_figures(zip(*columns, strict=True), part)


def combination_figures(rows: Iterable[tuple[str, int, float]], part: str) -> dict[str, float]:
    """As `result_figures`, from (combination, visits, RMSE). Trackers take no plus sign: `t1+tau` is `t1-tau`."""
    observed = [(name.replace("+", "-"), n, rmse) for name, n, rmse in rows if n]
    shown = [row for row in observed if row[1] >= FEWEST_VISITS]
    figures = {f"{part}_rmse/{name}": rmse for name, _, rmse in shown}
    figures |= {f"{part}_visits/{name}": float(n) for name, n, _ in shown}
    if shown and len(shown) == len(observed):
        figures[f"{part}_rmse/mean"] = sum(rmse for _, _, rmse in shown) / len(shown)
    return figures
