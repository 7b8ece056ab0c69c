"""A run on disk: resumed bitwise after a kill, refused where something else lies, judged on its own test visits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import permmoe.resumable_fit as resumable_fit
from permmoe.config import PretrainingConfig, RunConfig, SplitConfig, TrainConfig
from permmoe.data.splits import Split
from permmoe.errors import ConfigurationError, DataError
from permmoe.evaluation.combinations import STRATA, combination_predictions
from permmoe.evaluation.results_table import results_table
from permmoe.modality import all_combinations
from permmoe.predict import load_model
from permmoe.runs import load_visits, train_run, trained_config
from permmoe.runtime.checkpoint import load_checkpoint
from permmoe.training.fit import EpochReport
from tests.support.scanned_patients import MODEL as SCANNED
from tests.support.scanned_patients import write_patients
from tests.support.tiny_federation import MODEL, write_site

CONFIG = RunConfig(
    model=MODEL,
    train=TrainConfig(epochs=5, warmup_epochs=1, batch_size=8, learning_rate=3e-3, seed=17),
    split=SplitConfig(validation=0.2, test=0.3, seed=5),
)
PARTS: tuple[Split, ...] = ("train", "validation", "test")


class Killed(BaseException):
    """Stands for a kill: nothing of the program catches it."""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    write_site(folder, "north", visits=37)
    return folder / "north.csv"


def trained(manifest: Path, out: Path, config: RunConfig = CONFIG, **options: object) -> pd.DataFrame:
    return train_run(manifest, out, config, cache=manifest.parent / "cache", **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def undisturbed(manifest: Path) -> Path:
    trained(manifest, manifest.parent / "run")
    return manifest.parent / "run"


def test_a_manifest_of_one_horizon_trains_no_model_that_is_told_the_horizon(manifest: Path, tmp_path: Path) -> None:
    told = CONFIG.model_copy(update={"model": MODEL.model_copy(update={"horizons_months": (24.0, 36.0)})})
    with pytest.raises(ConfigurationError, match=r"outcomes of one horizon; leave model\.horizons_months out"):
        trained(manifest, tmp_path / "run", told)


def same_files(a: Path, b: Path) -> bool:
    names = ("last/tensors.safetensors", "model/tensors.safetensors", "learning.csv", "results.csv", "model/card.json")
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in names)


@pytest.mark.parametrize("killed_after", [0, 3])
def test_killed_run_goes_on_to_the_same_files(
    manifest: Path, undisturbed: Path, tmp_path: Path, killed_after: int
) -> None:
    seen: list[int] = []

    def die(member: int, report: EpochReport) -> None:
        seen.append(report.epoch)
        if report.epoch == killed_after:
            raise Killed

    with pytest.raises(Killed):
        trained(manifest, tmp_path / "run", on_epoch=die)
    trained(manifest, tmp_path / "run", on_epoch=lambda _, report: seen.append(report.epoch))
    assert seen == [0, 1, 2, 3, 4]
    assert same_files(tmp_path / "run", undisturbed)


def test_run_killed_while_it_saves_repeats_one_epoch_only(
    manifest: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves, save = 0, resumable_fit.save_checkpoint

    def dies_at_the_third(*arguments: object) -> None:
        nonlocal saves
        saves += 1
        if saves == 3:
            raise Killed
        save(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(resumable_fit, "save_checkpoint", dies_at_the_third)
        with pytest.raises(Killed):
            trained(manifest, tmp_path / "run")
    seen: list[int] = []
    trained(manifest, tmp_path / "run", on_epoch=lambda _, report: seen.append(report.epoch))
    assert seen == [2, 3, 4]
    assert same_files(tmp_path / "run", undisturbed)


def test_finished_run_is_left_as_it_is(manifest: Path, undisturbed: Path, tmp_path: Path) -> None:
    trained(manifest, tmp_path / "run")
    seen: list[int] = []
    trained(manifest, tmp_path / "run", on_epoch=lambda _, report: seen.append(report.epoch))
    assert seen == []
    assert same_files(tmp_path / "run", undisturbed)


def test_folder_of_another_run_is_refused_and_kept(manifest: Path, undisturbed: Path, tmp_path: Path) -> None:
    before = (undisturbed / "model" / "tensors.safetensors").read_bytes()
    for part, changes in (("train", {"seed": 18}), ("split", {"seed": 6}), ("model", {"experts": 7})):
        other = CONFIG.model_copy(update={part: getattr(CONFIG, part).model_copy(update=changes)})
        with pytest.raises(ConfigurationError, match="was begun with another"):
            trained(manifest, undisturbed, other)
    write_site(tmp_path, "north", visits=36)
    with pytest.raises(ConfigurationError, match=r"was begun with another data digest|another model"):
        trained(tmp_path / "north.csv", undisturbed)
    assert (undisturbed / "model" / "tensors.safetensors").read_bytes() == before


def test_model_folder_holds_the_best_epoch_and_where_it_came_from(manifest: Path, undisturbed: Path) -> None:
    tensors, card = load_checkpoint(undisturbed / "model")
    last, progress = load_checkpoint(undisturbed / "last")
    assert all(torch.equal(value, last[f"best:{name}"]) for name, value in tensors.items())
    learning = pd.read_csv(undisturbed / "learning.csv")
    assert learning.epoch.tolist() == [0, 1, 2, 3, 4]
    assert card["best_epoch"] == learning.validation_rmse.idxmin() == progress["progress"]["best_epoch"]
    assert card["train"]["seed"] == 17
    assert {"python", "torch", "permmoe"} <= set(card["versions"])
    assert len(card["data_digest"]) == 64
    assert card["horizon_months"] == [24.0]


def test_evaluation_of_a_saved_model_repeats_the_table_of_its_training(manifest: Path, undisturbed: Path) -> None:
    config = trained_config(undisturbed / "model")
    assert config.split == CONFIG.split
    data, _ = load_visits(manifest, config, manifest.parent / "cache")
    again = results_table(load_model(undisturbed / "model").network, data.part("test"))
    pd.testing.assert_frame_equal(again, pd.read_csv(undisturbed / "results.csv"), check_exact=False, rtol=1e-6)


def test_results_table_has_every_combination_and_stratum_with_its_count(manifest: Path, undisturbed: Path) -> None:
    data, _ = load_visits(manifest, trained_config(undisturbed / "model"), manifest.parent / "cache")
    test = data.part("test")
    model = load_model(undisturbed / "model").network
    results = results_table(model, test)
    assert len(results) == 7 * 3
    predictions = combination_predictions(model, test)
    for _, row in results.iterrows():
        column = ["+".join(c) for c in all_combinations(test.names)].index(row.combination)
        inside = [
            i for i, visit in enumerate(test.visits)
            if set(row.combination.split("+")) <= set(visit.observed(test.names))
            and STRATA[row.stratum](np.array([visit.baseline_cdrsb]), test.target[[i]].double().numpy())[0]
        ]  # fmt: skip
        assert row.n == len(inside)
        if row.n:
            errors = predictions[inside, column] - test.target[inside].double().numpy()
            assert row.rmse == pytest.approx(np.sqrt(np.mean(errors**2)))
            # Fewer than ten visits have a figure and no interval.
            assert np.isnan(row.lower) if row.n < 10 else row.lower <= row.rmse <= row.upper
        else:
            assert row[["rmse", "mae", "r2", "lower", "upper"]].isna().all()
    assert set(results[results.stratum.eq("severe_baseline")].n) == {0}


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_no_test_visit_gives_a_table_without_figures(manifest: Path, undisturbed: Path) -> None:
    data, _ = load_visits(manifest, CONFIG, manifest.parent / "cache")
    results = results_table(load_model(undisturbed / "model").network, data.subset(torch.tensor([], dtype=torch.long)))
    assert set(results.n) == {0}
    assert results[["rmse", "mae", "r2", "lower", "upper"]].isna().all(axis=None)


def test_divergence_is_an_error_that_says_what_to_change(manifest: Path, tmp_path: Path) -> None:
    wild = CONFIG.model_copy(update={"train": CONFIG.train.model_copy(update={"learning_rate": 1e30})})
    with pytest.raises(ConfigurationError, match=r"training diverged.*lower train.learning_rate"):
        trained(manifest, tmp_path / "run", wild)


def test_manifest_without_a_usable_or_a_training_visit_is_an_error(manifest: Path, tmp_path: Path) -> None:
    header, *rows = manifest.read_text().splitlines()
    (tmp_path / "empty.csv").write_text(header + "\n")
    with pytest.raises(DataError, match="has no usable visit"):
        trained(tmp_path / "empty.csv", tmp_path / "run")
    (tmp_path / "test.csv").write_text("\n".join([header + ",split", *(row + ",test" for row in rows)]) + "\n")
    with pytest.raises(DataError, match="has no training visit"):
        trained(tmp_path / "test.csv", tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()


def test_a_table_of_several_tracers_is_told_before_training_and_a_list_of_them_stands_in_the_card(
    manifest: Path, tmp_path: Path
) -> None:
    header, *rows = manifest.read_text().splitlines()
    tracers = ["AV1451"] + ["MK6240"] * (len(rows) - 1)
    lines = [f"{row},{tracer}" for row, tracer in zip(rows, tracers, strict=True)]
    (tmp_path / "two.csv").write_text("\n".join([f"{header},clinical_tracer", *lines]) + "\n")
    notes: list[str] = []
    brief = CONFIG.model_copy(update={"train": CONFIG.train.model_copy(update={"epochs": 1})})
    trained(tmp_path / "two.csv", tmp_path / "run", brief, on_note=notes.append)
    assert "cannot be compared: MK6240 36, AV1451 1" in notes[0]
    clinical, *others = load_model(tmp_path / "run" / "model").config.modalities
    assert clinical.tracers == ("AV1451", "MK6240") and not any(modality.tracers for modality in others)


def test_patients_without_an_outcome_train_encoders_and_move_nobody_and_no_figure(tmp_path: Path) -> None:
    mixed = write_patients(tmp_path, "mixed", unlabelled=17)
    known = write_without(mixed, tmp_path / "known.csv")
    train = TrainConfig(epochs=1, batch_size=8, pretraining=PretrainingConfig(epochs=2))
    config = RunConfig(model=SCANNED, train=train, split=CONFIG.split)
    with_them, nobody = load_visits(mixed, config, tmp_path / "cache", with_unlabelled=True)
    alone, itemised = load_visits(mixed, config, tmp_path / "cache")
    assert (len(with_them), len(nobody), len(alone), len(itemised)) == (40, 0, 23, 17)
    for part in PARTS:
        assert [v.subject_id for v in with_them.part(part).visits] == [v.subject_id for v in alone.part(part).visits]
    trained = {visit.subject_id for visit in alone.part("train").visits}
    assert {visit.subject_id for visit in with_them.scans().visits} == trained | {f"mixed-{i}" for i in range(23, 40)}
    weights = []
    for number, manifest in enumerate((mixed, known)):
        out = tmp_path / f"run-{number}"
        results = train_run(manifest, out, config, cache=tmp_path / "cache")
        assert results.n.max() == len(alone.part("test"))
        weights.append(load_checkpoint(out / "model")[0]["encoders.t1.project.weight"])
    assert not torch.equal(*weights)


def test_rows_without_an_outcome_are_itemised_where_nothing_is_pretrained(tmp_path: Path) -> None:
    config = RunConfig(model=SCANNED, train=TrainConfig(epochs=1, batch_size=8), split=CONFIG.split)
    mixed = write_patients(tmp_path, "mixed", unlabelled=17)
    weights = []
    for number, manifest in enumerate((mixed, write_without(mixed, tmp_path / "known.csv"))):
        train_run(manifest, tmp_path / f"run-{number}", config, cache=tmp_path / "cache")
        weights.append(load_checkpoint(tmp_path / f"run-{number}" / "model")[0])
    assert len(pd.read_csv(tmp_path / "run-0" / "quarantine.csv")) == 17
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def write_without(manifest: Path, path: Path) -> Path:
    """The manifest without the patients whose outcome is not known."""
    table = pd.read_csv(manifest, dtype=str, keep_default_na=False)
    table[table.delta_cdrsb != ""].to_csv(path, index=False)
    return path
