"""Noise once on a site's moments: what is sent, what it costs, and that nobody gets a second draw for nothing."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError

from permmoe.federated.accounting import epsilon
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.plan import RoundPlan
from permmoe.model import PerMMoE
from permmoe.runtime.files import UNFINISHED_PREFIX
from permmoe.training.seeds import make_model
from permmoe_client.app import SITES
from permmoe_client.participation.privacy_account import account, spent_so_far
from permmoe_client.participation.secure_session import rules_of
from permmoe_client.release.withdrawals import WithdrawalList
from permmoe_client.site import ReleasePolicy
from permmoe_server.protocol.readiness import NoQuorum, StudyLost
from tests.client.participation.test_privacy_account import ledger_of
from tests.support.announcing_coordinator import AnnouncingCoordinator
from tests.support.lying_coordinator import LyingCoordinator
from tests.support.moments_study import TARGET, VISITS, moments_plan, plan_without_noise
from tests.support.secure_federation import SecureFederation, found
from tests.support.synced_files import record_synced_files
from tests.support.tiny_federation import tiny_plan

NAMES = ("north", "south", "west", "east", "mid")
NEXT_TO_NONE = 1e-4
"""A noise multiplier."""


hospitals = partial(found, visits=VISITS)


def ridge_modules(federation: SecureFederation) -> dict[str, torch.Tensor]:
    return {name: values for name, values in federation.weights().items() if name.startswith("ridge")}


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_study_sets_the_moments_of_all_sites_patients_and_costs_each_its_target(
    tmp_path: Path, is_shared: bool
) -> None:
    noisy = hospitals(tmp_path / "noisy", moments_plan(is_shared=is_shared), NAMES, insecure_noise_seed=1)
    [record] = noisy.run()
    assert record["is_aggregated"] and len(record["sites"]) == len(NAMES)
    for name in NAMES:
        [spent] = spent_so_far(ledger_of(noisy, name).entries())
        assert 0.95 * TARGET < account(ledger_of(noisy, name), 1e-5) == epsilon([spent], 1e-5) <= TARGET
    nearly = moments_plan(is_shared=is_shared, row_norm=64.0, noise_multiplier=NEXT_TO_NONE)
    exact = hospitals(tmp_path / "exact", nearly, NAMES)
    exact.run()
    plain = hospitals(tmp_path / "plain", plan_without_noise(), NAMES)
    plain.run()
    model = PerMMoE(nearly.model)
    layout = ModuleLayout.of(model)
    for name in ("ridge.moments.all-visits.product", "ridge.moments.clinical.left", "ridge.moments.fluid/gene.product"):
        one, other, far = (f.weights()[name] for f in (exact, plain, noisy))
        assert torch.allclose(one, other, atol=0.15), name
        assert not torch.allclose(far, one, atol=1e-3), name
    initial = layout.flatten_all(make_model(nearly.model, nearly.train.seed).state_dict())
    trained = layout.flatten_all(dict(noisy.weights()))
    assert all(torch.equal(trained[name], initial[name]) for name in initial if not name.startswith("ridge/"))


def test_with_shared_noise_the_model_is_nearer_to_the_truth_than_with_each_sites_own(tmp_path: Path) -> None:
    plain = hospitals(tmp_path / "plain", plan_without_noise(), NAMES)
    plain.run()
    apart = {}
    for is_shared in (False, True):
        federation = hospitals(
            tmp_path / str(is_shared), moments_plan(is_shared=is_shared), NAMES, insecure_noise_seed=2
        )
        federation.run()
        key = "ridge.moments.all-visits.product"
        apart[is_shared] = float((federation.weights()[key] - plain.weights()[key]).norm())
    # Five sites' own noises against as many thirds of one.
    assert apart[True] < 0.8 * apart[False]


def test_asked_again_a_site_sends_the_same_bits_and_spends_nothing(tmp_path: Path) -> None:
    coordinator = AnnouncingCoordinator.of(tmp_path, moments_plan(), visits=VISITS)
    weights = initial(coordinator.plan)
    first = coordinator.send(1, "training", weights)
    spent = account(coordinator.ledger, 1e-5)
    SITES.forget()
    again = coordinator.send(1, "training", weights)
    assert first.has_content() and dict(first.content["update"]) == dict(again.content["update"])
    assert len(coordinator.entries()) == 2 and account(coordinator.ledger, 1e-5) == spent <= TARGET


@pytest.mark.parametrize("left", [0, 5, 200])
def test_a_damaged_file_of_sums_is_named_and_nothing_is_drawn_or_spent_again(
    left: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator = AnnouncingCoordinator.of(tmp_path, moments_plan(), visits=VISITS)
    weights = initial(coordinator.plan)
    assert coordinator.send(1, "training", weights).has_content()
    spent = account(coordinator.ledger, 1e-5)
    [sums] = coordinator.ledger.path.parent.glob("moments-*.npy")
    sums.write_bytes(damaged := sums.read_bytes()[:left])
    SITES.forget()
    refused = coordinator.send(1, "training", weights)
    assert not refused.has_content() and refused.error.reason == "LedgerError"
    assert f"{sums} is damaged; restore it" in caplog.text
    assert sums.read_bytes() == damaged and account(coordinator.ledger, 1e-5) == spent


def test_another_study_is_another_draw_and_is_refused_over_the_budget(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = moments_plan()
    second = moments_plan(name="the same again")
    budget = {"epsilon": 1.2 * TARGET, "delta": 1e-5}
    approved = {"approved_studies": [first.digest(), second.digest()], "privacy_budget": budget}
    federation = hospitals(tmp_path, first, NAMES[:3], **approved)
    federation.run()
    once = ridge_modules(federation)
    shutil.rmtree(federation.out)
    with pytest.raises(NoQuorum):
        SecureFederation(tmp_path, second, federation.deployment).run()
    assert "over this site's privacy_budget" in caplog.text
    folder = ledger_of(federation, "north").path.parent
    assert once and len(list(folder.glob("moments-*.npy"))) == 1, "what may not leave is not drawn"


def test_attack_a_patient_who_withdraws_is_not_found_by_a_second_draw(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The sums without a patient, minus those with the patient, are the patient."""
    coordinator = AnnouncingCoordinator.of(tmp_path, moments_plan(), visits=VISITS)
    weights = initial(coordinator.plan)
    assert coordinator.send(1, "training", weights).has_content()
    WithdrawalList(coordinator.ledger).add(["north-3"])
    SITES.forget()
    refused = coordinator.send(1, "training", weights)
    assert not refused.has_content() and "over the study's target_epsilon" in caplog.text


