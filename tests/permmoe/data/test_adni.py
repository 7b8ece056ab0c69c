"""From ADNI's tables and image folders to visits."""

from pathlib import Path

import pytest

from permmoe.data.adni import adni_visits
from permmoe.data.target_rule import TargetRule
from permmoe.errors import DataError
from permmoe.modality import ADNI_MODALITIES, Modality
from tests.support.adni_files import MERGE_HEADER, write_scan, write_table

NAMES = ("t1", "flair", "amyloid", "tau")


def test_whole_chain_from_tables_and_folders_to_a_visit(tmp_path: Path) -> None:
    tables = write_table(
        tmp_path / "t",
        "ADNIMERGE_23Dec2025.csv",
        MERGE_HEADER,
        "2,ADNI1,011_S_0002,bl,2010-01-01,MCI,71.5,1.5,28",
        "2,ADNIGO,011_S_0002,m12,2011-01-01,MCI,71.5,2.0,27",
        "2,ADNI2,011_S_0002,m24,2012-01-20,Dementia,71.5,4.5,24",
    )
    images = write_scan(tmp_path / "i")
    table, quarantine = adni_visits(tables, images, TargetRule(), ADNI_MODALITIES)
    (visit,) = table
    assert (visit.subject_id, visit.site, visit.session, visit.phase) == ("011_S_0002", "011", "M000", "ADNI1")
    assert (visit.baseline_cdrsb, visit.delta_cdrsb, visit.age_years) == (1.5, 3.0, 71.5)
    assert visit.observed(NAMES) == ("t1",)
    assert len(quarantine) == 0


def test_age_is_that_at_the_index_visit_and_not_the_repeated_one(tmp_path: Path) -> None:
    tables = write_table(
        tmp_path / "t",
        "ADNIMERGE.csv",
        MERGE_HEADER,
        "2,ADNI1,011_S_0002,bl,2010-01-01,CN,71.5,0,30",
        "2,ADNI2,011_S_0002,m48,2014-01-01,MCI,71.5,1,28",
    )
    table, _ = adni_visits(
        tables, write_scan(tmp_path / "i", session="M048", day="2014-01-05"), TargetRule(), ADNI_MODALITIES
    )
    assert table.visits[0].age_years == pytest.approx(75.5, abs=0.01)
    assert table.visits[0].phase == "ADNI2"
    assert table.visits[0].delta_cdrsb is None


@pytest.mark.parametrize("code", ["-4", "-1", "-4.0", "-1.0", "", "NA"])
def test_missing_codes_never_become_scores(tmp_path: Path, code: str) -> None:
    folder = write_table(
        tmp_path / "t",
        "ADNIMERGE.csv",
        MERGE_HEADER,
        f"2,ADNI1,011_S_0002,bl,2010-01-01,MCI,71.5,{code},28",
        "2,ADNI1,011_S_0002,m06,2010-03-01,MCI,71.5,1.0,28",
        f"2,ADNI1,011_S_0002,m24,2012-03-01,MCI,71.5,{code},28",
    )
    table, quarantine = adni_visits(folder, write_scan(tmp_path / "i"), TargetRule(), ADNI_MODALITIES)
    assert [(v.baseline_cdrsb, v.delta_cdrsb) for v in table] == [(1.0, None)]
    assert len(quarantine) == 0


def test_caps_images_take_the_date_of_their_sessions_visit(tmp_path: Path) -> None:
    """The month-12 visit took place 120 days late: counted from the first visit, its scan would be out of reach."""
    tables = write_table(
        tmp_path / "t",
        "ADNIMERGE.csv",
        MERGE_HEADER,
        "2,ADNI1,011_S_0002,bl,2010-01-01,CN,71.5,0,28",
        "2,ADNI1,011_S_0002,m12,2011-05-01,MCI,71.5,1.5,28",
    )
    images = write_scan(tmp_path / "i", session="M012", day="")
    assert len(adni_visits(tables, images, TargetRule(), ADNI_MODALITIES)[0]) == 1
    unseen = write_scan(tmp_path / "j", session="M018", day="")
    assert len(adni_visits(tables, unseen, TargetRule(), ADNI_MODALITIES)[0]) == 1
    too_late = write_scan(tmp_path / "k", session="M036", day="")
    assert len(adni_visits(tables, too_late, TargetRule(), ADNI_MODALITIES)[0]) == 0


def test_everyone_who_is_left_out_is_itemised(tmp_path: Path) -> None:
    tables = write_table(
        tmp_path / "t",
        "ADNIMERGE.csv",
        MERGE_HEADER,
        "2,ADNI1,011_S_0002,bl,2012-01-01,MCI,71.5,1.5,28",
        "3,ADNI1,011_S_0003,bl,2010-01-01,CN,71.5,0,28",
    )
    images = write_scan(tmp_path / "i")
    write_scan(images, "ADNI023S0007")
    table, quarantine = adni_visits(tables, images, TargetRule(), ADNI_MODALITIES)
    assert len(table) == 0
    assert [(i.subject_id, i.reason) for i in quarantine] == [
        ("011_S_0002", "no modality near a visit with an accepted diagnosis and a score"),
        ("023_S_0007", "images but no clinical visit"),
    ]


def test_tabular_modalities_come_from_adnimerge_at_the_index_visit(tmp_path: Path) -> None:
    tables = write_table(
        tmp_path / "t",
        "ADNIMERGE.csv",
        MERGE_HEADER,
        "2,ADNI1,011_S_0002,bl,2010-01-01,MCI,71.5,1.5,28",
        "2,ADNI1,011_S_0002,m24,2012-01-01,MCI,71.5,2.5,20",
        "3,ADNI1,011_S_0003,bl,2010-01-01,MCI,71.5,1.5,-4",
    )
    cognition = Modality(name="cognition", kind="tabular", columns=("MMSE",))
    images = write_scan(tmp_path / "i")
    table, quarantine = adni_visits(tables, images, TargetRule(), [cognition])
    assert [(v.subject_id, dict(v.tables)) for v in table] == [("011_S_0002", {"cognition": (28.0,)})]
    assert [i.subject_id for i in quarantine] == ["011_S_0003"]
    both, _ = adni_visits(tables, images, TargetRule(), [ADNI_MODALITIES[0], cognition])
    assert [v.observed(("t1", "cognition")) for v in both] == [("t1", "cognition")]


def test_modality_without_an_image_in_adni_is_explained(tmp_path: Path) -> None:
    unknown = Modality(name="t2")
    with pytest.raises(DataError, match="'t2' cannot be found in ADNI's folders; did you mean 't1'"):
        adni_visits(tmp_path, tmp_path, TargetRule(), [unknown])
