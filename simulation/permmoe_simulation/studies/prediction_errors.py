"""The test errors of all methods of a study on common axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from permmoe.evaluation.combinations import STRATA
from permmoe.modality import all_combinations, combination_name
from permmoe_simulation.studies.cell_files import FinishedCell, read_predictions
from permmoe_simulation.studies.study import MEAN

Array = np.ndarray


@dataclass(frozen=True)
class Errors:
    """Test errors of one method on one regime over all seeds; NaN where a seed did not test a subject."""

    prediction: Float[Array, "seed subject combination"]
    target: Float[Array, "seed subject"]
    baseline: Float[Array, "seed subject"]
    site: Shaped[Array, "seed subject"]
    """Where a seed's partition put the subject; empty where the seed did not test it."""

    def squared(self, combination: int, stratum: str = "all") -> Float[Array, "seed subject"]:
        """Squared errors inside a stratum, squared points."""
        inside = np.stack([STRATA[stratum](b, t) for b, t in zip(self.baseline, self.target, strict=True)])
        error = (self.prediction[:, :, combination] - self.target) ** 2
        return np.where(inside, error, np.nan)


class PredictionErrors:
    """All methods' errors; a seed and a subject stand in the same place for all of them."""

    def __init__(
        self,
        cells: Sequence[FinishedCell],
        names: Sequence[str],
        seeds: Sequence[int],
        strata: Sequence[str] = tuple(STRATA),
    ):
        self.combinations = [combination_name(c) for c in all_combinations(names)]
        self.seeds = list(seeds)
        self.strata = list(strata)
        tables = {(c.method, c.regime, c.seed): read_predictions(c.folder) for c in cells}
        subjects = sorted({s for table in tables.values() for s in table.subject})
        self.by_method: dict[tuple[str, str], Errors] = {}
        """By method and regime."""
        for method, regime in dict.fromkeys((c.method, c.regime) for c in cells):
            frames = []
            for seed in self.seeds:
                table = tables.get((method, regime, seed))
                frames.append(None if table is None else table.set_index("subject").reindex(subjects))
            self.by_method[method, regime] = self._stack(frames, len(subjects))

    def _stack(self, frames: Sequence[pd.DataFrame | None], n: int) -> Errors:
        def column(frame: pd.DataFrame | None, name: str) -> Array:
            known = frame is not None and name in frame
            return np.asarray(frame[name], dtype=np.float64) if known and frame is not None else np.full(n, np.nan)

        prediction = np.stack([np.stack([column(f, c) for c in self.combinations], axis=1) for f in frames])
        target = np.stack([column(f, "target") for f in frames])
        sites = [np.full(n, "") if f is None else np.asarray(f["site"].fillna(""), dtype=np.str_) for f in frames]
        return Errors(prediction, target, np.stack([column(f, "baseline") for f in frames]), np.stack(sites))

    def columns(self, combination: str) -> list[int]:
        """The place of a combination; the places of all for `mean`."""
        every = list(range(len(self.combinations)))
        return every if combination == MEAN else [self.combinations.index(combination)]

    def squared(
        self, method: str, regime: str, combination: str, stratum: str = "all"
    ) -> list[Float[Array, "seed subject"]]:
        """Squared errors of a method with a combination, or with each of them for `mean`, squared points."""
        errors = self.by_method[method, regime]
        return [errors.squared(j, stratum) for j in self.columns(combination)]

    def finished(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str, str]]:
        """(method, reference, regime) wherever both methods finished."""
        regimes = dict.fromkeys(regime for _, regime in self.by_method)
        return [(a, b, r) for a, b in pairs for r in regimes if {(a, r), (b, r)} <= self.by_method.keys()]
