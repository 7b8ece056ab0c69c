"""The manifest keeps what it can, itemises what it cannot, and says in a sentence why a table is of no use."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from permmoe.data.manifest import read_manifest, required_columns, unread_columns, write_manifest
from permmoe.data.quarantine import Quarantine, Quarantined
from permmoe.data.reasons import Reason
from permmoe.data.visits import Visit, VisitTable
from permmoe.errors import DataError
from permmoe.modality import ADNI_MODALITIES, Modality

T1_AND_FLUID = (Modality(name="t1"), Modality(name="fluid", kind="tabular", columns=("abeta", "ptau")))
HEADER = "subject_id,site,session,baseline_cdrsb,delta_cdrsb,horizon_months,t1,abeta,ptau"


def manifest(folder: Path, *rows: str, header: str = HEADER) -> Path:
    (folder / "a.nii.gz").write_bytes(b"")
    path = folder / "manifest.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def reasons(quarantine: Quarantine) -> list[tuple[str, str, str]]:
    return [(item.subject_id, item.modality, item.reason) for item in quarantine]


def test_identifiers_are_text_and_keep_their_zeros(tmp_path: Path) -> None:
    table, quarantine = read_manifest(manifest(tmp_path, "007,011,M000,1.5,-0.5,24,a.nii.gz,,"), T1_AND_FLUID)
    (visit,) = table
    assert (visit.subject_id, visit.site, visit.delta_cdrsb) == ("007", "011", -0.5)
    assert visit.volumes == {"t1": tmp_path / "a.nii.gz"}
    assert visit.observed(("t1", "fluid")) == ("t1",)
    assert len(quarantine) == 0


def test_site_called_na_is_not_a_missing_value(tmp_path: Path) -> None:
    table, _ = read_manifest(manifest(tmp_path, "1,NA,M000,1.5,0,24,a.nii.gz,,"), T1_AND_FLUID)
    assert table.sites == ("NA",)


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        (",0,24", "no score at the visit"),
        ("-1,0,24", "score at the visit is no number on its scale"),
        ("18.5,0,24", "score at the visit is no number on its scale"),
        ("many,0,24", "score at the visit is no number on its scale"),
        ("1.5,,24", "no change of the score"),
        ("1.5,nan,24", "no change of the score"),
        ("1.5,-2,24", "score at the horizon is no number on its scale"),
        ("17,1.5,24", "score at the horizon is no number on its scale"),
        ("1.5,0,0", "horizon is not a positive number of months"),
        ("1.5,0,inf", "horizon is not a positive number of months"),
    ],
)
def test_row_with_impossible_scores_is_itemised_with_its_line(tmp_path: Path, scores: str, reason: str) -> None:
    path = manifest(tmp_path, "1,011,M000,1.5,0,24,a.nii.gz,,", f"2,011,M000,{scores},a.nii.gz,,")
    table, quarantine = read_manifest(path, T1_AND_FLUID)
    assert [v.subject_id for v in table] == ["1"]
    assert list(quarantine) == [Quarantined("2", "", "manifest.csv:3", Reason(reason))]


def test_covariates_are_read_as_far_as_they_are_there_and_a_word_among_them_is_itemised(tmp_path: Path) -> None:
    header = f"{HEADER},MMSE,FAQ"
    rows = ("1,011,M000,1.5,0,24,a.nii.gz,,,28,", "2,011,M000,1.5,0,24,a.nii.gz,,,good,3")
    path = manifest(tmp_path, *rows, header=header)
    table, quarantine = read_manifest(path, T1_AND_FLUID, covariates=("FAQ", "MMSE", "ADAS13"))
    assert [visit.covariates for visit in table] == [{"MMSE": 28.0}, {"FAQ": 3.0}]
    assert reasons(quarantine) == [("2", "MMSE", Reason.INCOMPLETE_NUMBERS)]
    assert all(not visit.covariates for visit in read_manifest(path, T1_AND_FLUID)[0])


def test_extreme_but_possible_scores_are_kept(tmp_path: Path) -> None:
    path = manifest(tmp_path, "1,011,M000,0,18,24,a.nii.gz,,", "2,011,M000,18,-18,24,a.nii.gz,,")
    assert len(read_manifest(path, T1_AND_FLUID)[0]) == 2


def test_target_is_optional_for_prediction_only(tmp_path: Path) -> None:
    header = HEADER.replace("delta_cdrsb,", "")
    path = manifest(tmp_path, "1,011,M000,1.5,24,a.nii.gz,,", header=header)
    table, _ = read_manifest(path, T1_AND_FLUID, need_target=False)
    assert table.visits[0].delta_cdrsb is None
    with pytest.raises(DataError, match="'delta_cdrsb'"):
        read_manifest(path, T1_AND_FLUID)


def test_missing_file_costs_its_modality_and_not_its_visit(tmp_path: Path) -> None:
    path = manifest(tmp_path, "1,011,M000,1.5,0,24,gone.nii.gz,3,5", "2,011,M000,1.5,0,24,gone.nii.gz,,")
    table, quarantine = read_manifest(path, T1_AND_FLUID)
    assert [v.observed(("t1", "fluid")) for v in table] == [("fluid",)]
    assert reasons(quarantine) == [
        ("1", "t1", "file not found"),
        ("2", "t1", "file not found"),
        ("2", "", "no modality that can be used"),
    ]
    assert quarantine.counts() == {"file not found": 2, "no modality that can be used": 1}


def test_half_a_table_row_is_itemised_and_an_empty_one_is_not_collected(tmp_path: Path) -> None:
    rows = ["1,011,M000,1.5,0,24,a.nii.gz,3,", "2,011,M000,1.5,0,24,a.nii.gz,3,x", "3,011,M000,1.5,0,24,a.nii.gz,,"]
    table, quarantine = read_manifest(manifest(tmp_path, *rows), T1_AND_FLUID)
    assert all(v.tables == {} for v in table)
    assert reasons(quarantine) == [(s, "fluid", "a value is missing or not a finite number") for s in "12"]


def test_absolute_paths_are_allowed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "b.nii").write_bytes(b"")
    (tmp_path / "m").mkdir()
    path = manifest(tmp_path / "m", f"1,011,M000,1.5,0,24,{other / 'b.nii'},,")
    assert read_manifest(path, T1_AND_FLUID)[0].visits[0].volumes["t1"] == other / "b.nii"


@pytest.mark.parametrize("cell", ["../a.nii.gz", "x/../../a.nii.gz", ".."])
def test_relative_path_may_not_leave_the_folder(tmp_path: Path, cell: str) -> None:
    path = manifest(tmp_path, f"1,011,M000,1.5,0,24,{cell},,")
    with pytest.raises(DataError, match=r"line 2, column 't1': the path leaves the manifest's folder"):
        read_manifest(path, T1_AND_FLUID)


def test_relative_path_may_turn_back_inside_the_folder(tmp_path: Path) -> None:
    table, _ = read_manifest(manifest(tmp_path, "1,011,M000,1.5,0,24,x/../a.nii.gz,,"), T1_AND_FLUID)
    assert table.visits[0].volumes["t1"] == tmp_path / "a.nii.gz"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04\xff\xfe\x00workbook", "not a CSV file"),
        (HEADER.replace(",", ";").encode(), "not separated by commas"),
        (b"", "lacks 9 column"),
        (HEADER.replace("site", "sight").encode(), "'site': did you mean 'sight'"),
        (HEADER.replace("t1", "t1w").encode(), "'t1': did you mean 't1w'"),
        ((HEADER + ",t1").encode(), "more than one column 't1'"),
        ((HEADER + "\n1,011,M000,1.5,0,24").encode(), "line 2: 6 cells under 9"),
        ((HEADER + '\n1,011,M000,1.5,0,24,"a.nii').encode(), "not a CSV file"),
    ],
)
def test_unusable_table_is_explained(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "manifest.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_manifest(path, T1_AND_FLUID)


def test_absent_manifest_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no manifest at"):
        read_manifest(tmp_path / "manifest.csv", T1_AND_FLUID)


def test_excel_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    path = manifest(tmp_path, "1,011,M000,1.5,0,24,a.nii.gz,,")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_manifest(path, T1_AND_FLUID)[0]) == 1


def test_subject_in_two_rows_is_refused(tmp_path: Path) -> None:
    rows = ["1,011,M000,1.5,0,24,a.nii.gz,,", "1,011,M012,1.5,0,24,a.nii.gz,,"]
    with pytest.raises(DataError, match="more than one index visit"):
        read_manifest(manifest(tmp_path, *rows), T1_AND_FLUID)


def test_mixed_horizons_are_refused(tmp_path: Path) -> None:
    rows = ["1,011,M000,1.5,0,24,a.nii.gz,,", "2,011,M000,1.5,0,36,a.nii.gz,,"]
    with pytest.raises(DataError, match="24, 36 months"):
        read_manifest(manifest(tmp_path, *rows), T1_AND_FLUID)


def test_unknown_split_names_the_nearest(tmp_path: Path) -> None:
    path = manifest(tmp_path, "1,011,M000,1.5,0,24,a.nii.gz,,,tst", header=HEADER + ",split")
    with pytest.raises(DataError, match="did you mean 'test'"):
        read_manifest(path, T1_AND_FLUID)


number = st.floats(min_value=-1e6, max_value=1e6, allow_nan=False)
text = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=8)


rows = st.fixed_dictionaries(
    {
        "subject_id": text,
        "site": text,
        "session": text,
        "baseline_cdrsb": st.floats(0, 18),
        "age_years": st.none() | st.floats(40, 100),
        "phase": st.sampled_from(["", "ADNI3"]),
        "split": st.sampled_from(["", "train", "validation", "test"]),
    }
)
outcomes = st.none() | st.floats(0, 18)
fluids = st.none() | st.tuples(number, number)
files = st.sampled_from(["m/a.nii.gz", "b, c.nii.gz"])


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(rows, outcomes, fluids, files), max_size=5, unique_by=lambda drawn: drawn[0]["subject_id"]))
def test_written_manifest_reads_back_equal(tmp_path: Path, drawn: list[tuple[dict[str, Any], Any, Any, str]]) -> None:
    (tmp_path / "m").mkdir(exist_ok=True)
    for name in ("m/a.nii.gz", "b, c.nii.gz"):
        (tmp_path / name).write_bytes(b"")
    table = VisitTable(
        tuple(
            Visit(
                **row,
                horizon_months=24.0,
                delta_cdrsb=None if outcome is None else outcome - row["baseline_cdrsb"],
                volumes={"t1": tmp_path / file},
                tables={} if fluid is None else {"fluid": fluid},
            )
            for row, outcome, fluid, file in drawn
        )
    )
    write_manifest(table, tmp_path / "m" / "manifest.csv", T1_AND_FLUID)
    back, quarantine = read_manifest(tmp_path / "m" / "manifest.csv", T1_AND_FLUID, need_target=False)
    assert back == table
    assert len(quarantine) == 0


def test_columns_that_visits_carry_are_written_where_that_is_asked(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"")
    whole = Visit("s1", "011", "bl", 1.0, 0.5, 24.0, volumes={"t1": tmp_path / "a.nii.gz"}, covariates={"sex": 2.0})
    table = VisitTable((whole, replace(whole, subject_id="s2", covariates={})))
    write_manifest(table, tmp_path / "m.csv", T1_AND_FLUID, covariates=("sex", "nobody"))
    assert read_manifest(tmp_path / "m.csv", T1_AND_FLUID, covariates=("sex", "nobody"))[0] == table
    assert all(not visit.covariates for visit in read_manifest(tmp_path / "m.csv", T1_AND_FLUID)[0])


def test_written_manifest_may_move_with_its_images(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.nii.gz").write_bytes(b"")
    visit = Visit("1", "011", "M000", 1.0, 0.0, 24.0, volumes={"t1": folder / "sub" / "a.nii.gz"})
    write_manifest(VisitTable((visit,)), folder / "manifest.csv", ADNI_MODALITIES)
    moved = folder.rename(tmp_path / "there")
    table, _ = read_manifest(moved / "manifest.csv", ADNI_MODALITIES)
    assert table.visits[0].volumes["t1"] == moved / "sub" / "a.nii.gz"
    assert table.digest() == VisitTable((visit,)).digest()


def test_two_modalities_with_different_numbers_under_one_name_are_not_written_over_each_other(tmp_path: Path) -> None:
    blood = Modality(name="blood", kind="tabular", columns=("glucose",))
    fluid = Modality(name="fluid", kind="tabular", columns=("glucose",))
    same = Visit("1", "011", "M000", 1.0, 0.0, 24.0, tables={"blood": (5.0,), "fluid": (5.0,)})
    write_manifest(VisitTable((same,)), tmp_path / "same.csv", (blood, fluid))
    assert read_manifest(tmp_path / "same.csv", (blood, fluid))[0].digest() == VisitTable((same,)).digest()
    other = replace(same, tables={"blood": (5.0,), "fluid": (3.0,)})
    with pytest.raises(DataError, match=r"column 'glucose' of modality fluid .* give .* different names"):
        write_manifest(VisitTable((other,)), tmp_path / "other.csv", (blood, fluid))


def test_failed_write_leaves_the_old_manifest_alone(tmp_path: Path) -> None:
    path = manifest(tmp_path, "1,011,M000,1.5,0,24,a.nii.gz,,")
    before = path.read_bytes()
    bad = Visit("\ud800", "011", "M000", 1.0, 0.0, 24.0, volumes={"t1": tmp_path / "a.nii.gz"})
    with pytest.raises(UnicodeEncodeError):
        write_manifest(VisitTable((bad,)), path, T1_AND_FLUID)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nii.gz", "manifest.csv"]


def test_quarantine_report_holds_the_details_that_counts_leave_out(tmp_path: Path) -> None:
    quarantine = Quarantine((Quarantined("007", "t1", "a.nii", Reason.ZERO_VOXELS),)) + Quarantine(
        (Quarantined("008", "tau", "b.nii", Reason.ZERO_VOXELS), Quarantined("009", "", "", Reason.NO_MODALITY))
    )
    quarantine.write(tmp_path / "report.csv")
    lines = (tmp_path / "report.csv").read_text().splitlines()
    assert lines[1:] == [
        "007,t1,a.nii,all voxels are zero",
        "008,tau,b.nii,all voxels are zero",
        "009,,,no modality that can be used",
    ]
    assert quarantine.counts() == {"all voxels are zero": 2, "no modality that can be used": 1}
    assert (tmp_path / "report.csv").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_a_visit_moved_to_another_part_changes_the_digest(part: Literal["train", "validation", "test"]) -> None:
    visit = Visit("1", "011", "M000", 1.0, 0.0, 24.0)
    assert VisitTable((replace(visit, split=part),)).digest() != VisitTable((visit,)).digest()


def test_columns_that_nothing_reads_are_named() -> None:
    header = [*required_columns(ADNI_MODALITIES, need_target=True), "phase", "amyloyd", ""]
    assert unread_columns(header, ADNI_MODALITIES) == ("amyloyd",)


def test_minus_one_and_minus_four_are_numbers_unless_the_modality_calls_them_codes(tmp_path: Path) -> None:
    path = manifest(tmp_path, "a,s,M000,1.5,-1,24,a.nii.gz,-1,-4", "b,s,M000,5,-4,24,a.nii.gz,-4,-4")
    plain = read_manifest(path, T1_AND_FLUID)[0]
    assert [visit.tables["fluid"] for visit in plain] == [(-1.0, -4.0), (-4.0, -4.0)]
    coded = (T1_AND_FLUID[0], T1_AND_FLUID[1].model_copy(update={"missing_codes": (-4.0,)}))
    table, quarantine = read_manifest(path, coded)
    assert [dict(visit.tables) for visit in table] == [{}, {}]
    assert reasons(quarantine) == [("a", "fluid", Reason.INCOMPLETE_NUMBERS)]
    assert [visit.delta_cdrsb for visit in table] == [-1.0, -4.0]


def test_missing_codes_are_those_of_columns_and_leave_digests_alone_until_there_are_some() -> None:
    assert "missing_codes" not in T1_AND_FLUID[1].model_dump()
    with pytest.raises(ValueError, match="has missing_codes and no columns"):
        Modality(name="t1", missing_codes=(-4.0,))
