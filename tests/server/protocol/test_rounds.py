"""The protocol under honest, hostile, silent and late sites; every message goes through a real Grid."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import Array, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.server.superlink.linkstate.utils import create_message_error_unavailable_res_message

from permmoe.errors import ConfigurationError
from permmoe.evaluation.combinations import ErrorSums
from permmoe.federated.instructions import read_instruction
from permmoe.federated.module_records import PACKED
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.packed_model import PackedModel
from permmoe.federated.plan import RoundPlan
from permmoe.federated.replies import EvaluationReply, TrainReply, write_evaluation_reply, write_train_reply
from permmoe.federated.training_figures import TrainingFigures
from permmoe.federated.update import ModuleUpdate
from permmoe.model import PerMMoE
from permmoe.training.seeds import make_model
from permmoe_server.protocol.downlink import Downlink
from permmoe_server.protocol.federation import Clock, Federation, RoundObserver
from permmoe_server.protocol.plain_round import PlainRound
from permmoe_server.protocol.readiness import NoQuorum
from permmoe_server.protocol.round_records import FederationState, RoundRecord
from permmoe_server.protocol.rounds import run_rounds
from permmoe_simulation.engines.grid import FIRST_NODE, InProcessGrid
from tests.support.tiny_federation import MODEL, tiny_plan

LAYOUT = ModuleLayout.of(PerMMoE(MODEL))
START = FederationState(0, LAYOUT.flatten_all(make_model(MODEL, seed=5).state_dict()))
HEAD = LAYOUT.size("head")
HONEST = ("ant", "bee")
VISITS = {"ant": 10.0, "bee": 30.0, "cat": 20.0}
MODULES = {"ant": ("encoder/clinical", "encoder/gene", "head"), "bee": ("encoder/clinical", "head"), "cat": ("head",)}


class StillClock(Clock):
    """Time passes only while the protocol pauses."""

    def __init__(self) -> None:
        self.seconds = 0.0
        super().__init__(lambda: self.seconds, self.advance)

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def advance(self, seconds: float) -> None:
        self.seconds += max(seconds, 1.0)


def honest_training(content: RecordDict, name: str) -> RecordDict:
    """Deterministic 'training': every site moves its modules by its own, round-dependent amount."""
    instruction = read_instruction(content)
    amount = 0.01 * instruction.round * (1 + len(name) + VISITS[name])
    updates = {
        module: ModuleUpdate(torch.linspace(0, amount, LAYOUT.size(module)) * VISITS[name], VISITS[name])
        for module in MODULES[name]
    }
    figures = TrainingFigures(VISITS[name], 2 * VISITS[name], 0.25, 0.125)
    return write_train_reply(TrainReply(name, instruction.round, instruction.model_digest, updates, figures))


def honest_evaluation(content: RecordDict, name: str) -> RecordDict:
    instruction = read_instruction(content)
    sums = {"clinical": ErrorSums(7, 3.5, 2.0, 1.0, 4.0)}
    if name == "ant":
        sums["gene"], sums["clinical+gene"] = ErrorSums(6, 2.0, 2.0, 3.0, 4.0), ErrorSums(5, 1.0, 2.0, 3.0, 4.0)
    return write_evaluation_reply(EvaluationReply(name, instruction.round, instruction.model_digest, sums))


def client(
    attack: Callable[[RecordDict], object] | None = None, on_evaluation: Callable[[RecordDict], object] | None = None
) -> ClientApp:
    """Honest sites, but for the one called `cat`, which does something to its reply before sending it."""
    app = ClientApp()

    def answer(message: Message, context: Context, honest: Callable, change: Callable | None) -> Message:
        name = str(context.node_config["name"])
        reply = honest(message.content, name)
        if name == "cat" and change:
            change(reply)
        return Message(reply, reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return answer(message, context, honest_training, attack)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return answer(message, context, honest_evaluation, on_evaluation)

    return app


def grid_of(
    names: Iterable[str], app: ClientApp | None = None, kind: type[InProcessGrid] = InProcessGrid
) -> InProcessGrid:
    return kind(app or client(), [{"name": name} for name in names])


def run(
    grid: InProcessGrid, plan: RoundPlan, state: FederationState = START
) -> tuple[FederationState, list[RoundRecord]]:
    done = list(run_rounds(Federation(grid, StillClock()), plan, LAYOUT, state))
    return done[-1][0], [record for _, record in done]


def same_weights(a: FederationState, b: FederationState) -> bool:
    return all(torch.equal(a.weights[name], b.weights[name]) for name in LAYOUT.modules)


ONE_ROUND = tiny_plan(rounds=1, evaluate_every=0, round_deadline_seconds=60.0, max_update_norm=1e3, max_support=1e4)


def test_a_round_moves_each_module_by_the_mean_of_its_own_sites() -> None:
    state, [record] = run(grid_of(HONEST), ONE_ROUND)
    change = {name: (state.weights[name] - START.weights[name]).double() for name in LAYOUT.modules}
    ant, bee = (torch.linspace(0, 0.01 * (4 + VISITS[name]), HEAD).double() for name in HONEST)
    assert torch.allclose(change["head"], (10 * ant + 30 * bee) / 40, atol=1e-6)
    gene = torch.linspace(0, 0.01 * 14, LAYOUT.size("encoder/gene")).double()
    assert torch.allclose(change["encoder/gene"], gene, atol=1e-6)
    untouched = set(LAYOUT.modules) - {"head", "encoder/clinical", "encoder/gene"}
    assert all(torch.equal(state.weights[name], START.weights[name]) for name in untouched)
    assert record.is_aggregated and record.training.loss == 2.0


def test_a_record_says_what_each_site_did() -> None:
    _, [record] = run(grid_of(HONEST), ONE_ROUND)
    ant, bee = record.sites
    assert (ant.site, ant.node, ant.training.modules, ant.training.figures.visits, ant.rejected) == (
        "ant",
        FIRST_NODE,
        MODULES["ant"],
        10.0,
        None,
    )
    assert ant.training.figures.train_seconds == 0.25 and ant.training.figures.overhead_seconds >= 0.125
    assert ant.bytes_down == bee.bytes_down > 4 * sum(map(LAYOUT.size, LAYOUT.modules))
    assert ant.bytes_up > bee.bytes_up > 4 * (HEAD + LAYOUT.size("encoder/clinical"))


def put(record: str, **values: object) -> Callable[[RecordDict], object]:
    return lambda content: content[record].update(values)


def head(values: torch.Tensor) -> Callable[[RecordDict], object]:
    """In place of the head, which comes last."""

    def put_head(content: RecordDict) -> None:
        sent = content["update"][PACKED].numpy()
        content["update"][PACKED] = Array(np.concatenate([sent[: -4 * HEAD], values.numpy().view(np.uint8)]))

    return put_head


def nothing(content: RecordDict) -> None:
    content["update"][PACKED] = Array(np.zeros(0, np.uint8))
    content["support"].clear()


def numbers_in_place_of_bytes(content: RecordDict) -> None:
    content["update"][PACKED] = Array(content["update"][PACKED].numpy().view("f4"))


def one_bad(value: float) -> torch.Tensor:
    return torch.zeros(HEAD).index_fill(0, torch.tensor([HEAD // 2]), value)


HARMLESS = {
    "an empty list": put("reply", note=[]),
    "an empty text": put("reply", note=""),
    "an empty list of numbers": put("figures", note=[]),
}
ATTACKS: dict[str, tuple[Callable[[RecordDict], object], str]] = {
    "NaN": (head(one_bad(float("nan"))), "not_finite"),
    "infinity": (head(one_bad(float("inf"))), "not_finite"),
    "wrong shape": (head(torch.zeros(HEAD + 1)), "shape"),
    "wrong dtype": (numbers_in_place_of_bytes, "dtype"),
    "double precision": (head(torch.zeros(HEAD, dtype=torch.float64)), "shape"),
    "a modality that the study does not have": (put("reply", modalities=["xray"]), "unknown_modality"),
    "a number as modalities": (put("reply", modalities=3), "modalities"),
    "unknown module": (put("support", backdoor=3.0), "unknown_module"),
    "missing support": (lambda c: c["support"].pop("head"), "shape"),
    "negative support": (put("support", head=-1.0), "support_range"),
    "zero support": (put("support", head=0.0), "support_range"),
    "NaN support": (put("support", head=float("nan")), "support_range"),
    "huge support": (put("support", head=1e4 + 1), "support_range"),
    "huge norm": (head(one_bad(20 * 1001.0)), "norm"),
    "huge norm by a tiny support": (put("support", head=1e-6), "norm"),
    "largest float": (head(one_bad(3e38)), "norm"),
    "no visits": (put("figures", visits=0.0), "visits"),
    "a loss that no sum can hold": (put("figures", loss_sum=1.7e308), "not_finite"),
    "NaN loss": (put("figures", loss_sum=float("nan")), "not_finite"),
    "negative time": (put("figures", train_seconds=-1.0), "not_finite"),
    "another round": (put("reply", round=2), "wrong_round"),
    "another model": (lambda c: c["reply"].update({"model-digest": "0" * 64}), "model_digest"),
    "another site's name": (put("reply", site="ant"), "duplicate_reply"),
    "a name with a path": (put("reply", site="../ant"), "site_name"),
    "no module": (nothing, "empty"),
    "no content": (lambda c: c.clear(), "missing_reply"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_bad_reply_is_rejected_alone_and_the_rule_is_recorded(attack: str) -> None:
    break_it, rule = ATTACKS[attack]
    expected, _ = run(grid_of(HONEST), ONE_ROUND)
    state, [record] = run(grid_of([*HONEST, "cat"], client(break_it)), ONE_ROUND)
    assert {r.node: r.rejected for r in record.sites} == {FIRST_NODE: None, FIRST_NODE + 1: None, FIRST_NODE + 2: rule}
    assert same_weights(state, expected)


@pytest.mark.parametrize("surplus", HARMLESS)
def test_surplus_content_of_a_reply_is_passed_over(surplus: str) -> None:
    _, [record] = run(grid_of([*HONEST, "cat"], client(HARMLESS[surplus])), ONE_ROUND)
    assert [r.rejected for r in record.sites] == [None] * 3


def test_the_attacked_site_would_have_counted_had_it_been_honest() -> None:
    expected, _ = run(grid_of(HONEST), ONE_ROUND)
    state, [record] = run(grid_of([*HONEST, "cat"]), ONE_ROUND)
    assert [r.rejected for r in record.sites] == [None] * 3 and not same_weights(state, expected)


def test_a_reply_that_would_overflow_the_sum_is_rejected_alone() -> None:
    plan = tiny_plan(rounds=1, evaluate_every=0, max_update_norm=1e9, max_support=1e9)
    expected, _ = run(grid_of(HONEST), plan)
    state, [record] = run(grid_of([*HONEST, "cat"], client(head(one_bad(2.0**31)))), plan)
    assert [r.rejected for r in record.sites if r.rejected] == ["fixed_point_range"] and same_weights(state, expected)


def test_the_order_of_sites_changes_no_bit() -> None:
    plan = tiny_plan(rounds=3, server_optimiser="fedadam", server_learning_rate=0.1)
    names = ["ant", "bee", "cat"]
    once, first = run(grid_of(names), plan)
    again, second = run(grid_of(reversed(names)), plan)
    assert same_weights(once, again)
    assert [r.training.loss for r in first] == [r.training.loss for r in second]
    assert [r.validation.sums for r in first] == [r.validation.sums for r in second]


class RepeatingGrid(InProcessGrid):
    """Delivers every reply twice."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [reply for reply in super().pull_messages(message_ids) for _ in range(2)]


