"""Errors of a private study leave with noise that is drawn once: what is sent, what it costs, and what is refused."""

from __future__ import annotations

from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from permmoe.calibration.calibrate import predicted
from permmoe.calibration.calibration import read_calibration
from permmoe.calibration.score_counts import EDGES
from permmoe.evaluation.combinations import combination_sums
from permmoe.federated.instructions import Instruction
from permmoe.federated.plan import RoundPlan
from permmoe.federated.private_errors import error_bins, error_noise
from permmoe.model import PerMMoE
from permmoe.runtime.checkpoint import load_checkpoint
from permmoe.runtime.files import UNFINISHED_PREFIX
from permmoe_client.app import SITES
from permmoe_client.participation.privacy_account import account
from permmoe_client.participation.site_visits import site_visits
from permmoe_client.release.ledger import Ledger
from permmoe_client.release.withdrawals import WithdrawalList
from permmoe_client.site import read_site
from tests.client.participation.test_privacy_account import ledger_of
from tests.client.participation.test_private_moments import initial
from tests.support.announcing_coordinator import AnnouncingCoordinator
from tests.support.moments_study import TARGET, VISITS, moments_plan
from tests.support.noised_errors import EASY, noised_plan
from tests.support.secure_federation import SecureFederation, found
from tests.support.synced_files import record_synced_files
from tests.support.tiny_federation import tiny_plan

NAMES = ("north", "south", "west", "east", "mid")
hospitals = partial(found, visits=VISITS)


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_study_evaluates_within_its_target_and_its_record_and_card_say_that_there_is_noise(
    tmp_path: Path, is_shared: bool
) -> None:
    federation = hospitals(tmp_path, noised_plan(is_shared=is_shared), NAMES, insecure_noise_seed=1)
    [record] = federation.run()
    for part in ("validation", "test"):
        told = record[part]
        assert len(told["sites"]) == len(NAMES) and not told["rejected"]
        assert told["sums"].keys() == told["bounds"].keys() and told["sums"]
        assert all(0 <= bounds["mae"][0] < bounds["mae"][1] for bounds in told["bounds"].values())
        assert all(sums["target"] == sums["target_squared"] == 0 for sums in told["sums"].values())
    for name in NAMES:
        kinds = [entry.kind for entry in ledger_of(federation, name).entries() if "spent" in entry.facts]
        assert sorted(kinds) == ["evaluation", "evaluation", "training"]
        assert 0.95 * TARGET < account(ledger_of(federation, name), 1e-5) <= TARGET
    card = read_calibration(load_checkpoint(federation.out / "model")[1], "the model")
    assert card and "counted with noise" in card.source


@pytest.mark.parametrize("is_shared", [False, True])
def test_with_little_noise_the_sums_are_those_of_all_sites_errors(tmp_path: Path, is_shared: bool) -> None:
    plan = noised_plan(is_shared=is_shared, target_epsilon=EASY)
    federation = hospitals(tmp_path, plan, NAMES, insecure_noise_seed=1)
    [record] = federation.run()
    exact = errors_at_all_sites(federation, "test")
    of_a_number = sqrt(error_noise(plan).variance * len(NAMES) * error_noise(plan).bins)
    assert {"clinical", "gene", "clinical+gene"} <= record["test"]["sums"].keys()
    for name, own in record["test"]["sums"].items():
        n, absolute = exact[name]
        assert own["n"] == pytest.approx(n, abs=4 * of_a_number)
        low, high = record["test"]["bounds"][name]["mae"]
        middle, reach = (low + high) / 2, high - low
        assert middle - reach <= absolute / n <= middle + reach, "twice as far as one in twenty is beyond"


def errors_at_all_sites(federation: SecureFederation, part: Any) -> dict[str, tuple[int, float]]:
    """The reference: visits and Σ |error| of the study's very model, by combination."""
    model = PerMMoE(federation.plan.model)
    model.load_state_dict(load_checkpoint(federation.out / "model")[0])
    total: dict[str, tuple[int, float]] = {}
    for path in federation.deployment.sites.values():
        own = combination_sums(model, site_visits(read_site(path), federation.plan.model).part(part))
        for name, sums in own.items():
            n, absolute = total.get(name, (0, 0.0))
            total[name] = n + sums.n, absolute + sums.absolute
    return total


