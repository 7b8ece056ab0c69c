"""What the default encoder and the six-layer CNN learn, beside the figures that compare their speeds."""

from __future__ import annotations

import statistics
import time
from typing import Literal

from permmoe.config import SplitConfig, TrainConfig, VolumeGrid
from permmoe.data.cache import VolumeCache
from permmoe.data.dataset import VisitData
from permmoe.data.splits import assign_splits
from permmoe.evaluation.combinations import combination_sums
from permmoe.layers.encoders import fixed_stem
from permmoe.training.epochs import train_epochs
from permmoe.training.fit import fit
from permmoe.training.optimiser import make_optimiser
from permmoe.training.seeds import make_model
from permmoe_benchmarks.library.cohort import prepared_cohort
from permmoe_benchmarks.library.own_process import Measurement
from permmoe_benchmarks.library.scale import Scale
from permmoe_benchmarks.library.timing import Figures


def held_out_accuracy(scale: Scale, encoder: Literal["pooled", "cnn"]) -> Figures:
    """Return the RMSE on held-out visits of the synthetic cohort, all visits in one place, CDR-SB points.

    `mean_rmse` is the mean over combinations; `blind_rmse` is that of the training visits' mean change, which sees
    no image.
    """
    cell, found = prepared_cohort(scale)
    config = cell.model.model_copy(update={"encoder": cell.model.encoder.model_copy(update={"kind": encoder})})
    if encoder == "cnn":
        grid = VolumeGrid(shape=scale.cnn_grid, spacing_mm=scale.cnn_spacing_mm)
        config = config.model_copy(update={"grid": grid})
    table = assign_splits(found.visits, SplitConfig())
    data = VisitData.load(table, config, VolumeCache(found.cache), stem=fixed_stem(config))[0]
    train, test, model = data.part("train"), data.part("test"), make_model(config, 0)
    started, epochs = time.perf_counter(), 0
    if encoder == "pooled":
        fit(model, train, data.part("validation"), cell.train)
        epochs = cell.train.epochs
    else:
        settings = TrainConfig(batch_size=8)
        optimiser = make_optimiser(model, settings)
        started = time.perf_counter()
        while not epochs or time.perf_counter() - started < scale.cnn_seconds:
            train_epochs(model, train, settings, first_epoch=epochs, epochs=1, seed=0, optimiser=optimiser)
            epochs += 1
    seconds = time.perf_counter() - started
    sums = [s for s in combination_sums(model, test).values() if s.n]
    mean = float(train.target.mean())
    blind = [(s.target_squared - 2 * mean * s.target + s.n * mean**2) / s.n for s in sums]
    return {
        "mean_rmse": statistics.mean(s.rmse for s in sums), "blind_rmse": statistics.mean(b**0.5 for b in blind),
        "seconds": seconds, "epochs": epochs, "train_visits": len(train), "test_visits": len(test),
        "spacing_mm": config.grid.spacing_mm,
    }  # fmt: skip


SIDES = {
    "accuracy_default": Measurement(held_out_accuracy, {"encoder": "pooled"}),
    "accuracy_cnn": Measurement(held_out_accuracy, {"encoder": "cnn"}),
}