def test_a_reply_that_arrives_twice_counts_once() -> None:
    expected, _ = run(grid_of(HONEST), ONE_ROUND)
    state, [record] = run(grid_of(HONEST, kind=RepeatingGrid), ONE_ROUND)
    assert same_weights(state, expected)
    assert [r.rejected for r in record.sites] == [None, None]


class LossyGrid(InProcessGrid):
    """Never delivers the replies of the last node."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        lost = max(self.get_node_ids())
        return [reply for reply in super().pull_messages(message_ids) if reply.metadata.src_node_id != lost]


def test_a_silent_site_is_left_out_at_the_deadline() -> None:
    expected, _ = run(grid_of(HONEST), ONE_ROUND)
    state, [record] = run(grid_of([*HONEST, "cat"], kind=LossyGrid), ONE_ROUND)
    assert [(r.node, r.rejected) for r in record.sites if r.rejected] == [(FIRST_NODE + 2, "no_reply")]
    assert same_weights(state, expected)
    assert 60 <= record.seconds < 65


class LostNodeGrid(InProcessGrid):
    """Answers for the last node as Flower does once a node is lost: an error whose sender is the coordinator."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        lost = max(self.get_node_ids())
        return [
            create_message_error_unavailable_res_message(self._asked(reply), "node_unavail")
            if reply.metadata.src_node_id == lost
            else reply
            for reply in super().pull_messages(message_ids)
        ]

    def _asked(self, reply: Message) -> object:
        metadata = reply.metadata
        metadata.__dict__["_message_id"] = metadata.reply_to_message_id
        return metadata


