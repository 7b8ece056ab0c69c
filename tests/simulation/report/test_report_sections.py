"""The report's sections on a publication, an axis, the growth of a round, routers and drift; and other outcomes."""

from __future__ import annotations

import re
from math import nan
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from permmoe_simulation.report.axis import axis_section, crossing_sentence, crossings, exponent, growth_section
from permmoe_simulation.report.cells import sample_size, unmirrored
from permmoe_simulation.report.content import Item, Plot, Section, Text, digits_for, listed, table_digits
from permmoe_simulation.report.costs import round_split
from permmoe_simulation.report.experts import drift_sentence, experts_section, router_consistency
from permmoe_simulation.report.files import read_study
from permmoe_simulation.report.page import page
from permmoe_simulation.report.published import judged, published_section
from permmoe_simulation.report.view import View, view_of
from permmoe_simulation.report.workings import images_section
from tests.support.study_files import change_summary, write_axis, write_percent_changes, write_study

PUBLISHED = {
    "source": "Somebody 2025; a cohort",
    "method": "permmoe",
    "reference": "flexmoe",
    "wins": "11 of 15",
    "percent": {"flair": -8.6, "tau": -3.6},
    "percent_by_stratum": {"small_change": -21.5},
    "reference_better": ["amyloid+tau"],
}
VALUES = {"ten": 10.0, "hundred": 100.0, "thousand": 1000.0}


def texts(section: Section | None) -> str:
    """All paragraphs, and the captions of all figures."""
    assert section is not None

    def told(item: Item) -> str:
        return item.text if isinstance(item, Text) else item.caption if isinstance(item, Plot) else ""

    return " ".join(map(told, section.items))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path, methods=("permmoe", "flexmoe", "local", "null"))


@pytest.fixture
def along(tmp_path: Path) -> Path:
    folder = write_study(tmp_path, methods=("permmoe", "flexmoe"), regimes=tuple(VALUES), n_sites=3)
    write_axis(folder, VALUES, "sites", "log")
    return folder


def view(folder: Path) -> View:
    return view_of(read_study(folder))


def rounds_of(sites: list[tuple[float, float, float]], **once: float) -> pd.DataFrame:
    """One round: each site's seconds of training, of its own other work, and of the server's for it."""
    parts = {"write_seconds": 0.25, "step_seconds": 0.25, "evaluate_seconds": 1.0, **once}
    names = ("train_seconds", "overhead_seconds", "server_seconds")
    run = {"method": "m", "regime": "r", "seed": "0", "round": 1}
    return pd.DataFrame([run | dict(zip(names, own, strict=True)) | parts for own in sites])


def test_a_rounds_time_goes_to_its_parts_and_the_rest_is_the_wire() -> None:
    in_turn = round_split(rounds_of([(2.0, 0.5, 0.125), (4.0, 0.25, 0.125)], round_seconds=9.0))
    assert in_turn == {"training": 6.0, "site": 0.75, "write": 0.25, "add": 0.5, "evaluate": 1.0, "wire": 0.5}


def test_of_sites_that_worked_at_once_the_busiest_counts() -> None:
    at_once = round_split(rounds_of([(2.0, 0.5, 0.125), (4.0, 0.25, 0.125)], round_seconds=6.25))
    assert (at_once["training"], at_once["site"], at_once["wire"]) == (4.0, 0.25, 0.25)


def test_rounds_that_do_not_tell_are_left_out_of_the_split() -> None:
    secure = rounds_of([(0.0, 0.0, 0.0)], round_seconds=9.0)
    assert round_split(secure) == round_split(secure.drop(columns="write_seconds")) == {}


def test_a_method_that_no_subject_could_judge_does_not_widen_the_sample_size() -> None:
    assert sample_size([0, 219, 219]) == "219"
    assert sample_size([219, 145, 0]) == "145–219"
    assert sample_size([0]) == "0"
    assert sample_size([]) == "–"


def test_study_without_publication_axis_or_drift_has_no_section_of_them(study: Path) -> None:
    shown = page(read_study(study))
    assert published_section(view(study)) is axis_section(view(study)) is growth_section(view(study)) is None
    assert "Beside the paper" not in shown and "Imputation drift" not in shown


@pytest.mark.parametrize(
    ("lower", "upper", "verdict"),
    [
        (-9.0, -1.0, "carried over"),
        (1.0, 9.0, "did not"),
        (-3.0, 2.0, "did not"),  # no room for −8.6
        (-12.0, 2.0, "cannot be told"),
        (nan, nan, "cannot be told"),
    ],
)
def test_claim_carries_over_by_where_the_whole_interval_lies(lower: float, upper: float, verdict: str) -> None:
    assert judged(-8.6, 0.0, lower, upper, -8.6) == verdict
    assert judged(8.6, 0.0, -upper, -lower, 8.6) == verdict


