"""ADNI's tables as the archive ships them in 2026 become visits of tabular modalities, without ADNIMERGE and images."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from permmoe.data.adni import select_visits
from permmoe.data.adni_codes import visit_code
from permmoe.data.adni_files import find_table
from permmoe.data.quarantine import Quarantined
from permmoe.data.reasons import Reason
from permmoe.data.selection import Selection
from permmoe.data.target_rule import TargetRule
from permmoe.data.visit_scores import score_named
from permmoe.data.visits import Visit
from permmoe.errors import ConfigurationError, DataError
from permmoe.modality import Modality
from tests.support.adni_release import changed, write_release

ADNI1, ADNI2, ADNI4 = "011_S_0002", "023_S_4035", "099_S_10002"
TODAY = date(2026, 3, 5)


def modality(*columns: str, name: str = "numbers") -> Modality:
    return Modality(name=name, kind="tabular", columns=columns)


def select(folder: Path, *columns: str, **rule: object) -> Selection:
    return select_visits(folder, None, TargetRule.model_validate(rule), [modality(*columns)], today=TODAY)


SEX = [modality("PTGENDER")]


def numbers(selection: Selection) -> dict[str, tuple[float, ...]]:
    return {visit.subject_id: visit.tables["numbers"] for visit in selection.visits}


def given_by(selection: Selection) -> dict[str, dict[str, int]]:
    return {column: {str(source): n for source, n in of.items()} for column, of in selection.given_by.items()}


def visit_of(selection: Selection, subject: str) -> Visit:
    return next(visit for visit in selection.visits if visit.subject_id == subject)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return write_release(tmp_path / "tables")


def test_three_phases_become_visits_without_adnimerge_and_without_images(release: Path) -> None:
    selection = select(release, "MMSE")
    assert [(v.subject_id, v.phase, v.baseline_cdrsb, v.delta_cdrsb) for v in selection.visits] == [
        (ADNI1, "ADNI1", 1.5, 1.5), (ADNI2, "ADNI2", 1.0, 1.0), (ADNI4, "ADNI4", 0.5, 0.5),
    ]  # fmt: skip
    assert numbers(selection) == {ADNI1: (27.0,), ADNI2: (28.0,), ADNI4: (29.0,)}
    assert not len(selection.quarantine)


def test_which_column_of_which_file_gave_a_number_is_counted(release: Path) -> None:
    assert given_by(select(release, "MMSE", "APOE4")) == {
        "MMSE": {"MMSE_05Mar2026.csv: MMSCORE": 3}, "APOE4": {"APOERES_05Mar2026.csv: APOE4": 3},
    }  # fmt: skip


def test_registry_dates_the_visits_that_cdr_does_not_and_a_note_says_so(release: Path, tmp_path: Path) -> None:
    selection = select(release, "age_years")
    assert numbers(selection)[ADNI2] == (pytest.approx((date(2011, 9, 1) - date(1940, 7, 1)).days / 365.25, abs=0.01),)
    note = "visits without VISDATE and EXAMDATE are dated, 2 by REGISTRY_05Mar2026.csv"
    assert any(note in text for text in selection.notes)
    without = select(write_release(tmp_path / "other", REGISTRY=""), "age_years")
    assert any("2 by USERDATE, the day of entry" in text for text in without.notes)


def test_a_visit_that_was_not_conducted_dates_nothing(tmp_path: Path) -> None:
    registry = changed("REGISTRY", "2011-09-01,1,1,2011-09-02", "2011-09-01,0,3,2011-09-02")
    selection = select(write_release(tmp_path, REGISTRY=registry), "MMSE")
    assert any("1 by USERDATE" in text and "1 by REGISTRY" in text for text in selection.notes)


def test_age_sex_education_and_genotype_come_from_the_tables_of_people(release: Path) -> None:
    found = numbers(select(release, "age_years", "PTGENDER", "PTEDUCAT", "APOE4"))
    assert found == {
        ADNI1: (pytest.approx((date(2006, 1, 10) - date(1931, 4, 15)).days / 365.25, abs=0.01), 1.0, 16.0, 1.0),
        ADNI2: (pytest.approx(71.17, abs=0.01), 2.0, 12.0, 2.0),
    }
    assert select(release, "MMSE").visits.visits[0].age_years == found[ADNI1][0]


@pytest.mark.parametrize(
    ("born", "age"),
    [
        ("04/1931,1931", 74.74), ("1931-04-15,1931", 74.74), ("04/15/1931,", 74.74), (",1931", 74.53),
        ("-4,1931-01-01", 74.53), (",1931.0", 74.53), (",9999", None), (",", None),
    ],
)  # fmt: skip
def test_a_birth_is_read_however_it_is_written(born: str, age: float | None, tmp_path: Path) -> None:
    folder = write_release(tmp_path, PTDEMOG=changed("PTDEMOG", "04/1931,1931", born))
    assert visit_of(select(folder, "MMSE"), ADNI1).age_years == age


def test_missing_codes_are_missing_where_nothing_can_be_negative_and_nowhere_else(release: Path) -> None:
    assert numbers(select(release, "ADAS13")) == {ADNI1: (18.33,), ADNI4: (8.0,)}
    assert numbers(select(release, "UCBERKELEY_AMY_6MM.CENTILOIDS")) == {ADNI2: (-4.0,), ADNI4: (85.0,)}


@pytest.mark.parametrize("cell", ["", "NA", "-4", "-1"])
def test_what_was_not_measured_is_no_number(cell: str, tmp_path: Path) -> None:
    folder = write_release(tmp_path, MMSE=changed("MMSE", "-4,27", f"-4,{cell}"))
    assert set(numbers(select(folder, "MMSE"))) == {ADNI2, ADNI4}


def test_a_row_without_the_visits_code_is_joined_by_its_date_within_the_window(release: Path) -> None:
    assert numbers(select(release, "FAQ"))[ADNI4] == (1.0,)
    assert ADNI4 not in numbers(select(release, "FAQ", table_window_days=20))


def test_a_row_with_the_visits_code_is_joined_whatever_its_date(tmp_path: Path) -> None:
    late = changed("ADAS", "bl,bl,2006-02-01", "bl,bl,2006-09-01")
    assert numbers(select(write_release(tmp_path, ADAS=late), "ADAS13", table_window_days=0))[ADNI1] == (18.33,)


def test_adnimerge_is_used_where_it_is_and_the_tables_where_it_has_nothing(release: Path) -> None:
    (release / "ADNIMERGE_05Mar2026.csv").write_text(
        "RID,COLPROT,PTID,VISCODE,EXAMDATE,DX,AGE,PTGENDER,CDRSB,MMSE\n"
        "2,ADNI1,011_S_0002,bl,2006-01-10,MCI,74.7,Male,1.5,26\n"
        "4035,ADNI2,023_S_4035,bl,2011-09-01,MCI,71,Female,1.0,\n"
    )
    selection = select(release, "MMSE", "PTGENDER")
    assert numbers(selection) == {ADNI1: (26.0, 1.0), ADNI2: (28.0, 2.0), ADNI4: (29.0, 2.0)}
    assert given_by(select(release, "age_years"))["age_years"] == {
        "ADNIMERGE_05Mar2026.csv: AGE": 2,
        "PTDEMOG_05Mar2026.csv: PTDOB": 1,
    }
    assert given_by(selection)["MMSE"] == {"ADNIMERGE_05Mar2026.csv: MMSE": 1, "MMSE_05Mar2026.csv: MMSCORE": 2}


def test_regions_come_from_the_nearest_scan_of_passing_quality_that_was_processed_last(release: Path) -> None:
    selection = select(release, "UCSFFSX.ST29SV", "UCSFFSX.ST88SV")
    assert numbers(selection) == {ADNI1: (3500.5, 3600.5), ADNI2: (3010.0, 3110.0)}
    assert "UCSFFSX7_05Mar2026.csv: 2 row(s) did not pass quality control (OVERALLQC)" in selection.notes


def test_a_region_that_failed_quality_control_is_taken_from_another_scan(release: Path) -> None:
    """The ventricles of the nearest scan failed: all of the modality is from the next one."""
    assert numbers(select(release, "UCSFFSX.ST29SV", "UCSFFSX.ST37SV"))[ADNI1] == (3400.0, 19000.0)
    assert ADNI1 not in numbers(select(release, "UCSFFSX.ST37SV", image_window_days=30))


def test_scans_lie_within_the_image_window_of_the_index_visit(release: Path) -> None:
    assert ADNI4 in numbers(select(release, "UCBERKELEY_TAU_6MM.META_TEMPORAL_SUVR"))
    assert ADNI4 not in numbers(select(release, "UCBERKELEY_TAU_6MM.META_TEMPORAL_SUVR", image_window_days=60))


def test_the_index_visit_is_the_first_with_a_scan_where_a_modality_is_of_scans(release: Path) -> None:
    rule = TargetRule(diagnosis_window_days=1000)
    tau, person = modality("UCBERKELEY_TAU_6MM.META_TEMPORAL_SUVR", name="tau"), modality("PTGENDER", name="person")
    with_tau = select_visits(release, None, rule, [tau, person], today=TODAY)
    assert (visit_of(with_tau, ADNI2).session, visit_of(with_tau, ADNI2).baseline_cdrsb) == ("m24", 2.0)
    assert visit_of(with_tau, ADNI1).session == "bl", "who has no such scan starts from the first visit with numbers"
    assert visit_of(select_visits(release, None, rule, [person], today=TODAY), ADNI2).session == "bl"


def test_scans_of_a_tracer_that_the_modality_does_not_list_give_no_numbers(release: Path) -> None:
    tau = Modality(
        name="tau", kind="tabular", columns=("UCBERKELEY_TAU_6MM.META_TEMPORAL_SUVR",), tracers=("flortaucipir",)
    )
    rule = TargetRule(diagnosis_window_days=1000)
    found = select_visits(release, None, rule, [tau, *SEX], today=TODAY)
    assert {v.subject_id: v.tracers["tau"] for v in found.visits if "tau" in v.tables} == {ADNI2: "AV1451"}
    assert not any("tracers" in note for note in found.notes)


def test_uptake_ratios_of_several_tracers_are_counted_in_a_note(release: Path) -> None:
    notes = select(release, "UCBERKELEY_TAU_6MM.META_TEMPORAL_SUVR", diagnosis_window_days=1000).notes
    assert any("uptake ratios cannot be compared: AV1451 1, MK6240 1; list" in note for note in notes)
    assert not any("tracers" in note for note in select(release, "UCBERKELEY_AMY_6MM.CENTILOIDS").notes)


def test_a_lesion_volume_of_zero_is_a_measurement_and_a_bad_flair_is_none(release: Path) -> None:
    assert numbers(select(release, "UCD_WMH.TOTAL_WMH", "UCD_WMH.CEREBRUM_TCV")) == {ADNI2: (0.0, 1200.5)}


def test_an_older_name_of_a_column_is_known(tmp_path: Path) -> None:
    older = changed("UCD_WMH", "TOTAL_WMH", "WHITMATHYP")
    assert numbers(select(write_release(tmp_path, UCD_WMH=older), "UCD_WMH.TOTAL_WMH")) == {ADNI2: (0.0,)}


def test_one_version_of_freesurfer_is_read_for_everybody(release: Path) -> None:
    (release / "UCSFFSX51_11_08_19_05Mar2026.csv").write_text(
        "RID,VISCODE,EXAMDATE,OVERALLQC,ST29SV\n10002,sc,2023-05-20,Pass,4000\n"
    )
    selection = select(release, "UCSFFSX.ST29SV")
    assert ADNI4 not in numbers(selection)
    assert "UCSFFSX is read from UCSFFSX7_05Mar2026.csv; UCSFFSX51_11_08_19_05Mar2026.csv left aside" in selection.notes


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("CDR_05Mar2026.csv", "CDR"), ("CDR_2026-03-05.csv", "CDR"), ("All_Subjects_CDR_05Mar2026.csv", "CDR"),
        ("CDR (1).csv", "CDR"), ("UCSFFSX51_11_08_19_20Nov2023.csv", "UCSFFSX51"),
        ("ADNI_UCD_WMH_09_01_20.csv", "UCD_WMH"),
    ],
)  # fmt: skip
def test_a_table_is_found_under_the_names_that_downloads_have(name: str, table: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("")
    assert find_table(tmp_path, table) == tmp_path / name
    assert find_table(tmp_path, "UCSFFSX") is None


@pytest.mark.parametrize(
    ("rid", "viscode", "viscode2", "code"),
    [
        (2, "sc", "sc", "bl"), (2, "bl", "", "bl"), (2, "m06", "m06", "m06"), (2, "v11", "m84", "m84"),
        (2, "v11", "", "v11"), (4035, "v01", "", "bl"), (4035, "v02", "scmri", "bl"), (4035, "v11", "", "m12"),
        (6100, "y1", "", "m12"), (6100, "init", "", "init"), (4035, "init", "m72", "m72"), (2, "y1", "", "y1"),
        (10002, "4_sc", "", "bl"), (10002, "4_m12", "", "m12"), (2, "4_m12", "m216", "m216"), (2, "nv", "NA", "nv"),
    ],
)  # fmt: skip
def test_codes_of_every_phase_name_the_same_visit(rid: int, viscode: str, viscode2: str, code: str) -> None:
    assert visit_code({"VISCODE": viscode, "VISCODE2": viscode2}, rid) == code


def test_codes_that_name_no_visit_join_no_rows(tmp_path: Path) -> None:
    """CDR and FAQ of the subject are both unscheduled, a year apart."""
    folder = write_release(
        tmp_path,
        FAQ=changed("FAQ", "uns1,uns1,2023-05-30,1", "uns1,uns1,2024-05-30,1"),
        CDR=changed("CDR", "4_sc,sc,2023-05-04", "uns1,uns1,2023-05-04"),
        DXSUM=changed("DXSUM", "2023-06-01", "2023-05-01"),
    )
    assert ADNI4 in numbers(select(folder, "MMSE")) and ADNI4 not in numbers(select(folder, "FAQ"))


def test_a_date_in_the_future_is_itemised_and_the_rest_goes_on(tmp_path: Path) -> None:
    folder = write_release(
        tmp_path,
        CDR=changed("CDR", "2025-05-06", "2052-05-06"), UCSFFSX7=changed("UCSFFSX7", "2006-01-28", "2060-01-28"),
    )  # fmt: skip
    selection = select(folder, "UCSFFSX.ST29SV", "MMSE")
    assert set(selection.quarantine) == {
        Quarantined("RID 10002", "", "All_Subjects_CDR_05Mar2026.csv:8", Reason.FUTURE_DATE),
        Quarantined("RID 2", "", "UCSFFSX7_05Mar2026.csv:2", Reason.FUTURE_DATE),
        Quarantined(ADNI4, "", "", Reason.NO_MODALITY_IN_TIME),
    }
    assert set(numbers(selection)) == {ADNI1, ADNI2}
    assert visit_of(select(folder, "MMSE"), ADNI4).delta_cdrsb is None


@pytest.mark.parametrize(
    "table",
    [
        {"PTDEMOG": changed("PTDEMOG", "011_S_0002,2", "011_S_0003,2")},
        {"PTDEMOG": changed("PTDEMOG", ",16\n", ",16\nADNI1,011_S_0002,2,m12,m12,2007-01-20,2,04/1931,1931,16\n")},
        {"PTDEMOG": changed("PTDEMOG", ",16\n", ",16\nADNI1,011_S_0002,2,m12,m12,2007-01-20,1,04/1942,1942,16\n")},
        {"MMSE": changed("MMSE", "011_S_0002,2,", "023_S_0002,2,")},
    ],
    ids=["two names", "two sexes", "two years of birth", "two names over two tables"],
)
def test_two_patients_under_one_identifier_are_left_out_and_itemised(table: dict[str, str], tmp_path: Path) -> None:
    selection = select(write_release(tmp_path, **table), "MMSE")
    assert set(numbers(selection)) == {ADNI2, ADNI4}
    assert [item.reason for item in selection.quarantine] == [Reason.TWO_PEOPLE]
    assert selection.steps["lost: tables tell of two people under one identifier"] == 1


def test_one_patient_under_two_identifiers_is_ambiguous_too(tmp_path: Path) -> None:
    mmse = changed("MMSE", "023_S_4035,4035", "011_S_0002,4035")
    assert set(numbers(select(write_release(tmp_path, MMSE=mmse), "MMSE"))) == {ADNI4}


def test_empty_rows_are_no_rows_and_one_that_names_nobody_is_itemised(tmp_path: Path) -> None:
    mmse = changed("MMSE", "ADNI4,099", ",,,,,,,\n\n,,,sc,sc,2020-01-01,1,30\nADNI4,099")
    selection = select(write_release(tmp_path, MMSE=mmse), "MMSE")
    assert len(selection.visits) == 3
    assert [(item.subject_id, item.reason) for item in selection.quarantine] == [("", Reason.NO_RID)]


def test_what_a_model_asks_for_and_no_table_has_is_an_error_that_names_it(release: Path, tmp_path: Path) -> None:
    for column, message in {
        "UCSFFSX.ST29SW": r"UCSFFSX7_05Mar2026\.csv lacks ST29SW; did you mean 'ST29SV'",
        "UCSFX.ST29SV": "no table 'UCSFX' of ADNI is read; did you mean 'UCSFFSX'",
    }.items():
        with pytest.raises(DataError, match=message):
            select(release, column)
    for text, message in {
        "<html>login</html>": "web page, most likely the archive's login",
        "RID\n": "lacks MMSCORE",
    }.items():
        with pytest.raises(DataError, match=message):
            select(write_release(tmp_path, MMSE=text), "MMSE")


def test_a_table_that_was_not_downloaded_is_a_modality_that_nobody_has(tmp_path: Path) -> None:
    folder = write_release(tmp_path, UCD_WMH="")
    lesions = modality("UCD_WMH.TOTAL_WMH", name="lesions")
    selection = select_visits(folder, None, TargetRule(), [lesions, modality("MMSE")], today=TODAY)
    assert len(selection.visits) == 3 and not any("lesions" in visit.tables for visit in selection.visits)
    note = "no visit has UCD_WMH.TOTAL_WMH: it comes from UCD_WMH, which is not in the folder of tables"
    assert note in selection.notes
    with pytest.raises(DataError, match=note):
        select(folder, "UCD_WMH.TOTAL_WMH").require_visits()


def test_a_spreadsheet_alone_is_an_error_where_its_table_is_needed_and_a_note_where_not(tmp_path: Path) -> None:
    def release_with(name: str, **tables: str) -> Path:
        folder = write_release(tmp_path / name, **tables)
        (folder / f"{name}.xlsx").write_bytes(b"PK\x03\x04")
        return folder

    for name in ("CDR", "DXSUM", "MMSE"):
        with pytest.raises(DataError, match=rf"{name}\.xlsx is a spreadsheet; save it as comma-separated text \(CSV\)"):
            select(release_with(name, **{name: ""}), "MMSE")
    notes = select(release_with("REGISTRY", REGISTRY=""), "MMSE").notes
    assert "REGISTRY.xlsx is a spreadsheet and was not read; save it as comma-separated text (CSV)" in notes


def test_the_outcome_may_be_the_change_of_another_score(release: Path) -> None:
    def of(score: str) -> list[tuple[str, float, float | None]]:
        found = select_visits(release, None, TargetRule(), SEX, score_named(score), today=TODAY).visits
        return [(v.subject_id, v.baseline_cdrsb, v.delta_cdrsb) for v in found]

    assert of("adas-cog-13") == [(ADNI1, 18.33, pytest.approx(5.67)), (ADNI4, 8.0, None)]
    assert of("adas-cog-11") == [(ADNI1, 10.33, pytest.approx(3.67)), (ADNI2, 9.0, None), (ADNI4, 5.0, None)]
    assert of("cdr-sb")[0] == (ADNI1, 1.5, 1.5)
    with pytest.raises(ConfigurationError, match=r"no score 'adas-cog-12'; did you mean 'adas-cog-1[13]'"):
        of("adas-cog-12")


def test_a_score_off_its_scale_is_itemised_and_its_visit_has_none(tmp_path: Path) -> None:
    folder = write_release(tmp_path, ADAS=changed("ADAS", "10.33,18.33", "10.33,118.33"))
    selection = select_visits(folder, None, TargetRule(), SEX, score_named("adas-cog-13"), today=TODAY)
    assert Quarantined("RID 2", "", "", Reason.IMPOSSIBLE_SCORE) in set(selection.quarantine)
    assert [visit.subject_id for visit in selection.visits] == [ADNI4]


def test_a_score_whose_table_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no table gives FAQ, the outcome"):
        select_visits(write_release(tmp_path, FAQ=""), None, TargetRule(), [modality("MMSE")], score_named("faq"))


def test_a_model_with_an_image_needs_the_folder_of_images(release: Path) -> None:
    with pytest.raises(DataError, match=r"modality 't1' is an image; name the folder of images \(--images,"):
        select_visits(release, None, TargetRule(), [Modality(name="t1")])
