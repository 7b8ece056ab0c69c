"""Rounds of pretraining: encoders are averaged over all scans of a federation, and an outcome is nobody's business."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from permmoe.federated.instructions import Instruction
from permmoe.federated.modules import ModuleLayout
from permmoe.federated.replies import TrainReply, write_train_reply
from permmoe.federated.training_figures import TrainingFigures
from permmoe.federated.update import ModuleUpdate
from permmoe.training.means import set_means
from permmoe.training.pretraining import pretrain
from permmoe.training.seeds import derive_seed, make_model
from permmoe_client.connection.identity import open_ledger
from permmoe_client.participation.query_order import QueryRefused, check_query, question_count
from permmoe_client.participation.running_site import RunningSites
from permmoe_client.participation.site_visits import site_visits
from permmoe_client.release.withdrawals import WithdrawalList
from permmoe_client.site import read_site
from permmoe_server.protocol.acceptance import RejectedReply, accept_training
from tests.support.scanned_federation import (
    HOSPITALS,
    HOW,
    LABELLED,
    UNLABELLED,
    newest_weights,
    provisioned,
    run_plainly,
    scanned_plan,
    write_hospitals,
)
from tests.support.scanned_patients import MODEL

ENCODERS = {"encoder/t1", "encoder/tau"}


def by_hand(folder: Path, rounds: int) -> dict[str, Tensor]:
    """The encoders behind the centring round and some rounds of pretraining: a loop over sites, and a mean."""
    plan = scanned_plan()
    layout, weights = ModuleLayout.of(make_model(MODEL, plan.train.seed)), {}
    current = layout.flatten_all(make_model(MODEL, plan.train.seed).state_dict())
    sites = {
        name: site_visits(read_site(path), MODEL, None, with_unlabelled=True)
        for name, path in write_hospitals(folder, plan).items()
    }
    for number in range(1, rounds + 2):
        changes: dict[str, list[tuple[float, Tensor]]] = {module: [] for module in ENCODERS}
        for name, data in sites.items():
            model = make_model(MODEL, 0)
            model.load_state_dict(layout.unflatten(current))
            if number == 1:
                record = set_means(model, data.part("train"))
            else:
                seed = derive_seed(plan.train.seed, name, number)
                record = pretrain(model, data.scans(), HOW, first_epoch=2 * (number - 2), epochs=2, seed=seed)
            for module in ENCODERS:
                support = record.exposure.observed[module.removeprefix("encoder/")]
                if support:
                    changes[module].append((support, layout.flatten(model.state_dict(), module) - current[module]))
        for module, found in changes.items():
            total = sum(support for support, _ in found)
            mean = torch.stack([support * change for support, change in found]).sum(0) / total
            weights[module] = current[module] + mean
        current |= weights
    return weights


def test_encoders_are_averaged_over_the_scans_of_the_sites_that_have_them_and_nothing_else_moves(
    tmp_path: Path,
) -> None:
    """Held against a loop over sites. A study of three rounds would learn no outcome: the fourth is left out of it."""
    plan = scanned_plan(rounds=4)
    records = run_plainly(tmp_path / "run", plan)
    expected = by_hand(tmp_path / "by-hand", rounds=2)
    for record in records[1:3]:
        sites = {site["site"]: site for site in record["sites"] if site["rejected"] is None}
        assert {name: set(site["modules"]) for name, site in sites.items()} == {
            "north": ENCODERS,
            "south": {"encoder/t1"},
        }
        assert [site["rejected"] for site in record["sites"] if site["site"] not in sites] == ["empty"]
        assert all(site["visits"] > LABELLED for site in sites.values())
        assert record["train_loss"] > 0
    layout = ModuleLayout.of(make_model(MODEL, 0))
    frozen = run_plainly(tmp_path / "frozen", scanned_plan(frozen=True, rounds=4))
    held = layout.flatten_all(dict(newest_weights(tmp_path / "frozen")))
    for module, values in expected.items():
        torch.testing.assert_close(held[module], values, atol=1e-5, rtol=1e-4)
    # Frozen encoders are neither sent nor averaged.
    assert all(not ENCODERS & set(site["modules"]) for site in frozen[3]["sites"])
    assert any("encoder/t1" in site["modules"] for site in records[3]["sites"])
    assert sum(s["bytes_up"] for s in frozen[3]["sites"]) < sum(s["bytes_up"] for s in records[3]["sites"])


def test_the_secure_sum_ends_with_the_same_encoders_and_masks_no_module_that_is_not_trained(tmp_path: Path) -> None:
    plan = scanned_plan(secure=True, min_holders=2, frozen=True)
    federation = provisioned(tmp_path / "secure", plan)
    records = federation.run()
    assert set(records[1]["released"]) | set(records[1]["withheld"]) == ENCODERS
    assert set(records[1]["released"]) == {"encoder/t1"}
    assert not ENCODERS & {*records[3]["released"], *records[3]["withheld"]}
    plain = scanned_plan(frozen=True)
    run_plainly(tmp_path / "plain", plain)
    secure, expected = federation.weights(), newest_weights(tmp_path / "plain")
    assert torch.equal(secure["encoders.t1.project.weight"], expected["encoders.t1.project.weight"])
    # Of tau a single site has scans, so that its sum would be its update.
    start = make_model(MODEL, plan.train.seed).state_dict()
    assert torch.equal(secure["encoders.tau.project.weight"], start["encoders.tau.project.weight"])
    up = [sum(site["bytes_up"] for site in record["sites"]) for record in records]
    # The centring round masks all modules.
    assert up[3] < up[0] and up[1] < up[0]


def test_a_study_without_pretraining_reads_nobody_without_an_outcome(tmp_path: Path) -> None:
    plan = scanned_plan(rounds=2, pretraining_rounds=0)
    for folder, unlabelled in ((tmp_path / "with", UNLABELLED), (tmp_path / "without", 0)):
        run_plainly(folder, plan, unlabelled=unlabelled)
    weights = [newest_weights(tmp_path / name) for name in ("with", "without")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_patients_without_an_outcome_are_in_no_round_that_learns_one_and_in_no_evaluation(tmp_path: Path) -> None:
    records = run_plainly(tmp_path, scanned_plan())
    by_round = {record["round"]: record for record in records}
    names = {site["site"] for site in by_round[4]["sites"]}
    assert names == set(HOSPITALS)
    for site in by_round[4]["sites"]:
        assert site["visits"] <= LABELLED
    assert [number for number, record in by_round.items() if record["validation"]] == [1, 4, 5]
    assert by_round[5]["test"]["sums"]["clinical"]["n"] <= 3 * LABELLED


def test_the_ledger_says_that_scans_alone_were_learned_from(tmp_path: Path) -> None:
    federation = provisioned(tmp_path, scanned_plan(rounds=4))
    federation.run()
    ledger = open_ledger(read_site(federation.deployment.sites["north"]))
    assert ledger
    entries = [entry for entry in ledger.of_study(federation.plan.digest()) if entry.kind == "training"]
    assert {e.facts["round"]: e.facts.get("of") for e in entries} == {
        1: None, 2: "scans alone", 3: "scans alone", 4: None,
    }  # fmt: skip


def test_a_patient_without_an_outcome_who_withdrew_is_not_learned_from_and_does_not_leave_alone(tmp_path: Path) -> None:
    plan = scanned_plan(rounds=4, min_cell_count=5)
    federation = provisioned(tmp_path, plan)
    federation.run()
    path = federation.deployment.sites["north"]

    def learned_from(number: int) -> set[str]:
        data = RunningSites().at(path).training_visits(plan, number)
        return {visit.subject_id for visit in data.visits}

    before = learned_from(2)
    gone = f"north-{LABELLED + 2}"
    assert gone in before and gone not in learned_from(4)
    ledger = open_ledger(read_site(path))
    assert ledger
    WithdrawalList(ledger).add((gone,))
    labelled = learned_from(4)
    after = learned_from(2)
    assert gone not in after and after < before
    # Others without an outcome leave with the patient, so that no comparison of pretrainings is about fewer than five;
    # and nobody with one does, whose trainings would then differ by fewer.
    assert len(before - after) >= 5 and not (before - after) & labelled
    assert learned_from(4) == labelled


def test_attack_no_two_trained_sets_differ_by_few_whoever_withdraws(tmp_path: Path) -> None:
    """With an outcome or without: each kind of round is held against itself. No sum left, which alone would tell the
    two apart in the site's account."""
    least = 5
    plan = scanned_plan(rounds=4, min_cell_count=least, centring_round=False, evaluate_every=0)
    federation = provisioned(tmp_path, plan)
    federation.run()
    path = federation.deployment.sites["north"]

    def sets() -> tuple[set[str], set[str]]:
        site = RunningSites().at(path)
        first, second = (site.training_visits(plan, number) for number in (2, 4))
        return {v.subject_id for v in first.visits}, {v.subject_id for v in second.visits}

    before = sets()
    ledger = open_ledger(read_site(path))
    assert ledger
    for pick in (LABELLED + 1, LABELLED + 12, next(i for i in range(LABELLED) if f"north-{i}" in before[1])):
        WithdrawalList(ledger).add((f"north-{pick}",))
        after = sets()
        for old, new in zip(before, after, strict=True):
            assert new <= old and (len(old - new) == 0 or len(old - new) >= least or not new)
        before = after


