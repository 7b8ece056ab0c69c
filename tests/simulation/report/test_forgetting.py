"""What a report says of forgetting: invented models that remember, or do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from permmoe.data.visits import Visit, VisitTable
from permmoe.evaluation.figures import average_figure, rmse_figure
from permmoe.modality import all_combinations
from permmoe_simulation.report.collection import collected
from permmoe_simulation.report.forgetting import ANEW, FORGETTING, KEPT, ON, after_of, forgetting_in
from permmoe_simulation.studies.cell_files import CellOutcome, FinishedCell, Predicted, publish, write_outcome
from tests.support.report_page import page_of
from tests.support.tiny_federation import MODEL

COMBINATIONS = len(all_combinations(MODEL.names))
N_TEST, N_TRAIN, N_GONE = 150, 300, 40
MODELS = {KEPT: ("nobody", 0, 0.5), ANEW: ("five", 0, 1.0), ON: ("five", 6, 0.6)}
"""Who withdraws, rounds that a model is trained on, and the size of its errors on those who withdrew."""


def cell(folder: Path, how: str, seed: int) -> FinishedCell:
    """A model that errs by one point about test patients, and less on those whom it remembers."""
    who, rounds, error = MODELS[how]
    rng = np.random.default_rng((seed, rounds, len(who)))

    def predicted(names: list[str], sizes: np.ndarray) -> Predicted:
        visits = VisitTable(tuple(Visit(name, "a", "bl", 2.0, 1.0, 24.0) for name in names))
        return Predicted(visits, 1 + rng.normal(size=(len(names), COMBINATIONS)) * sizes[:, None])

    gone = frozenset(f"p{seed}-{i}" for i in range(N_GONE))
    trained = [f"p{seed}-{i}" for i in range(N_TRAIN)]
    tested = predicted([f"t{seed}-{i}" for i in range(N_TEST)], np.ones(N_TEST))
    sizes = np.array([error if name in gone else 0.5 for name in trained])
    row = {"site": "a", "bytes_down": 3_000_000, "bytes_up": 1_000_000, "train_seconds": 2.0, "overhead_seconds": 0.5}
    outcome = CellOutcome(
        tested.visits,
        tested.predictions,
        rounds=[{**row, "round": n + 1} for n in range(rounds or 24)],
        trained=predicted(trained, sizes),
        withdrew=frozenset() if who == "nobody" else gone,
    )
    work = folder / f"work-{how}-{seed}"
    work.mkdir(parents=True)
    write_outcome(work, outcome, {v.subject_id: v.site for v in (*tested.visits, *outcome.trained.visits)})  # type: ignore[union-attr]
    forgets = {"who": who, "continued_rounds": rounds}
    card: dict[str, Any] = {"cell": {"model": MODEL.model_dump(mode="json"), "method": {"forgets": forgets}}}
    place = publish(work, folder / f"cell-{how}-{seed}", card)
    return FinishedCell({KEPT: "permmoe", ANEW: "flexmoe", ON: "local"}[how], "structural", seed, place)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("cells")
    return forgetting_in([cell(folder, how, seed) for seed in range(5) for how in MODELS])


def test_a_model_that_remembers_is_told_from_one_that_never_saw_them(rows: pd.DataFrame) -> None:
    found = rows.set_index("how")
    assert list(rows["how"]) == [KEPT, ANEW, ON] and (rows["withdrew"] == 5 * N_GONE).all()
    assert found.loc[ANEW, "attack"] == pytest.approx(0.5, abs=0.06)
    for how in (KEPT, ON):
        assert found.loc[how, "more_lower"] > 0 and found.loc[how, "more_p_holm"] < 0.05
        assert found.loc[how, "more"] == pytest.approx(found.loc[how, "attack"] - found.loc[ANEW, "attack"])
    assert found.loc[KEPT, "attack"] > found.loc[ON, "attack"] > found.loc[ANEW, "attack"]
    assert found.loc[ANEW, "more"] == 0 and np.isnan(found.loc[ANEW, "more_p_holm"])


def test_costs_are_those_of_the_rounds_that_forgetting_took(rows: pd.DataFrame) -> None:
    found = rows.set_index("how")[["rounds", "megabytes", "site_seconds"]]
    assert found.loc[KEPT].tolist() == [0, 0, 0]
    assert found.loc[ANEW].tolist() == [24, 24 * 4, 24 * 2.5] and found.loc[ON].tolist() == [6, 6 * 4, 6 * 2.5]


def test_the_attack_is_right_as_often_as_pairs_say(tmp_path: Path) -> None:
    """The slow reference: every pair of a withdrawn and a test patient, a tie counting half."""
    one = after_of(cell(tmp_path, ON, 3))
    last = [errors[-1] for errors in one.squared]
    with np.load(tmp_path / f"cell-{ON}-3" / "trained.npz") as saved:
        own = dict(zip(saved["subject"], (saved["prediction"][:, -1] - saved["target"]) ** 2, strict=True))
    for subject in sorted(one.withdrew)[:7]:
        wins = [1.0 if other > own[subject] else 0.5 if other == own[subject] else 0.0 for other in last]
        assert one.right[subject] == pytest.approx(np.mean(wins))


def test_studies_from_which_nobody_withdraws_leave_the_table_out(tmp_path: Path) -> None:
    assert forgetting_in([]).empty and forgetting_in([cell(tmp_path, KEPT, 0)]).empty


def test_a_mean_over_subjects_has_the_influences_of_a_root_mean_square_of_the_same(tmp_path: Path) -> None:
    """For numbers that are all but alike, √mean(x²) moves as mean(x) does."""
    rng = np.random.default_rng(0)
    values = 1 + 1e-6 * rng.normal(size=(3, 50))
    values[1, 7:] = np.nan
    mean, root = average_figure(values), rmse_figure(values**2)
    np.testing.assert_allclose(mean.by_seed, root.by_seed, rtol=1e-9)
    np.testing.assert_allclose(mean.influence, root.influence, atol=1e-10)
    assert mean.n == 50 and mean.seeds == 3


def test_the_page_and_the_chapter_show_every_model_beside_what_it_cost(small: Path, rows: pd.DataFrame) -> None:
    assert "What forgetting costs" not in page_of(small)
    FORGETTING.write(rows, small)
    told = page_of(small)
    for words in ("What forgetting costs", "five patients of a hospital", "trained anew", "Attack is right"):
        assert words in told
    chapter = collected([small]).page
    assert "| five patients of a hospital | trained on | 6 | 24" in chapter and "| – | – | – |" in chapter
