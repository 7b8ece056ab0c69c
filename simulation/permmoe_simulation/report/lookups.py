"""Look-ups over a study's tables: one value for each method and combination."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any, Literal

import numpy as np
import pandas as pd

from permmoe.modality import all_combinations, combination_name
from permmoe_simulation.studies.verdicts import verdict, why_without_verdict

MEAN = "mean"
"""Stands where a combination's name stands, for the average over combinations."""

STRATA = {
    "all": "All test subjects",
    "small_change": "Small change: 0 < Δ ≤ 1",
    "severe_baseline": "Baseline CDR-SB above 5",
}


@dataclass(frozen=True)
class Score:
    """A method's errors on one combination, in the outcome's unit (R² without one). NaN where there is no figure."""

    n: int
    rmse: float
    lower: float
    upper: float
    mae: float
    r2: float


@dataclass(frozen=True)
class Difference:
    """RMSE of a method minus that of its reference on the same subjects, in the outcome's unit."""

    n: int
    value: float
    lower: float
    upper: float
    p_holm: float = nan
    """After the correction over all tests of its kind in the report; NaN where it is not judged."""
    seeds: int | None = None
    """Training seeds; None in a study of an earlier version."""

    @property
    def verdict(self) -> Literal["better", "worse", "unclear", "none"]:
        """How the method compares beyond chance; `none` without a figure."""
        if not isfinite(self.value):
            return "none"
        told: dict[str, Literal["better", "worse"]] = {"lower": "better", "higher": "worse"}
        return told.get(verdict(self.value, self.p_holm), "unclear")

    @property
    def why_unjudged(self) -> str:
        """Why there is no verdict, in words; empty where it is judged."""
        return why_without_verdict(self.n, self.seeds, self.p_holm)


Scores = Mapping[tuple[str, str], Score]
"""By (method, combination)."""


def in_order(values: Iterable[Any], first: Iterable[str] = ()) -> list[str]:
    """The distinct values: those of `first` that occur, in its order, and then the others as they appear."""
    seen = dict.fromkeys(str(v) for v in values)
    known = [name for name in dict.fromkeys(first) if name in seen]
    return known + [name for name in seen if name not in known]


def unmirrored(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The distinct pairs, of two that differ only in their order the first."""
    kept: dict[tuple[str, str], None] = {}
    for a, b in pairs:
        if (b, a) not in kept:
            kept[a, b] = None
    return list(kept)


def combinations_of(modalities: Sequence[str], named: Iterable[str]) -> list[str]:
    """Every combination of the study, fewest modalities first, then any other that the results name."""
    regular = [combination_name(c) for c in all_combinations(modalities)]
    return regular + [name for name in in_order(named) if name not in regular and name != MEAN]


def pooled(table: pd.DataFrame) -> pd.DataFrame:
    """The rows averaged over seeds (`all`); those of the only seed for a method and regime that ran with one."""
    kept = []
    for _, rows in table.groupby(["method", "regime"], sort=False):
        averaged = rows[rows["seed"] == "all"]
        kept.append(averaged if len(averaged) or rows["seed"].nunique() > 1 else rows)
    return pd.concat(kept) if kept else table


def scores(results: pd.DataFrame, regime: str, stratum: str) -> dict[tuple[str, str], Score]:
    """From rows already pooled over seeds."""
    rows = results[(results["regime"] == regime) & (results["stratum"] == stratum)]
    return {
        (str(r["method"]), str(r["combination"])): Score(
            _whole(r["n"]), *(_real(r[c]) for c in ("rmse", "lower", "upper", "mae", "r2"))
        )
        for r in rows.to_dict("records")
    }


def differences(comparisons: pd.DataFrame, regime: str, stratum: str) -> dict[tuple[str, str], dict[str, Difference]]:
    """By (method, reference) and combination."""
    rows = comparisons[(comparisons["regime"] == regime) & (comparisons["stratum"] == stratum)]
    found: dict[tuple[str, str], dict[str, Difference]] = {}
    for r in rows.to_dict("records"):
        pair = (str(r["method"]), str(r["reference"]))
        found.setdefault(pair, {})[str(r["combination"])] = Difference(
            _whole(r["n"]),
            _real(r["difference"]),
            _real(r["lower"]),
            _real(r["upper"]),
            p_holm=_real(r.get("p_holm", nan)),
            seeds=_whole(r["seeds"]) if "seeds" in r else None,
        )
    return found


def subjects(found: Scores, combination: str) -> str:
    """n of a combination as text."""
    return sample_size(score.n for (_, name), score in found.items() if name == combination)


def sample_size(numbers: Iterable[int]) -> str:
    """One number, a range where methods differ, a dash where nothing was evaluated.

    A method that no subject could be judged with (n = 0) says so where its figure would stand.
    """
    found = sorted(set(numbers))
    judged = [n for n in found if n] or found
    if not judged:
        return "–"
    return str(judged[0]) if len(judged) == 1 else f"{judged[0]}–{judged[-1]}"


def mean_rmse(found: Scores, method: str, combinations: Iterable[str]) -> tuple[float, int]:
    """The unweighted mean over the combinations that have a figure, and how many these are."""
    values = [found[method, c].rmse for c in combinations if (method, c) in found]
    values = [v for v in values if isfinite(v)]
    return (float(np.mean(values)), len(values)) if values else (nan, 0)


def _whole(value: Any) -> int:
    return int(value) if pd.notna(value) else 0


def _real(value: Any) -> float:
    return float(value) if pd.notna(value) else nan