def test_a_site_is_asked_for_no_evaluation_of_a_model_that_learned_no_outcome() -> None:
    plan = scanned_plan()
    assert question_count(plan.federation) == (5, 4)
    with pytest.raises(QueryRefused, match="no validation after round 2"):
        check_query(Instruction(plan, 2, "ab", "validation"), "evaluation", ())
    check_query(Instruction(plan, 4, "ab", "validation"), "evaluation", ())


@pytest.mark.parametrize(
    ("number", "module", "is_accepted"),
    [(2, "encoder/t1", True), (2, "head", False), (2, "encoder/clinical", False),
     (4, "head", True), (4, "encoder/t1", False), (4, "encoder/clinical", True), (1, "head", True)],
)  # fmt: skip
def test_an_update_of_a_module_that_the_round_does_not_train_is_rejected(
    number: int, module: str, is_accepted: bool
) -> None:
    plan, layout = scanned_plan(frozen=True), ModuleLayout.of(make_model(MODEL, 0))
    update = ModuleUpdate(torch.zeros(layout.size(module)), 5.0)
    reply = TrainReply("north", number, "ab", {module: update}, TrainingFigures(visits=5.0))
    content = write_train_reply(reply)
    if is_accepted:
        assert set(accept_training(content, Instruction(plan, number, "ab"), layout, ()).updates) == {module}
        return
    with pytest.raises(RejectedReply, match="untrained_module"):
        accept_training(content, Instruction(plan, number, "ab"), layout, ())


@pytest.mark.parametrize(
    ("federation", "message"),
    [
        ({"rounds": 3}, "learn no outcome"),
        ({"max_staleness": 1}, "max_staleness"),
        ({"evaluate_every": 0, "centring_round": False, "privacy": {"noise_multiplier": 1.0}}, "account"),
    ],
)
def test_pretraining_that_cannot_work_is_refused(federation: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scanned_plan(**federation)


def test_the_servers_momentum_begins_behind_the_pretraining_and_epochs_are_counted_anew() -> None:
    federation = scanned_plan(server_optimiser="fedavgm", server_learning_rate=0.5).federation
    rounds = [federation.of_round(number) for number in range(1, 6)]
    assert [one.server_optimiser for one in rounds] == ["fedavg"] * 3 + ["fedavgm"] * 2
    assert [one.server_learning_rate for one in rounds] == [1.0] * 3 + [0.5] * 2
    assert [federation.first_epoch(number) for number in range(2, 6)] == [0, 2, 0, 2]


def test_rounds_and_the_way_they_learn_go_together() -> None:
    values = json.loads(scanned_plan().canonical_json())
    del values["federation"]["pretraining_rounds"]
    with pytest.raises(ValueError, match="set both"):
        type(scanned_plan()).model_validate(values)
