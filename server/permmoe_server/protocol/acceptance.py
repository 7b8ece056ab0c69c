"""The rules by which a round accepts replies. Each rule stands beside its check; a reply that breaks one is left out.

| rule | a reply is rejected because |
|---|---|
| not_a_message | it is no message (permmoe_server.coordination.reply_objects) |
| unsigned, … | it is not known to be its site's (permmoe_server.protocol.rules.UNPROVEN_RULES) |
| missing_…, encoding, sums, site_name | a record is absent or not as permmoe.federated.replies writes it |
| unknown_module, dtype, shape | an array is not a module of this model |
| wrong_round, model_digest | it answers another round, or started from another model |
| wrong_site | it speaks in the name of another site than the one whose key sent it |
| duplicate_reply | its site has answered this round already |
| late | its round was closed, and the study takes no update that is so late (permmoe_server.protocol.at_work) |
| unknown_modality | it has a modality that the study does not have |
| empty | it trained no module |
| untrained_module | it changes a module that the round does not train |
| not_finite | a value is NaN or infinite |
| visits, support_range | visits or a support are not above 0 and at most `max_support` |
| norm | a module's mean change is longer than `max_update_norm` |
| fixed_point_range | adding it could overflow the running sum (permmoe_server.protocol.aggregation) |
| unknown_combination, min_cell_count, negative_sum | an evaluation holds what no honest site sends |
| evaluated_visits | it counts more visits than its site may have (`most_evaluated`) |
| further_sums | its further sums are absent, not asked for, or not those of the same errors |
| noised | counts of errors with noise are absent, not asked for, or not of the plan's shape |
| scores | counts of errors are absent, not asked for, of few visits, or not of as many as it evaluated |
| sums_range, sums_nested | its sums are not sums of errors (permmoe.evaluation.consistent_sums) |
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import numpy as np
import torch
from flwr.app import RecordDict
from torch import Tensor

from permmoe.calibration.coarse_counts import widened
from permmoe.evaluation.combinations import ErrorSums
from permmoe.evaluation.consistent_sums import are_nested, is_consistent
from permmoe.evaluation.further_sums import go_together
from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.fixed_point import ONE
from permmoe.federated.instructions import Instruction
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.plan import RoundPlan
from permmoe.federated.private_errors import error_noise
from permmoe.federated.records import MalformedRecord
from permmoe.federated.replies import EvaluationReply, TrainReply, read_evaluation_reply, read_train_reply
from permmoe.federated.secure.blocks import EvaluationSum
from permmoe.federated.secure.session import SecureSumRefused
from permmoe.federated.summed_scores import are_counts_of, are_of_groups, asks_for_scores, severity_groups
from permmoe.federated.trained_modules import trained_modules
from permmoe.federated.update import ModuleUpdate
from permmoe.modality import all_combinations, combination_name
from permmoe_server.protocol.aggregation import RunningSum

LOG = logging.getLogger("permmoe.server")

MOST_DEVIATIONS = 12
"""Of its noise, that a count may be away: more has a chance of 1 in 10^32."""
SMALL_PART = 20
"""Visits by which a site may evaluate more than it trains on: of a few patients the split may lay most aside."""


class RejectedReply(Exception):
    """A reply that is left out of the round. `rule` names the broken rule and repeats nothing that was received."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule


@contextmanager
def distrusted() -> Iterator[None]:
    """Read a reply in the block: whatever its bytes make a reader raise is one rejected reply, and nothing more.

    Raises RejectedReply.
    """
    try:
        yield
    except RejectedReply:
        raise
    except MalformedRecord as error:
        raise RejectedReply(error.rule) from None
    except SecureSumRefused:
        raise RejectedReply("secure_sum") from None
    except Exception as error:
        LOG.warning("a reply could not be read: %s", type(error).__name__)
        raise RejectedReply("not_a_message") from error