def test_a_lost_node_is_known_by_the_message_that_it_did_not_answer() -> None:
    _, [record] = run(grid_of([*HONEST, "cat"], kind=LostNodeGrid), ONE_ROUND)
    assert [(r.node, r.rejected) for r in record.sites if r.rejected] == [(FIRST_NODE + 2, "NODE_UNAVAILABLE")]


def test_an_exceptions_text_is_not_kept() -> None:
    def fail(content: RecordDict) -> None:
        raise RuntimeError("cannot read /data/phi/patient-12345.nii")

    _, [record] = run(grid_of([*HONEST, "cat"], client(fail)), ONE_ROUND)
    assert [r.rejected for r in record.sites if r.rejected] == ["CLIENT_APP_RAISED_EXCEPTION"]
    assert "12345" not in repr(record)


def tries(
    grid: InProcessGrid, plan: RoundPlan, clock: Clock | None = None
) -> tuple[FederationState, list[RoundRecord]]:
    """Until too many rounds in a row have failed."""
    done: list[tuple[FederationState, RoundRecord]] = []
    with pytest.raises(NoQuorum):
        for state, record in run_rounds(Federation(grid, clock or StillClock()), plan, LAYOUT, START):
            done.append((state, record))
    return done[-1][0], [record for _, record in done]


