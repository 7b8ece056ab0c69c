"""Tables and trees of images as people have them give the plain ones' visits, or an error that says what to mend."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pytest

from permmoe.config import VolumeGrid
from permmoe.data.adni import select_visits
from permmoe.data.cohort import CohortConfig, write_cohort
from permmoe.data.selection import Selection
from permmoe.data.target_rule import TargetRule
from permmoe.data.visits import Visit
from permmoe.errors import DataError
from permmoe.modality import ADNI_MODALITIES

BOXES = ["CDMEMORY", "CDORIENT", "CDJUDGE", "CDCOMMUN", "CDHOME", "CDCARE"]
Rewrite = Callable[[Path], object]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    grid = VolumeGrid(shape=(12, 14, 12), spacing_mm=16.0)
    write_cohort(folder, CohortConfig(subjects=40, sites=3, grid=grid, seed=5), workers=1)
    return folder


@pytest.fixture
def copied(cohort: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(cohort, tmp_path / "cohort"))


def select(folder: Path, **rule: object) -> Selection:
    return select_visits(folder / "clinical", folder, TargetRule.model_validate(rule), ADNI_MODALITIES)


def told(selection: Selection) -> list[tuple[object, ...]]:
    """What a manifest says of the visits, but for the names of files, and for ages, which ADNIMERGE alone has."""

    def of(v: Visit) -> tuple[object, ...]:
        return (v.subject_id, v.site, v.baseline_cdrsb, v.delta_cdrsb, sorted(v.volumes))

    return [of(visit) for visit in selection.visits]


def table(folder: Path, name: str, change: Callable[[pd.DataFrame], pd.DataFrame], **options: object) -> None:
    """Rewrite a clinical table; all cells are text."""
    path = folder / "clinical" / f"{name}.csv"
    found = pd.read_csv(path, dtype=str, keep_default_na=False)
    change(found).to_csv(path, index=False, **options)  # type: ignore[call-overload]


def both(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame], **options: object) -> None:
    for name in ("ADNIMERGE", "CDR"):
        table(folder, name, change, **options)


def dates(write: Callable[[date], str]) -> Rewrite:
    """Every column of dates in another form."""

    def change(found: pd.DataFrame) -> pd.DataFrame:
        for column in found.columns.intersection(["EXAMDATE", "EXAMDATE_bl", "VISDATE"]):
            found[column] = [write(date.fromisoformat(cell)) if cell else "" for cell in found[column]]
        return found

    def rewrite(folder: Path) -> None:
        both(folder, change)
        for file in folder.rglob("*_sessions.tsv"):
            sessions = pd.read_csv(file, sep="\t", dtype=str, keep_default_na=False)
            sessions["examination_date"] = [write(date.fromisoformat(d)) for d in sessions["examination_date"]]
            sessions.to_csv(file, sep="\t", index=False)

    return rewrite


def columns(name: str, **new: Callable[[pd.DataFrame], object]) -> Rewrite:
    return lambda folder: table(folder, name, lambda found: found.assign(**{c: f(found) for c, f in new.items()}))


def without_merge(folder: Path) -> None:
    """CDR and DXSUM alone, as for newer phases, with a table of diagnoses made from ADNIMERGE's."""
    merge = pd.read_csv(folder / "clinical" / "ADNIMERGE.csv", dtype=str, keep_default_na=False)
    codes = merge["DX"].map({"CN": "1", "MCI": "2", "Dementia": "3"}).fillna("-4")
    summary = merge[["RID", "PTID", "VISCODE", "EXAMDATE"]].assign(VISCODE2=merge["VISCODE"], DIAGNOSIS=codes)
    summary.to_csv(folder / "clinical" / "DXSUM.csv", index=False)
    (folder / "clinical" / "ADNIMERGE.csv").unlink()


