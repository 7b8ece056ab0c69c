"""Find brain images by their names in BIDS form: as scanned, as Clinica's pipelines write them, and as prepared here.

BIDS, of any subject naming: `sub-01[/ses-a]/anat/…_T1w.nii.gz`, `…_FLAIR.nii.gz`, `pet/…_trc-18FAV45_pet.nii.gz`, with
or without sessions. Clinica's CAPS: `subjects/sub-…/ses-…/{t1_linear,flair_linear,pet_linear}/…`, registered. Prepared
(`permmoe data prepare`): BIDS with `space-MNI…`, registered, and listed with their subjects, days and verdicts. All may
lie under one folder. ADNI's subjects may also be called as in its tables, `011_S_0002`, or by numbers whose meaning a
`participants.tsv` tells.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from permmoe.data.image_dates import read_image_dates
from permmoe.data.image_names import PTID, ImageName, image_name
from permmoe.data.participants import read_aliases, subject_in
from permmoe.data.prepared_images import ListedImage, read_lists
from permmoe.errors import DataError
from permmoe.tracers import canonical_tracer, modality_of

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
    """A PET tracer's canonical name (permmoe.tracers); empty for MRI."""
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
    other_pet: tuple[Path, ...]
    """PET images that were left aside, since their tracer shows neither amyloid nor tau, or is not told."""
    failed: tuple[Path, ...] = ()
    """Prepared images that were left aside, since their preparation failed."""

    @property
    def other_tracers(self) -> Mapping[str, int]:
        """How many PET images were left aside, by the label of their tracer; `none` where the name has no label."""
        names = filter(None, (image_name(path.name) for path in self.other_pet))
        return dict(sorted(Counter(name.label for name in names).items()))


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


def images_among(files: Sequence[Path], tracer_of: Callable[[Path], str] = lambda _: "") -> FoundImages:
    """As `find_images`, among files that were listed; no image is no error.

    `tracer_of` tells the tracer of a PET image whose name does not, empty where it cannot.
    """
    dates, aliases, prepared = read_image_dates(files), read_aliases(files), read_lists(files)
    images: list[FoundImage] = []
    other_pet: list[Path] = []
    failed: list[Path] = []
    for file in files:
        name = image_name(file.name)
        if name is None or not _is_of_a_visit(file, name):
            continue
        tracer = name.tracer or ("" if name.suffix != "pet" else canonical_tracer(tracer_of(file)) or "")
        modality = name.modality or modality_of(tracer)
        if modality is None:
            other_pet.append(file)
            continue
        listed = prepared.get(file)
        if listed is not None and listed.has_failed:
            failed.append(file)
            continue
        found = FoundImage(
            subject_id=subject_in(aliases, name.subject_id, file),
            session=name.session,
            modality=modality,
            path=file,
            is_registered=_is_registered(file, name),
            taken=dates.of(file, name),
            tracer=tracer,
            region=name.region,
        )
        images.append(_as_listed(found, listed) if listed else found)
    ordered = tuple(sorted(images, key=lambda i: (i.subject_id, i.session, i.modality, str(i.path))))
    return FoundImages(ordered, tuple(other_pet), tuple(failed))


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


def _as_listed(image: FoundImage, listed: ListedImage) -> FoundImage:
    """A prepared image under the names that its source gave; the list is the nearest witness of its day."""
    session = listed.session or image.session
    return replace(image, subject_id=listed.subject_id, session=session, taken=listed.taken or image.taken)


def _is_of_a_visit(file: Path, name: ImageName) -> bool:
    folder = _folder_of(file)
    # pet_linear also keeps intermediate images; only the registered uptake ratio carries both entities.
    is_intermediate = folder == "pet_linear" and not (name.region and "space" in name.entities)
    return folder in ("anat", "pet", *LINEAR) and not is_intermediate


def _is_registered(file: Path, name: ImageName) -> bool:
    is_prepared = name.is_in_template_space and (name.suffix != "pet" or name.is_uptake_ratio)
    return _folder_of(file) in LINEAR or is_prepared


def _folder_of(file: Path) -> str:
    """The kind of folder that holds an image: XNAT numbers them, and may put files a step lower, in `NIFTI`."""
    parent = file.parent.parent if file.parent.name == "NIFTI" else file.parent
    numbered = re.fullmatch(r"(anat|pet)\d+", parent.name)
    return numbered[1] if numbered else parent.name
