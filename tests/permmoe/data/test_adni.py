"""The target rule against a slow reference, and ADNI's tables with the quirks that they come with."""

from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from permmoe.data.adni import (
    Assessment,
    TargetRule,
    adni_visits,
    choose_index_visit,
    find_table,
    outcome,
    phase_of,
    read_assessments,
)
from permmoe.data.images import FoundImage
from permmoe.errors import DataError
from permmoe.modality import ADNI_MODALITIES, Modality

NAMES = ("t1", "flair", "amyloid", "tau")
START = date(2010, 1, 1)
MERGE_HEADER = "RID,COLPROT,PTID,VISCODE,EXAMDATE,DX,AGE,CDRSB,MMSE"


def assessment(day: int, cdrsb: float | None, diagnosis: str = "MCI") -> Assessment:
    return Assessment(START + timedelta(days=day), cdrsb, diagnosis, "")


def image(day: int | None, modality: str = "t1", *, registered: bool = False, name: str = "a") -> FoundImage:
    taken = None if day is None else START + timedelta(days=day)
    return FoundImage("011_S_0002", "M000", modality, Path(name), registered, taken)


# ---------------------------------------------------------------------------------------------------- target rule


def reference(
    visits: Sequence[tuple[int, float | None, str]], images: Sequence[tuple[int, str]], horizon: float, window: float
) -> tuple[int, dict[str, int], float | None] | None:
    """(index day, each modality's distance in days, change): the rule spelled out day by day."""
    for day in range(0, 2000):
        for start, cdrsb, diagnosis in visits:
            if start != day or diagnosis != "MCI" or cdrsb is None:
                continue
            distances: dict[str, int] = {}
            for taken, modality in images:
                if abs(taken - day) <= 90 and abs(taken - day) < distances.get(modality, 91):
                    distances[modality] = abs(taken - day)
            if not distances:
                continue
            best: tuple[float, int] | None = None
            change = None
            for later, score, _ in visits:
                distance = abs((later - day) / (365.25 / 12) - horizon)
                if (
                    later > day
                    and score is not None
                    and distance <= window
                    and (best is None or (distance, later) < best)
                ):
                    best, change = (distance, later), score - cdrsb
            return day, distances, change
    return None


scores = st.none() | st.integers(0, 36).map(lambda half: half / 2)
visit_days = st.integers(0, 1100)
clinical = st.lists(
    st.tuples(visit_days, scores, st.sampled_from(["MCI", "MCI", "CN", ""])), max_size=8, unique_by=lambda v: v[0]
)
scans = st.lists(st.tuples(visit_days, st.sampled_from(NAMES)), max_size=6)


@settings(max_examples=150, deadline=None)
@given(
    visits=clinical, images=scans, horizon=st.sampled_from([6.0, 12.0, 24.0]), window=st.sampled_from([1.0, 3.0, 6.0])
)
def test_target_rule_agrees_with_a_slow_reference(
    visits: list[tuple[int, float | None, str]], images: list[tuple[int, str]], horizon: float, window: float
) -> None:
    rule = TargetRule(horizon_months=horizon, window_months=window)
    assessments = [assessment(*visit) for visit in visits]
    index = choose_index_visit(assessments, [image(*scan) for scan in images], rule, NAMES)
    expected = reference(visits, images, horizon, window)
    if index is None or expected is None:
        assert index is None
        assert expected is None
        return
    day, distances, change = expected
    assert index.assessment.taken == START + timedelta(days=day)
    assert {m: abs((i.taken or date.max) - index.assessment.taken).days for m, i in index.images.items()} == distances
    assert outcome(assessments, index.assessment, rule) == change


