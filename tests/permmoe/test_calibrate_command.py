"""`permmoe train`, `calibrate` and `predict`: whose errors an interval is from is said, and nothing is lost."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml

from permmoe.calibration.calibration import CARD_KEY, EARLIER_KEY
from permmoe.calibration.intervals import AT_HOME, ELSEWHERE, RANGES_UNTOLD
from permmoe.config import HarmonisationConfig
from permmoe.model import PerMMoE
from permmoe.predict import load_model
from permmoe.prediction_output import NO_CALIBRATION
from permmoe.runs import load_visits, trained_config
from permmoe.runtime.checkpoint import load_checkpoint, save_checkpoint
from permmoe.training.site_moments import set_site_moments
from tests.support.command_line import Command, exit_status
from tests.support.tiny_federation import MODEL, write_site

VALUES = [part for i in range(3) for part in ("--value", f"clinical_{i}=0.2")]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a calibration, one of too few visits, and another hospital's patients."""
    folder = tmp_path_factory.mktemp("work")
    write_site(folder, "north", visits=120)
    write_site(folder, "east", visits=60)
    write_site(folder, "mid", visits=8)
    for name, share in (("run", 0.4), ("bare", 0.02)):
        settings = {
            "model": MODEL.model_dump(mode="json"),
            "train": {"epochs": 2, "batch_size": 16, "keep": "last" if name == "run" else "best"},
            "split": {"validation": share, "test": 0.1},
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings))
        arguments = ["train", folder / "north.csv", "--out", folder / name, "--config", folder / f"{name}.yaml"]
        assert not exit_status(*arguments)
    return folder


def test_training_calibrates_on_its_validation_visits_and_says_whether_they_chose_the_weights(work: Path) -> None:
    found = load_model(work / "run" / "model").calibration
    assert found is not None and found.visits[0] == 48 and not found.chose_the_weights
    assert "validation visits" in found.source
    assert load_model(work / "bare" / "model").calibration is None


def test_a_prediction_comes_with_its_intervals_and_whose_errors_they_are_from(work: Path, permmoe: Command) -> None:
    status, shown, _ = permmoe("predict", work / "run" / "model", *VALUES, "--baseline-cdrsb", "1.5")
    assert status == 0 and "(80%), " in shown and "(95%)" in shown
    assert "calibrated on 48 people with clinical" in shown and NO_CALIBRATION not in shown
    assert " ".join(shown.split()).count(ELSEWHERE) == 1
    status, shown, _ = permmoe("predict", work / "run" / "model", *VALUES, "--baseline-cdrsb", "1.5", "--json")
    levels = [i["level"] for i in json.loads(shown)["predictions"][0]["intervals"]]
    assert status == 0 and levels == [0.8, 0.95]


def test_a_model_without_calibration_says_so_once_and_gives_no_interval(work: Path, permmoe: Command) -> None:
    status, shown, _ = permmoe("predict", work / "bare" / "model", "--manifest", work / "east.csv")
    assert status == 0 and shown.count("no intervals") == 1 and "80%" not in shown and "At others" not in shown
    assert shown.count("predicted change") == 60


def test_a_patient_beyond_the_calibration_is_flagged(work: Path, permmoe: Command) -> None:
    _, near, _ = permmoe("predict", work / "run" / "model", *VALUES, "--baseline-cdrsb", "2")
    _, far, _ = permmoe("predict", work / "run" / "model", *VALUES, "--baseline-cdrsb", "17")
    assert "outside" not in near and "outside what the intervals were calibrated on: the score at the visit (17" in far


def test_a_calibration_without_ranges_as_a_federations_says_that_nobody_is_marked_as_beyond_it(
    work: Path, permmoe: Command, tmp_path: Path
) -> None:
    state, card = load_checkpoint(work / "run" / "model")
    untold = dict.fromkeys(("baseline_range", "prediction_range"))
    save_checkpoint(tmp_path / "model", dict(state), {**card, "calibration": card["calibration"] | untold})
    _, shown, _ = permmoe("predict", tmp_path / "model", *VALUES, "--baseline-cdrsb", "17")
    assert "outside what" not in shown and " ".join(shown.split()).count(RANGES_UNTOLD) == 1
    _, shown, _ = permmoe("predict", work / "run" / "model", *VALUES, "--baseline-cdrsb", "17")
    assert RANGES_UNTOLD not in " ".join(shown.split())


