"""Where the time of a training step and of a simulated round goes.

    python benchmarks/profile_step.py [quick|full]

The parts of a step are timed with hooks of torch's modules, tensors and optimisers while the trainer runs; a part's
time is its own, without the parts inside it. torch's profiler says which operations a step consists of. The parts of a
round are those that sites and server measure themselves and report in the round's record.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.hooks import RemovableHandle

from permmoe.config import TrainConfig
from permmoe.data.batch import Batch
from permmoe.data.cache import VolumeCache
from permmoe.data.dataset import VisitData
from permmoe.layers.encoders import fixed_stem
from permmoe.model import Output, PerMMoE
from permmoe.training.epochs import train_epochs
from permmoe.training.optimiser import make_optimiser
from permmoe.training.seeds import make_model
from permmoe_benchmarks.library.cohort import prepared_cohort
from permmoe_benchmarks.library.inputs import half_missing_visits, model_config
from permmoe_benchmarks.library.own_process import Measurement, measure
from permmoe_benchmarks.library.scale import Scale
from permmoe_benchmarks.library.timing import Figures, Stopwatch, milliseconds_by_part
from permmoe_benchmarks.measurements.simulated_round import simulate_rounds

MOST_OPERATIONS = 12


@dataclass(frozen=True)
class TimedVisits(VisitData):
    """Visits that time the gathering of their batches."""

    watch: Stopwatch = field(default_factory=Stopwatch)

    def batch(self, rows: Tensor, withheld: Tensor | None = None, at: Tensor | None = None) -> Batch:
        """The batch of VisitData."""
        self.watch.begin("gathering the batch")
        try:
            return super().batch(rows, withheld, at)
        finally:
            self.watch.end()


class StepHooks:
    """Times the parts of training steps with torch's hooks; a step has one backward pass."""

    def __init__(self, model: PerMMoE, optimiser: torch.optim.Optimizer, watch: Stopwatch) -> None:
        self.model, self.optimiser, self.watch = model, optimiser, watch
        self.last_gradient = 0.0

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Time all steps until the end of the block."""
        model = self.model
        named = {"missing bank": model.missing_bank, "attention": model.attention, "routers": model.routers,
                 "experts": model.experts, "head": model.head}  # fmt: skip
        handles: list[RemovableHandle] = []
        for name, module in [*named.items(), *(("encoders", encoder) for encoder in model.encoders.values())]:
            handles += self._timed(module, f"{name}, forward")
        handles += self._timed(model, "placing tokens, rest of the forward pass")
        handles.append(model.register_forward_hook(self._begin_losses))
        handles += [
            p.register_post_accumulate_grad_hook(self._note_gradient)  # type: ignore[no-untyped-call]
            for p in self._trained()
        ]
        handles.append(self.optimiser.register_step_pre_hook(self._begin_optimiser))
        handles.append(self.optimiser.register_step_post_hook(lambda *_: self.watch.end()))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _timed(self, module: nn.Module, name: str) -> list[RemovableHandle]:
        return [
            module.register_forward_pre_hook(lambda *_: self.watch.begin(name)),
            module.register_forward_hook(lambda *_: self.watch.end()),
        ]

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def _begin_losses(self, module: nn.Module, inputs: Any, output: Output) -> None:
        self.watch.begin("losses")
        output.prediction.register_hook(self._begin_backward)  # type: ignore[no-untyped-call]

    def _begin_backward(self, gradient: Tensor) -> None:
        self.watch.end()
        self.watch.begin("backward")

    def _note_gradient(self, parameter: Tensor) -> None:
        self.last_gradient = self.watch.clock()

    def _begin_optimiser(self, *_: Any) -> None:
        self.watch.end(at=self.last_gradient)
        self.watch.seconds["counting exposure, clipping the gradient"] += self.watch.clock() - self.last_gradient
        self.watch.begin("optimiser")


def step_profile(data: VisitData, model: PerMMoE, train: TrainConfig, *, steps: int, profiled: int) -> Figures:
    """Milliseconds of the parts and of the costliest operations of a step, over `steps` and `profiled` of them.

    All visits are one batch.
    """
    watch, optimiser = Stopwatch(), make_optimiser(model, train)
    timed = TimedVisits(**vars(data), watch=watch)

    def run(visits: VisitData, epochs: int) -> None:
        train_epochs(model, visits, train, first_epoch=0, epochs=epochs, seed=0, optimiser=optimiser)

    run(data, 2)
    with StepHooks(model, optimiser, watch).attached():
        started = time.perf_counter()
        run(timed, steps)
        total = time.perf_counter() - started
    parts = milliseconds_by_part(watch.seconds, total, steps)
    return {
        "visits": len(data),
        "parts_ms": parts,
        "operations_ms": operations(lambda: run(data, profiled), profiled),
    }


def operations(run: Callable[[], object], steps: int) -> dict[str, float]:
    """Milliseconds a step of the costliest operations, forward and backward, as torch's profiler measures them."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        run()
    own = Counter({e.key: e.self_cpu_time_total / 1e3 / steps for e in seen.key_averages()})
    return {name: round(ms, 3) for name, ms in own.most_common(MOST_OPERATIONS)}


