"""`permmoe data` from end to end on a small synthetic cohort: it shows counts and never a patient."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from permmoe.config import read_model
from permmoe.data.adni_sources import origins_of
from permmoe.data.commands import app
from permmoe.data.manifest import read_manifest
from permmoe.data.summary import describe, summarise
from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import ConfigurationError, DataError
from permmoe.modality import ADNI_MODALITIES
from tests.support.adni_release import write_release

TINY = "grid: {shape: [12, 14, 12], spacing_mm: 16.0}\nfollow_up_months: 36\n"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven synthetic subjects on a coarse grid, with their manifest."""
    folder = tmp_path_factory.mktemp("cohort")
    (folder / "cohort.yaml").write_text(TINY)
    (folder / "model.yaml").write_text("grid: {shape: [12, 14, 12], spacing_mm: 16.0}\n")
    made = run(
        "synthesize",
        folder / "data",
        "--config",
        folder / "cohort.yaml",
        "--subjects",
        11,
        "--sites",
        3,
        "--workers",
        1,
    )
    assert made.exit_code == 0, made.output
    assert "synthetic cohort of 11 subjects" in made.output
    converted = run(
        "adni",
        "--tables",
        folder / "data" / "clinical",
        "--images",
        folder / "data",
        "--out",
        folder / "data" / "manifest.csv",
    )
    assert converted.exit_code == 0, converted.output
    return folder


def test_synthetic_cohort_becomes_a_manifest_that_reads_back(cohort: Path) -> None:
    table, _ = read_manifest(cohort / "data" / "manifest.csv", ADNI_MODALITIES, need_target=False)
    assert 8 <= len(table) <= 11
    assert set(table.sites) <= {"011", "023", "037"}
    assert all(v.site == v.subject_id[:3] and v.observed([m.name for m in ADNI_MODALITIES]) for v in table)
    assert (cohort / "data" / "manifest.quarantine.csv").read_text().startswith("subject_id,modality,file,reason")


def test_inspect_shows_counts_and_the_word_synthetic_but_no_subject(cohort: Path) -> None:
    shown = run("inspect", cohort / "data" / "manifest.csv", "--volumes", "--model", cohort / "model.yaml")
    assert shown.exit_code == 0, shown.output
    assert "SYNTHETIC" in shown.output
    table, _ = read_manifest(cohort / "data" / "manifest.csv", ADNI_MODALITIES, need_target=False)
    assert all(v.subject_id not in shown.output for v in table)
    assert "change at 24 months" in shown.output
    assert "nothing was left out" in shown.output


def test_inspect_names_broken_volumes_in_the_report_only(cohort: Path, tmp_path: Path) -> None:
    table, _ = read_manifest(cohort / "data" / "manifest.csv", ADNI_MODALITIES, need_target=False)
    victim = next(v for v in table if "t1" in v.volumes)
    content = victim.volumes["t1"].read_bytes()
    victim.volumes["t1"].write_bytes(content[: len(content) // 2])
    try:
        report = tmp_path / "report.csv"
        shown = run(
            "inspect",
            cohort / "data" / "manifest.csv",
            "--volumes",
            "--model",
            cohort / "model.yaml",
            "--report",
            report,
        )
    finally:
        victim.volumes["t1"].write_bytes(content)
    assert "compressed file is truncated or damaged" in shown.output
    assert victim.subject_id not in shown.output
    assert victim.subject_id in report.read_text()


def test_horizon_and_diagnoses_reach_the_rule(cohort: Path, tmp_path: Path) -> None:
    data = cohort / "data"
    shown = run(
        "adni", "--tables", data / "clinical", "--images", data, "--out", tmp_path / "m.csv", "--horizon", 36,
        "--diagnosis", "Dementia",
    )  # fmt: skip
    assert isinstance(shown.exception, DataError) and not (tmp_path / "m.csv").exists()
    assert re.search(r"no visit is left; of the subjects\n  11 in tables or images\n  \d lost: ", str(shown.exception))
    run("adni", "--tables", data / "clinical", "--images", data, "--out", tmp_path / "m.csv", "--horizon", 36)
    table, _ = read_manifest(tmp_path / "m.csv", ADNI_MODALITIES, need_target=False)
    assert {v.horizon_months for v in table} == {36.0}


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (("synthesize", "{}/x", "--grid", "3mm"), ConfigurationError, "no grid '3mm'"),
        (("synthesize", "{}/x", "--subjects", 0), ConfigurationError, "subjects"),
        (("synthesize", "{}/x", "--config", "{}/absent.yaml"), ConfigurationError, "no configuration file"),
        (("adni", "--tables", "{}/absent", "--images", "{}"), DataError, "no folder of tables"),
        (("adni", "--tables", "{}", "--images", "{}", "--horizon", -1), ConfigurationError, "horizon_months"),
        (("inspect", "{}/absent.csv"), DataError, "no manifest at"),
    ],
)
def test_wrong_arguments_raise_errors_that_a_person_can_mend(
    tmp_path: Path, arguments: tuple[str | int, ...], kind: type[Exception], message: str
) -> None:
    result = run(*(str(a).replace("{}", str(tmp_path)) for a in arguments))
    assert result.exit_code != 0
    assert isinstance(result.exception, kind)
    assert message in str(result.exception)
    assert sorted(tmp_path.iterdir()) == []


