"""What earlier visits say, and that nothing later does."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from permmoe.data.adni import select_visits
from permmoe.data.history import followed_columns, history_of
from permmoe.data.index_visits import Subject, select_index_visits
from permmoe.data.manifest import read_manifest, write_manifest
from permmoe.data.reasons import Reason
from permmoe.data.registries import registry
from permmoe.data.registries.aibl import aibl
from permmoe.data.selection import Selection
from permmoe.data.target_rule import Assessment, Dated, TargetRule
from permmoe.data.visit_scores import score_named
from permmoe.errors import DataError
from permmoe.modality import Modality
from tests.support.adni_files import MERGE_HEADER, write_table
from tests.support.registry_files import write_lines

START = date(2010, 1, 1)
SCAN = Modality(name="centiloid", kind="tabular", columns=("CL",))
HISTORY = Modality(
    name="history", kind="history",
    columns=("score_per_year", "MMSE_per_year", "years_before", "visits_before", "normal_before"),
)  # fmt: skip
COURSE = Modality(name="course", kind="history", columns=("score_per_year", "years_before"))


def visit(
    day: int, score: float | None = 1.0, diagnosis: str = "MCI", mmse: float | None = 28.0, code: str = "",
    scan: float | None = None, measured: int | None = None,
) -> Assessment:  # fmt: skip
    """A visit so many days after the start; `measured`: the day of its MMSE, where that is another."""
    taken = START + timedelta(days=day)
    followed = (
        {} if mmse is None else {"MMSE": Dated(START + timedelta(days=day if measured is None else measured), mmse)}
    )
    return Assessment(taken, score, diagnosis, code, values={} if scan is None else {"CL": scan}, followed=followed)


def selected(*visits: Assessment, modalities: Sequence[Modality] = (SCAN, HISTORY, COURSE)) -> Selection:
    return select_index_visits(
        [Subject("a", "x", visits)], TargetRule(), modalities, scanned=["centiloid"], without_site=Reason.NO_IDENTITY
    )


def reasons(found: Selection) -> list[tuple[str, str, Reason]]:
    return [(item.modality, item.file, item.reason) for item in found.quarantine]


def test_changes_a_year_are_the_slopes_of_lines_through_the_visits_up_to_the_index_visit() -> None:
    days, scores, tests = (0, 170, 410), (0.5, 1.0, 2.5), (30.0, 27.0, 28.0)
    visits = [visit(d, s, "CN" if d == 0 else "MCI", t) for d, s, t in zip(days, scores, tests, strict=True)]
    (found,) = selected(*visits[:2], replace(visits[2], values={"CL": 20.0}), visit(900, 9.0)).visits
    years = np.array(days) / 365.25
    slopes = [float(np.polyfit(years, numbers, 1)[0]) for numbers in (scores, tests)]
    assert found.tables["history"] == pytest.approx((*slopes, 410 / 365.25, 2.0, 0.5))
    assert found.tables["course"] == pytest.approx((slopes[0], 410 / 365.25))
    assert found.baseline_cdrsb == 2.5


def test_a_patient_without_earlier_visits_lacks_the_modality_and_keeps_the_others() -> None:
    found = selected(visit(0, scan=20.0), visit(700, 2.0))
    assert [v.observed(("centiloid", "history", "course")) for v in found.visits] == [("centiloid",)]
    assert len(found.quarantine) == 0


def test_one_number_that_is_missing_takes_its_modality_alone() -> None:
    found = selected(visit(0, mmse=None), visit(400, scan=20.0))
    assert [v.observed(("history", "course")) for v in found.visits] == [("course",)]


def test_a_history_does_not_move_the_index_visit() -> None:
    visits = visit(0), visit(400, scan=20.0), visit(800, scan=30.0)
    plain, more = selected(*visits, modalities=[SCAN]), selected(*visits)
    assert [v.tables["centiloid"] for v in plain.visits] == [v.tables["centiloid"] for v in more.visits] == [(20.0,)]
    assert [v.delta_cdrsb for v in plain.visits] == [v.delta_cdrsb for v in more.visits]


def test_too_short_a_time_has_no_slope() -> None:
    found = selected(visit(0), visit(89, scan=20.0))
    assert [v.observed(("history", "course")) for v in found.visits] == [()]
    assert [v.observed(("history", "course")) for v in selected(visit(0), visit(90, scan=20.0)).visits] == [
        ("history", "course")
    ]


VISITS = st.lists(
    st.builds(
        visit,
        day=st.integers(-900, 900),
        score=st.sampled_from([None, 0.5, 1.0, 4.5]),
        diagnosis=st.sampled_from(["", "CN", "MCI", "Dementia"]),
        mmse=st.sampled_from([None, 20.0, 28.0]),
        measured=st.integers(-900, 900),
    ),
    max_size=6,
)


@given(before=VISITS, after=VISITS, other=VISITS)
def test_whatever_is_known_only_after_the_index_visit_changes_no_input(
    before: list[Assessment], after: list[Assessment], other: list[Assessment]
) -> None:
    """Later visits and later numbers of earlier visits, added, moved, altered or taken away."""
    index = visit(0, 1.5, scan=20.0)
    earlier = [v for v in before if v.taken <= index.taken]
    later, others = ([v for v in some if v.taken > index.taken] for some in (after, other))
    without = [replace(v, followed={k: d for k, d in v.followed.items() if d.day <= index.taken}) for v in earlier]
    found = [
        history_of("a", visits, index, (HISTORY, COURSE)).tables
        for visits in ([*earlier, index, *later], [index, *others, *reversed(earlier)], [*without, index])
    ]
    assert found[0] == found[1] == found[2]


def test_a_visit_whose_code_and_date_contradict_each_other_is_itemised_and_counts_on_neither_side() -> None:
    index = visit(365, 1.5, scan=20.0, code="m12")
    plain = selected(visit(0, 0.5, code="bl"), index)
    mistyped = selected(visit(0, 0.5, code="bl"), index, visit(100, 7.0, code="m24"), visit(500, 0.0, code="m06"))
    assert [v.tables for v in mistyped.visits] == [v.tables for v in plain.visits]
    assert reasons(mistyped) == [("", "visit m24", Reason.OTHER_SIDE), ("", "visit m06", Reason.OTHER_SIDE)]
    assert len(plain.quarantine) == 0


def test_two_different_numbers_of_one_day_are_itemised_and_neither_counts() -> None:
    index = visit(400, 1.5, scan=20.0)
    once = selected(visit(0, 1.0), index, modalities=(SCAN, COURSE))
    twice = selected(visit(0, 1.0), visit(150, 3.0), visit(150, 4.0), index, modalities=(SCAN, COURSE))
    assert [v.tables for v in twice.visits] == [v.tables for v in once.visits]
    assert reasons(twice) == [("course", "score", Reason.TWO_NUMBERS_A_DAY)]
    same = selected(visit(0, 1.0), visit(0, 1.0), index, modalities=(SCAN, COURSE))
    assert [v.tables for v in same.visits] == [v.tables for v in once.visits] and len(same.quarantine) == 0


def test_the_index_visits_own_score_stands_where_another_visit_of_its_day_has_a_different_one() -> None:
    index = visit(400, 1.5, scan=20.0)
    found = selected(visit(0, 1.0), visit(400, 9.0, "CN"), index, modalities=(SCAN, COURSE))
    assert [v.tables["course"] for v in found.visits] == [pytest.approx((0.5 * 365.25 / 400, 400 / 365.25))]
    assert reasons(found) == [("course", "score", Reason.TWO_NUMBERS_A_DAY)]


def test_a_score_off_its_scale_is_itemised_and_the_rest_goes_on() -> None:
    found = selected(visit(0, mmse=31.0), visit(200, mmse=29.0), visit(400, mmse=27.0, scan=20.0))
    slope = found.visits.visits[0].tables["history"][1]
    assert slope == pytest.approx(-2.0 * 365.25 / 200)
    assert reasons(found) == [("history", "MMSE", Reason.IMPOSSIBLE_SCORE)]


@pytest.mark.parametrize(
    ("column", "sentence"),
    [
        ("score_a_year", "no history has the column 'score_a_year'; did you mean 'score_per_year'"),
        ("UCBERKELEY_TAU_6MM.META_TEMPORAL_SUVR_per_year", "the tracer may change from one visit to the next"),
    ],
)
def test_what_cannot_be_followed_is_refused_in_a_sentence(column: str, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        followed_columns([Modality(name="history", kind="history", columns=(column,))])


LATE = TargetRule(history_months=12)


def test_with_history_months_the_index_visit_is_so_long_after_the_first_and_whoever_has_none_is_counted() -> None:
    year = [visit(0, scan=10.0), visit(200, scan=11.0), visit(366, 1.5, scan=12.0), visit(800, 3.0, scan=13.0)]
    subjects = [Subject("a", "x", year), Subject("b", "x", year[:2])]
    found = select_index_visits(subjects, LATE, (SCAN, COURSE), without_site=Reason.NO_IDENTITY)
    assert [(v.subject_id, v.tables["centiloid"]) for v in found.visits] == [("a", (12.0,))]
    assert found.visits.visits[0].tables["course"][1] == pytest.approx(366 / 365.25)
    assert found.steps == {"in tables or images": 2, "lost: no visit so long after the first": 1}
    assert len(found.quarantine) == 0 and "history_months" not in TargetRule().model_dump()


@given(earlier=VISITS, after=VISITS)
def test_with_history_months_whoever_came_later_or_not_moves_no_index_visit(
    earlier: list[Assessment], after: list[Assessment]
) -> None:
    def index(visits: list[Assessment]) -> list[tuple[float, ...]]:
        found = select_index_visits([Subject("a", "x", visits)], LATE, (SCAN,), without_site=Reason.NO_IDENTITY)
        return [v.tables["centiloid"] for v in found.visits]

    first = visit(-901, scan=1.0)
    until = [first, *earlier, visit(901, scan=20.0)]
    later = [replace(v, taken=v.taken + timedelta(days=1900), values={"CL": 3.0}) for v in after]
    assert index([*until, *later]) == index(until) == [(20.0,)]


def test_whole_chain_from_adnis_tables_to_a_manifest_and_back(tmp_path: Path) -> None:
    tables = write_table(
        tmp_path / "t",
        "ADNIMERGE.csv",
        MERGE_HEADER,
        "2,ADNI1,011_S_0002,bl,2010-01-01,CN,71.5,0.5,30",
        "2,ADNI1,011_S_0002,m12,2011-01-01,MCI,71.5,1.5,29",
        "2,ADNI1,011_S_0002,m36,2013-01-01,MCI,71.5,4.5,20",
        "3,ADNI1,011_S_0003,bl,2010-01-01,MCI,71.5,1.5,28",
    )
    modalities = (Modality(name="person", kind="tabular", columns=("age_years",)), HISTORY)
    selection = select_visits(tables, None, TargetRule(), modalities)
    first, second = selection.visits
    years = 365 / 365.25
    assert first.tables["history"] == pytest.approx((1 / years, -1 / years, years, 1.0, 1.0))
    assert (first.session, first.delta_cdrsb) == ("m12", 3.0)
    assert second.observed(("person", "history")) == ("person",)
    write_manifest(selection.visits, tmp_path / "manifest.csv", modalities)
    again, left_out = read_manifest(tmp_path / "manifest.csv", modalities, need_target=False)
    assert [v.tables for v in again] == [v.tables for v in selection.visits] and len(left_out) == 0


def test_another_outcome_than_cdr_sb_is_followed_by_the_days_of_its_own_table(tmp_path: Path) -> None:
    """The first visit's test, which its code tells, was made up for after the index visit, and so is not before it."""
    visits = {"bl": "2010-01-01", "m06": "2010-05-01"}
    rated = [f"2,011_S_0002,{code},{day},1" for code, day in visits.items()]
    diagnosed = [f"2,011_S_0002,{code},{day},2" for code, day in visits.items()]
    write_table(tmp_path, "CDR.csv", "RID,PTID,VISCODE2,VISDATE,CDRSB", *rated)
    write_table(tmp_path, "DXSUM.csv", "RID,PTID,VISCODE2,EXAMDATE,DIAGNOSIS", *diagnosed)
    write_table(
        tmp_path, "UCD_WMH.csv", "RID,PTID,VISCODE2,EXAMDATE,TOTAL_WMH,STATUS", "2,011_S_0002,m06,2010-05-01,3,"
    )
    scans = Modality(name="lesions", kind="tabular", columns=("UCD_WMH.TOTAL_WMH",))
    slope = Modality(name="slope", kind="history", columns=("score_per_year",))
    rule = TargetRule(image_window_days=10)

    def found(first_test: str) -> list[dict[str, tuple[float, ...]]]:
        tests = [f"2,011_S_0002,bl,{first_test},30", "2,011_S_0002,m06,2010-05-01,26"]
        write_table(tmp_path, "MMSE.csv", "RID,PTID,VISCODE2,VISDATE,MMSCORE", *tests)
        selection = select_visits(tmp_path, None, rule, (scans, slope), score_named("mmse"))
        return [dict(v.tables) for v in selection.visits]

    assert found("2010-01-08") == [{"lesions": (3.0,), "slope": (pytest.approx(-4 * 365.25 / 113),)}]
    assert found("2010-09-12") == [{"lesions": (3.0,)}]


