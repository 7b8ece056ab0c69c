"""A study at a tracker of experiments: a run for each cell as it finishes, and one for the study's own results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from permmoe.evaluation.combinations import error_sums
from permmoe.evaluation.tracked_figures import FEWEST_VISITS, combination_figures
from permmoe.modality import all_combinations, combination_name
from permmoe.runtime.tracking.tracker import Tracking
from permmoe_simulation.studies.cell_files import FinishedCell, gathered, read_predictions
from permmoe_simulation.studies.study import MEAN, Cell, StudyConfig
from permmoe_simulation.study_tables import COMPARISONS, LEARNING, RESULTS


def track_cell(tracking: Tracking, study: StudyConfig, cell: Cell, finished: FinishedCell) -> None:
    """Track a finished cell: its settings, its learning curve, and the errors on its test visits.

    A cell that was tracked before, by its digest, is left as it is.
    """
    if not tracking.is_on:
        return
    settings = {
        **cell.model_dump(mode="json", exclude={"method"}),
        "method": finished.method,
        "kind": cell.method.kind,
        "is_synthetic": study.data.is_invented,
    }
    name = f"{finished.method} {finished.regime} seed {finished.seed} {cell.digest()[:12]}"
    run = tracking.run(study.name, name, settings)
    visits = read_predictions(finished.folder)
    learning = gathered([finished], LEARNING)
    if len(learning) and len(visits) >= FEWEST_VISITS:
        for row in learning[learning.combination.eq(MEAN)].itertuples():
            run.log({"validation_rmse": float(row.rmse)}, int(row.step))
    target = visits["target"].to_numpy(dtype=np.float64)
    names = [combination_name(c) for c in all_combinations(finished.modality_names())]
    sums = {n: error_sums(visits[n].to_numpy(dtype=np.float64), target) for n in names}
    run.log(combination_figures(((n, s.n, s.rmse) for n, s in sums.items()), "test"), 0)
    run.end()


def track_study(tracking: Tracking, study: StudyConfig, out: Path, digests: Mapping[str, str]) -> None:
    """Track what the study's report is made of: every method's errors over all seeds, and the paired differences."""
    if not tracking.is_on:
        return
    settings = {
        "seeds": study.seeds,
        "methods": {name: method.label for name, method in study.methods.items()},
        "digests": digests,
        "is_synthetic": study.data.is_invented,
    }
    run = tracking.run(study.name, f"results {digests['study'][:12]}", settings)
    results = RESULTS.read(out)
    if results is not None:
        rows = results[results.seed.eq("all") & results.stratum.eq("all")]
        for (method, regime), own in rows.groupby(["method", "regime"]):
            found = combination_figures(zip(own.combination, own.n, own.rmse, strict=True), f"{method}/{regime}/test")
            run.log(found, 0)
    pairs = COMPARISONS.read(out)
    if pairs is not None:
        rows = pairs[pairs.combination.eq(MEAN) & pairs.stratum.eq("all") & pairs.n.ge(FEWEST_VISITS)]
        for row in rows.itertuples():
            name = f"difference/{row.regime}/{row.method} - {row.reference}"
            run.log({name: row.difference, f"{name}/lower": row.lower, f"{name}/upper": row.upper}, 0)
    run.end()
