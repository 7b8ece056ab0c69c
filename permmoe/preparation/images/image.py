"""An image with its place in millimetres, and how it is resampled; SimpleITK does the arithmetic.

Coordinates are right-anterior-superior (RAS), as in NIfTI. A 4×4 matrix `a_to_b` takes millimetres of a to
millimetres of b.
"""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from jaxtyping import Float, Float32, Float64

from permmoe.config import VolumeGrid
from permmoe.data.volumes import grid_affine

Matrix = Float64[np.ndarray, "4 4"]

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""ITK counts to the left and to the back; the matrix is its own inverse."""


@dataclass(frozen=True)
class Image:
    """Voxels and where they lie."""

    voxels: Float32[np.ndarray, "x y z"]
    affine: Matrix
    """Voxel indices to the image's own millimetres."""

    @property
    def spacing_mm(self) -> Float64[np.ndarray, " 3"]:
        """Edges of a voxel."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000

    def with_voxels(self, voxels: Float[np.ndarray, "x y z"]) -> Image:
        """Other voxels in the same place."""
        return Image(np.asarray(voxels, np.float32), self.affine)

    def masked(self, mask: Image) -> Image:
        """0 where the mask, on the same voxels, is not above one half."""
        return self.with_voxels(np.where(mask.voxels > 0.5, self.voxels, 0))

    def canonical(self) -> Image:
        """The same voxels with their axes right, anterior, superior."""
        turned = nib.as_closest_canonical(nib.Nifti1Image(self.voxels, self.affine))
        return Image(np.ascontiguousarray(turned.dataobj, np.float32), np.asarray(turned.affine, np.float64))

    def centre_of_mass_mm(self) -> Float64[np.ndarray, " 3"]:
        """Of what is positive."""
        points = np.argwhere(self.voxels > 0)
        weights = self.voxels[self.voxels > 0].astype(np.float64)
        middle = (points * weights[:, None]).sum(0) / weights.sum()
        return np.asarray(self.affine[:3, :3] @ middle + self.affine[:3, 3])


def template_image(voxels: Float32[np.ndarray, "197 233 189"]) -> Image:
    """A map of permmoe.data.template with its place."""
    affine = np.eye(4)
    affine[:3, 3] = (-98.0, -134.0, -72.0)
    return Image(voxels, affine)


def to_itk(image: Image) -> sitk.Image:
    """The image as SimpleITK has it."""
    itk = sitk.GetImageFromArray(np.ascontiguousarray(image.voxels.T))
    affine, spacing = RAS_TO_LPS @ image.affine, image.spacing_mm
    itk.SetSpacing(spacing.tolist())
    itk.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    itk.SetOrigin(affine[:3, 3].tolist())
    return itk


def from_itk(itk: sitk.Image) -> Image:
    """The inverse of `to_itk`."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(itk.GetDirection()).reshape(3, 3) * np.array(itk.GetSpacing())
    affine[:3, 3] = itk.GetOrigin()
    return Image(np.asarray(sitk.GetArrayFromImage(itk).T, np.float32), RAS_TO_LPS @ affine)


def itk_transform(matrix: Matrix) -> sitk.AffineTransform:
    """A map of RAS millimetres as SimpleITK has it."""
    lps = RAS_TO_LPS @ matrix @ RAS_TO_LPS
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(lps[:3, :3].ravel().tolist())
    transform.SetTranslation(lps[:3, 3].tolist())
    return transform


def matrix_of(transform: sitk.Transform) -> Matrix:
    """The map of RAS millimetres of a linear transform of SimpleITK that has a centre."""
    turn, centre = np.array(transform.GetMatrix()).reshape(3, 3), np.array(transform.GetCenter())
    lps = np.eye(4)
    lps[:3, :3] = turn
    lps[:3, 3] = np.array(transform.GetTranslation()) + centre - turn @ centre
    return np.asarray(RAS_TO_LPS @ lps @ RAS_TO_LPS)


def isotropic(image: Image, spacing_mm: float) -> Image:
    """The image's field in cubic voxels, smoothed so that a coarser grid picks no single voxels."""
    itk, size = to_itk(image), np.array(image.voxels.shape)
    edges = image.spacing_mm
    counts = np.maximum(1, np.ceil(size * edges / spacing_mm)).astype(int)
    directions = image.affine[:3, :3] / edges
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing_mm
    middle = image.affine[:3, :3] @ ((size - 1) / 2) + image.affine[:3, 3]
    affine[:3, 3] = middle - affine[:3, :3] @ ((counts - 1) / 2)
    return _resampled(_smoothed(itk, spacing_mm), tuple(int(n) for n in counts), affine, sitk.Transform())


def on_grid(image: Image, grid: VolumeGrid, template_to_image: Matrix) -> Image:
    """The image on a grid of the template's millimetres, interpolated once; 0 beyond its field."""
    smooth = _smoothed(to_itk(image), grid.spacing_mm)
    return _resampled(smooth, grid.shape, grid_affine(grid), itk_transform(template_to_image))


def onto(image: Image, target: Image, target_to_image: Matrix) -> Image:
    """The image on the voxels of another, interpolated once; 0 beyond its field."""
    smooth = _smoothed(to_itk(image), float(target.spacing_mm.min()))
    return _resampled(smooth, target.voxels.shape, target.affine, itk_transform(target_to_image))


def _smoothed(itk: sitk.Image, spacing_mm: float) -> sitk.Image:
    """Along each axis as much as voxels of that size average more than the image's own do."""
    own = np.array(itk.GetSpacing())
    # A voxel's average over its edge has about the width of a Gaussian with a standard deviation of 0.42 edges (FWHM of
    # one edge); variances add.
    variance = 0.42**2 * np.maximum(spacing_mm**2 - own**2, 0.0)
    if variance.max() <= 0:
        return itk
    return sitk.SmoothingRecursiveGaussian(itk, np.maximum(np.sqrt(variance), 1e-3).tolist())


def _resampled(itk: sitk.Image, shape: tuple[int, ...], affine: Matrix, transform: sitk.Transform) -> Image:
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    lps = RAS_TO_LPS @ affine
    resample = sitk.ResampleImageFilter()
    resample.SetSize([int(n) for n in shape])
    resample.SetOutputSpacing(spacing.tolist())
    resample.SetOutputDirection((lps[:3, :3] / spacing).ravel().tolist())
    resample.SetOutputOrigin(lps[:3, 3].tolist())
    resample.SetInterpolator(sitk.sitkLinear)
    resample.SetTransform(transform)
    return from_itk(resample.Execute(itk))
