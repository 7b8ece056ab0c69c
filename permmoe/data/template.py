"""The template brain: ICBM152 2009a symmetric (Fonov et al. 2011, NeuroImage 54:313), which nilearn packages.

T1, grey and white matter at 1 mm, skull stripped; MNI coordinates.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
from jaxtyping import Float, Float32

from permmoe.errors import DataError

TEMPLATE = "MNI152NLin2009aSym"
"""Its name in BIDS: the `space` of images that are registered to it."""

Axes = tuple[Float[np.ndarray, " _"], Float[np.ndarray, " _"], Float[np.ndarray, " _"]]


def read_template(name: Literal["t1", "gm", "wm"]) -> Float32[np.ndarray, "197 233 189"]:
    """T1 relative to its maximum, or the share of a voxel that is grey or white matter; from 0 to 1.

    Raises DataError where nilearn's data are not installed.
    """
    package = find_spec("nilearn")
    folder = Path(next(iter(package.submodule_search_locations or [""]))) if package else Path()
    path = folder / "datasets" / "data" / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
    if not path.is_file():
        raise DataError(f"the ICBM152 template is not at {path}; reinstall the nilearn package, which brings it")
    return np.asarray(nib.load(path).dataobj).astype(np.float32) / np.float32(255)


def template_axes() -> Axes:
    """Voxel centres along each axis, MNI millimetres, increasing (RAS)."""
    return np.arange(197) - 98.0, np.arange(233) - 134.0, np.arange(189) - 72.0
