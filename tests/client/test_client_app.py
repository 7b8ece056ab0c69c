"""What a site's app sends, and above all what it does not."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from flwr.app import Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode

from permmoe.config import VolumeGrid
from permmoe.data.dataset import VisitData
from permmoe.data.rows import MemoryRows
from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import ConfigurationError
from permmoe.evaluation.combinations import combination_sums
from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.plan import RoundPlan
from permmoe.federated.records import (
    Instruction,
    PackedModel,
    TrainReply,
    read_evaluation_reply,
    read_instruction,
    read_train_reply,
    write_instruction,
)
from permmoe.modality import Modality
from permmoe.model import PerMMoE
from permmoe.training.epochs import train_epochs
from permmoe.training.seeds import derive_seed, make_model
from permmoe_client.app import app
from permmoe_client.participation import local_round as training_module
from permmoe_client.participation import site_visits as visits_module
from permmoe_client.participation.site_visits import site_visits
from permmoe_client.site import SiteConfig, read_site
from permmoe_server.protocol.federation import Federation
from permmoe_server.protocol.round_records import FederationState
from permmoe_server.protocol.rounds import run_rounds
from permmoe_simulation.engines.grid import FIRST_NODE, InProcessGrid
from tests.support.tiny_federation import MODEL, approve, tiny_plan, write_site

LAYOUT = ModuleLayout.of(PerMMoE(MODEL))
WEIGHTS = LAYOUT.flatten_all(make_model(MODEL, seed=5).state_dict())


def instruction(
    plan: RoundPlan | None = None, number: int = 1, weights: Mapping[str, torch.Tensor] = WEIGHTS, **more: str
) -> RecordDict:
    model = PackedModel.of(weights)
    return write_instruction(
        Instruction(plan or tiny_plan(), number, more.pop("digest", model.digest()), **more), model
    )


def ask(path: Path | None, content: RecordDict, kind: str = MessageType.TRAIN, *, is_approved: bool = True) -> Message:
    if path and path.exists() and is_approved:
        approve(path, read_instruction(content).plan)
    grid = InProcessGrid(app, [{"site-config": str(path)} if path else {}], is_serialised=True)
    [reply] = grid.send_and_receive([Message(content, FIRST_NODE, kind, group_id="1")])
    return reply


def trained(path: Path, content: RecordDict) -> TrainReply:
    reply = ask(path, content)
    assert reply.has_content(), reply.error
    return read_train_reply(reply.content, LAYOUT)


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
    first, again, later = (trained(path, instruction(number=n)).updates["trunk"].weighted_delta for n in (4, 4, 5))
    assert torch.equal(first, again) and not torch.equal(first, later)


def test_the_received_model_is_verified_before_anything_else(tmp_path: Path) -> None:
    reply = ask(write_site(tmp_path, "north"), instruction(digest="0" * 64))
    assert reply.has_error() and reply.error.reason == "MalformedRecord"


@pytest.mark.parametrize("kind", [MessageType.TRAIN, MessageType.EVALUATE])
def test_an_error_reaches_the_coordinator_as_its_type_alone(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_site(tmp_path, "north")

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("cannot read /data/phi/patient-12345.nii")

    monkeypatch.setattr(visits_module, "read_manifest", broken)
    site_visits.cache_clear()
    with caplog.at_level(logging.DEBUG):
        reply = ask(path, instruction(), kind)
    assert reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION and reply.error.reason == "RuntimeError"
    assert b"12345" not in reply.deflate()
    assert "12345" not in caplog.text and "RuntimeError in test_client_app.py, line" in caplog.text


def test_an_unusable_site_file_is_an_error_without_its_path(tmp_path: Path) -> None:
    assert ask(tmp_path / "absent.yaml", instruction()).error.reason == "ConfigurationError"
    assert ask(None, instruction()).error.reason == "ConfigurationError"


def test_no_identifier_leaves_a_site(tmp_path: Path) -> None:
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

    path = write_site(tmp_path, "north")
    for kind in (MessageType.TRAIN, MessageType.EVALUATE):
        reply = ask(path, instruction(), kind)
        sent = b"".join(thing.deflate() for thing in get_all_nested_objects(reply.content).values())
        assert b"north" in sent
        assert b"north-" not in sent and str(tmp_path).encode() not in sent


def sums_of(path: Path, **federation: int) -> dict[str, int]:
    reply = ask(path, instruction(tiny_plan(**federation), part="test"), MessageType.EVALUATE)
    return {name: sums.n for name, sums in read_evaluation_reply(reply.content).sums.items()}


def test_an_evaluation_is_that_of_the_sites_own_visits(tmp_path: Path) -> None:
    path = write_site(tmp_path, "north", visits=41)
    model = PerMMoE(MODEL)
    model.load_state_dict(LAYOUT.unflatten(WEIGHTS))
    expected = combination_sums(model, site_visits(read_site(path), MODEL).part("test"))
    reply = ask(path, instruction(part="test"), MessageType.EVALUATE)
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
    monkeypatch.setattr(training_module, "site_visits", lambda site, model: by_name[site.name])
    plan = RoundPlan(model=IMAGED, federation=FederationConfig(rounds=1, evaluate_every=0, min_cell_count=5))
    start = make_model(IMAGED, 3)
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


def test_a_mean_over_few_patients_stays_at_its_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many, few = imaged_visits(7, 4, seed=1), imaged_visits(4, 9, seed=2)
    centre, _ = centred(tmp_path, monkeypatch, many, few)
    assert torch.allclose(centre, many.inputs["t1"].rows.mean(0), atol=1e-6)


def test_visits_are_read_once_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, reads = write_site(tmp_path, "north"), []
    read = visits_module.read_manifest
    monkeypatch.setattr(visits_module, "read_manifest", lambda *args: reads.append(args) or read(*args))
    for number in (1, 2, 3):
        trained(path, instruction(number=number))
    assert len(reads) == 1


def test_a_site_file_that_changed_is_read_again(tmp_path: Path) -> None:
    assert read_site(write_site(tmp_path, "north", threads=2)).threads == 2
    path = write_site(tmp_path, "north", threads=3)
    assert read_site(path).threads == 3 and read_site(path) is read_site(path)


def test_a_site_may_keep_a_modality_to_itself(tmp_path: Path) -> None:
    reply = trained(write_site(tmp_path, "north", modalities=["clinical", "gene"]), instruction())
    assert "encoder/fluid" not in reply.updates and "encoder/gene" in reply.updates
    site = read_site(write_site(tmp_path, "north", modalities=["genes"]))
    with pytest.raises(ConfigurationError, match="did you mean 'gene'"):
        site_visits(site, MODEL)


def test_a_site_file_with_a_typing_mistake_names_the_nearest_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'threads'"):
        read_site(write_site(tmp_path, "north", thread=2))


def test_paths_of_a_site_file_start_at_its_folder(tmp_path: Path) -> None:
    site = read_site(write_site(tmp_path, "north"))
    assert isinstance(site, SiteConfig)
    assert (site.manifest, site.cache) == (tmp_path / "north.csv", tmp_path / "cache-north")


@pytest.mark.parametrize("kind", [MessageType.TRAIN, MessageType.EVALUATE])
def test_a_study_that_is_not_approved_is_refused_before_any_data_is_read(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = approve(write_site(tmp_path, "north"), tiny_plan())
    changed = tiny_plan(local_epochs=3)
    monkeypatch.setattr(visits_module, "read_manifest", lambda *args: pytest.fail("the data was read"))
    reply = ask(path, instruction(changed), kind, is_approved=False)
    assert reply.error.reason == "StudyNotApproved"
    assert changed.digest() in caplog.text and "permmoe-client approve" in caplog.text
