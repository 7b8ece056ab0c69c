"""How a training uses the machine: the precision of its products, and the memory that its tensors leave behind."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

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


def keep_memory_of_steps(model: PerMMoE) -> None:
    """Let this process keep what one training step frees for the next one, where the model is trained on a CPU."""
    if device_of(model).type == "cpu":
        # Without tiles convolutions take so long that clearing pages does not matter, measured.
        keep_freed_pages(without_limit=_gains_from_tiles(model))


def _gains_from_tiles(model: PerMMoE) -> bool:
    return model.config.encoder.declaration.gains_from_tiles and has_tiles()
