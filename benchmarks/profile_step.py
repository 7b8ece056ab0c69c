"""Where the time of a training step and of a simulated round goes: seconds of named parts, measured, not guessed.

    python benchmarks/profile_step.py [quick|full]

Functions of permmoe are timed while its own trainer and its own federation run; a part's time is its own, without the
parts inside it. A step's backward pass is one part; torch's profiler says which operations it consists of.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from sides import SCALES, Scale, model_config, prepared_cohort, simulated_rounds, visits_in_memory
from torch.profiler import ProfilerActivity, profile

from permmoe.config import TrainConfig
from permmoe.data.cache import VolumeCache
from permmoe.data.dataset import VisitData
from permmoe.layers.encoders import fixed_stem
from permmoe.training.trainer import make_model, make_optimiser, train_epochs

Part = tuple[str, str, str]
"""What the part is called; the module, or module:Class, that holds the function; the function's name there."""

STEP: tuple[Part, ...] = (
    ("gathering the batch", "permmoe.data.dataset:VisitData", "batch"),
    ("encoders, forward", "permmoe.layers.encoders:TokenEncoder", "forward"),
    ("missing bank, forward", "permmoe.layers.missing_bank:MissingBank", "forward"),
    ("attention, forward", "permmoe.layers.attention:FusionAttention", "forward"),
    ("routers, forward", "permmoe.layers.routers:Routers", "forward"),
    ("experts, forward", "permmoe.layers.experts:Experts", "forward"),
    ("head, forward", "permmoe.model:Head", "forward"),
    ("placing tokens, rest of the forward pass", "permmoe.model:PerMMoE", "forward"),
    ("losses", "permmoe.training.trainer", "total_loss"),
    ("backward", "torch:Tensor", "backward"),
    ("clipping the gradient", "torch.nn.utils", "clip_grad_norm_"),
    ("optimiser", "torch.optim:AdamW", "step"),
    ("counting exposure", "permmoe.training.trainer:_Tally", "add"),
)

ROUND: tuple[Part, ...] = (
    ("local training", "permmoe_client.participation.local_round", "train_epochs"),
    ("site: reading its settings", "permmoe_client.app", "read_site"),
    ("site: plan and approval", "permmoe_client.app", "_approved"),
    ("site: building and filling the model", "permmoe_client.participation.local_round", "_opened"),
    ("site: changes by module", "permmoe_client.participation.local_round", "module_support"),
    ("site: writing and recording the reply", "permmoe_client.app", "send_training"),
    ("site: rest of a training round", "permmoe_client.app", "train_round"),
    ("digests of modules", "permmoe.federated.records", "module_digests"),
    ("server: writing the instruction", "permmoe_server.protocol.downlink", "write_instruction"),
    ("server: checking replies", "permmoe_server.protocol.rounds", "accept_training"),
    ("server: folding replies", "permmoe_server.protocol.rounds", "fold"),
    ("server: averages and server step", "permmoe_server.protocol.rounds", "_stepped"),
    ("server: checkpoints", "permmoe_server.app", "save_checkpoint"),
    ("server: round log to disk", "os", "fsync"),
    ("grid: carrying messages", "permmoe_simulation.engines.grid:InProcessGrid", "_carried"),
)


class Stopwatch:
    """Seconds of parts, each without the parts inside it."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._inside: list[float] = []

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function; its own time goes to the part."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self._inside.append(0.0)
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                elapsed = time.perf_counter() - started
                self.seconds[name] += elapsed - self._inside.pop()
                if self._inside:
                    self._inside[-1] += elapsed

        return call

    @contextmanager
    def watching(self, parts: Sequence[Part]) -> Iterator[None]:
        """Time the parts' functions until the end of the block."""
        originals: list[tuple[Any, str, Any]] = []
        try:
            for name, place, function in parts:
                module, _, kind = place.partition(":")
                owner: Any = importlib.import_module(module)
                owner = getattr(owner, kind) if kind else owner
                original = getattr(owner, function)
                originals.append((owner, function, original))
                setattr(owner, function, self.timed(name, original))
            yield
        finally:
            for owner, function, original in reversed(originals):
                setattr(owner, function, original)