def accept_training(
    content: RecordDict,
    instruction: Instruction,
    layout: ModuleLayout,
    answered: Collection[str],
    sender: str | None = None,
) -> TrainReply:
    """Read a training reply and check every rule. Raises RejectedReply.

    `answered` names the sites whose replies were accepted before; `sender` is the site whose key sent the reply, None
    where that is unknown.
    """
    with distrusted():
        reply = read_train_reply(content, layout, instruction.up_wire)
    _check_header(reply, instruction, answered, sender)
    federation = instruction.plan.federation
    # "A site has modalities of the study."
    if not set(reply.modalities) <= set(instruction.plan.model.names):
        raise RejectedReply("unknown_modality")
    # "A reply without any trained module is no training."
    if not reply.updates:
        raise RejectedReply("empty")
    # "A round changes the modules that it trains, and no other": frozen encoders stay.
    if not set(reply.updates) <= set(trained_modules(instruction.plan, instruction.round, layout.modules)):
        raise RejectedReply("untrained_module")
    # "Every figure is in the range that it is declared with."
    if broken := reply.figures.broken_rule(federation.max_support):
        raise RejectedReply(broken)
    for update in reply.updates.values():
        _check_update(update, federation)
    return reply


def is_acceptable(running: RunningSum, federation: FederationConfig) -> bool:
    """Whether a secure sum keeps the rules for single replies, which cannot be checked while they are masked.

    Every module's support must be at most `max_support` visits a site, its mean change no longer than
    `max_update_norm`.
    """
    return all(
        module.weight <= federation.max_support * running.sites * ONE
        and _norm(module.change.double() / module.weight) <= federation.max_update_norm
        for module in running.modules.values()
    )


def most_evaluated(trained: Mapping[str, float], site: str, max_support: float) -> float:
    """How many visits a site may evaluate: as many as it said that it trained on, of which the split lays aside fewer.

    `trained` has the training visits of the sites that trained in this study. A site that did not counts for no more
    than the largest of the others. So what a site can do to the choice of the model is no more than what it says in
    every round, for all to see, that it does to the training.
    """
    return trained.get(site, max(trained.values(), default=max_support)) + SMALL_PART


def accept_evaluation(
    content: RecordDict,
    instruction: Instruction,
    answered: Collection[str],
    sender: str | None = None,
    trained: Mapping[str, float] = MappingProxyType({}),
) -> EvaluationReply:
    """Read an evaluation reply and check every rule; arguments as in `accept_training` and `most_evaluated`.

    Raises RejectedReply.
    """
    with distrusted():
        reply = read_evaluation_reply(content)
    _check_header(reply, instruction, answered, sender)
    most = most_evaluated(trained, reply.site, instruction.plan.federation.max_support)
    # "A private study's evaluation is counts with noise, and nothing else; no other study's has any."
    if instruction.plan.federation.has_private_evaluations or reply.noised is not None:
        _check_noised(reply, instruction.plan, most)
    known = {combination_name(c) for c in all_combinations(instruction.plan.model.names)}
    for name, sums in reply.sums.items():
        if name not in known:
            raise RejectedReply("unknown_combination")
        _check_sums(sums, instruction.plan)
    # "A site evaluates no more visits than it may have."
    if any(sums.n > most for sums in reply.sums.values()):
        raise RejectedReply("evaluated_visits")
    # "Who judges a finished model says of each combination what goes with its sums; nobody else does."
    if set(reply.further) != (set(reply.sums) if instruction.plan.evaluation else set()):
        raise RejectedReply("further_sums")
    if not all(go_together(reply.sums[n], f, instruction.plan.model.outcome_range) for n, f in reply.further.items()):
        raise RejectedReply("further_sums")
    # "Who is asked for scores says of every visit where its error lies, and of no few visits alone."
    if set(reply.scores) != (set(reply.sums) if asks_for_scores(instruction.plan, instruction.part) else set()):
        raise RejectedReply("scores")
    least = instruction.plan.federation.min_cell_count
    if not all(are_counts_of(row, reply.sums[name].n, least) for name, row in reply.scores.items()):
        raise RejectedReply("scores")
    # "Of a severity group it says the same, and the rest is of no few visits either."
    if not are_of_groups(reply.severity, reply.scores, severity_groups(instruction.plan, instruction.part), least):
        raise RejectedReply("scores")
    # "Who has all modalities of a combination has those of a part of it."
    if not are_nested(reply.sums, is_complete=True):
        raise RejectedReply("sums_nested")
    return reply


