"""A manifest of prepared images: each visit has the images of its time, and the scores of the site's own table."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from permmoe.data.manifest import read_manifest
from permmoe.data.reasons import Reason
from permmoe.errors import DataError
from permmoe.modality import ADNI_MODALITIES
from permmoe.preparation.derivatives import Derivative, image_path
from permmoe.preparation.images.prepare import Measured
from permmoe.preparation.quality.metrics import ImageMetrics
from permmoe.preparation.scan import Scan
from permmoe.preparation.settings import PreparationSettings
from permmoe.preparation.visit_table import read_scores, write_visit_table


def derivative(out: Path, subject: str, session: str, modality: str, taken: date | None) -> Derivative:
    scan = Scan(subject, session, modality, (), taken, "AV45" if modality == "amyloid" else "")
    image = image_path(out, scan)
    image.parent.mkdir(parents=True, exist_ok=True)
    image.write_bytes(b"")
    metrics = ImageMetrics.__new__(ImageMetrics)
    return Derivative(
        scan, image, PreparationSettings().prepared_as(modality, scan.tracer), True, Measured(1.0, 1.0), metrics, ""
    )


@pytest.fixture
def images(tmp_path: Path) -> list[Derivative]:
    return [
        derivative(tmp_path, "011_S_0002", "20190301", "t1", date(2019, 3, 1)),
        derivative(tmp_path, "011_S_0002", "20190320", "amyloid", date(2019, 3, 20)),
        derivative(tmp_path, "011_S_0002", "20210301", "t1", date(2021, 3, 1)),
        derivative(tmp_path, "pat7", "1", "t1", None),
        derivative(tmp_path, "pat7", "1", "flair", None),
    ]


def scores(folder: Path, text: str) -> Path:
    file = folder / "scores.csv"
    file.write_text(text)
    return file


def test_images_of_one_time_make_one_visit_though_taken_on_two_days(tmp_path: Path, images: list[Derivative]) -> None:
    write_visit_table(tmp_path / "manifest.csv", images, None, "north")
    text = (tmp_path / "manifest.csv").read_text()
    first, second = text.splitlines()[1:]
    assert first.startswith("011_S_0002,011,20190301,,,,sub-ADNI011S0002/ses-20190301/anat/") and "AV45" in first
    assert second.startswith("pat7,north,1,,,,sub-pat7/ses-1/anat/") and "FLAIR" in second


def test_the_table_of_scores_decides_which_day_is_the_visit(tmp_path: Path, images: list[Derivative]) -> None:
    own = scores(
        tmp_path,
        "subject_id,visit_date,baseline_cdrsb,delta_cdrsb,horizon_months,mmse\n011_S_0002,2021-02-20,1.5,0.5,24,27\n",
    )
    lost = write_visit_table(tmp_path / "manifest.csv", images, read_scores(own), "north")
    table, left_out = read_manifest(tmp_path / "manifest.csv", ADNI_MODALITIES)
    [visit] = table
    assert "20210301" in str(visit.volumes["t1"]) and set(visit.volumes) == {"t1"} and not len(left_out)
    assert (tmp_path / "manifest.csv").read_text().splitlines()[0].endswith(",mmse")
    assert [(item.subject_id, item.reason) for item in lost] == [("pat7", Reason.NO_CLINICAL_VISIT)]


def test_a_subject_with_scores_and_no_image_is_itemised(tmp_path: Path, images: list[Derivative]) -> None:
    own = scores(tmp_path, "Subject_ID,baseline_cdrsb\n011_S_0002,1\npat7,2\npat8,3\n")
    lost = write_visit_table(tmp_path / "manifest.csv", images, read_scores(own), "north")
    assert [(item.subject_id, item.reason) for item in lost] == [("pat8", Reason.NO_MODALITY)]


def test_an_image_of_another_session_whose_day_is_unknown_belongs_to_no_visit(tmp_path: Path) -> None:
    images = [derivative(tmp_path, "a", "1", "t1", None), derivative(tmp_path, "a", "2", "flair", None)]
    write_visit_table(tmp_path / "manifest.csv", images, None, "north")
    assert "FLAIR" not in (tmp_path / "manifest.csv").read_text()


@pytest.fixture
def sessions(tmp_path: Path) -> list[Derivative]:
    """Two sessions that nothing dates, and one that has a day."""
    undated = [derivative(tmp_path, "a", session, "t1", None) for session in ("2", "1")]
    return [*undated, derivative(tmp_path, "a", "3", "t1", date(2021, 3, 1))]


def visited(folder: Path, images: list[Derivative], row: str = "") -> tuple[list[str], list[Reason]]:
    """The sessions of the manifest, and why subjects are left out; `row` has scores' session and day."""
    own = read_scores(scores(folder, f"subject_id,session,visit_date\na,{row}\n")) if row else None
    lost = write_visit_table(folder / "manifest.csv", images, own, "north")
    lines = (folder / "manifest.csv").read_text().splitlines()[1:]
    return [line.split(",")[2] for line in lines], [item.reason for item in lost]


def test_a_visit_of_a_day_is_the_dated_session_and_no_undated_one(tmp_path: Path, sessions: list[Derivative]) -> None:
    assert visited(tmp_path, sessions, ",2021-02-20") == (["3"], [])


def test_a_session_that_the_scores_name_is_the_visit_whether_it_has_a_day_or_not(
    tmp_path: Path, sessions: list[Derivative]
) -> None:
    assert visited(tmp_path, sessions, "ses-2,") == (["2"], [])
    assert visited(tmp_path, sessions, "2,2021-02-20") == (["2"], [])


def test_scores_of_a_day_and_several_undated_sessions_are_itemised(tmp_path: Path, sessions: list[Derivative]) -> None:
    assert visited(tmp_path, sessions[:2], ",2021-02-20") == ([], [Reason.UNDATED_SESSIONS])
    assert visited(tmp_path, sessions[:1], ",2021-02-20") == (["2"], []), "one session alone is the visit's"


def test_without_scores_the_first_dated_session_is_the_visit_and_of_undated_ones_the_first_by_name(
    tmp_path: Path, sessions: list[Derivative]
) -> None:
    assert visited(tmp_path, sessions) == (["3"], [])
    assert visited(tmp_path, sessions[:2]) == (["1"], [])


def test_scores_without_subjects_or_with_one_twice_are_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="subject_id"):
        read_scores(scores(tmp_path, "patient,baseline_cdrsb\na,1\n"))
    with pytest.raises(DataError, match="line 3"):
        read_scores(scores(tmp_path, "subject_id,baseline_cdrsb\na,1\na,2\n"))
