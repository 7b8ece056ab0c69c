"""The report: what a reader must find on it, and what must never be on it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from math import nan
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from permmoe.errors import DataError
from permmoe.modality import all_combinations, combination_name
from permmoe_simulation.report import render_report
from permmoe_simulation.report.cells import Difference, pooled, scores
from permmoe_simulation.report.content import Text, amount, duration, interval, number, signed
from permmoe_simulation.report.figures import Mark, Panel, Row, row_plot
from permmoe_simulation.report.files import read_study
from permmoe_simulation.report.page import page
from permmoe_simulation.report.style import SHAPES, Look, method_looks, shorten
from permmoe_simulation.report.view import view_of
from permmoe_simulation.report.workings import images_section
from tests.support.study_files import MODALITIES, change_summary, write_study

VOID = {"meta", "br", "link", "img", "input", "hr"}
OPTIONAL = ("comparisons.csv", "rounds.csv", "learning.csv", "activation.csv", "routing.csv", "sites.csv", "slices.npz")


class Page(HTMLParser):
    """The page as a browser sees it: elements with attributes, tables as lists of rows, and all visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.captions: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag in ("caption", "figcaption"):
            self.captions.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            text = self.tables[-1][-1]
            text[-1] += f" | {data.strip()}" if "small" in self.open else data
        if {"caption", "figcaption"} & set(self.open):
            self.captions[-1] += data

    @property
    def text(self) -> str:
        return "".join(self.words)

    def table(self, caption: str) -> list[list[str]]:
        """The rows, header first, of the only table whose caption contains a text."""
        captions = [c for c in self.captions if not re.search(r"Figure \d+\.", c)]
        found = [table for c, table in zip(captions, self.tables, strict=True) if caption in c]
        assert len(found) == 1
        return found[0]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def html(study: Path) -> str:
    return page(read_study(study))


@pytest.fixture(scope="module")
def small_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = ("permmoe", "flexmoe", "local", "null")
    folder = tmp_path_factory.mktemp("small")
    return write_study(folder, methods=names, modalities=("t1", "tau"), n_experts=3, n_sites=3, seeds=(5, 11))


@pytest.fixture
def small(small_study: Path, tmp_path: Path) -> Iterator[Path]:
    """A study of two modalities that a test may change."""
    yield Path(shutil.copytree(small_study, tmp_path / "small"))


def read(path: Path) -> pd.DataFrame:
    """A table of a study, with the method called `null` kept."""
    return pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"site": str})


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
    header, *rows = Page(html).table("RMSE in CDR-SB points with 95%")
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
    html = page(read_study(small))
    _, *rows = Page(html).table("RMSE in CDR-SB points with 95%")
    assert rows[1] == ["tau", "0", *["no subject"] * 4]
    assert "7.77" not in Page(html).text


def test_combination_that_was_not_evaluated_is_listed_as_such(small: Path) -> None:
    results = read(small / "results.csv")
    results[results["combination"] != "t1+tau"].to_csv(small / "results.csv", index=False)
    html = page(read_study(small))
    _, *rows = Page(html).table("RMSE in CDR-SB points with 95%")
    assert ["t1+tau", "–", *["–"] * 4] in rows
    assert "not evaluated</text>" in html


@pytest.mark.parametrize("synthetic", [True, False])
def test_synthetic_label_stands_everywhere_if_and_only_if_the_data_are_synthetic(small: Path, synthetic: bool) -> None:
    change_summary(small, synthetic=synthetic)
    html = page(read_study(small))
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
    shown = images_section(view_of(read_study(small))).items
    assert [item.kind for item in shown] == ["plot"]
    change_summary(small, synthetic=False)
    (reason,) = images_section(view_of(read_study(small))).items
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
    html = page(read_study(small))
    parsed = Page(html)
    assert "script" not in {tag for tag, _ in parsed.elements}
    assert "<script" not in html.lower()
    assert html.count("</svg>") == html.count("<svg ")
    assert parsed.text.count(attack) >= 15


