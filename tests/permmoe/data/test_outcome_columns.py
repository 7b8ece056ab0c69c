"""Outcomes of other names, units and columns: mapped, or refused in a sentence."""

from pathlib import Path

import pytest

from permmoe.config import CDR_SB, ModelConfig, RunConfig, Score
from permmoe.data.manifest import read_manifest, required_columns, unread_columns, write_manifest
from permmoe.data.outcome_columns import USUAL_COLUMNS, OutcomeColumns, read_outcome
from permmoe.data.reasons import Reason
from permmoe.errors import ConfigurationError, DataError
from permmoe.modality import Modality

FLUID = Modality(name="fluid", kind="tabular", columns=("ptau",))
MMSE = Score(name="MMSE", unit="points", lowest=0, highest=30)
OWN = OutcomeColumns(name="MMSE", unit="points", baseline="mmse_0", follow_up="mmse_24")


def table(folder: Path, header: str, *rows: str) -> Path:
    path = folder / "manifest.csv"
    path.write_text("\n".join((f"subject_id,site,session,horizon_months,ptau,{header}", *rows)) + "\n")
    return path


def test_a_score_at_the_horizon_becomes_a_change(tmp_path: Path) -> None:
    path = table(tmp_path, "mmse_0,mmse_24", "a,x,s,24,1,28,25.5", "b,x,s,24,1,30,", "c,x,s,24,1,25,31")
    visits, left_out = read_manifest(path, [FLUID], score=MMSE, columns=OWN)
    assert [(v.subject_id, v.baseline_cdrsb, v.delta_cdrsb) for v in visits] == [("a", 28.0, -2.5)]
    assert [(i.subject_id, i.reason) for i in left_out] == [("b", Reason.NO_CHANGE), ("c", Reason.IMPOSSIBLE_OUTCOME)]


def test_a_change_in_another_unit_is_multiplied(tmp_path: Path) -> None:
    tenths = OutcomeColumns(unit="tenths of points", baseline="sb", change="sb_later", times=0.1)
    visits, _ = read_manifest(table(tmp_path, "sb,sb_later", "a,x,s,24,1,15,-5"), [FLUID], columns=tenths)
    assert [(v.baseline_cdrsb, v.delta_cdrsb) for v in visits] == [(pytest.approx(1.5), pytest.approx(-0.5))]


@pytest.mark.parametrize(
    ("columns", "score", "sentence"),
    [
        (USUAL_COLUMNS, MMSE, "the table holds CDR-SB, and the model predicts the change in MMSE"),
        (OWN, CDR_SB, "the table holds MMSE, and the model predicts the change in CDR-SB"),
        (
            OutcomeColumns(unit="percent"),
            CDR_SB,
            "the table holds CDR-SB in percent, and the model predicts it in",
        ),
        (OutcomeColumns(times=2.0), CDR_SB, "'outcome.times' is set, but table and model both"),
    ],
)
def test_another_score_or_unit_is_refused_before_a_row_is_read(
    tmp_path: Path, columns: OutcomeColumns, score: Score, sentence: str
) -> None:
    path = table(tmp_path, "baseline_cdrsb,delta_cdrsb,mmse_0,mmse_24", "a,x,s,24,1,1,1,28,27")
    with pytest.raises(DataError, match=sentence) as caught:
        read_manifest(path, [FLUID], score=score, columns=columns)
    assert caught.value.for_log == str(caught.value)


def test_names_and_units_are_compared_without_regard_to_case() -> None:
    assert OutcomeColumns(name="cdr-sb", unit="Points").mismatch(CDR_SB) == ""


def test_columns_of_another_score_are_required_and_nothing_else_is(tmp_path: Path) -> None:
    assert required_columns([FLUID], need_target=True, columns=OWN)[3:6] == ("mmse_0", "mmse_24", "horizon_months")
    assert required_columns([FLUID], need_target=False, columns=OWN)[3:5] == ("mmse_0", "horizon_months")
    header = ["mmse_0", "mmse_24", "delta_cdrsb"]
    assert unread_columns(header, [FLUID], OWN) == ("delta_cdrsb",)
    assert unread_columns(header, [FLUID], OWN, covariates=("delta_cdrsb",)) == ()
    with pytest.raises(DataError, match="'mmse_24': did you mean 'mmse_36'"):
        read_manifest(table(tmp_path, "mmse_0,mmse_36", "a,x,s,24,1,28,27"), [FLUID], score=MMSE, columns=OWN)


def test_visits_that_were_written_under_other_names_are_read_back(tmp_path: Path) -> None:
    path = table(tmp_path, "mmse_0,mmse_24", "a,x,s,24,1,28,25.5")
    visits, _ = read_manifest(path, [FLUID], score=MMSE, columns=OWN)
    changes = OutcomeColumns(name="MMSE", baseline="mmse", change="mmse_change")
    write_manifest(visits, tmp_path / "again.csv", [FLUID], changes)
    back, _ = read_manifest(tmp_path / "again.csv", [FLUID], score=MMSE, columns=changes)
    assert back == visits


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("baseline: sb", "give 'change', the column of the change, or 'follow_up'"),
        ("{baseline: a, change: b, follow_up: c}", "either 'change' or 'follow_up'"),
        ("times: 0", "greater than 0"),
    ],
)
def test_a_mapping_that_leaves_open_what_it_means_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "outcome.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=sentence):
        read_outcome(tmp_path / "outcome.yaml")


def test_a_model_of_another_score_says_what_its_changes_can_be() -> None:
    with pytest.raises(ValueError, match="give that of a change in MMSE, or null"):
        ModelConfig(score=MMSE)
    assert ModelConfig(score=MMSE, outcome_range=(-30, 30)).score.bounds == (0, 30)


def test_the_usual_score_is_in_no_digest() -> None:
    assert "score" not in RunConfig().model_dump()["model"]
    assert ModelConfig(score=Score()).digest() == ModelConfig().digest()
    assert ModelConfig(score=MMSE, outcome_range=None).digest() != ModelConfig(outcome_range=None).digest()
