"""The protocol of a federated study, round by round, as straight code over Flower's Grid.

1. Send every connected site the plan, the round's number, the model and its digest.
2. Fold each reply into the running sum as it arrives; a reply that breaks a rule is rejected alone.
3. With replies of `min_sites` sites or more: divide, and let the server optimiser step, module by module.
4. Every `evaluate_every` rounds: send the new model, add up the sums that sites return.

With `secure: true` steps 1 and 2 and the adding of 4 are a secure sum (permmoe_server.protocol.secure_rounds); 3 is
the same.

Every wait is bounded by `round_deadline_seconds`: a site that is late or gone is left out and joins a later round. A
round with too few replies is tried again, so that a study's rounds are all rounds that trained.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from math import fsum, nan

from flwr.app import MessageType
from torch import Tensor

from permmoe.errors import ConfigurationError, PermmoeError
from permmoe.evaluation.combinations import ErrorSums
from permmoe.federated.audit import Head, Receipt
from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.fixed_point import FixedPointOverflowError
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.plan import RoundPlan
from permmoe.federated.records import (
    Instruction,
    PackedModel,
    Part,
    content_bytes,
    write_instruction,
)
from permmoe.federated.secure.blocks import evaluation_blocks, read_evaluation, read_training, training_blocks
from permmoe.federated.training_figures import TrainingFigures
from permmoe.training.trainer import running_mean
from permmoe_server.protocol.acceptance import RejectedReply, accept_evaluation, accept_training, is_acceptable
from permmoe_server.protocol.aggregation import RunningSum, fold, mean_changes, running_sum
from permmoe_server.protocol.downlink import Downlink, ModelExchange
from permmoe_server.protocol.exchange import (
    SYSTEM_CLOCK,
    Clock,
    MessageGrid,
    SiteOf,
    connected,
    content_of,
    wait_for_sites,
)
from permmoe_server.protocol.optimisers import Moments, server_step
from permmoe_server.protocol.secure_rounds import Participant, SignedRoster, new_session, sum_securely

FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 5.0, 60.0
"""Pauses after tries at a round that too few sites answered; each is twice the one before."""


class NoQuorum(PermmoeError):
    """Too few sites answered, round after round."""


@dataclass(frozen=True)
class FederationState:
    """All that the next round needs; a study resumed from it ends with the same weights as an undisturbed one."""

    round: int
    """Rounds done."""
    weights: Mapping[str, Tensor]
    """Flat parameters by module."""
    moments: Mapping[str, Moments] = field(default_factory=dict)
    average: Mapping[str, Tensor] = field(default_factory=dict)
    """Running mean of the weights over rounds, which is judged and kept; empty where the study wants the newest."""
    receipts: Mapping[str, Receipt] = field(default_factory=dict)
    """For each site's ledger the newest that was countersigned; it goes out with the next round."""

    @property
    def judged(self) -> Mapping[str, Tensor]:
        """The weights that are evaluated and kept: the running mean or, without one, the newest."""
        return self.average or self.weights


NO_FIGURES = TrainingFigures()


@dataclass(frozen=True)
class SiteRecord:
    """What one node did in a round."""

    node: int
    site: str = ""
    """Empty where nobody says which site a node is, and no reply was accepted."""
    bytes_down: int = 0
    bytes_up: int = 0
    figures: TrainingFigures = NO_FIGURES
    """All 0 where no reply was accepted, and in a secure round."""
    server_seconds: float = 0.0
    """Ours for checking and folding its reply; waiting and transport are in none of the three."""
    modules: tuple[str, ...] = ()
    ledger: str = ""
    """SHA-256 of the newest entry of the site's ledger: the coordinator's half of the evidence."""
    rejected: str | None = None
    """The rule that its reply broke, `no_reply`, or the type of the error that it had."""
    lost_at: str = ""
    """Secure: the stage at which it went silent or broke a rule; its input may be in the sum all the same."""


