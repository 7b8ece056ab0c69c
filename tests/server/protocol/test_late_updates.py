"""Rounds that close before every site has answered, and updates that come after that; sites take simulated time."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from permmoe.config import PrivacyConfig
from permmoe.federated.aggregation_rules import RULES, AggregationRule
from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.instructions import read_instruction
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.packed_model import PackedModel
from permmoe.federated.plan import RoundPlan
from permmoe.federated.replies import EvaluationReply, TrainReply, write_evaluation_reply, write_train_reply
from permmoe.federated.training_figures import TrainingFigures
from permmoe.federated.update import ModuleUpdate
from permmoe.model import PerMMoE
from permmoe.training.seeds import make_model
from permmoe_server.coordination.nonblocking_grid import failed
from permmoe_server.protocol.aggregation import RunningSum, fold, mean_changes
from permmoe_server.protocol.at_work import NOBODY_AT_WORK, staleness_factor
from permmoe_server.protocol.exchange import MOST_TIMES_ASKED
from permmoe_server.protocol.federation import Federation
from permmoe_server.protocol.quarantine import MOST_MALFORMED, Quarantine
from permmoe_server.protocol.round_records import FederationState, RoundRecord
from permmoe_server.protocol.rounds import run_rounds
from permmoe_server.studies.round_line import record_json
from permmoe_server.studies.study_state import load_state, save_state
from permmoe_simulation.engines.grid import FIRST_NODE
from permmoe_simulation.engines.pace import PacedGrid, PacedTime, SimulatedTime
from tests.support.tiny_federation import MODEL, tiny_plan

LAYOUT = ModuleLayout.of(PerMMoE(MODEL))
START = FederationState(0, LAYOUT.flatten_all(make_model(MODEL, seed=5).state_dict()))
VISITS = {"ant": 10.0, "bee": 30.0, "cow": 20.0, "dog": 50.0}
NAMES = tuple(VISITS)
NODES = dict(zip(NAMES, range(FIRST_NODE, FIRST_NODE + len(NAMES)), strict=True))
HEAD = "head"
SECONDS = {"ant": 10.0, "bee": 11.0, "cow": 12.0, "dog": 35.0}
"""`dog` needs three rounds and more for one of the others'."""


def change_of(name: str, number: int) -> torch.Tensor:
    """What a site that trained in this round changes of the head, on average."""
    return torch.linspace(0, 0.01 * number * (3 + VISITS[name]), LAYOUT.size(HEAD))


@dataclass
class Sites:
    """Sites that answer as they are told, and what each was asked, in order."""

    names: tuple[str, ...] = NAMES
    forge: Callable[[str, RecordDict], object] = lambda name, reply: None
    asked: list[tuple[str, str, int]] = field(default_factory=list)

    def app(self) -> ClientApp:
        app = ClientApp()

        @app.train()
        def train(message: Message, context: Context) -> Message:
            name, instruction = str(context.node_config["name"]), read_instruction(message.content)
            self.asked.append((name, "training", instruction.round))
            update = ModuleUpdate(change_of(name, instruction.round) * VISITS[name], VISITS[name])
            figures = TrainingFigures(VISITS[name], 2 * VISITS[name])
            reply = TrainReply(name, instruction.round, instruction.model_digest, {HEAD: update}, figures)
            content = write_train_reply(reply, instruction.up_wire)
            self.forge(str(context.node_config["forger"]), content)
            return Message(content, reply_to=message)

        @app.evaluate()
        def evaluate(message: Message, context: Context) -> Message:
            name, instruction = str(context.node_config["name"]), read_instruction(message.content)
            self.asked.append((name, instruction.part, instruction.round))
            reply = EvaluationReply(name, instruction.round, instruction.model_digest, {})
            return Message(write_evaluation_reply(reply), reply_to=message)

        return app


