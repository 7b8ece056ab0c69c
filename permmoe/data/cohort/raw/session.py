"""All scans of a subject's session, as scanners would take them, and the truth of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from permmoe.data.cohort.randomness import Purpose, stream
from permmoe.data.cohort.raw.acquisition import MRI_NOISE, Acquired, counted, magnetic, sampled
from permmoe.data.cohort.raw.brain import GRID, Brain, draw_brain
from permmoe.data.cohort.raw.head import AXES_MM, Head, draw_head, on_head_grid
from permmoe.data.cohort.raw.pet_sidecar import FRAMES
from permmoe.data.cohort.raw.pose import Matrix, draw_motion, draw_pose, draw_size
from permmoe.data.cohort.raw.protocol import PROTOCOLS, draw_field
from permmoe.data.cohort.scanners import Scanner
from permmoe.data.cohort.settings import CohortConfig, ImageModality
from permmoe.data.cohort.subjects import Subject

_STREAMS = {"t1": Purpose.RAW_T1, "flair": Purpose.RAW_FLAIR, "amyloid": Purpose.RAW_AMYLOID, "tau": Purpose.RAW_TAU}


@dataclass(frozen=True)
class RawScan:
    """One scan in its scanner's own millimetres."""

    modality: ImageModality
    acquired: Acquired
    to_template: tuple[Matrix, ...]
    """The scanner's millimetres to the template's, one for each frame."""
    brain_ml: float
    """True volume of the brain's mask in the scanner's millimetres."""
    bq_per_ml: float | None = None
    """PET: counts where the ordinary cohort's image has a ratio of 1."""


def draw_session(subject: Subject, scanner: Scanner, config: CohortConfig) -> list[RawScan]:
    """The subject's scans, one at a time from streams of their own: a modality does not depend on the others."""
    # One thread: the order of a sum must not depend on how many cores there are.
    with threadpool_limits(1):
        brain = draw_brain(subject, scanner, config.grid, config.seed, subject.observed, config.realism)
        rng = stream(config.seed, Purpose.RAW_HEAD, subject.index)
        size, head = draw_size(rng), draw_head(brain.mask, rng)
        streams = {modality: stream(config.seed, _STREAMS[modality], subject.index) for modality in subject.observed}
        return [_scan(name, brain, head, size, scanner, rng) for name, rng in streams.items()]


def _scan(
    modality: ImageModality,
    brain: Brain,
    head: Head,
    size: Matrix,
    scanner: Scanner,
    rng: np.random.Generator,
) -> RawScan:
    protocol, is_pet = PROTOCOLS[modality], modality in ("amyloid", "tau")
    fwhm_mm = scanner.pet_fwhm_mm if is_pet else scanner.mri_fwhm_mm
    ratios = on_head_grid(brain.images[modality]) + head.around(dict(protocol.signal), fwhm_mm)
    pose = draw_pose(rng)
    field = draw_field(protocol, _surface_mm(head), _lowest_mm(brain), pose @ size, rng)
    poses = [pose]
    while is_pet and len(poses) < FRAMES:
        poses.append(poses[-1] @ draw_motion(rng))
    to_template = tuple(np.linalg.inv(each @ size) for each in poses)
    views = [sampled(ratios, field, matrix) for matrix in to_template]
    brain_ml = float(brain.mask.sum()) * GRID.spacing_mm**3 / 1000 * float(np.linalg.det(size[:3, :3]))
    if is_pet:
        bq_per_ml = float(np.exp(rng.uniform(np.log(2500), np.log(12000))))
        return RawScan(
            modality, counted(views, field, scanner.pet_noise, bq_per_ml, rng), to_template, brain_ml, bq_per_ml
        )
    gain = scanner.mri_gain * float(rng.uniform(0.85, 1.15))
    return RawScan(modality, magnetic(views[0], field, MRI_NOISE * scanner.mri_noise, gain, rng), to_template, brain_ml)


def _surface_mm(head: Head) -> np.ndarray:
    """Every other voxel of the head along each axis, template millimetres."""
    found = np.argwhere(head.tissue[::2, ::2, ::2] > 0) * 2
    return np.stack([axis[found[:, i]] for i, axis in enumerate(AXES_MM)], axis=1)


def _lowest_mm(brain: Brain) -> float:
    """The brain's lowest point, template millimetres."""
    whole = on_head_grid(brain.mask.astype(np.float32)) > 0
    return float(AXES_MM[2][np.flatnonzero(whole.any(axis=(0, 1)))[0]])
