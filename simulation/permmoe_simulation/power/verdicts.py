"""What each cohort's study says of each claim: the verdicts of its own tables, and nothing computed anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from permmoe_simulation.power.plan import Point
from permmoe_simulation.power.truth import TRAINED_TWICE, Truth, truth_of
from permmoe_simulation.report.again import AGAIN
from permmoe_simulation.studies.study import MEAN, Claim, StudyConfig, cells, data_source
from permmoe_simulation.studies.verdicts import verdict
from permmoe_simulation.study_tables import COMPARISONS, PAIR, StudyTable, real, text, whole

ClaimKey = tuple[str, str, str, str]
CLAIM = ("regime", "method", "reference", "combination")
"""The columns that name what is judged."""
VERDICTS = StudyTable(
    "verdicts",
    "what the study of a cohort says of a claim (or of a method against its second training) in a regime",
    (
        *whole("patients", "sites", "cohort"),
        *PAIR,
        *text("combination"),
        *whole("seeds"),
        *real("difference", unit="points"),
        *real("p_holm"),
        *text("verdict"),
    ),
)


def verdict_rows(folder: Path, study: StudyConfig, point: Point, seed: int) -> pd.DataFrame:
    """Rows of VERDICTS from the folder of a finished study; a claim that it has no figure of is not judged."""
    found = {key: row for table in _tables(folder, study) for key, row in _by_claim(table)}
    rows = []
    for regime in study.regimes:
        for method, reference, combination in _claimed(study):
            row = found.get((regime, method, reference, combination), {})
            difference, p_holm = (float(row.get(name, float("nan"))) for name in ("difference", "p_holm"))
            rows.append(
                {"patients": point.patients, "sites": point.sites, "cohort": seed, "regime": regime, "method": method,
                 "reference": reference, "combination": combination, "seeds": int(row.get("seeds", 0)),
                 "difference": difference, "p_holm": p_holm, "verdict": verdict(difference, p_holm)}
            )  # fmt: skip
    return pd.DataFrame(rows)


def truths(study: StudyConfig) -> dict[ClaimKey, Truth]:
    """What the planted design says, by the columns of CLAIM. The study is that of any cohort."""
    names = {name: cell.model.names for name, cell in cells(study, dict.fromkeys(study.regimes, ""), "inprocess")}
    found = {}
    for regime in study.regimes:
        planted = data_source(study, regime).planted
        assert planted is not None  # `claimed_study` refuses others
        for method, reference, combination in _claimed(study):
            if reference == study.name_trained_again:
                truth = TRAINED_TWICE
            else:
                both = [name for name in names[method] if name in names[reference]]
                claim = Claim(method=method, reference=reference, combination=combination)
                truth = truth_of(claim, study.methods[method], study.methods[reference], planted, both)
            found[regime, method, reference, combination] = truth
    return found


def _claimed(study: StudyConfig) -> list[tuple[str, str, str]]:
    """(method, reference, combination) of every claim, and of the method that is trained twice."""
    claimed = [(claim.method, claim.reference, claim.combination) for claim in study.claims]
    if study.trained_again is not None:
        claimed.append((study.trained_again, study.name_trained_again, MEAN))
    return claimed


def _tables(folder: Path, study: StudyConfig) -> Sequence[pd.DataFrame]:
    compared, again = COMPARISONS.read(folder), AGAIN.read(folder)
    found = [] if compared is None else [compared[compared["stratum"] == "all"]]
    return found if again is None else [*found, again.assign(reference=study.name_trained_again)]


def _by_claim(table: pd.DataFrame) -> Iterator[tuple[ClaimKey, dict[str, float]]]:
    for row in table.to_dict("records"):
        regime, method, reference, combination = (str(row[name]) for name in CLAIM)
        yield (regime, method, reference, combination), {n: row[n] for n in ("difference", "p_holm", "seeds")}
