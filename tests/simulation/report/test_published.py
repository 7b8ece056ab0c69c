"""A publication beside the study."""

from __future__ import annotations

from pathlib import Path

import pytest

from permmoe_simulation.report.axis import axis_section
from permmoe_simulation.report.growth import growth_section
from permmoe_simulation.report.published import published_section, verdict_on
from permmoe_simulation.studies.verdicts import Verdict
from tests.support.report_page import page_of, texts, view
from tests.support.study_files import change_summary, write_percent_changes, write_study

PUBLISHED = {
    "source": "Somebody 2025; a cohort",
    "method": "permmoe",
    "reference": "flexmoe",
    "wins": "11 of 15",
    "percent": {"flair": -8.6, "tau": -3.6},
    "percent_by_stratum": {"small_change": -21.5},
    "reference_better": ["amyloid+tau"],
}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path, methods=("permmoe", "flexmoe", "local", "null"))


def test_study_without_publication_axis_or_drift_has_no_section_of_them(study: Path) -> None:
    shown = page_of(study)
    assert published_section(view(study)) is axis_section(view(study)) is growth_section(view(study)) is None
    assert "Beside the paper" not in shown and "Imputation drift" not in shown


@pytest.mark.parametrize(
    ("below", "above", "is_size_refused", "outcome"),
    [
        ("lower", "higher", False, "carried over"),
        ("lower", "higher", True, "carried over"),  # the direction is the claim
        ("higher", "lower", False, "did not"),
        ("not told", "not told", True, "did not"),
        ("not told", "not told", False, "cannot be told"),
        ("not judged", "not judged", False, "cannot be told"),
    ],
)
def test_a_claim_carries_over_where_ours_lies_on_its_side_beyond_chance(
    below: Verdict, above: Verdict, is_size_refused: bool, outcome: str
) -> None:
    assert verdict_on(True, below, is_size_refused) == outcome
    assert verdict_on(False, above, is_size_refused) == outcome


def test_papers_figures_stand_beside_ours_and_every_claim_is_counted(study: Path) -> None:
    change_summary(study, published=[PUBLISHED])
    rows = [("flair", "all", -7.0, -11.0, -2.0), ("tau", "all", 1.0, -5.0, 7.0), ("mean", "all", 0.0, -2.0, 2.0),
            ("mean", "small_change", 3.0, -4.0, 8.0), ("amyloid+tau", "all", -6.0, -9.0, -1.0)]  # fmt: skip
    write_percent_changes(study, rows, "15 9 5 12", refused=["small_change"])
    section = published_section(view(study))
    assert texts(section).startswith(
        "Of the paper's 5 claims about PerM-MoE against Flex-MoE, 1 carried over (with flair), 2 did not (averaged "
        "over combinations, small change (0 < Δ ≤ 1); with amyloid+tau) and 2 cannot be told from chance (with tau; "
        "combinations won)."
    )
    shown = page_of(study)
    assert "Somebody 2025; a cohort" in shown and "not in the digest we had" in shown
    assert "−8.6%" in shown and "−7.0%" in shown and "synthetic data" in shown
