"""Training steps on a GPU, or on the CPU that stands in for one: encoders by precisions, layouts and modes.

A step is forward pass, losses, backward pass and optimiser, at 91×109×91 voxels with half of the volumes missing; the
trainer clips the gradient and looks at the loss besides. By reading the code, a step of the trainer waits for the
device when it looks at the loss and at the gradient's norm before it takes a step, and nowhere else. `Batch.observed`
stays on the CPU, where the places of tokens follow from it, and in bf16 experts are grouped products whose offsets only
the device knows (`Experts.grouped`). tests/permmoe/runtime/test_device_path.py runs a step on a device without values,
on which every read of a value fails. In fp32, and with rows that are no multiple of eight numbers, the experts do read
the busiest expert's number of tokens. Exposure is counted without waiting: patterns where the batch was made, mass on
the device.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._autograd import DeviceType
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

from permmoe.config import TrainConfig
from permmoe.data.batch import Batch
from permmoe.model import PerMMoE
from permmoe.training.hardware import repeatable
from permmoe.training.losses import total_loss
from permmoe.training.optimiser import make_optimiser
from permmoe.training.seeds import make_model
from permmoe_benchmarks.library.inputs import half_missing_visits, model_config
from permmoe_benchmarks.library.scale import Scale
from permmoe_benchmarks.library.timing import Figures

COMPILER = "inductor"
"""What `torch.compile` hands an encoder to."""
FEW = 3
"""Steps that are not timed, and steps that the profiler watches; fewer where fewer are timed."""


@dataclass(frozen=True)
class Way:
    """How a step is computed, and the precision of the products whose peak it is compared with."""

    name: str
    precision: str
    has_channels_last: bool = False
    is_compiled: bool = False
    is_deterministic: bool = False

    @property
    def train(self) -> TrainConfig:
        """The settings of its training."""
        return TrainConfig(deterministic=self.is_deterministic)


BF16 = "bf16"
WAYS = (
    Way("fp32, strict", "fp32"),
    Way("TF32", "TF32"),
    Way("bf16", BF16),
    Way("bf16, channels last", BF16, has_channels_last=True),
    Way("bf16, channels last, compiled encoders", BF16, has_channels_last=True, is_compiled=True),
    Way("bf16, deterministic", BF16, is_deterministic=True),
)


@contextmanager
def products_in(precision: str, device: torch.device) -> Iterator[None]:
    """Matrix products and convolutions of fp32 tensors in TF32 where that is asked for, and everything in bf16."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "TF32"
    half: AbstractContextManager[object] = (
        torch.autocast(device.type, dtype=torch.bfloat16) if precision == BF16 else nullcontext()
    )
    try:
        with half:
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def matrix_peak(precision: str, size: int, device: torch.device) -> float:
    """The most TFLOP/s that ten products of square matrices reached."""
    left, right = torch.randn(2, size, size, device=device)
    if precision == BF16:
        left, right = left.bfloat16(), right.bfloat16()
    with products_in("TF32" if precision == "TF32" else "fp32", device):
        seconds = seconds_of(lambda: left @ right, 10, device)
    return 2e-12 * size**3 / min(seconds)


def measured_step(scale: Scale, kind: str, way: Way, repeats: int, device: torch.device) -> Figures:
    """Milliseconds of a step, those in which the device was busy, and the most memory it took (GB, of a GPU).

    A way that does not fit into memory, or that a compiler fails at, has the reason under `failed`.
    """
    try:
        with repeatable(way.train):
            step = step_of(*batch_and_model(scale, kind, way, device), way, device)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            for _ in range(min(FEW, repeats)):
                step()
            times = [1e3 * s for s in seconds_of(step, repeats, device)]
            busy = busy_milliseconds(step, min(FEW, repeats), device)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return {"failed": "does not fit into memory"}
    except Exception as error:
        # A compiler's errors have no class in common; each way is measured for itself.
        return {"failed": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:120]}"}
    memory = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None
    return {"ms": statistics.median(times), "least": min(times), "most": max(times), "busy_ms": busy, "gb": memory}


