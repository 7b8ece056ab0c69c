"""How often prediction intervals hold the truth, by combination, over synthetic cohorts, and how wide they are.

    python benchmarks/coverage.py --choose   # cohort seeds 10 to 19, by which the default is chosen
    python benchmarks/coverage.py            # 20 fresh cohorts from seed 600 -> docs/intervals.md

Each cohort is 1,500 invented patients of the synthetic cohort's disease model with the scans that ADNI's phases have;
a scan is the hidden states that it would show, with an error, and no image. A small PerM-MoE is trained on 30% of the
visits, calibrated on 35% and judged on 35%, each combination on all visits that have it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy.stats import norm

from permmoe.calibration.calibrate import predicted
from permmoe.calibration.calibration import severity_ends, severity_group
from permmoe.calibration.intervals import BY_COMBINATION, BY_SEVERITY, LEVELS, quantiles
from permmoe.calibration.next_scan import added_scans, next_scans
from permmoe.calibration.score_counts import ScoreCounts, count_scores
from permmoe.config import ModelConfig, SplitConfig, TrainConfig
from permmoe.data.cache import VolumeCache
from permmoe.data.cohort import CohortConfig, Subject, draw_subjects
from permmoe.data.cohort.clinical_visits import ClinicalVisit
from permmoe.data.dataset import VisitData, fit_scaling
from permmoe.data.splits import assign_splits
from permmoe.data.visits import Visit, VisitTable
from permmoe.modality import Modality, all_combinations, combination_name
from permmoe.runtime.workers import worker_pool
from permmoe.training.fit import fit
from permmoe.training.seeds import make_model
from permmoe_benchmarks.library.scale import ROOT
from permmoe_benchmarks.pages.intervals import intervals_page, new_hospital_chapter, next_scans_chapter

CHOICE_SEEDS, FRESH_SEEDS = range(10, 20), range(600, 620)
SUBJECTS = 1500
SPLIT = SplitConfig(validation=0.35, test=0.35)
TRAIN = TrainConfig(epochs=24, learning_rate=1e-3, averaging_decay=0.9, keep="last", validate_every=24)
HORIZON_MONTHS, WINDOW_MONTHS = 24.0, 6.0
MEASURED: Mapping[str, Mapping[str, float]] = {
    "t1": {"neurodegeneration": 0.15, "hippocampal_loss": 0.4},
    "flair": {"vascular": 0.4},
    "amyloid": {"amyloid": 0.12},
    "tau": {"tau": 0.1},
}
"""By modality, which of the cohort's hidden states it measures, and the SD of a measurement's error."""
MODALITIES = tuple(Modality(name=name, kind="tabular", columns=tuple(states)) for name, states in MEASURED.items())
MODEL = ModelConfig(modalities=MODALITIES)

Matrix = Float[np.ndarray, "visit combination"]


@dataclass(frozen=True)
class Judged:
    """What one training says of the visits that calibrate it and of those that judge it."""

    own: Matrix
    own_scale: Matrix
    own_target: Float[np.ndarray, " visit"]
    own_severity: Int[np.ndarray, " visit"]
    new: Matrix
    new_scale: Matrix
    new_target: Float[np.ndarray, " visit"]
    new_severity: Int[np.ndarray, " visit"]
    new_baseline: Float[np.ndarray, " visit"]

    def without_spread(self) -> Judged:
        """The same predictions of a model that knows no spread."""
        own, new = (np.where(np.isnan(scale), np.nan, MODEL.unit_points) for scale in (self.own_scale, self.new_scale))
        return replace(self, own_scale=own, new_scale=new)

    def counts(self, groups: int = 3) -> ScoreCounts:
        """The calibration visits' scores."""
        scores = np.abs(self.own_target[:, None] - self.own) / self.own_scale
        return count_scores(MODEL.names, scores, self.own_severity, groups, ["all"] * len(scores))


