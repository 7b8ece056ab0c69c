"""A round in which the server sees every reply: each is checked and added to the running sum as it arrives."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from math import fsum, isfinite, nan
from typing import TypeVar

import numpy as np
from flwr.app import MessageType

from permmoe.evaluation.combinations import ErrorSums
from permmoe.evaluation.further_sums import FurtherSums
from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.fixed_point import FixedPointOverflowError
from permmoe.federated.instructions import Instruction, Part, write_instruction
from permmoe.federated.packed_model import PackedModel
from permmoe.federated.plan import RoundPlan
from permmoe.federated.private_errors import ErrorCounts
from permmoe.federated.records import content_bytes
from permmoe.federated.replies import TrainReply
from permmoe.federated.summed_scores import Scores, asks_for_scores, summed_plainly
from permmoe_server.protocol.acceptance import RejectedReply, accept_evaluation, accept_training, distrusted
from permmoe_server.protocol.aggregation import RunningSum, fold
from permmoe_server.protocol.at_work import NOBODY_AT_WORK, AtWork, staleness_factor
from permmoe_server.protocol.downlink import Downlink, ModelExchange
from permmoe_server.protocol.exchange import content_of, is_lost, send
from permmoe_server.protocol.federation import ConnectedSites, Federation
from permmoe_server.protocol.quarantine import QUARANTINED
from permmoe_server.protocol.round_records import (
    Evaluation,
    EvaluationOutcome,
    FederationState,
    SiteRecord,
    SiteTraining,
    TrainingOutcome,
    TrainingRecord,
    estimated_evaluation,
    in_order,
)
from permmoe_server.protocol.rules import AT_WORK

Sums = TypeVar("Sums", ErrorSums, FurtherSums)


@dataclass(frozen=True)
class PlainRound:
    """Training and evaluation of a study that does not use the secure sum."""

    federation: Federation
    plan: RoundPlan
    downlink: Downlink
    trained: dict[str, float] = field(default_factory=dict)
    """Site -> the most visits that it said it trained on."""
    at_work: AtWork = field(default_factory=AtWork)

    def train(self, state: FederationState, number: int) -> TrainingOutcome:
        """Let the connected sites that are not at work train, and add up the replies that keep every rule.

        The round closes once it has enough of them; late ones of earlier rounds are among them where the plan says so.
        """
        config, clock = self.plan.federation.of_round(number), self.federation.clock
        started = clock.now()
        model = PackedModel.of(state.weights, config.wire)
        instruction = self.federation.announced(Instruction(self.plan, number, model.digest()), "training")
        sending = ModelExchange(self.downlink, instruction, model, state.receipts.values())
        sites = self.federation.connected()
        busy = self._busy(sites)
        free = [node for node in sites.nodes if node not in busy]
        sending.write(free)
        written = clock.now()

        total, losses, begun = RunningSum(), dict[str, float](), dict[str, int]()
        records = [SiteRecord(node, sites.name(node) or "", rejected=QUARANTINED) for node in sites.quarantined]
        receipts = dict(state.receipts)
        self.at_work.begin(free, instruction, model, written + config.answer_seconds)
        enough = config.replies_that_close(len(sites.nodes))
        for node, message in sending.replies(
            self.federation,
            free,
            MessageType.TRAIN,
            config.round_deadline_seconds,
            ttl_seconds=config.answer_seconds,
            unanswered=self.at_work.unanswered,
            lost=self.at_work.lost,
            ask_again=partial(self._ask_again, sending),
            is_enough=lambda: total.sites >= enough,
        ):
            arrived = clock.now()
            record = SiteRecord(node, sites.name(node) or "", sending.bytes_down.get(node, 0))
            if is_lost(message) and not config.max_staleness:
                self.at_work.lost.discard(node)
            if (message is None or is_lost(message)) and self.at_work.may_answer(node, arrived):
                records.append(replace(record, rejected=AT_WORK))
                continue
            asked = self.at_work.asked(node)
            staleness = number - asked.instruction.round
            try:
                content = content_of(message)
                with distrusted():
                    record = replace(record, bytes_up=content_bytes(content))
                # "A site counts once for each round that it was asked in, and once in each sum."
                answered = {*losses, *self.at_work.counted(asked.instruction.round)}
                reply = accept_training(content, asked.instruction, self.downlink.layout, answered, sites.name(node))
                # "An update that is later than the plan takes is left out."
                if staleness > config.max_staleness:
                    raise RejectedReply("late")
                _add(total, reply, config, staleness)
            except RejectedReply as rejection:
                self.federation.quarantine.note(sites.sender(node), rejection.rule)
                records.append(replace(record, rejected=rejection.rule))
                continue
            losses[reply.site], begun[reply.site] = reply.figures.loss_sum, asked.instruction.round
            self.trained[reply.site] = max(reply.figures.visits, self.trained.get(reply.site, 0.0))
            self.downlink.learn(node, reply.modalities)
            self.downlink.confirm(node, asked.instruction, asked.model.digests)
            receipts = self.federation.countersigned(receipts, [reply.head])
            training = SiteTraining(reply.figures, clock.now() - arrived, tuple(reply.updates), staleness)
            ledger = reply.head.digest if reply.head else ""
            records.append(replace(record, site=reply.site, ledger=ledger, training=training))

        has_enough = total.sites >= config.min_sites
        if has_enough:
            self.at_work.close(begun)
        visits = fsum(record.training.figures.visits for record in records if record.training)
        return TrainingOutcome(
            total if has_enough else None,
            receipts,
            TrainingRecord(
                in_order(records),
                loss=fsum(losses.values()) / visits if visits else nan,
                visits=visits,
                stage_seconds={"write": written - started},
            ),
            # What comes later than the plan takes is not worth asking for again.
            at_work=self.at_work.left(clock.now(), sites.sender) if config.max_staleness else NOBODY_AT_WORK,
        )

    def _ask_again(self, sending: ModelExchange, nodes: Collection[int]) -> Mapping[str, int]:
        """Ask nodes that were lost, and are back, what each was asked before; they may hold no model any more."""
        sent: dict[str, int] = {}
        now = self.federation.clock.now()
        for node in nodes:
            asked = self.at_work.asked(node)
            if now >= asked.until:
                continue
            instruction = self.federation.announced(asked.instruction, "training")
            content = write_instruction(instruction, asked.model, sending.receipts)
            self.downlink.forget(node)
            sending.bytes_down[node] = sending.bytes_down.get(node, 0) + content_bytes(content)
            group, seconds = str(instruction.round), asked.until - now
            sent |= send(self.federation, {node: content}, MessageType.TRAIN, group, seconds)
        return sent

    def _busy(self, sites: ConnectedSites) -> frozenset[int]:
        """The nodes that are at work, and whose answer is awaited."""
        now = self.federation.clock.now()
        self.at_work.find({sites.sender(node): node for node in sites.names or sites.nodes})
        self.at_work.forget(node for node in self.at_work.nodes(now) if not self.federation.hears(sites, node))
        return self.at_work.nodes(now)

    def evaluate(self, state: FederationState, part: Part) -> EvaluationOutcome:
        """Let the connected sites evaluate the model on a part of their visits, and add up the sums that they return.

        Validation leaves out those that are still at work on a training; the test waits for them.
        """
        config = self.plan.federation
        model = PackedModel.of(state.evaluated_weights, config.wire)
        instruction = self.federation.announced(Instruction(self.plan, state.round, model.digest(), part), part)
        sending = ModelExchange(self.downlink, instruction, model, state.receipts.values())
        sites, receipts = self.federation.connected(), dict(state.receipts)
        by_site: dict[str, Mapping[str, ErrorSums]] = {}
        further: dict[str, Mapping[str, FurtherSums]] = {}
        scores: dict[str, Scores] = {}
        severity: dict[str, Scores] = {}
        noised: dict[str, ErrorCounts] = {}
        busy = self._busy(sites) if part == "validation" else frozenset()
        rejected = dict.fromkeys(sites.quarantined, QUARANTINED) | dict.fromkeys(busy & set(sites.nodes), AT_WORK)
        records = [SiteRecord(node, sites.name(node) or "", rejected=rule) for node, rule in rejected.items()]
        free = [node for node in sites.nodes if node not in busy]
        for node, message in sending.replies(
            self.federation, free, MessageType.EVALUATE, config.round_deadline_seconds
        ):
            record = SiteRecord(node, sites.name(node) or "", sending.bytes_down[node])
            try:
                content = content_of(message)
                with distrusted():
                    record = replace(record, bytes_up=content_bytes(content))
                reply = accept_evaluation(content, instruction, by_site, sites.name(node), self.trained)
                _require_finite([*by_site.values(), reply.sums])
            except RejectedReply as rejection:
                self.federation.quarantine.note(sites.sender(node), rejection.rule)
                rejected[node] = rejection.rule
                records.append(replace(record, rejected=rejection.rule))
            else:
                by_site[reply.site], further[reply.site] = reply.sums, reply.further
                scores[reply.site], severity[reply.site] = reply.scores, reply.severity
                if reply.noised is not None:
                    noised[reply.site] = reply.noised
                receipts = self.federation.countersigned(receipts, [reply.head])
                self.downlink.confirm(node, instruction, model.digests)
                ledger = reply.head.digest if reply.head else ""
                records.append(replace(record, site=reply.site, ledger=ledger))
        answered = tuple(sorted(by_site))
        if config.has_private_evaluations:
            total = np.sum([*noised.values()], axis=0) if noised else None
            evaluation = estimated_evaluation(total, self.plan, part, answered, rejected)
        else:
            summed = summed_plainly(scores, severity) if asks_for_scores(self.plan, part) else None
            evaluation = Evaluation(_added(by_site), answered, rejected, _added(further), summed)
        return EvaluationOutcome(evaluation, receipts, in_order(records))


def _add(total: RunningSum, reply: TrainReply, config: FederationConfig, staleness: int) -> None:
    """Add a reply to the sum, in place. Raises RejectedReply where the sum could overflow, and adds nothing then."""
    try:
        fold(
            total,
            reply.updates,
            reply.figures.visits,
            config.aggregation_rule,
            config.max_update_norm,
            staleness_factor(staleness),
        )
    except FixedPointOverflowError:
        raise RejectedReply("fixed_point_range") from None


def _require_finite(sums_of_sites: Iterable[Mapping[str, ErrorSums]]) -> None:
    """Check that these sums can be added up, whatever the order. Raises RejectedReply."""
    # "An infinite sum is no sum": without a range of the outcome, each site's may be as large as a number can be.
    magnitudes = [abs(value) for of_site in sums_of_sites for sums in of_site.values() for value in astuple(sums)]
    if not isfinite(sum(magnitudes)):
        raise RejectedReply("not_finite")


def _added(by_site: Mapping[str, Mapping[str, Sums]]) -> dict[str, Sums]:
    """The sums of all sites, by combination."""
    total: dict[str, Sums] = {}
    # In the order of names, not of arrival: floating-point sums depend on the order.
    for site in sorted(by_site):
        for name, sums in by_site[site].items():
            total[name] = total[name] + sums if name in total else sums
    return total
