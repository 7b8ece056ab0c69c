"""What a study keeps at a site: private modules that never leave it, and the drift that SCAFFOLD steers against."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch
from flwr.app import MessageType, RecordDict
from pydantic import ValidationError

from permmoe.federated.plan import RoundPlan
from permmoe.federated.replies import TrainReply, read_evaluation_reply, read_train_reply
from permmoe_client.participation.study_memory import Memory, recall
from permmoe_client.site import read_site
from tests.support.site_messages import LAYOUT, WEIGHTS, ask, instruction
from tests.support.tiny_federation import tiny_plan, write_site


def trained(path: Path, plan: RoundPlan, number: int = 1, weights: object = WEIGHTS) -> TrainReply:
    reply = ask(path, instruction(plan, number, weights))  # type: ignore[arg-type]
    assert reply.has_content(), reply.error
    return read_train_reply(reply.content, LAYOUT)


def test_private_modules_are_trained_kept_and_never_sent(tmp_path: Path) -> None:
    path = write_site(tmp_path, "north", state="state")
    plan = tiny_plan(private_modules=["head", "encoder/*"])
    shared = {m for m in LAYOUT.modules if m != "head" and not m.startswith("encoder/")}
    assert set(trained(path, plan).updates) <= shared
    kept = recall(read_site(path), plan)
    assert set(kept.private) == set(LAYOUT.modules) - shared and kept.round == 1
    assert not torch.equal(kept.private["head"], WEIGHTS["head"])


def test_nobody_else_may_look_into_what_a_study_keeps_here(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        trained(write_site(tmp_path, "north", state="state"), tiny_plan(private_modules=["head"]))
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def test_a_site_trains_on_from_its_own_private_modules_whatever_the_server_sends(tmp_path: Path) -> None:
    plan = tiny_plan(private_modules=["head"])
    other = {**WEIGHTS, "head": torch.full_like(WEIGHTS["head"], 7.0)}
    found = []
    for name, weights in (("a", WEIGHTS), ("b", other)):
        (tmp_path / name).mkdir()
        path = write_site(tmp_path / name, "north", state="state")
        trained(path, plan, 1)
        trained(path, plan, 2, weights)
        found.append(recall(read_site(path), plan).private["head"])
    assert torch.equal(*found)


def test_a_site_evaluates_with_its_private_modules(tmp_path: Path) -> None:
    path = write_site(tmp_path, "north", state="state")
    plan, absurd = tiny_plan(private_modules=["head"]), {**WEIGHTS, "head": torch.full_like(WEIGHTS["head"], 1e3)}
    trained(path, plan)
    content: RecordDict = instruction(plan, 1, absurd, part="validation")
    reply = read_evaluation_reply(ask(path, content, MessageType.EVALUATE).content)
    assert all(s.rmse < 100 for s in reply.sums.values() if s.n)


def test_a_study_that_keeps_modules_needs_a_folder_for_them(tmp_path: Path) -> None:
    reply = ask(write_site(tmp_path, "north"), instruction(tiny_plan(private_modules=["head"])))
    assert reply.error.reason == "ConfigurationError"


def test_drift_is_the_mean_change_less_the_sites_own_and_nothing_after_a_missed_round() -> None:
    start, own = torch.tensor([1.0, 2.0]), torch.tensor([0.5, -1.0])
    memory = Memory(4, {}, {"trunk": start}, {"trunk": own})
    now = {"trunk": torch.tensor([2.0, 2.0])}
    assert memory.drift(5, now)["trunk"].tolist() == [0.5, 1.0]
    assert memory.drift(6, now) == {} and memory.drift(4, now) == {}


def test_a_corrected_round_moves_by_the_drift_besides_what_it_trains(tmp_path: Path) -> None:
    """A module of the missing bank that no visit of the site uses in training has no support, so it is not steered."""
    path = write_site(tmp_path, "north", state="state")
    plan = tiny_plan(drift_correction=True)
    first = trained(path, plan, 1)
    kept = recall(read_site(path), plan)
    assert set(kept.change) == set(first.updates) == set(kept.start)
    moved = {m: w + (0.01 if m in first.updates else 0.0) for m, w in WEIGHTS.items()}
    steered = trained(path, plan, 2, moved)
    # The same round at a site that remembers nothing, and so does not steer.
    (tmp_path / "fresh").mkdir()
    plain = trained(write_site(tmp_path / "fresh", "north", state="state"), plan, 2, moved)
    drift = kept.drift(2, moved)["head"]
    change = [r.updates["head"].weighted_delta / r.updates["head"].support for r in (steered, plain)]
    gained = (change[0] - change[1]) @ drift / drift.square().sum()
    assert 0.3 < float(gained) < 1.5


def test_drift_correction_needs_the_plain_server_step() -> None:
    with pytest.raises(ValidationError, match="drift_correction reads the mean change off the model"):
        tiny_plan(drift_correction=True, server_optimiser="fedavgm")
