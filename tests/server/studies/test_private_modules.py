"""Private studies that train few modules: the others stay, and are in no message, plainly and by the secure sum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from permmoe.federated.modules import ModuleLayout, kind_of
from permmoe.federated.plan import RoundPlan
from permmoe.training.seeds import make_model
from tests.support.secure_federation import SecureFederation, found
from tests.support.tiny_federation import MODEL, tiny_plan

NAMES = ("north", "west", "east")


WAYS: dict[str, dict[str, Any]] = {"all": {}, "head": {"trains": ["head"]}}


def private_plan(*, secure: bool = False, **privacy: Any) -> RoundPlan:
    settings = {"noise_multiplier": 2.0, "patients_per_step": 8, "count_noise": 1.0, **privacy}
    return tiny_plan(rounds=2, evaluate_every=0, secure=secure, min_holders=2, privacy=settings)


def run(folder: Path, plan: RoundPlan) -> tuple[SecureFederation, list[dict[str, Any]]]:
    federation = found(folder, plan, NAMES, insecure_noise_seed=5)
    return federation, federation.run()


@pytest.mark.parametrize("secure", [False, True])
def test_what_is_not_trained_stays_as_the_seed_has_it_and_is_in_no_message(secure: bool, tmp_path: Path) -> None:
    of_all = run(tmp_path / "all", private_plan(secure=secure))[1]
    plan = private_plan(secure=secure, trains=["head", "router"], module_bounds={"head": 3.0})
    federation, records = run(tmp_path / "few", plan)
    initial = make_model(MODEL, plan.train.seed).state_dict()
    for name, value in federation.weights().items():
        assert torch.equal(value, initial[name]) != name.startswith(("head", "routers")), name
    for record, whole in zip(records, of_all, strict=True):
        assert record["is_aggregated"]
        if secure:
            assert {kind_of(m) for m in (*record["released"], *record["withheld"])} == {"head", "router"}
        for site, other in zip(record["sites"], whole["sites"], strict=True):
            assert secure or {kind_of(module) for module in site["modules"]} == {"head", "router"}
            assert site["bytes_up"] < other["bytes_up"] and site["bytes_down"] < other["bytes_down"]


def test_a_message_is_smaller_by_what_is_not_trained(tmp_path: Path) -> None:
    of_all, of_head = (run(tmp_path / name, private_plan(**own))[1] for name, own in WAYS.items())
    layout = ModuleLayout.of(make_model(MODEL, 1))
    still = 4 * sum(layout.size(module) for module in layout.modules if module != "head")
    for site, other in zip(of_head[0]["sites"], of_all[0]["sites"], strict=True):
        assert other["bytes_down"] - site["bytes_down"] >= still
