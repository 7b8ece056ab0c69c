"""Find the scans of a folder, whichever layouts it holds: one layout, or several side by side."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

from permmoe.data.image_names import image_name
from permmoe.data.images import files_under
from permmoe.data.quarantine import Quarantine, Quarantined
from permmoe.data.reasons import Reason
from permmoe.errors import DataError
from permmoe.preparation.progress import Progress, Step, counted, unseen
from permmoe.preparation.sources.agreement import agreeing
from permmoe.preparation.sources.bids import bids_scans, without_sources
from permmoe.preparation.sources.choosing import choose
from permmoe.preparation.sources.dicom import dicom_scans
from permmoe.preparation.sources.found import FoundScans
from permmoe.preparation.sources.image_facts import is_image
from permmoe.preparation.sources.loni import LoniDownload
from permmoe.preparation.sources.series_rules import SeriesRules, read_rules

LOOKED_FOR = """\
  BIDS             sub-01[/ses-a]/anat/sub-01[_ses-a]_T1w.nii.gz, …_FLAIR.nii.gz, pet/…_trc-18FAV45_pet.nii.gz
  Clinica's CAPS   subjects/sub-01/ses-M000/{t1_linear,flair_linear,pet_linear}/…
  LONI's download  011_S_0002/Accelerated_Sagittal_MPRAGE/2019-03-01_10_11_12.0/I1234567/… (.dcm or .nii)
  DICOM            files of any names in folders of any depth"""


def find_scans(
    source: Path,
    *,
    converted: Path,
    rules: SeriesRules | None = None,
    today: date | None = None,
    workers: int = 1,
    progress: Progress = unseen,
) -> FoundScans:
    """Every T1, FLAIR, amyloid and tau scan of a folder: at most one of each modality in a session.

    `converted` is a folder for the images that are made from DICOM; they are kept, so that a second search makes none
    again. `rules` choose the series of DICOM and of LONI; the shipped ones where they are None. `progress` is told of
    each step.

    Raises DataError where the folder does not exist, or holds nothing that looks like a scan; scans that cannot be used
    are left out, each with its reason.
    """
    if not source.is_dir():
        raise DataError(
            f"no folder at {source}; name the folder of scans, or a single image as t1=FILE",
            for_log="the folder of scans is away",
        )
    rules = rules or read_rules()
    own = _below(source, converted)
    listed = sorted(f for f in counted(files_under(source), Step.LISTED, progress) if own not in f.parents)
    files = without_sources(listed, source)
    loni = LoniDownload.among(files)
    candidates, items = bids_scans(files, progress)
    for more, left_out in (
        loni.scans(files, rules, progress),
        dicom_scans(files, rules, converted, loni.told, workers, progress),
    ):
        candidates += more
        items += left_out
    kept, of_no_use = agreeing(candidates, today or date.today())
    folders = [Quarantined("", "", str(folder), reason) for folder, reason in _folders_of_nothing(source, own)]
    chosen = choose(kept, workers, progress)
    left_out_of_all = Quarantine((*items, *of_no_use, *folders)) + chosen.left_out
    notes = _notes(files, listed, loni)
    if not chosen.scans and not len(left_out_of_all):
        also = "".join(f"\n  note: {note}" for note in notes)
        raise DataError(
            f"no scan among the {len(listed)} files under {source}; looked for\n{LOOKED_FOR}{also}\n"
            "Name a folder in one of these layouts, or a single image as t1=FILE",
            for_log="the folder of scans holds none in a known layout",
        )
    return FoundScans(chosen.scans, left_out_of_all, chosen.choices, notes)


def _below(source: Path, folder: Path) -> Path | None:
    """How a folder is called among the files under `source`; None where it does not lie there."""
    try:
        return source / folder.resolve().relative_to(source.resolve())
    except ValueError:
        return None


def _notes(files: Sequence[Path], listed: Sequence[Path], loni: LoniDownload) -> tuple[str, ...]:
    unnamed = sum(is_image(f) and not image_name(f.name) and not loni.told(f) for f in files)
    packed = sum(f.name.lower().endswith((".zip", ".tar", ".tgz", ".tar.gz", ".7z")) for f in files)
    counts = {
        "image file(s) whose names tell neither subject nor kind were passed over; name one as t1=FILE": unnamed,
        "packed file(s) were passed over; unpack them first": packed,
        "image(s) of the search's table are not in the folder": loni.missing(files) if loni.rows else 0,
        "file(s) under sourcedata were passed over": len(listed) - len(files),
    }
    return tuple(f"{n} {what}" for what, n in counts.items() if n)


def _folders_of_nothing(source: Path, own: Path | None) -> Iterator[tuple[Path, Reason]]:
    """Folders under a folder, but for our own, that hold nothing at all, or cannot be looked into."""
    closed: list[Path] = []
    for root, folders, names in os.walk(source, onerror=lambda error: closed.append(Path(error.filename))):
        folder = Path(root)
        if not folders and not names and folder not in (source, own) and own not in folder.parents:
            yield folder, Reason.EMPTY_FOLDER
    yield from ((folder, Reason.FILE_NOT_OPENED) for folder in closed)
