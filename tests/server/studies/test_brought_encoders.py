"""Encoders that every hospital has from a file: they begin the study, and frozen ones are in no message."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from permmoe.config import EncoderWeights, read_config
from permmoe.encoder_weights import write_encoder_weights
from permmoe.errors import ConfigurationError
from permmoe.federated.plan import RoundPlan
from permmoe.training.seeds import make_model
from permmoe_client.app import SITES
from permmoe_client.app import app as client_app
from permmoe_client.participation.dry_run import dry_run
from permmoe_client.site import read_site
from permmoe_server.app import app as server_app
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.studies.study_folder import find_study, keep_study
from permmoe_simulation.engines.grid import run_in_process
from permmoe_simulation.engines.local_deployment import deploy
from tests.support.scanned_federation import hospital_settings, newest_weights, scanned_plan, write_hospitals
from tests.support.scanned_patients import MODEL
from tests.support.secure_federation import SecureFederation

FILE = "encoders.safetensors"
ENCODERS = {"encoder/t1", "encoder/tau"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the file."""
    folder = tmp_path_factory.mktemp("weights")
    write_encoder_weights(make_model(MODEL, 99), folder / FILE, licence="CC-BY-4.0", source="invented patients")
    return folder


def brought_plan(weights: Path, *, frozen: bool = True, **federation: object) -> RoundPlan:
    plan = scanned_plan(rounds=3, pretraining_rounds=0, **federation)
    digest = hashlib.sha256((weights / FILE).read_bytes()).hexdigest()
    named = EncoderWeights(file=FILE, sha256=digest, licence="CC-BY-4.0")
    encoder = plan.model.encoder.model_copy(update={"weights": named})
    changed = {
        "model": plan.model.model_copy(update={"encoder": encoder}),
        "train": plan.train.model_copy(update={"frozen_encoders": frozen}),
    }
    return RoundPlan.model_validate(plan.model_copy(update=changed).model_dump())


def run_with(folder: Path, plan: RoundPlan, weights: Path, without: str = "") -> list[dict[str, Any]]:
    """Run the study plainly; every site but `without` has the file, and so has the study's folder."""
    SITES.forget()
    files = write_hospitals(folder, plan)
    for name, path in files.items():
        site = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump(site | ({} if name == without else {"weights": str(weights)})))
    if plan.model.encoder.weights:
        shutil.copytree(weights, folder / "out" / "weights")
    (folder / "plan.json").write_text(plan.canonical_json())
    nodes = [{"site-config": str(path)} for path in files.values()]
    settings = {"plan": str(folder / "plan.json"), "out": str(folder / "out")}
    run_in_process(server_app, client_app, nodes, settings)
    return [json.loads(line) for line in (folder / "out" / "rounds.jsonl").read_text().splitlines()]


def test_frozen_encoders_are_those_of_the_file_and_in_no_message(weights: Path, tmp_path: Path) -> None:
    frozen = run_with(tmp_path / "frozen", brought_plan(weights), weights)
    plain = run_with(tmp_path / "plain", scanned_plan(rounds=3, pretraining_rounds=0), weights)
    file = make_model(MODEL, 99).state_dict()
    for name, value in newest_weights(tmp_path / "frozen").items():
        if name.startswith(("encoders.t1", "encoders.tau")):
            assert torch.equal(value, file[name]), name
    for one, other in zip(frozen, plain, strict=True):
        assert one["is_aggregated"] and not any(ENCODERS & set(site["modules"]) for site in one["sites"])
        for a, b in zip(one["sites"], other["sites"], strict=True):
            assert a["rejected"] is None
            # Later rounds begin with a model that sites have evaluated.
            if one["round"] == 1:
                assert a["bytes_down"] < b["bytes_down"]
            if a["site"] == "north":
                assert a["bytes_up"] < b["bytes_up"]


