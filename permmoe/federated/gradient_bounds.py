"""Which parameters a private study trains, and how far a patient may move each module's sum."""

from __future__ import annotations

from collections.abc import Collection
from math import fsum, sqrt

from permmoe.config import PrivacyConfig
from permmoe.federated.modules import ModuleLayout, kind_of
from permmoe.model import PerMMoE
from permmoe.training.clipping import GradientBound


def trained_parameters(model: PerMMoE, layout: ModuleLayout, modules: Collection[str]) -> frozenset[str]:
    """The parameters that these modules are made of, whole or as slices, and that follow a gradient."""
    learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return frozenset(piece.parameter for module in modules for piece in layout.slices[module]) & learned


def gradient_bounds(
    privacy: PrivacyConfig, layout: ModuleLayout, modules: Collection[str], trained: Collection[str]
) -> tuple[GradientBound, ...]:
    """A bound for each of the modules, as far as they have trained parameters; none where a patient's gradient is
    clipped as a whole.

    The root of their sum of squares is `max_gradient_norm`, to which the noise is calibrated.
    """
    if privacy.module_bounds is None:
        return ()
    pieces = {
        module: tuple((piece.parameter, piece.index) for piece in layout.slices[module] if piece.parameter in trained)
        for module in modules
    }
    proportions = {m: float(getattr(privacy.module_bounds, kind_of(m))) for m, own in pieces.items() if own}
    scale = privacy.max_gradient_norm / sqrt(fsum(share**2 for share in proportions.values()))
    return tuple(GradientBound(scale * share, pieces[module]) for module, share in proportions.items())
