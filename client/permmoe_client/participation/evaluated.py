"""What a site says of a model that it evaluates: sums over the combinations that enough patients have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int64

from permmoe.calibration.calibrate import predicted
from permmoe.calibration.coarse_counts import coarsened, widened
from permmoe.calibration.score_counts import count_scores
from permmoe.data.dataset import VisitData
from permmoe.ensemble import Network
from permmoe.evaluation.combinations import combination_predictions, error_sums
from permmoe.evaluation.further_sums import further_sums
from permmoe.federated.instructions import Instruction
from permmoe.federated.plan import RoundPlan
from permmoe.federated.replies import EvaluationReply
from permmoe.federated.summed_scores import Scores, asks_for_scores, of_group, severity_groups
from permmoe.modality import all_combinations, combination_name
from permmoe_client.participation.grouped_visits import UNTOLD, GroupedVisits


def evaluated_visits(instruction: Instruction, visits: VisitData) -> VisitData:
    """The visits that are evaluated: the part that the instruction names or, where a study judges a finished model on
    all visits, every one with an outcome."""
    asked = instruction.plan.evaluation
    if asked is None or asked.visits == "test":
        return visits.part(instruction.part)
    return visits.subset((~torch.isnan(visits.target)).nonzero().flatten())


def evaluated(
    instruction: Instruction, site: str, model: Network, grouped: GroupedVisits, least_count: int
) -> EvaluationReply:
    """The reply. `grouped` has of each visit what counts in sums over groups (`RunningSite.in_groups`)."""
    plan, data = instruction.plan, grouped.data
    target = data.target.double().numpy()
    has_scores = asks_for_scores(plan, instruction.part)
    predictions, scales = predicted(model, data) if has_scores else (combination_predictions(model, data), None)
    columns = {combination_name(c): predictions[:, j] for j, c in enumerate(all_combinations(data.names))}
    sums = {name: error_sums(own, target) for name, own in columns.items()}
    released = {name: own for name, own in sums.items() if own.n >= least_count}
    is_judged = plan.evaluation is not None
    reply = EvaluationReply(
        site,
        instruction.round,
        instruction.model_digest,
        released,
        further={name: further_sums(columns[name], target) for name in released} if is_judged else {},
    )
    if scales is None:
        return reply
    errors = np.abs(target[:, None] - predictions) / scales
    if grouped.severity is None:
        # Under the mask of a secure sum counts are exact: it is over `min_holders` sites or more, whom it does not tell
        # apart. Where nobody else's are added to them, no bin has fewer than `least_count` visits.
        is_alone, counts = not plan.federation.secure, _counts(data, errors)
        scores = {name: coarsened(counts[name], least_count) if is_alone else counts[name] for name in released}
        return replace(reply, scores=scores)
    return _by_severity(reply, plan, data, errors, grouped.severity, least_count)


def _by_severity(
    reply: EvaluationReply,
    plan: RoundPlan,
    data: VisitData,
    errors: Float[np.ndarray, "visit combination"],
    severity: Int64[np.ndarray, " visit"],
    least_count: int,
) -> EvaluationReply:
    """With counts of the scores of everybody and of each severity group.

    Where nobody else's are added to them, bins of the groups and of those who count without one are merged apart, and
    everybody's counts are their sum: no difference of a bin is about fewer than `least_count` visits.
    """
    is_alone = not plan.federation.secure
    everybody: dict[str, Int64[np.ndarray, " bin"]] = {}
    of_groups: dict[str, Int64[np.ndarray, " bin"]] = {}
    parts = {group: _counts(data, np.where((severity == group)[:, None], errors, np.nan))
             for group in (UNTOLD, *range(severity_groups(plan, "validation")))}  # fmt: skip
    for name in reply.sums:
        own = {group: counts[name] for group, counts in parts.items() if counts[name].any()}
        # "No group of few leaves": groups are as large as that already, and nothing is told of one that is not.
        if any(row.sum() < least_count for row in own.values()):
            own = {UNTOLD: np.asarray(sum(own.values()))}
        if is_alone:
            own = {group: coarsened(row, least_count) for group, row in own.items()}
        everybody[name] = np.asarray(sum(own.values()))
        of_groups |= {of_group(name, g): row if is_alone else widened(row) for g, row in own.items() if g != UNTOLD}
    return replace(reply, scores=everybody, severity=of_groups)


def _counts(data: VisitData, errors: Float[np.ndarray, "visit combination"]) -> Scores:
    """How many visits have a score in which bin, by combination."""
    counted = count_scores(data.names, errors, np.zeros(len(data), np.int64), 1, [""] * len(data)).counts[:, 0]
    return {combination_name(c): row for c, row in zip(all_combinations(data.names), counted, strict=True)}
