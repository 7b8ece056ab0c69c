"""One page a patient, readable by its owner only, under a name that leads nowhere else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from permmoe.cli import app
from permmoe.data.cache import VolumeCache
from permmoe.data.quarantine import Quarantine
from permmoe.data.visits import VisitTable
from permmoe.errors import ConfigurationError
from permmoe.explanation.report import require_report, write_reports
from permmoe.predict import predict
from permmoe.runtime.checkpoint import save_checkpoint
from tests.support.explained_visits import CARD, OUTCOMES, a_visit, small_model


def saved(folder: Path) -> Path:
    model = small_model()
    card = {**CARD, "model": model.config.model_dump(mode="json"), "outcomes": OUTCOMES.model_dump(mode="json")}
    save_checkpoint(folder / "model", model.network.state_dict(), {**card, "is_synthetic": True})
    return folder / "model"


def test_each_patient_has_a_page_of_its_own_and_no_name_leaves_the_folder(tmp_path: Path) -> None:
    folder, model, cache = saved(tmp_path), small_model(), VolumeCache(tmp_path / "cache")
    visit = a_visit(tmp_path, "clinical")
    names = ("../../evil", "EV-il", "ada", "///")
    visits = VisitTable(tuple(replace(visit, subject_id=name) for name in names))
    predictions, _ = predict(model, visits, cache)
    pages = write_reports(tmp_path / "pages", model, folder, visits, predictions, Quarantine(), cache, is_folder=True)
    assert [page.relative_to(tmp_path / "pages").as_posix() for page in pages] == [
        "evil.html", "EVil-2.html", "ada.html", "patient.html",
    ]  # fmt: skip
    for name, page in zip(names, pages, strict=True):
        assert page.stat().st_mode & 0o777 == 0o600
        assert [other for other in names if other in page.read_text(encoding="utf-8").split("<main>")[1]][:1] == [name]


@pytest.mark.parametrize(("name", "is_folder"), [("page.html", True), ("page.txt", False), ("here", False)])
def test_a_place_that_cannot_hold_pages_is_refused_at_once(name: str, is_folder: bool, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    with pytest.raises(ConfigurationError, match="--report"):
        require_report(tmp_path / name, is_folder=is_folder)


def test_the_command_writes_the_page_of_one_patient(tmp_path: Path) -> None:
    visit = a_visit(tmp_path, "t1")
    arguments = ["predict", str(saved(tmp_path)), "--image", f"t1={visit.volumes['t1']}", "--baseline", "2.5"]
    found = CliRunner().invoke(app, [*arguments, "--report", str(tmp_path / "page.html")])
    assert found.exit_code == 0, found.output
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Where in the scans it comes from" in page and "page in" in found.output


def test_reasons_change_no_prediction(tmp_path: Path) -> None:
    visit = a_visit(tmp_path, "t1", "tau")
    arguments = ["predict", str(saved(tmp_path)), "--baseline", "2.5", "--json"]
    arguments += [part for name, path in visit.volumes.items() for part in ("--image", f"{name}={path}")]
    plain = CliRunner().invoke(app, arguments)
    explained = CliRunner().invoke(app, [*arguments, "--report", str(tmp_path / "page.html")])
    assert plain.exit_code == explained.exit_code == 0 and plain.stdout == explained.stdout
