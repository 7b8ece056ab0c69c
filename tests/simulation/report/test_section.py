"""A section with a table of its own is one value: a study writes its table, and its report shows it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from permmoe.config import parse_config
from permmoe.errors import DataError
from permmoe_simulation.report import SECTIONS, ReportSection, render_report
from permmoe_simulation.report.content import Entry, Section, Table
from permmoe_simulation.report.view import View
from permmoe_simulation.studies.finished_study import FinishedStudy
from permmoe_simulation.studies.simulate import RunOptions, run_study
from permmoe_simulation.studies.study import StudyConfig
from permmoe_simulation.study_tables import StudyTable, text, whole
from tests.support.tiny_study import METHODS, QUIET, settings

SUBJECTS = StudyTable("subjects", "the test subjects of a site", (*text("site"), *whole("n", unit="subjects")))


def subject_rows(done: FinishedStudy) -> pd.DataFrame:
    return pd.DataFrame([{"site": site, "n": len(visits)} for site, visits in done.sites.items()])


def subjects_section(view: View) -> Section | None:
    rows = view.study.table(SUBJECTS)
    if rows is None:
        return None
    entries = [[Entry(site), Entry(str(n))] for site, n in zip(rows["site"], rows["n"], strict=True)]
    return Section("subjects", "Who was tested where", [Table("Subjects by site.", ["Site", "n"], entries)])


SUBJECTS_SECTION = ReportSection(subjects_section, {SUBJECTS: subject_rows})


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose report has a section more than the delivered ones."""
    null = {"clinical-null": METHODS["clinical-null"]}
    study = parse_config(settings(methods=null, comparisons=[], claims=[], seeds=[0]), StudyConfig, "study")
    folder = tmp_path_factory.mktemp("section")
    run_study(study, folder, RunOptions(folder, sections=(*SECTIONS, SUBJECTS_SECTION)), QUIET)
    return folder


def test_a_study_writes_the_table_of_a_registered_section_and_shows_it(out: Path) -> None:
    written = pd.read_csv(out / "subjects.csv", dtype={"site": str})
    assert list(written.columns) == ["site", "n"] and (written["n"] > 0).all()
    html = (out / "report.html").read_text()
    assert "Who was tested where" in html and all(f">{site}<" in html for site in written["site"])


def test_a_section_is_made_from_the_files_alone(out: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(out, tmp_path / "copy"))
    pd.DataFrame([{"site": "elsewhere", "n": 7919}]).to_csv(copy / "subjects.csv", index=False)
    assert "7919" in render_report(copy, (*SECTIONS, SUBJECTS_SECTION)).read_text()
    (copy / "subjects.csv").unlink()
    assert "Who was tested where" not in render_report(copy, (*SECTIONS, SUBJECTS_SECTION)).read_text()


def test_a_file_without_a_declared_column_is_refused_with_the_column_named(out: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(out, tmp_path / "copy"))
    pd.DataFrame([{"site": "north"}]).to_csv(copy / "subjects.csv", index=False)
    with pytest.raises(DataError, match=r"subjects\.csv lacks the columns n"):
        render_report(copy, (SUBJECTS_SECTION,))


@pytest.mark.parametrize(
    ("row", "message"),
    [({"site": "north"}, "lack the columns n"), ({"site": "north", "n": 1, "m": 2}, "does not declare the columns m")],
)
def test_rows_that_do_not_follow_the_declaration_are_not_written(
    row: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        SUBJECTS.write(pd.DataFrame([row]), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_table_without_rows_is_deleted_where_an_earlier_run_left_one(tmp_path: Path) -> None:
    (tmp_path / "subjects.csv").write_text("site,n\nnorth,1\n")
    SUBJECTS.write(pd.DataFrame(), tmp_path)
    assert list(tmp_path.iterdir()) == []
