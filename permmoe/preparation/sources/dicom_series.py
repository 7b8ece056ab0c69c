"""Files of one series of DICOM: what the series is, and what is wrong with it before it is converted."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path

import numpy as np

from permmoe.data.reasons import Reason
from permmoe.preparation.sources.dicom_headers import Header
from permmoe.preparation.sources.image_facts import FEWEST_SLICES
from permmoe.preparation.sources.person import Person, identifiers_of_two
from permmoe.preparation.sources.series_rules import SeriesFacts
from permmoe.tracers import tracer_in

GAP = 1.5
"""A step between slices that is so many times the usual one has a slice missing."""
_PHASES = {"P", "PHASE", "PHASE MAP"}


@dataclass(frozen=True)
class Series:
    """The files of a series, each once, in the order of their names."""

    headers: tuple[Header, ...]

    @property
    def first(self) -> Header:
        """What all files say alike, as the first says it."""
        return self.headers[0]

    @property
    def file(self) -> Path:
        """The file that people find the series by."""
        return self.first.file

    @property
    def taken(self) -> date | None:
        """The first day of its files."""
        return min((h.taken for h in self.headers if h.taken), default=None)

    def facts(self, description: str = "") -> SeriesFacts:
        """What the rules ask, with what else is known of its description."""
        first = self.first
        return SeriesFacts(
            " ".join(filter(None, (description, first.description))),
            first.scanner,
            first.image_type,
            first.echo_time_ms,
            first.inversion_time_ms,
            first.repetition_time_ms,
            first.is_3d,
            first.has_contrast,
            first.is_attenuation_corrected,
        )

    def voxel_mm3(self) -> float:
        """The size of a voxel as the headers say; infinite where they do not."""
        rows = self.first.spacing_mm[:2]
        steps = [b - a for a, b in pairwise(sorted(set(self._places())))]
        thickness = float(np.median(steps)) if steps else (self.first.spacing_mm[2:] or (0.0,))[0]
        return (float(np.prod(rows)) * thickness if len(rows) == 2 else 0.0) or math.inf

    def fault(self) -> Reason | None:
        """What forbids to convert it; None where nothing does.

        Slices that are missing at an end cannot be told, but for PET, where the scanner says how many there are.
        """
        if not all(h.is_whole for h in self.headers):
            return Reason.TRUNCATED_DICOM
        if len({h.echo_time_ms for h in self.headers if h.echo_time_ms is not None}) > 1:
            return Reason.SEVERAL_ECHOES
        if sum(h.n_images for h in self.headers) < FEWEST_SLICES:
            return Reason.TOO_FEW_SLICES
        return self._missing_slices()

    def n_frames(self) -> int:
        """How many files lie at each place; 0 where files do not tell their places, as those of many slices."""
        places = Counter(self._places())
        return max(places.values()) if places and all(h.n_images == 1 for h in self.headers) else 0

    def n_slices(self) -> int:
        """At how many places its files lie."""
        return len(set(self._places()))

    def tracer(self) -> str:
        """The canonical name of the tracer that its headers name; empty where they name none that is known."""
        return tracer_in(self.first.radiopharmaceutical) or ""

    def _missing_slices(self) -> Reason | None:
        places = self._places()
        if len(places) < len(self.headers) or any(h.n_images > 1 for h in self.headers):
            return None  # Multi-frame files hold their places further down; dcm2niix compares those.
        counts = Counter(places)
        steps = np.diff(sorted(counts))
        if len(counts) < FEWEST_SLICES:
            return Reason.TOO_FEW_SLICES
        if steps.max() > GAP * np.median(steps) or len(set(counts.values())) > 1:
            return Reason.MISSING_SLICES
        declared = self.first.n_slices
        return Reason.MISSING_SLICES if declared and len(counts) < declared else None

    def _places(self) -> list[float]:
        """Where the slices lie along their normal, to a hundredth of a millimetre."""
        if len(self.first.orientation) != 6:
            return []
        normal = np.cross(self.first.orientation[:3], self.first.orientation[3:])
        return [round(float(np.dot(h.position_mm, normal)), 2) for h in self.headers if len(h.position_mm) == 3]


def series_among(headers: Iterable[Header]) -> list[Series]:
    """The series of some headers, by patient and file. Copies of a file count once, phases beside magnitudes do not."""
    groups: dict[tuple[str, str], dict[str, Header]] = defaultdict(dict)
    for header in sorted(headers, key=lambda h: str(h.file)):
        groups[(header.patient, header.series)].setdefault(header.instance or str(header.file), header)
    found = [Series(_magnitudes(tuple(group.values()))) for group in groups.values()]
    return sorted(found, key=lambda s: (s.first.patient, str(s.file)))


def patients_who_are_two(series: Iterable[Series]) -> set[str]:
    """Identifiers under which files of different birth dates or sexes stand; what a file does not tell is no other."""
    return identifiers_of_two((h.patient, Person.of(h.birth, h.sex)) for one in series for h in one.headers)


def _magnitudes(headers: tuple[Header, ...]) -> tuple[Header, ...]:
    magnitudes = tuple(h for h in headers if not _PHASES & {*h.image_type})
    return magnitudes or headers
