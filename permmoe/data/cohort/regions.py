"""Where things are in the brain: balls at published MNI coordinates, free of any label map's licence.

Parcels are those of Tzourio-Mazoyer et al. 2002 (NeuroImage 15:273). Most have a ball within 6 mm of their centroid,
averaged over both hemispheres (table `aal116` of the R package brainGraph 3.0.3). Placed by eye are the balls that fill
a long parcel up, the entorhinal and parahippocampal ones, cerebellum, brainstem, choroid plexus, and the ventricles,
whose course was read off the ICBM152 T1.
Braak stages group them as Schöll et al. 2016 (Neuron 89:971) do; the amyloid cortex follows the usual summary region
(frontal, cingulate, precuneus, lateral parietal and temporal). Tissue maps cut the balls to the cortex afterwards.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32
from scipy.special import expit

Ball = tuple[int, int, int, int]
"""Right-hemisphere centre (x, y, z) and radius, mm; the left hemisphere mirrors it."""

_EDGE_MM = 2.0

HIPPOCAMPUS: tuple[Ball, ...] = ((26, -14, -20, 8), (28, -22, -13, 8), (27, -32, -6, 7))
ENTORHINAL: tuple[Ball, ...] = ((22, -5, -30, 9), (23, -16, -26, 8))
AMYGDALA: tuple[Ball, ...] = ((24, -2, -18, 9),)
PARAHIPPOCAMPAL: tuple[Ball, ...] = ((24, -24, -22, 9), (25, -34, -14, 9))
FUSIFORM: tuple[Ball, ...] = ((33, -40, -21, 12), (34, -56, -16, 11), (36, -22, -28, 11))
INFERIOR_TEMPORAL: tuple[Ball, ...] = ((52, -31, -24, 14), (46, -10, -36, 13), (54, -52, -14, 12))
MIDDLE_TEMPORAL: tuple[Ball, ...] = ((57, -36, -2, 15), (58, -14, -14, 13), (52, -58, 8, 13))
TEMPORAL_POLE: tuple[Ball, ...] = ((40, 15, -28, 15),)
SUPERIOR_TEMPORAL: tuple[Ball, ...] = ((56, -21, 7, 14), (56, -2, -4, 11))
INSULA: tuple[Ball, ...] = ((38, 5, 2, 13),)
LINGUAL: tuple[Ball, ...] = ((16, -68, -5, 12),)
POSTERIOR_CINGULATE: tuple[Ball, ...] = ((6, -43, 24, 12), (6, -28, 36, 11))
ANTERIOR_CINGULATE: tuple[Ball, ...] = ((5, 35, 13, 13),)
PRECUNEUS: tuple[Ball, ...] = ((9, -57, 45, 16), (8, -66, 34, 13))
INFERIOR_PARIETAL: tuple[Ball, ...] = ((45, -61, 37, 16), (57, -34, 32, 15), (45, -47, 48, 14))
SUPERIOR_PARIETAL: tuple[Ball, ...] = ((25, -60, 60, 15),)
ORBITOFRONTAL: tuple[Ball, ...] = ((7, 50, -10, 14), (26, 42, -13, 14))
MEDIAL_FRONTAL: tuple[Ball, ...] = ((7, 50, 26, 16),)
LATERAL_FRONTAL: tuple[Ball, ...] = ((20, 33, 42, 17), (36, 33, 32, 17), (46, 18, 20, 14), (38, 48, 8, 14))
LATERAL_OCCIPITAL: tuple[Ball, ...] = ((35, -82, 16, 15), (37, -80, -7, 13))
CUNEUS: tuple[Ball, ...] = ((9, -80, 26, 12),)
STRIATUM: tuple[Ball, ...] = ((13, 11, 9, 7), (26, 4, 1, 10), (20, -1, 0, 7))
CHOROID_PLEXUS: tuple[Ball, ...] = ((25, -42, 10, 6),)
CEREBELLUM: tuple[Ball, ...] = ((22, -64, -38, 20), (34, -60, -38, 17), (10, -68, -32, 15))
BRAINSTEM: tuple[Ball, ...] = ((0, -26, -32, 15), (0, -34, -50, 12), (0, -20, -14, 12))
VENTRICLES: tuple[Ball, ...] = (
    (10, 20, 5, 11), (11, 10, 14, 10), (14, -4, 21, 11), (18, -20, 24, 11), (24, -36, 17, 12), (28, -48, 7, 11),
)  # fmt: skip

BRAAK_I_II = (*ENTORHINAL, *HIPPOCAMPUS)
BRAAK_III_IV = (
    *AMYGDALA, *PARAHIPPOCAMPAL, *FUSIFORM, *INFERIOR_TEMPORAL, *MIDDLE_TEMPORAL, *TEMPORAL_POLE, *INSULA, *LINGUAL,
    *POSTERIOR_CINGULATE, *ANTERIOR_CINGULATE,
)  # fmt: skip
BRAAK_V_VI = (
    *SUPERIOR_TEMPORAL, *PRECUNEUS, *INFERIOR_PARIETAL, *SUPERIOR_PARIETAL, *ORBITOFRONTAL, *MEDIAL_FRONTAL,
    *LATERAL_FRONTAL, *LATERAL_OCCIPITAL, *CUNEUS,
)  # fmt: skip
AMYLOID_CORTEX = (
    *PRECUNEUS, *POSTERIOR_CINGULATE, *ANTERIOR_CINGULATE, *ORBITOFRONTAL, *MEDIAL_FRONTAL, *LATERAL_FRONTAL,
    *INFERIOR_PARIETAL, *SUPERIOR_PARIETAL, *MIDDLE_TEMPORAL,
)  # fmt: skip
ATROPHY_CORTEX = (
    *HIPPOCAMPUS, *ENTORHINAL, *PARAHIPPOCAMPAL, *FUSIFORM, *INFERIOR_TEMPORAL, *MIDDLE_TEMPORAL, *TEMPORAL_POLE,
    *INFERIOR_PARIETAL, *PRECUNEUS,
)  # fmt: skip


def membership(points_mm: Float[np.ndarray, "points 3"], balls: tuple[Ball, ...]) -> Float32[np.ndarray, " points"]:
    """How much each point belongs to the union of the balls: 1 inside, 0 outside, 0.5 on the surface."""
    mirrored = np.abs(points_mm[:, 0]).astype(np.float32), *points_mm[:, 1:].T.astype(np.float32)
    deepest = np.full(len(points_mm), -np.inf, np.float32)
    for *centre, radius in balls:
        squared = sum((axis - np.float32(c)) ** 2 for axis, c in zip(mirrored, centre, strict=True))
        np.maximum(deepest, np.float32(radius) - np.sqrt(squared), out=deepest)
    return np.asarray(expit(deepest / np.float32(_EDGE_MM)))
