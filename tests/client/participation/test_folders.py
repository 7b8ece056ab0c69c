"""A site whose outcome is in tables with a row a visit: the score that the study names, in its unit, or a refusal."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from permmoe.config import ModelConfig, Score
from permmoe.data.reasons import Reason
from permmoe.errors import ConfigurationError, DataError
from permmoe.modality import Modality
from permmoe_client.participation.site_visits import site_visits
from permmoe_client.site import SiteConfig, read_site
from tests.support.adni_release import write_release
from tests.support.tiny_federation import MODEL

MOCA = "RID,VISCODE2,VISDATE,TOTAL\n2,bl,2006-01-10,25\n2,m24,2008-01-15,21\n4035,m24,2013-10-03,{last}\n4035,bl,,-1\n"


def site_file(folder: Path, *, tables: Path, score: str = "", **outcome: object) -> Path:
    folders = {"tables": tables.name} | ({"score": score} if score else {})
    settings = {"name": "north", "folders": folders, "outcome": outcome, "cache": "cache"}
    path = folder / "site.yaml"
    path.write_text(yaml.safe_dump(settings | {"split": {"validation": 0, "test": 0}}))
    return path


def site_with(folder: Path, score: str = "", *, moca: str = "", cdr: str = "", **outcome: object) -> SiteConfig:
    """A site with a download of ADNI's tables, and among them a table of its own and a CDR of its own, where given."""
    tables = write_release(folder / "tables", **({"CDR": cdr} if cdr else {}))
    if moca:
        (tables / "MOCA.csv").write_text(moca)
    return read_site(site_file(folder, tables=tables, score=score, **outcome))


def model_of(**score: object) -> ModelConfig:
    sex = Modality(name="sex", kind="tabular", columns=("PTGENDER",))
    changes = {"modalities": [sex], "score": score, "outcome_range": None}
    return ModelConfig.model_validate(MODEL.model_dump() | changes)


def scores_of(site: SiteConfig, model: ModelConfig) -> list[tuple[str, float, float | None]]:
    return [(v.subject_id, v.baseline_cdrsb, v.delta_cdrsb) for v in site_visits(site, model).visits]


def test_a_score_that_adnis_tables_hold_is_found_by_its_name(tmp_path: Path) -> None:
    site = site_with(tmp_path, name="ADAS-Cog 13", unit="points")
    found = scores_of(site, model_of(name="ADAS-Cog 13", highest=85))
    assert found == [("011_S_0002", 18.33, pytest.approx(5.67))]


def test_a_score_of_a_hospitals_own_table_is_found_by_its_column_and_needs_no_cdr_sb(tmp_path: Path) -> None:
    cdr = "RID,PTID,VISCODE2,VISDATE\n2,011_S_0002,bl,2006-01-10\n2,011_S_0002,m24,2008-01-15\n"
    site = site_with(tmp_path, "MOCA.TOTAL", moca=MOCA.format(last=20), cdr=cdr, name="MoCA", unit="points")
    assert scores_of(site, model_of(name="MoCA", highest=30)) == [("011_S_0002", 25.0, -4.0)]


def test_a_number_of_a_hospitals_own_table_is_no_code_and_off_the_scale_it_is_itemised(tmp_path: Path) -> None:
    site = site_with(tmp_path, "MOCA.TOTAL", moca=MOCA.format(last=31), name="MoCA")
    assert len(scores_of(site, model_of(name="MoCA", highest=30))) == 1
    assert (site.cache / "quarantine-north.csv").read_text().count(str(Reason.IMPOSSIBLE_SCORE)) == 2
    below = model_of(name="MoCA", lowest=None, highest=None)
    assert scores_of(site, below)[1] == ("023_S_4035", -1.0, 32.0)


def test_scores_in_another_unit_are_converted_as_the_settings_say(tmp_path: Path) -> None:
    site = site_with(tmp_path, name="CDR-SB", unit="points", times=10.0)
    found = scores_of(site, model_of(name="CDR-SB", unit="tenths of points", highest=180))
    assert found[0] == ("011_S_0002", 15.0, 15.0)


@pytest.mark.parametrize(
    ("outcome", "score", "sentence"),
    [
        ({}, Score(name="MMSE", highest=30), "the table holds CDR-SB, and the model predicts the change in MMSE"),
        ({"name": "MMSE"}, Score(), "the table holds MMSE, and the model predicts the change in CDR-SB"),
        ({"name": "MMSE"}, Score(name="MMSE", unit="percent"), "in points, and the model predicts it in percent: say"),
    ],
    ids=["another score", "the usual score is another", "another unit"],
)  # fmt: skip
def test_a_study_of_another_score_or_unit_is_refused_in_a_sentence_for_the_log(
    tmp_path: Path, outcome: dict[str, str], score: Score, sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence) as refused:
        site_visits(site_with(tmp_path, **outcome), model_of(**score.model_dump()))
    assert sentence in refused.value.for_log


def test_a_study_of_another_horizon_is_refused_with_the_setting_to_change(tmp_path: Path) -> None:
    site, model = site_with(tmp_path), model_of()
    assert len(site_visits(site, model, 24.0))
    with pytest.raises(
        DataError, match=r"here are 24 months .*: set 'folders\.target\.horizon_months' to 12"
    ) as refused:
        site_visits(site, model, 12.0)
    assert "over 12 months" in refused.value.for_log


def test_a_table_of_the_score_that_is_not_there_is_an_error_that_names_the_column(tmp_path: Path) -> None:
    site = site_with(tmp_path, "MOCA.TOTAL", name="MoCA")
    with pytest.raises(DataError, match=r"no table gives MOCA\.TOTAL, the outcome: put its table into the folder"):
        site_visits(site, model_of(name="MoCA", highest=30))


@pytest.mark.parametrize(
    ("outcome", "sentence"),
    [
        ({"name": "MoCA"}, r"no column that is known to hold MoCA .*: name it in 'folders\.score', as MOCA\.TOTAL"),
        ({"name": "MMSE", "unit": "percent"}, r"hold MMSE in points, and 'outcome\.unit' says percent: mend the unit"),
        ({"name": "MMSE", "baseline": "m0", "change": "dm"}, r"columns of a manifest.*'folders\.score'"),
    ],
    ids=["no column", "a unit that the tables do not have", "columns of a manifest"],
)
def test_settings_that_do_not_tell_where_the_score_is_are_refused(
    tmp_path: Path, outcome: dict[str, str], sentence: str
) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        site_with(tmp_path, **outcome)
