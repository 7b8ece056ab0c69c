"""What the registries have in common, from their dated assessments on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from itertools import chain
from pathlib import Path

from permmoe.data.history import followed_columns
from permmoe.data.images import FoundImage, FoundImages, find_images
from permmoe.data.index_visits import (
    Subject,
    notes_of_images,
    require_diagnoses,
    require_image_folder,
    require_image_modalities,
    select_index_visits,
)
from permmoe.data.kinds import kind_of
from permmoe.data.quarantine import Quarantined
from permmoe.data.reasons import Reason
from permmoe.data.selection import Selection
from permmoe.data.target_rule import Assessment, Dated, NumberSource, TargetRule, with_last_known
from permmoe.data.tracer_rule import is_of_its_tracer, is_read
from permmoe.errors import ConfigurationError, nearest
from permmoe.modality import Modality

AGE = "age_years"
"""The age at the visit, which a tabular modality may ask for as for any column."""


@dataclass(frozen=True)
class NumberRow:
    """A row of a table of numbers: a scan's volumes, a visit's tests."""

    day: date
    values: Mapping[str, float]
    tracer: str = ""
    """The PET tracer by its canonical name, or as the table calls it; empty where the table tells none."""


@dataclass(frozen=True)
class NumberTable:
    """A table's columns that tabular modalities ask for."""

    file: str
    """Its name."""
    columns: Sequence[str]
    rows: Mapping[str, Sequence[NumberRow]]
    """By subject."""
    is_of_scans: bool
    """Whether its numbers were taken from scans, which have days of their own, and not at clinical visits."""


@dataclass(frozen=True)
class RegistryTables:
    """What a registry's tables say. Subjects are called as in the manifest."""

    assessments: Mapping[str, Sequence[Assessment]]
    sites: Mapping[str, str]
    numbers: Sequence[NumberTable] = ()
    items: Sequence[Quarantined] = ()
    notes: Sequence[str] = ()
    """What was read from elsewhere than where it usually stands, in sentences that name no subject."""


@dataclass(frozen=True)
class Registry:
    """A registry, as everything that is common needs it."""

    name: str
    rule: TargetRule
    """Its own rule of the target, which the command's options change."""
    scores: Mapping[str, Sequence[str]]
    """The columns that hold each score, first come first served, by permmoe.data.registries.scores."""
    read: Callable[[Path, str, Sequence[str]], RegistryTables]
    """Reads a folder of tables, for a score and for further columns of numbers."""
    subject_of: Callable[[str], str | None]
    """Whose image it is, by the label of the images' tree; None for nobody's of this registry."""
    day_of: Callable[[FoundImage, Sequence[Assessment]], date | None]
    """When an image was taken, given its subject's visits; None where nothing tells."""
    has_calendar: bool = True
    """Whether its dates are those of a calendar, so that one may lie in the future."""


def select_visits(
    registry: Registry,
    tables: Path,
    images: Path | None,
    rule: TargetRule,
    modalities: Sequence[Modality],
    score: str = "cdr-sb",
    *,
    today: date | None = None,
) -> Selection:
    """Select the index visits of a registry's subjects, and count what each step lost.

    `images` may be None where no modality is an image. Visits dated after `today` (None: the day on which this is
    called) are left out. Raises DataError where the folders do not hold the registry's
    tables and images, where a column of them cannot be read, and for a diagnosis that no visit has; ConfigurationError
    for a score that the registry does not have.
    """
    if score not in registry.scores:
        raise ConfigurationError(f"{registry.name} has no score {score!r}; {nearest(score, registry.scores)}")
    require_image_modalities(modalities, registry.name)
    require_image_folder(modalities, images)
    of_visits, followed = [kind_of(m).adni_columns(m) for m in modalities], followed_columns(modalities)
    columns = dict.fromkeys([*chain.from_iterable(of_visits), *followed])
    found = registry.read(tables, score, [column for column in columns if column != AGE])
    last_day = (today or date.today()) if registry.has_calendar else date.max
    assessments = {
        subject: with_numbers(_until(last_day, visits), subject, found.numbers, rule, modalities, followed)
        for subject, visits in found.assessments.items()
    }
    future = [
        Quarantined(subject, "", "", Reason.FUTURE_DATE)
        for subject, visits in found.assessments.items()
        for visit in visits
        if visit.taken > last_day
    ]
    require_diagnoses(rule, chain.from_iterable(assessments.values()))
    seen = find_images(images) if images else FoundImages((), ())
    dated = _dated_images(registry, seen.images, assessments)
    subjects = [
        Subject(name, found.sites.get(name, ""), assessments.get(name, ()), dated.of.get(name, ()))
        for name in sorted(assessments.keys() | dated.of.keys())
    ]
    notes = [*found.notes, *notes_of_images(seen, len(dated.undated))]
    if dated.n_of_nobody:
        notes.append(f"{dated.n_of_nobody} image(s) are of subjects that are not called as {registry.name}'s are")
    return select_index_visits(
        subjects,
        rule,
        modalities,
        scanned=_scanned(modalities, found.numbers),
        without_site=Reason.NO_IDENTITY,
        items=(*found.items, *future, *dated.undated),
        notes=notes,
    )


