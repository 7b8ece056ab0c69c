"""What a report calls beyond chance: its tests corrected together, over all pairs and regimes, by Holm (1979)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import isfinite
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from permmoe.evaluation.intervals import LEVEL, why_not_judged

Verdict = Literal["lower", "higher", "not told", "not judged"]
NOT_JUDGED_BEFORE = "judged by the rule of an earlier version; run the study again"


def corrected(p_values: Sequence[float], families: Sequence[Hashable] | None = None) -> Float[np.ndarray, " test"]:
    """The p-values after Holm's correction within each family, by default one for all; NaN, untested, stays NaN."""
    values = pd.Series(p_values, dtype=np.float64)
    found = values.copy()
    known = values[values.notna()]
    if len(known):
        # With SciPy's statistics this takes seconds to import, which workers do not need.
        from statsmodels.stats.multitest import multipletests

        keys = pd.Series(["all"] * len(values) if families is None else list(families))[known.index]
        for _, family in known.groupby(keys):
            found[family.index] = multipletests(family, method="holm")[1]
    return np.asarray(found, dtype=np.float64)


def verdict(value: float, p_holm: float) -> Verdict:
    """Whether a figure lies below or above zero beyond chance."""
    if not isfinite(p_holm):
        return "not judged"
    if p_holm >= LEVEL:
        return "not told"
    return "lower" if value < 0 else "higher"


def why_without_verdict(n: int, seeds: int | None, p_holm: float) -> str:
    """Why there is no verdict, in words; empty where there is one. `seeds` is None in tables of earlier versions."""
    if isfinite(p_holm):
        return ""
    return NOT_JUDGED_BEFORE if seeds is None else why_not_judged(n, seeds) or NOT_JUDGED_BEFORE