def run(
    plan: RoundPlan,
    sites: Sites | None = None,
    seconds: Mapping[str, float] = SECONDS,
    kind: type = PacedGrid,
    start: FederationState = START,
    **federation: Any,
) -> list[tuple[FederationState, RoundRecord]]:
    """All rounds after the start's. `seconds` are those of a training, by site."""
    sites, time = sites or Sites(), SimulatedTime()

    def pace(node: int, number: int) -> float:
        return seconds[NAMES[node - FIRST_NODE]]

    nodes = [{"name": name, "forger": forger} for name, forger in zip(sites.names, NAMES, strict=False)]
    grid = kind(sites.app(), nodes, paced=PacedTime(pace, time))
    return list(run_rounds(Federation(grid, time.clock(), **federation), plan, LAYOUT, start))


def plan_of(**federation: object) -> RoundPlan:
    return tiny_plan(**{"rounds": 4, "evaluate_every": 0, "round_deadline_seconds": 600.0, **federation})


def what_became(record: RoundRecord) -> dict[str, str | int | None]:
    """By site: why it was left out, or the staleness of its update."""
    by_node = {site.node: site for site in record.sites}
    assert len(by_node) == len(record.sites)
    found = {name: by_node[node] for name, node in NODES.items() if node in by_node}
    return {name: site.training.staleness if site.training else site.rejected for name, site in found.items()}


def same_weights(a: FederationState, b: FederationState) -> bool:
    return all(torch.equal(a.weights[name], b.weights[name]) for name in LAYOUT.modules)


def test_a_round_closes_once_its_share_of_the_sites_has_answered() -> None:
    [(state, record)] = run(plan_of(rounds=1, close_after=0.75))
    assert what_became(record) == {"ant": 0, "bee": 0, "cow": 0, "dog": "at_work"}
    assert 12 <= record.seconds < 13
    without, _ = run(plan_of(rounds=1), Sites(NAMES[:3]))[-1]
    assert same_weights(state, without)


def test_by_default_a_round_waits_for_the_slowest() -> None:
    [(_, record)] = run(plan_of(rounds=1))
    assert what_became(record) == dict.fromkeys(NAMES, 0) and 35 <= record.seconds < 36


def test_a_share_of_one_changes_no_bit() -> None:
    plan = plan_of(rounds=3)
    explicit = plan_of(rounds=3, close_after=1.0, max_staleness=0)
    assert plan.digest() == explicit.digest() and "close_after" not in plan.canonical_json()
    (state, record), (other, same) = run(plan)[-1], run(explicit)[-1]
    assert same_weights(state, other) and "staleness" not in record_json(record) == record_json(same)


@pytest.mark.parametrize(("share", "at_least", "expected"), [(0.25, 1, 1), (0.25, 3, 3), (0.5, 1, 2), (1.0, 2, 4)])
def test_a_round_never_closes_below_min_sites(share: float, at_least: int, expected: int) -> None:
    [(_, record)] = run(plan_of(rounds=1, close_after=share, min_sites=at_least))
    assert sum(site.training is not None for site in record.sites) == expected


def test_a_rejected_reply_does_not_close_a_round() -> None:
    def forge(name: str, reply: RecordDict) -> None:
        if name == "ant":
            reply["reply"]["model-digest"] = "0" * 64

    [(_, record)] = run(plan_of(rounds=1, close_after=0.5), Sites(forge=forge))
    assert what_became(record) == {"ant": "model_digest", "bee": 0, "cow": 0, "dog": "at_work"}


def test_a_late_reply_is_recorded_and_left_out_where_the_plan_takes_none() -> None:
    done = run(plan_of(close_after=0.75))
    assert [what_became(record)["dog"] for _, record in done] == ["at_work", "at_work", "late", "at_work"]
    without = run(plan_of(), Sites(NAMES[:3]))
    assert all(same_weights(state, other) for (state, _), (other, _) in zip(done, without, strict=True))


