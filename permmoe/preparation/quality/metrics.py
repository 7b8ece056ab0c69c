"""A prepared image in numbers that tell whether its preparation went right.

Each is a scalar, or None where it does not apply to the modality or was not handed in; what they are called, their
units and what is usual stand in permmoe.preparation.quality.limits.

Left and right. A mirrored brain looks like a brain: the two halves differ by less (the right frontal and the left
occipital lobe reach a few millimetres further, on average) than one brain differs from another, so that no metric here,
and no reader of the contact sheet, can tell by anatomy alone whether a single image was mirrored. What can be told:
whether the registration itself mirrors (`is_mirrored`); whether FLAIR or PET and T1 of one session are mirrored with
respect to each other, since the folds of one brain are not symmetric (`mirrored_gain`); and, before any of this,
whether the header's sform and qform disagree. What cannot: an image whose header was wrong from the start, alone or
together with all others of its session. Only the scanner's own DICOM files tell then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64
from scipy import ndimage

from permmoe.config import VolumeGrid
from permmoe.preparation.quality.reference_brain import ReferenceBrain, reference_brain
from permmoe.preparation.quality.second_opinion import on_lattice, second_opinion, turn_degrees
from permmoe.preparation.scan import PET

BINS = 32
"""Of each axis of a joint histogram."""
KNOTS = (0.15, 0.5, 0.85)
"""Quantiles of a T1's brightness at which its fluid, grey and white matter are taken to lie."""

Volume = Float32[np.ndarray, "x y z"]
Mask = Bool[np.ndarray, "x y z"]


@dataclass(frozen=True)
class Known:
    """What the preparation measured on the way, and no longer shows in the prepared image."""

    affine: Float[np.ndarray, "4 4"] | None = None
    """From the image's coordinates to the template's, mm."""
    follows_t1: bool | None = None
    """Whether a T1 of the same head led the way; True for a T1 itself."""
    agreement: float | None = None
    """With what it was registered to, in the registration's own measure; higher is better."""
    lead: float | None = None
    """By how much of its agreement the registration leads the next that ended elsewhere."""
    mask_volume_ml: float | None = None
    """Of the brain's mask in the image's own space, before any scaling."""
    motion_mm: float | None = None
    """The largest displacement of the brain between frames of a PET scan."""
    reference_uptake: float | None = None
    """Mean of the reference region in the scan's own unit, by which it was divided."""
    reference_variation: float | None = None
    """Standard deviation of the reference region over its mean."""
    reference_voxels: int | None = None


@dataclass(frozen=True)
class ImageMetrics:
    """What is known of one prepared image. Every field is a number, a truth value, a text or None: JSON holds it."""

    modality: str
    filled: float
    """Share of the mask's voxels that hold a finite number other than 0."""
    mask_overlap: float
    """Dice's coefficient of the mask and the template's."""
    brain_covered: float
    """Share of the template's brain that the mask covers."""
    mask_distance_mm: float
    """95th percentile of the distance between the mask's surface and the template's."""
    correlation: float
    """Pearson's, with the template's T1 over its brain."""
    mutual_information: float
    """Normalised, with the template's T1 over both masks; 1 for none, 2 for images that determine each other."""
    structure: float
    """Share of the variance in the template's brain that its three tissues explain."""
    template_fit: float
    """Share of the image's squares that the template's tissues explain where the image lies."""
    brain_contrast: float
    """Of what a brain's outline leaves unexplained, the share that its tissues explain, wherever the brain lies."""
    disagreement_mm: float
    """How far, on average, a second registration moves points of the brain."""
    disagreement_degrees: float
    white_over_grey: float | None
    """Median of white matter over that of grey matter."""
    fluid_over_white: float | None
    noise: float | None
    """Standard deviation of the finest detail in white matter, relative to its median."""
    symmetry: float
    """Correlation of the image with its mirror image over the brain."""
    mask_volume_ml: float | None
    follows_t1: bool | None
    agreement: float | None
    lead: float | None
    smallest_scale: float | None
    """Of the affine to the template: the least of its singular values; 0.8 where the image is shrunk by a fifth."""
    largest_scale: float | None
    stretch: float | None
    """The largest scale over the smallest: 1.3 for a brain that is stretched by 30% along one axis."""
    rotation_degrees: float | None
    is_mirrored: bool | None
    """Whether the affine to the template turns left into right."""
    own_t1_information: float | None = None
    """Normalised mutual information with the subject's own prepared T1."""
    own_t1_disagreement_mm: float | None = None
    """The same second registration, to the subject's own T1."""
    mirrored_gain: float | None = None
    """How much more mutual information there is with the own T1 when that is mirrored; negative where all is well."""
    reference_voxels: int | None = None
    reference_variation: float | None = None
    reference_uptake: float | None = None
    cortical_suvr: float | None = None
    """PET: mean over the cortex above the basal ganglia."""
    motion_mm: float | None = None


