"""AIBL: no CDR-SB in the open extract, visits 18 months apart, dates whose day is hidden."""

from pathlib import Path

import pytest

from permmoe.data.reasons import Reason
from permmoe.data.registries.aibl import aibl
from permmoe.data.registries.registry import select_visits
from permmoe.errors import DataError
from permmoe.modality import ADNI_MODALITIES, Modality
from tests.support.registry_files import write_image, write_lines

RULE = aibl().rule
MEMORY = Modality(name="memory", kind="tabular", columns=("LDELTOTAL",))
CDR = ("2,1,bl,11/20/2006,0.5", "2,1,m18,06/10/2008,1", "10,2,bl,10//2007,0.5", "10,2,m18,-4,0.5")
DX = ("2,1,bl,0,1,0,2", "2,1,m18,0,0,1,3", "10,2,bl,0,1,0,2", "10,2,m18,0,1,0,2")


def extract(folder: Path, cdr: tuple[str, ...] = CDR, dx: tuple[str, ...] = DX) -> Path:
    write_lines(folder / "aibl_cdr_01-Jun-2018.csv", "RID,SITEID,VISCODE,EXAMDATE,CDGLOBAL", *cdr)
    write_lines(folder / "aibl_pdxconv_01-Jun-2018.csv", "RID,SITEID,VISCODE,DXNORM,DXMCI,DXAD,DXCURREN", *dx)
    write_lines(
        folder / "aibl_ptdemog_01-Jun-2018.csv", "RID,SITEID,VISCODE,PTGENDER,PTDOB", "2,1,bl,1,/1936", "10,2,bl,2,-4"
    )
    write_lines(
        folder / "aibl_mmse_01-Jun-2018.csv",
        "RID,SITEID,VISCODE,EXAMDATE,MMSCORE",
        "2,1,bl,11/20/2006,27",
        "2,1,m18,06/10/2008,24",
        "10,2,bl,-4,29",
        "10,2,m18,05/02/2009,-4",
    )
    return write_lines(
        folder / "aibl_neurobat_01-Jun-2018.csv",
        "RID,SITEID,VISCODE,LDELTOTAL",
        "2,1,bl,7",
        "2,1,m18,3",
        "10,2,bl,-1",
        "10,2,m18,9",
    )


def test_without_cdr_sb_the_error_names_the_scores_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no CDR-SB; choose another score: --score cdr-global or mmse"):
        select_visits(aibl(), extract(tmp_path), None, RULE, [MEMORY])


def test_the_outcome_is_that_of_the_visit_18_months_later(tmp_path: Path) -> None:
    found = select_visits(aibl(), extract(tmp_path), None, RULE, [MEMORY], "cdr-global")
    assert [(v.subject_id, v.site, v.session, v.baseline_cdrsb, v.delta_cdrsb) for v in found.visits] == [
        ("AIBL10", "AIBL2", "m18", 0.5, None),
        ("AIBL2", "AIBL1", "bl", 0.5, 0.5),
    ]
    first, second = found.visits
    assert (first.age_years, second.age_years) == (None, pytest.approx(70.4, abs=0.1))
    assert found.visits.visits[0].horizon_months == 18.0


def test_another_score_is_read_from_its_own_table(tmp_path: Path) -> None:
    found = select_visits(aibl(), extract(tmp_path), None, RULE, [MEMORY], "mmse")
    assert [(v.subject_id, v.baseline_cdrsb, v.delta_cdrsb) for v in found.visits] == [("AIBL2", 27.0, -3.0)]


def test_cdr_sb_is_read_where_it_is_and_summed_where_the_boxes_are(tmp_path: Path) -> None:
    folder = extract(tmp_path)
    boxes = "CDMEMORY,CDORIENT,CDJUDGE,CDCOMMUN,CDHOME,CDCARE"
    write_lines(folder / "aibl_cdr_boxes.csv", f"RID,VISCODE,{boxes}", "2,bl,0.5,0.5,0,0,0,0", "2,m18,1,1,0.5,0,0,-4")
    (visit,) = select_visits(aibl(), folder, None, RULE, [MEMORY]).visits
    assert (visit.baseline_cdrsb, visit.delta_cdrsb) == (1.0, None), "a box that is not known makes no sum"
    write_lines(folder / "aibl_cdrsb.csv", "RID,VISCODE,CDRSB", "2,bl,1.5", "2,m18,3")
    (visit,) = select_visits(aibl(), folder, None, RULE, [MEMORY]).visits
    assert (visit.baseline_cdrsb, visit.delta_cdrsb) == (1.5, 1.5)


def test_images_find_their_subject_by_number_and_their_day_by_the_month_of_their_session(tmp_path: Path) -> None:
    folder = extract(tmp_path / "t")
    write_image(tmp_path / "i", "AIBL2", "M000")
    write_image(tmp_path / "i", "AIBL0010", "M018", "trc-18FFMM_pet", "pet")
    found = select_visits(aibl(), folder, tmp_path / "i", RULE, ADNI_MODALITIES, "cdr-global")
    assert [(v.subject_id, v.observed(("t1", "amyloid"))) for v in found.visits] == [
        ("AIBL10", ("amyloid",)),
        ("AIBL2", ("t1",)),
    ]


def test_a_visit_that_no_table_dates_is_its_months_after_the_first_or_itemised(tmp_path: Path) -> None:
    rows = ("2,1,bl,11/20/2006,0.5", "2,1,m36,-4,2", "3,1,m18,-4,0.5")
    dx = ("2,1,bl,0,1,0,2", "3,1,m18,0,1,0,2")
    rule = RULE.model_copy(update={"horizon_months": 36.0})
    found = select_visits(aibl(), extract(tmp_path, rows, dx), None, rule, [MEMORY], "cdr-global")
    assert [(v.subject_id, v.delta_cdrsb) for v in found.visits] == [("AIBL2", 1.5)]
    assert "1 visit(s) have no date; they are their code's months after the first" in found.notes
    assert [(i.subject_id, i.reason) for i in found.quarantine] == [("AIBL3", Reason.UNDATED_VISIT)]


def test_a_hidden_day_is_the_middle_of_its_month(tmp_path: Path) -> None:
    """The scan lies 10 days from the 15th of October, and 24 from the first."""
    folder = extract(tmp_path / "t")
    image = write_image(tmp_path / "i", "AIBL10", "a")
    table = image.parents[2] / "sub-AIBL10_sessions.tsv"
    table.write_text("session_id\texamination_date\nses-a\t2007-10-25\n")
    rule = RULE.model_copy(update={"image_window_days": 12})
    found = select_visits(aibl(), folder, tmp_path / "i", rule, ADNI_MODALITIES, "cdr-global")
    assert [v.subject_id for v in found.visits] == ["AIBL10"]


def test_dates_that_start_with_the_day_are_refused(tmp_path: Path) -> None:
    folder = extract(tmp_path, ("2,1,bl,20/11/2006,0.5",))
    with pytest.raises(DataError, match="is not month/day/year"):
        select_visits(aibl(), folder, None, RULE, [MEMORY], "cdr-global")


def test_without_diagnoses_the_error_names_the_table(tmp_path: Path) -> None:
    folder = extract(tmp_path)
    (folder / "aibl_pdxconv_01-Jun-2018.csv").unlink()
    with pytest.raises(DataError, match="put aibl_pdxconv"):
        select_visits(aibl(), folder, None, RULE, [MEMORY], "cdr-global")
