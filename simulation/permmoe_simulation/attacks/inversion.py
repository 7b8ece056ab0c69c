"""Gradient inversion: what did a patient's image look like, judged from the update of a linear map?

A linear map's weight gradient is Σ_i e_i x_iᵀ over the visits i, and its bias gradient Σ_i e_i, with x the input and e
the error that flows back (Geiping et al. 2020, arXiv 2003.14053, proposition 3.1). One visit's input is therefore their
quotient, exactly. The update of several visits is a linear mixture, which independent component analysis can take apart
while there are fewer visits than outputs (Kariyappa et al. 2023, arXiv 2209.05578).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning

from permmoe_simulation.attacks.observation import Observation

Array = np.ndarray
RANK_TOLERANCE = 1e-5
"""Singular values below this share of the largest are rounding."""
SEED = 0
"""Of the component analysis: an attack is a function of what it is given."""


@dataclass(frozen=True)
class Likeness:
    """How much the best reconstruction is like those trained with, and like as many others, by correlation."""

    member: float
    other: float

    @property
    def margin(self) -> float:
        """Above zero where the reconstruction points to a patient who was trained with; 0 on average for a guess."""
        return self.member - self.other


def reconstructions(seen: Observation, modality: str, components: int) -> Float[Array, "image cell"]:
    """Guesses at the inputs of the modality's linear map, as differences from the centre; none where none came back.

    The first is right for one visit; the others are the components of the mixture, at most `components`, scale unknown.
    """
    change = seen.changes().get(f"encoder/{modality}")
    if change is None:
        return np.zeros((0, 0))
    project = seen.model_before().encoders[modality].project
    bias = change[-project.bias.numel() :].double().numpy()
    weight = change[-project.bias.numel() - project.weight.numel() : -project.bias.numel()]
    mixture = weight.view_as(project.weight).double().numpy()
    if not np.any(bias):
        return np.zeros((0, mixture.shape[1]))
    # Least squares over all outputs of weight = bias · inputᵀ.
    single = mixture.T @ bias / (bias @ bias)
    return np.concatenate([single[None], _components(mixture, bias, components)])


def _components(
    mixture: Float[Array, "output cell"], bias: Float[Array, " output"], most: int
) -> Float[Array, "image cell"]:
    outputs, strength, cells = np.linalg.svd(mixture, full_matrices=False)
    rank = min(most, int((strength > RANK_TOLERANCE * strength[0]).sum()))
    if rank < 2:
        return cells[:0]
    analysis = FastICA(rank, whiten="unit-variance", random_state=SEED, max_iter=100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        sources = analysis.fit_transform(cells[:rank].T * cells.shape[1] ** 0.5).T
    # The bias is what an input of 1 would have caused: unmixed alike, it tells a component from its negative.
    ones = analysis.components_ @ (outputs[:, :rank].T @ bias / strength[:rank])
    signed: Float[Array, "image cell"] = sources * np.where(ones < 0, -1.0, 1.0)[:, None]
    return signed


def likeness(
    guesses: Float[Array, "guess cell"], members: Float[Array, "image cell"], others: Float[Array, "image cell"]
) -> Likeness:
    """The best match of any guess with any image of each group; both 0 where there is no guess.

    Images are differences from the mean image: that brains look like brains must not count as a success. The groups
    must be of one size, or the larger would win by chance.
    """
    if len(members) != len(others):
        raise ValueError(f"{len(members)} members against {len(others)} others; compare as many")
    if not len(guesses):
        return Likeness(0.0, 0.0)
    return Likeness(float(correlations(guesses, members).max()), float(correlations(guesses, others).max()))


def correlations(
    guesses: Float[Array, "guess cell"], images: Float[Array, "image cell"]
) -> Float[Array, "guess image"]:
    """Pearson correlation over cells; 0 with a constant image."""
    a, b = _standardised(guesses), _standardised(images)
    product: Float[Array, "guess image"] = a @ b.T
    return product


def _standardised(images: Float[Array, "image cell"]) -> Float[Array, "image cell"]:
    centred = images - images.mean(1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    standard: Float[Array, "image cell"] = centred / np.where(length > 0, length, 1.0)
    return standard