@dataclass(frozen=True)
class Evaluation:
    """The sums of all sites that answered, by combination."""

    sums: Mapping[str, ErrorSums]
    sites: tuple[str, ...]
    rejected: Mapping[int, str]
    """Node -> why its reply was left out."""


@dataclass(frozen=True)
class RoundRecord:
    """A try at a round as it is remembered."""

    round: int
    is_aggregated: bool
    """False where fewer than `min_sites` replies were accepted: nothing changed, and the round is tried again."""
    sites: tuple[SiteRecord, ...]
    train_loss: float
    """Mean over the accepted sites' visits, squared points; NaN without any."""
    seconds: float
    validation: Evaluation | None = None
    test: Evaluation | None = None
    """Only after the last round."""
    is_secure: bool = False
    """Sites gave masked inputs: of `sites`, visits, times and modules are nobody's to know."""
    holders: Mapping[str, int] = field(default_factory=dict)
    """Secure: how many sites trained each module."""
    visits: float = 0.0
    """Of all accepted sites."""
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    """Of the round, without its sites' own: `write` the model and instructions, `step` from sums to the next model,
    `evaluate`. Secure: how long each stage of the sum took."""
    is_spent: bool = False
    """Secure: sites have given their input to this number and will not again, so a failed try uses it up."""


Countersigner = Callable[[Head], Receipt]
"""Gives a receipt for the newest entry of a site's ledger."""

RosterOf = Callable[[], SignedRoster]
"""The federation's roster as it is now."""


def run_rounds(
    grid: MessageGrid,
    plan: RoundPlan,
    layout: ModuleLayout,
    state: FederationState,
    clock: Clock = SYSTEM_CLOCK,
    site_of: SiteOf = lambda: None,
    countersigner: Countersigner | None = None,
    roster_of: RosterOf | None = None,
) -> Iterator[tuple[FederationState, RoundRecord]]:
    """Run the rounds that `state` has not done yet, yielding the state and the record after each try at one.

    A round that too few sites answered is tried again, after a pause; the state is then as before. With the secure sum
    a site gives its input to a round once: a try that failed after that is followed by the next number. Raises NoQuorum
    after `max_failed_rounds` failed tries in a row, ConfigurationError for a secure study without `roster_of`.
    """
    federation = plan.federation
    downlink = Downlink(layout)
    failed_in_a_row = 0
    while state.round < federation.rounds:
        number, started = state.round + 1, clock.now()
        wait_for_sites(grid, federation.least_sites, federation.round_deadline_seconds, clock, site_of)
        if federation.secure:
            state, record = _train_securely(
                grid, plan, layout, state, number, clock, site_of, countersigner, _roster(roster_of)
            )
        else:
            state, record = _train(grid, plan, downlink, state, number, clock, site_of, countersigner)
        if not record.is_aggregated:
            if record.is_spent and not federation.is_centring(number):
                state = replace(state, round=number)
            yield state, replace(record, seconds=clock.now() - started)
            if record.is_spent and federation.is_centring(number):
                raise NoQuorum(
                    "the first round failed after sites had given their input, and they give it once; start the study "
                    "under another name"
                )
            failed_in_a_row += 1
            if failed_in_a_row >= federation.max_failed_rounds:
                raise NoQuorum(
                    f"round {number} was tried {failed_in_a_row} times and had usable replies of fewer than "
                    f"{federation.min_sites} sites; the rounds' record says why the others were left out"
                )
            clock.pause(min(FIRST_RETRY_SECONDS * 2.0 ** (failed_in_a_row - 1), LAST_RETRY_SECONDS))
            continue
        failed_in_a_row = 0
        trained = clock.now()
        judged = partial(evaluate, grid, plan, downlink, state, clock=clock, site_of=site_of, roster_of=roster_of)
        if federation.evaluate_every and number % federation.evaluate_every == 0:
            record = replace(record, validation=judged("validation"))
        if federation.evaluate_every and number == federation.rounds:
            record = replace(record, test=judged("test"))
        if record.validation or record.test:
            record = replace(record, stage_seconds={**record.stage_seconds, "evaluate": clock.now() - trained})
        yield state, replace(record, seconds=clock.now() - started)


def _train(
    grid: MessageGrid,
    plan: RoundPlan,
    downlink: Downlink,
    state: FederationState,
    number: int,
    clock: Clock,
    site_of: SiteOf,
    countersigner: Countersigner | None,
) -> tuple[FederationState, RoundRecord]:
    federation, started = plan.federation.of_round(number), clock.now()
    model = PackedModel.of(state.weights, federation.wire)
    asked = Instruction(plan, number, model.digest())
    sending = ModelExchange(downlink, asked, model, state.receipts.values())
    running, losses, records = RunningSum(), dict[str, float](), list[SiteRecord]()
    receipts = dict(state.receipts)
    sites = site_of()
    nodes = connected(grid, sites)
    sending.write(nodes)
    written = clock.now()
    for node, message in sending.replies(grid, nodes, MessageType.TRAIN, federation.round_deadline_seconds, clock):
        arrived = clock.now()
        record = SiteRecord(node, sites[node] if sites else "", sending.bytes_down[node])
        try:
            reply_content = content_of(message)
            record = replace(record, bytes_up=content_bytes(reply_content))
            reply = accept_training(reply_content, asked, downlink.layout, losses, sites[node] if sites else None)
            visits = reply.figures.visits
            running = fold(running, reply.updates, visits, federation.aggregation, federation.max_update_norm)
        except FixedPointOverflowError:
            records.append(replace(record, rejected="fixed_point_range"))
        except RejectedReply as rejection:
            records.append(replace(record, rejected=rejection.rule))
        else:
            losses[reply.site] = reply.figures.loss_sum
            downlink.learn(node, reply.modalities)
            downlink.confirm(node, asked, model)
            if reply.head and countersigner:
                receipts[reply.site] = countersigner(reply.head)
            records.append(
                replace(
                    record,
                    site=reply.site,
                    figures=reply.figures,
                    server_seconds=clock.now() - arrived,
                    modules=tuple(reply.updates),
                    ledger=reply.head.digest if reply.head else "",
                )
            )
    is_aggregated = running.sites >= federation.min_sites
    visits = fsum(record.figures.visits for record in records)
    loss = fsum(losses.values()) / visits if visits else float("nan")
    records.sort(key=lambda r: (r.site, r.node))
    seconds = {"write": written - started}
    remembered = RoundRecord(
        number, is_aggregated, tuple(records), loss, seconds=0.0, visits=visits, stage_seconds=seconds
    )
    if not is_aggregated:
        return replace(state, receipts=receipts), remembered
    summed = clock.now()
    state = _stepped(state, federation, number, running, receipts)
    return state, replace(remembered, stage_seconds=seconds | {"step": clock.now() - summed})


def _train_securely(
    grid: MessageGrid,
    plan: RoundPlan,
    layout: ModuleLayout,
    state: FederationState,
    number: int,
    clock: Clock,
    site_of: SiteOf,
    countersigner: Countersigner | None,
    roster: SignedRoster,
) -> tuple[FederationState, RoundRecord]:
    federation = plan.federation.of_round(number)
    model = PackedModel.of(state.weights)
    asked = Instruction(plan, number, model.digest())
    content = write_instruction(asked, model, state.receipts.values())
    session = new_session(plan.digest(), "training", number, asked.model_digest)
    blocks = training_blocks(layout)
    outcome = sum_securely(grid, session, content, MessageType.TRAIN, blocks, federation, roster, clock, site_of())
    receipts = dict(state.receipts)
    for participant in outcome.participants:
        if participant.head and countersigner:
            receipts[participant.site] = countersigner(participant.head)
    trained = read_training(outcome.opened) if outcome.opened else None
    visits = trained.figures.visits if trained else 0.0
    running = running_sum(trained.changes, visits, len(outcome.arrived)) if trained else RunningSum()
    is_aggregated = bool(running.modules) and is_acceptable(running, federation)
    record = RoundRecord(
        number,
        is_aggregated,
        tuple(sorted((_site_record(p, outcome.arrived) for p in outcome.participants), key=lambda r: (r.site, r.node))),
        # Under differential privacy no loss leaves a site.
        trained.figures.loss_sum / visits if trained and visits > 0 and not federation.privacy else nan,
        seconds=0.0,
        is_secure=True,
        holders={n: c for n, c in outcome.opened.holders.items() if n in layout.parts} if outcome.opened else {},
        visits=visits,
        stage_seconds=outcome.stage_seconds,
        is_spent=outcome.is_spent and not is_aggregated,
    )
    if not is_aggregated:
        return replace(state, receipts=receipts), record
    return _stepped(state, federation, number, running, receipts), record


