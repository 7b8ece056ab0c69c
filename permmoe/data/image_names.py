"""What the name of an image in BIDS form says: whose image it is, of which session, and what it shows.

`sub-01_ses-a_trc-18FAV45_pet.nii.gz`. Any label of a subject will do, and a session may be missing. ADNI's subjects are
called by their PTID, however a tree spells it: `sub-ADNI011S0002`, `sub-011S0002`, `011_S_0002`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from permmoe.tracers import canonical_tracer, modality_of

PTID = r"\d{3}_S_\d{4,5}"
"""ADNI's identifier of a subject: the site's three digits, then the roster number (RID)."""

_SUBJECT = r"(?:(?:sub-)?(?:ADNI)?(?P<site>\d{3})_?S_?(?P<rid>\d{4,5})|sub-(?P<label>[a-z0-9]+))"
_VISIT = _SUBJECT + r"(?:_ses-(?P<session>[a-z0-9]+))?"
_IMAGE = re.compile(_VISIT + r"_(?P<entities>.*_)?(?P<suffix>T1w|FLAIR|pet)\.nii(?:\.gz)?", re.IGNORECASE)
_SCANS = re.compile(_VISIT + r"_scans\.tsv", re.IGNORECASE)
_SESSIONS = re.compile(_SUBJECT + r"_sessions\.tsv", re.IGNORECASE)
_MRI = {"t1w": "t1", "flair": "flair"}


@dataclass(frozen=True)
class ImageName:
    """A T1, FLAIR or PET image's name, taken apart."""

    subject_id: str
    """The label without `sub-`; ADNI's PTID where the label is one."""
    session: str
    """The label without `ses-`, empty where there is none; capitals for ADNI's subjects, as Clinica writes it."""
    entities: Mapping[str, str]
    """Between session and suffix, by their keys, as `{"run": "01"}`."""
    suffix: str
    """`t1w`, `flair` or `pet`."""

    @property
    def label(self) -> str:
        """The tracer as the name spells it; `none` where it does not. Older versions of Clinica wrote it as `acq`."""
        return self.entities.get("trc") or self.entities.get("acq") or "none"

    @property
    def tracer(self) -> str:
        """The tracer's canonical name; empty for MRI and for tracers of neither amyloid nor tau."""
        return (canonical_tracer(self.label) or "") if self.suffix == "pet" else ""

    @property
    def modality(self) -> str | None:
        """t1, flair, amyloid or tau; None for any other PET."""
        return modality_of(self.label) if self.suffix == "pet" else _MRI[self.suffix]

    @property
    def is_in_template_space(self) -> bool:
        """Whether it says that it is registered to an MNI template."""
        return self.entities.get("space", "").upper().startswith("MNI")

    @property
    def region(self) -> str:
        """The reference region of Clinica's uptake ratios; empty where the name tells none."""
        return self.entities.get("suvr", "")

    @property
    def is_uptake_ratio(self) -> bool:
        """Whether it says that its values are uptake ratios."""
        return "suvr" in self.entities or self.entities.get("desc", "").lower() == "suvr"

    @property
    def sort(self) -> str:
        """What the image is, whichever folder it lies in: one day is that of the scan and of all made from it."""
        return f"pet {self.tracer or self.label.lower()}" if self.suffix == "pet" else self.suffix


def image_name(name: str) -> ImageName | None:
    """The parts of an image's file name; None for any other name."""
    match = _IMAGE.fullmatch(name)
    if match is None:
        return None
    entities = dict(part.split("-", 1) for part in (match["entities"] or "").split("_") if "-" in part)
    return ImageName(*_visit(match), entities, match["suffix"].lower())


def scans_table(name: str) -> tuple[str, str] | None:
    """Subject and session whose images a `…_scans.tsv` lists; None for any other name."""
    match = _SCANS.fullmatch(name)
    return _visit(match) if match else None


def sessions_table(name: str) -> str | None:
    """The subject whose sessions a `…_sessions.tsv` lists; None for any other name."""
    match = _SESSIONS.fullmatch(name)
    return _subject(match) if match else None


def session_label(subject_id: str, text: str) -> str:
    """A session as it is compared: without `ses-`, and for ADNI's subjects in capitals."""
    label = text.removeprefix("ses-")
    return label.upper() if re.fullmatch(PTID, subject_id) else label


def bids_label(text: str) -> str:
    """A subject's or session's name as BIDS allows it in a file's name: letters and digits alone."""
    return re.sub(r"[^A-Za-z0-9]", "", text)


def stem(path: str | Path) -> str:
    """A file's name without `.nii` and `.nii.gz`."""
    return Path(path).name.removesuffix(".gz").removesuffix(".nii")


def _visit(match: re.Match[str]) -> tuple[str, str]:
    subject = _subject(match)
    return subject, session_label(subject, match["session"] or "")


def _subject(match: re.Match[str]) -> str:
    return f"{match['site']}_S_{match['rid']}" if match["rid"] else match["label"]
