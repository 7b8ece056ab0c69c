"""Which of ADNI's tables a manifest's column comes from: one declaration a table.

A column of a tabular modality is called

- `TABLE.COLUMN`, as `UCSFFSX.ST29SV`: that column of that table; any column of the tables below can be had;
- or by a name of ADNIMERGE, as `MMSE`: from ADNIMERGE where it is there and has a number, else from the table that
  ADNIMERGE took it from (`EQUIVALENT`);
- or `age_years`: the age at the visit.

Names, ranges and meanings of columns are those of the data dictionary in the reference pages of ADNIMERGE2
(github.com/atri-biostats/ADNIMERGE2, ADNI's own package), which also converts codes for missing values as here; names
of older releases are from Clinica's converters and from public analyses of ADNI.

Codes for missing values: −4, and in ADNI1 −1, beside empty cells and `NA`. A column whose values may be negative is
declared under `signed`: there −1 and −4 are measurements, and only empty cells are missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from permmoe.data.table_files import Row
from permmoe.errors import DataError, nearest

AGE = "age_years"
WORDS = {"MALE": 1.0, "FEMALE": 2.0}
"""ADNIMERGE writes PTGENDER in words, PTDEMOG as a code."""


@dataclass(frozen=True)
class Quality:
    """How a laboratory says that a row, or a part of it, is not to be used."""

    column: str
    best_first: tuple[str, ...] = ()
    """Ratings that are used; empty: all but those refused."""
    refused: tuple[str, ...] = ()
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """By a column of ratings, the numbers of FreeSurfer's regions that its `Fail` takes away."""

    def rank(self, row: Row) -> int | None:
        """0 for the best rating and more for others; None for a row that is not used."""
        rating = row.get(self.column, "").strip().upper().removesuffix(".0")
        if self.best_first:
            return self.best_first.index(rating) if rating in self.best_first else None
        return None if rating in self.refused else 0

    def is_failed(self, row: Row, column: str) -> bool:
        """Whether the rating of a column's region is `Fail`."""
        region = re.match(r"ST(\d+)[A-Z]{2}$", column)
        return region is not None and any(
            row.get(rating, "").upper() == "FAIL" for rating, of in self.regions.items() if int(region[1]) in of
        )


@dataclass(frozen=True)
class AdniTable:
    """A table, as it is found and read."""

    name: str
    meaning: str
    per: Literal["person", "visit", "scan"]
    """What a row is of. Scans have dates of their own, and lie within the target rule's image window."""
    files: tuple[str, ...]
    """Regular expressions of file names, best first: the first that is there is read, and no other."""
    dates: tuple[str, ...] = ("VISDATE", "EXAMDATE")
    """Columns of dates, best first."""
    signed: tuple[str, ...] = ()
    """Columns, or what their names begin with, whose values may be negative."""
    quality: Quality | None = None
    made: tuple[str, ...] = ()
    """Columns that tell when a row was made: of two of one scan and equal quality, the newest counts."""
    derived: Mapping[str, Callable[[Row], float | None]] = field(default_factory=dict)
    """Numbers that are made of several columns, and how."""
    older_names: Mapping[str, str] = field(default_factory=dict)
    """What a column was called in older releases."""
    tracer: str = ""
    """The column that names a PET tracer: uptake ratios of different tracers cannot be compared."""

    def may_be_negative(self, column: str) -> bool:
        """Whether −1 and −4 are measurements in this column."""
        return any(column.upper().startswith(name.upper()) for name in self.signed)


@dataclass(frozen=True)
class Origin:
    """A column of a table."""

    table: AdniTable
    column: str

    def __str__(self) -> str:
        """As `MMSE.MMSCORE`."""
        return f"{self.table.name}.{self.column}"


def _e4_alleles(row: Row) -> float | None:
    """The number of APOE ε4 alleles, from APGEN1 and APGEN2 (ADNI1 to 3) or GENOTYPE (`3/4`)."""
    text = row.get("GENOTYPE", "") or f"{row.get('APGEN1', '')}/{row.get('APGEN2', '')}"
    alleles = re.fullmatch(r"\D*([234])(?:\.0)?\D*([234])(?:\.0)?\D*", text)
    return None if alleles is None else float(alleles.groups().count("4"))


MERGE = AdniTable(
    name="ADNIMERGE",
    meaning="key measures of ADNI1, GO, 2 and 3, one row a visit",
    per="visit",
    files=("ADNIMERGE",),
    dates=("EXAMDATE",),
    signed=("RAVLT_learning", "RAVLT_forgetting", "RAVLT_perc_forgetting", "mPACC", "Years_bl", "Month_bl"),
)
PET_QUALITY = Quality("QC_FLAG", best_first=("2", "1"))
"""2 pass, 1 partial pass; 0 fail, −1 and −2 not assessed."""