def main() -> None:
    """Measure, print the tables, and write the page where the fresh cohorts were measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choose", action="store_true", help="the cohorts by which the default is chosen")
    parser.add_argument("--cohorts", type=int, default=0, help="only the first of them; writes no page")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    seeds = (CHOICE_SEEDS if given.choose else FRESH_SEEDS)[: given.cohorts or None]
    started = time.perf_counter()
    with worker_pool(given.workers, threads=1) as pool:
        scans = pd.concat(list(pool.map(expected_and_found, seeds)), ignore_index=True)
        kinds = CANDIDATES if given.choose else KINDS
        rows = pd.concat(list(pool.map(partial(measured, names=tuple(kinds)), seeds)), ignore_index=True)
    page = intervals_page(rows, tuple(seeds), SUBJECTS, time.perf_counter() - started, DEFAULT)
    page += "\n" + next_scans_chapter(scans) + "\n" + new_hospital_chapter()
    print(page)
    if not given.choose and not given.cohorts:
        (ROOT / "docs" / "intervals.md").write_text(page)


def measured(seed: int, names: Sequence[str]) -> pd.DataFrame:
    """Rows of one cohort: kind of interval, level, combination, severity, visits of either kind, coverage and width."""
    data = cohort(seed)
    chosen = {name: CANDIDATES[name] for name in names}
    trainings = {spread: judged(data, spread) for spread in {spread for spread, _ in chosen.values()} - {"none"}}
    # A spread moves no bit of a prediction, so that a model without one needs no training of its own.
    trainings["none"] = trainings["gaussian"].without_spread()
    rows = []
    for kind, (spread, reach) in chosen.items():
        found = trainings[spread]
        n_own = (~np.isnan(found.own)).sum(0)
        low_end, high_end = -found.new_baseline[:, None], 18 - found.new_baseline[:, None]
        for level in LEVELS:
            half = reach(found, level)
            low, high = np.maximum(found.new - half, low_end), np.minimum(found.new + half, high_end)
            inside = (low <= found.new_target[:, None]) & (found.new_target[:, None] <= high)
            for j, combination in enumerate(all_combinations(MODEL.names)):
                for severity in (-1, 0, 1, 2):
                    of_them = ~np.isnan(found.new[:, j]) & ((severity < 0) | (found.new_severity == severity))
                    rows.append(
                        {"cohort": seed, "kind": kind, "level": level, "combination": combination_name(combination),
                         "severity": severity, "calibrated": int(n_own[j]), "judged": int(of_them.sum()),
                         "coverage": inside[of_them, j].mean() if of_them.any() else np.nan,
                         "width": (high - low)[of_them, j].mean() if of_them.any() else np.nan}
                    )  # fmt: skip
    return pd.DataFrame(rows)


def expected_and_found(seed: int) -> pd.DataFrame:
    """Rows of one cohort: a combination, a scan that is added, and what calibration visits expect of it for a patient
    beside what happened to the judged visits that have both: narrowing of the 80% interval and change in error."""
    found = judged(cohort(seed), "gaussian")
    counts, names, rows = found.counts(), MODEL.names, []
    added = added_scans(names, np.abs(found.own_target[:, None] - found.own), found.own_scale)
    off, reach = np.abs(found.new_target[:, None] - found.new), _by_severity(found, LEVELS[0])
    combinations = all_combinations(names)
    for j, combination in enumerate(combinations):
        for name in set(names) - set(combination):
            k = combinations.index(tuple(m for m in names if m in combination or m == name))
            both = np.flatnonzero(~np.isnan(found.new[:, k]))
            scans = [
                scan
                for i in both
                for scan in next_scans(
                    added, counts, combination, int(found.new_severity[i]), float(found.new_scale[i, j])
                )
                if scan.modality == name
            ]
            if len(scans) == len(both) > 0:
                rows.append(
                    {"cohort": seed, "combination": combination_name(combination), "scan": name, "judged": len(both),
                     "expected_narrowing": np.mean([s.narrowing for s in scans]),
                     "narrowing": 2 * (reach[both, j] - reach[both, k]).mean(),
                     "of_a_patient": np.corrcoef(
                         [s.narrowing for s in scans], 2 * (reach[both, j] - reach[both, k]))[0, 1],
                     "expected_error_change": scans[0].error_change,
                     "error_change": (off[both, k] - off[both, j]).mean()}
                )  # fmt: skip
    return pd.DataFrame(rows)


def cohort(seed: int) -> VisitData:
    """A cohort's visits with their outcomes, split. No image is drawn: a scan is what it would tell, with an error."""
    rng, visits = np.random.default_rng(seed), []
    for subject in draw_subjects(CohortConfig(subjects=SUBJECTS, seed=seed, sites="adni")):
        first = subject.index_visit
        late = [v for v in subject.visits if abs(_months(subject, v)) <= WINDOW_MONTHS and v.cdrsb >= 0]
        numbers = {
            name: tuple(float(getattr(subject.latents, state) + sd * rng.normal()) for state, sd in states.items())
            for name, states in MEASURED.items()
        }
        if late and first.cdrsb >= 0:
            last = min(late, key=lambda v: abs(_months(subject, v)))
            visits.append(
                Visit(subject.bids_id, subject.site.code, "bl", first.cdrsb, last.cdrsb - first.cdrsb, HORIZON_MONTHS,
                      tables={name: numbers[name] for name in subject.observed})
            )  # fmt: skip
    table = assign_splits(VisitTable(tuple(visits)), SPLIT)
    with tempfile.TemporaryDirectory() as folder:
        data, _ = VisitData.load(table, MODEL, VolumeCache(Path(folder)))
    return data


