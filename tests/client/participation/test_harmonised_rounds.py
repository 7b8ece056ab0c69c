"""The harmonising round and those after it, through the apps of sites and server: plainly and in the secure sum."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from permmoe.config import HarmonisationConfig, PrivacyConfig, RidgeConfig
from permmoe.data.dataset import VisitData
from permmoe.evaluation.combinations import combination_sums
from permmoe.evaluation.harmonised import harmonised
from permmoe.federated.modules import ModuleLayout, module_support
from permmoe.federated.plan import RoundPlan
from permmoe.model import PerMMoE
from permmoe.runtime.checkpoint import load_checkpoint
from permmoe.training.means import set_means
from permmoe.training.seeds import make_model
from permmoe.training.site_moments import set_site_moments
from permmoe_client.app import app as client_app
from permmoe_client.participation.site_visits import site_visits
from permmoe_client.release.consent import study_in_words
from permmoe_client.site import SiteConfig, read_site
from permmoe_server.app import app as server_app
from permmoe_simulation.engines.grid import run_in_process
from tests.support.secure_federation import SecureFederation, found
from tests.support.tiny_federation import MODEL, approve, tiny_plan, write_site

HARMONISED = MODEL.model_copy(
    update={"harmonisation": HarmonisationConfig(covariates=(), least_visits=15), "ridge": RidgeConfig(share=1.0)}
)
VISITS = {"north": 83, "south": 61, "west": 71, "east": 79}
LAYOUT = ModuleLayout.of(PerMMoE(HARMONISED))


def plan_of(rounds: int = 3, **federation: Any) -> RoundPlan:
    """Harmonise, centre, train."""
    plan = tiny_plan(rounds=rounds, centring_round=True, evaluate_every=0, **federation)
    values = plan.model_dump() | {"model": HARMONISED.model_dump()}
    values["federation"] |= {"harmonising_round": True}
    return RoundPlan.model_validate(values)


def run(folder: Path, plan: RoundPlan, visits: Mapping[str, int] = VISITS) -> dict[str, Tensor]:
    """The newest weights of a plain study at these sites, by module."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(plan.canonical_json())
    paths = [approve(site_with_scanner(folder, name, n), plan) for name, n in visits.items()]
    config = {"plan": str(folder / "plan.json"), "out": str(folder / "out")}
    run_in_process(server_app, client_app, [{"site-config": str(path)} for path in paths], config)
    kept, _ = load_checkpoint(folder / "out" / "last")
    newest = {name.removeprefix("weights:"): t for name, t in kept.items() if name.startswith("weights:")}
    return LAYOUT.flatten_all(newest)


def site_with_scanner(folder: Path, name: str, visits: int) -> Path:
    """A site whose scanner adds 0, 1, 2 or 3 to all inputs, by the place of its name in VISITS."""
    path = write_site(folder, name, visits=visits)
    table = pd.read_csv(folder / f"{name}.csv", dtype={"subject_id": str, "site": str})
    columns = [column for modality in HARMONISED.modalities for column in modality.columns]
    table[columns] += list(VISITS).index(name)
    table.to_csv(folder / f"{name}.csv", index=False)
    return path


def data_of(folder: Path, name: str) -> VisitData:
    return site_visits(read_site(folder / f"{name}.yaml"), HARMONISED)


def averaged(folder: Path, visits: Mapping[str, int] = VISITS) -> dict[str, Tensor]:
    """In one place: the model after both rounds that set means, from all sites' visits."""
    start = make_model(HARMONISED, tiny_plan().train.seed)
    weights = LAYOUT.flatten_all(start.state_dict())
    for is_centring in (False, True):
        total: dict[str, Tensor] = {}
        support: dict[str, float] = {}
        for name in visits:
            model = PerMMoE(HARMONISED)
            model.load_state_dict(LAYOUT.unflatten(weights))
            data = data_of(folder, name).part("train")
            if is_centring:
                assert model.harmonisation
                record = set_means(model, harmonised(model.harmonisation, data).data)
            else:
                record = set_site_moments(model, data)
            own = LAYOUT.flatten_all(model.state_dict())
            for module, n in module_support(HARMONISED, record.exposure).items():
                if n > 0:
                    total[module] = total.get(module, 0.0) + n * own[module]
                    support[module] = support.get(module, 0.0) + n
        weights |= {module: total[module] / support[module] for module in total}
    return weights


def test_a_federation_sets_the_moments_of_all_sites_and_then_the_ridge_of_harmonised_inputs(tmp_path: Path) -> None:
    newest, expected = run(tmp_path, plan_of(rounds=2)), averaged(tmp_path)
    told = [m for m in LAYOUT.modules if m.startswith(("harmonisation/", "ridge/"))]
    assert {"harmonisation/clinical", "harmonisation/gene", "ridge/gene"} <= set(told)
    for module in told:
        torch.testing.assert_close(newest[module], expected[module], atol=1e-4, rtol=1e-4)
    assert bool(newest["harmonisation/clinical"].any())


