"""The GPU benchmark takes its whole path on a CPU at small sizes; no test here looks at a clock."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch._C._autograd import DeviceType

from permmoe_benchmarks.library.scale import SCALES
from permmoe_benchmarks.measurements import gpu_step
from permmoe_benchmarks.measurements.gpu_step import (
    WAYS,
    computing_microseconds,
    gflop_of,
    matrix_peak,
    measured_step,
    products_in,
    same_twice,
)

SMALL = replace(SCALES["full"], grid=(9, 11, 8), visits=2)
CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", ["sfcn_lite", "pooled"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_every_way_takes_steps_and_leaves_the_process_as_it_was(kind: str, way: gpu_step.Way) -> None:
    # A compiler takes minutes, and cannot read functions whose shapes are checked, as they are in tests.
    with torch.compiler.set_stance("force_eager"):
        found = measured_step(SMALL, kind, way, 1, CPU)
    assert found["ms"] > 0 and found["busy_ms"] > 0 and found["gb"] is None
    assert not torch.are_deterministic_algorithms_enabled() and not torch.is_autocast_enabled("cpu")


def test_a_way_that_fails_says_so_and_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gpu_step, "seconds_of", full)
    assert measured_step(SMALL, "pooled", WAYS[0], 1, CPU) == {"failed": "does not fit into memory"}
    monkeypatch.setattr(gpu_step, "COMPILER", "no such compiler")
    [compiled] = [way for way in WAYS if way.is_compiled]
    assert "no such compiler" in measured_step(SMALL, "pooled", compiled, 1, CPU)["failed"]


def test_precisions_are_what_their_names_say() -> None:
    before = torch.backends.cudnn.allow_tf32
    for precision, is_half, is_tf32 in (("fp32", False, False), ("TF32", False, True), ("bf16", True, False)):
        with products_in(precision, CPU):
            assert torch.is_autocast_enabled("cpu") is is_half
            assert torch.backends.cuda.matmul.allow_tf32 is is_tf32 and torch.backends.cudnn.allow_tf32 is is_tf32
    assert torch.backends.cudnn.allow_tf32 is before
    assert matrix_peak("fp32", 32, CPU) > 0


@dataclass(frozen=True)
class Event:
    device_type: DeviceType
    self_cpu_time_total: float
    self_device_time_total: float
    is_user_annotation: bool = False


def test_a_busy_device_is_one_that_runs_kernels_and_names_of_stretches_are_not_counted_twice() -> None:
    events = [
        Event(DeviceType.CPU, 3.0, 5.0),
        Event(DeviceType.CUDA, 0.0, 5.0),
        Event(DeviceType.CUDA, 0.0, 7.0),
        Event(DeviceType.CUDA, 0.0, 11.0, is_user_annotation=True),
    ]
    assert computing_microseconds(events, "cuda") == 12.0
    assert computing_microseconds(events, "cpu") == 3.0


def test_a_deterministic_training_is_the_same_twice_and_its_arithmetic_is_counted() -> None:
    assert same_twice(SMALL, "sfcn_lite", 2, CPU) == "same bits"
    assert gflop_of(SMALL, "sfcn_lite", CPU) > gflop_of(SMALL, "pooled", CPU) > 0
