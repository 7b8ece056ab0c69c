"""Parameters that a training leaves as they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn

from permmoe.config import TrainConfig
from permmoe.model import PerMMoE
from permmoe.training.pretraining import pretrained_modalities


@contextmanager
def frozen_encoders(model: PerMMoE, config: TrainConfig) -> Iterator[None]:
    """Inside, where the configuration asks for it, the encoders of volumes have no gradient, and no step moves them:
    what pretraining made of them stays."""
    names = pretrained_modalities(model.config) if config.frozen_encoders else ()
    with frozen(p for name in names for p in model.encoders[name].parameters()):
        yield


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Inside, these parameters have no gradient, and no step moves them."""
    held = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
        parameter.grad = None
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)
