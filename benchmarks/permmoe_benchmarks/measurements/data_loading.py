"""Reading batches: their share of a training step, and whether volumes are read from files one batch ahead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from permmoe.config import EncoderConfig
from permmoe.data.batch import Batch
from permmoe.data.cache import VolumeCache
from permmoe.data.dataset import VisitData
from permmoe.data.rows import FileRows
from permmoe.layers.encoders import fixed_stem
from permmoe.training.epochs import train_epochs
from permmoe.training.optimiser import make_optimiser
from permmoe.training.seeds import make_model
from permmoe_benchmarks.library.cohort import prepared_cohort
from permmoe_benchmarks.library.inputs import model_config
from permmoe_benchmarks.library.own_process import Measurement
from permmoe_benchmarks.library.scale import SCALES, Scale
from permmoe_benchmarks.library.timing import Figures, median_seconds

STEPS, BATCH = 4, 4


class VisitsReadFirst(VisitData):
    """Visits whose batches are read when they are needed, and none ahead of its step."""

    def batches(self, parts: Sequence[Tensor], withheld: Tensor, at: Tensor | None = None) -> Iterator[Batch]:
        """The batches of VisitData."""
        return (self.batch(rows, withheld[rows], None if at is None else at[rows]) for rows in parts)


def loader(scale: Scale) -> Figures:
    """Return the seconds of gathering the default study's batch, of the whole step, and of reading a volume's file."""
    cell, found = prepared_cohort(scale)
    data = VisitData.load(found.visits, cell.model, VolumeCache(found.cache), stem=fixed_stem(cell.model))[0]
    model, rows = make_model(cell.model, 0), torch.arange(cell.train.batch_size)
    some = data.subset(rows)
    optimiser = make_optimiser(model, cell.train)
    step = median_seconds(
        lambda: train_epochs(model, some, cell.train, first_epoch=0, epochs=1, seed=0, optimiser=optimiser), 9
    )
    cnn = model_config(SCALES["quick"], "cnn").model_copy(update={"grid": cell.model.grid})
    files = VisitData.load(
        found.visits.where(lambda v: v in some.visits.visits), cnn, VolumeCache(found.cache),
        stem=fixed_stem(cnn), keep_in_memory=False,
    )[0]  # fmt: skip
    assert isinstance(files.inputs["t1"], FileRows)
    n_volumes = int(files.observed.sum())
    return {
        "step_seconds": step,
        "batch_seconds": median_seconds(lambda: some.batch(rows), 9),
        "file_seconds_a_volume": median_seconds(lambda: files.batch(torch.arange(len(files))), 9) / n_volumes,
    }


def step_from_files(scale: Scale, *, is_ahead: bool) -> Figures:
    """Return the seconds of a small convolutional encoder's step on volumes from files, read meanwhile or first."""
    cell, found = prepared_cohort(scale)
    config = cell.model.model_copy(update={"encoder": EncoderConfig(kind="sfcn_lite")})
    train = cell.train.model_copy(update={"batch_size": BATCH, "modality_dropout": 0.0})
    stem = fixed_stem(config)
    data = VisitData.load(found.visits, config, VolumeCache(found.cache), stem=stem, keep_in_memory=False)[0]
    some = data.subset(torch.arange(STEPS * BATCH))
    if not is_ahead:
        some = VisitsReadFirst(**vars(some))
    model = make_model(config, 0)
    optimiser = make_optimiser(model, train)

    def steps() -> None:
        train_epochs(model, some, train, first_epoch=0, epochs=1, seed=0, optimiser=optimiser)

    return {"seconds": median_seconds(steps) / STEPS}


SIDES = {
    "loader": Measurement(loader),
    "files_ahead": Measurement(step_from_files, {"is_ahead": True}),
    "files_first": Measurement(step_from_files, {"is_ahead": False}),
}