def test_training_leaves_alone_what_the_first_round_told(tmp_path: Path) -> None:
    two, five = run(tmp_path / "two", plan_of(rounds=2)), run(tmp_path / "five", plan_of(rounds=5))
    told = [m for m in LAYOUT.modules if m.startswith(("harmonisation/", "ridge/"))]
    assert all(torch.equal(two[module], five[module]) for module in told)
    assert not torch.equal(two["trunk"], five["trunk"])


def test_the_secure_sum_sets_the_same_and_shows_no_site(tmp_path: Path) -> None:
    names = ("north", "south", "west", "east")
    plan = plan_of(rounds=2, secure=True, min_sites=3, secure_threshold=0.5, max_failed_rounds=1)
    federation: SecureFederation = found(tmp_path, plan, names, visits=71)
    for name in names:
        site_with_scanner(tmp_path, name, 71)
    records = federation.run()
    assert [record["is_aggregated"] for record in records] == [True, True]
    # Fluid has too few sites to be released.
    newest, expected = LAYOUT.flatten_all(federation.weights()), averaged(tmp_path, dict.fromkeys(names, 71))
    for module in ("harmonisation/clinical", "harmonisation/gene", "ridge/clinical", "ridge/gene"):
        torch.testing.assert_close(newest[module], expected[module], atol=2e-4, rtol=2e-4)
    assert not bool(newest["harmonisation/fluid"].any())


def test_a_site_of_few_patients_says_that_it_stays_as_it_is_and_tells_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    few = VISITS | {"south": 13}
    with caplog.at_level(logging.WARNING, logger="permmoe.client"):
        newest = run(tmp_path, plan_of(rounds=2), few)
    said = [r.getMessage() for r in caplog.records if "stays as it is" in r.getMessage()]
    assert any(line.startswith("clinical is not harmonised here and stays as it is: ") for line in said)
    assert not any("south-" in line or str(tmp_path) in line for line in said)
    others = {name: n for name, n in few.items() if name != "south"}
    expected = averaged(tmp_path, others)
    torch.testing.assert_close(
        newest["harmonisation/clinical"], expected["harmonisation/clinical"], atol=1e-4, rtol=1e-4
    )


def test_a_site_evaluates_its_own_harmonised_visits(tmp_path: Path) -> None:
    plan = plan_of(rounds=2)
    plan = RoundPlan.model_validate(
        {**plan.model_dump(), "federation": plan.federation.model_dump() | {"evaluate_every": 2}}
    )
    weights = run(tmp_path, plan, {"north": 83, "south": 61})
    record = json.loads((tmp_path / "out" / "rounds.jsonl").read_text().splitlines()[-1])
    model = PerMMoE(HARMONISED)
    model.load_state_dict(LAYOUT.unflatten(weights))
    assert model.harmonisation
    own = harmonised(model.harmonisation, data_of(tmp_path, "north")).data.part("test")
    other = harmonised(model.harmonisation, data_of(tmp_path, "south")).data.part("test")
    sums = [combination_sums(model.eval(), data)["clinical"] for data in (own, other)]
    expected = sums[0] + sums[1]
    told = record["test"]["sums"]["clinical"]
    assert told["n"] == expected.n and told["squared"] == pytest.approx(expected.squared)


def test_words_of_a_study_say_what_of_images_leaves_and_what_stays() -> None:
    site = SiteConfig.model_validate({"name": "north", "manifest": "visits.csv", "cache": "cache"})
    lines = [line for section in study_in_words(plan_of(), site) for line in section.sentences]
    assert any("of each modality that 15 subjects or more have" in line and "No outcome" in line for line in lines)
    assert any(line.startswith("The second round trains nothing: the site sends means") for line in lines)
    assert any("what its own scanners add" in line and "stays here" in line for line in lines)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"federation": {"harmonising_round": False}}, "set federation.harmonising_round to true"),
        ({"model": {"harmonisation": None}}, "set federation.harmonising_round to true"),
        (
            {
                "federation": {"centring_round": False, "privacy": PrivacyConfig(noise_multiplier=1.0).model_dump()},
                "model": {"ridge": None},
            },
            "have no noise",
        ),
    ],
)
def test_a_harmonisation_without_its_round_or_with_privacy_is_refused(changes: dict[str, Any], said: str) -> None:
    values = plan_of().model_dump()
    for part, own in changes.items():
        values[part] = values[part] | own
    with pytest.raises(ValidationError, match=said):
        RoundPlan.model_validate(values)


def test_rounds_that_set_means_come_before_those_that_train() -> None:
    federation = plan_of().federation
    assert [federation.is_harmonising(n) for n in (1, 2, 3)] == [True, False, False]
    assert [federation.is_centring(n) for n in (1, 2, 3)] == [False, True, False]
    assert federation.first_supervised == 3 and federation.first_epoch(3) == 0
    assert "harmonising_round" not in tiny_plan().federation.model_dump()
    assert "harmonisation" not in MODEL.model_dump()
