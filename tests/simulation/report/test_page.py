"""The report: what a reader must find on it, and what must never be on it."""

from __future__ import annotations

import re
from itertools import pairwise
from math import nan
from pathlib import Path

import pandas as pd
import pytest

from permmoe.modality import all_combinations, combination_name
from permmoe_simulation.report import render_report
from permmoe_simulation.report.content import Text
from permmoe_simulation.report.images import images_section
from permmoe_simulation.report.lookups import Difference
from permmoe_simulation.report.style import SHAPES, method_looks
from permmoe_simulation.report.view import view_of
from tests.support.report_page import Page, page_of, read, study_of, view
from tests.support.study_files import MODALITIES, change_summary, configuration, judged, write_drift, write_study


def test_page_loads_nothing_from_anywhere(html: str) -> None:
    for tag, attributes in Page(html).elements:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "action", "data", "srcset"):
                assert (value or "").startswith(("#", "data:image/png;base64,")), f"<{tag} {name}={value!r}>"
            assert not name.startswith("on")
    assert "http" not in html
    assert "@import" not in html
    assert re.findall(r"url\((?!#)", html) == []


def test_same_files_give_the_same_bytes_and_the_report_is_the_only_file_written(small: Path) -> None:
    before = {path.name: path.read_bytes() for path in small.iterdir()}
    first = render_report(small)
    assert first == small / "report.html"
    content = first.read_bytes()
    assert render_report(small).read_bytes() == content
    after = {path.name: path.read_bytes() for path in small.iterdir()}
    assert after == before | {"report.html": content}


def test_every_element_that_opens_closes_and_no_name_occurs_twice(html: str) -> None:
    parsed = Page(html)
    assert parsed.open == []
    names = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(names) == len(set(names))
    targets = re.findall(r'(?:href="#|url\(#)([^")]+)', html)
    assert set(targets) <= set(names)


def test_table_holds_each_combination_with_its_n_and_each_method_with_its_figure(study: Path, html: str) -> None:
    results = read(study / "results.csv")
    results = results[(results["seed"] == "all") & (results["stratum"] == "all")]
    header, *rows = Page(html).table("RMSE in CDR-SB points, with")
    assert [row[0] for row in rows] == [*map(combination_name, all_combinations(MODALITIES)), "mean"]
    for row in rows[:-1]:
        expected = results[results["combination"] == row[0]]
        assert row[1] == str(expected["n"].iloc[0])
        for name, r in zip(header[2:], expected.to_dict("records"), strict=True):
            figure = f"{r['rmse']:.2f} | {r['lower']:.2f} to {r['upper']:.2f}"
            assert row[header.index(name)] == figure


def test_best_figure_of_a_row_is_bold_and_no_other(html: str) -> None:
    numbers = html[html.index('<h2 id="numbers">') :]
    line = re.search(r'<tr><th scope="row">amyloid\+tau</th>.*?</tr>', numbers)
    assert line is not None
    figures = [float(x) for x in re.findall(r">(?:<b>)?(\d\.\d\d)(?:</b>)?<small>", line[0])]
    bold = [float(x) for x in re.findall(r"<b>(\d\.\d\d)</b>", line[0])]
    assert len(figures) == 6
    assert bold == [min(figures)]


def test_combination_without_subjects_says_so_and_shows_no_number(html: str) -> None:
    _, *rows = Page(html).table("RMSE in CDR-SB points, Baseline CDR-SB above 5")
    assert rows[-2] == ["t1+flair+amyloid+tau", "0", *["no subject"] * 6]


def test_combination_without_subjects_stays_empty_even_if_a_figure_is_in_the_file(small: Path) -> None:
    results = read(small / "results.csv")
    chosen = (results["combination"] == "tau") & (results["stratum"] == "all")
    results.loc[chosen, ["n", "rmse"]] = [0, 7.77]
    results.to_csv(small / "results.csv", index=False)
    html = page_of(small)
    _, *rows = Page(html).table("RMSE in CDR-SB points, with")
    assert rows[1] == ["tau", "0", *["no subject"] * 4]
    assert "7.77" not in Page(html).text


def test_combination_that_was_not_evaluated_is_listed_as_such(small: Path) -> None:
    results = read(small / "results.csv")
    results[results["combination"] != "t1+tau"].to_csv(small / "results.csv", index=False)
    html = page_of(small)
    _, *rows = Page(html).table("RMSE in CDR-SB points, with")
    assert ["t1+tau", "–", *["–"] * 4] in rows
    assert "not evaluated</text>" in html


