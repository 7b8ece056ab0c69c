"""The smooth field by which a coil shades an MRI: N4 (Tustison et al. 2010, IEEE TMI 29:1310), as SimpleITK has it."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from permmoe.preparation.images.image import Image, from_itk, isotropic, onto, to_itk

FIELD_SPACING_MM = 4.0
"""The field varies over centimetres: coarse voxels show it, in a thousandth of the time."""
ITERATIONS = (50, 50, 50)
"""At most, at control points of 4, 8 and 16 an axis."""
CONVERGENCE = 1e-3


def without_bias(image: Image, mask: Image) -> Image:
    """The image divided by its bias field, which is estimated inside the mask and has a mean of 1 there."""
    coarse, inside = isotropic(image, FIELD_SPACING_MM), isotropic(mask, FIELD_SPACING_MM)
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations(list(ITERATIONS))
    n4.SetConvergenceThreshold(CONVERGENCE)
    # Logarithms of the signal: voxels that are not positive have none.
    usable = inside.with_voxels(((inside.voxels > 0.5) & (coarse.voxels > 0)).astype(np.float32))
    n4.Execute(to_itk(coarse), sitk.Cast(to_itk(usable), sitk.sitkUInt8))
    log_field = from_itk(n4.GetLogBiasFieldAsImage(to_itk(coarse)))
    middle = float(log_field.voxels[usable.voxels > 0].mean())
    field = onto(log_field.with_voxels(log_field.voxels - middle), image, np.eye(4))
    return image.with_voxels(image.voxels / np.exp(field.voxels))