def test_a_site_without_a_combination_sends_its_noise_like_every_other(tmp_path: Path) -> None:
    """South has one modality of three."""
    plan = noised_plan()
    federation = hospitals(tmp_path, plan, ("south", "west", "north"))
    federation.run()
    for name in ("south", "west", "north"):
        kept = [np.load(path) for path in ledger_of(federation, name).path.parent.glob("errors-*.npy")]
        assert len(kept) == 2 and all(counts.shape == error_noise(plan).shape for counts in kept)
        assert all(counts[combination].any() for counts in kept for combination in range(7))


def test_asked_again_a_site_sends_the_same_bits_and_spends_nothing(tmp_path: Path) -> None:
    coordinator = AnnouncingCoordinator.of(tmp_path, noised_plan(), visits=VISITS)
    weights = initial(coordinator.plan)
    assert coordinator.send(1, "training", weights).has_content()
    first = coordinator.send(1, "validation", weights)
    spent = account(coordinator.ledger, 1e-5)
    SITES.forget()
    again = coordinator.send(1, "validation", weights)
    assert first.has_content() and dict(first.content["noised"]) == dict(again.content["noised"])
    assert account(coordinator.ledger, 1e-5) == spent <= TARGET
    test = coordinator.send(1, "test", weights)
    assert dict(test.content["noised"]) != dict(first.content["noised"])
    assert spent < account(coordinator.ledger, 1e-5) <= TARGET


@pytest.mark.parametrize("is_shared", [False, True])
def test_each_site_adds_as_much_noise_as_its_account_is_charged_with(tmp_path: Path, is_shared: bool) -> None:
    plan = noised_plan(is_shared=is_shared)
    federation = hospitals(tmp_path, plan, NAMES, insecure_noise_seed=1)
    federation.run()
    noise = np.stack([own for name in NAMES for own in added_noise(federation, name)])
    assert noise.shape == (2 * len(NAMES), *error_noise(plan).shape)
    variance = error_noise(plan).variance
    # 840 numbers: their variance is off by 5%.
    assert 0.8 * variance < noise.var() < 1.25 * variance
    assert abs(noise.mean()) < 4 * sqrt(variance / noise.size)
    assert all(0.4 * variance < own.var() < 2 * variance for own in noise), "at each site, and each time"


def added_noise(federation: SecureFederation, name: str) -> list[np.ndarray]:
    """Of both evaluations of a site. No file says which it answers: it is that whose counts are nearest."""
    sent = [np.load(path) for path in noised_files(ledger_of(federation, name))]
    exact = [errors_in_bins(federation, name, part) for part in ("validation", "test")]
    return [min((counts - own for own in exact), key=np.linalg.norm) for counts in sent]


def noised_files(ledger: Ledger) -> list[Path]:
    return list(ledger.path.parent.glob("errors-*.npy"))


def errors_in_bins(federation: SecureFederation, name: str, part: Any) -> np.ndarray:
    """The reference, patient by patient: how many errors of the study's model lie in which bin."""
    plan = federation.plan
    assert plan.federation.privacy and plan.federation.privacy.evaluation
    bins = error_bins(plan.federation.privacy.evaluation)
    ends = np.append(EDGES[bins[:-1]], np.inf)
    model = PerMMoE(plan.model)
    model.load_state_dict(load_checkpoint(federation.out / "model")[0])
    data = site_visits(read_site(federation.deployment.sites[name]), plan.model).part(part)
    counts = np.zeros((7, len(bins)), np.int64)
    for visit, outcome in zip(predicted(model, data)[0], data.target.tolist(), strict=True):
        for combination, prediction in enumerate(visit):
            if not np.isnan(prediction):
                error = abs(outcome - prediction)
                counts[combination, next(place for place, end in enumerate(ends) if error <= end)] += 1
    return counts


