"""`permmoe-server survey` without a coordinator: what it shows of a finished survey, and what it refuses at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from permmoe.config import read_config
from permmoe.errors import PermmoeError
from permmoe.federated.plan import RoundPlan
from permmoe_server.cli import app
from permmoe_server.provisioning.administration import init
from permmoe_server.provisioning.federation_folder import FederationFolder
from permmoe_server.studies.study_folder import keep_study, study_of
from permmoe_server.studies.survey_file import write_survey_file
from tests.support.survey_numbers import survey_numbers, write_power
from tests.support.tiny_federation import tiny_plan

ROOT = Path(__file__).parents[3]


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """The folder of a federation with a finished survey, whose file is survey.yaml."""
    folder, numbers = FederationFolder(tmp_path / "federation"), survey_numbers()
    init(folder, "Test", "localhost", 8443)
    keep_study(folder, study_of(folder, numbers.plan))
    write_survey_file(study_of(folder, numbers.plan).folder, numbers)
    (tmp_path / "survey.yaml").write_text(yaml.safe_dump(numbers.plan.model_dump(mode="json")))
    return tmp_path


def ask(folder: Path, file: str = "survey.yaml", *arguments: str) -> str:
    command = ["survey", str(folder / file), "--config", str(folder / "federation" / "server.yaml")]
    result = CliRunner().invoke(app, [*command, "--out", str(folder / "page.html"), *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_a_finished_survey_is_shown_and_its_page_written_again_without_a_coordinator(finished: Path) -> None:
    said = ask(finished, "survey.yaml", "--power", str(write_power(finished / "power.csv")))
    assert "6 hospitals answered" in said and "SYNTHETIC" in said and "252" in said
    page = (finished / "page.html").read_text()
    assert "With t1 and flair" in page and "The curves rest on planted" in page
    listed = CliRunner().invoke(app, ["study", "list", str(finished / "federation")]).output
    assert "survey" in listed and "finished" in listed


def test_a_study_that_trains_is_no_survey(finished: Path) -> None:
    (finished / "study.yaml").write_text(yaml.safe_dump(tiny_plan().model_dump(mode="json")))
    with pytest.raises(PermmoeError, match="is a study that trains, not a survey"):
        ask(finished, "study.yaml")


def test_curves_that_cannot_be_read_are_refused_before_any_hospital_is_asked(finished: Path) -> None:
    (finished / "power.csv").write_text("a,b\n1,2\n")
    with pytest.raises(PermmoeError, match="is no table of a power study"):
        ask(finished, "survey.yaml", "--power", str(finished / "power.csv"))
    assert not (finished / "page.html").exists()


def test_a_survey_is_not_extended(finished: Path) -> None:
    result = CliRunner().invoke(app, ["study", "extend", str(finished / "federation"), "2"])
    assert isinstance(result.exception, PermmoeError) and "counts once" in str(result.exception)


def test_a_damaged_file_of_numbers_is_said_in_words(finished: Path) -> None:
    [path] = finished.glob("federation/studies/*/survey.json")
    path.write_text("{}")
    with pytest.raises(PermmoeError, match="was damaged"):
        ask(finished)


@pytest.mark.parametrize("path", sorted((ROOT / "configs/surveys").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_survey_loads_and_says_what_it_counts(path: Path) -> None:
    plan = read_config(path, RoundPlan)
    assert plan.survey is not None and plan.purpose