def test_a_combination_that_was_never_seen_gets_the_pooled_interval_and_says_so(work: Path, permmoe: Command) -> None:
    fluid = [part for i in range(5) for part in ("--value", f"fluid_{i}=0.2")]
    given = ("--manifest", work / "mid.csv", "--out", work / "few")
    status, _, said = permmoe("calibrate", work / "run" / "model", *given)
    assert status == 2 and "8 visits with an outcome are too few" in said and not (work / "few").exists()
    status, _, said = permmoe("calibrate", work / "run" / "model", *given, "--alone")
    assert status == 2 and "8 visits with an outcome are too few" in said and not (work / "few").exists()
    lone = work / "lone"
    lone.mkdir(exist_ok=True)
    rows = list(csv.reader((work / "north.csv").open()))
    kept = [rows[0], *([*row[:9], *[""] * (len(row) - 9)] for row in rows[1:])]
    csv.writer((lone / "lone.csv").open("w")).writerows(kept)
    status, _, said = permmoe(
        "calibrate", work / "run" / "model", "--manifest", lone / "lone.csv", "--out", lone / "model", "--alone"
    )
    assert status == 0, said
    status, shown, _ = permmoe("predict", lone / "model", *fluid, "--baseline-cdrsb", "1.5")
    assert status == 0 and "calibrated on all 120 people, whatever they have: too few have fluid" in shown
    assert "nobody there has just fluid" in shown


def test_a_hospital_changes_predictions_and_intervals_together_with_the_models_calibration(
    work: Path, permmoe: Command, tmp_path: Path
) -> None:
    old, out = work / "run" / "model", tmp_path / "ours"
    before = (old / "card.json").read_bytes()
    status, shown, _ = permmoe("calibrate", old, "--manifest", work / "east.csv", "--out", out)
    assert status == 0 and "calibrated on 60 people of this hospital" in shown and "times as long" in shown
    assert (old / "card.json").read_bytes() == before
    (state, card), (old_state, old_card) = load_checkpoint(out), load_checkpoint(old)
    assert all(state[name].equal(tensor) for name, tensor in old_state.items())
    assert card[EARLIER_KEY] == [old_card[CARD_KEY]]
    ours, theirs = load_model(out), load_model(old)
    line, own = ours.config.at_hospital, ours.calibration.own_patients  # type: ignore[union-attr]
    assert line is not None and own is not None and own.patients == 60
    assert ours.calibration.visits == theirs.calibration.visits  # type: ignore[union-attr]
    reach, reach_before = (m.score_counts.quantile(("clinical",), 0.8) for m in (ours, theirs))  # type: ignore[union-attr]
    assert own.widening != pytest.approx(1, abs=0.02) and reach / reach_before == pytest.approx(own.widening, rel=0.01)
    given = (*VALUES, "--baseline-cdrsb", "1.5", "--json")
    found, before_it = (json.loads(permmoe("predict", folder, *given)[1])["predictions"][0] for folder in (out, old))
    assert found["delta_cdrsb"] == pytest.approx(line.intercept + line.slope * before_it["delta_cdrsb"], abs=1e-4)
    _, shown, _ = permmoe("predict", out, *given[:-1])
    assert AT_HOME.format(n=60) in " ".join(shown.split()) and ELSEWHERE not in " ".join(shown.split())
    status, _, said = permmoe("calibrate", out, "--manifest", work / "east.csv", "--out", tmp_path / "again")
    assert status == 2 and "was calibrated at a hospital before" in said and not (tmp_path / "again").exists()


def test_outcomes_that_are_all_the_same_calibrate_nothing(work: Path, permmoe: Command, tmp_path: Path) -> None:
    rows = list(csv.reader((work / "east.csv").open()))
    same = [rows[0], *([*row[:4], "0.50", *row[5:]] for row in rows[1:])]
    csv.writer((tmp_path / "same.csv").open("w")).writerows(same)
    given = ("--manifest", tmp_path / "same.csv", "--out", tmp_path / "model")
    status, _, said = permmoe("calibrate", work / "run" / "model", *given)
    assert status == 2 and "all 60 visits have the same outcome, 0.5" in said and not (tmp_path / "model").exists()


def test_a_hospital_calibrates_with_its_own_patients_alone_and_the_old_calibration_stays(
    work: Path, permmoe: Command, tmp_path: Path
) -> None:
    old, out = work / "run" / "model", tmp_path / "ours"
    before = (old / "card.json").read_bytes()
    status, shown, _ = permmoe("calibrate", old, "--manifest", work / "east.csv", "--out", out, "--alone")
    assert status == 0 and "calibrated on 60 people" in shown and "combinations by themselves" in shown
    assert (old / "card.json").read_bytes() == before
    (state, card), (old_state, old_card) = load_checkpoint(out), load_checkpoint(old)
    assert all(state[name].equal(tensor) for name, tensor in old_state.items())
    assert card[EARLIER_KEY] == [old_card[CARD_KEY]] and load_model(out).calibration.visits[0] == 60  # type: ignore[union-attr]
    status, _, said = permmoe("calibrate", old, "--manifest", work / "east.csv", "--out", out)
    assert status == 2 and "no calibration is lost" in said


def test_visits_that_trained_the_model_do_not_calibrate_it(work: Path, permmoe: Command, tmp_path: Path) -> None:
    given = ("calibrate", work / "run" / "model", "--manifest", work / "north.csv", "--out", tmp_path / "new")
    for part in ("all", "train"):
        status, _, said = permmoe(*given, "--part", part)
        assert status == 2 and "trained the model" in said and "--part validation" in said
    assert permmoe(*given, "--part", "validation")[0] == 0
    trained = load_model(work / "run" / "model").calibration
    assert load_model(tmp_path / "new").calibration.scores == trained.scores  # type: ignore[union-attr]


