"""Gradients of single patients, clipped part by part (McMahan et al. 2018, arXiv 1710.06963).

A patient whose gradient is long in one part of the model then keeps his say in the others. Whoever adds or leaves out a
patient changes each part's sum by no more than that part's bound, and so the whole sum by no more than the root of the
bounds' sum of squares: to that the noise is calibrated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class GradientBound:
    """Parts of a gradient that are clipped together."""

    norm: float
    """The L2 norm that they have at most."""
    pieces: tuple[tuple[str, int | None], ...]
    """Parameters, or slices of stacked ones along their first dimension."""


def clipped_by_part(
    gradients: Mapping[str, Float[Tensor, "patient ..."]], bounds: Sequence[GradientBound]
) -> dict[str, Float[Tensor, "patient ..."]]:
    """The gradients with every patient's parts shortened to their bounds, if they are longer.

    Raises ValueError for a gradient that no bound is for, whole or slice.
    """
    _require_all(gradients, bounds)
    found = {name: gradient.clone() for name, gradient in gradients.items()}
    for bound in bounds:
        pieces = [found[name] if index is None else found[name][:, index] for name, index in bound.pieces]
        squares = torch.stack([piece.flatten(1).square().sum(1) for piece in pieces])
        # At a gradient of zeros the factor is infinite before it is held at one.
        factor = (bound.norm / squares.sum(0).sqrt()).clamp(max=1.0)
        for piece in pieces:
            piece.mul_(factor.view(-1, *[1] * (piece.ndim - 1)))
    return found


def _require_all(gradients: Mapping[str, Tensor], bounds: Sequence[GradientBound]) -> None:
    bounded = {piece for bound in bounds for piece in bound.pieces}
    for name, gradient in gradients.items():
        if (name, None) not in bounded and not all((name, i) in bounded for i in range(gradient.shape[1])):
            raise ValueError(f"a part of the gradient of {name} has no bound")
