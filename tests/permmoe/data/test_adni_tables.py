"""ADNI's tables with the quirks that they come with."""

from datetime import date
from pathlib import Path

import pytest

from permmoe.data.adni_codes import phase_of
from permmoe.data.adni_files import find_table
from permmoe.data.adni_tables import read_assessments
from permmoe.errors import DataError
from tests.support.adni_files import MERGE_HEADER, write_table


@pytest.mark.parametrize(
    ("rid", "phase"),
    [
        (2, "ADNI1"),
        (1999, "ADNI1"),
        (2000, "ADNIGO"),
        (3000, "ADNI2"),
        (6000, "ADNI3"),
        (9999, "ADNI3"),
        (10000, "ADNI4"),
    ],
)
def test_phase_follows_the_roster_number(rid: int, phase: str) -> None:
    assert phase_of(rid) == phase


def test_newest_dated_table_wins_over_older_and_undated_ones(tmp_path: Path) -> None:
    for name in (
        "ADNIMERGE.csv",
        "ADNIMERGE_2Jan2024.csv",
        "ADNIMERGE_23Dec2023.csv",
        "ADNIMERGE_dict.csv",
        "CDR_1Feb2024.csv",
    ):
        (tmp_path / name).write_text("")
    assert find_table(tmp_path, "ADNIMERGE") == tmp_path / "ADNIMERGE_2Jan2024.csv"
    assert find_table(tmp_path, "CDR") == tmp_path / "CDR_1Feb2024.csv"
    assert find_table(tmp_path, "DXSUM") is None


def test_impossible_score_is_itemised(tmp_path: Path) -> None:
    folder = write_table(tmp_path, "ADNIMERGE.csv", MERGE_HEADER, "2,ADNI1,011_S_0002,bl,2010-01-01,MCI,71.5,19,28")
    found = read_assessments(folder)
    assessments, quarantine = found.assessments, found.quarantine
    assert assessments == {}
    assert [(i.file, i.reason) for i in quarantine] == [("ADNIMERGE.csv:2", "score is no number on its scale")]


def test_cdr_table_adds_what_adnimerge_lacks_and_repeats_nothing(tmp_path: Path) -> None:
    write_table(
        tmp_path,
        "ADNIMERGE.csv",
        MERGE_HEADER,
        "2,ADNI1,011_S_0002,bl,2010-01-01,MCI,71.5,1.5,28",
        "2,ADNI1,011_S_0002,m12,2011-01-01,MCI,71.5,,28",
    )
    folder = write_table(
        tmp_path,
        "CDR_1Feb2026.csv",
        "PHASE,PTID,RID,VISCODE,VISCODE2,VISDATE,CDGLOBAL,CDRSB",
        "ADNI1,011_S_0002,2,sc,sc,2009-12-10,0.5,2.0",
        "ADNI1,011_S_0002,2,v12,m12,2011-01-03,0.5,2.5",
        "ADNI4,011_S_10002,10002,4_bl,bl,2024-01-01,0.5,1.0",
        "ADNI4,011_S_10002,10002,4_m12,m12,,0.5,1.0",
    )
    write_table(tmp_path, "DXSUM.csv", "RID,VISCODE2,DIAGNOSIS", "10002,sc,2", "2,m12,3", "2,m24,-4")
    found = read_assessments(folder)
    assessments, quarantine = found.assessments, found.quarantine
    assert [(a.taken, a.cdrsb, a.diagnosis) for a in assessments[2]] == [
        (date(2010, 1, 1), 1.5, "MCI"),
        (date(2011, 1, 1), None, "MCI"),
        (date(2011, 1, 3), 2.5, "MCI"),
    ]
    assert [(a.taken, a.diagnosis, a.phase) for a in assessments[10002]] == [(date(2024, 1, 1), "MCI", "ADNI4")]
    assert assessments[2][2].age_years == pytest.approx(72.5, abs=0.02)
    assert [i.reason for i in quarantine] == ["clinical visit without a date"]


def test_older_spellings_of_phase_and_date_are_understood(tmp_path: Path) -> None:
    write_table(tmp_path, "DXSUM.csv", "RID,VISCODE,DIAGNOSIS", "2,bl,MCI")
    folder = write_table(
        tmp_path, "CDR.csv", "Phase,RID,VISCODE,EXAMDATE,CDRSB", "ADNI1,2,bl,1/2/2010,1.5", "ADNI1,2,m06,7/23/2010,2"
    )
    (found, _) = read_assessments(folder).assessments[2]
    assert (found.taken, found.diagnosis, found.phase) == (date(2010, 1, 2), "MCI", "ADNI1")


def test_unusable_folders_of_tables_are_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder of tables"):
        read_assessments(tmp_path / "absent")
    with pytest.raises(DataError, match=r"neither ADNIMERGE\.csv nor CDR\.csv"):
        read_assessments(tmp_path)
    write_table(tmp_path, "CDR.csv", "RID,VISCODE,VISDATE,CDRSB")
    with pytest.raises(DataError, match=r"put ADNIMERGE\.csv or DXSUM\.csv beside it"):
        read_assessments(tmp_path)
    write_table(tmp_path, "ADNIMERGE.csv", MERGE_HEADER.replace("CDRSB", "CDR_SB"))
    with pytest.raises(DataError, match="'CDRSB': did you mean 'CDR_SB'"):
        read_assessments(tmp_path)