def test_below_the_quorum_nothing_changes_and_the_same_round_is_tried_again() -> None:
    plan = tiny_plan(rounds=2, min_sites=3, evaluate_every=1, server_optimiser="fedavgm", max_failed_rounds=3)
    state, records = tries(grid_of([*HONEST, "cat"], client(ATTACKS["NaN"][0])), plan)
    assert [(r.round, r.is_aggregated) for r in records] == [(1, False)] * 3 and state.round == 0
    assert same_weights(state, START) and not state.moments and all(r.validation is None for r in records)


def test_a_round_that_failed_once_counts_once_it_succeeds() -> None:
    calls: list[str] = []

    def broken_at_first(content: RecordDict) -> None:
        calls.append("cat")
        if len(calls) < 3:
            ATTACKS["NaN"][0](content)

    plan = tiny_plan(rounds=2, min_sites=3, evaluate_every=0)
    names = [*HONEST, "cat"]
    state, records = run(grid_of(names, client(broken_at_first)), plan)
    assert [(r.round, r.is_aggregated) for r in records] == [(1, False), (1, False), (1, True), (2, True)]
    assert same_weights(state, run(grid_of(names), plan)[0])


def test_with_every_reply_rejected_the_model_stays() -> None:
    state, [record, *_] = tries(grid_of(["cat"], client(ATTACKS["NaN"][0])), ONE_ROUND)
    assert not record.is_aggregated and same_weights(state, START) and record.training.loss != record.training.loss


