"""The log of looks: one row for one computation, never fewer rows than before, no look counted for another cohort."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from permmoe.errors import ConfigurationError, DataError
from permmoe_simulation.report.collection import collected
from permmoe_simulation.report.looks import (
    COLUMNS,
    FILE_NAME,
    MOST_NAMED,
    Look,
    look_of,
    look_sentence,
    read_looks,
    with_look,
    write_looks,
)
from permmoe_simulation.studies.recipe_choice import DEVELOPMENT_SEEDS
from permmoe_simulation.studies.study import StudyConfig
from permmoe_simulation.summary import Summary
from tests.support.study_files import change_summary, configuration, write_study

ROOT = Path(__file__).parents[3]
LOOK = Look("2026-01-05", "first", "synthetic seed 104", "0 1 2 3 4", "0f0f0f0f", "a1a1a1a1", "results.md")
OTHERS = {
    "study_digest": replace(LOOK, study_digest="b2b2b2b2"),
    "training_seeds": replace(LOOK, training_seeds="5 6 7 8 9"),
    "data_digest": replace(LOOK, data_digest="c3c3c3c3"),
}
"""Looks at the same cohort."""


def summary(**changes: object) -> Summary:
    values: dict[str, object] = {
        "study": "invented", "synthetic": True, "methods": {}, "modalities": ("t1",), "configuration": configuration(),
        "digests": {"data": "0f" * 32, "study": "a1" * 32}, "seeds": (0, 1, 2, 3, 4), "date": "2026-01-05",
    }  # fmt: skip
    return Summary.model_validate(values | changes)


def test_a_log_is_read_as_it_was_written_and_keeps_every_row() -> None:
    odd = replace(LOOK, study='with, comma and "quotes"', cohort="synthetic seed 7; synthetic seed 5")
    log = (LOOK, odd, *OTHERS.values())
    assert read_looks(write_looks(log), FILE_NAME) == log
    assert write_looks(with_look(log, replace(LOOK, study_digest="d4d4d4d4"))).startswith(write_looks(log))


def test_the_same_computation_published_again_is_no_new_look() -> None:
    again = replace(LOOK, date="2026-02-01", where="elsewhere.md")
    assert with_look([LOOK], again) == (LOOK,)
    assert look_sentence([LOOK], again) == "First look at this cohort."


@pytest.mark.parametrize("changed", OTHERS)
def test_another_study_other_seeds_and_a_digest_of_other_files_are_further_looks_at_the_cohort(changed: str) -> None:
    log = with_look([LOOK], OTHERS[changed])
    assert log == (LOOK, OTHERS[changed])
    assert look_sentence(log, LOOK) == "First look at this cohort."
    sentence = look_sentence(log, OTHERS[changed])
    assert sentence == "Look 2 at this cohort: earlier under study digest `a1a1a1a1` (first, 2026-01-05)."


def test_looks_at_other_cohorts_are_not_counted_though_their_seeds_are_equal() -> None:
    planted = replace(LOOK, cohort="planted seed 104", study_digest="b2b2b2b2")
    longer = replace(LOOK, cohort="synthetic seed 1040", study_digest="c3c3c3c3")
    assert look_sentence([LOOK, planted, longer], planted) == "First look at this cohort."
    assert look_sentence([LOOK, planted, longer], longer) == "First look at this cohort."


def test_a_study_of_several_cohorts_has_looked_at_each_of_them() -> None:
    both = replace(LOOK, cohort="synthetic seed 7; synthetic seed 104", study_digest="b2b2b2b2")
    seven = replace(LOOK, cohort="synthetic seed 7", study_digest="c3c3c3c3")
    log = (LOOK, both, seven)
    assert look_sentence(log, both).startswith("Look 2 at these cohorts: earlier under study digest `a1a1a1a1`")
    assert look_sentence(log, seven).startswith("Look 2 at this cohort: earlier under study digest `b2b2b2b2`")


@pytest.mark.parametrize("earlier", [MOST_NAMED, MOST_NAMED + 1])
def test_of_many_earlier_looks_the_number_stands_there_and_where_they_are_named(earlier: int) -> None:
    log = tuple(replace(LOOK, study_digest=f"{k:08d}") for k in range(earlier + 1))
    sentence = look_sentence(log, log[-1])
    assert sentence.startswith(f"Look {earlier + 1} at this cohort")
    assert ("`00000000`" in sentence) == (earlier == MOST_NAMED)
    assert (f"names the {earlier} earlier ones" in sentence) == (earlier > MOST_NAMED)


def test_a_look_whose_digest_nobody_kept_is_counted_and_said_to_be_unknown() -> None:
    chosen = Look("2026-01-01", "choice of settings", "synthetic seed 104", "", "", "", "in development")
    assert "study digest unknown (choice of settings, 2026-01-01)" in look_sentence([chosen, LOOK], LOOK)


@pytest.mark.parametrize(
    ("data", "cohort"),
    [
        ({"synthetic": {"seed": 104}}, "synthetic seed 104"),
        ({"planted": {"seed": 118, "explained": {"t1": 0.1}}}, "planted seed 118"),
        ({"table": "diabetes"}, "table diabetes"),
        ({"manifest": "/secret/place.csv"}, "manifest 0f0f0f0f"),
    ],
)
def test_a_cohort_is_told_by_its_source_and_never_by_a_path(data: dict[str, object], cohort: str) -> None:
    look = look_of(summary(configuration=configuration(data=data)), "results.md")
    assert look == replace(LOOK, study="invented", cohort=cohort)


def test_every_cohort_of_a_study_whose_regimes_have_their_own_is_in_its_look() -> None:
    regimes = {f"r{seed}": {"data": {"synthetic": {"seed": seed}}} for seed in (7, 5, 7)} | {"own": {}}
    look = look_of(summary(configuration=configuration(regimes=regimes)), "results.md")
    assert look.cohorts == {"synthetic seed 5", "synthetic seed 7", "synthetic seed 104"}


@pytest.mark.parametrize("seed", [DEVELOPMENT_SEEDS[0], DEVELOPMENT_SEEDS[-1]])
def test_a_study_on_a_cohort_of_development_in_one_regime_is_refused(seed: int) -> None:
    regimes = {"own": {}, "other": {"data": {"synthetic": {"seed": seed}}}}
    with pytest.raises(
        ConfigurationError, match=f"study invented is on the cohort of seed {seed}; .* is published. Giv"
    ):
        look_of(summary(configuration=configuration(regimes=regimes)), "results.md")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"digests": {"study": "a1" * 32}}, "study invented has no data digest; run the study again"),
        ({"digests": {"data": "a1" * 32}}, "study invented has no study digest; run the study again"),
        (
            {"configuration": ""},
            "the cohort of study invented cannot be told from the configuration in its summary; run",
        ),
        ({"configuration": "data: ["}, "the cohort of study invented cannot be told"),
        ({"configuration": "seeds: [0]"}, "the cohort of study invented cannot be told"),
    ],
)
def test_a_summary_that_does_not_tell_its_cohort_is_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(DataError, match=says):
        look_of(summary(**changes), "results.md")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\n", "line 1: the columns are not date, study"),
        ("date,study\n2026-01-05,first\n", "line 1: the columns are not date, study"),
        (f"{','.join(COLUMNS)}\n2026-01-05,first\n", f"line 2: 2 columns in place of {len(COLUMNS)}"),
        (f'{",".join(COLUMNS)}\n"2026-01-05,first\n', "cannot be read as a log of looks"),
    ],
)
def test_a_log_that_somebody_damaged_is_refused_with_its_line(text: str, says: str) -> None:
    with pytest.raises(DataError, match=f"looks.csv.*{says}.*restore the file from git"):
        read_looks(text, "looks.csv")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_study(tmp_path / "study", methods=("permmoe", "flexmoe"), modalities=("t1",), n_experts=3, n_sites=3)


def test_a_chapter_says_which_look_it_is_and_the_page_is_the_same_when_written_again(folder: Path) -> None:
    first = collected([folder], looks=[LOOK])
    assert "Look 2 at this cohort: earlier under study digest `a1a1a1a1` (first, 2026-01-05)." in first.page
    assert len(first.looks) == 2 and collected([folder], *first) == first
    change_summary(folder, digests={"data": "0f" * 32, "study": "b2" * 32})
    assert "Look 3 at this cohort" in collected([folder], *first).page


def test_the_command_adds_to_the_log_beside_the_page_and_leaves_both_where_it_refuses(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "simulation"))
    collect = __import__("collect_results").collect
    monkeypatch.delitem(sys.modules, "collect_results")
    page, log = tmp_path / "results.md", tmp_path / FILE_NAME
    log.write_text(write_looks([LOOK]))
    collect([folder], page)
    written = page.read_text(), log.read_text()
    assert written[1].startswith(write_looks([LOOK])) and written[1].count("\n") == 3
    change_summary(folder, configuration=configuration(data={"synthetic": {"seed": DEVELOPMENT_SEEDS[0]}}))
    with pytest.raises(ConfigurationError, match="no study on them is published"):
        collect([folder], page)
    assert (page.read_text(), log.read_text()) == written
    log.unlink()
    with pytest.raises(DataError, match=r"but the log of looks, .*looks\.csv, is not; restore it with git"):
        collect([folder], page)
    assert page.read_text() == written[0] and not log.exists()


def test_every_chapter_of_the_published_page_is_in_the_log_and_none_is_of_development() -> None:
    text = (ROOT / "docs" / FILE_NAME).read_text()
    log = read_looks(text, FILE_NAME)
    assert write_looks(log) == text
    chapters = re.findall(r"^\*.*; data `(\w+)`, study `(\w+)`\.\*", (ROOT / "docs/results.md").read_text(), re.M)
    assert chapters and set(chapters) <= {(look.data_digest, look.study_digest) for look in log}
    development = {f"synthetic seed {seed}" for seed in DEVELOPMENT_SEEDS}
    assert not [look for look in log if look.cohorts & development]


@pytest.mark.parametrize("path", sorted((ROOT / "configs/studies").rglob("*.yaml")), ids=lambda path: path.stem)
def test_the_cohort_of_every_shipped_study_can_be_told_from_its_summary(path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    if "data" not in values:
        pytest.skip("a study of a deployment, which is not collected")
    study = StudyConfig.model_validate(values)
    told = summary(configuration=yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False))
    if path.stem.startswith("recipe-search") or path.stem in ("new-hospital-choice", "costs"):
        with pytest.raises(ConfigurationError, match="settings are chosen"):
            look_of(told, "results.md")
    else:
        one = r"(synthetic|planted) seed \d+|table [\w-]+"
        assert all(re.fullmatch(one, cohort) for cohort in look_of(told, "results.md").cohorts)
