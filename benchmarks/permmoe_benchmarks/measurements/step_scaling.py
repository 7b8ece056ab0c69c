"""A training step against batch, grid and number of modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from permmoe.config import EncoderConfig, ModelConfig, TrainConfig, VolumeGrid
from permmoe.modality import Modality
from permmoe.runtime.process_memory import forget_peak_memory, peak_memory_mb, resident_memory_mb
from permmoe.training.epochs import train_epochs
from permmoe.training.optimiser import make_optimiser
from permmoe.training.seeds import make_model
from permmoe_benchmarks.library.curve import Curve, ScaleName
from permmoe_benchmarks.library.inputs import complete_visits
from permmoe_benchmarks.library.timing import Figures, median_seconds


def scaled_step(kind: str, batch: int, edge: int, modalities: int) -> Figures:
    """Return the seconds and memory of the trainer's step with the encoder `kind`.

    Every visit has every modality, a volume of edge³ voxels each. Memory is the peak above the idle process, MB.
    """
    before = resident_memory_mb()
    config = ModelConfig(
        modalities=tuple(Modality(name=f"volume{i}") for i in range(modalities)),
        grid=VolumeGrid(shape=(edge, edge, edge)),
        encoder=EncoderConfig.model_validate({"kind": kind}),
    )
    data, model = complete_visits(config, batch), make_model(config, 0)
    train = TrainConfig(batch_size=batch, modality_dropout=0.0)
    optimiser = make_optimiser(model, train)
    forget_peak_memory()
    seconds = median_seconds(
        lambda: train_epochs(model, data, train, first_epoch=0, epochs=1, seed=0, optimiser=optimiser), 3, 0.7
    )
    return {"seconds": seconds, "memory_mb": peak_memory_mb() - before}


def _curves(kind: str, batches: Sequence[int], more_batches: Sequence[int]) -> list[Curve]:
    """One curve for each axis; the other arguments stay at the centre."""
    centre = {"batch": 8, "edge": 24, "modalities": 4}
    small = {"batch": 2, "edge": 16, "modalities": 2}
    at: Mapping[str, Mapping[ScaleName, Sequence[int]]] = {
        "batch": {"tiny": (1, 2, 3), "quick": batches, "full": more_batches},
        "edge": {"tiny": (16, 18, 20), "quick": (16, 24, 32, 40), "full": (16, 24, 32, 48, 64, 96)},
        "modalities": {"tiny": (1, 2, 3), "quick": (1, 2, 4, 8), "full": (1, 2, 3, 4, 5, 6, 7, 8)},
    }
    curves = []
    for axis, places in at.items():
        others = {name: value for name, value in centre.items() if name != axis}
        tiny = {name: value for name, value in small.items() if name != axis}
        fixed: Mapping[ScaleName, Mapping[str, Any]] = {
            "tiny": {"kind": kind, **tiny}, "quick": {"kind": kind, **others}, "full": {"kind": kind, **others}
        }  # fmt: skip
        turns: Mapping[ScaleName, int] = {"tiny": 1, "quick": 1, "full": 5}
        curves.append(Curve(f"step-{axis}-{kind}", "step", scaled_step, axis, places, fixed, turns))
    return curves


CURVES = (
    *_curves("pooled", (2, 8, 32, 128), (1, 2, 4, 8, 16, 32, 64, 128)),
    *_curves("sfcn", (2, 4, 8, 32), (1, 2, 4, 8, 16, 32, 64)),
)
