"""A raw session as files: NIfTI and JSON as BIDS wants them, and the truth of every scan."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np

from permmoe.data.cohort.layouts import pet_tracer, volume_path
from permmoe.data.cohort.raw.acquisition import Acquired
from permmoe.data.cohort.raw.dicom import dicom_files
from permmoe.data.cohort.raw.pet_sidecar import FRAME_SECONDS, pet_sidecar
from permmoe.data.cohort.raw.protocol import PROTOCOLS
from permmoe.data.cohort.raw.session import RawScan, draw_session
from permmoe.data.cohort.scanners import Scanner
from permmoe.data.cohort.settings import CohortConfig
from permmoe.data.cohort.subjects import Subject

DICOM_FOLDER = "sourcedata/dicom"
"""Where BIDS keeps what images were made from: a search for images does not find every scan twice."""
TRUTH_FOLDER = "truth/raw"


def session_files(
    folder: Path, subject: Subject, scanner: Scanner, config: CohortConfig
) -> Iterator[tuple[Path, bytes]]:
    """Every file of the subject's session under `folder`, in the order in which they are to be written."""
    assert config.raw is not None
    scans = draw_session(subject, scanner, config)
    tracers: dict[str, str] = {
        scan.modality: pet_tracer(subject, scan.modality, config) for scan in scans if scan.bq_per_ml is not None
    }
    for scan in scans:
        path = volume_path(folder, subject, scan.modality, config)
        yield path, _nifti(scan.acquired)
        yield path.with_name(path.name.replace(".nii.gz", ".json")), _json(_sidecar(scan, tracers.get(scan.modality)))
    if subject.index < config.raw.dicom_subjects:
        for name, content in dicom_files(subject, scans, tracers):
            yield folder / DICOM_FOLDER / name, content
    yield folder / TRUTH_FOLDER / f"{subject.bids_id}.json", _json({scan.modality: _truth(scan) for scan in scans})


def _sidecar(scan: RawScan, tracer: str | None) -> dict[str, object]:
    how = {"Modality": "MR"} if tracer is None else pet_sidecar(tracer, scan.acquired.integers.shape[3])
    return {"SYNTHETIC": True, "SeriesDescription": PROTOCOLS[scan.modality].description, **how}


def _truth(scan: RawScan) -> dict[str, object]:
    truth: dict[str, object] = {
        "scanner_mm_to_template_mm": [matrix.round(9).tolist() for matrix in scan.to_template],
        "brain_ml": round(scan.brain_ml, 3),
    }
    if scan.bq_per_ml is not None:
        truth["bq_per_ml_at_ratio_1"] = scan.bq_per_ml
    return truth


def _nifti(acquired: Acquired) -> bytes:
    """A gzipped NIfTI of 16-bit integers with a scale; equal numbers give equal bytes."""
    integers = acquired.integers[..., 0] if acquired.integers.shape[3] == 1 else acquired.integers
    image = nib.Nifti1Image(integers, acquired.affine)
    image.header.set_slope_inter(acquired.slope, 0)
    image.header.set_xyzt_units("mm", "sec")
    if integers.ndim == 4:
        image.header.set_zooms((*image.header.get_zooms()[:3], np.float32(FRAME_SECONDS)))
    image.set_sform(acquired.affine, code="scanner")
    image.set_qform(acquired.affine, code="scanner")
    image.header["descrip"] = b"SYNTHETIC, made by permmoe"
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)


def _json(values: dict[str, object]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()
