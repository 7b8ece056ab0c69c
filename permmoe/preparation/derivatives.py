"""Prepared images as files: a BIDS-derivatives dataset, in which each image has a sidecar that says how it was made.

`sub-X/ses-Y/anat/sub-X_ses-Y_space-…_desc-brain_T1w.nii.gz`, its mask, the map from the template to the scan
(`…_xfm.txt`: 4×4, RAS millimetres) and `….json`. The sidecar is written last: a scan is finished when it has one that
was made of these files by this method and these settings, be it that the scan could not be used. Sidecars hold digests
of the source's files, not their names, and nothing of a DICOM header.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from pydantic import ValidationError

import permmoe
from permmoe.config import VolumeGrid
from permmoe.data.image_file import BrokenVolume, checked_voxels, open_image, why_unread
from permmoe.data.image_names import PTID, bids_label
from permmoe.data.reasons import Reason
from permmoe.data.template import TEMPLATE
from permmoe.data.volumes import grid_affine
from permmoe.errors import DataError
from permmoe.preparation.images.image import Image
from permmoe.preparation.images.prepare import Measured, PreparedImage
from permmoe.preparation.quality.metrics import ImageMetrics
from permmoe.preparation.scan import PET, Scan
from permmoe.prepared import Prepared
from permmoe.runtime.files import write_file

TOOLS = ("deepbet", "SimpleITK", "dcm2niix", "nibabel", "numpy", "scipy", "torch")
SUFFIXES = {"t1": "T1w", "flair": "FLAIR", "amyloid": "pet", "tau": "pet"}


@dataclass(frozen=True)
class Derivative:
    """A finished image: where its files are and what its sidecar says."""

    scan: Scan
    image: Path
    prepared: Prepared
    follows_t1: bool
    measured: Measured
    metrics: ImageMetrics
    """As they were computed when the image was made."""
    identity: str
    """A digest of what it was made of and how."""

    @property
    def mask(self) -> Path:
        """The brain's mask."""
        return mask_path(self.image)

    def load(self, grid: VolumeGrid) -> PreparedImage:
        """The image itself, as it was before it was written, up to rounding.

        Raises DataError where its files cannot be read any more.
        """
        try:
            image, mask = (
                Image(np.asarray(checked_voxels(open_image(path), "reject"), np.float32), grid_affine(grid))
                for path in (self.image, self.mask)
            )
            matrix = np.loadtxt(matrix_path(self.image), dtype=np.float64)
        except (BrokenVolume, OSError, ValueError):
            raise DataError(
                f"{self.image}, its mask or its map cannot be read again; delete it and run the same again: it is made "
                "anew",
                for_log="a prepared image cannot be read again",
            ) from None
        return PreparedImage(image, mask, matrix, self.follows_t1, self.measured)


def subject_label(subject_id: str) -> str:
    """A subject's label in BIDS: ADNI's `011_S_0002` is `ADNI011S0002`, as Clinica has it; others lose punctuation."""
    label = bids_label(subject_id)
    return f"ADNI{label}" if re.fullmatch(PTID, subject_id) else label


def image_path(out: Path, scan: Scan) -> Path:
    """Where a scan's prepared image belongs."""
    subject, session = f"sub-{subject_label(scan.subject_id)}", f"ses-{bids_label(scan.session) or '1'}"
    tracer = f"_trc-{scan.tracer}" if scan.tracer else ""
    description = "suvr" if scan.modality in PET else "brain"
    folder = out / subject / session / ("pet" if scan.modality in PET else "anat")
    return folder / f"{subject}_{session}{tracer}_space-{TEMPLATE}_desc-{description}_{SUFFIXES[scan.modality]}.nii.gz"


def mask_path(image: Path) -> Path:
    """Where the mask of a prepared image lies: a T1's brain, or what of it another image shows."""
    return image.with_name(image.name.removesuffix(".nii.gz") + "_mask.nii.gz")


def matrix_path(image: Path) -> Path:
    """Where the map from the template to the scan lies."""
    return image.with_name(image.name.removesuffix(".nii.gz") + "_xfm.txt")


def sidecar_path(image: Path) -> Path:
    """Where an image's sidecar lies."""
    return image.with_name(image.name.removesuffix(".nii.gz") + ".json")


