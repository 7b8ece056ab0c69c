"""Which voxels of a T1 are brain, by deepbet (Fisch et al. 2024, arXiv 2308.07003): MIT, with weights in its wheel."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from permmoe.data.image_file import BrokenVolume
from permmoe.data.reasons import Reason
from permmoe.preparation.images.image import Image

if TYPE_CHECKING:
    from deepbet import BrainExtraction

PLAUSIBLE_ML = (400.0, 3000.0)
"""A brain's volume; the smallest mask of an adult's head, and the largest, lie well inside."""


def brain_mask(head: Image) -> Image:
    """1 where the brain is, on the voxels of a T1 whose axes are right, anterior, superior.

    The brain is the largest connected piece, without holes. Raises BrokenVolume where there is none.
    """
    network = _network()
    try:
        mask = network.postprocess(network.run_model(head.voxels.copy()) > 0.5)
    except (AssertionError, ValueError):
        # deepbet's own words for a head in which its first network finds no voxel of brain.
        raise BrokenVolume(Reason.NOT_A_HEAD) from None
    if not PLAUSIBLE_ML[0] <= mask.sum() * head.voxel_ml <= PLAUSIBLE_ML[1]:
        raise BrokenVolume(Reason.NOT_A_HEAD)
    return head.with_voxels(mask.astype(np.float32))


@lru_cache(maxsize=1)
def _network() -> BrainExtraction:
    """Both networks, once a process."""
    from deepbet import BrainExtraction

    return BrainExtraction(no_gpu=True)