@settings(max_examples=60, deadline=None)
@given(visits=clinical, images=scans, data=st.data())
def test_index_visit_is_blind_to_everything_after_it(
    visits: list[tuple[int, float | None, str]], images: list[tuple[int, str]], data: st.DataObject
) -> None:
    rule = TargetRule()
    found = [image(*scan) for scan in images]
    index = choose_index_visit([assessment(*v) for v in visits], found, rule, NAMES)
    if index is None:
        return
    day = (index.assessment.taken - START).days
    later = data.draw(st.lists(st.tuples(st.integers(day + 1, 3000), scores, st.just("MCI")), max_size=4))
    other_future = [assessment(*v) for v in visits if v[0] <= day] + [assessment(*v) for v in later]
    assert choose_index_visit(other_future, found, rule, NAMES) == index


def test_images_are_taken_up_to_the_window_and_no_further() -> None:
    rule = TargetRule(image_window_days=90)
    assert choose_index_visit([assessment(100, 1.0)], [image(190)], rule, NAMES) is not None
    assert choose_index_visit([assessment(100, 1.0)], [image(10)], rule, NAMES) is not None
    assert choose_index_visit([assessment(100, 1.0)], [image(191)], rule, NAMES) is None
    assert choose_index_visit([assessment(100, 1.0)], [image(None)], rule, NAMES) is None


def test_of_one_days_images_the_registered_one_is_taken() -> None:
    raw, registered = image(5, name="a"), image(5, registered=True, name="b")
    index = choose_index_visit([assessment(0, 1.0)], [raw, registered], TargetRule(), NAMES)
    assert index is not None
    assert index.images["t1"] is registered


def test_image_of_a_modality_that_is_not_asked_for_makes_no_index_visit() -> None:
    assert choose_index_visit([assessment(0, 1.0)], [image(0, "tau")], TargetRule(), ("t1",)) is None


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


# --------------------------------------------------------------------------------------------------------- tables


def write(folder: Path, name: str, *rows: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(rows) + "\n")
    return folder


def scan(folder: Path, subject: str = "ADNI011S0002", session: str = "M000", day: str = "2010-01-10") -> Path:
    stem = f"sub-{subject}_ses-{session}"
    file = folder / f"sub-{subject}" / f"ses-{session}" / "anat" / f"{stem}_T1w.nii.gz"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"")
    if day:
        table = folder / f"sub-{subject}" / f"sub-{subject}_sessions.tsv"
        table.write_text(f"session_id\texamination_date\nses-{session}\t{day}\n")
    return folder


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


def test_whole_chain_from_tables_and_folders_to_a_visit(tmp_path: Path) -> None:
    tables = write(
        tmp_path / "t",
        "ADNIMERGE_23Dec2025.csv",
        MERGE_HEADER,
        "2,ADNI1,011_S_0002,bl,2010-01-01,MCI,71.5,1.5,28",
        "2,ADNIGO,011_S_0002,m12,2011-01-01,MCI,71.5,2.0,27",
        "2,ADNI2,011_S_0002,m24,2012-01-20,Dementia,71.5,4.5,24",
    )
    images = scan(tmp_path / "i")
    table, quarantine = adni_visits(tables, images, TargetRule(), ADNI_MODALITIES)
    (visit,) = table
    assert (visit.subject_id, visit.site, visit.session, visit.phase) == ("011_S_0002", "011", "M000", "ADNI1")
    assert (visit.baseline_cdrsb, visit.delta_cdrsb, visit.age_years) == (1.5, 3.0, 71.5)
    assert visit.observed(NAMES) == ("t1",)
    assert len(quarantine) == 0


def test_age_is_that_at_the_index_visit_and_not_the_repeated_one(tmp_path: Path) -> None:
    tables = write(
        tmp_path / "t",
        "ADNIMERGE.csv",
        MERGE_HEADER,
        "2,ADNI1,011_S_0002,bl,2010-01-01,CN,71.5,0,30",
        "2,ADNI2,011_S_0002,m48,2014-01-01,MCI,71.5,1,28",
    )
    table, _ = adni_visits(
        tables, scan(tmp_path / "i", session="M048", day="2014-01-05"), TargetRule(), ADNI_MODALITIES
    )
    assert table.visits[0].age_years == pytest.approx(75.5, abs=0.01)
    assert table.visits[0].phase == "ADNI2"
    assert table.visits[0].delta_cdrsb is None


