"""What a site makes of a round: its changes, its sums, and its means."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from flwr.app import MessageType

from permmoe.config import VolumeGrid
from permmoe.data.dataset import VisitData
from permmoe.data.rows import MemoryRows
from permmoe.data.visits import Visit, VisitTable
from permmoe.evaluation.combinations import combination_sums
from permmoe.federated.aggregation_rules import RULES
from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.plan import RoundPlan
from permmoe.federated.replies import read_evaluation_reply
from permmoe.modality import Modality
from permmoe.model import PerMMoE
from permmoe.training.epochs import train_epochs
from permmoe.training.seeds import derive_seed, make_model
from permmoe_client.app import app
from permmoe_client.participation.running_site import RunningSites
from permmoe_client.participation.site_visits import site_visits
from permmoe_client.site import read_site
from permmoe_server.protocol.federation import Federation
from permmoe_server.protocol.round_records import FederationState
from permmoe_server.protocol.rounds import run_rounds
from permmoe_simulation.engines.grid import InProcessGrid
from tests.support.site_messages import LAYOUT, WEIGHTS, ask, instruction, trained
from tests.support.tiny_federation import MODEL, approve, tiny_plan, write_site


def test_a_site_returns_only_modules_that_its_visits_trained(tmp_path: Path) -> None:
    reply = trained(write_site(tmp_path, "west"), instruction())
    observing_fluid = {name for name in LAYOUT.modules if name.startswith("bank/") and "fluid" in name.split("/")[1]}
    gone = {"encoder/fluid", "router/fluid"} | observing_fluid
    assert "bank/clinical+fluid/gene" in gone
    assert not gone & set(reply.updates)
    assert {"trunk", "head", "encoder/clinical", "encoder/gene", "bank/clinical/fluid"} <= set(reply.updates)
    assert all(update.support > 0 for update in reply.updates.values())
    assert sum(u.support for n, u in reply.updates.items() if n.startswith("expert")) == pytest.approx(
        reply.figures.visits, rel=1e-3
    )
    assert reply.updates["trunk"].support == reply.figures.visits


def test_a_change_is_that_of_training_at_the_site_with_its_own_seed(tmp_path: Path) -> None:
    path = write_site(tmp_path, "north")
    plan, number = tiny_plan(), 3
    reply = trained(path, instruction(plan, number))
    model = PerMMoE(MODEL)
    model.load_state_dict(LAYOUT.unflatten(WEIGHTS))
    data = site_visits(read_site(path), MODEL).part("train")
    seed = derive_seed(plan.train.seed, "north", number)
    record = train_epochs(model, data, plan.train, first_epoch=4, epochs=2, seed=seed)
    assert reply.figures.visits == record.visits and reply.figures.loss_sum == record.loss_sum
    for name, update in reply.updates.items():
        change = LAYOUT.flatten(model.state_dict(), name) - WEIGHTS[name]
        assert torch.equal(update.weighted_delta, change * update.support)
    assert reply.updates["encoder/fluid"].support == record.exposure.observed["fluid"]


def test_the_same_instruction_has_the_same_answer_and_another_round_has_another(tmp_path: Path) -> None:
    path = write_site(tmp_path, "north")
    first, again, later = (trained(path, instruction(number=n)).updates["trunk"].weighted_delta for n in (2, 2, 3))
    assert torch.equal(first, again) and not torch.equal(first, later)


def sums_of(path: Path, **federation: int) -> dict[str, int]:
    reply = ask(path, instruction(tiny_plan(rounds=1, **federation), part="test"), MessageType.EVALUATE)
    return {name: sums.n for name, sums in read_evaluation_reply(reply.content).sums.items()}


def test_an_evaluation_is_that_of_the_sites_own_visits(tmp_path: Path) -> None:
    path = write_site(tmp_path, "north", visits=41)
    model = PerMMoE(MODEL)
    model.load_state_dict(LAYOUT.unflatten(WEIGHTS))
    expected = combination_sums(model, site_visits(read_site(path), MODEL).part("test"))
    reply = ask(path, instruction(tiny_plan(rounds=1), part="test"), MessageType.EVALUATE)
    assert read_evaluation_reply(reply.content).sums == {name: s for name, s in expected.items() if s.n}


def test_cells_with_few_subjects_stay_and_the_stricter_rule_wins(tmp_path: Path) -> None:
    lax = sums_of(write_site(tmp_path, "north", visits=41), min_cell_count=1)
    assert lax["clinical"] == 10 and 0 < lax["clinical+fluid+gene"] < 10
    few = lax["clinical+fluid+gene"]
    strict_study = sums_of(tmp_path / "north.yaml", min_cell_count=few + 1)
    strict_site = sums_of(
        write_site(tmp_path, "north", visits=41, release={"min_cell_count": few + 1}), min_cell_count=1
    )
    assert strict_study == strict_site == {name: n for name, n in lax.items() if n > few}


IMAGED = MODEL.model_copy(
    update={
        "modalities": (Modality(name="t1"), *MODEL.modalities[:1]),
        "grid": VolumeGrid(shape=(4, 6, 10)),
        "encoder": MODEL.encoder.model_copy(update={"cells": (2, 3, 5)}),
    }
)


def imaged_visits(n_images: int, n_others: int, seed: int) -> VisitData:
    """Training visits with a synthetic pooled t1 image, and others with a table only."""
    n = n_images + n_others
    images = torch.randn(n_images, 1, 2, 3, 5, generator=torch.Generator().manual_seed(seed))
    observed = torch.stack([torch.arange(n) < n_images, torch.arange(n) >= 0], dim=1)
    return VisitData(
        visits=VisitTable(tuple(Visit(str(i), "north", "bl", 1.0, 0.5, 24.0, split="train") for i in range(n))),
        names=IMAGED.names,
        observed=observed,
        baseline=torch.ones(n),
        target=torch.ones(n),
        stored_rows=torch.where(observed, observed.long().cumsum(0) - 1, -1),
        inputs={"t1": MemoryRows(images), "clinical": MemoryRows(torch.randn(n, 3))},
    )


def centred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *sites: VisitData) -> tuple[torch.Tensor, set[str]]:
    """The t1 encoder's centre after a centring round of the sites, and the modules that changed."""
    by_name = dict(zip(("north", "south", "west"), sites, strict=False))
    monkeypatch.setattr("permmoe_client.app.SITES", RunningSites(lambda site, *_: by_name[site.name]))
    plan = RoundPlan(model=IMAGED, federation=FederationConfig(rounds=1, evaluate_every=0, min_cell_count=5))
    start = make_model(IMAGED, plan.train.seed)
    layout = ModuleLayout.of(start)
    before = layout.flatten_all(start.state_dict())
    grid = InProcessGrid(app, [{"site-config": str(approve(write_site(tmp_path, name), plan))} for name in by_name])
    [(state, _)] = run_rounds(Federation(grid), plan, layout, FederationState(0, before))
    changed = {name for name in before if not torch.equal(before[name], state.weights[name])}
    return layout.unflatten(state.weights)["encoders.t1.features.centre"], changed


