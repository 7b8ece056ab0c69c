"""How much memory a training step takes, counted without a card: from the shapes that autograd keeps."""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from permmoe.layers.encoders import volume_encoder
from permmoe.layers.input_kinds import INPUT_KINDS
from permmoe_benchmarks.library.inputs import model_config
from permmoe_benchmarks.library.scale import PATTERNS, Scale
from permmoe_benchmarks.library.timing import Figures

VOLUMES_A_VISIT = len(PATTERNS[0])
"""Half of the four modalities."""
CONTEXT_GB = 1.0
"""What a CUDA context and its libraries are taken to need beside PyTorch's tensors."""
COPIES = 4
"""Of each parameter: itself, its gradient, and AdamW's two moments."""


def memory_of_step(scale: Scale, encoder: str, visits: int, card_gb: float = 24.0) -> Figures:
    """Return GB of a step of that many visits in fp32, and how many visits a card of `card_gb` holds.

    Counted are what the encoders keep for the backward pass, the gradients of one encoder's largest feature map at
    both ends of a layer, and weights with gradients and moments; all behind the encoders is small beside it. Not
    counted are cuDNN's workspaces and what an allocator loses. In bf16 feature maps take half, and the places of maxima
    as much as in fp32.
    """
    kept_a_volume, largest_a_volume, weights = _gigabytes_a_volume(scale, encoder)
    n_modalities = 4
    # One modality's backward pass runs after the other's.
    of_a_visit = VOLUMES_A_VISIT * (kept_a_volume + 2 * largest_a_volume / n_modalities)
    fixed = COPIES * n_modalities * weights
    return {
        "gb": fixed + visits * of_a_visit,
        "gb_a_visit": of_a_visit,
        "visits_on_the_card": int((card_gb - CONTEXT_GB - fixed) / of_a_visit),
        "card_gb": card_gb,
    }


def _gigabytes_a_volume(scale: Scale, encoder: str) -> tuple[float, float, float]:
    """What an encoder keeps of a volume, its largest single tensor of one, and its weights, GB in fp32."""
    config = model_config(scale, encoder)
    kept: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    # Tensors that have shapes and no memory.
    with FakeTensorMode():
        model = volume_encoder(config.modalities[0], config)
        volume = torch.empty(1, *INPUT_KINDS["volume"].shape(config.modalities[0], config))
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            model(volume)
        weights = {p.untyped_storage()._cdata: p.untyped_storage().nbytes() for p in model.parameters()}
    sizes = [storage.nbytes() for key, storage in kept.items() if key not in weights]
    return sum(sizes) / 1e9, max(sizes) / 1e9, sum(weights.values()) / 1e9
