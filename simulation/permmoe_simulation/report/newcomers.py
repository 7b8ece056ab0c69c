"""The table and the section of hospitals that never trained: before and after a calibration on their own patients.

Of each unseen site's patients with an outcome some are drawn by the cell's seed, the same ones first for every number;
those beyond the largest number are judged, so that all numbers are judged on the same patients.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from permmoe.calibration.at_hospital import CHOSEN, Prior, at_hospital
from permmoe.calibration.coverage import interval_ends, reaches
from permmoe.calibration.intervals import LEVELS
from permmoe.calibration.score_counts import ScoreCounts
from permmoe.config import ModelConfig, parse_config
from permmoe.errors import DataError
from permmoe.evaluation.intervals import LEVEL, mean_rmse_interval, paired_difference
from permmoe.modality import all_combinations, combination_name
from permmoe_simulation.report.content import Entry, Item, Section, Table, Text, interval, number, signed
from permmoe_simulation.report.judged_intervals import JudgedPart, counts_of, read_part
from permmoe_simulation.report.section import ReportSection
from permmoe_simulation.report.view import View, by_regime
from permmoe_simulation.studies.cell_files import CALIBRATION, PREDICTIONS, FinishedCell, Matrix
from permmoe_simulation.studies.finished_study import FinishedStudy
from permmoe_simulation.studies.verdicts import corrected
from permmoe_simulation.study_tables import OUTCOME_UNIT, StudyTable, real, text, whole

NEWCOMERS = StudyTable(
    "newcomers",
    "intervals at a level, and errors, of a method at a regime's hospitals that never trained, calibrated on so many "
    "patients of their own",
    (
        *text("method", "regime"),
        *whole("patients", unit="of each hospital that calibrate; 0: the model as it is"),
        *real("level"),
        *whole("hospitals", unit="over all seeds"),
        *whole("n", unit="intervals judged"),
        *real("coverage", "lowest", "highest", unit="share of the intervals; the ends are over hospitals"),
        *real("width", unit=OUTCOME_UNIT),
        *whole("subjects", unit="judged, each once"),
        *real("rmse", unit=OUTCOME_UNIT),
        *real("difference", "lower", "upper", unit=f"RMSE against 0 patients, {OUTCOME_UNIT}"),
        *real("p_holm"),
    ),
)
INTERVAL_COLUMNS = [words for level in LEVELS for words in (f"{level:.0%} intervals hold", "Mean width")]
DRAW = 3
"""Which stream of a cell's seed draws the patients; the first three deal out visits."""


@dataclass(frozen=True)
class Judged:
    """A hospital's judged patients after a calibration on some of its others."""

    patients: int
    subjects: Sequence[str]
    squared_error: Matrix
    held: Float[np.ndarray, " level"]
    """Intervals that hold the outcome."""
    n: Int[np.ndarray, " level"]
    width_sum: Float[np.ndarray, " level"]


@dataclass(frozen=True)
class FinishedModel:
    """A cell's model: what it predicts of all test visits, and the calibration that its own sites gave it."""

    config: ModelConfig
    counts: ScoreCounts
    tested: JudgedPart

    @property
    def scales(self) -> Matrix:
        """What errors are divided by, points."""
        return self.tested.scales(self.config.unit_points)

    @property
    def target(self) -> Float[np.ndarray, " visit"]:
        """The visits' outcomes."""
        return np.asarray(self.tested.visits["target"])

    @property
    def baseline(self) -> Float[np.ndarray, " visit"]:
        """Their scores at the visit."""
        return np.asarray(self.tested.visits["baseline"])


Rows = Int[np.ndarray, " patient"]
Calibrate = Callable[[FinishedModel, Rows], tuple[Matrix, ScoreCounts]]
"""From a model and a hospital's own patients to predictions of all test visits, and to their intervals' counts."""


def with_own_patients(model: FinishedModel, own: Rows, prior: Prior = CHOSEN) -> tuple[Matrix, ScoreCounts]:
    """As `permmoe calibrate` does it."""
    predictions = model.tested.predictions
    reach = reaches(model.counts, model.config, model.scales, model.baseline, LEVELS[0])
    found = at_hospital(predictions[own], model.target[own], reach[own], prior)
    return found.line.intercept + found.line.slope * predictions, model.counts.stretched(found.widening)