def test_a_late_update_counts_once_with_the_root_of_its_age() -> None:
    done = run(plan_of(close_after=0.75, max_staleness=3))
    assert [what_became(record)["dog"] for _, record in done] == ["at_work", "at_work", 2, "at_work"]
    before, after = done[1][0].weights[HEAD].double(), done[2][0].weights[HEAD].double()
    own = [VISITS[name] * change_of(name, 3).double() for name in ("ant", "bee")]
    late = VISITS["dog"] * change_of("dog", 1).double() / math.sqrt(3)
    trained = [site.site for site in done[2][1].sites if site.training]
    assert trained == ["ant", "bee", "dog"]
    assert torch.allclose(after - before, (sum(own) + late) / 90, atol=1e-6)
    assert '"staleness":2' in record_json(done[2][1])


def test_an_update_that_is_later_than_the_plan_takes_is_left_out() -> None:
    done = run(plan_of(close_after=0.75, max_staleness=1))
    assert [what_became(record)["dog"] for _, record in done][2] == "late"


def test_a_site_at_work_is_asked_nothing_else_and_the_test_waits_for_it() -> None:
    sites = Sites()
    run(plan_of(rounds=3, evaluate_every=1, close_after=0.5, max_staleness=4), sites, {**SECONDS, "dog": 100.0})
    assert [question for question in sites.asked if question[0] == "dog"] == [("dog", "test", 3)]
    assert [question for question in sites.asked if question[0] == "ant"] == [
        ("ant", purpose, number) for number in (1, 2, 3) for purpose in ("training", "validation")
    ] + [("ant", "test", 3)]


def test_a_round_that_closes_at_its_deadline_leaves_time_for_late_updates() -> None:
    plan = plan_of(rounds=3, round_deadline_seconds=20.0, max_staleness=2)
    done = run(plan)
    assert [what_became(record)["dog"] for _, record in done] == ["at_work", 1, "at_work"]
    none = run(plan_of(rounds=3, round_deadline_seconds=20.0))
    assert [what_became(record)["dog"] for _, record in none] == ["no_reply"] * 3


def test_a_site_whose_time_is_over_is_asked_again() -> None:
    never = {**SECONDS, "dog": math.inf}
    done = run(plan_of(rounds=6, close_after=0.75, round_deadline_seconds=20.0), seconds=never)
    assert [what_became(record)["dog"] for _, record in done] == ["at_work", "no_reply"] * 3
    assert [what_became(record)["cow"] for _, record in done] == [0] * 6


def test_the_centring_round_waits_for_everybody() -> None:
    done = run(plan_of(rounds=2, centring_round=True, close_after=0.5, max_staleness=2))
    assert [what_became(record)["dog"] for _, record in done] == [0, "at_work"]
    late = run(plan_of(rounds=2, centring_round=True, round_deadline_seconds=20.0, max_staleness=2))
    assert [what_became(record)["dog"] for _, record in late] == ["no_reply", "at_work"]


