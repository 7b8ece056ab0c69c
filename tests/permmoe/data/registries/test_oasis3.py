"""OASIS-3: days since entry, the forms of the UDS, tables of scans."""

from pathlib import Path

import pytest

from permmoe.data.reasons import Reason
from permmoe.data.registries.oasis3 import oasis3
from permmoe.data.registries.registry import select_visits
from permmoe.data.target_rule import TargetRule
from permmoe.errors import ConfigurationError, DataError
from permmoe.modality import ADNI_MODALITIES, Modality
from tests.support.registry_files import write_image, write_lines

BOXES = "memory,orient,judgment,commun,homehobb,perscare"
B4 = f"OASISID,OASIS_session_label,days_to_visit,age at visit,MMSE,{BOXES},CDRSUM,CDRTOT,dx1"
D1 = "OASISID,OASIS_session_label,days_to_visit,NORMCOG,DEMENTED,IMPNOMCI,MCIAMEM,MCIAPLUS,MCINON1,MCINON2"
CENTILOID = Modality(name="centiloid", kind="tabular", columns=("Centiloid_fSUVR_TOT_CORTMEAN",))
HIPPOCAMPUS = Modality(name="fs", kind="tabular", columns=("TOTAL_HIPPOCAMPUS_VOLUME", "IntraCranialVol"))
TESTS = Modality(name="tests", kind="tabular", columns=("ANIMALS",))
RULE = oasis3().rule


def b4(subject: str, day: int, cdr: str, sb: str, dx1: str = "AD Dementia", age: str = "", boxes: str = ",,,,,") -> str:
    return f"{subject},{subject}_UDSb4_d{day:04d},{day},{age},27,{boxes},{sb},{cdr},{dx1}"


def tables(folder: Path, *rows: str) -> Path:
    write_lines(folder / "UDSb4" / "csv" / "OASIS3_UDSb4_cdr.csv", B4, *rows)
    return folder


def test_days_since_entry_date_visits_and_sessions_alike(tmp_path: Path) -> None:
    folder = tables(
        tmp_path / "t",
        b4("OAS30001", 0, "0", "0", "Cognitively normal", "65.1"),
        b4("OAS30001", 722, "0.5", "1.5", age="67.1"),
        b4("OAS30001", 1448, "1", "4.5", age="69.1"),
    )
    near = write_image(tmp_path / "i", "OAS30001", "d0757")
    write_image(tmp_path / "i", "OAS30001", "d0129")
    write_image(tmp_path / "i", "OAS30001", "d0423", "trc-PIB_pet", "pet")
    found = select_visits(oasis3(), folder, tmp_path / "i", RULE, ADNI_MODALITIES)
    (visit,) = found.visits
    assert (visit.subject_id, visit.site, visit.session) == ("OAS30001", "OASIS3", "d0757")
    assert (visit.baseline_cdrsb, visit.delta_cdrsb, visit.age_years) == (1.5, 3.0, 67.1)
    assert visit.volumes["t1"] == near
    assert visit.observed(("t1", "amyloid")) == ("t1", "amyloid"), "299 days before, within a year"


def test_prepared_images_keep_subject_and_day_and_come_before_raw_ones(tmp_path: Path) -> None:
    folder = tables(tmp_path / "t", b4("OAS30001", 100, "0.5", "1"))
    write_image(tmp_path / "i" / "raw", "OAS30001", "d0129", "run-01_T1w")
    prepared = write_image(tmp_path / "i" / "out", "OAS30001", "d0129", "space-MNI152NLin2009aSym_desc-brain_T1w")
    found = select_visits(oasis3(), folder, tmp_path / "i", RULE, ADNI_MODALITIES)
    assert [dict(v.volumes) for v in found.visits] == [{"t1": prepared}]
    assert len(found.choices) == 1