def newcomers_of(
    cell: FinishedCell, numbers: Sequence[int], calibrate: Calibrate = with_own_patients
) -> Iterator[Judged]:
    """Every unseen site of a cell with none of its patients, and with each of the numbers, the largest last.

    Raises DataError for a site with too few patients to leave any to judge.
    """
    config = parse_config(cell.card()["cell"]["model"], ModelConfig, f"the card in {cell.folder}")
    names = [combination_name(c) for c in all_combinations(config.names)]
    counts = counts_of(config, read_part(cell, CALIBRATION, names))
    model = FinishedModel(config, counts, read_part(cell, PREDICTIONS, names))
    for site in cell.unseen_sites():
        drawn = _drawn(model.tested.visits, site, cell.seed)
        if len(drawn) <= numbers[-1]:
            raise DataError(
                f"site {site} has {len(drawn)} patients with an outcome, so that {numbers[-1]} calibrate and nobody is "
                "left to judge; lower `newcomers`, or make the cohort larger"
            )
        rest = np.sort(drawn[numbers[-1] :])
        for patients in (0, *numbers):
            before = model.tested.predictions, counts
            predictions, fitted = calibrate(model, drawn[:patients]) if patients else before
            if config.outcome_range:
                predictions = predictions.clip(*config.outcome_range)
            yield _judged(patients, model, predictions, fitted, rest)


def _drawn(visits: pd.DataFrame, site: str, seed: int) -> Rows:
    """A site's visits with an outcome in the order in which they are drawn, whatever the order of rows."""
    at = np.flatnonzero((visits["site"] == site) & visits["target"].notna())
    ordered = at[np.argsort(visits["subject"].to_numpy()[at], kind="stable")]
    return np.random.default_rng((seed, DRAW)).permutation(ordered)


def _judged(patients: int, model: FinishedModel, predictions: Matrix, counts: ScoreCounts, rows: Rows) -> Judged:
    baseline, target = model.baseline[rows], model.target[rows, None]
    held, n, width = [], [], []
    for level in LEVELS:
        low, high = interval_ends(counts, model.config, predictions[rows], model.scales[rows], baseline, level)
        is_judged = np.isfinite(low) & np.isfinite(high)
        held.append(float((is_judged & (low <= target) & (target <= high)).sum()))
        n.append(int(is_judged.sum()))
        width.append(float((high - low)[is_judged].sum()))
    return Judged(
        patients, model.tested.visits["subject"].to_numpy()[rows].tolist(), (predictions[rows] - target) ** 2,
        np.array(held), np.array(n), np.array(width),
    )  # fmt: skip


def newcomer_rows(done: FinishedStudy) -> pd.DataFrame:
    """Rows of NEWCOMERS."""
    return newcomers_in(done.cells, done.config.newcomers)


