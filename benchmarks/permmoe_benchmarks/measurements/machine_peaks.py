"""What this machine's cores can do: one thread's matrix products and memory traffic."""

from __future__ import annotations

import torch

from permmoe_benchmarks.library.own_process import Measurement
from permmoe_benchmarks.library.scale import Scale
from permmoe_benchmarks.library.timing import Figures, median_seconds


def machine_peaks(scale: Scale) -> Figures:
    """Return GFLOP/s of products in fp32 and bf16, and GB/s of copying, read and written bytes together."""
    figures: Figures = {}
    for name, dtype, size in (("fp32", torch.float32, 1536), ("bf16", torch.bfloat16, 512)):
        a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
        figures[f"{name}_gflops"] = 2e-9 * size**3 / median_seconds(lambda a=a, b=b: a @ b, 5, 0.7)  # type: ignore[misc]
    source, target = torch.ones(64 << 20), torch.empty(64 << 20)
    figures["memory_gb_a_second"] = 2e-9 * source.nbytes / median_seconds(lambda: target.copy_(source), 5, 0.7)
    return figures


SIDES = {"peaks": Measurement(machine_peaks)}
