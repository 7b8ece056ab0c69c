"""Write the synthetic cohort as real files; stop it at any moment, call it again, and it goes on.

`WRITING.json` stands in the folder from the first byte to the last and names the configuration. Every file appears
whole or not at all; a subject's session table comes after its images, and `dataset_description.json` after
everything, so each of the two proves what came before.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from jaxtyping import Float, Float32
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

import permmoe
from permmoe.data.cohort import tables
from permmoe.data.cohort.anatomy import load_anatomy
from permmoe.data.cohort.imaging import render
from permmoe.data.cohort.layouts import subject_folder, volume_path
from permmoe.data.cohort.raw.files import session_files
from permmoe.data.cohort.release_tables import release_tables
from permmoe.data.cohort.scanners import Scanner, site_scanner
from permmoe.data.cohort.settings import CohortConfig
from permmoe.data.cohort.subjects import Subject, draw_subject, draw_subjects
from permmoe.errors import DataError
from permmoe.runtime.workers import worker_pool

GENERATOR_VERSION = 1
"""Raised whenever equal configurations would give other bytes than before."""

DESCRIPTION_FILE = "dataset_description.json"
WRITING_FILE = "WRITING.json"
TRUTH_FOLDER = "truth"
_PARTIAL_SUFFIX = ".partial"
_QUANTISATION_LEVELS = 1000

_TRUTH_README = """\
SYNTHETIC. What generated the images and tables of this cohort, and what no real cohort has.
For checks and upper bounds only: a model that reads this folder has seen the answer.
latents.tsv   hidden disease state of every subject
scanners.tsv  distortions of every site's scanner
"""
_RAW_TRUTH_README = """\
raw/          of every raw scan: the true map of its scanner's millimetres to the template's, one for each frame
              (4×4, rows; the person's size is in it, the person's shape is not); the volume of the brain in ml; for
              PET, the Bq/ml at which the ratio of the cohort's image in template space is 1
"""


def write_cohort(
    folder: Path, config: CohortConfig, *, workers: int = 2, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write the cohort into `folder`, or return at once where this very cohort is already there in full.

    The bytes do not depend on `workers`; with more than one, the caller's main module must be importable (processes
    import it). `progress` is told (subjects done, subjects in all). One writer at a time in a folder.
    Raises DataError where the folder holds anything else, another configuration's cohort included, and where a worker
    process was killed.
    """
    if _is_finished(folder, config):
        if progress:
            progress(config.subjects, config.subjects)
        return
    folder.mkdir(parents=True, exist_ok=True)
    _write_text(folder / WRITING_FILE, _json({"SYNTHETIC": True, "Cohort": _identity(config)}))
    for leftover in folder.rglob(f"*{_PARTIAL_SUFFIX}"):
        leftover.unlink()
    for done, _ in enumerate(_write_subjects(folder, config, workers), start=1):
        if progress:
            progress(done, config.subjects)
    _write_tables(folder, config)
    _write_text(folder / DESCRIPTION_FILE, _json(_description(config)))
    (folder / WRITING_FILE).unlink()


def _is_finished(folder: Path, config: CohortConfig) -> bool:
    """False where writing may start or go on. Raises DataError where the folder is somebody else's."""
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise DataError(f"{folder} is a file; name a new or empty folder for the synthetic cohort")
    description, writing = folder / DESCRIPTION_FILE, folder / WRITING_FILE
    marker = next((file for file in (description, writing) if file.exists()), None)
    if marker is None:
        # A first marker cut off by a kill is the one trace that a start may leave.
        if all(entry.name.endswith(_PARTIAL_SUFFIX) for entry in folder.iterdir()):
            return False
        raise DataError(f"{folder} is not empty and holds no synthetic cohort; name a new or empty folder")
    if _recorded_identity(marker) != _identity(config):
        raise DataError(
            f"{folder} holds another data set, or a cohort of other settings (see {marker.name}); "
            "name a new folder, or remove this one"
        )
    if marker == description:
        writing.unlink(missing_ok=True)
    return marker == description


def _identity(config: CohortConfig) -> dict[str, str | int]:
    return {"ConfigDigest": config.digest(), "GeneratorVersion": GENERATOR_VERSION}


def _recorded_identity(marker: Path) -> object:
    try:
        recorded = json.loads(marker.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError):
        return None
    return recorded.get("Cohort") if isinstance(recorded, dict) else None


