"""Real, public tables of patients that installed packages ship, as visits of tabular modalities; nothing is fetched.

Each table has one row a patient, so that a split by row is a split by subject (statsmodels' `randhie` is not here for
that reason: its rows are person-years without a person's number). Columns that were not known at the visit are left
out. The outcome comes in a unit, named with it, in which it spreads over a few units, as the change in CDR-SB does;
nothing about it is fitted. There is no baseline score: `baseline_cdrsb` is 0, and a study sets
`baseline_centre_points: 0`. Time to an event is judged as time lost, horizon − min(time, horizon): a number that is
known for everyone who had the event or was followed to the horizon, and unknown for those lost from sight before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from permmoe.data.kinds import kind_of
from permmoe.data.quarantine import Quarantine, Quarantined
from permmoe.data.reasons import Reason
from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import ConfigurationError, DataError, nearest
from permmoe.modality import Modality

Array = np.ndarray
DAYS_A_MONTH = 365.25 / 12
SITE = "everyone"
"""The one site of a table that names none."""


@dataclass(frozen=True)
class Columns:
    """What a table holds, one row a patient."""

    values: pd.DataFrame
    """Numbers known at the visit, NaN where not measured."""
    outcome: Float[Array, " patient"]
    """In the table's unit; NaN where unknown."""


@dataclass(frozen=True)
class PublicTable:
    """A table, and what a reader of its figures has to know."""

    source: str
    licence: str
    patients: int
    outcome: str
    unit: str
    horizon_months: float
    """From the visit to the outcome; 0 for a diagnosis that is true at the visit."""
    groups: str
    """How columns make modalities."""
    read: Callable[[], Columns]


def table_visits(name: str, modalities: Sequence[Modality]) -> tuple[VisitTable, Quarantine]:
    """The patients of a table, their columns grouped as the modalities say, and who was left out and why.

    A patient lacks a modality of which one column was not measured. Raises ConfigurationError for an unknown table,
    a modality that is no group of its columns, or a package that is not installed.
    """
    if name not in TABLES:
        raise ConfigurationError(f"unknown table {name!r}; {nearest(name, TABLES)}")
    table = TABLES[name]
    columns = table.read()
    for modality in modalities:
        if kind_of(modality).is_image:
            raise ConfigurationError(f"table {name} has no images: modality {modality.name} needs kind: tabular")
        for column in modality.columns:
            if column not in columns.values:
                known = [str(c) for c in columns.values.columns]
                raise ConfigurationError(
                    f"modality {modality.name}: table {name} has no column {column!r}; {nearest(column, known)}"
                )
    groups = {m.name: columns.values[list(m.columns)].to_numpy(float) for m in modalities}
    visits: list[Visit] = []
    items: list[Quarantined] = []
    width = len(str(len(columns.outcome) - 1))
    for row, outcome in enumerate(columns.outcome.tolist()):
        subject = f"{name}-{row:0{width}d}"
        tables = {m: tuple(values[row].tolist()) for m, values in groups.items() if not np.isnan(values[row]).any()}
        if math.isnan(outcome):
            items.append(Quarantined(subject, "", "", Reason.LOST_FROM_SIGHT))
        elif not tables:
            items.append(Quarantined(subject, "", "", Reason.NO_MODALITY))
        else:
            visits.append(Visit(subject, SITE, "visit", 0.0, outcome, table.horizon_months, tables=tables))
    return VisitTable(tuple(visits)), Quarantine(tuple(items))


def time_lost(
    time: Float[Array, " patient"], has_event: Bool[Array, " patient"], horizon: float
) -> Float[Array, " patient"]:
    """horizon − min(time, horizon), in the unit of both; NaN for those lost from sight before the horizon."""
    return np.where(has_event | (time >= horizon), horizon - np.minimum(time, horizon), np.nan)


def _diabetes() -> Columns:
    # Imported late, here and below: most programs that import this module never read one of these tables.
    from sklearn.datasets import load_diabetes

    frame = load_diabetes(as_frame=True, scaled=False).frame
    names = {"s1": "tc", "s2": "ldl", "s3": "hdl", "s4": "tch", "s5": "ltg", "s6": "glu"}
    return Columns(frame.drop(columns="target").rename(columns=names), frame["target"].to_numpy(float) / 100)


def _breast_cancer() -> Columns:
    from sklearn.datasets import load_breast_cancer

    frame = load_breast_cancer(as_frame=True).frame
    values = frame.drop(columns="target").rename(columns=lambda name: name.replace(" ", "_"))
    return Columns(values, 1.0 - frame["target"].to_numpy(float))  # scikit-learn counts benign as 1


