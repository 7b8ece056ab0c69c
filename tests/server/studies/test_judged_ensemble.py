"""An ensemble judged at hospitals as one model, plainly and by secure sum, and what else passes for it nowhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from permmoe.calibration.calibrate import calibrate
from permmoe.calibration.calibration import CARD_KEY, Calibration
from permmoe.config import ModelConfig
from permmoe.ensemble import Ensemble, Network
from permmoe.errors import DataError
from permmoe.evaluation.combinations import combination_outputs
from permmoe.modality import all_combinations, combination_name
from permmoe_client.app import app as client_app
from permmoe_client.connection.identity import open_ledger
from permmoe_client.participation.site_visits import site_visits
from permmoe_client.site import read_site
from permmoe_server.provisioning import administration
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.studies.evaluation_commands import judged_table
from permmoe_server.studies.evaluation_file import EvaluationNumbers, read_evaluation_file
from permmoe_server.studies.judged_model import study_to_run
from tests.support.judged_models import (
    WITH_SPREAD,
    evaluation_of,
    judged_ensemble,
    judged_model,
    packed,
    tiny_evaluation,
    write_network,
)
from tests.support.secure_federation import SecureFederation, found
from tests.support.tiny_federation import MODEL, write_site

NAMES = ("north", "south", "west", "east", "mid")
COMBINATIONS = all_combinations(MODEL.names)
SECURE = {"secure": True, "secure_threshold": 0.5}


def judging(folder: Path, network: Ensemble, card: dict[str, Any] | None = None, **settings: Any) -> SecureFederation:
    plan = evaluation_of(network, **{"min_sites": 3, "max_failed_rounds": 1, **settings})
    federation = found(folder / "federation", plan, NAMES)
    write_network(federation.out / "judged", network, **(card or {}))
    return federation


def judged_here(federation: SecureFederation, app: ClientApp = client_app) -> EvaluationNumbers:
    federation.run(app)
    return read_evaluation_file(federation.out)


def one_by_one(network: Ensemble, site: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The reference, each member by itself on a site's visits: mean, SD of the mixture or 1 unit, and outcome."""
    data = site_visits(read_site(site), network.config)
    means, spreads = np.full((2, len(network.models), len(data), len(COMBINATIONS)), np.nan)
    for i, member in enumerate(network.models):
        for visits, columns, output in combination_outputs(member, data):
            means[i, visits, columns] = output.prediction.double().numpy()
            if output.spread is not None:
                spreads[i, visits, columns] = output.spread.double().numpy()
    unit = np.full(means.shape[1:], network.config.unit_points)
    scale = unit if network.config.spread == "none" else np.sqrt((spreads**2).mean(0) + means.var(0))
    return means.mean(0), scale, data.target.double().numpy()