def _until(last_day: date, visits: Iterable[Assessment]) -> list[Assessment]:
    """Visits up to a day, in the order of time, each with the diagnosis that was known by then."""
    return with_last_known(sorted((v for v in visits if v.taken <= last_day), key=lambda v: (v.taken, v.code)))


def with_numbers(
    visits: Iterable[Assessment],
    subject: str,
    tables: Sequence[NumberTable],
    rule: TargetRule,
    modalities: Sequence[Modality],
    followed: Sequence[str] = (),
) -> list[Assessment]:
    """A subject's visits with the numbers of each table's row that is nearest in time, where those come from, and ages.
    Those of the columns `followed` have their row's day.

    Scans lie within the rule's window of images, other rows within that of tables. All numbers of a table come from one
    row, so that they are of one scan or one test; of two rows as near, from the earlier one. Rows of PET tracers that a
    modality does not read give it none.
    """
    given = []
    for visit in visits:
        values, given_by, courses = dict(visit.values), dict(visit.given_by), dict(visit.followed)
        if visit.age_years is not None:
            values[AGE] = visit.age_years
        for table in tables:
            window = timedelta(days=rule.image_window_days if table.is_of_scans else rule.table_window_days)
            near = [row for row in table.rows.get(subject, ()) if abs(row.day - visit.taken) <= window]
            near.sort(key=lambda row: (abs(row.day - visit.taken), row.day))
            for column in followed:
                row = next((row for row in near if column in row.values), None)
                if row is not None:
                    courses[column] = Dated(row.day, row.values[column])
            for modality in modalities:
                row = next((row for row in near if is_read(modality, row.tracer)), None)
                found = row.values if row else {}
                for column in filter(found.__contains__, kind_of(modality).adni_columns(modality)):
                    values[column] = found[column]
                    tracer = row.tracer if row and is_of_its_tracer(column) else ""
                    given_by[column] = NumberSource(table.file, column, tracer)
        given.append(replace(visit, values=values, given_by=given_by, followed=courses))
    return given


def _scanned(modalities: Sequence[Modality], tables: Sequence[NumberTable]) -> list[str]:
    """The tabular modalities all of whose numbers were taken from scans."""
    of_scans = {column for table in tables if table.is_of_scans for column in table.columns}
    return [m.name for m in modalities if m.has_columns and of_scans.issuperset(kind_of(m).adni_columns(m))]


@dataclass(frozen=True)
class _DatedImages:
    of: Mapping[str, Sequence[FoundImage]]
    undated: Sequence[Quarantined]
    n_of_nobody: int


def _dated_images(
    registry: Registry, images: Iterable[FoundImage], assessments: Mapping[str, Sequence[Assessment]]
) -> _DatedImages:
    """Images by subject, each under its subject's name and with its day; those without one are itemised."""
    of: dict[str, list[FoundImage]] = defaultdict(list)
    undated: list[Quarantined] = []
    n_of_nobody = 0
    for image in images:
        subject = registry.subject_of(image.subject_id)
        if subject is None:
            n_of_nobody += 1
            continue
        day = registry.day_of(image, assessments.get(subject, ()))
        if day is None and subject in assessments:
            undated.append(Quarantined(subject, image.modality, str(image.path), Reason.UNDATED_IMAGE))
        of[subject].append(replace(image, subject_id=subject, taken=day))
    return _DatedImages(dict(of), undated, n_of_nobody)