def write_derivative(
    out: Path, scan: Scan, result: PreparedImage, recipe: str, prepared: Prepared, metrics: ImageMetrics
) -> Derivative:
    """Write an image with its mask, map and sidecar.

    Raises OSError where the disk is full, BrokenVolume where the source cannot be read; the scan is then not finished.

    `recipe`: a digest of all that the image depends on beside its source.
    """
    image = image_path(out, scan)
    # On the disk before the sidecar is there: what a power cut takes must not look finished.
    write_file(image, nifti(result.image, np.float32))
    write_file(mask_path(image), nifti(result.mask, np.uint8))
    text = io.StringIO()
    np.savetxt(text, result.matrix, fmt="%.10g")
    write_file(matrix_path(image), text.getvalue())
    source = _source_digest(scan)
    sidecar = {
        "SkullStripped": True,
        "SpatialReference": TEMPLATE,
        "Prepared": prepared.model_dump(mode="json"),
        "FollowsT1": result.follows_t1,
        "Measured": asdict(result.measured),
        "Metrics": asdict(metrics),
    }
    _write_sidecar(image, sidecar | _made_of(scan, source, recipe))
    return Derivative(scan, image, prepared, result.follows_t1, result.measured, metrics, _identity(source, recipe))


def write_refusal(out: Path, scan: Scan, reason: Reason, recipe: str) -> None:
    """Remember that a scan cannot be used, so that it is not tried again. Raises as `write_derivative`."""
    _write_sidecar(image_path(out, scan), {"Refused": reason} | _made_of(scan, _source_digest(scan), recipe))


def finished(out: Path, scan: Scan, recipe: str) -> Derivative | Reason | None:
    """A scan's derivative, or why it cannot be used, if it is finished; None where it has to be made (again).

    Raises BrokenVolume where its source cannot be read.
    """
    image = image_path(out, scan)
    try:
        said = json.loads(sidecar_path(image).read_text())
        if said["Recipe"] != recipe or not _is_of(scan, said):
            return None
        if "Refused" in said:
            return next((reason for reason in Reason if reason == said["Refused"]), None)
        if not (image.is_file() and mask_path(image).is_file() and matrix_path(image).is_file()):
            return None
        return Derivative(
            scan,
            image,
            Prepared.model_validate(said["Prepared"]),
            said["FollowsT1"],
            Measured(**said["Measured"]),
            ImageMetrics(**said["Metrics"]),
            _identity(said["SourceDigest"], recipe),
        )
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None


def _made_of(scan: Scan, source: str, recipe: str) -> dict[str, Any]:
    versions = {"permmoe": permmoe.__version__, **{name: version(name) for name in TOOLS}}
    return {"Recipe": recipe, "SourceDigest": source, "SourceStamp": _source_stamp(scan), "Versions": versions}


def _write_sidecar(image: Path, content: Mapping[str, Any]) -> None:
    write_file(sidecar_path(image), json.dumps(content, indent=1) + "\n", is_durable=False)


def _is_of(scan: Scan, said: Mapping[str, Any]) -> bool:
    """Whether a sidecar speaks of these very files: by size and time, or else by content."""
    return bool(said["SourceStamp"] == _source_stamp(scan) or said["SourceDigest"] == _source_digest(scan))


def _source_digest(scan: Scan) -> str:
    """SHA-256 over the content of a scan's files, in order, and over when its frames were taken.

    Raises BrokenVolume where one cannot be read.
    """
    digest = hashlib.sha256(repr(scan.frames).encode())
    try:
        for file in scan.files:
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    except OSError as error:
        raise BrokenVolume(why_unread(error)) from None
    return digest.hexdigest()


def _source_stamp(scan: Scan) -> str:
    """A digest of sizes and times of a scan's files: while it is the same, their content is taken to be.

    Raises BrokenVolume where one is away.
    """
    try:
        stamps = [(file.stat().st_size, file.stat().st_mtime_ns) for file in scan.files]
    except OSError as error:
        raise BrokenVolume(why_unread(error)) from None
    return hashlib.sha256(repr((stamps, scan.frames)).encode()).hexdigest()


def _identity(source: str, recipe: str) -> str:
    return hashlib.sha256(f"{source} {recipe}".encode()).hexdigest()


def nifti(image: Image, kind: type[np.generic]) -> bytes:
    """A gzipped NIfTI in template space; equal voxels give equal bytes."""
    nifti = nib.Nifti1Image(image.voxels.astype(kind), image.affine)
    nifti.header.set_xyzt_units("mm")
    nifti.header.set_sform(image.affine, code="mni")
    nifti.header.set_qform(image.affine, code="mni")
    return gzip.compress(nifti.to_bytes(), compresslevel=1, mtime=0)
