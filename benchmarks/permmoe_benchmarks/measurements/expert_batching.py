"""How much faster the batched experts are than a loop over experts: forward and backward, one thread, CPU time.

    python benchmarks/experts.py

The loop is the reference's, in which each expert is a module of its own. Trust the ratio, not the milliseconds: they
depend on the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn

from permmoe.config import ModelConfig
from permmoe.layers.experts import Experts
from permmoe.layers.routers import top_k_gates
from permmoe.runtime.memory_pages import keep_freed_pages
from permmoe_benchmarks.library.own_process import Measurement
from permmoe_benchmarks.library.reference import LoopedExperts
from permmoe_benchmarks.library.scale import PUBLISHED, Scale
from permmoe_benchmarks.library.timing import Figures, median_seconds

REPEATS = 31
TOKENS = 32


def expert_step(scale: Scale, *, is_published: bool, is_reference: bool) -> Figures:
    """Return the seconds of forward and backward on 32 tokens, at the published sizes or the default model's.

    permmoe's experts run in a process that keeps freed pages, as the trainer's does. The scale changes nothing.
    """
    torch.manual_seed(0)
    if not is_reference:
        keep_freed_pages()
    config = ModelConfig.model_validate(PUBLISHED if is_published else {})
    experts = LoopedExperts(config) if is_reference else Experts(config)
    return {"seconds": median_seconds(step(experts, config, TOKENS))}


def step(experts: nn.Module, config: ModelConfig, n_tokens: int) -> Callable[[], None]:
    """Return a function that runs forward and backward of random tokens, which are routed evenly."""
    tokens = torch.randn(n_tokens, config.width, requires_grad=True)
    gates = top_k_gates(torch.randn(1, n_tokens, config.experts), config.top_k)[0][0].requires_grad_()
    direction = torch.randn(n_tokens, config.width)

    def run() -> None:
        experts.zero_grad()
        torch.autograd.backward(experts(tokens, gates), direction)

    return run


def milliseconds(run: Callable[[], None]) -> float:
    """The median CPU time of a call, ms."""
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return 1e3 * sorted(times)[REPEATS // 2]


def main() -> None:
    """Print one line a size."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{'d':>4} {'h':>4} {'tokens':>7} {'loop ms':>8} {'batched ms':>11} {'ratio':>6}")
    for width, hidden in ((64, 128), (128, 256)):
        config = ModelConfig.model_validate({"width": width, "expert_hidden": hidden})
        for n_tokens in (16, 32, 128, 512):
            slow, fast = (milliseconds(step(kind(config), config, n_tokens)) for kind in (LoopedExperts, Experts))
            print(f"{width:4} {hidden:4} {n_tokens:7} {slow:8.2f} {fast:11.2f} {slow / fast:6.1f}")


SIDES = {
    "experts": Measurement(expert_step, {"is_published": True, "is_reference": False}),
    "experts_loop": Measurement(expert_step, {"is_published": True, "is_reference": True}),
    "default_experts": Measurement(expert_step, {"is_published": False, "is_reference": False}),
    "default_experts_loop": Measurement(expert_step, {"is_published": False, "is_reference": True}),
}