def summary(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Rewrite:
    def rewrite(folder: Path) -> None:
        without_merge(folder)
        table(folder, "DXSUM", change)

    return rewrite


def renamed(name: str, new: str) -> Rewrite:
    def rewrite(folder: Path) -> None:
        target = folder / "clinical" / new
        target.parent.mkdir(exist_ok=True)
        (folder / "clinical" / f"{name}.csv").rename(target)

    return rewrite


def boxes(found: pd.DataFrame) -> pd.DataFrame:
    """The six scores in place of their sum."""
    for box in BOXES[1:]:
        found[box] = "0"
    return found.assign(CDMEMORY=found["CDRSB"], CDRSB="")


def in_lower_case(found: pd.DataFrame) -> pd.DataFrame:
    """Of `Month` and `M` and the like, whose names then collide, the first."""
    lower = found.rename(columns=str.lower)
    return lower.loc[:, ~lower.columns.duplicated()]


def in_text(change: Callable[[str], bytes]) -> Rewrite:
    def rewrite(folder: Path) -> None:
        for file in (folder / "clinical").glob("*.csv"):
            file.write_bytes(change(file.read_text()))

    return rewrite


def files_renamed(pattern: str, new: str, within: str = "*.nii.gz") -> Rewrite:
    def rewrite(folder: Path) -> None:
        for file in sorted(folder.rglob(within)):
            file.rename(file.with_name(re.sub(pattern, new, file.name)))

    return rewrite


def _adnis_names(folder: Path) -> None:
    for file in sorted(folder.rglob("sub-*")):
        if file.is_file():
            file.rename(file.with_name(re.sub(r"sub-ADNI(\d{3})S(\d{4,5})", r"\1_S_\2", file.name)))
    for subject in sorted(folder.glob("sub-*")):
        subject.rename(subject.with_name(re.sub(r"sub-ADNI(\d{3})S(\d{4,5})", r"\1_S_\2", subject.name)))


SAME: dict[str, Rewrite] = {
    "dates day/month/year": dates(lambda d: d.strftime("%d/%m/%Y")),
    "dates month/day/year": dates(lambda d: d.strftime("%m/%d/%Y")),
    "dates 1 Mar 2019": dates(lambda d: d.strftime("%-d %b %Y")),
    "dates 01.03.2019": dates(lambda d: d.strftime("%d.%m.%Y")),
    "dates 20190301": dates(lambda d: d.strftime("%Y%m%d")),
    "dates 2019/03/01": dates(lambda d: d.strftime("%Y/%m/%d")),
    "dates of a spreadsheet": dates(lambda d: str((d - date(1899, 12, 30)).days)),
    "dates with years of two digits": dates(lambda d: d.strftime("%m/%d/%y")),
    "decimal comma": lambda folder: both(
        folder, lambda t: t.assign(CDRSB=t["CDRSB"].str.replace(".", ",")), sep=";"
    ),
    "box scores in place of CDR-SB": lambda folder: both(folder, boxes),
    "box scores without the column CDRSB": lambda folder: both(folder, lambda t: boxes(t).drop(columns="CDRSB")),
    "VISDATE blank, ADNIMERGE's there": columns("CDR", VISDATE=lambda t: ""),
    "VISDATE blank, USERDATE there": lambda folder: (
        without_merge(folder), table(folder, "CDR", lambda t: t.assign(USERDATE=t["VISDATE"], VISDATE=""))
    ),
    "diagnoses of CDR and DXSUM": without_merge,
    "DXSUM with DXCHANGE": summary(lambda t: t.rename(columns={"DIAGNOSIS": "DXCHANGE"})),
    "DXSUM with DXCURREN": summary(lambda t: t.rename(columns={"DIAGNOSIS": "DXCURREN"})),
    "diagnoses under unscheduled codes": summary(lambda t: t.assign(VISCODE="uns1", VISCODE2="uns1")),
    "CDR with PTID and no RID": lambda folder: (
        without_merge(folder), table(folder, "CDR", lambda t: t.drop(columns="RID"))
    ),
    "tracer under acq-": files_renamed(r"_trc-", "_acq-"),
    "semicolons": in_text(lambda text: text.replace(",", ";").encode()),
    "tabs": in_text(lambda text: text.replace(",", "\t").encode()),
    "UTF-16": in_text(lambda text: text.encode("utf-16")),
    "UTF-16 without a mark": in_text(lambda text: text.encode("utf-16-le")),
    "UTF-8 with a mark and Windows' line ends": in_text(lambda text: text.replace("\n", "\r\n").encode("utf-8-sig")),
    "header in lower case": lambda folder: both(folder, in_lower_case),
    "header with spaces": lambda folder: both(folder, lambda t: t.rename(columns=lambda c: f" {c} ")),
    "empty rows at the end": in_text(lambda text: (text + ",,,,,\n" + "\n" * 7).encode()),
    "dated CDR": renamed("CDR", "CDR_2026-03-05.csv"),
    "all subjects' CDR": renamed("CDR", "All_Subjects_CDR_05Mar2026.csv"),
    "a browser's duplicate": renamed("ADNIMERGE", "ADNIMERGE (1).csv"),
    "tables in a subfolder": renamed("ADNIMERGE", "Study_Info/ADNIMERGE.csv"),
    "subjects by ADNI's names": _adnis_names,
}  # fmt: skip


@pytest.mark.parametrize("case", SAME)
def test_the_same_visits_are_found(case: str, cohort: Path, copied: Path) -> None:
    plain = told(select(cohort))
    assert len(plain) > 30
    SAME[case](copied)
    assert told(select(copied)) == plain


@pytest.mark.parametrize(
    ("tracer", "modality"),
    [
        ("18FFMM", "amyloid"), ("18FNAV4694", "amyloid"), ("florbetapir", "amyloid"), ("flutemetamol", "amyloid"),
        ("18FMK6240", "tau"), ("18FPI2620", "tau"), ("18FFTP", "tau"), ("flortaucipir", "tau"),
    ],
)  # fmt: skip
def test_a_tracer_is_known_by_any_of_its_names(tracer: str, modality: str, cohort: Path, copied: Path) -> None:
    old = {"amyloid": r"_trc-(?:18FAV45|18FFBB|11CPIB)_", "tau": r"_trc-18FAV1451_"}[modality]
    files_renamed(old, f"_trc-{tracer}_")(copied)
    assert told(select(copied)) == told(select(cohort))


def test_pet_of_other_tracers_is_counted_by_tracer(copied: Path) -> None:
    files_renamed(r"_trc-18FAV1451_", "_trc-18FFDG_")(copied)
    n = len(list(copied.rglob("*18FFDG*.nii.gz")))
    selection = select(copied)
    assert f"PET images of other tracers, left aside: 18FFDG {n}" in selection.notes
    assert not any("tau" in visit.volumes for visit in selection.visits)


@pytest.mark.parametrize("diagnosis", ["MCI", "mci", "LMCI", "EMCI"])
def test_a_diagnosis_may_be_given_in_any_of_adnis_words(diagnosis: str, cohort: Path) -> None:
    assert told(select(cohort, diagnoses=[diagnosis])) == told(select(cohort))


def test_diagnoses_at_the_first_visit_stand_in_for_a_column_without_any(cohort: Path, copied: Path) -> None:
    columns("ADNIMERGE", DX=lambda t: "")(copied)
    found, plain = select(copied), {line[0] for line in told(select(cohort))}
    assert {visit.subject_id for visit in found.visits} & plain and any("DX_bl" in note for note in found.notes)


def test_a_diagnosis_holds_until_another_is_made_within_the_window(cohort: Path, copied: Path) -> None:
    """Written at transitions alone: a visit whose diagnosis is that of the visit before has none."""

    def at_transitions(found: pd.DataFrame) -> pd.DataFrame:
        by_subject = found.groupby("RID")["DX"]
        return found.assign(DX=found["DX"].where(found["DX"] != by_subject.shift(1), ""))

    table(copied, "ADNIMERGE", at_transitions)
    plain = told(select(cohort))
    assert len(told(select(copied, diagnosis_window_days=0))) < len(plain) + 1
    assert told(select(copied, diagnosis_window_days=20_000)) == plain


def test_a_screening_forty_days_earlier_tells_the_diagnosis(cohort: Path, copied: Path) -> None:
    def earlier(found: pd.DataFrame) -> pd.DataFrame:
        days = [date.fromisoformat(day) - timedelta(days=40) for day in found["EXAMDATE"]]
        return found.assign(EXAMDATE=[day.isoformat() for day in days], VISCODE="f", VISCODE2="f")

    summary(earlier)(copied)
    assert told(select(copied)) == told(select(cohort))
    selection = select(copied, diagnosis_window_days=30)
    assert len(selection.visits) == 0
    with pytest.raises(DataError, match="lost: no accepted diagnosis at any visit"):
        selection.require_visits()


def test_an_images_own_date_decides_and_not_its_sessions(cohort: Path, copied: Path) -> None:
    image = next(i for i in sorted(copied.rglob("*_pet.nii.gz")))
    session = image.parent.parent
    label = f"{session.parent.name}_{session.name}"
    sessions = pd.read_csv(next(session.parent.glob("*_sessions.tsv")), sep="\t", dtype=str)
    day = date.fromisoformat(sessions.set_index("session_id")["examination_date"][session.name])
    (session / f"{label}_scans.tsv").write_text(
        f"filename\tacq_time\npet/{image.name}\t{day + timedelta(days=400)}T10:00:00\n"
    )
    lost = {v.subject_id: set(v.volumes) for v in select(cohort).visits}
    found = {v.subject_id: set(v.volumes) for v in select(copied).visits}
    assert sum(map(len, lost.values())) - sum(map(len, found.values())) == 1
    (session / f"{label}_scans.tsv").write_text(f"filename\tacq_time\npet/{image.name}\t1877-05-01T10:00:00\n")
    assert told(select(copied)) == told(select(cohort)), "a shifted date of anonymised data dates nothing"


def test_of_several_images_of_one_day_the_choice_is_listed(cohort: Path, copied: Path, tmp_path: Path) -> None:
    for image in sorted(copied.rglob("*_T1w.nii.gz"))[:7]:
        shutil.copy(image, image.with_name(image.name.replace("_T1w", "_run-02_T1w")))
    selection = select(copied)
    assert told(selection) == told(select(cohort))
    assert "7 visit(s) have several t1 images of one day: a registered one was taken, then the first by name" in (
        selection.notes
    )
    selection.write_choices(tmp_path / "choices.csv")
    lines = (tmp_path / "choices.csv").read_text().splitlines()
    assert lines[0] == "subject_id,modality,taken,not_taken" and len(lines) == 8


REFUSED: dict[str, tuple[Rewrite, str]] = {
    "a misspelt column of the sessions' table": (
        lambda folder: [
            file.write_text(file.read_text().replace("examination_date", "examination_dat"))
            for file in folder.rglob("*_sessions.tsv")
        ],
        "has a column 'EXAMINATION_DAT'; did you mean 'examination_date'",
    ),
    "the global score alone": (
        lambda folder: both(folder, lambda t: t.assign(CDRSB="", CDGLOBAL="0.5")),
        r"no CDR-SB in ADNIMERGE\.csv and CDR\.csv: .*the global score \(CDGLOBAL\) does not tell it",
    ),
    "a login page": (
        lambda folder: (folder / "clinical" / "CDR.csv").write_text("<!DOCTYPE html>\n<html>Log in</html>"),
        "is a web page, most likely the archive's login page",
    ),
    "a spreadsheet under the table's name": (
        lambda folder: (folder / "clinical" / "CDR.csv").write_bytes(b"PK\x03\x04" + bytes(50)), "is a spreadsheet",
    ),
    "dates that can be read in two ways": (
        dates(lambda d: f"{d.month}/{1 + d.day % 12}/{d.year}"), "month/day/year or as day/month/year",
    ),
    "decimal points and commas": (
        columns("CDR", CDRSB=lambda t: ["1,5", *t["CDRSB"][1:]]), "has decimal points .* and commas",
    ),
    "no column of diagnoses": (
        lambda folder: table(folder, "ADNIMERGE", lambda t: t.drop(columns=["DX", "DX_bl"])), "lacks column.* DX",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_an_error_that_says_what_to_mend(case: str, copied: Path) -> None:
    rewrite, message = REFUSED[case]
    rewrite(copied)
    with pytest.raises(DataError, match=message):
        select(copied)


def test_a_diagnosis_that_no_table_knows_is_refused(cohort: Path) -> None:
    with pytest.raises(DataError, match=r"no visit has the diagnosis 'MIC'; did you mean 'MCI'"):
        select(cohort, diagnoses=["MIC"])


def test_every_subject_is_a_visit_or_counted_where_it_was_lost(copied: Path) -> None:
    def change(found: pd.DataFrame) -> pd.DataFrame:
        rids = list(found["RID"].unique())
        found.loc[found["RID"].isin(rids[:7]), "DX"] = "CN"
        found.loc[found["RID"].isin(rids[7:10]), "CDRSB"] = ""
        return found.loc[~found["RID"].isin(rids[10:15])]

    table(copied, "ADNIMERGE", change)
    (copied / "clinical" / "CDR.csv").unlink()
    selection = select(copied)
    lost = {what: n for what, n in selection.steps.items() if what.startswith("lost")}
    assert selection.steps["in tables or images"] == 40 == len(selection.visits) + sum(lost.values())
    assert lost["lost: images but no clinical visit"] == 5
    assert lost["lost: no accepted diagnosis at any visit"] >= 7
    assert lost["lost: no score at a visit with an accepted diagnosis"] == 3
    assert not any(v.subject_id in str(selection.steps) for v in selection.visits)


def test_the_plain_cohort_loses_nobody_and_leaves_nothing_to_say_but_that_its_tracers_differ(cohort: Path) -> None:
    selection = select(cohort)
    assert selection.steps == {"in tables or images": len(selection.visits)}
    assert len(selection.notes) == 1 and "PET of several tracers" in selection.notes[0]
    assert selection.choices == () and not len(selection.quarantine)


def test_the_embedded_cohorts_visits_are_those_on_which_results_were_published(cohort: Path) -> None:
    """The digest over every value of the visit table, from before tables were read as people have them."""
    digest = "8a2d13d26118122b4810e89678b620b4854c6d3fa910872aa711c56a8241b030"
    assert select(cohort).visits.digest() == digest
