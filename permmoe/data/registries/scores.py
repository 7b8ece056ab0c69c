"""The scores that registries tell at a visit, and whose change can be the outcome."""

from __future__ import annotations

from collections.abc import Mapping

from permmoe.config import CDR_SB, Score
from permmoe.data.outcome_columns import USUAL_COLUMNS, OutcomeColumns

SCORES: Mapping[str, Score] = {
    "cdr-sb": CDR_SB,
    "cdr-global": Score(name="CDR global", unit="points", lowest=0.0, highest=3.0),
    "mmse": Score(name="MMSE", unit="points", lowest=0.0, highest=30.0),
    "adas-cog-13": Score(name="ADAS-Cog 13", unit="points", lowest=0.0, highest=85.0),
    "adas-cog-11": Score(name="ADAS-Cog 11", unit="points", lowest=0.0, highest=70.0),
    "faq": Score(name="FAQ", unit="points", lowest=0.0, highest=30.0),
}
"""By the name that `--score` takes."""


def columns_of_score(name: str) -> OutcomeColumns:
    """The columns in which a manifest that is made here holds a score: `baseline_mmse` and `delta_mmse`."""
    score = SCORES[name]
    if score == CDR_SB:
        return USUAL_COLUMNS
    word = name.replace("-", "_")
    return OutcomeColumns(name=score.name, unit=score.unit, baseline=f"baseline_{word}", change=f"delta_{word}")
