"""What a site of a private study says of a model that it evaluates: how many errors are of which size, with noise."""

from __future__ import annotations

import numpy as np

from permmoe.calibration.calibrate import predicted
from permmoe.calibration.score_counts import count_scores
from permmoe.data.dataset import VisitData
from permmoe.ensemble import Network
from permmoe.federated.discrete_gaussian import Below
from permmoe.federated.instructions import Instruction
from permmoe.federated.private_errors import ErrorCounts, error_bins, error_noise, in_error_bins
from permmoe.federated.replies import EvaluationReply
from permmoe_client.participation.drawn_once import drawn_once
from permmoe_client.participation.running_site import RunningSite


def private_errors(instruction: Instruction, site: RunningSite, model: Network, data: VisitData) -> EvaluationReply:
    """The reply: counts of these visits' errors with the noise of the study's plan, of all combinations.

    A combination that no visit has is noise alone, and none is held back: which came would tell what patients have.
    Raises as `drawn_once`.
    """
    plan = instruction.plan
    privacy, noise = plan.federation.privacy, error_noise(plan)
    assert privacy and privacy.evaluation
    bins = error_bins(privacy.evaluation)

    def draw(below: Below) -> ErrorCounts:
        return np.asarray(in_error_bins(_counts(model, data), bins) + noise.drawn(below))

    question = f"{plan.digest()} {instruction.part} {instruction.round} {instruction.model_digest}"
    counts, spent = drawn_once("errors", question, plan, site, noise.spent(), draw)
    return EvaluationReply(
        site.settings.name, instruction.round, instruction.model_digest, {}, noised=counts, spent=(spent,)
    )


def _counts(model: Network, data: VisitData) -> ErrorCounts:
    """Visits by combination and bin of the calibration's grid."""
    predictions, scales = predicted(model, data)
    errors = np.abs(data.target.double().numpy()[:, None] - predictions) / scales
    return count_scores(data.names, errors, np.zeros(len(data), np.int64), 1, [""] * len(data)).counts[:, 0]