def test_summary_counts_what_is_there() -> None:
    def visit(subject: str, site: str, delta: float | None, *names: str) -> Visit:
        return Visit(subject, site, "M000", 1.0, delta, 24.0, volumes={name: Path("x") for name in names})

    table = VisitTable(
        (visit("a", "023", 0.0, "t1", "tau"), visit("b", "011", -1.0, "t1"), visit("c", "011", None, "t1"))
    )
    summary = summarise(table, ("t1", "tau"))
    assert summary.by_site == {"011": 2, "023": 1}
    assert summary.by_modality == {"t1": 3, "tau": 1}
    assert summary.modality_by_site == {"011": {"t1": 2, "tau": 0}, "023": {"t1": 1, "tau": 1}}
    assert summary.by_combination == {("t1",): 2, ("t1", "tau"): 1}
    assert (summary.delta.n, summary.delta.mean) == (2, -0.5)
    assert (summary.delta.zero_share, summary.delta.negative_share) == (0.5, 0.5)
    assert describe([]).n == 0


def test_tables_alone_become_a_manifest_that_says_where_its_numbers_come_from(tmp_path: Path) -> None:
    tables = write_release(tmp_path / "tables")
    (tmp_path / "model.yaml").write_text(
        "model:\n  modalities:\n"
        "    - {name: person, kind: tabular, columns: [age_years, PTGENDER]}\n"
        "    - {name: t1_regions, kind: tabular, columns: [UCSFFSX.ST29SV, UCSFFSX.ST88SV]}\n"
    )
    model = ("--model", tmp_path / "model.yaml")
    shown = run("adni", "--tables", tables, "--out", tmp_path / "m.csv", *model)
    assert shown.exit_code == 0, shown.output
    assert re.search(r"UCSFFSX\.ST29SV .* UCSFFSX7_05Mar2026\.csv: ST29SV .* 2", shown.output)
    assert not re.search(r"\d{3}_S_\d{4}", shown.output)
    header, first = (tmp_path / "m.csv").read_text().splitlines()[:2]
    assert header.split(",").count("age_years") == 1 and first.startswith(
        "011_S_0002,011,bl,1.5,1.5,24.0,74.74,1.0,3500.5"
    )
    inspected = run("inspect", tmp_path / "m.csv", *model)
    assert inspected.exit_code == 0 and "person+t1_regions" in inspected.output


def test_another_score_is_written_under_its_own_name_with_what_reads_it_back(tmp_path: Path) -> None:
    tables, out = write_release(tmp_path / "tables"), tmp_path / "m.csv"
    model = "modalities: [{name: person, kind: tabular, columns: [PTGENDER]}]\n"
    (tmp_path / "model.yaml").write_text(model)
    arguments = ("--tables", tables, "--out", out, "--model", tmp_path / "model.yaml", "--score", "adas-cog-13")
    shown = run("adni", *arguments)
    assert shown.exit_code == 0 and "score: {name: ADAS-Cog 13, lowest: 0, highest: 85}" in shown.output
    assert out.read_text().startswith("subject_id,site,session,baseline_adas_cog_13,delta_adas_cog_13,horizon_months")
    (tmp_path / "model.yaml").write_text(
        model + "score: {name: ADAS-Cog 13, lowest: 0, highest: 85}\noutcome_range: [-85, 85]\n"
    )
    outcome = ("--outcome", tmp_path / "m.outcome.yaml", "--model", tmp_path / "model.yaml")
    inspected = run("inspect", out, *outcome)
    assert inspected.exit_code == 0 and "ADAS-Cog 13, points" in inspected.output, inspected.output


def test_the_model_of_tables_reads_the_tables_that_it_names() -> None:
    """Every column of configs/models/tables.yaml is one that ADNI's data dictionary has."""
    model = read_model(Path("configs/models/tables.yaml"))
    assert [m.name for m in model.modalities if not m.columns] == []
    for column in (column for m in model.modalities for column in m.columns):
        assert column == "age_years" or origins_of(column)
        assert re.fullmatch(r"age_years|PT[A-Z]+|APOE4|MMSE|ADAS13|FAQ|UC[A-Z0-9_]+\.[A-Z0-9_]+", column)
