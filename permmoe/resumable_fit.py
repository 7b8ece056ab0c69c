"""A fit in a folder: after every epoch it holds all that a killed process needs to go on (`last/`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from permmoe.config import TrainConfig
from permmoe.data.dataset import VisitData
from permmoe.errors import ConfigurationError
from permmoe.evaluation.tracked_figures import epoch_figures
from permmoe.model import PerMMoE
from permmoe.runtime.checkpoint import join_groups, load_checkpoint, save_checkpoint, split_groups
from permmoe.runtime.checkpoint_card import has_checkpoint
from permmoe.runtime.tracking.tracker import TrackedRun
from permmoe.training.fit import EpochReport, FitState, fit

COMPARED = ("model", "train", "split", "data_digest")
"""What of a card has to be the same for a fit to go on."""


@dataclass(frozen=True)
class Learning:
    """What a fit reports after an epoch, and to whom."""

    tracked: TrackedRun
    on_epoch: Callable[[EpochReport], None] | None = None


def fit_in(
    folder: Path,
    model: PerMMoE,
    train: VisitData,
    validation: VisitData,
    config: TrainConfig,
    card: Mapping[str, Any],
    learning: Learning,
    scans: VisitData,
) -> FitState:
    """Fit the model, or go on fitting it, with its checkpoint `last/` and its curve `learning.csv` in a folder.

    `scans` are the visits that encoders are pretrained on. Raises ConfigurationError for a folder begun with another
    configuration or other data, and where training diverges.
    """
    folder.mkdir(parents=True, exist_ok=True)
    resume, curve = _resume(folder, card)

    def keep(report: EpochReport) -> None:
        curve.append({"epoch": report.epoch, "loss": report.loss, "validation_rmse": report.validation_rmse})
        save_checkpoint(folder / "last", _tensors(report.state), {**card, **_progress(report.state), "learning": curve})
        figures = epoch_figures(report.loss, len(train), report.validation_rmse, report.validation)
        learning.tracked.log(figures, report.epoch)
        if learning.on_epoch:
            learning.on_epoch(report)

    try:
        state = fit(model, train, validation, config, scans=scans, resume=resume, on_epoch=keep)
    except FloatingPointError as error:
        raise ConfigurationError(
            f"training diverged: {error}; lower train.learning_rate, and name a new folder or delete {folder}"
        ) from None
    pd.DataFrame(curve).to_csv(folder / "learning.csv", index=False)
    return state


def _tensors(state: FitState) -> dict[str, Tensor]:
    return join_groups(
        {
            "weights": state.weights,
            "average": state.average,
            "best": state.best_weights,
            "optimiser": state.optimiser,
        }
    )


def _progress(state: FitState) -> dict[str, Any]:
    return {"progress": {"epoch": state.epoch, "best_epoch": state.best_epoch, "best_mse": state.best_mse}}


def _resume(folder: Path, card: Mapping[str, Any]) -> tuple[FitState | None, list[dict[str, Any]]]:
    if not has_checkpoint(folder / "last"):
        return None, []
    tensors, saved = load_checkpoint(folder / "last")
    for key in COMPARED:
        if saved[key] != card[key]:
            raise ConfigurationError(
                f"{folder} was begun with another {key.replace('_', ' ')}; name a new folder, or delete this one"
            )
    groups = split_groups(tensors, expected=("weights", "average", "best", "optimiser"))
    progress = saved["progress"]
    state = FitState(
        epoch=progress["epoch"],
        weights=groups["weights"],
        average=groups["average"],
        best_weights=groups["best"],
        best_epoch=progress["best_epoch"],
        best_mse=progress["best_mse"],
        optimiser=groups["optimiser"],
    )
    return state, list(saved["learning"])