def test_a_global_rating_of_one_half_counts_as_mci_and_a_form_only_on_request(tmp_path: Path) -> None:
    folder = tables(
        tmp_path / "t",
        b4("OAS30001", 0, "0.5", "1", "AD Dementia"),
        b4("OAS30002", 0, "0.5", "0.5", "uncertain dementia"),
        b4("OAS30003", 0, "0", "0", "Cognitively normal"),
        b4("OAS30004", 0, "1", "5", "AD Dementia"),
    )
    write_lines(
        tmp_path / "t" / "OASIS3_UDSd1_diagnoses.csv",
        D1,
        "OAS30001,OAS30001_UDSd1_d0000,0000,0,1,,,,,",
        "OAS30002,OAS30002_UDSd1_d0000,0000,0,0,0,0,1,0,0",
    )
    write_lines(
        tmp_path / "t" / "OASIS3_amyloid_centiloid.csv",
        "subject_id,oasis_session_id,tracer,Centiloid_fSUVR_TOT_CORTMEAN",
        *(f"OAS3000{n},OAS3000{n}_AV45_d0010,AV45,{n}0.5" for n in (1, 2, 3, 4)),
    )
    by_cdr = select_visits(oasis3(), folder, None, RULE, [CENTILOID]).visits
    by_form = select_visits(oasis3("form"), folder, None, RULE, [CENTILOID]).visits
    assert [v.subject_id for v in by_cdr] == ["OAS30001", "OAS30002"]
    assert [v.subject_id for v in by_form] == ["OAS30002"]
    (tmp_path / "t" / "OASIS3_UDSd1_diagnoses.csv").unlink()
    healthy = TargetRule(diagnoses=("CN",), image_window_days=365)
    by_words = select_visits(oasis3("form"), folder, None, healthy, [CENTILOID])
    assert [v.subject_id for v in by_words.visits] == ["OAS30003"]
    assert "diagnoses are from dx1" in by_words.notes[1]


def test_numbers_come_from_the_nearest_scan_that_passed(tmp_path: Path) -> None:
    folder = tables(tmp_path / "t", b4("OAS30001", 100, "0.5", "1"))
    write_lines(
        tmp_path / "t" / "OASIS3_Freesurfer_output.csv",
        "Subject,MR_session,FS QC Status,IntraCranialVol,TOTAL_HIPPOCAMPUS_VOLUME",
        "OAS30001,OAS30001_MR_d0105,Quarantined,1,1",
        "OAS30001,OAS30001_MR_d0129,Passed with edits,1500000,7000",
        "OAS30001,OAS30001_MR_d0757,Passed,1400000,6000",
    )
    (visit,) = select_visits(oasis3(), folder, None, RULE, [HIPPOCAMPUS]).visits
    assert visit.tables["fs"] == (7000.0, 1500000.0)
    assert visit.session == "d0100"


PUP = Modality(name="pup", kind="tabular", columns=("PET_fSUVR_TOT_CORTMEAN",))


@pytest.mark.parametrize(
    ("tracers", "expected"),
    [((), (1.1, "AV45")), (("PiB",), (1.9, "PiB")), (("FBB",), None)],
    ids=["any, so the nearest", "the listed one", "one that the subject has not"],
)
def test_uptake_ratios_have_the_tracer_of_their_row_and_others_than_listed_are_not_taken(
    tmp_path: Path, tracers: tuple[str, ...], expected: tuple[float, str] | None
) -> None:
    folder = tables(tmp_path / "t", b4("OAS30001", 100, "0.5", "1"))
    write_lines(
        tmp_path / "t" / "OASIS3_PUP.csv",
        "PUP_PUPTIMECOURSEDATA ID,tracer,PET TC QC Status,PET_fSUVR_TOT_CORTMEAN,Centil_fSUVR_TOT_CORTMEAN",
        "OAS30001_AV45_PUPTIMECOURSE_d0105,AV45,Passed,1.1,11",
        "OAS30001_PIB_PUPTIMECOURSE_d0129,PIB,Passed,1.9,19",
    )
    modality = PUP.model_copy(update={"tracers": tracers})
    centiloid = Modality(name="cl", kind="tabular", columns=("Centil_fSUVR_TOT_CORTMEAN",))
    (visit,) = select_visits(oasis3(), folder, None, RULE, [modality, centiloid]).visits
    assert visit.tables.get("pup") == (expected and (expected[0],)) and visit.tables["cl"] == (11.0,)
    assert visit.tracers == ({"pup": expected[1]} if expected else {}), "Centiloids are of no one tracer"


