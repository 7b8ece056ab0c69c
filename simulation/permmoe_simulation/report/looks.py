"""The log of looks: which cohort's results were published when, by which study, so that a second look is seen as one.

A cohort is told by its source and seed and not by its data digest: patients of one seed are the same at any grid, and
digests have changed what they cover. A public table is told by its name, a manifest by its digest, for its path stays
with its owner. The log is a CSV file beside the page of findings; rows are only ever added to it.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from io import StringIO

import yaml

from permmoe.config import parse_config
from permmoe.errors import ConfigurationError, DataError
from permmoe_simulation.studies.recipe_choice import DEVELOPMENT_SEEDS
from permmoe_simulation.studies.study import DataSource, StudyConfig, data_source
from permmoe_simulation.summary import Summary

FILE_NAME = "looks.csv"
SHOWN_DIGITS = 8
"""Hexadecimal digits of a digest, here as on the page."""
MOST_NAMED = 5
"""A chapter names no more earlier looks than these; the log names all."""
SEVERAL = "; "
"""Between the cohorts of one study, whose regimes may have some each."""


@dataclass(frozen=True)
class Look:
    """One study whose figures of a cohort were published; a row of the log, with a column for each field."""

    date: str
    """When the study was computed, such as 2026-11-28."""
    study: str
    """Its name, which tells the profile where that is not `quick`."""
    cohort: str
    """Such as `synthetic seed 104`; several are divided by a semicolon."""
    training_seeds: str
    """Such as `0 1 2 3 4`."""
    data_digest: str
    """Its first digits, as are the study's; empty where none was published."""
    study_digest: str
    where: str
    """The document, with the commit where the row was taken from git's history; else `git log -S DIGEST` finds it."""

    @property
    def cohorts(self) -> frozenset[str]:
        """The cohorts, one by one."""
        return frozenset(self.cohort.split(SEVERAL))

    def is_same_as(self, other: Look) -> bool:
        """Whether both show one computation: the same study, trained with the same seeds on the same data."""
        return replace(self, date="", where="") == replace(other, date="", where="")


COLUMNS = tuple(field.name for field in fields(Look))


def read_looks(text: str, source: str) -> tuple[Look, ...]:
    """The rows of a log, oldest first; none of an empty text. Raises DataError, which names `source` and the line."""
    if not text:
        return ()
    try:
        rows = list(csv.reader(StringIO(text), strict=True))
    except csv.Error as error:
        raise DataError(f"{source} cannot be read as a log of looks: {error}; restore the file from git") from error
    if tuple(rows[0]) != COLUMNS:
        raise DataError(f"{source}, line 1: the columns are not {', '.join(COLUMNS)}; restore the file from git")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(COLUMNS):
            raise DataError(
                f"{source}, line {number}: {len(row)} columns in place of {len(COLUMNS)}; restore the file from git"
            )
    return tuple(Look(*row) for row in rows[1:])


def write_looks(looks: Sequence[Look]) -> str:
    """The log as text; `read_looks` reads the same looks from it."""
    text = StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows([getattr(look, name) for name in COLUMNS] for look in looks)
    return text.getvalue()


def look_of(summary: Summary, where: str) -> Look:
    """The look at a cohort that publishing a study in the document `where` is.

    Raises DataError for a summary that does not tell its data, and ConfigurationError for a cohort of development.
    """
    missing = [name for name in ("data", "study") if not summary.digests.get(name)]
    if missing:
        raise DataError(f"the summary of study {summary.study} has no {missing[0]} digest; run the study again")
    digest, study = summary.digests["data"][:SHOWN_DIGITS], _configuration(summary)
    sources = [data_source(study, regime) for regime in study.regimes]
    for source in sources:
        if _cohort_seed(source) in DEVELOPMENT_SEEDS:
            raise ConfigurationError(
                f"study {summary.study} is on the cohort of seed {_cohort_seed(source)}; settings are chosen on seeds "
                f"{DEVELOPMENT_SEEDS[0]} to {DEVELOPMENT_SEEDS[-1]}, and no study on them is published. Give the study "
                f"a cohort seed that {FILE_NAME} does not name and run it"
            )
    return Look(
        date=summary.date,
        study=summary.study,
        cohort=SEVERAL.join(dict.fromkeys(_cohort(source, digest) for source in sources)),
        training_seeds=" ".join(map(str, summary.seeds)),
        data_digest=digest,
        study_digest=summary.digests["study"][:SHOWN_DIGITS],
        where=where,
    )


def _configuration(summary: Summary) -> StudyConfig:
    try:
        values = yaml.safe_load(summary.configuration)
        if not isinstance(values, dict):
            raise DataError("It holds no settings")
        return parse_config(values, StudyConfig, "The configuration")
    except (yaml.YAMLError, DataError, ConfigurationError) as error:
        raise DataError(
            f"the cohort of study {summary.study} cannot be told from the configuration in its summary; run the study "
            f"again. {error}"
        ) from error


def with_look(looks: Sequence[Look], look: Look) -> tuple[Look, ...]:
    """The log with one look more; as it was where the same computation is in it already."""
    return tuple(looks) if any(look.is_same_as(other) for other in looks) else (*looks, look)


def look_sentence(looks: Sequence[Look], look: Look) -> str:
    """How often the look's cohort had been looked at before, in words; the log holds the look itself, or the same."""
    place = max(k for k, other in enumerate(looks) if look.is_same_as(other))
    earlier = [other for other in looks[:place] if other.cohorts & look.cohorts]
    which = "this cohort" if len(look.cohorts) == 1 else "these cohorts"
    if not earlier:
        return f"First look at {which}."
    start = f"Look {len(earlier) + 1} at {which}"
    if len(earlier) > MOST_NAMED:
        return f"{start}: [{FILE_NAME}]({FILE_NAME}) names the {len(earlier)} earlier ones."
    return f"{start}: earlier under study digest{'s' * (len(earlier) > 1)} {', '.join(map(_named, earlier))}."


def _named(look: Look) -> str:
    return f"{f'`{look.study_digest}`' if look.study_digest else 'unknown'} ({look.study}, {look.date})"


def _cohort(source: DataSource, digest: str) -> str:
    seed = _cohort_seed(source)
    if seed is not None:
        return f"{'synthetic' if source.synthetic else 'planted'} seed {seed}"
    return f"table {source.table}" if source.table else f"manifest {digest}"


def _cohort_seed(source: DataSource) -> int | None:
    """None of real data."""
    invented = source.synthetic or source.planted
    return invented.seed if invented else None