@pytest.mark.parametrize("absent", OPTIONAL)
def test_section_whose_file_is_missing_says_so_and_the_others_stay(small: Path, absent: str) -> None:
    (small / absent).unlink()
    html = page(read_study(small))
    assert f"({absent})" in html
    assert html.count("<h2 ") == 13
    assert f"({absent})" not in html.replace(f"({absent})", "", 1)


def test_table_without_rows_or_header_counts_as_missing(small: Path) -> None:
    pd.DataFrame([]).to_csv(small / "comparisons.csv", index=False)
    assert "(comparisons.csv)" in page(read_study(small))


def test_study_with_nothing_but_results_and_summary_has_a_report(small: Path) -> None:
    for name in OPTIONAL:
        (small / name).unlink()
    assert page(read_study(small)).count("<svg ") == 3


@pytest.mark.parametrize("absent", ["summary.json", "results.csv"])
def test_folder_without_a_study_is_refused_with_the_file_named(small: Path, absent: str) -> None:
    (small / absent).unlink()
    with pytest.raises(DataError, match=absent):
        render_report(small)
    assert not (small / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("summary.json", "{"),
        ("summary.json", '{"study": "x"}'),
        ("results.csv", ""),
        ("results.csv", "method,regime\na,b\n"),
        ("results.csv", "\n"),
        ("sites.csv", 'site,train\n"1'),
        ("slices.npz", "not an archive"),
    ],
)
def test_file_that_cannot_be_understood_is_named(small: Path, name: str, content: str) -> None:
    (small / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=name):
        render_report(small)


def test_slices_that_hide_a_pickle_are_refused(small: Path) -> None:
    np.savez(small / "slices.npz", t1_axial=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match=r"slices\.npz"):
        render_report(small)


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
    parsed = Page(page(read_study(folder)))
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
    parsed = Page(page(read_study(small)))
    assert not re.search(r"\b(nan|NaN|inf)\b", parsed.text)
    _, *rows = parsed.table("RMSE in CDR-SB points with 95%")
    assert rows[0] == ["t1", "131", *["no figure"] * 4]


def test_a_site_whose_reply_was_left_out_breaks_no_figure_of_costs(small: Path) -> None:
    rounds = pd.read_csv(small / "rounds.csv", dtype={"site": str, "regime": str})
    rounds.loc[0, "site"] = nan
    rounds.to_csv(small / "rounds.csv", index=False)
    parsed = Page(page(read_study(small)))
    assert not re.search(r"\b(nan|NaN|inf)\b", parsed.text)


def test_a_method_that_diverged_does_not_flatten_the_others() -> None:
    look = Look("#000000")
    calm = [Mark(row, 1.5 + 0.1 * row, look, 1.4, 2.1) for row in range(7)]
    rows = [Row(str(j)) for j in range(8)]
    svg = row_plot(rows, [Panel("", "RMSE", [*calm, Mark(7, 4321.0, look)])], ("t1",))
    assert "4.32e+03 ▸" in svg
    ticks = [float(t) for t in re.findall(r">(\d\.\d+)</text>", svg)]
    assert ticks and max(ticks) < 3


def test_methods_named_like_missing_values_and_sites_named_like_numbers_keep_their_names(small: Path) -> None:
    study = read_study(small)
    assert "null" in set(study.results["method"])
    assert study.sites is not None and study.sites["site"].iloc[0] == "002"
    assert Page(page(study)).table("Visits with each modality")[1][0] == "002"


def test_one_seed_needs_no_average_and_several_seeds_without_one_are_not_passed_off_as_it() -> None:
    def rows(method: str, *seeds: str) -> pd.DataFrame:
        return pd.DataFrame({"method": method, "regime": "r", "seed": seeds, "rmse": range(len(seeds))})

    table = pd.concat([rows("a", "0", "1", "all"), rows("b", "7"), rows("c", "0", "1")])
    kept = pooled(table)
    assert list(zip(kept["method"], kept["seed"], strict=True)) == [("a", "all"), ("b", "7")]


def test_method_without_averaged_results_is_named_as_not_shown(small: Path) -> None:
    results = read(small / "results.csv")
    results[(results["method"] != "local") | (results["seed"] != "all")].to_csv(small / "results.csv", index=False)
    assert "so not shown: Local only." in page(read_study(small))


