"""A round in which the server sees sums over sites alone (permmoe_server.protocol.secure_stages)."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from math import nan

from flwr.app import MessageType

from permmoe.federated.instructions import Instruction, Part, write_instruction
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.packed_model import PackedModel
from permmoe.federated.plan import RoundPlan
from permmoe.federated.secure.blocks import (
    EvaluationSum,
    evaluation_blocks,
    read_evaluation,
    read_training,
    training_blocks,
)
from permmoe.federated.summed_scores import asks_for_scores, summed_securely
from permmoe.federated.trained_modules import trained_modules
from permmoe.federated.training_figures import TrainingFigures
from permmoe_server.protocol.acceptance import is_acceptable, is_acceptable_evaluation
from permmoe_server.protocol.aggregation import running_sum
from permmoe_server.protocol.federation import Federation, RosterSource
from permmoe_server.protocol.round_records import (
    Evaluation,
    EvaluationOutcome,
    FederationState,
    SecureFigures,
    SiteRecord,
    TrainingOutcome,
    TrainingRecord,
    estimated_evaluation,
    in_order,
)
from permmoe_server.protocol.secure_stages import Participant, SumTask, new_session, sum_securely

LOG = logging.getLogger("permmoe.server")


@dataclass(frozen=True)
class SecureRound:
    """Training and evaluation of a study that uses the secure sum."""

    federation: Federation
    plan: RoundPlan
    layout: ModuleLayout
    roster: RosterSource

    def train(self, state: FederationState, number: int) -> TrainingOutcome:
        """Let every connected site train, and sum what they would have replied."""
        config = self.plan.federation.of_round(number)
        model = PackedModel.of(state.weights)
        instruction = self.federation.announced(Instruction(self.plan, number, model.digest()), "training")
        modules = trained_modules(self.plan, number, self.layout.modules)
        task = SumTask(
            new_session(self.plan.digest(), "training", number, instruction.model_digest),
            # The same modules to every site: which of them it can use would tell its modalities.
            write_instruction(instruction, model, state.receipts.values()),
            MessageType.TRAIN,
            training_blocks(self.layout, modules),
        )
        outcome = sum_securely(self.federation, task, config, self.roster())
        trained = read_training(outcome.unmasked) if outcome.unmasked else None
        figures = trained.figures if trained else TrainingFigures()
        total = running_sum(trained.changes, figures.visits, len(outcome.arrived)) if trained else None
        is_usable = total is not None and bool(total.modules) and is_acceptable(total, config)
        released = [m for m in modules if m in outcome.unmasked.values] if outcome.unmasked else []
        withheld = [m for m in modules if m not in released] if outcome.unmasked else []
        # Under differential privacy no loss leaves a site.
        has_loss = figures.visits > 0 and not config.privacy
        records = [site_record(participant, outcome.arrived) for participant in outcome.participants]
        return TrainingOutcome(
            total if is_usable else None,
            self.federation.countersigned(state.receipts, [p.head for p in outcome.participants]),
            TrainingRecord(
                in_order(records),
                loss=figures.loss_sum / figures.visits if has_loss else nan,
                visits=figures.visits,
                stage_seconds=outcome.stage_seconds,
                secure=SecureFigures(tuple(released), tuple(withheld), outcome.is_used_up and not is_usable),
            ),
            outcome.arrived,
        )

    def evaluate(self, state: FederationState, part: Part) -> EvaluationOutcome:
        """Let the sites whose input the model was trained with evaluate it on a part of their visits, and sum that."""
        model = PackedModel.of(state.evaluated_weights, self.plan.federation.wire)
        instruction = self.federation.announced(Instruction(self.plan, state.round, model.digest(), part), part)
        task = SumTask(
            new_session(self.plan.digest(), part, state.round, instruction.model_digest),
            write_instruction(instruction, model, state.receipts.values()),
            MessageType.EVALUATE,
            evaluation_blocks(self.plan, part),
        )
        outcome = sum_securely(self.federation, task, self.plan.federation, self.roster(), state.summed)
        found = read_evaluation(outcome.unmasked, self.plan, part) if outcome.unmasked else EvaluationSum({})
        if not is_acceptable_evaluation(found, self.plan, len(outcome.arrived)):
            # Whose part of it is false nobody sees; the round counts as one that was not evaluated.
            LOG.warning("round %d: the sum of the %s is not one of errors, and is not used", state.round, part)
            found = EvaluationSum({})
        lost = {p.node: p.rejected for p in outcome.participants if p.rejected and p.site not in outcome.arrived}
        if self.plan.federation.has_private_evaluations:
            record = estimated_evaluation(found.noised, self.plan, part, outcome.arrived, lost)
        else:
            summed = summed_securely(found.scores, self.plan, len(outcome.arrived), found.severity)
            scores = summed if asks_for_scores(self.plan, part) else None
            record = Evaluation(found.sums, outcome.arrived, lost, found.further, scores)
        receipts = self.federation.countersigned(state.receipts, [p.head for p in outcome.participants])
        sites = in_order(site_record(participant, outcome.arrived) for participant in outcome.participants)
        return EvaluationOutcome(record, receipts, sites, outcome.is_used_up and not record.sums)


def site_record(participant: Participant, arrived: Collection[str]) -> SiteRecord:
    """A site whose input is in the sum took part, even where it went silent after that."""
    is_in_sum = participant.site in arrived
    return SiteRecord(
        participant.node,
        participant.site,
        participant.bytes_down,
        participant.bytes_up,
        ledger=participant.head.digest if participant.head else "",
        rejected=None if is_in_sum else participant.rejected,
        lost_at=participant.lost_at,
    )
