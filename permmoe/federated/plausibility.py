"""Whether a model that came is one that training could have led to.

Whoever chooses the weights that a site trains from can choose them so that the site's update is an image of a patient.
Such weights are far from any that training reaches. So a site compares a model with the last one of the study that it
was sent or, before that, with the study's initial model, which follows from the plan; round 1 has to begin with that.

This stops weights that are made for an attack from one round to the next. It does not stop a coordinator that bends a
model slowly, within the bound, over many rounds; nor does it make the update from an honest model harmless: it bounds
how far an attack can be sharpened, not what an update says.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

import torch
from jaxtyping import Float32, Int
from torch import Tensor

from permmoe.errors import PermmoeError

TOLERANCE = 2e-3
"""Relative and absolute: half precision on the wire, and what another processor rounds otherwise."""
NOWHERE = torch.empty(0, dtype=torch.long)
Weights = Mapping[str, Float32[Tensor, " _"]]
"""Flat parameters by module."""


class ImplausibleModel(PermmoeError):
    """A model that does not follow from the one before it."""


def check_model(
    model: Weights,
    start: Weights,
    *,
    rounds: int,
    most: float,
    means: Mapping[str, Int[Tensor, " _"]],
    are_means_set: bool = True,
) -> None:
    """Check that no module is further from `start` than so many rounds of training take it.

    Modules that `start` lacks only have to be finite. `most` is the root mean square of a module's change in a round.
    `means` says which elements of a module are means that the centring round sets and training does not move, by
    default none; `are_means_set` says that they have to be as they were. Raises ImplausibleModel.
    """
    for name, weights in model.items():
        # "Every value is a number."
        if not isfinite(float(weights.sum())):
            raise ImplausibleModel(f"module {name} holds a value that is not a number")
        if name not in start:
            continue
        of_means = means.get(name, NOWHERE)
        if len(of_means) and are_means_set and not _is_same(weights[of_means], start[name][of_means]):
            # "What the centring round set stays as it was set."
            raise ImplausibleModel(f"means in module {name} changed, and only the centring round sets them")
        # Zeros for the means: to select all that is not one would take many times as long.
        change = (weights - start[name]).index_fill_(0, of_means, 0.0)
        if rounds == 0:
            # "Round 1 begins with the plan's initial model."
            if not bool((change.abs() <= TOLERANCE + TOLERANCE * start[name].abs()).all()):
                raise ImplausibleModel(f"module {name} is not that of the study's initial model")
            continue
        # "No module moves further in a round than training moves it."
        moved = float(torch.linalg.vector_norm(change)) / max(len(change) - len(of_means), 1) ** 0.5
        if not moved <= most * rounds:
            raise ImplausibleModel(
                f"module {name} moved by {moved:.3g} (root mean square) in {rounds} round(s), and "
                f"release.max_model_change allows {most:g} a round; ask the coordinator why before you raise it"
            )


def _is_same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE)
