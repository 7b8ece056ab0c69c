"""What gradients of single patients cost: vmap over the dense pass, against a loop of them and against a plain step.

python benchmarks/private_training.py [--visits 32] [--repeats 7]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from permmoe.config import ModelConfig, TrainConfig, VolumeGrid
from permmoe.data.batch import Batch
from permmoe.model import PerMMoE
from permmoe.runtime.provenance import machine, versions
from permmoe.training.losses import total_loss
from permmoe.training.private_trainer import per_visit_gradients
from permmoe.training.trainer import make_model

TRAIN = TrainConfig(balance=False)


def main() -> None:
    """Print medians and ratios; the three are run in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
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
        "plain step": lambda: _plain(model, batch),
        "vmap, dense": lambda: per_visit_gradients(model, batch, TRAIN),
        "loop, sparse": lambda: [_plain(model, visit) for visit in visits],
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(arguments.repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    plain = statistics.median(seconds["plain step"])
    print(f"{machine()}; {versions()}; seed 0; {arguments.visits} visits of random numbers, default model, one thread")
    for name, found in seconds.items():
        middle = statistics.median(found)
        extent = f"{1e3 * min(found):.1f} to {1e3 * max(found):.1f}"
        print(f"{name:14s} {1e3 * middle:7.1f} ms ({extent}), × {middle / plain:.1f}")


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


def _plain(model: PerMMoE, batch: Batch) -> None:
    model.zero_grad()
    total_loss(model(batch), batch, TRAIN).backward()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