@pytest.mark.parametrize("code", ["-4", "-1", "-4.0", "-1.0", "", "NA"])
def test_missing_codes_never_become_scores(tmp_path: Path, code: str) -> None:
    folder = write(
        tmp_path / "t",
        "ADNIMERGE.csv",
        MERGE_HEADER,
        f"2,ADNI1,011_S_0002,bl,2010-01-01,MCI,71.5,{code},28",
        "2,ADNI1,011_S_0002,m06,2010-03-01,MCI,71.5,1.0,28",
        f"2,ADNI1,011_S_0002,m24,2012-03-01,MCI,71.5,{code},28",
    )
    table, quarantine = adni_visits(folder, scan(tmp_path / "i"), TargetRule(), ADNI_MODALITIES)
    assert [(v.baseline_cdrsb, v.delta_cdrsb) for v in table] == [(1.0, None)]
    assert len(quarantine) == 0


def test_impossible_score_is_itemised(tmp_path: Path) -> None:
    folder = write(tmp_path, "ADNIMERGE.csv", MERGE_HEADER, "2,ADNI1,011_S_0002,bl,2010-01-01,MCI,71.5,19,28")
    assessments, quarantine = read_assessments(folder)
    assert assessments == {}
    assert [(i.file, i.reason) for i in quarantine] == [("ADNIMERGE.csv:2", "CDR-SB is not a number from 0 to 18")]


def test_cdr_table_adds_what_adnimerge_lacks_and_repeats_nothing(tmp_path: Path) -> None:
    write(
        tmp_path,
        "ADNIMERGE.csv",
        MERGE_HEADER,
        "2,ADNI1,011_S_0002,bl,2010-01-01,MCI,71.5,1.5,28",
        "2,ADNI1,011_S_0002,m12,2011-01-01,MCI,71.5,,28",
    )
    folder = write(
        tmp_path,
        "CDR_1Feb2026.csv",
        "PHASE,PTID,RID,VISCODE,VISCODE2,VISDATE,CDGLOBAL,CDRSB",
        "ADNI1,011_S_0002,2,sc,sc,2009-12-10,0.5,2.0",
        "ADNI1,011_S_0002,2,v12,m12,2011-01-03,0.5,2.5",
        "ADNI4,011_S_10002,10002,4_bl,bl,2024-01-01,0.5,1.0",
        "ADNI4,011_S_10002,10002,4_m12,m12,,0.5,1.0",
    )
    write(tmp_path, "DXSUM.csv", "RID,VISCODE2,DIAGNOSIS", "10002,sc,2", "2,m12,3", "2,m24,-4")
    assessments, quarantine = read_assessments(folder)
    assert [(a.taken, a.cdrsb, a.diagnosis) for a in assessments[2]] == [
        (date(2010, 1, 1), 1.5, "MCI"),
        (date(2011, 1, 1), None, "MCI"),
        (date(2011, 1, 3), 2.5, "MCI"),
    ]
    assert [(a.taken, a.diagnosis, a.phase) for a in assessments[10002]] == [(date(2024, 1, 1), "MCI", "ADNI4")]
    assert assessments[2][2].age_years == pytest.approx(72.5, abs=0.02)
    assert [i.reason for i in quarantine] == ["clinical visit without a date"]


def test_older_spellings_of_phase_and_date_are_understood(tmp_path: Path) -> None:
    write(tmp_path, "DXSUM.csv", "RID,VISCODE,DIAGNOSIS", "2,bl,MCI")
    folder = write(tmp_path, "CDR.csv", "Phase,RID,VISCODE,EXAMDATE,CDRSB", "ADNI1,2,bl,1/2/2010,1.5")
    (found,) = read_assessments(folder)[0][2]
    assert (found.taken, found.diagnosis, found.phase) == (date(2010, 1, 2), "MCI", "ADNI1")


