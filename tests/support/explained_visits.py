"""A visit with images and numbers, a small model that reads them, and its page."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from permmoe.config import EncoderConfig, ModelConfig, RidgeConfig, VolumeGrid
from permmoe.data.cache import VolumeCache
from permmoe.data.outcomes import Outcomes
from permmoe.data.visits import Visit, VisitTable
from permmoe.data.volumes import grid_affine
from permmoe.explanation.page.contents import Subject
from permmoe.explanation.page.page import prediction_page
from permmoe.explanation.reasons import explain
from permmoe.modality import Modality
from permmoe.model import PerMMoE
from permmoe.predict import TrainedModel, predict
from permmoe.training.means import set_means
from tests.support.model_batches import small_config
from tests.support.small_visits import small_visits

MODALITIES = (
    Modality(name="t1"),
    Modality(name="tau", normalisation="suvr"),
    Modality(name="clinical", kind="tabular", columns=("age", "mmse"), means=(70.0, 27.0), deviations=(8.0, 2.0)),
)
OUTCOMES = Outcomes(edges=(-1, 0, 1, 3), counts=(7, 11, 5), mean=0.5, mean_score=1.5, slope=0.2)
CARD: dict[str, Any] = {
    "horizon_months": [24.0],
    "metrics": {"test_mean_rmse": 1.25},
    "versions": {"permmoe": "0.1.0"},
    "tensors_sha256": "ab" * 32,
    "data_digest": "cd" * 32,
}


def small_model(*, has_ridge: bool = True, **changes: Any) -> TrainedModel:
    """A model of T1, tau PET and two numbers, with means as a training sets them."""
    settings: dict[str, Any] = {
        "modalities": MODALITIES, "encoder": EncoderConfig(cells=(6, 7, 6), dropout=0.0, tabular_width=17),
        "ridge": RidgeConfig(cells=(2, 3, 2)) if has_ridge else None,
    } | changes  # fmt: skip
    config: ModelConfig = small_config(**settings)
    torch.manual_seed(1)
    network = PerMMoE(config)
    set_means(network, small_visits(config, 41, seed=7))
    return TrainedModel(network.eval(), is_synthetic=True)


def a_visit(folder: Path, *names: str, subject: str = "ada", session: str = "m00") -> Visit:
    """A visit with these modalities, whose images are a head of noise in template space."""
    grid, volumes = VolumeGrid(), {}
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in grid.shape), indexing="ij")
    for number, name in enumerate(n for n in names if n != "clinical"):
        head = (x**2 + y**2 + z**2 < 0.7) * (1 + 0.3 * np.random.default_rng(number).random(grid.shape))
        volumes[name] = folder / f"ada_space-MNI_{name}.nii.gz"
        nib.save(nib.Nifti1Image(head.astype(np.float32), grid_affine(grid)), volumes[name])
    tables = {"clinical": (81.5, 24.0)} if "clinical" in names else {}
    return Visit(subject, "", session, 2.5, None, 24.0, volumes=volumes, tables=tables)


def explained(model: TrainedModel, visit: Visit, folder: Path, **changes: Any) -> Subject:
    """All that the page of a visit needs."""
    cache = VolumeCache(folder / "cache")
    [prediction], left_out = predict(model, VisitTable((visit,)), cache)
    assert not len(left_out)
    outcomes: Outcomes | None = changes.pop("outcomes", OUTCOMES)
    reasons = explain(model, visit, prediction, cache, outcomes)
    return replace(Subject(model, CARD, outcomes, visit, prediction, cache, reasons), **changes)


def page_of(subject: Subject) -> str:
    """The page, made on a day."""
    return prediction_page(subject, date(2026, 11, 29))
