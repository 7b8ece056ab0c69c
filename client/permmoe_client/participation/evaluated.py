"""What a site says of a model that it evaluates: sums over the combinations that enough patients have."""

from __future__ import annotations

import torch

from permmoe.data.dataset import VisitData
from permmoe.evaluation.combinations import combination_predictions, error_sums
from permmoe.evaluation.further_sums import further_sums
from permmoe.federated.instructions import Instruction
from permmoe.federated.replies import EvaluationReply
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
    predictions, target = combination_predictions(model, data), data.target.double().numpy()
    columns = {combination_name(c): predictions[:, j] for j, c in enumerate(all_combinations(data.names))}
    sums = {name: error_sums(own, target) for name, own in columns.items()}
    released = {name: own for name, own in sums.items() if own.n >= least_count}
    is_judged = instruction.plan.evaluation is not None
    return EvaluationReply(
        site,
        instruction.round,
        instruction.model_digest,
        released,
        further={name: further_sums(columns[name], target) for name in released} if is_judged else {},
    )
