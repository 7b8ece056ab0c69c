"""From a subject's hidden state to four images: warp the template, lose tissue, add uptake, pass the scanner.

Anatomy and lesions are functions of millimetres and of the subject alone; noise is drawn per voxel and modality from
streams of its own. So a modality looks the same whether or not the others are rendered, and a 2 mm image shows the
brain of the 4 mm one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32
from scipy import ndimage, sparse
from scipy.special import expit

from permmoe.data.cohort.anatomy import CHANNELS, Anatomy
from permmoe.data.cohort.fields import draw_coefficients, separable
from permmoe.data.cohort.misregistration import displacement_mm
from permmoe.data.cohort.places import backwards, by_place
from permmoe.data.cohort.randomness import Purpose, stream
from permmoe.data.cohort.realism import PLAIN, Realism
from permmoe.data.cohort.scanners import DISTORTION_SPACING_MM, SHADING_SPACING_MM, Scanner
from permmoe.data.cohort.settings import ImageModality
from permmoe.data.cohort.subjects import Subject

Volume = Float32[np.ndarray, "x y z"]
Voxels = Float32[np.ndarray, " voxels"]

_FWHM_TO_SIGMA = 1 / 2.3548
_LESION_SPACING_MM = 11.0
_THICKNESS_SPACING_MM = 20.0
_FINE_WARP_SPACING_MM = 20.0
_LESION_PATTERN = 0.14
"""How much further lesions reach where their pattern puts them, per standard deviation of the pattern and of place."""
_LEAST_CONTRAST = 0.1
"""Exponent of a FLAIR signal: below zero, fluid would be brighter than brain."""
_PET_GRAIN_SIGMA_MM = 3.2
"""Correlation length of noise in a reconstructed PET image."""


@dataclass(frozen=True)
class Tissue:
    """A subject's tissue at each brain voxel, after warp and atrophy; fractions from 0 to 1."""

    channels: dict[str, Voxels]
    """`CHANNELS`, by name."""
    thinning: Voxels
    """Share of the voxel that grey matter lost to fluid."""
    grey: Voxels
    white: Voxels
    fluid: Voxels


def render(
    subject: Subject,
    scanner: Scanner,
    anatomy: Anatomy,
    seed: int,
    modalities: Iterable[ImageModality],
    realism: Realism = PLAIN,
) -> dict[ImageModality, Volume]:
    """The subject's images on the anatomy's grid: MRI in scanner units, PET as SUVR (cerebellar grey matter is 1)."""
    if not realism.misregistration_mm:
        tissue = warped_tissue(subject, scanner, anatomy, seed, realism)
        return paint(tissue, subject, scanner, anatomy, seed, modalities, realism)
    images: dict[ImageModality, Volume] = {}
    for name in modalities:
        moved = displacement_mm(anatomy.points_mm, seed, subject.index, name, realism.misregistration_mm)
        tissue = warped_tissue(subject, scanner, anatomy, seed, realism, moved)
        images |= paint(tissue, subject, scanner, anatomy, seed, (name,), realism)
    return images


def paint(
    head: Tissue,
    subject: Subject,
    scanner: Scanner,
    anatomy: Anatomy,
    seed: int,
    modalities: Iterable[ImageModality],
    realism: Realism = PLAIN,
) -> dict[ImageModality, Volume]:
    """What `render` does, for tissue that was warped before."""
    painters = {"t1": _t1, "flair": _flair, "amyloid": _amyloid, "tau": _tau}
    return {name: painters[name](head, subject, scanner, anatomy, seed, realism) for name in modalities}


