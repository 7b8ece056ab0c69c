"""The default study and its embedded synthetic cohort, which several measurements share."""

from __future__ import annotations

import os

from permmoe.config import read_config
from permmoe_benchmarks.library.scale import ROOT, SHARED, Scale
from permmoe_simulation.studies.progress import Progress
from permmoe_simulation.studies.sources import StudyData, prepare_data
from permmoe_simulation.studies.study import Cell, StudyConfig, cells, data_source

QUIET = Progress(lambda stage, steps: None, lambda step: None, lambda note: None)


def default_study() -> StudyConfig:
    """The default study. Its model and its training are those of every measurement that does not say otherwise."""
    return read_config(ROOT / "configs" / "studies" / "default.yaml", StudyConfig)


def prepared_cohort(scale: Scale) -> tuple[Cell, StudyData]:
    """The default study's first cell, and its cohort at the scale's size, written and preprocessed where it is not."""
    study = default_study()
    [regime] = study.regimes
    source = data_source(study, regime)
    assert source.synthetic
    source = source.model_copy(update={"synthetic": source.synthetic.model_copy(update={"subjects": scale.subjects})})
    data = prepare_data(source, study.model, SHARED, os.cpu_count() or 1, QUIET)
    _, cell = cells(study, {regime: data.digest}, "inprocess")[0]
    return cell, data