def test_without_any_site_a_round_ends_at_its_deadline_and_the_wait_is_not_counted_as_its_time() -> None:
    clock = StillClock()
    state, records = tries(grid_of([]), ONE_ROUND, clock)
    assert not any(record.is_aggregated for record in records) and same_weights(state, START)
    assert clock.seconds >= 60 * len(records) and all(record.seconds < 5 for record in records)


class GrowingGrid(InProcessGrid):
    """The last node is connected from the second round on."""

    rounds = 0

    def get_node_ids(self) -> Iterable[int]:
        nodes = list(super().get_node_ids())
        return nodes if self.rounds else nodes[:-1]


def test_a_site_may_join_between_rounds() -> None:
    grid, present = grid_of([*HONEST, "cat"], kind=GrowingGrid), []
    for _, record in run_rounds(Federation(grid), tiny_plan(rounds=2, evaluate_every=0), LAYOUT, START):
        present.append([r.site for r in record.sites])
        grid.rounds += 1
    assert present == [["ant", "bee"], ["ant", "bee", "cat"]]


@pytest.mark.parametrize("optimiser", ["fedavg", "fedavgm", "fedadam"])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_resumed_study_ends_with_the_same_weights(optimiser: str, stop: int) -> None:
    plan = tiny_plan(rounds=4, evaluate_every=0, server_optimiser=optimiser, server_learning_rate=0.5)
    whole, _ = run(grid_of(HONEST), plan)
    part, _ = run(grid_of(HONEST), tiny_plan(**plan.federation.model_dump() | {"rounds": stop}))
    resumed, records = run(grid_of(HONEST), plan, part)
    assert same_weights(resumed, whole) and [r.round for r in records] == list(range(stop + 1, 5))


@pytest.mark.parametrize("centring_round", [True, False])
def test_the_running_mean_weights_a_round_by_the_decay_to_the_power_of_its_age(centring_round: bool) -> None:
    plan = tiny_plan(rounds=4, averaging_decay=0.75, evaluate_every=0, centring_round=centring_round)
    states = [state for state, _ in run_rounds(Federation(grid_of(HONEST)), plan, LAYOUT, START)]
    trained = states[1:] if centring_round else states
    for module in START.weights:
        oldest, *later = (state.weights[module].double() for state in trained)
        ages = range(len(later))
        expected = 0.75 ** len(later) * oldest + sum(0.25 * 0.75**age * later[-1 - age] for age in ages)
        assert torch.allclose(states[-1].evaluated_weights[module].double(), expected, atol=1e-6)
    if centring_round:
        assert states[0].evaluated_weights is states[0].weights