def test_codes_of_the_uniform_data_set_are_no_numbers(tmp_path: Path) -> None:
    rows = [b4(f"OAS3000{n}", 0, "0.5", "1") for n in (1, 2, 3, 4)]
    folder = tables(tmp_path / "t", *rows)
    header = "OASISID,OASIS_session_label,days_to_visit,ANIMALS"
    values = {1: "17", 2: "88", 3: "95", 4: "-4"}
    lines = [f"OAS3000{n},OAS3000{n}_psychometrics_d0000,0,{value}" for n, value in values.items()]
    write_lines(tmp_path / "t" / "OASIS3_UDSc1_cognitive_assessments.csv", header, *lines)
    found = select_visits(oasis3(), folder, None, RULE, [TESTS])
    assert [(v.subject_id, v.tables["tests"]) for v in found.visits] == [("OAS30001", (17.0,))]
    assert found.steps["lost: no modality near a visit with an accepted diagnosis and a score"] == 3


def test_the_sum_of_the_boxes_stands_in_and_impossible_rows_are_itemised(tmp_path: Path) -> None:
    folder = tables(
        tmp_path / "t",
        b4("OAS30001", 0, "0.5", "", boxes="0.5,0.5,0,0,0,0"),
        b4("OAS30002", 0, "0.5", "25"),
        b4("OAS30753", -39520, "0.5", "1", age="-47.25"),
    )
    for subject in ("OAS30001", "OAS30002"):
        write_image(tmp_path / "i", subject, "d0010")
    found = select_visits(oasis3(), folder, tmp_path / "i", RULE, ADNI_MODALITIES)
    assert [(v.subject_id, v.baseline_cdrsb) for v in found.visits] == [("OAS30001", 1.0)]
    assert [(i.subject_id, i.reason) for i in found.quarantine] == [
        ("OAS30002", Reason.IMPOSSIBLE_SCORE),
        ("OAS30753", Reason.IMPOSSIBLE_AGE),
        ("OAS30002", Reason.NO_CLINICAL_VISIT),
    ]


def test_the_older_clinical_table_is_read_by_its_labels(tmp_path: Path) -> None:
    folder = write_lines(
        tmp_path / "t" / "ADRCClinicalData.csv",
        "ADRC_ADRCCLINICALDATA ID,Subject,ageAtEntry,mmse,cdr,dx1,sumbox",
        "OAS30001_ClinicalData_d0000,OAS30001,65.15,28.0,0.5,0.5 in memory only,0.5",
        "OAS30001_ClinicalData_d0731,OAS30001,65.15,25.0,0.5,AD Dementia,2.5",
    )
    write_image(tmp_path / "i", "OAS30001", "M000")
    (visit,) = select_visits(oasis3(), folder, tmp_path / "i", RULE, ADNI_MODALITIES).visits
    assert (visit.baseline_cdrsb, visit.delta_cdrsb, visit.age_years) == (0.5, 2.0, 65.15)


def test_what_cannot_be_used_at_all_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder of tables"):
        select_visits(oasis3(), tmp_path / "absent", None, RULE, [CENTILOID])
    folder = write_lines(tmp_path / "t" / "OASIS3_demographics.csv", "OASISID,AgeatEntry", "OAS30001,65")
    with pytest.raises(DataError, match=r"no table in .* has CDRSUM and CDRTOT"):
        select_visits(oasis3(), folder, None, RULE, [CENTILOID])
    tables(folder, b4("OAS30001", 0, "0.5", "1"))
    with pytest.raises(DataError, match="no table has the column 'Centiloid_fSUVR_TOT_CORTMEAN'"):
        select_visits(oasis3(), folder, None, RULE, [CENTILOID])
    with pytest.raises(DataError, match="'t1' is an image; name the folder of images"):
        select_visits(oasis3(), folder, None, RULE, ADNI_MODALITIES)
    with pytest.raises(ConfigurationError, match="has no score 'cdrsb'; did you mean 'cdr-sb'"):
        select_visits(oasis3(), folder, None, RULE, [CENTILOID], "cdrsb")
    with pytest.raises(DataError, match="no visit has the diagnosis 'MCY'"):
        write_lines(folder / "c.csv", "subject_id,oasis_session_id,Centiloid_fSUVR_TOT_CORTMEAN", "x,y,1")
        select_visits(oasis3(), folder, None, TargetRule(diagnoses=("MCY",)), [CENTILOID])
