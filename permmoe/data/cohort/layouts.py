"""Where Clinica puts a subject's files: BIDS as adni-to-bids writes it, or CAPS as its pipelines do."""

from __future__ import annotations

from pathlib import Path

from permmoe.data.cohort.scanners import TAU_TRACER, site_scanner
from permmoe.data.cohort.settings import CohortConfig, ImageModality
from permmoe.data.cohort.subjects import Subject
from permmoe.data.cohort.tables import session_label

_CAPS_SPACE = "space-MNI152NLin2009cSym_desc-Crop_res-1x1x1"


def subject_folder(folder: Path, subject: Subject, config: CohortConfig) -> Path:
    """The folder that holds all of a subject's sessions."""
    return (folder / "subjects" if config.layout == "caps" else folder) / subject.bids_id


def volume_path(folder: Path, subject: Subject, modality: ImageModality, config: CohortConfig) -> Path:
    """The image file of a subject's index visit.

    CAPS names keep Clinica's `res-1x1x1` whatever the grid, since Clinica writes no other; read the header.
    """
    session = session_label(subject.index_visit)
    stem = f"{subject.bids_id}_{session}"
    tracer = pet_tracer(subject, modality, config)
    if config.layout == "bids":
        name = {
            "t1": f"anat/{stem}_T1w",
            "flair": f"anat/{stem}_FLAIR",
            "amyloid": f"pet/{stem}_trc-{tracer}_pet",
            "tau": f"pet/{stem}_trc-{tracer}_pet",
        }[modality]
    else:
        pet = f"pet_linear/{stem}_trc-{tracer}_{_CAPS_SPACE}_suvr-cerebellumPons2_pet"
        name = {
            "t1": f"t1_linear/{stem}_{_CAPS_SPACE}_T1w",
            "flair": f"flair_linear/{stem}_{_CAPS_SPACE}_FLAIR",
            "amyloid": pet,
            "tau": pet,
        }[modality]
    return subject_folder(folder, subject, config) / session / f"{name}.nii.gz"


def pet_tracer(subject: Subject, modality: ImageModality, config: CohortConfig) -> str:
    """BIDS' name of the amyloid or tau tracer that the subject's site uses."""
    if modality == "tau":
        return TAU_TRACER
    scanner = site_scanner(config.seed, subject.site.code, config.site_shift)
    return scanner.amyloid_tracer(subject.phase.name).bids
