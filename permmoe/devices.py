"""Where tensors are computed."""

from __future__ import annotations

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