@pytest.mark.parametrize("synthetic", [True, False])
def test_synthetic_label_stands_everywhere_if_and_only_if_the_data_are_synthetic(small: Path, synthetic: bool) -> None:
    data = {"synthetic": {"seed": 104}} if synthetic else {"table": "diabetes"}
    change_summary(small, synthetic=synthetic, configuration=configuration(data=data))
    html = page_of(small)
    parsed = Page(html)
    figures = [caption for caption in parsed.captions if re.search(r"Figure \d+\.", caption)]
    assert len(figures) >= 7
    if synthetic:
        assert all(caption.startswith("Synthetic data") for caption in figures)
        assert html.count(">synthetic data</text>") == len(figures)
        assert "Nothing on this page is evidence about patients" in html
        assert "(synthetic data)</title>" in html
    else:
        assert "synthetic" not in parsed.text.lower()


def test_slices_of_real_patients_are_not_shown(small: Path) -> None:
    shown = images_section(view_of(study_of(small))).items
    assert [item.kind for item in shown] == ["plot"]
    change_summary(small, synthetic=False)
    (reason,) = images_section(view_of(study_of(small))).items
    assert isinstance(reason, Text) and "voxels of a patient" in reason.text


def test_hostile_text_is_shown_and_never_run(small: Path) -> None:
    attack = "$\\frac{$<script>alert('x')</script>\"'&</svg>"
    change_summary(
        small,
        study=attack,
        data=attack,
        findings=[attack],
        goals=[{"claim": attack}],
        configuration=attack,
        command=attack,
        versions={attack: attack},
        digests={attack: attack},
        date=attack,
        failed_cells=[attack, {"method": attack, "error": attack}],
        quarantine={attack: 3},
        methods={"permmoe": {"label": attack, "description": attack}},
    )
    for name in ("results", "comparisons", "rounds", "learning", "activation", "routing", "sites"):
        table = pd.read_csv(small / f"{name}.csv", dtype=str, keep_default_na=False)
        for column in {"regime", "site", "reference", "step_kind"} & set(table.columns):
            table[column] = attack
        table.to_csv(small / f"{name}.csv", index=False)
    html = page_of(small)
    parsed = Page(html)
    assert "script" not in {tag for tag, _ in parsed.elements}
    assert "<script" not in html.lower()
    assert html.count("</svg>") == html.count("<svg ")
    assert parsed.text.count(attack) >= 15


@pytest.mark.parametrize(
    ("methods", "modalities", "regimes"),
    [
        (1, 2, 1),
        (12, 3, 2),
        (1, 5, 1),
        (2, 6, 1),
    ],
)
def test_any_number_of_methods_modalities_and_regimes_fits(
    tmp_path: Path, methods: int, modalities: int, regimes: int
) -> None:
    names = [f"m{j}" for j in range(modalities)]
    folder = write_study(
        tmp_path,
        methods=[f"method_{j}" for j in range(methods)],
        modalities=names,
        regimes=[f"regime_{j}" for j in range(regimes)],
        seeds=(5,),
        n_experts=3,
        n_sites=3,
    )
    parsed = Page(page_of(folder))
    tables = [t for t in parsed.tables if t[0][:2] == ["Combination", "n"] and t[-1][0] == "mean"]
    expected = [*map(combination_name, all_combinations(names)), "mean"]
    assert len(tables) == 3 * regimes  # all test subjects and two strata
    for table in tables:
        assert [row[0] for row in table[1:]] == expected
        assert len(table[0]) == 2 + methods


def test_missing_figures_are_dashes_and_break_nothing(small: Path) -> None:
    for name in ("results", "comparisons", "rounds", "learning", "activation", "routing"):
        table = read(small / f"{name}.csv")
        for column in table.select_dtypes("float").columns:
            table[column] = nan
        table.to_csv(small / f"{name}.csv", index=False)
    parsed = Page(page_of(small))
    assert not re.search(r"\b(nan|NaN|inf)\b", parsed.text)
    _, *rows = parsed.table("RMSE in CDR-SB points, with")
    assert rows[0] == ["t1", "131", *["no figure"] * 4]


def test_a_site_whose_reply_was_left_out_breaks_no_figure_of_costs(small: Path) -> None:
    rounds = pd.read_csv(small / "rounds.csv", dtype={"site": str, "regime": str})
    rounds.loc[0, "site"] = nan
    rounds.to_csv(small / "rounds.csv", index=False)
    parsed = Page(page_of(small))
    assert not re.search(r"\b(nan|NaN|inf)\b", parsed.text)


def test_method_without_averaged_results_is_named_as_not_shown(small: Path) -> None:
    results = read(small / "results.csv")
    results[(results["method"] != "local") | (results["seed"] != "all")].to_csv(small / "results.csv", index=False)
    assert "so not shown: Local only." in page_of(small)


