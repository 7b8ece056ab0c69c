"""How far an image is from a training set: a distance in a few features, and how far the training's own lie.

The distance is Mahalanobis's over permmoe.data.image_features, its correlations shrunk towards none so that some dozens
of images suffice. What is usual is judged on images left out of the fit, a tenth at a time: those that means and
correlations were fitted to lie nearer than any other. A log-normal tail stands in for a quantile that few images cannot
show, with the margin that a normal sample of that size needs.

A model's card holds what is usual among its training images, modality by modality: means, deviations and correlations
of a set of thirty images or more. It is written where one place holds the data; sites of a federation share no such
figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

import numpy as np
from jaxtyping import Float, Float64
from pydantic import Field

from permmoe.config import Configuration
from permmoe.data.image_features import FEATURES, image_features

LEAST_IMAGES = 30
"""Fewer images do not tell what is usual."""
FOLDS = 10
USUAL = 0.995
"""The share of images of the training's kind that are not warned of."""
OTHER_KIND = 3.0
"""Beyond so many times the usual distance an image is of another kind."""

CLEARLY_NEARER = 1.3
"""By this factor another modality's images have to be nearer than those of the image's own."""

Features = Float64[np.ndarray, "image feature"]
Vector = Float64[np.ndarray, " feature"]
Fit = tuple[Vector, Vector, Float64[np.ndarray, "feature feature"]]
"""Means, standard deviations, and the inverse of the shrunk correlations."""


class Verdict(StrEnum):
    """What a distance says of an image."""

    USUAL = "like the training's"
    UNUSUAL = "unlike the training's"
    OTHER_KIND = "of another kind than the training's"


class Likeness(Configuration):
    """What is usual among a set's images of one modality. It is about the set: no row of it is one image."""

    images: int = Field(ge=LEAST_IMAGES, description="images that it is over")
    means: tuple[float, ...] = Field(min_length=len(FEATURES), max_length=len(FEATURES))
    deviations: tuple[float, ...] = Field(min_length=len(FEATURES), max_length=len(FEATURES))
    precision: tuple[tuple[float, ...], ...] = Field(description="inverse of the shrunk correlations")
    usual_distance: float = Field(gt=0, description="the 99.5th percentile; an image beyond it is warned of")

    def times_usual(self, features: Vector) -> float:
        """An image's distance, in multiples of the usual one."""
        fit = np.array(self.means), np.array(self.deviations), np.array(self.precision)
        return float(_distances(features[None], fit)[0]) / self.usual_distance


def verdict(volume: Float[np.ndarray, "x y z"], own: Likeness, others: Iterable[Likeness] = ()) -> Verdict:
    """Whether a prepared volume is of the kind that it is given as.

    It is not where it is very far from that kind, or clearly nearer to one of the `others`, which are modalities of the
    same unit: a FLAIR that is given as a T1.
    """
    features = image_features(volume)
    times = own.times_usual(features)
    nearest = min((other.times_usual(features) for other in others), default=np.inf)
    if times > OTHER_KIND or times > CLEARLY_NEARER * nearest:
        return Verdict.OTHER_KIND
    return Verdict.UNUSUAL if times > 1 else Verdict.USUAL


def fit_likeness(features: Features) -> Likeness | None:
    """What is usual among these images; None where there are too few to tell."""
    if len(features) < LEAST_IMAGES:
        return None
    means, deviations, precision = _fitted(features)
    return Likeness(
        images=len(features),
        means=_rounded(means),
        deviations=_rounded(deviations),
        precision=tuple(_rounded(row) for row in precision),
        usual_distance=_rounded(np.array([_usual(left_out_distances(features))]))[0],
    )


def unusual_rows(features: Features) -> tuple[int, ...]:
    """The rows of images that are unlike the rest of their set; none where there are too few to tell."""
    if len(features) < LEAST_IMAGES:
        return ()
    distances = left_out_distances(features)
    return tuple(int(row) for row in np.flatnonzero(distances > _usual(distances)))


def left_out_distances(features: Features) -> Float64[np.ndarray, " image"]:
    """Each image's distance from those of its set that are not in its fold."""
    fold = np.arange(len(features)) % FOLDS
    distances = np.empty(len(features))
    for number in range(FOLDS):
        is_out = fold == number
        distances[is_out] = _distances(features[is_out], _fitted(features[~is_out]))
    return distances


def _usual(distances: Float64[np.ndarray, " image"]) -> float:
    """The distance that a new image stays within with chance `USUAL`, were their logarithms normal."""
    # Imported late: what only reads a site's settings does without SciPy.
    from scipy.special import stdtrit

    n, logs = len(distances), np.log(distances)
    margin = float(stdtrit(n - 1, USUAL)) * np.sqrt(1 + 1 / n)
    return float(np.exp(logs.mean() + margin * logs.std(ddof=1)))


def _fitted(features: Features) -> Fit:
    n, width = features.shape
    means, deviations = features.mean(0), np.maximum(features.std(0, ddof=1), list(FEATURES.values()))
    standard = (features - means) / deviations
    kept = n / (n + width)
    correlations = kept * (standard.T @ standard / n) + (1 - kept) * np.eye(width)
    return means, deviations, np.linalg.inv(correlations)


def _distances(features: Features, fit: Fit) -> Float64[np.ndarray, " image"]:
    """Root mean squares over the features, in standard deviations."""
    means, deviations, precision = fit
    standard = (features - means) / deviations
    squares: Float64[np.ndarray, " image"] = np.einsum("if,fg,ig->i", standard, precision, standard)
    distances: Float64[np.ndarray, " image"] = np.sqrt(np.maximum(squares, 0) / features.shape[1])
    return distances


def _rounded(values: Vector) -> tuple[float, ...]:
    return tuple(float(f"{value:.6g}") for value in values)


Likenesses = Mapping[str, Likeness]
"""By modality; one that too few images told of is not there."""
