"""Only what a site can use and does not hold travels to it, and the federation ends with the same bits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from permmoe.data.batch import Batch
from permmoe.federated.instructions import Instruction, ModulesMissing
from permmoe.federated.module_records import PACKED
from permmoe.federated.modules import ModuleLayout, reachable_modules
from permmoe.federated.packed_model import PackedModel
from permmoe.federated.plan import RoundPlan
from permmoe.federated.replies import TrainReply, write_train_reply
from permmoe.federated.training_figures import TrainingFigures
from permmoe.federated.update import ModuleUpdate
from permmoe.federated.wire import packed_size
from permmoe.modality import all_combinations
from permmoe.model import PerMMoE
from permmoe.runtime.checkpoint import load_checkpoint
from permmoe_client.app import app as client_app
from permmoe_client.participation.held_model import HeldModel, held_model, hold_model
from permmoe_client.participation.study_memory import recall
from permmoe_client.site import read_site
from permmoe_server.app import app as server_app
from permmoe_server.protocol.acceptance import RejectedReply, accept_training
from permmoe_server.protocol.downlink import Downlink
from permmoe_server.protocol.federation import Federation
from permmoe_server.protocol.round_records import FederationState, RoundRecord
from permmoe_server.protocol.rounds import run_rounds
from permmoe_simulation.engines.grid import FIRST_NODE, InProcessGrid, run_in_process
from tests.support.tiny_federation import MODEL, SITES, approve, tiny_plan, write_site

LAYOUT = ModuleLayout.of(PerMMoE(MODEL))
WHOLE = sum(packed_size(LAYOUT.size(m), "fp32") for m in LAYOUT.modules)
NODES = dict(zip(SITES, range(FIRST_NODE, FIRST_NODE + len(SITES)), strict=True))


def federated(folder: Path, plan: RoundPlan, app: ClientApp = client_app) -> tuple[Mapping[str, torch.Tensor], list]:
    """The final weights, and the rounds' records."""
    folder.mkdir()
    (folder / "plan.json").write_text(plan.canonical_json())
    out = folder / "server"
    sites = [approve(write_site(folder, name, state=f"state-{name}"), plan) for name in SITES]
    nodes = [{"site-config": str(path)} for path in sites]
    run_config = {"plan": str(folder / "plan.json"), "out": str(out)}
    run_in_process(server_app, app, nodes, run_config, is_serialised=True)
    weights, _ = load_checkpoint(out / "last")
    return weights, [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]


def down(records: list) -> dict[str, list[int]]:
    """Bytes sent to each site to train, round by round."""
    return {name: [s["bytes_down"] for r in records for s in r["sites"] if s["site"] == name] for name in SITES}


def same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(params=[{}, {"averaging_decay": 0.5}, {"evaluate_every": 0}], ids=["plain", "mean", "unevaluated"])
def plan(request: pytest.FixtureRequest) -> RoundPlan:
    return tiny_plan(rounds=4, centring_round=True, **request.param)


