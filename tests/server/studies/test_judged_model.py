"""Which model an evaluation judges, and the study that follows from a command's words."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from permmoe.errors import ConfigurationError, DataError
from permmoe.evaluation.combinations import ErrorSums
from permmoe.evaluation.further_sums import FurtherSums
from permmoe.federated.observed_coverage import Coverage
from permmoe_server.cli import app
from permmoe_server.provisioning import administration
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.studies import registry
from permmoe_server.studies.evaluation_file import EvaluationNumbers, judged, write_evaluation_file
from permmoe_server.studies.judged_model import load_judged, study_to_run
from permmoe_server.studies.study_folder import current_study, keep_judged, keep_study
from tests.support.judged_models import judged_model, packed, write_model
from tests.support.tiny_federation import MODEL, tiny_plan

NOW = datetime(2026, 3, 5, 7, 11, tzinfo=UTC)
COVERAGES = {
    "clinical": (
        Coverage(level=0.8, least=0.749, most=0.825, basis="combination"),
        Coverage(level=0.95, least=0.95, most=0.95, basis="combination"),
    ),
    "gene": (Coverage(level=0.8, least=5 / 7, most=5 / 7, basis="pooled"),),
}
STUDY = "name: judging\nevaluation: {visits: all}\nfederation: {min_sites: 2, rounds: 1}\n"


@pytest.fixture
def folder(tmp_path: Path) -> FederationFolder:
    made = FederationFolder(tmp_path / "federation")
    administration.init(made, "Tiny", "127.0.0.1")
    return made


def study_file(tmp_path: Path, text: str = STUDY) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return path


def test_a_folder_with_our_card_is_judged_with_the_settings_of_the_file(
    folder: FederationFolder, tmp_path: Path
) -> None:
    study = study_to_run(folder, study_file(tmp_path), str(write_model(tmp_path / "elsewhere")))
    assert study and study.plan.evaluation and study.plan.model == MODEL
    assert study.plan.evaluation.model_sha256 == packed(judged_model()).digest()
    assert (study.plan.evaluation.visits, study.plan.evaluation.model_name) == ("all", "elsewhere")
    assert study.plan.federation.min_sites == 2 and study.plan.kind == "evaluation"
    assert not folder.studies.exists(), "a start that is refused changes nothing"


def test_a_registered_model_is_judged_with_the_very_file_of_the_study_that_trained_it(
    folder: FederationFolder, tmp_path: Path
) -> None:
    plan = tiny_plan(server_optimiser="fedadam").model_copy(update={"outcome": "change in two years", "name": "T"})
    dumped = plan.model_dump(mode="json")
    trained = write_model(tmp_path / "model", plan=dumped, round=3, validation_mse=1.5)
    version = registry.register(folder, trained, NOW)
    file = study_file(tmp_path, plan.canonical_json())
    study = study_to_run(folder, file, version.name)
    assert study and study.plan.evaluation and study.plan.evaluation.model_name == f"{version.name} of study T"
    assert (study.plan.evaluation.visits, study.plan.outcome) == ("test", "change in two years")
    assert (study.plan.federation.rounds, study.plan.federation.server_optimiser) == (1, "fedavg")
    assert study.plan.digest() != plan.digest()


@pytest.mark.parametrize("is_calibrated", [True, False])
def test_sizes_of_errors_are_asked_for_only_where_the_file_says_so_and_the_card_has_a_calibration(
    is_calibrated: bool, folder: FederationFolder, tmp_path: Path
) -> None:
    card = {"calibration": {"unit_points": MODEL.unit_points, "scores": {}, "visits": [0], "sites": {"all": [0]}}}
    model = str(write_model(tmp_path / "elsewhere", **(card if is_calibrated else {})))
    asking = study_file(tmp_path, STUDY.replace("rounds: 1", "rounds: 1, calibrate: true"))
    asked = study_to_run(folder, asking, model)
    assert asked and asked.plan.federation.calibrate == is_calibrated
    silent = study_to_run(folder, study_file(tmp_path), model)
    assert silent and not silent.plan.federation.calibrate
    assert (asked.plan.digest() == silent.plan.digest()) != is_calibrated


def test_the_model_is_kept_with_its_study_and_the_study_goes_on_without_being_named(
    folder: FederationFolder, tmp_path: Path
) -> None:
    study = study_to_run(folder, study_file(tmp_path), str(write_model(tmp_path / "elsewhere")))
    assert study
    keep_judged(study)
    keep_study(folder, study)
    keep_judged(study)
    again = study_to_run(folder, None, None)
    assert again == current_study(folder) and again and again.plan == study.plan
    assert load_judged(again.judged).packed.digest() == packed(judged_model()).digest()


@pytest.mark.parametrize(
    ("text", "model", "said"),
    [
        (STUDY, "v0007", "neither a registered model"),
        (STUDY, None, "names no model; add --evaluate"),
        ("name: a\nsurvey: {}\n", "elsewhere", "which judges no model"),
        ("name: a\nmodel: {tokens: 4}\n", "elsewhere", "describes another model"),
        ("name: a\nfederation: {privacy: {}}\n", "elsewhere", "privacy"),
    ],
)
def test_what_cannot_be_judged_is_said(
    text: str, model: str | None, said: str, folder: FederationFolder, tmp_path: Path
) -> None:
    write_model(tmp_path / "elsewhere")
    named = str(tmp_path / model) if model == "elsewhere" else model
    with pytest.raises(ConfigurationError, match=said):
        study_to_run(folder, study_file(tmp_path, text), named)


def test_a_model_without_a_study_file_or_with_other_tensors_is_refused(
    folder: FederationFolder, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="needs --study"):
        study_to_run(folder, None, "v0001")
    wrong = write_model(tmp_path / "wrong", model=MODEL.model_copy(update={"tokens": 5}).model_dump(mode="json"))
    with pytest.raises(DataError, match="not those of the model in its card"):
        load_judged(wrong)
    for members, said in ((3, "not those of the model in its card"), (21, "names no number of members")):
        with pytest.raises(DataError, match=said):
            load_judged(write_model(tmp_path / f"of {members}", members=members))


def test_judged_models_are_shown_with_what_limits_them(folder: FederationFolder, tmp_path: Path) -> None:
    study = study_to_run(folder, study_file(tmp_path), str(write_model(tmp_path / "elsewhere")))
    assert study
    assert "no model was judged yet" in str(CliRunner().invoke(app, ["models", "judged", str(folder.path)]).exception)
    keep_judged(study)
    keep_study(folder, study)
    sums = {"clinical": ErrorSums(40, 90.0, 50.0, 30.0, 70.0), "gene": ErrorSums(7, 9.0, 5.0, 3.0, 7.0)}
    further = {"clinical": FurtherSums(-20.0, 400.0), "gene": FurtherSums(1.0, 30.0)}
    numbers = EvaluationNumbers(
        plan=study.plan, finished=NOW, sites=("north", "west"), left_out=("south: It slept.",), seconds=3.0,
        combinations=judged(sums, further, COVERAGES), has_calibration=True,
    )  # fmt: skip
    write_evaluation_file(study.folder, numbers)
    shown = CliRunner().invoke(app, ["models", "judged", str(folder.path), "elsewhere"]).output
    assert "judged on all visits of 2 hospitals" in shown and "1.50 (" in shown and "-0.50 (" in shown
    assert "1.13 " in shown and "1.13 (" not in shown, "seven patients have no interval"
    assert "in 80%" in shown and " 74-83% " in shown and " 95% " in shown and " 71%* " in shown
    assert "A range: hospitals count errors" in shown and "the one pooled over all" in shown
    assert "Left out: south: It slept." in shown and "another hospital may differ" in shown
    listed = CliRunner().invoke(app, ["study", "list", str(folder.path)]).output
    assert "evaluation" in listed and "0 of 1" in listed
