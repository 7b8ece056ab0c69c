"""A training step of a stack of models beside as many steps of single ones, of the default study's model.

    python benchmarks/side_by_side.py [--device cpu] [--models 1,5,20] [--turns 5]

Each model has 64 visits of its own, half of whose volumes are missing, in two batches. Both ways train an epoch in
turn; a figure is the median over turns, per model and step.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch

from permmoe.runtime.devices import training_device
from permmoe.runtime.provenance import machine, versions
from permmoe.training.epochs import step_count, train_epochs
from permmoe.training.optimiser import make_optimiser
from permmoe.training.seeds import make_model
from permmoe.training.stacked_epochs import StackedTraining
from permmoe_benchmarks.library.cohort import default_study
from permmoe_benchmarks.library.inputs import half_missing_visits
from permmoe_benchmarks.library.timing import Figures

VISITS = 64


def side_by_side(models: int, device: str, turns: int) -> Figures:
    """Milliseconds of a model's step by itself and in a stack of so many, and their ratio."""
    study = default_study()
    data = half_missing_visits(study.model, VISITS)
    steps = models * step_count(VISITS, study.train, 1)
    single = [make_model(study.model, seed).to(device) for seed in range(models)]
    optimisers = [make_optimiser(model, study.train) for model in single]
    stacked = [make_model(study.model, seed).to(device) for seed in range(models)]
    training = StackedTraining(stacked, [data] * models, study.train, range(models))
    alone, together = list[float](), list[float]()
    for epoch in range(turns + 1):
        started = _now(device)
        for seed, (model, optimiser) in enumerate(zip(single, optimisers, strict=True)):
            train_epochs(model, data, study.train, first_epoch=epoch, epochs=1, seed=seed, optimiser=optimiser)
        alone.append((_now(device) - started) / steps)
        started = _now(device)
        training.train_epoch(epoch)
        together.append((_now(device) - started) / steps)
    # The first epoch of both warms up.
    alone_ms, together_ms = 1e3 * median(alone[1:]), 1e3 * median(together[1:])
    return {"models": models, "alone_ms": alone_ms, "together_ms": together_ms, "gain": alone_ms / together_ms}


def _now(device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    """Print a line for each number of models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", default="1,5,20")
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    device = training_device(given.device, gains_from_gpu=True)
    torch.set_num_threads(1)
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU, one thread"
    print(f"{machine()}; {name}; {versions()}; random inputs, seeds from 0")
    for models in map(int, given.models.split(",")):
        found = side_by_side(models, device, given.turns)
        print(
            f"{models} models: a step takes {found['alone_ms']:.2f} ms a model one by one, "
            f"{found['together_ms']:.2f} ms side by side (gain {found['gain']:.2f}×)"
        )
