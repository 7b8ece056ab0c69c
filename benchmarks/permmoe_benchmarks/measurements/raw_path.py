"""What the way from the scanner to the model costs: the same trained model on the same patients, prepared and perfect.

    python benchmarks/raw_path.py [--tested 80] [--trained 400] [--seeds 5] [--workers 2]

Study raw-path trains on either, so that what training leaves to chance hides hundredths of a point. Here models are
trained once, on brains that lie in the template perfectly, and tested on patients who are there twice: as such brains,
and as whole heads that went through `permmoe data prepare`. Only the way differs between the two, so that few patients
say much. No model has seen a prepared image, as a study's own would have: the cost is an upper one. Settings are the
study's. Prints a Markdown table, and what was left out on the way.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from permmoe.config import SplitConfig, read_config
from permmoe.data.cache import VolumeCache
from permmoe.data.splits import assign_splits
from permmoe.data.visits import Visit, VisitTable
from permmoe.evaluation.intervals import Difference, mean_rmse_interval, paired_difference
from permmoe.modality import all_combinations, combination_name
from permmoe_simulation.studies.method_kinds import METHOD_KINDS
from permmoe_simulation.studies.progress import Progress
from permmoe_simulation.studies.sources import StudyData, prepare_data
from permmoe_simulation.studies.study import Cell, DataSource, StudyConfig, cells, data_source

STUDY = Path("configs/studies/raw-path.yaml")
PREPARED = " prepared"
"""Ends the name of a tested patient's second visit."""
NONE_TESTED = SplitConfig(scheme="subject", validation=0.15, test=0.0)
SHOWN = Progress(
    stage=lambda name, steps: print(f"{name}: {steps}", file=sys.stderr), step=lambda name: None, note=print
)

Predicted = Float[np.ndarray, "visit combination"]
Errors = Float[np.ndarray, "seed visit combination"]
"""Prediction − target, points; NaN where a modality of the combination is missing."""


@dataclass(frozen=True)
class Row:
    """A line of the table: a method on a combination, or averaged over all."""

    method: str
    combination: str
    perfect: float
    """RMSE on brains that lie in the template perfectly, points."""
    cost: Difference
    """RMSE on prepared heads − that, with its interval over seeds and subjects."""
    moved: float
    """95th percentile of how far a prediction differs between the two, points."""


def main() -> None:
    """Write the cohort both ways, train, and print what the preparation costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tested", type=int, default=80, help="patients whose heads are prepared, half a minute each")
    parser.add_argument("--trained", type=int, default=400, help="further patients, in the template")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/shared"))
    given = parser.parse_args()
    study = read_config(STUDY, StudyConfig).model_copy(update={"seeds": tuple(range(given.seeds))})
    template, raw = _data(study, given.tested, given.tested + given.trained, given.folder, given.workers)
    lost = len(raw.quarantine)
    print(f"SYNTHETIC subjects; data {template.digest[:8]} and {raw.digest[:8]}; images lost on the way: {lost}")
    print("\n| method | combination | n | RMSE in the template | prepared − that | apart at the 95th percentile |")
    print("|---|---|---|---|---|---|")
    for row in measure(study, template, raw):
        cost = row.cost
        print(
            f"| {row.method} | {row.combination} | {cost.n} | {row.perfect:.3f} | "
            f"{cost.estimate:+.3f} ({cost.lower:+.3f} to {cost.upper:+.3f}) | {row.moved:.2f} |"
        )


def measure(study: StudyConfig, template: StudyData, raw: StudyData) -> list[Row]:
    """The table's lines, methods in the study's order, the mean over combinations first.

    `template` has all patients, and `raw` those of them who are tested; both lie in one cache. Patients are tested with
    the modalities whose images both have.
    """
    combinations = all_combinations(study.model.names)
    visits = _with_tested_twice(template.visits, raw.visits, study.model.names)
    regime = next(iter(study.regimes))
    grid = cells(study, dict.fromkeys(study.regimes, template.digest), "inprocess")
    rows: list[Row] = []
    for name, method in study.methods.items():
        runs = [_predicted(c, visits, template.cache) for other, c in grid if (other, c.regime) == (name, regime)]
        perfect, prepared = (np.stack([run[k] for run in runs]) for k in (0, 1))
        rows.append(_row(method.label, "mean over all", perfect, prepared))
        rows += [
            _row(method.label, combination_name(c), perfect[:, :, [j]], prepared[:, :, [j]])
            for j, c in enumerate(combinations)
        ]
    return rows


def _with_tested_twice(template: VisitTable, raw: VisitTable, names: Sequence[str]) -> VisitTable:
    """All visits with their part: who has a prepared image is tested, as a second visit, too; others are not."""
    prepared = {visit.subject_id: visit for visit in raw}
    tested: list[Visit] = []
    others: list[Visit] = []
    for visit in template:
        twin = prepared.get(visit.subject_id)
        if twin is None:
            others.append(visit)
            continue
        shared = [name for name in names if name in visit.volumes and name in twin.volumes]
        if not shared:
            continue
        second = replace(twin.with_only(shared), subject_id=twin.subject_id + PREPARED, split="test")
        tested += [replace(visit.with_only(shared), split="test"), second]
    return VisitTable((*assign_splits(VisitTable(tuple(others)), NONE_TESTED), *tested))


def _predicted(cell: Cell, visits: VisitTable, cache: Path) -> tuple[Predicted, Predicted]:
    """Errors of a method on the tested patients, in the template and prepared, points."""
    outcome = METHOD_KINDS[cell.method.kind].run(cell, {"all": visits}, VolumeCache(cache), Path(), "cpu")
    errors = outcome.predictions - np.array([[visit.delta_cdrsb] for visit in outcome.test])
    row_of = {visit.subject_id: row for row, visit in enumerate(outcome.test)}
    first = sorted(subject for subject in row_of if subject + PREPARED in row_of)
    perfect, prepared = (errors[[row_of[subject + end] for subject in first]] for end in ("", PREPARED))
    return perfect, prepared


def _row(method: str, combination: str, perfect: Errors, prepared: Errors) -> Row:
    squared = [[errors[:, :, j] ** 2 for j in range(errors.shape[2])] for errors in (prepared, perfect)]
    change = np.abs(prepared - perfect)
    moved = float(np.quantile(change[~np.isnan(change)], 0.95)) if not np.isnan(change).all() else float("nan")
    return Row(method, combination, mean_rmse_interval(squared[1]).estimate, paired_difference(*squared), moved)


def _data(study: StudyConfig, tested: int, everybody: int, folder: Path, workers: int) -> tuple[StudyData, StudyData]:
    """The cohort in the template, and its first patients prepared: a patient is the same in a cohort of any size."""
    template, raw = (data_source(study, regime) for regime in ("template", "raw"))
    return (
        prepare_data(_of(template, everybody), study.model, folder, workers, SHOWN),
        prepare_data(_of(raw, tested), study.model, folder, workers, SHOWN),
    )


def _of(source: DataSource, subjects: int) -> DataSource:
    assert source.synthetic is not None
    return source.model_copy(update={"synthetic": source.synthetic.model_copy(update={"subjects": subjects})})