def warped_tissue(
    subject: Subject,
    scanner: Scanner,
    anatomy: Anatomy,
    seed: int,
    realism: Realism = PLAIN,
    moved_mm: Float32[np.ndarray, "voxels 3"] | None = None,
) -> Tissue:
    """The subject's tissue on the anatomy's grid, as the scanner distorts it. `moved_mm` says how far from each voxel
    the tissue that it shows lies in the template, beside what is the person's own shape."""
    rng = stream(seed, Purpose.ANATOMY, subject.index)
    latents, age = subject.latents, subject.person.age_z
    strength = np.float32(realism.warp_mm)
    warp = [strength * draw_coefficients(rng, DISTORTION_SPACING_MM) + distortion for distortion in scanner.distortion]
    warp_mm = np.stack([_on_voxels(field, DISTORTION_SPACING_MM, anatomy) for field in warp], axis=1)
    if realism.fine_warp_mm:
        warp_mm += np.float32(realism.fine_warp_mm) * _fine_warp(seed, subject, anatomy)
    unevenness = _on_voxels(draw_coefficients(rng, _THICKNESS_SPACING_MM), _THICKNESS_SPACING_MM, anatomy)
    widening_mm = 2.6 * latents.neurodegeneration + 0.6 * age + rng.normal(0, 1.1) - 0.4
    shrinkage_mm = 1.6 * latents.neurodegeneration + 2.6 * latents.hippocampal_loss + rng.normal(0, 0.3) - 0.3
    size = rng.normal(1.0, 0.02) * (1.010 if subject.person.sex == "Male" else 0.990)
    source_mm = (
        (anatomy.points_mm if moved_mm is None else anatomy.points_mm + moved_mm) / np.float32(size)
        + warp_mm
        + np.float32(widening_mm) * anatomy.ventricle_pull
        - np.float32(shrinkage_mm) * anatomy.mesial_pull
    )
    channels = dict(zip(CHANNELS, _sample(anatomy, source_mm).T, strict=True))
    grey = channels["grey"]
    thinning = np.clip(
        _cortical_loss(
            latents.neurodegeneration, channels, by_place(channels["atrophy"], subject.patterns.t1, anatomy.points_mm)
        )
        + np.float32(0.28 * latents.hippocampal_loss) * channels["hippocampus"]
        + (np.float32(0.04 + 0.04 * age) + np.float32(0.03) * unevenness) * grey,
        0,
        0.65,
    )
    grey, white = grey - np.minimum(thinning, grey), channels["white"]
    return Tissue(channels, thinning, grey, white, np.clip(1 - grey - white, 0, 1))


def _cortical_loss(neurodegeneration: float, channels: dict[str, Voxels], where: Voxels | None = None) -> Voxels:
    """Share of a voxel that turns from grey matter to fluid: mostly where Alzheimer's disease takes it."""
    atrophy = channels["atrophy"] if where is None else channels["atrophy"] * where
    vulnerability = np.float32(0.40) * atrophy + np.float32(0.10) * channels["grey"]
    return np.float32(neurodegeneration) * vulnerability


def _fine_warp(seed: int, subject: Subject, anatomy: Anatomy) -> Float32[np.ndarray, "voxels 3"]:
    """Individual shape about the size of a gyrus, SD 1 along each axis."""
    rng, spacing = stream(seed, Purpose.FINE_WARP, subject.index), _FINE_WARP_SPACING_MM
    return np.stack([_on_voxels(draw_coefficients(rng, spacing), spacing, anatomy) for _ in range(3)], axis=1)


def _sample(anatomy: Anatomy, source_mm: Float32[np.ndarray, "voxels 3"]) -> Float32[np.ndarray, "voxels channels"]:
    """Trilinear interpolation of all channels at once, as one sparse product; beyond the grid, its edge."""
    shape = np.array(anatomy.grid.shape)
    origin = np.array([axis[0] for axis in anatomy.axes_mm], np.float32)
    last = (shape - 1.001).astype(np.float32)
    position = np.clip((source_mm - origin) / np.float32(anatomy.grid.spacing_mm), 0, last)
    lower = position.astype(np.int32)
    upper_weight = position - lower.astype(np.float32)
    strides = (shape[1] * shape[2], shape[2], 1)
    corners, weights = np.zeros((len(lower), 1), np.int32), np.ones((len(lower), 1), np.float32)
    for axis in range(3):
        step = (lower[:, axis, None] + np.array([0, 1], np.int32)) * np.int32(strides[axis])
        share = np.stack([1 - upper_weight[:, axis], upper_weight[:, axis]], axis=1)
        corners = (corners[:, :, None] + step[:, None]).reshape(len(lower), -1)
        weights = (weights[:, :, None] * share[:, None]).reshape(len(lower), -1)
    row_ends = np.arange(0, 8 * len(lower) + 1, 8, dtype=np.int32)
    matrix = sparse.csr_array((weights.reshape(-1), corners.reshape(-1), row_ends), shape=(len(lower), shape.prod()))
    return np.asarray(matrix @ anatomy.channels)


