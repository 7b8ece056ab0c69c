"""The target rule: which visit predictions start from, and which change in CDR-SB they are compared with.

For each subject, at most once:

1. The index visit is the earliest one with an accepted diagnosis, a CDR-SB and a scan within ±`image_window_days`: an
   image, or numbers that a table has of one. It is chosen by date, without regard to what came later or whether
   anything did. A subject without such a scan has the earliest visit with numbers of any other table.
   A visit without a diagnosis has the last one that was made before, no more than `diagnosis_window_days` earlier.
   With `history_months` visits count that are so long after the subject's first one, and no earlier ones.
2. Of each modality the image nearest to the index visit is taken; of several of one day a registered one, then the
   first by name.
3. y = CDR-SB at the visit nearest to `horizon_months` after it, ±`window_months`, − CDR-SB at the index visit;
   unknown where there is none.

A site's settings hold a rule, so that this module does without PyTorch, pandas and nibabel.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta

from pydantic import Field, field_validator

from permmoe.config import Configuration
from permmoe.data.diagnoses import diagnosis_of
from permmoe.data.images import FoundImage

DAYS_A_MONTH = 365.25 / 12


class TargetRule(Configuration):
    """Which visit is a subject's index visit, and what is predicted from it."""

    diagnoses: tuple[str, ...] = Field(("MCI",), min_length=1, description="accepted at the index visit, as in DX")
    horizon_months: float = Field(24.0, gt=0, description="from the index visit to the outcome")
    window_months: float = Field(3.0, ge=0, description="how far from the horizon the outcome may lie")
    image_window_days: int = Field(
        90, ge=0, description="how far from the index visit an image may lie, or a scan that a table has numbers of"
    )
    table_window_days: int = Field(
        60,
        ge=0,
        description="how far from a visit a row of another table may lie where no row has the visit's code",
    )
    diagnosis_window_days: int = Field(
        400,
        ge=0,
        description="how long a diagnosis holds where a visit has none: ADNI makes one a year, and visits may be late",
    )

    # Absent from `model_dump` at their defaults, so that approvals of older studies stay valid.
    history_months: float = Field(
        0.0, ge=0, exclude_if=lambda months: months == 0,
        description="how long after a subject's first visit the index visit has to be, so that there is a history",
    )  # fmt: skip
    further_horizons_months: tuple[float, ...] = Field(
        (), exclude_if=lambda months: not months,
        description="further horizons at which the change is looked for, for a model that is told the horizon",
    )  # fmt: skip

    @field_validator("diagnoses")
    @classmethod
    def _in_one_set_of_words(cls, diagnoses: tuple[str, ...]) -> tuple[str, ...]:
        """`LMCI`, `EMCI` and `mci` are MCI, as in the tables."""
        return tuple(dict.fromkeys(diagnosis_of(name) for name in diagnoses))

    def late_enough(self, assessments: Sequence[Assessment]) -> list[Assessment]:
        """A subject's visits that are `history_months` after the first of them, or later."""
        first = min((assessment.taken for assessment in assessments), default=date.max)
        return [a for a in assessments if (a.taken - first).days >= self.history_months * DAYS_A_MONTH]

    def accepts(self, assessment: Assessment) -> bool:
        """Whether a visit has an accepted diagnosis that is not too old."""
        made = assessment.diagnosed or assessment.taken
        is_recent = assessment.taken - made <= timedelta(days=self.diagnosis_window_days)
        return assessment.diagnosis in self.diagnoses and is_recent


@dataclass(frozen=True)
class NumberSource:
    """Where a number comes from."""

    file: str
    column: str
    tracer: str = ""
    """Of an uptake ratio, the PET tracer by its canonical name, or as the table calls it."""

    def __str__(self) -> str:
        """As `MMSE_05Mar2026.csv: MMSCORE`."""
        return f"{self.file}: {self.column}" + (f" ({self.tracer})" if self.tracer else "")


@dataclass(frozen=True)
class Dated:
    """A number, and the day that it is of."""

    day: date
    number: float


