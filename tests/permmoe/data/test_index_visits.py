"""From subjects of any registry to index visits."""

from datetime import date, timedelta
from pathlib import Path

from permmoe.data.images import FoundImage
from permmoe.data.index_visits import Subject, select_index_visits
from permmoe.data.reasons import Reason
from permmoe.data.target_rule import Assessment, TargetRule
from permmoe.modality import Modality

START = date(2010, 1, 1)
T1 = Modality(name="t1")
AMYLOID = Modality(name="centiloid", kind="tabular", columns=("CL",))


def visit(day: int, cdrsb: float | None = 1.0, diagnosis: str = "MCI", **values: float) -> Assessment:
    return Assessment(START + timedelta(days=day), cdrsb, diagnosis, f"d{day:04d}", values=values)


def image(day: int) -> FoundImage:
    return FoundImage("a", f"d{day:04d}", "t1", Path(f"{day}.nii"), False, START + timedelta(days=day))


def test_a_subject_with_images_starts_at_them_and_one_without_at_its_numbers() -> None:
    visits = (visit(0, CL=20.0), visit(400, CL=30.0), visit(730, 3.0))
    subjects = [Subject("a", "x", visits, (image(410),)), Subject("b", "x", visits)]
    found = select_index_visits(subjects, TargetRule(), (T1, AMYLOID), without_site=Reason.NO_IDENTITY)
    assert [(v.subject_id, v.session, v.observed(("t1", "centiloid"))) for v in found.visits] == [
        ("a", "d0410", ("t1", "centiloid")),
        ("b", "d0000", ("centiloid",)),
    ]
    assert [v.delta_cdrsb for v in found.visits] == [None, 2.0]


def test_numbers_count_at_the_first_visit_that_has_all_of_them() -> None:
    subject = Subject("a", "x", (visit(0), visit(365, CL=20.0)))
    found = select_index_visits([subject], TargetRule(), (AMYLOID,), without_site=Reason.NO_IDENTITY)
    assert [v.session for v in found.visits] == ["d0365"]


def test_every_subject_is_counted_once_as_kept_or_at_the_step_that_lost_it() -> None:
    subjects = [
        Subject("kept", "x", (visit(0, CL=1.0),)),
        Subject("images alone", "x", (), (image(0),)),
        Subject("healthy", "x", (visit(0, diagnosis="CN", CL=1.0),)),
        Subject("no score", "x", (visit(0, None, CL=1.0),)),
        Subject("no numbers", "x", (visit(0),)),
        Subject("no site", "", (visit(0, CL=1.0),)),
    ]
    found = select_index_visits(subjects, TargetRule(), (AMYLOID,), without_site=Reason.NO_IDENTITY)
    assert found.steps == {
        "in tables or images": 6,
        f"lost: {Reason.NO_CLINICAL_VISIT}": 1,
        "lost: no accepted diagnosis at any visit": 1,
        f"lost: {Reason.NO_DIAGNOSIS_IN_TIME}": 1,
        f"lost: {Reason.NO_MODALITY_IN_TIME}": 1,
        f"lost: {Reason.NO_IDENTITY}": 1,
    }
    # Those outside of the study are counted, not itemised.
    assert [item.subject_id for item in found.quarantine] == ["images alone", "no score", "no numbers", "no site"]