def _t1(head: Tissue, subject: Subject, scanner: Scanner, anatomy: Anatomy, seed: int, realism: Realism) -> Volume:
    rng = stream(seed, Purpose.T1, subject.index)
    loss = (
        head.thinning
        + np.float32(0.7 * subject.latents.hippocampal_loss) * head.channels["hippocampus"]
        + _cortical_loss(scanner.apparent_atrophy, head.channels)
    )
    signal = head.channels["t1"] - np.float32(0.65) * np.minimum(loss, 1)
    if realism.lesions_on_t1:
        signal -= np.float32(realism.lesions_on_t1) * _lesions(head, subject, subject.latents.vascular, anatomy, seed)
    return _mri(signal, scanner.mri_contrast, scanner.t1_shading, scanner, anatomy, rng)


def _lesions(head: Tissue, subject: Subject, vascular: float, anatomy: Anatomy, seed: int) -> Voxels:
    """Share of each voxel that is lesion: from the ventricles outwards through a patchy threshold, so that volume
    follows the load."""
    patch_rng = stream(seed, Purpose.LESIONS, subject.index)
    patches = _on_voxels(draw_coefficients(patch_rng, _LESION_SPACING_MM), _LESION_SPACING_MM, anatomy)
    periventricular = head.channels["periventricular"]
    reach = periventricular * np.float32(0.95 + 0.25 * vascular) + np.float32(0.14) * patches
    reach += np.float32(0.06 * vascular)
    if subject.patterns.flair:
        back = backwards(periventricular, anatomy.points_mm)
        reach += np.float32(_LESION_PATTERN * subject.patterns.flair) * back * periventricular
    return np.asarray(head.white * expit(np.float32(9) * (reach - np.float32(0.70))))


def _flair(head: Tissue, subject: Subject, scanner: Scanner, anatomy: Anatomy, seed: int, realism: Realism) -> Volume:
    rng = stream(seed, Purpose.FLAIR, subject.index)
    channels, vascular = head.channels, subject.latents.vascular + scanner.apparent_lesions
    lesions = _lesions(head, subject, vascular, anatomy, seed)
    signal = (
        np.float32(0.72) * head.grey
        + np.float32(0.52) * head.white
        + np.float32(0.12) * head.fluid
        + np.float32(0.75) * lesions
        + np.float32(0.08) * (channels["t1"] - np.float32(0.6))
        - np.float32(0.60) * _cortical_loss(scanner.apparent_atrophy, channels)
    )
    contrast = max(2 - scanner.mri_contrast, _LEAST_CONTRAST)
    return _mri(signal, contrast, scanner.flair_shading, scanner, anatomy, rng)


def _amyloid(head: Tissue, subject: Subject, scanner: Scanner, anatomy: Anatomy, seed: int, realism: Realism) -> Volume:
    rng = stream(seed, Purpose.AMYLOID, subject.index)
    tracer, load = scanner.amyloid_tracer(subject.phase.name), subject.latents.amyloid + scanner.apparent_amyloid
    gain = scanner.amyloid_sensitivity * (1 + scanner.tracer_shift * (tracer.gain - 1))
    white_uptake = 1.55 + scanner.tracer_shift * (tracer.white_matter - 1.55)
    channels, asymmetry = head.channels, _asymmetry(anatomy, rng)
    if (where := by_place(channels["amyloid"], subject.patterns.amyloid, anatomy.points_mm)) is not None:
        asymmetry = asymmetry * where
    diffuse = np.clip(head.grey - channels["cerebellum"], 0, None)
    uptake = (
        np.float32(0.98) * head.grey
        + np.float32(1.05 * gain * load) * channels["amyloid"] * asymmetry
        + np.float32(0.40 * gain * max(load, 0.0)) * diffuse
        + np.float32(white_uptake) * head.white
        + np.float32(0.55) * head.fluid
    )
    return _pet(uptake, scanner.amyloid_calibration, head, scanner, anatomy, rng)