def test_sums_are_on_the_disk_before_anything_of_them_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    federation = hospitals(tmp_path, moments_plan(), NAMES[:1])
    synced = record_synced_files(monkeypatch)
    federation.run()
    folder = ledger_of(federation, "north").path.parent
    [sums] = folder.glob("moments-*.npy")
    assert sums.stat().st_mode & 0o777 == 0o600
    assert any(name.startswith(UNFINISHED_PREFIX) for name in synced[: synced.index("ledger.jsonl")])


def test_noise_follows_from_nothing_that_the_coordinator_knows(tmp_path: Path) -> None:
    plan = moments_plan()
    runs = [hospitals(tmp_path / name, plan, NAMES[:3]) for name in ("one", "other")]
    seeded = [hospitals(tmp_path / name, plan, NAMES[:3], insecure_noise_seed=7) for name in ("a", "b")]
    for federation in (*runs, *seeded):
        federation.run()
    one, other, a, b = (ridge_modules(federation) for federation in (*runs, *seeded))
    assert all((one[name] != other[name]).any() for name in one if one[name].any())
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_with_shared_noise_every_site_sends_every_block_whatever_its_patients_have(tmp_path: Path) -> None:
    """South has one modality of three. Which blocks came would tell so, and a block without its noise lacks a share."""
    federation = hospitals(tmp_path, moments_plan(is_shared=True), ("south", "west", "north", "mid"))
    [record] = federation.run()
    released = [name for name in record["released"] if name.startswith("ridge/")]
    assert len(released) == 7 and {"ridge/gene", "ridge/fluid/gene"} <= set(released)


def test_attack_no_sum_of_fewer_sites_than_the_noise_is_shared_for_is_taken_part_in(tmp_path: Path) -> None:
    plan = moments_plan(is_shared=True)
    assert rules_of(ReleasePolicy(), plan.federation).min_sites == 4
    liar = LyingCoordinator.of(hospitals(tmp_path, plan, NAMES))
    assert liar.train(NAMES[:3]).total is None
    enough = liar.train(NAMES[:4])
    assert enough.total is not None, "one that dropped out is not missed"


def test_attack_a_block_that_some_of_the_sites_keep_to_themselves_stays_masked_with_its_too_little_noise(
    tmp_path: Path,
) -> None:
    federation = hospitals(tmp_path, moments_plan(is_shared=True), NAMES[:4])
    path = federation.deployment.sites["west"]

    settings = yaml.safe_load(path.read_text())
    settings["release"] = {**settings["release"], "modules": ["ridge/all-visits", "ridge/clinical"]}
    path.write_text(yaml.safe_dump(settings))
    SITES.forget()
    [record] = federation.run()
    assert "ridge/clinical" in record["released"] and "ridge/gene" in record["withheld"]
    moments = moments_plan(is_shared=True).federation
    assert rules_of(ReleasePolicy(), moments).min_holders == 4
    assert rules_of(ReleasePolicy(), tiny_plan(secure=True, min_sites=4).federation).min_holders == 3


def test_a_shared_study_whose_sum_failed_after_the_inputs_does_not_begin_again(tmp_path: Path) -> None:
    federation = hospitals(tmp_path, moments_plan(is_shared=True), NAMES)
    federation.run()
    shutil.rmtree(federation.out)
    with pytest.raises((NoQuorum, StudyLost)):
        federation.run()
    assert all(account(ledger_of(federation, name), 1e-5) <= TARGET for name in NAMES)


def initial(plan: RoundPlan) -> dict[str, torch.Tensor]:
    model = make_model(plan.model, plan.train.seed)
    return ModuleLayout.of(model).flatten_all(model.state_dict())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rounds": 2}, "set rounds to 1"),
        ({"centring_round": False}, "centring_round to true"),
        ({"secure": False}, "set secure to true"),
        ({"min_sites": 1, "min_holders": 2, "colluding": 2}, "raise min_sites"),
    ],
)
def test_a_study_that_could_not_keep_its_promise_is_refused_with_what_to_change(
    changes: dict[str, Any], words: str
) -> None:
    values = moments_plan(is_shared=True).model_dump()
    federation = values["federation"]
    federation["privacy"]["moments"]["colluding"] = changes.pop("colluding", 1)
    with pytest.raises(ValidationError, match=words):
        RoundPlan.model_validate({**values, "federation": {**federation, **changes}})


def test_a_model_of_which_the_ridge_is_only_a_part_is_refused() -> None:
    values = moments_plan().model_dump()
    values["model"]["ridge"]["share"] = 0.5
    with pytest.raises(ValidationError, match=r"model\.ridge\.share to 1"):
        RoundPlan.model_validate(values)