def is_acceptable_evaluation(found: EvaluationSum, plan: RoundPlan, n_sites: int) -> bool:
    """Whether a secure sum of evaluations keeps the rules for single ones, all of which hold for sums as well."""
    sums = found.sums
    if found.noised is not None:
        return bool(np.abs(found.noised).max() <= plan.federation.max_support * n_sites)
    return (
        all(one.n <= plan.federation.max_support * n_sites for one in sums.values())
        and all(is_consistent(one, plan.model.outcome_range) for one in sums.values())
        and all(go_together(sums[name], one, plan.model.outcome_range) for name, one in found.further.items())
        and all(are_counts_of(row, sums[name].n, 1) for name, row in found.scores.items())
        and are_of_groups(
            found.severity,
            {name: widened(row) for name, row in found.scores.items()},
            severity_groups(plan, "validation"),
            1,
        )
        and are_nested(sums, is_complete=False)
    )


def _check_header(
    reply: TrainReply | EvaluationReply, instruction: Instruction, answered: Collection[str], sender: str | None
) -> None:
    # "A site speaks in its own name."
    if sender is not None and reply.site != sender:
        raise RejectedReply("wrong_site")
    # "A reply answers the open round."
    if reply.round != instruction.round:
        raise RejectedReply("wrong_round")
    # "A change is relative to the model that was sent."
    if reply.model_digest != instruction.model_digest:
        raise RejectedReply("model_digest")
    # "A site counts once a round, however many nodes speak in its name": the first one does.
    if reply.site in answered:
        raise RejectedReply("duplicate_reply")


def _check_update(update: ModuleUpdate, federation: FederationConfig) -> None:
    # "A support is above 0 and at most max_support visits" (NaN is neither).
    if not 0 < update.support <= federation.max_support:
        raise RejectedReply("support_range")
    # "Every value is finite": one NaN or infinity makes the norm so.
    norm = _norm(update.weighted_delta)
    if not math.isfinite(norm):
        raise RejectedReply("not_finite")
    # "The mean change of a module is no longer than max_update_norm."
    if norm > federation.max_update_norm * update.support:
        raise RejectedReply("norm")


def _check_noised(reply: EvaluationReply, plan: RoundPlan, most: float) -> None:
    if not plan.federation.has_private_evaluations or reply.noised is None or reply.sums:
        raise RejectedReply("noised")
    noise = error_noise(plan)
    if reply.noised.shape != noise.shape:
        raise RejectedReply("noised")
    # "A count is of no more visits than a site may have, but for noise."
    if np.abs(reply.noised).max() > max(most, 0) + MOST_DEVIATIONS * math.sqrt(noise.variance):
        raise RejectedReply("evaluated_visits")


def _check_sums(sums: ErrorSums, plan: RoundPlan) -> None:
    # "No metric over fewer than min_cell_count subjects leaves a site": one that does is not used either.
    if sums.n < plan.federation.min_cell_count:
        raise RejectedReply("min_cell_count")
    values = (sums.squared, sums.absolute, sums.target, sums.target_squared)
    if not all(math.isfinite(value) for value in values):
        raise RejectedReply("not_finite")
    # "Sums of squares and of absolute values are not negative."
    if min(sums.squared, sums.absolute, sums.target_squared) < 0:
        raise RejectedReply("negative_sum")
    # "Errors and outcomes are within the range of the outcome."
    if not is_consistent(sums, plan.model.outcome_range):
        raise RejectedReply("sums_range")


def _norm(values: Tensor) -> float:
    norm = float(torch.dot(values, values)) ** 0.5
    # Squares overflow float32 long before values do, but never float64; in float32 it takes a fifth of the time.
    return norm if math.isfinite(norm) else float(torch.linalg.vector_norm(values, dtype=torch.float64))