def default_step(scale: Scale) -> Figures:
    """Return the profile of a step of the default study's model on visits of its cohort."""
    cell, found = prepared_cohort(scale)
    data = VisitData.load(found.visits, cell.model, VolumeCache(found.cache), stem=fixed_stem(cell.model))[0]
    data = data.subset(torch.arange(cell.train.batch_size))
    return step_profile(data, make_model(cell.model, 0), cell.train, steps=50, profiled=20)


def cnn_step(scale: Scale) -> Figures:
    """Return the profile of a step of the six-layer CNN on random volumes of the scale's grid."""
    config = model_config(scale, "cnn")
    train = TrainConfig(batch_size=scale.visits, modality_dropout=0.0)
    data = half_missing_visits(config, scale.visits)
    return step_profile(data, make_model(config, 0), train, steps=2, profiled=1)


def round_profile(scale: Scale) -> Figures:
    """Return the milliseconds of a simulated round's parts; the rest is checkpoints, round log and carried messages."""
    rounds = simulate_rounds(scale)
    parts = {
        "local training": rounds.site_mean(lambda site: site.figures.train_seconds),
        "sites: reading, checking and writing records": rounds.site_mean(lambda site: site.figures.overhead_seconds),
        "server: checking and folding replies": rounds.site_mean(lambda site: site.server_seconds),
        "server: writing the model": rounds.mean(lambda record: record.training.stage_seconds["write"]),
        "server: averages and server step": rounds.mean(lambda record: record.step_seconds),
    }
    return {"sites": rounds.sites, "parts_ms": milliseconds_by_part(parts, rounds.seconds, 1)}


def time_profile(scale: Scale) -> Figures:
    """Return the profiles of both steps and of a simulated round."""
    return {
        "default_step": default_step(scale), "cnn_step": cnn_step(scale), "simulated_round": round_profile(scale)
    }  # fmt: skip


def main() -> None:
    """Print each part with its share."""
    scale = sys.argv[1] if len(sys.argv) > 1 else "quick"
    for name, own in measure(Measurement(time_profile, {"scale": scale})).items():
        size = ", ".join(f"{value} {key}" for key, value in own.items() if not key.endswith("_ms"))
        print(f"\n{name.replace('_', ' ')} ({size})")
        total = own["parts_ms"]["total"]
        for title in ("parts_ms", "operations_ms"):
            for part, ms in own.get(title, {}).items():
                print(f"  {part:52} {ms:9.2f} ms {100 * ms / total:6.1f}%")


SIDES = {"profile": Measurement(time_profile)}