def scores_here(federation: SecureFederation, network: Ensemble) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By combination, errors and scores on all visits of all hospitals, in one place."""
    each = [one_by_one(network, path) for path in federation.deployment.sites.values()]
    mean, scale = (np.concatenate([one[part] for one in each]) for part in (0, 1))
    error = mean - np.concatenate([outcome for _, _, outcome in each])[:, None]
    known = ~np.isnan(error)
    return {
        combination_name(c): (error[known[:, j], j], (np.abs(error) / scale)[known[:, j], j])
        for j, c in enumerate(COMBINATIONS)
    }


def a_calibration(folder: Path, network: Ensemble) -> Calibration:
    (folder / "elsewhere").mkdir()
    visits = site_visits(read_site(write_site(folder / "elsewhere", "west", visits=60)), network.config)
    made = calibrate(network, visits, source="elsewhere")
    assert made
    return made


@pytest.mark.parametrize(("config", "secure"), [(MODEL, {}), (WITH_SPREAD, {}), (WITH_SPREAD, SECURE)])
def test_figures_and_coverage_are_those_of_the_members_mean_on_the_hospitals_visits(
    config: ModelConfig, secure: dict[str, Any], tmp_path: Path
) -> None:
    network = judged_ensemble(config=config)
    calibration = a_calibration(tmp_path, network)
    assert calibration.scale == ("unit" if config.spread == "none" else "spread")
    card = {CARD_KEY: calibration.model_dump(mode="json")}
    federation = judging(tmp_path, network, card, calibrate=True, **secure)
    numbers, reference = judged_here(federation), scores_here(federation, network)
    counts = calibration.counts(MODEL.names)
    shares = 0
    for name, row in numbers.combinations.items():
        error, score = reference[name]
        # A secure sum has fixed point numbers.
        assert row.n == len(error) and (row.rmse, row.mae, row.bias) == pytest.approx(
            (np.sqrt((error**2).mean()), np.abs(error).mean(), error.mean()), rel=1e-4, abs=1e-5
        )
        combination = next(c for c in COMBINATIONS if combination_name(c) == name)
        for one in (c for c in row.coverage if c.basis == "combination"):
            share = (score <= counts.quantile(combination, one.level)).mean()
            assert one.least == pytest.approx(share) and one.most >= one.least, "where no bin is merged it is exact"
            assert not secure or one.most == one.least
            shares += 0 < share < 1
    assert shares and set(numbers.combinations) >= {"clinical", "gene"}
    assert str(judged_table(numbers).title).startswith("v0001 of study T (the mean of 3 models), judged on all visits")


def test_the_order_of_members_alters_no_figure_and_makes_another_model(tmp_path: Path) -> None:
    one, other = judged_ensemble((5, 6, 7)), judged_ensemble((7, 5, 6))
    assert packed(one).digest() != packed(other).digest()
    first, second = (judged_here(judging(tmp_path / str(i), network)) for i, network in enumerate((one, other)))
    assert first.combinations.keys() == second.combinations.keys()
    for name, row in first.combinations.items():
        assert (row.rmse, row.bias) == pytest.approx(
            (second.combinations[name].rmse, second.combinations[name].bias), rel=1e-5
        )


@pytest.mark.parametrize(
    "network",
    [judged_ensemble((5, 7, 6)), judged_ensemble((5, 6, 8)), judged_ensemble((5, 6)), judged_model()],
    ids=["swapped", "altered", "one fewer", "the first alone"],
)
def test_another_ensemble_in_the_studys_folder_is_sent_to_nobody(network: Network, tmp_path: Path) -> None:
    federation = judging(tmp_path, judged_ensemble())
    write_network(federation.out / "judged", network)
    with pytest.raises(DataError, match="not the one of the plan"):
        federation.run()
    assert not (federation.out / "rounds.jsonl").exists()


def test_a_card_that_names_other_members_than_it_has_is_an_error_before_anybody_is_asked(tmp_path: Path) -> None:
    federation = judging(tmp_path, judged_ensemble(), {"members": 2})
    with pytest.raises(DataError, match="not those of the model in its card"):
        federation.run()


def test_a_hospital_with_an_older_program_stays_out_and_the_coordinator_is_told_why(tmp_path: Path) -> None:
    federation, app = judging(tmp_path, judged_ensemble(), min_sites=2), ClientApp()
    old = str(federation.deployment.sites["south"])

    @app.evaluate()
    def older(message: Message, context: Context) -> Message:
        if context.node_config["site-config"] == old:
            settings = message.content["instruction"]
            # To a program that does not know the setting it is as strange as this one.
            settings["plan"] = str(settings["plan"]).replace('"members"', '"members-of-a-later-day"')
        return client_app(message, context)

    numbers = judged_here(federation, app)
    assert numbers.sites == ("east", "mid", "north", "west")
    [said] = numbers.left_out
    assert said == "south: The site cannot read what it was sent; its program may be older than the coordinator's."


def test_the_ledger_says_of_how_many_models_what_left_is_the_mean(tmp_path: Path) -> None:
    federation = judging(tmp_path, judged_ensemble())
    federation.run()
    ledger = open_ledger(read_site(federation.deployment.sites["west"]))
    assert ledger
    [entry] = [entry for entry in ledger.entries() if entry.kind == "evaluation"]
    assert entry.facts["members"] == 3 and entry.facts["model_sha256"] == packed(judged_ensemble()).digest()


def test_the_command_judges_the_ensemble_of_a_folder_with_our_card(tmp_path: Path) -> None:
    folder = FederationFolder(tmp_path / "federation")
    administration.init(folder, "Tiny", "127.0.0.1")
    (tmp_path / "study.yaml").write_text("name: judging\nevaluation: {visits: all, members: 7}\n")
    model = write_network(tmp_path / "elsewhere", judged_ensemble())
    study = study_to_run(folder, tmp_path / "study.yaml", str(model))
    assert study and study.plan.evaluation and study.plan.members == 3, "the card says how many"
    assert study.plan.evaluation.model_sha256 == packed(judged_ensemble()).digest()


def test_plans_of_single_models_are_as_they_were() -> None:
    plan = tiny_evaluation()
    assert "members" not in plan.canonical_json() and plan.members == 1
    assert plan.evaluation
    assert set(json.loads(plan.canonical_json())["evaluation"]) == {"visits", "model_sha256", "model_name"}
    assert evaluation_of(judged_ensemble()).digest() != plan.digest()
    with pytest.raises(ValueError, match="less than or equal to 20"):
        type(plan.evaluation)(members=21)