class RepeatingGrid(PacedGrid):
    """Delivers every reply twice, and once more in every later round."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self.seen = [*getattr(self, "seen", []), *super().pull_messages(message_ids)]
        return [*self.seen, *self.seen]


def test_a_late_update_that_arrives_again_and_again_counts_once() -> None:
    plan = plan_of(close_after=0.75, max_staleness=3)
    once, often = run(plan), run(plan, kind=RepeatingGrid)
    assert all(same_weights(state, other) for (state, _), (other, _) in zip(once, often, strict=True))


def forged_round(name: str, reply: RecordDict) -> None:
    """`ant`, who answered round 1 in time, says in round 3 that its update is of round 1."""
    if name == "ant" and reply["reply"]["round"] == 3:
        reply["reply"]["round"] = 1


def forged_digest(name: str, reply: RecordDict) -> None:
    if name == "dog":
        reply["reply"]["model-digest"] = "0" * 64


@pytest.mark.parametrize(
    ("forge", "culprit", "rule"), [(forged_round, "ant", "wrong_round"), (forged_digest, "dog", "model_digest")]
)
def test_a_late_update_is_held_against_what_its_site_was_asked(forge: Callable, culprit: str, rule: str) -> None:
    done = run(plan_of(close_after=0.75, max_staleness=3), Sites(forge=forge))
    assert what_became(done[2][1])[culprit] == rule


@pytest.mark.parametrize("seconds", [33.0, 35.0], ids=["before its fresh one", "after its fresh one"])
def test_a_second_node_of_a_site_brings_no_stale_update_of_a_round_that_the_site_answered(seconds: float) -> None:
    """The fourth node speaks for `ant` too; it goes slow in round 1, which `ant` answers in time."""
    plan, slow = plan_of(close_after=0.75, max_staleness=3), {**SECONDS, "dog": seconds}
    done = run(plan, Sites(("ant", "bee", "cow", "ant")), slow)
    assert [what_became(record)["dog"] for _, record in done] == ["at_work", "at_work", "duplicate_reply", "at_work"]
    assert [what_became(record)["ant"] for _, record in done] == [0] * 4
    without = run(plan, Sites(("ant", "bee", "cow")))
    assert same_weights(done[-1][0], without[-1][0])


def test_a_site_that_leaves_the_federation_while_it_is_at_work_brings_no_update() -> None:
    asked = 0

    def directory() -> dict[int, str]:
        nonlocal asked
        asked += 1
        return {node: name for name, node in NODES.items() if name != "dog" or asked < 3}

    done = run(plan_of(close_after=0.75, max_staleness=3), directory=directory)
    assert [what_became(record).get("dog") for _, record in done] == ["at_work", None, None, None]


def test_attack_a_site_that_is_quarantined_while_it_is_at_work_brings_no_update() -> None:
    quarantine = Quarantine()

    def forge(name: str, reply: RecordDict) -> None:
        if name == "ant" and reply["reply"]["round"] == 1:
            quarantine.malformed["dog"] = MOST_MALFORMED

    plan = plan_of(close_after=0.75, max_staleness=3)
    names = {node: name for name, node in NODES.items()}
    done = run(plan, Sites(forge=forge), quarantine=quarantine, directory=lambda: names)
    assert [what_became(record)["dog"] for _, record in done] == ["at_work", *["quarantined"] * 3]


def test_an_update_in_time_is_not_damped() -> None:
    assert staleness_factor(0) == 1.0 and staleness_factor(3) == 0.5


def test_in_a_round_that_is_tried_again_an_earlier_answer_to_it_is_in_time() -> None:
    plan = plan_of(rounds=1, min_sites=4, round_deadline_seconds=20.0, max_staleness=2)
    (_, first), (state, second) = run(plan)
    assert not first.is_aggregated and what_became(second) == dict.fromkeys(NAMES, 0)
    assert same_weights(state, run(plan_of(rounds=1))[-1][0])


Late = tuple[torch.Tensor, float, int]


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@given(
    found=st.lists(
        st.tuples(
            st.lists(st.floats(-50, 50, width=32), min_size=5, max_size=5).map(torch.tensor),
            st.floats(1, 500, width=32),
            st.integers(0, 7),
        ),
        min_size=1,
        max_size=9,
    ),
    seed=st.integers(0, 99),
)
@settings(max_examples=25)
def test_late_and_timely_updates_add_up_the_same_in_any_order(
    rule: AggregationRule, found: list[Late], seed: int
) -> None:
    def step(updates: list[Late]) -> torch.Tensor:
        running = RunningSum()
        for change, support, late in updates:
            own = {"trunk": ModuleUpdate(change * support, support)}
            fold(running, own, support, rule, damping=staleness_factor(late))
        return dict(mean_changes(running, {"trunk": torch.ones(5)}, rule))["trunk"]

    shuffled = random.Random(seed).sample(found, len(found))
    assert torch.equal(step(found), step(shuffled))
    if rule.name == "modality_fedavg":
        total = sum(support for _, support, _ in found)
        slow = sum(change.double() * support / math.sqrt(1 + late) for change, support, late in found) / total
        assert torch.allclose(step(found).double(), slow, atol=1e-4)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"close_after": 0.0}, "greater than 0"),
        ({"close_after": 1.5}, "less than or equal to 1"),
        ({"max_staleness": -1}, "greater than or equal to 0"),
        ({"secure": True, "close_after": 0.5}, "masks of a secure sum cancel only among the sites that began it"),
        ({"secure": True, "max_staleness": 1}, "masks of a secure sum cancel only among the sites that began it"),
        ({"drift_correction": True, "max_staleness": 1}, "a late update is of another"),
        (
            {
                "privacy": PrivacyConfig(noise_multiplier=1.0),
                "evaluate_every": 0,
                "centring_round": False,
                "max_staleness": 1,
            },
            "not accounted for under differential privacy",
        ),
        (
            {
                "privacy": PrivacyConfig(noise_multiplier=1.0),
                "evaluate_every": 0,
                "centring_round": False,
                "close_after": 0.75,
            },
            "a private training is spent whether or not it counts",
        ),
    ],
)
def test_a_plan_with_nonsense_is_told_why(setting: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        FederationConfig(**setting)


def read_again(plan: RoundPlan, state: FederationState, folder: Path) -> FederationState:
    """The state as a process finds it that is started in the study's folder."""
    save_state(folder, plan, LAYOUT, state)
    found = load_state(folder, plan, LAYOUT)
    assert found
    return found