TABLES: Mapping[str, AdniTable] = {
    table.name: table
    for table in (
        MERGE,
        AdniTable("PTDEMOG", "birth, sex (1 male, 2 female), years of education", "person", ("PTDEMOG",)),
        AdniTable(
            "APOERES", "APOE genotype; APOE4 is the number of ε4 alleles", "person", ("APOERES",), dates=(),
            derived={"APOE4": _e4_alleles},
        ),
        AdniTable(
            "ADAS", "ADAS-Cog, points of error: TOTSCORE (11 items, 0-70), TOTAL13 (13 items, 0-85)", "visit",
            ("ADAS", "ADASSCORES"), older_names={"TOTSCORE": "TOTAL11", "TOTAL13": "TOTALMOD"},
        ),
        AdniTable("MMSE", "Mini-Mental State Examination: MMSCORE, 0-30 points", "visit", ("MMSE",)),
        AdniTable("FAQ", "Functional Activities Questionnaire: FAQTOTAL, 0-30 points", "visit", ("FAQ",)),
        AdniTable(
            name="UCSFFSX",
            meaning="FreeSurfer, each T1 by itself: ST<region>SV and CV volumes mm³, TA thickness mm, SA area mm²",
            per="scan",
            # Volumes of different FreeSurfer versions cannot be compared: one table, the newest version, for everybody.
            files=("UCSFFSX7", "UCSFFSX6", "UCSFFSX51", "UCSFFSX"),
            dates=("EXAMDATE",),
            made=("RUNDATE", "VERSION", "UPDATE_STAMP"),
            quality=Quality(
                "OVERALLQC",
                best_first=("PASS", "PARTIAL", "HIPPOCAMPUS ONLY"),
                regions={
                    "TEMPQC": (60, 119, 26, 85, 58, 117, 32, 91, 40, 99),
                    "FRONTQC": (25, 84, 51, 110, 56, 115, 15, 74, 55, 114, 39, 98),
                    "PARQC": (49, 108, 57, 116, 59, 118, 43, 102, 31, 90),
                    "INSULAQC": (129, 130),
                    "OCCQC": (38, 97, 35, 94, 48, 107, 23, 82),
                    "BGQC": (53, 112, 16, 75, 42, 101),
                    "CWMQC": (20, 79, 150, 151, 152, 28, 87),
                    "VENTQC": (37, 96, 30, 89, 127, 9, 8, 21, 80),
                    # The dictionary names the hippocampus' neighbours; it is itself what this rating is of.
                    "HIPPOQC": (26, 85, 24, 83, 44, 103, 12, 71, 29, 88),
                },
            ),
        ),
        AdniTable(
            name="UCBERKELEY_AMY_6MM",
            meaning="amyloid PET: CENTILOIDS, and uptake ratios *_SUVR to the whole cerebellum",
            per="scan",
            files=("UCBERKELEY_AMY_6MM",),
            dates=("SCANDATE", "EXAMDATE"),
            made=("PROCESSDATE", "UPDATE_STAMP"),
            signed=("CENTILOIDS",),
            quality=PET_QUALITY,
            tracer="TRACER",
        ),
        AdniTable(
            name="UCBERKELEY_TAU_6MM",
            meaning="tau PET: uptake ratios *_SUVR to the inferior cerebellar grey matter",
            per="scan",
            files=("UCBERKELEY_TAU_6MM",),
            dates=("SCANDATE", "EXAMDATE"),
            made=("PROCESSDATE", "UPDATE_STAMP"),
            quality=PET_QUALITY,
            tracer="TRACER",
        ),
        AdniTable(
            name="UCD_WMH",
            meaning="white-matter hyperintensities of FLAIR: TOTAL_WMH, CEREBRUM_TCV and other volumes, ml",
            per="scan",
            files=("UCD_WMH", "UCD_ADNI1_WMH"),
            dates=("EXAMDATE",),
            made=("RUNDATE", "UPDATE_STAMP"),
            quality=Quality("STATUS", refused=("BAD FLAIR",)),
            older_names={"TOTAL_WMH": "WHITMATHYP"},
        ),
    )
}  # fmt: skip
"""By the name that columns are asked for."""

EQUIVALENT: Mapping[str, tuple[str, str]] = {
    "MMSE": ("MMSE", "MMSCORE"),
    "ADAS11": ("ADAS", "TOTSCORE"),
    "ADAS13": ("ADAS", "TOTAL13"),
    "FAQ": ("FAQ", "FAQTOTAL"),
    "PTGENDER": ("PTDEMOG", "PTGENDER"),
    "PTEDUCAT": ("PTDEMOG", "PTEDUCAT"),
    "APOE4": ("APOERES", "APOE4"),
}
"""ADNIMERGE's names, and where its numbers come from."""

SCORE_COLUMNS: Mapping[str, str] = {
    "cdr-sb": "", "adas-cog-13": "ADAS13", "adas-cog-11": "ADAS11", "mmse": "MMSE", "faq": "FAQ",
}  # fmt: skip
"""By permmoe.data.registries.scores, the columns whose change may be the outcome; CDR-SB is that of the visits."""


def origins_of(column: str) -> tuple[Origin, ...]:
    """Where a column may come from, best first; none for the age. Raises DataError for a table that is not known."""
    if column == AGE:
        return ()
    table, dot, of_table = column.partition(".")
    if dot:
        if table not in TABLES:
            raise DataError(f"column {column!r}: no table {table!r} of ADNI is read; {nearest(table, TABLES)}")
        return (Origin(TABLES[table], of_table),)
    named = (EQUIVALENT[column],) if column in EQUIVALENT else ()
    return (Origin(MERGE, column), *(Origin(TABLES[name], source) for name, source in named))
