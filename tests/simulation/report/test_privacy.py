"""What protection costs."""

from __future__ import annotations

from math import inf, nan
from pathlib import Path

import pandas as pd
import pytest

from permmoe_simulation.report.content import Table
from permmoe_simulation.report.privacy import privacy_section
from tests.support.report_page import read, texts, view
from tests.support.study_files import write_study

METHODS = ("permmoe", "flexmoe", "local", "null")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study whose first method is not protected; the second and third train with differential privacy."""
    folder = write_study(tmp_path, methods=METHODS)
    rows = [
        {"method": m, "regime": "structural", "seed": 0, "site": site, "secure": m != "permmoe", "epsilon": epsilon,
         "delta": 0.001}
        for m, epsilon in (("permmoe", inf), ("flexmoe", 2.0), ("local", 8.0)) for site in ("002", "007")
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "privacy.csv", index=False)
    read(folder / "rounds.csv").assign(round_seconds=1.5).to_csv(folder / "rounds.csv", index=False)
    return folder


def lose_results(folder: Path, method: str) -> None:
    """Give the method no errors, as where its cells of a regime failed."""
    results = read(folder / "results.csv")
    results.loc[results["method"] == method, ["rmse", "lower", "upper"]] = nan
    results.to_csv(folder / "results.csv", index=False)


def test_the_best_private_method_is_compared_with_the_plain_one_and_the_clinical_null(study: Path) -> None:
    shown = texts(privacy_section(view(study)))
    assert "With differential privacy the best mean RMSE is" in shown
    assert "Clinical null, which sees no image" in shown


def test_a_private_method_whose_cells_failed_is_not_the_best_one(study: Path) -> None:
    lose_results(study, "flexmoe")
    section = privacy_section(view(study))
    assert "RMSE is –" not in texts(section)
    assert "at ε = 8.00" in texts(section)
    assert section is not None
    (table,) = (item for item in section.items if isinstance(item, Table))
    assert len(table.rows) == len(METHODS)


def test_nothing_is_called_better_when_no_private_cell_finished(study: Path) -> None:
    for method in ("flexmoe", "local"):
        lose_results(study, method)
    shown = texts(privacy_section(view(study)))
    assert "better" not in shown.split("How to read")[0] and "RMSE is" not in shown


def test_a_study_without_protection_has_no_such_section(study: Path) -> None:
    (study / "privacy.csv").unlink()
    assert privacy_section(view(study)) is None