def test_a_federation_ends_with_the_same_bits_as_one_that_sends_everything(
    plan: RoundPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sparing, records = federated(tmp_path / "sparing", plan)
    monkeypatch.setattr(Downlink, "travelling", lambda self, *_: frozenset(self.layout.modules))
    everything, full = federated(tmp_path / "everything", plan)
    assert same(sparing, everything)
    for name, sizes in down(records).items():
        assert sizes[0] == down(full)[name][0] > WHOLE
        assert all(own <= whole for own, whole in zip(sizes[1:], down(full)[name][1:], strict=True))


def test_a_model_that_a_site_has_evaluated_does_not_travel_again(tmp_path: Path) -> None:
    _, records = federated(tmp_path / "run", tiny_plan(rounds=3))
    assert all(size < WHOLE / 2 for sizes in down(records).values() for size in sizes[1:])


def test_modules_that_a_site_cannot_reach_do_not_travel_to_it(tmp_path: Path) -> None:
    _, records = federated(tmp_path / "run", tiny_plan(rounds=3, evaluate_every=0))
    sizes = {name: own[1:] for name, own in down(records).items()}
    assert max(sizes["south"]) < min(sizes["west"]) and max(sizes["west"]) < min(sizes["north"]) < WHOLE + 10_000


def test_a_site_that_was_restarted_is_sent_everything_again_within_the_round(tmp_path: Path) -> None:
    undisturbed, _ = federated(tmp_path / "undisturbed", tiny_plan(rounds=3))
    app, asked = ClientApp(), []

    @app.train()
    def train(message: Message, context: Context) -> Message:
        asked.append(context.node_id)
        if context.node_id == NODES["west"]:
            context.state = RecordDict()
        return client_app(message, context)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return client_app(message, context)

    weights, records = federated(tmp_path / "restarted", tiny_plan(rounds=3), app)
    assert same(weights, undisturbed)
    assert [s["rejected"] for r in records for s in r["sites"]] == [None] * 9
    assert asked.count(NODES["west"]) == 5 and asked.count(NODES["north"]) == 3
    assert min(down(records)["west"][1:]) > WHOLE


def test_a_site_that_always_lacks_something_is_asked_twice_a_round_and_left_out() -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(Error(1, ModulesMissing.__name__), reply_to=message)

    grid = InProcessGrid(app, [{}])
    plan, state = tiny_plan(rounds=1, max_failed_rounds=1), FederationState(0, LAYOUT.flatten_all(fresh()))
    [record] = list(tries(run_rounds(Federation(grid), plan, LAYOUT, state)))
    assert [s.rejected for s in record.sites] == [ModulesMissing.__name__]
    assert 2 * WHOLE < record.sites[0].bytes_down < 3 * WHOLE


def fresh() -> dict[str, torch.Tensor]:
    return PerMMoE(MODEL).state_dict()


def tries(rounds: Iterator[tuple[FederationState, RoundRecord]]) -> Iterator[RoundRecord]:
    try:
        for _, record in rounds:
            yield record
    except Exception as error:
        assert type(error).__name__ == "NoQuorum"


def test_what_a_site_can_reach_is_what_changes_its_predictions(tmp_path: Path) -> None:
    """The slow reference: nudge each module and see whether any combination of the site's modalities notices."""
    torch.manual_seed(3)
    weights = LAYOUT.flatten_all(fresh())
    widths = {m.name: len(m.columns) for m in MODEL.modalities}

    def predictions(flat: Mapping[str, torch.Tensor], names: tuple[str, ...]) -> torch.Tensor:
        model = PerMMoE(MODEL).eval()
        model.load_state_dict(LAYOUT.unflatten(flat))
        rows = [[name in c for name in MODEL.names] for c in all_combinations(names)]
        observed = torch.tensor(rows).repeat(40, 1)
        inputs = {n: torch.linspace(-2, 2, 1000 * w).reshape(1000, w) for n, w in widths.items()}
        inputs = {n: inputs[n][: int(observed[:, i].sum())] for i, n in enumerate(MODEL.names)}
        batch = Batch(inputs, observed, torch.ones(len(observed)), torch.ones(len(observed)))
        with torch.no_grad():
            return model(batch).prediction

    for names in (("clinical",), ("clinical", "gene"), MODEL.names):
        before = predictions(weights, names)
        moved = {m for m in weights if not torch.equal(predictions(weights | {m: weights[m] + 0.5}, names), before)}
        assert moved <= reachable_modules(MODEL, names)
        assert reachable_modules(MODEL, names) - moved <= {m for m in weights if m.startswith("expert/")}


@pytest.mark.parametrize(("wire", "share"), [("fp16", 0.6), ("int8", 0.4)])
def test_rounded_changes_end_near_the_exact_ones_for_fewer_bytes(wire: str, share: float, tmp_path: Path) -> None:
    exact, full = federated(tmp_path / "exact", tiny_plan(rounds=4, evaluate_every=0))
    rounded, records = federated(tmp_path / "rounded", tiny_plan(rounds=4, evaluate_every=0, wire=wire))
    names = [name for name in exact if name.startswith("weights:")]
    moved = max(float((exact[n] - fresh()[n.removeprefix("weights:")]).abs().max()) for n in names)
    apart = max(float((rounded[n] - exact[n]).abs().max()) for n in names)
    assert 0 < apart < 0.5 * moved
    up = [sum(s["bytes_up"] for r in own for s in r["sites"]) for own in (records, full)]
    # These modules are tiny, so names and figures weigh more than in any real model.
    assert up[0] < (share + 0.3) * up[1]


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
@pytest.mark.parametrize("wire", ["fp16", "int8"])
def test_a_rounded_reply_with_a_scale_that_is_no_number_is_rejected(wire: str, scale: float) -> None:
    plan, packed = tiny_plan(evaluate_every=0, wire=wire), PackedModel.of(LAYOUT.flatten_all(fresh()), wire)
    instruction = Instruction(plan, 1, packed.digest())
    updates = {"head": ModuleUpdate(torch.ones(LAYOUT.size("head")), 2.0)}
    content = write_train_reply(
        TrainReply("west", 1, instruction.model_digest, updates, TrainingFigures(2.0, 1.0)), wire
    )
    assert accept_training(content, instruction, LAYOUT, ()).updates["head"].weighted_delta.isfinite().all()
    numbers = content["update"][PACKED].numpy().copy()
    numbers[:4] = np.array([scale], "<f4").view(np.uint8)
    content["update"][PACKED] = Array(numbers)
    with pytest.raises(RejectedReply, match="not_finite"):
        accept_training(content, instruction, LAYOUT, ())


def test_what_is_held_of_another_study_is_not_used() -> None:
    state, other = RecordDict(), {"head": torch.ones(3), "elsewhere": torch.ones(5)}
    hold_model(state, HeldModel(PackedModel.of(other), "other", 7))
    assert held_model(state, LAYOUT, "fp32") is None
    own = HeldModel(PackedModel.of(LAYOUT.flatten_all(fresh())), "study", 3)
    hold_model(state, own)
    held = held_model(state, LAYOUT, "fp32")
    assert held and (held.study, held.next_round, set(held.model.modules)) == ("study", 3, set(LAYOUT.modules))


def test_a_site_keeps_what_rounding_took_away(tmp_path: Path) -> None:
    plan = tiny_plan(rounds=2, evaluate_every=0, wire="int8")
    _, records = federated(tmp_path / "run", plan)
    kept = recall(read_site(tmp_path / "run" / "west.yaml"), plan)
    [west] = [s for s in records[-1]["sites"] if s["site"] == "west"]
    assert kept.round == 2 and set(kept.residual) >= set(west["modules"])
    assert all(0 < values.abs().max() < 1 for name, values in kept.residual.items() if name in ("head", "trunk"))