@dataclass(frozen=True)
class Assessment:
    """A dated clinical visit."""

    taken: date
    cdrsb: float | None
    """Points."""
    diagnosis: str
    """In the words of permmoe.data.diagnoses; empty where none was made at the visit or before."""
    code: str
    """ADNI's visit code, `bl` or `m12`, with the screening visit counted as `bl`; empty where unknown."""
    phase: str = ""
    age_years: float | None = None
    subject_id: str = ""
    """ADNI's PTID, as `011_S_0002`; empty where the table lacks it."""
    diagnosed: date | None = None
    """When the diagnosis was made, where that was before the visit."""
    values: Mapping[str, float] = field(default_factory=dict)
    """Numbers of the columns that tabular modalities ask for."""
    covariates: Mapping[str, float] = field(default_factory=dict)
    """Numbers of single columns that no modality is made of, by name; no entry where one was not measured."""
    given_by: Mapping[str, NumberSource] = field(default_factory=dict)
    """By column, what gave its number, as far as the registry's reader says."""
    followed: Mapping[str, Dated] = field(default_factory=dict)
    """Numbers of the columns whose course is asked for (permmoe.data.history), each with its own day, which may be
    another than the visit's."""


@dataclass(frozen=True)
class IndexVisit:
    """The assessment that predictions start from, and its images by modality."""

    assessment: Assessment
    images: Mapping[str, FoundImage]
    alternatives: Mapping[str, tuple[FoundImage, ...]] = field(default_factory=dict)
    """By modality, other images of the same day that were not taken."""


def choose_index_visit(
    assessments: Iterable[Assessment], images: Sequence[FoundImage], rule: TargetRule, names: Sequence[str]
) -> IndexVisit | None:
    """Return one subject's index visit by rules 1 and 2 of the module's header.

    `names` are the image modalities that count. Where none counts (a study of tables only) the earliest visit with
    diagnosis and CDR-SB is chosen.
    """
    window = timedelta(days=rule.image_window_days)
    for assessment in sorted(assessments, key=lambda a: (a.taken, a.code)):
        if not rule.accepts(assessment) or assessment.cdrsb is None:
            continue
        near: dict[str, list[FoundImage]] = defaultdict(list)
        for image in images:
            if image.modality in names and image.taken is not None and abs(image.taken - assessment.taken) <= window:
                near[image.modality].append(image)
        if near or not names:
            taken = {m: _preferred(near[m], assessment.taken) for m in names if m in near}
            others = {m: tuple(i for i in near[m] if i.taken == t.taken and i is not t) for m, t in taken.items()}
            return IndexVisit(assessment, taken, {m: images for m, images in others.items() if images})
    return None


def outcome(
    assessments: Iterable[Assessment], index: Assessment, rule: TargetRule, horizon_months: float | None = None
) -> float | None:
    """Return the change in CDR-SB by rule 3 of the module's header, points; None where no visit is near the horizon,
    which is the rule's unless another one is given.

    Of two visits equally near the earlier one counts.
    """
    horizon = rule.horizon_months if horizon_months is None else horizon_months
    distances = [
        (abs((a.taken - index.taken).days / DAYS_A_MONTH - horizon), a.taken, a.cdrsb)
        for a in assessments
        if a.cdrsb is not None and a.taken > index.taken
    ]
    within = [d for d in distances if d[0] <= rule.window_months]
    return min(within)[2] - index.cdrsb if within and index.cdrsb is not None else None


def _preferred(images: Sequence[FoundImage], day: date) -> FoundImage:
    """The nearest in time; of several of one day a registered one, then the first by name."""
    return min(images, key=lambda i: (abs((i.taken or date.max) - day), not i.is_registered, i.taken, str(i.path)))


def with_last_known(visits: Iterable[Assessment], made: Iterable[tuple[date, str]] = ()) -> list[Assessment]:
    """One subject's visits; one without a diagnosis is given the last that was made up to its day, and that day.

    `made`: the days of diagnoses beside those of the visits.
    """
    own = list(visits)
    known = [*made, *((visit.taken, visit.diagnosis) for visit in own if visit.diagnosis)]
    return [visit if visit.diagnosis else _diagnosed_by_then(visit, known) for visit in own]


def _diagnosed_by_then(visit: Assessment, known: Sequence[tuple[date, str]]) -> Assessment:
    day, diagnosis = max((event for event in known if event[0] <= visit.taken), default=(None, ""))
    return replace(visit, diagnosis=diagnosis, diagnosed=day) if day else visit
