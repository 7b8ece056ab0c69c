"""NACC's UDS: dates in three columns, centres as sites, codes that are no numbers."""

from datetime import date
from pathlib import Path

import pytest

from permmoe.data.reasons import Reason
from permmoe.data.registries.nacc import nacc
from permmoe.data.registries.registry import select_visits
from permmoe.data.registries.uds_ranges import UDS_RANGES, measured
from permmoe.errors import DataError
from permmoe.modality import ADNI_MODALITIES, Modality
from tests.support.registry_files import write_image, write_lines

HEADER = "NACCID,NACCADC,PACKET,FORMVER,VISITMO,VISITDAY,VISITYR,NACCVNUM,NACCAGE,CDRSUM,CDRGLOB,NACCMMSE,NACCUDSD"
MOCA = Modality(name="tests", kind="tabular", columns=("NACCMMSE",))
RULE = nacc().rule


def uds(folder: Path, *rows: str, name: str = "investigator_nacc71.csv", header: str = HEADER) -> Path:
    return write_lines(folder / name, header, *rows)


def test_a_visit_has_its_centre_its_date_and_its_outcome_about_two_years_later(tmp_path: Path) -> None:
    folder = uds(
        tmp_path / "t",
        "NACC000001,186,I,3,3,15,2015,1,70,0.5,0.5,29,1",
        "NACC000001,186,F,3,4,20,2016,2,71,1.5,0.5,27,3",
        "NACC000001,186,F,3,9,30,2018,4,73,4.0,1,22,4",
    )
    image = write_image(tmp_path / "i", "NACC000001", "20160601")
    (visit,) = select_visits(nacc(), folder, tmp_path / "i", RULE, ADNI_MODALITIES).visits
    assert (visit.subject_id, visit.site, visit.phase) == ("NACC000001", "NACC186", "UDS3")
    assert (visit.baseline_cdrsb, visit.delta_cdrsb, visit.age_years) == (1.5, 2.5, 71.0)
    assert dict(visit.volumes) == {"t1": image}


def test_tables_alone_make_a_manifest_and_codes_are_no_numbers(tmp_path: Path) -> None:
    folder = uds(
        tmp_path / "t",
        "NACC000001,186,I,3,3,15,2015,1,70,1.5,0.5,29,3",
        "NACC000002,186,I,3,3,15,2015,1,888,1.5,0.5,88,3",
        "NACC000003,186,I,3,3,15,2015,1,70,1.5,0.5,96,3",
        "NACC000004,186,I,3,3,15,2015,1,70,1.5,0.5,-4,3",
    )
    found = select_visits(nacc(), folder, None, RULE, [MOCA])
    assert [(v.subject_id, v.session, v.tables["tests"]) for v in found.visits] == [("NACC000001", "v1", (29.0,))]
    assert found.steps == {
        "in tables or images": 4,
        "lost: no modality near a visit with an accepted diagnosis and a score": 3,
    }


def test_impaired_but_not_mci_is_another_diagnosis(tmp_path: Path) -> None:
    folder = uds(
        tmp_path / "t",
        "NACC000001,186,I,3,3,15,2015,1,70,1.5,0.5,29,2",
        "NACC000002,99,I,3.2,3,15,2015,1,70,1.5,0.5,28,3",
    )
    assert [v.site for v in select_visits(nacc(), folder, None, RULE, [MOCA]).visits] == ["NACC99"]
    impaired = RULE.model_copy(update={"diagnoses": ("Impaired",)})
    assert [v.site for v in select_visits(nacc(), folder, None, impaired, [MOCA]).visits] == ["NACC186"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("NACC000001,186,I,3,99,99,2015,1,70,1.5,0.5,29,3", Reason.UNDATED_VISIT),
        ("NACC000001,186,I,3,2,30,2015,1,70,1.5,0.5,29,3", Reason.UNDATED_VISIT),
        ("NACC000001,186,I,3,2,3,2015,1,70,18.5,0.5,29,3", Reason.IMPOSSIBLE_SCORE),
        ("NACC000001,186,I,3,2,3,2015,1,70,-0.5,0.5,29,3", Reason.IMPOSSIBLE_SCORE),
        (",186,I,3,2,3,2015,1,70,1,0.5,29,3", Reason.NO_IDENTITY),
        ("NACC000001,,I,3,2,3,2015,1,70,1,0.5,29,3", Reason.NO_IDENTITY),
    ],
)
def test_a_row_that_cannot_be_used_is_itemised_and_the_rest_goes_on(tmp_path: Path, row: str, reason: Reason) -> None:
    folder = uds(tmp_path / "t", row, "NACC000009,186,I,3,3,15,2015,1,70,1.5,0.5,29,3")
    found = select_visits(nacc(), folder, None, RULE, [MOCA])
    assert [v.subject_id for v in found.visits] == ["NACC000009"]
    assert [item.reason for item in found.quarantine] == [reason]


