"""What a site says of a model that it evaluates: sums over the combinations that enough patients have."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float

from permmoe.calibration.calibrate import predicted
from permmoe.calibration.coarse_counts import coarsened
from permmoe.calibration.score_counts import count_scores
from permmoe.data.dataset import VisitData
from permmoe.evaluation.combinations import ErrorSums, combination_predictions, error_sums
from permmoe.evaluation.further_sums import further_sums
from permmoe.federated.instructions import Instruction
from permmoe.federated.plan import RoundPlan
from permmoe.federated.replies import EvaluationReply
from permmoe.federated.summed_scores import Scores, asks_for_scores
from permmoe.modality import all_combinations, combination_name
from permmoe.model import PerMMoE


def evaluated_visits(instruction: Instruction, visits: VisitData) -> VisitData:
    """The visits that are evaluated: the part that the instruction names or, where a study judges a finished model on
    all visits, every one with an outcome."""
    asked = instruction.plan.evaluation
    if asked is None or asked.visits == "test":
        return visits.part(instruction.part)
    return visits.subset((~torch.isnan(visits.target)).nonzero().flatten())


def evaluated(
    instruction: Instruction, site: str, model: PerMMoE, data: VisitData, least_count: int
) -> EvaluationReply:
    """The reply. `data` has of each visit what counts in sums over groups (`RunningSite.in_groups`)."""
    plan, target = instruction.plan, data.target.double().numpy()
    has_scores = asks_for_scores(plan, instruction.part)
    predictions, scales = predicted(model, data) if has_scores else (combination_predictions(model, data), None)
    columns = {combination_name(c): predictions[:, j] for j, c in enumerate(all_combinations(data.names))}
    sums = {name: error_sums(own, target) for name, own in columns.items()}
    released = {name: own for name, own in sums.items() if own.n >= least_count}
    is_judged = plan.evaluation is not None
    return EvaluationReply(
        site,
        instruction.round,
        instruction.model_digest,
        released,
        further={name: further_sums(columns[name], target) for name in released} if is_judged else {},
        scores={}
        if scales is None
        else _scores(plan, data, np.abs(target[:, None] - predictions) / scales, released, least_count),
    )


def _scores(
    plan: RoundPlan,
    data: VisitData,
    scores: Float[np.ndarray, "visit combination"],
    released: Mapping[str, ErrorSums],
    least_count: int,
) -> Scores:
    """Counts of the scores. Where nobody else's are added to them no bin has fewer than `least_count` visits.

    Under the mask of a secure sum they are exact: it is over `min_holders` sites or more, whom it does not tell apart.
    """
    one_group = np.zeros(len(data), dtype=np.int64)
    counted = count_scores(data.names, scores, one_group, 1, [""] * len(data)).counts[:, 0]
    named = {combination_name(c): row for c, row in zip(all_combinations(data.names), counted, strict=True)}
    return {name: named[name] if plan.federation.secure else coarsened(named[name], least_count) for name in released}
