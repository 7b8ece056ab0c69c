"""Where tensors are computed, and the random numbers of that place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from permmoe.errors import ConfigurationError


def training_device(name: str) -> str:
    """The device of that name, `auto` resolved to a GPU where there is one. Raises ConfigurationError."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigurationError(f"device {name!r} is not a device; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError(f"device {name}: PyTorch sees no GPU; use cpu, or install a CUDA build")
    return name


def device_of(model: torch.nn.Module) -> torch.device:
    """The device that the model's parameters are on."""
    return next(model.parameters()).device


def has_tiles() -> bool:
    """Whether this CPU has AMX tiles, without which its bf16 is slower than its fp32."""
    return bool(torch.cpu._is_amx_tile_supported())


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Random numbers of the CPU and of the device follow from the seed; after the block they go on as if undisturbed.

    On the CPU they are those of torch.manual_seed, which does more: it seeds every kind of device that PyTorch knows
    of, at a third of a small training step's time.
    """
    gpus = [device] if device and device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield
