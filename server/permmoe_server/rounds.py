"""The protocol of a federated study, round by round, as straight code over Flower's Grid.

1. Send every connected site the plan, the round's number, the model and its digest.
2. Fold each reply into the running sum as it arrives; a reply that breaks a rule is rejected alone.
3. With replies of `min_sites` sites or more: divide, and let the server optimiser step, module by module.
4. Every `evaluate_every` rounds: send the new model, add up the sums that sites return.

Every wait is bounded by `round_deadline_seconds`: a site that is late or gone is left out and joins a later round. A
round with too few replies is tried again, so that a study's rounds are all rounds that trained.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import fsum
from typing import Protocol, runtime_checkable

from flwr.app import Error, Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode
from torch import Tensor

from permmoe.config import FederationConfig
from permmoe.errors import PermmoeError
from permmoe.evaluation import ErrorSums
from permmoe.federated.audit import Head, Receipt
from permmoe.federated.fixed_point import FixedPointOverflowError
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.plan import RoundPlan
from permmoe.federated.records import (
    Instruction,
    Part,
    content_bytes,
    model_digest,
    write_instruction,
    write_modules,
)
from permmoe_server.acceptance import RejectedReply, accept_evaluation, accept_training
from permmoe_server.aggregation import RunningSum, fold, mean_changes
from permmoe_server.optimisers import Moments, server_step

POLL_SECONDS = 0.1
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 5.0, 60.0
"""Pauses after tries at a round that too few sites answered; each is twice the one before."""
PULL_AT_ONCE = 8
"""Replies that are in memory together, at most."""


class NoQuorum(PermmoeError):  # noqa: N818 - says what there was none of
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


@dataclass(frozen=True)
class SiteRecord:
    """What one node did in a round."""

    node: int
    site: str = ""
    """Empty where nobody says which site a node is, and no reply was accepted."""
    bytes_down: int = 0
    bytes_up: int = 0
    visits: float = 0.0
    train_seconds: float = 0.0
    overhead_seconds: float = 0.0
    """The site's time outside training and ours for checking and folding; waiting and transport are in neither."""
    modules: tuple[str, ...] = ()
    ledger: str = ""
    """SHA-256 of the newest entry of the site's ledger: the coordinator's half of the evidence."""
    rejected: str | None = None
    """The rule that its reply broke, `no_reply`, or the type of the error that it had."""


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


@runtime_checkable
class MessageGrid(Protocol):
    """What the protocol needs of Flower's Grid."""

    def get_node_ids(self) -> Iterable[int]:
        """Nodes that are connected."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send; the identifiers of the messages."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to these messages that are there now; it must not wait for any."""


@dataclass(frozen=True)
class Clock:
    """Time as the protocol sees it: monotonic seconds, and a pause of so many."""

    now: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep


SiteOf = Callable[[], Mapping[int, str] | None]
"""Which node is which site, as it is now; None where nobody says, and a reply's own word is taken for it."""

Countersigner = Callable[[Head], Receipt]
"""Gives a receipt for the newest entry of a site's ledger."""


def run_rounds(
    grid: MessageGrid,
    plan: RoundPlan,
    layout: ModuleLayout,
    state: FederationState,
    clock: Clock = Clock(),
    site_of: SiteOf = lambda: None,
    countersigner: Countersigner | None = None,
) -> Iterator[tuple[FederationState, RoundRecord]]:
    """Run the rounds that `state` has not done yet, yielding the state and the record after each try at one.

    A round that too few sites answered is tried again, after a pause; the state is then as before. Raises NoQuorum
    after `max_failed_rounds` such tries in a row.
    """
    federation = plan.federation
    failed_in_a_row = 0
    while state.round < federation.rounds:
        number, started = state.round + 1, clock.now()
        _wait_for_sites(grid, federation.min_sites, federation.round_deadline_seconds, clock, site_of)
        state, record = _train(grid, plan, layout, state, number, clock, site_of, countersigner)
        if not record.is_aggregated:
            yield state, replace(record, seconds=clock.now() - started)
            failed_in_a_row += 1
            if failed_in_a_row >= federation.max_failed_rounds:
                raise NoQuorum(
                    f"round {number} was tried {failed_in_a_row} times and had usable replies of fewer than "
                    f"{federation.min_sites} sites; the rounds' record says why the others were left out"
                )
            clock.pause(min(FIRST_RETRY_SECONDS * 2.0 ** (failed_in_a_row - 1), LAST_RETRY_SECONDS))
            continue
        failed_in_a_row = 0
        if federation.evaluate_every and number % federation.evaluate_every == 0:
            record = replace(record, validation=evaluate(grid, plan, state, "validation", clock, site_of))
        if federation.evaluate_every and number == federation.rounds:
            record = replace(record, test=evaluate(grid, plan, state, "test", clock, site_of))
        yield state, replace(record, seconds=clock.now() - started)


def _train(
    grid: MessageGrid,
    plan: RoundPlan,
    layout: ModuleLayout,
    state: FederationState,
    number: int,
    clock: Clock,
    site_of: SiteOf,
    countersigner: Countersigner | None,
) -> tuple[FederationState, RoundRecord]:
    federation = plan.federation.of_round(number)
    asked = Instruction(plan, number, model_digest(state.weights))
    content = write_instruction(asked, write_modules(state.weights), state.receipts.values())
    bytes_down = content_bytes(content)
    running, losses, records = RunningSum(), dict[str, float](), list[SiteRecord]()
    receipts = dict(state.receipts)
    sites = site_of()
    for node, message in _exchange(grid, content, MessageType.TRAIN, asked, clock, sites):
        arrived = clock.now()
        record = SiteRecord(node, sites[node] if sites else "", bytes_down)
        try:
            reply_content = _content(message)
            record = replace(record, bytes_up=content_bytes(reply_content))
            reply = accept_training(reply_content, asked, layout, losses, sites[node] if sites else None)
            running = fold(running, reply.updates, reply.visits, federation.aggregation)
        except FixedPointOverflowError:
            records.append(replace(record, rejected="fixed_point_range"))
        except RejectedReply as rejection:
            records.append(replace(record, rejected=rejection.rule))
        else:
            losses[reply.site] = reply.loss_sum
            if reply.head and countersigner:
                receipts[reply.site] = countersigner(reply.head)
            records.append(
                replace(
                    record,
                    site=reply.site,
                    visits=reply.visits,
                    train_seconds=reply.train_seconds,
                    overhead_seconds=reply.overhead_seconds + clock.now() - arrived,
                    modules=tuple(reply.updates),
                    ledger=reply.head.digest if reply.head else "",
                )
            )
    is_aggregated = running.sites >= federation.min_sites
    visits = fsum(record.visits for record in records)
    loss = fsum(losses.values()) / visits if visits else float("nan")
    records.sort(key=lambda r: (r.site, r.node))
    if not is_aggregated:
        return replace(state, receipts=receipts), RoundRecord(number, False, tuple(records), loss, seconds=0.0)
    weights, moments = dict(state.weights), dict(state.moments)
    for module, change in mean_changes(running, state.weights, federation.aggregation):
        weights[module], moments[module] = server_step(
            federation, state.weights[module], change, state.moments.get(module, {})
        )
    return (
        FederationState(number, weights, moments, running_mean(state.average, weights, federation, number), receipts),
        RoundRecord(number, True, tuple(records), loss, seconds=0.0),
    )


def running_mean(
    average: Mapping[str, Tensor], weights: Mapping[str, Tensor], federation: FederationConfig, number: int
) -> dict[str, Tensor]:
    """Exponential mean of the weights over rounds (Polyak and Juditsky 1992), begun in the first round that trains.

    Sites train from the newest weights; the mean is steadier, because what one round's few visits added cancels out.
    """
    decay = federation.averaging_decay
    if not decay or federation.is_centring(number):
        return {}
    return {
        module: average[module].lerp(newest, 1 - decay) if module in average else newest.clone()
        for module, newest in weights.items()
    }


def evaluate(
    grid: MessageGrid,
    plan: RoundPlan,
    state: FederationState,
    part: Part,
    clock: Clock = Clock(),
    site_of: SiteOf = lambda: None,
) -> Evaluation:
    """Let every site evaluate the model on a part of its visits, and add up what it may tell."""
    asked = Instruction(plan, state.round, model_digest(state.judged), part)
    content = write_instruction(asked, write_modules(state.judged))
    by_site: dict[str, Mapping[str, ErrorSums]] = {}
    rejected: dict[int, str] = {}
    sites = site_of()
    for node, message in _exchange(grid, content, MessageType.EVALUATE, asked, clock, sites):
        try:
            reply = accept_evaluation(_content(message), asked, by_site, sites[node] if sites else None)
        except RejectedReply as rejection:
            rejected[node] = rejection.rule
        else:
            by_site[reply.site] = reply.sums
    total: dict[str, ErrorSums] = {}
    # In the order of names, not of arrival: floating-point sums depend on the order.
    for site in sorted(by_site):
        for name, sums in by_site[site].items():
            total[name] = total[name] + sums if name in total else sums
    return Evaluation(total, tuple(sorted(by_site)), rejected)


def _exchange(
    grid: MessageGrid,
    content: RecordDict,
    message_type: str,
    asked: Instruction,
    clock: Clock,
    sites: Mapping[int, str] | None,
) -> Iterator[tuple[int, Message | None]]:
    """Send the content to every connected node that is a site, and yield (node, reply) in the order of arrival.

    A node that is silent until the deadline comes last, with None. Replies are matched by the message that they answer:
    the error that Flower makes for a lost node names the coordinator as its sender.
    """
    deadline_seconds = asked.plan.federation.round_deadline_seconds
    deadline = clock.now() + deadline_seconds
    nodes: dict[str, int] = {}
    unsent: list[int] = []
    for node in _connected(grid, sites):
        message = Message(content, node, message_type, ttl=deadline_seconds, group_id=str(asked.round))
        # One at a time: where a message cannot be stored, some grids return None for it and some nothing.
        identifiers = [identifier for identifier in grid.push_messages([message]) if identifier]
        nodes |= dict.fromkeys(identifiers, node)
        unsent += [] if identifiers else [node]
    waiting = dict(nodes)
    while waiting and clock.now() < deadline:
        n_waiting = len(waiting)
        for identifiers in _slices(list(waiting), PULL_AT_ONCE):
            for reply in grid.pull_messages(identifiers):
                answered = reply.metadata.reply_to_message_id
                if answered in nodes:
                    waiting.pop(answered, None)
                    yield nodes[answered], reply
        if len(waiting) == n_waiting:
            clock.pause(POLL_SECONDS)
    for node in sorted([*unsent, *waiting.values()]):
        yield node, None


def _content(message: Message | None) -> RecordDict:
    """A reply's content. Raises RejectedReply for silence or an error, of which only the type is kept."""
    if message is None:
        raise RejectedReply("no_reply")
    if message.has_error():
        raise RejectedReply(_error_type(message.error))
    return message.content


def _error_type(error: Error) -> str:
    """The name of the exception where the site sent just that, else Flower's name of the error's code.

    An error's text may name a patient or a path; whatever is not a single word is dropped unread.
    """
    reason = error.reason or ""
    if reason.isidentifier() and len(reason) <= 64:
        return reason
    names = {code: name for name, code in vars(ErrorCode).items() if isinstance(code, int)}
    return names.get(error.code, "UNKNOWN")


def _wait_for_sites(grid: MessageGrid, min_sites: int, deadline_seconds: float, clock: Clock, site_of: SiteOf) -> None:
    """Return once enough sites are connected, or at the deadline: the round then fails by its quorum."""
    deadline = clock.now() + deadline_seconds
    while len(_connected(grid, site_of())) < min_sites and clock.now() < deadline:
        clock.pause(POLL_SECONDS)


def _connected(grid: MessageGrid, sites: Mapping[int, str] | None) -> list[int]:
    return [node for node in grid.get_node_ids() if sites is None or node in sites]


def _slices(items: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