@pytest.mark.parametrize("code", ["-4", "88", "99", ""])
def test_a_code_in_place_of_the_score_is_no_score_and_no_fault(tmp_path: Path, code: str) -> None:
    folder = uds(tmp_path / "t", f"NACC000001,186,I,3,2,3,2015,1,70,{code},0.5,29,3")
    found = select_visits(nacc(), folder, None, RULE, [MOCA])
    assert [item.reason for item in found.quarantine] == [Reason.NO_DIAGNOSIS_IN_TIME]


def test_tables_of_images_are_joined_by_date_and_their_placeholders_are_empty(tmp_path: Path) -> None:
    folder = uds(
        tmp_path / "t",
        "NACC000001,186,I,3,3,15,2015,1,70,1.5,0.5,29,3",
        "NACC000002,186,I,3,3,15,2015,1,70,1.5,0.5,29,3",
    )
    write_lines(
        folder / "investigator_mri_nacc71.csv",
        "NACCADC,NACCID,MRIMO,MRIDY,MRIYR,NACCICV,HIPPOVOL",
        "186,NACC000001,6,1,2015,1400.5,6.5",
        "186,NACC000001,6,1,2019,1390.5,5.5",
        "186,NACC000002,6,1,2015,9999.999,88.8888",
    )
    write_lines(
        folder / "scan" / "investigator_scan_amyloidpetgaain_nacc71.csv",
        "NACCID,NACCADC,SCANDATE,TRACER,CENTILOIDS",
        "NACC000001,186,2015-07-02,4,41.5",
        "NACC000002,186,2016-07-02,4,99.5",
    )
    volumes = Modality(name="mri", kind="tabular", columns=("HIPPOVOL", "NACCICV"))
    centiloid = Modality(name="amyloid", kind="tabular", columns=("CENTILOIDS",))
    found = select_visits(nacc(), folder, None, RULE, [volumes, centiloid])
    assert [(v.subject_id, dict(v.tables)) for v in found.visits] == [
        ("NACC000001", {"mri": (6.5, 1400.5), "amyloid": (41.5,)})
    ]


@pytest.mark.parametrize(
    ("written", "tracer"), [("2", "PiB"), ("5.0", "NAV4694"), ("florbetapir", "AV45"), ("99", ""), ("", "")]
)
def test_an_uptake_ratio_of_scan_has_the_tracer_of_its_row(tmp_path: Path, written: str, tracer: str) -> None:
    folder = uds(tmp_path / "t", "NACC000001,186,I,3,3,15,2015,1,70,1.5,0.5,29,3")
    write_lines(
        folder / "investigator_scan_amyloidpetgaain_nacc71.csv",
        "NACCID,NACCADC,SCANDATE,TRACER,CENTILOIDS,GAAIN_SUMMARY_SUVR",
        f"NACC000001,186,2015-07-02,{written},41.5,1.3",
    )
    ratio = Modality(name="ratio", kind="tabular", columns=("GAAIN_SUMMARY_SUVR",))
    amyloid = Modality(name="amyloid", kind="tabular", columns=("CENTILOIDS",))
    (visit,) = select_visits(nacc(), folder, None, RULE, [ratio, amyloid]).visits
    assert visit.tables == {"ratio": (1.3,), "amyloid": (41.5,)}
    assert visit.tracers == ({"ratio": tracer} if tracer else {})


@pytest.mark.parametrize(("text", "value"), [("-4", -4.0), ("9.9", 9.9), ("99.9", 99.9), ("999.999", None)])
def test_a_number_of_centiloids_is_missing_only_where_no_brain_can_have_it(
    tmp_path: Path, text: str, value: float | None
) -> None:
    folder = uds(tmp_path / "t", "NACC000001,186,I,3,3,15,2015,1,70,1.5,0.5,29,3")
    write_lines(
        folder / "investigator_scan_amyloidpetgaain_nacc71.csv",
        "NACCID,NACCADC,SCANDATE,TRACER,CENTILOIDS",
        f"NACC000001,186,2015-07-02,4,{text}",
    )
    amyloid = Modality(name="amyloid", kind="tabular", columns=("CENTILOIDS",))
    found = select_visits(nacc(), folder, None, RULE, [MOCA, amyloid])
    (visit,) = found.visits
    assert visit.tables.get("amyloid") == (None if value is None else (value,))