def test_a_number_of_an_earlier_visit_that_was_measured_after_the_index_visit_does_not_count() -> None:
    found = selected(visit(0, mmse=10.0, measured=650), visit(400, scan=20.0))
    assert [v.observed(("history", "course")) for v in found.visits] == [("course",)]


def test_histories_of_other_registries_come_from_their_own_visits(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "aibl_cdr.csv",
        "RID,SITEID,VISCODE,EXAMDATE,CDGLOBAL",
        "10,2,bl,10/15/2007,0",
        "10,2,m18,05/02/2009,0.5",
    )
    write_lines(tmp_path / "aibl_pdxconv.csv", "RID,SITEID,VISCODE,DXCURREN", "10,2,bl,1", "10,2,m18,2")
    write_lines(tmp_path / "aibl_neurobat.csv", "RID,SITEID,VISCODE,LDELTOTAL", "10,2,bl,11", "10,2,m18,9")
    memory = Modality(name="memory", kind="tabular", columns=("LDELTOTAL",))
    course = Modality(
        name="course", kind="history", columns=("score_per_year", "LDELTOTAL_per_year", "years_before", "normal_before")
    )
    found = registry.select_visits(aibl(), tmp_path, None, aibl().rule, (memory, course), "cdr-global")
    years = (date(2009, 5, 2) - date(2007, 10, 15)).days / 365.25
    assert [v.tables["course"] for v in found.visits] == [pytest.approx((0.5 / years, -2 / years, years, 1.0))]


def test_a_manifests_history_that_does_not_begin_before_the_visit_is_itemised_and_costs_nothing_else(
    tmp_path: Path,
) -> None:
    path = tmp_path / "manifest.csv"
    header = "subject_id,site,session,baseline_cdrsb,delta_cdrsb,horizon_months,CL,score_per_year,years_before"
    path.write_text(f"{header}\na,x,v,1,1,24,20,0.5,-0.5\nb,x,v,1,1,24,20,0.5,0.5\n")
    table, left_out = read_manifest(path, (SCAN, COURSE))
    assert [v.observed(("centiloid", "course")) for v in table] == [("centiloid",), ("centiloid", "course")]
    assert [(item.subject_id, item.modality, item.reason) for item in left_out] == [("a", "course", Reason.NOT_BEFORE)]