def test_papers_figures_stand_beside_ours_and_every_claim_is_counted(study: Path) -> None:
    change_summary(study, published=[PUBLISHED])
    rows = [("flair", "all", -7.0, -11.0, -2.0), ("tau", "all", 1.0, -5.0, 7.0), ("mean", "all", 0.0, -2.0, 2.0),
            ("mean", "small_change", 3.0, -4.0, 8.0), ("amyloid+tau", "all", -6.0, -9.0, -1.0)]  # fmt: skip
    write_percent_changes(study, rows, "15 9 5 12")
    section = published_section(view(study))
    assert texts(section).startswith(
        "Of the paper's 5 claims about PerM-MoE against Flex-MoE, 1 carried over (with flair), 2 did not (averaged "
        "over combinations, small change (0 < Δ ≤ 1); with amyloid+tau) and 2 cannot be told from chance (with tau; "
        "combinations won)."
    )
    shown = page(read_study(study))
    assert "Somebody 2025; a cohort" in shown and "not in the digest we had" in shown
    assert "−8.6%" in shown and "−7.0%" in shown and "synthetic data" in shown


def test_crossings_are_where_the_difference_changes_its_sign() -> None:
    assert crossings([0.0, 1.0, 3.0], [-1.0, 1.0, 3.0], "linear") == [0.5]
    assert crossings([3.0, 0.0, 1.0], [-3.0, -1.0, 1.0], "linear") == [0.5, 1.5]
    assert crossings([10.0, 1000.0], [1.0, -1.0], "log") == [pytest.approx(100.0)]
    assert crossings([0.0, 1.0], [0.2, 0.1], "linear") == []


def test_crossing_is_told_with_the_points_beyond_chance_and_the_trend(along: Path) -> None:
    shown = view(along)
    assert shown.summary.axis is not None
    told = crossing_sentence(shown, shown.summary.axis, ("permmoe", "flexmoe"), "mean")
    assert "stays below" in told and "10 (PerM-MoE better, −0.20) and 100" in told.replace(".0 (", " (")
    assert "From 10 to 1,000 the difference changes by +0.20 CDR-SB points" in told
    assert "over its logarithm (95% interval 0.10 to 0.30): a trend beyond chance" in told


def test_crossing_inside_the_noise_is_called_so(along: Path) -> None:
    table = pd.read_csv(along / "comparisons.csv")
    table["difference"] = table["regime"].map({"ten": -0.01, "hundred": 0.01, "thousand": 0.02})
    table.assign(lower=-1.0, upper=1.0).to_csv(along / "comparisons.csv", index=False)
    shown = view(along)
    assert shown.summary.axis is not None
    told = crossing_sentence(shown, shown.summary.axis, ("permmoe", "flexmoe"), "mean")
    assert "includes zero at all 3 points" in told and "the crossing lies within the noise" in told


def test_axis_section_draws_errors_and_differences(along: Path) -> None:
    section = axis_section(view(along))
    assert section is not None and [item.kind for item in section.items].count("plot") == 2
    shown = page(read_study(along))
    assert shown.count("</svg>") == shown.count("<svg ")


def test_growth_of_a_round_is_told_as_a_power_of_the_axis(along: Path) -> None:
    rounds = pd.read_csv(along / "rounds.csv", dtype={"site": str})
    size = rounds["regime"].map(VALUES)
    rounds.assign(round_seconds=0.5 * size**0.5, bytes_down=1000 * size, bytes_up=0).to_csv(
        along / "rounds.csv", index=False
    )
    told = texts(growth_section(view(along)))
    assert "the time of a round goes from 1.6 s to 15.8 s (as sites to the power of 0.50)" in told
    assert "(as sites to the power of 1.00)" in told and "memory" not in told
    costs = [{"method": m, "regime": r, "seed": 0, "seconds": 1.0, "peak_memory_mb": 400.0}
             for m in ("permmoe", "flexmoe") for r in VALUES]  # fmt: skip
    pd.DataFrame(costs).to_csv(along / "costs.csv", index=False)
    assert "peak memory of the process goes from 400.0 MB to 400.0 MB (as sites to the power of 0.00)" in texts(
        growth_section(view(along))
    )


def test_exponent_of_a_power_law_is_found_and_that_of_one_point_is_not() -> None:
    assert exponent([2.0, 5.0, 11.0], [3 * x**1.7 for x in (2.0, 5.0, 11.0)]) == pytest.approx(1.7)
    assert np.isnan(exponent([3.0, 3.0], [1.0, 2.0])) and np.isnan(exponent([1.0, 2.0], [nan, 0.0]))


