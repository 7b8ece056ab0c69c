"""Random choices that can be repeated: seeds that follow from what they are for, and fresh models made from a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from torch import Tensor

from permmoe.config import ModelConfig
from permmoe.errors import ConfigurationError
from permmoe.model import PerMMoE
from permmoe.runtime.devices import seeded


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part and its place, the same on every machine."""
    text = "\x1f".join(str(p) for p in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def member_seed(seed: int, member: int) -> int:
    """The training seed of an ensemble's member, from 0. The first has the training's own: it is that single model."""
    return derive_seed(seed, "member", member) if member else seed


def make_model(config: ModelConfig, seed: int, brought: Mapping[str, Tensor] | None = None) -> PerMMoE:
    """A freshly initialised model; the same seed gives the same weights and leaves the global generator alone.

    `brought` are the parameters of the file that `encoder.weights` names (permmoe.encoder_weights). Raises
    ConfigurationError where it names one and nothing was brought.
    """
    with seeded(derive_seed(seed, "initial weights")):
        model = PerMMoE(config)
    if config.encoder.weights and not brought:
        raise ConfigurationError(
            f"encoder.weights names {config.encoder.weights.file}, which nothing here reads: studies of invented "
            "patients and benchmarks start from random encoders; leave it out"
        )
    if brought:
        model.load_state_dict({**model.state_dict(), **brought})
    return model
