"""What differential privacy costs in training: a private step and the gradients of single patients, beside plain ones.

    python benchmarks/private_training.py [--visits 32] [--repeats 7]

The command runs vmap over the dense pass, a loop over patients and a plain step in turn, and prints a table.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from permmoe.config import ModelConfig, PrivacyConfig, TrainConfig, VolumeGrid
from permmoe.data.batch import Batch
from permmoe.model import PerMMoE
from permmoe.runtime.process_memory import forget_peak_memory, peak_memory_mb, resident_memory_mb
from permmoe.runtime.provenance import machine, versions
from permmoe.training.epochs import train_epochs
from permmoe.training.losses import total_loss
from permmoe.training.optimiser import make_optimiser
from permmoe.training.private_trainer import per_visit_gradients, train_privately
from permmoe.training.seeds import make_model
from permmoe_benchmarks.library.cohort import default_study
from permmoe_benchmarks.library.curve import Curve, at_every_scale
from permmoe_benchmarks.library.inputs import complete_visits
from permmoe_benchmarks.library.timing import Figures, median_seconds

TRAIN = TrainConfig(balance=False)


def private_step(batch: int) -> Figures:
    """Return seconds and memory of a step with differential privacy and of a plain one, default study, and the ratio.

    Memory is the peak above the process with its data and model, MB.
    """
    study = default_study()
    data, model = complete_visits(study.model, batch), make_model(study.model, 0)
    train = study.train.model_copy(update={"batch_size": batch})
    optimiser = make_optimiser(model, train)

    def plain() -> None:
        train_epochs(model, data, train, first_epoch=0, epochs=1, seed=0, optimiser=optimiser)

    def private() -> None:
        privacy = PrivacyConfig(noise_multiplier=1.0)
        train_privately(
            model,
            data,
            train,
            privacy,
            noise_multiplier=1.0,
            sample_rate=1.0,
            steps=1,
            patients=float(len(data)),
            seed=0,
        )

    before = resident_memory_mb()
    figures: Figures = {}
    for name, way in (("plain", plain), ("private", private)):
        forget_peak_memory()
        figures[f"{name}_seconds"] = median_seconds(way, 5, 0.7)
        figures[f"{name}_memory_mb"] = peak_memory_mb() - before
    return figures | {"ratio": figures["private_seconds"] / figures["plain_seconds"]}


def main() -> None:
    """Print medians, extents and ratios to the plain step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visits", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = ModelConfig(grid=VolumeGrid(shape=(48, 56, 48), spacing_mm=4.0))
    model = make_model(config, 0).train()
    visits = [_visit(config) for _ in range(arguments.visits)]
    batch = _joined(config, visits)
    ways: dict[str, Callable[[], object]] = {
        "plain step": lambda: _plain_gradient(model, batch),
        "vmap, dense": lambda: per_visit_gradients(model, batch, TRAIN),
        "loop, sparse": lambda: _plain_gradients(model, visits),
    }
    seconds = seconds_in_turn(ways, arguments.repeats)
    plain = statistics.median(seconds["plain step"])
    print(f"{machine()}; {versions()}; seed 0; {arguments.visits} visits of random numbers, default model, one thread")
    for name, found in seconds.items():
        middle = statistics.median(found)
        extent = f"{1e3 * min(found):.1f} to {1e3 * max(found):.1f}"
        print(f"{name:14s} {1e3 * middle:7.1f} ms ({extent}), × {middle / plain:.1f}")


def seconds_in_turn(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """The seconds of each way's calls; the ways take turns, and each has one call that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def _visit(config: ModelConfig) -> Batch:
    observed = torch.rand(1, len(config.names)) < 0.7
    observed[0, 0] = True
    inputs = {
        name: torch.randn(1, 1, *config.encoder.cells) for m, name in enumerate(config.names) if bool(observed[0, m])
    }
    return Batch(inputs, observed, torch.rand(1), torch.rand(1))


def _joined(config: ModelConfig, visits: list[Batch]) -> Batch:
    inputs = {name: torch.cat([v.inputs[name] for v in visits if name in v.inputs]) for name in config.names}
    observed = torch.cat([v.observed for v in visits])
    return Batch(inputs, observed, torch.cat([v.baseline for v in visits]), torch.cat([v.target for v in visits]))


def _plain_gradients(model: PerMMoE, visits: list[Batch]) -> None:
    for visit in visits:
        _plain_gradient(model, visit)


def _plain_gradient(model: PerMMoE, batch: Batch) -> None:
    model.zero_grad()
    total_loss(model(batch), batch, TRAIN).backward()  # type: ignore[no-untyped-call]


CURVES = (
    Curve(
        "private-batch", "private_step", private_step, "batch",
        {"tiny": (2, 3, 4), "quick": (8, 16, 32, 64), "full": (4, 8, 16, 32, 64, 128)},
        at_every_scale(), {"tiny": 1, "quick": 1, "full": 5},
    ),
)  # fmt: skip
