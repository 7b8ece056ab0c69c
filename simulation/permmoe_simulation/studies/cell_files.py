"""The folder of a cell: what it keeps, how it is written and how it is read.

A folder holds `predictions.npz` (test visits × combinations, with the spread of each where the method predicts one),
`calibration.npz` (the same of the validation visits, of methods that are models), `trained.npz` (of the training
visits, of methods that forget), `learning.csv`, `rounds.csv`, `privacy.csv` and `activation.npz` where they apply, and
`card.json`, written last: a folder without it is an unfinished cell.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from permmoe.data.visits import VisitTable
from permmoe.errors import DataError
from permmoe.evaluation.activation import Activation
from permmoe.modality import all_combinations, combination_name
from permmoe_simulation.studies.study import Cell
from permmoe_simulation.study_tables import LEARNING, PRIVACY, ROUNDS, StudyTable, rows_of_cells

CARD = "card.json"
PREDICTIONS = "predictions.npz"
CALIBRATION = "calibration.npz"
TRAINED = "trained.npz"
WITHDREW = "withdrew"
"""The array of `TRAINED` that says of each visit whether its patient withdrew."""
ACTIVATION = "activation.npz"
SPREAD = "spread"
"""The array beside the predictions, which only the files of methods with a spread have."""
FEDERATION = "federation"
"""A folder for the files of a cell's federation, deleted when the cell is finished."""

Rows = list[dict[str, Any]]
Matrix = Float[np.ndarray, "visit combination"]


@dataclass(frozen=True)
class Predicted:
    """Visits, and what is predicted for them."""

    visits: VisitTable
    predictions: Matrix
    """For these visits in order, points."""
    spread: Matrix | None = None
    """How far off the method expects each prediction to be, points, NaN where there is none; None of methods that
    expect nothing."""


@dataclass(frozen=True)
class CellOutcome:
    """What a method did on a partition."""

    test: VisitTable
    """The visits that it is evaluated on: those whose images could be read."""
    predictions: Matrix
    """For these visits in order, points."""
    learning: Rows = field(default_factory=list)
    """Rows of `learning.csv`: step, step_kind, combination, rmse on the validation visits."""
    rounds: Rows = field(default_factory=list)
    """Federated: rows of `rounds.csv`, one for each round and site."""
    privacy: Rows = field(default_factory=list)
    """Federated: rows of `privacy.csv`, one for each site."""
    activation: Activation | None = None
    calibration: Predicted | None = None
    """The validation visits, which intervals are calibrated on; None of methods that have none."""
    spread: Matrix | None = None
    """As `Predicted.spread`, beside `predictions`."""
    trained: Predicted | None = None
    """The training visits of all sites, where the study asks what a model remembers of them."""
    withdrew: frozenset[str] = frozenset()
    """Those of them who withdrew."""


@dataclass(frozen=True)
class FinishedCell:
    """Where a finished cell's files are, and what the tables call it."""

    method: str
    regime: str
    seed: int
    folder: Path

    @property
    def key(self) -> dict[str, Any]:
        """The columns that name the cell in every table."""
        return {"method": self.method, "regime": self.regime, "seed": self.seed}

    def card(self) -> dict[str, Any]:
        """The settings, versions, duration and memory of the run."""
        return dict(json.loads((self.folder / CARD).read_text()))

    def unseen_sites(self) -> list[str]:
        """The sites that are judged and trained nothing."""
        return list(self.card().get("unseen_sites", []))

    def modality_names(self) -> list[str]:
        """The modalities of the cell's own model, in order."""
        return _modality_names(self.card())


def cell_folder(cells: Path, cell: Cell) -> Path:
    """The folder of a cell inside the folder of all cells."""
    return cells / cell.digest()[:16]


def is_finished(folder: Path) -> bool:
    """Whether a cell's folder is complete."""
    return (folder / CARD).exists()


def unfinished_folder(folder: Path) -> Path:
    """A new, empty folder for this process to work in; `publish` gives it the name of the cell's folder."""
    work = folder.with_name(f"{folder.name}.{os.getpid()}.unfinished")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    return work


def delete_unfinished(cells: Path) -> None:
    """Delete what killed processes left in the folder of all cells."""
    for unfinished in cells.glob("*.unfinished"):
        shutil.rmtree(unfinished)


