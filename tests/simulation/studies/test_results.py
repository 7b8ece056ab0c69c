"""Tables from invented predictions, against a plain loop over subjects."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from permmoe.config import parse_config
from permmoe.modality import all_combinations, combination_name
from permmoe_simulation.report.again import again_rows, relabellings
from permmoe_simulation.report.axis import along_axis, trends
from permmoe_simulation.report.drift import drift_rows
from permmoe_simulation.report.growth import cost_rows
from permmoe_simulation.report.published import percent_change_rows, win_rows
from permmoe_simulation.studies.cell_files import FinishedCell
from permmoe_simulation.studies.finished_study import FinishedStudy
from permmoe_simulation.studies.prediction_errors import PredictionErrors
from permmoe_simulation.studies.results import comparisons, difference, results
from permmoe_simulation.studies.study import Claim, StudyConfig
from permmoe_simulation.summary import Axis, axis_scale
from tests.support.tiny_study import settings

NAMES = ("t1", "flair", "tau")
COMBINATIONS = [combination_name(c) for c in all_combinations(NAMES)]
SEEDS = (3, 5, 7, 11, 13)


def write_cell(folder: Path, method: str, seed: int, error: float, *, without: str = "t1+flair+tau") -> FinishedCell:
    """Thirty-seven invented subjects, other ones for each seed; nobody has the combination `without`."""
    truth = np.random.default_rng(0)
    baseline, target = truth.uniform(0, 8, 53), truth.normal(1, 1, 53)
    tested = np.random.default_rng(seed).permutation(53)[:37]
    noise = np.random.default_rng([seed, len(method)]).normal(0, 1, (37, len(COMBINATIONS)))
    prediction = target[tested, None] + error * noise
    prediction[:, COMBINATIONS.index(without)] = np.nan
    prediction[::5, 1] = np.nan
    path = folder / f"{method}-{seed}"
    path.mkdir(parents=True)
    subject = np.array([f"s{i:02d}" for i in tested])
    np.savez(
        path / "predictions.npz",
        subject=subject,
        site=np.full(len(subject), "north"),
        baseline=baseline[tested],
        target=target[tested],
        prediction=prediction,
    )
    card = {"cell": {"model": {"modalities": [{"name": name} for name in NAMES]}}}
    (path / "card.json").write_text(json.dumps(card))
    return FinishedCell(method, "site", seed, path)


def done(errors: PredictionErrors, *pairs: tuple[str, str], cells: Sequence[FinishedCell] = ()) -> FinishedStudy:
    """A finished study that compares the pairs."""
    names = {name for pair in pairs for name in pair} or {"good"}
    methods = {name: {"kind": "reference", "baseline": "clinical_null", "label": name} for name in names}
    study = parse_config(settings(methods=methods, comparisons=pairs, claims=[]), StudyConfig, "study")
    return FinishedStudy(study, cells, errors, {})


@pytest.fixture
def finished(tmp_path: Path) -> list[FinishedCell]:
    return [write_cell(tmp_path, m, s, e) for m, e in (("good", 0.5), ("bad", 1.5)) for s in SEEDS]


@pytest.fixture
def errors(finished: list[FinishedCell]) -> PredictionErrors:
    return PredictionErrors(finished, NAMES, SEEDS)


def slow_row(cell: FinishedCell, combination: str, stratum: str) -> dict[str, float]:
    with np.load(cell.folder / "predictions.npz") as saved:
        rows = []
        for b, y, p in zip(saved["baseline"], saved["target"], saved["prediction"], strict=True):
            inside = {"all": True, "small_change": 0 < y <= 1, "severe_baseline": b > 5}[stratum]
            if inside and not np.isnan(p[COMBINATIONS.index(combination)]):
                rows.append((y, p[COMBINATIONS.index(combination)]))
    truth = [y for y, _ in rows]
    mean = sum(truth) / len(truth)
    squared = sum((p - y) ** 2 for y, p in rows)
    return {
        "n": len(rows),
        "rmse": (squared / len(rows)) ** 0.5,
        "mae": sum(abs(p - y) for y, p in rows) / len(rows),
        "r2": 1 - squared / sum((y - mean) ** 2 for y in truth),
    }


def test_results_agree_with_a_loop_over_subjects(errors: PredictionErrors, finished: list[FinishedCell]) -> None:
    table = results(errors).set_index(["method", "seed", "combination", "stratum"])
    for cell in finished:
        for combination in COMBINATIONS[:-1]:
            for stratum in ("all", "small_change", "severe_baseline"):
                row = table.loc[(cell.method, cell.seed, combination, stratum)]
                for column, value in slow_row(cell, combination, stratum).items():
                    assert row[column] == pytest.approx(value), (cell, combination, stratum, column)
                assert np.isnan(row.lower) if row.n < 10 else row.lower <= row.rmse <= row.upper


def test_all_seeds_together_are_the_mean_of_the_seeds_over_every_subject_tested(errors: PredictionErrors) -> None:
    table = results(errors).query("method == 'good' and combination == 't1' and stratum == 'all'").set_index("seed")
    assert table.loc["all", "rmse"] == pytest.approx(table.loc[list(SEEDS), "rmse"].mean())
    assert table.loc["all", "n"] > 37 == table.loc[3, "n"]


def test_a_combination_that_nobody_has_is_n_0_and_never_a_number(errors: PredictionErrors) -> None:
    rows = results(errors).query("combination == 't1+flair+tau'")
    assert len(rows) == 2 * 6 * 3 and rows.n.eq(0).all()
    assert rows[["rmse", "mae", "r2", "lower", "upper"]].isna().all(axis=None)
    compared = comparisons(errors, [("good", "bad")]).query("combination == 't1+flair+tau'")
    assert compared.n.eq(0).all() and compared[["difference", "lower", "upper"]].isna().all(axis=None)


def test_a_difference_is_that_of_the_rmse_on_the_subjects_that_both_predicted(
    errors: PredictionErrors, finished: list[FinishedCell]
) -> None:
    row = comparisons(errors, [("good", "bad")]).query("combination == 'flair' and stratum == 'all'").iloc[0]
    rmse = {(c.method, c.seed): slow_row(c, "flair", "all")["rmse"] for c in finished}
    assert row.difference == pytest.approx(np.mean([rmse["good", s] - rmse["bad", s] for s in SEEDS]))


def test_comparisons_are_paired_so_that_equal_errors_differ_by_exactly_nothing(tmp_path: Path) -> None:
    cells = [write_cell(tmp_path, m, s, 1.0) for m in ("same", "also") for s in SEEDS]
    d = difference(PredictionErrors(cells, NAMES, SEEDS), "same", "also", "site", "mean")
    assert (d.estimate, d.lower, d.upper) == (0, 0, 0)


def test_a_pair_of_which_one_did_not_finish_is_not_compared(errors: PredictionErrors) -> None:
    assert len(comparisons(errors, [("good", "absent")])) == 0


def test_a_percent_change_is_that_of_the_means_over_seeds(
    errors: PredictionErrors, finished: list[FinishedCell]
) -> None:
    changes = percent_change_rows(done(errors, ("good", "bad")))
    row = changes.query("combination == 'flair' and stratum == 'all'").iloc[0]
    rmse = {(c.method, c.seed): slow_row(c, "flair", "all")["rmse"] for c in finished}
    means = [np.mean([rmse[m, s] for s in SEEDS]) for m in ("good", "bad")]
    assert row.percent == pytest.approx(100 * (means[0] / means[1] - 1))
    assert row.lower < row.percent < row.upper < 0
    compared = comparisons(errors, [("good", "bad")]).query("combination == 'flair' and stratum == 'all'")
    assert (row.n, row.seeds) == (compared.n.iloc[0], 5)


def test_tests_are_corrected_over_all_pairs_and_regimes_and_claims_by_themselves(along: PredictionErrors) -> None:
    claim = Claim(method="good", reference="bad", combination="tau")
    table = comparisons(along, [("good", "bad"), ("bad", "good")], [claim])
    for family, size in (("claims", 3), ("averages", 6), ("combinations", 3 * (6 + 5))):
        rows = table[table.family == family].dropna(subset="p_value").sort_values("p_value")
        slow = np.maximum.accumulate(rows.p_value.to_numpy() * np.arange(size, 0, -1)).clip(max=1)
        assert len(rows) == size and rows.p_holm.to_numpy() == pytest.approx(slow)


def test_two_seeds_leave_every_difference_as_a_point(tmp_path: Path) -> None:
    cells = [write_cell(tmp_path, m, s, e) for m, e in (("good", 0.5), ("bad", 1.5)) for s in (3, 5)]
    errors = PredictionErrors(cells, NAMES, (3, 5))
    table = comparisons(errors, [("good", "bad")]).query("n > 0")
    assert table.difference.notna().all() and table.seeds.max() == 2
    assert table[["lower", "upper", "p_value", "p_holm"]].isna().all(axis=None)
    pooled = results(errors).query("seed == 'all' and n > 0")
    assert pooled.rmse.notna().all() and pooled[["lower", "upper"]].isna().all(axis=None)


def test_a_group_of_fewer_than_ten_subjects_has_a_point_and_no_interval(errors: PredictionErrors) -> None:
    for name in ("good", "bad"):
        errors.by_method[name, "site"].prediction[:, 9:, 0] = np.nan
    row = comparisons(errors, [("good", "bad")]).query("combination == 't1' and stratum == 'all'").iloc[0]
    assert 0 < row.n < 10 and np.isfinite(row.difference) and np.isnan([row.lower, row.upper, row.p_holm]).all()


def test_a_method_trained_twice_is_compared_with_itself_in_every_labelling(tmp_path: Path) -> None:
    methods = {name: {"kind": "federated", "label": name} for name in ("good", "bad")}
    changes = {"methods": methods, "comparisons": [("good", "bad")], "claims": [], "seeds": SEEDS}
    study = parse_config(settings(**changes), StudyConfig, "study")
    assert (study.trained_again, study.name_trained_again) == ("good", "good+again")
    cells = [write_cell(tmp_path, m, s, 1.0) for m in ("good", "good+again") for s in SEEDS]
    twins = PredictionErrors(cells, NAMES, SEEDS)
    rows = again_rows(FinishedStudy(study, cells, twins, {}, twins))
    assert rows.comparisons.eq(16).all() and set(rows.combination) == {"mean", *COMBINATIONS[:-1]}
    assert rows.called.mean() <= 0.15 and rows.called_after_holm.le(rows.called).all()
    first = comparisons(twins, [("good", "good+again")]).query("stratum == 'all'").set_index("combination")
    assert first.p_value[rows.combination].to_numpy() == pytest.approx(rows.p_value.to_numpy())
    assert len(again_rows(FinishedStudy(study, cells, twins, {}))) == 0


def test_relabellings_are_all_there_are_or_as_many_as_are_drawn_and_none_is_another_mirrored() -> None:
    assert len(relabellings(5)) == len(set(relabellings(5))) == 16 and relabellings(5)[0] == (1,) * 5
    assert len(relabellings(10)) == len(set(relabellings(10))) == 64 and relabellings(10) == relabellings(10)
    assert all(signs[0] == 1 for signs in [*relabellings(5), *relabellings(10)])


def test_the_mean_percent_change_is_that_of_the_combinations_that_somebody_has(errors: PredictionErrors) -> None:
    study = done(errors, ("good", "bad"))
    changes, wins = percent_change_rows(study), win_rows(study)
    changes = changes.query("stratum == 'all'").set_index("combination")
    single = changes.drop(index=["mean", "t1+flair+tau"])
    assert changes.loc["mean", "percent"] == pytest.approx(single.percent.mean())
    assert changes.loc["t1+flair+tau", "n"] == 0 and np.isnan(changes.loc["t1+flair+tau", "percent"])
    won = wins.query("stratum == 'all'").iloc[0]
    assert (won.wins, won.combinations) == ((single.percent < 0).sum(), 6) == (6, 6)
    assert won.lower <= won.wins <= won.upper == 6


def test_equal_methods_change_by_nothing_and_win_nowhere_for_certain(tmp_path: Path) -> None:
    cells = [write_cell(tmp_path, m, s, 1.0) for m in ("same", "also") for s in SEEDS]
    study = done(PredictionErrors(cells, NAMES, SEEDS, ["all"]), ("same", "also"))
    changes, wins = percent_change_rows(study), win_rows(study)
    assert changes.query("n > 0")[["percent", "lower", "upper"]].eq(0).all(axis=None)
    assert wins[["wins", "lower"]].eq(0).all(axis=None) and wins.upper.eq(6).all()


def test_drift_is_judged_on_the_subjects_who_have_all_modalities(tmp_path: Path) -> None:
    cell = write_cell(tmp_path, "good", 3, 1.0, without="t1+tau")
    with np.load(cell.folder / "predictions.npz") as saved:
        arrays = dict(saved)
    arrays["prediction"][7:, COMBINATIONS.index("t1+flair+tau")] = np.nan
    np.savez(cell.folder / "predictions.npz", **arrays)
    drift = drift_rows(done(PredictionErrors([cell], NAMES, (3,)))).set_index("combination")
    error = (arrays["prediction"] - arrays["target"][:, None])[:7]
    expected = np.sqrt((error[:, 0] ** 2).mean()) - np.sqrt((error[:, -1] ** 2).mean())
    assert drift.loc["t1", "n"] == 7 and drift.loc["t1", "difference"] == pytest.approx(expected)
    assert drift.loc["t1+tau", "n"] == 0
    assert drift.loc["mean", "difference"] == pytest.approx(drift.drop(index="mean").difference.mean())
    assert "t1+flair+tau" not in drift.index


def test_a_method_without_a_prediction_from_all_modalities_has_no_drift(tmp_path: Path) -> None:
    errors = PredictionErrors([write_cell(tmp_path, "unimodal", 3, 1.0)], NAMES, (3,))
    assert len(drift_rows(done(errors))) == 0


@pytest.fixture
def along(tmp_path: Path) -> PredictionErrors:
    """Two methods at three places of an axis, one of them twice as wrong at the last."""
    cells = []
    for regime, worse in (("near", 1.0), ("middle", 1.5), ("far", 2.0)):
        for method, error in (("good", 0.5), ("bad", worse)):
            for seed in SEEDS:
                cell = write_cell(tmp_path / regime, method, seed, error)
                cells.append(FinishedCell(method, regime, seed, cell.folder))
    return PredictionErrors(cells, NAMES, SEEDS)


VALUES = {"near": 0.0, "middle": 1.0, "far": 4.0}
AXIS = Axis(name="distance", values=VALUES)


def test_a_trend_is_the_least_squares_slope_of_the_paired_differences(along: PredictionErrors) -> None:
    row = trends(along, AXIS, [("good", "bad")], ["mean", "tau"]).set_index("combination").loc["tau"]
    differences = [difference(along, "good", "bad", regime, "tau").estimate for regime in VALUES]
    slope, _ = np.polyfit(list(VALUES.values()), differences, 1)
    assert row.slope == pytest.approx(slope) and row.lower <= slope <= row.upper < 0 and row.p_holm < 0.05


def test_the_trend_of_a_pair_that_did_not_finish_everywhere_is_not_told(along: PredictionErrors) -> None:
    del along.by_method["bad", "far"]
    assert len(trends(along, AXIS, [("good", "bad")], ["mean"])) == 0


def test_the_rmse_along_an_axis_is_the_mean_over_the_combinations_of_each_regime(along: PredictionErrors) -> None:
    rows = along_axis(along, AXIS, ["mean", "tau"]).set_index(["method", "regime", "combination"])
    table = results(along).query("seed == 'all' and stratum == 'all' and n > 0")
    for regime, value in VALUES.items():
        own = table.query("method == 'bad' and regime == @regime").set_index("combination")
        mean, tau = (rows.loc[("bad", regime, c)] for c in ("mean", "tau"))
        assert mean.rmse == pytest.approx(own.rmse.mean()) and mean.value == value
        assert (tau.rmse, tau.lower, tau.upper) == pytest.approx(tuple(own.loc["tau", ["rmse", "lower", "upper"]]))


def test_an_axis_is_logarithmic_where_it_spans_more_than_twentyfold() -> None:
    assert axis_scale([24.0, 84.0]) == axis_scale([0.0, 0.5, 0.95]) == axis_scale([-500.0, 500.0]) == "linear"
    assert axis_scale([10.0, 30.0, 500.0]) == "log"


def test_an_outcome_without_strata_is_judged_on_all_subjects_alone(finished: list[FinishedCell]) -> None:
    errors = PredictionErrors(finished, NAMES, SEEDS, ["all"])
    assert set(results(errors).stratum) == set(comparisons(errors, [("good", "bad")]).stratum) == {"all"}


def test_the_memory_of_a_cell_is_told_where_its_card_has_it(finished: list[FinishedCell]) -> None:
    study = done(PredictionErrors(finished, NAMES, SEEDS), cells=finished)
    assert "peak_memory_mb" not in cost_rows(study)
    path = finished[0].folder / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": 7.0, "peak_memory_mb": 311}))
    costs = cost_rows(study)
    assert costs.peak_memory_mb.iloc[0] == 311 and costs.peak_memory_mb.isna().sum() == len(finished) - 1
