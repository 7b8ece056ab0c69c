"""How a training uses the machine: the precision of its products, the order of its sums, its steps' memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from permmoe.config import TrainConfig
from permmoe.model import PerMMoE
from permmoe.runtime.devices import device_of, has_tiles
from permmoe.runtime.memory_pages import keep_freed_pages


def autocast(model: PerMMoE, config: TrainConfig) -> AbstractContextManager[object]:
    """Mixed precision where the configuration asks for it or, at `auto`, where it was measured to be faster.

    It is faster on GPUs with bf16, and on CPUs with AMX tiles for the encoders that declare a gain from them (the
    pooled encoder's small products gain nothing). Everywhere else all products stay in fp32.
    """
    device = device_of(model)
    wanted = config.precision == "bf16"
    if config.precision == "auto":
        wanted = torch.cuda.is_bf16_supported() if device.type == "cuda" else _gains_from_tiles(model)
    return torch.autocast(device.type, dtype=torch.bfloat16) if wanted else nullcontext()


@contextmanager
def repeatable(config: TrainConfig) -> Iterator[None]:
    """Inside, where the configuration asks for it, every operation gives the same bits from the same input, or fails.

    It holds for the process and not for a thread, as a seeded generator does (`seeded`); afterwards all is as before.
    An operation that knows no fixed order on a GPU raises RuntimeError. None of a training here does, which
    tests/permmoe/training/test_repeatable.py holds against PyTorch's own list.
    """
    if not config.deterministic:
        yield
        return
    # cuBLAS sums in a fixed order with a workspace of a fixed size (torch.use_deterministic_algorithms).
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    was_on = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    tries_all = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    # Of several algorithms the fastest by a measurement need not be the same one twice.
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_on, warn_only=only_warns)
        torch.backends.cudnn.benchmark = tries_all


def keep_memory_of_steps(model: PerMMoE, *, is_stacked: bool = False) -> None:
    """Let this process keep what one training step frees for the next one, where the model is trained on a CPU."""
    if device_of(model).type == "cpu":
        # Without tiles convolutions take so long that clearing pages does not matter, measured.
        keep_freed_pages(without_limit=is_stacked or _gains_from_tiles(model))


def _gains_from_tiles(model: PerMMoE) -> bool:
    return model.config.encoder.declaration.gains_from_tiles and has_tiles()