def _site_record(participant: Participant, arrived: Collection[str]) -> SiteRecord:
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


def _stepped(
    state: FederationState,
    federation: FederationConfig,
    number: int,
    running: RunningSum,
    receipts: Mapping[str, Receipt],
) -> FederationState:
    """The state after a round: plain and secure sums end here alike."""
    weights, moments = dict(state.weights), dict(state.moments)
    for module, change in mean_changes(running, state.weights, federation.aggregation):
        weights[module], moments[module] = server_step(
            federation, state.weights[module], change, state.moments.get(module, {})
        )
    average: Mapping[str, Tensor] = {}
    if federation.averaging_decay and not federation.is_centring(number):
        average = running_mean(state.average, weights, federation.averaging_decay)
    return FederationState(number, weights, moments, average, receipts)


def _roster(roster_of: RosterOf | None) -> SignedRoster:
    if roster_of is None:
        raise ConfigurationError("the study is secure, so the coordinator needs the federation's signed roster")
    return roster_of()


def evaluate(
    grid: MessageGrid,
    plan: RoundPlan,
    downlink: Downlink,
    state: FederationState,
    part: Part,
    clock: Clock = SYSTEM_CLOCK,
    site_of: SiteOf = lambda: None,
    roster_of: RosterOf | None = None,
) -> Evaluation:
    """Let every site evaluate the model on a part of its visits, and add up what it may tell."""
    model = PackedModel.of(state.judged, plan.federation.wire)
    asked = Instruction(plan, state.round, model.digest(), part)
    if plan.federation.secure:
        content = write_instruction(asked, model)
        session = new_session(plan.digest(), part, state.round, asked.model_digest)
        blocks = evaluation_blocks(plan.model.names)
        outcome = sum_securely(
            grid, session, content, MessageType.EVALUATE, blocks, plan.federation, _roster(roster_of), clock, site_of()
        )
        return Evaluation(
            read_evaluation(outcome.opened) if outcome.opened else {},
            outcome.arrived,
            {p.node: p.rejected for p in outcome.participants if p.rejected and p.site not in outcome.arrived},
        )
    by_site: dict[str, Mapping[str, ErrorSums]] = {}
    rejected: dict[int, str] = {}
    sites = site_of()
    sending, nodes = ModelExchange(downlink, asked, model), connected(grid, sites)
    for node, message in sending.replies(
        grid, nodes, MessageType.EVALUATE, plan.federation.round_deadline_seconds, clock
    ):
        try:
            reply = accept_evaluation(content_of(message), asked, by_site, sites[node] if sites else None)
        except RejectedReply as rejection:
            rejected[node] = rejection.rule
        else:
            by_site[reply.site] = reply.sums
            downlink.confirm(node, asked, model)
    total: dict[str, ErrorSums] = {}
    # In the order of names, not of arrival: floating-point sums depend on the order.
    for site in sorted(by_site):
        for name, sums in by_site[site].items():
            total[name] = total[name] + sums if name in total else sums
    return Evaluation(total, tuple(sorted(by_site)), rejected)