def _months(subject: Subject, visit: ClinicalVisit) -> float:
    """From the horizon to a visit."""
    return visit.month - subject.index_month - HORIZON_MONTHS


def judged(data: VisitData, spread: str) -> Judged:
    """Train a model with this head of the spread, and predict for the visits of the other two parts."""
    torch.set_num_threads(1)
    train, own, new = (data.part(part) for part in ("train", "validation", "test"))
    model = make_model(fit_scaling(train, MODEL).model_copy(update={"spread": spread}), 0)
    fit(model, train, own.subset(torch.arange(0)), TRAIN)
    ends = severity_ends(MODEL)
    facts = [(d.target.double().numpy(), severity_group(d.baseline.double().numpy(), ends)) for d in (own, new)]
    return Judged(*predicted(model, own), *facts[0], *predicted(model, new), *facts[1], new.baseline.double().numpy())


def _pooled(found: Judged, level: float) -> Matrix:
    return found.new_scale * found.counts().pooled_quantile(level)


def _as_the_product_does(found: Judged, level: float, groups: int) -> Matrix:
    """By the quantiles that permmoe.calibration chooses for each visit."""
    counts = found.counts(groups)
    reach = np.full(found.new.shape, np.nan)
    for j, combination in enumerate(all_combinations(MODEL.names)):
        for severity in range(3):
            score = next(q.score for q in quantiles(counts, combination, severity) if q.level == level)
            rows = found.new_severity == severity
            reach[rows, j] = found.new_scale[rows, j] * score
    return reach


def _by_combination(found: Judged, level: float) -> Matrix:
    return _as_the_product_does(found, level, groups=1)


def _by_severity(found: Judged, level: float) -> Matrix:
    return _as_the_product_does(found, level, groups=3)


def _of_a_normal(found: Judged, level: float) -> Matrix:
    return found.new_scale * float(norm.ppf((1 + level) / 2))


Kinds = Mapping[str, tuple[str, Callable[[Judged, float], Matrix]]]
"""By name, the spread of the model that intervals are of, and how far they reach."""
DEFAULT = "combination and severity, Gaussian spread"
"""What `permmoe train` calibrates and `permmoe predict` shows: the narrowest at honest coverage (`--choose`)."""
KINDS: Kinds = {
    "Gaussian head, not calibrated": ("gaussian", _of_a_normal),
    "marginal conformal": ("none", _pooled),
    BY_COMBINATION: ("none", _by_combination),
    BY_SEVERITY: ("none", _by_severity),
    "combination, Gaussian spread": ("gaussian", _by_combination),
    DEFAULT: ("gaussian", _by_severity),
}
CANDIDATES: Kinds = {
    **KINDS,
    "combination, Laplace spread": ("laplace", _by_combination),
    "combination and severity, Laplace spread": ("laplace", _by_severity),
}
"""What the default was chosen among."""
