"""Find brain images by their names in BIDS form: as scanned, as Clinica's pipelines write them, and as prepared here.

BIDS, of any subject naming: `sub-01[/ses-a]/anat/…_T1w.nii.gz`, `…_FLAIR.nii.gz`, `pet/…_trc-18FAV45_pet.nii.gz`, with
or without sessions. Clinica's CAPS: `subjects/sub-…/ses-…/{t1_linear,flair_linear,pet_linear}/…`, registered. Prepared
(`permmoe data prepare`): BIDS with `space-MNI…`, registered. All may lie under one folder. ADNI's subjects may also be
called as in its tables, `011_S_0002`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from permmoe.data.image_dates import ImageDates, read_image_dates
from permmoe.data.image_names import PTID, ImageName, image_name
from permmoe.errors import DataError

LINEAR = ("t1_linear", "flair_linear", "pet_linear")
"""Folders of Clinica's pipelines; what lies there is registered."""


@dataclass(frozen=True)
class FoundImage:
    """An image, whose it is and when it was taken."""

    subject_id: str
    """ADNI's PTID, as `011_S_0002`; of any other study the label without `sub-`."""
    session: str
    """The label without `ses-`, as ADNI's `M012` or OASIS-3's `d0129`; empty where the subject has no sessions."""
    modality: str
    path: Path
    is_registered: bool
    """In MNI space, and PET as SUVR."""
    taken: date | None
    """None where no table tells."""
    tracer: str = ""
    """A PET tracer's canonical name (permmoe.data.tracers); empty for MRI."""
    region: str = ""
    """The reference region of uptake ratios, where the image's name tells it."""

    @property
    def rid(self) -> int | None:
        """ADNI's roster number, which a subject keeps across phases; None for subjects of other studies."""
        return int(self.subject_id.rsplit("_", 1)[1]) if re.fullmatch(PTID, self.subject_id) else None


@dataclass(frozen=True)
class FoundImages:
    """The images under a folder, by subject, session, modality and path."""

    images: tuple[FoundImage, ...]
    other_tracers: Mapping[str, int]
    """How many PET images were left aside, by the label of their tracer; `none` where the name has no label."""


def find_images(folder: Path) -> FoundImages:
    """Every T1, FLAIR, amyloid and tau image under a folder.

    Raises DataError where the folder does not exist or holds none, and where a table of sessions cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"no folder of images at {folder}", for_log="the folder of images is away")
    found = images_among(sorted(files_under(folder)))
    if not found.images:
        raise DataError(
            f"no T1, FLAIR, amyloid or tau image under {folder}; expected names in BIDS form or Clinica's CAPS, as "
            "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz. For any other layout run 'permmoe data prepare', or write a "
            "manifest",
            for_log="the folder of images holds no image in BIDS or CAPS layout",
        )
    return found


def images_among(files: Sequence[Path]) -> FoundImages:
    """As `find_images`, among files that were listed; no image is no error."""
    dates = read_image_dates(files)
    named = [(file, name) for file in files if (name := image_name(file.name))]
    images: list[FoundImage] = []
    left_aside: Counter[str] = Counter()
    for file, name in named:
        found = _image_of(file, name, dates)
        if isinstance(found, FoundImage):
            images.append(found)
        elif found is not None:
            left_aside[found] += 1
    ordered = tuple(sorted(images, key=lambda i: (i.subject_id, i.session, i.modality, str(i.path))))
    return FoundImages(ordered, dict(sorted(left_aside.items())))


def files_under(folder: Path) -> Iterator[Path]:
    """Every file under a folder, through links to folders, each folder once: links may form a circle."""
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
        else:
            seen.add(real)
            yield from (Path(root) / name for name in names)


def _image_of(file: Path, name: ImageName, dates: ImageDates) -> FoundImage | str | None:
    """The image that a file name declares; the tracer's label for other PET; None for what is no image of a visit."""
    folder = _folder_of(file)
    if folder not in ("anat", "pet", *LINEAR):
        return None
    # pet_linear also keeps intermediate images; only the registered uptake ratio carries both entities.
    if folder == "pet_linear" and not (name.region and "space" in name.entities):
        return None
    if name.modality is None:
        return name.label
    is_registered = folder in LINEAR or (name.is_in_template_space and (name.suffix != "pet" or name.is_uptake_ratio))
    taken = dates.of(file, name)
    return FoundImage(
        name.subject_id, name.session, name.modality, file, is_registered, taken, name.tracer, name.region
    )


def _folder_of(file: Path) -> str:
    """The kind of folder that holds an image: XNAT numbers them, and may put files a step lower, in `NIFTI`."""
    parent = file.parent.parent if file.parent.name == "NIFTI" else file.parent
    numbered = re.fullmatch(r"(anat|pet)\d+", parent.name)
    return numbered[1] if numbered else parent.name
