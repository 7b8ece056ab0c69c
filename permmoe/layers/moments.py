"""Means over visits of features and of their products, block by block: a ridge of every combination comes from them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor, nn

EVERYBODY = "all-visits"
"""Key of the moments that need no modality; a modality's name cannot hold a hyphen."""


def block_name(first: str, second: str) -> str:
    """The key of the moments of two modalities, given in the model's order: of one with itself, its own name."""
    return first if first == second else f"{first}/{second}"


class Moments(nn.Module):
    """Means over visits of two vectors and of their outer product."""

    def __init__(self, left: int, right: int) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.zeros(left), requires_grad=False)
        self.right = nn.Parameter(torch.zeros(right), requires_grad=False)
        self.product = nn.Parameter(torch.zeros(left, right), requires_grad=False)

    def set_from(self, left: Float64[Tensor, "visit left"], right: Float64[Tensor, "visit right"]) -> None:
        """The means over these visits, of which there must be one at least."""
        self.left.copy_(left.mean(0))
        self.right.copy_(right.mean(0))
        self.product.copy_(left.T @ right / len(left))

    def covariance(self) -> Float64[Tensor, "left right"]:
        """The covariance of the two vectors over the visits of the block."""
        covariance: Tensor = self.product.double() - torch.outer(self.left.double(), self.right.double())
        return covariance


class KnownMoments:
    """Numbers moments by their values: a federation loads the same ones in every round, and solving them takes long."""

    def __init__(self) -> None:
        self._number = 0
        self._values: list[Tensor] = []
        self._versions: object = None

    def number_of(self, moments: Sequence[Tensor]) -> int:
        """The number of these values, from 1: that of the last ones, or the next. Values are compared after a write."""
        versions = tuple((tensor.data_ptr(), tensor._version) for tensor in moments)
        if versions != self._versions:
            self._versions = versions
            if not self._are_known(moments):
                self._number += 1
                self._values = [tensor.detach().clone() for tensor in moments]
        return self._number

    def _are_known(self, moments: Sequence[Tensor]) -> bool:
        return bool(self._values) and all(
            known.device == tensor.device and torch.equal(known, tensor)
            for known, tensor in zip(self._values, moments, strict=True)
        )
