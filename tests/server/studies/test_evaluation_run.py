"""A finished model judged at hospitals, through the apps of server and sites, plainly and by secure sum."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from permmoe.errors import DataError
from permmoe.evaluation.combinations import combination_predictions
from permmoe.federated.plan import RoundPlan
from permmoe.modality import all_combinations, combination_name
from permmoe_client.app import app as client_app
from permmoe_client.connection.identity import load_certificate, open_ledger
from permmoe_client.participation.site_visits import site_visits
from permmoe_client.site import read_site
from permmoe_server.app import app as server_app
from permmoe_server.protocol.readiness import NoQuorum
from permmoe_server.studies.evaluation_file import EvaluationNumbers, read_evaluation_file
from permmoe_simulation.engines.grid import run_in_process
from tests.support.judged_models import judged_model, tiny_evaluation, write_model
from tests.support.secure_federation import SecureFederation, found
from tests.support.tiny_federation import MODEL, SITES, approve, tiny_plan, write_site

NAMES = ("north", "south", "west", "east", "mid")


def sites_of(folder: Path, plan: RoundPlan, *, unapproved: tuple[str, ...] = ()) -> list[Path]:
    paths = {name: write_site(folder, name, visits=40) for name in SITES}
    return [path if name in unapproved else approve(path, plan) for name, path in paths.items()]


def judge(folder: Path, plan: RoundPlan, sites: list[Path], app: ClientApp = client_app) -> EvaluationNumbers:
    (folder / "plan.json").write_text(plan.canonical_json())
    write_model(folder / "out" / "judged")
    run = {"plan": str(folder / "plan.json"), "out": str(folder / "out")}
    run_in_process(server_app, app, [{"site-config": str(path)} for path in sites], run)
    return read_evaluation_file(folder / "out")


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out" / "rounds.jsonl").read_text().splitlines()]


def errors_here(sites: list[Path], part: str) -> dict[str, np.ndarray]:
    """The reference: errors of the very model on all visits of the sites, or on their test visits."""
    found: dict[str, list[np.ndarray]] = {}
    for path in sites:
        data = site_visits(read_site(path), MODEL)
        data = data if part == "all" else data.part("test")
        error = combination_predictions(judged_model(), data) - data.target.double().numpy()[:, None]
        for j, c in enumerate(all_combinations(data.names)):
            found.setdefault(combination_name(c), []).append(error[~np.isnan(error[:, j]), j])
    return {name: np.concatenate(parts) for name, parts in found.items()}


@pytest.mark.parametrize("visits", ["all", "test"])
def test_figures_are_those_of_the_model_on_the_hospitals_visits(visits: Any, tmp_path: Path) -> None:
    plan = tiny_evaluation(visits=visits, min_sites=3)
    sites = sites_of(tmp_path, plan)
    numbers = judge(tmp_path, plan, sites)
    reference = errors_here(sites, visits)
    assert numbers.combinations.keys() == {name for name, error in reference.items() if len(error)}
    for name, row in numbers.combinations.items():
        error = reference[name]
        assert row.n == len(error)
        assert row.rmse == pytest.approx(np.sqrt((error**2).mean()))
        assert (row.mae, row.bias) == pytest.approx((np.abs(error).mean(), error.mean()))
    assert numbers.sites == tuple(sorted(SITES)) and not numbers.left_out
    clinical = numbers.combinations["clinical"]
    assert clinical.rmse_interval and clinical.rmse_interval[0] < clinical.rmse < clinical.rmse_interval[1]
    [record] = records(tmp_path)
    assert record["is_aggregated"] and record["visits"] == 0 and record["test"]["sums"]
    assert not (tmp_path / "out" / "model").exists() and not (tmp_path / "out" / "last").exists()


def test_a_hospital_that_approved_the_training_alone_stays_out_and_nothing_is_lost(tmp_path: Path) -> None:
    plan = tiny_evaluation(min_sites=2)
    sites = sites_of(tmp_path, plan, unapproved=("south",))
    approve(sites[1], tiny_plan())
    numbers = judge(tmp_path, plan, sites)
    assert numbers.sites == ("north", "west")
    [said] = numbers.left_out
    assert said.endswith("The hospital has not approved this study yet; ask it to.")
    assert [site["rejected"] for site in records(tmp_path)[0]["sites"]].count("StudyNotApproved") == 1


def test_an_evaluation_that_failed_for_want_of_approvals_goes_on(tmp_path: Path) -> None:
    plan = tiny_evaluation(min_sites=3, max_failed_rounds=1)
    sites = sites_of(tmp_path, plan, unapproved=("south",))
    with pytest.raises(NoQuorum, match="usable replies of fewer than 3 hospitals"):
        judge(tmp_path, plan, sites)
    approve(sites[1], plan)
    # Those who have answered answer again.
    assert judge(tmp_path, plan, sites).combinations["clinical"].n == 120
    assert [record["is_aggregated"] for record in records(tmp_path)] == [False, True]


def test_a_finished_evaluation_asks_nobody_again(tmp_path: Path) -> None:
    plan, asked = tiny_evaluation(min_sites=3), list[int]()
    sites, app = sites_of(tmp_path, plan), ClientApp()

    @app.evaluate()
    def counted(message: Message, context: Context) -> Message:
        asked.append(context.node_id)
        return client_app(message, context)

    first = judge(tmp_path, plan, sites, app)
    assert judge(tmp_path, plan, sites, app) == first and len(asked) == 3


def test_another_model_in_the_studys_folder_is_sent_to_nobody(tmp_path: Path) -> None:
    plan = tiny_evaluation(min_sites=1, seed=6)
    with pytest.raises(DataError, match="not the one of the plan"):
        judge(tmp_path, plan, sites_of(tmp_path, plan))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda content: content.pop("further"), "further_sums"),
        (lambda content: content["further"].update({"clinical": [1e6, 1.0]}), "further_sums"),
        (lambda content: content["further"].update({"clinical": [1.0]}), "further_sums"),
        (lambda content: content["sums"].update({"clinical": [2e9, 1.0, 1.0, 1.0, 1.0]}), "evaluated_visits"),
    ],
)
def test_a_reply_that_no_honest_site_sends_is_left_out(change: Any, rule: str, tmp_path: Path) -> None:
    plan = tiny_evaluation(min_sites=2)
    sites, app = sites_of(tmp_path, plan), ClientApp()

    @app.evaluate()
    def changed(message: Message, context: Context) -> Message:
        reply = client_app(message, context)
        if context.node_config["site-config"] == str(sites[0]):
            change(reply.content)
        return reply

    assert judge(tmp_path, plan, sites, app).sites == ("south", "west")
    assert [site["rejected"] for site in records(tmp_path)[0]["sites"] if site["rejected"]] == [rule]


def secure(folder: Path, **settings: Any) -> SecureFederation:
    plan = tiny_evaluation(secure=True, min_sites=3, secure_threshold=0.5, max_failed_rounds=1, **settings)
    federation = found(folder, plan, NAMES)
    write_model(federation.out / "judged")
    return federation


def test_a_secure_evaluation_has_the_figures_of_a_plain_one_where_three_hospitals_have_the_combination(
    tmp_path: Path,
) -> None:
    federation = secure(tmp_path)
    [record] = federation.run()
    numbers = read_evaluation_file(federation.out)
    reference = errors_here([*federation.deployment.sites.values()], "all")
    # Three sites have gene data, three fluid data, and two have both.
    assert set(numbers.combinations) == {"clinical", "fluid", "gene", "clinical+fluid", "clinical+gene"}
    for name, row in numbers.combinations.items():
        assert row.n == len(reference[name])
        assert (row.rmse, row.bias) == pytest.approx(
            (np.sqrt((reference[name] ** 2).mean()), reference[name].mean()), rel=1e-4
        )
    assert record["is_secure"] and numbers.sites == tuple(sorted(NAMES))


def test_the_ledger_and_the_chain_say_which_model_was_judged_on_which_visits(tmp_path: Path) -> None:
    federation = secure(tmp_path)
    federation.run()
    ledger = open_ledger(read_site(federation.deployment.sites["west"]))
    assert ledger
    asked = federation.plan.evaluation
    assert asked
    [entry] = [entry for entry in ledger.entries() if entry.kind == "evaluation"]
    assert entry.facts["model_sha256"] == asked.model_sha256 and entry.facts["visits"] == "all"
    authority = load_certificate(federation.deployment.folder.authority)
    [link] = ledger.verify(authority).chains[federation.plan.digest()].links
    assert (link.round, link.purpose, link.model) == (1, "test", asked.model_sha256)