def test_sites_evaluate_the_running_mean_and_train_from_the_newest_weights() -> None:
    seen: dict[str, list[str]] = {"train": [], "evaluate": []}
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        seen["train"].append(read_instruction(message.content).model_digest)
        return Message(honest_training(message.content, str(context.node_config["name"])), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        seen["evaluate"].append(read_instruction(message.content).model_digest)
        return Message(honest_evaluation(message.content, str(context.node_config["name"])), reply_to=message)

    plan = tiny_plan(rounds=3, averaging_decay=0.5, centring_round=False)
    states = [state for state, _ in run_rounds(Federation(InProcessGrid(app, [{"name": "ant"}])), plan, LAYOUT, START)]
    newest = [PackedModel.of(state.weights).digest() for state in states]
    mean = [PackedModel.of(state.evaluated_weights).digest() for state in states]
    assert seen["train"] == [PackedModel.of(START.weights).digest(), *newest[:-1]]
    assert seen["evaluate"] == [*mean, mean[-1]] and newest[1:] != mean[1:]


def test_moments_of_a_module_that_nobody_trained_stay() -> None:
    plan = tiny_plan(rounds=1, evaluate_every=0, server_optimiser="fedadam")
    before, _ = run(grid_of(["ant"]), plan)
    after, _ = run(grid_of(["bee"]), tiny_plan(**plan.federation.model_dump() | {"rounds": 2}), before)
    for name in ("first", "second"):
        assert torch.equal(after.moments["encoder/gene"][name], before.moments["encoder/gene"][name])
        assert not torch.equal(after.moments["head"][name], before.moments["head"][name])
    assert torch.equal(after.weights["encoder/gene"], before.weights["encoder/gene"])


def test_a_centring_round_is_averaged_plainly_whatever_the_study_compares() -> None:
    plain, _ = run(grid_of(HONEST), ONE_ROUND)
    other = {"aggregation": "zero_fill", "server_optimiser": "fedadam", "server_learning_rate": 0.1}
    centred, _ = run(grid_of(HONEST), tiny_plan(rounds=1, evaluate_every=0, centring_round=True, **other))
    stepped, _ = run(grid_of(HONEST), tiny_plan(rounds=1, evaluate_every=0, **other))
    assert same_weights(centred, plain) and not same_weights(stepped, plain)


def test_evaluation_adds_sums_over_sites() -> None:
    _, records = run(grid_of(HONEST), tiny_plan(rounds=5, evaluate_every=2))
    assert [r.validation is not None for r in records] == [False, True, False, True, False]
    assert [r.test is not None for r in records] == [False] * 4 + [True]
    evaluation = records[-1].test
    assert evaluation.sites == HONEST and not evaluation.rejected
    assert evaluation.sums["clinical"] == ErrorSums(14, 7.0, 4.0, 2.0, 8.0)
    assert evaluation.sums["clinical+gene"].n == 5


@pytest.mark.parametrize(
    ("sums", "rule"),
    [
        ({"clinical": [4.0, 1.0, 1.0, 1.0, 1.0]}, "min_cell_count"),
        ({"clinical": [7.0, float("nan"), 1.0, 1.0, 1.0]}, "not_finite"),
        ({"clinical": [7.0, -1.0, 1.0, 1.0, 1.0]}, "negative_sum"),
        ({"patient-12345": [7.0, 1.0, 1.0, 1.0, 1.0]}, "unknown_combination"),
        ({"clinical": [7.0, 1.0]}, "sums"),
        ({"clinical": [7.0, 1.7e308, 1.7e308, 1.0, 4.0]}, "sums_range"),
        ({"clinical": [7.0, 3.5, 2.0, 1e6, 1e12]}, "sums_range"),
        ({"clinical": [1e15, 0.0, 0.0, 0.0, 0.0]}, "evaluated_visits"),
        ({"clinical+gene": [7.0, 3.5, 2.0, 1.0, 4.0]}, "sums_nested"),
    ],
)
def test_a_bad_evaluation_is_rejected_alone(sums: dict[str, list[float]], rule: str) -> None:
    app = client(on_evaluation=lambda content: content.update({"sums": MetricRecord(sums)}))
    plan = tiny_plan(min_cell_count=5)
    federation = Federation(grid_of([*HONEST, "cat"], app), StillClock())
    evaluation = PlainRound(federation, plan, Downlink(LAYOUT)).evaluate(replace(START, round=1), "validation").record
    assert evaluation.rejected == {FIRST_NODE + 2: rule} and evaluation.sums["clinical"].n == 14


@pytest.mark.parametrize(("claimed", "rule"), [(40.0, None), (41.0, "evaluated_visits"), (1e6, "evaluated_visits")])
def test_a_site_counts_in_an_evaluation_for_no_more_than_it_said_that_it_trained_on(
    claimed: float, rule: str | None
) -> None:
    app = client(on_evaluation=lambda c: c.update({"sums": MetricRecord({"clinical": [claimed, 0.0, 0.0, 0.0, 0.0]})}))
    _, [record] = run(grid_of([*HONEST, "cat"], app), tiny_plan(rounds=1))
    assert VISITS["cat"] == 20 and record.validation.rejected.get(FIRST_NODE + 2) == rule


def test_sums_that_would_be_infinite_together_are_refused_where_the_outcome_has_no_range() -> None:
    largest = [7.0, 1.2e308, 1e154, 0.0, 0.0]
    plan = tiny_plan(rounds=1)
    plan = plan.model_copy(update={"model": plan.model.model_copy(update={"outcome_range": None})})
    app = client(on_evaluation=lambda content: content.update({"sums": MetricRecord({"clinical": largest})}))
    _, [record] = run(grid_of(["cat"], app), plan)
    assert not record.validation.rejected
    federation = ClientApp()
    federation.evaluate()(lambda message, context: _largest(message, context, largest))
    federation.train()(lambda message, context: client()(message, context))
    _, [record] = run(grid_of(HONEST, federation), plan)
    assert list(record.validation.rejected.values()) == ["not_finite"]
    assert np.isfinite(record.validation.sums["clinical"].squared)


def _largest(message: Message, context: Context, values: list[float]) -> Message:
    content = honest_evaluation(message.content, str(context.node_config["name"]))
    content["sums"] = MetricRecord({"clinical": values})
    return Message(content, reply_to=message)


def test_an_observer_sees_the_beginning_and_the_end_of_every_try() -> None:
    seen: list[tuple[int, str]] = []
    observer = RoundObserver(
        on_round_start=lambda number: seen.append((number, "begins")),
        on_round=lambda state, record: seen.append((state.round, f"aggregated: {record.is_aggregated}")),
    )
    calls: list[str] = []

    def broken_at_first(content: RecordDict) -> None:
        calls.append("cat")
        if len(calls) < 2:
            ATTACKS["NaN"][0](content)

    plan = tiny_plan(rounds=2, min_sites=3, evaluate_every=0)
    federation = Federation(grid_of([*HONEST, "cat"], client(broken_at_first)), StillClock(), observer=observer)
    yielded = [(state.round, record.is_aggregated) for state, record in run_rounds(federation, plan, LAYOUT, START)]
    assert yielded == [(0, False), (1, True), (2, True)]
    assert seen == [
        (1, "begins"), (0, "aggregated: False"), (1, "begins"), (1, "aggregated: True"), (2, "begins"),
        (2, "aggregated: True"),
    ]  # fmt: skip


def test_a_secure_study_without_a_roster_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="signed roster"):
        next(run_rounds(Federation(grid_of(HONEST)), tiny_plan(secure=True, min_sites=3), LAYOUT, START))


def test_a_reply_in_another_sites_name_is_rejected_and_the_owner_counts() -> None:
    names = {FIRST_NODE: "ant", FIRST_NODE + 1: "bee", FIRST_NODE + 2: "cat"}
    grid = grid_of(("ant", "bee", "cat"), client(put("reply", site="ant")))
    [(_, record)] = run_rounds(Federation(grid, StillClock(), lambda: names), ONE_ROUND, LAYOUT, START)
    assert {site.site: site.rejected for site in record.sites} == {"ant": None, "bee": None, "cat": "wrong_site"}


def test_a_node_that_is_no_site_is_not_asked() -> None:
    names = {FIRST_NODE: "ant", FIRST_NODE + 1: "bee"}
    [(_, record)] = run_rounds(
        Federation(grid_of(("ant", "bee", "cat")), StillClock(), lambda: names), ONE_ROUND, LAYOUT, START
    )
    assert [site.site for site in record.sites] == ["ant", "bee"]
