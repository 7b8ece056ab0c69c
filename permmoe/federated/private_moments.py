"""The moments of a ridge with differential privacy of every patient: noise once, and every combination from the same
numbers (one-shot private ridge, arXiv 2601.08216; with noise on sufficient statistics, Wang 2018, arXiv 1803.02596).

A patient is one row u: a one; for each modality whether it was observed; its features, zeros where it was not; baseline
and outcome. All that the ridge's blocks are means of stands in Σ u uᵀ: how many patients have two modalities is a
product of two marks, a sum over those patients is a product of a mark and a number. So one matrix is released, noise is
put on that (permmoe.federated.moment_noise), and the blocks are read from it: they cost nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import inf, sqrt

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from permmoe.config import MomentsPrivacy
from permmoe.errors import DataError
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.moment_noise import STEP
from permmoe.federated.update import ModuleUpdate
from permmoe.layers.moments import EVERYBODY, block_name

ONE, SCORE, OUTCOME = 0, -2, -1
"""Places of a row; the marks of modalities stand behind the one, their features behind the marks."""
EXACT = 1 << 24
"""Whole numbers up to this are themselves in 32-bit floating point."""


@dataclass(frozen=True)
class RowLayout:
    """What stands where in a patient's row."""

    sizes: Mapping[str, int]
    """Features by modality, in the model's order."""
    privacy: MomentsPrivacy

    @property
    def size(self) -> int:
        """Numbers in a row."""
        return 1 + len(self.sizes) + sum(self.sizes.values()) + 2

    def mark(self, name: str) -> int:
        """The place of whether a modality was observed."""
        return 1 + list(self.sizes).index(name)

    def features(self, name: str) -> slice:
        """The places of a modality's features."""
        names = list(self.sizes)
        start = 1 + len(names) + sum(self.sizes[other] for other in names[: names.index(name)])
        return slice(start, start + self.sizes[name])


def patient_rows(
    layout: RowLayout,
    features: Mapping[str, Float64[Tensor, "_ _"]],
    rows: Mapping[str, Int[Tensor, " _"]],
    baseline: Float[Tensor, " patient"],
    target: Float[Tensor, " patient"],
) -> Float64[np.ndarray, "patient number"]:
    """A row for each patient. `rows`: the patients of a modality's features; score and its change are in points."""
    own = torch.zeros(len(baseline), layout.size, dtype=torch.float64)
    own[:, ONE] = 1
    for name, of_modality in features.items():
        own[rows[name], layout.mark(name)] = 1
        own[rows[name], layout.features(name)] = of_modality
    own[:, SCORE] = baseline.double() / layout.privacy.score_scale_points
    own[:, OUTCOME] = target.double() / layout.privacy.outcome_scale_points
    found: np.ndarray = own.numpy()
    return found


def summed_products(rows: Float64[np.ndarray, "patient number"], row_norm: float) -> Int64[np.ndarray, " entry"]:
    """The upper triangle of Σ s u uᵀ in whole steps, where s ≤ 1 keeps a patient's s ‖u‖² at `row_norm`² or less.

    A patient whose row is longer counts for less of a patient in every number alike. Each one's products are rounded
    before they are added up, so that no sum hides more of one than the sensitivity says. Raises DataError for a row
    that is not finite.
    """
    if not np.isfinite(rows).all():
        raise DataError("a patient's features or outcome are no finite numbers; permmoe data inspect names the visits")
    weights = np.minimum(1.0, row_norm**2 / np.maximum((rows**2).sum(1), 1e-12))
    first, second = np.triu_indices(rows.shape[1])
    total = np.zeros(len(first), np.int64)
    for row, weight in zip(rows, weights, strict=True):
        total += np.rint(weight * row[first] * row[second] / STEP).astype(np.int64)
    return total


def block_updates(
    layout: RowLayout, modules: ModuleLayout, triangle: Int64[np.ndarray, " entry"], least: float = -inf
) -> dict[str, ModuleUpdate]:
    """The ridge's modules as a site sends them, from the upper triangle in steps, noise on it.

    Each is a sum over patients, and the number of these with noise is its support. One whose number is under `least` is
    left out. A block's product of score and outcome is nothing that the ridge reads, and stays zero. Raises DataError
    where a sum is so large that 32-bit floating point would round it: rounded sums do not add up to the sum's rounding.
    """
    if np.abs(triangle).max() >= EXACT:
        raise DataError(
            f"this site has more patients than one sum holds ({EXACT * STEP / layout.privacy.row_norm**2:,.0f}); let "
            "it take part as two sites"
        )
    matrix = np.zeros((layout.size, layout.size))
    matrix[np.triu_indices(layout.size)] = triangle * STEP
    matrix = matrix + np.triu(matrix, 1).T
    scale = np.ones(layout.size)
    scale[SCORE], scale[OUTCOME] = layout.privacy.score_scale_points, layout.privacy.outcome_scale_points
    matrix = matrix * np.outer(scale, scale)
    clinical, names = [layout.size + SCORE, layout.size + OUTCOME], list(layout.sizes)
    blocks = {EVERYBODY: _Block(matrix, ONE, ONE, clinical, clinical)}
    for name in names:
        own = [*range(layout.size)[layout.features(name)], *clinical]
        blocks[name] = _Block(matrix, layout.mark(name), layout.mark(name), own, own, is_corner_known=False)
    for first, second in combinations(names, 2):
        left, right = (list(range(layout.size)[layout.features(name)]) for name in (first, second))
        blocks[block_name(first, second)] = _Block(matrix, layout.mark(first), layout.mark(second), left, right)
    state = {f"ridge.moments.{key}.{part}": value for key, block in blocks.items() for part, value in block.sums()}
    return {
        f"ridge/{key}": ModuleUpdate(modules.flatten(state, f"ridge/{key}"), block.patients)
        for key, block in blocks.items()
        if block.patients >= least
    }


@dataclass(frozen=True)
class _Block:
    """A block of the ridge's moments, read from the matrix: over patients with both marks."""

    matrix: Float64[np.ndarray, "number number"]
    mark: int
    other_mark: int
    left: Sequence[int]
    right: Sequence[int]
    is_corner_known: bool = True

    @property
    def patients(self) -> float:
        """With noise. The one's product with a mark has less of it than the mark's with itself."""
        mark = ONE if self.mark == self.other_mark else self.mark
        return float(self.matrix[mark, self.other_mark])

    def sums(self) -> list[tuple[str, Tensor]]:
        """The sums by the names of the block's parameters."""
        product = self.matrix[np.ix_(self.left, self.right)]
        if not self.is_corner_known:
            product[-2:, -2:] = 0
        values = {
            "left": self.matrix[self.other_mark, self.left],
            "right": self.matrix[self.mark, self.right],
            "product": product,
        }
        return [(name, torch.from_numpy(value).float()) for name, value in values.items()]


def least_patients(deviation: float, min_cell_count: int) -> float:
    """The number of patients from which on a block that a site noised by itself is worth sending: `min_cell_count`, and
    twice the noise of a number of patients. Divided by less, its means would be noise."""
    return max(float(min_cell_count), 2 * sqrt(2) * deviation)
