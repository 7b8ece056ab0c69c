"""What one cell's test visits say of the intervals that its validation visits give, for the table of coverage.

Errors are divided by what `permmoe train` divides them by: the spread that the method predicts for a visit, where its
cells keep one, and the unit of the score elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from permmoe.calibration.calibration import severity_ends, severity_group
from permmoe.calibration.coverage import interval_ends
from permmoe.calibration.intervals import LEVELS
from permmoe.calibration.score_counts import ScoreCounts, count_scores, least_visits
from permmoe.config import ModelConfig, parse_config
from permmoe.errors import DataError
from permmoe.modality import all_combinations, combination_name
from permmoe_simulation.report.lookups import MEAN
from permmoe_simulation.studies.cell_files import (
    CALIBRATION,
    PREDICTIONS,
    FinishedCell,
    Matrix,
    read_predictions,
    read_spread,
)

EVERYWHERE = "all"
TRAINED, UNSEEN = "sites that trained", "sites that never trained"
"""All sites of a kind, in cells that have both kinds; no site's name has a space."""
NEVER_TRAINED = " (never trained)"
"""What follows the name of a site where it trained nothing: in another seed it may have trained."""
BY_SPREAD, BY_UNIT = "spread", "unit"
"""What errors are divided by, in the words of a model's card."""


@dataclass(frozen=True)
class JudgedPart:
    """Visits of a cell, and what its method predicts of them."""

    visits: pd.DataFrame
    """Subject, site, baseline and target."""
    predictions: Matrix
    spread: Matrix | None

    def scales(self, unit_points: float) -> Matrix:
        """What each error is divided by, points."""
        return np.full(self.predictions.shape, unit_points) if self.spread is None else self.spread


def judged_intervals(cell: FinishedCell) -> Iterator[dict[str, Any]]:
    """Intervals that hold, their number and their widths, added up: by level, combination and site.

    Raises DataError for a cell that keeps spreads of one part of its visits alone, or spreads that are damaged.
    """
    model = parse_config(cell.card()["cell"]["model"], ModelConfig, f"the card in {cell.folder}")
    names = [combination_name(c) for c in all_combinations(model.names)]
    own, new = (read_part(cell, file, names) for file in (CALIBRATION, PREDICTIONS))
    if (own.spread is None) != (new.spread is None):
        raise DataError(
            f"{cell.folder} keeps spreads of its test or of its validation visits, and not of both; delete that "
            "folder and run the study again"
        )
    counts = counts_of(model, own)
    kinds, places = _places(new.visits["site"], cell.unseen_sites())
    baseline, target = new.visits["baseline"].to_numpy(), new.visits["target"].to_numpy()[:, None]
    scales, calibrated = new.scales(model.unit_points), counts.counts[:, 0].sum(1)
    for level in LEVELS:
        low, high = interval_ends(counts, model, new.predictions, scales, baseline, level)
        is_judged = np.isfinite(low) & np.isfinite(high) & ~np.isnan(target)
        inside = is_judged & (low <= target) & (target <= high)
        width = np.where(is_judged, high - low, 0.0)
        is_pooled = is_judged & (calibrated < least_visits(level))
        groups = [(name, many, at, [j], int(calibrated[j])) for many, at in kinds for j, name in enumerate(names)]
        groups += [(MEAN, site, at, list(range(len(names))), int(counts.visits[0])) for site, at in [*kinds, *places]]
        for combination, site, at, columns, n in groups:
            chosen = np.ix_(at, np.array(columns))
            yield {
                "method": cell.method, "regime": cell.regime, "seed": cell.seed, "combination": combination,
                "site": site, "level": level, "n": int(is_judged[chosen].sum()), "calibrated": n,
                "inside": int(inside[chosen].sum()), "width_sum": float(width[chosen].sum()),
                "pooled": int(is_pooled[chosen].sum()), "scale": BY_UNIT if new.spread is None else BY_SPREAD,
            }  # fmt: skip


def read_part(cell: FinishedCell, file: str, names: Sequence[str]) -> JudgedPart:
    """The visits of a file of the cell, with a prediction for each of the named combinations."""
    found = read_predictions(cell.folder, file)
    return JudgedPart(found.drop(columns=names), found[names].to_numpy(), read_spread(cell.folder, file))


def counts_of(model: ModelConfig, own: JudgedPart) -> ScoreCounts:
    """The validation visits' scores."""
    ends, visits = severity_ends(model), own.visits
    scores = np.abs(visits["target"].to_numpy()[:, None] - own.predictions) / own.scales(model.unit_points)
    groups = severity_group(visits["baseline"].to_numpy(), ends)
    return count_scores(model.names, scores, groups, 1 + len(ends), visits["site"].tolist())


Place = tuple[str, Bool[np.ndarray, " visit"]]
"""What a set of sites is called, and which visits are theirs."""


def _places(site_of: pd.Series, unseen: Sequence[str]) -> tuple[list[Place], list[Place]]:
    """The sets of several sites, and every site by itself."""
    never = site_of.isin(unseen).to_numpy()
    kinds = [(EVERYWHERE, np.ones(len(site_of), dtype=bool))]
    if never.any():
        kinds += [(TRAINED, ~never), (UNSEEN, never)]
    single = [
        (f"{site}{NEVER_TRAINED if site in unseen else ''}", (site_of == site).to_numpy())
        for site in sorted(set(site_of))
    ]
    return kinds, single