def test_a_column_of_unknown_range_is_refused_since_its_codes_would_be_numbers(tmp_path: Path) -> None:
    folder = uds(tmp_path / "t", "NACC000001,186,I,3,3,15,2015,1,70,1.5,0.5,29,3,12", header=HEADER + ",DYSILL")
    with pytest.raises(DataError, match="the range of 'DYSILL' is not known here"):
        select_visits(nacc(), folder, None, RULE, [Modality(name="x", kind="tabular", columns=("DYSILL",))])


@pytest.mark.parametrize(("year", "n"), [(2016, 1), (2017, 0)])
def test_a_visit_without_a_diagnosis_has_the_last_one_while_that_holds(tmp_path: Path, year: int, n: int) -> None:
    """The first visit has the diagnosis and no test, the second the test and no diagnosis."""
    folder = uds(
        tmp_path / "t",
        "NACC000001,186,I,3,3,15,2015,1,70,1.5,0.5,88,3",
        f"NACC000001,186,F,3,3,15,{year},2,71,2.5,0.5,27,-4",
    )
    found = select_visits(nacc(), folder, None, RULE, [MOCA])
    assert [(v.session, v.baseline_cdrsb) for v in found.visits] == [("v2", 2.5)] * n


def test_the_newest_release_counts(tmp_path: Path) -> None:
    row = "NACC000001,186,I,3,3,15,2015,1,70,{},0.5,29,3"
    folder = uds(tmp_path / "t", row.format(1), name="investigator_nacc9.csv")
    uds(folder, row.format(2), name="investigator_nacc71.csv")
    (visit,) = select_visits(nacc(), folder, None, RULE, [MOCA]).visits
    assert visit.baseline_cdrsb == 2.0


def test_images_of_others_are_counted_and_undated_ones_itemised(tmp_path: Path) -> None:
    folder = uds(tmp_path / "t", "NACC000001,186,I,3,3,15,2015,1,70,1.5,0.5,29,3")
    write_image(tmp_path / "i", "OAS30001", "d0000")
    write_image(tmp_path / "i", "NACC000001", "a")
    found = select_visits(nacc(), folder, tmp_path / "i", RULE, ADNI_MODALITIES)
    assert "1 image(s) are of subjects that are not called as NACC's are" in found.notes
    assert Reason.UNDATED_IMAGE in [item.reason for item in found.quarantine]


def test_a_visit_in_the_future_is_itemised_and_is_no_outcome(tmp_path: Path) -> None:
    folder = uds(
        tmp_path / "t",
        "NACC000001,186,I,3,3,15,2015,1,70,1.5,0.5,29,3",
        "NACC000001,186,F,3,3,15,2017,2,72,9,1,20,4",
    )
    found = select_visits(nacc(), folder, None, RULE, [MOCA], today=date(2016, 1, 1))
    assert [v.delta_cdrsb for v in found.visits] == [None]
    assert [(i.subject_id, i.reason) for i in found.quarantine] == [("NACC000001", Reason.FUTURE_DATE)]
    assert (
        select_visits(nacc(), folder, None, RULE, [MOCA], today=date(2017, 3, 15)).visits.visits[0].delta_cdrsb == 7.5
    )


def test_no_table_of_visits_is_an_error(tmp_path: Path) -> None:
    folder = write_lines(tmp_path / "t" / "other.csv", "a,b", "1,2")
    with pytest.raises(DataError, match="put NACC's quick-access file"):
        select_visits(nacc(), folder, None, RULE, [MOCA])


@pytest.mark.parametrize("column", sorted(UDS_RANGES))
def test_no_range_holds_a_code_of_its_column(column: str) -> None:
    low, high = UDS_RANGES[column]
    assert measured(column, low) == low and measured(column, high) == high
    assert measured(column, -4.0) is None
    width = 9 if high < 8 else 99 if high < 88 else 999
    assert measured(column, float(width)) is None