def write_outcome(work: Path, outcome: CellOutcome, site_of: Mapping[str, str]) -> None:
    """Write all files but the card. `site_of`: the site that the partition gave each subject to."""
    _write_predicted(work / PREDICTIONS, Predicted(outcome.test, outcome.predictions, outcome.spread), site_of)
    if outcome.calibration:
        _write_predicted(work / CALIBRATION, outcome.calibration, site_of)
    if outcome.trained:
        withdrew = np.array([visit.subject_id in outcome.withdrew for visit in outcome.trained.visits])
        _write_predicted(work / TRAINED, outcome.trained, site_of, {WITHDREW: withdrew})
    for table, rows in ((LEARNING, outcome.learning), (ROUNDS, outcome.rounds), (PRIVACY, outcome.privacy)):
        if rows:
            pd.DataFrame(rows).to_csv(work / table.file_name, index=False)
    if outcome.activation:
        found = outcome.activation
        np.savez(work / ACTIVATION, share=found.share, load_cv=found.load_cv, collapsed=found.collapsed_experts)


def _write_predicted(
    path: Path, found: Predicted, site_of: Mapping[str, str], more: Mapping[str, np.ndarray] = MappingProxyType({})
) -> None:
    columns = {
        "subject": np.array([v.subject_id for v in found.visits], dtype=np.str_),
        "site": np.array([site_of[v.subject_id] for v in found.visits], dtype=np.str_),
        "baseline": np.array([v.baseline_cdrsb for v in found.visits]),
        "target": np.array([v.delta_cdrsb for v in found.visits], dtype=np.float64),
        "prediction": found.predictions,
        **more,
    }
    if found.spread is not None:
        columns[SPREAD] = found.spread
    np.savez(path, **columns)  # type: ignore[arg-type]


def publish(work: Path, folder: Path, card: Mapping[str, Any]) -> Path:
    """Write the card and rename the folder that a process worked in to `folder`, unless another process was faster."""
    (work / CARD).write_text(json.dumps(card, indent=1))
    shutil.rmtree(work / FEDERATION, ignore_errors=True)
    if is_finished(folder):
        shutil.rmtree(work, ignore_errors=True)
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    try:
        work.rename(folder)
    except OSError:  # another process finished the same cell in this moment; both hold the same figures
        shutil.rmtree(work, ignore_errors=True)
    return folder


def read_predictions(folder: Path, file: str = PREDICTIONS) -> pd.DataFrame:
    """A finished cell's test visits: subject, site, baseline, target, and the prediction for each combination.

    `CALIBRATION` as `file` has the same of the visits that intervals are calibrated on, where the cell kept them.
    """
    names = _modality_names(json.loads((folder / CARD).read_text()))
    columns = [combination_name(c) for c in all_combinations(names)]
    with np.load(folder / file) as saved:
        visits = pd.DataFrame({key: saved[key] for key in ("subject", "site", "baseline", "target")})
        return pd.concat([visits, pd.DataFrame(saved["prediction"], columns=columns)], axis=1)


def read_spread(folder: Path, file: str = PREDICTIONS) -> Matrix | None:
    """The spread beside each of a finished cell's predictions, points, NaN where there is no prediction.

    None where the file keeps none: the method predicts none, or the cell is of a version that did not keep it. Raises
    DataError for spreads that are not those of the file's predictions.
    """
    with np.load(folder / file) as saved:
        if SPREAD not in saved:
            return None
        try:
            spread = np.asarray(saved[SPREAD])
        except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error):
            raise _damaged(folder / file, "cannot be read") from None
        predictions = np.asarray(saved["prediction"])
    if spread.dtype.kind != "f" or spread.shape != predictions.shape:
        raise _damaged(folder / file, "are not one number beside each prediction")
    known = ~np.isnan(predictions)
    if not np.array_equal(known, ~np.isnan(spread)) or not (np.isfinite(spread[known]) & (spread[known] > 0)).all():
        raise _damaged(folder / file, "are not above zero beside each prediction and missing where there is none")
    return spread.astype(np.float64)


def _damaged(path: Path, why: str) -> DataError:
    return DataError(f"the spreads in {path} {why}; delete the folder {path.parent} and run the study again")


def gathered(cells: Sequence[FinishedCell], table: StudyTable) -> pd.DataFrame:
    """The rows that the cells keep of a table, with the columns that name the cell; empty where no cell has any."""
    paths = [(cell, cell.folder / table.file_name) for cell in cells]
    return rows_of_cells(
        [pd.read_csv(path, dtype={"site": str}).assign(**cell.key) for cell, path in paths if path.exists()]
    )


def _modality_names(card: Mapping[str, Any]) -> list[str]:
    return [modality["name"] for modality in card["cell"]["model"]["modalities"]]
