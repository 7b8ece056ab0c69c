"""The page of a prediction: whole by itself, honest about what is not known, and closed to what others wrote."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from permmoe.calibration.calibration import Calibration
from permmoe.calibration.intervals import BY_COMBINATION, ELSEWHERE, POOLED, RANGES_UNTOLD, PredictionInterval
from permmoe.calibration.next_scan import NextScan
from permmoe.config import EncoderConfig, Score
from permmoe.data.quarantine import Quarantined
from permmoe.data.reasons import Reason
from permmoe.explanation.page.contents import Subject
from permmoe.preparation.quality.rules import Finding, Judgement, Verdict
from tests.support.explained_visits import MODALITIES, a_visit, explained, page_of, small_model
from tests.support.report_page import Page

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
CALIBRATION = Calibration(unit_points=1.0, scores={}, visits=(212,), sites={})
INTERVALS = (
    PredictionInterval(0.8, -0.4, 1.5, 212, 6, BY_COMBINATION),
    PredictionInterval(0.95, -1.2, 3.1, 640, 1, POOLED),
)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder = tmp_path_factory.mktemp("visit")
    return explained(small_model(), a_visit(folder, "t1", "tau", "clinical"), folder)


def number(text: str) -> float:
    return float(text.strip().replace("−", "-"))


def inputs_of(page: Page) -> dict[str, list[str]]:
    """State and notes of every modality, by its name."""
    table = next(table for table in page.tables if table[0][0] == "T1")
    return {row[0]: row[1:] for row in table}


def test_the_page_asks_nobody_for_anything_and_runs_nothing(subject: Subject) -> None:
    html = page_of(subject)
    page = Page(html)
    assert not {"script", "iframe", "link", "img", "object", "form", "a", "base"} & {tag for tag, _ in page.elements}
    addresses = [v for _, own in page.elements for k, v in own.items() if k in ("href", "src", "action", "xlink:href")]
    assert len(addresses) == 3 and all(str(address).startswith("data:image/png;base64,") for address in addresses)
    assert "://" not in html and "@import" not in html and "url(" not in html
    policy = next(own["content"] for tag, own in page.elements if own.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none'") and "script" not in str(policy)
    assert not any(name.startswith("on") for _, own in page.elements for name in own)


def test_no_path_of_the_patients_files_is_told(subject: Subject) -> None:
    html = page_of(subject)
    for path in subject.visit.volumes.values():
        assert path.name not in html and str(path.parent) not in html


def test_texts_of_others_are_shown_and_not_obeyed(subject: Subject, tmp_path: Path) -> None:
    score = Score(name=HOSTILE[:60], unit="points")
    model = small_model(score=score, outcome_range=None)
    visit = replace(subject.visit, subject_id=HOSTILE, session=HOSTILE)
    card = {**subject.card, "versions": {"permmoe": HOSTILE}, "tensors_sha256": HOSTILE, "data_digest": HOSTILE}
    card |= {"horizon_months": [HOSTILE], "plan": {}, "round": HOSTILE}
    hostile = explained(
        model, visit, tmp_path, card=card, outcomes=None,
        judgements={"t1": Judgement((Finding(Verdict.LOOK, "filled", HOSTILE, None),))},
    )  # fmt: skip
    hostile = replace(hostile, prediction=replace(hostile.prediction, outside_calibration=(HOSTILE,)))
    page = Page(page_of(hostile))
    assert not {"script", "img"} & {tag for tag, _ in page.elements}
    assert page.text.count(HOSTILE) >= 5


@pytest.mark.parametrize("names", [("t1",), ("t1", "tau"), ("t1", "tau", "clinical"), ("clinical",)])
def test_shown_values_add_up_to_the_shown_prediction(names: tuple[str, ...], tmp_path: Path) -> None:
    subject = explained(small_model(), a_visit(tmp_path, *names), tmp_path)
    page = Page(page_of(subject))
    sums = next(table for table in page.tables if table[0][0] == "the mean change of the model's training patients")
    values = [number(row[2]) for row in sums]
    assert sum(values[:-1]) == pytest.approx(values[-1], abs=0.005 * len(values))
    assert values[-1] == pytest.approx(subject.prediction.delta_cdrsb, abs=0.0051)
    places = [table for table in page.tables if table[0][0] == "region"]
    assert len(places) == ("t1" in names)
    for table in places:
        for column in zip(*(map(number, row[1:]) for row in table[1:]), strict=True):
            assert sum(column[:-1]) == pytest.approx(column[-1], abs=0.005 * len(column))
    assert subject.reasons is not None and subject.reasons.places is not None
    whole = subject.reasons.places.average + sum(map(subject.reasons.places.of, subject.reasons.places.parts))
    assert whole == pytest.approx(subject.prediction.delta_cdrsb, abs=1e-4)


def test_a_scan_that_is_not_there_adds_nothing_and_is_said_to_be_missing(tmp_path: Path) -> None:
    page = Page(page_of(explained(small_model(), a_visit(tmp_path, "t1"), tmp_path)))
    assert [state for state, _ in inputs_of(page).values()] == ["used", "not there", "not there"]
    sums = next(table for table in page.tables if table[-1][0] == "this prediction")
    assert [row[0] for row in sums][2:-1] == ["T1"]


def test_a_model_without_calibration_says_that_nobody_can_say_how_sure_it_is(subject: Subject) -> None:
    page = Page(page_of(subject))
    assert "Nobody can say how sure this is" in page.text and "of 100 such patients" not in page.text


def test_intervals_stand_with_whom_they_are_from(subject: Subject) -> None:
    ranged = CALIBRATION.model_copy(update={"baseline_range": (0.0, 4.0), "prediction_range": (-1.0, 3.0)})
    told = replace(subject, prediction=replace(subject.prediction, intervals=INTERVALS))
    page = Page(page_of(replace(told, model=replace(subject.model, calibration=ranged))))
    assert "Nobody can say" not in page.text and ELSEWHERE in page.text and RANGES_UNTOLD not in page.text
    federated = Page(page_of(replace(told, model=replace(subject.model, calibration=CALIBRATION))))
    assert ELSEWHERE in federated.text and RANGES_UNTOLD in federated.text
    [table] = [table for table in page.tables if "from the errors of" in table[0]]
    assert table[1] == [
        "80 of 100 such patients", "−0.4 to +1.5", "2.1 to 4.0",
        "212 patients at 6 hospitals, predicted from just T1, Tau PET and clinical",
    ]  # fmt: skip
    assert table[2][3] == (
        "640 patients at 1 hospital, predicted from any scans: too few had just T1, Tau PET and clinical"
    )


def test_doubts_about_an_image_stand_beside_it(subject: Subject) -> None:
    blurred = Finding(Verdict.LOOK, "noise", "Noise in white matter: 0.2, at most 0.12 expected; grainy", None)
    prediction = replace(subject.prediction, unlike_training=("tau",), outside_calibration=("a score of 17",))
    judgements = {"t1": Judgement((blurred,)), "tau": Judgement()}
    page = Page(page_of(replace(subject, prediction=prediction, judgements=judgements)))
    inputs = inputs_of(page)
    assert inputs["T1"][0] == "used; look at it" and "grainy" in inputs["T1"][1]
    assert inputs["Tau PET"][0] == "used; look at it" and "unlike the model's training images" in inputs["Tau PET"][1]
    assert "Beyond the patients that the intervals are from: a score of 17" in page.text


def test_an_image_that_was_refused_stands_with_its_reason_and_what_to_do(tmp_path: Path) -> None:
    item = Quarantined("ada", "tau", "/secret/tau.nii.gz", Reason.NOT_SUVR)
    html = page_of(explained(small_model(), a_visit(tmp_path, "t1"), tmp_path, left_out=(item,)))
    inputs = inputs_of(Page(html))
    assert inputs["Tau PET"][0] == "given, not used" and Reason.NOT_SUVR.remedy in inputs["Tau PET"][1]
    assert "secret" not in html


def test_a_model_without_ridge_and_outcomes_is_held_against_no_change(tmp_path: Path) -> None:
    model = small_model(has_ridge=False)
    page = Page(page_of(explained(model, a_visit(tmp_path, "t1", "clinical"), tmp_path, outcomes=None, card={})))
    [sums] = [table for table in page.tables if table[0][0] == "no change"]
    assert number(sums[0][2]) == 0 and [row[0] for row in sums[1:]] == ["T1", "clinical", "this prediction"]
    assert "training patients changed" not in page.text


def test_a_model_that_reads_voxels_names_no_region(tmp_path: Path) -> None:
    model = small_model(
        has_ridge=False, modalities=(MODALITIES[0], MODALITIES[2]), encoder=EncoderConfig(kind="sfcn_lite")
    )
    page = Page(page_of(explained(model, a_visit(tmp_path, "t1"), tmp_path)))
    assert "holds no average scan to compare with" in page.text and "What each scan adds" in page.text
    assert not any(tag == "image" for tag, _ in page.elements)


def test_a_page_without_reasons_still_has_the_prediction(subject: Subject) -> None:
    page = Page(page_of(replace(subject, reasons=None)))
    assert "What each scan adds" not in page.text and "points, from 2.5 at the visit" in page.text


def test_synthetic_and_research_notices_stand_above_the_prediction(subject: Subject) -> None:
    text = Page(page_of(subject)).text
    first = text.index("Predicted change in CDR-SB over 24 months", text.index("prediction for one patient"))
    assert text.index("SYNTHETIC") < first and text.index("not a medical device") < first
    real = Page(page_of(replace(subject, model=replace(subject.model, is_synthetic=False)))).text
    assert "SYNTHETIC" not in real and "not a medical device" in real


def test_every_word_of_the_style_is_used(subject: Subject) -> None:
    """A class that the template gives has a rule, so that nothing is shown unstyled by a typing mistake."""
    html = page_of(replace(subject, prediction=replace(subject.prediction, intervals=INTERVALS)))
    style = html[html.index("<style>") : html.index("</style>")]
    given = {name for _, own in Page(html).elements for name in (own.get("class") or "").split()}
    assert {name for name in given if not re.search(rf"\.{name}\b", style)} == set()


def test_a_missing_scan_is_said_to_bring_what_it_brought_to_others(subject: Subject) -> None:
    scans = (NextScan("tau", 0.417, -0.052, 140), NextScan("clinical", -0.31, 0.004, 97))
    told = replace(subject.prediction, used=("t1",), imputed=("tau", "clinical"), next_scans=scans)
    model = replace(subject.model, calibration=CALIBRATION)
    page = Page(page_of(replace(subject, model=model, prediction=told)))
    [table] = [table for table in page.tables if table[0][0] == "with"]
    assert table[0][1] == "80% interval"
    assert [row[1:] for row in table[1:]] == [
        ["0.42 narrower", "0.05 smaller", "140"],
        ["0.31 wider", "no change", "97"],
    ]
    few = Page(page_of(replace(subject, model=model, prediction=replace(told, next_scans=()))))
    assert "nobody can say what one would bring" in few.text


def test_nothing_is_said_of_further_scans_where_none_is_missing_or_nothing_is_known(subject: Subject) -> None:
    whole = replace(subject, model=replace(subject.model, calibration=CALIBRATION))
    assert not whole.prediction.imputed and "Which scan next" not in Page(page_of(whole)).text
    lacking = replace(subject.prediction, used=("t1",), imputed=("tau", "clinical"))
    assert "Which scan next" not in Page(page_of(replace(subject, prediction=lacking))).text