def test_the_table_of_predictions_has_columns_for_intervals(work: Path, permmoe: Command, tmp_path: Path) -> None:
    out = tmp_path / "out" / "predictions.csv"
    status, shown, _ = permmoe("predict", work / "run" / "model", "--manifest", work / "east.csv", "--out", out)
    assert status == 0 and str(out) in shown.replace("\n", "")
    rows = list(csv.DictReader(out.open()))
    assert len(rows) == 60
    for row in rows:
        assert float(row["low_95"]) <= float(row["low_80"]) <= float(row["predicted_change"])
        assert float(row["predicted_change"]) <= float(row["high_80"]) <= float(row["high_95"])
        assert row["basis_80"] == "combination" and int(row["visits_80"]) >= 9
    permmoe("predict", work / "bare" / "model", "--manifest", work / "east.csv", "--out", out)
    assert all(row["low_80"] == "" == row["basis_95"] for row in csv.DictReader(out.open()))


@pytest.fixture(scope="module")
def harmonised(work: Path) -> Path:
    """The model, as if it had been trained on images without what scanners add; 20 patients tell of a scanner."""
    state, card = load_checkpoint(work / "run" / "model")
    config = MODEL.model_copy(update={"harmonisation": HarmonisationConfig(covariates=(), least_visits=20)})
    network = PerMMoE(config)
    network.load_state_dict(dict(state), strict=False)
    data, _ = load_visits(work / "north.csv", trained_config(work / "run" / "model"), work / "cache-north")
    set_site_moments(network, data)
    with torch.no_grad():
        for name in config.names:
            # Another site differed.
            moments = network.get_submodule(f"harmonisation.moments.{name}")
            moments.between_features.copy_(moments.features.square() + 1)
    folder = work / "harmonised"
    save_checkpoint(folder, network.state_dict(), {**card, "model": config.model_dump(mode="json")})
    return folder


def test_a_model_of_harmonised_images_that_a_hospital_calibrated_reads_no_patient_of_it_otherwise(
    work: Path, harmonised: Path, tmp_path: Path, permmoe: Command
) -> None:
    own = tmp_path / "own"
    status, shown, _ = permmoe("calibrate", harmonised, "--manifest", work / "east.csv", "--out", own)
    assert status == 0 and "as it was scanned" not in shown
    calibration = load_model(own).calibration
    assert calibration and calibration.own_patients and calibration.own_patients.as_scanned == ()
    assert permmoe("predict", own, "--manifest", work / "east.csv")[0] == 0
    alone = (*VALUES, "--baseline-cdrsb", "1.5")
    status, _, errors = permmoe("predict", own, *alone)
    assert status == 2 and "would be read as it was scanned: 1 patients have it" in " ".join(errors.split())
    assert "Give a manifest that has the patients who calibrated the model as well" in " ".join(errors.split())
    assert permmoe("predict", harmonised, *alone)[0] == 0, "the model that it was made from only warns"
    status, _, errors = permmoe("evaluate", own, work / "mid.csv")
    assert status == 2 and "would be read as it was scanned" in " ".join(errors.split())


def test_a_hospital_of_few_patients_calibrates_on_images_as_scanned_and_calibrates_again_when_it_has_more(
    work: Path, harmonised: Path, tmp_path: Path, permmoe: Command
) -> None:
    rows = (work / "east.csv").read_text().splitlines(keepends=True)
    (tmp_path / "few.csv").write_text("".join(rows[:16]))
    own = tmp_path / "own"
    status, shown, _ = permmoe("calibrate", harmonised, "--manifest", tmp_path / "few.csv", "--out", own)
    assert status == 0 and "clinical: read as it was scanned, for too few of them have it" in " ".join(shown.split())
    assert permmoe("predict", own, *VALUES, "--baseline-cdrsb", "1.5")[0] == 0
    status, _, errors = permmoe("predict", own, "--manifest", work / "east.csv")
    assert status == 2 and "again, with these patients" in " ".join(errors.split())


def test_all_patients_of_a_hospital_that_never_trained_tell_what_its_scanners_add(
    work: Path, harmonised: Path, tmp_path: Path, permmoe: Command
) -> None:
    """Of 25, the part of a split that would train has fewer than 20."""
    rows = (work / "east.csv").read_text().splitlines(keepends=True)
    manifest, own = tmp_path / "enough.csv", tmp_path / "own"
    manifest.write_text("".join(rows[:26]))
    status, shown, _ = permmoe("calibrate", harmonised, "--manifest", manifest, "--out", own)
    assert status == 0 and "clinical: read as it was scanned" not in " ".join(shown.split())
    assert permmoe("evaluate", own, manifest)[0] == permmoe("predict", own, "--manifest", manifest)[0] == 0