def _tau(head: Tissue, subject: Subject, scanner: Scanner, anatomy: Anatomy, seed: int, realism: Realism) -> Volume:
    """Braak stages light up one after another; striatum and choroid plexus bind the tracer without tau."""
    rng = stream(seed, Purpose.TAU, subject.index)
    tau, channels = subject.latents.tau + scanner.apparent_tau, head.channels
    early, middle, late = expit((tau - np.array([0.30, 0.48, 0.72])) / 0.09)
    spread = (
        np.float32(1.3 * early) * channels["braak_i_ii"]
        + np.float32(1.5 * max(tau, 0.0) * middle) * channels["braak_iii_iv"]
        + np.float32(1.3 * max(tau, 0.0) * late) * channels["braak_v_vi"]
    )
    if (where := by_place(channels["braak_iii_iv"], subject.patterns.tau, anatomy.points_mm)) is not None:
        spread = spread * where
    off_target = np.float32(0.35 * rng.lognormal(0, 0.2)) * channels["striatum"]
    off_target += np.float32(0.5 * rng.lognormal(0, 0.4)) * channels["choroid_plexus"]
    uptake = head.grey + np.float32(scanner.tau_sensitivity) * spread * _asymmetry(anatomy, rng) + off_target
    uptake += np.float32(0.95) * head.white + np.float32(0.55) * head.fluid
    return _pet(uptake, scanner.tau_calibration, head, scanner, anatomy, rng)


def _mri(
    signal: Voxels,
    contrast: float,
    shading: Float32[np.ndarray, "i j k"],
    scanner: Scanner,
    anatomy: Anatomy,
    rng: np.random.Generator,
) -> Volume:
    """Contrast, the coil's shading (mostly the site's, a little the day's), resolution, magnitude noise and gain."""
    day = draw_coefficients(rng, SHADING_SPACING_MM) * np.float32(0.04)
    log_shading = _on_voxels(shading + day, SHADING_SPACING_MM, anatomy)
    shaded = np.clip(signal, 0, None) ** np.float32(contrast) * np.exp(log_shading)
    blurred = _blur(_volume(shaded, anatomy), scanner.mri_fwhm_mm * _FWHM_TO_SIGMA, anatomy)[anatomy.brain]
    noise = rng.standard_normal(len(signal), dtype=np.float32) * np.float32(scanner.mri_noise)
    return _volume(np.abs(blurred + noise) * np.float32(scanner.mri_gain * rng.uniform(0.85, 1.15)), anatomy)


def _pet(
    uptake: Voxels, calibration: float, head: Tissue, scanner: Scanner, anatomy: Anatomy, rng: np.random.Generator
) -> Volume:
    """Atrophy and ventricles dilute, the scanner blurs; then grainy noise, cerebellar reference and calibration."""
    log_shading = _on_voxels(scanner.pet_shading, SHADING_SPACING_MM, anatomy)
    diluted = uptake * (1 - np.float32(0.3) * head.channels["ventricles"]) * np.exp(log_shading)
    blurred = _blur(_volume(diluted, anatomy), scanner.pet_fwhm_mm * _FWHM_TO_SIGMA, anatomy)[anatomy.brain]
    # A load a little below zero, multiplied where its pattern lies, can take more than there is; no count is negative.
    blurred = np.clip(blurred, 0, None)
    grain = _blur(rng.standard_normal(anatomy.grid.shape, dtype=np.float32), _PET_GRAIN_SIGMA_MM, anatomy)
    grain = (grain / grain.std())[anatomy.brain]
    noisy = np.clip(blurred + grain * np.float32(scanner.pet_noise) * np.sqrt(blurred), 0, None)
    reference = np.average(noisy, weights=head.channels["cerebellum"])
    return _volume(noisy * np.float32(calibration * rng.normal(1, 0.015) / reference), anatomy)


def _asymmetry(anatomy: Anatomy, rng: np.random.Generator) -> Voxels:
    return np.asarray(1 + np.float32(rng.normal(0, 0.10)) * np.sign(anatomy.points_mm[:, 0]))


def _on_voxels(coefficients: Float32[np.ndarray, "i j k"], spacing_mm: float, anatomy: Anatomy) -> Voxels:
    return np.asarray(separable(coefficients, anatomy.bases[spacing_mm])[anatomy.brain])


def _blur(volume: Volume, sigma_mm: float, anatomy: Anatomy) -> Volume:
    sigma_voxels = sigma_mm / anatomy.grid.spacing_mm
    return np.asarray(ndimage.gaussian_filter(volume, sigma_voxels, mode="constant", truncate=3.0))


def _volume(values: Float[np.ndarray, " voxels"], anatomy: Anatomy) -> Volume:
    volume = np.zeros(anatomy.grid.shape, np.float32)
    volume[anatomy.brain] = values
    return volume