def batch_and_model(scale: Scale, kind: str, way: Way, device: torch.device) -> tuple[PerMMoE, Batch]:
    """A model and a batch on the device, its layout and its encoders as the way has them."""
    config = model_config(scale, kind)
    batch = half_missing_visits(config, scale.visits).batch(torch.arange(scale.visits)).to(device)
    model = make_model(config, 0).to(device).train()
    if way.has_channels_last:
        channels_last(model)
    if way.is_compiled:
        torch._dynamo.reset()
        for encoder in model.encoders.values():
            encoder.compile(backend=COMPILER, dynamic=False)
    return model, batch


def channels_last(model: PerMMoE) -> None:
    """Lay out convolutions' weights, and so all feature maps, with channels innermost, as permmoe does on a CPU."""
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def step_of(model: PerMMoE, batch: Batch, way: Way, device: torch.device) -> Callable[[], Tensor]:
    """A function that takes a step and returns the loss, without reading its value."""
    optimiser = make_optimiser(model, way.train)

    def step() -> Tensor:
        with products_in(way.precision, device):
            loss = total_loss(model(batch), batch, way.train)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        return loss.detach()

    return step


def seconds_of(step: Callable[[], object], repeats: int, device: torch.device) -> list[float]:
    """The time of each call, from a device that has nothing to do to one that has done everything."""
    times = []
    for _ in range(repeats):
        _wait(device)
        started = time.perf_counter()
        step()
        _wait(device)
        times.append(time.perf_counter() - started)
    return times


def busy_milliseconds(step: Callable[[], object], n_steps: int, device: torch.device) -> float:
    """The time in which the device computes, of one step: kernels of a GPU, operations of a CPU."""
    with profile() as watched:
        for _ in range(n_steps):
            step()
        _wait(device)
    return computing_microseconds(watched.key_averages(), device.type) / 1e3 / n_steps


def computing_microseconds(events: Any, device_type: str) -> float:
    """The sum over a profiler's events of what ran on the device, without what only names a stretch of time."""
    wanted = DeviceType.CUDA if device_type == "cuda" else DeviceType.CPU
    own = [e for e in events if e.device_type == wanted and not e.is_user_annotation]
    return float(sum(e.self_device_time_total if device_type == "cuda" else e.self_cpu_time_total for e in own))


def gflop_of(scale: Scale, kind: str, device: torch.device) -> float:
    """The arithmetic of a step's products and convolutions, forward and backward, GFLOP."""
    way = WAYS[0]
    step = step_of(*batch_and_model(scale, kind, way, device), way, device)
    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops()) / 1e9


def same_twice(scale: Scale, kind: str, n_steps: int, device: torch.device) -> str:
    """Whether two trainings of a few steps end with the same bits with deterministic algorithms switched on."""
    [way] = [way for way in WAYS if way.is_deterministic]

    def weights() -> list[Tensor]:
        torch.manual_seed(0)
        model, batch = batch_and_model(scale, kind, way, device)
        torch.manual_seed(1)
        step = step_of(model, batch, way, device)
        for _ in range(n_steps):
            step()
        return [p.detach().cpu() for p in model.parameters()]

    try:
        with repeatable(way.train):
            first, second = weights(), weights()
    except RuntimeError as error:
        return f"refused: {str(error).splitlines()[0]}"
    return "same bits" if all(torch.equal(a, b) for a, b in zip(first, second, strict=True)) else "different bits"


def synchronisations(scale: Scale, kind: str, device: torch.device) -> dict[str, int]:
    """The lines of code at which the host waits for a GPU in a step in bf16, and how often it does."""
    [way] = [way for way in WAYS if way.name == BF16]
    step = step_of(*batch_and_model(scale, kind, way, device), way, device)
    step()
    _wait(device)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return dict(Counter(f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroni" in str(w.message)))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