def newcomers_in(cells: Sequence[FinishedCell], numbers: Sequence[int]) -> pd.DataFrame:
    """Rows of NEWCOMERS; none of a study that asks for no calibration, and of cells that have nothing to calibrate."""
    found: dict[tuple[str, str], dict[int, dict[int, list[Judged]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for cell in cells if numbers else ():
        if cell.unseen_sites() and (cell.folder / CALIBRATION).exists():
            for one in newcomers_of(cell, numbers):
                found[cell.method, cell.regime][one.patients][cell.seed].append(one)
    rows = [row for key, by_number in found.items() for row in _rows_of(*key, by_number)]
    if not rows:
        return pd.DataFrame()
    table = pd.DataFrame(rows)
    # One test a number, whatever the levels of the intervals beside it.
    once = table["level"] == LEVELS[0]
    tests = table[once].assign(p_holm=corrected(table.loc[once, "p_value"].tolist()))
    keys = ["method", "regime", "patients"]
    return table.drop(columns="p_value").merge(tests[[*keys, "p_holm"]], on=keys)[NEWCOMERS.required_columns]


def _rows_of(method: str, regime: str, by_number: dict[int, dict[int, list[Judged]]]) -> Iterator[dict[str, object]]:
    before = _squared_errors(by_number[0])
    for patients, by_seed in by_number.items():
        own = _squared_errors(by_seed)
        rmse, difference = mean_rmse_interval(own), paired_difference(own, before)
        hospitals = [one for judged in by_seed.values() for one in judged]
        held, n, width = (np.stack([getattr(h, name) for h in hospitals]) for name in ("held", "n", "width_sum"))
        for j, level in enumerate(LEVELS):
            known = n[:, j] > 0
            shares, total = held[known, j] / n[known, j], n[:, j].sum()
            yield {
                "method": method, "regime": regime, "patients": patients, "level": level,
                "hospitals": len(hospitals), "n": int(total),
                "coverage": held[:, j].sum() / total if total else np.nan,
                "lowest": shares.min(initial=np.inf) if total else np.nan,
                "highest": shares.max(initial=-np.inf) if total else np.nan,
                "width": width[:, j].sum() / total if total else np.nan,
                "subjects": rmse.n, "rmse": rmse.estimate, "difference": difference.estimate,
                "lower": difference.lower, "upper": difference.upper,
                "p_value": difference.p_value if patients else np.nan,
            }  # fmt: skip


def _squared_errors(by_seed: dict[int, list[Judged]]) -> list[Float[np.ndarray, "seed subject"]]:
    """For each combination, a row a seed and a column a subject; NaN where the seed did not judge it."""
    subjects = sorted({s for judged in by_seed.values() for one in judged for s in one.subjects})
    column = {subject: i for i, subject in enumerate(subjects)}
    combinations = next(iter(by_seed.values()))[0].squared_error.shape[1]
    errors = np.full((combinations, len(by_seed), len(subjects)), np.nan)
    for i, judged in enumerate(by_seed.values()):
        for one in judged:
            errors[:, i, [column[s] for s in one.subjects]] = one.squared_error.T
    return list(errors)


class Newcomer(NamedTuple):
    """What a method gives a regime's new hospitals with so many patients of their own: words for a table."""

    method: str
    regime: str
    patients: int
    hospitals: int
    n: int
    subjects: int
    held: tuple[str, ...]
    """A level each: the share of intervals that hold, and over hospitals."""
    width: tuple[str, ...]
    rmse: str
    change: str
    """Of RMSE against no patients; empty there."""
    is_beyond_chance: bool


def newcomers(view: View) -> list[Newcomer]:
    """A row for each method, regime and number of patients; none of a study without such a calibration."""
    rows = view.study.table(NEWCOMERS)
    if rows is None:
        return []
    found = []
    for (method, regime, patients), own in rows.groupby(["method", "regime", "patients"], sort=False):
        first = own.iloc[0]
        between = interval(first["lower"], first["upper"], 3) or "not judged"
        found.append(
            Newcomer(
                str(method), str(regime), int(patients), int(first["hospitals"]), int(first["n"]),
                int(first["subjects"]),
                tuple(f"{r.coverage:.1%} ({100 * r.lowest:.0f} to {100 * r.highest:.0f}%)" for r in own.itertuples()),
                tuple(number(width) for width in own["width"]),
                number(first["rmse"]),
                f"{signed(first['difference'], 3)} ({between})" if patients else "",
                bool(first["p_holm"] < LEVEL),
            )
        )  # fmt: skip
    places = {m: place for place, m in enumerate(view.methods)}
    return sorted(found, key=lambda row: places[row.method])


def newcomers_section(view: View) -> Section | None:
    """How intervals and errors at new hospitals change with their patients; None where no study asked."""
    rows = newcomers(view)
    if not rows:
        return None

    def build(regime: str) -> list[Item]:
        lines = [
            [
                Entry(view.label(row.method)), Entry(str(row.patients)), Entry(f"{row.n:,}"),
                *(Entry(words) for pair in zip(row.held, row.width, strict=True) for words in pair),
                Entry(row.rmse), Entry(row.change or "–", is_strong=row.is_beyond_chance),
            ]
            for row in rows if row.regime == regime
        ]  # fmt: skip
        hospitals = max(row.hospitals for row in rows if row.regime == regime)
        return [
            Table(
                f"At {hospitals} hospitals over all seeds, {regime}: intervals judged, the share that holds the true "
                f"change (over hospitals), their mean width and RMSE averaged over combinations in {view.unit}.",
                ["Method", "Own patients", "Judged", *INTERVAL_COLUMNS, "RMSE", "Change in RMSE"],
                lines,
            )
        ]

    intro = Text(
        "Hospitals that trained nothing calibrate the finished model on some of their own patients (permmoe "
        "calibrate): predictions get the hospital's offset and slope, intervals its length, each drawn towards the "
        "model's own as far as so few patients leave it uncertain. Others of their patients are judged, the same for "
        "every number. Changes in RMSE are against the model as it is; bold is beyond chance after Holm's correction "
        "over this section."
    )
    return Section("newcomers", "A hospital that never trained", [intro, *by_regime(view, build)])


NEWCOMERS_SECTION = ReportSection(newcomers_section, {NEWCOMERS: newcomer_rows})
