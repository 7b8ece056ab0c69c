"""Which models beat the ladder of clinical references, judged by the report's own rule.

The ladder's top is the reference with the lowest RMSE on the subjects that it and the model predicted. Which one that
is, is read off the same subjects that judge the model, and a test against a reference that was chosen so errs too
often where a noisier one is the better in truth. So a model beats the top where it is better than every reference,
each beyond chance: its p-value is the largest of theirs, which needs no correction for their number
(intersection-union test; Berger 1982, Technometrics 24:295). For the number of models and regimes Holm's correction is
made, as everywhere in a report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite, nan
from typing import Any, Literal

import pandas as pd

from permmoe.evaluation.intervals import LEVEL, Difference, why_not_judged
from permmoe_simulation.studies.prediction_errors import PredictionErrors
from permmoe_simulation.studies.results import difference
from permmoe_simulation.studies.study import MEAN
from permmoe_simulation.studies.verdicts import corrected
from permmoe_simulation.study_tables import LADDER


@dataclass(frozen=True)
class HeldAgainstLadder:
    """A model's RMSE minus that of the ladder's top, for a regime and a combination (or `mean`): a row of LADDER."""

    method: str
    regime: str
    combination: str
    top: str
    n: int
    difference: float
    lower: float
    upper: float
    seeds: int
    p_value: float
    """Of being better than every reference: the largest of the paired tests, 1 where one of them is no worse."""
    p_holm: float = nan
    why_not_judged: str = ""

    @property
    def outcome(self) -> Literal["beats", "does not beat", "not judged"]:
        """Whether the model beats the ladder's top beyond chance."""
        if not isfinite(self.p_holm):
            return "not judged"
        return "beats" if self.p_holm < LEVEL else "does not beat"


def held_against_ladder(
    found: PredictionErrors, pairs: Sequence[tuple[str, str]], labels: Mapping[str, str]
) -> list[HeldAgainstLadder]:
    """Every model that finished, in every regime and combination that it shares a test subject with a rung in.

    `pairs`: (model, rung), as `StudyConfig.ladder_pairs`. Tests of averages are corrected together, and so are those of
    single combinations. Where a rung did not finish, the top is that of the others, and nothing is judged.
    """
    rungs: dict[str, list[str]] = {}
    for method, rung in pairs:
        rungs.setdefault(method, []).append(rung)
    held = []
    for method, regime in found.by_method:
        for combination in [MEAN, *found.combinations] if method in rungs else []:
            compared = {
                rung: difference(found, method, rung, regime, combination)
                for rung in rungs[method]
                if (rung, regime) in found.by_method
            }
            tested = {rung: one for rung, one in compared.items() if one.n}
            unfinished = [labels[rung] for rung in rungs[method] if rung not in tested]
            if tested:
                held.append(_held(method, regime, combination, tested, unfinished))
    return corrected_together(held)


def _held(
    method: str, regime: str, combination: str, tested: Mapping[str, Difference], unfinished: Sequence[str]
) -> HeldAgainstLadder:
    top = max(tested, key=lambda rung: tested[rung].estimate)
    reasons = [f"{' and '.join(unfinished)} did not finish"] if unfinished else []
    reasons += [why for one in tested.values() if (why := why_not_judged(one.n, one.seeds))]
    p_values = [one.p_value if one.estimate < 0 else 1.0 for one in tested.values()]
    d = tested[top]
    return HeldAgainstLadder(
        method, regime, combination, top, d.n, d.estimate, d.lower, d.upper, d.seeds,
        nan if reasons else max(p_values), why_not_judged=reasons[0] if reasons else "",
    )  # fmt: skip


def corrected_together(held: Sequence[HeldAgainstLadder]) -> list[HeldAgainstLadder]:
    """With `p_holm`, over all models and regimes; averages and single combinations each by themselves."""
    families = ["averages" if one.combination == MEAN else "combinations" for one in held]
    p_holm = corrected([one.p_value for one in held], families)
    return [replace(one, p_holm=float(p)) for one, p in zip(held, p_holm, strict=True)]


def as_table(held: Sequence[HeldAgainstLadder]) -> pd.DataFrame:
    """Rows of LADDER."""
    return pd.DataFrame([asdict(one) for one in held], columns=LADDER.required_columns)


def from_table(rows: pd.DataFrame) -> list[HeldAgainstLadder]:
    """The rows of LADDER as they were read."""
    return [HeldAgainstLadder(**_values(row)) for row in rows.to_dict("records")]


def _values(row: Mapping[Any, Any]) -> dict[str, Any]:
    texts = {column.name for column in LADDER.columns if column.type == "text"}
    return {str(k): ("" if pd.isna(v) else str(v)) if k in texts else v for k, v in row.items()}