def _whas500() -> Columns:
    frame, followed = _survival().load_whas500()
    # The length of stay is known at discharge only.
    return Columns(_numbers(frame.drop(columns="los")), _months_lost(followed, "fstat", "lenfol", 12.0))


def _flchain() -> Columns:
    frame, followed = _survival().load_flchain()
    # The cause of death is no predictor of death; flc.grp ranks kappa + lambda, and MGUS may have been found later.
    values = frame.assign(female=frame["sex"] == "F")[["age", "female", "creatinine", "kappa", "lambda"]]
    return Columns(_numbers(values), _months_lost(followed, "death", "futime", 60.0) / 12)


def _breast_genes() -> Columns:
    frame, followed = _survival().load_breast_cancer()
    grades = {"poorly differentiated": 3, "intermediate": 2, "well differentiated": 1}
    clinical = frame.assign(er=frame["er"] == "positive", grade=frame["grade"].astype(object).map(grades))
    return Columns(_numbers(clinical), _months_lost(followed, "e.tdm", "t.tdm", 60.0) / 12)


def _months_lost(followed: Array, event: str, days: str, horizon_months: float) -> Float[Array, " patient"]:
    return time_lost(followed[days] / DAYS_A_MONTH, followed[event].astype(bool), horizon_months)


def _numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """Categories that are written as numbers become numbers."""
    return frame.astype(object).apply(pd.to_numeric).astype(float)


def _survival() -> ModuleType:
    try:
        return import_module("sksurv.datasets")
    except ImportError:
        raise DataError(
            "this table comes with scikit-survival, which is not installed; "
            "install it, on Python 3.11 or 3.12: pip install --constraint constraints.txt --editable '.[survival]'"
        ) from None


TABLES: Mapping[str, PublicTable] = {
    "diabetes": PublicTable(
        source="scikit-learn, load_diabetes(scaled=False); Efron et al. 2004, Ann. Statist. 32",
        licence="published with the paper, shipped by scikit-learn (BSD-3-Clause)",
        patients=442,
        outcome="disease progression after one year",
        unit="hundreds of points",
        horizon_months=12.0,
        groups="person (age, sex), body (bmi, bp), lipids (tc, ldl, hdl, tch), blood (ltg, glu), or finer",
        read=_diabetes,
    ),
    "breast-cancer": PublicTable(
        source="scikit-learn, load_breast_cancer(); Wolberg et al. 1995, UCI Machine Learning Repository",
        licence="CC BY 4.0 (UCI), shipped by scikit-learn (BSD-3-Clause)",
        patients=569,
        outcome="malignancy, 1 malignant and 0 benign",
        unit="probability",
        horizon_months=0.0,
        groups="ten features of cell nuclei: their mean_*, their standard error *_error, their worst_*",
        read=_breast_cancer,
    ),
    "whas500": PublicTable(
        source="scikit-survival, load_whas500(); Hosmer, Lemeshow and May 2008, Applied Survival Analysis",
        licence="published with the book, shipped by scikit-survival (GPL-3.0-or-later)",
        patients=500,
        outcome="months of life lost in the year after a heart attack; everyone was followed for that long",
        unit="months",
        horizon_months=12.0,
        groups="person (age, gender, bmi), vitals (hr, sysbp, diasbp), history (cvd, miord), infarct (mitype), "
        "complications (afb, sho, chf, av3)",
        read=_whas500,
    ),
    "flchain": PublicTable(
        source="scikit-survival, load_flchain(); Dispenzieri et al. 2012, Mayo Clin. Proc. 87",
        licence="from R's survival (LGPL-2), shipped by scikit-survival (GPL-3.0-or-later)",
        patients=7874,
        outcome="years of life lost in five years",
        unit="years",
        horizon_months=60.0,
        groups="person (age, female), kidney (creatinine, not measured in one of six), light_chains (kappa, lambda)",
        read=_flchain,
    ),
    "breast-genes": PublicTable(
        source="scikit-survival, load_breast_cancer(); Desmedt et al. 2007, Clin. Cancer Res. 13, GEO GSE7390",
        licence="public in GEO, shipped by scikit-survival (GPL-3.0-or-later)",
        patients=198,
        outcome="years without distant metastasis lost in five years",
        unit="years",
        horizon_months=60.0,
        groups="person (age), tumour (er, grade, size), genes (76 probes of expression, X*_at)",
        read=_breast_genes,
    ),
}  # fmt: skip
"""By the name that a study uses: `data: {table: diabetes}`."""