def image_metrics(
    prepared: Volume,
    mask: Mask,
    modality: str,
    grid: VolumeGrid,
    *,
    known: Known | None = None,
    own_t1: Volume | None = None,
) -> ImageMetrics:
    """Measure a prepared image (PET: its uptake ratios) with its brain mask, both on `grid` in template space.

    `own_t1` is the subject's prepared T1 of the same session, 0 outside of the brain. Any input gives metrics: voxels
    that are not finite count as 0. Raises DataError where nilearn's data are not installed.
    """
    known, brain = known or Known(), reference_brain(grid)
    is_filled = np.isfinite(prepared) & (prepared != 0)
    image = np.where(mask & is_filled, prepared, 0).astype(np.float32)
    own_shape = image if modality == "t1" else _levelled(image)
    opinion = second_opinion(on_lattice(own_shape, grid), brain.tissues_on_lattice)
    return ImageMetrics(
        modality=modality,
        filled=_share(is_filled, mask),
        mask_overlap=_dice(mask, brain.brain),
        brain_covered=_share(mask, brain.brain),
        mask_distance_mm=_surface_distance(mask, brain),
        correlation=_correlation(image, brain.t1, brain.brain),
        mutual_information=_mutual_information(image, brain.t1, mask | brain.brain),
        structure=_structure(image, brain),
        template_fit=opinion.fit,
        brain_contrast=opinion.best_contrast,
        disagreement_mm=opinion.disagreement_mm,
        disagreement_degrees=opinion.turn_degrees,
        white_over_grey=_ratio(image, brain.white & mask, brain.grey & mask),
        fluid_over_white=_ratio(image, brain.fluid & mask, brain.white & mask),
        noise=_noise(image, brain.white & mask),
        symmetry=_correlation(image, image[::-1], brain.brain),
        mask_volume_ml=known.mask_volume_ml,
        follows_t1=known.follows_t1,
        agreement=known.agreement,
        lead=known.lead,
        reference_voxels=known.reference_voxels,
        reference_variation=known.reference_variation,
        reference_uptake=known.reference_uptake,
        cortical_suvr=_mean(image, brain.cortex & mask) if modality in PET else None,
        motion_mm=known.motion_mm,
        **_of_affine(known.affine),
        **(_of_own_t1(image, own_t1, mask, grid) if own_t1 is not None else {}),
    )


def _of_affine(affine: Float[np.ndarray, "4 4"] | None) -> dict[str, Any]:
    if affine is None:
        return dict.fromkeys(("smallest_scale", "largest_scale", "stretch", "rotation_degrees", "is_mirrored"))
    linear = affine[:3, :3]
    scales = np.linalg.svd(linear, compute_uv=False)
    is_mirrored = bool(np.linalg.det(linear) < 0)
    unmirrored = linear @ np.diag([-1.0, 1.0, 1.0]) if is_mirrored else linear
    return {
        "smallest_scale": float(scales[-1]),
        "largest_scale": float(scales[0]),
        "stretch": float(scales[0] / scales[-1]) if scales[-1] > 0 else float("inf"),
        "rotation_degrees": turn_degrees(unmirrored),
        "is_mirrored": is_mirrored,
    }


def _of_own_t1(image: Volume, own_t1: Volume, mask: Mask, grid: VolumeGrid) -> dict[str, Any]:
    t1 = np.where(np.isfinite(own_t1), own_t1, 0).astype(np.float32)
    classes = np.stack([on_lattice(of_class, grid) for of_class in _brightness_classes(t1)])
    brain = mask | (t1 != 0)
    both_sides = brain & brain[::-1]
    straight, mirrored = (_mutual_information(image, other, both_sides) for other in (t1, t1[::-1]))
    opinion = second_opinion(on_lattice(_levelled(image), grid), classes)
    return {
        "own_t1_information": _mutual_information(image, t1, brain),
        "own_t1_disagreement_mm": opinion.disagreement_mm,
        "mirrored_gain": mirrored - straight,
    }


