"""A training step on a GPU: speed, hidden synchronisations, deterministic mode; prints "no GPU" where there is none.

    python benchmarks/gpu.py [--encoders cnn,sfcn,pooled] [--visits 8] [--repeats 9]

For each encoder, at 91×109×91 voxels with half of the volumes missing: forward, backward and optimiser in plain fp32,
in bf16, and in bf16 with channels_last_3d, in turn; where in the code the host waits for the device during a step
(`torch.cuda.set_sync_debug_mode`); and whether two runs with deterministic algorithms end with the same bits. Prints
JSON. Not part of `make bench`.

By reading the code, a step of the trainer waits for the device when it looks at the loss and at the gradient's norm
before it takes a step, and nowhere else. `Batch.observed` stays on the CPU, where the places of tokens follow from it,
and in bf16 experts are grouped products whose offsets only the device knows (`Experts.grouped`).
tests/permmoe/runtime/test_device_path.py runs a step on a device without values, on which every read of a value fails.
In fp32, and with rows that are no multiple of eight numbers, the experts do read the busiest expert's number of tokens.
Exposure is counted without waiting: patterns where the batch was made, mass on the device.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from permmoe.config import TrainConfig
from permmoe.data.batch import Batch
from permmoe.model import PerMMoE
from permmoe.runtime.provenance import machine, versions
from permmoe.training.losses import total_loss
from permmoe.training.optimiser import make_optimiser
from permmoe.training.seeds import make_model
from permmoe_benchmarks.library.inputs import half_missing_visits, model_config
from permmoe_benchmarks.library.scale import SCALES, Scale
from permmoe_benchmarks.library.timing import Figures

TRAIN = TrainConfig()
WAYS = ("fp32", "bf16", "bf16, channels last")
# What cuBLAS needs to be deterministic; read when it is first used.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def batch_and_model(scale: Scale, kind: str, way: str, device: torch.device) -> tuple[PerMMoE, Batch]:
    """A model and a batch on the device, in the memory format of this way."""
    config = model_config(scale, kind)
    batch = half_missing_visits(config, scale.visits).batch(torch.arange(scale.visits)).to(device)
    model = make_model(config, 0).to(device).train()
    if way.endswith("channels last"):
        channels_last(model)
    return model, batch


def channels_last(model: PerMMoE) -> None:
    """Lay out convolutions' weights, and so all feature maps, with channels innermost, as permmoe does on a CPU."""
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def step_of(model: PerMMoE, batch: Batch, way: str, device: torch.device) -> Callable[[], Tensor]:
    """A function that takes a step and returns the loss, without reading its value."""
    optimiser = make_optimiser(model, TRAIN)
    precision: AbstractContextManager[object] = (
        torch.autocast(device.type, dtype=torch.bfloat16) if way.startswith("bf16") else nullcontext()
    )

    def step() -> Tensor:
        with precision:
            loss = total_loss(model(batch), batch, TRAIN)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return loss.detach()

    return step


def milliseconds(scale: Scale, kind: str, repeats: int, device: torch.device) -> dict[str, Any]:
    """The median and spread of a step each way, and its speed as a multiple of plain fp32's; the ways take turns."""
    steps = {way: step_of(*batch_and_model(scale, kind, way, device), way, device) for way in WAYS}
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for step in steps.values():
        step()
    for _ in range(repeats):
        for way, step in steps.items():
            _wait(device)
            started = time.perf_counter()
            step()
            _wait(device)
            times[way].append(1e3 * (time.perf_counter() - started))
    plain = times["fp32"]
    return {
        way: {
            "median": statistics.median(own), "least": min(own), "most": max(own),
            "against_fp32": statistics.median(p / o for p, o in zip(plain, own, strict=True)),
        }
        for way, own in times.items()
    }  # fmt: skip


def synchronisations(scale: Scale, kind: str, device: torch.device) -> dict[str, int]:
    """The lines of code at which the host waits for the device in a step, and how often it does."""
    model, batch = batch_and_model(scale, kind, WAYS[-1], device)
    step = step_of(model, batch, WAYS[-1], device)
    step()
    _wait(device)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    found = Counter(f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroni" in str(w.message))
    return dict(found)


def determinism(scale: Scale, kind: str, device: torch.device) -> str:
    """Whether two runs of three steps end with the same bits with deterministic algorithms switched on."""

    def weights() -> list[Tensor]:
        torch.manual_seed(0)
        model, batch = batch_and_model(scale, kind, WAYS[-1], device)
        torch.manual_seed(1)
        step = step_of(model, batch, WAYS[-1], device)
        for _ in range(3):
            step()
        return [p.detach().cpu() for p in model.parameters()]

    torch.use_deterministic_algorithms(True)
    try:
        first, second = weights(), weights()
    except RuntimeError as error:
        return f"refused: {str(error).splitlines()[0]}"
    finally:
        torch.use_deterministic_algorithms(False)
    return "same bits" if all(torch.equal(a, b) for a, b in zip(first, second, strict=True)) else "different bits"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measured(scale: Scale, kinds: list[str], repeats: int, device: torch.device) -> Figures:
    """Times, determinism and synchronisations of a step, for each encoder."""
    return {
        kind: {
            "step_ms": milliseconds(scale, kind, repeats, device),
            "deterministic": determinism(scale, kind, device),
            "synchronisations": synchronisations(scale, kind, device) if device.type == "cuda" else {},
        }
        for kind in kinds
    }


def main() -> None:
    """Measure and print, or say that there is nothing to measure on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", default="cnn,sfcn,pooled")
    parser.add_argument("--visits", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=9)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU")
        return
    scale = replace(SCALES["full"], visits=given.visits)
    device = torch.device("cuda")
    figures = measured(scale, given.encoders.split(","), given.repeats, device)
    about = {"gpu": torch.cuda.get_device_name(device), "machine": machine(), "versions": versions(), "seed": 0}
    print(json.dumps({**about, "visits": given.visits, "encoders": figures}, indent=1))
