"""How sites' scanners differ: contrast, shading, resolution, noise, calibration and tracer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from permmoe.data.cohort.fields import draw_coefficients
from permmoe.data.cohort.randomness import Purpose, stream

SHADING_SPACING_MM = 40.0
"""Coil and attenuation shading varies over several centimetres."""
DISTORTION_SPACING_MM = 28.0


@dataclass(frozen=True)
class Tracer:
    """An amyloid tracer as BIDS names it."""

    bids: str
    column: str
    """The column of ADNIMERGE that holds its summary uptake."""
    gain: float
    """Cortical signal for the same load, relative to florbetapir."""
    white_matter: float
    """Non-specific uptake in white matter, SUVR."""


FLORBETAPIR = Tracer("18FAV45", "AV45", 1.00, 1.55)
FLORBETABEN = Tracer("18FFBB", "FBB", 0.88, 1.75)
PITTSBURGH_COMPOUND_B = Tracer("11CPIB", "PIB", 1.15, 1.35)
TAU_TRACER = "18FAV1451"


@dataclass(frozen=True)
class Scanner:
    """One site's machines. Shading: coefficients of a smooth field (permmoe.data.cohort.fields), of the log signal."""

    mri_gain: float
    """Signal of white matter, arbitrary units."""
    mri_contrast: float
    """Exponent of the T1 signal; FLAIR takes 2 minus it, as long as that turns no contrast around."""
    mri_fwhm_mm: float
    mri_noise: float
    """Standard deviation, relative to white matter."""
    apparent_atrophy: float
    """Added to the atrophy that T1 and FLAIR show, in units of the latent: contrast between cortex and fluid."""
    apparent_lesions: float
    """Added to the vascular load that FLAIR shows, in standard deviations: slice thickness, fluid suppression."""
    apparent_amyloid: float
    apparent_tau: float
    """Added to the cortical load that PET shows, in units of the latent: scatter, spill-over, time after injection."""
    distortion: Float32[np.ndarray, "3 i j k"]
    """The displacement by non-linear gradients, mm along each axis."""
    t1_shading: Float32[np.ndarray, "x y z"]
    flair_shading: Float32[np.ndarray, "x y z"]
    pet_fwhm_mm: float
    pet_noise: float
    """Standard deviation where uptake is 1 SUVR."""
    amyloid_calibration: float
    tau_calibration: float
    """Factor on the SUVR."""
    amyloid_sensitivity: float
    tau_sensitivity: float
    """Factor on specific uptake alone: when after injection the scan starts, and how it is reconstructed."""
    pet_shading: Float32[np.ndarray, "x y z"]
    newer_tracer: Tracer
    """For amyloid, since ADNI3."""
    tracer_shift: float
    """How much of the differences between tracers shows; 0: all look like florbetapir."""

    def amyloid_tracer(self, phase: str) -> Tracer:
        """ADNI1 used Pittsburgh compound B, ADNI-GO and ADNI2 florbetapir; later a site chooses."""
        return {"ADNI1": PITTSBURGH_COMPOUND_B, "ADNIGO": FLORBETAPIR, "ADNI2": FLORBETAPIR}.get(
            phase, self.newer_tracer
        )


def site_scanner(seed: int, site_code: str, site_shift: float) -> Scanner:
    """A site's scanner; at `site_shift` 0 all sites have the same, and differences grow in proportion."""
    rng = stream(seed, Purpose.SITE, "scanner " + site_code)
    # Away from 0, so that eight sites always differ in earnest, whatever the seed.
    z = rng.choice([-1.0, 1.0], 13) * rng.uniform(0.5, 1.5, 13) * site_shift
    gain = rng.choice([600.0, 3200.0, 1400.0], p=[0.50, 0.32, 0.18])
    newer_tracer = FLORBETABEN if rng.random() < 0.3 else FLORBETAPIR
    t1_shading, flair_shading, pet_shading = (draw_coefficients(rng, SHADING_SPACING_MM) for _ in range(3))
    distortion = np.stack([draw_coefficients(rng, DISTORTION_SPACING_MM) for _ in range(3)])
    return Scanner(
        mri_gain=float(1000 * (gain / 1000) ** min(site_shift, 1.0)),
        mri_contrast=float(np.exp(0.20 * z[0])),
        mri_fwhm_mm=float(3.0 * np.exp(0.40 * z[1])),
        mri_noise=float(0.02 * np.exp(0.35 * z[2])),
        apparent_atrophy=float(0.45 * z[3]),
        apparent_lesions=float(1.20 * z[4]),
        apparent_amyloid=float(0.50 * z[5]),
        apparent_tau=float(0.18 * z[12]),
        distortion=np.float32(1.0 * site_shift) * distortion,
        t1_shading=np.float32(0.10 * site_shift) * t1_shading,
        flair_shading=np.float32(0.10 * site_shift) * flair_shading,
        pet_fwhm_mm=float(6.5 * np.exp(0.25 * z[6])),
        pet_noise=float(0.05 * np.exp(0.30 * z[7])),
        amyloid_calibration=float(np.exp(0.12 * z[8])),
        tau_calibration=float(np.exp(0.12 * z[9])),
        amyloid_sensitivity=float(np.exp(0.30 * z[10])),
        tau_sensitivity=float(np.exp(0.30 * z[11])),
        pet_shading=np.float32(0.10 * site_shift) * pet_shading,
        newer_tracer=newer_tracer,
        tracer_shift=min(site_shift, 1.0),
    )
