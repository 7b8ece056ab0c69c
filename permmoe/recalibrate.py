"""A trained model with the intervals of other patients: a new folder, in whose card the old calibration is kept."""

from __future__ import annotations

from pathlib import Path

from permmoe.calibration.calibrate import calibrate, require_calibration
from permmoe.calibration.calibration import Calibration, recalibrated
from permmoe.config import ModelConfig
from permmoe.data.cache import VolumeCache
from permmoe.data.data_digest import data_digest
from permmoe.data.dataset import VisitData
from permmoe.data.outcome_columns import USUAL_COLUMNS, OutcomeColumns
from permmoe.data.splits import Split
from permmoe.errors import ConfigurationError
from permmoe.predict import load_model
from permmoe.runs import load_visits, trained_config
from permmoe.runtime.checkpoint import load_checkpoint, save_checkpoint


def calibrate_model(
    folder: Path,
    manifest: Path,
    out: Path,
    part: Split | None = None,
    *,
    cache: Path,
    columns: OutcomeColumns = USUAL_COLUMNS,
    are_trusted: bool = False,
) -> Calibration:
    """Calibrate the model in `folder` on the manifest's visits, all or a part of its split, and write it to `out`.

    Raises ConfigurationError for an `out` that is there already and for visits that trained the model, DataError for
    too few visits.
    """
    if out.exists():
        raise ConfigurationError(f"{out} is there already; name a new folder, so that no calibration is lost")
    trained, (state, card) = load_model(folder), load_checkpoint(folder)
    visits, _ = load_visits(manifest, trained_config(folder), cache, columns, are_trusted=are_trusted)
    if part in (None, "train") and card.get("data_digest") == _digest(visits, trained.config, cache):
        # Errors on visits that trained a model are too small, and so would be its intervals.
        raise ConfigurationError(
            "the manifest has the visits that trained the model, whose errors are too small; give --part validation, "
            "or another manifest"
        )
    data = visits if part is None else visits.part(part)
    whose = f"{'all' if part is None else f'the {part}'} visits of a manifest, not of the training"
    found = require_calibration(calibrate(trained.network, data, source=whose), len(data))
    save_checkpoint(out, state, recalibrated(card, found))
    return found


def _digest(visits: VisitData, model: ModelConfig, cache: Path) -> str:
    return data_digest(visits.visits, model.modalities, model.grid, VolumeCache(cache))
