"""The page of findings: every study with its command, its digests and its differences."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from permmoe.errors import DataError
from permmoe_simulation.report.collection import collected
from permmoe_simulation.report.coverage import COVERAGE
from permmoe_simulation.report.judged_intervals import EVERYWHERE, TRAINED, UNSEEN
from tests.support.study_files import change_summary, write_axis, write_percent_changes, write_study


@pytest.fixture
def study(tmp_path: Path) -> Path:
    write_study(tmp_path)
    return tmp_path


def page_of(folder: Path, older: str = "") -> str:
    return collected([folder], older).page


def test_every_study_stands_there_with_its_command_its_digests_and_its_findings(study: Path) -> None:
    summary = json.loads((study / "summary.json").read_text())
    text = page_of(study)
    assert f"## {summary['study']}" in text and summary["command"] in text and "*Synthetic data" in text
    assert all(value[:8] in text for value in summary["digests"].values())
    assert all(finding in text for finding in summary["findings"])


def test_no_place_of_the_machine_that_computed_a_study_is_published(study: Path) -> None:
    change_summary(study, command="python simulation/run.py a.yaml --out /scratch/of-mine --workers 1 --profile full")
    assert "Repeat: `python simulation/run.py a.yaml --profile full`" in page_of(study)


def test_of_many_findings_the_one_that_leads_them_stands_there(study: Path) -> None:
    change_summary(study, findings=["Of 3 claims none hold.", "The first does not.", "The second does not."])
    text = page_of(study)
    assert "Of 3 claims none hold." in text and "The second does not." not in text


def test_public_data_are_called_so_and_differences_have_their_unit_and_n(study: Path) -> None:
    change_summary(study, synthetic=False, source="public", outcome={"name": "progression", "unit": "scores"})
    text = page_of(study)
    assert "*Public data, seeds 0-4" in text and "| difference, scores | n |" in text
    change_summary(study, source="manifest")
    assert "*Data of the manifest" in page_of(study)


def test_mean_errors_over_other_visits_are_not_held_against_each_other(study: Path) -> None:
    [row] = [line for line in page_of(study).splitlines() if line.startswith("| PerM-MoE − Flex-MoE |")]
    assert "–, –" not in row
    results = pd.read_csv(study / "results.csv", keep_default_na=False)
    of_one = (results["method"] == "flexmoe") & (results["combination"] == "t1") & (results["stratum"] == "all")
    results.loc[of_one, "n"] -= 1
    results.to_csv(study / "results.csv", index=False)
    [changed] = [line for line in page_of(study).splitlines() if line.startswith("| PerM-MoE − Flex-MoE |")]
    before, after = row.split(" | "), changed.split(" | ")
    assert after[1] == "–, –" and before[2:] == after[2:]


def test_the_paper_the_axis_and_the_experts_have_a_line_where_a_study_has_them(study: Path, tmp_path: Path) -> None:
    assert "**Experts.** On average over 5 runs, with PerM-MoE" in page_of(study)
    published = {"source": "Somebody", "method": "permmoe", "reference": "flexmoe", "percent": {"tau": -3.6}}
    change_summary(study, published=[published])
    write_percent_changes(study, [("tau", "all", -3.0, -4.0, -2.0)], "15 9 5 12")
    text = page_of(study)
    assert "**Beside the paper** (Somebody)" in text and "| with tau | −3.6% | −3.0% (−4.0 to −2.0) | 41 |" in text
    along = write_study(tmp_path / "along", methods=("permmoe", "flexmoe"), regimes=("near", "far"))
    write_axis(along, {"near": 1.0, "far": 3.0}, "distance", "linear")
    text = page_of(along)
    assert "**Along the axis (distance).** Averaged over combinations, the line of PerM-MoE stays below" in text
    assert "**Experts.**" not in text


def write_coverage(folder: Path, held: dict[str, float]) -> None:
    """Coverage over all combinations at sets of sites, by PerM-MoE in the study's one regime."""
    row = {
        "method": "permmoe",
        "regime": "structural",
        "combination": "mean",
        "seeds": 5,
        "n": 1200,
        "calibrated": 50.0,
    }
    COVERAGE.write(
        pd.DataFrame(
            [
                {**row, "site": site, "level": level, "coverage": share, "lowest": share - 0.1, "highest": share + 0.1,
                 "width": 2.5 / (1 - level), "pooled": 0.0}
                for site, share in held.items() for level in (0.8, 0.95)
            ]
        ), folder,
    )  # fmt: skip


def test_how_often_intervals_hold_stands_there_of_a_study_with_sites_that_never_trained(study: Path) -> None:
    write_coverage(study, {EVERYWHERE: 0.75, TRAINED: 0.8, UNSEEN: 0.62})
    text = page_of(study)
    assert "| method | regime | sites | judged | 80% hold | width | 95% hold | width |" in text
    wanted = "| sites that never trained | 1,200 | 62.0% (52 to 72%) | 12.50 | 62.0% (52 to 72%) | 50.00 |"
    assert any(line.startswith("| PerM-MoE | ") and line.endswith(wanted) for line in text.splitlines())
    write_coverage(study, {EVERYWHERE: 0.75})
    assert "intervals hold the true change" not in page_of(study)


def test_what_three_seeds_found_stands_there_as_points_that_are_not_judged(tmp_path: Path) -> None:
    text = page_of(write_study(tmp_path / "three", seeds=(0, 1, 2)))
    rows = [line for line in text.splitlines() if line.startswith("| PerM-MoE − ")]
    assert rows and all(row.endswith("| not judged |") and "**" not in row for row in rows)


def test_every_pair_has_a_row_for_each_regime(study: Path) -> None:
    pairs = pd.read_csv(study / "comparisons.csv")[["method", "reference", "regime"]].drop_duplicates()
    rows = [line for line in page_of(study).splitlines() if line.startswith("| ") and " − " in line.split("|")[1]]
    assert len(rows) == len(pairs)


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run the study first"):
        collected([tmp_path])


def test_chapters_of_other_studies_stay_in_their_place(study: Path, tmp_path: Path) -> None:
    name = json.loads((study / "summary.json").read_text())["study"]
    page = page_of(study).replace(f"## {name}", "## first") + page_of(study).partition("\n## ")[2].join(
        ["\n## ", "\n## last\n\nKept.\n"]
    )
    change_summary(study, findings=["Another finding."])
    text = page_of(study, page)
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == ["## first", f"## {name}", "## last"]
    assert text.endswith("## last\n\nKept.\n") and text.count("Another finding.") == 1
    assert page_of(study, text) == text
