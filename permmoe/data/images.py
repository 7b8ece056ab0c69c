"""Find brain images where Clinica puts them: its BIDS folder (`adni-to-bids`) and its CAPS folder (pipelines' output).

BIDS: `sub-ADNI011S0002/ses-M000/anat/…_T1w.nii.gz`, `…_FLAIR.nii.gz`, `pet/…_trc-18FAV45_pet.nii.gz`, dates in
`sub-…_sessions.tsv`. CAPS: `subjects/sub-…/ses-…/{t1_linear,flair_linear,pet_linear}/…`, registered, without dates.
Both may lie under one folder; a session's dates then serve both.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

from permmoe.errors import DataError

TRACERS = {"18FAV45": "amyloid", "18FFBB": "amyloid", "11CPIB": "amyloid", "18FAV1451": "tau"}
"""The modality that a BIDS tracer label stands for."""
FOLDERS = {
    "anat": "raw",
    "pet": "raw",
    "t1_linear": "registered",
    "flair_linear": "registered",
    "pet_linear": "registered",
}
IMAGE_NAME = re.compile(
    r"sub-(?:ADNI)?(?P<site>\d{3})S(?P<rid>\d{4,5})_ses-(?P<session>[a-z0-9]+)_(?P<entities>.*_)?"
    r"(?P<suffix>T1w|FLAIR|pet)\.nii(?:\.gz)?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class FoundImage:
    """An image, whose it is and when it was taken."""

    subject_id: str
    """ADNI's PTID, as `011_S_0002`."""
    session: str
    """Clinica's label: `M` and the months since the first visit."""
    modality: str
    path: Path
    is_registered: bool
    """From a CAPS folder: in MNI space, and PET as SUVR."""
    taken: date | None
    """None where no sessions file tells."""

    @property
    def rid(self) -> int:
        """ADNI's roster number, which a subject keeps across phases."""
        return int(self.subject_id.rsplit("_", 1)[1])


def find_images(folder: Path) -> tuple[FoundImage, ...]:
    """Every T1, FLAIR, amyloid and tau image under a folder, by subject, session, modality and path.

    Raises DataError where the folder does not exist or holds none.
    """
    if not folder.is_dir():
        raise DataError(f"no folder of images at {folder}")
    files = sorted(_files(folder))
    dates = {key: taken for file in files if file.name.endswith("_sessions.tsv") for key, taken in _session_dates(file)}
    images = [image for file in files if (image := _image_of(file, dates)) is not None]
    if not images:
        raise DataError(
            f"no T1, FLAIR, amyloid or tau image under {folder}; expected Clinica's BIDS or CAPS layout, as "
            "sub-ADNI011S0002/ses-M000/anat/sub-ADNI011S0002_ses-M000_T1w.nii.gz. For any other layout write a manifest"
        )
    return tuple(sorted(images, key=lambda i: (i.subject_id, i.session, i.modality, str(i.path))))


def _files(folder: Path) -> Iterator[Path]:
    """Every file under a folder, through links to folders, each folder once: links may form a circle."""
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
        else:
            seen.add(real)
            yield from (Path(root) / name for name in names)


def _image_of(file: Path, dates: dict[tuple[str, str], date]) -> FoundImage | None:
    """The image that a file name declares; None for anything else, such as a segmentation or another tracer."""
    match = IMAGE_NAME.fullmatch(file.name)
    kind = FOLDERS.get(file.parent.name)
    if match is None or kind is None:
        return None
    entities = dict(part.split("-", 1) for part in (match["entities"] or "").split("_") if "-" in part)
    suffix = match["suffix"].lower()
    modality = (
        TRACERS.get(entities.get("trc", "").upper()) if suffix == "pet" else {"t1w": "t1", "flair": "flair"}[suffix]
    )
    # pet_linear also keeps intermediate images; only the registered uptake ratio carries both entities.
    if modality is None or (file.parent.name == "pet_linear" and not {"suvr", "space"} <= entities.keys()):
        return None
    subject, session = f"{match['site']}_S_{match['rid']}", match["session"].upper()
    return FoundImage(subject, session, modality, file, kind == "registered", dates.get((subject, session)))


def _session_dates(file: Path) -> Iterator[tuple[tuple[str, str], date]]:
    """((subject, session), date) of the sessions that a `sub-…_sessions.tsv` dates."""
    match = re.fullmatch(r"sub-(?:ADNI)?(\d{3})S(\d{4,5})_sessions\.tsv", file.name, re.IGNORECASE)
    if match is None:
        return
    subject = f"{match[1]}_S_{match[2]}"
    with file.open(encoding="utf-8-sig", newline="", errors="replace") as lines:
        for row in csv.DictReader(lines, delimiter="\t"):
            taken = parse_date(row.get("examination_date") or "")
            if taken is not None:
                yield (subject, (row.get("session_id") or "").removeprefix("ses-").upper()), taken


def parse_date(text: str) -> date | None:
    """A date as ADNI's tables write it: 2005-09-08, with or without a time, or 9/8/2005 (month first)."""
    day = text.strip().split(" ")[0].split("T")[0]
    for pattern in ("%Y-%m-%d", "%m/%d/%Y"):
        try:
            return datetime.strptime(day, pattern).date()
        except ValueError:
            continue
    return None
