"""How much faster the batched experts are than a loop over experts: forward and backward, one thread, CPU time.

    python benchmarks/experts.py

Trust the ratio, not the milliseconds: they depend on the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from permmoe.config import ModelConfig
from permmoe.experts import Experts
from permmoe.routers import top_k_gates

REPEATS = 31


def loop(experts: Experts, tokens: Tensor, gates: Tensor) -> Tensor:
    """One expert after the other, each on its own tokens."""
    output = torch.zeros_like(tokens)
    for e in range(gates.shape[1]):
        sent = gates[:, e].nonzero().flatten()
        hidden = F.gelu(tokens[sent] @ experts.w1[e] + experts.b1[e])
        output = output.index_add(0, sent, gates[sent, e, None] * (hidden @ experts.w2[e] + experts.b2[e]))
    return output


def milliseconds(step: Callable[[], None]) -> float:
    """Median CPU time of a call."""
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    return 1e3 * sorted(times)[REPEATS // 2]


def compare(config: ModelConfig, n_tokens: int) -> tuple[float, float]:
    """Milliseconds of the loop and of the batched experts for evenly routed random tokens."""
    experts = Experts(config)
    tokens = torch.randn(n_tokens, config.width, requires_grad=True)
    gates = top_k_gates(torch.randn(1, n_tokens, config.experts), config.top_k)[0][0].requires_grad_()
    direction = torch.randn(n_tokens, config.width)

    def run(output: Callable[[], Tensor]) -> float:
        return milliseconds(lambda: torch.autograd.backward(output(), direction))

    return run(lambda: loop(experts, tokens, gates)), run(lambda: experts(tokens, gates))


def main() -> None:
    """Print one line a size."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{'d':>4} {'h':>4} {'tokens':>7} {'loop ms':>8} {'batched ms':>11} {'ratio':>6}")
    for width, hidden in ((64, 128), (128, 256)):
        config = ModelConfig.model_validate({"width": width, "expert_hidden": hidden})
        for n_tokens in (16, 32, 128, 512):
            slow, fast = compare(config, n_tokens)
            print(f"{width:4} {hidden:4} {n_tokens:7} {slow:8.2f} {fast:11.2f} {slow / fast:6.1f}")


if __name__ == "__main__":
    main()
