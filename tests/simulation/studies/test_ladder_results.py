"""A model that does not beat the ladder's top is said not to: in the report, the summary, the terminal and the page."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from permmoe.config import parse_config
from permmoe.data.visits import Visit
from permmoe_simulation.report.collection import collected
from permmoe_simulation.studies.ladder import CLINICAL_COLUMNS, RUNGS, Ladder
from permmoe_simulation.studies.ladder_findings import columns_left_out, ladder_sentences
from permmoe_simulation.studies.ladder_results import HeldAgainstLadder, as_table, from_table, held_against_ladder
from permmoe_simulation.studies.prediction_errors import Errors, PredictionErrors
from permmoe_simulation.studies.simulate import RunOptions, run_study
from permmoe_simulation.studies.study import StudyConfig
from permmoe_simulation.study_tables import LADDER
from tests.support.tiny_study import QUIET, settings

LABELS = {"model": "PerM-MoE", "low": "clinical null", "high": "clinical boosting"}
PAIRS = [("model", "low"), ("model", "high")]


def found(errors: dict[str, np.ndarray], regimes: tuple[str, ...] = ("site",)) -> PredictionErrors:
    """Methods whose errors are [seed, subject], with one modality and an outcome of zero."""
    some = next(iter(errors.values()))
    made = PredictionErrors([], ("t1",), list(range(len(some))))
    zero, site = np.zeros(some.shape), np.full(some.shape, "x")
    made.by_method = {
        (name, regime): Errors(error[:, :, None], zero, zero, site)
        for regime in regimes
        for name, error in errors.items()
    }
    return made


def drawn(scale: float, seed: int, seeds: int = 5, subjects: int = 61) -> np.ndarray:
    return scale * np.random.default_rng(seed).normal(size=(1, subjects)).repeat(seeds, 0)


def on_average(held: list[HeldAgainstLadder]) -> HeldAgainstLadder:
    [one] = [one for one in held if one.combination == "mean"]
    return one


def test_the_top_is_the_reference_that_errs_least_and_a_model_beats_it_beyond_chance_or_is_said_not_to() -> None:
    good = on_average(
        held_against_ladder(found({"model": drawn(1, 1), "low": drawn(3, 2), "high": drawn(2, 3)}), PAIRS, LABELS)
    )
    assert (good.top, good.outcome, good.n, good.seeds) == ("high", "beats", 61, 5) and good.difference < -0.5
    alike = {"model": drawn(1, 1), "low": drawn(3, 2), "high": drawn(1, 3)}
    assert on_average(held_against_ladder(found(alike), PAIRS, LABELS)).outcome == "does not beat"
    worse = {"model": drawn(2, 1), "low": drawn(3, 2), "high": drawn(1, 3)}
    assert on_average(held_against_ladder(found(worse), PAIRS, LABELS)).p_value == 1


def test_a_model_no_better_than_the_best_reference_beats_the_ladder_in_at_most_six_of_a_hundred_studies() -> None:
    """A second reference follows the model and is a little worse: it is often the top, and clearly beaten by itself."""
    studies = [f"study-{k}" for k in range(200)]
    many = found({"model": drawn(1, 1)}, tuple(studies))
    for k, study in enumerate(studies):
        model = drawn(1, 2 * k)
        errors = {"model": model, "low": 1.03 * model, "high": drawn(1, 2 * k + 1)}
        many.by_method |= found(errors, (study,)).by_method
    held = [one for one in held_against_ladder(many, PAIRS, LABELS) if one.combination == "mean"]
    assert len(held) == len(studies)
    false, naive = sum(one.p_value < 0.05 for one in held), sum(one.upper < 0 for one in held)
    assert false <= 0.06 * len(studies) < 0.3 * len(studies) < naive


@pytest.mark.parametrize(
    ("seeds", "subjects", "why"),
    [(4, 61, "4 training seeds, fewer than 5"), (5, 9, "n = 9, fewer than 10")],
)
def test_with_few_seeds_or_subjects_the_difference_stands_there_and_why_it_is_not_judged(
    seeds: int, subjects: int, why: str
) -> None:
    errors = {
        name: drawn(scale, k, seeds, subjects)
        for k, (name, scale) in enumerate({"model": 1.0, "low": 3.0, "high": 2.0}.items())
    }
    one = on_average(held_against_ladder(found(errors), PAIRS, LABELS))
    assert one.outcome == "not judged" and one.why_not_judged == why
    assert np.isfinite(one.difference) and np.isnan(one.p_value) and one.n == subjects


def test_where_a_reference_did_not_finish_the_others_are_shown_and_nothing_is_judged() -> None:
    one = on_average(held_against_ladder(found({"model": drawn(1, 1), "low": drawn(3, 2)}), PAIRS, LABELS))
    assert (one.top, one.outcome, one.why_not_judged) == ("low", "not judged", "clinical boosting did not finish")
    assert one.difference < -1
    assert held_against_ladder(found({"model": drawn(1, 1)}), PAIRS, LABELS) == []


def test_tests_are_corrected_over_all_models_and_regimes() -> None:
    errors = {"model": drawn(1, 1), "low": drawn(3, 2), "high": drawn(1.35, 3)}
    alone = on_average(held_against_ladder(found(errors), PAIRS, LABELS))
    several = held_against_ladder(found(errors, tuple("abcdefg")), PAIRS, LABELS)
    assert len(several) == 2 * 7
    assert np.allclose([one.p_holm for one in several], min(1, 7 * alone.p_value))


def test_the_table_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    errors = {"model": drawn(1, 1), "low": drawn(3, 2)}
    held = held_against_ladder(found(errors), [*PAIRS, ("low", "high")], LABELS)
    LADDER.write(as_table(held), tmp_path)
    rows = LADDER.read(tmp_path)
    assert rows is not None and [str(one) for one in from_table(rows)] == [str(one) for one in held]
    LADDER.write(as_table([]), tmp_path)
    assert LADDER.read(tmp_path) is None


def with_ladder(regimes: tuple[str, ...] = ("site",), models: str = "ab") -> StudyConfig:
    methods = {name: {"kind": "centralised", "label": name.upper()} for name in models}
    changes = {"regimes": {name: {} for name in regimes}, "comparisons": [], "claims": [], "ladder": {}}
    return parse_config(settings(methods=methods, **changes), StudyConfig, "study")


def held_row(method: str = "a", regime: str = "site", **changes: Any) -> HeldAgainstLadder:
    row = {"combination": "mean", "top": "clinical-boosting", "n": 131, "difference": -0.12, "lower": -0.2,
           "upper": -0.04, "seeds": 5, "p_value": 0.01, "p_holm": 0.02}  # fmt: skip
    return HeldAgainstLadder(method=method, regime=regime, **(row | changes))


NOT = {"difference": 0.031, "lower": -0.02, "upper": 0.08, "p_value": 1.0, "p_holm": 1.0}
UNJUDGED = {"p_value": np.nan, "p_holm": np.nan, "lower": np.nan, "upper": np.nan, "seeds": 2,
            "why_not_judged": "2 training seeds, fewer than 5"}  # fmt: skip


def test_a_sentence_says_of_every_model_whether_it_beats_the_top_and_a_first_one_names_them_all() -> None:
    first, a, b = ladder_sentences(
        with_ladder(), [held_row(), held_row("b", **NOT)], visits(**dict.fromkeys(CLINICAL_COLUMNS, (1, 2)))
    )
    assert first == (
        "Against the ladder of clinical references, averaged over combinations: A beats its top beyond chance; "
        "B does not beat it."
    )
    assert a == (
        "A beats the ladder's top, clinical boosting: its RMSE is 0.12 CDR-SB points lower (95% interval −0.20 to "
        "−0.04, n = 131, 5 training seeds; beyond chance against every reference)."
    )
    assert b.startswith("B does not beat the ladder's top, clinical boosting: its RMSE is 0.031 CDR-SB points higher (")
    [first, untold, *_] = ladder_sentences(with_ladder(), [held_row(p_holm=0.2)], [])
    assert "A does not beat its top." in first and "lower" in untold and "not beyond chance against every" in untold


def test_many_models_that_do_not_beat_the_top_share_a_sentence_and_those_that_do_have_their_own() -> None:
    study, behind = with_ladder(models="abcde"), [held_row(name, **NOT) for name in "bcd"]
    further = held_row("e", **(NOT | {"difference": -0.2, "n": 120}))
    full = visits(**dict.fromkeys(CLINICAL_COLUMNS, (1, 2)))
    assert len(ladder_sentences(study, [held_row(), *behind], full)) == 5, "three have a sentence each"
    first, a, rest = ladder_sentences(study, [held_row(), *behind, further], full)
    assert "A beats its top beyond chance; B, C, D and E do not beat it." in first and a.startswith("A beats")
    assert rest == (
        "Those that do not beat it are no better than it beyond chance: differences between −0.20 and +0.03 CDR-SB "
        "points, n = 120 to 131."
    )


def test_models_that_are_not_judged_are_said_to_be_so_and_why() -> None:
    first, a, *_ = ladder_sentences(with_ladder(), [held_row(**UNJUDGED)], [])
    assert first.endswith("A is not judged (2 training seeds, fewer than 5).")
    assert a == (
        "Whether A beats the ladder's top, clinical boosting, is not judged: 2 training seeds, fewer than 5 (its RMSE "
        "is 0.12 CDR-SB points lower, n = 131)."
    )
    assert "No model could be held against" in ladder_sentences(with_ladder(), [], [])[0]


def test_regimes_of_a_model_stand_in_one_sentence() -> None:
    study = with_ladder(("near", "far", "odd"))
    held = [held_row(regime="near"), held_row(regime="far", **NOT), held_row(regime="odd", **UNJUDGED)]
    held += [held_row("b", "near", **NOT), held_row("b", "far", **NOT), held_row("b", "odd", **UNJUDGED)]
    first, a, b, *_ = ladder_sentences(study, held, [])
    assert "A (in 1 of 2 regimes) beats its top beyond chance; B does not beat it in any regime." in first
    assert a.startswith("A beats the ladder's top in 1 of 2 regimes (near: clinical boosting, −0.12, 95% interval")
    assert "does not beat it in far (difference +0.031 CDR-SB points, n = 131)" in a and "is not judged in odd" in a
    assert b.startswith("B does not beat the ladder's top in any regime (differences between +0.031 and +0.031")


def visits(**columns: tuple[int, ...]) -> list[Visit]:
    n = max(map(len, columns.values()))
    return [
        Visit(f"s{i}", "x", "bl", 1.5, 0.5, 24.0,
              covariates={name: float(values[i]) for name, values in columns.items() if i < len(values)})
        for i in range(n)
    ]  # fmt: skip


def test_constant_and_absent_columns_are_named_with_their_reason() -> None:
    ladder = Ladder(columns=("MMSE", "FAQ", "ADAS13", "APOE4"))
    told = columns_left_out(ladder, visits(MMSE=(28, 29, 30), FAQ=(3, 3)))
    assert told == (
        "The clinical references learn nothing from FAQ (it is the same in every visit); ADAS13 and APOE4 (no "
        "visit has it)."
    )
    assert columns_left_out(Ladder(columns=("MMSE",)), visits(MMSE=(1, 2))) == ""
    assert "left with the score at the visit" in columns_left_out(Ladder(), visits(MMSE=(1, 1)))


def test_report_summary_terminal_and_page_say_the_same_and_idle_columns_lose_no_figure(
    tmp_path: Path,
) -> None:
    """A manifest whose change follows MMSE, with a constant FAQ and no ADAS13; a ridge on a number is the model."""
    header = "subject_id,site,session,baseline_cdrsb,delta_cdrsb,horizon_months,ptau,MMSE,FAQ"
    rows = [f"s{i},x,bl,{1 + i % 3 / 2},{(i % 11) / 4},24,{i % 5},{20 + i % 11},3" for i in range(120)]
    (tmp_path / "table.csv").write_text("\n".join([header, *rows]) + "\n")
    study = {
        "name": "rungs",
        "description": "d",
        "data": {"manifest": str(tmp_path / "table.csv")},
        "model": {"modalities": [{"name": "fluid", "kind": "tabular", "columns": ["ptau"]}]},
        "methods": {"ridge": {"kind": "reference", "label": "ridge on tau", "baseline": "kernel_ridge"}},
        "ladder": {"columns": ["MMSE", "FAQ", "ADAS13"]},
        "seeds": [0],
    }
    out = tmp_path / "out"
    outcome = run_study(parse_config(study, StudyConfig, "study"), out, RunOptions(tmp_path / "shared"), QUIET)
    sentences = json.loads((out / "summary.json").read_text())["ladder"]
    assert len(sentences) == 3 and not outcome.failed and outcome.findings == tuple(sentences)
    assert "is not judged: 1 training seed, fewer than 5 (its RMSE is" in sentences[1]
    assert "FAQ (it is the same in every visit); ADAS13 (no visit has it)" in sentences[2]
    shown = unescape(re.sub("<[^>]+>", "", (out / "report.html").read_text()))
    assert all(sentence in shown and sentence in collected([out]).page for sentence in sentences)
    rows_of_ladder = LADDER.read(out)
    assert rows_of_ladder is not None and set(rows_of_ladder["top"]) < {"clinical-ridge", "clinical-boosting"}
    assert all(f"{name},site,0,fluid,all" in (out / "results.csv").read_text() for name in ("ridge", *RUNGS))