def step_parts(run: Callable[[int], object], steps: int) -> dict[str, float]:
    """Milliseconds a step of each part; `run` makes so many steps, and is warm after the first call."""
    run(2)
    watch = Stopwatch()
    with watch.watching(STEP):
        started = time.perf_counter()
        run(steps)
        total = time.perf_counter() - started
    return _milliseconds(watch, total, steps)


def operations(run: Callable[[int], object], steps: int) -> dict[str, float]:
    """Milliseconds a step of the costliest operations, forward and backward, as torch's profiler sees them."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        run(steps)
    own = Counter({e.key: e.self_cpu_time_total / 1e3 / steps for e in seen.key_averages()})
    return {name: round(ms, 3) for name, ms in own.most_common(12)}


def default_step(scale: Scale) -> dict[str, Any]:
    """The default study's model, batches of its cohort's visits."""
    cell, found = prepared_cohort(scale)
    data = VisitData.load(found.visits, cell.model, VolumeCache(found.cache), stem=fixed_stem(cell.model))[0]
    data = data.subset(torch.arange(cell.train.batch_size))
    model = make_model(cell.model, 0)
    optimiser = make_optimiser(model, cell.train)

    def run(steps: int) -> None:
        train_epochs(model, data, cell.train, first_epoch=0, epochs=steps, seed=0, optimiser=optimiser)

    return {
        "visits": len(data), "parts_ms": step_parts(run, 50), "operations_ms": operations(run, 20)
    }  # fmt: skip


def cnn_step(scale: Scale) -> dict[str, Any]:
    """The six-layer CNN on random volumes of the scale's grid."""
    config = model_config(scale, "cnn")
    data, model = visits_in_memory(config, scale), make_model(config, 0)
    train = TrainConfig(batch_size=scale.visits, modality_dropout=0.0)
    optimiser = make_optimiser(model, train)

    def run(steps: int) -> None:
        train_epochs(model, data, train, first_epoch=0, epochs=steps, seed=0, optimiser=optimiser)

    return {
        "visits": len(data), "parts_ms": step_parts(run, 2), "operations_ms": operations(run, 1)
    }  # fmt: skip


def simulated_round(scale: Scale) -> dict[str, Any]:
    """A round of the default study over its hospitals in one process, evaluation off."""
    watch, rounds = Stopwatch(), 8
    with watch.watching(ROUND):
        figures = simulated_rounds(scale, 2, rounds, watch.seconds.clear)
    return {"sites": figures["sites"], "parts_ms": _milliseconds(watch, rounds * figures["seconds"], rounds)}


def _milliseconds(watch: Stopwatch, total: float, n: int) -> dict[str, float]:
    parts = {name: 1e3 * seconds / n for name, seconds in watch.seconds.most_common()}
    rest = 1e3 * total / n - sum(parts.values())
    return {"total": round(1e3 * total / n, 3), **{k: round(v, 3) for k, v in parts.items()}, "rest": round(rest, 3)}


def profiles(scale: Scale) -> dict[str, Any]:
    """All three."""
    return {
        "default_step": default_step(scale), "cnn_step": cnn_step(scale), "simulated_round": simulated_round(scale)
    }  # fmt: skip


def main(found: Mapping[str, Any]) -> None:
    """Print each part with its share."""
    for name, own in found.items():
        size = ", ".join(f"{value} {key}" for key, value in own.items() if not key.endswith("_ms"))
        print(f"\n{name.replace('_', ' ')} ({size})")
        for title in ("parts_ms", "operations_ms"):
            total = own["parts_ms"]["total"]
            for part, ms in own.get(title, {}).items():
                print(f"  {part:52} {ms:9.2f} ms {100 * ms / total:6.1f}%")


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    main(json.loads(json.dumps(profiles(SCALES[sys.argv[1] if len(sys.argv) > 1 else "quick"]))))
