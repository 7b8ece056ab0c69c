"""A trained model with the intervals of other patients: a new folder, in whose card the old calibration is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from permmoe.calibration.at_hospital import at_hospital
from permmoe.calibration.calibrate import calibrate, predicted, require_calibration
from permmoe.calibration.calibration import Calibration, OwnPatients, calibration_of, recalibrated
from permmoe.calibration.coverage import reaches
from permmoe.calibration.intervals import LEVELS
from permmoe.config import HospitalLine, ModelConfig
from permmoe.data.cache import VolumeCache
from permmoe.data.data_digest import data_digest
from permmoe.data.dataset import VisitData
from permmoe.data.outcome_columns import USUAL_COLUMNS, OutcomeColumns
from permmoe.data.splits import Split
from permmoe.errors import ConfigurationError
from permmoe.evaluation.harmonised import as_read
from permmoe.predict import TrainedModel, load_model
from permmoe.runs import load_visits, trained_config
from permmoe.runtime.checkpoint import load_checkpoint, save_checkpoint


def calibrate_model(
    folder: Path,
    manifest: Path,
    out: Path,
    part: Split | None = None,
    *,
    alone: bool = False,
    cache: Path,
    columns: OutcomeColumns = USUAL_COLUMNS,
    are_trusted: bool = False,
) -> TrainedModel:
    """Calibrate the model in `folder` on the manifest's visits, all or a part of its split; write it to `out` and
    return it.

    All visits of a hospital that trained nothing are taken together with the calibration that the model has, and change
    its predictions too (permmoe.calibration.at_hospital). `alone`, a part, and visits for a model without calibration
    give intervals by themselves and leave predictions as they are.

    Raises ConfigurationError for an `out` that is there already, for visits that trained the model and for a model that
    another hospital calibrated; DataError for too few visits, and where all have the same outcome.
    """
    if out.exists():
        raise ConfigurationError(f"{out} is there already; name a new folder, so that no calibration is lost")
    trained, (state, card) = load_model(folder), load_checkpoint(folder)
    if trained.config.at_hospital is not None:
        raise ConfigurationError(
            f"the model in {folder} was calibrated at a hospital before; name the model that it was made from"
        )
    visits, _ = load_visits(manifest, trained_config(folder), cache, columns, are_trusted=are_trusted)
    if part in (None, "train") and card.get("data_digest") == _digest(visits, trained.config, cache):
        # Errors on visits that trained a model are too small, and so would be its intervals.
        raise ConfigurationError(
            "the manifest has the visits that trained the model, whose errors are too small; give --part validation, "
            "or another manifest"
        )
    if trained.calibration is not None and not alone and part is None:
        line, found = _with_own_patients(trained, trained.calibration, visits)
        config = trained.config.model_copy(update={"at_hospital": line})
        card = {**card, "model": config.model_dump(mode="json")}
    else:
        visits, _ = as_read(trained.network, visits)
        data = visits if part is None else visits.part(part)
        whose = f"{'all' if part is None else f'the {part}'} visits of a manifest, not of the training"
        found = require_calibration(calibrate(trained.network, data, source=whose), len(data))
    save_checkpoint(out, state, recalibrated(card, found))
    return load_model(out)


def _with_own_patients(
    model: TrainedModel, calibration: Calibration, data: VisitData
) -> tuple[HospitalLine, Calibration]:
    """The line of the visits' hospital, and the model's calibration as these visits change it.

    None of them trained the model, so that all of them tell what the hospital's scanners add: as where it predicts.
    """
    data, as_scanned = as_read(model.network, data, nobody_trained=True)
    counts, config = calibration.counts(model.config.names), model.config
    predictions, scales = predicted(model.network, data)
    baseline, target = data.baseline.double().numpy(), data.target.double().numpy()
    found = at_hospital(predictions, target, reaches(counts, config, scales, baseline, LEVELS[0]))
    patients = int((~np.isnan(target)).sum())
    about = calibration.model_dump(exclude={"scores", "visits", "sites", "bins", "own_patients"})
    names = {name for reasons in as_scanned.values() for name in reasons}
    own = OwnPatients(patients=patients, widening=found.widening, as_scanned=tuple(sorted(names)))
    return found.line, calibration_of(counts.stretched(found.widening), **about, own_patients=own)


def _digest(visits: VisitData, model: ModelConfig, cache: Path) -> str:
    return data_digest(visits.visits, model.modalities, model.grid, VolumeCache(cache))
