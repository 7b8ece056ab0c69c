"""Encoders that the outcome does not move: what pretraining made of them stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from permmoe.config import TrainConfig
from permmoe.model import PerMMoE
from permmoe.training.pretraining import pretrained_modalities


@contextmanager
def frozen_encoders(model: PerMMoE, config: TrainConfig) -> Iterator[None]:
    """Inside, where the configuration asks for it, the encoders of volumes have no gradient, and no step moves them."""
    names = pretrained_modalities(model.config) if config.frozen_encoders else ()
    held = [p for name in names for p in model.encoders[name].parameters() if p.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
        parameter.grad = None
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)