def _levelled(image: Volume) -> Volume:
    """The image with a mean of 0 over its brain, which takes away the outline.

    FLAIR and PET have their outline from the T1's mask: it fits, wherever the brain inside it lies.
    """
    is_brain = image != 0
    return np.where(is_brain, image - image[is_brain].mean(), 0).astype(np.float32) if is_brain.any() else image


def _brightness_classes(t1: Volume) -> Float32[np.ndarray, "3 x y z"]:
    """How much each voxel of a T1 is dark, grey and bright; together 1 in the brain, 0 outside."""
    is_brain = t1 != 0
    knots = np.quantile(t1[is_brain], KNOTS) if is_brain.any() else np.array([0.0, 0.5, 1.0])
    knots += np.arange(3) * 1e-6  # flat images have equal quantiles
    peaks = np.eye(3)
    return np.stack([np.where(is_brain, np.interp(t1, knots, peak), 0).astype(np.float32) for peak in peaks])


def _share(wanted: Mask, among: Mask) -> float:
    return float(wanted[among].mean()) if among.any() else 0.0


def _mean(image: Volume, where: Mask) -> float | None:
    return float(image[where].mean()) if where.any() else None


def _dice(one: Mask, other: Mask) -> float:
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 0.0


def _surface_distance(mask: Mask, brain: ReferenceBrain) -> float:
    """95th percentile over the mask's surface; the grid's diagonal where there is no mask."""
    surface = mask & ~ndimage.binary_erosion(mask)
    distances = np.abs(brain.inside_mm[surface])
    return float(np.quantile(distances, 0.95)) if len(distances) else float(np.abs(brain.inside_mm).max())


def _correlation(one: Volume, other: Volume, where: Mask) -> float:
    """Pearson's correlation; 0 where one of the two is constant."""
    a, b = (volume[where].astype(np.float64) for volume in (one, other))
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / scale if scale > 0 else 0.0


def _mutual_information(one: Volume, other: Volume, where: Mask) -> float:
    """Studholme's normalised mutual information (1999, Pattern Recognition 32:71), of brightness in bins.

    1 where nothing is shared or nothing varies.
    """
    if not where.any():
        return 1.0
    binned = [_binned(volume[where]) for volume in (one, other)]
    joint = np.bincount(binned[0] * BINS + binned[1], minlength=BINS * BINS).reshape(BINS, BINS)
    shared = _entropy(joint)
    return (_entropy(joint.sum(0)) + _entropy(joint.sum(1))) / shared if shared > 0 else 1.0


def _binned(values: Float32[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    low, high = np.quantile(values, (0.005, 0.995))
    scaled = (values - low) * (BINS / max(float(high - low), 1e-12))
    bins: Int64[np.ndarray, " n"] = np.clip(scaled, 0, BINS - 1).astype(np.int64)
    return bins


def _entropy(counts: Int64[np.ndarray, "*bins"]) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _structure(image: Volume, brain: ReferenceBrain) -> float:
    """R² of a regression on the three tissues within the brain; 0 where the image is constant there."""
    wanted = image[brain.brain].astype(np.float64)
    basis = np.column_stack([np.ones(len(wanted)), *(tissue[brain.brain] for tissue in brain.tissues[:2])])
    around = float(((wanted - wanted.mean()) ** 2).sum())
    if around == 0:
        return 0.0
    weights = np.linalg.solve(basis.T @ basis, basis.T @ wanted)
    return 1 - float(((wanted - basis @ weights) ** 2).sum()) / around


def _ratio(image: Volume, upper: Mask, lower: Mask) -> float | None:
    """Ratio of medians; None where a tissue has no voxel or the lower median is not positive."""
    if not upper.any() or not lower.any():
        return None
    below = float(np.median(image[lower]))
    return float(np.median(image[upper])) / below if below > 0 else None


def _noise(image: Volume, white: Mask) -> float | None:
    """From each voxel's difference to the mean of its six neighbours; robust, so that a lesion's edge adds little."""
    inner = ndimage.binary_erosion(white)
    level = float(np.median(image[inner])) if inner.any() else 0.0
    if level <= 0:
        return None
    around = sum(np.roll(image, step, axis) for axis in range(3) for step in (1, -1)) / np.float32(6)
    rest = (image - around)[inner]
    spread = 1.4826 * float(np.median(np.abs(rest - np.median(rest))))
    return spread / (level * float(np.sqrt(1 + 1 / 6)))