def test_encoders_that_are_fine_tuned_begin_with_the_file_and_are_averaged(weights: Path, tmp_path: Path) -> None:
    records = run_with(tmp_path, brought_plan(weights, frozen=False), weights)
    assert all(record["is_aggregated"] for record in records)
    assert any("encoder/t1" in site["modules"] for site in records[1]["sites"])
    found, file = newest_weights(tmp_path), make_model(MODEL, 99).state_dict()
    weight, centre = "encoders.t1.project.weight", "encoders.t1.features.centre"
    assert not torch.equal(found[weight], file[weight])
    fresh = make_model(MODEL, 17).state_dict()[weight]
    assert (found[weight] - file[weight]).norm() < (found[weight] - fresh).norm() / 2
    assert torch.equal(found[centre], file[centre])


def test_a_site_without_the_file_is_left_out_and_its_own_log_says_what_to_do(
    weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "permmoe.client"):
        records = run_with(tmp_path, brought_plan(weights), weights, without="south")
    for record in records:
        rejected = {site["site"] or site["node"]: site["rejected"] for site in record["sites"] if site["rejected"]}
        assert list(rejected.values()) == ["ConfigurationError"] and record["is_aggregated"]
    assert "names it as 'weights' in site.yaml" in caplog.text
    assert str(weights) not in caplog.text


def test_the_secure_sum_ends_with_the_same_weights_and_sends_no_frozen_encoder(weights: Path, tmp_path: Path) -> None:
    plan = brought_plan(weights, secure=True, min_holders=2)
    own = {
        name: {**settings, "weights": str(weights)}
        for name, settings in hospital_settings(tmp_path / "secure", plan).items()
    }
    federation = SecureFederation(tmp_path / "secure", plan, deploy(tmp_path / "secure", "Scanned", own))
    shutil.copytree(weights, federation.out / "weights")
    records = federation.run()
    assert not ENCODERS & {*records[1]["released"], *records[1]["withheld"]}
    file = make_model(MODEL, 99).state_dict()["encoders.tau.project.weight"]
    assert torch.equal(federation.weights()["encoders.tau.project.weight"], file)
    assert records[-1]["validation"]["sums"]


def test_a_study_keeps_the_file_beside_its_plan_and_refuses_another(weights: Path, tmp_path: Path) -> None:
    plan = brought_plan(weights)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(json.loads(plan.canonical_json())))
    folder = FederationFolder(tmp_path / "federation")
    study = find_study(folder, tmp_path / "study.yaml")
    assert study and study.plan == read_config(tmp_path / "study.yaml", RoundPlan)
    with pytest.raises(ConfigurationError, match="there is no"):
        keep_study(folder, study)
    assert not study.folder.exists()
    (tmp_path / FILE).write_bytes(b"another")
    with pytest.raises(ConfigurationError, match="has SHA-256"):
        keep_study(folder, study)
    shutil.copy(weights / FILE, tmp_path / FILE)
    keep_study(folder, study)
    (tmp_path / FILE).unlink()
    # From then on the study has its own.
    again = find_study(folder, None)
    assert again
    keep_study(folder, again)
    assert (again.weights / FILE).read_bytes() == (weights / FILE).read_bytes()


def test_a_rehearsal_begins_with_the_sites_own_file(weights: Path, tmp_path: Path) -> None:
    plan = brought_plan(weights)
    path = write_hospitals(tmp_path, plan)["north"]
    with pytest.raises(ConfigurationError, match=r"'weights' in site\.yaml"):
        dry_run(read_site(path), plan, tmp_path / "without")
    path.write_text(path.read_text() + f"weights: {weights}\n")
    dry_run(read_site(path), plan, tmp_path / "rehearsed")
    support = json.loads((tmp_path / "rehearsed" / "training.json").read_text())["support"]
    assert "head" in support and not ENCODERS & set(support)


def test_frozen_encoders_and_differential_privacy_are_refused_together(weights: Path) -> None:
    privacy = {"privacy": {"noise_multiplier": 1.0}, "centring_round": False, "evaluate_every": 0}
    with pytest.raises(ValueError, match="frozen_encoders"):
        brought_plan(weights, **privacy)
