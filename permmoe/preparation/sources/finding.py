"""Find the scans of a folder, whichever layouts it holds: one layout, or several side by side."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from permmoe.data.images import files_under
from permmoe.errors import DataError
from permmoe.preparation.sources.bids import bids_scans
from permmoe.preparation.sources.found import FoundScans

LOOKED_FOR = """\
  BIDS            sub-01[/ses-a]/anat/sub-01[_ses-a]_T1w.nii.gz, …_FLAIR.nii.gz, pet/…_trc-18FAV45_pet.nii.gz
  Clinica's CAPS  subjects/sub-01/ses-M000/{t1_linear,flair_linear,pet_linear}/…"""


def find_scans(source: Path, *, converted: Path, today: date | None = None) -> FoundScans:
    """Every T1, FLAIR, amyloid and tau scan of a folder: at most one of each modality in a session.

    Raises DataError where the folder does not exist, or holds nothing that looks like a scan; scans that cannot be used
    are left out, each with its reason. `converted` is a folder for images that are made from DICOM; they are kept.
    """
    if not source.is_dir():
        raise DataError(
            f"no folder at {source}; name the folder of scans, or a single image as t1=FILE",
            for_log="the folder of scans is away",
        )
    files = sorted(file for file in files_under(source) if converted not in file.parents)
    found = bids_scans(files, today or date.today())
    if not found.scans and not len(found.left_out):
        raise DataError(
            f"no scan among the {len(files)} files under {source}; looked for\n{LOOKED_FOR}\n"
            "Name a folder in one of these layouts, or a single image as t1=FILE",
            for_log="the folder of scans holds none in a known layout",
        )
    return found