def test_an_evaluation_over_the_site_s_own_budget_is_neither_drawn_nor_sent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator = AnnouncingCoordinator.of(tmp_path, noised_plan(), visits=VISITS)
    weights = initial(coordinator.plan)
    assert coordinator.send(1, "training", weights).has_content()
    spent = account(coordinator.ledger, 1e-5)
    settings = yaml.safe_load(coordinator.site.read_text())
    budget = {"epsilon": 1.001 * spent, "delta": 1e-5}
    coordinator.site.write_text(yaml.safe_dump({**settings, "privacy_budget": budget}))
    SITES.forget()
    refused = coordinator.send(1, "validation", weights)
    assert not refused.has_content() and refused.error.reason == "BudgetSpent"
    assert "over this site's privacy_budget" in caplog.text
    assert not noised_files(coordinator.ledger) and account(coordinator.ledger, 1e-5) == spent


def test_attack_no_sum_of_single_errors_is_in_the_reply(tmp_path: Path) -> None:
    coordinator = AnnouncingCoordinator.of(tmp_path, noised_plan(), visits=VISITS)
    reply = coordinator.send(1, "validation", initial(coordinator.plan)).content
    assert set(reply) == {"reply", "sums", "noised"} and not reply["sums"]
    [entry] = [entry for entry in coordinator.entries() if entry.kind == "evaluation"]
    assert entry.facts["combinations"] == {} and len(entry.facts["spent"]) == 1


def test_attack_a_patient_who_withdraws_is_not_found_by_a_second_draw(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator = AnnouncingCoordinator.of(tmp_path, noised_plan(), visits=VISITS)
    weights = initial(coordinator.plan)
    for purpose in ("training", "validation", "test"):
        assert coordinator.send(1, purpose, weights).has_content()
    WithdrawalList(coordinator.ledger).add(["north-3"])
    SITES.forget()
    refused = coordinator.send(1, "test", weights)
    assert not refused.has_content() and "over the study's target_epsilon" in caplog.text
    assert account(coordinator.ledger, 1e-5) <= TARGET


def test_counts_are_on_the_disk_before_anything_of_them_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coordinator = AnnouncingCoordinator.of(tmp_path, noised_plan(), visits=VISITS)
    synced = record_synced_files(monkeypatch)
    assert coordinator.send(1, "validation", initial(coordinator.plan)).has_content()
    [counts] = coordinator.ledger.path.parent.glob("errors-*.npy")
    assert counts.stat().st_mode & 0o777 == 0o600
    assert any(name.startswith(UNFINISHED_PREFIX) for name in synced[: synced.index("ledger.jsonl")])


def test_attack_a_site_with_a_budget_evaluates_no_study_without_noise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its account would be false: nothing bounds what sums of errors tell."""
    coordinator = AnnouncingCoordinator.of(tmp_path, tiny_plan())
    settings = yaml.safe_load(coordinator.site.read_text())
    coordinator.site.write_text(yaml.safe_dump({**settings, "privacy_budget": {"epsilon": 8.0, "delta": 1e-5}}))
    refused = coordinator.send(1, "validation")
    assert not refused.has_content() and refused.error.reason == "BudgetSpent"
    assert "no differential privacy" in caplog.text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"evaluate_every": 0, "calibrate": False}, "set evaluate_every to 1"),
        ({"calibrate_severity": True}, "leave calibrate_severity out"),
        ({"privacy": {"noise_multiplier": 1.0, "moments": {}, "evaluation": {}}}, "is of target_epsilon"),
        ({"privacy": {"target_epsilon": 8.0, "moments": {}}}, "or privacy.evaluation"),
    ],
)
def test_a_study_that_could_not_keep_its_promise_is_refused_with_what_to_change(
    changes: dict[str, Any], words: str
) -> None:
    values = noised_plan().model_dump()
    with pytest.raises(ValidationError, match=words):
        RoundPlan.model_validate({**values, "federation": {**values["federation"], **changes}})


def test_the_judging_of_a_finished_model_has_no_noise_yet_and_says_so() -> None:
    values = noised_plan().model_dump()
    with pytest.raises(ValidationError, match=r"leave federation\.privacy out"):
        RoundPlan.model_validate({**values, "evaluation": {}})


def test_studies_without_it_have_the_digests_that_they_had() -> None:
    text = moments_plan().canonical_json()
    assert '"evaluation"' not in text
    assert Instruction(moments_plan(), 1, "m").plan.digest() == RoundPlan.model_validate_json(text).digest()