def test_scores_belong_to_their_method_combination_regime_and_stratum(study: Path) -> None:
    table = pooled(read_study(study).results)
    found = scores(table, "structural", "small_change")
    for (method, combination), score in found.items():
        chosen = table[(table["method"] == method) & (table["combination"] == combination)]
        slow = chosen[chosen["stratum"] == "small_change"].iloc[0]
        assert (score.n, score.rmse, score.lower) == (slow["n"], slow["rmse"], slow["lower"])
    assert len(found) == 6 * 15
    assert scores(table, "another", "all") == {}


def test_a_handful_of_subjects_gives_no_verdict() -> None:
    assert Difference(9, -0.5, -0.7, -0.3).verdict == "unclear"
    assert Difference(10, -0.5, -0.7, -0.3).verdict == "better"


@pytest.mark.parametrize(
    ("value", "lower", "upper", "verdict"),
    [
        (-0.2, -0.3, -0.1, "better"),
        (0.2, 0.1, 0.3, "worse"),
        (-0.2, -0.5, 0.1, "unclear"),
        (0.1, 0.0, 0.2, "unclear"),
        (-0.1, nan, nan, "unclear"),
        (nan, nan, nan, "none"),
    ],
)
def test_verdict_needs_an_interval_that_excludes_zero(value: float, lower: float, upper: float, verdict: str) -> None:
    assert Difference(11, value, lower, upper).verdict == verdict


def test_forest_says_in_words_which_intervals_exclude_zero(small: Path) -> None:
    table = read(small / "comparisons.csv")
    for reference, low, high in (("flexmoe", -0.3, -0.1), ("local", 0.1, 0.3), ("null", -0.1, 0.2)):
        table.loc[table["reference"] == reference, ["difference", "lower", "upper"]] = [(low + high) / 2, low, high]
    table.to_csv(small / "comparisons.csv", index=False)
    text = Page(page(read_study(small))).text
    assert (
        "clearly better: PerM-MoE against Flex-MoE; clearly worse: PerM-MoE against Local only; "
        "without a clear difference: PerM-MoE against Clinical null." in text
    )
    assert "PerM-MoE against Local only: clearly better in 0 of 3 combinations, clearly worse in 3." in text


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
    parsed = Page(page(read_study(small)))
    assert parsed.table("Runs that failed")[1] == ["flexmoe, 2", "diverged in round 7"]
    assert parsed.table("Image files set aside")[1] == ["truncated gzip", "3"]


def test_sites_that_took_no_part_are_counted(small: Path) -> None:
    change_summary(small, left_out_sites=2)
    assert "2 more sites took no part" in page(read_study(small))


def test_page_says_what_it_is_not(html: str) -> None:
    assert "not a medical device" in html


@given(st.floats(-1e6, 1e6))
def test_written_numbers_read_back_as_themselves(value: float) -> None:
    text = number(value)
    assert float(text.replace(",", "").replace("−", "-")) == pytest.approx(round(value, 2), abs=1e-9)
    assert text != "−0.00"
    assert signed(value).startswith("+") == (value > 0 and text != "0.00")


@given(st.text(max_size=40), st.integers(1, 30))
def test_shortened_text_fits_and_starts_as_the_text_does(text: str, characters: int) -> None:
    short = shorten(text, characters)
    assert len(short) <= max(2, characters)
    assert " ".join(text.split()).startswith(short.removesuffix("…").rstrip())


def test_amounts_and_durations_read_naturally() -> None:
    assert [amount(x) for x in (0.0, 999.0, 1500.0, 2.34e6, 7.1e9)] == ["0 B", "999 B", "1.5 kB", "2.3 MB", "7.1 GB"]
    assert [duration(x) for x in (4.21, 61.0, 3600.0, 7265.0)] == ["4.2 s", "1 min 01 s", "1 h 00 min", "2 h 01 min"]
    assert (interval(-0.5, 0.25), interval(None, 1.0), interval(nan, 1.0)) == ("−0.50 to 0.25", "", "")


def test_sections_follow_each_other_with_the_answer_first(html: str) -> None:
    order = [html.index(part) for part in ('class="synthetic"', 'class="finding"', 'id="rmse"', 'id="differences"')]
    assert all(a < b for a, b in pairwise(order))