def test_a_coordinator_that_is_started_again_asks_who_is_at_work_for_what_they_were_asked(tmp_path: Path) -> None:
    plan = plan_of(rounds=5, close_after=0.75, max_staleness=4)
    undisturbed = run(plan)
    for n_done in (1, 2):
        sites = Sites()
        resumed = run(plan, sites, start=read_again(plan, undisturbed[n_done - 1][0], tmp_path / str(n_done)))
        of_dog = [what_became(record)["dog"] for _, record in resumed]
        # It trains anew here, for 35 seconds: two rounds close without it.
        assert of_dog == ["at_work", "at_work", n_done + 2, "at_work"][: 5 - n_done]
        assert next(number for name, _, number in sites.asked if name == "dog") == 1


def test_a_late_update_that_is_in_the_state_is_not_counted_again_after_a_restart(tmp_path: Path) -> None:
    """`dog` answers round 1 in round 3: whatever it says later of round 1 is left out."""
    plan = plan_of(rounds=6, close_after=0.75, max_staleness=5)
    state = read_again(plan, run(plan)[2][0], tmp_path)
    dog = f"node {NODES['dog']}"
    assert dog not in state.at_work.rounds and "dog" in state.at_work.counted[1]
    forged = replace(state, at_work=replace(state.at_work, rounds={dog: 1}, seconds_left={dog: 900.0},
                     models={1: PackedModel.of(START.weights)}))  # fmt: skip
    resumed = run(plan, start=forged)
    assert [what_became(record)["dog"] for _, record in resumed] == ["at_work", "at_work", "duplicate_reply"]


def test_after_a_restart_a_site_may_be_another_node(tmp_path: Path) -> None:
    plan = plan_of(rounds=4, close_after=0.75, max_staleness=4)
    names = dict(zip(NODES.values(), NAMES, strict=True))
    state = read_again(plan, run(plan, directory=lambda: names)[0][0], tmp_path)
    assert set(state.at_work.rounds) == {"dog"}
    # As a superlink that has lost its database numbers its nodes.
    turned = ("dog", "ant", "bee", "cow")
    sites = Sites(turned)
    seconds = dict(zip(NAMES, (10.0, 11.0, 12.0, 13.0), strict=True))
    done = run(plan, sites, seconds, start=state, directory=lambda: dict(zip(NODES.values(), turned, strict=True)))
    assert next(number for name, _, number in sites.asked if name == "dog") == 1
    late = [(s.site, s.training.staleness) for _, record in done for s in record.sites if s.training]
    assert ("dog", 1) in late


