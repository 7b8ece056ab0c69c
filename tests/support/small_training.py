"""A small model, its training and its weights, for tests that train."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from permmoe.config import TrainConfig
from permmoe.model import PerMMoE
from tests.support.model_batches import small_config

CONFIG = small_config(dropout=0.1)
TRAIN = TrainConfig(epochs=5, warmup_epochs=2, batch_size=7, modality_dropout=0.3, learning_rate=3e-3, seed=13)


def weights_of(model: PerMMoE) -> dict[str, Tensor]:
    """Copies of the model's parameters by name."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def are_identical(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether both hold the same names with bitwise equal values."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
