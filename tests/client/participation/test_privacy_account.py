"""A site's privacy account: what is written, what it adds up to, and where it stops."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from permmoe.federated.accounting import epsilon
from permmoe.federated.plan import RoundPlan
from permmoe.runtime.files import UNFINISHED_PREFIX
from permmoe_client.connection.identity import open_ledger
from permmoe_client.participation.privacy_account import account, exposure_from, spent_so_far
from permmoe_client.release.ledger import Ledger
from permmoe_client.site import read_site
from permmoe_server.protocol.readiness import NoQuorum
from tests.support.secure_federation import SecureFederation, found
from tests.support.synced_files import record_synced_files
from tests.support.tiny_federation import tiny_plan

NAMES = ("north", "south", "west")
TARGET = 1.0


def private_plan(rounds: int, **changes: Any) -> RoundPlan:
    """A study that names its noise: to find the noise that keeps a target takes a site seconds."""
    privacy = {"noise_multiplier": 2.0, "patients_per_step": 8, "count_noise": 1.0}
    return tiny_plan(rounds=rounds, evaluate_every=0, max_failed_rounds=1, **{"privacy": privacy, **changes})


def ledger_of(federation: SecureFederation, site: str) -> Ledger:
    ledger = open_ledger(read_site(federation.deployment.sites[site]))
    assert ledger
    return ledger


def test_a_whole_study_costs_each_site_its_target_and_no_more(tmp_path: Path) -> None:
    # With this seed one site samples its patients and the other takes all each time, which is quickly accounted.
    privacy = {"target_epsilon": TARGET, "patients_per_step": 20, "count_noise": 8.0}
    federation = found(tmp_path, private_plan(rounds=2, privacy=privacy), NAMES[:2], insecure_noise_seed=5)
    records = federation.run()
    assert all(record["is_aggregated"] for record in records)
    rates = set()
    for name in federation.names:
        entries = list(ledger_of(federation, name).entries())
        spent = spent_so_far(entries)
        assert len(spent) == 3, "two rounds, and the counts once"
        rates |= {part.sample_rate for part in spent[1:]}
        assert 0.9 * TARGET < epsilon(spent, 1e-5) <= TARGET
        assert account(ledger_of(federation, name), 1e-5) == pytest.approx(epsilon(spent, 1e-5))
    assert len(rates) == 2 and min(rates) < max(rates) == 1


def test_the_next_round_over_the_budget_is_not_begun_and_restarts_change_nothing(tmp_path: Path) -> None:
    # A step on nearly all patients is accounted faster than one on a few.
    plan = private_plan(rounds=40, privacy={"noise_multiplier": 2.0, "patients_per_step": 20, "count_noise": 1.0})
    budget = {"epsilon": 9.0, "delta": 1e-5}
    federation = found(tmp_path, plan, NAMES, privacy_budget=budget, insecure_noise_seed=3)
    with pytest.raises(NoQuorum):
        federation.run()
    done = [len(list(ledger_of(federation, name).entries())) for name in NAMES]
    assert all(0 < n < 40 for n in done)
    with pytest.raises(NoQuorum):
        federation.run()
    for name, n in zip(NAMES, done, strict=True):
        assert len(list(ledger_of(federation, name).entries())) == n
        assert account(ledger_of(federation, name), budget["delta"]) <= budget["epsilon"]


def test_a_site_with_a_budget_trains_no_study_without_privacy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    federation = found(tmp_path, tiny_plan(max_failed_rounds=1), NAMES, privacy_budget={"epsilon": 1.0})
    with pytest.raises(NoQuorum):
        federation.run()
    assert "its cost has no bound" in caplog.text


def test_what_left_without_privacy_makes_the_account_infinite(tmp_path: Path) -> None:
    federation = found(tmp_path, tiny_plan(rounds=1), NAMES)
    federation.run()
    assert account(ledger_of(federation, "north"), 1e-5) == math.inf


def test_counts_are_drawn_once_a_study_and_carry_noise(tmp_path: Path) -> None:
    federation = found(tmp_path, private_plan(rounds=2), NAMES)
    records = federation.run()
    first, second = ({s["site"]: s["visits"] for s in r["sites"]} for r in records)
    assert first == second and all(not float(n).is_integer() for n in first.values())


def test_counts_are_on_the_disk_before_anything_of_them_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts that a power cut takes back would be drawn, and so spent, again."""
    federation = found(tmp_path, private_plan(rounds=1), NAMES[:1])
    synced = record_synced_files(monkeypatch)
    federation.run()
    [folder] = {ledger_of(federation, "north").path.parent}
    [counts] = folder.glob("counts-*.json")
    assert counts.stat().st_mode & 0o777 == 0o600
    before_entry = synced[: synced.index("ledger.jsonl")]
    [unfinished] = [name for name in before_entry if name.startswith(UNFINISHED_PREFIX)]
    # The content first, then the name that it was given.
    assert folder.name in before_entry[before_entry.index(unfinished) :]


def test_noise_and_samples_do_not_follow_from_what_the_coordinator_knows(tmp_path: Path) -> None:
    one, other = (found(tmp_path / name, private_plan(rounds=1), NAMES) for name in ("one", "other"))
    one.run()
    other.run()
    assert any(not (one.weights()[name] == other.weights()[name]).all() for name in one.weights())


def test_a_simulation_may_name_a_seed_and_is_then_reproducible(tmp_path: Path) -> None:
    runs = [found(tmp_path / n, private_plan(rounds=1), NAMES, insecure_noise_seed=7) for n in ("one", "other")]
    for federation in runs:
        federation.run()
    assert all((runs[0].weights()[name] == runs[1].weights()[name]).all() for name in runs[0].weights())


def test_expected_exposure_counts_modality_dropout_as_it_happens_on_average() -> None:
    plan = tiny_plan()
    rate = plan.train.modality_dropout
    exposure = exposure_from({0b011: 100.0, 0b100: 10.0}, plan)
    assert exposure.visits == pytest.approx(110.0) == pytest.approx(sum(exposure.patterns.values()))
    both = (1 - rate) ** 2 + rate**2
    assert exposure.patterns[0b011] == pytest.approx(100 * both)
    assert exposure.observed["gene"] == pytest.approx(10.0) and exposure.imputed["gene"] == pytest.approx(100.0)


def test_privacy_and_the_secure_sum_go_together(tmp_path: Path) -> None:
    federation = found(tmp_path, private_plan(rounds=2, secure=True, min_sites=3, secure_threshold=0.5), NAMES)
    records = federation.run()
    assert all(record["is_aggregated"] and record["is_secure"] for record in records)
    assert all(math.isnan(record["train_loss"]) for record in records)