@pytest.mark.parametrize(
    ("value", "p_holm", "verdict"),
    [
        (-0.2, 0.049, "better"),
        (0.2, 0.0, "worse"),
        (-0.2, 0.05, "unclear"),
        (-0.1, nan, "unclear"),
        (nan, nan, "none"),
    ],
)
def test_verdict_needs_a_test_that_stays_below_5_percent_after_the_correction(
    value: float, p_holm: float, verdict: str
) -> None:
    assert Difference(11, value, value - 0.01, value + 0.01, p_holm, 5).verdict == verdict


def test_forest_says_in_words_which_differences_are_beyond_chance(small: Path) -> None:
    table = read(small / "comparisons.csv")
    for reference, low, high in (("flexmoe", -0.3, -0.1), ("local", 0.1, 0.3), ("null", -0.1, 0.2)):
        table.loc[table["reference"] == reference, ["difference", "lower", "upper"]] = [(low + high) / 2, low, high]
    judged(table).to_csv(small / "comparisons.csv", index=False)
    text = Page(page_of(small)).text
    assert (
        "clearly better: PerM-MoE against Flex-MoE; clearly worse: PerM-MoE against Local only; "
        "without a clear difference: PerM-MoE against Clinical null." in text
    )
    assert "PerM-MoE against Local only: clearly better in 0 of 3 combinations, clearly worse in 3." in text


def test_a_study_of_few_seeds_shows_points_and_says_why_it_judges_nothing(tmp_path: Path) -> None:
    text = Page(page_of(write_study(tmp_path, seeds=(0, 1, 2)))).text
    assert "No difference on this page is judged: 3 training seeds, fewer than 5." in text
    assert "with 3 training seeds, fewer than 5, nothing is judged, and so no judgement can be false" in text
    assert "without a clear difference" in text and "clearly better:" not in text


def test_the_rule_names_how_many_tests_of_all_pairs_and_regimes_are_corrected_together(html: str) -> None:
    text = Page(html).text
    assert "all pairs and regimes together: " in text and " averages" in text and " combinations" in text


def test_every_method_has_a_shape_of_its_own_and_references_are_hollow() -> None:
    kinds = {f"m{j}": "reference" if j % 5 == 4 else "federated" for j in range(len(SHAPES))}
    looks = method_looks(kinds)
    assert len({look.shape for look in looks.values()}) == len(kinds)
    assert len({look.colour for look in looks.values()}) == len(kinds)
    assert [not look.is_filled for look in looks.values()] == [kind == "reference" for kind in kinds.values()]


def test_figures_have_words_for_who_cannot_see_them_and_tables_have_headers(html: str) -> None:
    parsed = Page(html)
    plots = [a for tag, a in parsed.elements if a.get("role") == "img"]
    assert len(plots) == html.count("<svg ")
    assert all(len(a["aria-label"] or "") > 30 for a in plots)
    columns = [a for tag, a in parsed.elements if tag == "th" and a.get("scope") == "col"]
    rows = [a for tag, a in parsed.elements if tag == "th" and a.get("scope") == "row"]
    assert len(columns) == sum(len(t[0]) for t in parsed.tables)
    assert len(rows) == sum(len(t) - 1 for t in parsed.tables)


def test_failures_and_quarantine_are_itemised(small: Path) -> None:
    change_summary(small, failed_cells=[{"method": "flexmoe", "seed": 2, "error": "diverged in round 7"}])
    parsed = Page(page_of(small))
    assert parsed.table("Runs that failed")[1] == ["flexmoe, 2", "diverged in round 7"]
    assert parsed.table("Image files set aside")[1] == ["truncated gzip", "3"]


def test_sites_that_took_no_part_are_counted(small: Path) -> None:
    change_summary(small, left_out_sites=2)
    assert "2 more sites took no part" in page_of(small)


def test_page_says_what_it_is_not(html: str) -> None:
    assert "not a medical device" in html


def test_sections_follow_each_other_with_the_answer_first(html: str) -> None:
    order = [html.index(part) for part in ('class="synthetic"', 'class="finding"', 'id="rmse"', 'id="differences"')]
    assert all(a < b for a, b in pairwise(order))


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
    shown = page_of(study)
    assert "CDR-SB" not in re.sub(r"Ridge regression on baseline CDR-SB and age", "", shown)
    assert shown.count("progression points") > 5 and "Small changes and severe baselines" not in shown
    assert "public data" in shown and images_section(view(study)) is None and "patient must not" not in shown


def test_goals_name_their_regime_and_many_of_them_are_folded_away(study: Path) -> None:
    goals = [{"claim": "A beats B", "regime": f"regime {j}", "difference": -0.001, "lower": -1, "upper": 1,
              "met": False} for j in range(7)]  # fmt: skip
    change_summary(study, goals=goals[:3])
    shown = page_of(study)
    assert "A beats B, regime 2" in shown and "−0.0010" in shown and "All 7 goals" not in shown
    change_summary(study, goals=goals)
    assert "All 7 goals and what came of them" in page_of(study)