def test_where_no_late_update_counts_the_state_has_nobody_at_work(tmp_path: Path) -> None:
    plan = plan_of(close_after=0.75)
    state = read_again(plan, run(plan)[0][0], tmp_path)
    assert state.at_work == NOBODY_AT_WORK
    assert "at_work" not in (tmp_path / "last" / "card.json").read_text()


class Reconnecting(PacedGrid):
    """A node's connection is lost while it trains, as often as it is told, and it is back after some seconds."""

    lose: dict[int, int]
    seconds_away: float

    def __init__(self, *arguments: Any, paced: PacedTime, **settings: Any) -> None:
        super().__init__(*arguments, paced=paced, **settings)
        self._sent: dict[str, tuple[int, float]] = {}
        self._back: dict[int, float] = {}
        self._lose = dict(self.lose)

    def get_node_ids(self) -> list[int]:
        return [node for node in super().get_node_ids() if self._time.seconds >= self._back.get(node, 0.0)]

    def _pushed(self, message: Message) -> str:
        identifier = super()._pushed(message)
        self._sent[identifier] = message.metadata.dst_node_id, self._time.seconds
        return identifier

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        names = list(message_ids)
        for name in names:
            node, sent_at = self._sent[name]
            if self._lose.get(node) and self._time.seconds >= sent_at + 1.0:
                self._lose[node] -= 1
                self._back[node] = self._time.seconds + self.seconds_away
                self._free_at[node] = 0.0
                del self._jobs[name]
                return [failed(name, ErrorCode.NODE_UNAVAILABLE)]
        return super().pull_messages(names)


def reconnecting(times: int, seconds_away: float, name: str = "ant") -> type[Reconnecting]:
    return type("Lossy", (Reconnecting,), {"lose": {NODES[name]: times}, "seconds_away": seconds_away})


def test_a_site_that_is_back_before_its_round_closes_is_asked_again_and_counts() -> None:
    sites = Sites()
    [(state, record)] = run(plan_of(rounds=1), sites, kind=reconnecting(2, 3.0))
    assert what_became(record) == dict.fromkeys(NAMES, 0)
    assert same_weights(state, run(plan_of(rounds=1))[-1][0])
    assert [name for name, _, _ in sites.asked].count("ant") == 1


def test_a_site_that_is_not_back_by_then_is_left_out_as_one_whose_connection_was_lost() -> None:
    [(_, record)] = run(plan_of(rounds=1), kind=reconnecting(1, 1000.0))
    assert what_became(record) == {**dict.fromkeys(NAMES, 0), "ant": "NODE_UNAVAILABLE"}


def test_a_site_that_is_lost_each_time_is_asked_a_few_times_and_holds_nobody_up() -> None:
    [(_, record)] = run(plan_of(rounds=1, max_staleness=0), kind=reconnecting(1000, 2.0))
    assert what_became(record)["ant"] == "NODE_UNAVAILABLE" and record.seconds < 36
    sent = {site.node: site.bytes_down for site in record.sites}
    assert sent[NODES["ant"]] == MOST_TIMES_ASKED * sent[NODES["bee"]]


def test_a_site_that_is_back_in_a_later_round_brings_what_it_was_asked_before() -> None:
    plan = plan_of(rounds=5, max_staleness=3)
    sites = Sites()
    done = run(plan, sites, {**SECONDS, "dog": 13.0}, kind=reconnecting(1, 20.0, "dog"))
    of_dog = [what_became(record).get("dog") for _, record in done]
    assert of_dog == ["at_work", "at_work", 2, 0, 0]
    assert next(number for name, _, number in sites.asked if name == "dog") == 1
