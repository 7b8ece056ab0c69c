"""Reference regions of PET, on the template: where uptake is taken for 1.

Each is cut out of the ICBM152 tissue maps that nilearn packages (permmoe.data.template; Fonov et al. 2011; the MNI
licence: free to use, copy, modify and distribute) by coordinates that are published (Tzourio-Mazoyer et al. 2002,
permmoe.data.cohort.regions): no label map of others is in them, and their code is this file. A
`region-….nii.gz` of each that was used lies in every folder of prepared images.

Amyloid tracers refer to the whole cerebellum (Klunk et al. 2015, Alzheimers Dement 11:1, the Centiloid standard), tau
tracers to the inferior cerebellar grey matter, away from off-target binding above the tentorium and from the spill-over
of the occipital cortex (Baker et al. 2017, Data Brief 15:648). Regions keep away from the brain's edge and the
brainstem, since an affine map fits a cerebellum to some millimetres.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float32
from scipy.ndimage import binary_erosion

from permmoe.data.cohort import regions as places
from permmoe.data.template import read_template, template_axes
from permmoe.errors import ConfigurationError, nearest
from permmoe.preparation.images.image import Image, template_image

Mask = Bool[np.ndarray, "197 233 189"]
Fraction = Float32[np.ndarray, "197 233 189"]

ORIGIN = (
    "cut out of the ICBM152 2009a symmetric tissue maps (Fonov et al. 2011, NeuroImage 54:313) by coordinates of "
    "Tzourio-Mazoyer et al. 2002 (NeuroImage 15:273); permmoe/preparation/images/regions.py"
)
LICENCE = (
    "Copyright (C) 1993-2004 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill "
    "University. Permission to use, copy, modify, and distribute this software and its documentation for any purpose "
    "and without fee is hereby granted, provided that the above copyright notice appear in all copies."
)
"""Of the tissue maps, as the file COPYING in their archive states it."""

TENTORIUM_MM = -22.0
"""Cerebellum that lies higher is next to the occipital and fusiform cortex."""
INFERIOR_MM = -43.0
"""Below this lie the inferior lobules."""
BEHIND_BRAINSTEM_MM = -46.0


@dataclass(frozen=True)
class Region:
    """A reference region, in words and as a mask."""

    description: str
    cut: Callable[[Fraction, Fraction, Mask], Mask]
    """From grey matter, white matter and where the cerebellum is."""


REGIONS: Mapping[str, Region] = {
    "whole_cerebellum": Region(
        "cerebellar grey and white matter below the tentorium, two millimetres inside its edge",
        lambda grey, white, cerebellum: binary_erosion(cerebellum & (grey + white > 0.7), iterations=2),
    ),
    "cerebellar_grey": Region(
        "cerebellar grey matter below the tentorium",
        lambda grey, white, cerebellum: binary_erosion(cerebellum, iterations=1) & (grey > 0.7),
    ),
    "inferior_cerebellar_grey": Region(
        "cerebellar grey matter of the inferior lobules",
        lambda grey, white, cerebellum: (
            binary_erosion(cerebellum, iterations=1) & (grey > 0.7) & (_heights() < INFERIOR_MM)
        ),
    ),
    "pons": Region(
        "the middle of the pons",
        lambda grey, white, cerebellum: _ball((0.0, -26.0, -32.0), 9.0) & (white > 0.5),
    ),
}


def require_region(name: str) -> str:
    """The name, if there is such a region. Raises ConfigurationError."""
    if name not in REGIONS:
        raise ConfigurationError(f"no reference region {name!r}; {nearest(name, REGIONS)}")
    return name


@lru_cache(maxsize=8)
def region_mask(name: str) -> Image:
    """1 in the region, 0 elsewhere, at 1 mm. Raises ConfigurationError for an unknown name."""
    region = REGIONS[require_region(name)]
    grey, white = read_template("gm"), read_template("wm")
    return template_image(region.cut(grey, white, _cerebellum(grey, white)).astype(np.float32))


def _cerebellum(grey: Fraction, white: Fraction) -> Mask:
    points = np.stack(np.meshgrid(*template_axes(), indexing="ij"), axis=-1).reshape(-1, 3)
    inside = np.zeros(len(points), bool)
    near = (points[:, 2] < TENTORIUM_MM) & (points[:, 1] < BEHIND_BRAINSTEM_MM)
    inside[near] = places.membership(points[near], places.CEREBELLUM) > 0.5
    return np.asarray(inside.reshape(grey.shape) & (grey + white > 0.5))


def _ball(centre_mm: tuple[float, float, float], radius_mm: float) -> Mask:
    x, y, z = np.meshgrid(*template_axes(), indexing="ij", sparse=True)
    squared = sum((axis - centre) ** 2 for axis, centre in zip((x, y, z), centre_mm, strict=True))
    return np.asarray(squared < radius_mm**2)


def _heights() -> Float32[np.ndarray, "1 1 189"]:
    return template_axes()[2].astype(np.float32)[None, None]
