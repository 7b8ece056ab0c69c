"""How much faster the batched experts are than a loop over experts: forward and backward, one thread, CPU time.

    python benchmarks/experts.py

The loop is the reference's, each expert a module of its own. Trust the ratio, not the milliseconds: they depend on the
machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from reference import LoopedExperts
from torch import nn

from permmoe.config import ModelConfig
from permmoe.layers.experts import Experts
from permmoe.layers.routers import top_k_gates

REPEATS = 31


def step(experts: nn.Module, config: ModelConfig, n_tokens: int) -> Callable[[], None]:
    """Forward and backward of evenly routed random tokens."""
    tokens = torch.randn(n_tokens, config.width, requires_grad=True)
    gates = top_k_gates(torch.randn(1, n_tokens, config.experts), config.top_k)[0][0].requires_grad_()
    direction = torch.randn(n_tokens, config.width)

    def run() -> None:
        experts.zero_grad()
        torch.autograd.backward(experts(tokens, gates), direction)

    return run


def milliseconds(run: Callable[[], None]) -> float:
    """Median CPU time of a call."""
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


if __name__ == "__main__":
    main()