def activation(shares: dict[int, list[float]]) -> pd.DataFrame:
    rows = [
        {"method": "m", "regime": "r", "seed": str(seed), "combination": "t1", "modality": "t1", "expert": str(e),
         "share": s}
        for seed, of in shares.items() for e, s in enumerate(of)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_routers_that_agree_vary_by_nothing_and_swapped_experts_by_as_much_as_chance() -> None:
    same = router_consistency(activation({0: [0.7, 0.2, 0.1], 1: [0.7, 0.2, 0.1]})).iloc[0]
    assert (same.sd, same.relative) == (0, 0) and same.is_observed
    swapped = router_consistency(activation({0: [0.9, 0.1], 1: [0.1, 0.9]})).iloc[0]
    assert swapped.sd == pytest.approx(np.std([0.9, 0.1], ddof=1)) and swapped.relative > 1
    generator = np.random.default_rng(0)
    at_random = activation({s: list(generator.permutation([0.6, 0.2, 0.1, 0.05, 0.05])) for s in range(997)})
    assert router_consistency(at_random).iloc[0].relative == pytest.approx(1, abs=0.02)


def test_router_variance_of_one_seed_is_not_told() -> None:
    assert router_consistency(activation({0: [0.7, 0.3]})).empty


def write_drift(folder: Path) -> None:
    rows = [{"method": m, "regime": "structural", "combination": c, "n": 29, "difference": d, "lower": d - 0.1,
             "upper": d + 0.1}
            for m, far in (("permmoe", 0.3), ("null", 0.0)) for c, d in (("mean", far / 2), ("t1", far), ("tau", 0.0))
            ]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "drift.csv", index=False)


def test_drift_names_its_size_and_where_it_is_largest_and_leaves_out_who_sees_no_image(study: Path) -> None:
    write_drift(study)
    told = drift_sentence(view(study), "structural", ["permmoe", "null"])
    assert "PerM-MoE +0.15 CDR-SB points averaged over combinations (95% interval 0.05 to 0.25, n = 29)" in told
    assert "worse beyond chance in 1 of 2 combinations, most with t1 (+0.30)" in told and "null" not in told.lower()
    assert "Imputation drift" in texts(experts_section(view(study)))


def test_balance_of_experts_is_said_in_a_sentence(study: Path) -> None:
    table = pd.read_csv(study / "routing.csv")
    table.assign(collapsed_experts=0, load_cv=0.25).to_csv(study / "routing.csv", index=False)
    assert "with PerM-MoE no expert collapsed and the load CV is 0.25" in texts(experts_section(view(study)))


def test_another_outcome_is_in_its_unit_everywhere_and_has_no_strata(study: Path) -> None:
    for name in ("results", "comparisons"):
        table = pd.read_csv(study / f"{name}.csv", keep_default_na=False, na_values=[""])
        table[table["stratum"] == "all"].to_csv(study / f"{name}.csv", index=False)
    write_drift(study)
    change_summary(
        study,
        synthetic=False,
        source="public",
        data="A public table.",
        outcome={"name": "disease progression after one year", "unit": "progression points"},
    )
    shown = page(read_study(study))
    assert "CDR-SB" not in re.sub(r"Ridge regression on baseline CDR-SB and age", "", shown)
    assert shown.count("progression points") > 5 and "Small changes and severe baselines" not in shown
    assert "public data" in shown and images_section(view(study)) is None and "patient must not" not in shown


def test_goals_name_their_regime_and_many_of_them_are_folded_away(study: Path) -> None:
    goals = [{"claim": "A beats B", "regime": f"regime {j}", "difference": -0.001, "lower": -1, "upper": 1,
              "met": False} for j in range(7)]  # fmt: skip
    change_summary(study, goals=goals[:3])
    shown = page(read_study(study))
    assert "A beats B, regime 2" in shown and "−0.0010" in shown and "All 7 goals" not in shown
    change_summary(study, goals=goals)
    assert "All 7 goals and what came of them" in page(read_study(study))


def test_differences_are_written_with_digits_that_say_something() -> None:
    assert [digits_for(x) for x in (0.0, 0.0034, -0.012, 0.2, 7.0, 31.0)] == [2, 4, 3, 2, 1, 1]
    assert [table_digits(x) for x in ([0.001, -0.02], [0.1, nan], [5.0], [-40.0])] == [4, 3, 2, 1]
    assert [listed(x) for x in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
    assert unmirrored([("a", "b"), ("b", "a"), ("a", "c"), ("a", "b")]) == [("a", "b"), ("a", "c")]