def test_caps_images_take_the_date_of_their_sessions_visit(tmp_path: Path) -> None:
    """The month-12 visit took place 120 days late: counted from the first visit, its scan would be out of reach."""
    tables = write(
        tmp_path / "t",
        "ADNIMERGE.csv",
        MERGE_HEADER,
        "2,ADNI1,011_S_0002,bl,2010-01-01,CN,71.5,0,28",
        "2,ADNI1,011_S_0002,m12,2011-05-01,MCI,71.5,1.5,28",
    )
    images = scan(tmp_path / "i", session="M012", day="")
    assert len(adni_visits(tables, images, TargetRule(), ADNI_MODALITIES)[0]) == 1
    unseen = scan(tmp_path / "j", session="M018", day="")
    assert len(adni_visits(tables, unseen, TargetRule(), ADNI_MODALITIES)[0]) == 1
    too_late = scan(tmp_path / "k", session="M036", day="")
    assert len(adni_visits(tables, too_late, TargetRule(), ADNI_MODALITIES)[0]) == 0


def test_everyone_who_is_left_out_is_itemised(tmp_path: Path) -> None:
    tables = write(
        tmp_path / "t",
        "ADNIMERGE.csv",
        MERGE_HEADER,
        "2,ADNI1,011_S_0002,bl,2012-01-01,MCI,71.5,1.5,28",
        "3,ADNI1,011_S_0003,bl,2010-01-01,CN,71.5,0,28",
    )
    images = scan(tmp_path / "i")
    scan(images, "ADNI023S0007")
    table, quarantine = adni_visits(tables, images, TargetRule(), ADNI_MODALITIES)
    assert len(table) == 0
    assert [(i.subject_id, i.reason) for i in quarantine] == [
        ("011_S_0002", "no modality near a visit with an accepted diagnosis and CDR-SB"),
        ("023_S_0007", "images but no clinical visit"),
    ]


def test_tabular_modalities_come_from_adnimerge_at_the_index_visit(tmp_path: Path) -> None:
    tables = write(
        tmp_path / "t",
        "ADNIMERGE.csv",
        MERGE_HEADER,
        "2,ADNI1,011_S_0002,bl,2010-01-01,MCI,71.5,1.5,28",
        "2,ADNI1,011_S_0002,m24,2012-01-01,MCI,71.5,2.5,20",
        "3,ADNI1,011_S_0003,bl,2010-01-01,MCI,71.5,1.5,-4",
    )
    cognition = Modality(name="cognition", kind="tabular", columns=("MMSE",))
    images = scan(tmp_path / "i")
    table, quarantine = adni_visits(tables, images, TargetRule(), [cognition])
    assert [(v.subject_id, dict(v.tables)) for v in table] == [("011_S_0002", {"cognition": (28.0,)})]
    assert [i.subject_id for i in quarantine] == ["011_S_0003"]
    both, _ = adni_visits(tables, images, TargetRule(), [ADNI_MODALITIES[0], cognition])
    assert [v.observed(("t1", "cognition")) for v in both] == [("t1", "cognition")]


def test_unusable_folders_are_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder of tables"):
        read_assessments(tmp_path / "absent")
    with pytest.raises(DataError, match=r"neither ADNIMERGE\.csv nor CDR\.csv"):
        read_assessments(tmp_path)
    write(tmp_path, "CDR.csv", "RID,VISCODE,VISDATE,CDRSB")
    with pytest.raises(DataError, match=r"put ADNIMERGE\.csv or DXSUM\.csv beside it"):
        read_assessments(tmp_path)
    write(tmp_path, "ADNIMERGE.csv", MERGE_HEADER.replace("CDRSB", "CDR_SB"))
    with pytest.raises(DataError, match="'CDRSB': did you mean 'CDR_SB'"):
        read_assessments(tmp_path)
    unknown = Modality(name="t2")
    with pytest.raises(DataError, match="'t2' cannot be found in ADNI's folders; did you mean 't1'"):
        adni_visits(tmp_path, tmp_path, TargetRule(), [unknown])
