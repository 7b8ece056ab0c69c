"""The protocol of a federated study, round by round.

1. Send every connected site the plan, the round's number, the model and its digest.
2. Check and add up the sites' replies (permmoe_server.protocol.plain_round), or sum masked replies that nobody sees
   alone (permmoe_server.protocol.secure_round).
3. With enough usable replies: divide, and let the server optimiser step, module by module.
4. Every `evaluate_every` rounds: send the new model, and add up the error sums that sites return.

Every wait is bounded by `round_deadline_seconds`: a site that is late or gone is left out and joins a later round. A
round with too few usable replies is tried again, so that a study's rounds are all rounds that trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Protocol, runtime_checkable

from torch import Tensor

from permmoe.errors import ConfigurationError
from permmoe.federated.audit import Receipt
from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.instructions import Part
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.plan import RoundPlan
from permmoe.training.fit import running_mean
from permmoe_server.protocol.aggregation import RunningSum, mean_changes
from permmoe_server.protocol.at_work import NOBODY_AT_WORK, AtWork, StillAtWork
from permmoe_server.protocol.downlink import Downlink
from permmoe_server.protocol.federation import Federation
from permmoe_server.protocol.optimisers import server_step
from permmoe_server.protocol.plain_round import PlainRound
from permmoe_server.protocol.readiness import NoQuorum, StudyLost
from permmoe_server.protocol.round_records import (
    Evaluation,
    EvaluationOutcome,
    FederationState,
    RoundRecord,
    TrainingOutcome,
)
from permmoe_server.protocol.secure_round import SecureRound
from permmoe_server.protocol.tries import pause_after
from permmoe_server.protocol.waiting_room import WaitingRoom


@runtime_checkable
class RoundKind(Protocol):
    """How the work of the sites becomes sums: plainly, or by the secure sum."""

    def train(self, state: FederationState, number: int) -> TrainingOutcome:
        """Let the sites train from this state."""

    def evaluate(self, state: FederationState, part: Part) -> EvaluationOutcome:
        """Let the sites evaluate this state's model on a part of their visits."""


def run_rounds(
    federation: Federation, plan: RoundPlan, layout: ModuleLayout, state: FederationState
) -> Iterator[tuple[FederationState, RoundRecord]]:
    """Run the rounds that `state` has not done yet, yielding the state and the record after each try at one.

    A round that too few sites answered is tried again, after a pause; the weights are then as before. With the secure
    sum a site gives its input to a round once: a try that failed after that is followed by the next number. Raises
    NoQuorum after `max_failed_rounds` failed tries in a row, StudyLost where there is no way on, ConfigurationError for
    a secure study without a roster.
    """
    config, clock = plan.federation, federation.clock
    kind, room = round_kind(federation, plan, layout, state.at_work), WaitingRoom(federation, plan)
    failed_in_a_row = 0
    while state.round < config.rounds:
        number = state.round + 1
        federation.observer.on_round_start(number)
        room.wait(number)
        if federation.is_to_stop():
            return
        started = clock.now()
        training = kind.train(state, number)
        room.learn(training.record.sites)
        if training.total is None:
            record = RoundRecord(number, False, training.record, clock.now() - started)
            is_lost = record.is_used_up and not config.sets_means(number)
            state = replace(state, round=number if is_lost else state.round, receipts=training.receipts)
            federation.observer.on_round(state, record)
            yield state, record
            failed_in_a_row += 1
            _check_another_try_is_allowed(config, record, failed_in_a_row)
            clock.pause(pause_after(failed_in_a_row))
            continue
        failed_in_a_row = 0
        summed = clock.now()
        state = replace(state, summed=training.summed, at_work=training.at_work)
        state = stepped(state, config.of_round(number), number, training.total, training.receipts)
        trained = clock.now()
        evaluations: dict[Part, Evaluation] = {}
        for part in _parts_to_evaluate(config, number):
            evaluated = kind.evaluate(state, part)
            evaluations[part], state = evaluated.record, replace(state, receipts=evaluated.receipts)
        ended = clock.now()
        record = RoundRecord(
            number,
            True,
            training.record,
            seconds=ended - started,
            step_seconds=trained - summed,
            evaluate_seconds=ended - trained if evaluations else None,
            **evaluations,
        )
        federation.observer.on_round(state, record)
        yield state, record


def round_kind(
    federation: Federation, plan: RoundPlan, layout: ModuleLayout, at_work: StillAtWork = NOBODY_AT_WORK
) -> RoundKind:
    """The kind of a study's rounds; `at_work` is who an earlier process left at work.

    Raises ConfigurationError for a secure study without a roster.
    """
    if not plan.federation.secure:
        going_on = AtWork.going_on(at_work, plan, federation.clock.now())
        return PlainRound(federation, plan, Downlink(layout), at_work=going_on)
    if federation.roster is None:
        raise ConfigurationError("the study is secure, so the coordinator needs the federation's signed roster")
    return SecureRound(federation, plan, layout, federation.roster)


def stepped(
    state: FederationState,
    config: FederationConfig,
    number: int,
    total: RunningSum,
    receipts: Mapping[str, Receipt],
) -> FederationState:
    """The state after a step along the sum of a round, plain or secure."""
    weights, moments = dict(state.weights), dict(state.moments)
    for module, change in mean_changes(total, state.weights, config.aggregation_rule):
        weights[module], moments[module] = server_step(
            config.of_module(module), state.weights[module], change, state.moments.get(module, {})
        )
    average: Mapping[str, Tensor] = {}
    if config.averaging_decay and number >= config.first_supervised:
        average = running_mean(state.average, weights, config.averaging_decay)
    return replace(state, round=number, weights=weights, moments=moments, average=average, receipts=receipts)


def _parts_to_evaluate(config: FederationConfig, number: int) -> tuple[Part, ...]:
    """The parts that sites evaluate after a round: validation as `is_validated` says, test after the last."""
    if not config.evaluate_every:
        return ()
    validation: tuple[Part, ...] = ("validation",) if config.is_validated(number) else ()
    return (*validation, "test") if number == config.rounds else validation


def _check_another_try_is_allowed(config: FederationConfig, failed: RoundRecord, failed_in_a_row: int) -> None:
    """Raise NoQuorum where a failed try was the last one."""
    if failed.is_used_up and config.sets_means(failed.round):
        raise StudyLost(
            f"round {failed.round} failed after sites had given their input, and they give it once; start the study "
            "under another name"
        )
    if failed_in_a_row >= config.max_failed_rounds:
        raise NoQuorum(
            f"round {failed.round} was tried {failed_in_a_row} times and had usable replies of fewer than "
            f"{config.min_sites} sites; the rounds' record says why the others were left out"
        )