def _description(config: CohortConfig) -> dict[str, object]:
    return {
        "Name": f"SYNTHETIC ADNI-shaped cohort of {config.subjects} invented subjects; no patient is in it",
        "BIDSVersion": "1.9.0",
        "DatasetType": "raw" if config.layout == "bids" else "derivative",
        "SYNTHETIC": True,
        "GeneratedBy": [{"Name": "permmoe", "Version": permmoe.__version__}],
        "Cohort": _identity(config),
        "Seed": config.seed,
        "Config": config.model_dump(mode="json"),
    }


def _write_subjects(folder: Path, config: CohortConfig, workers: int) -> Iterator[int]:
    """Write subjects in order of index, yielding each index once its files are there."""
    if workers <= 1:
        for index in range(config.subjects):
            yield _write_subject(folder, config, index)
        return
    count = config.subjects
    try:
        with worker_pool(min(workers, count)) as pool:
            yield from pool.map(_write_subject, [folder] * count, [config] * count, range(count), chunksize=4)
    except BrokenProcessPool:
        raise DataError(
            f"a process that wrote into {folder} was killed, often for lack of memory; "
            "run the same again, with fewer workers: it goes on where it stopped"
        ) from None


def _write_subject(folder: Path, config: CohortConfig, index: int) -> int:
    subject = draw_subject(config, index)
    sessions = subject_folder(folder, subject, config) / f"{subject.bids_id}_sessions.tsv"
    if sessions.exists():
        return index
    scanner = _scanner(config.seed, subject.site.code, config.site_shift)
    files = _template_files if config.raw is None else session_files
    for path, content in files(folder, subject, scanner, config):
        _write_bytes(path, content)
    _write_table(sessions, tables.sessions_table(subject))
    return index


def _template_files(
    folder: Path, subject: Subject, scanner: Scanner, config: CohortConfig
) -> Iterator[tuple[Path, bytes]]:
    """The subject's images in template space."""
    # One thread: the order of a sum must not depend on how many cores there are.
    with threadpool_limits(1):
        anatomy = load_anatomy(config.grid)
        volumes = render(subject, scanner, anatomy, config.seed, subject.observed, config.realism)
    for modality, volume in volumes.items():
        yield volume_path(folder, subject, modality, config), _nifti(volume, anatomy.affine)


_scanner: Callable[[int, str, float], Scanner] = lru_cache(maxsize=256)(site_scanner)


def _write_tables(folder: Path, config: CohortConfig) -> None:
    subjects = draw_subjects(config)
    _write_table(folder / "clinical" / "ADNIMERGE.csv", tables.adnimerge_table(subjects, config))
    _write_table(folder / "clinical" / "CDR.csv", tables.cdr_table(subjects))
    if config.release_tables:
        for name, table in release_tables(subjects, config).items():
            _write_table(folder / "clinical" / name, table)
    _write_table(folder / "participants.tsv", tables.participants_table(subjects))
    _write_table(folder / TRUTH_FOLDER / "latents.tsv", tables.latents_table(subjects))
    _write_table(folder / TRUTH_FOLDER / "scanners.tsv", tables.scanners_table(config))
    _write_text(folder / TRUTH_FOLDER / "README.txt", _TRUTH_README + (_RAW_TRUTH_README if config.raw else ""))
    _write_text(folder / ".bidsignore", "clinical/\ntruth/\n")


def _nifti(volume: Float32[np.ndarray, "x y z"], affine: Float[np.ndarray, "4 4"]) -> bytes:
    """A gzipped NIfTI of 16-bit integers with a scale; equal voxels give equal bytes."""
    slope = float(volume.max()) / _QUANTISATION_LEVELS
    image = nib.Nifti1Image(np.round(volume / np.float32(slope)).astype(np.int16), affine)
    image.header.set_slope_inter(slope, 0)
    image.header.set_xyzt_units("mm")
    image.header.set_sform(affine, code="mni")
    image.header.set_qform(affine, code="mni")
    image.header["descrip"] = b"SYNTHETIC, made by permmoe"
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)


def _write_table(path: Path, table: pd.DataFrame) -> None:
    _write_text(path, table.to_csv(sep="\t" if path.suffix == ".tsv" else ",", index=False, lineterminator="\n"))


def _write_text(path: Path, text: str) -> None:
    _write_bytes(path, text.encode())


def _write_bytes(path: Path, content: bytes) -> None:
    """Whole or not at all, also when killed in between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + _PARTIAL_SUFFIX)
    partial.write_bytes(content)
    partial.replace(path)


def _json(values: dict[str, object]) -> str:
    return json.dumps(values, indent=2) + "\n"