def test_a_centring_round_ends_with_the_mean_over_all_sites_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites = imaged_visits(7, 4, seed=1), imaged_visits(13, 0, seed=2), imaged_visits(5, 6, seed=3)
    images = torch.cat([site.inputs["t1"].rows for site in sites])
    centre, changed = centred(tmp_path, monkeypatch, *sites)
    assert torch.allclose(centre, images.mean(0), atol=1e-6)
    assert changed == {"encoder/t1"}


VARIANTS = [
    *({"aggregation": name} for name in RULES),
    {"wire": "fp16"},
    {"wire": "int8"},
    {"server_optimiser": "fedadam", "server_learning_rate": 0.01},
    {"server_optimiser": "fedavgm", "averaging_decay": 0.5},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_honest_rounds_after_the_centring_round_are_plausible_to_every_site(
    variant: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second site has no images, so that rules differ in what they make of their encoder."""
    by_name = {"north": imaged_visits(7, 9, seed=1), "south": imaged_visits(0, 11, seed=2)}
    monkeypatch.setattr("permmoe_client.app.SITES", RunningSites(lambda site, *_: by_name[site.name]))
    federation = FederationConfig(
        rounds=4, local_epochs=1, max_failed_rounds=1, min_sites=2, averaging_decay=0.0
    ).model_copy(update=variant)
    plan = RoundPlan(model=IMAGED, federation=federation)
    layout = ModuleLayout.of(make_model(IMAGED, plan.train.seed))
    before = layout.flatten_all(make_model(IMAGED, plan.train.seed).state_dict())
    paths = [approve(write_site(tmp_path, name, state=f"state-{name}"), plan) for name in by_name]
    grid = InProcessGrid(app, [{"site-config": str(path)} for path in paths])
    records = [record for _, record in run_rounds(Federation(grid), plan, layout, FederationState(0, before))]
    assert [site.rejected for record in records for site in record.sites] == [None] * 8
    assert [record.validation.rejected for record in records if record.validation] == [{}] * 4


def test_a_mean_over_few_patients_stays_at_its_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many, few = imaged_visits(7, 4, seed=1), imaged_visits(4, 9, seed=2)
    centre, _ = centred(tmp_path, monkeypatch, many, few)
    assert torch.allclose(centre, many.inputs["t1"].rows.mean(0), atol=1e-6)
